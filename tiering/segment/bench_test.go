package segment_test

import (
	"fmt"
	"testing"

	"github.com/floelog/floe/tiering/segment"
)

// A flush of 8 MiB: a few busy partitions, or many quiet ones.
func BenchmarkBuild(b *testing.B) {
	for _, n := range []int{6, 100, 1000} {
		perChunk := (8 << 20) / n
		batches := max(1, perChunk/(64<<10))
		var cs []segment.Chunk
		for p := range n {
			c := segment.Chunk{Shard: 1, TopicPartition: partition(1, int32(p))}
			for range batches {
				c.Slices = append(c.Slices, batch(100, 1, 1, make([]byte, perChunk/batches-61)))
			}
			cs = append(cs, c)
		}
		b.Run(fmt.Sprintf("chunks=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(8 << 20)
			for b.Loop() {
				if _, err := segment.Build(segment.Header{}, cs); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkVerifyBatches(b *testing.B) {
	var all [][]byte
	for range 16 {
		all = append(all, batch(100, 1, 1, make([]byte, 64<<10)))
	}
	b.SetBytes(1 << 20)
	b.ReportAllocs()
	for b.Loop() {
		if err := segment.VerifyBatches(all); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	var cs []segment.Chunk
	for p := range int32(500) {
		cs = append(cs, segment.Chunk{TopicPartition: partition(1, p), Slices: [][]byte{batch(1, 1, 1, nil)}})
	}
	object := build(b, header(), cs).Body.Bytes()
	read := reader(object, nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := segment.Open(int64(len(object)), read); err != nil {
			b.Fatal(err)
		}
	}
}
