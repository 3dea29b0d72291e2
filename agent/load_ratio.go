package agent

import (
	"context"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/protocol"
	"github.com/floelog/floe/tiering"
)

const (
	// ratioEvery is how often the signals are sampled. Less often: memory that is full for
	// moments is missed. More often: it costs more than it tells.
	ratioEvery = time.Second
	// ratioOver is the time over which they are averaged, with exponential weights. Shorter: an
	// autoscaler that looks four times a minute sees chance. Longer: it sees load late.
	ratioOver = 15 * time.Second
)

// Shares of what an agent has, of which the largest is its load ratio. docs/scaling.md tells
// people what to do with them.
const (
	shareCPU     = "cpu"     // of the processors that the process may use
	shareMemory  = "memory"  // of the memory for requests in flight
	shareUploads = "uploads" // of the uploads that may run at the same time
	shareQueue   = "queue"   // requests that wait for memory: one of them is full
	shareNetwork = "network" // of network-rate, each way
)

// ratio measures how full an agent is, for autoscalers. Its methods may be called
// concurrently.
type ratio struct {
	budgets  []*protocol.Budget
	slots    int
	network  float64      // bytes per second each way; 0: not known
	uploaded atomic.Int64 // nanoseconds of uploads that have ended

	mu     sync.Mutex // guards the following
	shares map[string]float64
	last   ratioSample
}

// ratioSample is what counters said at one time.
type ratioSample struct {
	at            time.Time
	cpu           time.Duration
	in, out       int64
	waited        time.Duration
	uploaded      int64
	hasCPU, hasIO bool
}

func newRatio(cfg *Config, budgets ...*protocol.Budget) *ratio {
	return &ratio{budgets: budgets, slots: cfg.Uploads, network: cfg.NetworkRate, shares: map[string]float64{}}
}

// run samples until ctx ends.
func (r *ratio) run(ctx context.Context) error {
	tick := time.NewTicker(ratioEvery)
	defer tick.Stop()
	for {
		r.sample(r.now())
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (r *ratio) now() ratioSample {
	s := ratioSample{at: time.Now(), uploaded: r.uploaded.Load()}
	s.cpu, s.hasCPU = cpuTime()
	s.in, s.out, s.hasIO = networkBytes()
	for _, b := range r.budgets {
		s.waited += b.Waited()
	}
	return s
}

// sample takes what happened since the last sample into the shares.
func (r *ratio) sample(s ratioSample) {
	r.mu.Lock()
	defer r.mu.Unlock()
	last := r.last
	r.last = s
	elapsed := s.at.Sub(last.at).Seconds()
	if last.at.IsZero() || elapsed <= 0 {
		return
	}
	fresh := 1 - math.Exp(-elapsed/ratioOver.Seconds())
	set := func(name string, x float64) {
		r.shares[name] += fresh * (min(max(x, 0), 1) - r.shares[name])
	}
	if s.hasCPU && last.hasCPU {
		set(shareCPU, (s.cpu-last.cpu).Seconds()/elapsed/float64(runtime.GOMAXPROCS(0)))
	}
	memory := 0.0
	for _, b := range r.budgets {
		memory = max(memory, float64(b.InUse())/float64(max(1, b.Size())))
	}
	set(shareMemory, memory)
	set(shareUploads, float64(s.uploaded-last.uploaded)/1e9/elapsed/float64(max(1, r.slots)))
	waiting := int64(0)
	for _, b := range r.budgets {
		waiting += b.Waiting()
	}
	set(shareQueue, max(float64(waiting), (s.waited-last.waited).Seconds()/elapsed))
	if s.hasIO && last.hasIO && r.network > 0 {
		set(shareNetwork, float64(max(s.in-last.in, s.out-last.out))/elapsed/r.network)
	}
}

// share returns one share, from 0 to 1.
func (r *ratio) share(name string) float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.shares[name]
}

// largest returns the load ratio.
func (r *ratio) largest() (most float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, x := range r.shares {
		most = max(most, x)
	}
	return most
}

// register exposes it.
func (r *ratio) register(reg prometheus.Registerer) {
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "floe_load_ratio", Help: "How full this agent is: the largest of floe_load_share. 1 is full."}, r.largest))
	names := []string{shareCPU, shareMemory, shareUploads, shareQueue}
	if r.network > 0 {
		names = append(names, shareNetwork)
	}
	for _, name := range names {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "floe_load_share", Help: "Share in use of what this agent has, by resource, a mean over about 15 seconds.", ConstLabels: prometheus.Labels{"resource": name}},
			func() float64 { return r.share(name) }))
	}
	for i, direction := range []string{"in", "out"} {
		reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "floe_network_bytes_total", Help: "Bytes that the network interfaces of this agent's machine or pod have moved, loopback excepted, by direction; 0 where the system does not tell.", ConstLabels: prometheus.Labels{"direction": direction}},
			func() float64 {
				in, out, _ := networkBytes()
				return float64([]int64{in, out}[i])
			}))
	}
	waiting := func() (n float64) {
		for _, b := range r.budgets {
			n += float64(b.Waiting())
		}
		return n
	}
	reg.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "floe_requests_waiting", Help: "Requests that wait for memory before they are read."}, waiting),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "floe_requests_waited_seconds_total", Help: "Time that requests have waited for memory."}, func() float64 {
			var d time.Duration
			for _, b := range r.budgets {
				d += b.Waited()
			}
			return d.Seconds()
		}))
}

// registerBacklog exposes what waits for appends.
func registerBacklog(reg prometheus.Registerer, set *journal.Set) error {
	return reg.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "floe_append_backlog", Help: "Changes that wait to be part of a journal record, on all shards that this agent leads."}, func() (n float64) {
		for id := range tiering.ShardID(set.NumShards()) {
			if l := set.Leader(id); l != nil {
				n += float64(l.Waiting())
			}
		}
		return n
	}))
}
