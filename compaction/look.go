package compaction

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/floelog/floe/compaction/job"
	"github.com/floelog/floe/compaction/plan"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/manifest"
)

// look is what a shard's view showed.
type look struct {
	seq   uint64
	found []candidate
	old   []archivable
	since map[tiering.TopicPartition]time.Time // since when a partition has had candidates
	idle  map[tiering.TopicPartition]seen      // partitions with nothing to do
	most  int                                  // extents of one partition
}

// seen tells a partition that has not changed: the slice of its extents is appended to, or
// replaced by another.
type seen struct {
	first   *tiering.Extent
	n       int
	cleaned tiering.Offset
	policy  job.Policy
}

// candidate is a run that is worth merging.
type candidate struct {
	shard     tiering.ShardID
	partition tiering.TopicPartition
	extents   []tiering.Extent
	epochs    []shard.EpochStart
	bytes     int64
	why       plan.Why
	since     time.Time
}

func (c *candidate) key() runKey { return runKey{c.partition, c.extents[0].Base} }

// archivable is a run that is to move into a manifest.
type archivable struct {
	shard     tiering.ShardID
	partition tiering.TopicPartition
	extents   []tiering.Extent
	aborted   []shard.AbortedTransaction // with offsets of theirs
}

// pack is what one segment is to hold.
type pack struct {
	level uint8
	of    []candidate
	bytes int64
}

// look brings looks up to date: shards whose views have not moved are passed over.
func (m *Merger) look() {
	m.hear()
	claimed := m.parts.Claims.Claimed()
	for id := range m.looks {
		if !slices.Contains(claimed, id) {
			delete(m.looks, id)
		}
	}
	backlog, most := int64(0), 0
	for _, id := range claimed {
		l := m.looks[id]
		if l == nil || l.seq != m.parts.Journals.View(id).Seq() {
			l = m.lookAt(id, l)
			m.looks[id] = l
		}
		for i := range l.found {
			backlog += l.found[i].bytes
		}
		most = max(most, l.most)
	}
	m.count(func(s *MergeStats) { s.Backlog, s.MostExtents = backlog, most })
}

// hear takes the newest list of sparse segments, and forgets what was planned by another.
func (m *Merger) hear() {
	now := m.parts.Sparse()
	if now == m.sparse {
		return
	}
	m.sparse = now
	for _, l := range m.looks {
		l.seq, l.idle = math.MaxUint64, map[tiering.TopicPartition]seen{}
	}
}

// snapshot is what a plan needs of a partition.
type snapshot struct {
	partition tiering.TopicPartition
	extents   []tiering.Extent
	archived  int64 // bytes of what is in manifests
	epochs    []shard.EpochStart
	cleaned   tiering.Offset
	aborted   shard.Aborted
	open      tiering.Offset // where the first open transaction begins
}

func archivedBytes(p *shard.Partition) (n int64) {
	for i := range p.Manifests {
		n += p.Manifests[i].Bytes
	}
	return n
}

// lookAt plans for all partitions of a shard. The view is locked while slices are taken from it,
// no longer.
func (m *Merger) lookAt(id tiering.ShardID, before *look) *look {
	if before == nil {
		before = &look{idle: map[tiering.TopicPartition]seen{}}
	}
	l := &look{since: map[tiering.TopicPartition]time.Time{}, idle: before.idle}
	all := make([]snapshot, 0, len(before.idle)+len(before.since))
	m.parts.Journals.View(id).Read(func(s *shard.State) {
		l.seq = s.Seq
		for _, tp := range s.Partitions() {
			if p := s.Partition(tp); len(p.Extents) > 1 || len(p.Extents) == 1 && m.sparse.has(p.Extents[0].Segment) {
				all = append(all, snapshot{tp, p.Extents, archivedBytes(p), p.Epochs, p.Cleaned, p.Aborted(), p.FirstOpen()})
			}
		}
	})
	var topic tiering.TopicID
	var policy job.Policy
	known := false
	for i := range all {
		p := &all[i]
		l.most = max(l.most, len(p.extents))
		if p.partition.Topic != topic {
			topic = p.partition.Topic
			policy, known = m.parts.Policies.Policy(topic)
		}
		if !known {
			continue
		}
		now := seen{&p.extents[0], len(p.extents), p.cleaned, policy}
		if l.idle[p.partition] != now {
			delete(l.idle, p.partition)
			m.planFor(l, before, id, p, now)
		}
	}
	if len(l.idle) > len(all) { // partitions are gone
		l.idle = map[tiering.TopicPartition]seen{}
	}
	return l
}

