package cache_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/cache"
	"github.com/floelog/floe/tiering/cache/disk"
	"github.com/floelog/floe/tiering/objstore"
	"github.com/floelog/floe/tiering/segment"
)

// zone is agents whose caches ask each other, as they are told.
type zone struct {
	owner func(segment tiering.SegmentID, start int64) int // which agent; less than 0: nobody
	all   []*cache.Cache
	asked atomic.Int64
	spoil func(b []byte) ([]byte, error) // changes answers
}

// member is one agent of a zone.
type member struct {
	z    *zone
	self int
}

func (m member) Owner(s tiering.SegmentID, start int64) (string, bool) {
	n := m.z.owner(s, start)
	return string(rune('0' + max(n, 0))), n >= 0 && n != m.self
}

func (m member) Ask(ctx context.Context, addr string, p cache.Piece, cold bool) ([]byte, error) {
	m.z.asked.Add(1)
	out, err := m.z.all[addr[0]-'0'].Serve(ctx, cache.Range{Segment: p.Segment, Position: p.Position, Length: int(p.Length), Cold: cold})
	if err != nil {
		return nil, err
	}
	b := bytes.Join(out, nil)
	if m.z.spoil != nil {
		return m.z.spoil(b)
	}
	return b, nil
}

func newZone(t *testing.T, n int, s objstore.Store, verify cache.Verify, opts cache.Options) *zone {
	t.Helper()
	z := &zone{owner: func(s tiering.SegmentID, start int64) int { return int(s.Seq+uint64(start/blockSize)) % n }}
	opts.BlockSize = blockSize
	if opts.Capacity == 0 {
		opts.Capacity = 64 * blockSize
	}
	for i := range n {
		c, err := cache.NewOver(cache.Parts{Store: s, Verify: verify, Zone: member{z, i}}, opts)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		z.all = append(z.all, c)
	}
	return z
}

func TestABlockIsFetchedOncePerZone(t *testing.T) {
	s := newBucket(4, 8*blockSize)
	z := newZone(t, 3, s, anything, cache.Options{Capacity: 256 * blockSize, ReadAhead: -1})
	var wg sync.WaitGroup
	for _, c := range z.all {
		for seq := 1; seq <= 4; seq++ {
			wg.Go(func() {
				for pos := 0; pos < 8*blockSize; pos += blockSize / 2 {
					read(t, c, s, until(at(uint64(seq), pos, blockSize/2), 8*blockSize))
				}
			})
		}
	}
	wg.Wait()
	var sum cache.Stats
	for _, c := range z.all {
		st := c.Stats()
		sum.Gets += st.Gets
		sum.PeerHits += st.PeerHits
		sum.Served += st.Served
		sum.PeerErrors += st.PeerErrors
	}
	if sum.Gets != 4*8 || sum.PeerHits != 2*4*8 || sum.Served != sum.PeerHits || sum.PeerErrors != 0 {
		t.Errorf("%+v, want 32 GETs and 64 answers", sum)
	}
}

func TestAnOwnerThatFailsIsDoneWithout(t *testing.T) {
	for _, tc := range []struct {
		name   string
		spoil  func([]byte) ([]byte, error)
		errors int64 // asks that were seen to fail
	}{
		{"an error", func([]byte) ([]byte, error) { return nil, errors.New("unavailable") }, 1},
		{"too few bytes", func(b []byte) ([]byte, error) { return b[1:], nil }, 1},
		{"other bytes", func(b []byte) ([]byte, error) { b[500] ^= 8; return b, nil }, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := &bucket{objects: map[string][]byte{id(1).Key(): batches(4, 1000)}}
			z := newZone(t, 2, s, segment.VerifyBatches, cache.Options{})
			z.owner = func(tiering.SegmentID, int64) int { return 1 }
			z.spoil = tc.spoil
			read(t, z.all[0], s, at(1, 0, 2000))
			if st := z.all[0].Stats(); st.PeerErrors != tc.errors || st.Gets != 1 || z.asked.Load() != 1 {
				t.Errorf("%+v", st)
			}
		})
	}
}

