package compaction

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/floelog/floe/compaction/job"
	"github.com/floelog/floe/compaction/plan"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/protocol/batch"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/cache"
)

// errFutile says that a run would have as many extents as before.
var errFutile = errors.New("nothing would become one: holes that no batch before them can cover")

const (
	// nearby is how far apart two ranges of a segment may be to be fetched together. Less would
	// cost more GETs; more would fetch what nobody needs.
	nearby = 256 << 10
	// wholeBlocks is how long an extent must be to keep what it lies in, the cache's blocks or the
	// frames of the requests that brought it, while the segment is made and for as long as it is
	// offered to readers; shorter ones are copied. Less would hold many times the bytes that
	// count; more would copy for nothing.
	wholeBlocks = 1 << 20
)

// source is an extent of a pack, to be read.
type source struct {
	of     int // in pack.of
	extent int // in its extents
	cache.Range
}

// sources returns what a pack is made of in the order in which it lies in the store, whatever
// partitions it is of, so that each block is fetched once.
func sources(s *pack) (out []source) {
	for i := range s.of {
		for k := range s.of[i].extents {
			if e := &s.of[i].extents[k]; !e.IsHole() {
				out = append(out, source{i, k, cache.Range{Segment: e.Segment, Position: e.Position, Length: int(e.Length), Cold: true}})
			}
		}
	}
	slices.SortFunc(out, func(a, b source) int {
		return cmp.Or(bytes.Compare(a.Segment.Session[:], b.Segment.Session[:]), cmp.Compare(a.Segment.Seq, b.Segment.Seq), cmp.Compare(a.Position, b.Position))
	})
	for i := len(out) - 1; i >= 0; i-- {
		end := out[i].Position + tiering.Position(out[i].Length)
		out[i].End = end
		if i+1 < len(out) && out[i+1].Segment == out[i].Segment && out[i+1].Position <= end+nearby {
			out[i].End = out[i+1].End
		}
	}
	return out
}

// read reads all extents of a pack. Of a candidate that cannot be read, errs has the reason.
func (m *Merger) read(ctx context.Context, s *pack) (data [][][][]byte, errs []error, hot bool) {
	data, errs, hot = make([][][][]byte, len(s.of)), make([]error, len(s.of)), true
	for i := range s.of {
		data[i] = make([][][]byte, len(s.of[i].extents))
	}
	for _, r := range sources(s) {
		if errs[r.of] != nil {
			continue
		}
		here := m.parts.Hot(r.Range)
		got, err := job.Read(ctx, m.parts.Reader, r.Range, s.of[r.of].extents[r.extent].Base)
		if ctx.Err() != nil {
			return nil, nil, false
		}
		if err != nil {
			errs[r.of] = fmt.Errorf("the extent at offset %d: %w", s.of[r.of].extents[r.extent].Base, err)
			continue
		}
		if r.Length < wholeBlocks {
			got = [][]byte{slices.Concat(got...)}
		}
		data[r.of][r.extent] = got
		hot = hot && here
	}
	return data, errs, hot
}

// build puts a run together: its batches as one extent, which covers the holes among them.
func build(c *candidate, data [][][]byte) (run job.Run, err error) {
	run = job.Run{Shard: c.shard, Partition: c.partition, Epochs: c.epochs, Of: shard.DigestOf(c.extents)}
	last := 0 // in run.Data: the slices of the extent before
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
		last = len(run.Data)
		run.Data = append(run.Data, data[i]...)
		w := &run.With[n-1]
		w.Count += e.Count
		w.Length += e.Length
		w.MaxTimestamp = max(w.MaxTimestamp, e.MaxTimestamp)
	}
	if len(run.With) >= len(c.extents) && c.why != plan.Sparse {
		return run, errFutile
	}
	return run, nil
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
	if delta > math.MaxInt32 || !v.MayReach() {
		return false
	}
	header := batch.AppendHeader(nil, v, v.BaseOffset(), v.LeaderEpoch(), int32(delta))
	run.Data = append(run.Data[:from:from], data[:at], header, v.Payload())
	run.With[len(run.With)-1].Count += hole.Count
	return true
}
