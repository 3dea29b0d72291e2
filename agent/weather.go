package agent

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/floelog/floe/agent/peer"
	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/health"
	"github.com/floelog/floe/protocol"
	"github.com/floelog/floe/tiering/objstore"
	"github.com/floelog/floe/tiering/weather"
)

// sky is what an agent knows of its stores: it shows them, and holds producers back when what
// they send can go nowhere.
type sky struct {
	objects interface { // nil: they are not observed
		Weather() []weather.Condition
		Loads() []objstore.Load
	}
	meta      *health.Store
	budget    *protocol.Budget // of produce requests
	unserved  func() bool      // between two sessions
	shedding  atomic.Bool
	elsewhere atomic.Bool // this agent has no session, and others do
	glanced   atomic.Pointer[glance]
}

const (
	// shedFrom and shedUntil are the parts of the memory for produce requests between which an agent
	// whose stores are down refuses what it would have to keep. Less: what could have been stored
	// at the end of the outage is sent again. More: no memory is left to read what small
	// requests can be committed inline. They differ, so that what is refused is refused for a while:
	// a producer's batches that are refused and taken in turn arrive out of order.
	shedFrom, shedUntil = 0.5, 0.35
	// throttleFrom is the part of that memory from which on producers are told to wait while a store is
	// in trouble, and throttleFull while none is.
	throttleFrom, throttleFull = 0.2, 0.75
	// maxProduceThrottle is the longest wait that producers are told. Shorter: they come back before
	// anything has changed. Longer: the end of the trouble goes unnoticed by them.
	maxProduceThrottle = 2 * time.Second
	// sessionThrottle is that between two sessions, when nothing is taken.
	sessionThrottle = 500 * time.Millisecond
)

// observeStores puts the observers around the stores.
func (a *Agent) observeStores() {
	meta := health.Observe(a.parts.Meta, time.Now)
	a.parts.Meta = meta
	a.sky = &sky{meta: meta, budget: a.budget, unserved: func() bool { return a.current.Load() == nil && !a.draining.Load() }}
	if o, ok := a.parts.Objects.(*objstore.Weathered); ok {
		a.sky.objects = o
	}
	a.parts.Registry.MustRegister(a.sky)
}

// conditions are those of both stores.
func (s *sky) conditions() []weather.Condition {
	all := s.meta.Weather()
	if s.objects != nil {
		all = append(s.objects.Weather(), all...)
	}
	return all
}

// glanceEvery is how old what produce requests go by may be: looking costs each of them a few locks.
const glanceEvery = 20 * time.Millisecond

// glance is the state of both stores' writes at a time.
type glance struct {
	at            time.Time
	objects, meta weather.State
}

// writes returns the state of PUTs and that of the metadata store, as of a moment ago.
func (s *sky) writes() (objects, meta weather.State) {
	now := time.Now()
	g := s.glanced.Load()
	if g == nil || now.Sub(g.at) > glanceEvery {
		g = &glance{at: now}
		g.objects, g.meta = s.look()
		s.glanced.Store(g)
	}
	return g.objects, g.meta
}

func (s *sky) look() (objects, meta weather.State) {
	if s.objects != nil {
		for _, c := range s.objects.Weather() {
			if c.Kind == "put" {
				objects = c.State
			}
		}
	}
	for _, c := range s.meta.Weather() {
		meta = max(meta, c.State) // who cannot read cannot write
	}
	return objects, meta
}

// StoreDown reports whether nothing can be stored in the object store at the moment.
func (s *sky) StoreDown() bool {
	objects, _ := s.writes()
	return objects.Bad()
}

// Shed reports whether batches that would have to be kept are to be refused.
func (s *sky) Shed() bool {
	objects, meta := s.writes()
	if !objects.Bad() && !meta.Bad() {
		s.shedding.Store(false)
		return false
	}
	switch fill := s.fill(); {
	case fill >= shedFrom:
		s.shedding.Store(true)
	case fill < shedUntil:
		s.shedding.Store(false)
	}
	return s.shedding.Load()
}

// fill is the part of the memory for produce requests that is in use.
func (s *sky) fill() float64 { return float64(s.budget.InUse()) / float64(max(s.budget.Size(), 1)) }

