package sim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/floelog/floe/agent"
	"github.com/floelog/floe/agent/coordinator"
	"github.com/floelog/floe/agent/kafka"
	metamemory "github.com/floelog/floe/metadata/memory"
	"github.com/floelog/floe/tiering/objstore"
	"github.com/floelog/floe/tiering/objstore/faults"
)

var (
	errCrashed     = errors.New("the process is gone")
	errUnreachable = errors.New("nobody answers there")
)

// gate stands between a process and the rest of the world: open, paused as by SIGSTOP, or
// dead. What passes it was sent before, or arrives after, as a whole.
type gate struct {
	mu      sync.Mutex
	paused  bool
	dead    bool
	changed chan struct{}
}

func newGate() *gate { return &gate{changed: make(chan struct{})} }

func (g *gate) set(change func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change()
	close(g.changed)
	g.changed = make(chan struct{})
}

// pass waits while the process is paused.
func (g *gate) pass(ctx context.Context) error {
	for {
		g.mu.Lock()
		paused, dead, changed := g.paused, g.dead, g.changed
		g.mu.Unlock()
		switch {
		case dead:
			return errCrashed
		case !paused:
			return ctx.Err()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (g *gate) isDead() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.dead
}

// node is a machine on which one agent runs after the other.
type node struct {
	w  *world
	id int32

	mu      sync.Mutex // guards the following
	current *process   // nil between two
	all     []*process
}

// process is one run of an agent.
type process struct {
	node    *node
	name    string
	life    int
	metrics registry
	meta    *metamemory.Client
	faults  *faults.Store
	gate    *gate
	agent   *agent.Agent
	stop    context.CancelFunc
	ended   chan struct{} // closed when Run has returned
	err     error         // of Run, after ended

	once     sync.Once // fills in the following
	producer kafka.Producer
	reader   kafka.Reader
	groups   kafka.Groups
	txns     kafka.Transactions
}

func (n *node) addr() string { return fmt.Sprintf("agent-%d:9094", n.id) }

// running returns the current process, or nil.
func (n *node) running() *process {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.current
}

// serving returns the current process if clients can reach it.
func (n *node) serving() *process {
	p := n.running()
	if p == nil || p.gate.isDead() {
		return nil
	}
	select {
	case <-p.agent.Serving():
		return p
	default:
		return nil
	}
}

func (p *process) ports() kafka.Parts { return p.agent.Ports() }

// start runs a new agent on the node, unless one runs there.
func (n *node) start() {
	w := n.w
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.current != nil {
		return
	}
	p := &process{node: n, life: len(n.all) + 1, gate: newGate(), ended: make(chan struct{})}
	p.name = fmt.Sprintf("agent%d.%d", n.id, p.life)
	rnd := w.rand(p.name)
	p.meta = w.server.Client(p.name)
	p.faults = faults.New(w.raw, w.rand(p.name+" store"), w.storePlan())
	p.meta.Inject(w.metaFaults(), w.rand(p.name+" meta"))
	meta, objects := w.plant.meta(w, p, p.meta), w.plant.objects(w, p, &gatedStore{p.faults, p.gate})
	var machines func(string, coordinator.Load) coordinator.Load
	if wrap := w.plant.wrapMachines; wrap != nil {
		machines = func(name string, load coordinator.Load) coordinator.Load { return wrap(w, p, name, load) }
	}
	a, err := agent.New(w.agentConfig(n.id), agent.Parts{
		Meta: meta, Objects: objstore.Retry(objects, rnd, objstore.RetryConfig{}),
		Log: slog.New(&agentLog{h: w.history, who: p.name}), Registry: &p.metrics,
		Machines: machines, Jobs: w.plant.jobs(w, p),
		Peers: w.plant.peers(w, p, &link{w.net, p, w.rand(p.name + " link")}),
	})
	if err != nil {
		w.fail("setup", nil, "agent %d cannot be made: %v", n.id, err)
		return
	}
	p.agent = a
	ctx, cancel := context.WithCancel(context.Background())
	p.stop = cancel
	n.current, n.all = p, append(n.all, p)
	w.history.add(p.name, "start", nil, "")
	w.tasks.Go(func() {
		p.err = a.Run(ctx)
		w.history.add(p.name, "ended", nil, "%v", p.err)
		close(p.ended)
		n.mu.Lock()
		if n.current == p {
			n.current = nil
		}
		n.mu.Unlock()
		if p.err != nil && ctx.Err() == nil && !p.gate.isDead() {
			w.ended(p)
		}
	})
}

// crash ends the current process as kill -9 does: nothing leaves or reaches it any more.
// What it does inside meanwhile is seen by nobody.
func (n *node) crash() {
	n.mu.Lock()
	p := n.current
	n.current = nil
	n.mu.Unlock()
	if p == nil {
		return
	}
	n.w.history.add(p.name, "crash", nil, "")
	p.gate.set(func() { p.gate.dead = true })
	p.meta.Partition()
	p.meta.Resume()
	p.stop()
}

// terminate ends the current process as SIGTERM does: it drains.
func (n *node) terminate() *process {
	n.mu.Lock()
	p := n.current
	n.current = nil
	n.mu.Unlock()
	if p != nil {
		n.w.history.add(p.name, "terminate", nil, "")
		p.stop()
	}
	return p
}

func (p *process) pause() {
	p.node.w.history.add(p.name, "pause", nil, "")
	p.gate.set(func() { p.gate.paused = true })
	p.meta.Pause()
}

func (p *process) resume() {
	p.node.w.history.add(p.name, "resume", nil, "")
	p.gate.set(func() { p.gate.paused = false })
	p.meta.Resume()
}

// agentConfig is the seed's, for one node.
func (w *world) agentConfig(id int32) agent.Config {
	c := w.config
	c.NodeID = id
	c.Advertise = fmt.Sprintf("agent-%d:9092", id)
	c.RPCAdvertise = fmt.Sprintf("agent-%d:9094", id)
	return c
}

// gatedStore is an object store as a process reaches it.
type gatedStore struct {
	inner objstore.Store
	gate  *gate
}

func (s *gatedStore) through(ctx context.Context, call func() error) error {
	if err := s.gate.pass(ctx); err != nil {
		return err
	}
	err := call()
	if gateErr := s.gate.pass(ctx); gateErr != nil {
		return gateErr
	}
	return err
}

func (s *gatedStore) Put(ctx context.Context, key string, body objstore.Body) error {
	return s.through(ctx, func() error { return s.inner.Put(ctx, key, body) })
}

func (s *gatedStore) GetRange(ctx context.Context, key string, off, n int64) (data []byte, err error) {
	err = s.through(ctx, func() (err error) { data, err = s.inner.GetRange(ctx, key, off, n); return err })
	return data, err
}

func (s *gatedStore) GetUpTo(ctx context.Context, key string, off, n int64) (data objstore.Body, size int64, err error) {
	err = s.through(ctx, func() (err error) { data, size, err = s.inner.GetUpTo(ctx, key, off, n); return err })
	return data, size, err
}

func (s *gatedStore) Head(ctx context.Context, key string) (info objstore.Info, err error) {
	err = s.through(ctx, func() (err error) { info, err = s.inner.Head(ctx, key); return err })
	return info, err
}

func (s *gatedStore) List(ctx context.Context, prefix, after string, limit int) (infos []objstore.Info, err error) {
	err = s.through(ctx, func() (err error) { infos, err = s.inner.List(ctx, prefix, after, limit); return err })
	return infos, err
}

func (s *gatedStore) Delete(ctx context.Context, keys ...string) error {
	return s.through(ctx, func() error { return s.inner.Delete(ctx, keys...) })
}

func (s *gatedStore) String() string { return s.inner.String() }

// registry keeps what it is given and looks at it when it is asked: registering a hundred
// metrics in earnest would cost more than the rest of an agent's start.
type registry struct {
	mu         sync.Mutex
	collectors []prometheus.Collector
}

func (r *registry) Register(c prometheus.Collector) error {
	r.MustRegister(c)
	return nil
}

func (r *registry) MustRegister(cs ...prometheus.Collector) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.collectors = append(r.collectors, cs...)
}

func (r *registry) Unregister(prometheus.Collector) bool { return false }

// gauges reads those metrics that are read from elsewhere when they are asked for.
func (r *registry) gauges() (map[string]float64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	asked := prometheus.NewPedanticRegistry()
	for _, c := range r.collectors {
		if g, ok := c.(prometheus.GaugeFunc); ok {
			if err := asked.Register(g); err != nil {
				return nil, err
			}
		}
	}
	families, err := asked.Gather()
	out := map[string]float64{}
	for _, f := range families {
		out[f.GetName()] = f.GetMetric()[0].GetGauge().GetValue()
	}
	return out, err
}

// sleep waits for d of virtual time and reports whether ctx still lives.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
