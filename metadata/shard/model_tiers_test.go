package shard_test

import (
	"bytes"
	"encoding/binary"
	"maps"
	"slices"

	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// piece is a manifest or, where that has no count, an extent.
type piece struct {
	manifest shard.Manifest
	extent   tiering.Extent
}

func (x piece) base() int64 {
	if x.manifest.Count > 0 {
		return int64(x.manifest.Base)
	}
	return int64(x.extent.Base)
}

func (x piece) end() int64 {
	if x.manifest.Count > 0 {
		return int64(x.manifest.End())
	}
	return int64(x.extent.End())
}

func (x piece) same(o piece) bool {
	a, b := x.extent, o.extent
	return x.manifest == o.manifest && a.Base == b.Base && a.Count == b.Count && a.MaxTimestamp == b.MaxTimestamp &&
		a.Length == b.Length && a.Segment == b.Segment && a.Position == b.Position && bytes.Equal(a.Inline, b.Inline)
}

func layoutOf(s *shard.Partition) (out []piece) {
	for _, m := range s.Manifests {
		out = append(out, piece{manifest: m})
	}
	for _, e := range s.Extents {
		out = append(out, piece{extent: e})
	}
	return out
}

// made is what a job has made of the pieces that it read.
type made struct {
	tp       tiering.TopicPartition
	change   shard.Change
	read     []piece
	with     []piece
	removed  []int64 // offsets of the batches that are cleaned away
	cleaned  int64
	unmarked []tiering.Offset
	aborted  []shard.AbortedTransaction // an Archive's, or those that a Replace brings back
	fresh    bool                       // read from the state itself, not from what this record makes of it
	anything bool                       // a replacement of version 2
	futile   bool                       // never to have an effect
	what     []string
}

// found is a batch where a reader finds it.
type found struct {
	storedBatch
	at int64
}

// batchesOf reads an extent back, as a fetch would.
func (p *play) batchesOf(e tiering.Extent) (out []found) {
	at := int64(e.Base)
	for pos := tiering.Position(0); pos < tiering.Position(e.Length); {
		b := p.model.stored[e.Segment][e.Position+pos]
		if e.IsInline() {
			b.number = binary.BigEndian.Uint32(e.Inline[pos:])
			b.length = p.model.batches[b.number].Length
			b.span = int64(p.model.batches[b.number].Count)
		}
		if b.length == 0 {
			p.t.Fatalf("no batch begins at byte %d of extent %+v", pos, e)
		}
		out = append(out, found{b, at})
		pos += tiering.Position(b.length)
		at += b.span
	}
	if !e.IsHole() && at != int64(e.End()) {
		p.t.Fatalf("extent %+v: its batches end at %d", e, at)
	}
	return out
}

// extentsOf opens manifests.
func (p *play) extentsOf(pieces []piece) (out []tiering.Extent) {
	for _, x := range pieces {
		if x.manifest.Count > 0 {
			out = append(out, p.model.manifests[x.manifest.Object]...)
		} else {
			out = append(out, x.extent)
		}
	}
	return out
}

// rearrange adds what a job does to a partition, or one that comes late, and does it in the
// reference.
func (p *play) rearrange(d *shard.Draft, tp tiering.TopicPartition) {
	var m made
	if n := len(p.late); n > 0 && p.rnd.IntN(4) == 0 {
		m = p.late[p.rnd.IntN(n)]
		m.what = append(slices.Clone(m.what), "late")
	} else {
		if m = p.job(tp); m.change == nil {
			return
		}
		if !m.anything && p.rnd.IntN(3) == 0 {
			if p.late = append(p.late, m); p.rnd.IntN(2) == 0 {
				return
			}
		}
	}
	d.Add(m.change)
	p.model.rearrange(m, p.seen)
	p.late = p.late[max(0, len(p.late)-20):]
}

// rearrange takes what a job has made, if the partition still has the very pieces that it read.
func (m *reference) rearrange(x made, seen map[string]int) {
	late := slices.Contains(x.what, "late")
	p := m.partitions[x.tp]
	if p == nil {
		return
	}
	i := slices.IndexFunc(p.layout, func(o piece) bool { return o.base() == x.read[0].base() })
	j := i + len(x.read)
	_, archive := x.change.(shard.Archive)
	from, to := tiering.Offset(x.read[0].base()), tiering.Offset(x.read[len(x.read)-1].end())
	switch {
	case x.futile:
		return
	case i < 0 || j > len(p.layout) || !slices.EqualFunc(p.layout[i:j], x.read, piece.same):
		if late {
			seen["late"]++
		}
		return
	case j < len(p.layout) && p.layout[j].manifest.Count > 0:
		seen["manifest in the middle stays"]++
		return
	case archive && i > 0 && p.layout[i-1].manifest.Count == 0:
		return
	case archive && p.firstOpen() < to:
		seen["no archive of what is open"]++
		return
	case archive && !slices.Equal(x.aborted, p.abortedIn(from, to)):
		seen["no archive with other aborted transactions"]++
		return
	}
	if archive && len(x.aborted) > 0 {
		seen["archived with aborted transactions"]++
		if last := x.aborted[len(x.aborted)-1]; last.Last >= to {
			seen["an aborted transaction across manifests"]++
		}
	}
	if x.read[0].manifest.Count > 0 && len(x.aborted) > 0 {
		seen["aborted transactions brought back"]++
	}
	for _, what := range x.what {
		if seen[what]++; what == "late" {
			seen["late"]--
			seen["late but the same"]++
		}
	}
	p.layout = slices.Concat(p.layout[:i], x.with, p.layout[j:])
	for _, at := range x.removed {
		delete(p.at, at)
	}
	p.cleaned = max(p.cleaned, x.cleaned)
	for _, t := range p.txns {
		if t.aborted && slices.Contains(x.unmarked, tiering.Offset(t.last)) && !t.unmarked {
			t.unmarked = true
			seen["unmarked"]++
		}
	}
}

// firstOpen returns where the first transaction that is open begins.
func (p *refPartition) firstOpen() tiering.Offset {
	at := tiering.Offset(p.next)
	for _, t := range p.txns {
		if t.last < 0 {
			at = min(at, tiering.Offset(t.first))
		}
	}
	return at
}

// abortedIn returns the aborted transactions with an offset of [from, to) that readers are told of.
func (p *refPartition) abortedIn(from, to tiering.Offset) (out []shard.AbortedTransaction) {
	for _, t := range p.txns {
		a := shard.AbortedTransaction{ProducerID: t.id, First: tiering.Offset(t.first), Last: tiering.Offset(t.last)}
		if t.last >= max(0, p.start) && t.aborted && !t.unmarked && a.Last >= from && a.First < to {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, func(a, b shard.AbortedTransaction) int { return int(a.Last - b.Last) })
	return out
}

// job reads some neighbouring pieces and makes something of them.
func (p *play) job(tp tiering.TopicPartition) made {
	m := p.model.partitions[tp]
	if m == nil || len(m.layout) == 0 {
		return made{}
	}
	layout := m.layout
	i := p.rnd.IntN(len(layout))
	if p.rnd.IntN(2) == 0 {
		i = 0
		for i < len(layout)-1 && layout[i].manifest.Count > 0 {
			i++
		}
		if p.rnd.IntN(2) == 0 {
			i = max(0, i-1-p.rnd.IntN(2)) // the last manifest, or the one before it
		}
	}
	if len(layout) > 1 && layout[1].manifest.Count > 0 && p.rnd.IntN(3) == 0 {
		i = 0 // not the last manifest
	}
	x := made{tp: tp, read: slices.Clone(layout[i:min(len(layout), i+1+p.rnd.IntN(3))])}
	if j := slices.IndexFunc(x.read, func(o piece) bool { return o.extent.IsInline() }); j > 0 && p.rnd.IntN(2) == 0 {
		x.read = x.read[:j] // may be archived
	}
	manifests := slices.ContainsFunc(x.read, func(o piece) bool { return o.manifest.Count > 0 })
	digest, ok := digestOf(x.read), true
	if state := p.state.Partition(tp); slices.EqualFunc(layout, layoutOf(state), piece.same) {
		x.fresh = true
		digest, ok = state.Digest(tiering.Offset(x.read[0].base()), tiering.Offset(x.read[len(x.read)-1].end()))
		if want := digestOf(x.read); !ok || want != 0 && want != digest {
			p.t.Fatalf("%s: digest of %+v is %x, %v, want %x", tp, x.read, digest, ok, want)
		}
	}
	if digest == 0 { // of manifests that are not in the state yet
		return made{}
	}
	switch roll := p.rnd.IntN(8); {
	case manifests && roll < 3:
		p.unarchive(&x, digest)
	case !manifests && roll < 3:
		p.archive(&x)
	case roll < 6:
		p.clean(&x, digest)
	default:
		p.merge(&x, digest)
	}
	return x
}

// digestOf is what jobs that hold extents only work out for themselves; 0 for manifests.
func digestOf(pieces []piece) uint64 {
	var extents []tiering.Extent
	for _, x := range pieces {
		if x.manifest.Count > 0 {
			return 0
		}
		extents = append(extents, x.extent)
	}
	return shard.DigestOf(extents)
}

func (p *play) newSegment() tiering.SegmentID {
	p.segSeq++
	id := tiering.SegmentID{Session: tiering.SessionID{8}, Seq: p.segSeq}
	p.model.stored[id] = map[tiering.Position]storedBatch{}
	return id
}

// archive moves extents into a manifest; some that must not be.
func (p *play) archive(x *made) {
	extents := p.extentsOf(x.read)
	m := shard.ManifestOf(p.newSegment(), 100, extents)
	p.model.manifests[m.Object] = extents
	x.aborted = p.model.partitions[x.tp].abortedIn(m.Base, m.End())
	if len(x.aborted) > 0 && p.rnd.IntN(6) == 0 {
		x.aborted = x.aborted[1:] // right, once the log start has passed that one
	}
	p.model.aborted[m.Object] = x.aborted
	digest := shard.ArchiveDigest(extents, x.aborted)
	x.with, x.what = []piece{{manifest: m}}, []string{"archived"}
	if slices.ContainsFunc(extents, tiering.Extent.IsInline) {
		x.futile = true
		p.seen["no archive of inline batches"]++
	}
	switch p.rnd.IntN(10) {
	case 0:
		m.Bytes++
		x.futile = true
	case 1:
		m.MaxTimestamp--
		x.futile = true
	case 2:
		digest++
		x.futile = true
	}
	x.change = shard.Archive{Partition: x.tp, Of: digest, Manifest: m}
}

// unarchive brings the extents of manifests back.
func (p *play) unarchive(x *made, digest uint64) {
	x.what = []string{"unarchived"}
	p.replaceBy(x, digest, p.extentsOf(x.read))
}

func (p *play) replaceBy(x *made, digest uint64, with []tiering.Extent) {
	for _, e := range with {
		x.with = append(x.with, piece{extent: e})
	}
	switch p.rnd.IntN(12) {
	case 0:
		digest++
		x.futile = true
	case 1: // there is no such run
		with = slices.Clone(with)
		with[len(with)-1].Count += 1 << 40
		x.futile = true
	}
	x.aborted = p.abortedOf(x.read)
	x.change = shard.Replace{Partition: x.tp, Of: digest, With: with, Cleaned: tiering.Offset(x.cleaned), Unmarked: x.unmarked, Aborted: x.aborted}
}

// abortedOf returns the aborted transactions whose markers lie in manifests.
func (p *play) abortedOf(pieces []piece) (out []shard.AbortedTransaction) {
	for _, x := range pieces {
		for _, a := range p.model.aborted[x.manifest.Object] {
			if a.Last >= x.manifest.Base && a.Last < x.manifest.End() {
				out = append(out, a)
			}
		}
	}
	return out
}

// merge puts all batches side by side, in a segment or inline.
func (p *play) merge(x *made, digest uint64) {
	extents := p.extentsOf(x.read)
	with := tiering.Extent{Base: extents[0].Base, MaxTimestamp: tiering.NoTimestamp}
	inline := !slices.ContainsFunc(extents, func(e tiering.Extent) bool { return !e.IsInline() }) && p.rnd.IntN(2) == 0
	if !inline {
		with.Segment, with.Position = p.newSegment(), 64
	}
	for i, e := range extents {
		if e.IsHole() { // is not in the bytes: cleaning is what closes holes
			return
		}
		for _, b := range p.batchesOf(e) {
			p.put(&with, b.storedBatch)
		}
		with.Inline = append(with.Inline, e.Inline...)
		if e.Epoch != extents[0].Epoch {
			x.what = []string{"across epochs"}
		}
		if with.Count += e.Count; i == 0 || with.MaxTimestamp < e.MaxTimestamp {
			with.MaxTimestamp = e.MaxTimestamp
		}
	}
	if !inline {
		with.Inline = nil
		x.what = append(x.what, "merged")
	} else {
		x.what = append(x.what, "inline by inline")
	}
	p.replaceBy(x, digest, []tiering.Extent{with})
	// What version 2 wrote takes the place of whatever is there: it must not come late.
	if r := x.change.(shard.Replace); x.fresh && !x.futile && len(x.what) == 1 && digestOf(x.read) != 0 && p.rnd.IntN(3) == 0 {
		r.Of = 0
		x.change, x.what, x.anything = r, append(x.what, "of anything"), true
	}
}

// put stores a batch at the end of an extent.
func (p *play) put(e *tiering.Extent, b storedBatch) {
	if !e.Segment.IsZero() {
		p.model.stored[e.Segment][e.Position+tiering.Position(e.Length)] = b
	}
	e.Length += b.length
}

// clean keeps some of the batches.
func (p *play) clean(x *made, digest uint64) {
	from, end := x.read[0].base(), x.read[len(x.read)-1].end()
	var kept []found
	keep := p.rnd.IntN(4)
	for _, e := range p.extentsOf(x.read) {
		for _, b := range p.batchesOf(e) {
			if p.rnd.IntN(3) < keep {
				kept = append(kept, b)
				continue
			}
			x.removed = append(x.removed, b.at)
			if b.number == 0 || p.rnd.IntN(8) == 0 {
				x.unmarked = append(x.unmarked, tiering.Offset(b.at))
			}
		}
	}
	var with []tiering.Extent
	hole := func(from, to int64) {
		with = append(with, tiering.Extent{Base: tiering.Offset(from), Count: to - from, MaxTimestamp: tiering.NoTimestamp})
	}
	segment, at, open := p.newSegment(), from, false
	for i, b := range kept {
		next := end
		if i+1 < len(kept) {
			next = kept[i+1].at
		}
		if at < b.at {
			hole(at, b.at)
			open = false
		}
		at = b.at + b.span
		if p.rnd.IntN(2) == 0 {
			at = next // it reaches over the hole behind it
		}
		if !open {
			with = append(with, tiering.Extent{Base: tiering.Offset(b.at), Segment: segment, Position: tiering.Position(1000 * i), MaxTimestamp: -1 << 40})
		}
		e := &with[len(with)-1]
		p.put(e, storedBatch{b.number, b.length, at - b.at})
		e.Count += at - b.at
		e.MaxTimestamp = max(e.MaxTimestamp, p.model.batches[b.number].MaxTimestamp)
		open = p.rnd.IntN(3) > 0
	}
	x.what = []string{"cleaned"}
	if at < end {
		hole(at, end)
		x.what = append(x.what, "hole at the end")
	}
	if x.cleaned = end; x.read[0].manifest.Count > 0 {
		x.what = append(x.what, "manifest cleaned")
	}
	p.replaceBy(x, digest, with)
}

// compare holds the state to the reference: nothing that a job did may be seen in what a
// reader finds, but that what is cleaned is gone.
func (p *play) compare() {
	var inline int64
	runs := 0
	if got, want := len(p.state.Partitions()), len(p.model.partitions); got != want {
		p.t.Fatalf("%d partitions, want %d", got, want)
	}
	segments, manifests := map[tiering.SegmentID]bool{}, map[tiering.SegmentID]bool{}
	for tp, m := range p.model.partitions {
		s := p.state.Partition(tp)
		if int64(s.Next) != m.next || int64(s.LogStart) != m.start || s.Producers() != len(m.producers) || int64(s.Cleaned) != m.cleaned {
			p.t.Fatalf("%s: next %d start %d cleaned %d producers %d, want %d %d %d %d", tp, s.Next, s.LogStart, s.Cleaned, s.Producers(), m.next, m.start, m.cleaned, len(m.producers))
		}
		layout := layoutOf(s)
		if n := len(m.layout); n > len(layout) || !slices.EqualFunc(m.layout, layout[:n], piece.same) {
			p.t.Fatalf("%s: consists of\n%+v, want it to begin with\n%+v", tp, layout, m.layout)
		}
		m.layout = layout
		p.compareBatches(tp, s, m)
		total := int64(0)
		for _, x := range layout {
			total += x.manifest.Bytes + int64(x.extent.Length)
			switch e := x.extent; {
			case x.manifest.Count > 0:
				manifests[x.manifest.Object] = true
			case e.IsInline():
				inline += int64(len(e.Inline))
				runs++
			case e.IsHole():
				p.seen["hole"]++
			default:
				segments[e.Segment] = true
			}
		}
		if got := s.Bytes(); got != total {
			p.t.Fatalf("%s: %d bytes, want %d", tp, got, total)
		}
		for epoch, start := range m.epochs {
			if got := shard.EpochAt(s.Epochs, tiering.Offset(start)); start >= m.start && start < int64(s.Next) && got != epoch {
				p.t.Fatalf("%s: offset %d is of epoch %d, but epoch %d begins there", tp, start, got, epoch)
			}
		}
	}
	if inline != p.state.InlineBytes() || runs != p.state.InlineExtents() {
		p.t.Fatalf("inline: counted %d bytes in %d, want %d in %d", p.state.InlineBytes(), p.state.InlineExtents(), inline, runs)
	}
	gotSegments, gotManifests := map[tiering.SegmentID]bool{}, map[tiering.SegmentID]bool{}
	p.state.Objects(func(id tiering.SegmentID) { gotSegments[id] = true }, func(id tiering.SegmentID) { gotManifests[id] = true })
	if !maps.Equal(gotSegments, segments) || !maps.Equal(gotManifests, manifests) {
		p.t.Fatalf("the state names segments %v and manifests %v, want %v and %v", gotSegments, gotManifests, segments, manifests)
	}
}

// compareBatches reads a whole partition.
func (p *play) compareBatches(tp tiering.TopicPartition, s *shard.Partition, m *refPartition) {
	at := m.next
	if len(m.layout) > 0 {
		at = m.layout[0].base()
	}
	if at > m.start {
		p.t.Fatalf("%s: reads begin at %d, the log at %d", tp, at, m.start)
	}
	want := maps.Clone(m.at)
	maps.DeleteFunc(want, func(offset int64, _ uint32) bool { return offset < at })
	for _, e := range p.extentsOf(m.layout) {
		if int64(e.Base) != at {
			p.t.Fatalf("%s: extent at %d, want %d", tp, e.Base, at)
		}
		for _, b := range p.batchesOf(e) {
			if number, ok := want[b.at]; !ok || number != b.number {
				p.t.Fatalf("%s: offset %d holds batch %d, want %d", tp, b.at, b.number, number)
			}
			delete(want, b.at)
			if got, want := shard.EpochAt(s.Epochs, tiering.Offset(b.at)), m.epochAt(b.at); b.at >= m.start && got != want {
				p.t.Fatalf("%s: offset %d is of epoch %d, want %d", tp, b.at, got, want)
			}
		}
		at = int64(e.End())
	}
	if at != m.next || len(want) > 0 {
		p.t.Fatalf("%s: extents end at %d, want %d; batches not found: %v", tp, at, m.next, want)
	}
	for _, e := range s.Extents {
		if want := m.epochAt(int64(e.Base)); int64(e.Base) >= m.start && e.Epoch != want {
			p.t.Fatalf("%s: extent at %d is of epoch %d, want %d", tp, e.Base, e.Epoch, want)
		}
	}
}

func (m *refPartition) epochAt(at int64) tiering.LeaderEpoch {
	epoch := tiering.LeaderEpoch(-1)
	for e, start := range m.epochs {
		if start <= at {
			epoch = max(epoch, e)
		}
	}
	return epoch
}