// Throttle implements kafka.Pressure.
func (s *sky) Throttle() time.Duration {
	if s.unserved() {
		return sessionThrottle
	}
	from := throttleFull
	if objects, meta := s.writes(); objects.Bad() || meta.Bad() || objects == weather.Throttled {
		from = throttleFrom
	}
	over := (s.fill() - from) / (1 - from)
	if over <= 0 {
		return 0
	}
	return time.Duration(min(over, 1) * float64(maxProduceThrottle)).Truncate(time.Millisecond)
}

// Weather returns the state of both stores, kind by kind.
func (a *Agent) Weather() []weather.Condition { return a.sky.conditions() }

// Unready says why clients would be better served by another agent, or returns nothing.
func (a *Agent) Unready() []string {
	var why []string
	select {
	case <-a.ready:
	default:
		why = append(why, "starting: not every shard has a leader yet")
	}
	if a.draining.Load() {
		return append(why, "draining: the agent is about to stop")
	}
	if !a.hasSession() && a.sky.elsewhere.Load() {
		why = append(why, "no session: the metadata store has not been heard of for longer than the lease, and other agents have one: check the network between this agent and etcd")
	}
	return why
}

// hasSession reports whether this agent can commit something.
func (a *Agent) hasSession() bool {
	l := a.current.Load()
	return l != nil && l.session.Alive()
}

const (
	// aliveEvery is how often an agent without a session asks whether others have one. Shorter: in an
	// outage, agents ask each other all the time. Longer: clients are sent here for longer.
	aliveEvery = 2 * time.Second
	// aliveTimeout bounds a question, and aliveAsked how many agents are asked at a time.
	aliveTimeout = time.Second
	aliveAsked   = 3
)

// lookOut finds out, while this agent has no session, whether clients would be better served
// elsewhere: if the metadata store is down for all, they would not, and reads go on here.
func (a *Agent) lookOut(ctx context.Context) error {
	tick := time.NewTicker(aliveEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			a.sky.elsewhere.Store(!a.hasSession() && a.othersAlive(ctx))
		case <-ctx.Done():
			return nil
		}
	}
}

// othersAlive asks some of the other agents that were there when this one last knew.
func (a *Agent) othersAlive(ctx context.Context) bool {
	view := a.agents.View()
	var addrs []string
	for _, id := range view.NodeIDs() {
		if other, ok := view.Agent(id); ok && int32(id) != a.node.Load() {
			addrs = append(addrs, other.RPCAddress)
		}
	}
	if len(addrs) > 0 { // not the same ones each time
		from := int(nonce() % uint64(len(addrs)))
		addrs = append(addrs[from:], addrs[:from]...)
	}
	ctx, cancel := context.WithTimeout(ctx, aliveTimeout)
	defer cancel()
	answers := make(chan bool, aliveAsked)
	asked := addrs[:min(len(addrs), aliveAsked)]
	for _, addr := range asked {
		go func() { // ends with ctx; all are awaited
			b, err := a.parts.Peers.Ask(ctx, addr, peer.Question{Kind: aliveKind})
			answers <- err == nil && string(b) == alive
		}()
	}
	found := false
	for range asked {
		found = <-answers || found
	}
	return found
}

// aliveKind asks whether an agent has a session; it is answered alive or not at all.
const (
	aliveKind = "alive"
	alive     = "yes"
)

// answerAlive answers another agent.
func (a *Agent) answerAlive() ([]byte, error) {
	if !a.hasSession() {
		return nil, fmt.Errorf("no session: %w", metadata.ErrFenced)
	}
	return []byte(alive), nil
}

// Degraded says what does not go as it should although the agent serves, a line each, with what
// to do about it.
func (a *Agent) Degraded() []string {
	var out []string
	for _, c := range a.sky.conditions() {
		if c.State != weather.Fair {
			out = append(out, describe(c, time.Now()))
		}
	}
	if !a.hasSession() {
		select {
		case <-a.ready:
			out = append(out, "no session: nothing is committed until the metadata store answers; known records are served")
		default:
		}
	}
	if a.sky.Shed() {
		out = append(out, "memory for requests: half is in use and nothing can be stored: batches are refused with NOT_ENOUGH_REPLICAS, but for small ones")
	}
	return out
}

