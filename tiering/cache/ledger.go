package cache

import "sync"

const (
	// maxReused bounds how many rounds of the main queue a block's reuse buys it. Not
	// smaller: hot blocks should outlive a scan. Not larger: what was hot yesterday should
	// leave soon.
	maxReused = 3

	// smallShare is the part of all blocks that newcomers get: a quarter. Not smaller: readers
	// side by side share blocks. Not larger: a scan can fill it.
	smallShare = 4

	// coldShare is the part of all blocks that those of lagging readers get when others want
	// the room: a quarter. Not smaller: readers side by side share blocks. Not larger: it is
	// taken from what is read again.
	coldShare = 4
)

// ledger accounts for every byte that the cache holds and decides what goes when there
// is no room: blocks by S3-FIFO, offered segments by age. It touches no stripe; what it
// evicts, its callers take out.
//
// S3-FIFO: a block enters the small queue; there it is either read again and moves on to
// the main queue, or leaves. The main queue goes round: a block loses one reuse at each
// turn and leaves when it has none. The key of what left the small queue is remembered for
// a while in the ghost: if it comes back it goes to the main queue at once. A scan so
// never displaces what is read repeatedly, and a hit moves nothing.
//
// Blocks that were fetched ahead wait for their reader in a queue of their own, since what was
// read already is of less use. They leave when half of the capacity was loaded since, for their
// reader may have gone; and without a ghost: that such a block comes back says nothing of reuse.
//
// Blocks that only lagging readers asked for (Range.Cold) are on probation in a queue of
// their own, whatever their number of reads, and leave no ghost: so a replay displaces
// neither the main queue nor other newcomers. If somebody else asks for one before it
// leaves, it becomes a newcomer then.
//
// Blocks and offered segments may each use what the other leaves free, and each is sure
// of half of the capacity, in which blocks include the GETs in flight.
type ledger struct {
	mu       sync.Mutex
	capacity int64
	fetching int64 // bytes of GETs in flight, at most half of capacity
	small    queue
	main     queue
	cold     queue
	ahead    queue
	loaded   int64 // bytes of all loads
	ghost    ghost

	oldest, newest *tail
	tailBytes      int64

	evictedBlocks, evictedTails, evictedBytes int64
}

func newLedger(capacity, blockSize int64) *ledger {
	n := int(capacity / blockSize)
	return &ledger{capacity: capacity, ghost: ghost{keys: make(map[blockKey]int, n), ring: make([]blockKey, n)}}
}

// evicted is what has to leave the stripes.
type evicted struct {
	blocks []*block
	tails  []*tail
}

func (l *ledger) blockBytes() int64 {
	return l.small.bytes + l.main.bytes + l.cold.bytes + l.ahead.bytes
}

// hasRoom reports whether n bytes more would displace nothing.
func (l *ledger) hasRoom(n int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.blockBytes()+l.tailBytes+l.fetching+n <= l.capacity
}

// reserve makes room for a GET of n bytes, until settle.
func (l *ledger) reserve(n int64) evicted {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fetching += n
	return l.makeRoom()
}

// settle ends a reservation of n bytes. What the load brought, perhaps less, is b's now.
func (l *ledger) settle(b *block, reserved, n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fetching -= reserved
	l.loaded += n
	switch {
	case n == 0 || b.gone:
	case b.in != nil:
		b.bytes += n
		b.in.bytes += n
	case b.awaited:
		b.bytes, b.loadedAt = n, l.loaded
		l.ahead.push(b)
	default:
		b.bytes = n
		l.admit(b)
	}
}

// admit puts a block that somebody has asked for into its first queue.
func (l *ledger) admit(b *block) {
	switch {
	case b.cold.Load():
		l.cold.push(b)
	case l.ghost.take(b.key):
		l.main.push(b)
	default:
		l.small.push(b)
	}
}

// await says that a block is about to be fetched ahead, if nothing of it is here yet.
func (l *ledger) await(b *block) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b.awaited = b.in == nil && !b.gone
}

// arrived says that somebody has come to a block that was fetched ahead.
func (l *ledger) arrived(b *block) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b.awaited = false
	if b.in == &l.ahead {
		l.ahead.remove(b)
		l.admit(b)
	}
}

