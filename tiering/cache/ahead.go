package cache

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/floelog/floe/tiering"
)

const (
	// maxPlaces bounds the places of sequential readers that a stripe remembers; each reader
	// has two. Not fewer: a thousand partitions may be read at a time. Not more: they cost
	// some 10 KiB a stripe.
	maxPlaces = 64

	// aheadShare is the part of the capacity that may hold what was fetched ahead and nobody
	// has read yet, once all of it is in use: a quarter. Not smaller: it bounds the GETs in
	// flight. Not larger: it is taken from what was read.
	aheadShare = 4

	// waitShare says how many slots are left to readers that wait: one for eight. Not fewer: they
	// would wait for what nobody waits for. Not more: what is fetched ahead is what they come to.
	waitShare = 8

	// wideFor is how many blocks are fetched whole ahead of a reader since it was last seen in a
	// segment that others read beside it. Not fewer: it may be ahead of them by its window. Not
	// more: the others may have gone, and it needs a small part of each.
	wideFor = DefaultReadAhead

	// maxSkips is how many extents without a segment are passed over to find the next place.
	maxSkips = 64
)

// place is where a read begins.
type place struct {
	segment  tiering.SegmentID
	position tiering.Position
}

// stream is a reader that reads on and on, known by where it is. How far blocks are fetched
// ahead of it is its window, in blocks: none at its first read, one at its second, and twice as
// many whenever it has come through as many as there were; half as many when some of them were
// evicted before it came.
type stream struct {
	wasted atomic.Int32 // blocks fetched ahead and evicted unread, since the last step
	unread atomic.Int32 // blocks fetched ahead that it has not come to

	mu       sync.Mutex // guards the following; held for steps that do not wait
	at, next place
	window   int
	wide     int    // blocks that are still to be fetched whole
	passed   int    // blocks since the window grew
	marks    []mark // what was fetched ahead and not read yet, in order, at most window
	frontier mark   // what is to be fetched next
}

// mark is a place in what a reader will read: the base offset of the extent, and where in it.
type mark struct {
	base tiering.Offset
	place
}

// course is what a reader goes on with: what is left of its extent, and the extents after that.
type course struct {
	left tiering.Extent // of no length if nothing is
	rest []tiering.Extent
	end  tiering.Offset // of the reader's own extent
}

func courseOf(r Range) course {
	c := course{rest: r.Rest, end: math.MaxInt64}
	to, base := int64(r.End), tiering.Offset(0)
	if len(r.Rest) > 0 {
		c.end = r.Rest[0].Base
		base = c.end - 1
		if e := &r.Rest[0]; e.Segment == r.Segment && int64(e.Position) >= r.end() {
			to = min(to, int64(e.Position))
		}
	}
	c.left = tiering.Extent{Base: base, Segment: r.Segment, Position: tiering.Position(r.end())}
	c.left.Length = int32(min(max(to-r.end(), 0), math.MaxInt32))
	return c
}

// extent returns the i-th extent, of which what is left is the 0th.
func (c *course) extent(i int) *tiering.Extent {
	if i == 0 {
		return &c.left
	}
	return &c.rest[i-1]
}

func (c *course) len() int { return 1 + len(c.rest) }

// first returns where the course begins.
func (c *course) first() (place, bool) {
	for i := range min(c.len(), maxSkips) {
		if e := c.extent(i); inSegment(e) {
			return place{e.Segment, e.Position}, true
		}
	}
	return place{}, false
}

// find returns the extent that a mark lies in, and the position within its segment; or what
// comes first behind it.
func (c *course) find(m mark) (i int, at int64) {
	if m.base >= c.end {
		i, _ = slices.BinarySearchFunc(c.rest, m.base, func(e tiering.Extent, o tiering.Offset) int { return int(e.Base - o) })
		i++
	}
	if i < c.len() {
		e := c.extent(i)
		at = int64(e.Position)
		if (i == 0 || e.Base == m.base) && m.segment == e.Segment && int64(m.position) <= at+int64(e.Length) {
			at = max(at, int64(m.position))
		}
	}
	return i, at
}

