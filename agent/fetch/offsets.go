package fetch

import (
	"context"
	"fmt"

	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/protocol/batch"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
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
	r.partition(id, tp, func(p *shard.Partition) { out = Offset{p.LogStart, -1, epochOf(p, p.LogStart)} })
	return out
}

// ByTimestamp returns the first record whose timestamp is at least ms. Where readCommitted,
// there is none if that record lies beyond the last stable offset, as in Kafka.
func (r *Reader) ByTimestamp(ctx context.Context, id tiering.ShardID, tp tiering.TopicPartition, ms int64, readCommitted bool) (Offset, error) {
	return r.search(ctx, id, tp, readCommitted, func(run []tiering.Extent) (int, int64) {
		for i := range run {
			if run[i].MaxTimestamp >= ms {
				return i, ms
			}
		}
		return -1, 0
	})
}

// MaxTimestamp returns the first record with the greatest timestamp (KIP-734), by the same
// rule.
func (r *Reader) MaxTimestamp(ctx context.Context, id tiering.ShardID, tp tiering.TopicPartition, readCommitted bool) (Offset, error) {
	return r.search(ctx, id, tp, readCommitted, func(run []tiering.Extent) (int, int64) {
		at := -1
		for i := range run {
			if at < 0 || run[i].MaxTimestamp > run[at].MaxTimestamp {
				at = i
			}
		}
		if at < 0 {
			return -1, 0
		}
		return at, run[at].MaxTimestamp
	})
}

// EpochEnd answers OffsetForLeaderEpoch.
func (r *Reader) EpochEnd(id tiering.ShardID, tp tiering.TopicPartition, epoch tiering.LeaderEpoch) (e tiering.LeaderEpoch, end tiering.Offset) {
	r.partition(id, tp, func(p *shard.Partition) { e, end = p.EpochEnd(epoch) })
	return e, end
}

func (r *Reader) partition(id tiering.ShardID, tp tiering.TopicPartition, f func(*shard.Partition)) {
	r.views.View(id).Read(func(s *shard.State) { f(s.Partition(tp)) })
}

// epochOf returns the leader epoch of the record at or after offset.
func epochOf(p *shard.Partition, offset tiering.Offset) tiering.LeaderEpoch {
	if i := p.Find(offset); i < len(p.Extents) {
		return p.Extents[i].Epoch
	}
	return p.LastEpoch()
}

// search lets pick choose an extent and a least timestamp, and returns the first record of
// that extent, or of a later one, that is as new and not below the log start.
func (r *Reader) search(ctx context.Context, id tiering.ShardID, tp tiering.TopicPartition, readCommitted bool, pick func([]tiering.Extent) (int, int64)) (Offset, error) {
	var run []tiering.Extent
	var start, end tiering.Offset
	r.partition(id, tp, func(p *shard.Partition) {
		run, start, end = p.Extents, p.LogStart, p.Next
		if readCommitted {
			end = p.LastStable()
		}
	})
	i, ms := pick(run)
	for ; i >= 0 && i < len(run) && run[i].Base < end; i++ {
		if run[i].MaxTimestamp < ms {
			continue
		}
		data, err := r.bytesOf(ctx, run, i, nil)
		if err != nil {
			return NoOffset, fmt.Errorf("%s: looking for timestamp %d: %w", tp, ms, err)
		}
		found, ok, err := firstAtLeast(&run[i], data, ms, start)
		if err != nil {
			return NoOffset, fmt.Errorf("%s: looking for timestamp %d: %w", tp, ms, err)
		}
		switch {
		case ok && found.Offset >= end:
			return NoOffset, nil
		case ok:
			return found, nil
		}
	}
	return NoOffset, nil
}

// firstAtLeast looks through the batches of an extent.
func firstAtLeast(e *tiering.Extent, data [][]byte, ms int64, start tiering.Offset) (Offset, bool, error) {
	rest := objstore.Body(data).Bytes()
	next := e.Base
	for len(rest) > 0 {
		v, tail, err := batch.Next(rest)
		if err != nil {
			return NoOffset, false, fmt.Errorf("%w: %w", objstore.ErrCorrupt, err)
		}
		rest = tail
		base := next
		next += tiering.Offset(v.LastOffsetDelta()) + 1
		if v.MaxTimestamp() < ms || next <= start {
			continue
		}
		for rec, err := range v.Records(nil) {
			if err != nil {
				return NoOffset, false, fmt.Errorf("%w: %w", objstore.ErrCorrupt, err)
			}
			at, t := base+tiering.Offset(rec.OffsetDelta), v.Timestamp(rec)
			if t >= ms && at >= start {
				return Offset{at, t, e.Epoch}, true, nil
			}
		}
	}
	return NoOffset, false, nil
}
