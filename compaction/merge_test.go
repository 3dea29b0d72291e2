package compaction_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/compaction"
	"github.com/floelog/floe/compaction/job"
	"github.com/floelog/floe/compaction/job/jobtest"
	"github.com/floelog/floe/compaction/plan"
	"github.com/floelog/floe/metadata/memory"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/protocol/batch"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/cache"
	"github.com/floelog/floe/tiering/objstore"
	"github.com/floelog/floe/tiering/objstore/faults"
	"github.com/floelog/floe/tiering/segment"
)

// fixed are policies that say the same of every topic.
type fixed struct{ policy job.Policy }

func (p fixed) Policy(tiering.TopicID) (job.Policy, bool) { return p.policy, true }

var smallRules = plan.Rules{Target: 64 << 10, Fan: 4, Extents: 16, Manifest: 16}

func merger(w *jobtest.World, objects objstore.Store, policy job.Policy) *compaction.Merger {
	return compaction.NewMerger(compaction.MergeConfig{Rules: smallRules, Age: time.Minute}, compaction.MergeParts{
		Journals: w, Claims: w, Policies: fixed{policy}, Reader: w.Cache, Writer: writer(w, objects), Hot: w.Cache.Has,
		Pace: job.NewPace(0, nil, time.Now), Now: time.Now, Log: slog.New(slog.DiscardHandler),
	})
}

func value(rng *rand.Rand, n int) string {
	return strings.Repeat(fmt.Sprintf("%08x", rng.Uint32()), n/8+1)
}

// load appends to some of the partitions, sometimes under another leader epoch, sometimes inline.
func load(w *jobtest.World, rng *rand.Rand, partitions, flushes int) {
	for range flushes {
		if rng.IntN(30) == 0 {
			w.Lead(tiering.ShardID(rng.IntN(int(w.NumShards()))))
		}
		var parts []jobtest.Part
		for p := range partitions {
			if rng.IntN(3) == 0 {
				continue
			}
			part := jobtest.Part{Partition: partition(int32(p))}
			for range 1 + rng.IntN(3) {
				part.Batches = append(part.Batches, w.Batch(time.Now().UnixMilli(), value(rng, rng.IntN(200<<(p%4*2))), "x"))
			}
			parts = append(parts, part)
		}
		if len(parts) > 0 {
			w.Flush(parts...)
		}
		time.Sleep(time.Second)
	}
}

// everything reads all partitions.
func everything(w *jobtest.World, partitions int) (out [][]jobtest.Seen) {
	for p := range partitions {
		out = append(out, w.Read(partition(int32(p))))
	}
	return out
}

func same(a, b [][]jobtest.Seen) bool { return slices.EqualFunc(a, b, slices.Equal[[]jobtest.Seen]) }

// What readers see is the same before and after, byte for byte; extents become few, segments
// hold what they should, old extents move into manifests, and then nothing costs anything.
func TestMerging(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const partitions = 8
		w := jobtest.New(t, 3)
		rng := rand.New(rand.NewPCG(1, 2))
		objects := &counted{Store: w.Objects}
		m := merger(w, objects, job.Policy{Delete: true})
		tick := func() {
			if err := m.Tick(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		for range 20 {
			load(w, rng, partitions, 30)
			before := everything(w, partitions)
			tick()
			if !same(before, everything(w, partitions)) {
				t.Fatal("partitions read otherwise after a merge")
			}
		}
		time.Sleep(time.Hour)
		for range 5 {
			tick()
			time.Sleep(time.Minute)
		}
		manifests := 0
		for p := range partitions {
			state := w.State(partition(int32(p)))
			manifests += len(state.Manifests)
			if n := len(state.Extents); n > 16+24 {
				t.Errorf("partition %d has %d extents and %d manifests", p, n, len(state.Manifests))
			}
		}
		s := m.Stats()
		if manifests == 0 || s.Manifests != int64(manifests) || s.Archived != 16*s.Manifests && s.Archived < 8*s.Manifests {
			t.Errorf("%d manifests; %+v", manifests, s)
		}
		if s.Written[1] == 0 || s.Written[2] == 0 || s.Extents < 4*s.Runs || s.Failures != 0 || s.Backlog != 0 {
			t.Errorf("%+v", s)
		}
		if gets := objects.all.Load() - objects.puts.Load(); gets != 0 {
			t.Errorf("%d GETs beside the cache's", gets)
		}
		requests, stats, seqs := objects.all.Load(), w.Cache.Stats(), seqsOf(w)
		for range 100 {
			tick()
			time.Sleep(time.Minute)
		}
		if n := objects.all.Load(); n != requests || w.Cache.Stats().Gets != stats.Gets || !slices.Equal(seqs, seqsOf(w)) {
			t.Errorf("%d requests with nothing to do", n-requests)
		}
		if w.Open() != 0 {
			t.Errorf("%d segment numbers are open", w.Open())
		}
		checkLevels(t, w)
	})
}

