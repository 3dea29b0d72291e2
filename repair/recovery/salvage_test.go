package recovery_test

import (
	"bytes"
	"testing"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/protocol/batch"
	"github.com/floelog/floe/repair/recovery"
	"github.com/floelog/floe/repair/repairtest"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/segment"
)

func commit(w *repairtest.World, group string, offset tiering.Offset) {
	w.Commit(1, func(d *shard.Draft) {
		d.Add(shard.CommitOffsets{Group: group, Offsets: []shard.GroupOffset{{Partition: w.Partition(0), Offset: offset, Epoch: -1, Expires: -1}}})
	})
}

func deleted(w *repairtest.World, id tiering.ShardID, seq uint64) metadata.Txn {
	return metadata.Txn{Then: []metadata.Op{metadata.Delete(w.Keys.JournalRecord(id, seq))}}
}

func TestWhatIsBehindAGapKeepsItsOffsets(t *testing.T) {
	w := loaded(t)
	before := w.States[1].Partition(w.Partition(1)).Next
	w.Inline(1, 2) // nowhere in the bucket
	w.Forget()
	w.Inline(1, 1)
	part := w.Produce(1, 4, &repairtest.Producer{ID: 9})
	commit(w, "g", 5)
	w.Commit(1, func(d *shard.Draft) {
		d.Add(shard.PutRows{Space: shard.Groups, Name: "g", Rows: []shard.Row{{Key: "m", Value: []byte("half")}}})
		d.Add(shard.PutRows{Space: shard.Transactions, Name: "t", Rows: []shard.Row{{Value: []byte("whole")}}})
	})
	w.Carry()
	w.Inline(1, 3) // a second gap
	w.Forget()
	w.Produce(1, 2, &repairtest.Producer{ID: 9, Seq: 4})
	w.Carry()
	w.Wipe()
	p, states := recovered(t, w)
	r := p.Report.Shards[1]
	if r.Missing != 2 || r.Salvaged != 4 || r.Unapplied != 1 || r.Memberships != 1 || len(r.Problems) == 0 || len(r.Adopted) > 0 {
		t.Errorf("%+v", r)
	}
	want := []recovery.Adopted{
		{Topic: "orders", Partition: 1, From: before, To: before + 2},
		{Topic: "orders", Partition: 1, From: before + 7, To: before + 10},
	}
	if len(r.Holes) != 2 || r.Holes[0] != want[0] || r.Holes[1] != want[1] {
		t.Errorf("holes %+v, want %+v", r.Holes, want)
	}
	got := states[1].Partition(w.Partition(1))
	if was := w.States[1].Partition(w.Partition(1)); got.Next != was.Next {
		t.Errorf("the partition ends at %d, it did at %d", got.Next, was.Next)
	}
	if e := got.Extents[got.Find(before+3)]; e.Segment != part.Segment || e.Base != before+3 || e.Count != 4 {
		t.Errorf("what was flushed behind the gap is %+v", e)
	}
	if s := got.ProducerStates(); len(s) != 1 || s[0].LastSeq != 5 {
		t.Errorf("producers %+v", s)
	}
	if o := states[1].Group("g").Offsets[w.Partition(0)]; o.Offset != 5 {
		t.Errorf("the group's offset is %d", o.Offset)
	}
	if states[1].Row(shard.Groups, "g", "m") != nil || !bytes.Equal(states[1].Row(shard.Transactions, "t", ""), []byte("whole")) {
		t.Error("half a membership is taken up, or a transaction is not")
	}
}

// Flushes whose records are lost, and that a later one of their session proves to have been decided, take
// the offsets that are missing, if they fit.
func TestFlushesThatFitIntoAGapFillIt(t *testing.T) {
	w := loaded(t)
	before := w.States[1].Partition(w.Partition(1)).Next
	first := w.Produce(1, 2, nil)
	w.Forget()
	second := w.Produce(1, 3, &repairtest.Producer{ID: 9})
	w.Forget()
	w.Produce(1, 1, &repairtest.Producer{ID: 9, Seq: 3})
	w.Carry()
	w.Wipe()
	p, states := recovered(t, w)
	r := p.Report.Shards[1]
	if r.Missing != 2 || len(r.Holes) > 0 || len(r.Filled) != 1 || r.Filled[0].From != before || r.Filled[0].To != before+5 || len(r.Adopted) > 0 {
		t.Errorf("%+v", r)
	}
	got := states[1].Partition(w.Partition(1))
	a, b := got.Extents[got.Find(before)], got.Extents[got.Find(before+2)]
	if a.Segment != first.Segment || b.Segment != second.Segment || got.Next != before+6 {
		t.Errorf("%+v and %+v, up to %d", a, b, got.Next)
	}
}

