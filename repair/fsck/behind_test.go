package fsck_test

import (
	"context"
	"strings"
	"testing"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/repair/fsck"
	"github.com/floelog/floe/repair/repairtest"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
)

// What an older metadata store names may all be there: the records since then are not named.
func TestAMetadataStoreThatWentBackIsDamage(t *testing.T) {
	w := loaded(t)
	backup := w.Server.Snapshot()
	w.Produce(0, 3, nil)
	w.Snapshot(0)
	if r := check(t, w, false); !r.Clean {
		t.Fatalf("before: %+v", r.Findings)
	}
	w.Server.Restore(backup)
	r := check(t, w, false)
	if r.Clean || r.Damage != 1 || r.Findings[0].Kind != "behind" || r.Findings[0].Shard != 0 || !strings.Contains(r.Findings[0].Remedy, "--force-over-restored") {
		t.Errorf("clean %v: %+v", r.Clean, r.Findings)
	}
}

func TestAShardWithoutKeysIsDamage(t *testing.T) {
	w := loaded(t)
	w.Snapshot(0)
	prefix := w.Keys.Shard(0)
	if _, err := w.Meta.Txn(t.Context(), metadata.Txn{Then: []metadata.Op{metadata.DeleteRange(prefix, metadata.PrefixEnd(prefix))}}); err != nil {
		t.Fatal(err)
	}
	if r := check(t, w, false); r.Clean || r.Findings[0].Kind != "behind" {
		t.Errorf("clean %v: %+v", r.Clean, r.Findings)
	}
}

// A cluster that runs stores snapshots while the bucket is listed.
func TestASnapshotThatIsNewerThanTheCheckIsNoDamage(t *testing.T) {
	w := loaded(t)
	moving := &movingStore{Store: w.Objects, key: w.States[0].Partition(w.Partition(0)).Extents[0].Segment.Key()}
	moving.move = func() {
		w.Produce(0, 3, nil)
		w.Snapshot(0)
	}
	r := check(t, w, false, func(c *fsck.Config) { c.Objects, c.Parallel = moving, 1 })
	if !r.Clean || moving.move != nil {
		t.Errorf("clean %v: %+v", r.Clean, r.Findings)
	}
}

// Batches of one size hide behind each other: neither offsets nor checksums tell.
func TestTwoExtentsOfTheSameBytesAreDamage(t *testing.T) {
	w := repairtest.New(t)
	part := w.Flush(0, 2, nil)
	w.Submit(0, part)
	w.Commit(0, func(d *shard.Draft) {
		d.Add(shard.Append{Partition: w.Partition(0), Base: 2, Extents: []tiering.Extent{{
			Count: 2, MaxTimestamp: part.Batches[0].MaxTimestamp, Segment: part.Segment, Position: part.Position, Length: part.Batches[0].Length}}})
	})
	for _, deep := range []bool{false, true} {
		if r := check(t, w, deep); r.Clean || r.Findings[0].Kind != "chunk" || r.Findings[0].From != 2 {
			t.Errorf("deep %v, clean %v: %+v", deep, r.Clean, r.Findings)
		}
	}
}

// hastyStore says of key that it is gone when it is first asked, and has it moved when it is asked again.
type hastyStore struct {
	movingStore
	asked bool
}

func (h *hastyStore) Head(ctx context.Context, key string) (objstore.Info, error) {
	if key == h.key && !h.asked {
		h.asked = true
		return objstore.Info{}, objstore.ErrNotFound
	}
	return h.movingStore.Head(ctx, key)
}

// What was looked at again can have been merged and deleted just then.
func TestWhatMovesWhileItIsLookedAtAgainIsNoDamage(t *testing.T) {
	w := loaded(t)
	hasty := &hastyStore{movingStore: movingStore{Store: w.Objects, key: w.States[0].Partition(w.Partition(0)).Extents[0].Segment.Key()}}
	hasty.move = func() {
		merged(t, w)
		if err := w.Objects.Delete(t.Context(), hasty.key); err != nil {
			t.Fatal(err)
		}
	}
	r := check(t, w, true, func(c *fsck.Config) { c.Objects, c.Parallel = hasty, 1 })
	if !r.Clean || hasty.move != nil {
		t.Errorf("clean %v: %+v", r.Clean, r.Findings)
	}
}
