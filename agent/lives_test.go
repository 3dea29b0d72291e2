package agent_test

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent"
	"github.com/floelog/floe/agent/group"
	"github.com/floelog/floe/agent/kafka"
	"github.com/floelog/floe/agent/peer"
	"github.com/floelog/floe/agent/txn"
	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/metadata/membership"
	metamemory "github.com/floelog/floe/metadata/memory"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/protocol"
	"github.com/floelog/floe/protocol/batch"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
	objmemory "github.com/floelog/floe/tiering/objstore/memory"
)

const (
	leaseTTL     = 3 * time.Second
	drainTimeout = 5 * time.Second
	numShards    = 8
)

var keys = metadata.NewKeys("t")

// cluster is one metadata server, one object store and some agents, on virtual time.
type cluster struct {
	t       *testing.T
	server  *metamemory.Server
	objects *objmemory.Store

	mu    sync.Mutex
	nodes map[string]*node // by RPC address
}

// node is a running agent.
type node struct {
	*agent.Agent
	meta   *metamemory.Client
	hooked *hookedMeta
	stop   context.CancelFunc
	ended  chan struct{}
	err    error // of Run, once ended is closed
}

// hookedMeta lets a test get between the agent and its appends, or its takeovers.
type hookedMeta struct {
	metadata.Store
	appends   atomic.Pointer[func(ctx context.Context) error]
	takeovers atomic.Pointer[func(ctx context.Context) error]
}

func (h *hookedMeta) Txn(ctx context.Context, txn metadata.Txn) (metadata.TxnResult, error) {
	if f := h.appends.Load(); f != nil && len(txn.Then) == 2 && strings.Contains(txn.Then[1].Key, "/journal/") && !txn.Then[1].Delete {
		if err := (*f)(ctx); err != nil {
			return metadata.TxnResult{}, err
		}
	}
	if f := h.takeovers.Load(); f != nil && len(txn.Then) > 0 && strings.HasSuffix(txn.Then[0].Key, "/leader") && !txn.Then[0].Delete {
		if err := (*f)(ctx); err != nil {
			return metadata.TxnResult{}, err
		}
	}
	return h.Store.Txn(ctx, txn)
}

// stuckReads is an object store whose reads wait until their contexts end.
type stuckReads struct{ objstore.Store }

