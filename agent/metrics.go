package agent

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/floelog/floe/agent/fetch"
	"github.com/floelog/floe/metadata/manifests"
	"github.com/floelog/floe/protocol"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/cache"
)

// latencyBuckets span what is measured, in seconds: from a local fsync to a store in trouble.
var latencyBuckets = prometheus.ExponentialBuckets(0.00025, 2, 18)

// metrics is what an agent counts. It implements the observers of its parts.
type metrics struct {
	flushes       *prometheus.CounterVec
	flushBytes    prometheus.Histogram
	flushAge      prometheus.Histogram
	uploads       *prometheus.HistogramVec
	produced      prometheus.Counter
	inlineBytes   prometheus.Counter
	inlineBatches prometheus.Counter
	sequenced     prometheus.Histogram
	shed          prometheus.Counter

	appends       prometheus.Histogram
	appendBytes   prometheus.Counter
	unknown       prometheus.Counter
	leaders       prometheus.Gauge
	takeovers     prometheus.Counter
	snapshots     prometheus.Counter
	journalLength *prometheus.GaugeVec

	fetchReads [2]prometheus.Counter // by fetch.Lane
	fetchBytes [2]prometheus.Counter
	fetchWaits *prometheus.HistogramVec

	coordinators *coordinatorMetrics
	uploaded     func(took time.Duration) // for the load ratio
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		uploaded:      func(time.Duration) {},
		flushes:       prometheus.NewCounterVec(prometheus.CounterOpts{Name: "floe_flushes_total", Help: "Flushes closed, by reason."}, []string{"reason"}),
		flushBytes:    prometheus.NewHistogram(prometheus.HistogramOpts{Name: "floe_flush_bytes", Help: "Bytes of record batches in a flush.", Buckets: prometheus.ExponentialBuckets(1<<10, 2, 15)}),
		flushAge:      prometheus.NewHistogram(prometheus.HistogramOpts{Name: "floe_flush_age_seconds", Help: "Age of a flush when it closed.", Buckets: latencyBuckets}),
		uploads:       prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "floe_upload_seconds", Help: "Time to store a flush, with retries, by outcome.", Buckets: latencyBuckets}, []string{"outcome"}),
		produced:      prometheus.NewCounter(prometheus.CounterOpts{Name: "floe_flushed_bytes_total", Help: "Bytes of record batches that went into flushes."}),
		inlineBytes:   prometheus.NewCounter(prometheus.CounterOpts{Name: "floe_inline_bytes_total", Help: "Bytes of record batches committed inside journal records."}),
		inlineBatches: prometheus.NewCounter(prometheus.CounterOpts{Name: "floe_inline_batches_total", Help: "Record batches committed inside journal records."}),
		sequenced:     prometheus.NewHistogram(prometheus.HistogramOpts{Name: "floe_sequence_seconds", Help: "Time from a submission to its answer by the shard's leader.", Buckets: latencyBuckets}),
		shed:          prometheus.NewCounter(prometheus.CounterOpts{Name: "floe_produce_refused_total", Help: "Record batches refused because nothing could be stored and the memory for requests was half full."}),
		appends:       prometheus.NewHistogram(prometheus.HistogramOpts{Name: "floe_append_seconds", Help: "Time of an append to a shard's journal, with repetitions.", Buckets: latencyBuckets}),
		appendBytes:   prometheus.NewCounter(prometheus.CounterOpts{Name: "floe_append_bytes_total", Help: "Bytes of journal records appended."}),
		unknown:       prometheus.NewCounter(prometheus.CounterOpts{Name: "floe_unknown_outcomes_total", Help: "Metadata transactions whose outcome was unknown and had to be resolved."}),
		leaders:       prometheus.NewGauge(prometheus.GaugeOpts{Name: "floe_shards_led", Help: "Shards that this agent leads."}),
		takeovers:     prometheus.NewCounter(prometheus.CounterOpts{Name: "floe_takeovers_total", Help: "Shards that this agent took over."}),
		snapshots:     prometheus.NewCounter(prometheus.CounterOpts{Name: "floe_snapshots_total", Help: "Snapshots written."}),
		journalLength: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "floe_journal_records", Help: "Records in a led shard's journal since its snapshot."}, []string{"shard"}),
	}
	reg.MustRegister(m.flushes, m.flushBytes, m.flushAge, m.uploads, m.produced, m.inlineBytes, m.inlineBatches, m.sequenced, m.shed,
		m.appends, m.appendBytes, m.unknown, m.leaders, m.takeovers, m.snapshots, m.journalLength)
	m.coordinators = newCoordinatorMetrics(reg)
	m.registerFetches(reg)
	return m
}

// registerFetches makes what is counted of fetches.
func (m *metrics) registerFetches(reg prometheus.Registerer) {
	reads := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "floe_fetch_reads_total", Help: "Partitions read for consumers, by lane: near the tail of the log, or lagging."}, []string{"lane"})
	bytes := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "floe_fetch_bytes_total", Help: "Bytes of record batches read for consumers, by lane."}, []string{"lane"})
	m.fetchWaits = prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "floe_fetch_lagging_wait_seconds", Help: "Time that reads of lagging partitions waited for their turn, by outcome.", Buckets: latencyBuckets}, []string{"outcome"})
	reg.MustRegister(reads, bytes, m.fetchWaits)
	for _, lane := range fetch.Lanes() {
		m.fetchReads[lane] = reads.WithLabelValues(lane.String())
		m.fetchBytes[lane] = bytes.WithLabelValues(lane.String())
	}
}

