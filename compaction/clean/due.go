package clean

import (
	"cmp"
	"context"
	"math"
	"slices"
	"time"

	"github.com/floelog/floe/compaction/clean/records"
	"github.com/floelog/floe/compaction/job"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/protocol/batch"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/cache"
)

// target is a partition that may be compacted.
type target struct {
	shard  tiering.ShardID
	tp     tiering.TopicPartition
	from   tiering.Offset // not compacted from here on
	limit  tiering.Offset // not to be looked at from here on
	dirty  int64          // bytes between
	total  int64          // bytes below limit
	policy job.Policy
	oldest tiering.Extent // holds from

	expired bool // delete horizons have passed
}

func (t target) ratio() float64 { return float64(t.dirty) / float64(max(1, t.total)) }

// memo is what a Cleaner remembers of a partition. It is lost with the agent: then one pass
// may be made in vain, and tombstones whose time has come wait for new records.
type memo struct {
	// A pass that had room for all keys went from here to there: all that is left in between is
	// the last batch.
	from, limit tiering.Offset
	done        bool

	// After the last pass, batches with this many bytes had a delete horizon, at the latest
	// this one: when it has passed they count as not compacted.
	waiting int64
	horizon int64

	// The oldest record at or after oldestAt that was not compacted, in milliseconds.
	oldest   int64
	oldestAt tiering.Offset

	passed    time.Time // when the last pass ended, or the partition was first seen
	notBefore time.Time // because the last pass failed
	pause     time.Duration
}

// failed has the partition left alone for a while, each time for longer.
func (m *memo) failed(now time.Time) {
	m.pause = min(failurePauses, max(failurePause, 2*m.pause))
	m.notBefore = now.Add(m.pause)
}

func (c *Cleaner) memo(tp tiering.TopicPartition) *memo {
	m := c.memos[tp]
	if m == nil {
		m = &memo{oldestAt: -1, passed: c.parts.Now()}
		c.memos[tp] = m
	}
	return m
}

// due returns the partitions that have to be compacted, the dirtiest first, as Kafka decides it:
// by min.cleanable.dirty.ratio, or at once if max.compaction.lag.ms is exceeded.
func (c *Cleaner) due(ctx context.Context) ([]target, error) {
	now := c.parts.Now()
	var all []target
	for _, id := range c.parts.Claims.Claimed() {
		all = c.candidates(all, id, now)
	}
	seen := make(map[tiering.TopicPartition]struct{}, len(all))
	var out []target
	greatest := 0.0
	for _, t := range all {
		seen[t.tp] = struct{}{}
		m := c.memo(t.tp)
		t.weigh(m, now)
		if t.dirty == 0 {
			continue
		}
		greatest = max(greatest, t.ratio())
		if now.Before(m.notBefore) {
			continue
		}
		due := t.ratio() > t.policy.MinDirtyRatio && (t.dirty >= c.cfg.MinBytes || now.Sub(m.passed) >= c.cfg.SmallAfter)
		if !due {
			var err error
			if due, err = c.overdue(ctx, t, m, now); err != nil {
				if ctx.Err() != nil {
					return nil, err
				}
				due = true // the pass will say what is wrong
			}
		}
		if due {
			out = append(out, t)
		}
	}
	for tp := range c.memos {
		if _, ok := seen[tp]; !ok {
			delete(c.memos, tp)
		}
	}
	slices.SortStableFunc(out, func(a, b target) int { return cmp.Compare(b.ratio(), a.ratio()) })
	c.count(func(s *Stats) { s.Due, s.MaxDirty, s.LastRun = len(out), greatest, now })
	return out, nil
}

// weigh corrects what the extents' sizes say by what is remembered.
func (t *target) weigh(m *memo, now time.Time) {
	if m.done && m.from == t.from && m.limit == t.limit {
		t.dirty = 0
	}
	if t.expired = m.waiting > 0 && now.UnixMilli() >= m.horizon; t.expired {
		t.dirty = min(t.total, t.dirty+m.waiting)
	}
}

// candidates appends the compacted partitions of a shard.
func (c *Cleaner) candidates(all []target, id tiering.ShardID, now time.Time) []target {
	c.parts.Journals.View(id).Read(func(s *shard.State) {
		for _, tp := range s.Partitions() {
			p := s.Partition(tp)
			policy, ok := c.parts.Policies.Policy(tp.Topic)
			if !ok || !policy.Compact || len(p.Extents) == 0 && len(p.Manifests) == 0 {
				continue
			}
			t := target{shard: id, tp: tp, policy: policy, from: max(p.Cleaned, p.LogStart)}
			t.measure(p, now)
			all = append(all, t)
		}
	})
	return all
}

// measure works out how far the partition may be compacted, and how much of that is new.
func (t *target) measure(p *shard.Partition, now time.Time) {
	t.limit = p.LastStable()
	young := int64(math.MaxInt64)
	if t.policy.MinCompactionLag > 0 {
		young = now.Add(-t.policy.MinCompactionLag).UnixMilli()
	}
	for _, m := range p.Manifests { // inline and young extents are never in one
		t.add(m.Base, m.Count, m.Bytes)
	}
	for i := range p.Extents {
		e := &p.Extents[i]
		if e.Base >= t.limit || e.IsInline() || e.End() > t.from && e.MaxTimestamp > young {
			t.limit = min(t.limit, e.Base)
			break
		}
		if e.Base <= t.from {
			t.oldest = *e
		}
		t.add(e.Base, e.Count, int64(e.Length))
	}
	t.limit = max(t.limit, t.from)
}

// add counts the bytes of a run of offsets, of one that is cut by the boundaries its share.
func (t *target) add(base tiering.Offset, count, bytes int64) {
	end := base + tiering.Offset(count)
	share := func(from, to tiering.Offset) int64 {
		switch n := int64(min(to, end) - max(from, base)); {
		case n <= 0:
			return 0
		case n == count:
			return bytes
		default:
			return max(min(1, bytes), int64(float64(bytes)*float64(n)/float64(count)))
		}
	}
	t.dirty += share(t.from, t.limit)
	t.total += share(base, t.limit)
}

// overdue reports whether max.compaction.lag.ms has passed since the oldest record that was
// not compacted was written. That takes a look at the record, once.
func (c *Cleaner) overdue(ctx context.Context, t target, m *memo, now time.Time) (bool, error) {
	lag := t.policy.MaxCompactionLag
	if lag <= 0 || lag > time.Duration(math.MaxInt64)/2 || t.oldest.Count == 0 {
		return false, nil
	}
	if m.oldestAt != t.from {
		data, err := c.read(ctx, t.oldest)
		if err != nil {
			return false, err
		}
		m.oldest = now.UnixMilli()
		err = records.Batches(t.oldest, data, func(base tiering.Offset, v batch.View) (bool, error) {
			if base+tiering.Offset(v.LastOffsetDelta()) < t.from {
				return true, nil
			}
			m.oldest = v.MaxTimestamp()
			if v.TimestampType() == batch.CreateTime && v.DeleteHorizon() == batch.NoHorizon {
				m.oldest = v.FirstTimestamp()
			}
			return false, nil
		})
		if err != nil {
			return false, err
		}
		m.oldestAt = t.from
	}
	return m.oldest < now.Add(-lag).UnixMilli(), nil
}

func rangeOf(e tiering.Extent) cache.Range {
	return cache.Range{Segment: e.Segment, Position: e.Position, Length: int(e.Length), Cold: true}
}
