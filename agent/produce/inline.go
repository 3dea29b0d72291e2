package produce

import (
	"slices"
	"time"

	"github.com/floelog/floe/tiering"
)

// takeInlineLocked sends the parts of a request that are small enough straight to their
// shards' lanes, as far as the budget goes, and returns the rest. A partition's order is
// kept: nothing overtakes a flush that its lane is waiting for, unless the object store is
// down and the flush has nothing of the same partitions.
func (p *Pipeline) takeInlineLocked(batches []*Batch) (rest []*Batch) {
	if p.cfg.InlineMax == 0 {
		return batches
	}
	sizes := make(map[tiering.ShardID]int, 4)
	for _, b := range batches {
		sizes[b.Shard] += len(b.Data)
	}
	items := make(map[tiering.ShardID]*item, len(sizes))
	for id, n := range sizes {
		room := p.parts.InlineRoom == nil || p.parts.InlineRoom(id)
		if room && n <= p.cfg.InlineMax && p.mayPassLocked(id, batches) && p.inline.take(n, p.parts.Now()) {
			items[id] = &item{ready: true, bytes: n}
		}
	}
	if len(items) == 0 {
		return batches
	}
	for _, b := range batches {
		if it := items[b.Shard]; it != nil {
			it.batches = append(it.batches, b)
		} else {
			rest = append(rest, b)
		}
	}
	for id, it := range items {
		p.parts.Observe.Inlined(it.bytes, len(it.batches))
		l := p.lanes[id]
		l.queue = slices.Insert(l.queue, l.readyLocked(), it)
		l.kickLocked()
	}
	return rest
}

// maxCompared bounds the comparisons of a request's batches with those that wait: they are made
// under the pipeline's lock. Fewer: in an outage small requests wait behind large flushes.
const maxCompared = 1 << 16

// mayPassLocked reports whether what a request has for a shard keeps the order of each partition
// when it goes before what waits for uploads. That is looked at only while the store is down:
// otherwise an upload is over soon.
func (p *Pipeline) mayPassLocked(id tiering.ShardID, batches []*Batch) bool {
	l := p.lanes[id]
	if l.flushed == 0 {
		return true
	}
	if p.parts.StoreDown == nil || !p.parts.StoreDown() {
		return false
	}
	compared := 0
	for _, it := range l.queue[l.readyLocked():] {
		if compared += len(it.batches) * len(batches); compared > maxCompared {
			return false
		}
		for _, waits := range it.batches {
			for _, b := range batches {
				if b.Shard == id && b.Partition == waits.Partition {
					return false
				}
			}
		}
	}
	return true
}

// readyLocked returns how many items at the lane's head wait for no upload.
func (l *lane) readyLocked() int {
	n := 0
	for n < len(l.queue) && l.queue[n].ready {
		n++
	}
	return n
}

// bucket is a token bucket of bytes per second that may be spent half a second ahead:
// less would refuse the bursts of a quiet cluster, more would let a burst fill the
// metadata store's log before the next roll-up.
type bucket struct {
	rate, tokens float64
	last         time.Time
}

func newBucket(rate float64, now time.Time) *bucket {
	return &bucket{rate: rate, tokens: rate / 2, last: now}
}

func (b *bucket) take(n int, now time.Time) bool {
	b.tokens = min(b.rate/2, b.tokens+b.rate*now.Sub(b.last).Seconds())
	b.last = now
	if b.tokens < float64(n) {
		return false
	}
	b.tokens -= float64(n)
	return true
}
