package cache

import (
	"slices"

	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
)

// tail is a segment that this agent wrote and still has in memory. Immutable, except for
// newer, which the ledger's lock guards.
type tail struct {
	segment tiering.SegmentID
	slices  [][]byte
	ends    []int64 // position after each slice
	held    int64
	newer   *tail
}

// Offer hands over a segment that has just been uploaded, as the body it was put with:
// reads of it are served from these slices, without a GET and without a copy, until
// newer offers displace it. Nobody may change the bytes any more; they count as verified.
//
// held is what the slices keep from being freed: the size of the frames that they are
// parts of, at least that of the body. A segment that holds more than half of the
// capacity, or was offered before, is not taken.
func (c *Cache) Offer(id tiering.SegmentID, body objstore.Body, held int64) {
	t := &tail{segment: id, slices: make([][]byte, 0, len(body)), ends: make([]int64, 0, len(body)), held: held}
	var end int64
	for _, p := range body {
		if len(p) == 0 {
			continue
		}
		end += int64(len(p))
		t.slices = append(t.slices, p)
		t.ends = append(t.ends, end)
	}
	t.held = max(t.held, end)
	s := c.tailStripe(id)
	s.mu.Lock()
	_, known := s.tails[id]
	if !known {
		s.tails[id] = t
	}
	s.mu.Unlock()
	if known {
		return
	}
	out, ok := c.ledger.addTail(t)
	if !ok {
		out.tails = append(out.tails, t)
	}
	c.forgetEvicted(out)
}

// tailStripe is apart from the blocks' choice of stripes only in that it has no block.
func (c *Cache) tailStripe(id tiering.SegmentID) *stripe { return c.stripeOf(blockKey{id, -1}) }

// readTail appends the range if it lies in an offered segment.
func (c *Cache) readTail(r Range, dst [][]byte) ([][]byte, bool) {
	s := c.tailStripe(r.Segment)
	s.mu.Lock()
	t := s.tails[r.Segment]
	hit := t != nil && len(t.ends) > 0 && r.end() <= t.ends[len(t.ends)-1]
	if hit {
		s.counts.TailHits++
		s.counts.TailHitBytes += int64(r.Length)
	}
	s.mu.Unlock()
	if !hit {
		return dst, false
	}
	at, end := int64(r.Position), r.end()
	i, _ := slices.BinarySearch(t.ends, at+1) // the first that ends after at
	for ; at < end; i++ {
		start := t.ends[i] - int64(len(t.slices[i]))
		to := min(end, t.ends[i])
		dst = append(dst, t.slices[i][at-start:to-start:to-start])
		at = to
	}
	return dst, true
}

// forgetEvicted takes out of the stripes what the ledger evicted.
func (c *Cache) forgetEvicted(out evicted) {
	for _, b := range out.blocks {
		c.forget(b)
	}
	for _, t := range out.tails {
		s := c.tailStripe(t.segment)
		s.mu.Lock()
		if s.tails[t.segment] == t {
			delete(s.tails, t.segment)
		}
		s.mu.Unlock()
	}
}
