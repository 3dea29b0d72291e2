package cache_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/cache"
	"github.com/floelog/floe/tiering/objstore"
	"github.com/floelog/floe/tiering/segment"
)

const blockSize = 4 << 10

// bucket is an object store of which only GetRange and GetUpTo are used. It notes every GET, as
// "position+length" or "position~length at most", and answers it when gate, if there is one, lets
// it through.
type bucket struct {
	objstore.Store
	objects map[string][]byte
	gate    chan struct{}
	answer  func(get int, b []byte) ([]byte, error) // may change an answer

	mu       sync.Mutex
	gets     []string
	inFlight int
	most     int
}

func (s *bucket) GetRange(ctx context.Context, key string, off, n int64) ([]byte, error) {
	object := s.objects[key]
	if object != nil && off+n > int64(len(object)) {
		return nil, fmt.Errorf("%w: %d+%d of %d", objstore.ErrCorrupt, off, n, len(object))
	}
	return s.get(ctx, fmt.Sprintf("%d+%d", off, n), object, off, n)
}

func (s *bucket) GetUpTo(ctx context.Context, key string, off, n int64) (objstore.Body, int64, error) {
	object := s.objects[key]
	size := int64(len(object))
	if object != nil && off >= size {
		return nil, 0, fmt.Errorf("%w: %d~%d of %d", objstore.ErrBeyond, off, n, size)
	}
	b, err := s.get(ctx, fmt.Sprintf("%d~%d", off, n), object, off, min(n, size-off))
	return objstore.Body{b}, size, err
}

func (s *bucket) get(ctx context.Context, what string, object []byte, off, n int64) ([]byte, error) {
	s.mu.Lock()
	get := len(s.gets)
	s.gets = append(s.gets, what)
	s.inFlight++
	s.most = max(s.most, s.inFlight)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.inFlight--
		s.mu.Unlock()
	}()
	if s.gate != nil {
		select {
		case <-s.gate:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if object == nil {
		return nil, objstore.ErrNotFound
	}
	b := bytes.Clone(object[off : off+n])
	if s.answer != nil {
		return s.answer(get, b)
	}
	return b, nil
}

// seen returns the GETs since the last call.
func (s *bucket) seen() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := strings.Join(s.gets, " ")
	s.gets = nil
	return out
}

func id(seq uint64) tiering.SegmentID {
	return tiering.SegmentID{Session: tiering.SessionID{1, 2, 3}, Seq: seq}
}

// newBucket has segments 1 to n of size random bytes.
func newBucket(n, size int) *bucket {
	rng := rand.NewChaCha8([32]byte{7})
	s := &bucket{objects: map[string][]byte{}}
	for i := range n {
		b := make([]byte, size)
		_, _ = rng.Read(b) // never fails
		s.objects[id(uint64(i+1)).Key()] = b
	}
	return s
}

func anything([][]byte) error { return nil }

