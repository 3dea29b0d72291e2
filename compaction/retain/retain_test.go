package retain_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/compaction/job"
	"github.com/floelog/floe/compaction/job/jobtest"
	"github.com/floelog/floe/compaction/retain"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
)

var tp0 = tiering.TopicPartition{Topic: tiering.TopicID{1}}

const unlimited = -1

// world is a cluster of one agent with a Keeper, and policies that a test may change.
type world struct {
	*jobtest.World
	t        *testing.T
	keeper   *retain.Keeper
	policies map[tiering.TopicID]job.Policy
	archived map[tiering.SegmentID][]tiering.Extent
	reads    int // of manifests
	last     retain.Report
}

// Policy implements job.Policies.
func (w *world) Policy(id tiering.TopicID) (job.Policy, bool) {
	p, ok := w.policies[id]
	return p, ok
}

// Extents implements job.Manifests.
func (w *world) Extents(_ context.Context, _ tiering.TopicPartition, m shard.Manifest) ([]tiering.Extent, error) {
	w.reads++
	extents, ok := w.archived[m.Object]
	if !ok {
		return nil, objstore.ErrNotFound
	}
	return extents, nil
}

func bubble(t *testing.T, shards uint32, change func(*retain.Parts), f func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{World: jobtest.New(t, shards), t: t, policies: map[tiering.TopicID]job.Policy{}, archived: map[tiering.SegmentID][]tiering.Extent{}}
		parts := retain.Parts{Shards: w, Policies: w, Manifests: w, Objects: w.Objects, Now: time.Now, Log: slog.New(slog.DiscardHandler),
			Observe: func(r retain.Report) { w.last = r }}
		if change != nil {
			change(&parts)
		}
		w.keeper = retain.New(parts)
		f(w)
	})
}

// keep sets the limits of a topic.
func (w *world) keep(topic tiering.TopicID, age time.Duration, bytes int64) {
	w.policies[topic] = job.Policy{Delete: true, Retention: age, RetentionBytes: bytes}
}

func (w *world) tick() {
	w.t.Helper()
	if err := w.keeper.Tick(context.Background()); err != nil {
		w.t.Fatal(err)
	}
}

// flush commits a batch of three records whose timestamp is the given time from now.
func (w *world) flush(tp tiering.TopicPartition, fromNow time.Duration) {
	w.t.Helper()
	w.Flush(jobtest.Part{Partition: tp, Batches: [][]byte{w.Batch(time.Now().Add(fromNow).UnixMilli(), "a", "b", "c")}})
}

// archive moves the first n extents into a manifest.
func (w *world) archive(tp tiering.TopicPartition, n int) {
	w.t.Helper()
	run := w.State(tp).Extents[:n]
	id, done := w.NextSegment()
	defer done()
	w.archived[id] = run
	c := shard.Archive{Partition: tp, Of: shard.DigestOf(run), Manifest: shard.ManifestOf(id, 100, run)}
	if err := w.Change(context.Background(), w.Shard(tp), c); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) start(tp tiering.TopicPartition, want tiering.Offset) {
	w.t.Helper()
	if got := w.State(tp).LogStart; got != want {
		w.t.Errorf("the log starts at %d, want %d", got, want)
	}
}

func TestByAge(t *testing.T) {
	bubble(t, 1, nil, func(w *world) {
		w.keep(tp0.Topic, time.Hour, unlimited)
		w.flush(tp0, 0)
		w.flush(tp0, 30*time.Minute)
		w.flush(tp0, 0)
		time.Sleep(time.Hour)
		w.tick()
		w.start(tp0, 0) // an hour, not more
		time.Sleep(time.Millisecond)
		w.tick()
		w.start(tp0, 3)
		if w.last.Partitions != 1 || w.last.Records != 3 || w.last.Bytes == 0 {
			w.t.Errorf("report %+v", w.last)
		}
		time.Sleep(20 * time.Minute)
		w.tick()
		w.start(tp0, 3) // the second one is newer, and keeps what is behind it
		time.Sleep(10 * time.Minute)
		w.tick()
		w.start(tp0, 9) // all of it, as Kafka does with its active segment
	})
}

