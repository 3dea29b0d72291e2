package sim

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var (
	oneSeed   = flag.Uint64("seed", 0, "run this seed only")
	firstSeed = flag.Uint64("first", 1, "the first seed to run")
	numSeeds  = flag.Int("seeds", defaultSeeds, "number of seeds to run")
	repeat    = flag.Int("repeat", 20, "with -seed: how often, unless it fails before")
	lines     = flag.Int("lines", 150, "lines of history to show of a failing seed")
)

func TestMain(m *testing.M) {
	debug.SetGCPercent(400) // a seed's garbage is small and short-lived
	os.Exit(m.Run())
}

// result is what one seed came to.
type result struct {
	seed       uint64
	violations []violation
	history    *history
	operations int
	fired      map[string]int // faults, by name
}

// runSeed runs one seed in a bubble of its own.
func runSeed(t *testing.T, seed uint64, p plant) (res result) {
	var w *world
	defer func() {
		// A bubble that does not come to its end panics: goroutines wait for each other.
		if e := recover(); e != nil {
			w.fail("liveness", nil, "%v\n%s", e, stacks())
			res = w.result()
		}
	}()
	defer watchSeed(seed)()
	synctest.Test(t, func(*testing.T) {
		w = newWorld(seed, p)
		w.simulate()
	})
	return w.result()
}

func (w *world) simulate() {
	w.audit = newAuditor(w)
	for _, n := range w.nodes {
		n.start()
	}
	if !w.awaitReady(2*time.Minute) || !w.createTopics() {
		w.fail("progress", nil, "the cluster does not start")
	} else {
		w.play()
	}
	w.tearDown()
}

// play lets clients and nemesis work, heals, and checks.
func (w *world) play() {
	ctx, cancel := context.WithCancel(w.live)
	var readers, writers sync.WaitGroup
	for i := range w.shape.idempotent + w.shape.plain {
		w.producers = append(w.producers, w.newProducer(i, i < w.shape.idempotent))
	}
	for _, p := range w.producers {
		writers.Go(func() { p.run(w.live) })
	}
	w.startTxnProducers(&writers)
	for i := range w.shape.consumers {
		readers.Go(func() { w.newConsumer(i).run(ctx) })
	}
	w.startGroups(ctx, &readers)
	readers.Go(func() { (&operator{w, "operator", w.rand("operator")}).run(ctx) })
	trouble, calm := context.WithTimeout(w.live, w.shape.faultTime)
	w.nemesis(trouble)
	calm()
	w.heal()
	done := make(chan struct{})
	w.tasks.Go(func() {
		defer close(done)
		writers.Wait()
	})
	select {
	case <-done:
	case <-time.After(healTime):
		w.fail("progress", nil, "producers are not done %v after all was healed: %s", healTime, w.progress())
	}
	w.awaitGroups()
	cancel()
	readers.Wait()
	w.settle()
}

// settle waits until all agents serve again, and compares everything.
func (w *world) settle() {
	for _, n := range w.nodes {
		if n.running() == nil && sleep(w.live, 10*time.Second) {
			n.start()
		}
	}
	if !w.awaitReady(time.Minute) {
		w.fail("progress", nil, "not every agent serves a minute after all was healed")
		return
	}
	ctx, cancel := context.WithTimeout(w.live, 5*time.Minute)
	defer cancel()
	if !w.awaitConcluded(ctx) {
		return
	}
	w.readAll(ctx)
	if !w.audit.await(ctx, w.server.Revision()) {
		return
	}
	w.awaitDropped(ctx)
	w.checkStates(ctx)
	w.checkMemory()
	w.awaitTidy(ctx)
	w.checkObjects()
	w.mu.Lock()
	healthy := len(w.violations) == 0
	w.mu.Unlock()
	if healthy {
		w.drain()
	}
	w.check()
}

// drain ends all agents in good order; each must end by itself in good time.
func (w *world) drain() {
	for _, n := range w.nodes {
		p := n.terminate()
		if p == nil {
			continue
		}
		select {
		case <-p.ended:
			if p.err != nil {
				w.fail("liveness", nil, "%s did not drain: %v", p.name, p.err)
			}
		case <-time.After(w.config.DrainTimeout + 10*time.Second):
			w.fail("liveness", nil, "%s does not end", p.name)
		}
	}
	w.audit.await(w.live, w.server.Revision())
}

// tearDown ends everything; a goroutine that stays behind fails the bubble.
func (w *world) tearDown() {
	for _, n := range w.nodes {
		n.crash()
	}
	w.end() // from now on nothing starts
	w.audit.stop()
	w.server.Close()
	for _, n := range w.nodes {
		for _, p := range n.all {
			p.faults.Close()
		}
	}
	ended := make(chan struct{})
	go func() {
		w.tasks.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(5 * time.Minute):
		w.fail("liveness", nil, "goroutines are left five minutes after the end:\n%s", stacks())
	}
}

