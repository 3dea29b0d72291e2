package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/floelog/floe/agent/produce"
	"github.com/floelog/floe/compaction"
	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/membership"
)

// life is what an agent does under one session: it leads, it takes batches, it tidies up.
// When the session is lost, all of it ends and the agent begins another life.
type life struct {
	session    *membership.Session
	pipeline   *produce.Pipeline
	leadership *leadership
}

const (
	// sessionRetry is the pause between attempts to register.
	sessionRetry = 500 * time.Millisecond
	// abandonAfter is how long a pipeline whose session was lost may still wait for answers:
	// its submissions cannot be committed any more.
	abandonAfter = 2 * time.Second
	// watermarkEvery is how often the session's upload low watermark is brought up to date.
	watermarkEvery = time.Second
)

// begin registers the agent and starts a life, or returns an error that a retry may cure,
// except ErrNodeIDTaken.
func (a *Agent) begin(ctx context.Context) (*life, error) {
	session, err := membership.Start(ctx, a.parts.Meta, a.keys, membership.SessionConfig{
		TTL: a.cfg.LeaseTTL, NodeID: membership.NodeID(a.node), Address: a.cfg.Advertise, RPCAddress: a.cfg.RPCAdvertise,
		Zone: a.cfg.Zone, Version: a.cfg.Version, Log: a.parts.Log,
	})
	if err != nil {
		return nil, err
	}
	a.node = int32(session.NodeID())
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
		Carry:      a.carrier.take,
		InlineRoom: a.inlineRoom,
	})
	l.leadership = &leadership{
		self: l.session.NodeID(), set: a.set, agents: a.agents, session: l.session,
		log: a.parts.Log, settled: make(chan struct{}),
	}
}

// live runs a life until the session is lost or ctx ends; then it drains, as far as that
// is still possible, within the time that ctx's end allows (Config.DrainTimeout).
func (a *Agent) live(ctx context.Context, l *life) {
	a.current.Store(l)
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	var tasks sync.WaitGroup
	duties, endDuties := context.WithCancel(work)
	tasks.Go(func() { l.leadership.run(duties) })
	tasks.Go(func() { a.keepHouse(duties, l) })
	tasks.Go(func() { a.rollUp(duties, l) })
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
		a.parts.Log.Error("the session was lost; this agent registers again", "node", a.node, "err", l.session.Err())
		a.current.CompareAndSwap(l, nil)
		endDuties()
		tasks.Wait()
		a.abandon(l)
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
	a.endSession(l)
}

// endSession gives the registration up at once, if the metadata store can be reached.
func (a *Agent) endSession(l *life) {
	ctx, cancel := context.WithTimeout(context.Background(), abandonAfter)
	defer cancel()
	if err := l.session.Close(ctx); err != nil {
		a.parts.Log.Info("the session's lease ends by itself", "err", err)
	}
}

// drain finishes what clients asked for, hands leadership over and ends the session, in
// this order, so that no request fails and no other agent has to wait for a lease.
func (a *Agent) drain(l *life, endDuties func()) {
	ctx, cancel := context.WithTimeout(context.Background(), a.cfg.DrainTimeout)
	defer cancel()
	a.parts.Log.Info("draining", "timeout", a.cfg.DrainTimeout)
	a.setDraining()
	a.reader.Hurry()
	var errs []error
	if a.server != nil {
		if err := a.server.Shutdown(ctx); err != nil {
			errs = append(errs, fmt.Errorf("closing connections: %w", err))
		}
	}
	if err := l.pipeline.Close(ctx); err != nil {
		errs = append(errs, fmt.Errorf("finishing batches: %w", err))
	}
	endDuties()
	l.leadership.releaseAll(ctx)
	if a.peerServer != nil {
		a.peerServer.Stop(ctx)
	}
	if err := l.session.Close(ctx); err != nil {
		errs = append(errs, fmt.Errorf("ending the session: %w", err))
	}
	if err := errors.Join(errs...); err != nil {
		a.parts.Log.Warn("draining was not complete", "err", err)
	}
}

// rollUp moves inline extents into segments from time to time.
func (a *Agent) rollUp(ctx context.Context, l *life) {
	r := compaction.NewRollup(compaction.RollupConfig{Age: a.cfg.RollupAge, Bytes: a.cfg.RollupBytes, Cluster: a.clusterID, Carry: a.carrier.take},
		a.set, l.pipeline, a.parts.Objects, l.session.ID(), time.Now, a.parts.Log)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := r.Tick(ctx); err != nil && ctx.Err() == nil && !errors.Is(err, metadata.ErrFenced) {
			a.parts.Log.Warn("a roll-up failed; it is tried again", "err", err)
		}
	}
}