func TestBySize(t *testing.T) {
	bubble(t, 1, nil, func(w *world) {
		for range 4 {
			w.flush(tp0, 0)
		}
		size := int64(w.State(tp0).Extents[0].Length)
		for _, c := range []struct {
			bytes int64
			want  tiering.Offset
		}{{unlimited, 0}, {4*size + 1, 0}, {4 * size, 0}, {3*size + 1, 0}, {3 * size, 3}, {2*size - 1, 6}, {1, 9}, {0, 12}} {
			w.keep(tp0.Topic, unlimited, c.bytes)
			w.tick()
			w.start(tp0, c.want)
		}
	})
}

func TestWhatIsNotTrimmed(t *testing.T) {
	for name, policy := range map[string]*job.Policy{
		"unknown topic": nil,
		"compact only":  {Compact: true, Retention: 0, RetentionBytes: 0},
		"unlimited":     {Delete: true, Retention: unlimited, RetentionBytes: unlimited},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 1, nil, func(w *world) {
				if policy != nil {
					w.policies[tp0.Topic] = *policy
				}
				w.flush(tp0, -time.Hour)
				seq := w.View(0).Seq()
				w.tick()
				w.start(tp0, 0)
				if w.View(0).Seq() != seq {
					w.t.Error("a record was written for nothing")
				}
				w.policies[tp0.Topic] = job.Policy{Delete: true, Compact: true, RetentionBytes: 0, Retention: unlimited}
				w.tick()
				w.start(tp0, 3) // compact,delete; a change takes effect at once
			})
		})
	}
}

// A policy that was changed, and is known only now, is not trimmed by.
func TestAPolicyThatHasChanged(t *testing.T) {
	var w *world
	down := errors.New("down")
	fresh := func(context.Context) error { return down }
	bubble(t, 1, func(p *retain.Parts) { p.Fresh = func(ctx context.Context) error { return fresh(ctx) } }, func(x *world) {
		w = x
		w.keep(tp0.Topic, time.Hour, unlimited)
		w.flush(tp0, -2*time.Hour)
		w.tick()
		w.start(tp0, 0) // the metadata store does not answer
		fresh = func(context.Context) error {
			w.keep(tp0.Topic, 3*time.Hour, unlimited)
			return nil
		}
		w.tick()
		w.start(tp0, 0)
		fresh = func(context.Context) error { return nil }
		w.keep(tp0.Topic, time.Hour, unlimited)
		w.tick()
		w.start(tp0, 3)
	})
}

func TestATimestampInTheFutureKeepsWhatIsBehind(t *testing.T) {
	bubble(t, 1, nil, func(w *world) {
		w.keep(tp0.Topic, time.Minute, unlimited)
		w.flush(tp0, 100*time.Hour)
		w.flush(tp0, 0)
		time.Sleep(50 * time.Hour)
		w.tick()
		w.start(tp0, 0)
	})
}

func TestWithoutTimestampsTheStoresTimeCounts(t *testing.T) {
	bubble(t, 1, nil, func(w *world) {
		w.keep(tp0.Topic, time.Hour, unlimited)
		w.Flush(jobtest.Part{Partition: tp0, Batches: [][]byte{w.Batch(-1, "a")}})
		w.Inline(jobtest.Part{Partition: tp0, Batches: [][]byte{w.Batch(-1, "b")}})
		time.Sleep(59 * time.Minute)
		w.tick()
		w.start(tp0, 0)
		time.Sleep(2 * time.Minute)
		w.tick()
		w.start(tp0, 1) // what is inline waits for its roll-up
	})
}

// In a manifest as well: what its first extent left is remembered by its age, not by a timestamp
// that it does not have.
func TestWithoutTimestampsInAManifest(t *testing.T) {
	bubble(t, 1, nil, func(w *world) {
		w.keep(tp0.Topic, time.Hour, unlimited)
		for range 3 {
			w.Flush(jobtest.Part{Partition: tp0, Batches: [][]byte{w.Batch(-1, "a")}})
			time.Sleep(time.Minute)
		}
		w.archive(tp0, 2)
		for range 5 {
			w.tick()
		}
		w.start(tp0, 0)
		if w.reads != 1 {
			w.t.Errorf("%d reads of manifests, want one to learn what is in it", w.reads)
		}
		time.Sleep(57*time.Minute + time.Second)
		for _, want := range []tiering.Offset{1, 2, 3} {
			w.tick()
			w.start(tp0, want)
			time.Sleep(time.Minute)
		}
	})
}

