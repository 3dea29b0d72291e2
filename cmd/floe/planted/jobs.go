//go:build planted

package planted

import (
	"context"
	"slices"

	"github.com/floelog/floe/compaction/job"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/protocol/batch"
	"github.com/floelog/floe/tiering"
)

// journals stands between the jobs of an agent and the journals that they change.
type journals struct {
	job.Journals
	h  *host
	on func(j *journals, ctx context.Context, id tiering.ShardID, r *shard.Replace)
}

// Change lets the bug change each replacement before it is committed.
func (j *journals) Change(ctx context.Context, id tiering.ShardID, changes ...shard.Change) error {
	changes = slices.Clone(changes)
	for i, c := range changes {
		if r, ok := c.(shard.Replace); ok {
			j.on(j, ctx, id, &r)
			changes[i] = r
		}
	}
	return j.Journals.Change(ctx, id, changes...)
}

func onReplace(on func(j *journals, ctx context.Context, id tiering.ShardID, r *shard.Replace)) func() bug {
	return func() bug {
		return bug{jobs: func(h *host, inner job.Journals) job.Journals { return &journals{Journals: inner, h: h, on: on} }}
	}
}

func jobBugs() map[string]func() bug {
	return map[string]func() bug{
		"merge-loses-batch":   onReplace(loseBatch),
		"rollup-loses-extent": onReplace(loseExtent),
		"trim-too-far": onReplace(func(j *journals, ctx context.Context, id tiering.ShardID, r *shard.Replace) {
			if j.h.oneIn(4) {
				_ = j.Journals.Change(ctx, id, shard.Trim{Partition: r.Partition, LogStart: r.Base() + 1}) // or later
			}
		}),
	}
}

func hole(from, to tiering.Offset) tiering.Extent {
	return tiering.Extent{Base: from, Count: int64(to - from), MaxTimestamp: tiering.NoTimestamp}
}

// loseBatch has a hole take the place of the last batch.
func loseBatch(j *journals, ctx context.Context, _ tiering.ShardID, r *shard.Replace) {
	n := len(r.With)
	e := r.With[n-1]
	if e.IsHole() || e.IsInline() || !j.h.oneIn(3) {
		return
	}
	data, err := j.h.objects.GetRange(ctx, e.Segment.Key(), int64(e.Position), int64(e.Length))
	if err != nil {
		return
	}
	var last batch.View
	for rest := data; len(rest) > 0; {
		if last, rest, err = batch.Next(rest); err != nil {
			return
		}
	}
	base, end := tiering.Offset(last.BaseOffset()), e.End()
	if base <= e.Base || base >= end || last.IsControl() {
		return
	}
	e.Length -= int32(len(last))
	e.Count = int64(base - e.Base)
	r.With = append(slices.Clone(r.With[:n-1]), e, hole(base, end))
}

// loseExtent has a hole take the place of what was inline.
func loseExtent(j *journals, _ context.Context, id tiering.ShardID, r *shard.Replace) {
	inline := false
	j.View(id).Read(func(s *shard.State) {
		_, extents, ok := s.Partition(r.Partition).Run(r.Base(), r.With[len(r.With)-1].End())
		inline = ok && slices.ContainsFunc(extents, tiering.Extent.IsInline)
	})
	if inline && j.h.oneIn(10) {
		r.With = []tiering.Extent{hole(r.Base(), r.With[len(r.With)-1].End())}
	}
}
