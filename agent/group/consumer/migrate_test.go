package consumer_test

import (
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/group/consumer"
	"github.com/floelog/floe/agent/group/step"
)

// classicGroup has x with t-0, t-1 and a partition that does not exist, and y, static, with t-2
// and, by mistake, t-1.
func classicGroup() step.ClassicGroup {
	words := kmsg.ConsumerMemberMetadata{Version: 1, Topics: []string{"t"}}
	assignment := func(ps ...int32) []byte {
		a := kmsg.ConsumerMemberAssignment{Version: 1, Topics: []kmsg.ConsumerMemberAssignmentTopic{{Topic: "t", Partitions: ps}, {Topic: "gone", Partitions: []int32{0}}}}
		return a.AppendTo(nil)
	}
	protocols := func(names ...string) (out []step.Protocol) {
		for _, n := range names {
			out = append(out, step.Protocol{Name: n, Metadata: words.AppendTo(nil)})
		}
		return out
	}
	instance := "iy"
	return step.ClassicGroup{
		Generation: 7, ProtocolType: "consumer", Protocol: "range", Leader: "x",
		Members: []step.ClassicMember{
			{ID: "x", ClientID: "cx", Host: "hx", Session: 30 * time.Second, Rebalance: 50 * time.Second, Protocols: protocols("cooperative-sticky", "range"), Assignment: assignment(1, 0, 99)},
			{ID: "y", ClientID: "cy", Host: "hy", Instance: &instance, Session: 30 * time.Second, Rebalance: 50 * time.Second, Protocols: protocols("range", "cooperative-sticky"), Assignment: assignment(2, 1)},
		},
	}
}

// TestUpgradeAndBack: a classic group becomes a consumer group when a member of the new protocol
// joins, nobody loses its place, and it becomes classic again when that member leaves.
func TestUpgradeAndBack(t *testing.T) {
	w := newWorld(t)
	w.setTopics(map[string]int32{"t": 4})
	from := classicGroup()
	if err := consumer.Upgradable(from, w.cfg); err != nil {
		t.Fatal(err)
	}
	g, e := consumer.Upgrade("g", from, w.cfg, w.topics, w.now)
	w.g = g
	w.store(e)
	w.epochs["x"], w.epochs["y"] = 7, 7
	if _, ok := w.g.Downgradable(); !ok {
		t.Error("a group of classic members is not downgradable")
	}
	for _, c := range []struct{ line, want string }{
		{"y csync instance=iy", "y has t:2"},
		{"x csync", "x has t:0,1"},
		{"x commit", "commit "},
		{"n join names=t", "n epoch 8 has t:3"},
		{"x cbeat", "REBALANCE_IN_PROGRESS"},
		{"x cjoin names=t own=t:0,1", "x generation 8 cooperative-sticky"},
		{"x csync", "x has t:0,1"},
		{"y cbeat instance=iy", "REBALANCE_IN_PROGRESS"},
		{"y cjoin names=t own=t:2 instance=iy", "y generation 8 cooperative-sticky"},
		{"y csync instance=iy", "y has t:2"},
		{"state", "Stable 8/8 members 3 rows 0"},
	} {
		if got := w.do(c.line); got != c.want {
			t.Fatalf("%s: %q, want %q", c.line, got, c.want)
		}
	}
	w.reload() // all rows are there
	if _, ok := w.g.Downgradable(); ok {
		t.Fatal("a group with a member of the new protocol is downgradable")
	}
	w.do("n leave")
	back, ok := w.g.Downgradable()
	if !ok || back.Generation != 8 || back.ProtocolType != "consumer" || back.Protocol != "cooperative-sticky" || back.Leader != "x" || len(back.Members) != 2 {
		t.Fatalf("%v %+v", ok, back)
	}
	x, y := back.Members[0], back.Members[1]
	if x.ID != "x" || x.Session != 30*time.Second || x.Rebalance != time.Minute || x.Instance != nil || readClassic(t, x.Assignment) != " t:0,1" {
		t.Errorf("x: %+v", x)
	}
	if y.ID != "y" || *y.Instance != "iy" || readClassic(t, y.Assignment) != " t:2" {
		t.Errorf("y: %+v", y)
	}
	if err := consumer.Upgradable(back, w.cfg); err != nil {
		t.Errorf("and up again: %v", err)
	}
}

