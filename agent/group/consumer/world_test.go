package consumer_test

import (
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/coordinator"
	"github.com/floelog/floe/agent/group/consumer"
	"github.com/floelog/floe/agent/group/step"
	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/tiering"
)

// topics is a coordinator.Topics.
type topics map[string]*catalogue.Topic

func (t topics) Topic(name string) (*catalogue.Topic, bool) { c, ok := t[name]; return c, ok }
func (t topics) TopicByID(id tiering.TopicID) (*catalogue.Topic, bool) {
	for _, c := range t {
		if c.ID == id {
			return c, true
		}
	}
	return nil, false
}
func (t topics) Topics() iter.Seq[*catalogue.Topic] {
	return func(yield func(*catalogue.Topic) bool) {
		for _, name := range slices.Sorted(maps.Keys(t)) {
			if !yield(t[name]) {
				return
			}
		}
	}
}

// world is a group with its clock, its topics and the rows that it emitted.
type world struct {
	t      testing.TB
	g      *consumer.Group
	cfg    consumer.Config
	topics topics
	made   int // topics so far: each gets another id
	ids    int // member ids so far
	now    time.Time
	rows   map[string][]byte
	wrote  int // rows of the last step
	epochs map[string]int32
	req    coordinator.RequestID
}

func newWorld(t testing.TB) *world {
	w := &world{t: t, topics: topics{}, now: time.Unix(1_700_000_000, 0), rows: make(map[string][]byte), epochs: make(map[string]int32)}
	w.cfg = consumer.Defaults(func() string { w.ids++; return fmt.Sprintf("id%d", w.ids) })
	w.g = consumer.New("g", w.cfg, w.topics)
	return w
}

// setTopics makes these the topics, with numbers of partitions.
func (w *world) setTopics(partitions map[string]int32) {
	next := topics{}
	for _, name := range slices.Sorted(maps.Keys(partitions)) {
		c := w.topics[name]
		if c == nil {
			w.made++
			c = &catalogue.Topic{Name: name, ID: tiering.TopicID{byte(w.made >> 8), byte(w.made)}}
		}
		next[name] = &catalogue.Topic{Name: name, ID: c.ID, Partitions: partitions[name]}
	}
	w.topics = next
	w.store(w.g.TopicsChanged(next, w.now))
}

func (w *world) store(e step.Effects) []coordinator.Reply {
	w.wrote = len(e.Rows)
	for _, r := range e.Rows {
		if len(r.Value) == 0 {
			delete(w.rows, r.Key)
		} else {
			w.rows[r.Key] = r.Value
		}
	}
	return e.Replies
}

func (w *world) ask(req kmsg.Request) kmsg.Response {
	w.t.Helper()
	w.req++
	replies := w.store(w.g.Step(coordinator.Request{ID: w.req, Client: coordinator.Client{ID: "client", Host: "host"}, Body: req}, w.now))
	if len(replies) != 1 || replies[0].ID != w.req {
		w.t.Fatalf("%T was answered by %v", req, replies)
	}
	return replies[0].Body.(kmsg.Response)
}

// pass lets time pass, with ticks when the group wants them.
func (w *world) pass(d time.Duration) {
	end := w.now.Add(d)
	for at := w.g.Wake(); !at.IsZero() && !at.After(end); at = w.g.Wake() {
		if at.After(w.now) {
			w.now = at
		}
		w.store(w.g.Tick(w.now))
	}
	w.now = end
}

func (w *world) seq() iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		for _, k := range slices.Sorted(maps.Keys(w.rows)) {
			if !yield(k, w.rows[k]) {
				return
			}
		}
	}
}

func (w *world) reload() {
	w.t.Helper()
	g, err := consumer.Load("g", w.seq(), w.cfg, w.topics, w.now)
	if err != nil {
		w.t.Fatal(err)
	}
	w.g = g
}

// parse reads "t:0,1 u:2".
func (w *world) parse(s string) []kmsg.ConsumerGroupHeartbeatRequestTopic {
	out := []kmsg.ConsumerGroupHeartbeatRequestTopic{}
	for _, f := range strings.Fields(strings.ReplaceAll(s, "+", " ")) {
		name, list, _ := strings.Cut(f, ":")
		o := kmsg.ConsumerGroupHeartbeatRequestTopic{TopicID: w.topics[name].ID}
		for _, p := range strings.Split(list, ",") {
			n, err := strconv.Atoi(p)
			if err != nil {
				w.t.Fatalf("partition %q: %v", p, err)
			}
			o.Partitions = append(o.Partitions, int32(n))
		}
		out = append(out, o)
	}
	return out
}

