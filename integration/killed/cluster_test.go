//go:build integration && unix

package killed

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/floelog/floe/integration/fixture"
	"github.com/floelog/floe/integration/history"
	"github.com/floelog/floe/integration/workload"
)

var (
	duration  = flag.Duration("killed.duration", 0, "how long faults are fired; every one is fired once at least")
	seedFlag  = flag.Uint64("killed.seed", 0, "seed of the faults and the load; 0: by the clock")
	traceFlag = flag.String("killed.trace", "", "file that the history is written to, with the agents' logs beside it if a test fails")
)

const (
	lease = 3 * time.Second
	// patience is how long the cluster may take to serve again after a fault. It is far more
	// than it needs, for a machine that runs every test at once.
	patience = 60 * time.Second
)

// cluster is what faults are fired at.
type cluster struct {
	t     testing.TB
	floe  *fixture.Floe
	minio *fixture.MinIOServer // nil: none that can be killed
	load  *workload.Load
	h     *history.History
	r     *rand.Rand
	seen  map[string]*figures // by the fault's name
}

// figures are what is measured of a kind of fault.
type figures struct {
	fired     int
	takeovers []time.Duration // for each partition of an agent that is gone, until another acknowledges
	moved     []time.Duration // for each partition of an agent that hangs: the clients' own time limits are in it
	recovered []time.Duration // until all partitions acknowledge again
	slowest   time.Duration   // acknowledgement meanwhile
	torn      int64           // requests without an answer
}

// keep writes something beside the trace.
func (c *cluster) keep(what, text string) {
	name := fmt.Sprintf("%s.%s.%s", *traceFlag, strings.ReplaceAll(c.t.Name(), "/", "-"), what)
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		c.t.Error(err)
	}
}

// keepStacks keeps what every agent is doing, when something is stuck.
func (c *cluster) keepStacks() {
	if *traceFlag == "" {
		return
	}
	for i := range c.floe.Addrs() {
		c.keep(fmt.Sprintf("agent-%d.goroutines-%s", i, time.Now().UTC().Format("150405")), c.floe.Goroutines(i))
	}
}

// newHistory starts a history, which is traced if that was asked for.
func newHistory(t testing.TB) *history.History {
	t.Helper()
	var cfg history.Config
	if *traceFlag != "" {
		f, err := os.Create(*traceFlag + "." + strings.ReplaceAll(t.Name(), "/", "-"))
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex // against the end of the test
		closed := false
		t.Cleanup(func() {
			mu.Lock()
			defer mu.Unlock()
			closed = true
			if err := f.Close(); err != nil {
				t.Errorf("trace: %v", err)
			}
		})
		cfg.Trace = func(line string) {
			mu.Lock()
			defer mu.Unlock()
			if !closed {
				fmt.Fprintf(f, "%s %s\n", time.Now().UTC().Format("15:04:05.000"), line)
			}
		}
	}
	return history.New(cfg)
}

// seed returns the seed of this run.
func seed(t testing.TB) uint64 {
	s := *seedFlag
	if s == 0 {
		s = uint64(time.Now().UnixNano()) % 1_000_000
	}
	t.Logf("seed %d", s)
	return s
}

// start puts a load on a cluster, which consumers follow from the racks, and waits until every
// partition acknowledges.
func start(t testing.TB, f *fixture.Floe, m *fixture.MinIOServer, racks ...string) *cluster {
	t.Helper()
	return startLoad(t, f, m, workload.Config{Racks: racks})
}

// startLoad is start of a load that is impatient unless it says otherwise.
func startLoad(t testing.TB, f *fixture.Floe, m *fixture.MinIOServer, cfg workload.Config) *cluster {
	t.Helper()
	s := seed(t)
	c := &cluster{t: t, floe: f, minio: m, h: newHistory(t), r: rand.New(rand.NewPCG(s, 0)), seen: map[string]*figures{}}
	if *traceFlag != "" {
		t.Cleanup(func() {
			for i := range f.Processes() {
				c.keep(fmt.Sprintf("process-%d", i), f.Logs(i))
			}
		})
	}
	cfg.Agents, cfg.Topic, cfg.Partitions, cfg.Idempotent, cfg.Plain, cfg.Rate = f.Addrs(), "killed", 12, 3, 1, 100
	cfg.Seed, cfg.Stuck = s, c.keepStacks
	c.load = workload.Start(t, c.h, cfg)
	c.await(time.Now(), c.load.All())
	c.load.Slowest()
	return c
}

// await waits until the partitions acknowledge records that were sent after since, and
// returns how long after it the last did.
func (c *cluster) await(since time.Time, partitions []int32) (longest time.Duration, all []time.Duration) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	took, err := c.load.Await(ctx, since, partitions...)
	if err != nil {
		c.h.Note("%v", err)
		c.keepStacks()
		c.t.Fatalf("after %v: %v", patience, err)
	}
	all = slices.Sorted(maps.Values(took))
	if len(all) > 0 {
		longest = all[len(all)-1]
	}
	return longest, all
}

// victim picks a process that leads partitions, and returns those.
func (c *cluster) victim() (process int, led []int32) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	leaders, err := c.load.Leaders(ctx)
	if err != nil {
		c.t.Fatal(err)
	}
	nodes := slices.Sorted(maps.Keys(leaders))
	node := nodes[c.r.IntN(len(nodes))]
	return int(node) - 1, leaders[node] // node ids count from 1
}

// fire fires a fault and waits until the cluster is whole again.
func (c *cluster) fire(f fault) {
	c.t.Helper()
	got := c.seen[f.name]
	if got == nil {
		got = &figures{}
		c.seen[f.name] = got
	}
	c.h.Note("FAULT %s", f.name)
	torn := c.load.Torn()
	f.fire(c, got)
	took, _ := c.await(time.Now(), c.load.All())
	c.h.Note("HEALED %s, all partitions acknowledge after %v", f.name, took)
	got.fired++
	got.torn += c.load.Torn() - torn
	got.slowest = max(got.slowest, c.load.Slowest())
}

// finish ends the load and judges the history.
func (c *cluster) finish() history.Report {
	c.t.Helper()
	report := c.load.Finish(patience)
	c.t.Log(report.Counts())
	for _, name := range slices.Sorted(maps.Keys(c.seen)) {
		c.t.Logf("%-22s %v", name, c.seen[name])
	}
	if err := c.load.Errors(); err != nil {
		c.t.Errorf("producers heard errors that a retry does not cure: %v", err)
	}
	if err := report.Err(); err != nil {
		c.t.Error(err)
	}
	if report.Acked == 0 || report.Reads < report.Acked {
		c.t.Errorf("%d records were acknowledged and %d read: nothing was tested", report.Acked, report.Reads)
	}
	return report
}

func (f *figures) String() string {
	s := fmt.Sprintf("fired %d, slowest acknowledgement %v, requests without an answer %d", f.fired, round(f.slowest), f.torn)
	for _, m := range []struct {
		name  string
		times []time.Duration
	}{{"takeover", f.takeovers}, {"clients elsewhere", f.moved}, {"recovery", f.recovered}} {
		if n := len(m.times); n > 0 {
			slices.Sort(m.times)
			s += fmt.Sprintf(", %s median %v max %v (of %d)", m.name, round(m.times[n/2]), round(m.times[n-1]), n)
		}
	}
	return s
}

func round(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