func stacks() string {
	b := make([]byte, 1<<20)
	return string(b[:runtime.Stack(b, true)])
}

func (w *world) progress() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	open := map[string]int{}
	for _, s := range w.sent {
		if !s.resolved {
			open[s.producer.name+" "+s.part.name]++
		}
	}
	return fmt.Sprint(open)
}

func (w *world) result() result {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := result{seed: w.seed, violations: w.violations, history: w.history, fired: map[string]int{}}
	for f, n := range w.server.Fired() {
		r.fired["meta "+string(f)] += n
	}
	for _, n := range w.nodes {
		for _, p := range n.all {
			for f, k := range p.faults.Fired() {
				r.fired["store "+string(f)] += k
			}
		}
	}
	w.net.mu.Lock()
	defer w.net.mu.Unlock()
	maps.Copy(r.fired, w.net.fired)
	maps.Copy(r.fired, w.crashed)
	for _, s := range w.sent {
		r.operations += s.attempts
	}
	w.countCoordination(r.fired)
	w.countTiers(r.fired)
	r.operations += len(w.polls) + len(w.lists) + len(w.trims) + len(w.txns) + len(w.tries) + len(w.fetches)
	return r
}

// report says what is wrong with a seed.
func (r *result) report(n int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d: %d violations (replay: go test ./integration/sim -args -seed=%d)\n", r.seed, len(r.violations), r.seed)
	for _, v := range r.violations {
		part := "-"
		if v.part != nil {
			part = v.part.name
		}
		fmt.Fprintf(&b, "  %s [%s]: %s\n", v.invariant, part, v.text)
	}
	fmt.Fprintf(&b, "history of the first, last %d lines (%s):\n%s\n", n, r.history.counts(), r.history.show(r.violations[0].part, n))
	return b.String()
}

// eachSeed runs seeds on all cores until enough says so.
func eachSeed(t *testing.T, first uint64, n int, p func() plant, enough func(result) bool) {
	var mu sync.Mutex
	next, stop := first, false
	take := func() (uint64, bool) {
		mu.Lock()
		defer mu.Unlock()
		next++
		return next - 1, !stop && next-1 < first+uint64(n)
	}
	t.Run("seeds", func(t *testing.T) {
		for range runtime.GOMAXPROCS(0) {
			t.Run("core", func(t *testing.T) {
				t.Parallel()
				for seed, ok := take(); ok; seed, ok = take() {
					res := runSeed(t, seed, p())
					mu.Lock()
					stop = enough(res) || stop
					mu.Unlock()
				}
			})
		}
	})
}

// faultNames are the faults that must happen somewhere in a few hundred seeds.
var faultNames = []string{
	"meta latency", "meta fail before", "meta fail after", "meta apply late", "meta abandoned", "meta partition", "meta pause",
	"meta watch lag", "meta watch loss", "meta lease expiry", "meta lease extend",
	"store slow", "store throttled", "store failed", "store lost reply", "store late", "store late done", "store late refused",
	"store truncated", "store short", "store flipped", "store missing",
	"peer slow", "peer lost", "peer lost reply", "peer double", "peer cut",
	"crash", "crash of all", "restart", "pause", "cut off", "store outage", "metadata outage",
}

func TestSeeds(t *testing.T) {
	first, n := *firstSeed, *numSeeds
	if *oneSeed != 0 {
		first, n = *oneSeed, 1
	}
	fired := map[string]int{}
	operations, ran := 0, 0
	start := time.Now()
	for i := 0; i < max(1, *repeat) && !t.Failed() && (i == 0 || *oneSeed != 0); i++ {
		eachSeed(t, first, n, func() plant { return plant{} }, func(r result) bool {
			ran++
			operations += r.operations
			for f, k := range r.fired {
				fired[f] += k
			}
			if len(r.violations) > 0 {
				t.Error(r.report(*lines))
			}
			return t.Failed()
		})
	}
	took := time.Since(start)
	t.Logf("%d seeds, %d operations each, %.1f seeds/s on %d cores", ran, operations/max(1, ran),
		float64(ran)/took.Seconds(), runtime.GOMAXPROCS(0))
	if ran >= 200 {
		for _, f := range slices.Concat(faultNames, coordinationNames, tierNames) {
			if fired[f] == 0 {
				t.Errorf("%q never happened in %d seeds: what is never tried is not tested", f, ran)
			}
		}
	}
	var sums []string
	for _, f := range slices.Sorted(maps.Keys(fired)) {
		sums = append(sums, fmt.Sprintf("%s %d", f, fired[f]))
	}
	t.Logf("faults: %s", strings.Join(sums, ", "))
}