func (w *world) name(id tiering.TopicID) string {
	if c, ok := w.topics.TopicByID(id); ok {
		return c.Name
	}
	return "gone"
}

func list(ps []int32) string {
	return strings.ReplaceAll(strings.Trim(fmt.Sprint(ps), "[]"), " ", ",")
}

func errorName(code int16) string {
	if code == 0 {
		return ""
	}
	return kerr.ErrorForCode(code).(*kerr.Error).Message
}

// words are those of one request: who, and key=value pairs.
type words struct {
	w    *world
	id   string
	args map[string]string
}

func (v words) list(key string) []string {
	s, ok := v.args[key]
	if !ok {
		return nil
	}
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' })
}

func (v words) optional(key string) *string {
	if s, ok := v.args[key]; ok {
		return &s
	}
	return nil
}

func (v words) number(key string, or int32) int32 {
	if s, ok := v.args[key]; ok {
		n, err := strconv.Atoi(s)
		if err != nil {
			v.w.t.Fatal(err)
		}
		return int32(n)
	}
	return or
}

func (v words) heartbeat(epoch int32) string {
	w := v.w
	req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	req.Version, req.Group, req.MemberID, req.MemberEpoch = int16(v.number("version", 1)), "g", v.id, v.number("epoch", epoch)
	if v.id == "-" {
		req.MemberID = ""
	}
	req.InstanceID, req.RackID, req.ServerAssignor = v.optional("instance"), v.optional("rack"), v.optional("assignor")
	req.SubscribedTopicNames, req.SubscribedTopicRegex = v.list("names"), v.optional("regex")
	if _, ok := v.args["names"]; ok && req.SubscribedTopicNames == nil {
		req.SubscribedTopicNames = []string{}
	}
	req.RebalanceTimeoutMillis = v.number("rebalance", -1)
	if own, ok := v.args["own"]; ok {
		req.Topics = w.parse(own)
	}
	resp := w.ask(req).(*kmsg.ConsumerGroupHeartbeatResponse)
	if resp.ErrorCode != 0 {
		return errorName(resp.ErrorCode)
	}
	if *resp.MemberID != v.id {
		v.id = *resp.MemberID
	}
	w.epochs[v.id] = resp.MemberEpoch
	out := fmt.Sprintf("%s epoch %d", v.id, resp.MemberEpoch)
	if resp.Assignment != nil {
		out += " has"
		for _, t := range resp.Assignment.Topics {
			out += " " + w.name(t.TopicID) + ":" + list(t.Partitions)
		}
	}
	return out
}

// classicWords is a subscription in the classic protocol.
func (v words) classicWords() []byte {
	m := kmsg.ConsumerMemberMetadata{Version: 1, Topics: v.list("names")}
	for _, o := range v.w.parse(v.args["own"]) {
		m.OwnedPartitions = append(m.OwnedPartitions, kmsg.ConsumerMemberMetadataOwnedPartition{Topic: v.w.name(o.TopicID), Partitions: o.Partitions})
	}
	return m.AppendTo(nil)
}

func (v words) join() string {
	w := v.w
	req := kmsg.NewPtrJoinGroupRequest()
	req.Version, req.Group, req.MemberID, req.InstanceID = int16(v.number("version", 9)), "g", v.id, v.optional("instance")
	if v.id == "-" {
		req.MemberID = ""
	}
	req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = v.number("session", 30_000), v.number("rebalance", 60_000)
	req.ProtocolType = "consumer"
	for _, p := range append(v.list("protocols"), "cooperative-sticky")[:max(1, len(v.list("protocols")))] {
		req.Protocols = append(req.Protocols, kmsg.JoinGroupRequestProtocol{Name: p, Metadata: v.classicWords()})
	}
	resp := w.ask(req).(*kmsg.JoinGroupResponse)
	if resp.ErrorCode != 0 {
		if resp.ErrorCode == kerr.MemberIDRequired.Code {
			return errorName(resp.ErrorCode) + " " + resp.MemberID
		}
		return errorName(resp.ErrorCode)
	}
	w.epochs[resp.MemberID] = resp.Generation
	return fmt.Sprintf("%s generation %d %s", resp.MemberID, resp.Generation, *resp.Protocol)
}

func (v words) sync() string {
	req := kmsg.NewPtrSyncGroupRequest()
	req.Version, req.Group, req.MemberID, req.Generation = 5, "g", v.id, v.number("generation", v.w.epochs[v.id])
	req.InstanceID = v.optional("instance")
	req.ProtocolType = kmsg.StringPtr("consumer")
	resp := v.w.ask(req).(*kmsg.SyncGroupResponse)
	if resp.ErrorCode != 0 {
		return errorName(resp.ErrorCode)
	}
	return v.id + " has" + readClassic(v.w.t, resp.MemberAssignment)
}

