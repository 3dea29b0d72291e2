package fetch_test

import (
	"testing"

	"github.com/floelog/floe/agent/fetch"
)

// A fetch of a few small inline batches; and one that has to look for aborted transactions.
func BenchmarkFetch(b *testing.B) {
	l, done := open(b)
	defer done()
	w := &writer{l: l, p: 1, id: 5}
	for range 20 {
		l.append(0, true, encode(b, rec{"value", 1}))
		w.begin(rec{"value", 1})
		w.end(false)
	}
	for name, req := range map[string]fetch.Request{
		"plain":     {MaxBytes: 1 << 20, Partitions: []fetch.Partition{from(0, 15, 1<<20)}},
		"committed": {MaxBytes: 1 << 20, Partitions: []fetch.Partition{from(1, 30, 1<<20)}, ReadCommitted: true},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if r := l.reader.Fetch(b.Context(), &req); r[0].Bytes == 0 {
					b.Fatal("nothing was read")
				}
			}
		})
	}
}
