package sweep

import (
	"bytes"
	"cmp"
	"slices"

	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/segment"
)

// Sparse is a segment of which less than half is named by extents. It stays so for ever, since
// what is named of a segment only becomes less: a list of them may be as old as it likes.
type Sparse struct {
	ID         tiering.SegmentID
	Size, Live int64 // bytes
}

// MaxSparse bounds the list of sparse segments. Smaller: a cluster of many slow partitions is not
// done with them between two sweeps. Larger: it does not fit in one message to an agent.
const MaxSparse = 10_000

// weigh counts the live part of a segment. Half of it is live or more if its extents, each with an
// entry of the index, and what every segment has are: so a segment that was just packed of small
// extents, and that carries no journal records, is not sparse until half of it is dead.
//
// Packing does not free a segment that a manifest names, so it is not listed; nor is one that
// is so young that merging would have a better use for its extents.
func (l *look) weigh(id tiering.SegmentID, o object) {
	l.report.Live += min(o.live, o.size)
	if 2*(o.live+segment.Frame(int(o.extents))) >= o.size {
		return
	}
	l.report.Sparse++
	if o.archived || o.modified > l.old {
		return
	}
	l.sparse = append(l.sparse, Sparse{id, o.size, o.live})
	if len(l.sparse) == 2*MaxSparse {
		l.sparse = worst(l.sparse)
	}
}

// worst returns the segments that have the smallest live share, MaxSparse of them at most, those
// with less of it before others.
func worst(all []Sparse) []Sparse {
	share := func(s Sparse) float64 { return float64(s.Live) / float64(s.Size) }
	slices.SortFunc(all, func(a, b Sparse) int {
		return cmp.Or(cmp.Compare(share(a), share(b)), bytes.Compare(a.ID.Session[:], b.ID.Session[:]), cmp.Compare(a.ID.Seq, b.ID.Seq))
	})
	return all[:min(len(all), MaxSparse)]
}