// A manifest's greatest timestamp says nothing about those of its extents that have none.
func TestAManifestOfOldTimestampsAndNone(t *testing.T) {
	bubble(t, 1, nil, func(w *world) {
		w.keep(tp0.Topic, time.Hour, unlimited)
		w.flush(tp0, -2*time.Hour)
		w.Flush(jobtest.Part{Partition: tp0, Batches: [][]byte{w.Batch(-1, "a")}})
		w.flush(tp0, 0)
		w.archive(tp0, 2)
		w.tick()
		w.start(tp0, 3) // the one without timestamps was stored just now
		time.Sleep(59 * time.Minute)
		w.tick()
		w.start(tp0, 3)
		time.Sleep(2 * time.Minute)
		w.tick()
		w.start(tp0, 7)
	})
}

// A round that is broken off says nothing about the clock.
func TestARoundThatEndsDoesNotDoubtTheClock(t *testing.T) {
	bubble(t, 1, nil, func(w *world) {
		var logged bytes.Buffer
		ctx, cancel := context.WithCancel(context.Background())
		store := &ending{Store: w.Objects, end: cancel}
		clock := &retain.Clock{Objects: store, Now: time.Now, Passed: passed(), Key: func() string { return "gc/clock/x" }}
		w.keeper = retain.New(retain.Parts{Shards: w, Policies: w, Manifests: w, Objects: w.Objects, Clock: clock, Now: time.Now,
			Log: slog.New(slog.NewTextHandler(&logged, nil)), Observe: func(r retain.Report) { w.last = r }})
		w.keep(tp0.Topic, time.Hour, unlimited)
		w.flush(tp0, 0)
		time.Sleep(2 * time.Hour)
		if err := w.keeper.Tick(ctx); err != nil && !errors.Is(err, context.Canceled) {
			w.t.Error(err)
		}
		if logged.Len() > 0 || w.last.Skewed || ctx.Err() == nil {
			w.t.Errorf("logged %s, %+v", &logged, w.last)
		}
	})
}

// ending is a store during whose first PUT its callers' context ends.
type ending struct {
	objstore.Store
	end func()
}

func (e *ending) Put(ctx context.Context, _ string, _ objstore.Body) error {
	e.end()
	return ctx.Err()
}

// A hole at the front of a manifest keeps nothing that is behind it, in it or after it.
func TestAHoleInFrontOfAManifest(t *testing.T) {
	for name, holes := range map[string]int{"the first extent": 1, "all of it": 2} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 1, nil, func(w *world) {
				w.keep(tp0.Topic, time.Hour, unlimited)
				for range 4 {
					w.flush(tp0, 0)
					time.Sleep(time.Minute)
				}
				run := w.State(tp0).Extents[:2]
				with := slices.Clone(run)
				for i := range holes {
					with[i] = tiering.Extent{Base: with[i].Base, Count: 3, MaxTimestamp: tiering.NoTimestamp}
				}
				if err := w.Change(context.Background(), 0, shard.Replace{Partition: tp0, Of: shard.DigestOf(run), With: with}); err != nil {
					w.t.Fatal(err)
				}
				n := 3
				if holes == 2 {
					n = 2
				}
				w.archive(tp0, n)
				w.tick()
				w.start(tp0, 0)
				reads := w.reads
				w.tick()
				if holes == 1 && w.reads != reads {
					w.t.Errorf("nothing was due, and %d manifests were read again", w.reads-reads)
				}
				time.Sleep(57*time.Minute + time.Second)
				for _, want := range []tiering.Offset{6, 9, 12} {
					if holes == 2 && want == 6 {
						want = 0 // holes alone are nothing
					}
					w.tick()
					w.start(tp0, want)
					time.Sleep(time.Minute)
				}
			})
		})
	}
}

func TestAHoleGoesWithWhatIsBehindIt(t *testing.T) {
	bubble(t, 1, nil, func(w *world) {
		w.keep(tp0.Topic, time.Hour, unlimited)
		for range 3 {
			w.flush(tp0, 0)
		}
		run := w.State(tp0).Extents[:2]
		hole := tiering.Extent{Base: 0, Count: 3, MaxTimestamp: tiering.NoTimestamp}
		err := w.Change(context.Background(), 0, shard.Replace{Partition: tp0, Of: shard.DigestOf(run), With: []tiering.Extent{hole, run[1]}, Cleaned: 6})
		if err != nil || !w.State(tp0).Extents[0].IsHole() {
			w.t.Fatalf("%v, %+v", err, w.State(tp0).Extents)
		}
		w.tick()
		w.start(tp0, 0)
		time.Sleep(time.Hour + time.Second)
		w.tick()
		w.start(tp0, 9)
	})
}

