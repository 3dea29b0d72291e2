package sim

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/protocol/batch"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/manifest"
)

// placed is a batch and the offset at which its extent has it.
type placed struct {
	base tiering.Offset
	batch.View
}

func (p placed) end() tiering.Offset { return p.base + tiering.Offset(p.LastOffsetDelta()) + 1 }

// cut takes an extent apart. Its bytes must be where it says, whole, and of all its offsets.
func (a *auditor) cut(part *partition, e tiering.Extent) (out []placed) {
	if e.IsHole() {
		if e.MaxTimestamp != tiering.NoTimestamp || !e.Segment.IsZero() {
			a.w.fail("density", part, "the hole at offset %d says %+v", e.Base, e)
		}
		return nil
	}
	data := e.Inline
	if !e.IsInline() {
		var err error
		if data, err = a.w.raw.GetRange(context.Background(), e.Segment.Key(), int64(e.Position), int64(e.Length)); err != nil {
			a.w.fail("objects", part, "extent at offset %d: %v", e.Base, err)
			return nil
		}
	}
	next, latest := e.Base, tiering.NoTimestamp
	for len(data) > 0 {
		v, rest, err := batch.Next(data)
		if err == nil {
			err = v.VerifyCRC()
		}
		if err != nil {
			a.w.fail("objects", part, "extent at offset %d in %s: %v", e.Base, e.Segment, err)
			return nil
		}
		p := placed{next, v}
		out = append(out, p)
		next, latest, data = p.end(), max(latest, v.MaxTimestamp()), rest
	}
	if next != e.End() {
		a.w.fail("density", part, "extent at offset %d in %s holds offsets up to %d, not %d", e.Base, e.Segment, next, e.End())
	}
	if latest != e.MaxTimestamp {
		a.w.fail("timestamps", part, "extent at offset %d in %s says %d, its latest record is of %d", e.Base, e.Segment, e.MaxTimestamp, latest)
	}
	return out
}

// auditedTiers is where a partition's batches lie.
type auditedTiers struct {
	manifests []shard.Manifest
	archived  []tiering.Extent // that manifests list
	extents   []tiering.Extent
}

func (t *auditedTiers) all() []tiering.Extent { return slices.Concat(t.archived, t.extents) }

// listed reads a manifest, which must be as the state says. It is read once.
func (a *auditor) listed(part *partition, m shard.Manifest) []tiering.Extent {
	if extents, ok := a.manifests[m.Object]; ok {
		return extents
	}
	data, err := a.w.raw.GetRange(context.Background(), m.Object.ManifestKey(), 0, int64(m.Size))
	var is manifest.Manifest
	if err == nil {
		is, err = manifest.Decode(data)
	}
	if err != nil {
		a.w.fail("manifests", part, "the manifest of offsets %d to %d: %v", m.Base, m.End(), err)
		return nil
	}
	bytes, latest, next := int64(0), tiering.NoTimestamp, m.Base
	for _, e := range is.Extents {
		if e.Base != next {
			a.w.fail("manifests", part, "manifest %s has an extent at offset %d, %d comes next", m.Object, e.Base, next)
		}
		bytes, latest, next = bytes+int64(e.Length), max(latest, e.MaxTimestamp), e.End()
	}
	if is.ID != m.Object || is.Partition != part.TopicPartition || next != m.End() || bytes != m.Bytes || latest != m.MaxTimestamp {
		a.w.fail("manifests", part, "manifest %s of %s holds %d bytes up to offset %d and time %d; the state says %+v", is.ID, is.Partition, bytes, next, latest, m)
	}
	a.manifests[m.Object] = is.Extents
	return is.Extents
}

// verdict is when a record is judged, and by what was true before it.
type verdict struct {
	revision int64
	time     int64 // the leader's
	stable   tiering.Offset
	start    tiering.Offset // of the log, after it
	replaced bool           // it has a replacement of the partition
	cleaned  tiering.Offset // log compaction had been done up to here before it
}

