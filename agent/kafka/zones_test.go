package kafka_test

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/kafka"
	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/tiering"
)

// from serves a request of a client that calls itself so, without a connection.
func from[R kmsg.Response](w *world, clientID string, req kmsg.Request) R {
	w.t.Helper()
	r := request(req)
	r.ClientID = clientID
	return answered[R](w, req, w.h.Serve(w.ctx, nil, r))
}

// leadersFor returns whom a client is told of as the leaders of a topic's partitions, from
// Metadata, and checks that DescribeTopicPartitions says the same.
func (w *world) leadersFor(clientID string, topic *catalogue.Topic) []int32 {
	w.t.Helper()
	meta := from[*kmsg.MetadataResponse](w, clientID, askMetadata(12, false, topic.Name))
	ask := kmsg.NewPtrDescribeTopicPartitionsRequest()
	ask.ResponsePartitionLimit = 2000
	ask.Topics = []kmsg.DescribeTopicPartitionsRequestTopic{{Topic: topic.Name}}
	described := from[*kmsg.DescribeTopicPartitionsResponse](w, clientID, ask)
	var leaders []int32
	for i, p := range meta.Topics[0].Partitions {
		d := described.Topics[0].Partitions[i]
		_, epoch := w.cluster.Leader(tiering.ShardOf(topic.FirstShard, p.Partition, w.cluster.Shards()))
		if d.LeaderID != p.Leader || !slices.Equal(d.Replicas, p.Replicas) || p.LeaderEpoch != int32(epoch) || d.LeaderEpoch != p.LeaderEpoch {
			w.t.Errorf("%q: Metadata says %+v, DescribeTopicPartitions %+v, the epoch is %d", clientID, p, d, epoch)
		}
		if !slices.Contains(p.Replicas, p.Leader) {
			w.t.Errorf("%q: leader %d is not among the replicas %v", clientID, p.Leader, p.Replicas)
		}
		leaders = append(leaders, p.Leader)
	}
	if len(meta.Brokers) != len(w.cluster.agents) {
		w.t.Errorf("%q: told of %d brokers, want all %d: coordinators may be anywhere", clientID, len(meta.Brokers), len(w.cluster.agents))
	}
	return leaders
}

// counted returns how often each node is there.
func counted(nodes []int32) map[int32]int {
	n := map[int32]int{}
	for _, node := range nodes {
		n[node]++
	}
	return n
}

// inZones replaces the agents by some of three zones, of which this agent is the first, and
// has them lead 64 shards.
func (w *world) inZones(perZone int32) {
	w.cluster.shards, w.cluster.agents = 64, nil
	for i := range 3 * perZone {
		w.cluster.agents = append(w.cluster.agents, agentAt(i+1, fmt.Sprintf("agent-%d", i+1), 9092, "zone-"+string(rune('a'+i%3))))
	}
	for s := range tiering.ShardID(64) {
		w.cluster.leaders[s] = int32(s*7)%(3*perZone) + 1
		w.cluster.epochs[s] = tiering.LeaderEpoch(s)
	}
}

func TestClientsAreToldOfLeadersInTheirZone(t *testing.T) {
	w := newWorld(t)
	w.inZones(2)
	topic := w.create("t", 128)
	truth := w.leadersFor("app", topic)
	for _, zone := range []string{"zone-a", "zone-b", "zone-c"} {
		got := w.leadersFor("app,zone="+zone, topic)
		for p, node := range got {
			led := truth[p]
			switch {
			case w.cluster.agents[node-1].Rack != zone:
				t.Errorf("%s: partition %d is led by agent %d of %s", zone, p, node, w.cluster.agents[node-1].Rack)
			case w.cluster.agents[led-1].Rack == zone && led != node:
				t.Errorf("%s: partition %d is led by agent %d of the zone, and agent %d is named", zone, p, led, node)
			}
		}
		for node, n := range counted(got) {
			if n < 60 || n > 68 {
				t.Errorf("%s: agent %d is named for %d of 128 partitions by two agents", zone, node, n)
			}
		}
		for range 3 {
			if again := w.leadersFor("another;zone="+zone, topic); !slices.Equal(got, again) {
				t.Errorf("%s: the answer changes from %v to %v", zone, got, again)
			}
		}
	}
	for _, elsewhere := range []string{"zone=zone-x", "zone=", "zones=zone-a", "appzone=zone-a", ""} {
		if got := w.leadersFor(elsewhere, topic); !slices.Equal(got, truth) {
			t.Errorf("client %q, whose zone has no agents or is not known, is told %v, not who leads", elsewhere, got)
		}
	}
}

