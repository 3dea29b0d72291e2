package agent

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/floelog/floe/compaction"
	"github.com/floelog/floe/compaction/job"
	"github.com/floelog/floe/metadata"
)

// rollupEvery is how often inline extents are looked at. Looking costs no request.
const rollupEvery = time.Second

// jobs is what all jobs of a life share; see compaction/job.
type jobs struct {
	journals journals
	claims   *claims
	policies *policies
	writer   *job.Writer
}

// newJobs makes it, once the life's pipeline exists, which numbers segments.
func (a *Agent) newJobs(l *life) *jobs {
	j := &jobs{
		journals: journals{Set: a.set, q: a.questions, session: l.session.ID()},
		claims:   a.newClaims(l.session),
		policies: newPolicies(a.catalogue, a.cfg.Kafka.TopicDefaults),
	}
	j.writer = &job.Writer{
		Journals: j.journals, Segments: l.pipeline, Objects: a.parts.Objects, Cluster: a.clusterID,
		Now: time.Now, Carrier: &a.carrier, Tail: a.cache,
	}
	return j
}

// runJobs starts the tasks of all jobs; they end with ctx.
func (a *Agent) runJobs(ctx context.Context, l *life, tasks *sync.WaitGroup) {
	tasks.Go(func() { l.jobs.claims.run(ctx) })
	tasks.Go(func() { a.rollUp(ctx, l) })
	tasks.Go(func() { a.clean(ctx, l) })
	tasks.Go(func() { a.sweep(ctx, l) })
	tasks.Go(func() { a.retain(ctx, l) })
}

// rollUp moves inline extents into segments from time to time.
func (a *Agent) rollUp(ctx context.Context, l *life) {
	r := compaction.NewRollup(compaction.RollupConfig{Age: a.cfg.RollupAge, Bytes: a.cfg.RollupBytes}, a.set, l.jobs.writer, time.Now)
	tick := time.NewTicker(rollupEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := r.Tick(ctx); err != nil && ctx.Err() == nil && !errors.Is(err, metadata.ErrSessionDead) {
			a.parts.Log.Warn("a roll-up failed; it is tried again", "err", err)
		}
	}
}
