//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/floelog/floe/integration/torture/check"
	"github.com/floelog/floe/integration/torture/fault"
	"github.com/floelog/floe/integration/torture/report"
)

// What the load must reach while faults are on, unless -slow says that the machine cannot.
const (
	minOperations = 2000 // a second
	minBytes      = 20e6 // a second
)

// sweepEvery is how often a run looks whether it has found something already.
const sweepEvery = 10 * time.Second

// errFound is what a run ends with that has found anomalies.
var errFound = errors.New("violations were found")

// watch ends a run at the first anomaly, if that was asked for, and else shows each kind when
// it appears. It returns when ctx ends.
func (a *attempt) watch(ctx context.Context, rec *check.Recorder, end context.CancelCauseFunc) {
	known := map[string]bool{}
	ticks := time.NewTicker(sweepEvery)
	defer ticks.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticks.C:
		}
		r := rec.Sweep()
		for _, kind := range slices.Sorted(maps.Keys(r.Anomalies)) {
			if !known[string(kind)] {
				known[string(kind)] = true
				a.say("FOUND %s: %s", kind, r.Anomalies[kind].Examples[0])
			}
		}
		if a.untilCaught && len(r.Anomalies) > 0 {
			end(errFound)
			return
		}
	}
}

// judge puts the report together, prints it, and returns what fails the run.
func (a *attempt) judge(v check.Verdict, run report.Run) error {
	run.Seed, run.Began = a.seed, a.begun
	run.Errors = append(run.Errors, a.cluster.UnexpectedEnds()...)
	if !a.slow {
		run.MinOps, run.MinBytes = minOperations, minBytes
	}
	return publish(report.New(run, v), a.out)
}

// publish prints a report and, if there is a folder, keeps it there.
func publish(r *report.Report, folder string) error {
	if err := r.Text(os.Stdout); err != nil {
		return err
	}
	if folder != "" {
		f, err := os.Create(filepath.Join(folder, "report.json"))
		if err != nil {
			return err
		}
		if err := errors.Join(r.JSON(f), f.Close()); err != nil {
			return err
		}
	}
	switch {
	case len(r.Anomalies) > 0:
		return fmt.Errorf("%w: see the report", errFound)
	case !r.Passed:
		return errors.New("the run did not pass: see the report")
	}
	return nil
}

// planned is what a report says of a plan that was carried out.
func (a *attempt) planned(outcome *fault.Outcome, length time.Duration) report.Run {
	run := report.Run{Length: length, Elsewhere: fault.Elsewhere(), Short: a.untilCaught}
	for _, f := range a.faults {
		run.Faults = append(run.Faults, report.Fault{ID: f.ID(), Name: f.Name(), Fired: outcome.Fired[f.ID()], Mixes: outcome.On[f.ID()]})
	}
	for _, w := range a.plan {
		mix := ""
		for _, s := range w.Shots {
			mix += fmt.Sprintf("%s(%v) ", s.Fault, s.Target)
		}
		run.Mixes = append(run.Mixes, mix)
	}
	for _, err := range outcome.Errors {
		run.Errors = append(run.Errors, err.Error())
	}
	return run
}

// again judges a history that an earlier run has kept.
func again(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	v, damaged := check.File(f)
	run := report.Run{Length: v.Stats.End}
	for _, span := range v.Stats.Faults {
		// Of mixes nobody can say which fault was felt.
		if _, err := fault.Find(span.Name); err != nil && !slices.Contains(run.Measured, span.Name) {
			run.Measured = append(run.Measured, span.Name)
		}
	}
	return errors.Join(publish(report.New(run, v), ""), damaged)
}
