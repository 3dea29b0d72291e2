package consumer_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/coordinator"
	"github.com/floelog/floe/agent/group/consumer"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

type set map[tiering.TopicPartition]bool

// client is a consumer as it really behaves: late, forgetful, on lossy connections.
type client struct {
	id       string
	instance *string
	classic  bool
	names    []string
	regex    string
	slow     bool // it does not heartbeat for now

	epoch int32 // 0: it has to join
	owns  set   // what it consumes
	told  set   // what it shall have
	tell  bool  // it has changed owns since it told so
	full  bool  // a reply was lost: it tells and hears everything
	join  bool  // classic: it has to join, or join again
	sync  bool  // classic: it has to fetch its assignment
}

func (c *client) reset() {
	c.epoch, c.owns, c.told, c.tell, c.full, c.join, c.sync = 0, set{}, set{}, false, false, true, false
}

// model plays random clients against a group.
type model struct {
	*world
	rnd       *rand.Rand
	clients   []*client
	born      int
	parts     map[string]int32
	group     int32            // epoch of the group, as seen
	seen      map[string]int32 // epochs of members, as seen
	mistrust  bool             // compare every reply with that of a group built from rows
	forgetful int              // one reply of so many is lost
}

func newModel(t testing.TB, seed uint64) *model {
	m := &model{world: newWorld(t), rnd: rand.New(rand.NewPCG(seed, 848)), seen: make(map[string]int32), mistrust: true, forgetful: 8}
	m.cfg.RegexRefresh = 0
	m.cfg.MinClassicSession = time.Second
	m.g = consumer.New("g", m.cfg, m.topics)
	m.parts = map[string]int32{"a": 4, "b": 3}
	m.setTopics(m.parts)
	return m
}

// request steps the group, and a second one made of the rows so far: both must answer alike.
// Body nil: the reply was lost.
func (m *model) request(req kmsg.Request) kmsg.Response {
	m.t.Helper()
	var twin *consumer.Group
	if m.mistrust {
		var err error
		if twin, err = consumer.Load("g", m.seq(), m.cfg, m.topics, m.now); err != nil {
			m.t.Fatalf("rows cannot be loaded: %v", err)
		}
	}
	m.req++
	r := coordinator.Request{ID: m.req, Client: coordinator.Client{ID: "client", Host: "host"}, Body: req}
	e := m.g.Step(r, m.now)
	if twin != nil {
		other := twin.Step(r, m.now)
		if !reflect.DeepEqual(e.Replies, other.Replies) {
			m.t.Fatalf("%+v: answer %+v, after a reload %+v", req, e.Replies[0].Body, other.Replies[0].Body)
		}
		if !reflect.DeepEqual(keys(e.Rows), keys(other.Rows)) {
			m.t.Fatalf("%+v: rows %q, after a reload %q", req, keys(e.Rows), keys(other.Rows))
		}
	}
	m.store(e)
	m.check()
	if m.rnd.IntN(m.forgetful) == 0 {
		return nil
	}
	return e.Replies[0].Body.(kmsg.Response)
}

func keys(rows []shard.Row) []string {
	var out []string
	for _, r := range rows {
		out = append(out, fmt.Sprintf("%s=%x", r.Key, r.Value))
	}
	return out
}

