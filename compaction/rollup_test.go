package compaction_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/compaction"
	"github.com/floelog/floe/compaction/job"
	"github.com/floelog/floe/compaction/job/jobtest"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
)

func partition(n int32) tiering.TopicPartition {
	return tiering.TopicPartition{Topic: tiering.TopicID{1}, Partition: n}
}

func writer(w *jobtest.World, objects objstore.Store) *job.Writer {
	return &job.Writer{Journals: w, Segments: w, Objects: objects, Cluster: [16]byte{1}, Now: time.Now, Tail: w.Cache}
}

// counted counts requests.
type counted struct {
	objstore.Store
	puts, all atomic.Int64
}

func (c *counted) Put(ctx context.Context, key string, body objstore.Body) error {
	c.puts.Add(1)
	c.all.Add(1)
	return c.Store.Put(ctx, key, body)
}

func (c *counted) GetRange(ctx context.Context, key string, off, n int64) ([]byte, error) {
	c.all.Add(1)
	return c.Store.GetRange(ctx, key, off, n)
}

func (c *counted) GetUpTo(ctx context.Context, key string, off, n int64) (objstore.Body, int64, error) {
	c.all.Add(1)
	return c.Store.GetUpTo(ctx, key, off, n)
}

// The replacements of one roll-up may be more than one journal record holds.
func TestARollUpOfVeryManyPartitionsIsCommitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := jobtest.New(t, 1)
		b := w.Batch(1000, "v")
		const partitions, each = 24_000, 4_000
		for first := 0; first < partitions; first += each {
			var parts []jobtest.Part
			for p := range each {
				parts = append(parts, jobtest.Part{Partition: partition(int32(first + p)), Batches: [][]byte{b}})
			}
			w.Inline(parts...)
		}
		objects := &counted{Store: w.Objects}
		r := compaction.NewRollup(compaction.RollupConfig{Age: time.Minute, Bytes: 1}, w, writer(w, objects), time.Now)
		if err := r.Tick(t.Context()); err != nil {
			t.Error(err)
		}
		w.View(0).Read(func(st *shard.State) {
			if n := st.InlineExtents(); n != 0 {
				t.Errorf("%d inline extents are left", n)
			}
		})
		if n := objects.puts.Load(); n != 1 || w.Open() != 0 {
			t.Errorf("%d PUTs, %d segment numbers are open", n, w.Open())
		}
	})
}

// A run of inline extents becomes one extent although its leader has changed, and reads as
// before; then there is nothing to do, which costs nothing.
func TestARollUpAcrossLeaderEpochs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := jobtest.New(t, 2)
		tp := partition(1)
		for i := range 6 {
			if i%2 == 0 {
				w.Lead(1)
			}
			w.Inline(jobtest.Part{Partition: tp, Batches: [][]byte{w.Batch(int64(i), fmt.Sprint(i), "x"), w.Batch(5, "y")}})
			if i == 3 {
				w.Flush(jobtest.Part{Partition: tp, Batches: [][]byte{w.Batch(1, "flushed")}})
			}
		}
		before := w.Read(tp)
		objects := &counted{Store: w.Objects}
		r := compaction.NewRollup(compaction.RollupConfig{Age: time.Minute, Bytes: 1 << 20}, w, writer(w, objects), time.Now)
		tick := func() {
			if err := r.Tick(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		tick()
		if n := objects.all.Load(); n != 0 {
			t.Errorf("%d requests before anything is due", n)
		}
		time.Sleep(time.Minute)
		tick()
		if p := w.State(tp); len(p.Extents) != 3 || len(p.Epochs) != 3 {
			t.Errorf("%d extents of %d epochs are left", len(p.Extents), len(p.Epochs))
		}
		if !slices.Equal(w.Read(tp), before) {
			t.Error("the partition reads otherwise than before")
		}
		puts, seq := objects.all.Load(), w.View(1).Seq()
		for range 10 {
			time.Sleep(time.Hour)
			tick()
		}
		if n := objects.all.Load(); n != puts || w.View(1).Seq() != seq {
			t.Errorf("%d requests and %d records with nothing to do", n-puts, w.View(1).Seq()-seq)
		}
	})
}

// A partition whose inline batches are not what its state says is reported once, and left alone.
func TestACorruptInlineExtentHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := jobtest.New(t, 1)
		bad, good := partition(0), partition(1)
		for range 3 {
			w.Inline(jobtest.Part{Partition: bad, Batches: [][]byte{w.Batch(5, "a")}})
		}
		run := w.State(bad).Extents[:1]
		lie := run[0]
		lie.Inline = slices.Clone(lie.Inline)
		lie.Inline[26]++ // the last offset delta
		if err := w.Change(t.Context(), 0, shard.Replace{Partition: bad, Of: shard.DigestOf(run), With: []tiering.Extent{lie}}); err != nil {
			t.Fatal(err)
		}
		objects := &counted{Store: w.Objects}
		r := compaction.NewRollup(compaction.RollupConfig{Age: time.Minute, Bytes: 1}, w, writer(w, objects), time.Now)
		reports := 0
		for range 5 {
			w.Inline(jobtest.Part{Partition: good, Batches: [][]byte{w.Batch(5, "b")}})
			if err := r.Tick(t.Context()); errors.Is(err, objstore.ErrCorrupt) {
				reports++
			} else if err != nil {
				t.Error(err)
			}
			time.Sleep(time.Second)
		}
		if reports != 1 {
			t.Errorf("reported %d times, want once", reports)
		}
		if n := len(w.State(bad).Extents); n != 3 {
			t.Errorf("%d extents of the bad partition are left", n)
		}
		if n := objects.puts.Load(); n != 5 {
			t.Errorf("%d roll-ups of the good one, want 5", n)
		}
	})
}
