package cache

import (
	"sync"

	"github.com/floelog/floe/tiering"
)

// maxSegments is of how many segments the cache remembers what it learned. Not fewer: readers
// side by side are within some hundred segments of each other, in as many windows. Not more:
// each is a hundred bytes, and forgetting one costs a GET.
const maxSegments = 4096

// facts are what is known of a segment besides its bytes.
type facts struct {
	size   int64 // of the object, by the store's word; 0: not known
	known  int64 // greatest end that a reader named
	shared bool  // several readers take parts of the same block that lie beside each other
}

// end returns up to where the segment is known to have bytes.
func (f facts) end() int64 {
	if f.size > 0 {
		return f.size
	}
	return f.known
}

// segments remembers facts, the newest maxSegments of them. Its lock is held for a few
// instructions, and taken for misses only, under that of a stripe.
type segments struct {
	mu    sync.Mutex
	facts map[tiering.SegmentID]*facts
	ring  []tiering.SegmentID // keys of facts, the oldest at next once it is full
	next  int
}

// at returns the facts of a segment, making room for new ones. The caller holds the lock.
func (s *segments) at(id tiering.SegmentID) *facts {
	f := s.facts[id]
	if f != nil {
		return f
	}
	if s.facts == nil {
		s.facts = make(map[tiering.SegmentID]*facts)
	}
	if len(s.ring) < maxSegments {
		s.ring = append(s.ring, id)
	} else {
		delete(s.facts, s.ring[s.next])
		s.ring[s.next] = id
		s.next = (s.next + 1) % maxSegments
	}
	f = &facts{}
	s.facts[id] = f
	return f
}

// miss notes that a reader who knows a segment up to end lacks bytes of it, and returns what is
// known.
func (s *segments) miss(id tiering.SegmentID, end int64) facts {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.at(id)
	f.known = max(f.known, end)
	return *f
}

// sized notes how large a segment is.
func (s *segments) sized(id tiering.SegmentID, size int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at(id).size = size
}

// share notes that a segment is shared.
func (s *segments) share(id tiering.SegmentID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at(id).shared = true
}

func (s *segments) shared(id tiering.SegmentID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.facts[id]
	return f != nil && f.shared
}

// sharedShare says when a block counts as shared: once its readers, of whom there are at least
// two, are to take an eighth of it. Not less: two small partitions of a thousand would have
// every block fetched whole. Not more: until then, each of a segment's blocks costs two GETs.
const sharedShare = 8

// run is the part of a block that a reader has come for, and what it will go on with.
type run struct{ lo, hi int64 }

// company is who comes to a block: the hull of the runs so far, how many there were that were
// apart from it, and their bytes.
type company struct {
	hull  run
	runs  int32
	taken int64
}

// add notes that a reader comes.
func (c *company) add(r run) {
	if c.runs == 0 {
		c.hull = r
	}
	if c.runs == 0 || r.lo >= c.hull.hi || r.hi <= c.hull.lo {
		c.runs++
		c.taken += r.hi - r.lo
	}
	c.hull = run{min(c.hull.lo, r.lo), max(c.hull.hi, r.hi)}
}

// wish is what a load is to bring of a block, from what is there on. need <= sure <= to.
type wish struct {
	need int64 // up to here somebody wants it
	sure int64 // up to here it exists, as far as is known
	to   int64 // up to here, or to the end of the object
}

// come notes that a reader comes to a block. The caller holds the lock of its stripe.
func (c *Cache) come(b *block, r run) {
	b.company.add(r)
	if !b.shared && b.company.runs > 1 && b.company.taken >= c.opts.BlockSize/sharedShare {
		b.shared = true
		c.segments.share(b.key.segment)
	}
}

// wish decides how far a block is loaded for a reader that wants it up to need: no further for
// the first one that comes, since it may be the only one; but all of it for any other, and where
// readers go side by side. The caller holds the lock of the block's stripe.
func (c *Cache) wish(b *block, need int64, wide bool) wish {
	start, size := b.key.n*c.opts.BlockSize, c.opts.BlockSize
	f := c.segments.miss(b.key.segment, start+need)
	w := wish{need: need, sure: need, to: need}
	if wide || f.shared || b.company.runs > 1 || b.content.filled() > 0 {
		w.to = size
	}
	if f.size > 0 {
		w.to = min(w.to, f.size-start)
	}
	w.to = max(w.to, need)
	w.sure = max(need, min(w.to, f.end()-start))
	return w
}
