package open_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/floelog/floe/tiering/objstore"
	"github.com/floelog/floe/tiering/objstore/file"
	"github.com/floelog/floe/tiering/objstore/memory"
	"github.com/floelog/floe/tiering/objstore/minio"
	"github.com/floelog/floe/tiering/objstore/open"
	"github.com/floelog/floe/tiering/objstore/s3"
)

func TestOpen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "if need be")
	for raw, is := range map[string]func(objstore.Store) bool{
		"memory:":                                is[*memory.Store],
		"file://" + dir:                          is[*file.Store],
		"file://localhost" + dir:                 is[*file.Store],
		"s3://b?region=eu-west-1":                is[*s3.Store],
		"s3://b/p/q/?region=r&driver=s3":         is[*s3.Store],
		"s3://b/p?endpoint=http://h:9000":        is[*s3.Store],
		"s3://b?driver=minio&endpoint=https://h": is[*minio.Store],
	} {
		s, err := open.Open(t.Context(), raw, open.Options{AccessKey: "a", SecretKey: "b"})
		if err != nil || !is(s) {
			t.Errorf("%s: %T, %v", raw, s, err)
		}
	}
}

func is[S objstore.Store](s objstore.Store) bool {
	_, ok := s.(S)
	return ok
}

func TestOpenRefuses(t *testing.T) {
	for raw, words := range map[string][]string{
		"":                                   {"scheme", "s3://BUCKET"},
		"/data":                              {"scheme", "file:///DIR"},
		"gs://b":                             {`"gs"`, "s3://BUCKET"},
		"s3:///p":                            {"bucket", "s3://BUCKET/PREFIX"},
		"s3://b?regoin=x":                    {`"regoin"`, "region, endpoint, driver"},
		"s3://b?region=a&region=b":           {`"region"`, "once"},
		"s3://b?region=a;b":                  {"malformed", "%26"},
		"s3://b?region=r&driver=aws":         {`"aws"`, "driver=s3 or driver=minio"},
		"s3://b?driver=minio":                {"minio", "endpoint="},
		"s3://b?endpoint=h:9000":             {"endpoint", "https://HOST:PORT"},
		"s3://b?endpoint=http://h/x":         {"endpoint", "write endpoint=http://h"},
		"s3://b/a%20b?region=r":              {"prefix"},
		"s3://me:hunter2@b?region=r":         {"password", "AWS_SECRET_ACCESS_KEY"},
		"s3://b#frag":                        {"#frag"},
		"file://dir/x":                       {"absolute", "file:///DIR"},
		"file:rel":                           {"absolute", "file:///DIR"},
		"file:///tmp?region=x":               {`"region"`, "takes none"},
		"memory:?x=1":                        {`"x"`, "takes none"},
		"memory:name":                        {"'memory:'"},
		"memory://host":                      {"'memory:'"},
		"s3://me:hunter2@b:port?%zz":         {"not a URL"},
		"s3://b?endpoint=http://u:hunter2@h": {"endpoint"},
	} {
		s, err := open.Open(t.Context(), raw, open.Options{})
		if err == nil || s != nil {
			t.Errorf("%s: opened %v", raw, s)
			continue
		}
		for _, word := range words {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("%s: %q lacks %q", raw, err, word)
			}
		}
		if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %q has a secret or more than a line", raw, err)
		}
	}
}

// A lame store lacks one of the abilities of the store inside.
type lame struct {
	objstore.Store
	overwrites, stale, wrongRange, noSum, wrongSum, noList, noDelete, readOnly, down bool
}

func (l lame) Put(ctx context.Context, key string, body objstore.Body) error {
	if l.down {
		return objstore.ErrDenied
	}
	err := l.Store.Put(ctx, key, body)
	if l.overwrites && errors.Is(err, objstore.ErrExists) {
		return nil
	}
	return err
}

func (l lame) GetRange(ctx context.Context, key string, off, n int64) ([]byte, error) {
	data, err := l.Store.GetRange(ctx, key, off, n)
	switch {
	case l.stale && err == nil:
		return nil, objstore.ErrNotFound
	case l.wrongRange && off > 0:
		return l.Store.GetRange(ctx, key, off-1, n)
	}
	return data, err
}

func (l lame) Head(ctx context.Context, key string) (objstore.Info, error) {
	info, err := l.Store.Head(ctx, key)
	info.HasCRC = info.HasCRC && !l.noSum
	if l.wrongSum {
		info.CRC32C++
	}
	return info, err
}

func (l lame) List(ctx context.Context, prefix, after string, limit int) ([]objstore.Info, error) {
	if l.noList {
		return nil, nil
	}
	return l.Store.List(ctx, prefix, after, limit)
}

func (l lame) Delete(ctx context.Context, keys ...string) error {
	switch {
	case l.readOnly:
		return objstore.ErrDenied
	case l.noDelete:
		return nil
	}
	return l.Store.Delete(ctx, keys...)
}

func TestSelfTest(t *testing.T) {
	for name, test := range map[string]struct {
		store lame
		want  string // in the error; "" for none
		is    error
		left  int // objects
	}{
		"sound":        {store: lame{}},
		"down":         {store: lame{down: true}, want: "cannot create an object", is: objstore.ErrDenied},
		"overwrites":   {store: lame{overwrites: true}, want: "does not refuse a second put"},
		"stale reads":  {store: lame{stale: true}, want: "does not read back", is: objstore.ErrNotFound},
		"wrong ranges": {store: lame{wrongRange: true}, want: "ranges"},
		"no sums":      {store: lame{noSum: true}, want: "does not keep CRC-32C checksums: it reports none"},
		"wrong sums":   {store: lame{wrongSum: true}, want: "does not keep CRC-32C checksums: it reports"},
		"no list":      {store: lame{noList: true}, want: "does not list"},
		"no deletions": {store: lame{noDelete: true}, want: "still has an object", left: 1},
		"read only":    {store: lame{readOnly: true}, want: "left behind", is: objstore.ErrDenied, left: 1},
	} {
		t.Run(name, func(t *testing.T) {
			inner := memory.New()
			test.store.Store = inner
			err := open.SelfTest(t.Context(), test.store, "u1")
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %q", err, test.want)
			}
			if err != nil && (strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), "memory:")) {
				t.Errorf("%q is not one line that names the store", err)
			}
			if test.is != nil && !errors.Is(err, test.is) {
				t.Errorf("%v is not %v", err, test.is)
			}
			infos, err := inner.List(t.Context(), "", "", 10)
			if err != nil || len(infos) != test.left {
				t.Errorf("left behind: %v, %v; want %d", infos, err, test.left)
			}
		})
	}
}

func TestSelfTestOfAFileStore(t *testing.T) {
	s, err := open.Open(t.Context(), "file://"+t.TempDir(), open.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := open.SelfTest(t.Context(), s, "once"); err != nil {
		t.Error(err)
	}
}
