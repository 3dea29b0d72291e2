package sweep

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/metadata/retry"
)

const (
	// deleteBatch is how many objects one request deletes: what S3 takes at most.
	deleteBatch = 1000
	// deleteEvery is the least time between two batches: S3 takes some 3,500 deletions a second
	// for a prefix, which foreground writes share.
	deleteEvery = time.Second
	// deleteTime bounds one batch with its retries, and so how long after the last look at the
	// freeze something is deleted.
	deleteTime = time.Minute
)

// guard says why nothing must be deleted now: a freeze, another cluster in the metadata
// store, or another sweeper that has passed this one. The zero mark is passed by nobody.
func (s *Sweeper) guard(ctx context.Context, own mark) error {
	ctx, cancel := context.WithTimeout(ctx, readTime)
	defer cancel()
	k := s.cfg.Keys
	kvs, _, err := retry.Get(ctx, s.parts.Meta, s.pacer, k.Cluster(), k.GCFreeze(), k.GCMark())
	if err != nil {
		return fmt.Errorf("looking whether deletion is allowed: %w", err)
	}
	cluster, err := catalogue.StoredCluster(kvs[0])
	switch {
	case !kvs[0].Exists():
		return fmt.Errorf("the metadata store does not know the cluster any more: %w", errRestored)
	case err != nil:
		return err
	case cluster.ID != s.cfg.Cluster || cluster.Shards != uint32(len(s.heads)):
		return fmt.Errorf("the metadata store has cluster %s of %d shards, not %s of %d: %w",
			cluster.ID, cluster.Shards, s.cfg.Cluster, len(s.heads), errRestored)
	case kvs[1].Exists():
		return fmt.Errorf("%w, %s (floe gc --unfreeze lifts it)", errFrozen, kvs[1].Value)
	case own != (mark{}) && string(kvs[2].Value) != own.String():
		return errors.New("another sweeper is at work")
	}
	return nil
}

// remove deletes what is ripe.
func (s *Sweeper) remove(ctx context.Context, r *Report, ripe []garbage) error {
	var pace *time.Timer
	for batch := range slices.Chunk(ripe, deleteBatch) {
		if pace == nil {
			pace = time.NewTimer(deleteEvery)
			defer pace.Stop()
		} else {
			select {
			case <-pace.C:
				pace.Reset(deleteEvery)
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if err := s.guard(ctx, s.mark); err != nil {
			return err
		}
		keys := make([]string, len(batch))
		for i, g := range batch {
			keys[i] = g.objectKey()
		}
		if err := s.delete(ctx, keys); err != nil {
			return fmt.Errorf("deleting %d objects: %w", len(keys), err) // those that are left are found again
		}
		for _, g := range batch {
			delete(s.seen, g.name)
			r.Deleted.add(g.size)
		}
	}
	return nil
}

func (s *Sweeper) delete(ctx context.Context, keys []string) error {
	ctx, cancel := context.WithTimeout(ctx, deleteTime)
	defer cancel()
	return s.parts.Objects.Delete(ctx, keys...)
}
