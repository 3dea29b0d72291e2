package txn

import (
	"container/heap"
	"time"
)

// wakeHeap has the entries that want to be woken, the next one first.
type wakeHeap []*entry

func (h wakeHeap) Len() int           { return len(h) }
func (h wakeHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h wakeHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push implements heap.Interface.
func (h *wakeHeap) Push(x any) {
	e := x.(*entry)
	e.index = len(*h)
	*h = append(*h, e)
}

// Pop implements heap.Interface.
func (h *wakeHeap) Pop() any {
	last := len(*h) - 1
	e := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	e.index = -1
	return e
}

// schedule puts e where it belongs among those that want to be woken.
func (m *machine) schedule(e *entry) {
	e.at = m.wake(e)
	switch {
	case e.at.IsZero() && e.index >= 0:
		heap.Remove(&m.wakes, e.index)
	case e.at.IsZero():
	case e.index >= 0:
		heap.Fix(&m.wakes, e.index)
	default:
		heap.Push(&m.wakes, e)
	}
}

// wake returns when e wants to be woken: the earliest of what it has to do at some time, zero
// for nothing.
func (m *machine) wake(e *entry) time.Time {
	var at time.Time
	consider := func(t time.Time) {
		if !t.IsZero() && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	for _, w := range e.waiting {
		consider(w.deadline)
	}
	consider(e.retry)
	// While a producer id is on its way, or must be asked for again, a transaction that has
	// none to go on with cannot be aborted yet.
	if e.status == ongoing && !e.asked && e.retry.IsZero() {
		consider(e.deadline())
	}
	consider(m.expiry(e))
	return at
}
