package file

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/floelog/floe/tiering/objstore"
)

// Put implements objstore.Store. It costs two syncs, one of the file and one of its
// directory; the parents of a directory that is new to this process are synced once.
// Concurrent puts need no grouping here: the file system's journal does that.
func (s *Store) Put(ctx context.Context, key string, body objstore.Body) error {
	if err := objstore.CheckKey(key); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	name := s.path(key)
	if info, err := os.Lstat(name); err == nil {
		if info.IsDir() {
			return fmt.Errorf("file: put %s: %w: it is a directory of other objects", key, objstore.ErrInvalid)
		}
		return fmt.Errorf("file: put %s: %w", key, objstore.ErrExists)
	}
	err := s.put(ctx, name, body)
	if errors.Is(err, fs.ErrNotExist) {
		// Somebody removed the directory since this process made it.
		s.forgetDirs()
		err = s.put(ctx, name, body)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrExist):
		return fmt.Errorf("file: put %s: %w", key, objstore.ErrExists)
	case isNotDir(err):
		return fmt.Errorf("file: put %s: %w: a part of it is an object: %w", key, objstore.ErrInvalid, err)
	case errors.Is(err, fs.ErrPermission), isReadOnly(err):
		return fmt.Errorf("file: put %s: %w: %w", key, objstore.ErrDenied, err)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("file: put %s: %w: %w", key, objstore.ErrFull, err)
	}
	return fmt.Errorf("file: put %s: %w", key, err)
}

func (s *Store) put(ctx context.Context, name string, body objstore.Body) error {
	dir := filepath.Dir(name)
	unsynced, err := s.makeDir(dir)
	if err != nil {
		return err
	}
	t, err := s.createTemp(dir)
	if err != nil {
		return err
	}
	err = t.fill(ctx, body)
	if err == nil {
		err = t.link(name)
	}
	if e := t.discard(); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	if err := syncDir(dir); err != nil {
		return err
	}
	// Made before the file was written, the directories are most likely on disk by
	// now, and these syncs find nothing to do.
	for _, d := range unsynced {
		if err := syncDir(filepath.Dir(d)); err != nil {
			return err
		}
	}
	s.rememberDirs(unsynced)
	return nil
}

// makeDir makes dir and its parents. It returns those of them whose entry in their
// parent may not be on disk yet, the deepest first.
func (s *Store) makeDir(dir string) ([]string, error) {
	var unsynced []string
	s.mu.Lock()
	for d := dir; len(d) >= len(s.root); d = filepath.Dir(d) {
		if _, ok := s.synced[d]; ok {
			break
		}
		unsynced = append(unsynced, d)
	}
	s.mu.Unlock()
	if len(unsynced) == 0 {
		return nil, nil
	}
	return unsynced, os.MkdirAll(dir, 0o755)
}

func (s *Store) rememberDirs(dirs []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range dirs {
		s.synced[d] = struct{}{}
	}
}

func (s *Store) forgetDirs() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.synced)
	s.synced[s.root] = struct{}{}
}

// A temp is a file on its way to become an object.
type temp struct {
	f    *os.File
	name string // "" for a file without a name
}

func (s *Store) createTemp(dir string) (temp, error) {
	if s.unnamed {
		f, err := openUnnamed(dir)
		return temp{f: f}, err
	}
	f, err := os.CreateTemp(filepath.Join(s.root, tempDir), "put-*")
	if err != nil {
		return temp{}, err
	}
	return temp{f: f, name: f.Name()}, f.Chmod(0o644)
}

// fill writes body and its sum, and syncs both. The sum is computed while the disk is
// writing already.
func (t temp) fill(ctx context.Context, body objstore.Body) error {
	if err := writeBody(ctx, t.f, body); err != nil {
		return err
	}
	if err := storeSum(t.f, body.CRC32C()); err != nil {
		return err
	}
	return t.f.Sync()
}

// link gives the file its final name, or fails with fs.ErrExist.
func (t temp) link(name string) error {
	if t.name == "" {
		return linkUnnamed(t.f, name)
	}
	return os.Link(t.name, name)
}

// discard gives up the temporary name, if any, and closes the file.
func (t temp) discard() error {
	var err error
	if t.name != "" {
		err = os.Remove(t.name)
	}
	return errors.Join(err, t.f.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