// TestNotUpgradable: other protocol types, too many members, words that cannot be read.
func TestNotUpgradable(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		change func(*step.ClassicGroup, *consumer.Config)
		want   string
	}{
		{func(g *step.ClassicGroup, _ *consumer.Config) { g.ProtocolType = "connect" }, `protocol type is "connect"`},
		{func(_ *step.ClassicGroup, cfg *consumer.Config) { cfg.MaxSize = 1 }, "2 members"},
		{func(g *step.ClassicGroup, _ *consumer.Config) { g.Members[1].Protocols[0].Metadata = []byte{0} }, `member "y"`},
		{func(g *step.ClassicGroup, _ *consumer.Config) { g.Members[0].Protocols = nil }, "no protocols"},
	} {
		from, cfg := classicGroup(), w.cfg
		c.change(&from, &cfg)
		if err := consumer.Upgradable(from, cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
	if _, ok := consumer.New("g", w.cfg, w.topics).Downgradable(); ok {
		t.Error("an empty group is downgradable")
	}
}

// TestDescribe: everything that operators see, and what DescribeGroups says.
func TestDescribe(t *testing.T) {
	w := busy(t)
	d := w.describe()
	if d.State != "Reconciling" || d.AssignorName != "range" || d.Epoch != 3 || d.AssignmentEpoch != 3 || len(d.Members) != 3 {
		t.Fatalf("%+v", d)
	}
	a, b, c := d.Members[0], d.Members[1], d.Members[2]
	if a.MemberID != "a" || *a.RackID != "z1" || a.ClientID != "client" || a.ClientHost != "host" || a.MemberType != 1 || len(a.SubscribedTopics) != 2 || a.SubscribedTopicRegex != nil {
		t.Errorf("a: %+v", a)
	}
	if *b.InstanceID != "i1" || *b.SubscribedTopicRegex != "t|u" || len(b.TargetAssignment.TopicPartitions) == 0 || b.TargetAssignment.TopicPartitions[0].Topic != "t" {
		t.Errorf("b: %+v", b)
	}
	if c.MemberType != 0 || c.MemberEpoch != 3 {
		t.Errorf("c: %+v", c)
	}
	if !w.g.Subscribed("t") || !w.g.Subscribed("u") || w.g.Subscribed("tt") {
		t.Error("wrong subscriptions")
	}
	req := kmsg.NewPtrDescribeGroupsRequest()
	for _, version := range []int16{5, 6} {
		req.Version = version
		got := w.g.Describe(req).(*kmsg.DescribeGroupsResponse).Groups[0]
		if got.State != "Dead" || (got.ErrorCode == kerr.GroupIDNotFound.Code) != (version >= 6) || (got.ErrorMessage != nil) != (version >= 6) {
			t.Errorf("version %d: %+v", version, got)
		}
	}
	if w.g.Describe(kmsg.NewPtrFetchRequest()) != nil {
		t.Error("a fetch was described")
	}
}

// TestConfigure: a group's own settings, at once.
func TestConfigure(t *testing.T) {
	w := newWorld(t)
	w.setTopics(map[string]int32{"t": 2})
	w.do("a join names=t")
	w.g.Configure(50*time.Second, 7*time.Second, "range")
	w.pass(46 * time.Second)
	if w.g.Members() != 1 {
		t.Fatal("fenced before its time")
	}
	w.g.Configure(10*time.Second, 0, "nothing")
	w.pass(0)
	if w.g.Members() != 0 {
		t.Fatal("not fenced in time")
	}
	if d := w.describe(); d.AssignorName != "range" {
		t.Errorf("assignor %s", d.AssignorName)
	}
	req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	req.Version, req.Group, req.MemberID, req.RebalanceTimeoutMillis = 1, "g", "a", 1000
	req.SubscribedTopicNames, req.Topics = []string{"t"}, []kmsg.ConsumerGroupHeartbeatRequestTopic{}
	if resp := w.ask(req).(*kmsg.ConsumerGroupHeartbeatResponse); resp.HeartbeatIntervalMillis != 7000 {
		t.Errorf("%+v", resp)
	}
	w.do("b join names=t")
	w.do("c join names=t")
	w.g.Cancelled(1)
}

// TestWordsAreBounded: what a member says must fit into a row, and is refused otherwise.
func TestWordsAreBounded(t *testing.T) {
	w := newWorld(t)
	long := strings.Repeat("x", 300<<10)
	for _, line := range []string{"a join names=" + long, "a join regex=" + long, "a join names=t rack=" + long, "a cjoin names=" + long} {
		if got := w.do(line); got != "INVALID_REQUEST" {
			t.Errorf("%.20s...: %s", line, got)
		}
	}
	if got := w.do("a join regex=" + long[:17<<10]); got != "INVALID_REGULAR_EXPRESSION" {
		t.Error(got)
	}
	if w.g.Members() != 0 || len(w.rows) != 0 {
		t.Errorf("%d members, %d rows", w.g.Members(), len(w.rows))
	}
}

// BenchmarkHeartbeat is a heartbeat that changes nothing.
func BenchmarkHeartbeat(b *testing.B) {
	w := newWorld(b)
	w.setTopics(map[string]int32{"t": 20})
	w.do("a join names=t")
	req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	req.Version, req.Group, req.MemberID, req.MemberEpoch, req.RebalanceTimeoutMillis = 1, "g", "a", 1, -1
	b.ReportAllocs()
	for b.Loop() {
		if w.ask(req).(*kmsg.ConsumerGroupHeartbeatResponse).ErrorCode != 0 || w.wrote != 0 {
			b.Fatal("not a quiet heartbeat")
		}
	}
}

// BenchmarkJoinStorm is 500 members joining one after the other a group of 10,000 partitions.
func BenchmarkJoinStorm(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		w := newWorld(b)
		w.setTopics(map[string]int32{"t": 5000, "u": 5000})
		req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
		req.Version, req.Group, req.RebalanceTimeoutMillis = 0, "g", 1000
		req.SubscribedTopicNames, req.Topics = []string{"t", "u"}, []kmsg.ConsumerGroupHeartbeatRequestTopic{}
		for range 500 {
			if w.ask(req).(*kmsg.ConsumerGroupHeartbeatResponse).ErrorCode != 0 {
				b.Fatal("a member was refused")
			}
		}
	}
}
