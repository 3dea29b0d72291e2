//go:build integration

package objstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"testing"
	"time"

	client "github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/floelog/floe/integration/fixture"
	"github.com/floelog/floe/tiering/objstore"
	"github.com/floelog/floe/tiering/objstore/objstoretest"
	"github.com/floelog/floe/tiering/objstore/open"
)

const bucket = "floe"

// A server is a running MinIO with one bucket.
type server struct {
	endpoint, access, secret string
}

func newServer(t testing.TB) server {
	t.Helper()
	endpoint, access, secret := fixture.MinIO(t)
	u, err := url.Parse(endpoint)
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(u.Host, &client.Options{Creds: credentials.NewStaticV4(access, secret, "")})
	if err == nil {
		err = c.MakeBucket(t.Context(), bucket, client.MakeBucketOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
	return server{endpoint, access, secret}
}

// open returns the store that an operator's URL names.
func (s server) open(t testing.TB, driver, bucket, prefix string) objstore.Store {
	t.Helper()
	raw := fmt.Sprintf("s3://%s/%s?driver=%s&region=us-east-1&endpoint=%s", bucket, prefix, driver, url.QueryEscape(s.endpoint))
	store, err := open.Open(t.Context(), raw, open.Options{AccessKey: s.access, SecretKey: s.secret})
	if err != nil {
		t.Fatal(err)
	}
	return store
}

var drivers = []string{"s3", "minio"}

func TestConformance(t *testing.T) {
	srv := newServer(t)
	for _, driver := range drivers {
		t.Run(driver, func(t *testing.T) {
			n := 0
			objstoretest.Run(t, func(t *testing.T) objstore.Store {
				n++
				return srv.open(t, driver, bucket, fmt.Sprintf("%s/%d", driver, n))
			})
		})
	}
}

func TestConformanceThroughRetry(t *testing.T) {
	srv := newServer(t)
	n := 0
	objstoretest.Run(t, func(t *testing.T) objstore.Store {
		n++
		inner := srv.open(t, "s3", bucket, fmt.Sprintf("retry/%d", n))
		return objstore.Retry(inner, rand.New(rand.NewPCG(1, 2)), objstore.RetryConfig{})
	})
}

func TestSelfTest(t *testing.T) {
	srv := newServer(t)
	for _, driver := range drivers {
		t.Run(driver, func(t *testing.T) {
			if err := open.SelfTest(t.Context(), srv.open(t, driver, bucket, "self"), driver); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestDriversShareObjects(t *testing.T) {
	srv := newServer(t)
	body := objstoretest.Body(1, 1<<20, 5000)
	for i, driver := range drivers {
		key := "by/" + driver
		if err := srv.open(t, driver, bucket, "shared").Put(t.Context(), key, body); err != nil {
			t.Fatal(err)
		}
		other := srv.open(t, drivers[1-i], bucket, "shared")
		info, err := other.Head(t.Context(), key)
		if err != nil || info.CRC32C != body.CRC32C() {
			t.Errorf("head of %s: %+v, %v", key, info, err)
		}
		if got, err := other.GetRange(t.Context(), key, 0, 1<<20); err != nil || !bytes.Equal(got, body.Bytes()) {
			t.Errorf("get of %s: %v", key, err)
		}
		if err := other.Put(t.Context(), key, body); !errors.Is(err, objstore.ErrExists) {
			t.Errorf("put over %s: %v", key, err)
		}
	}
}

func TestDenied(t *testing.T) {
	srv := newServer(t)
	wrong := srv
	wrong.secret = "another-secret-key"
	for _, driver := range drivers {
		stores := map[string]objstore.Store{
			"wrong secret":   wrong.open(t, driver, bucket, ""),
			"missing bucket": srv.open(t, driver, "no-such-bucket", ""),
		}
		for name, s := range stores {
			t.Run(driver+" "+name, func(t *testing.T) {
				ctx := t.Context()
				_, getErr := s.GetRange(ctx, "x", 0, 1)
				_, listErr := s.List(ctx, "", "", 1)
				for op, err := range map[string]error{
					"put": s.Put(ctx, "x", objstoretest.Body(1, 10, 10)), "get": getErr, "list": listErr, "delete": s.Delete(ctx, "x"),
				} {
					if !errors.Is(err, objstore.ErrDenied) {
						t.Errorf("%s: %v, want ErrDenied", op, err)
					}
				}
			})
		}
	}
}

func TestDeadlineIsHeeded(t *testing.T) {
	srv := newServer(t)
	for _, driver := range drivers {
		ctx, cancel := context.WithDeadline(t.Context(), time.Now())
		err := srv.open(t, driver, bucket, "").Put(ctx, "late", objstoretest.Body(1, 8<<20, 1000))
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", driver, err)
		}
	}
}

func BenchmarkPut8MiB(b *testing.B) {
	srv := newServer(b)
	body := objstoretest.Body(1, 8<<20, 4000)
	for _, driver := range drivers {
		b.Run(driver, func(b *testing.B) {
			s := srv.open(b, driver, bucket, fmt.Sprintf("bench/%s/%d", driver, b.N))
			b.SetBytes(8 << 20)
			b.ReportAllocs()
			for i := range b.N {
				key := fmt.Sprintf("%d-%d", time.Now().UnixNano(), i)
				if err := s.Put(b.Context(), key, body); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