func (stuckReads) GetRange(ctx context.Context, _ string, _, _ int64) ([]byte, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (stuckReads) GetUpTo(ctx context.Context, _ string, _, _ int64) (objstore.Body, int64, error) {
	<-ctx.Done()
	return nil, 0, ctx.Err()
}

type noRegistry struct{}

func (noRegistry) Register(prometheus.Collector) error  { return nil }
func (noRegistry) MustRegister(...prometheus.Collector) {}
func (noRegistry) Unregister(prometheus.Collector) bool { return true }

// peers reaches the other agents of the cluster without a network.
type peers struct{ c *cluster }

func (p peers) at(addr string) (*node, error) {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	if n := p.c.nodes[addr]; n != nil {
		return n, nil
	}
	return nil, errors.New("nobody there")
}

func (p peers) Sequence(ctx context.Context, addr string, id tiering.ShardID, s *shard.Submission) ([]shard.Outcome, error) {
	n, err := p.at(addr)
	if err != nil {
		return nil, err
	}
	return n.SequenceHere(ctx, id, s)
}

func (p peers) Ask(ctx context.Context, addr string, q peer.Question) ([]byte, error) {
	n, err := p.at(addr)
	if err != nil {
		return nil, err
	}
	return n.AnswerHere(ctx, q)
}

func (peers) Close() {}

func newCluster(t *testing.T) *cluster {
	return &cluster{t: t, server: metamemory.New(), objects: objmemory.New(), nodes: map[string]*node{}}
}

// start runs an agent; with id 0 it takes the lowest that is free.
func (c *cluster) start(name string, id int32, objects objstore.Store) *node {
	c.t.Helper()
	return c.startWith(name, id, objects, func(*agent.Config, *agent.Parts) {})
}

// startWith runs an agent that change makes different.
func (c *cluster) startWith(name string, id int32, objects objstore.Store, change func(*agent.Config, *agent.Parts)) *node {
	c.t.Helper()
	n := &node{meta: c.server.Client(name), ended: make(chan struct{})}
	n.hooked = &hookedMeta{Store: n.meta}
	cfg := agent.Config{
		Cluster: "t", NodeID: id, Advertise: name + ":9092", RPCAdvertise: name + ":9094", Version: "test",
		Shards: numShards, LeaseTTL: leaseTTL, History: 30 * time.Second,
		FlushBytes: 1 << 20, FlushAge: 10 * time.Millisecond, FlushIdle: true, Uploads: 4,
		InlineMax: 16 << 10, InlineRate: 4 << 20, RollupAge: time.Minute, RollupBytes: 4 << 20, SnapshotRecords: 3,
		Groups: group.DefaultSettings(), Transactions: txn.DefaultSettings(), ProducerExpiry: time.Hour, RequestMemory: 64 << 20, CacheBytes: 8 << 20, DrainTimeout: drainTimeout,
	}
	parts := agent.Parts{
		Meta: n.hooked, Objects: objects, Log: slog.New(slog.DiscardHandler), Registry: noRegistry{}, Peers: peers{c},
	}
	change(&cfg, &parts)
	a, err := agent.New(cfg, parts)
	if err != nil {
		c.t.Fatal(err)
	}
	n.Agent = a
	ctx, cancel := context.WithCancel(context.Background())
	n.stop = cancel
	c.mu.Lock()
	c.nodes[name+":9094"] = n
	c.mu.Unlock()
	go func() {
		defer close(n.ended)
		n.err = a.Run(ctx)
	}()
	return n
}

func (c *cluster) ready(n *node) {
	c.t.Helper()
	select {
	case <-n.Ready():
	case <-n.ended:
		c.t.Fatal("the agent ended:", n.err)
	case <-time.After(time.Minute):
		c.t.Fatal("the agent is not ready after a minute")
	}
}

// end stops everything; whatever is stuck is let go.
func (c *cluster) end(nodes ...*node) {
	for _, n := range nodes {
		n.hooked.appends.Store(nil)
		n.meta.Resume()
		n.meta.Heal()
		n.stop()
	}
	for _, n := range nodes {
		<-n.ended
	}
	c.server.Close()
}

func within(c <-chan struct{}, d time.Duration) bool {
	select {
	case <-c:
		return true
	case <-time.After(d):
		return false
	}
}

func records(t *testing.T, value string) (data []byte, meta shard.Batch) {
	t.Helper()
	b := batch.NewBuilder(batch.PlainFields(1000))
	b.Add(batch.Record{Value: []byte(value)})
	data, err := b.AppendTo(nil)
	if err != nil {
		t.Fatal(err)
	}
	return data, shard.Batch{Length: int32(len(data)), Count: 1, MaxTimestamp: 1000, ProducerID: -1}
}

// topic creates a topic with one partition on each shard.
func (c *cluster) topic(n *node, name string) *catalogue.Topic {
	c.t.Helper()
	created := n.Ports().Changes.Create(c.t.Context(), []catalogue.NewTopic{{Name: name, Partitions: numShards}})
	if created[0].Err != nil {
		c.t.Fatal(created[0].Err)
	}
	topic, err := n.Ports().Topics.Find(c.t.Context(), name)
	if err != nil {
		c.t.Fatal(err)
	}
	return topic
}

// send appends one batch to a partition; the channel is closed when it has its result.
func (c *cluster) send(n *node, topic *catalogue.Topic, partition int32) (*kafka.AppendBatch, <-chan struct{}) {
	data, meta := records(c.t, "v")
	b := &kafka.AppendBatch{Partition: tiering.TopicPartition{Topic: topic.ID, Partition: partition},
		Shard: tiering.ShardOf(topic.FirstShard, partition, numShards), Data: data, Meta: meta}
	done := make(chan struct{})
	n.Ports().Producer.Append([]*kafka.AppendBatch{b}, func() { close(done) })
	return b, done
}

func TestAnAgentDrainsInTimeWhileTheMetadataStoreIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		n := c.start("a", 1, c.objects)
		c.ready(n)
		topic := c.topic(n, "x")
		n.meta.Partition()
		c.send(n, topic, 0)
		time.Sleep(100 * time.Millisecond)
		n.stop()
		if !within(n.ended, drainTimeout+time.Minute) {
			t.Errorf("a minute after its drain timeout the agent still runs")
		}
		c.end(n)
	})
}

