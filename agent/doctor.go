package agent

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/floelog/floe/diagnosis"
)

const (
	// examineEvery is how often the doctor looks. More often: gathering the metrics of a cluster with very
	// many topics takes time. Less often: what is over in between is not seen as a level.
	examineEvery = 10 * time.Second
	// recentFor is the time that rates are of: long enough for a mean, short enough to see the end of
	// a trouble soon.
	recentFor = time.Minute
	// latelyFor is the time over which rare events are counted.
	latelyFor = 10 * time.Minute
	// settledAfter is how long an agent must have looked before it says what lasts "throughout":
	// starting, and the failover that made room for it, take some seconds.
	settledAfter = recentFor - examineEvery
)

// doctor looks at this agent from time to time and says what an operator should know; see package
// diagnosis. Its counters are fed by the parts of the agent; one goroutine looks.
type doctor struct {
	a         *Agent
	gather    prometheus.Gatherer // nil: nobody looks
	busiest   *busiest
	lease     leaseWatch
	snapshots snapshotWatch
	skew      atomic.Int64 // of the clock against the object store's, nanoseconds; noSkew: not measured
	lost      prometheus.Counter

	found  *prometheus.GaugeVec
	values *prometheus.GaugeVec

	looks []look // the last latelyFor, oldest first; of the goroutine that looks

	mu     sync.Mutex // guards the following
	looked time.Time  // zero: not yet
	last   []diagnosis.Finding
}

// look is what was seen at one time.
type look struct {
	at         time.Time
	totals     *totals
	counted    counted // since the look before
	memory     float64 // share of the budget
	led        float64
	leaderless float64
	margin     time.Duration // least since the look before; noMargin: none
}

// noSkew says that the clock was not compared.
const noSkew = int64(-1 << 63)

func newDoctor(a *Agent, gather prometheus.Gatherer, reg prometheus.Registerer) *doctor {
	d := &doctor{
		a: a, gather: gather, busiest: newBusiest(),
		lost:   prometheus.NewCounter(prometheus.CounterOpts{Name: "floe_sessions_lost_total", Help: "Sessions that this agent has lost: its lease ended while it ran."}),
		found:  prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "floe_finding", Help: "1 for each kind of finding of floe doctor that this agent has now; docs/doctor.md lists all."}, []string{"finding", "severity"}),
		values: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "floe_finding_value", Help: "The worst reading of each kind of finding, whether it is one or not; docs/doctor.md has units and bounds."}, []string{"finding"}),
	}
	d.lease.forget()
	d.skew.Store(noSkew)
	reg.MustRegister(d.lost, d.found, d.values)
	d.tellNothing()
	return d
}

// run looks until ctx ends.
func (d *doctor) run(ctx context.Context) error {
	if d.gather == nil {
		return nil
	}
	tick := time.NewTicker(examineEvery)
	defer tick.Stop()
	for {
		d.look(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// look measures once and says what that means.
func (d *doctor) look(ctx context.Context) {
	t, err := gatherTotals(d.gather)
	if err != nil {
		d.a.parts.Log.Warn("the doctor could not look", "err", err)
		return
	}
	now := time.Now()
	l := look{at: now, totals: t, counted: d.busiest.take(), margin: d.lease.take()}
	if size := d.a.budget.Size(); size > 0 {
		l.memory = float64(d.a.budget.InUse()) / float64(size)
	}
	leaderships, _ := d.a.set.Leaderships()
	for _, lead := range leaderships {
		switch {
		case !lead.Live:
			l.leaderless++
		case lead.Node == d.a.node.Load():
			l.led++
		}
	}
	d.looks = append(d.looks, l)
	for len(d.looks) > 1 && now.Sub(d.looks[1].at) >= latelyFor {
		d.looks = d.looks[1:]
	}
	s := d.snapshot(ctx)
	d.tell(now, diagnosis.Of(s))
}

// tellNothing exposes every kind that this agent may find, before its first look.
func (d *doctor) tellNothing() {
	for _, k := range diagnosis.Kinds() {
		if !k.Outside {
			d.found.WithLabelValues(k.Name, string(k.Severity)).Set(0)
		}
	}
}

// tell exposes what was found.
func (d *doctor) tell(now time.Time, found diagnosis.Diagnosis) {
	there := map[string]bool{}
	for _, f := range found.Findings {
		there[f.Name] = true
	}
	for _, k := range diagnosis.Kinds() {
		if k.Outside {
			continue
		}
		d.found.WithLabelValues(k.Name, string(k.Severity)).Set(float64(oneIf(there[k.Name])))
		if v, measured := found.Worst[k.Name]; measured {
			d.values.WithLabelValues(k.Name).Set(v)
		} else {
			d.values.DeleteLabelValues(k.Name)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.looked, d.last = now, found.Findings
}

// examined is what this agent says of itself.
func (d *doctor) examined() diagnosis.Examined {
	d.mu.Lock()
	looked, last := d.looked, d.last
	d.mu.Unlock()
	e := diagnosis.Examined{
		Node: d.a.node.Load(), Address: d.a.cfg.Advertise, Zone: d.a.cfg.Zone, Version: d.a.cfg.Version,
		Clock: time.Now(), Looked: looked, Findings: last,
	}
	switch {
	case d.gather == nil:
		e.Error = "this agent does not look at itself"
	case looked.IsZero():
		e.Error = "this agent has not looked at itself yet; ask again in a few seconds"
	}
	return e
}

// lostSession counts a session that was lost.
func (d *doctor) lostSession() {
	d.lost.Inc()
	d.lease.forget()
}