func seqsOf(w *jobtest.World) (out []uint64) {
	for _, id := range w.Claimed() {
		out = append(out, w.View(id).Seq())
	}
	return out
}

// checkLevels opens every segment: of level 1 and 2, batches say themselves where they belong.
func checkLevels(t *testing.T, w *jobtest.World) {
	t.Helper()
	levels := map[uint8]int{}
	for after := ""; ; {
		page, err := w.Objects.List(t.Context(), tiering.SegmentPrefix, after, 1000)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		after = page[len(page)-1].Key
		for _, info := range page {
			levels[checkSegment(t, w, info)]++
		}
	}
	if levels[1] == 0 || levels[2] == 0 {
		t.Errorf("segments by level: %v", levels)
	}
}

func checkSegment(t *testing.T, w *jobtest.World, info objstore.Info) uint8 {
	t.Helper()
	read := func(off tiering.Position, n int64) ([]byte, error) {
		return w.Objects.GetRange(t.Context(), info.Key, int64(off), n)
	}
	seg, err := segment.Open(info.Size, read)
	if err != nil {
		t.Fatal(err)
	}
	h, err := seg.ReadHeader(read)
	if err != nil {
		t.Fatal(err)
	}
	if h.Level == 2 && len(seg.Entries) != 1 {
		t.Errorf("%s of level 2 holds %d partitions", info.Key, len(seg.Entries))
	}
	for _, e := range seg.Entries {
		data, err := seg.ReadChunk(e, read)
		if err != nil {
			t.Fatal(err)
		}
		if h.Level == 0 {
			continue
		}
		v, _, err := batch.Next(data)
		if err != nil || v.BaseOffset() != int64(e.Base) || v.LeaderEpoch() < 0 {
			t.Errorf("%s: a chunk at base %d begins with offset %d of epoch %d: %v", info.Key, e.Base, v.BaseOffset(), v.LeaderEpoch(), err)
		}
	}
	return h.Level
}

// An agent that has nothing of what it merges in memory fetches each block once, however many
// partitions lie in it.
func TestMergingWithoutMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const partitions, flushes, block = 100, 40, 64 << 10
		w := jobtest.New(t, 2)
		rng := rand.New(rand.NewPCG(1, 2))
		for range flushes {
			var parts []jobtest.Part
			for p := range partitions {
				parts = append(parts, jobtest.Part{Partition: partition(int32(p)), Batches: [][]byte{w.Batch(5, value(rng, 200+rng.IntN(2000)))}})
			}
			w.Flush(parts...)
		}
		stored := int64(0)
		page, err := w.Objects.List(t.Context(), tiering.SegmentPrefix, "", 1000)
		if err != nil {
			t.Fatal(err)
		}
		for _, info := range page {
			stored += info.Size
		}
		before := everything(w, partitions)
		objects := &counted{Store: w.Objects}
		cold, err := cache.New(objects, segment.VerifyBatches, cache.Options{Capacity: 8 * block, BlockSize: block, ReadAhead: -1})
		if err != nil {
			t.Fatal(err)
		}
		defer cold.Close()
		rules := smallRules
		rules.Target = 16 << 20
		m := compaction.NewMerger(compaction.MergeConfig{Rules: rules, Age: time.Minute}, compaction.MergeParts{
			Journals: w, Claims: w, Policies: fixed{job.Policy{Delete: true}}, Reader: cold, Writer: writer(w, w.Objects), Hot: cold.Has,
			Pace: job.NewPace(0, nil, time.Now), Now: time.Now, Log: slog.New(slog.DiscardHandler),
		})
		for range 2 {
			if err := m.Tick(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
		}
		if s := m.Stats(); s.Runs != partitions || s.Extents != partitions*flushes || s.Segments != 1 {
			t.Errorf("%+v", s)
		}
		if gets, most := objects.all.Load(), stored/block+2*flushes; gets > most {
			t.Errorf("%d GETs for %d bytes in blocks of %d, want at most %d", gets, stored, block, most)
		}
		if !same(before, everything(w, partitions)) {
			t.Error("partitions read otherwise after a merge")
		}
	})
}

