package cache_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

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

// Readers that catch up, over a store whose GETs take 30 ms and then 100 MB/s each, in real
// time: what they get, and what part that is of bare GETs of the same number in flight.
func BenchmarkCatchUp(b *testing.B) {
	const block = cache.DefaultBlockSize
	for _, tc := range []struct{ atOnce, readers, blocks int }{{1, 1, 16}, {16, 1, 256}, {64, 4, 128}} {
		b.Run(fmt.Sprintf("%d GETs in flight", tc.atOnce), func(b *testing.B) {
			var bare, took time.Duration
			for round := 0; b.Loop(); round++ {
				s := &far{latency: 30 * time.Millisecond, bandwidth: 100 << 20}
				start := time.Now()
				raw(b, s, tc.blocks*tc.readers, tc.atOnce)
				bare += time.Since(start)

				c := newCache(b, s, anything, cache.Options{Capacity: 1 << 30, BlockSize: block, MaxGets: tc.atOnce})
				start = time.Now()
				var wg sync.WaitGroup
				for i := range tc.readers {
					wg.Go(func() {
						if err := follow(b.Context(), c, log(uint64(1+1000*i), 2*tc.blocks, 32, block/2), false); err != nil {
							b.Error(err)
						}
					})
				}
				wg.Wait()
				took += time.Since(start)
				c.Close()
			}
			b.ReportMetric(float64(b.N*tc.readers*tc.blocks*block)/took.Seconds()/1e6, "MB/s")
			b.ReportMetric(100*float64(bare)/float64(took), "%-of-raw")
		})
	}
}

// raw sends bare GETs of a block each, so many at a time.
func raw(b *testing.B, s *far, gets, atOnce int) {
	var g errgroup.Group
	g.SetLimit(atOnce)
	for i := range gets {
		g.Go(func() error {
			_, err := s.GetRange(b.Context(), "k", int64(i)*cache.DefaultBlockSize, cache.DefaultBlockSize)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		b.Fatal(err)
	}
}