func readClassic(t testing.TB, b []byte) string {
	t.Helper()
	var a kmsg.ConsumerMemberAssignment
	if err := a.ReadFrom(b); err != nil {
		t.Fatal(err)
	}
	out := ""
	for _, topic := range a.Topics {
		out += " " + topic.Topic + ":" + list(topic.Partitions)
	}
	return out
}

func (v words) classicBeat() string {
	req := kmsg.NewPtrHeartbeatRequest()
	req.Version, req.Group, req.MemberID, req.Generation = 4, "g", v.id, v.number("generation", v.w.epochs[v.id])
	req.InstanceID = v.optional("instance")
	resp := v.w.ask(req).(*kmsg.HeartbeatResponse)
	if resp.ErrorCode != 0 {
		return errorName(resp.ErrorCode)
	}
	return "ok"
}

func (v words) classicLeave() string {
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Version, req.Group, req.MemberID = int16(v.number("version", 5)), "g", v.id
	req.Members = []kmsg.LeaveGroupRequestMember{{MemberID: strings.Trim(v.id, "-"), InstanceID: v.optional("instance")}}
	resp := v.w.ask(req).(*kmsg.LeaveGroupResponse)
	if req.Version < 3 {
		return "left " + errorName(resp.ErrorCode)
	}
	return "left " + resp.Members[0].MemberID + errorName(resp.Members[0].ErrorCode)
}

// do runs one line of a transcript.
func (w *world) do(line string) string {
	w.t.Helper()
	f := strings.Fields(line)
	args := make(map[string]string)
	for _, kv := range f[1:] {
		if k, v, ok := strings.Cut(kv, "="); ok {
			args[k] = v
		}
	}
	switch f[0] {
	case "topics":
		ps := make(map[string]int32)
		for k, v := range args {
			n, err := strconv.Atoi(v)
			if err != nil {
				w.t.Fatal(err)
			}
			ps[k] = int32(n)
		}
		w.setTopics(ps)
		return w.state()
	case "after":
		d, err := time.ParseDuration(f[1])
		if err != nil {
			w.t.Fatal(err)
		}
		w.pass(d)
		return w.state()
	case "reload":
		w.reload()
		return w.state()
	case "state":
		return w.state()
	case "max":
		w.cfg.MaxSize = int(words{w, "", args}.number("size", 0))
		w.reload()
		return w.state()
	}
	v := words{w, f[0], args}
	switch f[1] {
	case "join":
		for k, def := range map[string]string{"own": "", "rebalance": "60000"} {
			if _, ok := args[k]; !ok {
				args[k] = def
			}
		}
		return v.heartbeat(0)
	case "beat":
		return v.heartbeat(w.epochs[v.id])
	case "leave":
		return v.heartbeat(-1)
	case "away":
		return v.heartbeat(-2)
	case "cjoin":
		return v.join()
	case "csync":
		return v.sync()
	case "cbeat":
		return v.classicBeat()
	case "cleave":
		return v.classicLeave()
	case "commit":
		ref := step.MemberRef{ID: strings.Trim(v.id, "-"), Epoch: v.number("epoch", w.epochs[v.id]), Version: int16(v.number("version", 9)), Transactional: args["txn"] != ""}
		return "commit " + errorName(w.g.CheckCommit(ref))
	case "fetch":
		return "fetch " + errorName(w.g.CheckFetch(step.MemberRef{ID: strings.Trim(v.id, "-"), Epoch: v.number("epoch", w.epochs[v.id]), Version: 9}))
	}
	w.t.Fatalf("unknown line %q", line)
	return ""
}

func (w *world) describe() *kmsg.ConsumerGroupDescribeResponseGroup {
	req := kmsg.NewPtrConsumerGroupDescribeRequest()
	req.Version = 1
	return &w.g.Describe(req).(*kmsg.ConsumerGroupDescribeResponse).Groups[0]
}

func (w *world) state() string {
	d := w.describe()
	if d.State != w.g.State() || len(d.Members) != w.g.Members() {
		w.t.Fatalf("described as %s with %d members, is %s with %d", d.State, len(d.Members), w.g.State(), w.g.Members())
	}
	return fmt.Sprintf("%s %d/%d members %d rows %d", d.State, d.Epoch, d.AssignmentEpoch, len(d.Members), w.wrote)
}