// check holds after every step: epochs rise, and nothing has two owners among the members.
func (m *model) check() {
	m.t.Helper()
	d := m.describe()
	if d.Epoch < m.group || d.AssignmentEpoch > d.Epoch {
		m.t.Fatalf("group epoch %d after %d, assignment epoch %d", d.Epoch, m.group, d.AssignmentEpoch)
	}
	m.group = d.Epoch
	live := make(map[string]bool)
	assigned := make(set)
	for _, x := range d.Members {
		live[x.MemberID] = true
		if x.MemberEpoch >= 0 && x.MemberEpoch < m.seen[x.MemberID] || x.MemberEpoch > d.AssignmentEpoch {
			m.t.Fatalf("member %s at epoch %d after %d, the assignment is at %d", x.MemberID, x.MemberEpoch, m.seen[x.MemberID], d.AssignmentEpoch)
		}
		m.seen[x.MemberID] = x.MemberEpoch
		for _, topic := range x.Assignment.TopicPartitions {
			for _, p := range topic.Partitions {
				tp := tiering.TopicPartition{Topic: topic.TopicID, Partition: p}
				if assigned[tp] {
					m.t.Fatalf("%v is assigned twice", tp)
				}
				assigned[tp] = true
			}
		}
	}
	maps.DeleteFunc(m.seen, func(id string, _ int32) bool { return !live[id] })
	owner := make(map[tiering.TopicPartition]string)
	for _, c := range m.clients {
		for tp := range c.owns {
			if o, ok := owner[tp]; ok && live[c.id] && live[o] {
				m.t.Fatalf("%v is owned by %s and %s", tp, o, c.id)
			}
			if live[c.id] {
				owner[tp] = c.id
			}
		}
	}
}

func (c *client) list() []kmsg.ConsumerGroupHeartbeatRequestTopic {
	out := []kmsg.ConsumerGroupHeartbeatRequestTopic{}
	for _, tp := range slices.SortedFunc(maps.Keys(c.owns), tiering.TopicPartition.Compare) {
		if n := len(out); n > 0 && out[n-1].TopicID == tp.Topic {
			out[n-1].Partitions = append(out[n-1].Partitions, tp.Partition)
			continue
		}
		out = append(out, kmsg.ConsumerGroupHeartbeatRequestTopic{TopicID: tp.Topic, Partitions: []int32{tp.Partition}})
	}
	return out
}

// beat is one heartbeat of a client of the new protocol.
func (m *model) beat(c *client) {
	m.t.Helper()
	req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	req.Version, req.Group, req.MemberID, req.MemberEpoch, req.InstanceID = 1, "g", c.id, c.epoch, c.instance
	if c.epoch == 0 || c.full {
		req.SubscribedTopicNames, req.SubscribedTopicRegex, req.RebalanceTimeoutMillis = c.names, &c.regex, 30_000
	}
	if c.epoch == 0 || c.full || c.tell {
		req.Topics = c.list()
	}
	body := m.request(req)
	if body == nil {
		c.full = true
		return
	}
	resp := body.(*kmsg.ConsumerGroupHeartbeatResponse)
	switch resp.ErrorCode {
	case 0:
	case kerr.FencedMemberEpoch.Code, kerr.UnknownMemberID.Code:
		c.reset()
		return
	case kerr.UnreleasedInstanceID.Code, kerr.FencedInstanceID.Code:
		m.drop(c) // a real one ends with an error
		return
	default:
		m.t.Fatalf("%s: %s", c.id, errorName(resp.ErrorCode))
	}
	c.epoch, c.full, c.tell = resp.MemberEpoch, false, false
	if resp.Assignment == nil {
		return
	}
	c.told = set{}
	for _, topic := range resp.Assignment.Topics {
		for _, p := range topic.Partitions {
			c.told[tiering.TopicPartition{Topic: topic.TopicID, Partition: p}] = true
		}
	}
	c.tell = true
	m.check()
}

// obey makes a client let go what it shall not have, and take what it shall. Not before the
// reply after a lost one: KIP-848 takes what a client does not have for let go, even if it was
// told to take it, and has nothing against a client that takes it after all.
func (c *client) obey() bool {
	if c.full || maps.Equal(c.owns, c.told) {
		return false
	}
	c.owns, c.tell = maps.Clone(c.told), true
	return true
}