// planFor plans for one partition.
func (m *Merger) planFor(l, before *look, id tiering.ShardID, p *snapshot, now seen) {
	in := plan.Partition{Extents: p.extents, Archived: p.archived, SegmentBytes: now.policy.SegmentBytes, SegmentMs: now.policy.SegmentAge.Milliseconds()}
	if now.policy.SegmentAge <= 0 || now.policy.SegmentAge == math.MaxInt64 {
		in.SegmentMs = 0
	}
	if now.policy.Compact {
		in.Cleaned = p.cleaned
	}
	if m.sparse != nil {
		in.Sparse = m.sparse.has
	}
	merges := m.cfg.Rules.Merges(&in)
	n := m.cfg.Rules.Archive(&in, merges)
	if n == 0 {
		n = m.stuck(p, merges)
	}
	if n == 0 && p.aborted.Len() > manyAborted {
		few := m.cfg.Rules
		few.Manifest = max(2, few.Manifest/fewer)
		n = few.Archive(&in, merges)
	}
	n, aborted := p.archivable(n)
	if now.policy.Compact {
		n = 0 // log compaction would turn the manifest back into extents
	}
	if n > 0 {
		l.old = append(l.old, archivable{id, p.partition, p.extents[:n:n], aborted})
	}
	if len(merges) > 0 {
		m.note(l, before, id, p, merges)
	}
	if n == 0 && len(merges) == 0 {
		l.idle[p.partition] = now
	}
}

const (
	// manyAborted is how many aborted transactions make a partition's extents move into smaller
	// manifests, of which a state has fewer-fold as many then. Less would make many manifests; more
	// is held in memory by every agent, 40 bytes each.
	manyAborted = 4096
	fewer       = 16
)

// archivable returns how many of the first n extents a manifest can stand for, and what it lists of
// aborted transactions: none where a transaction is open, and no more than it may. Where that leaves
// less than half of them the rest is waited for.
func (p *snapshot) archivable(n int) (int, []shard.AbortedTransaction) {
	for most := n; n > 0; n-- {
		if p.extents[n-1].End() > p.open {
			if 2*n <= most {
				return 0, nil
			}
			continue
		}
		if list := p.aborted.In(p.extents[0].Base, p.extents[n-1].End()); len(list) <= manifest.MaxAborted {
			return n, list
		}
	}
	return 0, nil
}

// stuck returns how many of a long partition's first extents should move into a manifest as they
// are, because the last ones of them could not be merged for long; 0 for none.
func (m *Merger) stuck(p *snapshot, merges []plan.Merge) int {
	if limit := m.cfg.Rules.Manifest; len(merges) == 0 || len(p.extents) <= limit+limit/2 {
		return 0
	}
	first := merges[0]
	if m.failed[runKey{p.partition, p.extents[first.From].Base}].pause < stuckPause {
		return 0
	}
	n := min(first.To, manifest.MaxExtents)
	if slices.ContainsFunc(p.extents[:n], tiering.Extent.IsInline) {
		return 0
	}
	return n
}

// note adds the candidates of a partition to a look.
func (m *Merger) note(l, before *look, id tiering.ShardID, p *snapshot, merges []plan.Merge) {
	since, ok := before.since[p.partition]
	if !ok {
		since = m.parts.Now()
	}
	l.since[p.partition] = since
	for _, g := range merges {
		l.found = append(l.found, candidate{id, p.partition, p.extents[g.From:g.To:g.To], p.epochs, g.Bytes, g.Why, since})
	}
}

// due returns the candidates whose time has come. Those of tiers, and what lies on sparse segments,
// wait for each other, so that they share segments.
func (m *Merger) due() (out []candidate) {
	now := m.parts.Now()
	var tiers []candidate
	var bytes int64
	old := false
	for _, l := range m.looks {
		for _, c := range l.found {
			switch f, failed := m.failed[c.key()]; {
			case failed && now.Before(f.until), m.isSilent(c.shard):
			case c.why == plan.Tier || c.why == plan.Sparse:
				tiers = append(tiers, c)
				bytes += c.bytes
				old = old || now.Sub(c.since) >= m.cfg.Age
			default:
				out = append(out, c)
			}
		}
	}
	if old || bytes >= m.cfg.Rules.Target || len(tiers) >= maxRuns {
		out = append(out, tiers...)
		for _, c := range tiers {
			m.looks[c.shard].since[c.partition] = now // what comes next waits anew
		}
	}
	return out
}

// packs says which candidates become one segment: those that make a large extent alone, the
// others together, in the order in which a segment holds them.
func (m *Merger) packs(due []candidate) (out []pack) {
	slices.SortFunc(due, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.shard, b.shard), a.partition.Compare(b.partition), cmp.Compare(a.extents[0].Base, b.extents[0].Base))
	})
	var small pack
	for _, c := range due {
		if c.why == plan.Full || c.bytes >= m.cfg.Rules.Target/4 {
			out = append(out, pack{2, []candidate{c}, c.bytes})
			continue
		}
		if n := len(small.of); n > 0 && (small.bytes+c.bytes > m.cfg.Rules.Target || n == maxRuns) {
			out = append(out, small)
			small = pack{}
		}
		small = pack{1, append(small.of, c), small.bytes + c.bytes}
	}
	if len(small.of) > 0 {
		out = append(out, small)
	}
	return out
}
