package compaction

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/floelog/floe/compaction/job"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/protocol/batch"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/cache"
)

// errFutile says that a run would have as many extents as before.
var errFutile = errors.New("nothing would become one: holes that no batch before them can cover")

// build reads a run and puts it together: its batches as one extent, which covers the holes
// among them. hot reports whether all of it was in memory.
func (m *Merger) build(ctx context.Context, c *candidate) (run job.Run, hot bool, err error) {
	run = job.Run{Shard: c.shard, Partition: c.partition, Epochs: c.epochs, Of: shard.DigestOf(c.extents)}
	hot = true
	last := 0 // in run.Data: the slices of the extent read last
	for i := range c.extents {
		e := &c.extents[i]
		n := len(run.With)
		switch {
		case e.IsHole() && n > 0 && run.With[n-1].IsHole():
			run.With[n-1].Count += e.Count
			continue
		case e.IsHole():
			if n > 0 && cover(&run, last, e) {
				continue
			}
			run.With = append(run.With, tiering.Extent{Base: e.Base, Count: e.Count, MaxTimestamp: tiering.NoTimestamp})
			continue
		case n == 0 || run.With[n-1].IsHole():
			run.With = append(run.With, tiering.Extent{Base: e.Base, MaxTimestamp: tiering.NoTimestamp})
			n++
		}
		r := cache.Range{Segment: e.Segment, Position: e.Position, Length: int(e.Length), Cold: true}
		hot = hot && m.parts.Hot(r)
		last = len(run.Data)
		if run.Data, err = m.parts.Reader.Read(ctx, r, run.Data); err != nil {
			return run, false, fmt.Errorf("the extent at offset %d: %w", e.Base, err)
		}
		w := &run.With[n-1]
		w.Count += e.Count
		w.Length += e.Length
		w.MaxTimestamp = max(w.MaxTimestamp, e.MaxTimestamp)
	}
	if len(run.With) >= len(c.extents) {
		return run, false, errFutile
	}
	return run, hot, nil
}

// cover lets the last batch of a run reach over the hole behind it, if it may: a batch has one
// leader epoch, and an offset delta of 31 bits. from is where in run.Data its extent begins.
func cover(run *job.Run, from int, hole *tiering.Extent) bool {
	if slices.ContainsFunc(run.Epochs, func(s shard.EpochStart) bool { return s.Start >= hole.Base && s.Start < hole.End() }) {
		return false
	}
	data := slices.Concat(run.Data[from:]...)
	var v batch.View
	at := 0
	for rest := data; len(rest) > 0; {
		next, tail, err := batch.Next(rest)
		if err != nil {
			return false
		}
		v, at = next, len(data)-len(rest)
		rest = tail
	}
	delta := int64(v.LastOffsetDelta()) + hole.Count
	if delta > math.MaxInt32 {
		return false
	}
	header := batch.AppendHeader(nil, v, v.BaseOffset(), v.LeaderEpoch(), int32(delta))
	run.Data = append(run.Data[:from:from], data[:at], header, v.Payload())
	run.With[len(run.With)-1].Count += hole.Count
	return true
}
