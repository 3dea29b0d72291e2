// Package agent composes one Floe agent of its parts and owns every long-lived goroutine:
// it starts them, and Run returns when all of them have ended.
//
//	catalogue, agents   mirrors of topics and of who is alive        metadata/...
//	journals            views of all shards, leadership of some      metadata/journal
//	a life              session, produce pipeline, duties            life.go
//	reader              fetches and offset look-ups                  agent/fetch
//	kafka               the protocol                                 agent/kafka, protocol
//	coordinators        consumer groups and transactions             agent/coordinator, agent/group, agent/txn
//	peer                what other agents ask                        agent/peer
//
// What must exist once per process life is made in New and Run; what hangs on the
// registration in etcd is a life, and is made anew when the session is lost.
package agent

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/floelog/floe/agent/coordinator"
	"github.com/floelog/floe/agent/fetch"
	"github.com/floelog/floe/agent/group"
	"github.com/floelog/floe/agent/kafka"
	"github.com/floelog/floe/agent/peer"
	"github.com/floelog/floe/agent/txn"
	"github.com/floelog/floe/compaction/job"
	"github.com/floelog/floe/diagnosis"
	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/metadata/level"
	"github.com/floelog/floe/metadata/manifests"
	"github.com/floelog/floe/metadata/membership"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/protocol"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/cache"
	"github.com/floelog/floe/tiering/objstore"
)

// Config is what an agent needs to know. cmd/floe's table of settings explains the values.
type Config struct {
	Cluster      string // name in the metadata store
	NodeID       int32  // 0: the lowest that is free
	Advertise    string // host:port that Kafka clients are told
	RPCAdvertise string // host:port that other agents are told
	Zone         string
	NetworkRate  float64  // bytes per second that the network carries each way; 0: not known
	Roles        []string // names of membership.Role; none: all
	Version      string
	Shards       uint32 // of a cluster that does not exist yet
	LeaseTTL     time.Duration
	History      time.Duration // how long the metadata store keeps old revisions

	FormatLevel      int           // that the cluster's level rises to at most (metadata/level); 0: the newest that all agents read
	FormatLevelAfter time.Duration // for how long all agents have read a higher level before it rises

	FlushBytes  int64
	FlushAge    time.Duration
	FlushIdle   bool
	Uploads     int
	InlineMax   int
	InlineRate  float64 // bytes per second
	InlineHere  bool    // only where the shard's leader is of this agent's zone
	RollupAge   time.Duration
	RollupBytes int64
	MergeTarget int64         // bytes of a merged extent; 0: 32 MiB
	MergeAge    time.Duration // for how long what is worth merging waits for more; 0: a minute
	MergeEvery  time.Duration // how often extents are looked at; 0: a quarter of MergeAge, at most a second
	JobsRate    float64       // bytes per second that jobs may move; 0: no limit
	// ManifestExtents is how many extents move into a manifest at a time; 0: 256.
	ManifestExtents int
	CleanMemory     int64         // of the keys of a pass of log compaction; 0: 64 MiB
	CleanMinBytes   int64         // with fewer that are new, a partition is compacted from time to time only; 0: no limit
	CleanEvery      time.Duration // how often log compaction looks for work; 0: 15 seconds

	GCInterval        time.Duration // between two sweeps of the object store; 0: 10 minutes
	GCGrace           time.Duration // between the sweep that finds garbage and its deletion; below 0: none, 0: 10 minutes
	RetentionInterval time.Duration // between two looks at what topics do not keep; 0: 5 minutes

	CarryAge        time.Duration // after which records that no segment took along are stored by themselves; 0: 5 seconds
	SnapshotRecords uint64        // journal records between two snapshots of a shard; 0: the journal's default
	SnapshotAge     time.Duration // for how long a journal may hold a record that no snapshot does; 0: 5 minutes

	Kafka          kafka.Settings
	Groups         group.Settings
	Transactions   txn.Settings
	ProducerExpiry time.Duration

	RequestMemory   int64 // bytes that requests in flight may hold
	CacheBytes      int64
	CacheDiskDir    string // folder of the disk cache; empty: none
	CacheDiskBytes  int64
	MaxRequestBytes int32
	MaxConnections  int
	IdleTimeout     time.Duration
	DrainTimeout    time.Duration

	// Doubts and Certificates are what the doctor tells of that the agent does not know itself.
	Doubts       []diagnosis.Doubt
	Certificates []Certificate
}

