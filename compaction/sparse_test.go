package compaction_test

import (
	"log/slog"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/compaction"
	"github.com/floelog/floe/compaction/job"
	"github.com/floelog/floe/compaction/job/jobtest"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
	"github.com/floelog/floe/tiering/segment"
)

// burden gives every segment journal records to carry.
type burden struct{ bytes int }

func (b burden) Take() []segment.JournalRecord {
	return []segment.JournalRecord{{Shard: 1, Seq: 2, Bytes: make([]byte, b.bytes)}}
}

func (burden) GiveBack([]segment.JournalRecord) {}

// bucket is a world whose unnamed segments are deleted from time to time, which finds the sparse
// ones by the rule of compaction/sweep.
type bucket struct {
	*jobtest.World
	t      *testing.T
	sparse *compaction.Sparse
	merger *compaction.Merger
	puts   *counted
}

func newBucket(t *testing.T, packs bool, carry int) *bucket {
	w := jobtest.New(t, 2)
	b := &bucket{World: w, t: t, puts: &counted{Store: w.Objects}}
	rules := smallRules
	rules.Manifest = 10_000 // what manifests name is not packed
	wr := writer(w, b.puts)
	wr.Carrier = burden{carry}
	b.merger = compaction.NewMerger(compaction.MergeConfig{Rules: rules, Age: time.Minute}, compaction.MergeParts{
		Journals: w, Claims: w, Policies: fixed{job.Policy{Delete: true}}, Reader: w.Cache, Writer: wr, Hot: w.Cache.Has,
		Pace: job.NewPace(0, nil, time.Now), Now: time.Now, Log: slog.New(slog.DiscardHandler),
		Sparse: func() *compaction.Sparse {
			if packs {
				return b.sparse
			}
			return nil
		},
	})
	return b
}