func TestAnAgentThatIsStillLoadingTakesNoShardsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		a := c.start("a", 1, c.objects)
		c.ready(a)
		topic := c.topic(a, "x")
		for range 10 { // so that there are snapshots to be loaded
			for p := range int32(numShards) {
				_, done := c.send(a, topic, p)
				<-done
			}
		}
		b := c.start("b", 2, stuckReads{c.objects})
		time.Sleep(20 * time.Second)
		for p := range int32(numShards) {
			if _, done := c.send(a, topic, p); !within(done, 5*time.Second) {
				t.Errorf("partition %d cannot be written: its shard was given to an agent that does not serve yet", p)
			}
		}
		c.end(a, b)
	})
}

func TestAnAgentWhoseNodeIDWasTakenServesAgainOrEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		a := c.start("a", 0, c.objects)
		c.ready(a)
		topic := c.topic(a, "x")
		a.meta.Partition()
		time.Sleep(5 * leaseTTL)
		b := c.start("b", 0, c.objects)
		c.ready(b)
		if b.NodeID() != a.NodeID() {
			t.Fatalf("node ids %d and %d: the first one's was free", a.NodeID(), b.NodeID())
		}
		a.meta.Heal()
		if !within(a.ended, 2*time.Minute) {
			if batch, done := c.send(a, topic, 0); !within(done, time.Minute) || batch.Code != 0 {
				t.Errorf("two minutes after the partition healed the agent neither ended nor serves: code %d", batch.Code)
			}
		}
		c.end(a, b)
	})
}

func TestAnAgentStoppedWhileItStartsLeavesNoSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		a := c.start("a", 1, c.objects)
		c.ready(a)
		topic := c.topic(a, "x")
		for range 10 {
			_, done := c.send(a, topic, 0)
			<-done
		}
		b := c.start("b", 2, stuckReads{c.objects})
		time.Sleep(time.Second)
		b.stop()
		<-b.ended
		time.Sleep(10 * leaseTTL)
		sessions, err := membership.Sessions(t.Context(), c.server.Client("check"), keys)
		if err != nil {
			t.Fatal(err)
		}
		if len(sessions) != 1 {
			t.Errorf("%d sessions live, want 1: the stopped agent's is still renewed", len(sessions))
		}
		a.stop()
		<-a.ended
		b.meta.Partition() // ends the renewals of the session that was left
		time.Sleep(2 * leaseTTL)
		c.server.Close()
	})
}

func TestADrainFinishesTheAppendsOfOtherAgents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		a := c.start("a", 1, c.objects)
		c.ready(a)
		topic := c.topic(a, "x")
		slow := func(ctx context.Context) error {
			select {
			case <-time.After(500 * time.Millisecond):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		a.hooked.appends.Store(&slow)
		session := tiering.SessionID{7}
		if _, err := a.meta.Txn(t.Context(), metadata.Txn{Then: []metadata.Op{metadata.Put(keys.Session(session), []byte("x"))}}); err != nil {
			t.Fatal(err)
		}
		data, meta := records(t, "v")
		var err error
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, err = a.SequenceHere(context.Background(), tiering.ShardOf(topic.FirstShard, 0, numShards), &shard.Submission{Session: session, Seq: 1,
				Parts: []shard.Part{{Partition: tiering.TopicPartition{Topic: topic.ID}, Inline: data, Batches: []shard.Batch{meta}}}})
		}()
		time.Sleep(100 * time.Millisecond)
		a.stop()
		<-done
		if err != nil {
			t.Errorf("an append that was in flight when the leader began to drain was broken off: %v", err)
		}
		c.end(a)
	})
}

// Another agent repeats its submission every few seconds while it has no answer; a leader
// whose appends have no outcome (etcd out of space renews leases but refuses writes) must
// not keep a copy of each.
func TestRepeatedQuestionsOfOtherAgentsDoNotPileUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		a := c.start("a", 1, c.objects)
		c.ready(a)
		topic := c.topic(a, "x")
		refuse := func(context.Context) error { return errors.New("no space") }
		a.hooked.appends.Store(&refuse)
		_, meta := records(t, "v")
		heap := func() uint64 {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		meta.Length = 256 << 10
		before := heap()
		for range 200 { // ten minutes
			ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
			_, _ = a.SequenceHere(ctx, tiering.ShardOf(topic.FirstShard, 0, numShards), &shard.Submission{Session: tiering.SessionID{7}, Seq: 1,
				Parts: []shard.Part{{Partition: tiering.TopicPartition{Topic: topic.ID}, Inline: make([]byte, meta.Length), Batches: []shard.Batch{meta}}}})
			cancel()
		}
		if grown := int64(heap()) - int64(before); grown > 8<<20 {
			t.Errorf("the leader holds %d MiB for one submission of 256 KiB that was repeated", grown>>20)
		}
		c.end(a)
	})
}