// Agents that come and go, and shards that change hands, move few others.
func TestAnswersInAZoneMoveLittle(t *testing.T) {
	const partitions = 64
	w := newWorld(t)
	w.inZones(3)
	topic := w.create("t", partitions)
	moved := func(a, b []int32) (n int) {
		for i := range a {
			if a[i] != b[i] {
				n++
			}
		}
		return n
	}
	before := w.leadersFor("zone=zone-b", topic)
	for s := range tiering.ShardID(8) {
		old := w.cluster.leaders[s]
		w.cluster.leaders[s] = old%9 + 1
		if n := moved(before, w.leadersFor("zone=zone-b", topic)); n > 16 {
			t.Errorf("another leader of shard %d moves %d of %d partitions", s, n, partitions)
		}
		w.cluster.leaders[s] = old
	}
	whole := w.cluster.agents
	w.cluster.agents = append(slices.Clone(whole), agentAt(10, "agent-10", 9092, "zone-b"))
	joined := w.leadersFor("zone=zone-b", topic)
	if n := counted(joined)[10]; n < 15 || n > 17 {
		t.Errorf("the fourth agent of the zone is named for %d of %d partitions", n, partitions)
	}
	if n := moved(before, joined); n > 32 {
		t.Errorf("a fourth agent of the zone moves %d of %d partitions, want a quarter and some", n, partitions)
	}
	w.cluster.agents = append(slices.Clone(whole), agentAt(10, "agent-10", 9092, "zone-c"))
	if n := moved(before, w.leadersFor("zone=zone-b", topic)); n != 0 {
		t.Errorf("an agent of another zone moves %d partitions", n)
	}
	w.cluster.agents = slices.DeleteFunc(slices.Clone(whole), func(a kafka.Agent) bool { return a.Rack == "zone-b" })
	for node, n := range counted(w.leadersFor("zone=zone-b", topic)) {
		if n < 5 || n > 20 {
			t.Errorf("the zone has no agents, and agent %d of the other six leads %d of %d partitions", node, n, partitions)
		}
	}
}

func TestWhereTheZoneOfAClientComesFrom(t *testing.T) {
	for _, c := range []struct {
		mode     kafka.ClientZone
		clientID string
		rack     string
		want     string // zone that leaders are named in; empty: those that lead
	}{
		{"", "app,zone=zone-b", "", "zone-b"},
		{"", "zone=zone-b;app-StreamThread-1", "zone-c", "zone-b"},
		{"", "an app zone=zone-b", "zone-c", "zone-b"},
		{"", "app", "zone-c", "zone-c"},
		{"", "app", "", ""},
		{kafka.ZoneOfClient, "app", "", ""},
		{kafka.ZoneOfAgent, "zone=zone-b", "zone-c", "zone-a"},
		{kafka.ZoneOfClientElseAgent, "zone=zone-b", "", "zone-b"},
		{kafka.ZoneOfClientElseAgent, "app", "", "zone-a"},
		{kafka.ZoneOfNobody, "zone=zone-b", "zone-c", ""},
	} {
		w := newWorld(t, func(s *kafka.Settings) {
			if c.mode != "" {
				s.ClientZones = map[string]kafka.ClientZone{kafka.DefaultListener: c.mode}
			}
		})
		w.inZones(1)
		topic := w.create("t", 8)
		truth := w.leadersFor("", topic)
		conn, clientID := w.connect(kafka.DefaultListener), c.clientID
		if c.rack != "" { // a fetch tells it, and what the connection asks later is answered by it
			req := fetchReq(12, fromPartition{topic, 0, -1})
			req.Rack = c.rack
			conn.ask(clientID, req)
		}
		meta := conn.ask(clientID, askMetadata(12, false, "t")).(*kmsg.MetadataResponse)
		for i, p := range meta.Topics[0].Partitions {
			want := truth[i]
			if c.want != "" {
				want = int32(c.want[len(c.want)-1]-'a') + 1
			} else if c.mode == kafka.ZoneOfAgent {
				want = 1
			}
			if p.Leader != want {
				t.Errorf("%+v: partition %d is led by %d, want %d", c, i, p.Leader, want)
			}
		}
	}
}

func TestAHeartbeatTellsTheZone(t *testing.T) {
	w := newWorld(t)
	w.inZones(1)
	w.create("t", 8)
	conn := w.connect(kafka.DefaultListener)
	beat := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	beat.Group, beat.RackID = "g", kmsg.StringPtr("zone-c")
	conn.ask("app", beat)
	for _, p := range conn.ask("app", askMetadata(12, false, "t")).(*kmsg.MetadataResponse).Topics[0].Partitions {
		if p.Leader != 3 {
			t.Errorf("partition %d is led by %d, want the agent of the member's zone", p.Partition, p.Leader)
		}
	}
}