// Where they do not fit, nobody knows their offsets: plain batches are taken up at the end.
func TestFlushesThatDoNotFitIntoAGapComeAtTheEnd(t *testing.T) {
	w := loaded(t)
	before := w.States[1].Partition(w.Partition(1)).Next
	lost := w.Produce(1, 2, nil)
	w.Inline(1, 1)
	w.Forget()
	w.Produce(1, 4, nil)
	w.Carry()
	w.Wipe()
	p, states := recovered(t, w)
	r := p.Report.Shards[1]
	if len(r.Holes) != 1 || r.Holes[0].To != before+3 || len(r.Filled) > 0 || len(r.Adopted) != 1 || r.Adopted[0].From != before+7 {
		t.Errorf("%+v", r)
	}
	got := states[1].Partition(w.Partition(1))
	if e := got.Extents[got.Find(before+7)]; e.Segment != lost.Segment || got.Next != before+9 {
		t.Errorf("the last extent is %+v, the end %d", e, got.Next)
	}
}

// Merged segments prove offsets before holes are put there.
func TestAMergedSegmentProvesAGap(t *testing.T) {
	w := loaded(t)
	before := w.States[1].Partition(w.Partition(1)).Next
	w.Inline(1, 2)
	w.Forget()
	part := w.Produce(1, 4, nil)
	b, err := w.Objects.GetRange(t.Context(), part.Segment.Key(), int64(part.Position), int64(part.Batches[0].Length))
	if err != nil {
		t.Fatal(err)
	}
	batch.Patch(b, int64(before)+2, repairtest.Epoch)
	merged := append(w.Batch(2, nil, before), b...)
	w.Segment(1, segment.Chunk{Shard: 1, TopicPartition: w.Partition(1), Base: before, Slices: [][]byte{merged}})
	w.Produce(1, 1, nil)
	w.Carry()
	w.Wipe()
	p, states := recovered(t, w)
	r := p.Report.Shards[1]
	if len(r.Proven) != 1 || len(r.Holes)+len(r.Filled)+len(r.Adopted) > 0 || r.Unapplied > 0 || r.Salvaged != 2 {
		t.Errorf("%+v", r)
	}
	if got := states[1].Partition(w.Partition(1)).Next; got != before+7 {
		t.Errorf("the partition ends at %d, want %d", got, before+7)
	}
}

// A topic that only records behind a gap know keeps its records.
func TestATopicBehindAGapIsThere(t *testing.T) {
	w := loaded(t)
	commit(w, "g", 4)
	w.Forget()
	w.Topic = catalogue.Topic{Name: "young", ID: tiering.TopicID{5}, Partitions: 2}
	w.PutTopic(&w.Topic)
	w.Produce(1, 2, nil)
	w.Carry()
	w.Wipe()
	p, states := recovered(t, w)
	if len(p.Report.Renamed) != 1 || states[1].Partition(w.Partition(1)).Next != 2 {
		t.Errorf("renamed %v, the partition ends at %d", p.Report.Renamed, states[1].Partition(w.Partition(1)).Next)
	}
}

// Records of a history that a restored metadata store has left behind are none behind a gap.
func TestRecordsOfAnOlderHistoryAreLeftOut(t *testing.T) {
	w := loaded(t)
	fork := shard.Record{Seq: w.States[1].Seq + 1, Epoch: repairtest.Epoch + 1, Leader: w.Session, Nonce: 999, Changes: []shard.Change{
		shard.CommitOffsets{Group: "new", Offsets: []shard.GroupOffset{{Partition: w.Partition(0), Offset: 1, Expires: -1}}}}}
	before := w.States[1].Partition(w.Partition(1)).Next
	commit(w, "old", 1)
	w.Inline(1, 2)
	w.Carry()
	w.Put(w.Keys.JournalRecord(1, fork.Seq), fork.Encode(nil))
	if _, err := w.Meta.Txn(t.Context(), deleted(w, 1, fork.Seq+1)); err != nil {
		t.Fatal(err)
	}
	p, states := recovered(t, w, over)
	if r := p.Report.Shards[1]; r.Forks != 1 || r.Salvaged+len(r.Holes) > 0 {
		t.Errorf("%+v", r)
	}
	if got := states[1].Partition(w.Partition(1)).Next; got != before {
		t.Errorf("the partition ends at %d, want %d", got, before)
	}
}