func newCache(t testing.TB, store objstore.Store, verify cache.Verify, opts cache.Options) *cache.Cache {
	t.Helper()
	if opts.BlockSize == 0 {
		opts.BlockSize = blockSize
	}
	if opts.Capacity == 0 {
		opts.Capacity = 64 * opts.BlockSize
	}
	c, err := cache.New(store, verify, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func at(seq uint64, pos, n int) cache.Range {
	return cache.Range{Segment: id(seq), Position: tiering.Position(pos), Length: n}
}

func until(r cache.Range, end int) cache.Range {
	r.End = tiering.Position(end)
	return r
}

// read reads a range and compares it with what the bucket has.
func read(t testing.TB, c *cache.Cache, s *bucket, r cache.Range) {
	t.Helper()
	got, err := c.Read(t.Context(), r, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := s.objects[r.Segment.Key()][r.Position:][:r.Length]
	if !bytes.Equal(bytes.Join(got, nil), want) {
		t.Fatalf("%s: other bytes", r)
	}
}

func expectGets(t testing.TB, s *bucket, want string) {
	t.Helper()
	if got := s.seen(); got != want {
		t.Errorf("GETs %q, want %q", got, want)
	}
}

func TestOptions(t *testing.T) {
	for _, tc := range []struct {
		opts cache.Options
		want string
	}{
		{cache.Options{}, "capacity is 0 bytes: want at least 8388608"},
		{cache.Options{Capacity: 1 << 20, BlockSize: 100}, "block size is 100"},
		{cache.Options{Capacity: 1 << 20, BlockSize: 1 << 19}, "capacity is 1048576"},
		{cache.Options{Capacity: 1 << 20, BlockSize: 1 << 16, MaxGets: -1}, "at least 1"},
	} {
		if _, err := cache.New(&bucket{}, anything, tc.opts); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%+v: error %v, want %q", tc.opts, err, tc.want)
		}
	}
}

func TestNoSuchRange(t *testing.T) {
	c := newCache(t, newBucket(1, 100), anything, cache.Options{})
	for _, r := range []cache.Range{at(1, 0, 0), at(1, -1, 5), at(1, 0, -1), at(1, 1<<63-1, 1), {Length: 5}} {
		if _, err := c.Read(t.Context(), r, nil); err == nil || !strings.Contains(err.Error(), "no such range") {
			t.Errorf("%s: %v", r, err)
		}
	}
}

func TestRandomRanges(t *testing.T) {
	s := newBucket(3, 20*blockSize+77)
	c := newCache(t, s, anything, cache.Options{Capacity: 16 * blockSize})
	rng := rand.New(rand.NewPCG(3, 4))
	size := 20*blockSize + 77
	for i := range 5000 {
		pos := rng.IntN(size)
		r := at(uint64(1+rng.IntN(3)), pos, 1+rng.IntN(min(size-pos, 1<<(2+rng.IntN(14)))))
		if i%2 == 0 {
			r = until(r, rng.IntN(size+1))
		}
		read(t, c, s, r)
	}
}

func TestReadAppends(t *testing.T) {
	s := newBucket(1, 100)
	c := newCache(t, s, anything, cache.Options{})
	dst := [][]byte{{1}}
	got, err := c.Read(t.Context(), at(1, 10, 5), dst)
	if err != nil || len(got) != 2 || got[0][0] != 1 || !bytes.Equal(got[1], s.objects[id(1).Key()][10:15]) {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := c.Read(t.Context(), at(9, 10, 5), dst); !errors.Is(err, objstore.ErrNotFound) || len(got) != 1 {
		t.Errorf("after an error: %v, %v", got, err)
	}
}

// The size of an object is not known: what is asked for never goes beyond what a caller
// knows to exist, and no byte is fetched twice.
// TestSmallReadsKeepNoBlocks: who takes little of a block must not keep all of it in memory.
func TestSmallReadsKeepNoBlocks(t *testing.T) {
	s := newBucket(1, 4*blockSize)
	c := newCache(t, s, anything, cache.Options{ReadAhead: -1})
	shared := func(r cache.Range) bool {
		var got [2][][]byte
		for i := range got {
			var err error
			if got[i], err = c.Read(t.Context(), r, nil); err != nil {
				t.Fatal(err)
			}
			if want := s.objects[r.Segment.Key()][r.Position:][:r.Length]; !bytes.Equal(bytes.Join(got[i], nil), want) {
				t.Fatalf("%s: other bytes", r)
			}
		}
		return &got[0][0][0] == &got[1][0][0]
	}
	if !shared(at(1, 0, blockSize)) {
		t.Error("a read of a whole block was copied")
	}
	if !shared(at(1, 100, blockSize/8)) {
		t.Error("a read of an eighth of a block was copied")
	}
	if shared(at(1, 100, blockSize/9)) {
		t.Error("a read of a ninth of a block keeps the block")
	}
	if shared(at(1, blockSize-10, 20)) {
		t.Error("a read of ten bytes of each of two blocks keeps both")
	}
}

func TestABlockIsFilledForAllButItsFirstReader(t *testing.T) {
	s := newBucket(2, 3*blockSize-100)
	c := newCache(t, s, anything, cache.Options{ReadAhead: -1})
	for _, step := range []struct {
		r    cache.Range
		gets string
	}{
		{at(1, 100, 50), "0+150"},
		{at(1, 0, 150), ""},
		{at(1, 200, 100), "150~3946"},
		{until(at(1, 290, 20), 1000), ""},
		{until(at(1, 1000, 20), 3*blockSize-100), ""}, // an eighth of the block is taken by now
		{at(1, 0, blockSize), ""},
		{at(1, 2*blockSize+5, 5), "8192~3996"}, // the size is known
		{at(1, blockSize-1, blockSize+20), "4096+4096"},
		{at(2, blockSize+5, 10), "4096+15"}, // nobody else was seen in that segment
		{at(2, 2*blockSize+5, 10), "8192+15"},
		{at(2, 2*blockSize+10, 10), "8207~4081"},
		{at(2, 3*blockSize-110, 10), ""},
		{until(at(2, 10, 10), blockSize), "0+4096"},
	} {
		read(t, c, s, step.r)
		got := s.seen()
		if parts := strings.Split(step.gets, " "); len(parts) == 2 && got == parts[1]+" "+parts[0] {
			got = step.gets // the GETs of one read go out at the same time
		}
		if got != step.gets {
			t.Errorf("%s: GETs %q, want %q", step.r, got, step.gets)
		}
	}
}

func TestOneGetForManyReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newBucket(1, blockSize)
		s.gate = make(chan struct{})
		c := newCache(t, s, anything, cache.Options{})
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() { read(t, c, s, until(at(1, 10, 10), blockSize)) })
		}
		synctest.Wait()
		if n := c.Stats().GetsInFlight; n != 1 {
			t.Errorf("%d GETs in flight", n)
		}
		s.gate <- struct{}{}
		wg.Wait()
		expectGets(t, s, "0+4096")
		c.Close()
	})
}

