package txn_test

import (
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/coordinator"
	"github.com/floelog/floe/agent/txn"
	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// catalog is the topics of a test: every one has its letter as its name and in its id.
type catalog []*catalogue.Topic

func topicOf(name string) *catalogue.Topic {
	return &catalogue.Topic{Name: name, ID: tiering.TopicID{0: name[0]}, Partitions: 100}
}

func (c catalog) Topic(name string) (*catalogue.Topic, bool) {
	return c.find(func(t *catalogue.Topic) bool { return t.Name == name })
}

func (c catalog) TopicByID(id tiering.TopicID) (*catalogue.Topic, bool) {
	return c.find(func(t *catalogue.Topic) bool { return t.ID == id })
}

func (c catalog) find(is func(*catalogue.Topic) bool) (*catalogue.Topic, bool) {
	if i := slices.IndexFunc(c, is); i >= 0 {
		return c[i], true
	}
	return nil, false
}

func (c catalog) Topics() iter.Seq[*catalogue.Topic] { return slices.Values(c) }

// world is a machine with the shard that it writes to, and what it asked of others.
type world struct {
	t        testing.TB
	settings txn.Settings
	state    *shard.State
	machine  coordinator.Machine
	topics   catalog
	now      time.Time
	epoch    tiering.LeaderEpoch
	last     coordinator.RequestID
	nextID   int64
	hold     bool // producer ids are not answered
	calls    []coordinator.Call
	asked    map[coordinator.RequestID]any // that have no answer yet
	answers  map[coordinator.RequestID]any
	order    []coordinator.RequestID // of answers
	records  int
	wakeups  int
}

func newWorld(t testing.TB, s txn.Settings) *world {
	w := &world{
		t: t, settings: s, state: shard.New(), topics: catalog{topicOf("a"), topicOf("b"), topicOf("c")},
		now: time.UnixMilli(1_700_000_000_000), nextID: 1000,
		asked: map[coordinator.RequestID]any{}, answers: map[coordinator.RequestID]any{},
	}
	w.load()
	return w
}

// load begins a leadership.
func (w *world) load() {
	w.t.Helper()
	w.epoch++
	w.calls = nil
	m, err := txn.NewLoad(w.settings)(7, w.epoch, w.state, w.topics, w.now)
	if err != nil {
		w.t.Fatalf("load: %v", err)
	}
	w.machine = m
}

// failover drops the machine. Who waits asks the next one.
func (w *world) failover() {
	w.load()
	w.step(coordinator.Tick{})
	for _, id := range sortedKeys(w.asked) {
		w.step(coordinator.Request{ID: id, Body: w.asked[id]})
	}
}

func sortedKeys[V any](m map[coordinator.RequestID]V) []coordinator.RequestID {
	var out []coordinator.RequestID
	for id := range m {
		out = append(out, id)
	}
	slices.Sort(out)
	return out
}

// commit applies changes as a journal record.
func (w *world) commit(changes []shard.Change) {
	if len(changes) == 0 {
		return
	}
	w.records++
	r := shard.Record{Seq: w.state.Seq + 1, Epoch: w.epoch, Time: w.now.UnixMilli(), Changes: changes}
	if err := w.state.Apply(r); err != nil {
		w.t.Fatalf("apply: %v", err)
	}
}

// step lets the machine take an event, and does what it wants.
func (w *world) step(ev coordinator.Event) {
	w.t.Helper()
	effects := w.machine.Step(ev, w.now)
	w.commit(effects.Changes)
	for _, r := range effects.Replies {
		body := r.Body
		if r.Read != nil {
			body = r.Read(w.state)
		}
		if _, again := w.answers[r.ID]; again {
			w.t.Fatalf("request %d is answered twice: %v", r.ID, body)
		}
		delete(w.asked, r.ID)
		w.answers[r.ID] = body
		w.order = append(w.order, r.ID)
	}
	w.calls = append(w.calls, effects.Calls...)
	w.giveIDs()
}

// giveIDs answers the calls for producer ids.
func (w *world) giveIDs() {
	if w.hold {
		return
	}
	for i := 0; i < len(w.calls); i++ {
		if c, ok := w.calls[i].(coordinator.NewProducerID); ok {
			w.calls = slices.Delete(w.calls, i, i+1)
			w.nextID++
			w.step(coordinator.Result{Call: c, Value: w.nextID - 1})
			return
		}
	}
}

// finish makes every conclusion succeed, in order.
func (w *world) finish() {
	for i := 0; i < len(w.calls); {
		c := w.calls[i]
		if _, ok := c.(coordinator.Conclude); !ok {
			i++
			continue
		}
		w.calls = slices.Delete(w.calls, i, i+1)
		w.step(coordinator.Result{Call: c})
		i = 0
	}
}

// pass lets time pass; the machine is woken when it wants to be.
func (w *world) pass(d time.Duration) {
	end := w.now.Add(d)
	for n := 0; ; n++ {
		at := w.machine.Wake()
		if at.IsZero() || at.After(end) {
			break
		}
		if at.After(w.now) {
			w.now = at
		}
		if n > 10_000 {
			w.t.Fatal("the machine wants to be woken again and again")
		}
		w.wakeups++
		w.step(coordinator.Tick{})
	}
	w.now = end
}

// ask sends a request and returns its answer, nil if there is none yet.
func (w *world) ask(body any) any {
	w.t.Helper()
	w.last++
	w.asked[w.last] = body
	w.step(coordinator.Request{ID: w.last, Body: body})
	return w.answers[w.last]
}

func target(s string) (p txn.Partition, g txn.Group) {
	if name, ok := strings.CutPrefix(s, "g:"); ok {
		return p, txn.Group{Name: name, Shard: 40}
	}
	var n int32
	if _, err := fmt.Sscanf(s[1:], "%d", &n); err != nil {
		panic(s)
	}
	p.TopicPartition = tiering.TopicPartition{Topic: topicOf(s[:1]).ID, Partition: n}
	p.Shard = tiering.ShardID(s[0]-'a')*10 + tiering.ShardID(n)
	return p, g
}

func code(c int16) string {
	if c == 0 {
		return "ok"
	}
	return strings.Fields(kerr.TypedErrorForCode(c).Message)[0]
}

// show prints an answer in short.
func show(answer any) string {
	switch a := answer.(type) {
	case nil:
		return "waits"
	case *kmsg.InitProducerIDResponse:
		if a.ErrorCode == 0 {
			return fmt.Sprintf("%d/%d", a.ProducerID, a.ProducerEpoch)
		}
		return code(a.ErrorCode)
	case *kmsg.EndTxnResponse:
		if a.ErrorCode == 0 && a.Version >= 5 {
			return fmt.Sprintf("ok, next %d/%d", a.ProducerID, a.ProducerEpoch)
		}
		return code(a.ErrorCode)
	case txn.Enlisted:
		out := code(a.Code)
		if a.Code == 0 {
			out = fmt.Sprintf("#%d", a.Number)
		}
		for _, c := range a.Codes {
			out += " " + code(c)
		}
		return out
	case *kmsg.DescribeTransactionsResponse:
		s := a.TransactionStates[0]
		if s.ErrorCode != 0 {
			return code(s.ErrorCode)
		}
		out := fmt.Sprintf("%s %d/%d", s.State, s.ProducerID, s.ProducerEpoch)
		for _, t := range s.Topics {
			out += fmt.Sprintf(" %s%v", t.Topic, t.Partitions)
		}
		return out
	case *kmsg.ListTransactionsResponse:
		out := []string{code(a.ErrorCode)}
		for _, s := range a.TransactionStates {
			out = append(out, fmt.Sprintf("%s %d %s", s.TransactionalID, s.ProducerID, s.TransactionState))
		}
		if len(a.UnknownStateFilters) > 0 {
			out = append(out, fmt.Sprintf("unknown %v", a.UnknownStateFilters))
		}
		return strings.Join(out, ", ")
	}
	return fmt.Sprintf("%T %v", answer, answer)
}

func showCall(c coordinator.Call) string {
	switch c := c.(type) {
	case coordinator.NewProducerID:
		return "new id"
	case coordinator.Conclude:
		where := "g:" + c.Group
		if c.Group == "" {
			where = fmt.Sprintf("%c%d", c.Partition.Topic[0], c.Partition.Partition)
		}
		end := "abort"
		if c.Commit {
			end = "commit"
		}
		return fmt.Sprintf("%s %s@%d %d/%d #%d", end, where, c.Shard, c.Transaction.ProducerID, c.Transaction.Epoch, c.Transaction.Number)
	}
	return fmt.Sprint(c)
}
