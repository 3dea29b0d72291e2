package plan_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/floelog/floe/compaction/plan"
	"github.com/floelog/floe/tiering"
)

// What lies on sparse segments is merged, whatever its size, once; neighbours together if they may.
func TestSparse(t *testing.T) {
	on := func(seqs ...uint64) func(tiering.SegmentID) bool {
		return func(id tiering.SegmentID) bool { return slices.Contains(seqs, id.Seq) }
	}
	few := func(sizes ...int64) (l log) {
		for i, n := range sizes {
			if n == 0 {
				l.add(tiering.Extent{Count: 1, MaxTimestamp: tiering.NoTimestamp})
			} else {
				l.append(n, int64(i))
			}
		}
		return l
	}
	of := func(from, to int, bytes int64) plan.Merge {
		return plan.Merge{From: from, To: to, Bytes: bytes, Why: plan.Sparse}
	}
	for name, c := range map[string]struct {
		log    log
		sparse []uint64
		change func(*log)
		want   []plan.Merge
	}{
		"one extent":                  {few(kib), []uint64{1}, nil, []plan.Merge{of(0, 1, kib)}},
		"none of them":                {few(kib, kib), []uint64{9}, nil, nil},
		"neighbours":                  {few(kib, kib, kib, kib), []uint64{2, 3}, nil, []plan.Merge{of(1, 3, 2*kib)}},
		"not side by side":            {few(kib, kib, kib), []uint64{1, 3}, nil, []plan.Merge{of(0, 1, kib), of(2, 3, kib)}},
		"large ones alone":            {few(kib, 9*mib, 9*mib, kib), []uint64{1, 2, 3, 4}, nil, []plan.Merge{of(0, 1, kib), of(1, 2, 9*mib), of(2, 3, 9*mib), of(3, 4, kib)}},
		"a hole is not touched":       {few(kib, 0, kib), []uint64{1, 2, 3}, nil, []plan.Merge{of(0, 1, kib), of(2, 3, kib)}},
		"not across what is clean":    {few(kib, kib), []uint64{1, 2}, func(l *log) { l.Cleaned = 1 }, []plan.Merge{of(0, 1, kib), of(1, 2, kib)}},
		"not across segment.ms":       {few(kib, kib, kib), []uint64{1, 2, 3}, func(l *log) { l.SegmentMs = 1 }, []plan.Merge{of(0, 2, 2*kib), of(2, 3, kib)}},
		"not beyond segment.bytes":    {few(kib, kib, kib), []uint64{1, 2, 3}, func(l *log) { l.SegmentBytes = 5 * kib / 2 }, []plan.Merge{of(0, 1, kib), of(1, 2, kib), of(2, 3, kib)}},
		"what is inline stays":        {few(kib, kib), []uint64{0, 1, 2}, func(l *log) { l.Extents[1].Inline, l.Extents[1].Segment = make([]byte, kib), tiering.SegmentID{} }, []plan.Merge{of(0, 1, kib)}},
		"what is merged all the same": {few(slices.Repeat([]int64{kib}, 12)...), []uint64{3, 4}, nil, []plan.Merge{{From: 0, To: 12, Bytes: 12 * kib, Why: plan.Tier}}},
	} {
		c.log.Sparse = on(c.sparse...)
		if c.change != nil {
			c.change(&c.log)
		}
		if got := rules.Merges(&c.log.Partition); !slices.Equal(got, c.want) {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

// Of random partitions, every extent of a sparse segment is in exactly one merge, and merging comes
// to an end.
func TestSparseAmongOthers(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 3))
		var l log
		for i := range 1 + rng.IntN(200) {
			switch n := rng.Int64N(int64(10) << (2 * rng.IntN(11))); {
			case n < 61:
				l.add(tiering.Extent{Count: 1, MaxTimestamp: tiering.NoTimestamp})
			default:
				l.append(n, int64(i))
			}
		}
		last := l.seq
		sparse := map[uint64]bool{}
		for i := range last {
			sparse[i+1] = rng.IntN(3) == 0
		}
		l.Sparse = func(id tiering.SegmentID) bool { return sparse[id.Seq] }
		for range 2 {
			merges := rules.Merges(&l.Partition)
			in := make([]int, len(l.Extents))
			for _, m := range merges {
				for i := m.From; i < m.To; i++ {
					in[i]++
				}
			}
			for i, e := range l.Extents {
				if in[i] > 1 || in[i] == 0 && sparse[e.Segment.Seq] && !e.IsHole() {
					t.Fatalf("seed %d: extent %d of segment %d is in %d merges", seed, i, e.Segment.Seq, in[i])
				}
			}
			l.Extents = replaced(&l, merges)
		}
		for i, e := range l.Extents {
			if sparse[e.Segment.Seq] {
				t.Errorf("seed %d: extent %d still lies on segment %d", seed, i, e.Segment.Seq)
			}
		}
	}
}

// replaced returns the extents after the merges.
func replaced(l *log, merges []plan.Merge) (out []tiering.Extent) {
	at := 0
	for _, m := range merges {
		out = append(out, l.Extents[at:m.From]...)
		l.seq++
		with := tiering.Extent{Base: l.Extents[m.From].Base, MaxTimestamp: tiering.NoTimestamp, Length: int32(m.Bytes)}
		if m.Bytes > 0 {
			with.Segment = tiering.SegmentID{Seq: l.seq}
		}
		for _, e := range l.Extents[m.From:m.To] {
			with.Count += e.Count
			with.MaxTimestamp = max(with.MaxTimestamp, e.MaxTimestamp)
		}
		out = append(out, with)
		at = m.To
	}
	return append(out, l.Extents[at:]...)
}
