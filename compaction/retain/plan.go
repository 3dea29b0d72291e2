package retain

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
)

// front is what is remembered of a partition's first manifest as of a log start, so that it is
// only read again when something in it is due.
type front struct {
	object    tiering.SegmentID
	start     tiering.Offset
	gone      int64 // bytes of its extents before the log start
	length    int64 // bytes of the first extent with batches that is left
	timestamp int64 // and its greatest timestamp, or when it was stored
}

// walk goes through a partition from the front, as long as what it meets may go.
type walk struct {
	k     *Keeper
	p     *partition
	total int64          // bytes that are left
	to    tiering.Offset // what lies before may go
	freed int64
}

// plan returns the offset up to which a partition may be trimmed now; its log start or less
// if nothing may go. With an error, what it returns may go all the same.
func (k *Keeper) plan(ctx context.Context, p *partition) (to tiering.Offset, freed int64, err error) {
	w := &walk{k: k, p: p, to: p.start}
	for _, m := range p.manifests {
		w.total += m.Bytes
	}
	for i := range p.extents {
		w.total += int64(p.extents[i].Length)
	}
	if f, ok := k.fronts[p.tp]; ok && len(p.manifests) > 0 && f.object == p.manifests[0].Object && f.start == p.start {
		w.total -= f.gone
	}
	more := true
	for i := range p.manifests {
		if more, err = w.manifest(ctx, p.manifests[i], i == 0); err != nil || !more {
			return w.to, w.freed, err
		}
	}
	_, err = w.extents(ctx, p.extents)
	return w.to, w.freed, err
}

// manifest passes a manifest, whole if it may go by its size. more says that what is behind it
// may go, too.
func (w *walk) manifest(ctx context.Context, m shard.Manifest, first bool) (more bool, err error) {
	f, known := w.k.fronts[w.p.tp]
	known = known && first && f.object == m.Object && f.start == w.p.start
	bytes := m.Bytes
	if known {
		bytes -= f.gone
	}
	switch {
	case first && m.Base < w.p.start && !known:
		// What is left of it has to be seen, to know how much that is.
	case w.tooMuch(bytes):
		w.pass(m.End(), bytes)
		return true, nil
	case w.due(ctx, m.MaxTimestamp, bytes):
		// Extents without timestamps, whose age nothing here tells, may be younger than the others.
	case known && !w.due(ctx, f.timestamp, f.length):
		return false, nil
	}
	extents, err := w.k.parts.Manifests.Extents(ctx, w.p.tp, m)
	if err != nil {
		return false, fmt.Errorf("manifest %s: %w", m.Object.ManifestKey(), err)
	}
	gone, rest := before(extents, w.p.start)
	if first && !known {
		w.total -= gone
	}
	kept, err := w.extents(ctx, rest)
	i := slices.IndexFunc(kept, func(e tiering.Extent) bool { return !e.IsHole() })
	if err != nil || i < 0 {
		return err == nil, err // holes alone keep nothing that is behind them
	}
	w.remember(m, extents, &kept[i])
	return false, nil
}

// remember notes the first extent that is left in a manifest. One whose age is not known yet is
// looked for again.
func (w *walk) remember(m shard.Manifest, extents []tiering.Extent, left *tiering.Extent) {
	f := front{object: m.Object, start: w.to, length: int64(left.Length), timestamp: left.MaxTimestamp}
	if f.timestamp < 0 {
		var known bool
		if f.timestamp, known = w.k.stored[left.Segment]; !known {
			return
		}
	}
	for i := range extents {
		if extents[i].Base < left.Base {
			f.gone += int64(extents[i].Length)
		}
	}
	w.k.fronts[w.p.tp] = f
}

// before splits extents at the one that holds the log start.
func before(extents []tiering.Extent, start tiering.Offset) (bytes int64, rest []tiering.Extent) {
	for i := range extents {
		if extents[i].End() > start {
			return bytes, extents[i:]
		}
		bytes += int64(extents[i].Length)
	}
	return bytes, nil
}

// extents passes the extents that may go and returns the rest. Holes go with what is behind
// them: by themselves they are nothing.
func (w *walk) extents(ctx context.Context, extents []tiering.Extent) (kept []tiering.Extent, err error) {
	first := 0 // of the holes before the extent
	for i := range extents {
		e := &extents[i]
		if e.IsHole() {
			continue
		}
		timestamp := e.MaxTimestamp
		if timestamp < 0 {
			if timestamp, err = w.k.age(ctx, e); err != nil {
				return extents[first:], err
			}
		}
		if !w.due(ctx, timestamp, int64(e.Length)) {
			return extents[first:], nil
		}
		w.pass(e.End(), int64(e.Length))
		first = i + 1
	}
	return extents[first:], nil
}

// due reports whether the next bytes may go. A timestamp below 0 is none, and never due.
func (w *walk) due(ctx context.Context, timestamp, bytes int64) bool {
	policy := &w.p.policy
	if w.tooMuch(bytes) {
		return true
	}
	return policy.Retention >= 0 && timestamp >= 0 && w.k.round.now-timestamp > policy.Retention.Milliseconds() && w.k.clockAgrees(ctx)
}

// tooMuch reports whether what is left has retention.bytes without the next bytes.
func (w *walk) tooMuch(bytes int64) bool {
	return w.p.policy.RetentionBytes >= 0 && w.total-bytes >= w.p.policy.RetentionBytes
}

func (w *walk) pass(to tiering.Offset, bytes int64) {
	w.to = max(w.to, to)
	w.total -= bytes
	w.freed += bytes
}

// clockAgrees asks the clock, once in a round.
func (k *Keeper) clockAgrees(ctx context.Context) bool {
	if !k.round.asked && k.parts.Clock != nil {
		k.round.doubt = k.parts.Clock.Check(ctx)
	}
	k.round.asked = true
	return k.round.doubt == nil
}

// age returns when an extent without timestamps was stored, as Kafka goes by a file's time; -1
// while it is not known.
func (k *Keeper) age(ctx context.Context, e *tiering.Extent) (int64, error) {
	if e.IsInline() {
		return tiering.NoTimestamp, nil // it is soon moved into a segment
	}
	if at, ok := k.stored[e.Segment]; ok {
		return at, nil
	}
	if k.round.heads == maxHeads {
		return tiering.NoTimestamp, nil
	}
	k.round.heads++
	info, err := k.parts.Objects.Head(ctx, e.Segment.Key())
	if errors.Is(err, objstore.ErrNotFound) {
		return tiering.NoTimestamp, nil // it was replaced meanwhile
	}
	if err != nil {
		return tiering.NoTimestamp, fmt.Errorf("when was %s stored: %w", e.Segment.Key(), err)
	}
	if len(k.stored) >= maxHeads*100 {
		clear(k.stored)
	}
	k.stored[e.Segment] = info.Modified.UnixMilli()
	return k.stored[e.Segment], nil
}