func TestInsideAManifest(t *testing.T) {
	bubble(t, 1, nil, func(w *world) {
		w.keep(tp0.Topic, time.Hour, unlimited)
		for range 6 {
			w.flush(tp0, 0)
			time.Sleep(time.Minute)
		}
		w.archive(tp0, 3)
		w.archive(tp0, 2)
		w.tick()
		w.tick()
		if w.reads != 1 {
			w.t.Errorf("%d reads of manifests, want one to learn what is in it", w.reads)
		}
		for i, want := range []tiering.Offset{0, 3, 6, 9, 12, 15, 18} {
			w.tick()
			w.start(tp0, want)
			if i == 0 {
				time.Sleep(54*time.Minute + time.Second)
			} else {
				time.Sleep(time.Minute)
			}
		}
		if w.reads > 7 {
			w.t.Errorf("%d reads of manifests", w.reads)
		}
		if p := w.State(tp0); len(p.Manifests) != 0 || len(p.Extents) != 0 {
			w.t.Errorf("left: %+v", p)
		}
	})
}

// TestAgainstAReference compares random partitions with a walk over a plain list of extents.
func TestAgainstAReference(t *testing.T) {
	for seed := range uint64(30) {
		bubble(t, 2, nil, func(w *world) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			tps := []tiering.TopicPartition{tp0, {Topic: tp0.Topic, Partition: 1}, {Topic: tp0.Topic, Partition: 2}}
			all := map[tiering.TopicPartition][]tiering.Extent{}
			for range 40 {
				tp := tps[rnd.IntN(len(tps))]
				switch n := len(w.State(tp).Extents); {
				case rnd.IntN(5) > 0:
					w.flush(tp, time.Duration(rnd.Int64N(int64(20*time.Minute)))-10*time.Minute)
					all[tp] = append(all[tp], w.State(tp).Extents[n])
				case n > 1:
					w.archive(tp, 1+rnd.IntN(n-1))
				}
				time.Sleep(time.Duration(rnd.Int64N(int64(time.Minute))))
				w.keep(tp0.Topic, time.Duration(rnd.Int64N(int64(40*time.Minute)))-5*time.Minute, rnd.Int64N(2500)-300)
				policy := w.policies[tp0.Topic]
				want := map[tiering.TopicPartition]tiering.Offset{}
				for _, tp := range tps {
					all[tp], want[tp] = reference(all[tp], w.State(tp).LogStart, policy)
				}
				w.tick()
				for _, tp := range tps {
					w.start(tp, want[tp])
				}
			}
		})
	}
}

// reference trims a list of extents as Kafka's rules say.
func reference(extents []tiering.Extent, start tiering.Offset, p job.Policy) ([]tiering.Extent, tiering.Offset) {
	total := int64(0)
	for _, e := range extents {
		total += int64(e.Length)
	}
	for len(extents) > 0 {
		e := extents[0]
		bySize := p.RetentionBytes >= 0 && total-int64(e.Length) >= p.RetentionBytes
		byAge := p.Retention >= 0 && time.Now().UnixMilli()-e.MaxTimestamp > p.Retention.Milliseconds()
		if !bySize && !byAge {
			break
		}
		total -= int64(e.Length)
		start = e.End()
		extents = extents[1:]
	}
	return extents, start
}

func TestTrimsOfAShardShareARecord(t *testing.T) {
	bubble(t, 1, nil, func(w *world) {
		w.keep(tp0.Topic, unlimited, 0)
		for i := range int32(20) {
			w.flush(tiering.TopicPartition{Topic: tp0.Topic, Partition: i}, 0)
		}
		seq := w.View(0).Seq()
		w.tick()
		if got := w.View(0).Seq(); got != seq+1 || w.last.Partitions != 20 {
			w.t.Errorf("%d records for %d partitions, want one for 20", got-seq, w.last.Partitions)
		}
	})
}

