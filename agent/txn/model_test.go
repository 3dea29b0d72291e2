package txn_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/coordinator"
	"github.com/floelog/floe/agent/txn"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// TestModel lets clients, timeouts, conclusions and failovers happen in random order and
// checks after every step what must be true of transactions.
func TestModel(t *testing.T) {
	seeds := 500
	if testing.Short() {
		seeds = 50
	}
	value := exhausted(t)
	var seen counts
	for seed := range seeds {
		m := &model{
			world: newWorld(t, txn.DefaultSettings()), rnd: rand.New(rand.NewPCG(uint64(seed), 3)),
			log: fmt.Sprintf("seed %d", seed), ids: map[string]*modelID{}, counts: &seen,
		}
		m.run(value)
	}
	t.Logf("%+v", seen)
	if seen.commits == 0 || seen.aborts == 0 || seen.waited == 0 || seen.lost == 0 || seen.rotated == 0 || seen.concluded == 0 || seen.fenced == 0 {
		t.Errorf("something never happened: %+v", seen)
	}
}

type counts struct{ steps, commits, aborts, waited, lost, rotated, concluded, fenced int }

// exhausted returns the row of an id whose producer, number 500, has few epochs left.
func exhausted(t *testing.T) []byte {
	w := newWorld(t, txn.DefaultSettings())
	w.nextID = 500
	w.play(`
		init => 500/0
		raise 500/0 to 32760 => ok, next 500/32760
	`)
	return w.state.Row(shard.Transactions, "x", "t")
}

type identity struct {
	producer int64
	epoch    int16
}

// model is the world with what the clients know, and what was seen of each id.
type model struct {
	*world
	*counts
	rnd  *rand.Rand
	log  string
	ids  map[string]*modelID
	past []any // requests that were sent: any may arrive again
	read int   // answers that were looked at
	sent map[coordinator.RequestID]any
}

type modelID struct {
	name      string
	version   int8 // of the protocol that its clients speak
	given     []identity
	producers []int64            // in the order in which they came
	seen      identity           // the last that was described
	number    int64              // of the last transaction that was seen open
	open      map[string]bool    // what takes part in it
	decided   map[int64]bool     // commit or abort, by number
	left      map[int64][]string // what is not concluded, by number
	used      map[identity]int64 // the last transaction that was joined under an identity
}

func (m *model) fail(format string, args ...any) {
	m.t.Helper()
	m.t.Fatalf("%s: %s", m.log, fmt.Sprintf(format, args...))
}

func (m *model) run(value []byte) {
	m.sent = map[coordinator.RequestID]any{}
	for i := range 3 {
		id := &modelID{
			name: fmt.Sprint("id-", i), version: int8(1 + m.rnd.IntN(2)), open: map[string]bool{},
			decided: map[int64]bool{}, left: map[int64][]string{}, used: map[identity]int64{},
		}
		m.ids[id.name] = id
		if m.rnd.IntN(2) == 0 {
			m.commit([]shard.Change{shard.PutRows{Space: shard.Transactions, Name: id.name, Rows: []shard.Row{{Key: "t", Value: value}}}})
			id.given = []identity{{500, 32760}}
		}
	}
	m.load()
	m.hold = true // producer ids come like any other result
	for range 150 {
		m.steps++
		m.turn()
	}
	for range 1000 {
		if len(m.calls) == 0 {
			break
		}
		m.deliver(0, nil)
	}
	m.pass2(2 * time.Hour)
	for _, id := range m.ids {
		if s, ok := m.describe(id); ok && (strings.HasPrefix(s.State, "Prepare") || s.State == "Ongoing") {
			m.fail("%s ends in %s", id.name, s.State)
		}
		for number, left := range id.left {
			if len(left) > 0 {
				m.fail("%s #%d is never concluded in %v", id.name, number, left)
			}
		}
	}
	if len(m.asked) > 0 {
		m.fail("requests without an answer: %v", m.asked)
	}
}

