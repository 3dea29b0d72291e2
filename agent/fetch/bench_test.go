package fetch_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/floelog/floe/agent/fetch"
	"github.com/floelog/floe/tiering"
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

// A fetch in the middle of a long log, whose blocks are in memory: of a large extent, where its
// reader stopped before, and through a manifest.
func BenchmarkFetchBehind(b *testing.B) {
	l, done := openWith(b, fetch.Config{Newest: 1}, nil)
	defer done()
	const n, size = 64, 64 << 10
	var batches [][]byte
	for i := range n {
		batches = append(batches, encode(b, rec{fmt.Sprint(i, strings.Repeat(".", size)), 1}))
	}
	for p := range int32(2) {
		l.append(p, false, batches...)
		l.append(p, false, batches...)
	}
	l.archive(1, 1)
	for name, p := range map[string]int32{"extent": 0, "manifest": 1} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(4 * size)
			at := tiering.Offset(0)
			for b.Loop() {
				r := l.reader.Fetch(b.Context(), &fetch.Request{MaxBytes: 1 << 20, Partitions: []fetch.Partition{from(p, at, 4*size+1000)}})
				if r[0].Bytes < 4*size {
					b.Fatalf("%d bytes at offset %d", r[0].Bytes, at)
				}
				at = (at + 4) % n
			}
		})
	}
}
