package sim

import (
	"context"
	"math/rand/v2"
	"time"

	metamemory "github.com/floelog/floe/metadata/memory"
	"github.com/floelog/floe/tiering/objstore/faults"
)

// mix says which faults a seed has at all. Few seeds have all: what hides behind a noisy
// fault is found where that fault is missing.
type mix struct {
	meta, store, peers         float64 // how strong, 0 for none
	crash, pause, cut, restart bool
	watches, outages           bool
}

func newMix(r *rand.Rand) mix {
	strength := func() float64 { return pick(r, 0, 0.3, 1, 2) }
	yes := func() bool { return r.IntN(3) > 0 }
	return mix{strength(), strength(), strength(), yes(), yes(), yes(), yes(), yes(), yes()}
}

func (w *world) metaFaults() metamemory.Faults {
	m := w.mix
	if w.isHealed() {
		return metamemory.Faults{Latency: 2 * time.Millisecond}
	}
	return metamemory.Faults{
		Latency:    time.Duration(float64(20*time.Millisecond) * m.meta),
		FailBefore: 0.02 * m.meta, FailAfter: 0.03 * m.meta, ApplyLate: 0.02 * m.meta, LateBy: 3 * leaseTTL,
		WatchLag: 0.1 * m.meta, WatchLagBy: time.Second, WatchLoss: 0.005 * m.meta,
	}
}

func (w *world) storePlan() faults.Plan {
	s := w.mix.store
	if w.isHealed() {
		return faults.Plan{}
	}
	put := faults.Rates{
		Slow: 0.5, SlowMin: time.Millisecond, SlowMax: 200 * time.Millisecond,
		Throttled: 0.02 * s, Failed: 0.03 * s, LostReply: 0.04 * s,
		Late: 0.03 * s, LateGiveUp: time.Second, LateMin: time.Millisecond, LateMax: 10 * time.Second,
	}
	get := faults.Rates{
		Slow: 0.3, SlowMin: time.Millisecond, SlowMax: 100 * time.Millisecond,
		Throttled: 0.02 * s, Failed: 0.03 * s, LostReply: 0.02 * s,
		Truncated: 0.02 * s, Short: 0.02 * s, Flipped: 0.03 * s, Missing: 0.02 * s,
	}
	return faults.Plan{Put: put, Get: get, Head: get, List: get, Delete: put}
}

func (w *world) linkRates() linkRates {
	p := w.mix.peers
	return linkRates{
		slow: 0.1 * p, slowBy: 4 * time.Second, lost: 0.05 * p, lostReply: 0.1 * p,
		double: 0.1 * p, doubleBy: 10 * time.Second,
	}
}

// nemesis does harm until ctx ends.
func (w *world) nemesis(ctx context.Context) {
	m, r := w.mix, w.rand("nemesis")
	w.net.mu.Lock()
	w.net.rates = w.linkRates()
	w.net.mu.Unlock()
	for sleep(ctx, time.Duration(r.Int64N(int64(4*time.Second)))) {
		n := w.anyNode(r)
		switch k := r.IntN(9); {
		case k == 0 && m.crash:
			w.note("crash")
			n.crash()
			w.restartLater(n, time.Duration(r.Int64N(int64(2*leaseTTL))))
		case k == 1 && m.crash && r.IntN(3) == 0:
			w.note("crash of all")
			for _, n := range w.nodes {
				n.crash()
				w.restartLater(n, time.Duration(r.Int64N(int64(leaseTTL))))
			}
		case k == 2 && m.restart:
			w.note("restart")
			w.restart(n, time.Duration(r.Int64N(int64(time.Second))))
		case k == 3 && m.pause:
			w.pauseFor(n, leaseTTL/2+time.Duration(r.Int64N(int64(3*leaseTTL))))
		case k == 4 && m.cut:
			w.cutOff(n, r)
		case k == 5 && m.cut:
			other := w.anyNode(r)
			w.net.cut(n.id, other.id, true)
			w.afterwards(time.Duration(r.Int64N(int64(8*time.Second))), func() { w.net.cut(n.id, other.id, false) })
		case k == 6 && m.watches:
			if r.IntN(2) == 0 {
				w.server.BreakWatches()
			} else {
				w.server.ExtendLeases()
			}
		case k == 7 && m.outages:
			w.storeOutage(time.Duration(r.Int64N(int64(10 * time.Second))))
		case k == 8 && m.outages && r.IntN(2) == 0:
			w.history.add("nemesis", "meta outage", nil, "")
			w.note("metadata outage")
			for _, n := range w.nodes {
				w.cutOff(n, r)
			}
		}
	}
}

// storeOutage makes every request to the object store fail for a while.
func (w *world) storeOutage(d time.Duration) {
	w.note("store outage")
	w.history.add("nemesis", "store outage", nil, "%v", d)
	down := faults.Rates{Slow: 1, SlowMin: time.Millisecond, SlowMax: time.Second, Failed: 1}
	for _, n := range w.nodes {
		if p := n.running(); p != nil {
			p.faults.SetPlan(faults.Plan{Put: down, Get: down, Head: down, List: down, Delete: down})
			w.afterwards(d, func() { p.faults.SetPlan(w.storePlan()) })
		}
	}
}

func (w *world) note(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.crashed[what]++
}

// afterwards runs f later, or at once when the seed's faults end before.
func (w *world) afterwards(d time.Duration, f func()) {
	w.tasks.Go(func() {
		if sleep(w.live, d) {
			f()
		}
	})
}

func (w *world) restartLater(n *node, d time.Duration) {
	w.afterwards(d, n.start)
}

func (w *world) restart(n *node, after time.Duration) {
	p := n.terminate()
	if p == nil {
		return
	}
	w.tasks.Go(func() {
		select {
		case <-p.ended:
		case <-w.live.Done():
			return
		}
		if sleep(w.live, after) {
			n.start()
		}
	})
}

func (w *world) pauseFor(n *node, d time.Duration) {
	p := n.running()
	if p == nil {
		return
	}
	w.note("pause")
	p.pause()
	w.afterwards(d, p.resume)
}

// cutOff separates an agent from the metadata store.
func (w *world) cutOff(n *node, r *rand.Rand) {
	p := n.running()
	if p == nil {
		return
	}
	w.note("cut off")
	w.history.add(p.name, "cut off", nil, "")
	p.meta.Partition()
	w.afterwards(time.Duration(r.Int64N(int64(3*leaseTTL))), func() {
		if !p.gate.isDead() {
			w.history.add(p.name, "reconnected", nil, "")
			p.meta.Heal()
		}
	})
}

// heal ends all faults; what is paused or dead comes back.
func (w *world) heal() {
	w.mu.Lock()
	w.healed = true
	w.mu.Unlock()
	w.history.add("nemesis", "heal", nil, "")
	w.net.mu.Lock()
	w.net.rates = linkRates{}
	clear(w.net.blocked)
	w.net.mu.Unlock()
	for _, n := range w.nodes {
		n.mu.Lock()
		all := n.all
		n.mu.Unlock()
		for _, p := range all {
			p.faults.SetPlan(w.storePlan())
			if !p.gate.isDead() {
				p.meta.Inject(w.metaFaults(), w.rand(p.name+" healed"))
				p.meta.Heal()
				p.resume()
			}
		}
	}
}
