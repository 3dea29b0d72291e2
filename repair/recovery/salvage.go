package recovery

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/protocol/batch"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/segment"
)

// Records behind a gap, before which others are lost, are taken change by change: an append says at which
// offset it began, so what it names keeps its offsets, and what was lost before it becomes a hole. What a
// change relies on may be among what is lost; then it is left out, and counted.

// partOf is a partition's part of a segment.
type partOf struct {
	segment   tiering.SegmentID
	partition tiering.TopicPartition
}

// beyond returns the records that are known behind the first gap, ascending: of several with one number that
// of the highest epoch, and none of a history that a higher epoch has left behind.
func (s *rebuilt) beyond() []shard.Record {
	var out []shard.Record
	epoch := s.report.Epoch
	for _, seq := range slices.Sorted(maps.Keys(s.records)) {
		if seq <= s.report.Seq {
			continue
		}
		all := s.records[seq]
		r := slices.MaxFunc(all, func(a, b offered) int { return int(a.record.Epoch) - int(b.record.Epoch) }).record
		if len(all) > 1 {
			s.report.Forks++
		}
		if r.Epoch >= epoch {
			out, epoch = append(out, r), r.Epoch
		}
	}
	return out
}

// topicsBeyond calls f for each partition that records behind the first gap append to, unless they drop
// its topic as well.
func (s *rebuilt) topicsBeyond(f func(tiering.TopicPartition)) {
	dropped, found := map[tiering.TopicID]bool{}, map[tiering.TopicPartition]bool{}
	for _, r := range s.behind {
		for _, c := range r.Changes {
			switch c := c.(type) {
			case shard.Append:
				found[c.Partition] = true
			case shard.DropTopic:
				dropped[c.Topic] = true
			}
		}
	}
	for tp := range found {
		if !dropped[tp.Topic] {
			f(tp)
		}
	}
}

// salvage takes up what the records behind gaps say. Flushes are the chunks that no applied record names.
func (a *adoption) salvage(ctx context.Context, s *rebuilt, flushes []flush) error {
	v := salvaging{adoption: a, s: s, flushes: flushes, sequenced: map[tiering.SessionID]uint64{}}
	for _, r := range s.behind {
		for _, c := range r.Changes {
			if x, ok := c.(shard.Append); ok {
				for _, e := range x.Extents {
					s.placed[partOf{e.Segment, x.Partition}] = true
				}
			}
		}
	}
	for _, r := range s.behind {
		whole := true
		named(r, func(id tiering.SegmentID) { v.sequenced[id.Session] = max(v.sequenced[id.Session], id.Seq) })
		for _, c := range r.Changes {
			took, err := v.change(ctx, r, c)
			if err != nil {
				return err
			}
			whole = whole && took
		}
		s.report.LastTime = max(s.report.LastTime, r.Time)
		if whole {
			s.report.Salvaged++
		} else {
			s.report.Unapplied++
		}
	}
	return nil
}

// salvaging is the way through the records behind a shard's gaps.
type salvaging struct {
	*adoption
	s       *rebuilt
	flushes []flush
	// sequenced is, for each session, the greatest number of a flush of its that the records so far name: what it
	// flushed before and no record names was decided in one that is lost.
	sequenced map[tiering.SessionID]uint64
}

// change takes one change, if what it relies on is known.
func (v *salvaging) change(ctx context.Context, r shard.Record, c shard.Change) (took bool, err error) {
	switch c := c.(type) {
	case shard.Submitted, shard.ForgetSession:
		return true, nil // every session is dead
	case shard.PutRows:
		if c.Space == shard.Groups {
			// Rows of a membership that are lost would belong to these. Members join again.
			v.s.report.Memberships++
			return false, nil
		}
	case shard.Append:
		if err := v.reach(ctx, r, c.Partition, c.Base); err != nil {
			return false, err
		}
		next := v.s.state.Partition(c.Partition).Next
		for len(c.Extents) > 0 && c.Extents[0].End() <= next { // a merged segment has proved it
			c.Extents = c.Extents[1:]
		}
		if len(c.Extents) == 0 {
			return true, nil
		}
		if c.Extents[0].Base < next { // or a part of it has been proved
			c.Extents = slices.Clone(c.Extents)
			if c.Extents[0], err = v.from(ctx, c.Extents[0], next); err != nil {
				return false, err
			}
		}
		c.Base = c.Extents[0].Base
		c.Producers = slices.DeleteFunc(slices.Clone(c.Producers), func(p shard.ProducerAppend) bool { return p.Base < c.Base })
		return v.take(r, c), nil
	case shard.Mark:
		err = v.reach(ctx, r, c.Partition, c.Base)
	case shard.Trim:
		err = v.reach(ctx, r, c.Partition, c.LogStart)
	case shard.Replace:
		err = v.reach(ctx, r, c.Partition, c.End())
	case shard.Archive:
		err = v.reach(ctx, r, c.Partition, c.Manifest.End())
	}
	return err == nil && v.take(r, c), err
}

// from returns the part of an extent that begins at an offset; the extent as it is, which cannot be taken, if no
// batch of it begins there or it cannot be read.
func (v *salvaging) from(ctx context.Context, e tiering.Extent, at tiering.Offset) (tiering.Extent, error) {
	b := e.Inline
	if !e.IsInline() {
		var err error
		b, err = v.plan.cfg.Objects.GetRange(ctx, e.Segment.Key(), int64(e.Position), int64(e.Length))
		if unreadable(err) {
			return e, nil
		} else if err != nil {
			return e, fmt.Errorf("reading %s: %w", e.Segment.Key(), err)
		}
	}
	out, rest := e, b
	for out.Base < at {
		x, after, err := batch.Next(rest)
		if err != nil {
			return e, nil //nolint:nilerr // what cannot be read is not taken
		}
		n := int64(x.LastOffsetDelta()) + 1
		out.Base, out.Count, rest = out.Base+tiering.Offset(n), out.Count-n, after
	}
	if out.Base != at || out.Count <= 0 {
		return e, nil
	}
	passed := len(b) - len(rest)
	out.Length -= int32(passed)
	if e.IsInline() {
		out.Inline = slices.Clone(rest)
	} else {
		out.Position += tiering.Position(passed)
	}
	return out, nil
}

