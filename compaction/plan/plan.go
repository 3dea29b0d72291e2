// Package plan says which of a partition's extents should become one, and which should move
// into a manifest. It is pure: it sees extents, and knows neither clocks nor objects.
//
// Extents come in at any rate and of any size. Merging them keeps their number small without
// writing bytes too often:
//
//	large     an extent of a quarter of the target is final: it is never written again
//	full      where small neighbours add up to a target, they become one extent
//	tier      otherwise, Fan small neighbours or more become one, if that is at least Fan/2 times
//	          the greatest of them: so much does a byte's extent grow each time that it is written
//	pressed   where there are still more than Extents of them, the Fan neighbours that have
//	          the fewest bytes become one, whatever they are
//	sparse    what lies on a segment that is mostly dead is written elsewhere, however few and
//	          whatever size it is, so that the segment can go
//
// Neighbours do not cross what may not be merged: inline extents, which the roll-up moves; the
// offset below which log compaction has been done, since what is behind it is not; a run of
// more time than segment.ms, except when pressed.
//
// Invariants:
//  1. Merges ascend and do not overlap; each is of at least two extents and at most the target,
//     but for sparse ones: these may be of one extent. Those of holes alone write no bytes; all
//     others begin with an extent that has batches.
//  2. When nothing is planned, a partition has at most Extents small extents that have a small
//     neighbour, and each may have one hole behind it.
//  3. What Archive moves is nothing that Merges would still merge.
package plan

import (
	"cmp"
	"slices"

	"github.com/floelog/floe/tiering"
)

// Rules bound what is planned.
type Rules struct {
	// Target is the size of merged extents, bytes.
	Target int64
	// Fan is how many extents are worth a merge, at least 2. Smaller: each byte is written more
	// often, log(target)/log(Fan) times. Larger: reading a partition takes more requests.
	Fan int
	// Extents is how many small extents a partition may have. Smaller: bytes are written more
	// often where extents come in unfortunate sizes. Larger: the state of many partitions grows.
	Extents int
	// Manifest is how many extents move into a manifest at a time, at most. Smaller: a partition
	// has more manifests, each named in its state. Larger: a reader of old offsets reads more.
	Manifest int
}

// Defaults of Rules.
const (
	DefaultTarget   = 32 << 20
	DefaultFan      = 12
	DefaultExtents  = 96
	DefaultManifest = 256
)

// Partition is what is known of a partition.
type Partition struct {
	Extents      []tiering.Extent
	Archived     int64          // bytes of what is in manifests already
	Cleaned      tiering.Offset // log compaction has been done below; 0: never
	SegmentBytes int64          // segment.bytes; 0: no limit
	SegmentMs    int64          // segment.ms; 0: no limit

	// Sparse reports whether a segment is mostly dead; nil: none is.
	Sparse func(tiering.SegmentID) bool
}

// Why says why extents are to be merged.
type Why uint8

// The reasons.
const (
	Tier Why = iota
	Full
	Pressed
	Sparse
)

// Merge says that Extents[From:To] should become one.
type Merge struct {
	From, To int
	Bytes    int64
	Why      Why
}

// What retention has trimmed of a manifest stays in the store until it has trimmed all of it. So
// a manifest has at most one byte in manifestShare of its partition's, unless it would have fewer
// than leastManifest extents then. A greater share: partitions take that much more than their
// retention allows. Smaller, or fewer: a partition has more manifests than a state should name.
const (
	manifestShare = 8
	leastManifest = 32
)

// manifest returns how many of the partition's first extents a manifest should have at most.
func (r Rules) manifest(p *Partition) int {
	left := p.Archived
	for i := range p.Extents {
		left += int64(p.Extents[i].Length)
	}
	left /= manifestShare
	n := 0
	for n < r.Manifest && (n < leastManifest || left >= int64(p.Extents[n].Length)) {
		left -= int64(p.Extents[n].Length)
		n++
	}
	return n
}

