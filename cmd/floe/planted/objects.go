//go:build planted

package planted

import (
	"context"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
)

func onObjects(wrap func(*host, objstore.Store) objstore.Store) func() bug {
	return func() bug { return bug{objects: wrap} }
}

func objectBugs() map[string]func() bug {
	return map[string]func() bug{
		"upload-failure-ignored": onObjects(func(_ *host, s objstore.Store) objstore.Store { return &optimist{s} }),
		"key-reused":             onObjects(func(_ *host, s objstore.Store) objstore.Store { return &reuser{Store: s} }),
		"producers-not-restored": onObjects(func(_ *host, s objstore.Store) objstore.Store { return &forgetful{s} }),
	}
}

// optimist takes a segment for stored although the store has not said so.
type optimist struct{ objstore.Store }

func (o *optimist) Put(ctx context.Context, key string, body objstore.Body) error {
	if !strings.HasPrefix(key, tiering.SegmentPrefix) {
		return o.Store.Put(ctx, key, body)
	}
	ctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	_ = o.Store.Put(ctx, key, body) // that is the bug
	return nil
}

// reuser gives the key of the segment before to every fourth one as well.
type reuser struct {
	objstore.Store

	mu   sync.Mutex // guards the following
	last string
	n    int
}

func (r *reuser) Put(ctx context.Context, key string, body objstore.Body) error {
	err := r.Store.Put(ctx, key, body)
	if err != nil || !strings.HasPrefix(key, tiering.SegmentPrefix) {
		return err
	}
	r.mu.Lock()
	last := r.last
	r.last = key
	r.n++
	again := r.n%4 == 0 && last != ""
	r.mu.Unlock()
	if again && r.Store.Delete(ctx, last) == nil {
		_ = r.Store.Put(ctx, last, body) // or there is nothing in its place
	}
	return nil
}

// forgetful drops the producers from what it reads of a snapshot.
type forgetful struct{ objstore.Store }

func (f *forgetful) GetRange(ctx context.Context, key string, off, n int64) ([]byte, error) {
	data, err := f.Store.GetRange(ctx, key, off, n)
	if err != nil || !strings.HasPrefix(key, journal.SnapshotPrefix) {
		return data, err
	}
	s, err := shard.DecodeSnapshot(data)
	if err != nil {
		return data, nil // damaged on its way, which is for the agent to find out
	}
	forget := shard.Record{Seq: s.Seq + 1, Epoch: s.Epoch, Changes: []shard.Change{shard.ExpireProducers{Before: math.MaxInt64}}}
	if err := s.Apply(forget); err != nil {
		return nil, err
	}
	s.Seq--
	return s.EncodeSnapshot(nil), nil
}
