package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/floelog/floe/compaction/sweep"
	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
)

// resumeSweeping lets the sweeper delete again, although the bucket knows of sweeps that the
// metadata store does not.
func resumeSweeping(ctx context.Context, meta metadata.Store, objects objstore.Store, keys metadata.Keys, cluster catalogue.Cluster) error {
	s := sweep.New(sweep.Config{Keys: keys, Cluster: cluster.ID}, sweep.Parts{
		Meta: meta, Objects: objects, Shards: unseen(cluster.Shards), Now: time.Now, Nonce: newRand().Uint64, Log: slog.New(slog.DiscardHandler),
	})
	return s.Unfreeze(ctx)
}

// unseen is a number of shards that are not looked at.
type unseen uint32

func (n unseen) NumShards() uint32                            { return uint32(n) }
func (unseen) View(tiering.ShardID) *journal.View             { return nil }
func (unseen) Sync(context.Context, ...tiering.ShardID) error { return nil }
