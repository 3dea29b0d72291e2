package cache_test

import (
	"testing"

	"github.com/floelog/floe/tiering/cache"
	"github.com/floelog/floe/tiering/objstore"
)

func BenchmarkHit(b *testing.B) {
	s := newBucket(1, 64*blockSize)
	c := newCache(b, s, anything, cache.Options{Capacity: 128 * blockSize})
	read(b, c, s, at(1, 0, 64*blockSize))
	b.Run("one", func(b *testing.B) {
		b.ReportAllocs()
		dst := make([][]byte, 0, 8)
		for b.Loop() {
			if _, err := c.Read(b.Context(), at(1, 5*blockSize+100, 1000), dst); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			dst := make([][]byte, 0, 8)
			for i := 0; pb.Next(); i++ {
				if _, err := c.Read(b.Context(), at(1, i%64*blockSize+100, 1000), dst); err != nil {
					b.Error(err)
				}
			}
		})
	})
}

func BenchmarkTailHit(b *testing.B) {
	c := newCache(b, newBucket(0, 0), anything, cache.Options{Capacity: 32 << 20})
	var body objstore.Body
	for range 1000 {
		body = append(body, make([]byte, 8<<10))
	}
	c.Offer(id(1), body, body.Size())
	b.ReportAllocs()
	dst := make([][]byte, 0, 8)
	for b.Loop() {
		if _, err := c.Read(b.Context(), at(1, 500*8<<10, 8<<10), dst); err != nil {
			b.Fatal(err)
		}
	}
}

// A miss, an eviction and the return of the memory, without a store's time.
func BenchmarkMiss(b *testing.B) {
	s := newBucket(1, 1000*blockSize)
	c := newCache(b, s, anything, cache.Options{Capacity: 16 * blockSize, ReadAhead: -1})
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if _, err := c.Read(b.Context(), at(1, i%1000*blockSize, blockSize), nil); err != nil {
			b.Fatal(err)
		}
		i++
	}
}