// Holes that log compaction left become one with each other, or part of the batch before them.
func TestMergingHoles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := jobtest.New(t, 1)
		tp := partition(0)
		for i := range 12 {
			if i == 6 {
				w.Lead(0)
			}
			w.Flush(jobtest.Part{Partition: tp, Batches: [][]byte{w.Batch(5, "a", fmt.Sprint(i)), w.Batch(6, "b")}})
		}
		hole := func(i int) {
			e := w.State(tp).Extents[i]
			err := w.Change(t.Context(), 0, shard.Replace{Partition: tp, Of: shard.DigestOf([]tiering.Extent{e}),
				With: []tiering.Extent{{Base: e.Base, Count: e.Count, MaxTimestamp: tiering.NoTimestamp}}})
			if err != nil {
				t.Fatal(err)
			}
		}
		for _, i := range []int{0, 1, 3, 4, 6, 8, 11} { // the one at 6 begins a leader epoch
			hole(i)
		}
		before := w.Read(tp)
		m := merger(w, w.Objects, job.Policy{Compact: true})
		for range 5 {
			if err := m.Tick(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Minute)
		}
		after := w.Read(tp)
		if len(after) != len(before) {
			t.Fatalf("%d batches, there were %d", len(after), len(before))
		}
		for i := range after {
			a, b := batch.View(after[i].Bytes), batch.View(before[i].Bytes)
			if after[i].Base != before[i].Base || after[i].Epoch != before[i].Epoch || string(a.Payload()) != string(b.Payload()) {
				t.Errorf("batch %d is another one: %+v, it was %+v", i, after[i], before[i])
			}
		}
		p := w.State(tp)
		if len(p.Extents) != 4 || !p.Extents[0].IsHole() || p.Extents[0].Count != 6 || p.Extents[1].IsHole() || !p.Extents[2].IsHole() || p.Extents[2].Base != 18 {
			t.Errorf("extents: %+v", p.Extents)
		}
	})
}

var metaFaults = memory.Faults{Latency: 20 * time.Millisecond, FailBefore: 0.03, FailAfter: 0.05, ApplyLate: 0.03, LateBy: 3 * time.Second}

// Two mergers race with each other, with producers, a trim and a deletion; PUTs and appends
// fail, or nobody knows. What is left reads as it should, and every number is given back.
func TestMergersThatRaceAndFail(t *testing.T) {
	for seed := range uint64(6) {
		synctest.Test(t, func(t *testing.T) {
			const partitions = 5
			w := jobtest.New(t, 2)
			rng := rand.New(rand.NewPCG(seed, 9))
			rates := faults.Rates{Slow: 0.5, SlowMin: time.Millisecond, SlowMax: 3 * time.Second, Failed: 0.2, LostReply: 0.1}
			faulty := faults.New(w.Objects, rand.New(rand.NewPCG(seed, 1)), faults.Plan{Put: rates})
			w.Store.(*memory.Client).Inject(metaFaults, rand.New(rand.NewPCG(seed, 3)))
			ctx, stop := context.WithCancel(t.Context())
			var mergers sync.WaitGroup
			failures := 0
			var mu sync.Mutex
			for range 2 {
				m := merger(w, faulty, job.Policy{Delete: true})
				mergers.Go(func() {
					for ctx.Err() == nil {
						if err := m.Tick(t.Context()); err != nil {
							mu.Lock()
							failures++
							mu.Unlock()
						}
						time.Sleep(700 * time.Millisecond)
					}
				})
			}
			var kept [][]jobtest.Seen
			for range 12 {
				load(w, rng, partitions, 15)
				tp := partition(int32(rng.IntN(partitions)))
				p := w.State(tp)
				if err := w.Change(t.Context(), w.Shard(tp), shard.Trim{Partition: tp, LogStart: p.LogStart + (p.Next-p.LogStart)/3}); err != nil {
					t.Fatal(err)
				}
				kept = everything(w, partitions)
			}
			stop()
			mergers.Wait()
			w.Store.(*memory.Client).Inject(memory.Faults{}, nil)
			faulty.Close()
			if got := everything(w, partitions); !same(got, kept) {
				t.Errorf("seed %d: partitions read otherwise than before the last merges", seed)
			}
			if w.Open() != 0 {
				t.Errorf("seed %d: %d segment numbers are open", seed, w.Open())
			}
			if failures == 0 {
				t.Errorf("seed %d: nothing failed", seed)
			}
		})
	}
}
