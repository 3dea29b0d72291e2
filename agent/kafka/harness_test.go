package kafka_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/kafka"
	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/metadata/memory"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/protocol"
	"github.com/floelog/floe/tiering"
)

// world is a Handler with a real catalogue in memory, and parts that do as they are told.
type world struct {
	t       testing.TB
	h       *kafka.Handler
	ctx     context.Context
	topics  *catalogue.Catalogue
	store   *memory.Client
	cluster *cluster
	prod    *producer
	reader  *reader
	offsets *offsets
	groups  *groups
	txns    *transactions
	clock   time.Time
}

func newWorld(t testing.TB, change ...func(*kafka.Settings)) *world {
	t.Helper()
	return newWorldOf(t, nil, change...)
}

// newWorldOf is newWorld with records kept by log, if there is one.
func newWorldOf(t testing.TB, log *memlog, change ...func(*kafka.Settings)) *world {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	server := memory.New()
	store := server.Client("agent")
	keys := metadata.NewKeys("test")
	id, err := catalogue.EnsureCluster(ctx, store, keys, catalogue.Want{Shards: 4})
	if err != nil {
		t.Fatal(err)
	}
	topics := catalogue.New(store, keys, id, catalogue.Config{})
	var wg sync.WaitGroup
	wg.Go(func() { _ = topics.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		server.Close()
	})
	if err := topics.WaitRevision(ctx, 1); err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, ctx: ctx, topics: topics, store: store, clock: time.UnixMilli(1_700_000_000_000),
		cluster: &cluster{id: id.ID, self: 1, epochs: map[tiering.ShardID]tiering.LeaderEpoch{}, leaders: map[tiering.ShardID]int32{},
			agents: []kafka.Agent{agentAt(1, "a.example", 9092, "zone-a"), agentAt(2, "b.example", 9093, "zone-b"), agentAt(3, "c.example", 9094, "")}},
		prod: &producer{}, reader: &reader{}, offsets: &offsets{}, groups: newGroups(), txns: &transactions{}}
	s := kafka.DefaultSettings()
	s.Zone = "zone-a"
	for _, f := range change {
		f(&s)
	}
	parts := kafka.Parts{
		Topics: topics, Changes: topics, Cluster: w.cluster, Producer: w.prod, Reader: w.reader,
		Offsets: w.offsets, Records: w.offsets, ProducerIDs: catalogue.NewProducerIDs(store, keys),
		Groups: w.groups, Transactions: w.txns,
	}
	if log != nil {
		parts.Producer, parts.Reader, parts.Offsets = log, log, log
	}
	w.h, err = kafka.New(parts, kafka.Config{Settings: s, Now: func() time.Time { return w.clock }, Random: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// create makes a topic and returns it.
func (w *world) create(name string, partitions int32, configs ...string) *catalogue.Topic {
	w.t.Helper()
	return w.createReplicated(name, partitions, 3, configs...)
}

func (w *world) createReplicated(name string, partitions int32, replicas int16, configs ...string) *catalogue.Topic {
	w.t.Helper()
	nt := catalogue.NewTopic{Name: name, Partitions: partitions, ReplicationFactor: replicas, Configs: map[string]string{}}
	for _, c := range configs {
		k, v, _ := strings.Cut(c, "=")
		nt.Configs[k] = v
	}
	c := w.topics.Create(w.ctx, []catalogue.NewTopic{nt})[0]
	if c.Err != nil {
		w.t.Fatal(c.Err)
	}
	if err := w.topics.WaitRevision(w.ctx, c.Revision); err != nil {
		w.t.Fatal(err)
	}
	got, _ := w.topics.Topic(name)
	return got
}

// drop deletes a topic.
func (w *world) drop(name string) {
	w.t.Helper()
	c, err := w.topics.Delete(w.ctx, name)
	if err == nil {
		err = w.topics.WaitRevision(w.ctx, c.Revision)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// request wraps a request as the connection hands it over.
func request(req kmsg.Request) *protocol.Request {
	return &protocol.Request{Key: req.Key(), Version: req.GetVersion(), Body: req.AppendTo(nil)}
}

// start serves a request, without waiting for the answer.
func (w *world) start(req kmsg.Request) *protocol.Pending {
	return w.h.Serve(w.ctx, nil, request(req))
}

// bytesOf waits for an answer and returns its body.
func (w *world) bytesOf(p *protocol.Pending) []byte {
	w.t.Helper()
	<-p.Done()
	r := p.Response()
	if r.Close || r.None {
		w.t.Fatalf("answer is %+v, want bytes", r)
	}
	return bytes.Join(r.Buffers, nil)
}

// call serves a request and decodes the answer, which must be canonical.
func call[R kmsg.Response](w *world, req kmsg.Request) R {
	w.t.Helper()
	return answered[R](w, req, w.start(req))
}

func answered[R kmsg.Response](w *world, req kmsg.Request, p *protocol.Pending) R {
	w.t.Helper()
	b := w.bytesOf(p)
	resp := req.ResponseKind()
	if err := resp.ReadFrom(b); err != nil {
		w.t.Fatalf("%T v%d: %v in %x", resp, req.GetVersion(), err, b)
	}
	if again := resp.AppendTo(nil); !bytes.Equal(again, b) {
		w.t.Fatalf("%T v%d: answer\n%x\nbut kmsg encodes\n%x", resp, req.GetVersion(), b, again)
	}
	return resp.(R)
}

func agentAt(node int32, host string, port int32, rack string) kafka.Agent {
	return kafka.Agent{NodeID: node, Host: host, Port: port, Rack: rack}
}

type cluster struct {
	id      string
	self    int32
	shards  uint32 // 0: 4
	agents  []kafka.Agent
	parted  []kafka.Agent
	epochs  map[tiering.ShardID]tiering.LeaderEpoch
	leaders map[tiering.ShardID]int32
}

func (c *cluster) ClusterID() string     { return c.id }
func (c *cluster) Self() int32           { return c.self }
func (c *cluster) Shards() uint32        { return cmp.Or(c.shards, 4) }
func (c *cluster) Agents() []kafka.Agent { return c.agents }

func (c *cluster) Familiar() []kafka.Agent { return append(slices.Clone(c.agents), c.parted...) }

func (c *cluster) Leader(s tiering.ShardID) (int32, tiering.LeaderEpoch) {
	node, ok := c.leaders[s]
	if !ok {
		node = 1
	}
	return node, c.epochs[s] + 5
}

// producer keeps what was appended until the test finishes it.
type producer struct {
	mu    sync.Mutex
	calls [][]*kafka.AppendBatch
	done  []func()
	auto  func([]*kafka.AppendBatch) // sets results and finishes at once, if set
}

func (p *producer) Append(batches []*kafka.AppendBatch, done func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls = append(p.calls, batches)
	if p.auto != nil {
		p.auto(batches)
		go done()
		return
	}
	p.done = append(p.done, done)
}

func (p *producer) finish(i int, result func(*kafka.AppendBatch)) {
	p.mu.Lock()
	batches, done := p.calls[i], p.done[i]
	p.mu.Unlock()
	for _, b := range batches {
		result(b)
	}
	done()
}

// reader answers from a function and remembers the requests.
type reader struct {
	requests []kafka.FetchRequest
	answer   func(kafka.FetchPartition) kafka.FetchResult
	fetch    func(context.Context, kafka.FetchRequest) []kafka.FetchResult // instead, if set
}

func (r *reader) Fetch(ctx context.Context, req kafka.FetchRequest) []kafka.FetchResult {
	if r.fetch != nil {
		return r.fetch(ctx, req)
	}
	r.requests = append(r.requests, req)
	out := make([]kafka.FetchResult, len(req.Partitions))
	for i, p := range req.Partitions {
		out[i] = kafka.FetchResult{HighWatermark: 10, LastStable: 10, LogStart: 0}
		if r.answer != nil {
			out[i] = r.answer(p)
		}
	}
	return out
}

// offsets answers with numbers that tell what was asked.
type offsets struct {
	queries []kafka.OffsetQuery
	trims   []kafka.TrimQuery
	code    int16

	producers int // of each partition; 0: one
}

func (o *offsets) List(_ context.Context, qs []kafka.OffsetQuery) []kafka.OffsetAnswer {
	o.queries = append(o.queries, qs...)
	out := make([]kafka.OffsetAnswer, len(qs))
	for i, q := range qs {
		out[i] = kafka.OffsetAnswer{Code: o.code, Offset: tiering.Offset(100 + q.TopicPartition.Partition), Timestamp: -1, Epoch: 5}
		if q.Kind == kafka.TimestampOffset || q.Kind == kafka.MaxTimestamp {
			out[i].Timestamp = q.Timestamp + 1
		}
	}
	return out
}

func (o *offsets) EpochEnds(_ context.Context, qs []kafka.EpochQuery) []kafka.EpochAnswer {
	out := make([]kafka.EpochAnswer, len(qs))
	for i, q := range qs {
		out[i] = kafka.EpochAnswer{Epoch: q.Epoch - 1, End: 77}
	}
	return out
}

// Producers names the partition by the producer's id.
func (o *offsets) Producers(_ context.Context, ps []kafka.Partition) []kafka.ProducersAnswer {
	out := make([]kafka.ProducersAnswer, len(ps))
	for i, p := range ps {
		out[i].Producers = []shard.ProducerState{{ProducerID: 500 + int64(p.TopicPartition.Partition), Epoch: 3, LastSeq: 7,
			Updated: 1234, Coordinator: -1, OpenSince: 99}}
		for range o.producers - 1 {
			out[i].Producers = append(out[i].Producers, out[i].Producers[0])
		}
	}
	return out
}

func (o *offsets) Sizes(_ context.Context, ps []kafka.Partition) []int64 {
	out := make([]int64, len(ps))
	for i, p := range ps {
		out[i] = 1000 + int64(p.TopicPartition.Partition)
	}
	return out
}

func (o *offsets) Trim(_ context.Context, qs []kafka.TrimQuery) []kafka.TrimAnswer {
	o.trims = append(o.trims, qs...)
	out := make([]kafka.TrimAnswer, len(qs))
	for i, q := range qs {
		out[i] = kafka.TrimAnswer{LogStart: q.Offset}
		if q.Offset == -1 {
			out[i].LogStart = 42
		}
	}
	return out
}

// versions yields all versions of a request that are served.
func versions(w *world, key int16, f func(version int16)) {
	w.t.Helper()
	lo, hi, ok := w.h.Versions(key)
	if !ok {
		w.t.Fatalf("key %d is not served", key)
	}
	for v := lo; v <= hi; v++ {
		f(v)
	}
}

func text(p *string) string {
	if p == nil {
		return "<null>"
	}
	return *p
}