// pass2 lets time pass and makes every call succeed.
func (m *model) pass2(d time.Duration) {
	for end := m.now.Add(d); m.now.Before(end); {
		at := m.machine.Wake()
		if at.IsZero() || at.After(end) {
			m.now = end
			return
		}
		m.now = maxTime(m.now, at)
		m.event(coordinator.Tick{})
		for len(m.calls) > 0 {
			m.deliver(0, nil)
		}
	}
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (m *model) turn() {
	switch n := m.rnd.IntN(100); {
	case n < 55:
		m.request(m.draw())
	case n < 60 && len(m.past) > 0:
		m.request(m.past[m.rnd.IntN(len(m.past))])
	case n < 85 && len(m.calls) > 0:
		var err error
		if m.rnd.IntN(20) == 0 {
			err = errors.New("a fault")
		}
		m.deliver(m.rnd.IntN(len(m.calls)), err)
	case n < 92:
		m.now = m.now.Add(time.Duration(m.rnd.IntN(3000)) * time.Millisecond)
		m.event(coordinator.Tick{})
	case n < 94:
		m.now = m.now.Add(time.Minute)
		m.event(coordinator.Tick{})
	case n < 97:
		m.world.load()
		m.over()
		m.event(coordinator.Tick{})
	default:
		m.loseAnswers()
	}
	m.check()
}

// over notes that nobody waits any more.
func (m *model) over() {
	clear(m.asked)
}

// loseAnswers lets the coordinator fall in the middle of a step: what it wrote is committed,
// or not, and nobody hears of it.
func (m *model) loseAnswers() {
	m.lost++
	m.last++
	effects := m.machine.Step(coordinator.Request{ID: m.last, Body: m.draw()}, m.now)
	if m.rnd.IntN(2) == 0 {
		m.commit(effects.Changes)
	}
	m.load()
	m.over()
	m.event(coordinator.Tick{})
}

// draw makes up a request: of the newest identity mostly, and else of any there ever was.
func (m *model) draw() any {
	id := m.ids[fmt.Sprint("id-", m.rnd.IntN(len(m.ids)))]
	who := identity{1, 0}
	if n := len(id.given); n > 0 {
		who = id.given[n-1]
		if m.rnd.IntN(4) == 0 {
			who = id.given[m.rnd.IntN(n)]
		}
	}
	switch n := m.rnd.IntN(10); {
	case n == 0:
		req := initRequest(nil)
		req.TransactionalID, req.TransactionTimeoutMillis = &id.name, 60_000
		if m.rnd.IntN(2) == 0 {
			req.ProducerID, req.ProducerEpoch = who.producer, who.epoch
		}
		return req
	case n < 6:
		e := txn.Enlist{ID: id.name, ProducerID: who.producer, Epoch: who.epoch, Version: id.version, Add: n < 5}
		for range 1 + m.rnd.IntN(3) {
			p, g := target([]string{"a0", "a1", "b0", "b1", "c5", "g:q", "g:r"}[m.rnd.IntN(7)])
			if g.Name != "" {
				e.Groups = append(e.Groups, g)
			} else {
				e.Partitions = append(e.Partitions, p)
			}
		}
		return e
	}
	req := endRequest([]string{"abort", fmt.Sprintf("%d/%d", who.producer, who.epoch), []string{"", "v4", "v5"}[id.version]})
	req.TransactionalID, req.Commit = id.name, m.rnd.IntN(2) == 0
	return req
}

func (m *model) request(body any) {
	m.past = append(m.past, body)
	m.last++
	m.asked[m.last], m.sent[m.last] = body, body
	m.event(coordinator.Request{ID: m.last, Body: body})
	if m.asked[m.last] != nil {
		m.waited++
	}
}

// deliver tells the machine what became of a call.
func (m *model) deliver(i int, err error) {
	c := m.calls[i]
	m.calls = slices.Delete(m.calls, i, i+1)
	r := coordinator.Result{Call: c, Err: err}
	switch c := c.(type) {
	case coordinator.NewProducerID:
		m.nextID++
		r.Value = m.nextID
	case coordinator.Conclude:
		id := m.ids[c.Name]
		if err == nil {
			m.concluded++
			id.left[c.Transaction.Number] = slices.DeleteFunc(id.left[c.Transaction.Number], func(s string) bool { return s == place(c.Partition, c.Group) })
		}
	}
	m.event(r)
}

func place(tp tiering.TopicPartition, group string) string {
	if group != "" {
		return "g:" + group
	}
	return fmt.Sprintf("%c%d", tp.Topic[0], tp.Partition)
}

// event is a step of the machine, and a look at what it asks others to do and what it says.
// One step may let a transaction be joined and then decide it: joins are looked at first.
func (m *model) event(ev coordinator.Event) {
	n := len(m.calls)
	m.step(ev)
	answers := m.order[m.read:]
	m.read = len(m.order)
	ends := make([]int64, len(answers)) // the transactions that answers to EndTxn are about
	for i, request := range answers {
		switch req := m.sent[request].(type) {
		case txn.Enlist:
			m.checkEnlisted(req, m.answers[request].(txn.Enlisted))
		case *kmsg.EndTxnRequest:
			ends[i] = m.ids[req.TransactionalID].used[identity{req.ProducerID, req.ProducerEpoch}]
		}
	}
	for _, c := range m.calls[n:] {
		if c, ok := c.(coordinator.Conclude); ok {
			m.checkConclude(c)
		}
	}
	for i, request := range answers {
		m.checkAnswer(m.sent[request], m.answers[request], ends[i])
	}
}

func (m *model) checkConclude(c coordinator.Conclude) {
	id := m.ids[c.Name]
	n := c.Transaction.Number
	if commit, ok := id.decided[n]; ok && commit != c.Commit {
		m.fail("%s is decided otherwise: %s", id.name, showCall(c))
	}
	if n < id.number {
		m.fail("%s: after #%d has started: %s", id.name, id.number, showCall(c))
	}
	if _, ok := id.decided[n]; !ok {
		id.decided[n] = c.Commit
		s, _ := m.describe(id)
		id.left[n] = nil
		for _, t := range s.Topics {
			for _, p := range t.Partitions {
				id.left[n] = append(id.left[n], fmt.Sprintf("%s%d", t.Topic, p))
			}
		}
		for t := range id.open {
			if !slices.Contains(id.left[n], t) {
				id.left[n] = append(id.left[n], t)
			}
		}
	}
	if c.Coordinator != int32(m.epoch) {
		m.fail("%s: coordinator epoch %d, not %d", showCall(c), c.Coordinator, m.epoch)
	}
}

func (m *model) checkAnswer(req, answer any, n int64) {
	switch a := answer.(type) {
	case *kmsg.InitProducerIDResponse:
		if a.ErrorCode == 0 {
			m.give(m.ids[*req.(*kmsg.InitProducerIDRequest).TransactionalID], identity{a.ProducerID, a.ProducerEpoch})
		}
	case *kmsg.EndTxnResponse:
		r := req.(*kmsg.EndTxnRequest)
		id := m.ids[r.TransactionalID]
		if a.ErrorCode != 0 {
			return
		}
		if n > 0 {
			if commit, ok := id.decided[n]; !ok || commit != r.Commit {
				m.fail("%s #%d: EndTxn(commit=%v) is answered well, decided: %v %v", id.name, n, r.Commit, commit, ok)
			}
		}
		if r.Commit {
			m.commits++
		} else {
			m.aborts++
		}
		if r.Version >= 5 {
			m.give(id, identity{a.ProducerID, a.ProducerEpoch})
		}
	}
}

func (m *model) checkEnlisted(e txn.Enlist, a txn.Enlisted) {
	id := m.ids[e.ID]
	who := identity{e.ProducerID, e.Epoch}
	if a.Code != 0 {
		if code(a.Code) == "PRODUCER_FENCED" {
			m.fenced++
		}
		return
	}
	if n := len(id.given); n > 0 && id.less(who, id.given[n-1]) {
		m.fail("%s: %v joins #%d after %v was given", id.name, who, a.Number, id.given[n-1])
	}
	if !e.Add {
		return
	}
	if _, ok := id.decided[a.Number]; ok {
		m.fail("%s: %v joins #%d, which is decided", id.name, who, a.Number)
	}
	if before := id.used[who]; id.version == 2 && before > 0 && before != a.Number {
		m.fail("%s: %v takes part in #%d and #%d", id.name, who, before, a.Number)
	}
	id.used[who] = a.Number
	if a.Number > id.number {
		m.began(id, a.Number)
	}
	for _, p := range e.Partitions {
		id.open[place(p.TopicPartition, "")] = true
	}
	for _, g := range e.Groups {
		id.open["g:"+g.Name] = true
	}
}

// began notes that a transaction is open. All before it must be concluded everywhere.
func (m *model) began(id *modelID, number int64) {
	for n, left := range id.left {
		if len(left) > 0 {
			m.fail("%s: #%d is open while #%d is not concluded in %v", id.name, number, n, left)
		}
	}
	id.number = number
	clear(id.open)
}

func (id *modelID) rank(producer int64) int {
	i := slices.Index(id.producers, producer)
	if i < 0 {
		id.producers = append(id.producers, producer)
		i = len(id.producers) - 1
	}
	return i
}

func (id *modelID) less(a, b identity) bool {
	if ra, rb := id.rank(a.producer), id.rank(b.producer); ra != rb {
		return ra < rb
	}
	return a.epoch < b.epoch
}

// give notes an identity that a client was told.
func (m *model) give(id *modelID, who identity) {
	if n := len(id.given); n > 0 && id.less(who, id.given[n-1]) {
		m.fail("%s: %v is given after %v", id.name, who, id.given[n-1])
	}
	if who.epoch < 0 || who.epoch > 32766 {
		m.fail("%s: epoch %d is given", id.name, who.epoch)
	}
	id.given = append(id.given, who)
}

func (m *model) describe(id *modelID) (s kmsg.DescribeTransactionsResponseTransactionState, ok bool) {
	req := kmsg.NewPtrDescribeTransactionsRequest()
	req.TransactionalIDs = []string{id.name}
	effects := m.machine.Step(coordinator.Request{ID: 1 << 60, Body: req}, m.now)
	s = effects.Replies[0].Read(m.state).(*kmsg.DescribeTransactionsResponse).TransactionStates[0]
	return s, s.ErrorCode == 0
}

// check looks at every id: its identity never goes back, its number tells which transaction
// is open, and the next one opens when the one before is concluded.
func (m *model) check() {
	for _, name := range []string{"id-0", "id-1", "id-2"} {
		id := m.ids[name]
		s, ok := m.describe(id)
		if !ok {
			continue
		}
		now := identity{s.ProducerID, s.ProducerEpoch}
		if id.seen.producer != 0 && id.less(now, id.seen) {
			m.fail("%s: %v after %v", name, now, id.seen)
		}
		if id.seen.producer != 0 && now.producer != id.seen.producer {
			m.rotated++
		}
		id.seen = now
		if s.State != "Ongoing" {
			continue
		}
		// Asked without partitions, the number alone is the answer.
		probe := m.machine.Step(coordinator.Request{ID: 1 << 60, Body: txn.Enlist{ID: name, ProducerID: now.producer, Epoch: now.epoch}}, m.now)
		number := probe.Replies[0].Body.(txn.Enlisted).Number
		if number < id.number || number > id.number+1 {
			m.fail("%s: #%d after #%d", name, number, id.number)
		}
		if number > id.number {
			m.began(id, number)
		}
		id.used[now] = number // it may have begun unheard
		for _, t := range s.Topics {
			for _, p := range t.Partitions {
				id.open[fmt.Sprintf("%s%d", t.Topic, p)] = true
			}
		}
	}
}
