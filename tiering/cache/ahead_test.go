package cache_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/cache"
	"github.com/floelog/floe/tiering/objstore"
)

// far is a store that answers after a time that depends on how much is asked for, whatever
// else is asked of it, and counts the bytes.
type far struct {
	objstore.Store
	latency   time.Duration
	bandwidth int64 // bytes a second and GET

	mu    sync.Mutex
	gets  int
	bytes int64
}

func (s *far) GetRange(ctx context.Context, _ string, _, n int64) ([]byte, error) {
	s.mu.Lock()
	s.gets++
	s.bytes += n
	s.mu.Unlock()
	t := time.NewTimer(s.latency + time.Duration(n*int64(time.Second)/s.bandwidth))
	defer t.Stop()
	select {
	case <-t.C:
		return make([]byte, n), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// GetUpTo takes objects to be as large as is asked.
func (s *far) GetUpTo(ctx context.Context, key string, off, n int64) (objstore.Body, int64, error) {
	b, err := s.GetRange(ctx, key, off, n)
	return objstore.Body{b}, off + n, err
}

// log returns n extents of a partition, each of size bytes, so many in a segment.
func log(first uint64, n, inSegment, size int) []tiering.Extent {
	out := make([]tiering.Extent, n)
	for i := range out {
		out[i] = tiering.Extent{
			Base: tiering.Offset(10 * i), Count: 10, Length: int32(size),
			Segment: id(first + uint64(i/inSegment)), Position: tiering.Position(i % inSegment * size),
		}
	}
	return out
}

// follow reads a log extent by extent.
func follow(ctx context.Context, c *cache.Cache, run []tiering.Extent, cold bool) error {
	for i, e := range run {
		r := cache.Range{Segment: e.Segment, Position: e.Position, Length: int(e.Length), Rest: run[i+1:], Cold: cold}
		if _, err := c.Read(ctx, r, nil); err != nil {
			return fmt.Errorf("extent %d: %w", i, err)
		}
	}
	return nil
}

// raw is how long the store takes for GETs of size bytes, so many in all and at a time.
func (s *far) raw(gets, atOnce int, size int64) time.Duration {
	one := s.latency + time.Duration(size*int64(time.Second)/s.bandwidth)
	return time.Duration((gets+atOnce-1)/atOnce) * one
}

// Those who catch up get at least four fifths of what the store gives to bare GETs of the same
// number in flight, one included, whether a segment is theirs alone or has a little of each.
func TestCatchingUpIsNearlyAsFastAsTheStore(t *testing.T) {
	const block = 64 << 10
	for _, tc := range []struct {
		name            string
		atOnce, readers int
		inSegment, size int
	}{
		{"1 GET in flight, large segments", 1, 1, 64, block / 2},
		{"16 GETs in flight, large segments", 16, 1, 64, block / 2},
		{"64 GETs in flight, large segments", 64, 4, 64, block / 2},
		{"16 GETs in flight, an extent in each segment", 16, 1, 1, block},
		{"64 GETs in flight, an extent in each segment", 64, 4, 1, block},
		{"16 GETs in flight, extents of three blocks", 16, 1, 5, 3 * block},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &far{latency: 30 * time.Millisecond, bandwidth: 64 * block / 2}
				const bytes = 512 * block // of each reader
				c := newCache(t, s, anything, cache.Options{Capacity: 512 * block, BlockSize: block, MaxGets: tc.atOnce})
				start := time.Now()
				var wg sync.WaitGroup
				for i := range tc.readers {
					wg.Go(func() {
						if err := follow(t.Context(), c, log(uint64(1+1000*i), bytes/tc.size, tc.inSegment, tc.size), true); err != nil {
							t.Error(err)
						}
					})
				}
				wg.Wait()
				took := time.Since(start)
				c.Close()
				bare := s.raw(512*tc.readers, tc.atOnce, block)
				ratio := float64(bare) / float64(took)
				t.Logf("%.0f %%", 100*ratio)
				if ratio < 0.8 {
					t.Errorf("%.0f %% of the throughput of bare GETs: %v, they take %v; %d GETs, %+v", 100*ratio, took, bare, s.gets, c.Stats())
				}
				if want := int64(tc.readers) * bytes; s.bytes > want+want/20 {
					t.Errorf("%d bytes were fetched for %d", s.bytes, want)
				}
			})
		})
	}
}

// What is fetched ahead of a reader that stops is bounded, and what it costs is told.
func TestReadAheadOfAReaderThatStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &far{latency: 30 * time.Millisecond, bandwidth: 1 << 30}
		c := newCache(t, s, anything, cache.Options{Capacity: 256 * blockSize, ReadAhead: 16})
		run := log(1, 200, 1, blockSize)
		for i, e := range run[:60] {
			r := cache.Range{Segment: e.Segment, Position: e.Position, Length: int(e.Length), Rest: run[i+1:]}
			if _, err := c.Read(t.Context(), r, nil); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if got := c.Stats(); got.Gets > 60+16 || got.Gets < 60+8 || got.AheadBytes != (got.Gets-60)*blockSize {
			t.Errorf("%+v", got)
		}
		c.Close()
	})
}

