package open

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/floelog/floe/tiering/objstore"
)

// SelfTest finds out whether store does what Floe's safety rests on: puts that create
// or fail, reads that see every write, exact ranges, checksums, lists and deletions. It
// makes one object, under a key with unique in it, which must never have been used
// before, and removes it. The error is one line that names what the store cannot do.
func SelfTest(ctx context.Context, store objstore.Store, unique string) error {
	key := objstore.SelfTestPrefix + unique
	err := selfTest(ctx, store, key)
	if err == nil {
		return nil
	}
	// Also when a step failed or the context ended: tidy up, as far as that goes.
	if e := store.Delete(context.WithoutCancel(ctx), key); e != nil && !errors.Is(e, objstore.ErrInvalid) {
		return fmt.Errorf("object store %s: %w (and %s is left behind)", store, err, key)
	}
	return fmt.Errorf("object store %s: %w", store, err)
}

func selfTest(ctx context.Context, store objstore.Store, key string) error {
	first := objstore.Body{[]byte("Floe tests "), []byte("whether this store "), []byte("can be relied on: 1")}
	second := objstore.Body{[]byte("this must never be seen")}
	for _, stage := range [][]step{
		{{"cannot create an object", func() error { return store.Put(ctx, key, first) }}},
		{
			{"does not refuse a second put of a key (If-None-Match: *)", func() error { return refused(store.Put(ctx, key, second)) }},
			{"does not read back what was written", func() error { return reads(ctx, store, key, first.Bytes(), 0) }},
			{"does not answer ranges exactly", func() error { return reads(ctx, store, key, first.Bytes()[7:20], 7) }},
			{"does not keep CRC-32C checksums", func() error { return checksum(ctx, store, key, first) }},
			{"does not list what was written", func() error { return lists(ctx, store, key, true) }},
		},
		// Once more, now that a second put had its chance.
		{{"does not keep what was written", func() error { return reads(ctx, store, key, first.Bytes(), 0) }}},
		{{"cannot delete an object", func() error { return store.Delete(ctx, key) }}},
		{
			{"still has an object that was deleted", func() error { return gone(ctx, store, key) }},
			{"still lists an object that was deleted", func() error { return lists(ctx, store, key, false) }},
		},
	} {
		if err := together(stage); err != nil {
			return err
		}
	}
	return nil
}

// step is something that a store must be able to do.
type step struct {
	cannot string
	run    func() error
}

// together runs steps side by side, since a store may be far away and an agent is to serve soon,
// and returns the error of the first one that has any.
func together(steps []step) error {
	errs := make([]error, len(steps))
	var wg sync.WaitGroup
	for i, s := range steps {
		wg.Go(func() {
			if err := s.run(); err != nil {
				errs[i] = fmt.Errorf("%s: %w", s.cannot, err)
			}
		})
	}
	wg.Wait()
	return cmp.Or(errs...)
}

func refused(err error) error {
	switch {
	case errors.Is(err, objstore.ErrExists):
		return nil
	case err == nil:
		return errors.New("it was accepted")
	}
	return err
}

func reads(ctx context.Context, store objstore.Store, key string, want []byte, off int64) error {
	got, err := store.GetRange(ctx, key, off, int64(len(want)))
	if err == nil && !bytes.Equal(got, want) {
		return errors.New("other bytes came back")
	}
	return err
}

func checksum(ctx context.Context, store objstore.Store, key string, body objstore.Body) error {
	info, err := store.Head(ctx, key)
	switch {
	case err != nil:
		return err
	case !info.HasCRC:
		return errors.New("it reports none")
	case info.CRC32C != body.CRC32C() || info.Size != body.Size():
		return fmt.Errorf("it reports %08x for %d bytes instead of %08x for %d", info.CRC32C, info.Size, body.CRC32C(), body.Size())
	}
	return nil
}

func lists(ctx context.Context, store objstore.Store, key string, want bool) error {
	infos, err := store.List(ctx, key, "", 2)
	if err != nil {
		return err
	}
	found := len(infos) > 0 && infos[0].Key == key
	if found != want {
		return fmt.Errorf("a list of %s has %d objects", key, len(infos))
	}
	return nil
}

func gone(ctx context.Context, store objstore.Store, key string) error {
	_, err := store.GetRange(ctx, key, 0, 1)
	switch {
	case errors.Is(err, objstore.ErrNotFound):
		return nil
	case err == nil:
		return errors.New("it can be read")
	}
	return err
}
