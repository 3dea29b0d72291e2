//go:build linux

package fault

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

func cacheFaults() []Fault {
	return []Fault{&simple{"F31", "the disk cache's files are damaged, cut short, deleted, or its folder is gone", damageCache}}
}

// damageCache is root's version of a disk that fails: permissions would stop nobody.
func damageCache(ctx context.Context, r *Round) (fired int, err error) {
	a := r.agent()
	if r.chance(0.1) {
		aside := a.CacheDir() + ".aside"
		if os.Rename(a.CacheDir(), aside) == nil {
			r.hold(ctx, time.Second, 4*time.Second)
			fired = 1
			// The agent may have made another one, if it was started meanwhile.
			if err := os.Rename(aside, a.CacheDir()); err != nil {
				return fired, os.RemoveAll(aside)
			}
		}
		return fired, nil
	}
	// The cache deletes files at any time: one that is gone is no news.
	_ = filepath.WalkDir(a.CacheDir(), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || fired >= 50 || !r.chance(0.3) {
			return nil
		}
		if damage(r, path) == nil {
			fired++
		}
		return nil
	})
	r.hold(ctx, time.Second, 3*time.Second)
	return fired, nil
}

// damage flips a bit, cuts a file short, or deletes it.
func damage(r *Round, path string) error {
	info, err := os.Stat(path)
	if err != nil || info.Size() == 0 {
		return fmt.Errorf("nothing to damage: %w", os.ErrNotExist)
	}
	at := r.Rand.Int64N(info.Size())
	switch r.Rand.IntN(4) {
	case 0:
		return os.Truncate(path, at)
	case 1:
		return os.Remove(path)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		return err
	}
	b[0] ^= 1 << r.Rand.IntN(8)
	_, err = f.WriteAt(b[:], at)
	return err
}
