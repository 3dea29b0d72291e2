package compaction_test

import (
	"testing"
	"time"

	"github.com/floelog/floe/compaction/job"
	"github.com/floelog/floe/compaction/job/jobtest"
)

// A tick while one partition of very many was written to: what an agent does every second.
func BenchmarkLookAtManyPartitions(b *testing.B) {
	w := jobtest.New(b, 1)
	data := w.Batch(time.Now().UnixMilli(), "v")
	const partitions = 10_000
	for range 3 {
		for first := 0; first < partitions; first += 2000 {
			var parts []jobtest.Part
			for p := range 2000 {
				parts = append(parts, jobtest.Part{Partition: partition(int32(first + p)), Batches: [][]byte{data}})
			}
			w.Flush(parts...)
		}
	}
	m := merger(w, w.Objects, job.Policy{Delete: true})
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		w.Flush(jobtest.Part{Partition: partition(0), Batches: [][]byte{data}})
		b.StartTimer()
		if err := m.Tick(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
