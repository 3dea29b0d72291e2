package agent

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/floelog/floe/compaction/sweep"
	"github.com/floelog/floe/metadata/manifests"
)

// firstSweep is how long after the jobs of shard 0 became its own an agent sweeps first. Shorter: agents
// that start together pass leadership on, and each would list the bucket. Longer: a metadata
// store that was restored from a backup could catch up with the bucket unnoticed.
const firstSweep = 10 * time.Second

// tidyDefaults fills in what is not given.
func (c *Config) tidyDefaults() {
	if c.GCInterval == 0 {
		c.GCInterval = 10 * time.Minute
	}
	if c.GCGrace == 0 {
		c.GCGrace = 10 * time.Minute
	}
	if c.RetentionInterval == 0 {
		c.RetentionInterval = 5 * time.Minute
	}
}

// sweep deletes from the object store what nothing names, as long as the jobs of shard
// 0 are this agent's.
func (a *Agent) sweep(ctx context.Context, l *life) {
	var s *sweep.Sweeper // nil: not the leader
	var news *sparseNews
	next := time.NewTimer(0)
	defer next.Stop()
	defer a.tidying.forget()
	for {
		view, leaders := a.placing.look(), a.set.Changed()
		if !l.jobs.claims.sweeps(view) {
			if s != nil {
				a.tidying.forget()
			}
			s = nil
			select {
			case <-ctx.Done():
				return
			case <-leaders:
			case <-view.agents.Changed():
			case <-view.pins.Changed():
			}
			continue
		}
		if s == nil {
			news = &sparseNews{}
			s = a.newSweeper(news)
			next.Reset(min(firstSweep, a.cfg.GCInterval))
		}
		select {
		case <-ctx.Done():
			return
		case <-leaders:
			continue
		case <-view.agents.Changed():
			continue
		case <-view.pins.Changed():
			continue
		case <-next.C:
		}
		if _, err := s.Tick(ctx); err != nil && ctx.Err() == nil {
			a.parts.Log.Info("looking whether a sweep is due", "err", err)
		}
		news.spread(ctx, a)
		next.Reset(a.cfg.GCInterval)
	}
}

func (a *Agent) newSweeper(news *sparseNews) *sweep.Sweeper {
	return sweep.New(sweep.Config{Keys: a.keys, Cluster: a.cluster.cluster.ID, Grace: max(0, a.cfg.GCGrace), SparseAge: sparseAges * a.cfg.MergeAge}, sweep.Parts{
		Meta: a.parts.Meta, Objects: a.parts.Objects, Shards: a.set,
		Manifests: manifests.NewReader(a.parts.Objects, 0), // all are read once: that must not displace what consumers read
		Now:       time.Now, Nonce: nonce, Log: a.parts.Log, Observe: a.tidying.swept, Sparse: news.learn,
	})
}

// tidying is what an agent counts of sweeps and of retention.
type tidying struct {
	sweeps         *prometheus.CounterVec
	found, bytes   *prometheus.GaugeVec
	deleted, freed prometheus.Counter
	complete       prometheus.Gauge
	frozen, lost   prometheus.Gauge
	live, sparse   prometheus.Gauge

	trimmed, expired prometheus.Counter
	skewed           prometheus.Gauge
}

func newTidying(reg prometheus.Registerer) *tidying {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	byVerdict := []string{"kind", "verdict"}
	t := &tidying{
		sweeps:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "floe_gc_sweeps_total", Help: "Sweeps of the object store, by outcome."}, []string{"outcome"}),
		found:    prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "floe_gc_objects", Help: "Objects as of the last complete sweep, by kind and by why they are kept or not."}, byVerdict),
		bytes:    prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "floe_gc_bytes", Help: "Bytes of objects as of the last complete sweep, by kind and by why they are kept or not."}, byVerdict),
		deleted:  counter("floe_gc_deleted_objects_total", "Objects that sweeps have deleted."),
		freed:    counter("floe_gc_deleted_bytes_total", "Bytes of objects that sweeps have deleted."),
		complete: gauge("floe_gc_last_complete_timestamp_seconds", "When the last complete sweep ended; 0: none since this agent leads shard 0."),
		frozen:   gauge("floe_gc_frozen", "1 while all deletion from the object store is stopped: by hand, or because the metadata store was restored."),
		lost:     gauge("floe_gc_lost_objects", "Objects that were named and gone when the last sweep looked."),
		live:     gauge("floe_segments_live_bytes", "Bytes of segments that extents name, as of the last complete sweep."),
		sparse:   gauge("floe_segments_sparse", "Segments of which less than half is live, as of the last complete sweep."),
		trimmed:  counter("floe_retention_records_total", "Offsets that retention has trimmed."),
		expired:  counter("floe_retention_bytes_total", "Bytes of batches that retention has trimmed."),
		skewed:   gauge("floe_retention_clock_in_doubt", "1 while nothing is deleted by its age because the clock differs from the object store's."),
	}
	reg.MustRegister(t.sweeps, t.found, t.bytes, t.deleted, t.freed, t.complete, t.frozen, t.lost, t.live, t.sparse, t.trimmed, t.expired, t.skewed)
	return t
}

// swept counts one sweep.
func (t *tidying) swept(r *sweep.Report) {
	t.deleted.Add(float64(r.Deleted.Objects))
	t.freed.Add(float64(r.Deleted.Bytes))
	t.lost.Set(float64(r.Lost))
	t.frozen.Set(float64(oneIf(r.Frozen)))
	if r.Err != nil {
		t.sweeps.WithLabelValues("in doubt").Inc()
		return
	}
	t.sweeps.WithLabelValues("complete").Inc()
	t.complete.SetToCurrentTime()
	t.live.Set(float64(r.Live))
	t.sparse.Set(float64(r.Sparse))
	for _, k := range sweep.Kinds() {
		for _, v := range sweep.Verdicts() {
			if v == sweep.Ripe {
				continue // is deleted by now
			}
			c := r.Counts[k][v]
			t.found.WithLabelValues(k.String(), v.String()).Set(float64(c.Objects))
			t.bytes.WithLabelValues(k.String(), v.String()).Set(float64(c.Bytes))
		}
	}
}

// forget takes back what only the agent that sweeps can tell.
func (t *tidying) forget() {
	t.found.Reset()
	t.bytes.Reset()
	for _, g := range []prometheus.Gauge{t.complete, t.frozen, t.lost, t.live, t.sparse} {
		g.Set(0)
	}
}

func oneIf(b bool) int {
	if b {
		return 1
	}
	return 0
}
