package cache_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/floelog/floe/tiering/cache"
	"github.com/floelog/floe/tiering/objstore"
	"github.com/floelog/floe/tiering/segment"
)

func TestMemoryIsBounded(t *testing.T) {
	const size = 30 * blockSize
	s := newBucket(20, size)
	c := newCache(t, s, anything, cache.Options{Capacity: 16 * blockSize})
	check := func() {
		if got := c.Stats(); got.BlockBytes+got.TailBytes+got.FetchingBytes > got.Capacity || got.FetchingBytes > got.Capacity/2 {
			t.Errorf("over the bound: %+v", got)
		}
	}
	var wg sync.WaitGroup
	for g := range 6 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(g), 1))
			for i := range 400 {
				seq := uint64(1 + rng.IntN(20))
				if g == 0 {
					n := 1 + rng.IntN(6*blockSize)
					c.Offer(id(seq+100*uint64(i)), objstore.Body{make([]byte, n)}, int64(n+rng.IntN(blockSize)))
				} else {
					pos := rng.IntN(size - 1)
					read(t, c, s, until(at(seq, pos, 1+rng.IntN(min(size-pos, 3*blockSize))), size))
				}
				check()
			}
		})
	}
	wg.Wait()
	c.Close()
	got := c.Stats()
	if got.FetchingBytes != 0 || got.GetsInFlight != 0 {
		t.Errorf("after Close: %+v", got)
	}
	if got.EvictedBlocks == 0 || got.EvictedTails == 0 {
		t.Errorf("nothing was evicted: %+v", got)
	}
	check()
}

func TestScanDoesNotDisplaceWhatIsReadAgain(t *testing.T) {
	const blocks = 32
	s := newBucket(2, 400*blockSize)
	c := newCache(t, s, anything, cache.Options{Capacity: blocks * blockSize, ReadAhead: -1})
	hot := func() {
		for i := range 8 {
			read(t, c, s, at(1, i*blockSize, blockSize))
		}
	}
	hot()
	hot()
	s.seen()
	// Each block of the scan is read in many steps, which is no reuse of it.
	for pos := 0; pos < 400*blockSize; pos += blockSize / 4 {
		read(t, c, s, until(at(2, pos, blockSize/4), 400*blockSize))
	}
	before := c.Stats().Gets
	hot()
	if n := c.Stats().Gets - before; n != 0 {
		t.Errorf("%d of 8 hot blocks were gone after the scan", n)
	}
}

func TestSequentialReaderIsReadAheadOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newBucket(1, 20*blockSize)
		c := newCache(t, s, anything, cache.Options{ReadAhead: 3})
		const end = 5*blockSize + 100
		read(t, c, s, until(at(1, 50, 100), end))
		synctest.Wait()
		expectGets(t, s, "0+4096") // one read shows no direction
		for i, want := range []string{
			"4096+4096",            // the next, of which nobody has read yet
			"",                     // nothing was read of it: no reason for more
			"8192+4096 12288+4096", // it was come to: twice as many
			"16384+4096",           // the first of two: one more
			"20480+100",            // the second: twice as many, but there are no more
		} {
			pos := []int{150, 250, 4096, 8192, 12288}[i]
			read(t, c, s, until(at(1, pos, []int{100, 4096 - 250, 4096, 4096, 4096}[i]), end))
			synctest.Wait()
			if got := strings.Fields(s.seen()); !slices.Equal(sorted(got), sorted(strings.Fields(want))) {
				t.Errorf("read %d at %d: GETs %q, want %q", i, pos, got, want)
			}
		}
		if got := c.Stats(); got.Misses != 1 {
			t.Errorf("the reader waited %d times, want once: %+v", got.Misses, got)
		}
		c.Close()
	})
}

func sorted(s []string) []string { slices.Sort(s); return s }

func TestReadAheadGoesOnAcrossBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newBucket(1, 40*blockSize)
		c := newCache(t, s, anything, cache.Options{ReadAhead: 2, Capacity: 100 * blockSize})
		for i := range 40 { // whole blocks: each read starts where a block does
			read(t, c, s, until(at(1, i*blockSize, blockSize), 40*blockSize))
			synctest.Wait()
		}
		if got := c.Stats(); got.Misses != 2 || got.Gets != 40 {
			t.Errorf("%+v, want 2 misses of 40", got)
		}
		c.Close()
	})
}

func TestReadAheadLeavesTheSlotsToReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newBucket(2, 20*blockSize)
		c := newCache(t, s, anything, cache.Options{ReadAhead: 8, MaxGets: 2})
		read(t, c, s, at(1, 0, 100))
		read(t, c, s, at(1, 100, 100))
		s.gate = make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() { read(t, c, s, at(2, 0, 2*blockSize)) })
		synctest.Wait()
		read(t, c, s, until(at(1, 150, 50), 200))
		wg.Go(func() { read(t, c, s, until(at(1, 200, 50), 20*blockSize)) })
		synctest.Wait()
		if got := c.Stats(); got.Prefetches != 0 || got.GetsInFlight != 2 {
			t.Errorf("%+v", got)
		}
		close(s.gate)
		wg.Wait()
		c.Close()
	})
}

func TestOfferedSegmentsAreServedAsTheyAre(t *testing.T) {
	s := newBucket(1, 1000)
	c := newCache(t, s, func([][]byte) error { return errors.New("verified what the agent wrote") }, cache.Options{})
	object := s.objects[id(1).Key()]
	body := objstore.Body{object[:100], nil, object[100:300], object[300:]}
	c.Offer(id(1), body, 5000)
	c.Offer(id(1), objstore.Body{make([]byte, 1000)}, 1000) // known already
	for pos := 0; pos < 1000; pos += 7 {
		for n := 1; pos+n <= 1000; n += 90 {
			read(t, c, s, at(1, pos, n))
		}
	}
	got, err := c.Read(t.Context(), at(1, 110, 50), nil)
	if err != nil || len(got) != 1 || &got[0][0] != &object[110] || cap(got[0]) != 50 {
		t.Errorf("%d slices, %v", len(got), err)
	}
	expectGets(t, s, "")
	if st := c.Stats(); st.TailBytes != 5000 || st.Hits != 0 || st.TailHits == 0 {
		t.Errorf("%+v", st)
	}
	if _, err := c.Read(t.Context(), at(1, 990, 20), nil); err == nil {
		t.Error("a range beyond the offered segment was served")
	}
}

func TestOldestOfferGoesFirst(t *testing.T) {
	s := newBucket(0, 0)
	c := newCache(t, s, anything, cache.Options{Capacity: 16 * blockSize})
	body := objstore.Body{bytes.Repeat([]byte{1}, 3*blockSize)}
	served := func(seq uint64) bool {
		_, err := c.Read(t.Context(), at(seq, 0, 10), nil)
		return err == nil
	}
	for seq := range uint64(8) {
		c.Offer(id(seq+1), body, body.Size())
	}
	for seq := uint64(1); seq <= 8; seq++ {
		if want := seq > 3; served(seq) != want {
			t.Errorf("segment %d served: %v, want %v", seq, !want, want)
		}
	}
	c.Offer(id(20), objstore.Body{{1}}, 8*blockSize+1)
	if served(20) {
		t.Error("a segment that holds more than half of the capacity was taken")
	}
	c.Offer(id(21), objstore.Body{bytes.Repeat([]byte{1}, 100)}, 8*blockSize)
	if !served(21) {
		t.Error("a segment that holds half of the capacity was not taken")
	}
}

// Each of the two kinds may use what the other leaves free, and is sure of its half.
func TestBlocksAndOffersShareTheCapacity(t *testing.T) {
	s := newBucket(1, 100*blockSize)
	c := newCache(t, s, anything, cache.Options{Capacity: 16 * blockSize, MaxGets: 1, ReadAhead: -1})
	scan := func() {
		for i := range 100 {
			read(t, c, s, at(1, i*blockSize, blockSize))
		}
	}
	offer := func(from, n uint64) {
		for seq := range n {
			c.Offer(id(1000+from+seq), objstore.Body{make([]byte, blockSize)}, blockSize)
		}
	}
	expect := func(blocks, tails int64) {
		t.Helper()
		if got := c.Stats(); got.BlockBytes != blocks*blockSize || got.TailBytes != tails*blockSize {
			t.Errorf("%d and %d, want %d and %d blocks", got.BlockBytes/blockSize, got.TailBytes/blockSize, blocks, tails)
		}
	}
	scan()
	expect(16, 0)
	offer(0, 3)
	expect(13, 3)
	offer(3, 20)
	expect(8, 8)
	scan()
	expect(8, 8)

	c = newCache(t, s, anything, cache.Options{Capacity: 16 * blockSize, MaxGets: 1, ReadAhead: -1})
	offer(0, 30)
	expect(0, 16)
	read(t, c, s, at(1, 0, 3*blockSize))
	expect(3, 13)
	scan()
	expect(8, 8)
}

func TestCloseEndsWhatIsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newBucket(1, 20*blockSize)
		s.gate = make(chan struct{})
		c := newCache(t, s, anything, cache.Options{MaxGets: 2})
		var wg sync.WaitGroup
		for i := range 6 { // some hold a slot, others wait for one
			wg.Go(func() {
				if _, err := c.Read(t.Context(), at(1, i*blockSize, 10), nil); !errors.Is(err, cache.ErrClosed) {
					t.Errorf("error %v", err)
				}
			})
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := c.Read(gone, at(1, 10*blockSize, 10), nil); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		synctest.Wait()
		c.Close()
		wg.Wait()
		if _, err := c.Read(t.Context(), at(1, 0, 10), nil); !errors.Is(err, cache.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
		c.Close()
		if got := c.Stats(); got.FetchingBytes != 0 || got.BlockBytes != 0 {
			t.Errorf("%+v", got)
		}
		// The bubble ends only if no goroutine is left.
	})
}

// A block that comes back soon after it left is read repeatedly, if seldom: it stays. One
// that comes back late is new.
func TestWhatComesBackSoonStays(t *testing.T) {
	for _, tc := range []struct {
		name    string
		between int // blocks scanned before the block comes back
		stays   bool
	}{{"soon", 20, true}, {"late", 60, false}} {
		t.Run(tc.name, func(t *testing.T) {
			s := newBucket(2, 200*blockSize)
			c := newCache(t, s, anything, cache.Options{Capacity: 16 * blockSize, ReadAhead: -1})
			for i := range 4 { // something for the main queue
				read(t, c, s, at(1, (100+i)*blockSize, blockSize))
				read(t, c, s, at(1, (100+i)*blockSize, blockSize))
			}
			scanned := 0
			scan := func(n int) {
				for range n {
					read(t, c, s, at(2, scanned*blockSize, blockSize))
					scanned++
				}
			}
			read(t, c, s, at(1, 0, blockSize))
			scan(tc.between)
			s.seen()
			read(t, c, s, at(1, 0, blockSize))
			expectGets(t, s, "0+4096")
			scan(20)
			s.seen()
			read(t, c, s, at(1, 0, blockSize))
			if stayed := s.seen() == ""; stayed != tc.stays {
				t.Errorf("stayed: %v, want %v", stayed, tc.stays)
			}
		})
	}
}

// What a dropped block still gets is not accounted for: nobody would ever evict it.
func TestDroppedBlockIsNotAccountedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 500
		s := &bucket{objects: map[string][]byte{id(1).Key(): batches(5, size)}}
		s.answer = func(get int, b []byte) ([]byte, error) {
			if get == 0 {
				b[size+100] ^= 1
			}
			return b, nil
		}
		c := newCache(t, s, segment.VerifyBatches, cache.Options{})
		read(t, c, s, until(at(1, 0, size), 2*size)) // brings a bad batch along
		s.gate = make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() { read(t, c, s, at(1, 3*size, size)) })
		synctest.Wait()
		wg.Go(func() { read(t, c, s, at(1, size, size)) }) // finds it and drops the block
		synctest.Wait()
		close(s.gate)
		wg.Wait()
		synctest.Wait()
		if got := c.Stats(); got.Corrupt != 1 || got.BlockBytes != 5*size {
			t.Errorf("%+v, want one range that was corrupt and %d bytes of blocks", got, 5*size)
		}
		c.Close()
	})
}

// A block remembers a bounded number of verified ranges; one that it forgot is verified
// again.
func TestVerifiedRangesAreBounded(t *testing.T) {
	for _, order := range []struct {
		name string
		pos  func(i int) int
	}{{"upwards", func(i int) int { return i * 20 }}, {"downwards", func(i int) int { return (199 - i) * 20 }}} {
		t.Run(order.name, func(t *testing.T) {
			s := newBucket(1, blockSize)
			verified := 0
			c := newCache(t, s, func([][]byte) error { verified++; return nil }, cache.Options{})
			for i := range 200 {
				read(t, c, s, at(1, order.pos(i), 10))
			}
			if verified != 200 {
				t.Errorf("%d verifications", verified)
			}
			read(t, c, s, at(1, order.pos(199), 10))
			if verified != 200 {
				t.Error("the newest range was forgotten")
			}
			read(t, c, s, at(1, order.pos(0), 10))
			if verified != 201 {
				t.Error("all ranges are remembered")
			}
		})
	}
}
