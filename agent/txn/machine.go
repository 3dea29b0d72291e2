package txn

import (
	"container/heap"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/coordinator"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

const (
	// maxDue is how many ids one tick serves: when thousands run out of time together, the
	// rows of one step stay far below what a record holds, and requests come between.
	maxDue = 64
	// callAgain is the pause before a call that failed for good, which none should, is made
	// again. It only keeps a fault elsewhere from becoming a storm.
	callAgain = time.Second
)

// machine is the coordinator of one shard's transactional ids.
type machine struct {
	settings Settings
	epoch    int32 // of this leadership
	topics   coordinator.Topics
	ids      map[string]*entry
	waits    map[coordinator.RequestID]*entry // whose requests wait
	wakes    wakeHeap

	// Of the step under way.
	now     time.Time
	out     coordinator.Effects
	touched []*entry
}

// entry is what is known of one transactional id.
type entry struct {
	row   // as it is committed, or on its way to be
	id    string
	known bool // it has a row; otherwise it waits for its first producer id

	// Memory only.
	left    map[target]bool        // what the prepared transaction is not concluded in
	again   []coordinator.Conclude // calls to make again at retry
	retry   time.Time              // zero: nothing is to be tried again
	spare   int64                  // a producer id for this transactional id alone, or -1
	asked   bool                   // a producer id is on its way
	waiting []waiting

	at      time.Time // when it wants to be woken, zero for never
	index   int       // in wakes, -1 if not there
	touched bool      // in this step
	changed bool      // its row, in this step
}

// target is where a transaction is concluded.
type target struct {
	partition tiering.TopicPartition
	group     string // empty for a partition
}

// waiting is a request that waits for a transaction's end, or for a producer id.
type waiting struct {
	request  coordinator.RequestID
	body     any
	deadline time.Time
	late     any // the answer if the wait is too long
}

// verdict is what a request hears.
type verdict struct {
	body   any
	proven bool // it leaves only when a read has proved that nothing newer is committed
	wait   bool // the request waits; body is for when it has waited too long
}

type loader struct{ settings Settings }

func (l loader) load(id tiering.ShardID, epoch tiering.LeaderEpoch, s *shard.State, topics coordinator.Topics, now time.Time) (coordinator.Machine, error) {
	if err := l.settings.Validate(); err != nil {
		return nil, fmt.Errorf("settings of transactions: %w", err)
	}
	m := &machine{
		settings: l.settings, epoch: int32(epoch), topics: topics, now: now,
		ids: map[string]*entry{}, waits: map[coordinator.RequestID]*entry{},
	}
	for _, name := range s.Names(shard.Transactions) {
		e := m.entry(name)
		var err error
		if e.row, err = decodeRow(s.Row(shard.Transactions, name, rowKey)); err != nil {
			return nil, fmt.Errorf("transactional id %q of shard %d: %w", name, id, err)
		}
		e.known = true
		if e.status.prepared() {
			// The coordinator before may have concluded some of it, or all: it is done again.
			e.again, e.retry = m.conclusions(e), now
		}
	}
	m.settle()
	return m, nil
}

// entry returns what is known of an id, from now on.
func (m *machine) entry(id string) *entry {
	e := m.ids[id]
	if e == nil {
		e = &entry{id: id, spare: -1, index: -1}
		m.ids[id] = e
	}
	m.touch(e)
	return e
}

func (m *machine) touch(e *entry) {
	if !e.touched {
		e.touched = true
		m.touched = append(m.touched, e)
	}
}

// change notes that the row of e has changed.
func (m *machine) change(e *entry) {
	m.touch(e)
	e.changed = true
	e.updated = m.millis()
}

// millis returns the time of the step as rows keep it. A clock before 1970 is wrong anyhow.
func (m *machine) millis() int64 { return max(0, m.now.UnixMilli()) }

// Step implements coordinator.Machine.
func (m *machine) Step(ev coordinator.Event, now time.Time) coordinator.Effects {
	m.now, m.out = now, coordinator.Effects{}
	switch ev := ev.(type) {
	case coordinator.Request:
		m.request(waiting{request: ev.ID, body: ev.Body, deadline: now.Add(m.settings.ConcurrentWait)})
	case coordinator.Tick:
		m.tick()
	case coordinator.Changed:
		m.topics = ev.Topics
	case coordinator.Result:
		m.result(ev)
	case coordinator.Cancelled:
		m.cancel(ev.ID)
	}
	m.settle()
	return m.out
}

// Wake implements coordinator.Machine.
func (m *machine) Wake() time.Time {
	if len(m.wakes) == 0 {
		return time.Time{}
	}
	return m.wakes[0].at
}

// settle ends a step: rows that changed are written once, and what was touched knows when it
// wants to be woken.
func (m *machine) settle() {
	for _, e := range m.touched {
		if e.changed {
			r := shard.Row{Key: rowKey}
			if e.known {
				r.Value = e.encode()
			}
			m.out.Changes = append(m.out.Changes, shard.PutRows{Space: shard.Transactions, Name: e.id, Rows: []shard.Row{r}})
		}
		e.touched, e.changed = false, false
		if !e.known && !e.asked && len(e.waiting) == 0 {
			delete(m.ids, e.id)
			e.retry = time.Time{}
		}
		m.schedule(e)
	}
	clear(m.touched)
	m.touched = m.touched[:0]
}

// request answers a request, or lets it wait.
func (m *machine) request(w waiting) {
	switch body := w.body.(type) {
	case *kmsg.DescribeTransactionsRequest:
		m.out.Replies = append(m.out.Replies, coordinator.Reply{ID: w.request, Read: describe(body, m.topics)})
	case *kmsg.ListTransactionsRequest:
		m.out.Replies = append(m.out.Replies, coordinator.Reply{ID: w.request, Read: list(body, m.now)})
	case Enlist:
		m.answer(w, m.ids[body.ID], m.enlist(m.ids[body.ID], body))
	case *kmsg.EndTxnRequest:
		m.answer(w, m.ids[body.TransactionalID], m.endTxn(m.ids[body.TransactionalID], body))
	case *kmsg.InitProducerIDRequest:
		if v, ok := m.checkInit(body); !ok {
			m.answer(w, nil, v)
			return
		}
		e := m.entry(*body.TransactionalID)
		m.answer(w, e, m.initProducerID(e, body))
	default:
		m.answer(w, nil, verdict{body: fmt.Errorf("transactions know no request of type %T", body)})
	}
}

func (m *machine) answer(w waiting, e *entry, v verdict) {
	switch {
	case v.wait && len(e.waiting) < m.settings.MaxWaiting && w.deadline.After(m.now):
		w.late = v.body
		m.touch(e)
		e.waiting = append(e.waiting, w)
		m.waits[w.request] = e
		return
	case v.proven:
		body := v.body
		m.out.Replies = append(m.out.Replies, coordinator.Reply{ID: w.request, Read: func(*shard.State) any { return body }})
	default:
		m.out.Replies = append(m.out.Replies, coordinator.Reply{ID: w.request, Body: v.body})
	}
	delete(m.waits, w.request)
}

// resume asks again what waits for e, in order: what it waited for has come.
func (m *machine) resume(e *entry) {
	m.touch(e)
	rest := e.waiting
	e.waiting = nil
	for _, w := range rest {
		m.request(w)
	}
}

// tooLate answers what waits for e and need not wait any longer.
func (m *machine) tooLate(e *entry, over func(waiting) bool) {
	kept := e.waiting[:0]
	for _, w := range e.waiting {
		if !over(w) {
			kept = append(kept, w)
			continue
		}
		m.out.Replies = append(m.out.Replies, coordinator.Reply{ID: w.request, Body: w.late})
		delete(m.waits, w.request)
	}
	clear(e.waiting[len(kept):])
	e.waiting = kept
}

func (m *machine) cancel(id coordinator.RequestID) {
	e := m.waits[id]
	if e == nil {
		return
	}
	delete(m.waits, id)
	m.touch(e)
	for i, w := range e.waiting {
		if w.request == id {
			e.waiting = append(e.waiting[:i:i], e.waiting[i+1:]...)
			return
		}
	}
}

// tick serves the ids whose time has come.
func (m *machine) tick() {
	for n := 0; n < maxDue && len(m.wakes) > 0 && !m.wakes[0].at.After(m.now); n++ {
		e := m.wakes[0]
		heap.Pop(&m.wakes)
		m.touch(e)
		m.due(e)
	}
}

// due does for e what is due.
func (m *machine) due(e *entry) {
	m.tooLate(e, func(w waiting) bool { return !w.deadline.After(m.now) })
	if !e.retry.After(m.now) {
		e.retry = time.Time{}
		for _, c := range e.again {
			m.out.Calls = append(m.out.Calls, c)
		}
		e.again = nil
	}
	m.timeout(e)
	if at := m.expiry(e); !at.IsZero() && !at.After(m.now) {
		e.known = false
		m.change(e)
	}
}

// timeout aborts an open transaction whose time is over.
func (m *machine) timeout(e *entry) {
	if e.status == ongoing && !e.deadline().After(m.now) && e.retry.IsZero() {
		m.prepare(e, false, true)
	}
}

// deadline returns when the open transaction is aborted.
func (e *entry) deadline() time.Time {
	return time.UnixMilli(e.started).Add(time.Duration(e.timeout) * time.Millisecond)
}

// expiry returns when the id is forgotten; zero while it is in use.
func (m *machine) expiry(e *entry) time.Time {
	if !e.known || e.status == ongoing || e.status.prepared() || len(e.waiting) > 0 {
		return time.Time{}
	}
	return time.UnixMilli(e.updated).Add(m.settings.IDExpiration)
}

// needID reports whether e has a producer id in store, and sees to it that it will have.
func (m *machine) needID(e *entry) bool {
	if e.spare < 0 && !e.asked {
		m.touch(e)
		e.asked = true
		m.out.Calls = append(m.out.Calls, coordinator.NewProducerID{Name: e.id})
	}
	return e.spare >= 0
}

// takeID returns the producer id in store.
func (e *entry) takeID() int64 {
	id := e.spare
	e.spare = -1
	return id
}

// gotID is told a producer id.
func (m *machine) gotID(e *entry, value any, err error) {
	id, ok := value.(int64)
	m.touch(e)
	e.asked = false
	if err != nil || !ok || id < 0 {
		m.tooLate(e, func(waiting) bool { return true })
		e.retry = m.now.Add(callAgain)
		return
	}
	e.spare = id
	m.resume(e)
	m.timeout(e)
}

// producerFenced returns PRODUCER_FENCED, or what requests before a version know instead.
func producerFenced(olderThan int16, version int16) int16 {
	if version < olderThan {
		return kerr.InvalidProducerEpoch.Code
	}
	return kerr.ProducerFenced.Code
}
