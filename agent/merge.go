package agent

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/floelog/floe/compaction"
	"github.com/floelog/floe/compaction/plan"
	"github.com/floelog/floe/metadata"
)

// maxJobPause bounds the pause after a job that failed again and again. Shorter: an object store
// that refuses only what jobs do is asked all the time. Longer: when an outage is over, inline bytes
// that fill the shards wait for their roll-up.
const maxJobPause = 3 * time.Second

// mergeEveryLeast bounds how often extents are looked at, which takes processor time where there
// are many partitions, even if they need not wait at all.
const mergeEveryLeast = 10 * time.Millisecond

// mergeSettings fills in the defaults of merging.
func mergeSettings(cfg *Config) {
	def := func(v *int64, d int64) {
		if *v == 0 {
			*v = d
		}
	}
	def(&cfg.MergeTarget, plan.DefaultTarget)
	def((*int64)(&cfg.MergeAge), int64(time.Minute))
	def((*int64)(&cfg.MergeEvery), int64(max(mergeEveryLeast, min(time.Second, cfg.MergeAge/4))))
	if cfg.ManifestExtents == 0 {
		cfg.ManifestExtents = plan.DefaultManifest
	}
}

// merge merges and archives extents of the shards that this agent claims until ctx ends.
func (a *Agent) merge(ctx context.Context, l *life) {
	m := compaction.NewMerger(compaction.MergeConfig{
		Rules: plan.Rules{Target: a.cfg.MergeTarget, Fan: plan.DefaultFan, Extents: plan.DefaultExtents, Manifest: a.cfg.ManifestExtents},
		Age:   a.cfg.MergeAge,
	}, compaction.MergeParts{
		Journals: l.jobs.journals, Claims: l.jobs.claims, Policies: l.jobs.policies, Reader: a.cache, Writer: l.jobs.writer,
		Pace: l.jobs.pace, Hot: a.cache.Has, Now: time.Now, Log: a.parts.Log,
		Sparse: a.questions.sparse.Load,
	})
	a.merging.follow(m.Stats)
	defer a.merging.follow(nil)
	a.often(ctx, "merging", a.cfg.MergeEvery, m.Tick)
}

// often calls tick every so often until ctx ends. After a failure it pauses, longer each time, and
// says so once, until it has worked again.
func (a *Agent) often(ctx context.Context, what string, every time.Duration, tick func(context.Context) error) {
	next := time.NewTimer(every)
	defer next.Stop()
	for pause := every; ; {
		select {
		case <-ctx.Done():
			return
		case <-next.C:
		}
		failing := pause > every
		switch err := tick(ctx); {
		case ctx.Err() != nil || errors.Is(err, metadata.ErrSessionDead):
			pause = every
		case err == nil:
			if pause = every; failing {
				a.parts.Log.Info("a job goes on", "job", what)
			}
		default:
			if !failing {
				a.parts.Log.Warn("a job failed; it is tried again", "job", what, "err", err)
			}
			pause = min(2*pause, max(every+1, maxJobPause))
		}
		wait := pause
		if pause > every { // agents that failed together do not come back together
			wait = pause/2 + time.Duration(nonce()%uint64(pause))
		}
		next.Reset(wait)
	}
}

// merging is what the metrics show of merging, over all lives of the agent. It is a
// prometheus.Collector; all methods may be called concurrently.
type merging struct {
	counters       []mergeCounter
	written        *prometheus.Desc
	backlog, worst *prometheus.Desc

	mu   sync.Mutex // guards the following
	past compaction.MergeStats
	now  func() compaction.MergeStats // of the life that is; nil: none
}

// mergeCounter is one counter and where its value is.
type mergeCounter struct {
	desc  *prometheus.Desc
	value func(compaction.MergeStats) int64
}

func newMerging(reg prometheus.Registerer) *merging {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	m := &merging{
		counters: []mergeCounter{
			{desc("floe_merge_segments_total", "Segments of merged extents."), func(s compaction.MergeStats) int64 { return s.Segments }},
			{desc("floe_merge_runs_total", "Runs of extents that became one."), func(s compaction.MergeStats) int64 { return s.Runs }},
			{desc("floe_merge_extents_total", "Extents that were merged."), func(s compaction.MergeStats) int64 { return s.Extents }},
			{desc("floe_merge_read_bytes_total", "Bytes of record batches read by merging, from memory most of the time."), func(s compaction.MergeStats) int64 { return s.Read }},
			{desc("floe_merge_packed_bytes_total", "Bytes of these that lay on segments that were mostly dead."), func(s compaction.MergeStats) int64 { return s.Packed }},
			{desc("floe_merge_manifests_total", "Manifests stored."), func(s compaction.MergeStats) int64 { return s.Manifests }},
			{desc("floe_merge_archived_total", "Extents that moved into manifests."), func(s compaction.MergeStats) int64 { return s.Archived }},
			{desc("floe_merge_failures_total", "Merges that failed."), func(s compaction.MergeStats) int64 { return s.Failures }},
		},
		written: desc("floe_merge_written_bytes_total", "Bytes of segments of merged extents, by their level.", "level"),
		backlog: desc("floe_merge_backlog_bytes", "Bytes that are worth merging when last looked at."),
		worst:   desc("floe_partition_extents_max", "Most extents of a partition of the shards whose jobs this agent does."),
	}
	reg.MustRegister(m)
	return m
}

// follow shows the given merger from now on, and what those before it did.
func (m *merging) follow(now func() compaction.MergeStats) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.past = m.statsLocked()
	m.past.Backlog, m.past.MostExtents = 0, 0
	m.now = now
}

// statsLocked returns the sum of all lives.
func (m *merging) statsLocked() compaction.MergeStats {
	s := m.past
	if m.now == nil {
		return s
	}
	n := m.now()
	s.Segments += n.Segments
	s.Runs += n.Runs
	s.Extents += n.Extents
	s.Read += n.Read
	s.Packed += n.Packed
	s.Manifests += n.Manifests
	s.Archived += n.Archived
	s.Failures += n.Failures
	for i := range s.Written {
		s.Written[i] += n.Written[i]
	}
	s.Backlog, s.MostExtents = n.Backlog, n.MostExtents
	return s
}

// Describe implements prometheus.Collector.
func (m *merging) Describe(out chan<- *prometheus.Desc) {
	for _, c := range m.counters {
		out <- c.desc
	}
	out <- m.written
	out <- m.backlog
	out <- m.worst
}

// Collect implements prometheus.Collector.
func (m *merging) Collect(out chan<- prometheus.Metric) {
	m.mu.Lock()
	s := m.statsLocked()
	m.mu.Unlock()
	for _, c := range m.counters {
		out <- prometheus.MustNewConstMetric(c.desc, prometheus.CounterValue, float64(c.value(s)))
	}
	for level, name := range []string{1: "1", 2: "2"} {
		if level > 0 {
			out <- prometheus.MustNewConstMetric(m.written, prometheus.CounterValue, float64(s.Written[level]), name)
		}
	}
	out <- prometheus.MustNewConstMetric(m.backlog, prometheus.GaugeValue, float64(s.Backlog))
	out <- prometheus.MustNewConstMetric(m.worst, prometheus.GaugeValue, float64(s.MostExtents))
}
