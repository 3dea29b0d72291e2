package recovery_test

import (
	"testing"

	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/protocol/batch"
	"github.com/floelog/floe/repair/repairtest"
	"github.com/floelog/floe/tiering"
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