// remove forgets a block for good.
func (l *ledger) remove(b *block) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b.gone = true
	if b.in != nil {
		b.in.remove(b)
	}
}

// addTail accounts for an offered segment. It reports false if that is too large.
func (l *ledger) addTail(t *tail) (evicted, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if t.held > l.capacity/2 {
		return evicted{}, false
	}
	if l.newest == nil {
		l.oldest = t
	} else {
		l.newest.newer = t
	}
	l.newest = t
	l.tailBytes += t.held
	return l.makeRoom(), true
}

// makeRoom evicts until all fits. It always can: neither what is being fetched nor the
// newest offered segment takes more than half.
func (l *ledger) makeRoom() evicted {
	var out evicted
	for l.blockBytes()+l.tailBytes+l.fetching > l.capacity {
		if l.tailBytes > l.capacity/2 || l.blockBytes() == 0 {
			t := l.oldest
			if l.oldest = t.newer; l.oldest == nil {
				l.newest = nil
			}
			l.tailBytes -= t.held
			l.evictedTails++
			l.evictedBytes += t.held
			out.tails = append(out.tails, t)
			continue
		}
		b := l.evictBlock()
		l.evictedBlocks++
		l.evictedBytes += b.bytes
		out.blocks = append(out.blocks, b)
	}
	return out
}

func (l *ledger) evictBlock() *block {
	for {
		warm := l.small.bytes + l.main.bytes
		if b := l.ahead.oldest; b != nil && (l.ahead.bytes > l.capacity/aheadShare || l.loaded-b.loadedAt > l.capacity/2 || warm+l.cold.bytes == 0) {
			l.ahead.remove(b)
			b.gone = true
			return b
		}
		if l.cold.bytes > (warm+l.cold.bytes)/coldShare || warm == 0 {
			b := l.cold.oldest
			l.cold.remove(b)
			if !b.cold.Load() {
				l.small.push(b)
				continue
			}
			b.gone = true
			return b
		}
		if l.small.bytes > warm/smallShare || l.main.bytes == 0 {
			b := l.small.oldest
			l.small.remove(b)
			if b.reused.Load() > 0 {
				b.reused.Store(0)
				l.main.push(b)
				continue
			}
			l.ghost.add(b.key)
			b.gone = true
			return b
		}
		b := l.main.oldest
		l.main.remove(b)
		if n := b.reused.Load(); n > 0 {
			b.reused.Store(n - 1)
			l.main.push(b)
			continue
		}
		b.gone = true
		return b
	}
}

// link is a block's place in the ledger.
type link struct {
	in           *queue // nil before the first bytes arrive and after it left
	older, newer *block
	bytes        int64
	gone         bool  // evicted or dropped: not to be accounted for again
	awaited      bool  // fetched ahead, and nobody has come to it
	loadedAt     int64 // bytes of all loads up to this one's, if it is awaited
}

// queue is a FIFO of blocks from which any can be removed.
type queue struct {
	oldest, newest *block
	bytes          int64
}

func (q *queue) push(b *block) {
	b.in, b.older, b.newer = q, q.newest, nil
	if q.newest == nil {
		q.oldest = b
	} else {
		q.newest.newer = b
	}
	q.newest = b
	q.bytes += b.bytes
}

func (q *queue) remove(b *block) {
	if b.older == nil {
		q.oldest = b.newer
	} else {
		b.older.newer = b.newer
	}
	if b.newer == nil {
		q.newest = b.older
	} else {
		b.newer.older = b.older
	}
	b.in, b.older, b.newer = nil, nil, nil
	q.bytes -= b.bytes
}

// ghost remembers the last keys that left the small queue, as many as full blocks fit
// into the capacity.
type ghost struct {
	keys map[blockKey]int // place in ring
	ring []blockKey
	next int
}

func (g *ghost) add(key blockKey) {
	if at, ok := g.keys[g.ring[g.next]]; ok && at == g.next {
		delete(g.keys, g.ring[g.next])
	}
	g.ring[g.next] = key
	g.keys[key] = g.next
	g.next = (g.next + 1) % len(g.ring)
}

func (g *ghost) take(key blockKey) bool {
	_, ok := g.keys[key]
	delete(g.keys, key)
	return ok
}
