//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/floelog/floe/cmd/floe/planted"
	"github.com/floelog/floe/integration/fixture/program"
	"github.com/floelog/floe/integration/history"
	"github.com/floelog/floe/integration/torture/check"
	"github.com/floelog/floe/integration/torture/fault"
	"github.com/floelog/floe/integration/torture/load"
	"github.com/floelog/floe/integration/torture/rig"
)

const (
	// A planted bug's faults come in short mixes: what it needs happens as faults begin and end.
	plantedMix  = 8 * time.Second
	plantedCalm = 4 * time.Second
	// plantedSweep is how often it is looked whether the bug has been caught.
	plantedSweep = time.Second
	// plantedEnd is how long clients of clusters that are gone may take to give up: longer than they retry.
	plantedEnd = 40 * time.Second
	// ended is the kind of a process that ended by itself.
	ended history.Kind = "ended"
)

// plantedLoad is one whose clients come and go, and that does not wait long.
func plantedLoad() load.Config {
	cfg := load.Default()
	cfg.Small, cfg.Large, cfg.Crash, cfg.Rotate = 600, 2<<20, 4*time.Second, 20*time.Second
	cfg.StuckLimit, cfg.FinalLimit = 20*time.Second, 45*time.Second
	return cfg
}

// caught is what became of a planted bug.
type caught struct {
	bug     planted.Bug
	as      []history.Kind
	example string
	after   time.Duration // since the load began
	err     error
}

// ok reports whether the bug was found as what it is, or nothing where there is none.
func (c *caught) ok() bool {
	if c.bug.Name == planted.None {
		return c.err == nil && len(c.as) == 0
	}
	return slices.ContainsFunc(c.as, func(k history.Kind) bool { return slices.Contains(c.bug.Kinds, string(k)) })
}

// caught reports whether there was a bug, and it has been found.
func (c *caught) caught() bool { return c.bug.Name != planted.None && c.ok() }

// errMissed says that a planted bug was not caught.
var errMissed = errors.New("planted bugs were not caught")

// plantBugs runs a cluster with each of the bugs until it is caught, and prints what they were caught as.
func plantBugs(ctx context.Context, o options) error {
	bugs, err := planted.Find(strings.Split(o.planted, ",")...)
	if err != nil {
		return err
	}
	if o.floe == "" {
		floe, err := buildPlanted(ctx)
		if err != nil {
			return err
		}
		defer os.RemoveAll(filepath.Dir(floe)) // in the cache folder, which may keep it
		o.floe = floe
	}
	var missed []string
	var ending sync.WaitGroup // loads, whose clients take a while to give up
	defer awaitEnds(&ending)
	for _, b := range bugs {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		c := o.catch(ctx, b, &ending)
		if !c.ok() {
			missed = append(missed, b.Name)
		}
		fmt.Println(c)
	}
	fmt.Printf("%d of %d are as they must be\n", len(bugs)-len(missed), len(bugs))
	if len(missed) > 0 {
		return fmt.Errorf("%w: %s", errMissed, strings.Join(missed, ", "))
	}
	return nil
}

// awaitEnds waits for loads. A bug may keep a client from ending at all; that client ends with this process.
func awaitEnds(ending *sync.WaitGroup) {
	done := make(chan struct{})
	go func() { // ends with the loads
		ending.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(plantedEnd):
	}
}

// buildPlanted builds the agents with all bugs, into a folder of its own.
func buildPlanted(ctx context.Context) (string, error) {
	root, err := program.Root()
	if err != nil {
		return "", err
	}
	cache := filepath.Join(root, ".cache")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp(cache, "planted-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "floe")
	cmd := exec.CommandContext(ctx, "go", "build", "-tags", "planted", "-o", path, "./cmd/floe")
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", errors.Join(fmt.Errorf("build floe with planted bugs: %w\n%s", err, out), os.RemoveAll(dir))
	}
	return path, nil
}

// String is a line of the table.
func (c *caught) String() string {
	as := make([]string, len(c.as))
	for i, k := range c.as {
		as[i] = string(k)
	}
	switch {
	case c.bug.Name == planted.None && c.ok():
		return fmt.Sprintf("%-24s %6.1fs  nothing was found, as it must be", c.bug.Name, c.after.Seconds())
	case c.err != nil:
		return fmt.Sprintf("%-24s NOT RUN: %v", c.bug.Name, c.err)
	case !c.ok():
		return fmt.Sprintf("%-24s NOT CAUGHT after %v (%s) %s", c.bug.Name, c.after.Round(100*time.Millisecond), strings.Join(as, ", "), c.example)
	}
	return fmt.Sprintf("%-24s %6.1fs  %s: %.200s", c.bug.Name, c.after.Seconds(), strings.Join(as, ", "), c.example)
}

