package group

import (
	"container/heap"
	"time"

	"github.com/floelog/floe/agent/group/classic"
	"github.com/floelog/floe/agent/group/consumer"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// entry is what the machine knows of one name.
type entry struct {
	name      string
	group     Group // nil: nobody has joined
	rows      map[string]struct{}
	config    map[string]string // what was set
	offsets   map[tiering.TopicPartition]stamp
	producers map[int64]*producer

	check time.Time // when offsets that expired are looked for
	wake  time.Time // when the entry is due: its place in the heap
	index int       // in the heap
}

// stamp is what expiry needs to know of a committed offset.
type stamp struct {
	committed int64 // milliseconds
	expires   int64 // -1: by retention
	seen      bool  // its topic was among the topics: if it is not any more, it was deleted
}

// producer is what is known of a transactional producer, as in shard.GroupProducer.
type producer struct {
	epoch       int16
	ended, open int64
	pending     map[tiering.TopicPartition]stamp
	updated     int64
}

func newEntry(name string) *entry {
	return &entry{name: name, rows: map[string]struct{}{}, index: -1}
}

func (e *entry) classic() *classic.Group {
	g, _ := e.group.(*classic.Group)
	return g
}

func (e *entry) consumer() *consumer.Group {
	g, _ := e.group.(*consumer.Group)
	return g
}

// exists says whether clients are told of the group.
func (e *entry) exists() bool {
	if e == nil {
		return false
	}
	if e.group != nil || len(e.offsets) > 0 {
		return true
	}
	for _, p := range e.producers {
		if p.open != 0 {
			return true
		}
	}
	return false
}

// vacant says that the group has no members, and nobody is about to join.
func (e *entry) vacant() bool { return e.group == nil || e.group.State() == stateEmpty }

// state returns Kafka's name of the group's state.
func (e *entry) state() string {
	switch {
	case e.group != nil:
		return e.group.State()
	case e.exists():
		return stateEmpty
	}
	return stateDead
}

// commit remembers an offset that is being committed.
func (e *entry) commit(o shard.GroupOffset, now time.Time, seen bool) {
	if e.offsets == nil {
		e.offsets = map[tiering.TopicPartition]stamp{}
	}
	e.offsets[o.Partition] = stamp{now.UnixMilli(), o.Expires, seen}
}

// conclude does what shard.ConcludeOffsets does to the state.
func (e *entry) conclude(t shard.Transaction, commit bool, now time.Time) {
	p := e.producer(t.ProducerID)
	p.epoch, p.ended, p.updated = max(p.epoch, t.Epoch), t.Number, max(p.updated, now.UnixMilli())
	if p.open > t.Number {
		return
	}
	for tp, s := range p.pending {
		if is, ok := e.offsets[tp]; commit && (!ok || is.committed <= s.committed) {
			if e.offsets == nil {
				e.offsets = map[tiering.TopicPartition]stamp{}
			}
			e.offsets[tp] = s
		}
	}
	p.open, p.pending = 0, nil
}

func (e *entry) producer(id int64) *producer {
	p := e.producers[id]
	if p == nil {
		if e.producers == nil {
			e.producers = map[int64]*producer{}
		}
		p = &producer{}
		e.producers[id] = p
	}
	return p
}

// forget drops offsets, pending ones too, that are being deleted.
func (e *entry) forget(partitions []tiering.TopicPartition) {
	for _, tp := range partitions {
		delete(e.offsets, tp)
		for _, p := range e.producers {
			delete(p.pending, tp)
		}
	}
}

func (e *entry) pending(tp tiering.TopicPartition) bool {
	for _, p := range e.producers {
		if _, ok := p.pending[tp]; ok {
			return true
		}
	}
	return false
}

// queue orders entries by when they are due: a heap. Entries that are never due are last.
type queue []*entry

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].wake.Before(q[j].wake) }
func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

// Push and Pop implement heap.Interface.
func (q *queue) Push(x any) {
	e := x.(*entry)
	e.index = len(*q)
	*q = append(*q, e)
}

func (q *queue) Pop() any {
	old := *q
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	e.index = -1
	return e
}

// settle puts an entry where it belongs in the heap, after anything happened to it.
func (q *queue) settle(e *entry) {
	wake := e.check
	if e.group != nil {
		if w := e.group.Wake(); !w.IsZero() && w.Before(wake) {
			wake = w
		}
	}
	switch {
	case e.index < 0:
		e.wake = wake
		heap.Push(q, e)
	case !e.wake.Equal(wake):
		e.wake = wake
		heap.Fix(q, e.index)
	}
}

// spread returns a share of d that depends on the name, so that the groups of a shard that
// was just loaded do not all look for expired offsets at once.
func spread(name string, d time.Duration) time.Duration {
	h := uint32(2166136261)
	for i := range len(name) {
		h = (h ^ uint32(name[i])) * 16777619
	}
	return time.Duration(uint64(d) / 1024 * uint64(h%1024))
}
