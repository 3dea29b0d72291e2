package agent

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/floelog/floe/diagnosis"
)

// totals is what the agent's own metrics say at one time: counters since its start, and levels. The
// doctor reads what monitors read, so that each finding can be retraced there.
type totals struct {
	diagnosis.Counts
	appends, uploads distribution

	connections, files, maxFiles  float64
	diskGivenUp, frozen, doubtful float64
	lost, live, stored            float64
	extents                       float64
	throttle                      float64
	journals                      map[string]float64 // records by shard
	troubles                      []diagnosis.Trouble
}

// distribution is a histogram's cumulative counts by upper bound.
type distribution struct {
	bounds []float64
	counts []float64
}

// gatherTotals reads the metrics.
func gatherTotals(g prometheus.Gatherer) (*totals, error) {
	families, err := g.Gather()
	if err != nil && len(families) == 0 {
		return nil, err
	}
	t := &totals{journals: map[string]float64{}}
	for _, f := range families {
		if read := readers[f.GetName()]; read != nil {
			for _, m := range f.GetMetric() {
				read(t, m)
			}
		}
	}
	if len(families) == 0 {
		return nil, errors.New("there are no metrics")
	}
	return t, nil
}

// label returns the value of a label.
func label(m *dto.Metric, name string) string {
	for _, l := range m.GetLabel() {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}

// value is what a counter or a gauge says.
func value(m *dto.Metric) float64 { return m.GetCounter().GetValue() + m.GetGauge().GetValue() }

// into adds a counter or gauge to a field.
func into(field func(*totals) *float64) func(*totals, *dto.Metric) {
	return func(t *totals, m *dto.Metric) { *field(t) += value(m) }
}

// readers says what each metric is read for.
var readers = map[string]func(*totals, *dto.Metric){
	"floe_flush_bytes": func(t *totals, m *dto.Metric) {
		t.Flushes += float64(m.GetHistogram().GetSampleCount())
		t.FlushedBytes += m.GetHistogram().GetSampleSum()
	},
	"floe_append_seconds": func(t *totals, m *dto.Metric) {
		t.Appends += float64(m.GetHistogram().GetSampleCount())
		t.appends = distributionOf(m)
	},
	"floe_upload_seconds": func(t *totals, m *dto.Metric) {
		n := float64(m.GetHistogram().GetSampleCount())
		if label(m, "outcome") != "ok" {
			t.UploadsFailed += n
			return
		}
		t.Uploads += n
		t.uploads = distributionOf(m)
	},
	"floe_objstore_requests_total": func(t *totals, m *dto.Metric) {
		t.StoreRequests += value(m)
		switch outcome := label(m, "outcome"); outcome {
		case "throttled":
			t.StoreThrottled += value(m)
		case "denied":
			t.StoreDenied += value(m)
		case "ok", "exists", "not_found", "canceled":
		default:
			t.StoreFailed += value(m)
		}
	},
	"floe_objstore_purpose_bytes_total": func(t *totals, m *dto.Metric) {
		if label(m, "kind") == "get" && label(m, "purpose") == "fetch" {
			t.StoreFetchBytes += value(m)
		}
	},
	"floe_requests_total": func(t *totals, m *dto.Metric) {
		if label(m, "code") == "-1" {
			t.ServerErrors += value(m)
		}
	},
	"floe_fetch_bytes_total": func(t *totals, m *dto.Metric) {
		if label(m, "lane") == "lagging" {
			t.LaggingBytes += value(m)
		} else {
			t.TailBytes += value(m)
		}
	},
	"floe_fetch_lagging_wait_seconds": func(t *totals, m *dto.Metric) {
		n := float64(m.GetHistogram().GetSampleCount())
		t.LaggingReads += n
		if label(m, "outcome") != "read" {
			t.LaggingTired += n
		}
	},
	"floe_gc_bytes": func(t *totals, m *dto.Metric) {
		if label(m, "kind") == "segment" {
			t.stored += value(m)
		}
	},
	"floe_store_trouble_seconds": func(t *totals, m *dto.Metric) {
		name := label(m, "store") + " store: " + label(m, "kind") + "s"
		t.troubles = append(t.troubles, diagnosis.Trouble{Name: name, For: time.Duration(value(m) * float64(time.Second))})
	},
	"floe_produce_throttle_seconds":  into(func(t *totals) *float64 { return &t.throttle }),
	"floe_produce_refused_total":     into(func(t *totals) *float64 { return &t.BatchesRefused }),
	"floe_journal_records":           func(t *totals, m *dto.Metric) { t.journals[label(m, "shard")] = value(m) },
	"floe_unknown_outcomes_total":    into(func(t *totals) *float64 { return &t.UnknownOutcomes }),
	"floe_takeovers_total":           into(func(t *totals) *float64 { return &t.Takeovers }),
	"floe_sessions_lost_total":       into(func(t *totals) *float64 { return &t.SessionsLost }),
	"floe_connections_refused_total": into(func(t *totals) *float64 { return &t.ConnectionsRefused }),
	"floe_cache_corrupt_total":       into(func(t *totals) *float64 { return &t.CorruptReads }),
	"floe_cache_hits_total":          into(func(t *totals) *float64 { return &t.CacheHits }),
	"floe_cache_tail_hits_total":     into(func(t *totals) *float64 { return &t.CacheHits }),
	"floe_cache_misses_total":        into(func(t *totals) *float64 { return &t.CacheMisses }),
	"floe_cache_evicted_bytes_total": into(func(t *totals) *float64 { return &t.CacheEvicted }),
	"floe_merge_failures_total":      into(func(t *totals) *float64 { return &t.JobFailures }),
	"floe_clean_failures_total":      into(func(t *totals) *float64 { return &t.JobFailures }),
	"floe_connections":               func(t *totals, m *dto.Metric) { t.connections = max(t.connections, value(m)) }, // each listener has the limit
	"process_open_fds":               into(func(t *totals) *float64 { return &t.files }),
	"process_max_fds":                into(func(t *totals) *float64 { return &t.maxFiles }),
	"floe_cache_disk_given_up":       into(func(t *totals) *float64 { return &t.diskGivenUp }),
	"floe_gc_frozen":                 into(func(t *totals) *float64 { return &t.frozen }),
	"floe_gc_lost_objects":           into(func(t *totals) *float64 { return &t.lost }),
	"floe_segments_live_bytes":       into(func(t *totals) *float64 { return &t.live }),
	"floe_retention_clock_in_doubt":  into(func(t *totals) *float64 { return &t.doubtful }),
	"floe_partition_extents_max":     into(func(t *totals) *float64 { return &t.extents }),
}

func distributionOf(m *dto.Metric) distribution {
	var d distribution
	for _, b := range m.GetHistogram().GetBucket() {
		d.bounds = append(d.bounds, b.GetUpperBound())
		d.counts = append(d.counts, float64(b.GetCumulativeCount()))
	}
	return d
}

// atLeast returns what the slowest share of what was observed since before takes at least: a lower
// bound, so that coarse buckets raise no alarm.
func (d distribution) atLeast(before distribution, observed, share float64) float64 {
	lower := 0.0
	for i, bound := range d.bounds {
		n := d.counts[i]
		if i < len(before.counts) {
			n -= before.counts[i]
		}
		if n > observed*(1-share) {
			return lower
		}
		lower = bound
	}
	return lower
}

// since returns what happened between two looks.
func (t *totals) since(before *totals) diagnosis.Counts {
	a, b := t.Counts, before.Counts
	c := diagnosis.Counts{
		Flushes: a.Flushes - b.Flushes, FlushedBytes: a.FlushedBytes - b.FlushedBytes,
		Appends: a.Appends - b.Appends, Uploads: a.Uploads - b.Uploads, UploadsFailed: a.UploadsFailed - b.UploadsFailed,
		StoreRequests: a.StoreRequests - b.StoreRequests, StoreThrottled: a.StoreThrottled - b.StoreThrottled,
		StoreDenied: a.StoreDenied - b.StoreDenied, StoreFailed: a.StoreFailed - b.StoreFailed,
		BatchesRefused: a.BatchesRefused - b.BatchesRefused, ServerErrors: a.ServerErrors - b.ServerErrors, ConnectionsRefused: a.ConnectionsRefused - b.ConnectionsRefused,
		UnknownOutcomes: a.UnknownOutcomes - b.UnknownOutcomes, Takeovers: a.Takeovers - b.Takeovers, SessionsLost: a.SessionsLost - b.SessionsLost,
		CorruptReads: a.CorruptReads - b.CorruptReads, JobFailures: a.JobFailures - b.JobFailures,
		TailBytes: a.TailBytes - b.TailBytes, LaggingBytes: a.LaggingBytes - b.LaggingBytes, StoreFetchBytes: a.StoreFetchBytes - b.StoreFetchBytes,
		CacheHits: a.CacheHits - b.CacheHits, CacheMisses: a.CacheMisses - b.CacheMisses, CacheEvicted: a.CacheEvicted - b.CacheEvicted,
		LaggingReads: a.LaggingReads - b.LaggingReads, LaggingTired: a.LaggingTired - b.LaggingTired,
	}
	c.AppendP99 = t.appends.atLeast(before.appends, c.Appends, 0.01)
	c.UploadP99 = t.uploads.atLeast(before.uploads, c.Uploads, 0.01)
	return c
}

// longest returns the number of records of the longest journal.
func (t *totals) longest() float64 {
	most := 0.0
	for _, n := range t.journals {
		most = max(most, n)
	}
	return most
}