// A fetch from beyond what this agent's view knows asks the metadata store. If that is
// silent the answer is OFFSET_NOT_AVAILABLE, not a connection that hangs.
func TestAFetchBeyondTheViewEndsThoughTheMetadataStoreIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		a := c.start("a", 1, c.objects)
		c.ready(a)
		topic := c.topic(a, "x")
		a.meta.Partition()
		done := make(chan struct{})
		go func() {
			defer close(done)
			tp := tiering.TopicPartition{Topic: topic.ID}
			a.Ports().Reader.Fetch(context.Background(), kafka.FetchRequest{MinBytes: 1, MaxBytes: 1 << 20, MaxWait: 500 * time.Millisecond,
				Partitions: []kafka.FetchPartition{{Partition: kafka.Partition{TopicPartition: tp, Shard: tiering.ShardOf(topic.FirstShard, 0, numShards)}, Offset: 10, MaxBytes: 1 << 20}}})
		}()
		if !within(done, 30*time.Second) {
			t.Error("a fetch that may wait for half a second has no answer after 30 seconds")
		}
		c.end(a)
		<-done
	})
}

// The newest segments in the cache must not keep what else was in the clients' frames: a
// small batch beside a large one that was refused.
func TestTheCacheDoesNotKeepFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		a := c.start("a", 1, c.objects)
		c.ready(a)
		topic := c.topic(a, "x")
		if err := a.Ports().Topics.Fresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		h, err := kafka.New(a.Ports(), kafka.Config{Settings: kafka.Settings{MaxPartitions: 100, NumPartitions: 1, ReplicationFactor: 1, FetchMaxBytes: 1 << 20, FetchMaxWait: time.Second, MaxFetchSessions: 10, MaxFetchSessionPartitions: 100, StoreName: "m"}, Now: time.Now, Random: rand.Reader})
		if err != nil {
			t.Fatal(err)
		}
		heap := func() uint64 {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		data, _ := records(t, strings.Repeat("v", 20<<10)) // too large for an inline commit
		before := heap()
		for range 16 {
			req := kmsg.NewPtrProduceRequest()
			req.Version, req.Acks, req.TimeoutMillis = 7, -1, 30000
			req.Topics = []kmsg.ProduceRequestTopic{{Topic: topic.Name, Partitions: []kmsg.ProduceRequestTopicPartition{
				{Partition: 0, Records: data}, {Partition: 1 << 20, Records: make([]byte, 16<<20)}}}}
			p := h.Serve(t.Context(), nil, &protocol.Request{Key: 0, Version: 7, Body: req.AppendTo(nil)})
			<-p.Done()
		}
		if grown := int64(heap()) - int64(before); grown > 32<<20 {
			t.Errorf("a cache of 8 MiB holds %d MiB of frames", grown>>20)
		}
		c.end(a)
	})
}

func TestAnAgentThatLeavesSendsProducersElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		a, b := c.start("a", 1, c.objects), c.start("b", 2, c.objects)
		c.ready(a)
		c.ready(b)
		topic := c.topic(a, "x")
		time.Sleep(time.Second) // shards have moved
		a.stop()
		time.Sleep(100 * time.Millisecond)
		for id := range tiering.ShardID(numShards) {
			if node, _ := b.Ports().Cluster.Leader(id); node != 2 {
				t.Errorf("shard %d is led by agent %d while agent 1 leaves", id, node)
			}
		}
		for _, n := range []*node{a, b} {
			if agents := n.Ports().Cluster.Agents(); len(agents) != 1 || agents[0].NodeID != 2 {
				t.Errorf("clients are told of %v, want agent 2 alone", agents)
			}
		}
		refused, done := c.send(a, topic, 0)
		<-done
		if refused.Code != kerr.NotLeaderForPartition.Code {
			t.Errorf("the agent that leaves answers a producer with code %d, want NOT_LEADER_OR_FOLLOWER", refused.Code)
		}
		kept, done := c.send(b, topic, 0)
		<-done
		if kept.Code != 0 {
			t.Errorf("the other agent answers with code %d", kept.Code)
		}
		<-a.ended
		if a.err != nil {
			t.Error("draining:", a.err)
		}
		c.end(b)
	})
}