// Agents that differ on who owns a block, as they do for moments, do not wait for each other, and
// agents that only ask each other do not either.
func TestAgentsDoNotWaitForEachOtherInACircle(t *testing.T) {
	for _, tc := range []struct {
		name  string
		owner func(self int, n int64) int
	}{
		{"each takes the next one for the owner", func(self int, _ int64) int { return (self + 1) % 3 }},
		{"all agree", func(_ int, n int64) int { return int(n % 3) }},
	} {
		for _, cold := range []bool{false, true} {
			t.Run(fmt.Sprint(tc.name, ", cold: ", cold), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newBucket(1, 60*blockSize)
					all := make([]*cache.Cache, 3)
					for i := range all {
						z := &zone{all: all, owner: func(_ tiering.SegmentID, start int64) int { return tc.owner(i, start/blockSize) }}
						c, err := cache.NewOver(cache.Parts{Store: s, Verify: anything, Zone: member{z, i}}, cache.Options{Capacity: 64 * blockSize, BlockSize: blockSize, MaxGets: 2})
						if err != nil {
							t.Fatal(err)
						}
						all[i] = c
					}
					var wg sync.WaitGroup
					for _, c := range all {
						wg.Go(func() {
							r := at(1, 0, 60*blockSize)
							r.Cold = cold
							read(t, c, s, r)
						})
					}
					wg.Wait() // the bubble ends with a deadlock if they do
					for _, c := range all {
						if st := c.Stats(); st.PeerHits+st.PeerErrors == 0 {
							t.Errorf("nobody was asked: %+v", st)
						}
						c.Close()
					}
				})
			})
		}
	}
}

// stuck is the other agent of a zone, which owns all blocks and answers nothing until released.
type stuck struct{ release chan struct{} }

func (s stuck) Owner(tiering.SegmentID, int64) (string, bool) { return "stuck", true }

func (s stuck) Ask(ctx context.Context, _ string, _ cache.Piece, _ bool) ([]byte, error) {
	select {
	case <-s.release:
	case <-ctx.Done():
	}
	return nil, errors.New("gone")
}

// Who serves another agent waits for no third one, even if what it waited for brought too little
// and somebody else ordered the rest meanwhile.
func TestServingNeverWaitsForAnotherAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rounds, each = 20, 4
		s := newBucket(rounds, blockSize)
		z := stuck{make(chan struct{})}
		c, err := cache.NewOver(cache.Parts{Store: s, Verify: anything, Zone: z}, cache.Options{Capacity: 256 * blockSize, BlockSize: blockSize})
		if err != nil {
			t.Fatal(err)
		}
		var readers sync.WaitGroup
		refused := 0
		for seq := uint64(1); seq <= rounds; seq++ {
			s.gate = make(chan struct{})
			var served atomic.Int64
			var busy atomic.Int64
			serve := func(n int) {
				switch _, err := c.Serve(t.Context(), at(seq, 0, n)); {
				case errors.Is(err, cache.ErrBusy):
					busy.Add(1)
				case err != nil:
					t.Error(err)
				}
				served.Add(1)
			}
			go serve(10)
			synctest.Wait()
			for range each {
				readers.Go(func() { read(t, c, s, at(seq, 0, 200)) })
				go serve(100)
			}
			synctest.Wait()
			close(s.gate)
			synctest.Wait()
			if n := served.Load(); n != each+1 {
				t.Fatalf("%d of %d are served, others wait for a third agent", n, each+1)
			}
			refused += int(busy.Load())
		}
		if refused == 0 {
			t.Error("nobody came to what was asked of another agent")
		}
		close(z.release)
		readers.Wait()
		c.Close()
	})
}