// Archive returns how many of the partition's first extents should move into a manifest, 0 for
// none. merges is what Merges returned.
func (r Rules) Archive(p *Partition, merges []Merge) int {
	if len(p.Extents) <= r.Manifest+r.Manifest/2 {
		return 0
	}
	n := r.manifest(p)
	most := n
	pl := r.planner(p)
	settled := func(n int) bool {
		e, next := &p.Extents[n-1], &p.Extents[n]
		return int64(e.Length) >= pl.large || int64(next.Length) >= pl.large || next.IsInline()
	}
	for n > most/2 && !settled(n) {
		n-- // what comes may still be merged with the last ones
	}
	if n <= most/2 || len(merges) > 0 && merges[0].From < n {
		return 0
	}
	if slices.ContainsFunc(p.Extents[:n], tiering.Extent.IsInline) {
		return 0
	}
	return n
}

// planner holds what stays the same while a partition is looked through.
type planner struct {
	Rules
	p      *Partition
	size   int64 // most bytes of a merged extent
	large  int64
	growth int64
	units  []unit
}

// unit is an extent and the holes that follow it, which its last batch can cover.
type unit struct {
	from, to int // in Partition.Extents
	bytes    int64
}

// span is a run of small neighbours among the units.
type span struct{ from, to int }

func (s span) len() int { return s.to - s.from }

// Merges returns what should be merged, in order of offsets.
func (r Rules) Merges(p *Partition) []Merge {
	if len(p.Extents) < 2 && p.Sparse == nil {
		return nil
	}
	pl := r.planner(p)
	var out []Merge
	for _, s := range pl.stretches(true) {
		out = pl.full(out, s)
	}
	small := 0
	loose := pl.stretches(false)
	for _, s := range loose {
		if s.len() > 1 {
			small += s.len()
		}
	}
	for _, m := range out {
		small -= m.To - m.From - 1
	}
	if small > r.Extents {
		out = pl.pressed(out, loose, small-r.Extents)
	}
	return pl.holes(pl.sparse(out))
}

func (r Rules) planner(p *Partition) *planner {
	pl := &planner{Rules: r, p: p, size: r.Target, growth: int64(max(2, r.Fan/2))}
	if p.SegmentBytes > 0 {
		pl.size = min(pl.size, p.SegmentBytes)
	}
	pl.large = pl.size / 4
	return pl
}

// stretches returns the runs of small extents that may be merged with each other. They begin
// with an extent that has batches: nothing can cover the holes before.
func (pl *planner) stretches(byTime bool) (out []span) {
	var open *span
	var oldest, newest int64
	for i := range pl.p.Extents {
		e := &pl.p.Extents[i]
		switch {
		case e.IsInline() || int64(e.Length) >= pl.large:
			open = nil
			continue
		case i > 0 && pl.crossesCleaned(i):
			open = nil
		case open != nil && !e.IsHole() && byTime && pl.p.SegmentMs > 0 &&
			max(newest, e.MaxTimestamp)-min(oldest, e.MaxTimestamp) > pl.p.SegmentMs:
			open = nil
		}
		if e.IsHole() {
			if open != nil {
				pl.units[len(pl.units)-1].to++
			}
			continue
		}
		if open == nil {
			out = append(out, span{len(pl.units), len(pl.units)})
			open = &out[len(out)-1]
			oldest, newest = e.MaxTimestamp, e.MaxTimestamp
		}
		pl.units = append(pl.units, unit{i, i + 1, int64(e.Length)})
		open.to++
		oldest, newest = min(oldest, e.MaxTimestamp), max(newest, e.MaxTimestamp)
	}
	return out
}

// crossesCleaned reports whether log compaction has been done up to where extent i begins.
func (pl *planner) crossesCleaned(i int) bool {
	c := pl.p.Cleaned
	return c > 0 && pl.p.Extents[i-1].Base < c && pl.p.Extents[i].End() > c
}

// merge is the merge of a run of units.
func (pl *planner) merge(s span, bytes int64, why Why) Merge {
	return Merge{pl.units[s.from].from, pl.units[s.to-1].to, bytes, why}
}

