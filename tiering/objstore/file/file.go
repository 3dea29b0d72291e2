// Package file keeps objects as plain files in a directory: the store of `floe dev`.
// The key is the path below the root and the file holds the object's bytes and nothing
// else, so that any tool can read, copy and check them.
//
// Invariants:
//  1. A file under its final name is complete and on disk: it is written without a
//     name, synced, and only then linked. link(2) never replaces anything.
//  2. Put returns nil after the directory entries, too, are on disk.
//  3. What a crash leaves behind is a whole object or nothing, apart from files in
//     "~tmp" on systems without unnamed files; Open removes those.
//
// The CRC-32C is kept in the extended attribute user.floe.crc32c (8 hexadecimal
// digits), for an attribute is written in the same inode and the same sync as the
// file's size: it costs no I/O, and the file stays the object, byte for byte, which a
// trailer would spoil. On file systems without such attributes Head computes the sum
// from the bytes; it then proves nothing about damage on disk.
//
// A deletion is not synced: an object that comes back by a crash is an orphan, as if
// it had not been deleted yet.
//
// All methods may be called concurrently. Several processes may have the directory open, on
// one machine: only one that has it alone removes what is left over.
package file

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"github.com/floelog/floe/tiering/objstore"
)

// tempDir holds files that have no object's name yet, and no key can name it.
const tempDir = "~tmp"

// readsPerCore bounds the reads at a time, by the cores that there are: two. Each is a system
// call, hence a thread of its own, however many of Go's there may be. Not more: what somebody
// waits for would compete with the copying for all the others, as a replay fetches ahead. Not
// fewer: one waits for the disk while the other copies.
const readsPerCore = 2

// Store is an objstore.Store in a directory. Make one with Open.
type Store struct {
	root    string
	unnamed bool          // the file system has files without a name (O_TMPFILE)
	reads   chan struct{} // one element for each read under way
	lock    *os.File      // shared by all who have the directory open; held for as long as the Store lives

	mu     sync.Mutex          // guards the following
	synced map[string]struct{} // directories whose own entries are on disk
}

var _ objstore.Store = (*Store)(nil)

// Open opens the store in directory root, which is made if need be. Unless another process
// has it open, it removes what interrupted writes and deletions have left: temporary files
// and empty directories.
func Open(root string) (*Store, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("file store %s: %w", root, err)
	}
	s := &Store{root: root, synced: map[string]struct{}{}, reads: make(chan struct{}, readsPerCore*runtime.GOMAXPROCS(0))}
	if err := s.open(); err != nil {
		return nil, fmt.Errorf("file store %s: %w", root, classify(err))
	}
	return s, nil
}

func (s *Store) open() error {
	if err := os.MkdirAll(s.root, 0o755); err != nil {
		return err
	}
	lock, alone, err := lockDir(s.root)
	if err != nil {
		return err
	}
	s.lock = lock
	temp := filepath.Join(s.root, tempDir)
	if alone {
		err := os.RemoveAll(temp)
		if err == nil {
			_, err = removeEmpty(s.root, true)
		}
		if err = errors.Join(err, shareLock(lock)); err != nil {
			return err
		}
	}
	if err := os.Mkdir(temp, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	s.unnamed = canLinkUnnamed(temp)
	for _, dir := range []string{s.root, filepath.Dir(s.root)} {
		if err := syncDir(dir); err != nil {
			return err
		}
	}
	s.synced[s.root] = struct{}{}
	return nil
}

// removeEmpty removes the directories below dir that hold no file at any depth, and dir
// itself unless it is the root. It reports whether dir is gone.
func removeEmpty(dir string, root bool) (bool, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false, err
	}
	left := len(entries)
	for _, e := range entries {
		if !e.IsDir() || objstore.CheckKey(e.Name()) != nil {
			continue
		}
		gone, err := removeEmpty(filepath.Join(dir, e.Name()), false)
		if err != nil {
			return false, err
		}
		if gone {
			left--
		}
	}
	if root || left > 0 {
		return false, nil
	}
	return true, os.Remove(dir)
}