// Certificate is one that the process uses.
type Certificate struct {
	Setting string // that names it
	Expires time.Time
}

// Parts are the components that an agent works with.
type Parts struct {
	Meta        metadata.Store
	Objects     objstore.Store // with retries and metrics around it
	Log         *slog.Logger
	Registry    prometheus.Registerer
	Gatherer    prometheus.Gatherer // of Registry, for the doctor; nil: the agent does not look at itself
	PeerTLS     *tls.Config         // of connections between agents, both ends; nil: none
	Listener    net.Listener        // for Kafka clients; nil: none, as in a simulation, see Ports
	Listeners   []Listener          // further ones; none without Listener
	RPCListener net.Listener        // for other agents; nil: they reach SequenceHere by Peers
	Peers       Peers               // nil: gRPC to the other agents' RPC addresses
	// Clients may put something between the handlers of Kafka's requests and the agent; nil: nothing.
	Clients func(kafka.Parts) kafka.Parts
	// Jobs may put something between an agent and the journals that its jobs change; the
	// numbers are those of the jobs' objects. nil: nothing.
	Jobs func(job.Journals, job.Segments) job.Journals
	// Machines may put something between an agent and the machines of its coordinators,
	// "groups" and "transactions"; nil: nothing.
	Machines func(name string, load coordinator.Load) coordinator.Load
}

// Peers asks other agents; see peer.Client. What implements BlockPeers, too, is asked for blocks.
type Peers interface {
	Sequence(ctx context.Context, addr string, id tiering.ShardID, s *shard.Submission) ([]shard.Outcome, error)
	Ask(ctx context.Context, addr string, q peer.Question) ([]byte, error)
	Close()
}

const (
	// uploadTime is how long a flush is tried to be stored, with all retries, before its
	// producers are told to try again. Longer than a store's usual trouble, shorter than the
	// 30 seconds after which most clients send the same bytes again without an answer.
	uploadTime = 25 * time.Second
	// snapshotAge is Config.SnapshotAge unless it is given.
	snapshotAge = 5 * time.Minute
	// maxControlBytes bounds a request of any API but Produce, and controlMemory what all of
	// them may hold while they are decoded and served, which can take 16 times their size.
	maxControlBytes = 1 << 20
	controlMemory   = 64 << 20
	// maxShardInline bounds the inline bytes that a shard's state may hold until its
	// roll-up, for when the object store is down: then writes wait for it.
	maxShardInline = 4 << 20
)

// Agent is one Floe agent.
type Agent struct {
	cfg       Config
	parts     Parts
	keys      metadata.Keys
	metrics   *metrics
	zoneBytes *zoneBytes
	cleaning  *cleaning
	merging   *merging
	tidying   *tidying
	balancing *balancing
	ratio     *ratio
	budget    *protocol.Budget // of produce requests
	control   *protocol.Budget // of all others, so that a slow store does not stop them
	cache     *cache.Cache
	tiers     *tiers            // of the cache
	manifests *manifests.Reader // for reads and jobs alike
	clusterID [16]byte
	node      atomic.Int32 // of the last life, 0 before the first

	catalogue  *catalogue.Catalogue
	agents     *membership.Agents
	cluster    *cluster // as clients are told
	set        *journal.Set
	placing    *placing
	sequencer  *sequencer
	questions  *questions
	reader     *fetch.Reader
	ports      kafka.Parts
	traffic    *topicTraffic
	levels     *levels      // of the formats that are written
	secret     []byte       // of the cluster's agents
	peerServer *peer.Server // nil without an RPCListener
	server     servers      // none without a Listener

	carrier carrier
	sky     *sky // over the stores
	doctor  *doctor

	past     *membership.Session  // that was lost and may still have keys; of the goroutine that lives
	current  atomic.Pointer[life] // nil while batches are refused
	refused  chan struct{}        // a client was; capacity 1
	parting  atomic.Pointer[parting]
	serving  chan struct{}
	ready    chan struct{}
	draining atomic.Bool
}

