// Package cache serves byte ranges of segments from memory: the newest from what this
// agent has uploaded itself, the rest from fixed-size blocks that it reads through, from
// the nearest that has them:
//
//	memory  ->  disk (optional)  ->  the agent of the zone that owns the block  ->  object store
//
// So a block is got from the store once per zone while its owner keeps it. What an agent asks
// of this one is served in the same way, except that it is never asked of a third one.
//
// A block is kept as far as it was needed, from its aligned start on. The first reader that
// comes to it has it filled up to the greatest end that it knows to exist: it may be the only
// one, and its extent a thousandth of the segment. Whoever wants more after that has all of the
// block filled, and so has everybody in a segment that several are seen to read side by side, as
// the readers of many partitions do whose extents are parts of one flush. Readers do not know
// where an object ends, but the store does: objstore.GetUpTo. No byte is fetched twice while it
// stays cached.
//
// Invariants:
//  1. Bytes that came from elsewhere are verified before they are served to readers, once for
//     each time they are loaded: a block remembers which of its bytes passed. Bytes that fail
//     are dropped, here and on the disk, fetched again once, from the store itself, and then
//     reported as objstore.ErrCorrupt.
//  2. Blocks, offered segments and loads in flight together hold at most Options.Capacity
//     bytes. Slices that readers still hold after an eviction are the readers' to account.
//  3. One load at a time for a block, however many readers wait for it. It belongs to the
//     cache, not to the reader that came first, and ends before Close returns.
//  4. No lock is held while anything waits, reads or verifies.
//  5. What is served to another agent waits for nothing but disk and store. So agents that
//     differ on who owns a block never wait for each other in a circle.
//
// It does not retry, hedge or time out requests: decorators of the store do. All methods
// may be called concurrently.
package cache

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"

	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
)

// ErrClosed says that a read needed the store after Close.
var ErrClosed = errors.New("cache closed")

// Defaults of Options.
const (
	// DefaultBlockSize: not smaller, since every GET is billed alike and takes some 20 ms
	// to its first byte, so that 1 TiB in blocks of 256 KiB costs eight times as much as in
	// these; not larger, since a reader of one small extent waits for the block around it,
	// 20 ms more for every 2 MiB, and evicts as much.
	DefaultBlockSize = 2 << 20

	// DefaultMaxGets: not smaller, since one GET streams at some 50 MB/s and it takes
	// this many to fill a fast network; not larger, since each holds a block of memory.
	DefaultMaxGets = 64

	// DefaultReadAhead blocks: not smaller, since it takes this many GETs in flight to give
	// one reader 800 MB/s; not larger, since a reader that stops has them fetched in vain.
	DefaultReadAhead = 16
)

// warmShare says how many slots there are that lagging readers never have: one for eight. Not
// fewer: what the tail reads would wait for a replay's GETs. Not more: each may hold a block.
const warmShare = 8

const (
	minBlockSize = 4 << 10
	minBlocks    = 4 // the capacity must hold: two in flight and two cached
	maxBlockSize = 1 << 30
)

// Options bound a cache. Zero values, except Capacity, stand for the defaults.
type Options struct {
	Capacity  int64 // bytes held at most, at least four blocks
	BlockSize int64 // bytes
	MaxGets   int   // at a time, and an eighth more for readers that do not lag; fewer if their blocks would fill half of the capacity
	ReadAhead int   // blocks fetched ahead of a sequential reader; negative for none

	// Whole returns the bytes of the whole batches at the start of the slices, whatever they
	// are; see segment.WholeBatches. Nil: no range may be Cut.
	Whole func(slices [][]byte) int64
}

func (o Options) withDefaults() (Options, error) {
	if o.BlockSize == 0 {
		o.BlockSize = DefaultBlockSize
	}
	if o.MaxGets == 0 {
		o.MaxGets = DefaultMaxGets
	}
	if o.ReadAhead == 0 {
		o.ReadAhead = DefaultReadAhead
	}
	switch {
	case o.BlockSize < minBlockSize || o.BlockSize > maxBlockSize:
		return o, fmt.Errorf("cache block size is %d bytes: want %d to %d", o.BlockSize, minBlockSize, maxBlockSize)
	case o.Capacity < minBlocks*o.BlockSize:
		return o, fmt.Errorf("cache capacity is %d bytes: want at least %d, %d blocks of %d bytes",
			o.Capacity, minBlocks*o.BlockSize, minBlocks, o.BlockSize)
	case o.MaxGets < 1:
		return o, fmt.Errorf("cache GETs at a time is %d: want at least 1", o.MaxGets)
	}
	o.MaxGets = int(min(int64(o.MaxGets), o.Capacity/2/o.BlockSize))
	return o, nil
}

