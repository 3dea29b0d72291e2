package clean_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/compaction/clean"
	"github.com/floelog/floe/compaction/clean/records"
	"github.com/floelog/floe/compaction/job"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
)

// Random keys, tombstones, codecs, transactions, roll-ups, merges and trims, some of them in
// the middle of a pass, with room for few keys: what consumers see is always what was written,
// and in the end one record of each key is left.
func TestCompactionAgainstAReferenceMap(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { compactRandomly(newWorld(t, seed, 24*(20+seed%100)), seed) })
		})
	}
}

func compactRandomly(w *world, seed uint64) {
	keys := 1 + int(seed)%50
	w.meddle = func() {
		switch {
		case seed%2 == 0:
		case w.r.IntN(15) == 0:
			w.merge(w.r.IntN(10), 1+w.r.IntN(4))
		case w.r.IntN(40) == 0:
			w.trim(w.State(w.tp).LogStart + tiering.Offset(w.r.IntN(3)))
		}
	}
	for range 6 {
		for range 1 + w.r.IntN(25) {
			w.act(keys)
		}
		if w.r.IntN(4) > 0 {
			w.rollUp()
		}
		w.tick()
		time.Sleep(time.Duration(w.r.IntN(90)) * time.Minute)
	}
	for i := range w.producers {
		if p := &w.producers[i]; p.txn > 0 {
			w.end(p, i%2 == 0)
		}
	}
	for range 4 {
		w.put("the end", "x")
		w.rollUp()
		w.tick()
		time.Sleep(61 * time.Minute)
	}
	w.thin()
	if w.Open() != 0 {
		w.t.Errorf("%d segment numbers were not given back", w.Open())
	}
}

// act does one random thing to the log.
func (w *world) act(keys int) {
	w.t.Helper()
	time.Sleep(time.Second)
	if w.r.IntN(15) == 0 {
		w.Lead(w.Shard(w.tp)) // a new leader epoch
	}
	p := &w.producers[w.r.IntN(len(w.producers))]
	switch n := w.r.IntN(10); {
	case n < 5:
		p = nil
	case p.txn == 0:
		w.begin(p)
	case n > 7:
		w.end(p, w.r.IntN(2) == 0)
		return
	}
	var batches [][]written
	for range 1 + w.r.IntN(3) {
		var b []written
		for range 1 + w.r.IntN(4) {
			x := written{key: fmt.Sprint("k", w.r.IntN(keys))}
			if w.r.IntN(4) > 0 {
				x.value = fmt.Sprint("v", w.r.IntN(1000))
			}
			b = append(b, x)
		}
		batches = append(batches, b)
	}
	w.produce(p, w.r.IntN(3) == 0, batches...)
}

// inWorld runs a test over a partition with a few superseded records.
func inWorld(t *testing.T, f func(t *testing.T, w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 1<<20)
		for i := range 10 {
			w.put(fmt.Sprint("k", i%2), fmt.Sprint("v", i))
		}
		f(t, w)
	})
}

func TestACompactedPartitionCostsNothing(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.tick()
		if n := len(w.records()); n != 2 {
			t.Errorf("%d records are left: %v", n, w.records())
		}
		reads, seq := w.reads, w.View(w.Shard(w.tp)).Seq()
		time.Sleep(24 * time.Hour)
		w.tick()
		if w.reads != reads || w.View(w.Shard(w.tp)).Seq() != seq {
			t.Errorf("%d reads and %d records for nothing", w.reads-reads, w.View(w.Shard(w.tp)).Seq()-seq)
		}
		if s := w.Stats(); s.Passes != 1 || s.BytesIn <= s.BytesOut || s.LastRun != time.Now() {
			t.Errorf("stats %+v", s)
		}
	})
}

func TestWhenAPartitionIsDue(t *testing.T) {
	tests := map[string]struct {
		set func(w *world)
		due bool
	}{
		"dirty":            {func(w *world) {}, true},
		"not dirty enough": {func(w *world) { w.tick(); w.policy.MinDirtyRatio = 0.9; w.put("k0", "x"); w.put("k0", "y") }, false},
		"too young":        {func(w *world) { w.policy.MinCompactionLag = time.Hour }, false},
		"old enough":       {func(w *world) { w.policy.MinCompactionLag = time.Hour; time.Sleep(2 * time.Hour) }, true},
		"not overdue":      {func(w *world) { w.policy.MinDirtyRatio = 1; w.policy.MaxCompactionLag = time.Hour }, false},
		"overdue": {func(w *world) {
			w.policy.MinDirtyRatio = 1
			w.policy.MaxCompactionLag = time.Hour
			time.Sleep(2 * time.Hour)
		}, true},
		"another agent's": {func(w *world) { w.mine = false }, false},
		"not compacted":   {func(w *world) { w.policy.Compact = false }, false},
		"unknown":         {func(w *world) { w.known = false }, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				tt.set(w)
				before := w.Stats().Passes
				w.tick()
				if got := w.Stats().Passes > before; got != tt.due {
					t.Errorf("compacted: %v", got)
				}
			})
		})
	}
}

