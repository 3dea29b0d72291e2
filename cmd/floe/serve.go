package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/floelog/floe/agent"
	"github.com/floelog/floe/agent/admin"
	"github.com/floelog/floe/cmd/floe/planted"
	"github.com/floelog/floe/cmd/floe/settings"
	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/tiering/objstore"
)

// node is a running agent as this package needs it.
type node interface {
	Run(ctx context.Context) error // until ctx ends and the agent has drained
	Ready() <-chan struct{}        // closed when the agent serves
	Health() error                 // nil while clients should be sent here
}

// examiner is a node that knows what all agents of the cluster say of themselves.
type examiner interface {
	Doctor(ctx context.Context) ([]byte, error) // a diagnosis.Report as JSON
}

// identity is what tells the agents of one process apart.
type identity struct {
	nodeID    int
	advertise string // HOST:PORT for clients
	rpc       string // HOST:PORT for other agents
}

// parts are what an agent is built from.
type parts struct {
	meta     metadata.Store
	objects  objstore.Store
	log      *slog.Logger
	registry *prometheus.Registry
	kafka    net.Listener
	further  []agent.Listener // for Kafka clients
	rpc      net.Listener
	plant    planted.Plant
}

// member is one agent of the process with its side door.
type member struct {
	node  node
	admin *admin.Server // nil: none
	parts parts
	addr  string
}

// serve runs the agents of the process until ctx ends and they have drained, or one of
// them fails, which ends all. ready is called when all of them serve.
func serve(ctx context.Context, p process, s *settings.Settings, log *slog.Logger, stores func(i int) metadata.Store, driver objstore.Store, ready func([]*member)) error {
	limitMemory(p, s)
	var members []*member
	for i := range s.Agents {
		m, err := newMember(ctx, p, s, log, stores(i), driver, i)
		if err != nil {
			for _, m := range members {
				err = errors.Join(err, m.closeListeners())
			}
			return err
		}
		members = append(members, m)
	}
	return runMembers(ctx, log, members, ready)
}

// limitMemory sets the runtime's soft limit from the budgets, unless GOMEMLIMIT is set. A
// store in memory is outside of them, and would keep the collector busy beyond the limit.
func limitMemory(p process, s *settings.Settings) {
	if strings.HasPrefix(s.Store, "memory:") {
		return
	}
	for _, kv := range p.environ {
		if strings.HasPrefix(kv, "GOMEMLIMIT=") {
			return
		}
	}
	debug.SetMemoryLimit(s.MemoryLimit() * int64(s.Agents))
}

// newMember opens the listeners of agent i and builds it.
func newMember(ctx context.Context, p process, s *settings.Settings, log *slog.Logger, meta metadata.Store, driver objstore.Store, i int) (_ *member, err error) {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	objects, err := dress(driver, reg)
	if err != nil {
		return nil, err
	}
	if s.Agents > 1 {
		log = log.With("agent", i+1)
	}
	m := &member{parts: parts{meta: meta, objects: objects, log: log, registry: reg, plant: p.plant}}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.closeListeners())
		}
	}()
	if m.parts.kafka, err = listen(ctx, "addr", consecutive(s.Addr, i)); err != nil {
		return nil, err
	}
	if m.parts.rpc, err = listen(ctx, "rpc-addr", s.RPCAddr); err != nil {
		return nil, err
	}
	for _, l := range s.Listeners {
		nl, err := listen(ctx, "listener", consecutive(l.Addr, i))
		if err != nil {
			return nil, err
		}
		m.parts.further = append(m.parts.further, agent.Listener{Name: l.Name, Advertise: bound(consecutive(l.Advertise, i), nl), Listener: nl})
	}
	id := identity{nodeID: s.NodeID}
	if s.NodeID > 0 {
		id.nodeID += i
	}
	id.advertise = bound(consecutive(s.Advertise, i), m.parts.kafka)
	host, _, _ := net.SplitHostPort(s.Advertise) // was validated
	id.rpc = bound(cmp.Or(s.RPCAdvertise, net.JoinHostPort(host, "0")), m.parts.rpc)
	m.addr = id.advertise
	if m.node, err = p.newNode(s, id, m.parts); err != nil {
		return nil, err
	}
	registerReady(reg, m.node)
	if s.AdminAddr == "" {
		return m, nil
	}
	l, err := admin.Listen(ctx, consecutive(s.AdminAddr, i), s.AdminInsecure)
	if err != nil {
		return nil, listenError("admin-addr", consecutive(s.AdminAddr, i), err)
	}
	cfg := admin.Config{Gatherer: reg, Ready: m.node.Health, Log: log}
	if d, ok := m.node.(interface{ Degraded() []string }); ok {
		cfg.Degraded = d.Degraded
	}
	if d, ok := m.node.(examiner); ok {
		cfg.Doctor = d.Doctor
	}
	m.admin = admin.New(cfg, l)
	return m, nil
}