// Where a reader comes too late for what was fetched ahead of it, less is.
func TestReadAheadShrinksWhenItIsWasted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &far{latency: time.Millisecond, bandwidth: 1 << 30}
		c := newCache(t, s, anything, cache.Options{Capacity: 64 * blockSize, ReadAhead: 16})
		run := log(1, 400, 1, blockSize)
		other := 10_000
		// Each step of the reader, others read as much as fits into the cache.
		for i, e := range run[:300] {
			r := cache.Range{Segment: e.Segment, Position: e.Position, Length: int(e.Length), Rest: run[i+1:]}
			if _, err := c.Read(t.Context(), r, nil); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if i >= 50 {
				for range 80 {
					if _, err := c.Read(t.Context(), at(uint64(other), 0, blockSize), nil); err != nil {
						t.Fatal(err)
					}
					other++
				}
			}
		}
		got := c.Stats()
		// With a window of 16, each step would have fetched as many in vain.
		if wasted := got.Gets - 300 - 250*80; wasted > 2*250+32 || wasted < 16 {
			t.Errorf("%d GETs in vain: %+v", wasted, got)
		}
		c.Close()
	})
}

// A reader that takes only part of what it reads comes back to the same extent.
func TestReadAheadKeepsToAReaderThatComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &far{latency: 20 * time.Millisecond, bandwidth: 1 << 30}
		c := newCache(t, s, anything, cache.Options{Capacity: 512 * blockSize, ReadAhead: 8})
		run := log(1, 100, 1, blockSize)
		for i, e := range run {
			for range 3 {
				r := cache.Range{Segment: e.Segment, Position: e.Position, Length: int(e.Length), Rest: run[i+1:]}
				if _, err := c.Read(t.Context(), r, nil); err != nil {
					t.Fatal(err)
				}
			}
		}
		if got := c.Stats(); got.Gets != 100 || got.Prefetches < 95 {
			t.Errorf("%+v", got)
		}
		c.Close()
	})
}

// Whatever a reader says it goes on with, no byte beyond it is asked for, and what it gets is
// right.
func TestReadAheadStaysWithinWhatIsKnown(t *testing.T) {
	const size = 30*blockSize + 123
	rng := rand.New(rand.NewPCG(8, 9))
	s := newBucket(8, size)
	c := newCache(t, s, anything, cache.Options{Capacity: 64 * blockSize, Whole: wholeHundreds})
	for range 200 {
		var run []tiering.Extent
		for base := tiering.Offset(0); len(run) < 40; base += 7 {
			e := tiering.Extent{Base: base, Count: 7, Segment: id(uint64(1 + rng.IntN(8)))}
			switch n := len(run); {
			case rng.IntN(8) == 0: // a hole
				e.Segment = tiering.SegmentID{}
			case rng.IntN(8) == 0: // inline
				e.Segment, e.Inline, e.Length = tiering.SegmentID{}, make([]byte, 50), 50
			case n > 0 && run[n-1].Length > 0 && !run[n-1].Segment.IsZero() && rng.IntN(2) == 0:
				e.Segment, e.Position = run[n-1].Segment, run[n-1].Position+tiering.Position(run[n-1].Length)
				e.Length = int32(min(1+rng.IntN(3*blockSize), size-int(e.Position)))
			default:
				e.Position = tiering.Position(rng.IntN(size))
				e.Length = int32(1 + rng.IntN(min(3*blockSize, size-int(e.Position))))
			}
			if e.Segment.IsZero() || e.Length > 0 {
				run = append(run, e)
			}
		}
		for i, e := range run {
			if e.Segment.IsZero() {
				continue
			}
			r := cache.Range{Segment: e.Segment, Position: e.Position, Length: int(e.Length), Rest: run[i+1:], Cold: i%3 == 0}
			if i%5 > 0 {
				read(t, c, s, r) // fails if the store is asked for what does not exist
				continue
			}
			r.End = e.Position + tiering.Position(e.Length)
			for r.Length = 100; r.Position+tiering.Position(r.Length) < r.End; r.Position += tiering.Position(r.Length) {
				r.Cut = true
				read(t, c, s, r)
			}
		}
	}
	if got := c.Stats(); got.GetErrors > 0 || got.Prefetches == 0 {
		t.Errorf("%+v", got)
	}
}

// wholeHundreds takes every hundred bytes for a batch.
func wholeHundreds(b [][]byte) int64 { return objstore.Body(b).Size() / 100 * 100 }

// Large extents are read piece by piece, and what is left of them is fetched ahead.
func TestReadAheadWithinALargeExtent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &far{latency: 20 * time.Millisecond, bandwidth: 1 << 30}
		c := newCache(t, s, anything, cache.Options{Capacity: 1024 * blockSize, ReadAhead: 8, Whole: wholeHundreds})
		const size = 100 * blockSize
		run := log(1, 2, 1, size)
		for i, e := range run {
			for pos := 0; pos < size; {
				r := cache.Range{
					Segment: e.Segment, Position: tiering.Position(pos), Length: min(blockSize-50, size-pos), Rest: run[i+1:],
					End: tiering.Position(size),
				}
				r.Cut = pos+r.Length < size
				out, err := c.Read(t.Context(), r, nil)
				if err != nil {
					t.Fatal(err)
				}
				pos += int(objstore.Body(out).Size())
			}
		}
		if got := c.Stats(); got.Prefetches < 195 || got.Gets > 201 {
			t.Errorf("%+v", got)
		}
		c.Close()
	})
}
