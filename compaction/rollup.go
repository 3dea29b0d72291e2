package compaction

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/floelog/floe/compaction/job"
	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
)

// Shards is what this agent leads.
type Shards interface {
	NumShards() uint32
	View(id tiering.ShardID) *journal.View
	Leader(id tiering.ShardID) *journal.Leader
}

// RollupConfig says when inline extents are worth a segment.
type RollupConfig struct {
	Age     time.Duration // since inline bytes were first seen on a shard
	Bytes   int64         // over all shards that this agent leads
	Extents int           // over all shards that this agent leads; 0: 4,096
}

// maxRollup bounds the bytes of one segment: what is more goes into the next one. It is
// held in memory twice, in the state and in the request.
const maxRollup = 16 << 20

// Rollup moves inline extents of the shards that this agent leads into segments: batches that
// were committed through the metadata store alone, so that journals and snapshots stay small.
type Rollup struct {
	cfg    RollupConfig
	shards Shards
	writer *job.Writer
	now    func() time.Time
	since  map[tiering.ShardID]time.Time // when inline bytes were first seen there
	// corrupt are partitions of which a run of inline extents is not what its extents say, and where that begins: they
	// were reported, and are left alone as long as it is there, so that they do not hold up the others.
	corrupt map[tiering.TopicPartition]tiering.Offset
}

// NewRollup returns a Rollup for one session of the agent. It is used by one goroutine.
func NewRollup(cfg RollupConfig, shards Shards, writer *job.Writer, now func() time.Time) *Rollup {
	if cfg.Extents == 0 {
		cfg.Extents = 4096
	}
	return &Rollup{cfg: cfg, shards: shards, writer: writer, now: now, since: map[tiering.ShardID]time.Time{}, corrupt: map[tiering.TopicPartition]tiering.Offset{}}
}

// Tick looks once and rolls up what is due.
func (r *Rollup) Tick(ctx context.Context) error {
	for r.due() {
		runs, bytes := r.plan()
		if len(runs) == 0 {
			return nil
		}
		_, err := r.writer.Store(ctx, job.Segment{Level: 1, Purpose: objstore.Rollup, Offer: true, Runs: runs})
		var corrupt *job.CorruptError
		if errors.As(err, &corrupt) {
			for _, bad := range corrupt.Runs {
				r.corrupt[bad.Partition] = bad.Base
			}
		}
		if err != nil {
			return fmt.Errorf("rolling up %d bytes of inline batches: %w", bytes, err)
		}
		clear(r.since)
		if bytes < maxRollup {
			return nil
		}
	}
	return nil
}

// due reports whether there is enough, or something old enough.
func (r *Rollup) due() bool {
	now := r.now()
	var bytes int64
	var extents int
	old := false
	for i := range r.shards.NumShards() {
		id := tiering.ShardID(i)
		var n int64
		if r.shards.Leader(id) != nil {
			r.shards.View(id).Read(func(s *shard.State) {
				n = s.InlineBytes()
				extents += s.InlineExtents()
			})
		}
		if n == 0 {
			delete(r.since, id)
			continue
		}
		bytes += n
		if first, ok := r.since[id]; !ok {
			r.since[id] = now
		} else if now.Sub(first) >= r.cfg.Age {
			old = true
		}
	}
	return old || bytes >= r.cfg.Bytes || extents >= r.cfg.Extents
}

func (r *Rollup) plan() (runs []job.Run, bytes int64) {
	for i := range r.shards.NumShards() {
		id := tiering.ShardID(i)
		if r.shards.Leader(id) == nil {
			continue
		}
		r.shards.View(id).Read(func(s *shard.State) {
			if s.InlineBytes() == 0 {
				return
			}
			for _, tp := range s.Partitions() {
				if bytes >= maxRollup {
					return
				}
				found, n := inlineRuns(id, tp, s.Partition(tp))
				if base, ok := r.corrupt[tp]; ok && slices.ContainsFunc(found, func(x job.Run) bool { return x.With[0].Base == base }) {
					continue
				}
				delete(r.corrupt, tp)
				runs, bytes = append(runs, found...), bytes+n
			}
		})
	}
	return runs, bytes
}

// inlineRuns finds the runs of inline extents, each of which one extent can replace.
func inlineRuns(id tiering.ShardID, tp tiering.TopicPartition, p *shard.Partition) (runs []job.Run, bytes int64) {
	for i := 0; i < len(p.Extents); i++ {
		if !p.Extents[i].IsInline() {
			continue
		}
		j := i + 1
		for j < len(p.Extents) && p.Extents[j].IsInline() {
			j++
		}
		extents := p.Extents[i:j:j]
		r := job.Run{Shard: id, Partition: tp, Epochs: p.Epochs, Of: shard.DigestOf(extents), With: []tiering.Extent{spanning(extents)}}
		for _, e := range extents {
			r.Data = append(r.Data, e.Inline)
		}
		bytes += int64(r.With[0].Length)
		runs = append(runs, r)
		i = j - 1
	}
	return runs, bytes
}

// spanning returns the extent that has the batches of all the given ones, not stored yet.
func spanning(extents []tiering.Extent) tiering.Extent {
	first, last := extents[0], extents[len(extents)-1]
	out := tiering.Extent{Base: first.Base, Count: int64(last.End() - first.Base), MaxTimestamp: tiering.NoTimestamp}
	for _, e := range extents {
		out.MaxTimestamp = max(out.MaxTimestamp, e.MaxTimestamp)
		out.Length += e.Length
	}
	return out
}
