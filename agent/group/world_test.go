package group_test

import (
	"fmt"
	"iter"
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/coordinator"
	"github.com/floelog/floe/agent/group"
	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// topics is a list of topics at one time.
type topics []*catalogue.Topic

func (t topics) Topic(name string) (*catalogue.Topic, bool) {
	for _, topic := range t {
		if topic.Name == name {
			return topic, true
		}
	}
	return nil, false
}

func (t topics) TopicByID(id tiering.TopicID) (*catalogue.Topic, bool) {
	for _, topic := range t {
		if topic.ID == id {
			return topic, true
		}
	}
	return nil, false
}

func (t topics) Topics() iter.Seq[*catalogue.Topic] {
	return func(yield func(*catalogue.Topic) bool) {
		for _, topic := range t {
			if !yield(topic) {
				return
			}
		}
	}
}

func topicID(n byte) tiering.TopicID { return tiering.TopicID{15: n} }

// allTopics are t1 to t3, with four partitions each.
func allTopics() topics {
	var t topics
	for n := byte(1); n <= 3; n++ {
		t = append(t, &catalogue.Topic{Name: fmt.Sprintf("t%d", n), ID: topicID(n), Partitions: 4})
	}
	return t
}

func tp(topic byte, p int32) tiering.TopicPartition {
	return tiering.TopicPartition{Topic: topicID(topic), Partition: p}
}

// world is a shard with its state, and the machine of its groups: each step's changes are
// committed at once, and checked by the state's own rules.
type world struct {
	t        testing.TB
	settings group.Settings
	state    *shard.State
	m        coordinator.Machine
	topics   topics
	now      time.Time
	newID    int
	last     coordinator.RequestID
	waiting  map[coordinator.RequestID]bool
	answers  map[coordinator.RequestID]any
	changes  int // so far
}

func newWorld(t testing.TB, alter func(*group.Settings)) *world {
	w := &world{t: t, settings: group.DefaultSettings(), state: shard.New(), topics: allTopics(), now: time.Unix(1_700_000_000, 0)}
	if alter != nil {
		alter(&w.settings)
	}
	if err := w.settings.Validate(); err != nil {
		t.Fatal(err)
	}
	w.answers = map[coordinator.RequestID]any{}
	w.failover()
	return w
}

// failover builds the machine anew from the state: whoever waits hears nothing.
func (w *world) failover() {
	w.t.Helper()
	m, err := group.NewLoad(w.settings, w.id)(0, 1, w.state, w.topics, w.now)
	if err != nil {
		w.t.Fatalf("loading: %v", err)
	}
	w.m, w.waiting = m, map[coordinator.RequestID]bool{}
	w.step(coordinator.Tick{})
}

// apply commits changes past the machine.
func (w *world) apply(changes ...shard.Change) {
	w.t.Helper()
	r := shard.Record{Seq: w.state.Seq + 1, Epoch: 1, Leader: tiering.SessionID{1}, Time: w.now.UnixMilli(), Changes: changes}
	if err := w.state.Apply(r); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) id() string {
	w.newID++
	return strconv.Itoa(w.newID)
}

// step gives the machine an event and commits what it wants.
func (w *world) step(ev coordinator.Event) {
	w.t.Helper()
	eff := w.m.Step(ev, w.now)
	for _, c := range eff.Changes {
		w.changes++
		r := shard.Record{Seq: w.state.Seq + 1, Epoch: 1, Leader: tiering.SessionID{1}, Nonce: 1, Time: w.now.UnixMilli(), Changes: []shard.Change{c}}
		if n := len(r.Encode(nil)); n > coordinator.MaxChangeBytes {
			w.t.Fatalf("a change of %d bytes", n)
		}
		if err := w.state.Apply(r); err != nil {
			w.t.Fatalf("%T: %v", c, err)
		}
	}
	if len(eff.Calls) > 0 {
		w.t.Fatalf("calls: %v", eff.Calls)
	}
	for _, r := range eff.Replies {
		if !w.waiting[r.ID] {
			w.t.Fatalf("request %d is answered, which nobody waits for: %+v", r.ID, r.Body)
		}
		delete(w.waiting, r.ID)
		if r.Read != nil {
			r.Body = r.Read(w.state)
		}
		w.answers[r.ID] = r.Body
	}
}

// send sends a request; its answer comes when it comes.
func (w *world) send(client string, body any) coordinator.RequestID {
	w.t.Helper()
	w.last++
	w.waiting[w.last] = true
	w.step(coordinator.Request{ID: w.last, Client: coordinator.Client{ID: client, Host: "h"}, Body: body})
	return w.last
}

// ask sends a request that is answered at once.
func ask[T any](w *world, body any) T {
	w.t.Helper()
	return answer[T](w, w.send("c", body))
}

func answer[T any](w *world, id coordinator.RequestID) T {
	w.t.Helper()
	a, ok := w.answers[id]
	if !ok {
		w.t.Fatalf("request %d has no answer yet", id)
	}
	delete(w.answers, id)
	return a.(T)
}

// wait lets time pass, with ticks when the machine wants them.
func (w *world) wait(d time.Duration) {
	w.t.Helper()
	end := w.now.Add(d)
	for wake := w.m.Wake(); !wake.IsZero() && !wake.After(end); wake = w.m.Wake() {
		if wake.After(w.now) {
			w.now = wake
		}
		w.step(coordinator.Tick{})
		if next := w.m.Wake(); !next.IsZero() && !next.After(w.now) {
			w.t.Fatalf("woken at %v, the machine wants to be woken at %v", w.now, next)
		}
	}
	w.now = end
}

func joinRequest(name, id string, topics ...string) *kmsg.JoinGroupRequest {
	r := kmsg.NewPtrJoinGroupRequest()
	r.Version, r.Group, r.MemberID, r.ProtocolType = 3, name, id, "consumer"
	r.SessionTimeoutMillis, r.RebalanceTimeoutMillis = 30_000, 60_000
	p := kmsg.NewJoinGroupRequestProtocol()
	md := kmsg.NewConsumerMemberMetadata()
	md.Version, md.Topics = 3, topics
	p.Name, p.Metadata = "range", md.AppendTo(nil)
	r.Protocols = append(r.Protocols, p)
	return r
}

func syncRequest(name, id string, generation int32, assign map[string]string) *kmsg.SyncGroupRequest {
	r := kmsg.NewPtrSyncGroupRequest()
	r.Version, r.Group, r.MemberID, r.Generation = 3, name, id, generation
	for _, m := range sortedKeys(assign) {
		a := kmsg.NewSyncGroupRequestGroupAssignment()
		a.MemberID, a.MemberAssignment = m, []byte(assign[m])
		r.GroupAssignment = append(r.GroupAssignment, a)
	}
	return r
}

// stable makes a classic group of one member that is stable.
func (w *world) stable(name string, topics ...string) (id string, generation int32) {
	w.t.Helper()
	join := w.send("c", joinRequest(name, "", topics...))
	w.wait(w.settings.InitialRebalanceDelay)
	j := answer[*kmsg.JoinGroupResponse](w, join)
	s := ask[*kmsg.SyncGroupResponse](w, syncRequest(name, j.MemberID, j.Generation, nil))
	if s.ErrorCode != 0 {
		w.t.Fatalf("sync: code %d", s.ErrorCode)
	}
	return j.MemberID, j.Generation
}

func offset(at tiering.TopicPartition, o tiering.Offset) shard.GroupOffset {
	return shard.GroupOffset{Partition: at, Offset: o, Epoch: 3, Metadata: "m", Expires: -1}
}

// anybody is a client that claims no membership.
var anybody = group.Member{Epoch: -1, Version: 8}

func (w *world) commit(name string, m group.Member, offsets ...shard.GroupOffset) int16 {
	w.t.Helper()
	return ask[int16](w, group.Commit{Group: name, Member: m, Offsets: offsets})
}

// fetch returns the committed offsets of partitions of t1, -1 for none.
func (w *world) fetch(name string, partitions ...int32) []tiering.Offset {
	w.t.Helper()
	var f group.Fetch
	f.Group, f.Member = name, anybody
	for _, p := range partitions {
		f.Partitions = append(f.Partitions, tp(1, p))
	}
	var out []tiering.Offset
	for _, o := range ask[group.Fetched](w, f).Offsets {
		out = append(out, o.Offset)
	}
	return out
}

func (w *world) heartbeat(name, id string, generation int32) int16 {
	w.t.Helper()
	r := kmsg.NewPtrHeartbeatRequest()
	r.Group, r.MemberID, r.Generation = name, id, generation
	return ask[*kmsg.HeartbeatResponse](w, r).ErrorCode
}