// classicTurn is what a client of the classic protocol does next.
func (m *model) classicTurn(c *client) {
	m.t.Helper()
	var code int16
	switch {
	case c.join:
		code = m.joinClassic(c)
	case c.sync:
		req := kmsg.NewPtrSyncGroupRequest()
		req.Version, req.Group, req.MemberID, req.Generation = 5, "g", c.id, c.epoch
		body := m.request(req)
		if body == nil {
			return
		}
		resp := body.(*kmsg.SyncGroupResponse)
		if code = resp.ErrorCode; code == 0 {
			m.synced(c, resp.MemberAssignment)
		}
	default:
		req := kmsg.NewPtrHeartbeatRequest()
		req.Version, req.Group, req.MemberID, req.Generation = 4, "g", c.id, c.epoch
		if body := m.request(req); body != nil {
			code = body.(*kmsg.HeartbeatResponse).ErrorCode
		}
	}
	switch code {
	case 0:
	case kerr.RebalanceInProgress.Code:
		c.join = true
	case kerr.UnknownMemberID.Code, kerr.IllegalGeneration.Code:
		c.reset()
	default:
		m.t.Fatalf("%s: %s", c.id, errorName(code))
	}
}

func (m *model) joinClassic(c *client) int16 {
	words := kmsg.ConsumerMemberMetadata{Version: 1, Topics: c.names}
	for _, o := range c.list() {
		words.OwnedPartitions = append(words.OwnedPartitions, kmsg.ConsumerMemberMetadataOwnedPartition{Topic: m.name(o.TopicID), Partitions: o.Partitions})
	}
	req := kmsg.NewPtrJoinGroupRequest()
	req.Version, req.Group, req.MemberID, req.ProtocolType = 9, "g", c.id, "consumer"
	req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = 30_000, 30_000
	req.Protocols = []kmsg.JoinGroupRequestProtocol{{Name: "cooperative-sticky", Metadata: words.AppendTo(nil)}}
	body := m.request(req)
	if body == nil {
		return 0
	}
	resp := body.(*kmsg.JoinGroupResponse)
	if resp.ErrorCode == 0 {
		c.epoch, c.join, c.sync = resp.Generation, false, true
	}
	return resp.ErrorCode
}

// synced takes a classic assignment: what is not in it is let go, and the client joins again to say so.
func (m *model) synced(c *client, b []byte) {
	var a kmsg.ConsumerMemberAssignment
	if err := a.ReadFrom(b); err != nil {
		m.t.Fatal(err)
	}
	c.sync, c.told = false, set{}
	for _, topic := range a.Topics {
		for _, p := range topic.Partitions {
			c.told[tiering.TopicPartition{Topic: m.topics[topic.Topic].ID, Partition: p}] = true
		}
	}
	for tp := range c.owns {
		c.join = c.join || !c.told[tp]
	}
	c.owns = maps.Clone(c.told)
	m.check()
}

func (m *model) drop(c *client) {
	m.clients = slices.DeleteFunc(m.clients, func(o *client) bool { return o == c })
}

// leave ends a client: it says so, or not; a static one may leave for a while and return.
func (m *model) leave(c *client) {
	m.drop(c)
	if m.rnd.IntN(4) == 0 {
		return // it crashed
	}
	if c.classic {
		req := kmsg.NewPtrLeaveGroupRequest()
		req.Version, req.Group, req.Members = 5, "g", []kmsg.LeaveGroupRequestMember{{MemberID: c.id}}
		m.request(req)
		return
	}
	req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	req.Version, req.Group, req.MemberID, req.MemberEpoch, req.InstanceID = 1, "g", c.id, -1, c.instance
	back := c.instance != nil && m.rnd.IntN(2) == 0
	if back {
		req.MemberEpoch = -2
	}
	m.request(req)
	if back {
		m.add(c.instance)
	}
}