// New returns an agent that does nothing yet.
func New(cfg Config, parts Parts) (*Agent, error) {
	mergeSettings(&cfg)
	if cfg.CleanMemory == 0 {
		cfg.CleanMemory = 64 << 20
	}
	if cfg.CleanEvery == 0 {
		cfg.CleanEvery = 15 * time.Second
	}
	cfg.tidyDefaults()
	if cfg.CarryAge == 0 {
		cfg.CarryAge = 5 * time.Second
	}
	if err := cfg.checkLevel(); err != nil {
		return nil, err
	}
	cfg.Kafka.Zone = cfg.Zone
	roles, err := membership.ParseRoles(cfg.Roles)
	if err != nil {
		return nil, err
	}
	cfg.Roles = roles
	t, err := newTiers(&cfg, &parts)
	if err != nil {
		return nil, err
	}
	a := &Agent{
		cfg: cfg, parts: parts, keys: metadata.NewKeys(cfg.Cluster),
		metrics: newMetrics(parts.Registry), zoneBytes: newZoneBytes(cfg.Zone, parts.Registry), cleaning: newCleaning(parts.Registry), merging: newMerging(parts.Registry), tidying: newTidying(parts.Registry), balancing: newBalancing(parts.Registry), budget: protocol.NewBudget(cfg.RequestMemory), control: protocol.NewBudget(controlMemory), cache: t.cache, tiers: t,
		manifests: manifests.NewReader(parts.Objects, manifests.DefaultCapacity),
		serving:   make(chan struct{}), ready: make(chan struct{}), refused: make(chan struct{}, 1),
	}
	a.observeStores()
	a.doctor = newDoctor(a, parts.Gatherer, parts.Registry)
	registerState(parts.Registry, t.cache, a.budget)
	a.ratio = newRatio(&cfg, a.budget, a.control)
	a.ratio.register(parts.Registry)
	a.metrics.uploaded = func(took time.Duration) { a.ratio.uploaded.Add(int64(took)) }
	t.register(parts.Registry)
	registerManifests(parts.Registry, a.manifests)
	return a, nil
}

// Serving is closed when clients and other agents may ask this one, which is before Ready.
func (a *Agent) Serving() <-chan struct{} { return a.serving }

// Ready is closed when the agent serves and has seen a leader of every shard of the cluster.
func (a *Agent) Ready() <-chan struct{} { return a.ready }

// NodeID returns the agent's node id, once it is ready.
func (a *Agent) NodeID() int32 { return a.node.Load() }

func (a *Agent) setReady() {
	select {
	case <-a.ready:
	default:
		close(a.ready)
		a.parts.Log.Info("ready", "node", a.node.Load(), "address", a.cfg.Advertise)
	}
}

func (a *Agent) setDraining() { a.draining.Store(true) }

