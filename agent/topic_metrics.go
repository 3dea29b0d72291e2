package agent

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

const (
	// topicSeries bounds how many topics have series of their own; those that hold or move
	// most do, the rest is summed under the empty name. Fewer would hide what a bill comes
	// from; more makes scrapes of clusters with very many topics slow.
	topicSeries = 1000
	// storedFor is for how long the sum of what topics store is good: it goes through every
	// extent of the shards that this agent leads.
	storedFor = 15 * time.Second
)

// topicTraffic counts what topics move and what they store, by name: a bill's other half.
// It implements kafka.Traffic and prometheus.Collector.
type topicTraffic struct {
	topics *catalogue.Catalogue
	set    *journal.Set
	now    func() time.Time
	moved  sync.Map // tiering.TopicID -> *movedBytes

	movedDesc, storedDesc, partitionsDesc, extentsDesc *prometheus.Desc

	mu       sync.Mutex // guards the following
	stored   map[tiering.TopicID]storedTopic
	storedAt time.Time
}

// movedBytes are record bytes that clients sent and got.
type movedBytes struct{ in, out atomic.Int64 }

// storedTopic is what the partitions of a topic that this agent leads hold.
type storedTopic struct{ bytes, partitions, extents int64 }

func newTopicTraffic(topics *catalogue.Catalogue, set *journal.Set, now func() time.Time) *topicTraffic {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, append([]string{"topic"}, labels...), nil)
	}
	return &topicTraffic{
		topics: topics, set: set, now: now,
		movedDesc:      desc("floe_topic_bytes_total", "Bytes of record batches that clients produced (in) and fetched (out), by topic; the empty name sums up the smaller ones.", "direction"),
		storedDesc:     desc("floe_topic_stored_bytes", "Bytes of record batches that are kept, by topic, of the partitions that this agent leads."),
		partitionsDesc: desc("floe_topic_partitions", "Partitions with records, by topic, of those that this agent leads."),
		extentsDesc:    desc("floe_topic_extents", "Extents in the state of partitions, by topic, of those that this agent leads."),
	}
}

// Produced implements kafka.Traffic, as does Fetched.
func (t *topicTraffic) Produced(id tiering.TopicID, bytes int) { t.of(id).in.Add(int64(bytes)) }

func (t *topicTraffic) Fetched(id tiering.TopicID, bytes int) { t.of(id).out.Add(int64(bytes)) }

func (t *topicTraffic) of(id tiering.TopicID) *movedBytes {
	if m, ok := t.moved.Load(id); ok {
		return m.(*movedBytes)
	}
	m, _ := t.moved.LoadOrStore(id, &movedBytes{})
	return m.(*movedBytes)
}

// Describe implements prometheus.Collector.
func (t *topicTraffic) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{t.movedDesc, t.storedDesc, t.partitionsDesc, t.extentsDesc} {
		out <- d
	}
}

// topicRow is what is told of one topic, or of all small ones.
type topicRow struct {
	name    string
	in, out int64
	storedTopic
}

func (r *topicRow) weight() int64 { return r.in + r.out + r.bytes }

// Collect implements prometheus.Collector.
func (t *topicTraffic) Collect(out chan<- prometheus.Metric) {
	for _, r := range t.rows() {
		out <- prometheus.MustNewConstMetric(t.movedDesc, prometheus.CounterValue, float64(r.in), r.name, "in")
		out <- prometheus.MustNewConstMetric(t.movedDesc, prometheus.CounterValue, float64(r.out), r.name, "out")
		out <- prometheus.MustNewConstMetric(t.storedDesc, prometheus.GaugeValue, float64(r.bytes), r.name)
		out <- prometheus.MustNewConstMetric(t.partitionsDesc, prometheus.GaugeValue, float64(r.partitions), r.name)
		out <- prometheus.MustNewConstMetric(t.extentsDesc, prometheus.GaugeValue, float64(r.extents), r.name)
	}
}

// rows returns the topics that weigh most, by name, and the sum of the others. What was moved
// of topics that are deleted is forgotten with them.
func (t *topicTraffic) rows() []topicRow {
	view := t.topics.View()
	stored := t.storedNow()
	var rows []topicRow
	seen := map[tiering.TopicID]bool{}
	add := func(id tiering.TopicID) {
		if seen[id] {
			return
		}
		seen[id] = true
		topic, ok := view.TopicByID(id)
		if !ok {
			return
		}
		r := topicRow{name: topic.Name, storedTopic: stored[id]}
		if m, ok := t.moved.Load(id); ok {
			r.in, r.out = m.(*movedBytes).in.Load(), m.(*movedBytes).out.Load()
		}
		rows = append(rows, r)
	}
	for id := range stored {
		add(id)
	}
	t.moved.Range(func(k, _ any) bool {
		id := k.(tiering.TopicID)
		if _, known := view.TopicByID(id); !known {
			t.moved.Delete(id)
		}
		add(id)
		return true
	})
	if len(rows) > topicSeries {
		slices.SortFunc(rows, func(a, b topicRow) int { return cmp.Compare(b.weight(), a.weight()) })
		var rest topicRow
		for _, r := range rows[topicSeries:] {
			rest.in, rest.out = rest.in+r.in, rest.out+r.out
			rest.bytes, rest.partitions, rest.extents = rest.bytes+r.bytes, rest.partitions+r.partitions, rest.extents+r.extents
		}
		rows = append(rows[:topicSeries:topicSeries], rest)
	}
	slices.SortFunc(rows, func(a, b topicRow) int { return strings.Compare(a.name, b.name) })
	return rows
}

// storedNow sums up what the partitions of the shards that this agent leads hold.
func (t *topicTraffic) storedNow() map[tiering.TopicID]storedTopic {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	if t.stored != nil && now.Sub(t.storedAt) < storedFor {
		return t.stored
	}
	sums := map[tiering.TopicID]storedTopic{}
	for i := range t.set.NumShards() {
		id := tiering.ShardID(i)
		if t.set.Leader(id) == nil {
			continue
		}
		t.set.View(id).Read(func(s *shard.State) {
			for _, tp := range s.Partitions() {
				p, sum := s.Partition(tp), sums[tp.Topic]
				sum.bytes += p.Bytes()
				sum.partitions++
				sum.extents += int64(len(p.Extents))
				sums[tp.Topic] = sum
			}
		})
	}
	t.stored, t.storedAt = sums, now
	return sums
}
