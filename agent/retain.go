package agent

import (
	"context"
	"time"

	"github.com/floelog/floe/compaction/retain"
	"github.com/floelog/floe/compaction/sweep"
)

// policyPause gathers changes of topics before retention looks at all partitions. Shorter:
// many topics that are created together cost a look each. Longer: a change is felt late.
const policyPause = time.Second

// retain trims what topics do not keep, on the shards that this agent leads: from time to
// time, and when topics change.
func (a *Agent) retain(ctx context.Context, l *life) {
	started := time.Now()
	k := retain.New(retain.Parts{
		Shards: a.set, Policies: l.jobs.policies, Manifests: a.manifests, Objects: a.parts.Objects,
		Clock: &retain.Clock{
			Objects: a.parts.Objects, Now: time.Now, Passed: func() time.Duration { return time.Since(started) },
			Key:      func() string { return sweep.ClockKey(l.session.ID(), nonce()) },
			Compared: func(ahead time.Duration) { a.doctor.skew.Store(int64(ahead)) },
		},
		Fresh: a.freshTopics, Now: time.Now, Log: a.parts.Log, Observe: a.tidying.kept,
	})
	tick := time.NewTicker(a.cfg.RetentionInterval)
	defer tick.Stop()
	topics := a.catalogue.View()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-topics.Changed():
			if !sleep(ctx, min(policyPause, a.cfg.RetentionInterval)) {
				return
			}
		}
		topics = a.catalogue.View()
		if err := k.Tick(ctx); err != nil && ctx.Err() == nil {
			a.parts.Log.Warn("retention could not look at all partitions; it does so again", "err", err)
		}
	}
}

// freshTopics waits until this agent knows every change of topics that was made before.
func (a *Agent) freshTopics(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	return a.catalogue.Fresh(ctx)
}

// kept counts one round of retention.
func (t *tidying) kept(r retain.Report) {
	t.trimmed.Add(float64(r.Records))
	t.expired.Add(float64(r.Bytes))
	t.skewed.Set(float64(oneIf(r.Skewed)))
}
