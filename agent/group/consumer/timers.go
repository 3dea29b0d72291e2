package consumer

import (
	"container/heap"
	"time"
)

// timers is a heap of members by the time at which they are to be looked at, which is never
// later than their deadline. A deadline that moves away, as with every heartbeat, costs
// nothing: the member is looked at too early once, and set right then.
type timers struct{ heap []*member }

// update tells of a member's deadline.
func (t *timers) update(m *member, deadline time.Time) {
	switch {
	case m.timer == 0:
		m.wakeAt = deadline
		heap.Push(t, m)
	case deadline.Before(m.wakeAt):
		m.wakeAt = deadline
		heap.Fix(t, m.timer-1)
	}
}

// due takes a member out whose time has come; nil if there is none.
func (t *timers) due(now time.Time) *member {
	if len(t.heap) == 0 || t.heap[0].wakeAt.After(now) {
		return nil
	}
	return heap.Pop(t).(*member)
}

func (t *timers) remove(m *member) {
	if m.timer > 0 {
		heap.Remove(t, m.timer-1)
	}
}

// first returns when the first member is to be looked at; zero: there is none.
func (t *timers) first() time.Time {
	if len(t.heap) == 0 {
		return time.Time{}
	}
	return t.heap[0].wakeAt
}

func (t *timers) Len() int           { return len(t.heap) }
func (t *timers) Less(i, j int) bool { return t.heap[i].wakeAt.Before(t.heap[j].wakeAt) }
func (t *timers) Swap(i, j int) {
	t.heap[i], t.heap[j] = t.heap[j], t.heap[i]
	t.heap[i].timer, t.heap[j].timer = i+1, j+1
}

// Push is for container/heap.
func (t *timers) Push(x any) {
	m := x.(*member)
	t.heap = append(t.heap, m)
	m.timer = len(t.heap)
}

// Pop is for container/heap.
func (t *timers) Pop() any {
	m := t.heap[len(t.heap)-1]
	t.heap[len(t.heap)-1] = nil
	t.heap = t.heap[:len(t.heap)-1]
	m.timer = 0
	return m
}