// registerReady exposes as a metric what /readyz says, for monitors that only scrape.
func registerReady(reg *prometheus.Registry, n node) {
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "floe_ready", Help: "1 while clients should be sent to this agent; /readyz says why not.",
	}, func() float64 {
		if n.Health() != nil {
			return 0
		}
		return 1
	}))
}

func (m *member) closeListeners() error {
	var errs []error
	all := []net.Listener{m.parts.kafka, m.parts.rpc}
	for _, l := range m.parts.further {
		all = append(all, l.Listener)
	}
	for _, l := range all {
		if l != nil {
			if err := l.Close(); !errors.Is(err, net.ErrClosed) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// runMembers runs the agents and their side doors. The doors stay open while the agents
// drain, so that /readyz says what is going on.
func runMembers(ctx context.Context, log *slog.Logger, members []*member, ready func([]*member)) error {
	agentsCtx, stopAgents := context.WithCancel(ctx)
	defer stopAgents()
	doorsCtx, stopDoors := context.WithCancel(context.WithoutCancel(ctx))
	defer stopDoors()

	var doors, agents sync.WaitGroup
	errs := make([]error, len(members))
	for i, m := range members {
		if m.admin != nil {
			doors.Go(func() {
				if err := m.admin.Run(doorsCtx); err != nil {
					log.Error("the admin server has ended, the agent goes on", "err", err)
				}
			})
		}
		agents.Go(func() {
			defer stopAgents() // one that ends takes the others with it
			if errs[i] = m.node.Run(agentsCtx); errs[i] == nil && ctx.Err() == nil && agentsCtx.Err() == nil {
				errs[i] = fmt.Errorf("agent on %s: ended without a reason", m.addr)
			}
		})
	}
	allReady := true
	for _, m := range members {
		select {
		case <-m.node.Ready():
		case <-agentsCtx.Done():
			allReady = false
		}
	}
	if allReady {
		ready(members)
	}
	agents.Wait()
	stopDoors()
	doors.Wait()
	return errors.Join(errs...)
}

// consecutive returns the address i ports further; port 0 stays.
func consecutive(addr string, i int) string {
	host, port, err := net.SplitHostPort(addr)
	n, convErr := strconv.Atoi(port)
	if err != nil || convErr != nil || n == 0 {
		return addr // was validated
	}
	return net.JoinHostPort(host, strconv.Itoa(n+i))
}

// bound replaces port 0 in addr by the port that l has got.
func bound(addr string, l net.Listener) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || port != "0" {
		return addr
	}
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return net.JoinHostPort(host, port)
}

func listen(ctx context.Context, setting, addr string) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, listenError(setting, addr, err)
	}
	return l, nil
}

func listenError(setting, addr string, err error) error {
	var cause syscall.Errno
	switch {
	case errors.Is(err, admin.ErrExposed):
		return fmt.Errorf("%s: %s %w (use 127.0.0.1, or set admin-insecure if a network policy protects it)", setting, addr, admin.ErrExposed)
	case errors.As(err, &cause) && cause == syscall.EADDRINUSE:
		return fmt.Errorf("%s: %s is in use by another process (stop it, or give another --%s)", setting, addr, setting)
	case errors.As(err, &cause):
		return fmt.Errorf("%s: cannot listen on %s: %w (give an address of this machine)", setting, addr, cause)
	}
	return fmt.Errorf("%s: cannot listen on %s: %w", setting, addr, err)
}
