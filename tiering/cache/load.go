package cache

import (
	"context"
	"errors"
	"fmt"

	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
)

// Piece names bytes of a segment that lie within one block of a cache.
type Piece struct {
	Segment  tiering.SegmentID
	Position tiering.Position
	Length   int64
}

func (p Piece) String() string {
	return fmt.Sprintf("segment %s, %d bytes at %d", p.Segment, p.Length, p.Position)
}

// Disk keeps pieces of blocks that were got from the object store; see tiering/cache/disk. A
// block is named by its segment and the position that it starts at. All methods may be called
// concurrently, and under a lock except for Get: they do not wait.
type Disk interface {
	// Get returns the bytes of a piece of a block, which the caller owns, or false. It waits
	// for the disk, for a bounded time.
	Get(ctx context.Context, start int64, p Piece) ([]byte, bool)
	// Has reports whether Get is likely to return the bytes.
	Has(start int64, p Piece) bool
	// Put hands over the bytes of a piece, which nobody changes any more. They may be
	// written later or never.
	Put(start int64, p Piece, bytes []byte)
	// Drop forgets a block whose bytes proved to be bad, and what is about to be written of it.
	Drop(segment tiering.SegmentID, start int64)
}

// Zone is the other agents nearby, which share their caches: each block has an owner among
// them, who loads it for all. All methods may be called concurrently.
type Zone interface {
	// Owner returns the address of the agent that owns the block of a segment that starts at
	// a position, or false if that is this agent, or none that answers. It does not wait.
	Owner(segment tiering.SegmentID, start int64) (addr string, elsewhere bool)
	// Ask returns the bytes of a piece from the agent at addr, which the caller owns, within a
	// bounded time. ctx carries the objstore.Purpose; cold is that of Range.
	Ask(ctx context.Context, addr string, p Piece, cold bool) ([]byte, error)
}

// order says what a load is for.
type order struct {
	purpose objstore.Purpose
	cold    bool // for a lagging reader
	here    bool // for another agent: no third one is asked
	again   bool // the bytes failed once
}

// flight is a load under way for a block. content and err are set before done is closed.
type flight struct {
	remote  bool // another agent may be asked
	done    chan struct{}
	content *content // all of the block, with what the load brought
	err     error
}

// route is where a load goes: to another agent first, or not.
type route struct {
	slots chan struct{}
	cold  chan struct{} // taken before a slot by loads for lagging readers; nil for others
	owner string        // empty: no other agent is asked
}

// route decides where a block is loaded from.
func (c *Cache) route(b *block, how order) route {
	var cold, coldAsks chan struct{}
	if how.cold {
		cold, coldAsks = c.cold, c.coldAsks
	}
	if c.parts.Zone != nil && !how.here && !b.fresh {
		start := b.key.n * c.opts.BlockSize
		if owner, ok := c.parts.Zone.Owner(b.key.segment, start); ok && !c.onDisk(b, start) {
			return route{c.asks, coldAsks, owner}
		}
	}
	return route{slots: c.slots, cold: cold}
}

// onDisk reports whether the disk has what comes next of a block.
func (c *Cache) onDisk(b *block, start int64) bool {
	return c.parts.Disk != nil &&
		c.parts.Disk.Has(start, Piece{b.key.segment, tiering.Position(start + b.content.filled()), 1})
}

// start begins to load what is missing of b as far as it is wished for. The caller holds the lock
// of the block's stripe, and a slot of the route if it says so. Close waits for the goroutine.
func (c *Cache) start(b *block, w wish, how order, by route, hasSlot bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return ErrClosed
	}
	f := &flight{done: make(chan struct{}), remote: by.owner != ""}
	b.flight = f
	from := b.content.filled()
	c.fetches.Add(1)
	go func() {
		defer c.fetches.Done()
		if !hasSlot && !c.enter(by) {
			c.land(b, f, nil, 0, ErrClosed)
			return
		}
		c.forgetEvicted(c.ledger.reserve(w.to - from))
		pieces, err := c.load(b, from, w, how, by.owner)
		c.land(b, f, pieces, w.to-from, err)
		by.leave() // after land, so that reservations never exceed those of all slots
	}()
	return nil
}

// enter waits for a slot of the route; false if the cache was closed first.
func (c *Cache) enter(by route) bool {
	if by.cold != nil && !c.take(by.cold) {
		return false
	}
	if !c.take(by.slots) {
		by.leaveCold()
		return false
	}
	return true
}

// tryEnter takes a slot of the route if one is free.
func (by route) tryEnter() bool {
	if by.cold != nil {
		select {
		case by.cold <- struct{}{}:
		default:
			return false
		}
	}
	select {
	case by.slots <- struct{}{}:
		return true
	default:
		by.leaveCold()
		return false
	}
}

func (by route) leave() {
	<-by.slots
	by.leaveCold()
}

func (by route) leaveCold() {
	if by.cold != nil {
		<-by.cold
	}
}

