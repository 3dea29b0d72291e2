// Package job is what all jobs of compaction have in common: the ports through which they
// see shards and commit what they did, and the policies and the pace that they keep.
//
// A job reads some extents of a view, stores new objects and lets the shard's journal name
// them. It may be repeated, abandoned and raced at any time, because a change names the
// Digest of what it takes the place of (shard.Replace, shard.Archive), and because what no
// journal names is swept away (compaction/sweep).
//
// Everything here may be called concurrently.
package job

import (
	"context"
	"errors"
	"time"

	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/cache"
)

// Journals are the cluster's shards as this agent sees them.
type Journals interface {
	NumShards() uint32
	View(id tiering.ShardID) *journal.View
	// Sync returns when the views hold everything that was committed before the call.
	Sync(ctx context.Context, ids ...tiering.ShardID) error
	// Change commits changes in a shard's journal, with its leader wherever that is, in one
	// record, in the name of this agent's session. It repeats itself until the outcome is
	// definite, ctx ends, or the shard has been without an answer for too long
	// (ErrUnanswered). In the last two cases something may still be committed later, but not
	// once the session has published an upload low watermark above the objects that the
	// changes are the first to name.
	// nil says that they are in the journal; whether they had an effect, the view tells.
	// Only shard.Replace, shard.Archive and shard.Trim are allowed.
	Change(ctx context.Context, id tiering.ShardID, changes ...shard.Change) error
}

// ErrUnanswered says that a shard has had no leader, or one that does not answer, for so long
// that jobs of other shards should not wait any more.
var ErrUnanswered = errors.New("the shard's leader does not answer")

// Segments reserves segment numbers of this agent's session. done must be called when the
// calls of Change that name the segment have returned, whatever they returned: what of them
// comes into force before the session's watermark passes the number is in the journal when it
// does, and what comes later is refused.
type Segments interface {
	NextSegment() (id tiering.SegmentID, done func())
}

// Claims says which shards' jobs are this agent's to do. Another agent may do the same for a
// moment: that costs work, not safety.
type Claims interface {
	Claimed() []tiering.ShardID
}

// Reader reads whole batches of extents, verified; see tiering/cache.
type Reader interface {
	Read(ctx context.Context, r cache.Range, dst [][]byte) ([][]byte, error)
}

// Manifests reads the extents that a manifest stands for, ascending. The slice is shared:
// nobody may change it.
type Manifests interface {
	Extents(ctx context.Context, tp tiering.TopicPartition, m shard.Manifest) ([]tiering.Extent, error)
}

// Policies knows the configs of topics.
type Policies interface {
	// Policy returns false for a topic that is not known, or not yet: nothing is done for it.
	Policy(topic tiering.TopicID) (Policy, bool)
}

// Policy is what a topic's configs say about keeping and compacting its records. Ages below
// 0 and bytes below 0 stand for "without limit".
type Policy struct {
	Delete         bool          // cleanup.policy has delete
	Retention      time.Duration // retention.ms
	RetentionBytes int64         // retention.bytes, of a partition

	SegmentBytes int64         // segment.bytes: no merged extent is larger
	SegmentAge   time.Duration // segment.ms: no merged extent spans more time

	Compact          bool          // cleanup.policy has compact
	MinDirtyRatio    float64       // min.cleanable.dirty.ratio
	MinCompactionLag time.Duration // min.compaction.lag.ms
	MaxCompactionLag time.Duration // max.compaction.lag.ms
	DeleteRetention  time.Duration // delete.retention.ms, of tombstones and markers
}
