package agent_test

import (
	"bytes"
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/agent/kafka"
	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/protocol/batch"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
)

// countedStore counts requests, and refuses PUTs while it is told to.
type countedStore struct {
	objstore.Store
	requests atomic.Int64
	down     atomic.Bool
}

func (s *countedStore) Put(ctx context.Context, key string, body objstore.Body) error {
	s.requests.Add(1)
	if s.down.Load() {
		return objstore.ErrThrottled
	}
	return s.Store.Put(ctx, key, body)
}

func (s *countedStore) GetRange(ctx context.Context, key string, off, n int64) ([]byte, error) {
	s.requests.Add(1)
	return s.Store.GetRange(ctx, key, off, n)
}

func (s *countedStore) GetUpTo(ctx context.Context, key string, off, n int64) (objstore.Body, int64, error) {
	s.requests.Add(1)
	return s.Store.GetUpTo(ctx, key, off, n)
}

func (s *countedStore) List(ctx context.Context, prefix, after string, limit int) ([]objstore.Info, error) {
	s.requests.Add(1)
	return s.Store.List(ctx, prefix, after, limit)
}

// sendLarge appends a batch that is too large to be committed inline.
func (c *cluster) sendLarge(n *node, topic *catalogue.Topic, partition int32) {
	c.t.Helper()
	now := time.Now().UnixMilli()
	builder := batch.NewBuilder(batch.PlainFields(now))
	builder.Add(batch.Record{Value: bytes.Repeat([]byte("v"), 20<<10)})
	data, err := builder.AppendTo(nil)
	if err != nil {
		c.t.Fatal(err)
	}
	meta := shard.Batch{Length: int32(len(data)), Count: 1, MaxTimestamp: now, ProducerID: -1}
	b := &kafka.AppendBatch{Partition: tiering.TopicPartition{Topic: topic.ID, Partition: partition},
		Shard: tiering.ShardOf(topic.FirstShard, partition, numShards), Data: data, Meta: meta}
	done := make(chan struct{})
	n.Ports().Producer.Append([]*kafka.AppendBatch{b}, func() { close(done) })
	<-done
	if b.Code != 0 {
		c.t.Fatalf("an append was refused with code %d", b.Code)
	}
}

func (n *node) extents(topic *catalogue.Topic) (total int, records int64) {
	for p := range int32(numShards) {
		n.ReadShard(tiering.ShardOf(topic.FirstShard, p, numShards), func(s *shard.State) {
			for _, e := range s.Partition(tiering.TopicPartition{Topic: topic.ID, Partition: p}).Extents {
				total++
				records += e.Count
			}
		})
	}
	return total, records
}

// Whatever agent took the batches, the agent that claims a shard merges them, once the store
// takes it.
func TestAgentsMergeWhatWasFlushed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		objects := &countedStore{Store: c.objects}
		a, b := c.start("a", 1, objects), c.start("b", 2, objects)
		c.ready(a)
		c.ready(b)
		time.Sleep(5 * time.Second)
		topic := c.topic(a, "x")
		const each = 15
		for range each {
			for p := range int32(numShards) {
				c.sendLarge(a, topic, p)
			}
		}
		synctest.Wait() // what the other agent leads is seen a moment later
		if n, records := a.extents(topic); n != each*numShards || records != each*numShards {
			t.Errorf("%d extents of %d records", n, records)
		}
		objects.down.Store(true)
		time.Sleep(10 * time.Minute)
		if n, _ := a.extents(topic); n != each*numShards {
			t.Errorf("%d extents although nothing can be stored", n)
		}
		objects.down.Store(false)
		time.Sleep(5 * time.Minute)
		if n, records := a.extents(topic); n != numShards || records != each*numShards {
			t.Errorf("%d extents of %d records are left", n, records)
		}
		c.end(a, b)
	})
}

// A job may find the shard's leader on another agent.
func TestJobsChangeShardsThatOthersLead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		a, b := c.start("a", 1, c.objects), c.start("b", 2, c.objects)
		c.ready(a)
		c.ready(b)
		time.Sleep(5 * time.Second)
		topic := c.topic(a, "x")
		for p := range int32(numShards) {
			batch, done := c.send(a, topic, p)
			<-done
			for _, n := range []*node{a, b} {
				before := tiering.Offset(0)
				n.ReadShard(batch.Shard, func(s *shard.State) { before = s.Partition(batch.Partition).LogStart })
				err := n.JobJournals().Change(t.Context(), batch.Shard, shard.Trim{Partition: batch.Partition, LogStart: 1})
				after := tiering.Offset(0)
				n.ReadShard(batch.Shard, func(s *shard.State) { after = s.Partition(batch.Partition).LogStart })
				if err != nil || after != 1 || n == a && before != 0 {
					t.Errorf("shard %d: log start %d, then %d, %v", batch.Shard, before, after, err)
				}
			}
		}
		c.end(a, b)
	})
}
