package compaction

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/floelog/floe/compaction/job"
	"github.com/floelog/floe/compaction/plan"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/cache"
	"github.com/floelog/floe/tiering/objstore"
)

// MergeConfig says when small extents are worth a segment.
type MergeConfig struct {
	Rules plan.Rules
	// Age is for how long what is worth merging waits for more, so that one segment holds the
	// merged extents of many partitions. Less costs more PUTs; more leaves more extents.
	Age time.Duration
}

// MergeParts are what a Merger works with.
type MergeParts struct {
	Journals job.Journals
	Claims   job.Claims
	Policies job.Policies
	Reader   job.Reader
	Writer   *job.Writer
	Pace     *job.Pace
	// Sparse returns the segments that are mostly dead; nil: none are known. A list that differs
	// from the one before is another *Sparse.
	Sparse func() *Sparse
	// Hot reports whether a range is in memory; nil: nothing is.
	Hot func(cache.Range) bool
	Now func() time.Time
	Log *slog.Logger
}

const (
	// failPause is for how long a run of extents that could not be read is left alone at first,
	// and maxFailPause after many failures. What is damaged stays so, and is reported
	// each time; what was just slow to be seen is gone with the next look.
	failPause    = 10 * time.Second
	maxFailPause = time.Hour
	// stuckPause is the pause of a run that may be archived as it is, so that a damaged object does
	// not keep what is behind it in the partition's state for ever. Shorter: what the store could
	// not answer for a moment would never be merged. Longer: the state grows for longer.
	stuckPause = 5 * time.Minute
	// maxRuns bounds the runs of one segment, so that its replacements are some 2 MiB of
	// journal records at most. Fewer would cost more PUTs where there are very many partitions.
	maxRuns = 1 << 14
	// silentPause is for how long a shard whose leader did not answer is left alone. Shorter: what
	// is merged for it is stored in vain again and again. Longer: it waits when it is well again.
	silentPause = time.Minute
)

// Sparse are segments of which so little is live that they are worth being emptied: what extents
// name of them becomes part of other segments. Nobody may change it.
type Sparse struct {
	segments map[tiering.SegmentID]struct{}
}

// NewSparse returns the given segments.
func NewSparse(segments []tiering.SegmentID) *Sparse {
	s := &Sparse{make(map[tiering.SegmentID]struct{}, len(segments))}
	for _, id := range segments {
		s.segments[id] = struct{}{}
	}
	return s
}

func (s *Sparse) has(id tiering.SegmentID) bool {
	if s == nil {
		return false
	}
	_, ok := s.segments[id]
	return ok
}

// Merger merges the extents of the shards that this agent claims, and archives them. Tick is
// called by one goroutine; Stats by any.
//
// What is worth merging waits until there is enough of it for a segment, or until it is old
// enough. A run that makes a large extent becomes a segment of its own, of level 2; all others
// are packed together, of level 1. Its memory is that of the segment that it writes, and what
// the cache holds of it.
type Merger struct {
	cfg    MergeConfig
	parts  MergeParts
	looks  map[tiering.ShardID]*look
	failed map[runKey]failure
	silent map[tiering.ShardID]time.Time // left alone until then
	sparse *Sparse                       // that looks were made by

	mu    sync.Mutex // guards the following
	stats MergeStats
}

// runKey tells a run of extents from the others of its partition. It is nearly always the same run
// that is planned again while it cannot be merged.
type runKey struct {
	partition tiering.TopicPartition
	base      tiering.Offset
}

// failure keeps a run from being tried over and over.
type failure struct {
	until time.Time
	pause time.Duration
}

// MergeStats are what a Merger has done since it was made, and what it has still to do.
type MergeStats struct {
	Segments  int64    // stored
	Runs      int64    // that were replaced by one extent
	Extents   int64    // that these had
	Read      int64    // bytes of them
	Packed    int64    // of these, bytes that lay on sparse segments
	Written   [3]int64 // bytes, by level of the segment
	Manifests int64    // stored
	Archived  int64    // extents that moved into them
	Failures  int64

	Backlog     int64 // bytes that are worth merging
	MostExtents int   // of a partition of the claimed shards
}

// NewMerger returns a Merger for one session of the agent.
func NewMerger(cfg MergeConfig, parts MergeParts) *Merger {
	if parts.Hot == nil {
		parts.Hot = func(cache.Range) bool { return false }
	}
	if parts.Sparse == nil {
		parts.Sparse = func() *Sparse { return nil }
	}
	return &Merger{cfg: cfg, parts: parts, looks: map[tiering.ShardID]*look{}, failed: map[runKey]failure{},
		silent: map[tiering.ShardID]time.Time{}}
}

// Stats returns what was done so far.
func (m *Merger) Stats() MergeStats {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.stats
}

func (m *Merger) count(f func(*MergeStats)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f(&m.stats)
}

