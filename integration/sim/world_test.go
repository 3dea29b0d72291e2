package sim

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"hash/maphash"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/floelog/floe/agent"
	"github.com/floelog/floe/agent/group"
	"github.com/floelog/floe/agent/txn"
	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/metadata/membership"
	metamemory "github.com/floelog/floe/metadata/memory"
	"github.com/floelog/floe/tiering"
	objmemory "github.com/floelog/floe/tiering/objstore/memory"
)

const (
	leaseTTL    = 3 * time.Second
	clusterName = "sim"

	// healTime is how long producers may take to finish once everything is healed: an
	// upload is tried for a minute, and a lease must have ended before that.
	healTime = 150 * time.Second
)

// digestSeed makes the digests of batches; they never leave the process.
var digestSeed = maphash.MakeSeed()

// partition is one partition of the workload.
type partition struct {
	tiering.TopicPartition
	shard tiering.ShardID
	topic string
	name  string
	keeps *keeping
	gone  atomic.Bool  // its topic is being deleted: no client cares any more
	asked atomic.Int64 // greatest log start that an operator asked for
}

// world is the cluster of one seed.
type world struct {
	seed    uint64
	plant   plant
	config  agent.Config
	shape   shape
	mix     mix
	start   time.Time
	keys    metadata.Keys
	server  *metamemory.Server
	raw     *bucket
	net     *network
	nodes   []*node
	history *history
	audit   *auditor

	tasks   sync.WaitGroup // everything that runs besides the seed's own goroutine
	zombies sync.WaitGroup // requests that are still to be delivered once more
	ticks   atomic.Int64
	live    context.Context // ends when the cluster is torn down
	end     context.CancelFunc

	mu          sync.Mutex // guards the following
	partitions  []*partition
	sent        map[uint64]*sent // by digest
	polls       []poll
	lists       []listed
	trims       []trimmed
	deleted     map[tiering.TopicID]bool // topics whose deletion was confirmed
	producers   []*producer
	txns        []*clientTxn
	identities  []identity
	tries       []*commitTry
	triesByName map[string]*commitTry
	fetches     []offsetFetch
	finals      []*consumer // that have read all that is committed, in the end
	members     []*member
	groups      []*groupWorld
	told        []toldEpoch
	violations  []violation
	healed      bool
	crashed     map[string]int // what the nemesis did, for the sums at the end
}

// violation is an invariant that did not hold.
type violation struct {
	invariant string
	part      *partition
	text      string
}

// maxViolations is how many are kept: what follows the first is mostly its echo.
const maxViolations = 8

func (w *world) fail(invariant string, part *partition, format string, args ...any) {
	w.history.add("checker", violationEvent, part, invariant+": "+format, args...)
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.violations) < maxViolations {
		w.violations = append(w.violations, violation{invariant, part, fmt.Sprintf(format, args...)})
	}
}

// rand returns the seed's random source for one purpose.
func (w *world) rand(purpose string) *rand.Rand {
	h := fnv.New64a()
	h.Write([]byte(purpose))
	return rand.New(rand.NewPCG(w.seed, h.Sum64()))
}

// shape is the size of a seed's workload.
type shape struct {
	topics, partitions    int
	idempotent, plain     int
	batches               int // of each producer
	consumers             int
	minBatch, maxBatch    int // bytes
	think                 time.Duration
	faultTime             time.Duration
	trims, bumps, topicOp bool
	compact               bool // at least one topic is
	txns                  int  // transactional ids
	classic, consumer     int  // members of a group of either protocol
	committers            int  // clients that commit offsets on their own account
}

