//go:build planted

package planted

import (
	"context"
	"math"
	"strings"

	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering/objstore"
)

func onObjects(wrap func(*host, objstore.Store) objstore.Store) func() bug {
	return func() bug { return bug{objects: wrap} }
}

func objectBugs() map[string]func() bug {
	return map[string]func() bug{
		"producers-not-restored": onObjects(func(_ *host, s objstore.Store) objstore.Store { return &forgetful{s} }),
	}
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
