package fetch

import (
	"sync"

	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// waiters knows which requests wait for which partitions.
type waiters struct {
	mu          sync.Mutex
	byPartition map[tiering.TopicPartition]map[*waiter]struct{}
	byShard     map[tiering.ShardID]map[*waiter]int // partitions of the shard that it waits for
}

// waiter is one request. wake holds one signal: something it asked for has changed.
type waiter struct {
	wake       chan struct{}
	partitions []Partition
}

func newWaiters() *waiters {
	return &waiters{
		byPartition: map[tiering.TopicPartition]map[*waiter]struct{}{},
		byShard:     map[tiering.ShardID]map[*waiter]int{},
	}
}

// register must come before the look at the views that decides whether to wait.
func (ws *waiters) register(partitions []Partition) *waiter {
	w := &waiter{wake: make(chan struct{}, 1), partitions: partitions}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for i := range partitions {
		p := &partitions[i]
		m := ws.byPartition[p.Partition]
		if m == nil {
			m = map[*waiter]struct{}{}
			ws.byPartition[p.Partition] = m
		}
		m[w] = struct{}{}
		s := ws.byShard[p.Shard]
		if s == nil {
			s = map[*waiter]int{}
			ws.byShard[p.Shard] = s
		}
		s[w]++
	}
	return w
}

func (ws *waiters) unregister(w *waiter) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for i := range w.partitions {
		p := &w.partitions[i]
		if m := ws.byPartition[p.Partition]; m != nil {
			if delete(m, w); len(m) == 0 {
				delete(ws.byPartition, p.Partition)
			}
		}
		if s := ws.byShard[p.Shard]; s != nil {
			if s[w]--; s[w] <= 0 {
				delete(s, w)
			}
			if len(s) == 0 {
				delete(ws.byShard, p.Shard)
			}
		}
	}
}

// applied wakes those that wait for a partition which the record changes. A record without
// changes stands for a snapshot: the whole shard may have changed.
func (ws *waiters) applied(id tiering.ShardID, r *shard.Record) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if len(r.Changes) == 0 {
		for w := range ws.byShard[id] {
			w.signal()
		}
		return
	}
	if len(ws.byShard[id]) == 0 {
		return
	}
	for _, c := range r.Changes {
		switch c := c.(type) {
		case shard.Append:
			ws.wakeLocked(c.Partition)
		case shard.Mark: // records as well, and the last stable offset may have moved
			ws.wakeLocked(c.Partition)
		case shard.Trim:
			ws.wakeLocked(c.Partition)
		}
	}
}

func (ws *waiters) wakeLocked(tp tiering.TopicPartition) {
	for w := range ws.byPartition[tp] {
		w.signal()
	}
}

func (w *waiter) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}
