package recovery_test

import (
	"slices"
	"testing"

	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/protocol/batch"
	"github.com/floelog/floe/repair/repairtest"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/segment"
)

func TestMergedSegmentsProveTheirOffsets(t *testing.T) {
	w := loaded(t)
	next := w.States[0].Partition(w.Partition(0)).Next
	var merged []byte
	for range 2 {
		part := w.Produce(0, 3, nil)
		w.Forget()
		b, err := w.Objects.GetRange(t.Context(), part.Segment.Key(), int64(part.Position), int64(part.Batches[0].Length))
		if err != nil {
			t.Fatal(err)
		}
		batch.Patch(b, int64(next)+int64(len(merged)/len(b))*3, repairtest.Epoch)
		merged = append(merged, b...)
	}
	w.Segment(1, segment.Chunk{Shard: 0, TopicPartition: w.Partition(0), Base: next, Slices: [][]byte{merged}})
	w.Forget()
	w.Wipe()
	p, states := recovered(t, w)
	r := p.Report.Shards[0]
	if len(r.Proven) != 1 || r.Proven[0].From != next || r.Proven[0].To != next+6 || len(r.Adopted) > 0 || r.Duplicates != 2 {
		t.Errorf("%+v", r)
	}
	if got := states[0].Partition(w.Partition(0)).Next; got != next+6 {
		t.Errorf("the partition ends at %d, want %d", got, next+6)
	}
}

// A merge that began below what is known proves the rest all the same: taken up as flushes, batches
// of several agents could change places.
func TestAMergeThatBeginsBeforeTheEndProvesTheRest(t *testing.T) {
	w := loaded(t)
	next := w.States[0].Partition(w.Partition(0)).Next
	read := func(part shard.Part, base tiering.Offset) []byte {
		b, err := w.Objects.GetRange(t.Context(), part.Segment.Key(), int64(part.Position), int64(part.Batches[0].Length))
		if err != nil {
			t.Fatal(err)
		}
		batch.Patch(b, int64(base), repairtest.Epoch)
		return b
	}
	known := w.Produce(0, 3, nil)
	w.Carry()
	second := w.Flush(0, 2, nil) // stored first, sequenced last
	first := w.Produce(0, 1, nil)
	w.Submit(0, second)
	w.Forget()
	merged := slices.Concat(read(known, next), read(first, next+3), read(second, next+4))
	id, entries := w.Segment(1, segment.Chunk{Shard: 0, TopicPartition: w.Partition(0), Base: next, Slices: [][]byte{merged}})
	w.Forget()
	w.Wipe()
	p, states := recovered(t, w)
	r := p.Report.Shards[0]
	if len(r.Proven) != 1 || r.Proven[0].From != next+3 || r.Proven[0].To != next+6 || len(r.Adopted) > 0 {
		t.Errorf("%+v", r)
	}
	extents := states[0].Partition(w.Partition(0)).Extents
	if e := extents[len(extents)-1]; e.Segment != id || e.Position != entries[0].Position+tiering.Position(known.Batches[0].Length) || e.End() != next+6 {
		t.Errorf("the last extent is %+v", e)
	}
}

// What log compaction has thinned out, or had reach over what it removed, does not tell its producer's
// last sequence number: the producer goes on, and what it sent before is not taken up again.
func TestThinnedBatchesLeaveTheirProducersFreeToGoOn(t *testing.T) {
	w := loaded(t) // producer 1 has sent sequence numbers 0 to 3
	next := w.States[0].Partition(w.Partition(0)).Next
	read := func(part shard.Part) batch.View {
		b, err := w.Objects.GetRange(t.Context(), part.Segment.Key(), int64(part.Position), int64(part.Batches[0].Length))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	lost := func(n int, by *repairtest.Producer) shard.Part {
		part := w.Produce(0, n, by)
		w.Forget()
		return part
	}
	lost(1, &repairtest.Producer{ID: 1, Seq: 4}) // log compaction removed all of it
	part := lost(3, &repairtest.Producer{ID: 1, Seq: 5})
	other := lost(2, &repairtest.Producer{ID: 2})
	lost(2, &repairtest.Producer{ID: 1, Seq: 8}) // after the merge
	lost(2, &repairtest.Producer{ID: 2, Seq: 2})
	thin, err := batch.Thin(nil, read(part), func(i int) bool { return i > 0 }, batch.NoHorizon, nil)
	if err != nil {
		t.Fatal(err)
	}
	first := w.Batch(1, nil, next)
	wide := append(batch.AppendHeader(nil, thin, int64(next)+1, repairtest.Epoch, 5), batch.View(thin).Payload()...)
	whole := read(other)
	batch.Patch(whole, int64(next)+7, repairtest.Epoch)
	w.Segment(1, segment.Chunk{Shard: 0, TopicPartition: w.Partition(0), Base: next, Slices: [][]byte{slices.Concat(first, wide, whole)}})
	w.Forget()
	w.Wipe()
	p, states := recovered(t, w)
	r := p.Report.Shards[0]
	if len(r.Proven) != 1 || r.Proven[0].To != next+9 || r.Duplicates != 3 || r.OutOfOrder != 0 {
		t.Errorf("%+v", r)
	}
	s := states[0]
	if got := s.Partition(w.Partition(0)).Next; got != next+9+4 {
		t.Errorf("the partition ends at %d, want %d: both producers' last batches", got, next+13)
	}
	last := map[int64]int32{}
	for _, x := range s.Partition(w.Partition(0)).ProducerStates() {
		last[x.ProducerID] = x.LastSeq
	}
	if last[1] != 9 || last[2] != 3 {
		t.Errorf("last sequence numbers %v", last)
	}
}

// Of a plain producer's batch that log compaction has thinned out the flush is known by the records that
// are left, and one of which nothing is left by those that its agent flushed after it.
func TestThinnedBatchesOfPlainProducersAreNotTakenUpTwice(t *testing.T) {
	w := loaded(t)
	next := w.States[0].Partition(w.Partition(0)).Next
	lost := func(n int) shard.Part {
		part := w.Produce(0, n, nil)
		w.Forget()
		return part
	}
	read := func(part shard.Part) batch.View {
		b, err := w.Objects.GetRange(t.Context(), part.Segment.Key(), int64(part.Position), int64(part.Batches[0].Length))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	first := lost(2)
	lost(1) // log compaction removed all of it
	thinned := lost(3)
	lost(4) // after the merge
	thin, err := batch.Thin(nil, read(thinned), func(i int) bool { return i == 1 }, 5_000, nil)
	if err != nil {
		t.Fatal(err)
	}
	wide := append(batch.AppendHeader(nil, read(first), int64(next), repairtest.Epoch, 2), read(first).Payload()...)
	batch.Patch(thin, int64(next)+3, repairtest.Epoch)
	w.Segment(1, segment.Chunk{Shard: 0, TopicPartition: w.Partition(0), Base: next, Slices: [][]byte{slices.Concat(wide, thin)}})
	w.Forget()
	w.Wipe()
	p, states := recovered(t, w)
	r := p.Report.Shards[0]
	if len(r.Proven) != 1 || r.Proven[0].To != next+6 || r.Duplicates != 3 || len(r.Adopted) != 1 || r.Adopted[0].To != next+10 {
		t.Errorf("%+v", r)
	}
	if got := states[0].Partition(w.Partition(0)).Next; got != next+10 {
		t.Errorf("the partition ends at %d, want %d", got, next+10)
	}
}
