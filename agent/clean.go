package agent

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/floelog/floe/compaction/clean"
	"github.com/floelog/floe/compaction/retain"
	"github.com/floelog/floe/compaction/sweep"
)

// smallCleans is how many looks for work a partition with little to compact waits between
// two passes: ten minutes of the default interval. Fewer would be felt in the bill.
const smallCleans = 40

// clean compacts partitions of the shards that this agent claims until ctx ends.
func (a *Agent) clean(ctx context.Context, l *life) {
	c := clean.New(clean.Config{
		Memory: a.cfg.CleanMemory, RunBytes: a.cfg.MergeTarget, MinBytes: a.cfg.CleanMinBytes, SmallAfter: smallCleans * a.cfg.CleanEvery,
	}, clean.Parts{
		Journals: l.jobs.journals, Claims: l.jobs.claims, Policies: l.jobs.policies, Reader: a.cache, Manifests: a.manifests,
		Writer: l.jobs.writer, Pace: l.jobs.pace.Spend, Clock: a.newClock(l).Check, Now: time.Now, Log: a.parts.Log,
	})
	a.cleaning.follow(c.Stats)
	defer a.cleaning.follow(nil)
	a.often(ctx, "log compaction", a.cfg.CleanEvery, func(ctx context.Context) error {
		for {
			if more, err := c.Tick(ctx); err != nil || !more {
				return err
			}
		}
	})
}

// newClock returns a comparison of this agent's clock with the object store's, for one job.
func (a *Agent) newClock(l *life) *retain.Clock {
	began := time.Now()
	return &retain.Clock{
		Objects: a.parts.Objects, Now: time.Now, Passed: func() time.Duration { return time.Since(began) },
		Key: func() string { return sweep.ClockKey(l.session.ID(), nonce()) },
	}
}

// cleaning is what the metrics show of log compaction, over all lives of the agent. It is a
// prometheus.Collector; all methods may be called concurrently.
type cleaning struct {
	counters []cleanCounter
	due      *prometheus.Desc
	dirty    *prometheus.Desc
	last     *prometheus.Desc

	mu   sync.Mutex // guards the following
	past clean.Stats
	now  func() clean.Stats // of the life that is; nil: none
}

// cleanCounter is one counter and where its value is.
type cleanCounter struct {
	desc  *prometheus.Desc
	value func(clean.Stats) int64
}

func newCleaning(reg prometheus.Registerer) *cleaning {
	desc := func(name, help string) *prometheus.Desc { return prometheus.NewDesc(name, help, nil, nil) }
	c := &cleaning{
		counters: []cleanCounter{
			{desc("floe_clean_passes_total", "Passes of log compaction that came to their end."), func(s clean.Stats) int64 { return s.Passes }},
			{desc("floe_clean_full_total", "Passes whose keys did not all fit in clean-memory."), func(s clean.Stats) int64 { return s.Full }},
			{desc("floe_clean_races_total", "Runs of extents that another job had replaced first."), func(s clean.Stats) int64 { return s.Races }},
			{desc("floe_clean_failures_total", "Passes of log compaction that failed."), func(s clean.Stats) int64 { return s.Failures }},
			{desc("floe_clean_read_bytes_total", "Bytes of record batches read by log compaction."), func(s clean.Stats) int64 { return s.Read }},
			{desc("floe_clean_in_bytes_total", "Bytes of extents that log compaction replaced."), func(s clean.Stats) int64 { return s.BytesIn }},
			{desc("floe_clean_out_bytes_total", "Bytes of what took their place."), func(s clean.Stats) int64 { return s.BytesOut }},
		},
		due:   desc("floe_clean_due", "Partitions that were due for compaction when last looked at."),
		dirty: desc("floe_clean_max_dirty_ratio", "Greatest share of a compacted partition that was not compacted when last looked at."),
		last:  desc("floe_clean_last_run_seconds", "When log compaction last looked for work, seconds since 1970."),
	}
	reg.MustRegister(c)
	return c
}

// follow shows the given cleaner from now on, and what those before it did.
func (c *cleaning) follow(now func() clean.Stats) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.past = c.statsLocked()
	c.now = now
}

// statsLocked returns the sum of all lives.
func (c *cleaning) statsLocked() clean.Stats {
	s := c.past
	if c.now == nil {
		return s
	}
	n := c.now()
	s.Passes += n.Passes
	s.Full += n.Full
	s.Races += n.Races
	s.Failures += n.Failures
	s.BytesIn += n.BytesIn
	s.BytesOut += n.BytesOut
	s.Read += n.Read
	s.Due, s.MaxDirty, s.LastRun = n.Due, n.MaxDirty, n.LastRun
	return s
}

// Describe implements prometheus.Collector.
func (c *cleaning) Describe(out chan<- *prometheus.Desc) {
	for _, x := range c.counters {
		out <- x.desc
	}
	out <- c.due
	out <- c.dirty
	out <- c.last
}

// Collect implements prometheus.Collector.
func (c *cleaning) Collect(out chan<- prometheus.Metric) {
	c.mu.Lock()
	s := c.statsLocked()
	c.mu.Unlock()
	for _, x := range c.counters {
		out <- prometheus.MustNewConstMetric(x.desc, prometheus.CounterValue, float64(x.value(s)))
	}
	out <- prometheus.MustNewConstMetric(c.due, prometheus.GaugeValue, float64(s.Due))
	out <- prometheus.MustNewConstMetric(c.dirty, prometheus.GaugeValue, s.MaxDirty)
	if !s.LastRun.IsZero() {
		out <- prometheus.MustNewConstMetric(c.last, prometheus.GaugeValue, float64(s.LastRun.UnixMilli())/1000)
	}
}