func (b *bucket) tick() {
	b.t.Helper()
	if err := b.merger.Tick(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
}

// named returns the bytes of each segment that extents name, with their entries of the index.
func (b *bucket) named() map[tiering.SegmentID]int64 {
	live, extents := map[tiering.SegmentID]int64{}, map[tiering.SegmentID]int{}
	for _, id := range b.Claimed() {
		b.View(id).Read(func(s *shard.State) {
			for _, tp := range s.Partitions() {
				for _, e := range s.Partition(tp).Extents {
					live[e.Segment] += int64(e.Length)
					extents[e.Segment]++
				}
			}
		})
	}
	for id, n := range extents {
		live[id] += segment.Frame(n)
	}
	return live
}

// sweep deletes what nothing names, and returns the bytes that are left and those that are live.
func (b *bucket) sweep() (stored, live int64) {
	b.t.Helper()
	named := b.named()
	var all []objstore.Info
	for after := ""; ; after = all[len(all)-1].Key {
		page, err := b.Objects.List(b.t.Context(), tiering.SegmentPrefix, after, 1000)
		if err != nil {
			b.t.Fatal(err)
		}
		if all = append(all, page...); len(page) == 0 {
			break
		}
	}
	var sparse []tiering.SegmentID
	for _, o := range all {
		id, err := tiering.ParseSegmentKey(o.Key)
		if err != nil {
			b.t.Fatal(err)
		}
		n, ok := named[id]
		if !ok {
			if err := b.Objects.Delete(b.t.Context(), o.Key); err != nil {
				b.t.Fatal(err)
			}
			continue
		}
		stored, live = stored+o.Size, live+n
		if 2*n < o.Size && time.Since(o.Modified) >= 3*time.Minute {
			sparse = append(sparse, id)
		}
	}
	b.sparse = compaction.NewSparse(sparse)
	return stored, live
}

// tenant is a partition with its rate and its retention.
type tenant struct {
	tiering.TopicPartition
	rate   float64 // batches per flush
	keep   tiering.Offset
	values int // length
}

// tenants are a few busy partitions that keep little, and many slow ones that keep what they have
// for longer, some for ever.
func tenants(rng *rand.Rand, busy, slow int) (out []tenant) {
	for i := range busy {
		out = append(out, tenant{partition(int32(i)), 0.2 + rng.Float64(), tiering.Offset(1 + rng.IntN(10)), 1000 + rng.IntN(4000)})
	}
	for i := range slow {
		rate := math.Exp(-3 - 5*rng.Float64()) // one of twenty flushes, or of three thousand
		out = append(out, tenant{partition(int32(busy + i)), rate, tiering.Offset(1 + math.Exp(8*rng.Float64())), 50 + rng.IntN(500)})
	}
	return out
}

// work appends and trims for so many flushes, three seconds each, and returns the bytes of batches.
func (b *bucket) work(rng *rand.Rand, of []tenant, flushes int) (appended int64) {
	for i := range flushes {
		var parts []jobtest.Part
		for _, p := range of {
			if rng.Float64() < p.rate {
				batch := b.Batch(time.Now().UnixMilli(), value(rng, p.values))
				appended += int64(len(batch))
				parts = append(parts, jobtest.Part{Partition: p.TopicPartition, Batches: [][]byte{batch}})
			}
		}
		if len(parts) > 0 {
			b.Flush(parts...)
		}
		time.Sleep(3 * time.Second)
		if i%5 == 0 {
			b.tick()
		}
		if i%100 == 0 {
			for _, p := range of {
				if s := b.State(p.TopicPartition); s.Next-s.LogStart > p.keep {
					if err := b.Change(b.t.Context(), b.Shard(p.TopicPartition), shard.Trim{Partition: p.TopicPartition, LogStart: s.Next - p.keep}); err != nil {
						b.t.Fatal(err)
					}
				}
			}
		}
		if i%200 == 0 {
			b.sweep()
		}
	}
	return appended
}

// settle lets the bucket rest, and returns what is left.
func (b *bucket) settle() (stored, live int64) {
	for range 6 {
		for range 20 {
			time.Sleep(15 * time.Second)
			b.tick()
		}
		stored, live = b.sweep()
	}
	return stored, live
}

// mostStored is how many times its live bytes the bucket may hold at rest. Every segment that is
// not sparse is live by half; the rest is what frames of small segments take.
const mostStored = 2.2

// Partitions of all rates and retentions share segments. At rest the bucket holds little more than
// twice what is live, and packing has written no more than it freed: what else was appended or
// merged. Then it does nothing any more, though every segment carries what looks dead.
func TestSparseSegmentsArePacked(t *testing.T) {
	for seed := range uint64(3) {
		ratio := map[bool]float64{}
		for _, packs := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				rng := rand.New(rand.NewPCG(seed, 21))
				b := newBucket(t, packs, []int{0, 4 << 10}[seed%2])
				of := tenants(rng, 6, 100)
				appended := b.work(rng, of, 1500)
				var before [][]jobtest.Seen
				if packs {
					before = everything(b.World, len(of))
				}
				stored, live := b.settle()
				ratio[packs] = float64(stored) / float64(live)
				s := b.merger.Stats()
				written := s.Written[1] + s.Written[2]
				t.Logf("seed %d, packing %v: %d bytes appended, %d written by merges, %d of these packed, %.2f times in all; %.2f times of %d live bytes stored",
					seed, packs, appended, written, s.Packed, float64(appended+written)/float64(appended), ratio[packs], live)
				if !packs {
					return
				}
				if s.Packed == 0 || s.Packed > appended+(written-s.Packed) {
					t.Errorf("seed %d: %d bytes were packed, %d appended and %d merged", seed, s.Packed, appended, written-s.Packed)
				}
				for i, p := range of {
					if after := b.Read(p.TopicPartition); !slices.Equal(after, before[i]) {
						t.Errorf("seed %d: partition %d reads otherwise", seed, i)
					}
				}
				puts := b.puts.all.Load()
				if again, _ := b.settle(); again != stored || b.puts.all.Load() != puts {
					t.Errorf("seed %d: at rest %d bytes became %d, with %d requests", seed, stored, again, b.puts.all.Load()-puts)
				}
			})
		}
		if ratio[true] > mostStored || ratio[false] < mostStored {
			t.Errorf("seed %d: %.2f times the live bytes are stored, %.2f without packing", seed, ratio[true], ratio[false])
		}
	}
}

// A partition with a single small extent on a segment that is mostly dead, of which merging would
// make nothing, is packed together with others of its kind: one PUT for all of them.
func TestPackingSharesSegments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(t, true, 0)
		rng := rand.New(rand.NewPCG(1, 1))
		busy := partition(99)
		for p := range int32(20) {
			b.Flush(jobtest.Part{Partition: partition(p), Batches: [][]byte{b.Batch(5, "a")}},
				jobtest.Part{Partition: busy, Batches: [][]byte{b.Batch(5, value(rng, 3000))}})
		}
		before := everything(b.World, 20)
		if err := b.Change(t.Context(), b.Shard(busy), shard.Trim{Partition: busy, LogStart: b.State(busy).Next}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Minute)
		b.sweep()
		for range 4 {
			b.tick()
			time.Sleep(30 * time.Second)
		}
		if s := b.merger.Stats(); s.Segments != 1 || s.Runs != 20 || s.Extents != 20 || b.puts.puts.Load() != 1 {
			t.Errorf("%d PUTs; %+v", b.puts.puts.Load(), s)
		}
		if !same(before, everything(b.World, 20)) {
			t.Error("partitions read otherwise")
		}
		if stored, live := b.sweep(); stored != live || len(b.named()) != 1 {
			t.Errorf("%d bytes are stored, %d are live, in %d segments", stored, live, len(b.named()))
		}
	})
}
