package fetch

import (
	"sync"

	"github.com/floelog/floe/tiering"
)

// maxMarks bounds what is remembered of where readers stopped. Not fewer: each partition that
// somebody catches up on needs one. Not more: a mark is some 100 bytes, and one that is gone
// only costs a walk through the extent.
const maxMarks = 8192

// markKey names a batch that a reader stopped before: segments never change, so what is known
// of one stays true.
type markKey struct {
	segment tiering.SegmentID
	extent  tiering.Position
	offset  tiering.Offset
}

// marks remember where in large extents readers stopped, so that the next read of a reader
// that goes on begins there, without a walk through what it has read.
type marks struct {
	mu   sync.Mutex
	at   map[markKey]int // bytes from the extent's start
	ring []markKey       // oldest at next, once it is full
	next int
}

func newMarks() *marks { return &marks{at: map[markKey]int{}} }

// find returns the place of the batch at offset, or of the extent's first one.
func (m *marks) find(e *tiering.Extent, offset tiering.Offset) (at tiering.Offset, pos int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if pos, ok := m.at[markKey{e.Segment, e.Position, offset}]; ok {
		return offset, pos
	}
	return e.Base, 0
}

func (m *marks) add(e *tiering.Extent, offset tiering.Offset, pos int) {
	key := markKey{e.Segment, e.Position, offset}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, known := m.at[key]; known || pos == 0 {
		return
	}
	m.at[key] = pos
	if len(m.ring) < maxMarks {
		m.ring = append(m.ring, key)
		return
	}
	delete(m.at, m.ring[m.next])
	m.ring[m.next] = key
	m.next = (m.next + 1) % maxMarks
}