// What lies below the log start goes when its extent is looked at.
func TestRecordsBelowTheLogStartGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 1<<20)
		w.produce(nil, false, []written{{key: "a", value: "1"}}, []written{{key: "b", value: "2"}}, []written{{key: "c", value: "3"}})
		w.put("d", "4")
		w.put("e", "5")
		w.trim(2)
		w.tick()
		if stored := w.World.Read(w.tp); len(stored) != 3 || stored[0].Base != 2 {
			t.Errorf("%d batches are stored, the first at %d", len(stored), stored[0].Base)
		}
	})
}

// A pass that another job gets in the way of does not lose count of transactions: a marker stays
// while data of its transaction does, which lies in another run.
func TestRacesDoNotPartMarkersFromTheirTransactions(t *testing.T) {
	for name, race := range map[string]struct{ reads, from, n, races int }{
		"what is read and what follows":         {6, 1, 2, 1},
		"what is read and what precedes":        {6, 0, 2, 2},
		"what is read and the marker before it": {7, 1, 3, 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 1, 0)
				w.anew(clean.Config{Memory: 1 << 20, RunBytes: 1})
				p := &w.producers[2]
				w.begin(p)
				w.produce(p, false, []written{{key: "k0", value: "1"}, {key: "of the transaction", value: "1"}})
				w.end(p, true)
				w.put("k0", "2")
				w.put("k1", "1")
				w.merge(1, 3)
				w.produce(nil, false, []written{{key: "k2", value: "1"}, {key: "k1", value: "2"}})
				w.put("k2", "2")
				w.put("the end", "1")
				w.meddle = func() {
					if w.reads == race.reads {
						w.meddle = func() {}
						w.merge(race.from, race.n)
					}
				}
				w.tick()
				if s := w.Stats(); s.Races != int64(race.races) || s.Passes != 1 {
					t.Errorf("%+v after %d reads", s, w.reads)
				}
			})
		})
	}
}

// Holes side by side become one.
func TestHolesAreJoined(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.tick()
		hole := w.State(w.tp).Extents[0]
		if !hole.IsHole() || hole.Count != 8 {
			t.Fatalf("the log begins with %+v", hole)
		}
		first, second := hole, hole
		first.Count, second.Base, second.Count = 3, 3, 5
		if !w.replace(job.Run{Of: shard.DigestOf([]tiering.Extent{hole}), With: []tiering.Extent{first, second}}) {
			t.Fatal("the hole was not split")
		}
		w.put("new", "x")
		w.put("new", "y")
		w.tick()
		if e := w.State(w.tp).Extents[0]; !e.IsHole() || e.Base != hole.Base || e.Count != hole.Count {
			t.Errorf("the log begins with %+v", e)
		}
	})
}

// Little that is new is compacted from time to time only, much of it at once.
func TestSmallPartitionsWait(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.anew(clean.Config{Memory: 1 << 20, RunBytes: 1 << 20, MinBytes: 10 << 10, SmallAfter: 10 * time.Minute})
		passes := func(want int64) {
			t.Helper()
			if w.tick(); w.Stats().Passes != want {
				t.Errorf("%d passes, want %d", w.Stats().Passes, want)
			}
		}
		passes(0)
		time.Sleep(11 * time.Minute)
		passes(1)
		w.put("k0", "x")
		w.put("k0", "y")
		passes(1)
		large := make([]byte, 64<<10)
		for i := range large {
			large[i] = byte(w.r.Uint32())
		}
		w.put("k1", string(large))
		passes(2)
		w.put("k0", "x")
		w.policy.MaxCompactionLag = time.Minute
		time.Sleep(2 * time.Minute)
		passes(3)
	})
}

// What is merged meanwhile does not make the oldest record younger.
func TestAnOldRecordInAYoungExtentIsOverdue(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.policy.MinDirtyRatio, w.policy.MaxCompactionLag = 1, time.Hour
		time.Sleep(50 * time.Minute)
		w.put("k0", "new")
		w.merge(0, 20)
		w.tick()
		time.Sleep(11 * time.Minute)
		w.tick()
		if s := w.Stats(); s.Passes != 1 {
			t.Errorf("%d passes", s.Passes)
		}
	})
}