// moved compares where a partition's batches lay before a record with where they lie after it.
func (a *auditor) moved(s *auditedShard, tp tiering.TopicPartition, v verdict) {
	part, log := a.w.find(tp), a.log(tp)
	p := s.state.Partition(tp)
	before, manifests := log.tiers.all(), len(log.tiers.manifests)
	a.placed(part, log, p)
	after := log.tiers.all()
	next := tiering.Offset(0)
	if len(after) > 0 {
		next = after[0].Base
	}
	for _, e := range after {
		if e.Base != next || e.Count < 1 {
			a.w.fail("density", part, "an extent of %d offsets begins at %d at revision %d, %d comes next", e.Count, e.Base, v.revision, next)
		}
		next = e.End()
	}
	if len(after) > 0 && (after[0].Base > p.LogStart || next != p.Next) || len(after) == 0 && p.LogStart != p.Next {
		a.w.fail("density", part, "extents end at %d at revision %d; the log is %d to %d", next, v.revision, p.LogStart, p.Next)
	}
	var run []tiering.Extent
	end := func() {
		if len(run) > 0 {
			a.swapped(part, log, run, v)
		}
		run = nil
	}
	known := log.marks[len(log.marks)-1].next
	for i := 0; i < len(after) && after[i].Base < known; i++ {
		for len(before) > 0 && before[0].Base < after[i].Base {
			before = before[1:]
		}
		if len(before) > 0 && sameExtent(&before[0], &after[i]) {
			end()
			continue
		}
		run = append(run, after[i])
	}
	end()
	if v.replaced && len(log.tiers.manifests) < manifests {
		a.note("tier unarchived")
	}
}

// placed notes where a partition's batches lie.
func (a *auditor) placed(part *partition, log *auditedLog, p *shard.Partition) {
	t := &log.tiers
	if !slices.Equal(t.manifests, p.Manifests) {
		if len(p.Manifests) > len(t.manifests) {
			a.note("tier manifest")
		}
		t.manifests, t.archived = p.Manifests, nil
		for _, m := range p.Manifests {
			t.archived = append(t.archived, a.listed(part, m)...)
		}
	}
	t.extents = p.Extents
}

func sameExtent(a, b *tiering.Extent) bool {
	return a.Base == b.Base && a.Count == b.Count && a.MaxTimestamp == b.MaxTimestamp && a.Length == b.Length &&
		a.Segment == b.Segment && a.Position == b.Position && slices.Equal(a.Inline, b.Inline)
}

// extentList prints extents shortly.
type extentList []tiering.Extent

func (l extentList) String() string {
	var out []string
	for _, e := range l {
		where := "hole"
		if !e.IsHole() {
			where = fmt.Sprintf("%.6s/%d@%d", e.Segment.Session, e.Segment.Seq, e.Position)
		}
		out = append(out, fmt.Sprintf("%d+%d %s", e.Base, e.Count, where))
	}
	return strings.Join(out, ", ")
}

// swapped judges extents that took the place of others.
func (a *auditor) swapped(part *partition, log *auditedLog, run []tiering.Extent, v verdict) {
	from, to := run[0].Base, run[len(run)-1].End()
	a.w.history.add("auditor", "replaced", part, "%d to %d by %v r%d", from, to, extentList(run), v.revision)
	a.note("tier replaced")
	if part.gone.Load() {
		return // nobody reads it any more, and objects may be gone
	}
	if !v.replaced {
		a.w.fail("manifests", part, "what lies at offsets %d to %d is another extent since revision %d, without being replaced: %+v", from, to, v.revision, run)
		return
	}
	var found []placed
	for _, e := range run {
		if e.IsHole() {
			a.note("tier hole")
		}
		if k, ok := log.find(e.Base); !e.IsHole() && ok && log.batches[k].epoch != e.Epoch && log.batches[k].end() > v.start {
			a.w.fail("stamps", part, "the extent at offset %d is of epoch %d at revision %d, its first batch is of %d", e.Base, e.Epoch, v.revision, log.batches[k].epoch)
		}
		found = append(found, a.cut(part, e)...)
	}
	for _, b := range found {
		a.stamped(part, log, b, v)
	}
	if part.keeps.compact {
		a.compacted(part, log, from, to, found, v)
		return
	}
	i, _ := log.find(from)
	for _, b := range found {
		if i >= len(log.batches) || log.batches[i].digest != digest(b.View) || log.batches[i].base != b.base {
			a.w.fail("one value", part, "the replacement of %d to %d at revision %d holds other bytes at offset %d", from, to, v.revision, b.base)
			return
		}
		i++
	}
	if i == 0 || log.batches[i-1].end() != to {
		a.w.fail("one value", part, "the replacement of %d to %d at revision %d does not hold all of its batches", from, to, v.revision)
	}
}