// newWorld draws the cluster of a seed. It must be called inside the seed's bubble.
func newWorld(seed uint64, p plant) *world {
	w := &world{
		seed: seed, plant: p, start: time.Now(), keys: metadata.NewKeys(clusterName),
		server: metamemory.New(),
		sent:   map[uint64]*sent{}, crashed: map[string]int{}, deleted: map[tiering.TopicID]bool{},
		triesByName: map[string]*commitTry{},
	}
	w.history = &history{start: w.start}
	w.raw = &bucket{Store: objmemory.New(), w: w, rnd: w.rand("lists")}
	w.live, w.end = context.WithCancel(context.Background())
	r := w.rand("world")
	w.net = &network{w: w, blocked: map[[2]int32]bool{}, fired: map[string]int{}}
	w.shape = shape{
		topics: 1 + r.IntN(2), partitions: 1 + r.IntN(3),
		idempotent: 2 + r.IntN(2), plain: 1 + r.IntN(2), batches: 25 + r.IntN(30), consumers: 2,
		minBatch: 100, maxBatch: pick(r, 400, 2000, 6000), think: pick(r, 20*time.Millisecond, 200*time.Millisecond, time.Second),
		faultTime: pick(r, 10*time.Second, 20*time.Second, 30*time.Second),
		trims:     r.IntN(2) == 0, bumps: r.IntN(2) == 0, topicOp: r.IntN(3) == 0,
	}
	w.config = agent.Config{
		Cluster: clusterName, Version: "sim", Shards: uint32(1 + r.IntN(4)), LeaseTTL: leaseTTL,
		History:    pick(r, 2*time.Second, 10*time.Second, 60*time.Second),
		FlushBytes: pick(r, int64(4<<10), 64<<10), FlushAge: pick(r, 5*time.Millisecond, 100*time.Millisecond),
		FlushIdle: r.IntN(2) == 0, Uploads: 1 + r.IntN(4),
		InlineMax: pick(r, 0, 600, 4<<10, 16<<10), InlineRate: pick(r, 4096.0, 1048576),
		RollupAge: pick(r, time.Second, 5*time.Second, 30*time.Second), RollupBytes: pick(r, int64(4<<10), 1<<20),
		SnapshotRecords: pick(r, uint64(3), 15, 50, 2000),
		Groups:          group.DefaultSettings(), Transactions: txn.DefaultSettings(),
		ProducerExpiry: time.Hour, RequestMemory: 64 << 20, CacheBytes: 8 << 20,
		DrainTimeout: 3 * time.Second,
	}
	w.coordination(w.rand("coordination"))
	w.tiers(w.rand("tiers"))
	w.mix = newMix(w.rand("mix"))
	if p.tune != nil {
		p.tune(w)
	}
	for i := range pick(r, 1, 2, 3, 3, 3, 4) {
		w.nodes = append(w.nodes, &node{w: w, id: int32(i + 1)})
	}
	return w
}

// coordination draws how transactions and groups are used.
func (w *world) coordination(r *rand.Rand) {
	if r.IntN(3) > 0 {
		w.shape.txns = 2 + r.IntN(2)
		// What is read by all the world is written by fewer producers of other kinds.
		w.shape.idempotent, w.shape.plain, w.shape.batches = 1, r.IntN(2), w.shape.batches/2
	}
	if r.IntN(3) > 0 {
		w.shape.committers = 1 + r.IntN(2)
	}
	if r.IntN(3) == 0 {
		w.shape.classic = 2 + r.IntN(2)
	}
	if r.IntN(3) == 0 {
		w.shape.consumer = 2 + r.IntN(2)
	}
	g := &w.config.Groups
	g.InitialRebalanceDelay = pick(r, 0, 500*time.Millisecond)
	g.MinSessionTimeout = time.Second
	g.MinConsumerSessionTimeout, g.ConsumerSessionTimeout = time.Second, sessionTimeout
	g.MinConsumerHeartbeatInterval, g.ConsumerHeartbeatInterval = 500*time.Millisecond, time.Second
}

func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

// anyNode returns a node, whatever its state.
func (w *world) anyNode(r *rand.Rand) *node { return w.nodes[r.IntN(len(w.nodes))] }

func (w *world) nodeAt(addr string) *node {
	for _, n := range w.nodes {
		if n.addr() == addr {
			return n
		}
	}
	return nil
}

// ended is told of an agent that ended by itself.
func (w *world) ended(p *process) {
	if !errors.Is(p.err, membership.ErrNodeIDTaken) {
		w.fail("liveness", nil, "%s ended by itself: %v", p.name, p.err)
		return
	}
	// As a supervisor does: the lease of the one before was extended once more.
	if sleep(w.live, time.Second) {
		p.node.start()
	}
}

