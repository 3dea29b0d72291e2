// Package memory keeps objects in memory: the store of tests and simulations, and of
// `--store memory:`, which forgets everything when the process ends. It reads no
// clock but time.Now (virtual under testing/synctest) and starts no goroutine.
//
// Invariant: stored bytes are never changed, so they are copied outside the lock.
// All methods may be called concurrently.
package memory

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/floelog/floe/tiering/objstore"
)

// Store is an objstore.Store in memory. Make one with New.
type Store struct {
	mu      sync.RWMutex // guards the following
	objects map[string]object
	keys    []string // of objects, ascending
}

type object struct {
	data     []byte
	crc      uint32
	modified time.Time
}

var _ objstore.Store = (*Store)(nil)

// New returns an empty store.
func New() *Store { return &Store{objects: map[string]object{}} }

// Put implements objstore.Store. The body is copied once.
func (s *Store) Put(ctx context.Context, key string, body objstore.Body) error {
	if err := check(ctx, key); err != nil {
		return err
	}
	o := object{data: body.Copy(), modified: time.Now()}
	o.crc = objstore.Body{o.data}.CRC32C()

	s.mu.Lock()
	defer s.mu.Unlock()
	i, found := slices.BinarySearch(s.keys, key)
	if found {
		return fmt.Errorf("memory: put %s: %w", key, objstore.ErrExists)
	}
	s.keys = slices.Insert(s.keys, i, key)
	s.objects[key] = o
	return nil
}

// GetRange implements objstore.Store.
func (s *Store) GetRange(ctx context.Context, key string, off, n int64) ([]byte, error) {
	if err := objstore.CheckRange(key, off, n); err != nil {
		return nil, err
	}
	o, err := s.get(ctx, key)
	if err != nil {
		return nil, err
	}
	if size := int64(len(o.data)); off+n > size {
		return nil, fmt.Errorf("memory: %s ends at %d, before %d: %w", key, size, off+n, objstore.ErrCorrupt)
	}
	return slices.Clone(o.data[off : off+n]), nil
}

// GetUpTo implements objstore.Store.
func (s *Store) GetUpTo(ctx context.Context, key string, off, n int64) (objstore.Body, int64, error) {
	if err := objstore.CheckUpTo(key, off, n); err != nil {
		return nil, 0, err
	}
	o, err := s.get(ctx, key)
	if err != nil {
		return nil, 0, err
	}
	size := int64(len(o.data))
	if off >= size {
		return nil, 0, fmt.Errorf("memory: %s ends at %d: nothing at %d: %w", key, size, off, objstore.ErrBeyond)
	}
	data, err := objstore.ReadSlices(min(n, size-off), func(at int64, p []byte) error {
		copy(p, o.data[off+at:])
		return nil
	})
	return data, size, err
}

// Head implements objstore.Store.
func (s *Store) Head(ctx context.Context, key string) (objstore.Info, error) {
	o, err := s.get(ctx, key)
	if err != nil {
		return objstore.Info{}, err
	}
	return o.info(key), nil
}

// List implements objstore.Store.
func (s *Store) List(ctx context.Context, prefix, after string, limit int) ([]objstore.Info, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := objstore.CheckPrefix(prefix); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	i, found := slices.BinarySearch(s.keys, max(prefix, after))
	if found && s.keys[i] == after {
		i++
	}
	var infos []objstore.Info
	for ; i < len(s.keys) && len(infos) < limit && strings.HasPrefix(s.keys[i], prefix); i++ {
		infos = append(infos, s.objects[s.keys[i]].info(s.keys[i]))
	}
	return infos, nil
}

// Delete implements objstore.Store.
func (s *Store) Delete(ctx context.Context, keys ...string) error {
	for _, key := range keys {
		if err := check(ctx, key); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range keys {
		if i, found := slices.BinarySearch(s.keys, key); found {
			s.keys = slices.Delete(s.keys, i, i+1)
			delete(s.objects, key)
		}
	}
	return nil
}

// String implements objstore.Store.
func (s *Store) String() string { return "memory:" }

func (s *Store) get(ctx context.Context, key string) (object, error) {
	if err := check(ctx, key); err != nil {
		return object{}, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	o, ok := s.objects[key]
	if !ok {
		return object{}, fmt.Errorf("memory: get %s: %w", key, objstore.ErrNotFound)
	}
	return o, nil
}

func (o object) info(key string) objstore.Info {
	return objstore.Info{Key: key, Size: int64(len(o.data)), Modified: o.modified, CRC32C: o.crc, HasCRC: true}
}

func check(ctx context.Context, key string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return objstore.CheckKey(key)
}