// Verify reports whether the slices together are the bytes that were stored, or an error
// that wraps objstore.ErrCorrupt. It must be able to tell from the bytes of any range that
// is read, which for segment.VerifyBatches are whole record batches.
type Verify func(slices [][]byte) error

// Range is a byte range of a segment, as extents name it.
type Range struct {
	Segment  tiering.SegmentID
	Position tiering.Position
	Length   int // bytes, at least 1

	// End is the greatest position up to which the segment is known to have bytes that
	// are of use soon: the end of the run of extents that a reader will go on with. What
	// lies in the last block of the range and before End is fetched with it at least, and
	// sequential readers have blocks up to End fetched ahead. Zero stands for the end of
	// the range itself.
	End tiering.Position

	// Rest are the extents that the reader goes on with, in order, in whatever segments: a
	// sequential reader has them fetched ahead, across segments. It may be longer than what
	// will be read. Nil: what lies before End. It is not kept beyond the call.
	Rest []tiering.Extent

	// Cold says that the reader lags far behind, replays, or reads once for a job: what is
	// fetched for it must not displace what others read. See ledger.
	Cold bool

	// Cut says that the range may end within a batch: Read returns the whole batches at its
	// start, perhaps none. Large extents are so read piece by piece.
	Cut bool
}

func (r Range) valid() bool {
	return !r.Segment.IsZero() && r.Position >= 0 && r.Length >= 1 && int64(r.Position) <= math.MaxInt64-maxBlockSize-int64(r.Length)
}

func (r Range) end() int64 { return int64(r.Position) + int64(r.Length) }

func (r Range) String() string {
	return fmt.Sprintf("segment %s, %d bytes at %d", r.Segment, r.Length, r.Position)
}

// Cache is a bounded read-through cache of segments.
type Cache struct {
	parts Parts
	opts  Options
	slots chan struct{} // one element per load in flight from disk or store
	cold  chan struct{} // one element per load in flight for a lagging reader
	asks  chan struct{} // one element per load in flight from another agent; nil without a zone
	// coldAsks has one element per such load for a lagging reader. Apart from cold, since what is
	// served to others must not wait for what is asked of them.
	coldAsks chan struct{}
	serves   chan struct{} // one element per answer to another agent
	ledger   *ledger
	segments segments

	stripes [stripeCount]stripe
	ahead   atomic.Int64 // bytes fetched ahead that nobody has read yet, in flight included
	// expected is how many streams have blocks that were fetched ahead of them.
	expected atomic.Int32

	counters // see Stats

	// lifetime ends with Close. It is that of the fetches, which outlive the calls that
	// start them; so it is kept here, unlike the contexts of calls.
	lifetime context.Context
	end      context.CancelFunc
	fetches  sync.WaitGroup

	mu     sync.Mutex
	closed bool // no fetch starts any more
}

// Parts are what a cache reads through.
type Parts struct {
	Store  objstore.Store
	Verify Verify // that whatever is read must satisfy
	Disk   Disk   // nil: none
	Zone   Zone   // nil: no other agents are asked
}

// New returns a cache over store alone. Whatever is read must satisfy verify, see there.
// Close it after use.
func New(store objstore.Store, verify Verify, opts Options) (*Cache, error) {
	return NewOver(Parts{Store: store, Verify: verify}, opts)
}

// NewOver returns a cache over several parts. Close it after use; it does not close them.
func NewOver(parts Parts, opts Options) (*Cache, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	c := &Cache{parts: parts, opts: opts, ledger: newLedger(opts.Capacity, opts.BlockSize)}
	extra := opts.MaxGets / warmShare
	own := min(opts.MaxGets+extra, int(opts.Capacity/2/opts.BlockSize))
	if parts.Zone != nil {
		// Both kinds of loads hold memory, and those of one must not wait for the other's.
		own = max(1, int(min(int64(own), opts.Capacity/4/opts.BlockSize)))
		c.asks, c.coldAsks = make(chan struct{}, own), make(chan struct{}, max(1, own-max(1, min(extra, own/warmShare))))
	}
	c.slots, c.serves = make(chan struct{}, own), make(chan struct{}, maxServes)
	// A small cache has fewer slots than MaxGets, and readers that lag still most of them.
	c.cold = make(chan struct{}, max(1, own-max(1, min(extra, own/warmShare))))
	for i := range c.stripes {
		c.stripes[i].blocks = make(map[blockKey]*block)
		c.stripes[i].tails = make(map[tiering.SegmentID]*tail)
	}
	c.lifetime, c.end = context.WithCancel(context.Background())
	return c, nil
}

// Close ends the loads in flight, whose readers get ErrClosed, and waits for them.
func (c *Cache) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.end()
	c.fetches.Wait()
}

