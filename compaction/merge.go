package compaction

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
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
	// Hot reports whether a range is in memory; nil: nothing is.
	Hot func(cache.Range) bool
	Now func() time.Time
	Log *slog.Logger
}

const (
	// failPause is for how long a partition whose extents could not be read is left alone at
	// first, and maxFailPause after many failures. What is damaged stays so, and is reported
	// each time; what was just slow to be seen is gone with the next look.
	failPause    = 10 * time.Second
	maxFailPause = time.Hour
	// maxRuns bounds the runs of one segment, so that its replacements are some 2 MiB of
	// journal records at most. Fewer would cost more PUTs where there are very many partitions.
	maxRuns = 1 << 14
)

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
	failed map[tiering.TopicPartition]failure

	mu    sync.Mutex // guards the following
	stats MergeStats
}

// failure keeps a partition from being tried over and over.
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
	return &Merger{cfg: cfg, parts: parts, looks: map[tiering.ShardID]*look{}, failed: map[tiering.TopicPartition]failure{}}
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
	maps.DeleteFunc(m.failed, func(_ tiering.TopicPartition, f failure) bool {
		return m.parts.Now().Sub(f.until) > maxFailPause
	})
	for _, s := range m.packs(m.due()) {
		if err := m.merge(ctx, s); err != nil {
			m.count(func(s *MergeStats) { s.Failures++ })
			return err
		}
	}
	for _, l := range m.looks {
		for _, a := range l.old {
			if err := m.archive(ctx, a); err != nil {
				m.count(func(s *MergeStats) { s.Failures++ })
				return err
			}
		}
		l.old = nil
	}
	return nil
}

// merge stores one segment of merged runs. What cannot be read is left out, and set aside for
// a while.
func (m *Merger) merge(ctx context.Context, s pack) error {
	if err := m.parts.Pace.Spend(ctx, s.bytes); err != nil {
		return err
	}
	ctx = objstore.WithPurpose(ctx, objstore.Merge)
	data, errs, hot := m.read(ctx, &s)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	seg := job.Segment{Level: s.level, Purpose: objstore.Merge, Offer: hot}
	read, extents := int64(0), 0
	for i := range s.of {
		c, run, err := &s.of[i], job.Run{}, errs[i]
		if err == nil {
			run, err = build(c, data[i])
		}
		if err != nil {
			m.setAside(c, err)
			continue
		}
		delete(m.failed, c.partition)
		read += c.bytes
		extents += len(c.extents)
		seg.Runs = append(seg.Runs, run)
	}
	if len(seg.Runs) == 0 {
		return nil
	}
	runs := len(seg.Runs)
	written, err := m.parts.Writer.Store(ctx, seg)
	m.count(func(st *MergeStats) {
		st.Read += read
		if written > 0 {
			st.Segments++
			st.Written[s.level] += written
		}
		if err == nil {
			st.Runs += int64(runs)
			st.Extents += int64(extents)
		}
	})
	if err != nil {
		return fmt.Errorf("merging %d extents of %d bytes: %w", extents, read, err)
	}
	return nil
}

// setAside leaves a partition alone for a while, longer each time.
func (m *Merger) setAside(c *candidate, err error) {
	if m.gone(c) {
		return // it was replaced or trimmed meanwhile, and its objects may be gone too
	}
	f := m.failed[c.partition]
	f.pause = min(max(2*f.pause, failPause), maxFailPause)
	if errors.Is(err, errFutile) {
		m.failed[c.partition] = failure{m.parts.Now().Add(maxFailPause), maxFailPause}
		return
	}
	f.until = m.parts.Now().Add(f.pause)
	m.failed[c.partition] = f
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
