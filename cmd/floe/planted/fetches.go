//go:build planted

package planted

import (
	"context"
	"slices"

	"github.com/floelog/floe/agent/kafka"
	"github.com/floelog/floe/protocol/batch"
)

// reader stands between Fetch and what reads.
type reader struct {
	kafka.Reader
	h  *host
	on func(r *reader, req *kafka.FetchRequest, fetch func() []kafka.FetchResult) []kafka.FetchResult
}

func (r *reader) Fetch(ctx context.Context, req kafka.FetchRequest) []kafka.FetchResult {
	return r.on(r, &req, func() []kafka.FetchResult { return r.Reader.Fetch(ctx, req) })
}

func onFetch(on func(r *reader, req *kafka.FetchRequest, fetch func() []kafka.FetchResult) []kafka.FetchResult) func() bug {
	return func() bug {
		return bug{clients: func(h *host, parts *kafka.Parts) { parts.Reader = &reader{parts.Reader, h, on} }}
	}
}

// onResult plants a bug in each result of fetches.
func onResult(on func(r *reader, f *kafka.FetchResult)) func() bug {
	return onFetch(func(r *reader, _ *kafka.FetchRequest, fetch func() []kafka.FetchResult) []kafka.FetchResult {
		out := fetch()
		for i := range out {
			on(r, &out[i])
		}
		return out
	})
}

func fetchBugs() map[string]func() bug {
	return map[string]func() bug{
		"stable-is-high": onFetch(func(_ *reader, req *kafka.FetchRequest, fetch func() []kafka.FetchResult) []kafka.FetchResult {
			committed := req.ReadCommitted
			req.ReadCommitted = false
			out := fetch()
			for i := range out {
				if committed {
					out[i].LastStable = out[i].HighWatermark
				}
			}
			return out
		}),
		"aborted-cut-short": onResult(func(_ *reader, f *kafka.FetchResult) {
			f.Aborted = f.Aborted[:max(0, len(f.Aborted)-1)]
		}),
		"aborted-too-long": onResult(func(_ *reader, f *kafka.FetchResult) {
			f.Aborted = slices.Clone(f.Aborted)
			for i := range f.Aborted {
				f.Aborted[i].First = 0
			}
		}),
		"watermark-back": onResult(func(r *reader, f *kafka.FetchResult) {
			if f.Code == 0 && len(f.Records) == 0 && r.h.oneIn(10) {
				f.HighWatermark, f.LastStable = max(f.LogStart, f.HighWatermark-7), max(f.LogStart, min(f.LastStable, f.HighWatermark-7))
			}
		}),
		"bit-flipped": onResult(func(r *reader, f *kafka.FetchResult) {
			if i := len(f.Records) - 1; i >= 0 && len(f.Records[i]) > batch.HeaderSize && r.h.oneIn(20) {
				f.Records = slices.Clone(f.Records)
				f.Records[i] = slices.Clone(f.Records[i])
				f.Records[i][len(f.Records[i])-1] ^= 4
			}
		}),
		"place-mixed-up": onFetch(func(r *reader, _ *kafka.FetchRequest, fetch func() []kafka.FetchResult) []kafka.FetchResult {
			out := fetch()
			for i := 1; i < len(out); i++ {
				if a, b := &out[i-1], &out[i]; len(a.Records) > 0 && len(b.Records) > 0 && r.h.oneIn(10) {
					a.Records, b.Records = b.Records, a.Records
				}
			}
			return out
		}),
		"batch-left-out": onResult(func(r *reader, f *kafka.FetchResult) {
			if len(f.Records) > 2 && r.h.oneIn(10) {
				f.Records = slices.Delete(slices.Clone(f.Records), 1, 2)
			}
		}),
	}
}