// contiguous returns where the bytes end that follow the i-th extent's without a gap, as far as
// extents begin before limit, and the index of the last of these.
func (c *course) contiguous(i int, limit int64) (end int64, last int) {
	first := c.extent(i)
	end = int64(first.Position) + int64(first.Length)
	for last = i; last+1 < c.len() && end < limit; last++ {
		if e := c.extent(last + 1); e.Segment != first.Segment || int64(e.Position) != end {
			break
		}
		end += int64(c.extent(last + 1).Length)
	}
	return end, last
}

func inSegment(e *tiering.Extent) bool { return e.Length > 0 && !e.Segment.IsZero() }

// readAhead notes where a reader is, and starts to fetch what it will come to, as far as slots
// are free: a reader that waits goes first. It returns nil if nothing is known of what comes.
func (c *Cache) readAhead(r Range, how order) *stream {
	if c.opts.ReadAhead <= 0 || int64(r.End) <= r.end() && len(r.Rest) == 0 {
		return nil
	}
	here := place{r.Segment, r.Position}
	if st := c.streamAt(here); st != nil && st.step(here, c.opts.ReadAhead) {
		c.extend(st, r, how)
		return st
	}
	st := &stream{at: here}
	c.remember(here, st)
	return st
}

// step moves the stream to where its reader is now. It reports false if the reader is another
// one, behind it.
func (st *stream) step(here place, most int) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	switch here {
	case st.at: // an answer had no room for all
	case st.next:
		st.window = max(st.window, 1)
	default:
		return false
	}
	st.at = here
	if st.wasted.Swap(0) > 0 {
		st.window, st.passed = max(st.window/2, 1), 0
	}
	st.window = min(st.window, most)
	return true
}

// goesOn notes where the reader of a range, which got so many bytes of it, will read next.
func (c *Cache) goesOn(st *stream, r Range, got int64) {
	if st == nil || got == 0 {
		return
	}
	next := place{r.Segment, r.Position + tiering.Position(got)}
	if got == int64(r.Length) {
		along := courseOf(r)
		var ok bool
		if next, ok = along.first(); !ok {
			return
		}
	}
	st.mu.Lock()
	known := st.next == next
	st.next = next
	st.mu.Unlock()
	if !known {
		c.remember(next, st)
	}
}

// extend fetches as many blocks ahead as the window has room for.
func (c *Cache) extend(st *stream, r Range, how order) {
	along := courseOf(r)
	size := c.opts.BlockSize
	st.mu.Lock()
	defer st.mu.Unlock()
	st.pass(r, along.end, c.opts.ReadAhead)
	i, at := along.find(st.frontier)
	if len(st.marks) < st.window && c.segments.shared(r.Segment) {
		st.wide = wideFor
	}
	most := min(st.window, c.shareOf(st))
	for len(st.marks) < most && i < along.len() {
		e := along.extent(i)
		if end := int64(e.Position) + int64(e.Length); !inSegment(e) || at >= end {
			if i++; i < along.len() {
				at = int64(along.extent(i).Position)
			}
			continue
		}
		n := at / size
		limit := (n + 1) * size
		end, last := along.contiguous(i, limit)
		if e.Segment != r.Segment || n != (r.end()-1)/size {
			if !c.prefetch(blockKey{e.Segment, n}, run{at - n*size, min(end, limit) - n*size}, how, st) {
				break
			}
			st.marks = append(st.marks, mark{e.Base, place{e.Segment, tiering.Position(at)}})
		}
		i, at = last, min(end, limit)
	}
	if i < along.len() {
		e := along.extent(i)
		st.frontier = mark{e.Base, place{e.Segment, tiering.Position(at)}}
	} else if e := along.extent(i - 1); i > 1 {
		st.frontier = mark{base: e.End()}
	} else {
		st.frontier = mark{e.Base, place{e.Segment, e.Position + tiering.Position(e.Length)}}
	}
}

