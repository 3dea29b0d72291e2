package agent_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/agent/kafka"
	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/protocol/batch"
	"github.com/floelog/floe/tiering"
)

// keyed appends a batch with one record to a partition and waits until it is committed.
func (c *cluster) keyed(n *node, topic *catalogue.Topic, partition int32, key, value string) {
	c.t.Helper()
	b := batch.NewBuilder(batch.PlainFields(time.Now().UnixMilli()))
	b.Add(batch.Record{Key: []byte(key), Value: []byte(value)})
	data, err := b.AppendTo(nil)
	if err != nil {
		c.t.Fatal(err)
	}
	out := &kafka.AppendBatch{Partition: tiering.TopicPartition{Topic: topic.ID, Partition: partition},
		Shard: tiering.ShardOf(topic.FirstShard, partition, numShards), Data: data,
		Meta: shard.Batch{Length: int32(len(data)), Count: 1, MaxTimestamp: batch.View(data).MaxTimestamp(), ProducerID: -1}}
	done := make(chan struct{})
	n.Ports().Producer.Append([]*kafka.AppendBatch{out}, func() { close(done) })
	if <-done; out.Code != 0 {
		c.t.Fatalf("code %d", out.Code)
	}
}

// Compacted topics are compacted by themselves, whichever agent leads their shards, and others
// are left alone.
func TestCompactedTopicsAreCompacted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		a, b := c.start("a", 1, c.objects), c.start("b", 2, c.objects)
		c.ready(a)
		c.ready(b)
		created := a.Ports().Changes.Create(t.Context(), []catalogue.NewTopic{
			{Name: "compacted", Partitions: numShards, Configs: map[string]string{"cleanup.policy": "compact"}},
			{Name: "plain", Partitions: numShards}})
		for _, r := range created {
			if r.Err != nil {
				t.Fatal(r.Err)
			}
		}
		size := func(name string) (bytes int64, cleaned int) {
			topic, err := b.Ports().Topics.Find(t.Context(), name)
			if err != nil {
				t.Fatal(err)
			}
			for p := range int32(numShards) {
				b.ReadShard(tiering.ShardOf(topic.FirstShard, p, numShards), func(s *shard.State) {
					ps := s.Partition(tiering.TopicPartition{Topic: topic.ID, Partition: p})
					bytes += ps.Bytes()
					if ps.Cleaned > 0 {
						cleaned++
					}
				})
			}
			return bytes, cleaned
		}
		for _, name := range []string{"compacted", "plain"} {
			topic, err := a.Ports().Topics.Find(t.Context(), name)
			if err != nil {
				t.Fatal(err)
			}
			for i := range 20 {
				for p := range int32(numShards) {
					c.keyed(a, topic, p, fmt.Sprint("k", i%2), fmt.Sprint("v", i))
				}
			}
		}
		before, _ := size("compacted")
		time.Sleep(15 * time.Minute) // roll-up, then compaction
		if after, cleaned := size("compacted"); after*5 > before || cleaned != numShards {
			t.Errorf("%d bytes became %d, %d of %d partitions were compacted", before, after, cleaned, numShards)
		}
		if bytes, cleaned := size("plain"); bytes != before || cleaned != 0 {
			t.Errorf("a topic that is not compacted has %d bytes, not %d, and %d partitions were compacted", bytes, before, cleaned)
		}
		c.end(a, b)
	})
}