// A reader that needs more than the GET under way brings orders the rest after it.
func TestReaderThatNeedsMoreThanTheFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newBucket(1, blockSize)
		s.gate = make(chan struct{})
		c := newCache(t, s, anything, cache.Options{})
		var wg sync.WaitGroup
		wg.Go(func() { read(t, c, s, at(1, 0, 10)) })
		synctest.Wait()
		for range 3 {
			wg.Go(func() { read(t, c, s, at(1, 5, 200)) })
		}
		synctest.Wait()
		close(s.gate)
		wg.Wait()
		expectGets(t, s, "0+10 10~4086")
		c.Close()
	})
}

func TestFlightSurvivesItsFirstReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newBucket(1, blockSize)
		s.gate = make(chan struct{})
		c := newCache(t, s, anything, cache.Options{})
		ctx, cancel := context.WithCancelCause(t.Context())
		gone := errors.New("client went away")
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := c.Read(ctx, at(1, 0, 10), nil); !errors.Is(err, gone) {
				t.Errorf("cancelled reader: %v", err)
			}
		})
		synctest.Wait()
		wg.Go(func() { read(t, c, s, at(1, 0, 10)) })
		synctest.Wait()
		cancel(gone)
		synctest.Wait()
		s.gate <- struct{}{}
		wg.Wait()
		read(t, c, s, at(1, 0, 10))
		expectGets(t, s, "0+10")
		c.Close()
	})
}

func TestGetsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newBucket(1, 40*blockSize)
		s.gate = make(chan struct{})
		c := newCache(t, s, anything, cache.Options{MaxGets: 5})
		var wg sync.WaitGroup
		wg.Go(func() { read(t, c, s, at(1, 0, 40*blockSize)) })
		synctest.Wait()
		if n := c.Stats(); n.GetsInFlight != 5 || n.FetchingBytes != 5*blockSize {
			t.Errorf("%+v", n)
		}
		close(s.gate)
		wg.Wait()
		if s.most != 5 {
			t.Errorf("%d GETs at a time", s.most)
		}
		c.Close()
	})
}

func TestErrorsPassAndAreNotKept(t *testing.T) {
	s := newBucket(1, 100)
	c := newCache(t, s, anything, cache.Options{})
	for range 2 {
		if _, err := c.Read(t.Context(), at(2, 0, 10), nil); !errors.Is(err, objstore.ErrNotFound) || !strings.Contains(err.Error(), id(2).String()) {
			t.Errorf("error %v", err)
		}
	}
	expectGets(t, s, "0+10 0+10")
	read(t, c, s, at(1, 0, 10))
	failure := errors.New("connection reset")
	s.answer = func(int, []byte) ([]byte, error) { return nil, failure }
	if _, err := c.Read(t.Context(), at(1, 50, 10), nil); !errors.Is(err, failure) {
		t.Errorf("error %v", err)
	}
	s.answer = nil
	s.seen()
	read(t, c, s, at(1, 50, 10))
	expectGets(t, s, "10~4086") // what was there before the failure stayed
	if got := c.Stats(); got.GetErrors != 3 || got.Gets != 5 || got.GetBytes != 100 || got.BlockBytes != 100 {
		t.Errorf("%+v", got)
	}
}

func TestShortAnswerIsCorruption(t *testing.T) {
	s := newBucket(1, 100)
	s.answer = func(_ int, b []byte) ([]byte, error) { return b[:len(b)-1], nil }
	c := newCache(t, s, anything, cache.Options{})
	if _, err := c.Read(t.Context(), at(1, 0, 10), nil); !errors.Is(err, objstore.ErrCorrupt) {
		t.Errorf("error %v", err)
	}
	expectGets(t, s, "0+10 0+10")
	s.answer = func(get int, b []byte) ([]byte, error) { return b[:len(b)-max(0, 1-get)], nil }
	read(t, c, s, at(1, 0, 10))
	expectGets(t, s, "0+10 0+10")
}