// pass drops the marks of what a reader has come to, whose extent ends at offset end.
func (st *stream) pass(r Range, end tiering.Offset, most int) {
	n := 0
	for n < len(st.marks) {
		m := &st.marks[n]
		if m.base >= end || m.segment == r.Segment && int64(m.position) >= r.end() {
			break
		}
		n++
	}
	st.marks = slices.Delete(st.marks, 0, n)
	if st.passed += n; st.window > 0 && st.passed >= st.window {
		st.window, st.passed = min(2*st.window, most), 0
	}
}

// prefetch starts to load the block of a run, unless it is there or under way. It reports
// whether there is any sense in going on to the next. The caller holds the stream's lock.
func (c *Cache) prefetch(key blockKey, r run, how order, st *stream) bool {
	s := c.stripeOf(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.blockAt(key, how)
	c.come(b, r)
	if b.flight != nil || b.content.filled() >= r.hi {
		return true
	}
	w := c.wish(b, r.hi, st.wide > 0)
	n := w.to - b.content.filled()
	by := c.route(b, how)
	if !c.mayFetchAhead(n, by) {
		s.forgetEmpty(b)
		return false
	}
	c.ledger.await(b)
	if err := c.start(b, w, how, by, true); err != nil {
		by.leave() // closed: the read that asked will hear of it if it needs the store
		s.forgetEmpty(b)
		return false
	}
	st.wide = max(st.wide-1, 0)
	c.ahead.Add(n)
	b.unread += n
	c.expect(b, st)
	s.counts.Prefetches++
	return true
}

// shareOf is how many blocks may be fetched ahead of a stream: its part of all that may be, as
// long as others are fetched ahead of, too. Those who read many partitions wait for the slowest
// of them, so who came first must not have all.
func (c *Cache) shareOf(st *stream) int {
	streams := int64(c.expected.Load())
	if st.unread.Load() == 0 {
		streams++
	}
	return int(max(1, c.opts.Capacity/aheadShare/c.opts.BlockSize/max(1, streams)))
}

// expect notes which stream a block is fetched ahead of, nil for none any more. The caller holds
// the lock of the block's stripe.
func (c *Cache) expect(b *block, st *stream) {
	if b.stream == st {
		return
	}
	if b.stream != nil && b.stream.unread.Add(-1) == 0 {
		c.expected.Add(-1)
	}
	if b.stream = st; st != nil && st.unread.Add(1) == 1 {
		c.expected.Add(1)
	}
}

// mayFetchAhead takes a slot of a route if n bytes may be fetched ahead now.
func (c *Cache) mayFetchAhead(n int64, by route) bool {
	if c.ahead.Load()+n > max(c.opts.Capacity/aheadShare, c.opts.BlockSize) && !c.ledger.hasRoom(n) {
		return false
	}
	return len(by.slots) < max(1, cap(by.slots)-cap(by.slots)/waitShare) && by.tryEnter()
}

// streamAt returns the stream that was last known to be at, or to come to, a place; or nil.
func (c *Cache) streamAt(p place) *stream {
	s := c.stripeOf(blockKey{p.segment, int64(p.position)})
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.streams[p]
}

// remember keeps a stream under a place, in the place of the oldest one if there are too many.
func (c *Cache) remember(p place, st *stream) {
	s := c.stripeOf(blockKey{p.segment, int64(p.position)})
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.streams == nil {
		s.streams = make(map[place]*stream)
	}
	if _, known := s.streams[p]; !known {
		delete(s.streams, s.trail[s.trailed])
		s.trail[s.trailed] = p
		s.trailed = (s.trailed + 1) % maxPlaces
	}
	s.streams[p] = st
}