// catch runs a cluster with a bug until it is caught or the time is over and everything has been read.
func (o options) catch(ctx context.Context, b planted.Bug, ending *sync.WaitGroup) *caught {
	out := &caught{bug: b}
	var faults []fault.Fault
	if len(b.Faults) > 0 { // of no names, all would be found
		var err error
		if faults, err = fault.Find(b.Faults...); err != nil {
			out.err = err
			return out
		}
	}
	c, err := rig.Start(ctx, rig.Config{Seed: o.seed, Floe: o.floe, Logs: o.logs, Args: strings.Fields(o.args), Env: []string{planted.Variable + "=" + b.Name}})
	if err != nil {
		out.err = err
		return out
	}
	a := &attempt{options: o, cluster: c, faults: faults, begun: time.Now()}
	if b.AtEnd > 0 {
		a.length = min(o.length, b.AtEnd)
	}
	a.plan = plantedPlan(b, a.length, o.seed)
	out.err = errors.Join(a.catch(ctx, out, ending), c.Stop())
	return out
}

// plantedPlan has all of a bug's faults on again and again, with pauses in between.
func plantedPlan(b planted.Bug, length time.Duration, seed uint64) (plan []fault.Window) {
	if len(b.Faults) == 0 {
		return []fault.Window{{Length: length}}
	}
	for at := time.Duration(0); at < length; at += plantedMix + plantedCalm {
		w := fault.Window{Length: plantedMix}
		for i, id := range b.Faults {
			w.Shots = append(w.Shots, fault.Shot{Fault: id, Target: fault.Target(len(plan) / 2 % 3), Seed: seed + uint64(100*len(plan)+i)})
		}
		plan = append(plan, w, fault.Window{Length: plantedCalm})
	}
	return plan
}

// catch is underLoad of a planted bug.
func (a *attempt) catch(ctx context.Context, out *caught, ending *sync.WaitGroup) error {
	file, err := os.Create(filepath.Join(a.cluster.Dir(), "history"))
	if err != nil {
		return err
	}
	defer file.Close() // removed with the cluster
	rec := check.NewRecorder(bufio.NewWriterSize(file, 1<<20), func() time.Duration { return time.Since(a.begun) })
	cfg := plantedLoad()
	cfg.Agents, cfg.Seed = a.cluster.Bootstrap(), a.seed
	l, err := load.Start(ctx, rec, cfg)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	driven, settled := make(chan struct{}), make(chan struct{})
	ending.Go(func() {
		fault.Drive(ctx, a.cluster, a.faults, a.plan, func(e fault.Event) { a.tellIf(rec, e) })
		close(driven)
		if ctx.Err() == nil && out.bug.AtEnd > 0 {
			l.Settle(ctx)
		} else {
			l.Close()
		}
		close(settled)
	})
	over := driven
	if out.bug.AtEnd > 0 {
		over = settled
	}
	whole := a.awaitCaught(ctx, out, rec, over)
	cancel()
	<-driven // the cluster is nobody's from here on
	switch {
	case out.bug.AtEnd > 0 && whole: // what only the end shows
		v, err := rec.End()
		if err != nil {
			return err
		}
		a.found(out, v.Report.Anomalies)
	case out.bug.Name == planted.None:
		return errors.New("the control was not read to its end")
	}
	return nil
}

// awaitCaught waits until the bug is caught, or until over is closed: then it returns true.
func (a *attempt) awaitCaught(ctx context.Context, out *caught, rec *check.Recorder, over <-chan struct{}) bool {
	ticks := time.NewTicker(plantedSweep)
	defer ticks.Stop()
	for {
		select {
		case <-over:
			return ctx.Err() == nil
		case <-ctx.Done():
			return false
		case <-ticks.C:
			if a.found(out, rec.Sweep().Anomalies); out.caught() {
				return false
			}
		}
	}
}

// tellIf shows what happens to the cluster, if it was asked for.
func (a *attempt) tellIf(rec *check.Recorder, e fault.Event) {
	if a.verbose {
		a.tell(rec, e)
	}
}

// found notes what was found by now.
func (a *attempt) found(out *caught, anomalies map[history.Kind]*history.Anomaly) {
	out.after = time.Since(a.begun)
	out.as = slices.Sorted(maps.Keys(anomalies))
	for _, k := range out.as {
		if out.example == "" || slices.Contains(out.bug.Kinds, string(k)) {
			out.example = anomalies[k].Examples[0]
		}
	}
	if ends := a.cluster.UnexpectedEnds(); len(ends) > 0 {
		out.as = append(out.as, ended)
		if out.example == "" {
			out.example = ends[0]
		}
	}
}