// full cuts off runs that fill an extent, from the oldest on, and plans the rest by tiers.
func (pl *planner) full(out []Merge, s span) []Merge {
	from, sum := s.from, int64(0)
	for i := s.from; i < s.to; i++ {
		n := pl.units[i].bytes
		if sum+n > pl.size {
			out = append(out, pl.merge(span{from, i}, sum, Full))
			from, sum = i, 0
		}
		sum += n
	}
	return pl.tiers(out, span{from, s.to})
}

// tiers plans the parts of a stretch to both sides of its greatest extent before the whole, so
// that what is small is not written together with what is large, if it can be helped.
func (pl *planner) tiers(out []Merge, s span) []Merge {
	if s.len() < pl.Fan {
		return out
	}
	top, sum := s.from, int64(0)
	for i := s.from; i < s.to; i++ {
		sum += pl.units[i].bytes
		if pl.units[i].bytes > pl.units[top].bytes {
			top = i
		}
	}
	big := pl.units[top].bytes
	left, right := span{s.from, top}, span{top + 1, s.to}
	alone := left.len() < pl.Fan && right.len() < pl.Fan
	if sum >= pl.growth*big && (alone || pl.even(s, big)) {
		return append(out, pl.merge(s, sum, Tier))
	}
	return pl.tiers(pl.tiers(out, left), right)
}

// even reports whether there are at least Fan extents in a run that are not much smaller than
// its greatest one: then all of it is worth being written together.
func (pl *planner) even(s span, big int64) bool {
	n := 0
	for i := s.from; i < s.to; i++ {
		if pl.units[i].bytes*int64(pl.Fan) >= big {
			n++
		}
	}
	return n >= pl.Fan
}

// pressed adds the cheapest merges of Fan neighbours until there are few enough extents.
func (pl *planner) pressed(out []Merge, stretches []span, excess int) []Merge {
	var windows []Merge
	for _, s := range stretches {
		windows = pl.windows(windows, s)
	}
	slices.SortFunc(windows, func(a, b Merge) int { // bytes per extent that goes
		return cmp.Or(cmp.Compare(a.Bytes*int64(b.To-b.From-1), b.Bytes*int64(a.To-a.From-1)), cmp.Compare(a.From, b.From))
	})
	taken := make([]bool, len(pl.p.Extents))
	take := func(m Merge) {
		for i := m.From; i < m.To; i++ {
			taken[i] = true
		}
	}
	for _, m := range out {
		take(m)
	}
	for _, w := range windows {
		if excess <= 0 {
			break
		}
		if slices.Contains(taken[w.From:w.To], true) {
			continue
		}
		take(w)
		excess -= w.To - w.From - 1
		out = append(out, w)
	}
	sortMerges(out)
	return out
}

func sortMerges(m []Merge) {
	slices.SortFunc(m, func(a, b Merge) int { return cmp.Compare(a.From, b.From) })
}

// windows returns every run of Fan neighbours in a stretch, or of fewer if they fill an extent.
func (pl *planner) windows(out []Merge, s span) []Merge {
	sum, to := int64(0), s.from
	for from := s.from; from < s.to; from++ {
		for to < s.to && to-from < pl.Fan && sum+pl.units[to].bytes <= pl.size {
			sum += pl.units[to].bytes
			to++
		}
		if to-from >= 2 {
			out = append(out, pl.merge(span{from, to}, sum, Pressed))
		}
		sum -= pl.units[from].bytes
	}
	return out
}

// holes adds merges of holes side by side, which write no bytes.
func (pl *planner) holes(out []Merge) []Merge {
	merges, next := out, 0
	for i := 0; i < len(pl.p.Extents); i++ {
		for next < len(merges) && merges[next].To <= i {
			next++
		}
		j := i
		for j < len(pl.p.Extents) && pl.p.Extents[j].IsHole() && (j == i || !pl.crossesCleaned(j)) && (next == len(merges) || j < merges[next].From) {
			j++
		}
		if j-i > 1 {
			out = append(out, Merge{From: i, To: j, Why: Tier})
		}
		i = max(i, j-1)
	}
	if len(out) > len(merges) {
		sortMerges(out)
	}
	return out
}
