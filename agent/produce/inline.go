package produce

import (
	"time"

	"github.com/floelog/floe/tiering"
)

// takeInlineLocked sends the parts of a request that are small enough straight to their
// shards' lanes, as far as the budget goes, and returns the rest. A partition's order is
// kept: nothing overtakes a flush that its lane is waiting for.
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
		if room && n <= p.cfg.InlineMax && p.lanes[id].flushed == 0 && p.inline.take(n, p.parts.Now()) {
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
		l.queue = append(l.queue, it)
		l.kickLocked()
	}
	return rest
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
