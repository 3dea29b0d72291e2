package fetch

import (
	"context"
	"fmt"

	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/protocol/batch"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
)

// searchPiece is how much of a large extent a search holds at a time. Not less: most extents
// are read in one go. Not more: it is copied.
const searchPiece = 1 << 20

// ByTimestamp returns the first record whose timestamp is at least ms. Where readCommitted,
// there is none if that record lies beyond the last stable offset, as in Kafka.
func (r *Reader) ByTimestamp(ctx context.Context, id tiering.ShardID, tp tiering.TopicPartition, ms int64, readCommitted bool) (Offset, error) {
	return r.search(ctx, id, tp, readCommitted, func(s *search) (Offset, error) { return s.firstAtLeast(ctx, ms) })
}

// MaxTimestamp returns the first record with the greatest timestamp (KIP-734), by the same
// rule.
func (r *Reader) MaxTimestamp(ctx context.Context, id tiering.ShardID, tp tiering.TopicPartition, readCommitted bool) (Offset, error) {
	return r.search(ctx, id, tp, readCommitted, func(s *search) (Offset, error) { return s.greatest(ctx) })
}

// search looks for a record in what a look at a partition found.
type search struct {
	r     *Reader
	tp    tiering.TopicPartition
	at    look
	start tiering.Offset // records before are gone
	end   tiering.Offset // records from here on are not shown
}

// search asks again with another look at the view while objects turn out to be gone.
func (r *Reader) search(ctx context.Context, id tiering.ShardID, tp tiering.TopicPartition, readCommitted bool, ask func(*search) (Offset, error)) (Offset, error) {
	for attempt := 1; ; attempt++ {
		s := search{r: r, tp: tp}
		r.partition(id, tp, func(p *shard.Partition) {
			s.at.take(p, p.LogStart)
			s.start, s.end = p.LogStart, p.Next
			if readCommitted {
				s.end = p.LastStable()
			}
		})
		found, err := ask(&s)
		switch {
		case gone(err) && attempt < looks:
			if err := r.sync(ctx, id); err != nil {
				return NoOffset, err
			}
		case err != nil:
			return NoOffset, fmt.Errorf("%s: looking for a timestamp: %w", tp, err)
		case found.Offset >= s.end:
			return NoOffset, nil
		default:
			return found, nil
		}
	}
}

// firstAtLeast goes through what may have the record, in order. What begins beyond the end
// cannot have one that may be shown.
func (s *search) firstAtLeast(ctx context.Context, ms int64) (Offset, error) {
	fits := func(t int64) bool { return t >= ms }
	inRun := func(run []tiering.Extent) (Offset, error) {
		for i := range run {
			if run[i].Base >= s.end {
				break
			}
			if run[i].IsHole() || run[i].MaxTimestamp < ms {
				continue
			}
			if found, err := s.inExtent(ctx, run, i, fits, true); err != nil || found != NoOffset {
				return found, err
			}
		}
		return NoOffset, nil
	}
	for i := range s.at.manifests {
		m := &s.at.manifests[i]
		if m.MaxTimestamp < ms || m.Base >= s.end {
			continue
		}
		run, _, err := s.r.load(ctx, s.tp, m)
		if err != nil {
			return NoOffset, err
		}
		if found, err := inRun(run[find(run, s.start):]); err != nil || found != NoOffset {
			return found, err
		}
	}
	return inRun(s.at.extents)
}

// claim is a manifest, or else an extent, and the greatest timestamp that it may have.
type claim struct {
	base     tiering.Offset
	max      int64
	manifest *shard.Manifest
	run      []tiering.Extent // with the extent first
}

// greatest follows the highest claim, until none is higher than what was found: an extent
// that holds the log start may owe its claim to a record that is gone.
func (s *search) greatest(ctx context.Context) (Offset, error) {
	claims := claimsOf(nil, s.at.extents)
	for i := range s.at.manifests {
		m := &s.at.manifests[i]
		claims = append(claims, claim{m.Base, m.MaxTimestamp, m, nil})
	}
	best := NoOffset
	for {
		top := -1
		for i, c := range claims {
			if top < 0 || c.max > claims[top].max || c.max == claims[top].max && c.base < claims[top].base {
				top = i
			}
		}
		if top < 0 || best != NoOffset && !better(claims[top].max, claims[top].base, best) {
			return best, nil
		}
		c := claims[top]
		claims[top] = claims[len(claims)-1]
		claims = claims[:len(claims)-1]
		if c.manifest != nil {
			run, _, err := s.r.load(ctx, s.tp, c.manifest)
			if err != nil {
				return NoOffset, err
			}
			claims = claimsOf(claims, run[find(run, s.start):])
			continue
		}
		found, err := s.inExtent(ctx, c.run, 0, func(int64) bool { return true }, false)
		if err != nil {
			return NoOffset, err
		}
		if found != NoOffset && (best == NoOffset || better(found.Timestamp, found.Offset, best)) {
			best = found
		}
	}
}

func claimsOf(claims []claim, run []tiering.Extent) []claim {
	for i := range run {
		if !run[i].IsHole() {
			claims = append(claims, claim{run[i].Base, run[i].MaxTimestamp, nil, run[i:]})
		}
	}
	return claims
}

func better(t int64, at tiering.Offset, than Offset) bool {
	return t > than.Timestamp || t == than.Timestamp && at < than.Offset
}

// inExtent returns the first record of the i-th extent of a run that fits, or, unless first,
// the first one of the greatest timestamp among those that fit.
func (s *search) inExtent(ctx context.Context, run []tiering.Extent, i int, fits func(int64) bool, first bool) (Offset, error) {
	e, at, best := &run[i], run[i].Base, NoOffset
	in := pieces{run: run, i: i, cold: true}
	for whole := e.IsInline() || e.Length <= maxWhole; in.pos < int(e.Length); {
		var data [][]byte
		var err error
		if whole {
			data, err = s.r.bytesOf(ctx, run, i, true, nil)
		} else {
			data, err = s.r.next(ctx, &in, searchPiece, nil)
		}
		if err != nil {
			return NoOffset, err
		}
		rest := objstore.Body(data).Bytes()
		for in.pos += len(rest); len(rest) > 0; {
			v, tail, err := batch.Next(rest)
			if err != nil {
				return NoOffset, fmt.Errorf("%w: %w", objstore.ErrCorrupt, err)
			}
			next := at + tiering.Offset(v.LastOffsetDelta()) + 1
			if next > s.start && fits(v.MaxTimestamp()) && (best == NoOffset || v.MaxTimestamp() > best.Timestamp) {
				if best, err = s.inBatch(v, at, fits, first, best); err != nil || first && best != NoOffset {
					return best, err
				}
			}
			rest, at = tail, next
		}
	}
	return best, nil
}

// inBatch is inExtent for a batch. Records that log compaction has removed are not there to be
// found, whatever offsets the batch covers.
func (s *search) inBatch(v batch.View, base tiering.Offset, fits func(int64) bool, first bool, best Offset) (Offset, error) {
	for rec, err := range v.Heads(false, nil) {
		if err != nil {
			return NoOffset, fmt.Errorf("%w: %w", objstore.ErrCorrupt, err)
		}
		at, t := base+tiering.Offset(rec.OffsetDelta), v.TimestampAt(rec.TimestampDelta)
		if at < s.start || !fits(t) || best != NoOffset && t <= best.Timestamp {
			continue
		}
		best = Offset{at, t, shard.EpochAt(s.at.epochs, base)}
		if first {
			break
		}
	}
	return best, nil
}
