package fetch

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// planned says what a look at the views found for a request.
type planned struct {
	available int  // bytes that could be returned, up to the request's limits
	failed    bool // a partition has an error to report
}

// plan looks at every partition once and fills in watermarks and errors.
func (r *Reader) plan(ctx context.Context, req *Request, results []Result) planned {
	var out planned
	for i := range req.Partitions {
		p, res := &req.Partitions[i], &results[i]
		if res.Code != 0 {
			continue
		}
		n := r.look(p, res)
		if p.Offset > res.HighWatermark {
			n = r.lookAgain(ctx, p, res)
		}
		if res.Code != 0 {
			out.failed = true
		}
		out.available += min(n, p.MaxBytes)
	}
	out.available = min(out.available, req.MaxBytes)
	return out
}

// look reads the view and returns how many bytes lie at and after the offset, up to the
// partition's limit.
func (r *Reader) look(p *Partition, res *Result) (bytes int) {
	r.views.View(p.Shard).Read(func(s *shard.State) {
		ps := s.Partition(p.Partition)
		res.HighWatermark, res.LastStable, res.LogStart = ps.Next, ps.Next, ps.LogStart
		if p.Offset < ps.LogStart {
			// The log start never goes back, so a lagging view is proof enough.
			res.Code = kerr.OffsetOutOfRange.Code
			return
		}
		bytes = available(ps.Extents[ps.Find(p.Offset):], p.Offset, p.MaxBytes)
	})
	return bytes
}

// lookAgain settles whether an offset beyond the view's end is beyond the log's.
func (r *Reader) lookAgain(ctx context.Context, p *Partition, res *Result) int {
	if err := r.sync(ctx, p.Shard); err != nil {
		res.Code = kerr.OffsetNotAvailable.Code
		return 0
	}
	n := r.look(p, res)
	if res.Code == 0 && p.Offset > res.HighWatermark {
		res.Code = kerr.OffsetOutOfRange.Code
	}
	return n
}

// available sums the bytes of extents from offset on, as far as limit; of an extent that
// the offset lies within, the share of its records.
func available(run []tiering.Extent, offset tiering.Offset, limit int) int {
	n := 0
	for i := range run {
		e := &run[i]
		if e.Base < offset {
			n += int(int64(e.Length) * int64(e.End()-offset) / e.Count)
			n = max(n, 1)
		} else {
			n += int(e.Length)
		}
		if n >= limit {
			return limit
		}
	}
	return n
}