// awaitReady waits until every running agent serves.
func (w *world) awaitReady(limit time.Duration) bool {
	deadline := time.After(limit)
	for _, n := range w.nodes {
		p := n.running()
		if p == nil {
			continue
		}
		select {
		case <-p.agent.Ready():
		case <-p.ended:
		case <-deadline:
			return false
		}
	}
	return true
}

// createTopics makes the seed's topics, in good time: of a planted bug all agents may end.
func (w *world) createTopics() bool {
	ctx, cancel := context.WithTimeout(w.live, 2*time.Minute)
	defer cancel()
	for i := range w.shape.topics {
		if !w.createTopic(ctx, fmt.Sprintf("t%d", i), int32(w.shape.partitions)) {
			return false
		}
	}
	return true
}

// createTopic asks agents until one has created the topic, or ctx ends.
func (w *world) createTopic(ctx context.Context, name string, partitions int32) bool {
	r := w.rand("create " + name)
	for ; ctx.Err() == nil; sleep(ctx, 100*time.Millisecond) {
		p := w.anyNode(r).serving()
		if p == nil {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := w.tryCreateTopic(ctx, p, name, partitions)
		cancel()
		if err == nil {
			return true
		}
	}
	return false
}

func (w *world) tryCreateTopic(ctx context.Context, p *process, name string, partitions int32) error {
	if err := p.gate.pass(ctx); err != nil {
		return err
	}
	keeps := w.keep(name)
	c := p.ports().Changes.Create(ctx, []catalogue.NewTopic{{
		Name: name, Partitions: partitions, ReplicationFactor: 1, Configs: keeps.configs(w.rand("other configs " + name)),
	}})[0]
	topic, err := c.Topic, c.Err
	if errors.Is(err, catalogue.ErrTopicExists) {
		topic, err = p.ports().Topics.Find(ctx, name)
	}
	if gateErr := p.gate.pass(ctx); gateErr != nil {
		return gateErr
	}
	if err != nil {
		return err
	}
	w.history.add(p.name, "topic", nil, "%s: %s on shard %d, %v", name, topic.ID, topic.FirstShard, keeps)
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range partitions {
		w.partitions = append(w.partitions, &partition{
			TopicPartition: tiering.TopicPartition{Topic: topic.ID, Partition: i},
			shard:          tiering.ShardOf(topic.FirstShard, i, w.config.Shards),
			topic:          name,
			keeps:          keeps,
			name:           fmt.Sprintf("%s-%d", name, i),
		})
	}
	return nil
}

// deleteTopic lets all clients forget a topic, and then asks agents until one has deleted it.
func (w *world) deleteTopic(ctx context.Context, name string, r *rand.Rand) {
	var id tiering.TopicID
	for _, p := range w.known() {
		if p.topic == name {
			p.gone.Store(true)
			id = p.Topic
		}
	}
	for ; ctx.Err() == nil; sleep(ctx, 100*time.Millisecond) {
		p := w.anyNode(r).serving()
		if p == nil || p.gate.pass(ctx) != nil {
			continue
		}
		try, cancel := context.WithTimeout(ctx, 5*time.Second)
		_, err := p.ports().Changes.DeleteByID(try, id)
		cancel()
		if p.gate.pass(ctx) == nil && (err == nil || errors.Is(err, catalogue.ErrTopicNotFound)) {
			w.history.add(p.name, "deleted", nil, "%s", name)
			w.mu.Lock()
			w.deleted[id] = true
			w.mu.Unlock()
			return
		}
	}
}

// known returns the partitions that exist, as far as clients know.
func (w *world) known() []*partition {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := make([]*partition, 0, len(w.partitions))
	for _, p := range w.partitions {
		if !p.gone.Load() {
			out = append(out, p)
		}
	}
	return out
}

func (w *world) find(tp tiering.TopicPartition) *partition {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.partitions {
		if p.TopicPartition == tp {
			return p
		}
	}
	return nil
}