// stamped demands that a batch that was written again says by itself where it belongs.
func (a *auditor) stamped(part *partition, log *auditedLog, b placed, v verdict) {
	k, ok := log.find(b.base)
	if !ok || b.end() <= v.start {
		return
	}
	if tiering.Offset(b.BaseOffset()) != b.base || tiering.LeaderEpoch(b.LeaderEpoch()) != log.batches[k].epoch {
		a.w.fail("stamps", part, "the batch at offset %d, of epoch %d, is stamped with offset %d and epoch %d at revision %d",
			b.base, log.batches[k].epoch, b.BaseOffset(), b.LeaderEpoch(), v.revision)
	}
}

// compareAborted compares the aborted transactions that agents tell readers of with those
// that were aborted and still have their markers.
func (a *auditor) compareAborted(s *auditedShard, tp tiering.TopicPartition, v *verdict) {
	part, log, p := a.w.find(tp), a.log(tp), s.state.Partition(tp)
	if part.gone.Load() {
		return
	}
	var want, got []shard.AbortedTransaction
	behind := p.LogStart // manifests
	if n := len(p.Manifests); n > 0 {
		behind = max(behind, p.Manifests[n-1].End())
	}
	for _, t := range log.aborts {
		if t.removed == 0 && t.Last >= behind {
			want = append(want, t.AbortedTransaction)
		}
	}
	got = append(got, p.AbortedIn(p.LogStart, p.Next)...)
	if !slices.Equal(want, got) {
		a.w.fail("aborted lists", part, "at revision %d agents tell of %v, aborted are %v", v.revision, got, want)
	}
}

// note counts what jobs did. The caller holds mu.
func (a *auditor) note(what string) { a.did[what]++ }

// trimmed demands that a log start moves only as far as an operator or the topic's policy says.
func (a *auditor) trimmed(s *auditedShard, tp tiering.TopicPartition, from tiering.Offset, v verdict) {
	part, log := a.w.find(tp), a.log(tp)
	p := s.state.Partition(tp)
	to := p.LogStart
	if to == from || part.gone.Load() {
		return
	}
	if to <= tiering.Offset(part.asked.Load()) {
		a.note("tier trimmed by an operator")
		return
	}
	keeps, left := part.keeps, int64(0)
	least := keeps.least.Load()
	bySize := from // what lies before may go because enough is left
	for i := len(log.batches) - 1; i >= 0 && least >= 0; i-- {
		if left += log.batches[i].size; left >= least {
			bySize = log.batches[i].base
			break
		}
	}
	if bySize = max(bySize, tiering.Offset(part.asked.Load())); bySize > from {
		a.note("tier trimmed by size")
	}
	i, _ := log.find(max(from, bySize))
	for ; i < len(log.batches) && log.batches[i].base < to; i++ {
		b := &log.batches[i]
		latest, left := log.left(b)
		if !left {
			continue // its records went before
		}
		if keeps.age < 0 || latest+keeps.age.Milliseconds() >= v.time {
			a.w.fail("retention", part, "the log start went from %d to %d at revision %d; the policy (%v) keeps offset %d, of time %d, at time %d (by size all from %d on)",
				from, to, v.revision, keeps, b.base, latest, v.time, bySize)
			return
		}
		a.note("tier trimmed by age")
	}
}

// tiersOf notes that a record does something to where a partition's batches lie.
func (a *auditor) tiersOf(tiers map[tiering.TopicPartition]*verdict, s *auditedShard, tp tiering.TopicPartition, revision, now int64) *verdict {
	v := tiers[tp]
	if v == nil {
		marks := a.log(tp).marks
		p := s.state.Partition(tp)
		v = &verdict{revision: revision, time: now, stable: marks[len(marks)-1].stable, start: p.LogStart, cleaned: p.Cleaned}
		tiers[tp] = v
	}
	return v
}

// rearranged judges what a record did, beside appending.
func (a *auditor) rearranged(s *auditedShard, tiers map[tiering.TopicPartition]*verdict) {
	for tp, v := range tiers {
		from := v.start
		v.start = s.state.Partition(tp).LogStart
		a.trimmed(s, tp, from, *v)
		a.moved(s, tp, *v)
	}
}

// left returns the time of the latest record of a batch that log compaction has left.
func (l *auditedLog) left(b *committed) (latest int64, some bool) {
	if !l.part.keeps.compact {
		return b.latest, true
	}
	for _, r := range l.records[b.base:b.end()] {
		if r.removed == 0 {
			latest, some = max(latest, r.timestamp), true
		}
	}
	return latest, some
}
