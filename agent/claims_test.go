package agent_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// claimed returns who claims each shard's jobs, by the value of the key.
func (c *cluster) claimed(n *node) map[tiering.ShardID]string {
	c.t.Helper()
	out := map[tiering.ShardID]string{}
	for id := range tiering.ShardID(numShards) {
		kvs, _, err := n.meta.Get(c.t.Context(), keys.Job(id))
		if err != nil {
			c.t.Fatal(err)
		}
		if kvs[0].Exists() {
			out[id] = string(kvs[0].Value)
		}
	}
	return out
}

func (c *cluster) fillAll(n *node, name string) {
	c.t.Helper()
	topic := c.topic(n, name)
	for p := range int32(numShards) {
		_, done := c.send(n, topic, p)
		<-done
	}
}

// records returns how many journal records there have been.
func (n *node) records(t *testing.T) (sum int) {
	t.Helper()
	for id := range tiering.ShardID(numShards) {
		n.ReadShard(id, func(s *shard.State) { sum += int(s.Seq) })
	}
	return sum
}

func TestShardsJobsAreClaimedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		a := c.start("a", 1, c.objects)
		c.ready(a)
		time.Sleep(time.Minute)
		if got := c.claimed(a); len(got) != 0 {
			t.Errorf("claims in an empty cluster: %v", got)
		}
		c.fillAll(a, "x")
		time.Sleep(5 * time.Second)
		alone := c.claimed(a)
		if len(alone) != numShards {
			t.Fatalf("one agent claims %d of %d shards", len(alone), numShards)
		}
		b := c.start("b", 2, c.objects)
		c.ready(b)
		time.Sleep(10 * time.Second)
		moved := 0
		both := c.claimed(a)
		for id, who := range both {
			if who != alone[id] {
				moved++
			}
		}
		if len(both) != numShards || moved != numShards/2 {
			t.Errorf("of %d claims, %d have moved to the second agent", len(both), moved)
		}
		a.stop()
		<-a.ended
		time.Sleep(10 * time.Second)
		left := c.claimed(b)
		for id, who := range left {
			if who == alone[id] {
				t.Errorf("shard %d is still claimed by the agent that left", id)
			}
		}
		if len(left) != numShards {
			t.Errorf("the agent that is left claims %d shards", len(left))
		}
		c.end(b)
	})
}

// Nothing happens: nothing is written.
func TestAnIdleClusterClaimsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		a := c.start("a", 1, c.objects)
		c.ready(a)
		c.fillAll(a, "x")
		time.Sleep(time.Hour) // roll-up, snapshots, sweeps
		seen := a.records(t)
		revision := func() int64 {
			_, r, err := a.meta.Get(t.Context(), keys.Cluster())
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		before := revision()
		time.Sleep(10 * time.Minute)
		if after := revision(); after != before || a.records(t) != seen {
			t.Errorf("an idle cluster went from revision %d to %d", before, after)
		}
		c.end(a)
	})
}

// A claim that nobody knows of any more is taken over.
func TestAClaimThatWasForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		a := c.start("a", 1, c.objects)
		c.ready(a)
		if _, err := a.meta.Txn(t.Context(), metadata.Txn{Then: []metadata.Op{metadata.Put(keys.Job(3), []byte("a ghost"))}}); err != nil {
			t.Fatal(err)
		}
		c.fillAll(a, "x")
		time.Sleep(30 * time.Second)
		if got := c.claimed(a); got[3] != "a ghost" || got[2] == "a ghost" || len(got) != numShards {
			t.Errorf("before its time: %v", got)
		}
		time.Sleep(time.Minute)
		if got := c.claimed(a); got[3] != got[2] {
			t.Errorf("a forgotten claim was not taken: %v", got)
		}
		c.end(a)
	})
}
