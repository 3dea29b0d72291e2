package compaction_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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

// falsify lets the second extent of a partition say that it covers the offsets of the third, too.
func falsify(t *testing.T, w *jobtest.World, tp tiering.TopicPartition) {
	t.Helper()
	run := w.State(tp).Extents[1:3]
	lie := run[0]
	lie.Count += run[1].Count
	if err := w.Change(t.Context(), w.Shard(tp), shard.Replace{Partition: tp, Of: shard.DigestOf(run), With: []tiering.Extent{lie}}); err != nil {
		t.Fatal(err)
	}
	if len(w.State(tp).Extents) != 11 {
		t.Fatalf("extents: %+v", w.State(tp).Extents)
	}
}

// A partition whose batches are not what its state says stays as it is; the others are merged.
func TestAPartitionThatCannotBeMergedHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := jobtest.New(t, 1)
		bad, good := partition(0), partition(1)
		for range 12 {
			w.Flush(jobtest.Part{Partition: bad, Batches: [][]byte{w.Batch(5, "a")}}, jobtest.Part{Partition: good, Batches: [][]byte{w.Batch(5, "b")}})
		}
		falsify(t, w, bad)
		m := merger(w, w.Objects, job.Policy{Delete: true})
		for range 3 {
			if err := m.Tick(t.Context()); err != nil {
				t.Error(err)
			}
			time.Sleep(2 * time.Minute)
		}
		if n := len(w.State(good).Extents); n != 1 {
			t.Errorf("%d extents are left of the partition that could be merged", n)
		}
		if n := len(w.State(bad).Extents); n != 11 {
			t.Errorf("%d extents are left of the other one, want all 11", n)
		}
		if s := m.Stats(); s.Failures == 0 || s.Segments != 1 {
			t.Errorf("%+v", s)
		}
		before := m.Stats().Failures
		for range 6 * 60 * 60 {
			if err := m.Tick(t.Context()); err != nil {
				t.Error(err)
			}
			time.Sleep(time.Second)
		}
		if n := m.Stats().Failures - before; n < 5 || n > 20 {
			t.Errorf("it was tried %d times in six hours, want ever more seldom", n)
		}
		if w.Open() != 0 {
			t.Errorf("%d segment numbers are open", w.Open())
		}
	})
}

// The same of inline extents, which fill the journal's snapshots until they are rolled up.
func TestAPartitionThatCannotBeRolledUpHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := jobtest.New(t, 1)
		bad, good := partition(0), partition(1)
		for range 12 {
			w.Inline(jobtest.Part{Partition: bad, Batches: [][]byte{w.Batch(5, "a")}}, jobtest.Part{Partition: good, Batches: [][]byte{w.Batch(5, "b")}})
		}
		falsify(t, w, bad)
		r := compaction.NewRollup(compaction.RollupConfig{Age: time.Minute, Bytes: 1 << 20}, w, writer(w, w.Objects), time.Now)
		failed := 0
		for range 5 {
			if err := r.Tick(t.Context()); errors.Is(err, objstore.ErrCorrupt) {
				failed++
			} else if err != nil {
				t.Error(err)
			}
			time.Sleep(2 * time.Minute)
		}
		if p := w.State(good); len(p.Extents) != 1 || p.Extents[0].IsInline() {
			t.Errorf("the partition that could be rolled up: %+v", p.Extents)
		}
		if n := len(w.State(bad).Extents); n != 11 {
			t.Errorf("%d extents are left of the other one, want all 11", n)
		}
		if failed == 0 {
			t.Error("nobody was told")
		}
	})
}

// silent are the journals of a cluster in which shard 0 does not answer for some time.
type silent struct {
	*jobtest.World
	until time.Time
}

func (s *silent) Change(ctx context.Context, id tiering.ShardID, changes ...shard.Change) error {
	if id == 0 && time.Now().Before(s.until) {
		time.Sleep(15 * time.Second)
		return fmt.Errorf("shard %d: %w", id, job.ErrUnanswered)
	}
	return s.World.Change(ctx, id, changes...)
}

// What is large becomes a segment of its own, and shard 0 comes first: nothing of shard 1 waits
// until it answers.
func TestAShardThatDoesNotAnswerHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := jobtest.New(t, 2)
		mute, other := partition(0), partition(1)
		if w.Shard(mute) != 0 || w.Shard(other) != 1 {
			t.Fatal("the partitions are not where the test wants them")
		}
		flush := func(n, size int) {
			for range n {
				v := string(make([]byte, size))
				w.Flush(jobtest.Part{Partition: mute, Batches: [][]byte{w.Batch(5, v)}}, jobtest.Part{Partition: other, Batches: [][]byte{w.Batch(5, v)}})
			}
		}
		flush(40, 20<<10) // final, and to be archived
		flush(12, 4<<10)  // to be merged
		s := &silent{w, time.Now().Add(time.Hour)}
		objects := &counted{Store: w.Objects}
		to := writer(w, objects)
		to.Journals = s
		m := compaction.NewMerger(compaction.MergeConfig{Rules: smallRules, Age: time.Second}, compaction.MergeParts{
			Journals: s, Claims: w, Policies: fixed{job.Policy{Delete: true}}, Reader: w.Cache, Writer: to,
			Pace: job.NewPace(0, nil, time.Now), Now: time.Now, Log: slog.New(slog.DiscardHandler),
		})
		work := func(d time.Duration) {
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Second) {
				if err := m.Tick(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		}
		before := []int{len(w.State(mute).Extents), len(w.State(other).Extents)}
		work(5 * time.Minute)
		if p := w.State(other); len(p.Manifests) == 0 || len(p.Extents) >= before[1]-16*len(p.Manifests) {
			t.Errorf("the shard that answers has %d extents, it had %d, and %d manifests", len(p.Extents), before[1], len(p.Manifests))
		}
		if p := w.State(mute); len(p.Extents) != before[0] {
			t.Errorf("the other one has %d extents, it had %d", len(p.Extents), before[0])
		}
		if n := objects.puts.Load(); n > 30 {
			t.Errorf("%d objects were stored, most of them in vain", n)
		}
		s.until = time.Now()
		work(5 * time.Minute)
		if a, b := w.State(mute), w.State(other); len(a.Extents) != len(b.Extents) || len(a.Manifests) != len(b.Manifests) {
			t.Errorf("now that it answers: %d extents and %d manifests, want %d and %d", len(a.Extents), len(a.Manifests), len(b.Extents), len(b.Manifests))
		}
		if w.Open() != 0 {
			t.Errorf("%d segment numbers are open", w.Open())
		}
	})
}
