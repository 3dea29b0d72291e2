package group

import (
	"slices"
	"time"

	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// producerMemory is how long a producer is remembered that commits no offsets any more:
// Kafka's transactional.id.expiration.ms. After that no request of it is under way.
const producerMemory = 7 * 24 * time.Hour

// expire forgets offsets that nobody needs any more (KIP-211), and the group with its last
// one, if nobody is in it.
func (m *machine) expire(e *entry, now time.Time) {
	if e.damaged() != nil {
		return // nobody knows what it needs
	}
	for id, p := range e.producers {
		if p.open == 0 && now.UnixMilli()-p.updated >= producerMemory.Milliseconds() {
			delete(e.producers, id)
		}
	}
	m.sweepRows(e)
	from, ages := e.retention()
	var gone []tiering.TopicPartition
	for tp, s := range e.offsets {
		name, known := m.topicName(tp.Topic)
		switch {
		case !known && s.seen: // deleted, and its offsets with it
			gone = append(gone, tp)
			continue
		case known && !s.seen:
			s.seen = true
			e.offsets[tp] = s
		}
		if !ages || known && e.group != nil && e.group.Subscribed(name) || e.pending(tp) {
			continue
		}
		if s.expired(from, now, m.settings.OffsetsRetention) {
			gone = append(gone, tp)
		}
	}
	slices.SortFunc(gone, tiering.TopicPartition.Compare)
	m.deleteOffsets(e, gone)
	if len(e.offsets) == 0 && e.idle() {
		m.drop(e)
	}
}

// retention returns from when on the group's offsets age; zero: from each one's commit.
func (e *entry) retention() (from time.Time, ages bool) {
	if g := e.classic(); g != nil {
		return g.Retention()
	}
	return time.Time{}, true
}

func (s stamp) expired(from, now time.Time, retention time.Duration) bool {
	if s.expires >= 0 {
		return now.UnixMilli() >= s.expires
	}
	since := s.committed
	if !from.IsZero() {
		since = from.UnixMilli()
	}
	return now.UnixMilli()-since >= retention.Milliseconds()
}

// idle says that nobody is in the group, about to join it, or in a transaction with it.
func (e *entry) idle() bool {
	if g := e.classic(); g != nil && !g.Idle() || !e.vacant() {
		return false
	}
	for _, p := range e.producers {
		if p.open != 0 {
			return false
		}
	}
	return true
}

// sweepRows deletes the rows that a failover in the middle of a migration left behind.
func (m *machine) sweepRows(e *entry) {
	switch {
	case e.classic() != nil:
		m.erase(e, consumerRows)
	case e.consumer() != nil:
		m.erase(e, classicRows)
	}
}

// drop forgets a group. Its configs stay, as in Kafka; and so does what is known of
// transactional producers that may still have requests under way.
func (m *machine) drop(e *entry) {
	e.group = nil
	if len(e.producers) == 0 && len(e.config) == 0 {
		if len(e.rows) > 0 || len(e.offsets) > 0 {
			m.change(shard.DropGroup{Group: e.name})
		}
		clear(e.rows)
		clear(e.offsets)
		return
	}
	gone := make([]tiering.TopicPartition, 0, len(e.offsets))
	for tp := range e.offsets {
		gone = append(gone, tp)
	}
	for _, p := range e.producers {
		for tp := range p.pending {
			if _, twice := e.offsets[tp]; !twice {
				gone = append(gone, tp)
			}
		}
	}
	slices.SortFunc(gone, tiering.TopicPartition.Compare)
	m.deleteOffsets(e, slices.Compact(gone))
	m.erase(e, classicRows)
	m.erase(e, consumerRows)
}
