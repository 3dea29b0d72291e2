package cache_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"testing"
	"testing/synctest"

	"github.com/floelog/floe/tiering/cache"
	"github.com/floelog/floe/tiering/objstore"
	"github.com/floelog/floe/tiering/segment"
)

// recordBatch is the least of a record batch of size bytes that verifies.
func recordBatch(size int) []byte {
	b := bytes.Repeat([]byte{byte(size)}, size)
	binary.BigEndian.PutUint32(b[8:], uint32(size-12))
	b[16] = 2
	binary.BigEndian.PutUint32(b[23:], 0)
	binary.BigEndian.PutUint32(b[57:], 1)
	binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], crc32.MakeTable(crc32.Castagnoli)))
	return b
}

func TestCutRangesAreWholeBatches(t *testing.T) {
	var object []byte
	var ends []int
	for _, size := range []int{100, 5000, 61, 3000, 9000, 200} {
		object = append(object, recordBatch(size)...)
		ends = append(ends, len(object))
	}
	whole := func(from, n int) []byte {
		end := from
		for _, e := range ends {
			if e <= from+n {
				end = max(end, e)
			}
		}
		return object[from:end]
	}
	for _, offered := range []bool{false, true} {
		s := &bucket{objects: map[string][]byte{id(1).Key(): object}}
		c := newCache(t, s, segment.VerifyBatches, cache.Options{Whole: segment.WholeBatches})
		if offered {
			c.Offer(id(1), objstore.Body{object[:150], object[150:7000], object[7000:]}, 0)
		}
		for _, r := range [][2]int{{0, 99}, {0, 100}, {0, 101}, {0, 8000}, {100, 5000}, {100, 8160}, {5100, 60}, {5100, 4000}, {0, len(object)}} {
			cut := at(1, r[0], r[1])
			cut.Cut = true
			got, err := c.Read(t.Context(), cut, [][]byte{[]byte("kept")})
			if want := whole(r[0], r[1]); err != nil || !bytes.Equal(bytes.Join(got[1:], nil), want) || string(got[0]) != "kept" {
				t.Errorf("offered %v, %d bytes from %d: %d bytes, %v, want %d", offered, r[1], r[0], len(bytes.Join(got[1:], nil)), err, len(want))
			}
		}
		if offered != (s.seen() == "") {
			t.Errorf("offered %v, and yet there were GETs or none", offered)
		}
	}
}

func TestCutRangesAreVerified(t *testing.T) {
	object := append(recordBatch(100), recordBatch(200)...)
	object[250] ^= 1
	s := &bucket{objects: map[string][]byte{id(1).Key(): object}}
	c := newCache(t, s, segment.VerifyBatches, cache.Options{Whole: segment.WholeBatches})
	cut := at(1, 0, 299)
	cut.Cut = true
	if got, err := c.Read(t.Context(), cut, nil); err != nil || len(bytes.Join(got, nil)) != 100 {
		t.Errorf("damage behind the cut: %v", err)
	}
	cut.Length++
	if _, err := c.Read(t.Context(), cut, nil); !errors.Is(err, objstore.ErrCorrupt) {
		t.Errorf("damage before the cut: %v", err)
	}
	plain := newCache(t, s, segment.VerifyBatches, cache.Options{})
	if _, err := plain.Read(t.Context(), cut, nil); err == nil {
		t.Error("a cache that cannot tell where batches end takes a range that may end within one")
	}
}

func TestHasSaysWhatIsInMemory(t *testing.T) {
	s := newBucket(2, 4*blockSize)
	c := newCache(t, s, anything, cache.Options{})
	expect := func(r cache.Range, want bool) {
		t.Helper()
		if got := c.Has(r); got != want {
			t.Errorf("%s: %v, want %v", r, got, want)
		}
	}
	expect(at(1, 0, 10), false)
	read(t, c, s, at(1, 0, blockSize+10))
	expect(at(1, 100, blockSize-90), true)
	expect(at(1, 0, blockSize+11), false)
	expect(at(1, 3*blockSize, 1), false)
	c.Offer(id(2), objstore.Body{s.objects[id(2).Key()]}, 0)
	expect(at(2, 0, 4*blockSize), true)
	expect(at(2, 1, 4*blockSize), false)
}

// Loads of lagging readers leave slots to others.
func TestLaggingReadersLeaveSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newBucket(2, 64*blockSize)
		s.gate = make(chan struct{})
		c := newCache(t, s, anything, cache.Options{MaxGets: 8, ReadAhead: -1})
		done := make(chan error, 2)
		start := func(r cache.Range) {
			go func() {
				_, err := c.Read(t.Context(), r, nil)
				done <- err
			}()
			synctest.Wait()
		}
		inFlight := func(want int) {
			t.Helper()
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.inFlight != want {
				t.Errorf("%d GETs in flight, want %d", s.inFlight, want)
			}
		}
		cold := at(1, 0, 20*blockSize)
		cold.Cold = true
		start(cold)
		inFlight(8)
		start(at(2, 0, 3*blockSize))
		inFlight(9)
		close(s.gate)
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		c.Close()
	})
}
