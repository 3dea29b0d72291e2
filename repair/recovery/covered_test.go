package recovery_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/protocol/batch"
	"github.com/floelog/floe/repair/repairtest"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
	"github.com/floelog/floe/tiering/segment"
)

// A burst is merged within seconds, and a snapshot names none of its flushes, which are there
// for some minutes more.
func TestFlushesThatWereMergedBeforeASnapshotAreNotTakenUpAgain(t *testing.T) {
	w := repairtest.New(t)
	part := w.Produce(0, 3, nil)
	b, err := w.Objects.GetRange(t.Context(), part.Segment.Key(), int64(part.Position), int64(part.Batches[0].Length))
	if err != nil {
		t.Fatal(err)
	}
	batch.Patch(b, 0, repairtest.Epoch)
	id, entries := w.Segment(1, segment.Chunk{Shard: 0, TopicPartition: w.Partition(0), Base: 0, Slices: [][]byte{b}}) // carries the record
	w.Commit(0, func(d *shard.Draft) {
		of, _ := d.State().Partition(w.Partition(0)).Digest(0, 3)
		d.Add(shard.Replace{Partition: w.Partition(0), Of: of, With: []tiering.Extent{
			{Base: 0, Count: 3, MaxTimestamp: 1002, Segment: id, Position: entries[0].Position, Length: int32(len(b))}}})
	})
	w.Snapshot(0)
	w.Carry()
	w.Wipe()
	p, states := recovered(t, w)
	same(t, states[0], w.States[0])
	if r := p.Report.Shards[0]; len(r.Adopted) > 0 {
		t.Errorf("taken up twice: %+v", r.Adopted)
	}
}

// A shard may change hands many times without a record, and only its head tells.
func TestEpochsThatTheBucketHasNotSeenAreNotGivenOutAgain(t *testing.T) {
	w := loaded(t)
	const unseen = repairtest.Epoch + 100_000
	w.Put(w.Keys.Head(0), journal.Head{Epoch: unseen, Session: w.Session, Seq: w.States[0].Seq}.Encode())
	w.Wipe()
	if _, states := recovered(t, w); states[0].Epoch <= unseen {
		t.Errorf("the shard goes on with epoch %d, clients have seen %d", states[0].Epoch, unseen)
	}
}

// A segment of another cluster that somebody has copied here is not this one's to take from.
func TestASegmentOfAnotherClusterIsPassedOver(t *testing.T) {
	w, other := loaded(t), repairtest.New(t)
	other.Session = tiering.SessionID{0xee}
	part := other.Produce(0, 5, nil)
	other.Carry()
	page, err := other.Objects.List(t.Context(), tiering.SegmentPrefix, "", 100)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range page {
		b, err := other.Objects.GetRange(t.Context(), o.Key, 0, o.Size)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Objects.Put(t.Context(), o.Key, objstore.Body{b}); err != nil {
			t.Fatal(err)
		}
	}
	w.Wipe()
	p, states := recovered(t, w)
	for id := range states {
		same(t, states[id], w.States[id])
	}
	if len(p.Report.Problems) != len(page) || !strings.Contains(p.Report.Problems[0], "another cluster") {
		t.Errorf("problems %v; %s is foreign", p.Report.Problems, part.Segment.Key())
	}
}

// A snapshot that a slow store took half a minute to take may lack what was flushed meanwhile.
func TestAFlushThatIsOlderThanASlowSnapshotIsTakenUp(t *testing.T) {
	w := loaded(t)
	key := w.Snapshot(0)
	next := w.States[0].Partition(w.Partition(0)).Next
	w.Produce(0, 3, nil)
	w.Forget()
	w.Objects = &lateStore{Store: w.Objects, key: key, by: 20 * time.Second}
	w.Wipe()
	p, states := recovered(t, w)
	if got := states[0].Partition(w.Partition(0)).Next; got != next+3 || len(p.Report.Shards[0].Adopted) != 1 {
		t.Errorf("the partition ends at %d, want %d: %+v", got, next+3, p.Report.Shards[0])
	}
}

// lateStore says of key that it was stored later than the others.
type lateStore struct {
	objstore.Store
	key string
	by  time.Duration
}

func (l *lateStore) List(ctx context.Context, prefix, after string, limit int) ([]objstore.Info, error) {
	page, err := l.Store.List(ctx, prefix, after, limit)
	for i := range page {
		if page[i].Key == l.key {
			page[i].Modified = page[i].Modified.Add(l.by)
		}
	}
	return page, err
}
