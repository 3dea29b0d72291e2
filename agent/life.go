package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/floelog/floe/agent/produce"
	"github.com/floelog/floe/metadata/membership"
)

// life is what an agent does under one session: it leads, it takes batches, it tidies up.
// When the session is lost, all of it ends and the agent begins another life.
type life struct {
	session    *membership.Session
	pipeline   *produce.Pipeline
	leadership *leadership
	jobs       *jobs
	backup     backup // backUp's, until that has ended
}

const (
	// sessionRetry is the pause between attempts to register.
	sessionRetry = 500 * time.Millisecond
	// abandonAfter is how long a pipeline whose session was lost may still wait for answers:
	// its submissions cannot be committed any more, but some may have been. The next life waits for it.
	abandonAfter = 500 * time.Millisecond
	// endTime bounds the end of a session when an agent stops.
	endTime = 2 * time.Second
	// watermarkEvery is how often the session's upload low watermark is brought up to date.
	watermarkEvery = time.Second
)

// begin registers the agent, under the node id of its last life if that is free. The error
// is one that a retry may cure, except ErrNodeIDTaken.
//
// The keys of its last session, if that was lost, would be in its way for as long as the lease lives,
// which a metadata store that comes back extends: they are deleted first.
func (a *Agent) begin(ctx context.Context) (*life, error) {
	if a.past != nil {
		if err := a.past.Close(ctx); err != nil {
			return nil, err
		}
		a.past = nil
		if err := a.keepSecret(ctx); err != nil {
			return nil, err
		}
	}
	cfg := membership.SessionConfig{
		TTL: a.cfg.LeaseTTL, NodeID: membership.NodeID(a.cfg.NodeID), Address: a.cfg.Advertise, RPCAddress: a.cfg.RPCAdvertise,
		Zone: a.cfg.Zone, Roles: a.cfg.Roles, Version: a.cfg.Version, Listeners: a.advertised(), Log: a.parts.Log,
	}
	if last := a.node.Load(); last != 0 {
		cfg.NodeID = membership.NodeID(last) // clients know this agent by it
	}
	session, err := membership.Start(ctx, watchedLease{a.parts.Meta, &a.doctor.lease, a.cfg.LeaseTTL}, a.keys, cfg)
	if errors.Is(err, membership.ErrNodeIDTaken) && a.cfg.NodeID == 0 {
		cfg.NodeID = 0 // another agent got it meanwhile: any other will do
		session, err = membership.Start(ctx, watchedLease{a.parts.Meta, &a.doctor.lease, a.cfg.LeaseTTL}, a.keys, cfg)
	}
	if err != nil {
		return nil, err
	}
	a.node.Store(int32(session.NodeID()))
	return &life{session: session}, nil
}

// start fills in what needs the parts that exist once per agent.
func (a *Agent) start(l *life) {
	l.pipeline = produce.New(produce.Config{
		FlushBytes: a.cfg.FlushBytes, FlushAge: a.cfg.FlushAge, FlushIdle: a.cfg.FlushIdle,
		Uploads: a.cfg.Uploads, UploadTime: uploadTime,
		InlineMax: a.cfg.InlineMax, InlineRate: a.cfg.InlineRate, ClusterID: a.clusterID,
	}, produce.Parts{
		Objects: a.parts.Objects, Sequence: a.sequencer, Tail: a.cache, Session: l.session.ID(),
		Shards: a.set.NumShards(), Now: time.Now, Log: a.parts.Log, Observe: a.metrics,
		Carrier:    &a.carrier,
		InlineRoom: a.inlineRoom,
		StoreDown:  a.sky.StoreDown, Shed: a.sky.Shed,
	})
	l.leadership = newLeadership(a.placing, l.session, a.parts.Log)
	l.jobs = a.newJobs(l)
}

// live runs a life until the session is lost or ctx ends; then it drains, as far as that
// is still possible, within the time that ctx's end allows (Config.DrainTimeout).
func (a *Agent) live(ctx context.Context, l *life) {
	a.current.Store(l)
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	var tasks sync.WaitGroup
	duties, endDuties := context.WithCancel(work)
	tasks.Go(func() { l.leadership.run(duties, work) })
	tasks.Go(func() { a.keepHouse(duties, l) })
	a.runJobs(duties, l, &tasks)
	tasks.Go(func() { a.raiseLevels(duties) })
	tasks.Go(func() { a.carry(duties, l) })
	tasks.Go(func() { a.backUp(duties, l) })
	tasks.Go(func() { a.balance(duties) })
	tasks.Go(func() {
		select {
		case <-l.leadership.settled:
			a.setReady()
		case <-duties.Done():
		}
	})
	select {
	case <-ctx.Done():
		a.drain(l, func() {
			endDuties()
			tasks.Wait()
		})
	case <-l.session.Lost():
		a.doctor.lostSession()
		a.parts.Log.Error("the session was lost; this agent registers again", "node", a.node.Load(), "err", l.session.Err())
		a.current.CompareAndSwap(l, nil)
		endDuties()
		tasks.Wait()
		a.storeLast(ctx, l, lastWords)
		a.abandon(l)
		a.storeLast(ctx, l, lastWords)
	}
	endDuties()
	stop()
}

// abandon ends a pipeline that can commit nothing any more.
func (a *Agent) abandon(l *life) {
	ctx, cancel := context.WithTimeout(context.Background(), abandonAfter)
	defer cancel()
	if err := l.pipeline.Close(ctx); err != nil {
		a.parts.Log.Warn("batches were abandoned with the lost session; their producers try again", "err", err)
	}
	a.past = l.session
}

// drain sends producers to other agents, where there are any, finishes what clients asked
// for, hands leadership over and ends the session, so that no request fails or is left
// without an answer, and no other agent has to wait for a lease. Each step has its own
// time: clients that take their answers slowly cannot use up that of the others.
func (a *Agent) drain(l *life, endDuties func()) {
	a.parts.Log.Info("draining", "timeout", a.cfg.DrainTimeout)
	a.setDraining()
	var errs []error
	step := func(what string, limit time.Duration, f func(context.Context) error) {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		if err := f(ctx); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", what, err))
		}
	}
	endDuties()
	if a.others(l) {
		step("sending clients elsewhere", a.cfg.DrainTimeout/4, func(ctx context.Context) error { return a.sendAway(ctx, l) })
	}
	a.reader.Hurry()
	if a.server != nil {
		step("closing connections", a.cfg.DrainTimeout/4, a.server.Shutdown)
	}
	step("finishing batches", a.cfg.DrainTimeout/4, l.pipeline.Close)
	a.lastBackup(context.Background(), l)
	step("handing over", a.cfg.DrainTimeout/4, func(ctx context.Context) error {
		l.leadership.releaseAll(ctx)
		if a.peerServer != nil {
			a.peerServer.Stop(ctx)
		}
		return nil
	})
	a.storeLast(context.Background(), l, carryTimeout)
	step("ending the session", endTime, l.session.Close)
	if err := errors.Join(errs...); err != nil {
		a.parts.Log.Warn("draining was not complete", "err", err)
	}
}

// others reports whether other agents can take over.
func (a *Agent) others(l *life) bool { return hasOthers(a.agents.View(), l.session.NodeID()) }