// Run serves until ctx ends, then drains. It returns an error if the agent cannot start
// or cannot go on.
func (a *Agent) Run(ctx context.Context) error {
	defer a.tiers.close()
	cluster, err := catalogue.Admit(ctx, a.parts.Meta, a.parts.Objects, a.keys, catalogue.Want{Shards: a.cfg.Shards, Level: level.Level(a.cfg.FormatLevel)})
	if err != nil {
		return err
	}
	if a.secret, err = catalogue.EnsureSecret(ctx, a.parts.Meta, a.keys); err != nil {
		return err
	}
	id, err := base64.RawURLEncoding.DecodeString(cluster.ID)
	if err != nil || copy(a.clusterID[:], id) != len(a.clusterID) {
		return fmt.Errorf("cluster id %q is not 22 characters of URL-safe base64", cluster.ID)
	}
	// From here on everything lives until the agent has drained, not until ctx ends.
	work, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	var tasks sync.WaitGroup
	defer tasks.Wait()
	defer stop(nil)
	task := func(what string, run func(context.Context) error) {
		tasks.Go(func() {
			if err := run(work); err != nil && work.Err() == nil {
				stop(fmt.Errorf("%s: %w", what, err))
			}
		})
	}
	if err := a.assemble(cluster); err != nil {
		return err
	}
	task("format level", a.levels.mirror.Run)
	task("topics", a.catalogue.Run)
	task("agents", a.agents.Run)
	task("who is there", a.cluster.run)
	task("weather", a.lookOut)
	task("placement of shards", a.placing.pins.Run)
	task("journals", a.set.Run)
	task("loads", a.questions.loads.run)
	task("load ratio", a.ratio.run)
	task("groups", a.questions.groups.Run)
	task("transactions", a.questions.txns.Run)
	if err := a.await(ctx, work); err != nil {
		return err
	}
	// Registered last: from then on other agents leave shards to this one.
	first, err := a.begin(ctx)
	if err != nil {
		return err
	}
	defer a.parts.Peers.Close()
	if a.peerServer != nil {
		task("serving other agents", a.servePeers)
	}
	if a.server != nil {
		task("serving Kafka clients", a.server.Serve)
	}
	task("the doctor", a.doctor.run)
	close(a.serving)
	return a.lives(ctx, work, first)
}

// lives runs one life after the other until ctx ends or something stops work.
func (a *Agent) lives(ctx, work context.Context, l *life) error {
	run, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(work, stop)()
	for {
		a.start(l)
		a.live(run, l)
		for {
			if work.Err() != nil && ctx.Err() == nil {
				return context.Cause(work)
			}
			if run.Err() != nil {
				a.storeLast(run, l, carryTimeout)
				return nil
			}
			next, err := a.begin(run)
			if err == nil {
				l = next
				break
			}
			if errors.Is(err, membership.ErrNodeIDTaken) {
				return err
			}
			a.parts.Log.Warn("registering again failed", "err", err)
			a.storeLast(run, l, lastWords) // if the object store could not take it before
			select {
			case <-time.After(sessionRetry):
			case <-run.Done():
			}
		}
	}
}

// await waits until the mirrors and the views have been filled once.
func (a *Agent) await(ctx, work context.Context) error {
	both, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(work, cancel)()
	err := a.agents.WaitRevision(both, 1)
	if err == nil {
		err = a.catalogue.WaitRevision(both, 1)
	}
	if err == nil {
		err = a.placing.pins.WaitRevision(both, 1)
	}
	if err == nil {
		select {
		case <-a.set.Loaded():
			return nil
		case <-both.Done():
			err = both.Err()
		}
	}
	if work.Err() != nil {
		return context.Cause(work)
	}
	return fmt.Errorf("reading the cluster's state: %w", err)
}

