package objstore_test

import (
	"errors"
	"math"
	"path"
	"strings"
	"testing"

	"github.com/floelog/floe/tiering/objstore"
)

func TestCheckRange(t *testing.T) {
	for _, c := range []struct {
		key    string
		off, n int64
		ok     bool
	}{
		{"a", 0, 0, true},
		{"a", 5, math.MaxInt64 - 5, true},
		{"a", 6, math.MaxInt64 - 5, false},
		{"a", -1, 5, false},
		{"a", 1, -1, false},
		{"", 0, 1, false},
	} {
		err := objstore.CheckRange(c.key, c.off, c.n)
		if (err == nil) != c.ok || err != nil && !errors.Is(err, objstore.ErrInvalid) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// FuzzCheckKey looks for a key that could leave a store's directory or mean two things.
func FuzzCheckKey(f *testing.F) {
	for _, s := range []string{"seg/00/a", "..", "a/../b", "a//b", "/a", "ä", "a\x00b", strings.Repeat("k", 300)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, key string) {
		err := objstore.CheckKey(key)
		if err != nil {
			if !errors.Is(err, objstore.ErrInvalid) {
				t.Errorf("%q: %v is no ErrInvalid", key, err)
			}
			return
		}
		if path.Join("/store", key) != "/store/"+key {
			t.Errorf("%q means %q below a directory", key, path.Join("/store", key))
		}
		for i := range len(key) {
			if err := objstore.CheckPrefix(key[:i]); err != nil {
				t.Errorf("prefix %q of the key %q: %v", key[:i], key, err)
			}
		}
	})
}