// take applies a change on its own.
func (v *salvaging) take(r shard.Record, c shard.Change) bool {
	state := v.s.state
	x := shard.Record{Seq: state.Seq + 1, Epoch: max(r.Epoch, state.Epoch), Leader: r.Leader, Nonce: r.Nonce, Time: r.Time, Changes: []shard.Change{c}}
	if err := state.Apply(x); err != nil {
		v.s.problem("a part of record %d, behind a gap, cannot be applied: %v", r.Seq, err)
		return false
	}
	return true
}

// reach makes a partition continue at an offset that a record proves to have been reached: by flushes that
// fill the gap exactly, or else by what merged segments prove, with holes between.
func (v *salvaging) reach(ctx context.Context, r shard.Record, tp tiering.TopicPartition, to tiering.Offset) error {
	if to <= v.s.state.Partition(tp).Next {
		return nil
	}
	if filled, err := v.fill(ctx, r, tp, to); filled || err != nil {
		return err
	}
	for {
		if err := v.merged(ctx, v.s); err != nil {
			return err
		}
		from := v.s.state.Partition(tp).Next
		if from >= to {
			return nil
		}
		end := v.proven(v.s, tp, to)
		v.s.state.Skip(tp, end, max(r.Epoch, v.s.state.Epoch))
		v.s.report.Holes = append(v.s.report.Holes, Adopted{Topic: v.name(tp.Topic), Partition: tp.Partition, From: from, To: end})
	}
}

func (a *adoption) name(id tiering.TopicID) string {
	if t := a.topics[id]; t != nil {
		return t.Name
	}
	return id.String()
}

// fill takes up the flushes that must have been decided in the gap, if their batches are of one session, whose
// order is known, and take exactly the offsets that are missing.
func (v *salvaging) fill(ctx context.Context, r shard.Record, tp tiering.TopicPartition, to tiering.Offset) (bool, error) {
	var lost []flush
	for _, f := range v.flushes {
		if f.entry.TopicPartition == tp && f.id.Seq < v.sequenced[f.id.Session] && !v.s.placed[partOf{f.id, tp}] {
			lost = append(lost, f)
		}
	}
	for i := range lost {
		if lost[i].id.Session != lost[0].id.Session {
			return false, nil
		}
	}
	var parts []shard.Part
	for _, f := range lost {
		ps, complete, err := v.plain(ctx, f)
		if err != nil || !complete {
			return false, err
		}
		parts = append(parts, ps...)
	}
	from := v.s.state.Partition(tp).Next
	v.seq++
	d := shard.NewDraft(v.s.state, max(r.Epoch, v.s.state.Epoch), v.plan.session, v.seq, r.Time)
	if _, err := d.Submit(&shard.Submission{Session: v.plan.session, Seq: v.seq, Parts: parts}); err != nil || appended(d.Record()) != to-from {
		return false, nil //nolint:nilerr // what cannot be decided does not fill the gap
	}
	if err := v.s.state.Apply(d.Record()); err != nil {
		return false, fmt.Errorf("filling offsets %d to %d of %s: %w", from, to, tp, err)
	}
	for _, f := range lost {
		v.s.placed[partOf{f.id, tp}] = true
	}
	v.s.report.Filled = append(v.s.report.Filled, Adopted{Topic: v.name(tp.Topic), Partition: tp.Partition, From: from, To: to, Object: lost[0].Key})
	return true, nil
}

// appended counts the offsets that a record gives out.
func appended(r shard.Record) (n tiering.Offset) {
	for _, c := range r.Changes {
		if a, ok := c.(shard.Append); ok {
			for _, e := range a.Extents {
				n += tiering.Offset(e.Count)
			}
		}
	}
	return n
}

// plain returns a chunk's batches as a submission names them; false if some are of a transaction, whose end
// may be lost too, or cannot be read.
func (v *salvaging) plain(ctx context.Context, f flush) ([]shard.Part, bool, error) {
	parts, err := v.parts(ctx, v.s, f, &ShardReport{})
	n := 0
	for _, p := range parts {
		for _, b := range p.Batches {
			if b.Transaction > 0 {
				return nil, false, nil
			}
			n++
		}
	}
	return parts, n == int(f.entry.Batches), err
}

// unplaced returns the chunks that the records behind the gaps do not place.
func (s *rebuilt) unplaced(flushes []flush) []flush {
	return slices.DeleteFunc(flushes, func(f flush) bool { return s.placed[partOf{f.id, f.entry.TopicPartition}] })
}

// missing counts the records before those that are known behind gaps.
func (s *rebuilt) missing() (n uint64) {
	at := s.report.Seq
	for _, r := range s.behind {
		n, at = n+r.Seq-at-1, r.Seq
	}
	return n
}

// levels divides chunks into those of flushes and those of merged segments that prove their offsets.
func levels(chunks []flush) (flushes, merged []flush) {
	for _, f := range chunks {
		if f.level == 0 {
			flushes = append(flushes, f)
		} else if f.entry.Base != segment.Unassigned {
			merged = append(merged, f)
		}
	}
	return flushes, merged
}