// assemble makes the parts that need the cluster and the node id, and connects them.
func (a *Agent) assemble(c catalogue.Cluster) error {
	log := a.parts.Log
	a.levels = newLevels(a, level.Level(c.FormatVersion))
	if err := a.registerLevel(); err != nil {
		return fmt.Errorf("registering the metrics of the format level: %w", err)
	}
	a.catalogue = catalogue.New(a.parts.Meta, a.keys, c, catalogue.Config{Log: log})
	a.agents = membership.NewAgents(a.parts.Meta, a.keys, membership.AgentsConfig{Log: log})
	a.set = journal.New(journal.Config{Keys: a.keys, Shards: c.Shards, SnapshotRecords: a.cfg.SnapshotRecords, SnapshotAge: cmp.Or(a.cfg.SnapshotAge, snapshotAge)}, journal.Parts{
		Store: a.parts.Meta, Objects: a.parts.Objects, Log: log, Now: time.Now, Nonce: nonce, Observe: yielding{watchedJournals{troubled{a.metrics, &a.carrier}, a.doctor}, &a.reader},
		Committed:     a.carrier.committed,
		RecordVersion: func() byte { return a.levels.formats().Record },
		Applied:       func(id tiering.ShardID, rec *shard.Record) { a.reader.Applied(id, rec) },
	})
	a.reader = fetch.NewReader(fetch.Config{}, fetch.Parts{Views: a.set, Cache: a.cache, Manifests: a.manifests, Observe: a.metrics, Now: time.Now})
	if a.parts.Peers == nil {
		a.parts.Peers = peer.NewClient(a.identity(c))
	}
	a.parts.Peers = a.zoneBytes.over(a.parts.Peers, a.agents)
	a.tiers.connect(&a.node, a.agents, a.parts.Peers)
	loads := newShardLoads(a.set)
	a.placing = &placing{set: a.set, agents: a.agents, pins: membership.NewPlacement(a.parts.Meta, a.keys, membership.AgentsConfig{Log: log})}
	if err := errors.Join(registerLoads(a.parts.Registry, loads, a.placing.pins), registerBacklog(a.parts.Registry, a.set), registerStopped(a.parts.Registry, a.set)); err != nil {
		return fmt.Errorf("registering the metrics of placement: %w", err)
	}
	a.sequencer = &sequencer{loads: loads, self: &a.node, set: a.set, agents: a.agents, topics: a.catalogue, peers: a.parts.Peers}
	a.cluster = &cluster{self: &a.node, cluster: c, set: a.set, agents: a.agents, now: time.Now}
	a.ports = kafka.Parts{
		Topics: a.catalogue, Changes: a.catalogue,
		Cluster:     a.cluster,
		Producer:    &producer{set: a.set, current: &a.current, refused: a.refused, parting: &a.parting},
		Reader:      reader{r: a.reader, refused: a.refused, parting: &a.parting},
		Offsets:     offsets{r: a.reader, set: a.set},
		Records:     trimmer{set: a.set},
		ProducerIDs: catalogue.NewProducerIDs(a.parts.Meta, a.keys),
	}
	a.traffic = newTopicTraffic(a.catalogue, a.set)
	if err := a.parts.Registry.Register(a.traffic); err != nil {
		return fmt.Errorf("registering the metrics of topics: %w", err)
	}
	a.ports.Traffic, a.ports.Zones = a.traffic, a.zoneBytes
	a.ports.Pressure = a.sky
	a.ports.Producer = watchedProducer{a.ports.Producer, a.doctor.busiest}
	if err := a.coordinate(); err != nil {
		return err
	}
	a.questions.loads = loads
	a.ports.Groups = watchedGroups{a.ports.Groups, a.doctor.busiest}
	if a.parts.RPCListener != nil {
		a.peerServer = peer.NewServer(a, a, peer.Guard{Identity: a.identity(c), Demand: a.levels.tokens, Refused: a.levels.refused})
	}
	if a.parts.Listener == nil {
		return nil
	}
	ports := a.ports
	if a.parts.Clients != nil {
		ports = a.parts.Clients(ports)
	}
	handler, err := kafka.New(ports, kafka.Config{Settings: a.cfg.Kafka, Now: time.Now, Random: rand.Reader})
	if err != nil {
		return err
	}
	a.server, err = a.newServers(handler)
	return err
}

// Ports returns what the Kafka handlers are given, once the agent serves: the way in for
// a simulation, which has no network.
func (a *Agent) Ports() kafka.Parts { return a.ports }

// ReadShard calls f with this agent's view of a shard, once the agent serves. The state
// must not be kept or changed.
func (a *Agent) ReadShard(id tiering.ShardID, f func(*shard.State)) { a.set.View(id).Read(f) }

// SequenceHere commits a submission on a shard that this agent leads, for other agents.
func (a *Agent) SequenceHere(ctx context.Context, id tiering.ShardID, s *shard.Submission) ([]shard.Outcome, error) {
	return a.sequencer.SequenceHere(ctx, id, s)
}

// nonce draws a random number.
func nonce() uint64 {
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		panic(errors.Join(errors.New("the system gives no random numbers"), err))
	}
	return binary.LittleEndian.Uint64(b[:])
}
