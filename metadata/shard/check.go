package shard

import (
	"errors"
	"fmt"
	"math"

	"github.com/floelog/floe/tiering"
)

// Check reports, as ErrCorrupt, why r cannot be the next record. A leader checks what it
// drafted before it writes it down: a record in the journal that no agent can read or
// apply would stop the shard for good. What passes reads back as it was encoded.
func (s *State) Check(r Record) error {
	if err := s.check(r); err != nil {
		return fmt.Errorf("%w: journal record %d: %w", ErrCorrupt, r.Seq, err)
	}
	return nil
}

func (s *State) check(r Record) error {
	if r.Seq != s.Seq+1 {
		return fmt.Errorf("follows record %d", s.Seq)
	}
	if r.Epoch < s.Epoch {
		return fmt.Errorf("epoch %d after epoch %d", r.Epoch, s.Epoch)
	}
	c := checker{state: s, before: math.MinInt64}
	for _, change := range r.Changes {
		if err := c.change(change); err != nil {
			return err
		}
	}
	return nil
}

// checker follows where partitions end while the changes of one record are gone through:
// several appends to one partition must continue each other.
type checker struct {
	state   *State
	next    map[tiering.TopicPartition]tiering.Offset // of partitions that the record appends to
	dropped map[tiering.TopicID]bool

	producers map[groupProducerKey]groupProducerNumbers // that the record has to do with
	gone      map[string]bool                           // groups that the record drops
	before    int64                                     // producers that were silent since are expired
}

func (c *checker) change(change Change) error {
	switch x := change.(type) {
	case Append:
		if err := c.append(x); err != nil {
			return fmt.Errorf("append to %s: %w", x.Partition, err)
		}
	case Submitted:
		for _, o := range x.Outcomes {
			if o.Code < 0 {
				return fmt.Errorf("outcome code %d", o.Code)
			}
		}
	case Replace:
		if err := x.check(); err != nil {
			return fmt.Errorf("replacement in %s: %w", x.Partition, err)
		}
		return named(x.Partition)
	case Archive:
		if err := x.Manifest.check(); err != nil {
			return fmt.Errorf("manifest of %s: %w", x.Partition, err)
		}
		return named(x.Partition)
	case Trim:
		if x.LogStart < 0 {
			return fmt.Errorf("trim of %s to offset %d", x.Partition, x.LogStart)
		}
		return named(x.Partition)
	case DropTopic:
		c.drop(x.Topic)
	case ForgetSession:
	case ExpireProducers:
		c.expire(x.Before)
	default:
		return c.coordinated(change)
	}
	return nil
}

func named(tp tiering.TopicPartition) error {
	if tp.Partition < 0 {
		return fmt.Errorf("partition %d", tp.Partition)
	}
	return nil
}

func (c *checker) drop(id tiering.TopicID) {
	if c.dropped == nil {
		c.dropped = map[tiering.TopicID]bool{}
	}
	c.dropped[id] = true
	for tp := range c.next {
		if tp.Topic == id {
			delete(c.next, tp)
		}
	}
}

// follows demands that an append at base begins where the partition ends.
func (c *checker) follows(tp tiering.TopicPartition, base tiering.Offset) error {
	next, seen := c.next[tp]
	if !seen && !c.dropped[tp.Topic] {
		next = c.state.Partition(tp).Next
	}
	if base != next {
		return fmt.Errorf("at offset %d, but the log ends at %d", base, next)
	}
	return named(tp)
}

func (c *checker) moved(tp tiering.TopicPartition, next tiering.Offset) {
	if c.next == nil {
		c.next = map[tiering.TopicPartition]tiering.Offset{}
	}
	c.next[tp] = next
}

func (c *checker) append(a Append) error {
	if err := c.follows(a.Partition, a.Base); err != nil {
		return err
	}
	if len(a.Extents) == 0 {
		return errors.New("of nothing")
	}
	next := a.Base
	for _, e := range a.Extents {
		if err := sound(e, next); err != nil {
			return err
		}
		next += tiering.Offset(e.Count)
	}
	for _, p := range a.Producers {
		if p.ProducerID < 0 || p.ProducerEpoch < 0 || p.FirstSeq < 0 || p.LastSeq < 0 || p.Transaction < 0 || p.Base < a.Base || p.Base >= next {
			return fmt.Errorf("impossible batch %+v of a producer", p)
		}
	}
	c.moved(a.Partition, next)
	return nil
}

// check demands what Apply and the encoding rely on.
func (r Replace) check() error {
	if len(r.With) == 0 {
		return errors.New("by nothing")
	}
	next := r.With[0].Base
	for _, e := range r.With {
		if err := whole(e, next); err != nil {
			return err
		}
		if e.Base != next {
			return fmt.Errorf("extent at offset %d, the one before ends at %d", e.Base, next)
		}
		next = e.End()
	}
	if r.Cleaned < 0 || r.Cleaned > next {
		return fmt.Errorf("cleaned up to offset %d, it ends at %d", r.Cleaned, next)
	}
	for i, at := range r.Unmarked {
		if at < r.Base() || at >= next || i > 0 && at <= r.Unmarked[i-1] {
			return fmt.Errorf("marker at offset %d", at)
		}
	}
	for i, a := range r.Aborted {
		if a.ProducerID < 0 || a.First < 0 || a.First >= a.Last || a.Last < r.Base() || a.Last >= next || i > 0 && a.Last <= r.Aborted[i-1].Last {
			return fmt.Errorf("impossible aborted transaction %+v", a)
		}
	}
	return nil
}

func (m Manifest) check() error {
	if m.Base < 0 || m.Count < 1 || m.Count > math.MaxInt64-int64(m.Base) || m.Bytes < 0 || m.Size < 1 || m.Object.Session.IsZero() {
		return fmt.Errorf("impossible manifest %+v", m)
	}
	return nil
}

// whole is sound for an extent that may be a hole.
func whole(e tiering.Extent, base tiering.Offset) error {
	if !e.IsHole() {
		return sound(e, base)
	}
	if base < 0 || e.Count < 1 || e.Count > math.MaxInt64-int64(base) || e.Position != 0 || !e.Segment.IsZero() || len(e.Inline) > 0 || e.MaxTimestamp != tiering.NoTimestamp {
		return fmt.Errorf("impossible hole at offset %d: %+v", base, e)
	}
	return nil
}

// sound demands that an extent at base is what its encoding can say.
func sound(e tiering.Extent, base tiering.Offset) error {
	if base < 0 || e.Count < 1 || e.Count > math.MaxInt64-int64(base) {
		return fmt.Errorf("extent of %d records at offset %d", e.Count, base)
	}
	if e.Length < 1 || e.Position < 0 || int64(e.Position) > math.MaxInt64-int64(e.Length) {
		return fmt.Errorf("extent of %d bytes at position %d", e.Length, e.Position)
	}
	if !e.IsInline() && (e.Segment.Session.IsZero() || len(e.Inline) > 0) {
		return fmt.Errorf("extent of segment %s with %d bytes inline", e.Segment, len(e.Inline))
	}
	if e.IsInline() && (len(e.Inline) != int(e.Length) || e.Position != 0) {
		return fmt.Errorf("inline extent of %d bytes carries %d, at position %d", e.Length, len(e.Inline), e.Position)
	}
	return nil
}