// batches returns n record batches of size bytes each.
func batches(n, size int) []byte {
	var all []byte
	for i := range n {
		b := bytes.Repeat([]byte{byte(i + 1)}, size)
		clear(b[:61])
		binary.BigEndian.PutUint32(b[8:], uint32(size-12))
		b[16] = 2
		binary.BigEndian.PutUint32(b[57:], 1)
		binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], crc32.MakeTable(crc32.Castagnoli)))
		all = append(all, b...)
	}
	return all
}

func TestEveryRangeIsVerifiedOncePerLoad(t *testing.T) {
	const size = 1000
	s := &bucket{objects: map[string][]byte{id(1).Key(): batches(100, size)}}
	verified := 0
	c := newCache(t, s, func(b [][]byte) error {
		verified += int(objstore.Body(b).Size())
		return segment.VerifyBatches(b)
	}, cache.Options{Capacity: 64 * blockSize})
	for range 3 {
		for i := 0; i < 100; i += 2 {
			read(t, c, s, at(1, i*size, 2*size))
		}
	}
	if verified != 100*size {
		t.Errorf("%d bytes verified, want %d", verified, 100*size)
	}
	read(t, c, s, at(1, size, 50*size)) // other extents over the same bytes
	if verified != 100*size {
		t.Errorf("bytes that had passed were verified again")
	}
}

func TestFlippedBitsAreFetchedAgainOnce(t *testing.T) {
	const size = 1000
	flip := func(bad func(get int) bool) func(int, []byte) ([]byte, error) {
		return func(get int, b []byte) ([]byte, error) {
			if bad(get) {
				for i := 500; i < len(b); i += size {
					b[i] ^= 4
				}
			}
			return b, nil
		}
	}
	s := &bucket{objects: map[string][]byte{id(1).Key(): batches(20, size)}}
	c := newCache(t, s, segment.VerifyBatches, cache.Options{})
	s.answer = flip(func(get int) bool { return get == 0 })
	read(t, c, s, at(1, 0, 2*size))
	expectGets(t, s, "0+2000 0+2000")

	s.answer = flip(func(int) bool { return true })
	_, err := c.Read(t.Context(), at(1, 2*size, size), nil)
	if !errors.Is(err, objstore.ErrCorrupt) || !errors.Is(err, segment.ErrCorrupt) {
		t.Errorf("error %v", err)
	}
	expectGets(t, s, "2000~2096 0~4096")
	if got := c.Stats(); got.Corrupt != 3 || got.BlockBytes != 0 {
		t.Errorf("%+v", got)
	}
	s.answer = nil
	read(t, c, s, at(1, 0, 3*size))
	expectGets(t, s, "0~4096")
}

func TestCorruptionIsNeverServed(t *testing.T) {
	const size, n = 700, 60
	s := &bucket{objects: map[string][]byte{id(1).Key(): batches(n, size)}}
	var mu sync.Mutex
	rng := rand.New(rand.NewPCG(5, 6))
	s.answer = func(_ int, b []byte) ([]byte, error) {
		mu.Lock()
		defer mu.Unlock()
		if rng.IntN(3) == 0 {
			at := rng.IntN(len(b))
			if in := at % size; in > 20 { // below are fields that a reader sets itself
				b[at] ^= 1 << rng.IntN(8)
			}
		}
		return b, nil
	}
	c := newCache(t, s, segment.VerifyBatches, cache.Options{Capacity: 6 * blockSize})
	want := s.objects[id(1).Key()]
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(g), 7))
			for range 500 {
				i := rng.IntN(n)
				r := until(at(1, i*size, (1+rng.IntN(min(n-i, 12)))*size), n*size)
				got, err := c.Read(t.Context(), r, nil)
				if err != nil && !errors.Is(err, objstore.ErrCorrupt) {
					t.Error(err)
				}
				if err == nil && segment.VerifyBatches(got) != nil || err == nil && len(bytes.Join(got, nil)) != r.Length {
					t.Errorf("%s: corrupt bytes were served", r)
				}
				if err == nil {
					for k, b := range bytes.Join(got, nil) {
						if pos := int(r.Position) + k; pos%size > 20 && b != want[pos] {
							t.Errorf("byte %d is %d, want %d", pos, b, want[pos])
						}
					}
				}
			}
		})
	}
	wg.Wait()
	if c.Stats().Corrupt == 0 {
		t.Error("no fault fired")
	}
}
