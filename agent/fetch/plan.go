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
		r.look(p, req.ReadCommitted, res)
		if p.Offset > res.HighWatermark {
			r.lookAgain(ctx, p, req.ReadCommitted, res)
		}
		if res.Code != 0 {
			out.failed = true
			continue
		}
		out.available += res.there
	}
	out.available = min(out.available, req.MaxBytes)
	return out
}

// look reads the view and finds how many bytes lie at and after the offset that the
// request may see, up to the partition's limit.
func (r *Reader) look(p *Partition, readCommitted bool, res *Result) {
	r.views.View(p.Shard).Read(func(s *shard.State) {
		ps := s.Partition(p.Partition)
		res.watermarks(ps)
		res.there, res.behind = 0, false
		if p.Offset < ps.LogStart {
			// The log start never goes back, so a lagging view is proof enough.
			res.Code = kerr.OffsetOutOfRange.Code
			return
		}
		there, behind := available(ps, p.Offset, res.end(readCommitted), max(p.MaxBytes, r.newest+1), r.newest)
		res.there, res.behind = min(there, p.MaxBytes), behind
	})
}

// lookAgain settles whether an offset beyond the view's end is beyond the log's.
func (r *Reader) lookAgain(ctx context.Context, p *Partition, readCommitted bool, res *Result) {
	if err := r.sync(ctx, p.Shard); err != nil {
		res.Code = kerr.OffsetNotAvailable.Code
		return
	}
	r.look(p, readCommitted, res)
	if res.Code == 0 && p.Offset > res.HighWatermark {
		res.Code = kerr.OffsetOutOfRange.Code
	}
}

// available sums the bytes of manifests and extents from offset on and below end, as far as
// limit; of one that they lie within, the share of its records. There is something to read
// wherever offset is below end, if only that nothing is left there: then this is more than 0.
// A reader is behind if it needs a manifest, or if more than newest bytes follow.
func available(p *shard.Partition, offset, end tiering.Offset, limit, newest int) (n int, behind bool) {
	if offset >= end {
		return 0, false
	}
	manifests := p.Manifests[p.FindManifest(offset):]
	for i := range manifests {
		m := &manifests[i]
		n += share(m.Base, m.Count, m.Bytes, offset, end)
		if n >= limit {
			return limit, true
		}
	}
	for i := p.Find(offset); i < len(p.Extents); i++ {
		e := &p.Extents[i]
		if e.Base >= end {
			break
		}
		n += share(e.Base, e.Count, int64(e.Length), offset, end)
		if n >= limit {
			n = limit
			break
		}
	}
	return max(1, n), len(manifests) > 0 || n > newest
}

// share returns how many of the bytes of count records from base on lie in [from, to).
func share(base tiering.Offset, count, bytes int64, from, to tiering.Offset) int {
	end := base + tiering.Offset(count)
	if base >= from && end <= to || bytes == 0 {
		return int(bytes)
	}
	part := min(end, to) - max(base, from)
	if part <= 0 {
		return 0
	}
	return max(1, int(float64(bytes)*float64(part)/float64(count))) // both may be large: no product of integers
}