// remedies say what to do about a state of a store.
var remedies = map[string]map[weather.State]string{
	"object": {
		weather.Slow:        "are slow: look at the store's load and the network to it",
		weather.Throttled:   "are throttled: larger flushes (flush-size, flush-age) make fewer requests; ask for a higher rate",
		weather.Unreachable: "reach nobody: check that the store runs, its address and the network",
		weather.Hanging:     "are not answered in time: check the network to the store and its load",
		weather.Failing:     "fail: see the store's own log",
		weather.Denied:      "are refused: check the credentials, the bucket and its policy",
		weather.Full:        "find no space: free or add space, or raise the quota",
	},
	"metadata": {
		weather.Slow:        "are slow: check the disks of etcd's members (fsync) and the network between them",
		weather.Throttled:   "are throttled: etcd is overloaded; check its disks",
		weather.Unreachable: "reach nobody: check that etcd runs, --etcd and the network",
		weather.Hanging:     "are not answered in time: check that most of etcd's members run, and their disks",
		weather.Failing:     "fail: see etcd's log",
		weather.NoQuorum:    "find no leader: check that most of etcd's members run and reach each other",
		weather.Denied:      "are refused: check etcd-user, its password and its role",
		weather.Full:        "find no space (alarm NOSPACE): compact and defragment etcd or raise --quota-backend-bytes, then etcdctl alarm disarm",
	},
}

// describe is one line for people.
func describe(c weather.Condition, now time.Time) string {
	what := map[string]string{"object": "object store: %ss", "metadata": "metadata store: %ss"}[c.Store]
	line := fmt.Sprintf(what+" %s", c.Kind, remedies[c.Store][c.State])
	line += fmt.Sprintf(" (for %v", now.Sub(c.Since).Round(time.Second))
	if c.Cause != nil {
		cause := c.Cause.Error()
		const most = 200 // a line, not a page
		if len(cause) > most {
			cause = cause[:most] + "..."
		}
		line += "; last: " + cause
	}
	return line + ")"
}

var (
	storeState = prometheus.NewDesc("floe_store_state", "1 for the state that requests of a kind to a store meet with, 0 for all others.", []string{"store", "kind", "state"}, nil)
	storeSince = prometheus.NewDesc("floe_store_trouble_seconds", "For how long requests of a kind to a store have met with anything but fair weather; 0 while it is fair.", []string{"store", "kind"}, nil)
	storeLimit = prometheus.NewDesc("floe_objstore_limit", "Requests of a kind to the object store that may be under way at a time; it follows how the store takes them.", []string{"kind"}, nil)
	storeBusy  = prometheus.NewDesc("floe_objstore_in_flight", "Requests of a kind to the object store that are under way.", []string{"kind"}, nil)
	storeWaits = prometheus.NewDesc("floe_objstore_waiting", "Requests of a kind to the object store that wait to be made.", []string{"kind"}, nil)
	shedding   = prometheus.NewDesc("floe_produce_shedding", "1 while batches are refused because nothing can be stored and the memory for requests is half full.", nil, nil)
	throttling = prometheus.NewDesc("floe_produce_throttle_seconds", "What producers are told to wait at the moment.", nil, nil)
)

// Describe implements prometheus.Collector.
func (s *sky) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{storeState, storeSince, storeLimit, storeBusy, storeWaits, shedding, throttling} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (s *sky) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for _, c := range s.conditions() {
		for _, state := range weather.States() {
			gauge(storeState, one(state == c.State), c.Store, c.Kind, state.String())
		}
		trouble := 0.0
		if c.State != weather.Fair {
			trouble = time.Since(c.Since).Seconds()
		}
		gauge(storeSince, trouble, c.Store, c.Kind)
	}
	if s.objects != nil {
		for _, l := range s.objects.Loads() {
			gauge(storeLimit, float64(l.Limit), l.Kind)
			gauge(storeBusy, float64(l.InFlight), l.Kind)
			gauge(storeWaits, float64(l.Waiting), l.Kind)
		}
	}
	gauge(shedding, one(s.Shed()))
	gauge(throttling, s.Throttle().Seconds())
}

func one(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
