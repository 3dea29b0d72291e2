package recovery

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/protocol/batch"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/segment"
)

// batchMark tells a batch from others, whatever its offsets are: its checksum does not cover them.
type batchMark struct {
	partition tiering.TopicPartition
	crc       uint32
	length    int
}

// producerMark tells a producer's batches in one partition from all others.
type producerMark struct {
	partition tiering.TopicPartition
	id        int64
	epoch     int16
}

func markOf(tp tiering.TopicPartition, v batch.View) producerMark {
	return producerMark{tp, v.ProducerID(), v.ProducerEpoch()}
}

// whole reports whether a batch is as its producer sent it: log compaction may have taken records
// out of it, or have it reach over what it removed behind it, and then nothing tells what its
// last sequence number was.
func whole(v batch.View) bool { return int64(v.Count()) == int64(v.LastOffsetDelta())+1 }

// precedes reports whether a batch whose first sequence number is a was sent before one with b, or is
// the same: numbers wrap from 2^31-1 to 0.
func precedes(a, b int32) bool { return uint32(b-a)&math.MaxInt32 < 1<<30 }

// merged takes up what merged segments prove: their batches hold the offsets that they were
// given, in records that are lost. Batches of transactions are left: what became of those stands
// in other records.
func (a *adoption) merged(ctx context.Context, s *rebuilt) error {
	for progress := true; progress; {
		progress = false
		for i, f := range s.merged {
			if !a.known(f) || s.looked[i] || f.entry.Base > s.state.Partition(f.entry.TopicPartition).Next {
				continue
			}
			s.looked[i] = true // once: what it does not prove now it never will
			taken, err := a.stamped(ctx, s, f)
			if err != nil {
				return err
			}
			progress = progress || taken
		}
	}
	return nil
}

// known reports whether a chunk is of a partition that there is.
func (a *adoption) known(f flush) bool {
	t := a.topics[f.entry.TopicPartition.Topic]
	return t != nil && f.entry.TopicPartition.Partition < t.Partitions
}

// proven returns the first offset from which on a merged segment may prove what a partition holds, between its
// end and an offset that it has reached; that offset if there is none.
func (a *adoption) proven(s *rebuilt, tp tiering.TopicPartition, to tiering.Offset) tiering.Offset {
	from := s.state.Partition(tp).Next
	for i, f := range s.merged {
		if base := f.entry.Base; f.entry.TopicPartition == tp && a.known(f) && !s.looked[i] && base > from && base < to {
			to = base
		}
	}
	return to
}

// stamped takes up the batches of a chunk from the partition's end on, as far as each begins where
// the one before ends.
func (a *adoption) stamped(ctx context.Context, s *rebuilt, f flush) (taken bool, err error) {
	tp := f.entry.TopicPartition
	seg := segment.Segment{Size: f.Size}
	b, err := seg.ReadChunk(f.entry, a.plan.reader(ctx, f.Key))
	if unreadable(err) {
		s.problem("a chunk of %s in %s cannot be used: %v", tp, f.Key, err)
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("reading %s: %w", f.Key, err)
	}
	from := s.state.Partition(tp).Next
	e := tiering.Extent{Segment: f.id, Position: f.entry.Position, MaxTimestamp: tiering.NoTimestamp}
	c := shard.Append{Partition: tp, Base: from}
	var marks []batchMark
	thinned := map[producerMark]int32{} // first sequence number of the last one
	var plain []sketch
	for len(b) > 0 {
		var v batch.View
		if v, b, err = batch.Next(b); err == nil && v.BaseOffset() < int64(from) {
			e.Position += tiering.Position(len(v))
			continue
		}
		if err != nil || v.IsTransactional() || v.IsControl() || v.BaseOffset() != int64(from)+e.Count {
			break
		}
		marks = append(marks, batchMark{tp, v.CRC(), len(v)})
		if v.ProducerID() < 0 && !whole(v) {
			plain = append(plain, sketchOf(v))
		}
		if v.ProducerID() >= 0 && !whole(v) {
			thinned[markOf(tp, v)] = v.BaseSequence()
			c.Producers = slices.DeleteFunc(c.Producers, func(p shard.ProducerAppend) bool { return p.ProducerID == v.ProducerID() })
		} else if v.ProducerID() >= 0 {
			c.Producers = append(c.Producers, shard.ProducerAppend{
				ProducerID: v.ProducerID(), ProducerEpoch: v.ProducerEpoch(), FirstSeq: v.BaseSequence(), LastSeq: v.LastSequence(),
				Base: tiering.Offset(v.BaseOffset()), Timestamp: v.MaxTimestamp(),
			})
		}
		e.Count += int64(v.LastOffsetDelta()) + 1
		e.Length += int32(len(v))
		e.MaxTimestamp = max(e.MaxTimestamp, v.MaxTimestamp())
	}
	if e.Count == 0 {
		return false, nil
	}
	c.Extents = []tiering.Extent{e}
	a.seq++
	r := shard.Record{Seq: s.state.Seq + 1, Epoch: s.leads(), Leader: a.plan.session, Nonce: a.seq, Time: a.plan.now, Changes: []shard.Change{c}}
	if err := s.state.Check(r); err != nil {
		s.problem("%s: what %s proves cannot be taken up: %v", tp, f.Key, err)
		return false, nil
	}
	for m := range thinned {
		s.state.ForgetProducer(tp, m.id)
	}
	if err := s.state.Apply(r); err != nil {
		return false, fmt.Errorf("%s: taking up what %s proves: %w", tp, f.Key, err)
	}
	for _, m := range marks {
		a.taken[m] = true
	}
	maps.Copy(a.thinned, thinned)
	a.plain[tp] = append(a.plain[tp], plain...)
	s.report.Proven = append(s.report.Proven, Adopted{Topic: a.topics[tp.Topic].Name, Partition: tp.Partition, From: from, To: e.End() + from, Object: f.Key})
	return true, nil
}

// superseded reports whether a batch of a flush is one that a merged segment holds thinned out, or that its
// producer sent before that one.
func (a *adoption) superseded(tp tiering.TopicPartition, v batch.View) bool {
	first, ok := a.thinned[markOf(tp, v)]
	return ok && precedes(v.BaseSequence(), first)
}
