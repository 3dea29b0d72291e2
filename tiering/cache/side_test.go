package cache_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/cache"
	"github.com/floelog/floe/tiering/objstore"
	"github.com/floelog/floe/tiering/objstore/memory"
)

// counting counts GETs of a memory store, and their bytes. Each takes a while.
type counting struct {
	objstore.Store
	gets, bytes atomic.Int64
}

func (s *counting) GetRange(ctx context.Context, key string, off, n int64) ([]byte, error) {
	b, err := s.Store.GetRange(ctx, key, off, n)
	s.count(b)
	return b, err
}

func (s *counting) GetUpTo(ctx context.Context, key string, off, n int64) (objstore.Body, int64, error) {
	b, size, err := s.Store.GetUpTo(ctx, key, off, n)
	s.count(b...)
	return b, size, err
}

func (s *counting) count(b ...[]byte) {
	s.gets.Add(1)
	s.bytes.Add(objstore.Body(b).Size())
	time.Sleep(20 * time.Millisecond)
}

// sideBySide stores n segments, each of which has one extent of size bytes for each of so many
// partitions, between a header and a footer; and returns the logs of the partitions.
func sideBySide(t *testing.T, s objstore.Store, n, partitions, size int) [][]tiering.Extent {
	t.Helper()
	const header, footer = 64, 500
	logs := make([][]tiering.Extent, partitions)
	for seq := range n {
		if err := s.Put(t.Context(), id(uint64(seq+1)).Key(), objstore.Body{make([]byte, header+partitions*size+footer)}); err != nil {
			t.Fatal(err)
		}
		for p := range logs {
			logs[p] = append(logs[p], tiering.Extent{
				Base: tiering.Offset(10 * seq), Count: 10, Length: int32(size),
				Segment: id(uint64(seq + 1)), Position: tiering.Position(header + p*size),
			})
		}
	}
	return logs
}

// A GiB of records that 48 partitions have a part of in each flush of 8 MiB costs as many GETs as
// its blocks, and a few; here at a 32th of all sizes. Without blocks that are filled it would be
// 48 a flush.
func TestReadersOfOneFlushShareItsGets(t *testing.T) {
	const block, partitions = 64 << 10, 48
	for _, tc := range []struct {
		name                  string
		segments, segmentSize int
		together              int // extents of each partition that one request after the other reads; 0: apart
		cold                  bool
		perGiB                int64
	}{
		{"one consumer, flushes of 8 MiB", 64, 4 * block, 1, true, 700},
		{"one consumer, flushes of 8 MiB, of which it reads six at a time", 64, 4 * block, 6, true, 700},
		{"one consumer at the tail, flushes of 8 MiB", 64, 4 * block, 1, false, 700},
		{"48 consumers, flushes of 8 MiB", 64, 4 * block, 0, true, 700},
		{"one consumer, merged to 32 MiB", 16, 16 * block, 1, true, 600},
		{"48 consumers, merged to 32 MiB", 16, 16 * block, 0, true, 600},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &counting{Store: memory.New()}
				size := tc.segmentSize / partitions
				logs := sideBySide(t, s, tc.segments, partitions, size)
				capacity := int64(96 * block) // as the default of an agent, 192 MiB
				if tc.together == 0 || !tc.cold {
					capacity = 256 * block // that readers are apart by less
				}
				c := newCache(t, s, anything, cache.Options{Capacity: capacity, BlockSize: block})
				next := func(p, i int) error {
					e := logs[p][i]
					_, err := c.Read(t.Context(), cache.Range{
						Segment: e.Segment, Position: e.Position, Length: int(e.Length), Rest: logs[p][i+1:], Cold: tc.cold,
					}, nil)
					return err
				}
				var g errgroup.Group
				if tc.together > 0 {
					for i := 0; i < tc.segments; i += tc.together {
						g.SetLimit(8)
						for p := range partitions {
							g.Go(func() (err error) {
								for k := i; k < min(i+tc.together, tc.segments) && err == nil; k++ {
									err = next(p, k)
								}
								return err
							})
						}
						if err := g.Wait(); err != nil {
							t.Fatal(err)
						}
						time.Sleep(5 * time.Millisecond)
					}
				} else {
					for p := range partitions {
						g.Go(func() error {
							for i := range tc.segments {
								if err := next(p, i); err != nil {
									return err
								}
								time.Sleep(time.Duration(5+p%7) * time.Millisecond)
							}
							return nil
						})
					}
				}
				if err := g.Wait(); err != nil {
					t.Fatal(err)
				}
				c.Close()
				bytes := int64(tc.segments * partitions * size)
				perGiB := s.gets.Load() * (1 << 30) / (32 * bytes)
				t.Logf("%d GETs a GiB, %d bytes got for %d", perGiB, s.bytes.Load(), bytes)
				if perGiB > tc.perGiB || s.bytes.Load() > bytes+bytes/20 {
					t.Errorf("%d GETs a GiB, want %d; %d bytes got for %d; %+v", perGiB, tc.perGiB, s.bytes.Load(), bytes, c.Stats())
				}
			})
		})
	}
}

