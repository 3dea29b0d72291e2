package s3wire_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/tiering/objstore"
	"github.com/floelog/floe/tiering/objstore/internal/s3wire"
)

// lazy answers at once, and closes the body a minute later.
type lazy struct{}

func (lazy) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		time.AfterFunc(time.Minute, func() {
			req.Body.Close()
			req.Body.Close() // net/http may do so
		})
	}
	return nil, errors.New("refused")
}

func TestLentBodyIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for body, want := range map[io.Reader]time.Duration{
			strings.NewReader("abc"): time.Minute,
			nil:                      0,
		} {
			start := time.Now()
			ctx, giveBack := s3wire.Lend(t.Context())
			req, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://h", body)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := (s3wire.Transport{RoundTripper: lazy{}}).RoundTrip(req); err == nil {
				t.Error("the answer was lost")
			}
			giveBack()
			if took := time.Since(start); took != want {
				t.Errorf("waited %v for the body, want %v", took, want)
			}
		}
	})
}

func TestUnlentBodyIsLeftAlone(t *testing.T) {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://h", strings.NewReader("abc"))
	if err != nil {
		t.Fatal(err)
	}
	if s3wire.Watch(req) != req {
		t.Error("a request that nobody waits for was changed")
	}
}

func TestSum(t *testing.T) {
	for _, sum := range []uint32{0, 1, 0xdeadbeef, 1<<32 - 1} {
		if got, ok := s3wire.DecodeSum(s3wire.EncodeSum(sum)); !ok || got != sum {
			t.Errorf("%08x became %08x, %v", sum, got, ok)
		}
	}
	// The check value of CRC-32C, and its form on the wire.
	if got := s3wire.EncodeSum(objstore.Body{[]byte("123456789")}.CRC32C()); got != "4waSgw==" {
		t.Errorf("the check value is written %q", got)
	}
}

// FuzzReadRange: whatever a store answers, GetRange returns the n bytes that are at off
// or an error, and allocates no more than was asked for.
func FuzzReadRange(f *testing.F) {
	f.Add([]byte("0123456789"), int64(10), "bytes 5-14/100", int64(5), int64(10))
	f.Add([]byte("0123456789"), int64(9), "bytes 5-14/100", int64(5), int64(10))
	f.Add([]byte("x"), int64(1), "bytes 9223372036854775807-0/1", int64(0), int64(1))
	f.Add([]byte{}, int64(-1), "bytes -", int64(3), int64(2))
	f.Fuzz(func(t *testing.T, body []byte, length int64, contentRange string, off, n int64) {
		if off < 0 || n <= 0 || n > 1<<20 {
			t.Skip("no caller asks for this")
		}
		got, err := s3wire.ReadRange(bytes.NewReader(body), length, contentRange, off, n)
		if err != nil {
			if !errors.Is(err, objstore.ErrCorrupt) {
				t.Errorf("%v is no ErrCorrupt", err)
			}
			return
		}
		if int64(len(got)) != n || !bytes.Equal(got, body) || length != n {
			t.Errorf("%d bytes of %d, %q for %d from %d", len(got), len(body), contentRange, n, off)
		}
	})
}

// FuzzReadUpTo: whatever a store answers, GetUpTo returns all bytes from off up to the end that
// the store named, or n of them, or an error.
func FuzzReadUpTo(f *testing.F) {
	f.Add([]byte("0123456789"), int64(10), "bytes 5-14/100", int64(5), int64(10))
	f.Add([]byte("0123456789"), int64(10), "bytes 5-14/15", int64(5), int64(20))
	f.Add([]byte("0123456789"), int64(10), "bytes 5-14/16", int64(5), int64(20))
	f.Add([]byte("x"), int64(1), "bytes 0-0/*", int64(0), int64(1))
	f.Add([]byte("x"), int64(1), "bytes 9223372036854775806-9223372036854775806/9223372036854775807", int64(1<<63-2), int64(1))
	f.Fuzz(func(t *testing.T, body []byte, length int64, contentRange string, off, n int64) {
		if off < 0 || n <= 0 || n > 1<<20 || off+n < 0 {
			t.Skip("no caller asks for this")
		}
		got, size, err := s3wire.ReadUpTo(bytes.NewReader(body), length, contentRange, off, n)
		if err != nil {
			if !errors.Is(err, objstore.ErrCorrupt) {
				t.Errorf("%v is no ErrCorrupt", err)
			}
			return
		}
		if got.Size() != min(n, size-off) || len(got) == 0 || !bytes.Equal(got.Copy(), body) {
			t.Errorf("%d bytes of %d, %q for %d from %d: size %d", got.Size(), len(body), contentRange, n, off, size)
		}
	})
}
