package compaction_test

import (
	"bytes"
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/compaction"
	"github.com/floelog/floe/compaction/job"
	"github.com/floelog/floe/compaction/job/jobtest"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/cache"
	"github.com/floelog/floe/tiering/objstore"
)

// frames reads like a cache that has segments as they were offered: each slice is a small part of a
// large frame.
type frames struct {
	job.Reader
	all [][]byte
}

func (f *frames) Read(ctx context.Context, r cache.Range, dst [][]byte) ([][]byte, error) {
	got, err := f.Reader.Read(ctx, r, nil)
	for _, p := range got {
		frame := append(make([]byte, 0, 1<<16), p...)
		f.all = append(f.all, frame)
		dst = append(dst, frame[:len(p):len(p)])
	}
	return dst, err
}

// offered keeps what it is offered.
type offered struct {
	body objstore.Body
	held int64
}

func (o *offered) Offer(_ tiering.SegmentID, body objstore.Body, held int64) {
	o.body, o.held = body, held
}

// What is offered after a merge must not keep the frames that its batches came in: it counts for
// its own size only.
func TestWhatIsOfferedHoldsNoMoreThanItCountsFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := jobtest.New(t, 1)
		for range 12 {
			w.Flush(jobtest.Part{Partition: partition(0), Batches: [][]byte{w.Batch(5, "a")}})
		}
		f, o := &frames{Reader: w.Cache}, &offered{}
		to := writer(w, w.Objects)
		to.Tail = o
		m := compaction.NewMerger(compaction.MergeConfig{Rules: smallRules}, compaction.MergeParts{
			Journals: w, Claims: w, Policies: fixed{job.Policy{Delete: true}}, Reader: f, Writer: to,
			Hot: func(cache.Range) bool { return true }, Pace: job.NewPace(0, nil, time.Now), Now: time.Now, Log: slog.New(slog.DiscardHandler),
		})
		if err := m.Tick(t.Context()); err != nil {
			t.Fatal(err)
		}
		before := bytes.Join(o.body, nil)
		if len(before) == 0 || o.held != int64(len(before)) || len(f.all) < 12 {
			t.Fatalf("%d bytes were offered that hold %d, made of %d frames", len(before), o.held, len(f.all))
		}
		for _, frame := range f.all {
			clear(frame)
		}
		if !bytes.Equal(before, bytes.Join(o.body, nil)) {
			t.Error("what was offered is part of the frames that were read")
		}
	})
}
