// Package retain moves the log start of partitions past what their topics' retention.ms and
// retention.bytes do not keep. It runs beside the leaders of shards: a trim is a proposal to a
// leader in this process. The data goes when nothing names it any more, see compaction/sweep.
//
// It does as Kafka does, with an extent in the place of a log segment: from the front, an
// extent goes while what is left has at least retention.bytes without it, or while its greatest
// timestamp lies more than retention.ms back. Timestamps in the future keep it, and what is
// behind it. An extent without timestamps goes by the time at which its object was stored. All
// that is committed may go, whether or not a transaction is open in it: the last stable
// offset never lies before the log start. Since merged extents are no larger than segment.bytes
// and span no more than segment.ms, these settings mean what they mean in Kafka: how much
// longer a record may stay because of its neighbours.
//
// Invariants:
//  1. Only what a policy with "delete" in cleanup.policy does not keep is trimmed, and nothing
//     of a topic that is not known, nor by a policy that was changed before.
//  2. Nothing goes by its age while the clock is in doubt (RELIABILITY F26): it must agree with
//     the object store's.
//  3. Nothing to do costs no request. A partition's first manifest is read once, to learn when
//     something in it is due, and then when it is.
package retain

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/floelog/floe/compaction/job"
	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
)

// Shards are the shards that this agent leads; journal.Set implements it.
type Shards interface {
	NumShards() uint32
	View(id tiering.ShardID) *journal.View
	Leader(id tiering.ShardID) *journal.Leader
}

const (
	// maxTrims bounds the trims of one proposal, so that it fits into a record: each takes some
	// 40 bytes. More proposals only cost more records.
	maxTrims = 4096
	// maxHeads bounds the objects whose age is asked for in one round, for extents without
	// timestamps. What is left waits for the next round.
	maxHeads = 100
)

// Parts are the components that a Keeper works with.
type Parts struct {
	Shards    Shards
	Policies  job.Policies
	Manifests job.Manifests
	Objects   objstore.Store
	Clock     *Clock // nil: the clock is trusted
	// Fresh returns when Policies knows every change that was made before the call; nil: it does
	// anyway. It is called when something is to be trimmed.
	Fresh   func(ctx context.Context) error
	Now     func() time.Time
	Log     *slog.Logger
	Observe func(Report) // hears of every round; nil: nobody
}

// Report is what one round did.
type Report struct {
	Partitions int   // that were trimmed
	Records    int64 // offsets that went
	Bytes      int64 // of the extents and manifests that went whole
	Skewed     bool  // something was due by its age, and the clock was in doubt
}

// Keeper keeps the partitions of all shards that this agent leads to their policies. It is
// used by one goroutine.
type Keeper struct {
	parts  Parts
	fronts map[tiering.TopicPartition]front
	stored map[tiering.SegmentID]int64 // when objects were stored, of extents without timestamps
	round  round
	said   string // doubt about the clock that was logged last
}

// round is what one Tick remembers.
type round struct {
	now      int64 // milliseconds since 1970
	asked    bool  // the clock was
	doubt    error // what it said
	fresh    bool  // Policies is
	heads    int   // objects whose age was asked for
	report   Report
	policies map[tiering.TopicID]job.Policy
	live     map[tiering.TopicPartition]bool
}

// New returns a Keeper.
func New(parts Parts) *Keeper {
	return &Keeper{parts: parts, fronts: map[tiering.TopicPartition]front{}, stored: map[tiering.SegmentID]int64{}}
}

