package plan

import "github.com/floelog/floe/tiering"

// sparse adds what lies on sparse segments and is not merged anyway. Neighbours become one if
// they may. A segment of which less than half is live is left with nothing, so no more bytes are
// written than are freed.
func (pl *planner) sparse(out []Merge) []Merge {
	if pl.p.Sparse == nil {
		return out
	}
	merges, next := out, 0
	for i := 0; i < len(pl.p.Extents); {
		for next < len(merges) && merges[next].To <= i {
			next++
		}
		limit := len(pl.p.Extents)
		if next < len(merges) {
			limit = merges[next].From
		}
		switch {
		case i >= limit:
			i = merges[next].To
		case !pl.onSparse(i):
			i++
		default:
			m := pl.sparseRun(i, limit)
			out = append(out, m)
			i = m.To
		}
	}
	if len(out) > len(merges) {
		sortMerges(out)
	}
	return out
}

func (pl *planner) onSparse(i int) bool {
	e := &pl.p.Extents[i]
	return e.Segment != tiering.SegmentID{} && pl.p.Sparse(e.Segment)
}

// sparseRun returns the merge that begins with extent i and ends before limit.
func (pl *planner) sparseRun(i, limit int) Merge {
	first := &pl.p.Extents[i]
	m := Merge{i, i + 1, int64(first.Length), Sparse}
	oldest, newest := first.MaxTimestamp, first.MaxTimestamp
	for m.Bytes < pl.large && m.To < limit && pl.onSparse(m.To) && !pl.crossesCleaned(m.To) {
		e := &pl.p.Extents[m.To]
		oldest, newest = min(oldest, e.MaxTimestamp), max(newest, e.MaxTimestamp)
		if int64(e.Length) >= pl.large || m.Bytes+int64(e.Length) > pl.size || pl.p.SegmentMs > 0 && newest-oldest > pl.p.SegmentMs {
			break
		}
		m.To++
		m.Bytes += int64(e.Length)
	}
	return m
}
