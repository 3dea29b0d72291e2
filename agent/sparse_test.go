package agent_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/floelog/floe/agent"
	"github.com/floelog/floe/agent/kafka"
	"github.com/floelog/floe/agent/peer"
	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/protocol/batch"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
)

// metered starts an agent whose object-store requests are counted by its metrics.
func (c *cluster) metered(name string, id int32, objects objstore.Store) (*node, *prometheus.Registry) {
	reg := prometheus.NewRegistry()
	counted, err := objstore.Metered(objects, reg)
	if err != nil {
		c.t.Fatal(err)
	}
	return c.startWith(name, id, counted, func(_ *agent.Config, p *agent.Parts) { p.Registry = reg }), reg
}

// value returns the sum of a metric over all its labels.
func value(t *testing.T, reg *prometheus.Registry, name string) (sum float64) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return sum
}

// sendShared appends a little to each partition of slow and much to one of busy, in one flush.
func (c *cluster) sendShared(n *node, slow, busy *catalogue.Topic) {
	c.t.Helper()
	now := time.Now().UnixMilli()
	var batches []*kafka.AppendBatch
	add := func(topic *catalogue.Topic, p int32, size int) {
		builder := batch.NewBuilder(batch.PlainFields(now))
		builder.Add(batch.Record{Value: make([]byte, size)})
		data, err := builder.AppendTo(nil)
		if err != nil {
			c.t.Fatal(err)
		}
		batches = append(batches, &kafka.AppendBatch{Partition: tiering.TopicPartition{Topic: topic.ID, Partition: p},
			Shard: tiering.ShardOf(topic.FirstShard, p, numShards), Data: data,
			Meta: shard.Batch{Length: int32(len(data)), Count: 1, MaxTimestamp: now, ProducerID: -1}})
	}
	for p := range int32(numShards) {
		add(slow, p, 20<<10) // what is smaller is committed inline
	}
	add(busy, 0, 600<<10)
	done := make(chan struct{})
	n.Ports().Producer.Append(batches, func() { close(done) })
	<-done
	for _, b := range batches {
		if b.Code != 0 {
			c.t.Fatalf("an append was refused with code %d", b.Code)
		}
	}
	synctest.Wait()
}

// trim forgets all records of a partition.
func (c *cluster) trim(n *node, topic *catalogue.Topic, p int32) {
	c.t.Helper()
	tp, id := tiering.TopicPartition{Topic: topic.ID, Partition: p}, tiering.ShardOf(topic.FirstShard, p, numShards)
	var next tiering.Offset
	n.ReadShard(id, func(s *shard.State) { next = s.Partition(tp).Next })
	if err := n.JobJournals().Change(c.t.Context(), id, shard.Trim{Partition: tp, LogStart: next}); err != nil {
		c.t.Fatal(err)
	}
}

// Slow partitions of both agents share segments with one that loses all its records: whoever
// sweeps, both pack what is theirs, the segments go, and then the cluster is idle: no agent asks
// the object store for anything, nor another agent.
func TestSlowPartitionsDoNotKeepDeadSegments(t *testing.T) {
	lastsHours(t)
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		a, aMetrics := c.metered("a", 1, c.objects)
		b, bMetrics := c.metered("b", 2, c.objects)
		c.ready(a)
		c.ready(b)
		time.Sleep(5 * time.Second)
		slow, busy := c.topic(a, "slow"), c.topic(a, "busy")
		const flushes = 5
		for range flushes {
			c.sendShared(a, slow, busy)
		}
		synctest.Wait()
		_, before := c.segments(a)
		c.trim(a, busy, 0)
		time.Sleep(2 * rest)
		stored, named := c.segments(b)
		for key := range before {
			if stored[key] {
				t.Errorf("%s, which is mostly dead, is still there", key)
			}
		}
		if len(before) < flushes || len(stored) != len(named) || len(stored) > 4 {
			t.Errorf("%d segments were stored, %d are, %d are named", len(before), len(stored), len(named))
		}
		for p := range int32(numShards) {
			b.ReadShard(tiering.ShardOf(slow.FirstShard, p, numShards), func(s *shard.State) {
				tp := tiering.TopicPartition{Topic: slow.ID, Partition: p}
				if n := s.Partition(tp).Next - s.Partition(tp).LogStart; n != flushes {
					t.Errorf("partition %d has %d records, want %d", p, n, flushes)
				}
			})
		}
		for name, reg := range map[string]*prometheus.Registry{"a": aMetrics, "b": bMetrics} {
			if value(t, reg, "floe_merge_packed_bytes_total") == 0 {
				t.Errorf("agent %s has packed nothing", name)
			}
			n := value(t, reg, "floe_objstore_requests_total")
			time.Sleep(6 * time.Hour)
			if now := value(t, reg, "floe_objstore_requests_total"); n == 0 || now != n {
				t.Errorf("agent %s asked the object store %v times before the cluster was idle, and %v times in the hours after", name, n, now-n)
			}
		}
		c.end(a, b)
	})
}