// Tick looks once at all partitions and trims what is due. Errors concern some partitions;
// the others were done.
func (k *Keeper) Tick(ctx context.Context) error {
	ctx = objstore.WithPurpose(ctx, objstore.Sweep)
	k.round = round{now: k.parts.Now().UnixMilli(), policies: map[tiering.TopicID]job.Policy{}, live: map[tiering.TopicPartition]bool{}}
	var errs []error
	for i := range k.parts.Shards.NumShards() {
		id := tiering.ShardID(i)
		if l := k.parts.Shards.Leader(id); l != nil {
			if err := k.keep(ctx, id, l); err != nil {
				errs = append(errs, fmt.Errorf("shard %d: %w", id, err))
			}
		}
	}
	for tp := range k.fronts {
		if !k.round.live[tp] {
			delete(k.fronts, tp)
		}
	}
	if ctx.Err() != nil { // which may be all that the clock's doubt is
		return errors.Join(errs...)
	}
	k.round.report.Skewed = k.round.doubt != nil
	k.sayDoubt()
	if k.parts.Observe != nil {
		k.parts.Observe(k.round.report)
	}
	return errors.Join(errs...)
}

func (k *Keeper) sayDoubt() {
	doubt := ""
	if k.round.doubt != nil {
		doubt = k.round.doubt.Error()
	}
	if doubt != "" && k.said == "" {
		k.parts.Log.Error("nothing is deleted by its age", "why", doubt)
	}
	if k.round.asked {
		k.said = doubt
	}
}

// partition is what is looked at of one partition.
type partition struct {
	tp        tiering.TopicPartition
	policy    job.Policy
	start     tiering.Offset
	manifests []shard.Manifest
	extents   []tiering.Extent
}

// keep trims the partitions of one shard.
func (k *Keeper) keep(ctx context.Context, id tiering.ShardID, l *journal.Leader) error {
	var look []partition
	k.parts.Shards.View(id).Read(func(s *shard.State) {
		for _, tp := range s.Partitions() {
			policy, ok := k.policy(tp.Topic)
			if p := s.Partition(tp); ok && (len(p.Manifests) > 0 || len(p.Extents) > 0) {
				look = append(look, partition{tp, policy, p.LogStart, p.Manifests, p.Extents})
			}
		}
	})
	var errs []error
	var trims []shard.Change
	for i := range look {
		p := &look[i]
		k.round.live[p.tp] = true
		to, bytes, err := k.plan(ctx, p)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", p.tp, err))
		}
		if to > p.start && k.stands(ctx, p) {
			trims = append(trims, shard.Trim{Partition: p.tp, LogStart: to})
			k.round.report.Partitions++
			k.round.report.Records += int64(to - p.start)
			k.round.report.Bytes += bytes
		}
	}
	return errors.Join(append(errs, k.trim(ctx, l, trims))...)
}

// policy returns what a topic's partitions are kept to; false if everything is kept.
func (k *Keeper) policy(topic tiering.TopicID) (job.Policy, bool) {
	p, known := k.round.policies[topic]
	if !known {
		if found, ok := k.parts.Policies.Policy(topic); ok {
			p = found
		}
		k.round.policies[topic] = p
	}
	return p, p.Delete && (p.Retention >= 0 || p.RetentionBytes >= 0)
}

// stands reports whether a partition's policy still is what it was planned by.
func (k *Keeper) stands(ctx context.Context, p *partition) bool {
	if k.parts.Fresh == nil {
		return true
	}
	if !k.round.fresh {
		if err := k.parts.Fresh(ctx); err != nil {
			return false // something is due still when the metadata store answers again
		}
		k.round.fresh = true
	}
	now, ok := k.parts.Policies.Policy(p.tp.Topic)
	return ok && now == p.policy
}

// trim proposes the trims and waits for the answers. They are found again if they fail.
func (k *Keeper) trim(ctx context.Context, l *journal.Leader, trims []shard.Change) error {
	for part := range slices.Chunk(trims, maxTrims) {
		done := make(chan error, 1)
		l.Propose(&journal.Proposal{
			Size: 64 * len(part),
			Draft: func(d *shard.Draft) error {
				for _, c := range part {
					d.Add(c)
				}
				return nil
			},
			Done: func(_ uint64, err error) { done <- err },
		})
		select {
		case err := <-done:
			if err != nil && !errors.Is(err, metadata.ErrFenced) { // fenced: the next leader trims
				return fmt.Errorf("trimming %d partitions: %w", len(part), err)
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