// What a merged segment proves in the middle of a gap is no hole: the flushes that it was made of may be gone.
func TestAMergedSegmentProvesTheRestOfAGap(t *testing.T) {
	w := loaded(t)
	before := w.States[1].Partition(w.Partition(1)).Next
	w.Inline(1, 2) // nowhere in the bucket
	part := w.Produce(1, 4, nil)
	w.Inline(1, 3) // nor this
	w.Forget()
	b, err := w.Objects.GetRange(t.Context(), part.Segment.Key(), int64(part.Position), int64(part.Batches[0].Length))
	if err != nil {
		t.Fatal(err)
	}
	batch.Patch(b, int64(before)+2, repairtest.Epoch)
	merged, _ := w.Segment(1, segment.Chunk{Shard: 1, TopicPartition: w.Partition(1), Base: before + 2, Slices: [][]byte{b}})
	if err := w.Objects.Delete(t.Context(), part.Segment.Key()); err != nil {
		t.Fatal(err)
	}
	w.Produce(1, 1, nil)
	w.Carry()
	w.Wipe()
	p, states := recovered(t, w)
	r := p.Report.Shards[1]
	if len(r.Proven) != 1 || len(r.Holes) != 2 || r.Holes[0].To != before+2 || r.Holes[1].From != before+6 || len(r.Filled)+len(r.Adopted)+r.Unapplied > 0 {
		t.Errorf("%+v", r)
	}
	got := states[1].Partition(w.Partition(1))
	if e := got.Extents[got.Find(before+3)]; e.Segment != merged || e.Base != before+2 || e.Count != 4 || got.Next != before+10 {
		t.Errorf("what was merged is %+v, the end %d, want %d", e, got.Next, before+10)
	}
}

// A merged segment may prove the first batches of an extent only, those before a transaction's: the others keep their
// offsets as well.
func TestAnExtentThatIsProvedInPartKeepsTheRest(t *testing.T) {
	for _, inline := range []bool{false, true} {
		w := loaded(t)
		before := w.States[1].Partition(w.Partition(1)).Next
		w.Inline(1, 2)
		w.Forget()
		plain, other := w.Batch(3, nil, 0), w.Batch(4, nil, 0)
		part := shard.Part{Partition: w.Partition(1), Batches: []shard.Batch{
			{Length: int32(len(plain)), Count: 3, MaxTimestamp: 1_002, ProducerID: -1, ProducerEpoch: -1, FirstSeq: -1},
			{Length: int32(len(other)), Count: 4, MaxTimestamp: 1_003, ProducerID: -1, ProducerEpoch: -1, FirstSeq: -1}}}
		if inline {
			part.Inline = append(bytes.Clone(plain), other...)
		} else {
			id, entries := w.Segment(0, segment.Chunk{Shard: 1, TopicPartition: w.Partition(1), Slices: [][]byte{plain, other}})
			part.Segment, part.Position = id, entries[0].Position
		}
		w.Submit(1, part)
		batch.Patch(plain, int64(before)+2, repairtest.Epoch)
		merged := append(w.Batch(2, nil, before), plain...)
		w.Segment(1, segment.Chunk{Shard: 1, TopicPartition: w.Partition(1), Base: before, Slices: [][]byte{merged}})
		w.Produce(1, 1, nil)
		w.Carry()
		w.Wipe()
		p, states := recovered(t, w)
		r := p.Report.Shards[1]
		if len(r.Proven) != 1 || len(r.Holes)+len(r.Filled)+len(r.Adopted)+r.Unapplied > 0 {
			t.Errorf("inline %v: %+v", inline, r)
		}
		got := states[1].Partition(w.Partition(1))
		e := got.Extents[got.Find(before+6)]
		if e.Base != before+5 || e.Count != 4 || int(e.Length) != len(other) || got.Next != before+10 {
			t.Errorf("inline %v: the rest is %+v, the end %d, want %d", inline, e, got.Next, before+10)
		}
		if inline && !bytes.Equal(e.Inline, other) || !inline && e.Position != part.Position+tiering.Position(len(plain)) {
			t.Errorf("inline %v: the rest is at %d with %d bytes", inline, e.Position, len(e.Inline))
		}
	}
}
