package cache

import (
	"fmt"

	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
)

// flight is a GET under way for a block. The other fields are set before done is closed.
type flight struct {
	done    chan struct{}
	content *content // all of the block, with what the GET brought
	err     error
}

// start begins to fetch what is missing of b up to position to. The caller holds the lock
// of the block's stripe, and a slot if it says so. Close waits for the goroutine.
func (c *Cache) start(b *block, to int64, hasSlot bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return ErrClosed
	}
	f := &flight{done: make(chan struct{})}
	b.flight = f
	from := b.content.filled()
	c.fetches.Add(1)
	go func() {
		defer c.fetches.Done()
		if !hasSlot {
			select {
			case c.slots <- struct{}{}:
			case <-c.lifetime.Done():
				c.land(b, f, nil, 0, ErrClosed)
				return
			}
		}
		c.forgetEvicted(c.ledger.reserve(to - from))
		piece, err := c.get(b.key, from, to)
		c.land(b, f, piece, to-from, err)
		<-c.slots // after land, so that reservations never exceed those of MaxGets blocks
	}()
	return nil
}

// get reads the bytes of a block from from to to.
func (c *Cache) get(key blockKey, from, to int64) ([]byte, error) {
	c.gets.Add(1)
	piece, err := c.store.GetRange(c.lifetime, key.segment.Key(), key.n*c.opts.BlockSize+from, to-from)
	switch {
	case err != nil && c.lifetime.Err() != nil:
		err = ErrClosed
	case err == nil && int64(len(piece)) != to-from:
		err = fmt.Errorf("%w: got %d bytes, asked for %d", objstore.ErrCorrupt, len(piece), to-from)
	}
	if err != nil {
		c.getErrors.Add(1)
		return nil, err
	}
	c.gotBytes.Add(int64(len(piece)))
	return piece, nil
}

// land hands the outcome of a flight to the block and to those who wait for it.
func (c *Cache) land(b *block, f *flight, piece []byte, reserved int64, err error) {
	s := c.stripeOf(b.key)
	s.mu.Lock()
	b.flight = nil
	if err == nil {
		b.content = b.content.extended(piece)
	} else {
		s.forgetEmpty(b)
	}
	f.content, f.err = b.content, err
	s.mu.Unlock()
	c.ledger.settle(b, reserved, err == nil)
	close(f.done)
}

// readAhead fetches the blocks that follow block last of a segment, up to position end,
// as far as slots are free: a reader who waits goes first. It does so once per block.
func (c *Cache) readAhead(segment tiering.SegmentID, from *block, last, end int64) {
	s := c.stripeOf(from.key)
	s.mu.Lock()
	done := from.ahead
	from.ahead = true
	s.mu.Unlock()
	if done {
		return
	}
	size := c.opts.BlockSize
	for n := last + 1; n <= last+int64(c.opts.ReadAhead) && n*size < end; n++ {
		if !c.prefetch(blockKey{segment, n}, min(end-n*size, size)) {
			return
		}
	}
}

// prefetch starts to fill a block up to fill, unless that is done or under way. It reports
// whether there is any sense in going on to the next.
func (c *Cache) prefetch(key blockKey, fill int64) bool {
	s := c.stripeOf(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.blocks[key]
	if b != nil && (b.flight != nil || b.content.filled() >= fill) {
		return true
	}
	select {
	case c.slots <- struct{}{}:
	default:
		return false
	}
	if b == nil {
		b = &block{key: key, content: nothing}
		s.blocks[key] = b
	}
	if err := c.start(b, fill, true); err != nil {
		<-c.slots // closed: the read that asked will hear of it if it needs the store
		s.forgetEmpty(b)
		return false
	}
	s.counts.Prefetches++
	return true
}
