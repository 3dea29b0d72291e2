package cache_test

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/cache"
)

// consumeAll reads logs of the same size as a consumer does that is assigned all of them: so
// many bytes of each in a request, the next one when all of that has come and was worked on. It
// returns how long that takes.
func consumeAll(t *testing.T, c *cache.Cache, logs [][]tiering.Extent, each int, work time.Duration, cold bool) time.Duration {
	t.Helper()
	start := time.Now()
	extent, pos := make([]int, len(logs)), make([]int, len(logs))
	for more := true; more; time.Sleep(work) {
		more = false
		var wg sync.WaitGroup
		for p, run := range logs {
			if extent[p] == len(run) {
				continue
			}
			more = true
			wg.Go(func() {
				for got := 0; got < each && extent[p] < len(run); {
					e := run[extent[p]]
					n := min(each-got, int(e.Length)-pos[p])
					r := cache.Range{Segment: e.Segment, Position: e.Position + tiering.Position(pos[p]), Length: n,
						End: e.Position + tiering.Position(e.Length), Rest: run[extent[p]+1:], Cold: cold}
					if _, err := c.Read(t.Context(), r, nil); err != nil {
						t.Error(err)
						return
					}
					got += n
					if pos[p] += n; pos[p] == int(e.Length) {
						extent[p], pos[p] = extent[p]+1, 0
					}
				}
			})
		}
		wg.Wait()
	}
	return time.Since(start)
}

// A consumer of many partitions waits for the slowest of them, so what is fetched ahead is
// divided among them: together they get four fifths of what bare GETs give at least, sixteen at
// a time, from a cache of the default size. One that came first would have all of it otherwise,
// and the others would wait for the store with every block.
func TestReadersSideBySideShareWhatIsFetchedAhead(t *testing.T) {
	const block, partitions, size = 2 << 20, 12, 64 << 20
	merged, flushes := make([][]tiering.Extent, partitions), make([][]tiering.Extent, partitions)
	const part = 8 << 20 / partitions
	for p := range partitions {
		merged[p] = log(uint64(1+1000*p), size/(32<<20), 1, 32<<20)
		for i := range size / part {
			flushes[p] = append(flushes[p], tiering.Extent{Base: tiering.Offset(10 * i), Count: 10, Length: part,
				Segment: id(uint64(1 + i)), Position: tiering.Position(p * part)})
		}
	}
	behind := make([][]tiering.Extent, partitions) // as merged, where the segment's header is
	for p := range partitions {
		for _, e := range merged[p] {
			e.Position += 100
			behind[p] = append(behind[p], e)
		}
	}
	for _, tc := range []struct {
		name string
		logs [][]tiering.Extent
		get  int64 // bytes, of the bare GETs
	}{{"large segments", merged, block}, {"flushes", flushes, part}, {"behind a header", behind, block}} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &far{latency: 100 * time.Millisecond, bandwidth: 200 << 20}
				c := newCache(t, s, anything, cache.Options{Capacity: 192 << 20, BlockSize: block, MaxGets: 24})
				took := consumeAll(t, c, tc.logs, 1<<20, 20*time.Millisecond, true)
				c.Close()
				want := int64(partitions * size)
				bare := s.raw(int(want/tc.get), 16, tc.get)
				ratio := float64(bare) / float64(took)
				t.Logf("%.0f %%", 100*ratio)
				if ratio < 0.8 {
					t.Errorf("%.0f %% of the throughput of bare GETs: %v, they take %v; %d GETs, %+v", 100*ratio, took, bare, s.gets, c.Stats())
				}
				if s.bytes > want+want/20 {
					t.Errorf("%d bytes were fetched for %d", s.bytes, want)
				}
			})
		})
	}
}

// What is fetched ahead stays until it is read, however much of the cache is taken by what is
// read again: else it is fetched twice, and comes back as if it were read again itself.
func TestWhatIsFetchedAheadOutlivesWhatWasRead(t *testing.T) {
	const block, partitions, size, flush = 2 << 20, 12, 64 << 20, 8 << 20
	merged, flushes := make([][]tiering.Extent, partitions), make([][]tiering.Extent, partitions)
	const part = flush / partitions
	for p := range partitions {
		merged[p] = log(uint64(1+1000*p), size/(32<<20), 1, 32<<20)
		for i := range size / part {
			flushes[p] = append(flushes[p], tiering.Extent{Base: tiering.Offset(10 * i), Count: 10, Length: part,
				Segment: id(uint64(1 + i)), Position: tiering.Position(p * part)})
		}
	}
	for _, tc := range []struct {
		name   string
		logs   [][]tiering.Extent
		blocks int
	}{{"large segments", merged, partitions * size / block}, {"flushes", flushes, size / part * flush / block}} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &far{latency: 100 * time.Millisecond, bandwidth: 200 << 20}
				c := newCache(t, s, anything, cache.Options{Capacity: 192 << 20, BlockSize: block, MaxGets: 24})
				defer c.Close()
				replayed := log(2<<20, 100, 1, block)
				consumeAll(t, c, [][]tiering.Extent{replayed}, block, 0, true)
				hot := log(1<<20, 60, 1, block)
				for range 2 {
					consumeAll(t, c, [][]tiering.Extent{hot}, block, 0, false)
				}
				before := s.gets
				consumeAll(t, c, tc.logs, 1<<20, 20*time.Millisecond, false)
				if n := s.gets - before; n > tc.blocks+tc.blocks/20 {
					t.Errorf("%d GETs for %d blocks: %+v", n, tc.blocks, c.Stats())
				}
			})
		})
	}
}
