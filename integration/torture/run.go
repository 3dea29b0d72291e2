//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/floelog/floe/integration/torture/check"
	"github.com/floelog/floe/integration/torture/fault"
	"github.com/floelog/floe/integration/torture/load"
	"github.com/floelog/floe/integration/torture/report"
	"github.com/floelog/floe/integration/torture/rig"
)

// attempt is one run on one cluster.
type attempt struct {
	options
	cluster *rig.Cluster
	faults  []fault.Fault
	plan    []fault.Window
	begun   time.Time

	mu sync.Mutex // against lines in each other
}

func (a *attempt) say(format string, args ...any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	fmt.Printf("%8.2f "+format+"\n", append([]any{time.Since(a.begun).Seconds()}, args...)...)
}

// patience returns how long something may take after the end that may take d where the machine has nothing else to do.
// What is stuck for ever is found all the same.
func (a *attempt) patience(d time.Duration) time.Duration {
	const slower = 3 // more would let a run that hangs take all of a session's time
	if a.slow {
		return slower * d
	}
	return d
}

// underLoad fires the plan while clients work, has everything read, and judges.
func (a *attempt) underLoad(ctx context.Context) error {
	folder := a.out
	if folder == "" {
		folder = a.cluster.Dir()
	}
	file, err := os.Create(filepath.Join(folder, "history"))
	if err != nil {
		return err
	}
	defer file.Close() // written to and flushed before; what is lost is said by End
	w := bufio.NewWriterSize(file, 1<<20)
	rec := check.NewRecorder(w, func() time.Duration { return time.Since(a.begun) })
	cfg := load.Default()
	cfg.Agents, cfg.Seed = a.cluster.Bootstrap(), a.seed
	cfg.StuckLimit, cfg.FinalLimit = a.patience(cfg.StuckLimit), a.patience(cfg.FinalLimit)
	for i := range rig.Agents {
		cfg.Racks = append(cfg.Racks, rig.Zone(i))
	}
	l, err := load.Start(ctx, rec, cfg)
	if err != nil {
		return err
	}
	if err := l.Ready(ctx); err != nil {
		l.Close()
		return err
	}
	run, caught := a.torment(ctx, rec)
	if caught != nil {
		l.Close()
	} else {
		a.say("the load ends; everything is read")
		l.Settle(ctx)
		if err := a.audit(ctx, rec); err != nil {
			run.Errors = append(run.Errors, err.Error())
		}
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: what was not read yet is no loss, so nothing is judged", err)
	}
	verdict, err := rec.End()
	return errors.Join(err, w.Flush(), a.judge(verdict, run))
}

// torment does to the cluster what is planned. It ends early, with an error, if something was
// found and that is enough.
func (a *attempt) torment(ctx context.Context, rec *check.Recorder) (run report.Run, caught error) {
	ctx, end := context.WithCancelCause(ctx)
	var watching sync.WaitGroup
	watching.Go(func() { a.watch(ctx, rec, end) })
	if a.scenario != "" {
		run = a.recovery(ctx, rec)
	} else {
		outcome := fault.Drive(ctx, a.cluster, a.faults, a.plan, func(e fault.Event) { a.tell(rec, e) })
		run = a.planned(outcome, a.length)
	}
	caught = context.Cause(ctx)
	end(nil)
	watching.Wait()
	return run, caught
}

// tell puts what happens to the cluster into the history.
func (a *attempt) tell(rec *check.Recorder, e fault.Event) {
	a.say("mix %d %-6s %-4s %s", e.Window, e.What, e.Fault, e.Text)
	ev := check.Event{Op: check.OpFault, Who: fmt.Sprint(e.Window), Text: e.Fault}
	switch {
	case e.Fault != "" && e.What == fault.Began:
		ev.A = 1
		rec.Add(ev)
	case e.Fault != "" && e.What == fault.Ended:
		rec.Add(ev)
	default:
		rec.Note("nemesis", "mix %d %s %s %s", e.Window, e.What, e.Fault, e.Text)
	}
}

// lightly fires the plan beside a small load.
func (a *attempt) lightly(ctx context.Context) error {
	l, err := startLight(ctx, a.cluster)
	if err != nil {
		return err
	}
	outcome := fault.Drive(ctx, a.cluster, a.faults, a.plan, func(e fault.Event) {
		a.say("mix %d %-6s %-4s %s", e.Window, e.What, e.Fault, e.Text)
	})
	err = l.finish(ctx)
	a.say("%v", l)
	return errors.Join(ctx.Err(), err, a.fired(outcome))
}

// fired prints what was fired, and returns what fails a run apart from the history.
func (a *attempt) fired(outcome *fault.Outcome) error {
	for _, f := range a.faults {
		fmt.Printf("%-4s fired %5d times in %3d mixes: %s\n", f.ID(), outcome.Fired[f.ID()], outcome.On[f.ID()], f.Name())
	}
	errs := outcome.Errors
	if missed := outcome.Missed(a.faults); len(missed) > 0 {
		errs = append(errs, fmt.Errorf("%v never had an effect: this run has not tested them", missed))
	}
	for _, end := range a.cluster.UnexpectedEnds() {
		errs = append(errs, errors.New(end))
	}
	return errors.Join(errs...)
}