// GetRange implements objstore.Store.
func (s *Store) GetRange(ctx context.Context, key string, off, n int64) ([]byte, error) {
	if err := objstore.CheckRange(key, off, n); err != nil {
		return nil, err
	}
	if err := s.enter(ctx); err != nil {
		return nil, fmt.Errorf("file: get %s: %w", key, err)
	}
	defer s.leave()
	f, info, err := s.openObject(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("file: get %s: %w", key, err)
	}
	defer f.Close()
	if off+n > info.Size() {
		return nil, fmt.Errorf("file: get %s: ends at %d, before %d: %w", key, info.Size(), off+n, objstore.ErrCorrupt)
	}
	data := make([]byte, n)
	if err := readAt(f, key, off, data); err != nil {
		return nil, err
	}
	return data, nil
}

// GetUpTo implements objstore.Store.
func (s *Store) GetUpTo(ctx context.Context, key string, off, n int64) (objstore.Body, int64, error) {
	if err := objstore.CheckUpTo(key, off, n); err != nil {
		return nil, 0, err
	}
	if err := s.enter(ctx); err != nil {
		return nil, 0, fmt.Errorf("file: get %s: %w", key, err)
	}
	defer s.leave()
	f, info, err := s.openObject(ctx, key)
	if err != nil {
		return nil, 0, fmt.Errorf("file: get %s: %w", key, err)
	}
	defer f.Close()
	size := info.Size()
	if off >= size {
		return nil, 0, fmt.Errorf("file: get %s: ends at %d: nothing at %d: %w", key, size, off, objstore.ErrBeyond)
	}
	data, err := objstore.ReadSlices(min(n, size-off), func(at int64, p []byte) error { return readAt(f, key, off+at, p) })
	if err != nil {
		return nil, 0, err
	}
	return data, size, nil
}

// enter waits until the caller may read.
func (s *Store) enter(ctx context.Context) error {
	select {
	case s.reads <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Store) leave() { <-s.reads }

// readAt reads bytes of an object that has them.
func readAt(f *os.File, key string, off int64, p []byte) error {
	if _, err := f.ReadAt(p, off); errors.Is(err, io.EOF) {
		return fmt.Errorf("file: get %s: cut while it was read: %w", key, objstore.ErrCorrupt)
	} else if err != nil {
		return fmt.Errorf("file: get %s: %w", key, classify(err))
	}
	return nil
}

// Head implements objstore.Store.
func (s *Store) Head(ctx context.Context, key string) (objstore.Info, error) {
	if err := objstore.CheckKey(key); err != nil {
		return objstore.Info{}, err
	}
	f, stat, err := s.openObject(ctx, key)
	if err != nil {
		return objstore.Info{}, fmt.Errorf("file: head %s: %w", key, err)
	}
	defer f.Close()
	info := objstore.Info{Key: key, Size: stat.Size(), Modified: stat.ModTime(), HasCRC: true}
	var ok bool
	if info.CRC32C, ok = loadSum(f); ok {
		return info, nil
	}
	if info.CRC32C, err = computeSum(f); err != nil {
		return objstore.Info{}, fmt.Errorf("file: head %s: %w", key, classify(err))
	}
	return info, nil
}

// computeSum reads all of f, 1 MiB at a time.
func computeSum(f *os.File) (uint32, error) {
	var sum objstore.Sum
	_, err := io.CopyBuffer(&sum, struct{ io.Reader }{f}, make([]byte, 1<<20))
	return sum.CRC32C(), err
}

func (s *Store) openObject(ctx context.Context, key string) (*os.File, fs.FileInfo, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	f, err := os.Open(s.path(key))
	if err != nil {
		return nil, nil, classify(err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fs.ErrNotExist // a directory of other objects
	}
	if err != nil {
		f.Close()
		return nil, nil, classify(err)
	}
	return f, info, nil
}

// Delete implements objstore.Store.
func (s *Store) Delete(ctx context.Context, keys ...string) error {
	for _, key := range keys {
		if err := objstore.CheckKey(key); err != nil {
			return err
		}
	}
	for _, key := range keys {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := removeObject(s.path(key)); err != nil {
			return fmt.Errorf("file: delete %s: %w", key, classify(err))
		}
	}
	return nil
}

// String implements objstore.Store.
func (s *Store) String() string { return "file://" + s.root }

func (s *Store) path(key string) string { return filepath.Join(s.root, filepath.FromSlash(key)) }

// classify adds the contract's error to what the system said.
func classify(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), isNotDir(err):
		return fmt.Errorf("%w: %w", objstore.ErrNotFound, err)
	case errors.Is(err, fs.ErrPermission), isReadOnly(err):
		return fmt.Errorf("%w: %w", objstore.ErrDenied, err)
	}
	return err
}