func TestTombstonesLiveForTheirTime(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.put("k0", "")
		w.put("other", "x")
		has := func() bool {
			for _, r := range w.records() {
				if r.key == "k0" {
					return true
				}
			}
			return false
		}
		w.tick()
		time.Sleep(59 * time.Minute)
		w.put("k1", "again")
		w.tick()
		if !has() {
			t.Error("the tombstone is gone before its time")
		}
		time.Sleep(2 * time.Minute)
		w.tick() // nothing was written, but its time has come
		if has() {
			t.Error("the tombstone is still there")
		}
	})
}

// A pass that cannot hold all keys is followed by others.
func TestMoreKeysThanMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 24*20)
		for range 3 {
			for i := range 100 {
				w.put(fmt.Sprint("k", i), fmt.Sprint("v", w.r.IntN(100)))
			}
		}
		w.tick()
		w.thin()
		if s := w.Stats(); s.Full < 10 || s.Full != s.Passes-1 {
			t.Errorf("%+v", s)
		}
		if n := len(w.records()); n > 110 {
			t.Errorf("%d records of 100 keys", n)
		}
	})
}

func TestArchivedPartitionsAreTurnedBack(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		for i := range 2 {
			es := w.State(w.tp).Extents[:3]
			id, done := w.NextSegment()
			done()
			w.manifests[id] = es
			m := shard.Manifest{Base: es[0].Base, Count: 3, Object: id, Size: 1}
			for _, e := range es {
				m.MaxTimestamp = max(m.MaxTimestamp, e.MaxTimestamp)
				m.Bytes += int64(e.Length)
			}
			if err := w.Change(t.Context(), w.Shard(w.tp), shard.Archive{Partition: w.tp, Of: shard.DigestOf(es), Manifest: m}); err != nil {
				t.Fatal(err)
			}
			if n := len(w.State(w.tp).Manifests); n != i+1 {
				t.Fatalf("%d manifests", n)
			}
		}
		w.tick()
		w.thin()
		if p := w.State(w.tp); len(p.Manifests) != 0 || p.Cleaned != 9 {
			t.Errorf("%d manifests are left, cleaned up to %d", len(p.Manifests), p.Cleaned)
		}
	})
}

// What a manifest knows of aborted transactions comes back with its extents: their data goes.
func TestAbortedTransactionsComeBackFromManifests(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		p := &w.producers[1]
		w.begin(p)
		w.produce(p, false, []written{{key: "aborted", value: "x"}})
		w.end(p, false)
		w.put("k0", "y")
		w.put("the end", "y")
		w.rollUp()
		s := w.State(w.tp)
		es := s.Extents[:len(s.Extents)-1]
		var list []shard.AbortedTransaction
		w.View(w.Shard(w.tp)).Read(func(s *shard.State) { list = s.Partition(w.tp).AbortedIn(0, math.MaxInt64) })
		id, done := w.NextSegment()
		done()
		w.manifests[id], w.listed[id] = es, list
		if err := w.Change(t.Context(), w.Shard(w.tp), shard.Archive{Partition: w.tp, Of: shard.ArchiveDigest(es, list), Manifest: shard.ManifestOf(id, 1, es)}); err != nil {
			t.Fatal(err)
		}
		w.View(w.Shard(w.tp)).Read(func(s *shard.State) {
			if p := s.Partition(w.tp); len(p.Manifests) != 1 || len(p.AbortedIn(0, p.Next)) > 0 || len(list) != 1 {
				t.Fatalf("%d manifests, the state knows %v of %v", len(p.Manifests), p.AbortedIn(0, p.Next), list)
			}
		})
		w.tick()
		for _, r := range w.records() {
			if r.key == "aborted" {
				t.Error("aborted data was taken for committed")
			}
		}
		if n := len(w.State(w.tp).Manifests); n > 0 {
			t.Errorf("%d manifests are left", n)
		}
	})
}

// A pass ends where it is when it has become pointless.
func TestAPassIsGivenUp(t *testing.T) {
	for name, stop := range map[string]func(w *world){
		"topic gone":       func(w *world) { w.known = false },
		"policy changed":   func(w *world) { w.policy.Compact = false },
		"claim lost":       func(w *world) { w.mine = false },
		"partition erased": func(w *world) { w.drop() },
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				w.meddle = func() {
					if w.reads == 12 { // in the second part
						stop(w)
					}
				}
				if more, err := w.Tick(t.Context()); more || err != nil {
					t.Errorf("more %v, error %v", more, err)
				}
				if p := w.State(w.tp); p.Cleaned != 0 {
					t.Errorf("cleaned up to %d", p.Cleaned)
				}
				if s := w.Stats(); s.Passes != 0 || s.Failures != 0 || w.reads < 12 {
					t.Errorf("%+v after %d reads", s, w.reads)
				}
			})
		})
	}
}

