package agent

import (
	"context"
	"sync"
	"time"

	"github.com/floelog/floe/compaction"
	"github.com/floelog/floe/compaction/job"
)

// rollupEvery is how often inline extents are looked at. Looking costs no request.
const rollupEvery = time.Second

// jobs is what all jobs of a life share; see compaction/job.
type jobs struct {
	journals job.Journals
	claims   *claims
	policies *policies
	writer   *job.Writer
	pace     *job.Pace
}

// newJobs makes it, once the life's pipeline exists, which numbers segments.
func (a *Agent) newJobs(l *life) *jobs {
	j := &jobs{
		journals: journals{Set: a.set, q: a.questions, session: l.session},
		claims:   a.newClaims(l.session),
		policies: newPolicies(a.catalogue, a.cfg.Kafka.TopicDefaults),
		pace:     job.NewPace(a.cfg.JobsRate, a.isBusy, time.Now),
	}
	if a.parts.Jobs != nil {
		j.journals = a.parts.Jobs(j.journals, l.pipeline)
	}
	j.writer = &job.Writer{
		Journals: j.journals, Segments: l.pipeline, Objects: a.parts.Objects, Cluster: a.clusterID,
		Now: time.Now, Carrier: &a.carrier, Tail: a.cache,
	}
	return j
}

// isBusy reports whether clients' requests fill half of the memory that they may: they wait for
// uploads then, and jobs would make them wait longer.
func (a *Agent) isBusy() bool { return a.budget.InUse() > a.budget.Size()/2 }

// runJobs starts the tasks of all jobs; they end with ctx.
func (a *Agent) runJobs(ctx context.Context, l *life, tasks *sync.WaitGroup) {
	tasks.Go(func() { l.jobs.claims.run(ctx) })
	tasks.Go(func() { a.rollUp(ctx, l) })
	tasks.Go(func() { a.merge(ctx, l) })
	tasks.Go(func() { a.clean(ctx, l) })
	tasks.Go(func() { a.sweep(ctx, l) })
	tasks.Go(func() { a.retain(ctx, l) })
}

// rollUp moves inline extents into segments from time to time.
func (a *Agent) rollUp(ctx context.Context, l *life) {
	r := compaction.NewRollup(compaction.RollupConfig{Age: a.cfg.RollupAge, Bytes: a.cfg.RollupBytes}, a.set, l.jobs.writer, time.Now)
	a.often(ctx, "roll-up", rollupEvery, r.Tick)
}