// take waits for a slot; false if the cache was closed first.
func (c *Cache) take(slots chan struct{}) bool {
	select {
	case slots <- struct{}{}:
		return true
	case <-c.lifetime.Done():
		return false
	}
}

// load returns the bytes of a block from from on, as far as it is wished for, or at least as far
// as it is needed, from the nearest that has them.
func (c *Cache) load(b *block, from int64, w wish, how order, owner string) (objstore.Body, error) {
	ctx := objstore.WithPurpose(c.lifetime, how.purpose)
	start := b.key.n * c.opts.BlockSize
	p := Piece{b.key.segment, tiering.Position(start + from), w.need - from}
	disk := c.parts.Disk
	if disk != nil && owner == "" && !b.fresh {
		if piece, ok := c.fromDisk(ctx, start, p, w); ok {
			return objstore.Body{piece}, nil
		}
	}
	if owner != "" {
		p := p
		p.Length = w.sure - from // it may be an agent that takes what is beyond the end for damage
		piece, err := c.parts.Zone.Ask(ctx, owner, p, how.cold)
		if err == nil && int64(len(piece)) == p.Length {
			c.peerHits.Add(1)
			c.peerBytes.Add(p.Length)
			return objstore.Body{piece}, nil
		}
		c.peerErrors.Add(1)
		// The store knows better. Its GETs are bounded by slots of their own.
		if !c.take(c.slots) {
			return nil, ErrClosed
		}
		defer func() { <-c.slots }()
	}
	var pieces objstore.Body
	var err error
	if w.to > w.need {
		pieces, err = c.getUpTo(ctx, p, w.to-from)
	}
	if w.to == w.need || errors.Is(err, objstore.ErrCorrupt) && !errors.Is(err, objstore.ErrBeyond) {
		pieces, err = c.get(ctx, p) // what was asked for beside it need not be as it should
	}
	if err == nil && disk != nil && how.purpose == objstore.Fetch {
		for _, piece := range pieces {
			p.Length = int64(len(piece))
			disk.Put(start, p, piece)
			p.Position += tiering.Position(p.Length)
		}
	}
	return pieces, err
}

// fromDisk reads a piece from the disk, and as much as is wished for if that is there too.
func (c *Cache) fromDisk(ctx context.Context, start int64, p Piece, w wish) ([]byte, bool) {
	need, last := p.Length, int64(0)
	for _, n := range [...]int64{need + w.to - w.need, need + w.sure - w.need, need} {
		if p.Length = n; n == last || n > need && !c.parts.Disk.Has(start, p) {
			continue
		}
		if piece, ok := c.parts.Disk.Get(ctx, start, p); ok {
			c.diskHits.Add(1)
			c.diskBytes.Add(n)
			return piece, true
		}
		last = n
	}
	return nil, false
}

// getUpTo reads a piece from the object store, and what follows it up to most bytes in all, as
// far as the object goes.
func (c *Cache) getUpTo(ctx context.Context, p Piece, most int64) (objstore.Body, error) {
	c.gets.Add(1)
	pieces, size, err := c.parts.Store.GetUpTo(ctx, p.Segment.Key(), int64(p.Position), most)
	n := pieces.Size()
	switch {
	case err != nil && c.lifetime.Err() != nil:
		err = ErrClosed
	case err == nil && (n < p.Length || n != min(most, size-int64(p.Position))):
		err = fmt.Errorf("%w: got %d bytes of a segment of %d, want %d and asked for up to %d", objstore.ErrCorrupt, n, size, p.Length, most)
	}
	if err != nil {
		c.getErrors.Add(1)
		return nil, err
	}
	c.gotBytes.Add(n)
	c.segments.sized(p.Segment, size)
	return pieces, nil
}

// get reads a piece from the object store.
func (c *Cache) get(ctx context.Context, p Piece) (objstore.Body, error) {
	c.gets.Add(1)
	piece, err := c.parts.Store.GetRange(ctx, p.Segment.Key(), int64(p.Position), p.Length)
	switch {
	case err != nil && c.lifetime.Err() != nil:
		err = ErrClosed
	case err == nil && int64(len(piece)) != p.Length:
		err = fmt.Errorf("%w: got %d bytes, asked for %d", objstore.ErrCorrupt, len(piece), p.Length)
	}
	if err != nil {
		c.getErrors.Add(1)
		return nil, err
	}
	c.gotBytes.Add(p.Length)
	return objstore.Body{piece}, nil
}

// land hands the outcome of a flight to the block and to those who wait for it.
func (c *Cache) land(b *block, f *flight, pieces objstore.Body, reserved int64, err error) {
	s := c.stripeOf(b.key)
	s.mu.Lock()
	b.flight = nil
	n := pieces.Size()
	if err == nil {
		b.content = b.content.extended(pieces)
		if less := min(b.unread, reserved-n); less > 0 {
			c.ahead.Add(-less) // the object ended
			b.unread -= less
		}
	} else {
		c.arrived(b)
		s.forgetEmpty(b)
	}
	f.content, f.err = b.content, err
	s.mu.Unlock()
	c.ledger.settle(b, reserved, n)
	close(f.done)
}