func (w *world) drop() {
	w.propose(func(d *shard.Draft) error {
		d.Add(shard.DropTopic{Topic: w.tp.Topic})
		return nil
	})
}

// Damage is reported, and not read over and over; nothing is replaced.
func TestADamagedExtent(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		e := w.State(w.tp).Extents[4]
		if err := w.Objects.Delete(t.Context(), e.Segment.Key()); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Tick(t.Context()); !errors.Is(err, objstore.ErrNotFound) {
			t.Errorf("error %v", err)
		}
		reads := w.reads
		if _, err := w.Tick(t.Context()); err != nil || w.reads != reads {
			t.Errorf("%d reads more, error %v", w.reads-reads, err)
		}
		time.Sleep(3 * time.Second) // a store that failed for a moment
		if _, err := w.Tick(t.Context()); err == nil || w.Stats().Failures != 2 {
			t.Errorf("error %v, %+v", err, w.Stats())
		}
		for range 600 {
			time.Sleep(time.Second)
			_, _ = w.Tick(t.Context())
		}
		if n := w.Stats().Failures; n < 10 || n > 17 {
			t.Errorf("%d passes failed within ten minutes, want about one a minute in the end", n)
		}
		if w.State(w.tp).Cleaned != 0 {
			t.Error("it says that it was compacted")
		}
	})
}

// A clock that is wrong is reported once, and nothing is compacted until it is right.
func TestAClockThatIsNotBelieved(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.clock = errors.New("an hour ahead")
		if _, err := w.Tick(t.Context()); !errors.Is(err, w.clock) {
			t.Errorf("error %v", err)
		}
		if _, err := w.Tick(t.Context()); err != nil || w.reads > 0 {
			t.Errorf("error %v, %d reads", err, w.reads)
		}
		w.clock = nil
		w.tick()
		w.thin()
		if s := w.Stats(); s.Passes != 1 {
			t.Errorf("%+v", s)
		}
	})
}

func TestACancelledTick(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		ctx, cancel := context.WithCancel(t.Context())
		w.meddle = cancel
		if _, err := w.Tick(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		w.meddle = func() {}
		w.tick()
		w.thin()
	})
}

// What is read once for a pass displaces nothing that others read, and of small extents nothing is
// kept of the cache's blocks that they lie in.
func TestReadsLeaveTheCacheToOthers(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		for i := range 5 {
			w.put(fmt.Sprint("only ", i), "x")
			w.put("k0", "again")
		}
		w.foreign = true
		w.tick()
		if w.reads == 0 || w.warm > 0 {
			t.Errorf("%d of %d reads were not cold", w.warm, w.reads)
		}
	})
}

// The horizon of a batch is set when all its tombstones are compacted: one that a pass which had no
// room for all keys left for the next has its time, too.
func TestTombstonesBehindAFullPassLiveForTheirTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 0)
		w.anew(clean.Config{Memory: 12 * records.SlotBytes, RunBytes: 1 << 20})
		w.put("late", "old")
		var keys []written
		for i := range 30 {
			keys = append(keys, written{key: fmt.Sprint("k", i)})
		}
		w.produce(nil, false, append(keys, written{key: "late"}))
		w.put("the end", "x")
		more, err := w.Tick(t.Context())
		if err != nil || !more {
			t.Fatalf("more %v, %v", more, err)
		}
		time.Sleep(2 * time.Hour) // more than delete.retention.ms
		w.tick()
		if _, ok := w.latest()["late"]; !ok {
			t.Error("the tombstone went with the record that it deletes")
		}
		time.Sleep(2 * time.Hour)
		w.tick()
		if _, ok := w.latest()["late"]; ok {
			t.Error("the tombstone is still there")
		}
	})
}

// latest returns the newest record of each key, tombstones among them.
func (w *world) latest() map[string]record {
	out := map[string]record{}
	for _, r := range w.records() {
		out[r.key] = r
	}
	return out
}

// Transactions that were aborted leave nothing behind: no extent for each, however many there are, and
// no readers that are told of them.
func TestAbortedTransactionsLeaveNothing(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		p := &w.producers[1]
		for i := range 300 {
			w.begin(p)
			w.produce(p, true, []written{{key: fmt.Sprint("k", i%2), value: "aborted"}})
			w.end(p, false)
		}
		w.put("the end", "x")
		w.rollUp()
		w.tick()
		if n := len(w.State(w.tp).Extents); n > 4 {
			t.Errorf("%d extents are left", n)
		}
		w.View(w.Shard(w.tp)).Read(func(s *shard.State) {
			if n := len(s.Partition(w.tp).AbortedIn(0, math.MaxInt64)); n > 0 {
				t.Errorf("readers are told of %d aborted transactions", n)
			}
		})
	})
}