func (m *model) add(instance *string) {
	m.born++
	c := &client{id: fmt.Sprintf("m%d", m.born), instance: instance, classic: instance == nil && m.rnd.IntN(3) == 0}
	c.names = [][]string{{"a", "b"}, {"a"}, {"b", "c"}, {"a", "b", "c"}, {"a", "b"}}[m.rnd.IntN(5)]
	if instance == nil && m.rnd.IntN(3) == 0 {
		s := fmt.Sprintf("i%d", m.born)
		c.instance, c.classic = &s, false
	}
	if !c.classic && m.rnd.IntN(4) == 0 {
		c.names, c.regex = []string{}, []string{"[ac]", ".*", "b|d"}[m.rnd.IntN(3)]
	}
	c.reset()
	m.clients = append(m.clients, c)
}

// turn does one random thing.
func (m *model) turn() {
	m.t.Helper()
	switch x := m.rnd.IntN(100); {
	case x < 6 && len(m.clients) < 6:
		m.add(nil)
	case x < 10 && len(m.clients) > 1:
		m.leave(m.clients[m.rnd.IntN(len(m.clients))])
	case x < 13:
		m.parts = maps.Clone(m.parts)
		switch name := string(rune('a' + m.rnd.IntN(4))); {
		case m.parts[name] == 0:
			m.parts[name] = int32(m.rnd.IntN(4) + 1)
		case m.rnd.IntN(3) == 0:
			delete(m.parts, name)
		default:
			m.parts[name]++
		}
		m.setTopics(m.parts)
	case x < 16:
		m.reload()
	case x < 20:
		m.pass(time.Duration(m.rnd.IntN(20)) * time.Second)
	case x < 22 && len(m.clients) > 0:
		c := m.clients[m.rnd.IntN(len(m.clients))]
		c.slow = !c.slow
	case len(m.clients) > 0:
		if c := m.clients[m.rnd.IntN(len(m.clients))]; !c.slow {
			m.act(c)
		}
	}
	m.check()
}

func (m *model) act(c *client) {
	m.t.Helper()
	switch {
	case c.classic:
		m.classicTurn(c)
	case m.rnd.IntN(3) == 0 && c.obey():
	default:
		m.beat(c)
	}
}

// quiet lets the group come to rest, and checks that it is complete.
func (m *model) quiet() {
	m.t.Helper()
	m.forgetful = 1 << 30
	for range 40 {
		for _, c := range slices.Clone(m.clients) {
			c.slow = false
			m.act(c)
			c.obey()
			m.check()
		}
		m.pass(3 * time.Second)
	}
	if len(m.clients) == 0 {
		return
	}
	if s := m.g.State(); s != "Stable" {
		m.t.Fatalf("the group is %s, not stable: %+v", s, m.describe())
	}
	owned := make(map[tiering.TopicPartition]string)
	for _, c := range m.clients {
		for tp := range c.owns {
			if !c.subscribes(m.name(tp.Topic)) {
				m.t.Fatalf("%s has %v of %s", c.id, tp, m.name(tp.Topic))
			}
			owned[tp] = c.id
		}
	}
	for name, n := range m.parts {
		if !slices.ContainsFunc(m.clients, func(c *client) bool { return c.subscribes(name) }) {
			n = 0
		}
		for p := range n {
			tp := tiering.TopicPartition{Topic: m.topics[name].ID, Partition: p}
			if owned[tp] == "" {
				m.t.Fatalf("%s-%d is owned by nobody", name, p)
			}
			delete(owned, tp)
		}
	}
	if len(owned) > 0 {
		m.t.Fatalf("partitions that do not exist, or that nobody subscribes to, are owned: %v", owned)
	}
}

func (c *client) subscribes(topic string) bool {
	return slices.Contains(c.names, topic) || c.regex != "" && regexp.MustCompile(`^(`+c.regex+`)$`).MatchString(topic)
}

// seeds are fewer under -short.
func seeds() uint64 {
	if testing.Short() {
		return 20
	}
	return 100
}

// TestModel is DESIGN.md's invariant I21 and more, under random clients.
func TestModel(t *testing.T) {
	for seed := range seeds() {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			m := newModel(t, seed)
			for range 3 {
				for range 150 {
					m.turn()
				}
				m.quiet()
				m.forgetful = 8
			}
		})
	}
}
