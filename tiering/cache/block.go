package cache

import (
	"encoding/binary"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/floelog/floe/tiering"
)

// stripeCount locks share the blocks among them. Not fewer: readers on many cores should
// seldom meet. Not more: each is a cache line and two maps.
const stripeCount = 64

// maxSpans bounds what a block remembers of its verified ranges. Adjacent ones merge, so
// that more are rare: then the oldest is forgotten, and verified once more when it is
// read. Not larger: they are searched at every read.
const maxSpans = 64

// blockKey names a block: bytes n·BlockSize up to (n+1)·BlockSize of a segment.
type blockKey struct {
	segment tiering.SegmentID
	n       int64
}

// block is one block of a segment. A block that was dropped or evicted is never brought
// back: its key gets a new one.
type block struct {
	key    blockKey
	reused atomic.Int32 // times that bytes were read again, up to maxReused; for eviction

	// Guarded by the lock of the key's stripe.
	content *content
	flight  *flight // the GET under way, or nil
	readTo  int64   // greatest end that a reader asked for
	ahead   bool    // what follows has been fetched ahead

	link // guarded by the ledger's lock
}

// content is what is there of a block: immutable, replaced when there is more.
type content struct {
	pieces   [][]byte // contiguous, from the block's start
	ends     []int64  // of each piece, within the block
	verified []span   // sorted, neither touching nor overlapping
}

type span struct{ lo, hi int64 }

var nothing = &content{}

func (ct *content) filled() int64 {
	if len(ct.ends) == 0 {
		return 0
	}
	return ct.ends[len(ct.ends)-1]
}

func (ct *content) extended(piece []byte) *content {
	return &content{
		pieces:   append(slices.Clip(ct.pieces), piece),
		ends:     append(slices.Clip(ct.ends), ct.filled()+int64(len(piece))),
		verified: ct.verified,
	}
}

// appendRange appends the bytes from lo to hi, which must be there.
func (ct *content) appendRange(dst [][]byte, lo, hi int64) [][]byte {
	i, _ := slices.BinarySearch(ct.ends, lo+1) // the first that ends after lo
	for ; lo < hi; i++ {
		piece := ct.pieces[i]
		start := ct.ends[i] - int64(len(piece))
		end := min(hi, ct.ends[i])
		dst = append(dst, piece[lo-start:end-start:end-start])
		lo = end
	}
	return dst
}

func (ct *content) isVerified(lo, hi int64) bool {
	for _, s := range ct.verified {
		if s.lo <= lo && hi <= s.hi {
			return true
		}
	}
	return false
}

func (ct *content) withVerified(lo, hi int64) *content {
	var before, after []span
	for _, s := range ct.verified {
		switch {
		case s.hi < lo:
			before = append(before, s)
		case s.lo > hi:
			after = append(after, s)
		default:
			lo, hi = min(lo, s.lo), max(hi, s.hi)
		}
	}
	switch {
	case len(before)+len(after) < maxSpans:
	case len(before) > 0:
		before = before[1:]
	default:
		after = after[:len(after)-1]
	}
	out := *ct
	out.verified = append(append(before, span{lo, hi}), after...)
	return &out
}

// stripe is a part of the cache under a lock of its own, held for a few instructions.
type stripe struct {
	mu     sync.Mutex
	blocks map[blockKey]*block
	tails  map[tiering.SegmentID]*tail
	counts Stats // the counters of hits and misses
}

func (c *Cache) stripeOf(key blockKey) *stripe {
	h := binary.LittleEndian.Uint64(key.segment.Session[:]) ^ key.segment.Seq*0x9e3779b97f4a7c15 ^ uint64(key.n)*0xc2b2ae3d27d4eb4f
	h *= 0xff51afd7ed558ccd
	return &c.stripes[h>>58]
}

// find completes p with its block and with either its content or the flight that brings
// it, starting one up to fill if there is none. It reports whether the part goes on
// where the reader before left off within the block.
func (c *Cache) find(key blockKey, p *part, fill int64) (continues bool, err error) {
	s := c.stripeOf(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.blocks[key]
	if b == nil {
		b = &block{key: key, content: nothing}
		s.blocks[key] = b
	}
	continues = p.lo > 0 && p.lo == b.readTo
	if p.lo < b.readTo {
		// Bytes are read again. A scan that moves through the block is no reuse of it.
		b.touch()
	}
	b.readTo = max(b.readTo, p.hi)
	p.block = b
	if b.content.filled() >= p.hi {
		p.content = b.content
		s.counts.Hits++
		s.counts.HitBytes += p.hi - p.lo
		return continues, nil
	}
	s.counts.Misses++
	if b.flight == nil {
		if err := c.start(b, max(fill, p.hi), false); err != nil {
			s.forgetEmpty(b)
			return false, err
		}
	}
	p.flight = b.flight
	return continues, nil
}

// touch counts a reuse. Losing one to a concurrent touch does no harm.
func (b *block) touch() {
	if n := b.reused.Load(); n < maxReused {
		b.reused.Store(n + 1)
	}
}

// wasReadToItsEnd reports whether the block is there and was read up to its last byte.
func (c *Cache) wasReadToItsEnd(key blockKey) bool {
	s := c.stripeOf(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.blocks[key]
	return b != nil && b.readTo == c.opts.BlockSize
}

// markVerified remembers that the bytes of the parts are good.
func (c *Cache) markVerified(parts []part) {
	for i := range parts {
		p := &parts[i]
		s := c.stripeOf(p.block.key)
		s.mu.Lock()
		// The bytes of a block never change, so they are those that were verified.
		p.block.content = p.block.content.withVerified(p.lo, p.hi)
		s.mu.Unlock()
	}
}

// drop forgets the blocks of the parts; a flight that fills one lands in vain.
func (c *Cache) drop(parts []part) {
	for i := range parts {
		b := parts[i].block
		c.ledger.remove(b)
		c.forget(b)
	}
}

// forget takes a block out of its stripe, unless its key has a new one already.
func (c *Cache) forget(b *block) {
	s := c.stripeOf(b.key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.blocks[b.key] == b {
		delete(s.blocks, b.key)
	}
}

// forgetEmpty takes a block out whose first load failed. The caller holds the lock.
func (s *stripe) forgetEmpty(b *block) {
	if b.content == nothing && s.blocks[b.key] == b {
		delete(s.blocks, b.key)
	}
}
