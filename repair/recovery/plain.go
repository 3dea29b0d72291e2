package recovery

import (
	"cmp"
	"context"
	"fmt"

	"github.com/floelog/floe/protocol/batch"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/segment"
)

// A batch of a plain producer has no sequence number. If log compaction has taken records out of it, its
// checksum is another one than in the flush, and the flush would be taken up once more, with the records that
// newer ones have superseded, at the end of the log. So it is recognised by the records that are left. A session's
// flushes are sequenced in their order: those before one that is recognised were too, also where log
// compaction has left nothing of them.

// recordMark tells a record from others of its batch's partition.
type recordMark struct {
	delta     int32 // offset, relative to its batch
	timestamp int64
	key       [32]byte
}

// sketch is what is left of a batch.
type sketch struct {
	records []recordMark
	reach   int32 // last offset delta
}

// chain is what one session flushed of one partition; spot is a place in it.
type chain struct {
	session   tiering.SessionID
	partition tiering.TopicPartition
}

type spot struct {
	seq      uint64 // of the segment
	position tiering.Position
}

func (s spot) compare(o spot) int {
	return cmp.Or(cmp.Compare(s.seq, o.seq), cmp.Compare(s.position, o.position))
}

// sketchOf returns the sketch of a batch, without records if they cannot be read.
func sketchOf(v batch.View) sketch {
	s := sketch{reach: v.LastOffsetDelta()}
	for h, err := range v.Heads(true, nil) {
		if err != nil {
			return sketch{reach: s.reach}
		}
		s.records = append(s.records, recordMark{h.OffsetDelta, v.TimestampAt(h.TimestampDelta), h.KeySum})
	}
	return s
}

// remnantOf reports whether s can be what is left of a batch with the sketch o.
func (s sketch) remnantOf(o sketch) bool {
	if len(s.records) == 0 || s.reach < o.reach {
		return false
	}
	had := make(map[recordMark]bool, len(o.records))
	for _, r := range o.records {
		had[r] = true
	}
	for _, r := range s.records {
		if !had[r] {
			return false
		}
	}
	return true
}

// follow finds out how far the flushes lie in what merged segments hold, of partitions where log compaction
// has thinned batches of plain producers out.
func (a *adoption) follow(ctx context.Context, flushes []flush) error {
	for _, f := range flushes {
		tp := f.entry.TopicPartition
		if len(a.plain[tp]) == 0 {
			continue
		}
		seg := segment.Segment{Size: f.Size}
		b, err := seg.ReadChunk(f.entry, a.plan.reader(ctx, f.Key))
		if unreadable(err) {
			continue // is reported when it would be taken up
		} else if err != nil {
			return fmt.Errorf("reading %s: %w", f.Key, err)
		}
		for at := f.entry.Position; len(b) > 0; {
			var v batch.View
			if v, b, err = batch.Next(b); err != nil {
				break
			}
			if a.taken[batchMark{tp, v.CRC(), len(v)}] || v.ProducerID() < 0 && a.remains(tp, v) {
				k := chain{f.id.Session, tp}
				if now := (spot{f.id.Seq, at}); now.compare(a.followed[k]) > 0 {
					a.followed[k] = now
				}
			}
			at += tiering.Position(len(v))
		}
	}
	return nil
}

// remains reports whether a merged segment holds what is left of a batch.
func (a *adoption) remains(tp tiering.TopicPartition, v batch.View) bool {
	of := sketchOf(v)
	for _, s := range a.plain[tp] {
		if s.remnantOf(of) {
			return true
		}
	}
	return false
}

// followedBy reports whether the batch at a position of a flush is known to lie before the end of what merged
// segments hold.
func (a *adoption) followedBy(f flush, at tiering.Position) bool {
	last, ok := a.followed[chain{f.id.Session, f.entry.TopicPartition}]
	return ok && spot{f.id.Seq, at}.compare(last) <= 0
}