// A fetch in the client's zone is served, and one elsewhere is sent to the agent that
// Metadata names, which is among the replicas that any client is told of.
func TestFetchesGoWhereMetadataSays(t *testing.T) {
	w := newWorld(t)
	w.inZones(3)
	topic := w.create("t", 64)
	replicas := from[*kmsg.MetadataResponse](w, "app", askMetadata(12, false, "t")).Topics[0].Partitions
	for _, zone := range []string{"zone-a", "zone-b", "zone-c"} {
		leaders := w.leadersFor("zone="+zone, topic)
		for p, leader := range leaders {
			req := fetchReq(16, fromPartition{topic, int32(p), -1})
			req.Rack = zone
			w.reader.requests = nil
			out := from[*kmsg.FetchResponse](w, "app", req).Topics[0].Partitions[0]
			want := leader
			if zone == "zone-a" { // this agent's
				want = -1
			}
			if out.ErrorCode != 0 || out.PreferredReadReplica != want || (want < 0) != (len(w.reader.requests) == 1) {
				t.Errorf("%s: partition %d: sent to %d after %d reads, want %d", zone, p, out.PreferredReadReplica, len(w.reader.requests), want)
			}
			if !slices.Contains(replicas[p].Replicas, leader) {
				t.Errorf("%s: partition %d: %d is not among the replicas %v of clients elsewhere", zone, p, leader, replicas[p].Replicas)
			}
			_, epoch := w.cluster.Leader(tiering.ShardOf(topic.FirstShard, int32(p), 64))
			req = fetchReq(16, fromPartition{topic, int32(p), int32(epoch) - 1})
			req.Rack = zone
			out = from[*kmsg.FetchResponse](w, "app", req).Topics[0].Partitions[0]
			if out.ErrorCode != kerr.FencedLeaderEpoch.Code || out.CurrentLeader.LeaderID != leader || out.CurrentLeader.LeaderEpoch != int32(epoch) {
				t.Errorf("%s: partition %d with an old epoch: %+v, want leader %d", zone, p, out, leader)
			}
		}
	}
}

// Agents that are kept for other work are named only where there are no others.
func TestAgentsForOtherWorkAreNotNamed(t *testing.T) {
	w := newWorld(t)
	w.inZones(2)
	topic := w.create("t", 64)
	w.cluster.agents[1].NotLeader, w.cluster.agents[1].NotReplica = true, true // zone-b has agent 5 left
	for _, client := range []string{"app", "zone=zone-b", "zone=zone-x"} {
		got := counted(w.leadersFor(client, topic))
		if got[2] != 0 || client == "zone=zone-b" && got[5] != 64 {
			t.Errorf("client %q is told of leaders %v", client, got)
		}
	}
	w.cluster.agents = slices.Clone(w.cluster.agents)
	w.cluster.agents[4].NotLeader = true // but consumers are sent there
	if got := counted(w.leadersFor("zone=zone-b", topic)); got[2] != 0 || got[5] != 0 || len(got) != 4 {
		t.Errorf("no agent of the zone leads, and clients are told of %v", got)
	}
	req := fetchReq(12, fromPartition{topic, 0, -1})
	req.Rack = "zone-b"
	if out := from[*kmsg.FetchResponse](w, "app", req).Topics[0].Partitions[0]; out.PreferredReadReplica != 5 {
		t.Errorf("consumers of the zone are sent to %d, want 5", out.PreferredReadReplica)
	}
}