func TestAManifestThatIsGoneConcernsItsPartitionOnly(t *testing.T) {
	bubble(t, 1, nil, func(w *world) {
		w.keep(tp0.Topic, time.Hour, unlimited)
		other := tiering.TopicPartition{Topic: tp0.Topic, Partition: 1}
		w.flush(tp0, 0)
		w.flush(tp0, time.Hour)
		w.flush(other, 0)
		w.archive(tp0, 2)
		clear(w.archived)
		time.Sleep(61 * time.Minute)
		err := w.keeper.Tick(context.Background())
		if !errors.Is(err, objstore.ErrNotFound) || !strings.Contains(err.Error(), tp0.String()) {
			w.t.Errorf("error %v", err)
		}
		w.start(tp0, 0)
		w.start(other, 3)
	})
}

// skewed is a store whose clock differs.
type skewed struct {
	objstore.Store
	by       *time.Duration
	requests *int
}

func (s skewed) Put(ctx context.Context, key string, body objstore.Body) error {
	*s.requests++
	return s.Store.Put(ctx, key, body)
}

func (s skewed) Head(ctx context.Context, key string) (objstore.Info, error) {
	info, err := s.Store.Head(ctx, key)
	info.Modified = info.Modified.Add(*s.by)
	return info, err
}

func TestAClockInDoubtDeletesNothingByAge(t *testing.T) {
	for _, by := range []time.Duration{-6 * time.Minute, 6 * time.Minute, -100 * time.Hour} {
		skew, requests, keys := by, 0, 0
		bubble(t, 1, nil, func(w *world) {
			store := skewed{w.Objects, &skew, &requests}
			clock := &retain.Clock{Objects: store, Now: time.Now, Passed: passed(), Key: func() string { keys++; return "gc/clock/" + strings.Repeat("x", keys) }}
			w.keeper = retain.New(retain.Parts{Shards: w, Policies: w, Manifests: w, Objects: w.Objects, Clock: clock, Now: time.Now,
				Log: slog.New(slog.DiscardHandler), Observe: func(r retain.Report) { w.last = r }})
			w.keep(tp0.Topic, time.Hour, unlimited)
			w.flush(tp0, 0)
			w.flush(tp0, 0)
			size := int64(w.State(tp0).Extents[0].Length)
			w.tick()
			if requests != 0 || w.last.Skewed {
				w.t.Errorf("nothing was due: %d requests, %+v", requests, w.last)
			}
			time.Sleep(2 * time.Hour)
			w.tick()
			w.start(tp0, 0)
			if !w.last.Skewed {
				w.t.Errorf("report %+v", w.last)
			}
			w.keep(tp0.Topic, time.Hour, size)
			w.tick()
			w.start(tp0, 3) // by size
			skew = 4 * time.Minute
			w.tick()
			w.start(tp0, 6)
			if w.last.Skewed {
				w.t.Errorf("report %+v", w.last)
			}
			infos, err := w.Objects.List(context.Background(), "gc/", "", 10)
			if err != nil || len(infos) != 0 {
				w.t.Errorf("left behind: %v, %v", infos, err)
			}
		})
	}
}

// TestAClockIsComparedAgain: after an hour, and when it jumps.
func TestAClockIsComparedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		skew, requests := time.Duration(0), 0
		w := jobtest.New(t, 1)
		n, jump := 0, time.Duration(0)
		c := &retain.Clock{Objects: skewed{w.Objects, &skew, &requests}, Key: func() string { n++; return "gc/clock/" + strings.Repeat("x", n) },
			Now: func() time.Time { return time.Now().Add(jump) }, Passed: passed()}
		check := func(ok bool, want int) {
			t.Helper()
			if err := c.Check(context.Background()); (err == nil) != ok || requests != want {
				t.Errorf("%v after %d comparisons, want %d", err, requests, want)
			}
		}
		check(true, 1)
		time.Sleep(59 * time.Minute)
		check(true, 1)
		time.Sleep(2 * time.Minute)
		check(true, 2)
		jump = 50 * time.Second // less than what is noticed
		check(true, 2)
		jump = 6 * time.Minute
		check(false, 3)
		check(false, 4)
		jump = 0
		check(true, 5)
		jump = -2 * time.Minute
		check(true, 6) // compared, and not far enough away
	})
}

// passed returns a clock that nobody sets.
func passed() func() time.Duration {
	start := time.Now()
	return func() time.Duration { return time.Since(start) }
}