// Fetched implements fetch.Observer, as does Lagged.
func (m *metrics) Fetched(lane fetch.Lane, bytes int) {
	m.fetchReads[lane].Inc()
	m.fetchBytes[lane].Add(float64(bytes))
}

func (m *metrics) Lagged(waited time.Duration, admitted bool) {
	outcome := "read"
	if !admitted {
		outcome = "gave up"
	}
	m.fetchWaits.WithLabelValues(outcome).Observe(waited.Seconds())
}

// Flushed implements produce.Observer, as do the next four.
func (m *metrics) Flushed(bytes int64, _ int, age time.Duration, reason string) {
	m.flushes.WithLabelValues(reason).Inc()
	m.flushBytes.Observe(float64(bytes))
	m.flushAge.Observe(age.Seconds())
	m.produced.Add(float64(bytes))
}

func (m *metrics) Uploaded(_ int64, took time.Duration, err error) {
	outcome := "ok"
	if err != nil {
		outcome = "failed"
	}
	m.uploads.WithLabelValues(outcome).Observe(took.Seconds())
	m.uploaded(took)
}

func (m *metrics) Inlined(bytes, batches int) {
	m.inlineBytes.Add(float64(bytes))
	m.inlineBatches.Add(float64(batches))
}

func (m *metrics) Sequenced(_ int, took time.Duration) { m.sequenced.Observe(took.Seconds()) }

// Refused counts batches that were refused in an outage.
func (m *metrics) Refused(batches int) { m.shed.Add(float64(batches)) }

// Appended implements journal.Observer, as do the next five.
func (m *metrics) Appended(_ tiering.ShardID, bytes int, took time.Duration) {
	m.appends.Observe(took.Seconds())
	m.appendBytes.Add(float64(bytes))
}

func (m *metrics) UnknownOutcome(tiering.ShardID) { m.unknown.Inc() }

func (m *metrics) LeadershipGained(tiering.ShardID, tiering.LeaderEpoch) {
	m.leaders.Inc()
	m.takeovers.Inc()
}

func (m *metrics) LeadershipLost(id tiering.ShardID) {
	m.leaders.Dec()
	m.journalLength.DeleteLabelValues(strconv.Itoa(int(id)))
}

func (m *metrics) SnapshotWritten(tiering.ShardID, int) { m.snapshots.Inc() }

func (m *metrics) JournalLength(id tiering.ShardID, records uint64) {
	m.journalLength.WithLabelValues(strconv.Itoa(int(id))).Set(float64(records))
}

// registerState exposes what is read from other parts when it is asked for.
func registerState(reg prometheus.Registerer, c *cache.Cache, budget *protocol.Budget) {
	gauge := func(name, help string, f func() float64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f))
	}
	counter := func(name, help string, f func() float64) {
		reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, f))
	}
	gauge("floe_memory_budget_bytes", "Bytes that requests in flight may hold.", func() float64 { return float64(budget.Size()) })
	gauge("floe_memory_used_bytes", "Bytes that requests in flight hold.", func() float64 { return float64(budget.InUse()) })
	gauge("floe_cache_capacity_bytes", "Bytes that the cache may hold.", func() float64 { return float64(c.Stats().Capacity) })
	gauge("floe_cache_block_bytes", "Bytes of blocks in the cache.", func() float64 { return float64(c.Stats().BlockBytes) })
	gauge("floe_cache_tail_bytes", "Bytes of this agent's own newest segments in the cache.", func() float64 { return float64(c.Stats().TailBytes) })
	counter("floe_cache_tail_hits_total", "Reads served from this agent's own newest segments.", func() float64 { return float64(c.Stats().TailHits) })
	counter("floe_cache_hits_total", "Parts of reads that were in a cached block.", func() float64 { return float64(c.Stats().Hits) })
	counter("floe_cache_misses_total", "Parts of reads that waited for the object store.", func() float64 { return float64(c.Stats().Misses) })
	counter("floe_cache_corrupt_total", "Reads whose bytes did not verify.", func() float64 { return float64(c.Stats().Corrupt) })
	counter("floe_cache_evicted_bytes_total", "Bytes evicted from the cache.", func() float64 { return float64(c.Stats().EvictedBytes) })
}

// registerManifests exposes what the reader of manifests counts.
func registerManifests(reg prometheus.Registerer, m *manifests.Reader) {
	reg.MustRegister(
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "floe_manifest_hits_total", Help: "Manifests found in memory."}, func() float64 { return float64(m.Stats().Hits) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "floe_manifest_reads_total", Help: "Manifests read from the object store."}, func() float64 { return float64(m.Stats().Reads) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "floe_manifest_bytes", Help: "Memory that manifests take."}, func() float64 { return float64(m.Stats().Bytes) }),
	)
}
