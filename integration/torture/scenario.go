//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/floelog/floe/integration/torture/check"
	"github.com/floelog/floe/integration/torture/report"
	"github.com/floelog/floe/integration/torture/rig"
)

// The times of the recovery scenario.
const (
	down = 2 * rig.LeaseTTL // how long what was killed or paused stays so: its leases end meanwhile
	calm = 12 * time.Second // between two events, so that each is felt alone
)

// loss is something that is lost for a while, and comes back.
type loss struct {
	name   string
	times  int
	length time.Duration
	lose   func(ctx context.Context, r *rand.Rand) (restore func(context.Context) error, err error)
}

// losses are the events whose recovery times are measured, one after the other.
func (a *attempt) losses() []loss {
	c := a.cluster
	agent := func(r *rand.Rand) *rig.Agent { return c.Agents()[r.IntN(rig.Agents)] }
	kill := func(p *rig.Process) (func(context.Context) error, error) {
		if !p.Kill() {
			return nil, fmt.Errorf("%s did not run", p.Name())
		}
		return p.Start, nil
	}
	leader := func(ctx context.Context) (func(context.Context) error, error) {
		m, err := c.Leader(ctx)
		if err != nil {
			return nil, err
		}
		return kill(c.Members()[m].Process)
	}
	return []loss{
		{"agent killed", a.repeat, down, func(_ context.Context, r *rand.Rand) (func(context.Context) error, error) {
			return kill(agent(r).Process)
		}},
		{"agent paused", a.repeat, down, func(ctx context.Context, r *rand.Rand) (func(context.Context) error, error) {
			p := agent(r).Process
			if !p.Pause(ctx) {
				return nil, fmt.Errorf("%s did not run", p.Name())
			}
			return func(context.Context) error { p.Resume(); return nil }, nil
		}},
		{"etcd leader lost", a.repeat, down, func(ctx context.Context, _ *rand.Rand) (func(context.Context) error, error) { return leader(ctx) }},
		{"agent and etcd leader", a.repeat, down, func(ctx context.Context, r *rand.Rand) (func(context.Context) error, error) {
			one, err := leader(ctx)
			if err != nil {
				return nil, err
			}
			two, err := kill(agent(r).Process)
			if err != nil {
				return one, err
			}
			return both(one, two), nil
		}},
		{"zone lost", a.repeat, down, func(_ context.Context, r *rand.Rand) (func(context.Context) error, error) {
			zone := r.IntN(rig.Agents) // its agent, and its member of etcd
			one, err := kill(c.Members()[zone].Process)
			if err != nil {
				return nil, err
			}
			two, err := kill(c.Agents()[zone].Process)
			if err != nil {
				return one, err
			}
			return both(one, two), nil
		}},
		{"store down", 1, a.outage, func(context.Context, *rand.Rand) (func(context.Context) error, error) { return kill(c.MinIO()) }},
		{"etcd down", 1, a.outage, func(context.Context, *rand.Rand) (func(context.Context) error, error) {
			for _, m := range c.Members() {
				m.Kill()
			}
			return func(ctx context.Context) error { return rig.StartMembers(ctx, c.Members()) }, nil
		}},
	}
}

func both(one, two func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error { return errors.Join(one(ctx), two(ctx)) }
}

// recovery carries the scenario out and says what a report needs of it.
func (a *attempt) recovery(ctx context.Context, rec *check.Recorder) report.Run {
	r := rand.New(rand.NewPCG(a.seed, 7))
	run := report.Run{}
	begun := time.Now()
	wait(ctx, calm)
	for _, l := range a.losses() {
		run.Measured = append(run.Measured, l.name)
		for i := range l.times {
			if ctx.Err() != nil {
				break
			}
			if err := a.lost(ctx, rec, l, fmt.Sprint(i), r); err != nil {
				run.Errors = append(run.Errors, fmt.Sprintf("%s: %v", l.name, err))
			}
		}
	}
	run.Length = time.Since(begun)
	return run
}

func (a *attempt) lost(ctx context.Context, rec *check.Recorder, l loss, which string, r *rand.Rand) error {
	a.say("%s, for %v", l.name, l.length)
	rec.Add(check.Event{Op: check.OpFault, Who: which, Text: l.name, A: 1})
	restore, err := l.lose(ctx, r)
	if err == nil {
		wait(ctx, l.length)
	}
	if restore != nil {
		err = errors.Join(err, restore(context.WithoutCancel(ctx)))
	}
	rec.Add(check.Event{Op: check.OpFault, Who: which, Text: l.name})
	a.say("%s: it is back", l.name)
	wait(ctx, calm)
	return err
}

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
