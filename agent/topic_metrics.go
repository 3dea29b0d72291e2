package agent

import (
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// topicSeries bounds how many topics have series of their own: those that came first. The
// others are summed under the empty name. Fewer would hide what a bill comes from; more
// makes scrapes of clusters with very many topics slow.
const topicSeries = 1000

// topicTraffic counts what topics move and what they store, by name: a bill's other half.
// It implements kafka.Traffic and prometheus.Collector.
type topicTraffic struct {
	topics *catalogue.Catalogue
	set    *journal.Set
	moved  sync.Map // tiering.TopicID -> *movedBytes

	movedDesc, storedDesc, partitionsDesc, extentsDesc *prometheus.Desc

	mu     sync.Mutex                 // guards the following
	named  map[tiering.TopicID]bool   // whether a topic has series of its own or is part of the sum, for as long as it exists
	series int                        // how many have
	doomed map[tiering.TopicID]bool   // topics that the last look did not find: deleted, or too new to be seen
	gone   [2]int64                   // bytes in and out of deleted topics of the sum, which never goes back
	shards map[tiering.ShardID]summed // of the shards that this agent leads
}

// movedBytes are record bytes that clients sent and got.
type movedBytes struct{ in, out atomic.Int64 }

// storedTopic is what the partitions of a topic that this agent leads hold.
type storedTopic struct{ bytes, partitions, extents int64 }

func (s storedTopic) plus(o storedTopic) storedTopic {
	return storedTopic{s.bytes + o.bytes, s.partitions + o.partitions, s.extents + o.extents}
}

// summed is what a shard's topics hold as of a journal record: going through every extent
// again is worth it only where something has changed.
type summed struct {
	seq    uint64
	topics map[tiering.TopicID]storedTopic
}

func newTopicTraffic(topics *catalogue.Catalogue, set *journal.Set) *topicTraffic {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, append([]string{"topic"}, labels...), nil)
	}
	return &topicTraffic{
		topics: topics, set: set, named: map[tiering.TopicID]bool{}, shards: map[tiering.ShardID]summed{},
		movedDesc:      desc("floe_topic_bytes_total", "Bytes of record batches that clients produced (in) and fetched (out), by topic; the empty name sums up those beyond the first 1,000.", "direction"),
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

// topicRow is what is told of one topic, or of all that have no series of their own.
type topicRow struct {
	name    string
	in, out int64
	storedTopic
}

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

// rows returns the topics by name, and first the sum of those that have no series of their
// own, if there are any. Counters never go back: a topic keeps its series while it exists.
func (t *topicTraffic) rows() []topicRow {
	t.mu.Lock()
	defer t.mu.Unlock()
	view := t.topics.View()
	t.forgetDeleted(view)
	stored := t.storedLocked()
	rest := topicRow{in: t.gone[0], out: t.gone[1]}
	some := t.gone != [2]int64{}
	var rows []topicRow
	for topic := range view.Topics() {
		r := topicRow{name: topic.Name, storedTopic: stored[topic.ID]}
		m, moved := t.moved.Load(topic.ID)
		if moved {
			r.in, r.out = m.(*movedBytes).in.Load(), m.(*movedBytes).out.Load()
		}
		named, known := t.named[topic.ID]
		if !known && !moved && r.storedTopic == (storedTopic{}) {
			continue
		}
		if !known {
			if named = t.series < topicSeries; named {
				t.series++
			}
			t.named[topic.ID] = named
		}
		if named {
			rows = append(rows, r)
			continue
		}
		some = true
		rest.in, rest.out, rest.storedTopic = rest.in+r.in, rest.out+r.out, rest.plus(r.storedTopic)
	}
	if some {
		rows = append([]topicRow{rest}, rows...)
	}
	return rows
}

// forgetDeleted forgets topics that are deleted; what those of the sum have moved stays in it.
func (t *topicTraffic) forgetDeleted(view catalogue.View) {
	doomed := map[tiering.TopicID]bool{}
	defer func() { t.doomed = doomed }()
	t.moved.Range(func(k, v any) bool {
		id, m := k.(tiering.TopicID), v.(*movedBytes)
		if _, there := view.TopicByID(id); there {
			return true
		}
		if !t.doomed[id] {
			doomed[id] = true
			return true
		}
		t.moved.Delete(id)
		if named, known := t.named[id]; known && !named {
			t.gone[0], t.gone[1] = t.gone[0]+m.in.Load(), t.gone[1]+m.out.Load()
		}
		return true
	})
	for id, named := range t.named {
		if _, there := view.TopicByID(id); there || doomed[id] {
			continue
		}
		if named {
			t.series--
		}
		delete(t.named, id)
	}
}

// tidy forgets what is deleted, for agents whose metrics nobody reads.
func (t *topicTraffic) tidy() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forgetDeleted(t.topics.View())
}

// storedLocked sums up what the partitions of the shards that this agent leads hold.
func (t *topicTraffic) storedLocked() map[tiering.TopicID]storedTopic {
	sums := map[tiering.TopicID]storedTopic{}
	for i := range t.set.NumShards() {
		id := tiering.ShardID(i)
		if t.set.Leader(id) == nil {
			delete(t.shards, id)
			continue
		}
		old, seen := t.shards[id]
		t.set.View(id).Read(func(s *shard.State) {
			if !seen || old.seq != s.Seq {
				old = sumOf(s)
			}
		})
		t.shards[id] = old
		for topic, held := range old.topics {
			sums[topic] = sums[topic].plus(held)
		}
	}
	return sums
}

func sumOf(s *shard.State) summed {
	out := summed{s.Seq, map[tiering.TopicID]storedTopic{}}
	for _, tp := range s.Partitions() {
		p := s.Partition(tp)
		out.topics[tp.Topic] = out.topics[tp.Topic].plus(storedTopic{p.Bytes(), 1, int64(len(p.Extents))})
	}
	return out
}