func TestServing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newBucket(2, 4*blockSize)
		c := newCache(t, s, func([][]byte) error { return objstore.ErrCorrupt }, cache.Options{})
		body := objstore.Body{bytes.Repeat([]byte{7}, 500)}
		c.Offer(id(9), body, 500)
		for _, r := range []cache.Range{at(1, 10, 100), at(1, blockSize-10, 20), at(1, 0, 2*blockSize)} {
			out, err := c.Serve(t.Context(), r)
			if want := s.objects[id(1).Key()][r.Position:][:r.Length]; err != nil || !bytes.Equal(bytes.Join(out, nil), want) {
				t.Errorf("%s: %v", r, err)
			}
		}
		if out, err := c.Serve(t.Context(), at(9, 100, 50)); err != nil || !bytes.Equal(bytes.Join(out, nil), body[0][:50]) {
			t.Errorf("of this agent's own newest segment: %v", err)
		}
		for _, r := range []cache.Range{{}, at(1, 0, 0), at(1, -1, 10), at(1, 0, 2*blockSize+1)} {
			if _, err := c.Serve(t.Context(), r); err == nil {
				t.Errorf("%s was served", r)
			}
		}
		if _, err := c.Serve(t.Context(), at(3, 0, 10)); !errors.Is(err, objstore.ErrNotFound) {
			t.Errorf("what does not exist: %v", err)
		}
		// Too many at a time are refused at once.
		s.gate = make(chan struct{})
		var wg sync.WaitGroup
		for range 64 {
			wg.Go(func() {
				if _, err := c.Serve(t.Context(), at(2, 0, 10)); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		if _, err := c.Serve(t.Context(), at(1, 10, 100)); !errors.Is(err, cache.ErrBusy) {
			t.Errorf("one too many: %v", err)
		}
		close(s.gate)
		wg.Wait()
		if st := c.Stats(); st.Served != 3+1+64 || st.ServeRefused != 1 || st.Corrupt != 0 {
			t.Errorf("%+v", st)
		}
		c.Close()
	})
}

