package file

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/floelog/floe/tiering/objstore"
)

// List implements objstore.Store. It reads only directories that can hold a key of the
// answer; the sums are left out.
func (s *Store) List(ctx context.Context, prefix, after string, limit int) ([]objstore.Info, error) {
	if err := objstore.CheckPrefix(prefix); err != nil {
		return nil, err
	}
	dir := prefix[:strings.LastIndexByte(prefix, '/')+1]
	l := lister{root: s.root, prefix: prefix, after: after, limit: limit}
	if err := l.walk(ctx, dir); err != nil {
		return nil, fmt.Errorf("file: list %q: %w", prefix, err)
	}
	return l.infos, nil
}

type lister struct {
	root, prefix, after string
	limit               int
	infos               []objstore.Info
}

// walk adds what lies in dir, which is "" or ends with a slash.
func (l *lister) walk(ctx context.Context, dir string) error {
	if err := ctx.Err(); err != nil || len(l.infos) >= l.limit {
		return err
	}
	entries, err := os.ReadDir(filepath.Join(l.root, filepath.FromSlash(dir)))
	if errors.Is(err, fs.ErrNotExist) || isNotDir(err) {
		return nil
	}
	if err != nil {
		return classify(err)
	}
	// A directory sorts as its keys do: by its name with the slash.
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(keyPart(a), keyPart(b)) })
	for _, e := range entries {
		key := dir + keyPart(e)
		switch {
		case len(l.infos) >= l.limit:
			return nil
		case objstore.CheckKey(e.Name()) != nil: // "~tmp", "lost+found"
		case e.IsDir():
			if l.mayHold(key) {
				err = l.walk(ctx, key)
			}
		case e.Type().IsRegular() && key > l.after && strings.HasPrefix(key, l.prefix):
			err = l.add(key, e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// mayHold reports whether a key that is asked for can start with dir.
func (l *lister) mayHold(dir string) bool {
	if !strings.HasPrefix(dir, l.prefix) && !strings.HasPrefix(l.prefix, dir) {
		return false
	}
	return dir > l.after || strings.HasPrefix(l.after, dir)
}

func (l *lister) add(key string, e fs.DirEntry) error {
	info, err := e.Info()
	if errors.Is(err, fs.ErrNotExist) {
		return nil // deleted meanwhile
	}
	if err != nil {
		return classify(err)
	}
	l.infos = append(l.infos, objstore.Info{Key: key, Size: info.Size(), Modified: info.ModTime()})
	return nil
}

func keyPart(e fs.DirEntry) string {
	if e.IsDir() {
		return e.Name() + "/"
	}
	return e.Name()
}
