// Package compaction turns what the produce path committed into what long storage wants.
// Today it rolls inline extents up: batches that were committed through the metadata
// store alone are moved into segments, so that journals and snapshots stay small.
//
// Invariants:
//  1. A replacement covers exactly the offsets it replaces; records and their offsets do
//     not change.
//  2. The new segment is durable before any shard names it; a replacement that comes too
//     late (trimmed, or replaced by another) changes nothing.
//  3. Nothing to do costs no request, neither to the object store nor to the metadata store.
package compaction

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
	"github.com/floelog/floe/tiering/segment"
)

// Shards is what this agent leads.
type Shards interface {
	NumShards() uint32
	View(id tiering.ShardID) *journal.View
	Leader(id tiering.ShardID) *journal.Leader
}

// Segments reserves segment numbers. done must be called when nothing will name the
// segment any more that does not name it already.
type Segments interface {
	NextSegment() (id tiering.SegmentID, done func())
}

// RollupConfig says when inline extents are worth a segment.
type RollupConfig struct {
	Age     time.Duration // since inline bytes were first seen on a shard
	Bytes   int64         // over all shards that this agent leads
	Extents int           // over all shards that this agent leads; 0: 4,096
	Cluster [16]byte
	Carrier Carrier // nil: none
}

// Carrier has the journal records that travel in the next segment's header.
type Carrier interface {
	Take() []segment.JournalRecord
	GiveBack(records []segment.JournalRecord) // of a segment that was not stored
}

// maxReplaces bounds the replacements of one proposal, so that it fits into a record: each
// takes some 60 bytes. More proposals only cost more records.
const maxReplaces = 4096

// maxRollup bounds the bytes of one segment: what is more goes into the next one. It is
// held in memory twice, in the state and in the request.
const maxRollup = 16 << 20

// Rollup moves inline extents of the shards that this agent leads into segments.
type Rollup struct {
	cfg      RollupConfig
	shards   Shards
	segments Segments
	objects  objstore.Store
	session  tiering.SessionID
	now      func() time.Time
	log      *slog.Logger
	since    map[tiering.ShardID]time.Time // when inline bytes were first seen there
}

// NewRollup returns a Rollup for one session of the agent. It is used by one goroutine.
func NewRollup(cfg RollupConfig, shards Shards, segments Segments, objects objstore.Store, session tiering.SessionID, now func() time.Time, log *slog.Logger) *Rollup {
	if cfg.Extents == 0 {
		cfg.Extents = 4096
	}
	return &Rollup{cfg: cfg, shards: shards, segments: segments, objects: objects, session: session,
		now: now, log: log, since: map[tiering.ShardID]time.Time{}}
}

// Tick looks once and rolls up what is due.
func (r *Rollup) Tick(ctx context.Context) error {
	for r.due() {
		runs, bytes := r.plan()
		if len(runs) == 0 {
			return nil
		}
		if err := r.move(ctx, runs); err != nil {
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

// run is a run of inline extents of one partition and one leader epoch.
type run struct {
	shard     tiering.ShardID
	partition tiering.TopicPartition
	extents   []tiering.Extent
}

func (r *Rollup) plan() (runs []run, bytes int64) {
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
				for _, run := range inlineRuns(id, tp, s.Partition(tp).Extents) {
					if bytes >= maxRollup {
						return
					}
					runs = append(runs, run)
					for _, e := range run.extents {
						bytes += int64(e.Length)
					}
				}
			}
		})
	}
	return runs, bytes
}

// inlineRuns finds the runs of inline extents that one extent can replace.
func inlineRuns(id tiering.ShardID, tp tiering.TopicPartition, extents []tiering.Extent) (runs []run) {
	for i := 0; i < len(extents); i++ {
		if !extents[i].IsInline() {
			continue
		}
		j := i + 1
		for j < len(extents) && extents[j].IsInline() && extents[j].Epoch == extents[i].Epoch {
			j++
		}
		runs = append(runs, run{id, tp, extents[i:j:j]})
		i = j - 1
	}
	return runs
}

// chunk is a run's part of the new segment: a partition's runs lie side by side in it.
func chunks(runs []run) []segment.Chunk {
	var out []segment.Chunk
	for _, r := range runs {
		if n := len(out); n == 0 || out[n-1].Shard != r.shard || out[n-1].TopicPartition != r.partition {
			out = append(out, segment.Chunk{Shard: r.shard, TopicPartition: r.partition})
		}
		c := &out[len(out)-1]
		for _, e := range r.extents {
			c.Slices = append(c.Slices, e.Inline)
		}
	}
	return out
}

// move stores the runs as one segment and lets each shard's journal name it.
func (r *Rollup) move(ctx context.Context, runs []run) error {
	id, done := r.segments.NextSegment()
	cs := chunks(runs)
	h := segment.Header{ID: id, CreatedAt: r.now().UnixMilli(), Cluster: r.cfg.Cluster}
	if r.cfg.Carrier != nil {
		h.Carry = r.cfg.Carrier.Take()
	}
	built, err := segment.Build(h, cs)
	if err == nil {
		err = r.objects.Put(ctx, id.Key(), built.Body)
	}
	if err != nil {
		if r.cfg.Carrier != nil {
			r.cfg.Carrier.GiveBack(h.Carry)
		}
		done()
		return err
	}
	next := map[tiering.TopicPartition]tiering.Position{}
	for _, e := range built.Entries {
		next[e.TopicPartition] = e.Position
	}
	byShard := map[tiering.ShardID][]shard.Replace{}
	for _, run := range runs {
		first, last := run.extents[0], run.extents[len(run.extents)-1]
		with := tiering.Extent{
			Base: first.Base, Count: int64(last.End() - first.Base),
			MaxTimestamp: first.MaxTimestamp, Segment: id, Position: next[run.partition],
		}
		for _, e := range run.extents {
			with.MaxTimestamp = max(with.MaxTimestamp, e.MaxTimestamp)
			with.Length += e.Length
		}
		next[run.partition] += tiering.Position(with.Length)
		byShard[run.shard] = append(byShard[run.shard], shard.Replace{Partition: run.partition, Of: shard.DigestOf(run.extents), With: []tiering.Extent{with}})
	}
	answered, err := r.commit(ctx, byShard)
	if answered {
		done()
	}
	return err
}

// commit proposes the replacements to each shard and waits for all answers. If ctx ends
// first, some may still be committed later: answered is false.
func (r *Rollup) commit(ctx context.Context, byShard map[tiering.ShardID][]shard.Replace) (answered bool, err error) {
	var answers []chan error
	for id, replacements := range byShard {
		l := r.shards.Leader(id)
		if l == nil {
			continue // the next leader rolls up what is left
		}
		for part := range slices.Chunk(replacements, maxReplaces) {
			done := make(chan error, 1)
			answers = append(answers, done)
			l.Propose(&journal.Proposal{
				Session: r.session,
				Size:    128 * len(part),
				Draft: func(d *shard.Draft) error {
					for _, c := range part {
						d.Add(c)
					}
					return nil
				},
				Done: func(_ uint64, err error) { done <- err },
			})
		}
	}
	var errs []error
	for _, done := range answers {
		select {
		case err := <-done:
			errs = append(errs, err)
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
	return true, errors.Join(errs...)
}
