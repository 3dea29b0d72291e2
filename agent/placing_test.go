package agent_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/agent"
	"github.com/floelog/floe/agent/kafka"
	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/metadata/membership"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// leadersOf returns who leads each shard as a node sees it.
func leadersOf(n *node) map[tiering.ShardID]int32 {
	leaders := map[tiering.ShardID]int32{}
	for id := range tiering.ShardID(numShards) {
		leaders[id], _ = n.Ports().Cluster.Leader(id)
	}
	return leaders
}

// pins returns the placement key's value, or "" if there is none.
func (c *cluster) pins(n *node) string {
	c.t.Helper()
	kvs, _, err := n.meta.Get(c.t.Context(), keys.Placement())
	if err != nil {
		c.t.Fatal(err)
	}
	return string(kvs[0].Value)
}

// partitionOn returns a topic's partition of a shard.
func partitionOn(topic *catalogue.Topic, id tiering.ShardID) int32 {
	for p := range int32(numShards) {
		if tiering.ShardOf(topic.FirstShard, p, numShards) == id {
			return p
		}
	}
	return -1
}

// TestHotShardsPart loads two shards that one agent leads: one of them moves to another agent,
// without a failed batch, and then nothing moves any more.
func TestHotShardsPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		nodes := []*node{c.start("a", 1, c.objects)}
		c.ready(nodes[0])
		nodes = append(nodes, c.start("b", 2, c.objects))
		c.ready(nodes[1])
		topic := c.topic(nodes[0], "x")
		time.Sleep(10 * time.Second)
		before := leadersOf(nodes[0])
		var hot []tiering.ShardID
		for id := range tiering.ShardID(numShards) {
			if before[id] == 1 && len(hot) < 2 {
				hot = append(hot, id)
			}
		}
		if len(hot) < 2 {
			t.Fatalf("agent 1 leads %v of %v", hot, before)
		}
		data, meta := records(t, strings.Repeat("v", 100<<10))
		failed := 0
		load := func(d time.Duration) {
			for until := time.Now().Add(d); time.Now().Before(until); time.Sleep(50 * time.Millisecond) {
				for _, id := range hot {
					b := batchOf(topic, partitionOn(topic, id), data, meta)
					done := make(chan struct{})
					nodes[0].Ports().Producer.Append([]*kafka.AppendBatch{b}, func() { close(done) })
					if <-done; b.Code != 0 {
						failed++
					}
				}
			}
		}
		load(4 * time.Minute)
		after, pins := leadersOf(nodes[0]), c.pins(nodes[0])
		if after[hot[0]] == after[hot[1]] || failed > 0 {
			t.Errorf("hot shards %v are led by agents %d and %d; %d batches failed; pins: %s", hot, after[hot[0]], after[hot[1]], failed, pins)
		}
		for id := range tiering.ShardID(numShards) {
			if seen, _ := nodes[1].Ports().Cluster.Leader(id); seen != after[id] {
				t.Errorf("shard %d is led by %d, or by %d", id, after[id], seen)
			}
		}
		load(2 * time.Minute)
		time.Sleep(5 * time.Minute) // and without load
		if again := c.pins(nodes[0]); again != pins {
			t.Errorf("the pins are %s, and were %s", again, pins)
		}
		c.end(nodes...)
	})
}

func batchOf(topic *catalogue.Topic, partition int32, data []byte, meta shard.Batch) *kafka.AppendBatch {
	return &kafka.AppendBatch{Partition: tiering.TopicPartition{Topic: topic.ID, Partition: partition},
		Shard: tiering.ShardOf(topic.FirstShard, partition, numShards), Data: data, Meta: meta}
}

// TestRoles gives each of three agents one role, and then takes agents away.
func TestRoles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		of := func(roles ...string) func(*agent.Config, *agent.Parts) {
			return func(cfg *agent.Config, _ *agent.Parts) { cfg.Roles = roles }
		}
		jobs := c.startWith("jobs", 1, c.objects, of("jobs"))
		c.ready(jobs) // alone, it does everything
		reads := c.startWith("reads", 2, c.objects, of("fetch"))
		leads := c.startWith("leads", 3, c.objects, of("produce", "fetch"))
		c.ready(reads)
		c.ready(leads)
		c.fillAll(reads, "x")
		time.Sleep(90 * time.Second) // claims change hands
		for id, node := range leadersOf(reads) {
			if node != 3 {
				t.Errorf("shard %d is led by agent %d, want the one with the role", id, node)
			}
		}
		for _, a := range reads.Ports().Cluster.Agents() {
			if a.NotLeader != (a.NodeID != 3) || a.NotReplica != (a.NodeID == 1) {
				t.Errorf("clients are told of %+v", a)
			}
		}
		claims := c.claimed(jobs)
		for _, session := range claims {
			if session != claims[0] {
				t.Errorf("claims are %v, want one agent's", claims)
			}
		}
		if len(claims) != numShards {
			t.Errorf("%d of %d shards are claimed", len(claims), numShards)
		}
		leads.stop()
		<-leads.ended
		time.Sleep(time.Second)
		led := map[int32]int{}
		for _, node := range leadersOf(reads) {
			led[node]++
		}
		if led[1] != numShards/2 || led[2] != numShards/2 {
			t.Errorf("without an agent for it, shards are led by %v, want half by each that is left", led)
		}
		for _, a := range reads.Ports().Cluster.Agents() {
			if a.NotLeader || a.NotReplica != (a.NodeID == 1) {
				t.Errorf("without an agent that leads, clients are told of %+v", a)
			}
		}
		if again := c.claimed(jobs); len(again) != numShards || again[0] != claims[0] {
			t.Errorf("claims become %v, were %v", again, claims)
		}
		c.end(jobs, reads)
	})
}

func TestUnknownRole(t *testing.T) {
	if _, err := agent.New(agent.Config{Roles: []string{"sweep"}}, agent.Parts{Registry: noRegistry{}}); err == nil || !strings.Contains(err.Error(), `role "sweep" is unknown`) {
		t.Errorf("an unknown role: %v", err)
	}
	if got, err := membership.ParseRoles(nil); err != nil || len(got) != 3 {
		t.Errorf("no roles are %v (%v), want all", got, err)
	}
}