// Tick looks once, and merges and archives what is due. Where there is nothing to do it costs
// no request.
func (m *Merger) Tick(ctx context.Context) error {
	m.look()
	maps.DeleteFunc(m.failed, func(_ runKey, f failure) bool {
		return m.parts.Now().Sub(f.until) > maxFailPause
	})
	maps.DeleteFunc(m.silent, func(_ tiering.ShardID, until time.Time) bool { return !m.parts.Now().Before(until) })
	for _, s := range m.packs(m.due()) {
		if err := m.merge(ctx, s); err != nil {
			m.count(func(s *MergeStats) { s.Failures++ })
			var silent *job.UnansweredError
			if !errors.As(err, &silent) || ctx.Err() != nil {
				return err
			}
			m.hush(err, silent.Shards...)
		}
	}
	for _, l := range m.looks {
		old := l.old
		for _, a := range old {
			if m.isSilent(a.shard) {
				break // all of a look are of one shard
			}
			if err := m.archive(ctx, a); err != nil {
				m.count(func(s *MergeStats) { s.Failures++ })
				if !errors.Is(err, job.ErrUnanswered) || ctx.Err() != nil {
					return err
				}
				m.hush(err, a.shard)
			}
		}
		if len(old) > 0 && !m.isSilent(old[0].shard) {
			l.old = nil
		}
	}
	return nil
}

func (m *Merger) isSilent(id tiering.ShardID) bool {
	_, silent := m.silent[id]
	return silent
}

// hush leaves shards alone for a while, so that the others do not wait for them.
func (m *Merger) hush(err error, ids ...tiering.ShardID) {
	for _, id := range ids {
		m.silent[id] = m.parts.Now().Add(silentPause)
	}
	m.parts.Log.Warn("shards do not answer; they are left alone for now", "shards", ids, "again in", silentPause, "err", err)
}

// merge stores one segment of merged runs. What cannot be read is left out, and set aside for
// a while.
func (m *Merger) merge(ctx context.Context, s pack) error {
	s.of = slices.DeleteFunc(s.of, func(c candidate) bool { return m.isSilent(c.shard) })
	if len(s.of) == 0 {
		return nil
	}
	if err := m.parts.Pace.Spend(ctx, s.bytes); err != nil {
		return err
	}
	ctx = objstore.WithPurpose(ctx, objstore.Merge)
	data, errs, hot := m.read(ctx, &s)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	seg := job.Segment{Level: s.level, Purpose: objstore.Merge, Offer: hot}
	read, packed, extents := int64(0), int64(0), 0
	for i := range s.of {
		c, run, err := &s.of[i], job.Run{}, errs[i]
		if err == nil {
			run, err = build(c, data[i])
		}
		if errs[i] = err; err != nil {
			continue
		}
		read += c.bytes
		if c.why == plan.Sparse {
			seg.Bare = true // what it carried would be dead soon, and make it sparse
			packed += c.bytes
		}
		extents += len(c.extents)
		seg.Runs = append(seg.Runs, run)
	}
	if len(seg.Runs) == 0 {
		m.settle(&s, errs, nil)
		return nil
	}
	runs := len(seg.Runs)
	written, err := m.parts.Writer.Store(ctx, seg)
	var bad *job.CorruptError
	if errors.As(err, &bad) {
		runs -= len(bad.Runs)
		if err == error(bad) {
			err = nil
		}
	}
	m.settle(&s, errs, bad)
	m.count(func(st *MergeStats) {
		st.Read += read
		if written > 0 {
			st.Segments++
			st.Written[s.level] += written
		}
		if err == nil {
			st.Packed += packed
			st.Runs += int64(runs)
			st.Extents += int64(extents)
		}
	})
	if err != nil {
		return fmt.Errorf("merging %d extents of %d bytes: %w", extents, read, err)
	}
	return nil
}

// settle sets the runs aside that could not be read or put together, by errs, or whose batches are
// not what their extents say, and forgets that others could not be merged before.
func (m *Merger) settle(s *pack, errs []error, bad *job.CorruptError) {
	corrupt := map[runKey]error{}
	if bad != nil {
		for _, r := range bad.Runs {
			corrupt[runKey{r.Partition, r.Base}] = r.Err
		}
	}
	for i := range s.of {
		c := &s.of[i]
		if err := cmp.Or(errs[i], corrupt[c.key()]); err != nil {
			m.setAside(c, err)
		} else {
			delete(m.failed, c.key())
		}
	}
}

// setAside leaves a run alone for a while, longer each time.
func (m *Merger) setAside(c *candidate, err error) {
	if m.gone(c) {
		return // it was replaced or trimmed meanwhile, and its objects may be gone too
	}
	f := m.failed[c.key()]
	f.pause = min(max(2*f.pause, failPause), maxFailPause)
	if errors.Is(err, errFutile) {
		m.failed[c.key()] = failure{m.parts.Now().Add(maxFailPause), maxFailPause}
		return
	}
	f.until = m.parts.Now().Add(f.pause)
	m.failed[c.key()] = f
	m.count(func(s *MergeStats) { s.Failures++ })
	m.parts.Log.Warn("extents could not be merged and stay as they are for now", "shard", c.shard, "partition", c.partition,
		"offset", c.extents[0].Base, "extents", len(c.extents), "again in", f.pause, "err", err)
}

// gone reports whether the extents are not those of the partition any more.
func (m *Merger) gone(c *candidate) (gone bool) {
	m.parts.Journals.View(c.shard).Read(func(s *shard.State) {
		of, ok := s.Partition(c.partition).Digest(c.extents[0].Base, c.extents[len(c.extents)-1].End())
		gone = !ok || of != shard.DigestOf(c.extents)
	})
	return gone
}