func TestListenersTellTheirAddresses(t *testing.T) {
	w := newWorld(t, func(s *kafka.Settings) {
		s.ClientZones = map[string]kafka.ClientZone{"inside": kafka.ZoneOfAgent}
	})
	w.inZones(1)
	topic := w.create("t", 8)
	for i := range w.cluster.agents[:2] { // the third has no such listener
		w.cluster.agents[i].Listeners = map[string]kafka.Address{"inside": {Host: fmt.Sprintf("10.0.0.%d", i+1), Port: 9192}}
	}
	conn := w.connect("inside")
	meta := conn.ask("app", askMetadata(12, false, "t")).(*kmsg.MetadataResponse)
	if n := len(meta.Brokers); n != 2 || meta.Brokers[1].Host != "10.0.0.2" || meta.Brokers[1].Port != 9192 || meta.Brokers[1].NodeID != 2 {
		t.Fatalf("told of %+v, want the two agents that have the listener, with their addresses there", meta.Brokers)
	}
	for _, p := range meta.Topics[0].Partitions {
		if p.Leader != 1 || slices.Contains(p.Replicas, 3) {
			t.Errorf("%+v: want the leader of the zone of the agent that is asked, and no agent that cannot be reached", p)
		}
	}
	find := kmsg.NewPtrFindCoordinatorRequest()
	find.Version = 4
	reachable := 0
	for i := range 30 {
		find.CoordinatorKeys = []string{fmt.Sprint("g", i)}
		c := conn.ask("app", find).(*kmsg.FindCoordinatorResponse).Coordinators[0]
		led, _ := w.cluster.Leader(tiering.ShardOfName(find.CoordinatorKeys[0], 64))
		switch {
		case led == 3 && c.ErrorCode != kerr.CoordinatorNotAvailable.Code:
			t.Errorf("a coordinator that cannot be reached: %+v", c)
		case led != 3 && (c.NodeID != led || c.Host != fmt.Sprintf("10.0.0.%d", led)):
			t.Errorf("coordinator %+v, want agent %d", c, led)
		case led != 3:
			reachable++
		}
	}
	if reachable == 0 || reachable == 30 {
		t.Errorf("%d of 30 coordinators can be reached: nothing was tested", reachable)
	}
	describe := kmsg.NewPtrDescribeClusterRequest()
	if d := conn.ask("app", describe).(*kmsg.DescribeClusterResponse); len(d.Brokers) != 2 || d.Brokers[0].Host != "10.0.0.1" {
		t.Errorf("DescribeCluster tells of %+v", d.Brokers)
	}
	old := fetchReq(16, fromPartition{topic, 0, 0})
	if f := conn.ask("app", old).(*kmsg.FetchResponse); len(f.Brokers) != 1 || f.Brokers[0].Host != "10.0.0.1" {
		t.Errorf("a fetch with an old epoch is told of %+v", f.Brokers)
	}
}

// connected is a client's connection to a listener.
type connected struct {
	w  *world
	nc net.Conn
}

func (w *world) connect(listener string) *connected {
	w.t.Helper()
	nc, err := net.DialTCP("tcp", nil, w.listenAs(listener))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { nc.Close() })
	return &connected{w, nc}
}

// ask sends a request and returns its answer.
func (c *connected) ask(clientID string, req kmsg.Request) kmsg.Response {
	c.w.t.Helper()
	frame := kmsg.NewRequestFormatter(kmsg.FormatterClientID(clientID)).AppendRequest(nil, req, 7)
	if _, err := c.nc.Write(frame); err != nil {
		c.w.t.Fatal(err)
	}
	var size [4]byte
	if _, err := io.ReadFull(c.nc, size[:]); err != nil {
		c.w.t.Fatal(err)
	}
	body := make([]byte, binary.BigEndian.Uint32(size[:]))
	if _, err := io.ReadFull(c.nc, body); err != nil {
		c.w.t.Fatal(err)
	}
	header := 4 // correlation id
	if req.IsFlexible() {
		header++ // no tags
	}
	resp := req.ResponseKind()
	if err := resp.ReadFrom(body[header:]); err != nil {
		c.w.t.Fatal(err)
	}
	return resp
}

// What a client with a zone costs on top: 64 partitions of nine agents in three zones.
func BenchmarkMetadata(b *testing.B) {
	w := newWorld(b)
	w.inZones(3)
	w.create("t", 64)
	for _, client := range []string{"app", "zone=zone-b"} {
		b.Run(client, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r := request(askMetadata(12, false, "t"))
				r.ClientID = client
				<-w.h.Serve(w.ctx, nil, r).Done()
			}
		})
	}
}

// An agent that could not read a partition, and stands for its leader, names nobody: clients
// that are sent to where they are come back without a pause.
func TestFetchIsNotSentBackHere(t *testing.T) {
	w := newWorld(t)
	w.inZones(2)
	topic := w.create("t", 64)
	w.reader.answer = func(kafka.FetchPartition) kafka.FetchResult {
		return kafka.FetchResult{Code: kerr.NotLeaderForPartition.Code, HighWatermark: -1, LastStable: -1, LogStart: -1}
	}
	leaders := w.leadersFor("app", topic)
	here, there := 0, 0
	for p, leader := range leaders {
		out := from[*kmsg.FetchResponse](w, "app", fetchReq(16, fromPartition{topic, int32(p), -1})).Topics[0].Partitions[0]
		want := leader
		if leader == w.cluster.Self() {
			want = -1
			here++
		} else {
			there++
		}
		if out.ErrorCode != kerr.NotLeaderForPartition.Code || out.CurrentLeader.LeaderID != want {
			t.Errorf("partition %d, whose leader is %d: error %d and sent to %d", p, leader, out.ErrorCode, out.CurrentLeader.LeaderID)
		}
	}
	if here == 0 || there == 0 {
		t.Errorf("%d partitions are led here, %d elsewhere", here, there)
	}
}
