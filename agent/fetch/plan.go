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
		n := r.look(p, req.ReadCommitted, res)
		if p.Offset > res.HighWatermark {
			n = r.lookAgain(ctx, p, req.ReadCommitted, res)
		}
		if res.Code != 0 {
			out.failed = true
		}
		out.available += min(n, p.MaxBytes)
	}
	out.available = min(out.available, req.MaxBytes)
	return out
}

// look reads the view and returns how many bytes lie at and after the offset that the
// request may see, up to the partition's limit.
func (r *Reader) look(p *Partition, readCommitted bool, res *Result) (bytes int) {
	r.views.View(p.Shard).Read(func(s *shard.State) {
		ps := s.Partition(p.Partition)
		res.watermarks(ps)
		if p.Offset < ps.LogStart {
			// The log start never goes back, so a lagging view is proof enough.
			res.Code = kerr.OffsetOutOfRange.Code
			return
		}
		bytes = available(ps.Extents[ps.Find(p.Offset):], p.Offset, res.end(readCommitted), p.MaxBytes)
	})
	return bytes
}

// lookAgain settles whether an offset beyond the view's end is beyond the log's.
func (r *Reader) lookAgain(ctx context.Context, p *Partition, readCommitted bool, res *Result) int {
	if err := r.sync(ctx, p.Shard); err != nil {
		res.Code = kerr.OffsetNotAvailable.Code
		return 0
	}
	n := r.look(p, readCommitted, res)
	if res.Code == 0 && p.Offset > res.HighWatermark {
		res.Code = kerr.OffsetOutOfRange.Code
	}
	return n
}

// available sums the bytes of extents from offset on and below end, as far as limit; of an
// extent that one of them lies within, the share of its records. No batch has end within, so
// there is one to read wherever this is more than 0.
func available(run []tiering.Extent, offset, end tiering.Offset, limit int) int {
	n := 0
	for i := range run {
		e := &run[i]
		if e.Base >= end {
			break
		}
		if e.Base < offset || e.End() > end {
			if share := min(e.End(), end) - max(e.Base, offset); share > 0 {
				n += max(1, int(int64(e.Length)*int64(share)/e.Count))
			}
		} else {
			n += int(e.Length)
		}
		if n >= limit {
			return limit
		}
	}
	return n
}
