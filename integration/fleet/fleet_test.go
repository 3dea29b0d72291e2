//go:build integration && unix

package fleet

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/floelog/floe/integration/fixture"
	"github.com/floelog/floe/integration/history"
)

var (
	rateFlag   = flag.Int("fleet.rate", 3, "MiB/s that clients send")
	settleFlag = flag.Duration("fleet.settle", time.Second, "for how long the load runs before and after each step")
	rounds     = flag.Int("fleet.rounds", 1, "how often every agent is restarted")
	floeFlag   = flag.String("fleet.floe", "", "program that is tested; empty: built from this repository")
	oldFlag    = flag.String("fleet.old", "ca5c190", "commit whose release is upgraded from")
	traceFlag  = flag.String("fleet.trace", "", "file that the history is written to")
)

// fleet is agents, and clients that work on them.
type fleet struct {
	t    testing.TB
	floe *fixture.Floe
	load *load
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
		t.Cleanup(func() {
			mu.Lock()
			defer mu.Unlock()
			cfg.Trace = nil
			if err := f.Close(); err != nil {
				t.Errorf("trace: %v", err)
			}
		})
		cfg.Trace = func(line string) {
			if strings.Contains(line, " sends ") || strings.Contains(line, " hears that ") || strings.Contains(line, " reads ") {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			fmt.Fprintf(f, "%s %s\n", time.Now().UTC().Format("15:04:05.000"), line)
		}
	}
	return history.New(cfg)
}

// newFleet makes three agents, of which none runs.
func newFleet(t testing.TB, args ...string) *fleet {
	t.Helper()
	f := &fleet{t: t, floe: fixture.Fleet(t, 3, append([]string{"--drain-timeout", "20s"}, args...)...)}
	for i := range 3 {
		f.floe.Use(i, *floeFlag)
	}
	return f
}

// begin puts the load on the agents that run.
func (f *fleet) begin() {
	f.t.Helper()
	f.load = start(f.t, newHistory(f.t), f.floe.Addrs(), *rateFlag<<20)
	f.rest()
	f.report("before")
}

// rest lets the load run.
func (f *fleet) rest() {
	f.t.Helper()
	select {
	case <-time.After(*settleFlag):
	case <-f.t.Context().Done():
	}
}

// report says what clients noticed since the last report.
func (f *fleet) report(step string) stalls {
	f.t.Helper()
	s := f.load.watch.reset()
	f.t.Logf("%-28s %v", step, s)
	return s
}

// stop ends an agent and returns how long it drained.
func (f *fleet) stop(i int) time.Duration {
	f.t.Helper()
	began := time.Now()
	f.load.h.Note("STOPS agent %d", i)
	f.floe.StopProcess(i)
	f.load.h.Note("STOPPED agent %d", i)
	return time.Since(began)
}

// run starts an agent and returns how long it took until it served.
func (f *fleet) run(i int) time.Duration {
	f.t.Helper()
	began := time.Now()
	f.floe.StartProcess(i)
	return time.Since(began)
}

// restart ends an agent and starts it again, and waits until all is well.
func (f *fleet) restart(i int, name string) stalls {
	f.t.Helper()
	drained := f.stop(i)
	started := f.run(i)
	f.load.awaitAcks(time.Now())
	f.rest()
	s := f.report(name)
	f.t.Logf("%-28s drained in %v, served %v after its start", "", round(drained), round(started))
	return s
}

// balanced waits until each of the first n agents leads its share of the shards, and returns how
// long it took. How many of the load's partitions that makes is chance: their topic's id decides
// which shards they are in, and load moves shards only when it has been uneven for minutes.
func (f *fleet) balanced(n int) time.Duration {
	f.t.Helper()
	began := time.Now()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for {
		led, err := f.led(n)
		if err == nil && slices.Max(led) <= slices.Min(led)+1 {
			return time.Since(began)
		}
		select {
		case <-tick.C:
		case <-deadline:
			f.t.Fatalf("after %v the agents lead %v shards, %v", patience, led, err)
		}
	}
}

// led returns how many shards each of the first n agents leads.
func (f *fleet) led(n int) ([]int, error) {
	led := make([]int, n)
	for i := range led {
		samples, err := f.floe.TryScrape(i)
		if err != nil {
			return nil, err
		}
		for _, s := range samples {
			if s.Name == "floe_shards_led" {
				led[i] = int(s.Value)
			}
		}
	}
	return led, nil
}

// TestRollingRestart restarts every agent in turn.
func TestRollingRestart(t *testing.T) {
	f := newFleet(t)
	f.floe.Start()
	f.begin()
	shell := startKcat(t, f.floe.Addrs())
	for round := range *rounds {
		for i := range 3 {
			s := f.restart(i, fmt.Sprintf("restart of agent %d, round %d", i, round+1))
			if n := s.unanswered("Produce"); n > 0 {
				t.Errorf("%d produce requests were left without an answer", n)
			}
		}
	}
	shell.finish()
	f.load.finish()
}

// TestScaleOutAndIn starts with one agent, goes to three and back.
func TestScaleOutAndIn(t *testing.T) {
	f := newFleet(t)
	f.floe.StartProcess(0)
	f.begin()
	for i := 1; i < 3; i++ {
		served := f.run(i)
		balanced := f.balanced(i + 1)
		f.load.awaitAcks(time.Now())
		f.rest()
		f.report(fmt.Sprintf("%d agents", i+1))
		t.Logf("%-28s serves %v after its start, leads its share %v later", "", round(served), round(balanced))
	}
	for i := 2; i > 0; i-- {
		drained := f.stop(i)
		f.load.awaitAcks(time.Now())
		f.rest()
		s := f.report(fmt.Sprintf("%d agents again", i))
		t.Logf("%-28s drained in %v", "", round(drained))
		if n := s.unanswered("Produce"); n > 0 {
			t.Errorf("%d produce requests were left without an answer", n)
		}
	}
	f.load.finish()
}
