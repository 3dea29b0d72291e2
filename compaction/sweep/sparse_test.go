package sweep_test

import (
	"slices"
	"testing"
	"time"

	"github.com/floelog/floe/compaction/sweep"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

func tps(from, n int32) (out []tiering.TopicPartition) {
	for p := from; p < from+n; p++ {
		out = append(out, tiering.TopicPartition{Topic: tp0.Topic, Partition: p})
	}
	return out
}

// Sparse is what has less than half of its bytes left when the frame of what is left is counted, is
// old enough, and is named by no manifest; the worst comes first.
func TestSparseSegments(t *testing.T) {
	bubble(t, func(w *world, n *node) {
		var got []sweep.Sparse
		told := 0
		s := w.sweeper(0, func(cfg *sweep.Config, p *sweep.Parts) {
			cfg.SparseAge = time.Minute
			p.Sparse = func(x []sweep.Sparse) { got, told = x, told+1 }
		})
		live := func() (out []int64) {
			t.Helper()
			if r := s.Sweep(w.ctx); r.Err != nil {
				t.Fatal(r.Err)
			}
			for _, x := range got {
				out = append(out, x.Live/extentBytes)
			}
			return out
		}
		trim := func(tps []tiering.TopicPartition) {
			for _, tp := range tps {
				w.must(n.change(tp, shard.Trim{Partition: tp, LogStart: w.state(tp).Next}))
			}
		}
		first, second, third, last := tps(0, 16), tps(100, 16), tps(200, 16), tps(300, 16)
		for _, of := range [][]tiering.TopicPartition{first, second, third} {
			w.must(n.flush(0, of...))
		}
		time.Sleep(2 * time.Minute)
		w.must(n.flush(0, last...))
		if l := live(); len(l) != 0 || told != 1 {
			t.Errorf("all is live: %v, told %d times", l, told)
		}
		trim(first[4:])
		if l := live(); len(l) != 0 {
			t.Errorf("a quarter is live, and a frame that makes it half: %v", l)
		}
		trim(first[3:4])
		trim(second[1:])
		trim(last[1:])
		if l := live(); !slices.Equal(l, []int64{1, 3}) || got[0].Size != 16*extentBytes {
			t.Errorf("of two old segments 3 and 1 of 16 are live: %v", l)
		}
		w.must(n.archive(third[0], 0))
		trim(third[1:])
		if r := s.Sweep(w.ctx); r.Err != nil || r.Sparse != 4 || len(got) != 2 {
			t.Errorf("four are sparse, of which a manifest names one: %+v", r)
		}
		time.Sleep(2 * time.Minute)
		if l := live(); !slices.Equal(l, []int64{1, 1, 3}) {
			t.Errorf("the last one is old enough, too: %v", l)
		}
	})
}