// Who reads alone, a little of each segment, has no block filled that nobody else reads.
func TestALoneReaderOfSmallExtentsGetsNoWholeBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const block, n, size = 64 << 10, 100, 256
		s := &counting{Store: memory.New()}
		log := sideBySide(t, s, n, 1000, size)[3]
		c := newCache(t, s, anything, cache.Options{Capacity: 256 * block, BlockSize: block})
		if err := follow(t.Context(), c, log, true); err != nil {
			t.Fatal(err)
		}
		c.Close()
		if got := s.bytes.Load(); got != n*(64+4*size) || s.gets.Load() != n {
			t.Errorf("%d GETs of %d bytes for %d extents of %d", s.gets.Load(), got, n, size)
		}
	})
}

// Two who each read a little do not have all blocks filled before anybody asks for them.
func TestTwoReadersOfSmallExtents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const block, n, size = 64 << 10, 50, 256
		s := &counting{Store: memory.New()}
		logs := sideBySide(t, s, n, 1000, size)
		c := newCache(t, s, anything, cache.Options{Capacity: 256 * block, BlockSize: block})
		for _, p := range []int{3, 600} { // in different blocks
			if err := follow(t.Context(), c, logs[p], true); err != nil {
				t.Fatal(err)
			}
		}
		if s.gets.Load() != 2*n || s.bytes.Load() > 2*n*block {
			t.Errorf("%d GETs of %d bytes", s.gets.Load(), s.bytes.Load())
		}
		if err := follow(t.Context(), c, logs[700], true); err != nil { // in the block of the other
			t.Fatal(err)
		}
		c.Close()
		if s.gets.Load() != 3*n {
			t.Errorf("%d GETs for two readers in a block and one in another", s.gets.Load())
		}
	})
}

// A store that cannot say how large an object is, or has damaged bytes beside those that are
// wanted, costs more GETs and no reads.
func TestWhatIsWantedIsReadWithoutWhatIsBesideIt(t *testing.T) {
	s := newBucket(1, 3*blockSize)
	c := newCache(t, s, anything, cache.Options{})
	read(t, c, s, at(1, 0, 100))
	s.seen()
	s.answer = func(get int, b []byte) ([]byte, error) {
		if len(b) > 1000 {
			return nil, fmt.Errorf("%w: the answer does not tell the object's size", objstore.ErrCorrupt)
		}
		return b, nil
	}
	read(t, c, s, at(1, 200, 100))
	expectGets(t, s, "100~3996 100+200")
	s.answer = func(get int, b []byte) ([]byte, error) { return b[:max(len(b)-1, 1)], nil } // cut on the way
	if _, err := c.Read(t.Context(), at(1, 400, 100), nil); err == nil {
		t.Error("a cut answer is taken for the end of the segment")
	}
	s.answer = nil
	s.seen()
	read(t, c, s, at(1, 400, 100))
	expectGets(t, s, "300~3796")
}

// The last block of a segment is served from the disk as far as the segment goes, after a
// restart too, when nobody knows how far that is.
func TestTheLastBlockIsReadFromTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = blockSize + 1500
		s := newBucket(1, size)
		dir := t.TempDir()
		for restart := range 2 {
			d := newDisk(t, dir)
			c := over(t, s, anything, d, nil)
			for pos := 0; pos < size; pos += 100 {
				read(t, c, s, at(1, pos, min(100, size-pos)))
				synctest.Wait() // until it is written
			}
			want := ""
			if restart == 0 {
				want = "0+100 100~3996 4096~1500"
			}
			expectGets(t, s, want)
			c.Close()
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}

// Agents of a zone that read the same partitions side by side cost the store what one does.
func TestReadersOfAZoneShareTheGetsOfAFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const segments, partitions = 20, 48
		s := &counting{Store: memory.New()}
		const size = 4 * blockSize / partitions
		logs := sideBySide(t, s, segments, partitions, size)
		z := newZone(t, 2, s, anything, cache.Options{Capacity: 256 * blockSize})
		z.owner = func(seg tiering.SegmentID, start int64) int { return (int(seg.Seq) + int(start/blockSize)) % 2 }
		var wg sync.WaitGroup
		for _, c := range z.all {
			for p := range partitions {
				wg.Go(func() {
					if err := follow(t.Context(), c, logs[p], true); err != nil {
						t.Error(err)
					}
				})
			}
		}
		wg.Wait()
		for _, c := range z.all {
			c.Close()
		}
		if got := s.gets.Load(); got > segments*7 || s.bytes.Load() > segments*(4*blockSize+600) {
			t.Errorf("%d GETs of %d bytes for %d segments of 5 blocks", got, s.bytes.Load(), segments)
		}
		for _, c := range z.all {
			if st := c.Stats(); st.PeerErrors > segments {
				t.Errorf("%+v", st)
			}
		}
	})
}
