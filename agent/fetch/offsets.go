package fetch

import (
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// Offset is the answer to a question about a partition's offsets: an offset, the
// timestamp of its record and its leader epoch, each -1 where there is none.
type Offset struct {
	Offset    tiering.Offset
	Timestamp int64
	Epoch     tiering.LeaderEpoch
}

// NoOffset answers a question that has no answer.
var NoOffset = Offset{-1, -1, -1}

// The questions below are answered from the view: the caller syncs it first where the
// answer must not be older than the question.

// Latest returns the high watermark, or where readCommitted the last stable offset (KIP-98),
// and the epoch of the newest record.
func (r *Reader) Latest(id tiering.ShardID, tp tiering.TopicPartition, readCommitted bool) (out Offset) {
	r.partition(id, tp, func(p *shard.Partition) {
		out = Offset{p.Next, -1, p.LastEpoch()}
		if readCommitted {
			out.Offset = p.LastStable()
		}
	})
	return out
}

// Earliest returns the log start and the epoch of the first record.
func (r *Reader) Earliest(id tiering.ShardID, tp tiering.TopicPartition) (out Offset) {
	r.partition(id, tp, func(p *shard.Partition) { out = Offset{p.LogStart, -1, shard.EpochAt(p.Epochs, p.LogStart)} })
	return out
}

// EpochEnd answers OffsetForLeaderEpoch.
func (r *Reader) EpochEnd(id tiering.ShardID, tp tiering.TopicPartition, epoch tiering.LeaderEpoch) (e tiering.LeaderEpoch, end tiering.Offset) {
	r.partition(id, tp, func(p *shard.Partition) { e, end = p.EpochEnd(epoch) })
	return e, end
}

func (r *Reader) partition(id tiering.ShardID, tp tiering.TopicPartition, f func(*shard.Partition)) {
	r.views.View(id).Read(func(s *shard.State) { f(s.Partition(tp)) })
}