func newDisk(t *testing.T, dir string) *disk.Cache {
	t.Helper()
	d, err := disk.Open(disk.Options{Dir: dir, Bytes: disk.MinBytes}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func over(t *testing.T, s objstore.Store, verify cache.Verify, d cache.Disk, z cache.Zone) *cache.Cache {
	t.Helper()
	c, err := cache.NewOver(cache.Parts{Store: s, Verify: verify, Disk: d, Zone: z}, cache.Options{Capacity: 16 * blockSize, BlockSize: blockSize, ReadAhead: -1})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestWhatLeavesMemoryIsReadFromTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newBucket(100, blockSize-10)
		dir := t.TempDir()
		for restart := range 2 {
			d := newDisk(t, dir)
			c := over(t, s, anything, d, nil)
			for range 2 {
				for i := range 100 {
					read(t, c, s, at(uint64(i+1), 0, 1000))
					read(t, c, s, at(uint64(i+1), 1000, blockSize-1010))
					synctest.Wait() // until it is written
				}
			}
			if st := c.Stats(); restart == 0 && (st.Gets != 200 || st.DiskHits < 90) || restart == 1 && st.Gets != 0 {
				t.Errorf("start %d: %+v, %+v", restart, st, d.Stats())
			}
			c.Close()
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}

// Only what a fetch got from the store itself is put on the disk: so the disks of a zone
// together are one large cache, and jobs do not fill them.
func TestWhatIsPutOnTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newBucket(3, blockSize)
		z := newZone(t, 2, s, anything, cache.Options{})
		z.owner = func(s tiering.SegmentID, _ int64) int { return int(s.Seq) % 2 }
		d := newDisk(t, t.TempDir())
		c := over(t, s, anything, d, member{z, 0})
		read(t, c, s, at(1, 0, 100)) // from the other agent
		if _, err := c.Read(objstore.WithPurpose(t.Context(), objstore.Merge), at(2, 0, 100), nil); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if st := d.Stats(); st.Writes != 0 || c.Stats().PeerHits != 1 || c.Stats().Gets != 1 {
			t.Errorf("%+v", st)
		}
		read(t, c, s, at(2, 0, 1000))
		c.Close()
		c = over(t, s, anything, d, member{z, 0})
		read(t, c, s, at(2, 0, 1000))
		synctest.Wait()
		if st := d.Stats(); st.Writes != 1 {
			t.Errorf("%+v", st)
		}
		c.Close()
		for _, c := range z.all {
			c.Close()
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
}

// Bytes that were bad when they came from the store, and so on the disk have a checksum that is
// right, are dropped there, too.
func TestBadBytesDoNotStayOnTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &bucket{objects: map[string][]byte{id(1).Key(): batches(4, 1000)}}
		s.answer = func(get int, b []byte) ([]byte, error) {
			if get == 0 {
				b[1500] ^= 1
			}
			return b, nil
		}
		dir := t.TempDir()
		d := newDisk(t, dir)
		c := over(t, s, segment.VerifyBatches, d, nil)
		read(t, c, s, until(at(1, 0, 1000), 2000)) // brings the bad batch along, unread
		synctest.Wait()
		c.Close()
		c = over(t, s, segment.VerifyBatches, d, nil)
		read(t, c, s, at(1, 0, 2000)) // from the disk, and then from the store
		synctest.Wait()
		if st := c.Stats(); st.Corrupt != 1 || st.DiskHits != 1 || st.Gets != 1 {
			t.Errorf("%+v", st)
		}
		c.Close()
		c = over(t, s, segment.VerifyBatches, d, nil)
		read(t, c, s, at(1, 0, 2000))
		if st := c.Stats(); st.Corrupt != 0 || st.DiskHits != 1 || st.Gets != 0 {
			t.Errorf("after a restart: %+v", st)
		}
		c.Close()
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
}

// GETs carry the purpose of who waits for them.
func TestGetsCarryTheirPurpose(t *testing.T) {
	s := newBucket(4, blockSize)
	seen := &purposes{bucket: s}
	c := newCache(t, seen, anything, cache.Options{})
	for i, p := range []objstore.Purpose{objstore.Other, objstore.Fetch, objstore.Merge, objstore.Clean} {
		if _, err := c.Read(objstore.WithPurpose(t.Context(), p), at(uint64(i+1), 0, 10), nil); err != nil {
			t.Fatal(err)
		}
	}
	want := []objstore.Purpose{objstore.Fetch, objstore.Fetch, objstore.Merge, objstore.Clean}
	for i, p := range want {
		if seen.all[i] != p {
			t.Errorf("GET %d is for %s, want %s", i, seen.all[i], p)
		}
	}
}

type purposes struct {
	*bucket
	all []objstore.Purpose // of one GET after the other
}

func (s *purposes) GetRange(ctx context.Context, key string, off, n int64) ([]byte, error) {
	s.all = append(s.all, objstore.PurposeOf(ctx))
	return s.bucket.GetRange(ctx, key, off, n)
}

func (s *purposes) GetUpTo(ctx context.Context, key string, off, n int64) (objstore.Body, int64, error) {
	s.all = append(s.all, objstore.PurposeOf(ctx))
	return s.bucket.GetUpTo(ctx, key, off, n)
}

// A replay by lagging readers leaves what is hot where it is, even what was read only once, and
// however often they read the same.
func TestAReplayDoesNotDisplaceOthers(t *testing.T) {
	s := newBucket(2, 400*blockSize)
	c := newCache(t, s, anything, cache.Options{Capacity: 32 * blockSize, ReadAhead: -1})
	for i := range 20 {
		read(t, c, s, at(1, i*blockSize, blockSize))
	}
	cold := func(n int) cache.Range {
		r := at(2, n*blockSize, blockSize)
		r.Cold = true
		return r
	}
	for i := range 400 {
		for range 4 {
			read(t, c, s, cold(i))
		}
	}
	if st := c.Stats(); st.ColdBytes == 0 || st.ColdBytes > 12*blockSize {
		t.Errorf("%+v", st)
	}
	before := c.Stats().Gets
	for i := range 20 {
		read(t, c, s, at(1, i*blockSize, blockSize))
	}
	if n := c.Stats().Gets - before; n != 0 {
		t.Errorf("%d of 20 blocks were gone after the replay", n)
	}
	// What somebody else reads as well is on probation no more.
	read(t, c, s, at(2, 399*blockSize, blockSize))
	for i := range 30 {
		read(t, c, s, cold(i))
	}
	before = c.Stats().Gets
	read(t, c, s, at(2, 399*blockSize, blockSize))
	if n := c.Stats().Gets - before; n != 0 {
		t.Error("a block that others read, too, went with the replay")
	}
}