// Read appends to dst slices that together are exactly the range. They may be shared: nobody
// may change their bytes. They stay valid for as long as they are held, and keep at most eight
// times their bytes in memory, apart from those of segments that were offered.
//
// The error is objstore.ErrCorrupt if the bytes do not verify even when fetched again,
// ErrClosed, ctx's, or the store's, objstore.ErrNotFound among them; then dst is
// returned as it came. When ctx ends, the GETs under way go on for whoever comes next.
func (c *Cache) Read(ctx context.Context, r Range, dst [][]byte) ([][]byte, error) {
	if r.Cut && c.opts.Whole == nil || !r.valid() {
		return dst, fmt.Errorf("cache: no such range: %s", r)
	}
	if out, ok := c.readTail(r, dst); ok {
		if r.Cut {
			out, _ = c.cut(out, len(dst))
		}
		return out, nil
	}
	how := order{purpose: objstore.PurposeOf(ctx), cold: r.Cold}
	if how.purpose == objstore.Other {
		how.purpose = objstore.Fetch
	}
	out, err := c.readBlocks(ctx, r, how, dst)
	if errors.Is(err, objstore.ErrCorrupt) {
		// A flip on the way, in memory, on the disk or at another agent is gone with the next GET.
		how.again = true
		out, err = c.readBlocks(ctx, r, how, dst)
	}
	if err != nil {
		return dst, fmt.Errorf("reading %s: %w", r, err)
	}
	return out, nil
}

// part is what a block contributes to a range: its bytes from lo to hi.
type part struct {
	block   *block
	content *content // nil until flight has landed
	flight  *flight
	lo, hi  int64
}

func (c *Cache) readBlocks(ctx context.Context, r Range, how order, dst [][]byte) ([][]byte, error) {
	var few [4]part // the usual range needs no allocation
	useful := c.useful(r)
	parts, err := c.split(r, useful, how, few[:0])
	if err != nil {
		return dst, err
	}
	st := c.readAhead(r, how)
	out := dst
	for i := range parts {
		p := &parts[i]
		if err := c.await(ctx, p, min(useful-p.block.key.n*c.opts.BlockSize, c.opts.BlockSize), how); err != nil {
			return dst, err
		}
		out = p.content.appendRange(out, p.lo, p.hi)
	}
	got := int64(r.Length)
	if r.Cut {
		out, parts = c.cutParts(out, len(dst), parts)
		got = bytesOf(parts)
	}
	c.goesOn(st, r, got)
	verified := true
	for i := range parts {
		p := &parts[i]
		verified = verified && p.content.isVerified(p.lo, p.hi)
	}
	if verified {
		return out, nil
	}
	if err := c.parts.Verify(out[len(dst):]); err != nil {
		c.corrupt.Add(1)
		c.renew(parts, how.again)
		return dst, err
	}
	c.markVerified(parts)
	return out, nil
}

func bytesOf(parts []part) (n int64) {
	for i := range parts {
		n += parts[i].hi - parts[i].lo
	}
	return n
}

// useful returns up to where the bytes behind a range are of use soon, at least as far as
// its last block goes.
func (c *Cache) useful(r Range) int64 {
	useful := max(int64(r.End), r.end())
	blockEnd := (r.end()-1)/c.opts.BlockSize*c.opts.BlockSize + c.opts.BlockSize
	for i := range r.Rest {
		if e := &r.Rest[i]; useful >= blockEnd || e.Segment != r.Segment || int64(e.Position) != useful {
			break
		}
		useful += int64(r.Rest[i].Length)
	}
	return useful
}

// split finds the blocks of a range, or starts to load them.
func (c *Cache) split(r Range, useful int64, how order, parts []part) ([]part, error) {
	size := c.opts.BlockSize
	for n := int64(r.Position) / size; n <= (r.end()-1)/size; n++ {
		p := part{lo: max(int64(r.Position)-n*size, 0), hi: min(r.end()-n*size, size)}
		if err := c.find(blockKey{r.Segment, n}, &p, min(useful-n*size, size), how); err != nil {
			return parts, err
		}
		parts = append(parts, p)
	}
	return parts, nil
}

// await waits until the part's content is there, ordering more of it if the flight that
// was waited for brought too little. For another agent it waits for no other agent: ErrBusy.
func (c *Cache) await(ctx context.Context, p *part, fill int64, how order) error {
	for p.content == nil {
		if how.here && p.flight.remote {
			return ErrBusy
		}
		select {
		case <-p.flight.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if p.flight.err != nil {
			return p.flight.err
		}
		if p.flight.content.filled() >= p.hi {
			p.content = p.flight.content
			return nil
		}
		if err := c.find(p.block.key, p, fill, how); err != nil {
			return err
		}
	}
	return nil
}