// Whatever happened before: once what was written has been merged, compacted, trimmed and swept, a
// cluster costs no request to the object store.
func TestAnIdleClusterAsksNothingOfTheObjectStore(t *testing.T) {
	lastsHours(t)
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		a, aMetrics := c.metered("a", 1, c.objects)
		b, bMetrics := c.metered("b", 2, c.objects)
		c.ready(a)
		c.ready(b)
		time.Sleep(5 * time.Second)
		many, few, gone := c.topic(a, "many"), c.topic(b, "few"), c.topic(a, "gone")
		for i := range 40 {
			for p := range int32(numShards) {
				c.sendLarge(a, many, p)
				if i < 3 {
					c.sendLarge(b, gone, p)
					_, done := c.send(b, few, p) // inline
					<-done
				}
			}
			time.Sleep(10 * time.Second)
		}
		c.trim(a, few, 1)
		if _, err := a.Ports().Changes.Delete(t.Context(), "gone"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * rest)
		for name, reg := range map[string]*prometheus.Registry{"a": aMetrics, "b": bMetrics} {
			if value(t, reg, "floe_merge_runs_total") == 0 {
				t.Errorf("agent %s has merged nothing", name)
			}
		}
		requests := func() float64 {
			return value(t, aMetrics, "floe_objstore_requests_total") + value(t, bMetrics, "floe_objstore_requests_total")
		}
		if value(t, aMetrics, "floe_gc_deleted_objects_total")+value(t, bMetrics, "floe_gc_deleted_objects_total") == 0 {
			t.Error("nothing was swept away")
		}
		n := requests()
		time.Sleep(6 * time.Hour)
		if now := requests(); n == 0 || now != n {
			t.Errorf("%v requests before the cluster was idle, %v in the hours after", n, now-n)
		}
		c.end(a, b)
	})
}

// shy is a way to other agents that loses what they are told of sparse segments while it is told to.
type shy struct {
	peers
	loses *atomic.Bool
	asked *atomic.Int64
}

func (s shy) Ask(ctx context.Context, addr string, q peer.Question) ([]byte, error) {
	if q.Kind == "sparse" {
		s.asked.Add(1)
		if s.loses.Load() {
			return nil, errors.New("lost")
		}
	}
	return s.peers.Ask(ctx, addr, q)
}

func contains(all, some map[string]bool) bool {
	for key := range some {
		if !all[key] {
			return false
		}
	}
	return true
}

// An agent that could not be told is told later, even if nothing happens meanwhile; each hears of
// one list once.
func TestSparseSegmentsAreToldUntilAllHaveHeard(t *testing.T) {
	lastsHours(t)
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		var loses atomic.Bool
		var asked atomic.Int64
		loses.Store(true)
		with := func(_ *agent.Config, p *agent.Parts) { p.Peers = shy{peers{c}, &loses, &asked} }
		a, b := c.startWith("a", 1, c.objects, with), c.startWith("b", 2, c.objects, with)
		c.ready(a)
		c.ready(b)
		time.Sleep(5 * time.Second)
		slow, busy := c.topic(a, "slow"), c.topic(a, "busy")
		c.sendShared(a, slow, busy)
		_, flushed := c.segments(a)
		c.trim(a, busy, 0)
		time.Sleep(2 * rest)
		if before, _ := c.segments(a); !contains(before, flushed) || len(before) != 2 || asked.Load() < 3 {
			t.Errorf("of %d flushed segments %d are left, agents were told %d times", len(flushed), len(before), asked.Load())
		}
		loses.Store(false)
		time.Sleep(2 * rest)
		if after, _ := c.segments(a); contains(after, flushed) || len(after) != 2 {
			t.Errorf("the flushed segment is among the %d that are left", len(after))
		}
		n := asked.Load()
		time.Sleep(6 * time.Hour)
		if asked.Load() != n {
			t.Errorf("agents were told %d times in hours in which nothing happened", asked.Load()-n)
		}
		if _, err := a.AnswerHere(t.Context(), peer.Question{Kind: "sparse", Body: make([]byte, 25)}); !errors.Is(err, metadata.ErrInvalid) {
			t.Errorf("a list that is cut off: %v", err)
		}
		c.end(a, b)
	})
}
