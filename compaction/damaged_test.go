package compaction_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/compaction/job"
	"github.com/floelog/floe/compaction/job/jobtest"
)

// An extent whose object is gone stays as it is, and so do its records' offsets; what is before and
// behind it is merged and archived, or the state of the partition would grow for ever.
func TestADamagedExtentDoesNotKeepItsNeighboursFromBeingMerged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := jobtest.New(t, 1)
		tp := partition(0)
		v := strings.Repeat("v", 1<<10)
		flush := func(n int) {
			for range n {
				w.Flush(jobtest.Part{Partition: tp, Batches: [][]byte{w.Batch(5, v)}})
			}
		}
		flush(3)
		lost := w.State(tp).Extents[2]
		if err := w.Objects.Delete(t.Context(), lost.Segment.Key()); err != nil {
			t.Fatal(err)
		}
		m := merger(w, w.Objects, job.Policy{Delete: true})
		most := 0
		for range 300 {
			flush(20)
			if err := m.Tick(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			most = max(most, len(w.State(tp).Extents))
		}
		p := w.State(tp)
		if most > 100 || len(p.Manifests) == 0 {
			t.Errorf("at most %d extents, in the end %d, and %d manifests", most, len(p.Extents), len(p.Manifests))
		}
	})
}
