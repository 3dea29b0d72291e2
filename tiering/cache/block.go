package cache

import (
	"bytes"
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
	fresh  bool         // bytes that were here before it failed: only the store is trusted
	cold   atomic.Bool  // only lagging readers have asked for it; see ledger
	reused atomic.Int32 // times that bytes were read again, up to maxReused; for eviction

	// Guarded by the lock of the key's stripe.
	content *content
	flight  *flight // the load under way, or nil
	askedTo int64   // greatest end that another agent asked for
	unread  int64   // bytes that were fetched ahead and that nobody has asked for yet
	stream  *stream // for which they were; nil if there are none
	company company // who has come to it
	shared  bool    // the company was told to the segment

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

func (ct *content) extended(pieces [][]byte) *content {
	out := &content{
		pieces:   append(slices.Clip(ct.pieces), pieces...),
		ends:     slices.Grow(slices.Clip(ct.ends), len(pieces)),
		verified: ct.verified,
	}
	end := ct.filled()
	for _, p := range pieces {
		end += int64(len(p))
		out.ends = append(out.ends, end)
	}
	return out
}

// leanShare says which part of a piece a reader must take to have the piece itself: an eighth.
// Who takes less gets a copy, since readers keep what they have for as long as their clients
// take to read an answer: one of a thousand small partitions would keep a thousand pieces of up
// to a block each, long after they were evicted, and is charged for what it takes only. Not
// smaller: readers are charged that many times too little. Not larger: those who read the
// partitions of one flush, and take 64 KiB of a piece or more, would have all of it copied.
const leanShare = 8

// appendRange appends the bytes from lo to hi, which must be there.
func (ct *content) appendRange(dst [][]byte, lo, hi int64) [][]byte {
	i, _ := slices.BinarySearch(ct.ends, lo+1) // the first that ends after lo
	for ; lo < hi; i++ {
		piece := ct.pieces[i]
		start := ct.ends[i] - int64(len(piece))
		end := min(hi, ct.ends[i])
		taken := piece[lo-start : end-start : end-start]
		if len(taken) < len(piece)/leanShare {
			taken = bytes.Clone(taken)
		}
		dst = append(dst, taken)
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

	streams map[place]*stream // sequential readers by where they are, and will be next
	trail   [maxPlaces]place  // keys of streams, the oldest at trailed
	trailed int
}

func (c *Cache) stripeOf(key blockKey) *stripe {
	h := binary.LittleEndian.Uint64(key.segment.Session[:]) ^ key.segment.Seq*0x9e3779b97f4a7c15 ^ uint64(key.n)*0xc2b2ae3d27d4eb4f
	h *= 0xff51afd7ed558ccd
	return &c.stripes[h>>58]
}

// find completes p with its block and with either its content or the flight that brings
// it, starting one if there is none, at least up to fill.
func (c *Cache) find(key blockKey, p *part, fill int64, how order) error {
	s := c.stripeOf(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.blockAt(key, how)
	if !how.cold && b.readBefore(p, how) {
		b.touch()
	}
	if !how.cold && b.cold.Load() {
		b.cold.Store(false)
	}
	fill = max(fill, p.hi)
	c.come(b, run{p.lo, fill})
	c.arrived(b)
	p.block = b
	if b.content.filled() >= p.hi {
		p.content = b.content
		s.counts.Hits++
		s.counts.HitBytes += p.hi - p.lo
		return nil
	}
	s.counts.Misses++
	if b.flight == nil {
		if err := c.start(b, c.wish(b, fill, false), how, c.route(b, how), false); err != nil {
			s.forgetEmpty(b)
			return err
		}
	}
	p.flight = b.flight
	return nil
}

// blockAt returns the block of that key, making one if there is none. The caller holds the lock.
func (s *stripe) blockAt(key blockKey, how order) *block {
	b := s.blocks[key]
	if b == nil {
		b = &block{key: key, content: nothing}
		b.cold.Store(how.cold)
		s.blocks[key] = b
	}
	return b
}

// readBefore reports whether somebody has read the first bytes of the part already. Neither a
// scan that moves through a block is a reuse of it, nor are readers of which each takes another
// part, as those of the partitions of one flush do. What other agents ask for is not verified
// here; what they ask for moves on through the block, too. The caller holds the stripe's lock.
func (b *block) readBefore(p *part, how order) bool {
	if !how.here {
		return b.content.isVerified(p.lo, p.lo+1)
	}
	again := p.lo < b.askedTo
	b.askedTo = max(b.askedTo, p.hi)
	return again
}

// arrived ends the account of what was fetched ahead of b's first reader. The caller holds
// the lock of the block's stripe.
func (c *Cache) arrived(b *block) {
	if b.unread == 0 && b.stream == nil {
		return
	}
	c.ahead.Add(-b.unread)
	b.unread = 0
	c.ledger.arrived(b)
	c.expect(b, nil)
}

// touch counts a reuse. Losing one to a concurrent touch does no harm.
func (b *block) touch() {
	if n := b.reused.Load(); n < maxReused {
		b.reused.Store(n + 1)
	}
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

// renew takes new blocks in the place of those of the parts, which had bytes that failed. They
// are loaded from the store itself. A flight that fills an old one lands in vain. The caller
// reads the parts again at once, unless it gives up.
func (c *Cache) renew(parts []part, giveUp bool) {
	for i := range parts {
		b := parts[i].block
		if c.parts.Disk != nil {
			c.parts.Disk.Drop(b.key.segment, b.key.n*c.opts.BlockSize)
		}
		c.ledger.remove(b)
		s := c.stripeOf(b.key)
		s.mu.Lock()
		c.arrived(b)
		current := s.blocks[b.key]
		if current == b {
			delete(s.blocks, b.key)
		}
		if !giveUp && (current == b || current == nil) {
			young := &block{key: b.key, content: nothing, fresh: true}
			young.cold.Store(b.cold.Load())
			s.blocks[b.key] = young
		}
		s.mu.Unlock()
	}
}

// forget takes a block out of its stripe that the ledger evicted, unless its key has a new one
// already.
func (c *Cache) forget(b *block) {
	s := c.stripeOf(b.key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if b.stream != nil {
		b.stream.wasted.Add(1)
		c.arrived(b)
	}
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
