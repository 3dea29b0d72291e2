package records_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"testing"

	"github.com/floelog/floe/compaction/clean/records"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/protocol/batch"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
)

// What passes leave is what a reference leaves that knows every record: over random logs of
// all codecs, with transactions, tombstones, leader epochs, merges and little memory.
func TestPassesLeaveWhatTheReferenceLeaves(t *testing.T) {
	for seed := range uint64(300) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newWorld(t, seed)
			for range 6 {
				w.grow(1 + w.r.IntN(40))
				w.merge()
				w.pass(int64(16+w.r.IntN(100)) * records.SlotBytes)
				w.now += int64(w.r.IntN(2 * retention))
			}
		})
	}
}

// A log that is not written to any more ends with one record of each key that lives, but for
// its last batch, and without markers and tombstones.
func TestAQuietLogIsLeftWithOneRecordOfEachKey(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newWorld(t, seed)
			w.grow(60)
			for p := range w.open {
				w.end(p, p%2 == 0)
			}
			w.stable = w.next
			for range 6 {
				w.now += 2 * retention
				w.produce(-1)
				w.stable = w.next
				w.merge()
				w.pass(1 << 20)
			}
			seen, txns := map[string]bool{}, map[int]bool{}
			for _, x := range w.all {
				if !x.here || x.at >= w.cleaned {
					continue
				}
				fresh := w.horizons[x.batch] > w.now
				switch {
				case x.marker && !txns[x.txn] && !fresh:
					t.Errorf("the marker at %d is left", x.at)
				case x.marker:
				case x.aborted || seen[string(x.key)] || x.value == nil && !fresh:
					t.Errorf("the record %+v is left", x)
				}
				seen[string(x.key)], txns[x.txn] = true, true
			}
		})
	}
}

func one(t *testing.T, key, value string) []byte {
	t.Helper()
	b := batch.NewBuilder(batch.PlainFields(1))
	b.Add(batch.Record{Key: []byte(key), Value: []byte(value)})
	data, err := b.AppendTo(nil)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// What is not touched is not copied.
func TestAnExtentWithNothingToRemoveIsLeftAlone(t *testing.T) {
	data := append(one(t, "a", "1"), one(t, "b", "2")...)
	e := tiering.Extent{Base: 5, Count: 2, Length: int32(len(data)), MaxTimestamp: 1}
	rw := records.NewRewriter(records.Rules{Keys: records.NewKeys(1<<10, 10), End: 7})
	p, err := rw.Judge(e, [][]byte{data})
	if err != nil || p.Changed || p.Bytes != int64(len(data)) {
		t.Fatalf("%+v, %v", p, err)
	}
	out := records.Assemble([]records.Piece{p}, nil, 1<<20)
	if len(out.With) != 1 || out.With[0].Base != 5 || out.With[0].Count != 2 || &out.Data[0][0] != &data[0] {
		t.Errorf("it became %+v", out.With)
	}
}

// A gap that no batch can bridge, since an offset delta has 32 bits, is a hole.
func TestAGapBeyondWhatABatchReachesIsAHole(t *testing.T) {
	data := one(t, "a", "1")
	rw := records.NewRewriter(records.Rules{Keys: records.NewKeys(1<<10, 10), End: 1 << 40})
	p, err := rw.Judge(tiering.Extent{Base: 0, Count: 1, Length: int32(len(data)), MaxTimestamp: 1}, [][]byte{data})
	if err != nil {
		t.Fatal(err)
	}
	hole, err := rw.Judge(tiering.Extent{Base: 1, Count: 1 << 35, MaxTimestamp: tiering.NoTimestamp}, nil)
	if err != nil {
		t.Fatal(err)
	}
	out := records.Assemble([]records.Piece{p, hole}, nil, 1<<20)
	if len(out.With) != 2 || out.With[0].Count != math.MaxInt32 || !out.With[1].IsHole() || out.With[1].End() != 1+1<<35 {
		t.Errorf("it became %+v", out.With)
	}
}

// A batch is not enlarged into the next leader epoch.
func sum(key string) *records.Sum {
	s := sha256.Sum256([]byte(key))
	return &s
}

func TestABatchEndsWithItsLeaderEpoch(t *testing.T) {
	data := append(one(t, "a", "1"), one(t, "b", "2")...)
	keys := records.NewKeys(1<<10, 10)
	keys.Put(sum("b"), 9)
	rw := records.NewRewriter(records.Rules{Keys: keys, End: 10})
	p, err := rw.Judge(tiering.Extent{Base: 0, Count: 2, Length: int32(len(data)), MaxTimestamp: 1}, [][]byte{data})
	if err != nil {
		t.Fatal(err)
	}
	hole, err := rw.Judge(tiering.Extent{Base: 2, Count: 6, MaxTimestamp: tiering.NoTimestamp}, nil)
	if err != nil {
		t.Fatal(err)
	}
	out := records.Assemble([]records.Piece{p, hole}, []shard.EpochStart{{Epoch: 1, Start: 0}, {Epoch: 2, Start: 5}, {Epoch: 3, Start: 7}}, 1<<20)
	if len(out.With) != 2 || out.With[0].End() != 5 || !out.With[1].IsHole() || out.With[1].End() != 8 {
		t.Errorf("it became %+v", out.With)
	}
}

func TestKeysHoldNoMoreThanTheirMemory(t *testing.T) {
	keys := records.NewKeys(100*records.SlotBytes, 1<<40)
	n := 0
	for keys.Put(sum(fmt.Sprint(n)), tiering.Offset(n)) {
		n++
	}
	if n != keys.Cap() || n != 80 || keys.Len() != n {
		t.Fatalf("%d keys, %d said, room for %d", n, keys.Len(), keys.Cap())
	}
	if !keys.Put(sum("7"), 1000) {
		t.Error("a key that is there is refused")
	}
	for i := range n {
		want := tiering.Offset(i)
		if i == 7 {
			want = 1000
		}
		if got := keys.Newest(sum(fmt.Sprint(i))); got != want {
			t.Errorf("key %d is at %d", i, got)
		}
	}
	if got := keys.Newest(sum("no")); got != -1 {
		t.Errorf("a key that was never put is at %d", got)
	}
	if n := records.NewKeys(1<<40, 1000).Cap(); n < 1000 || n > 2000 {
		t.Errorf("room for %d keys where 1,000 can come", n)
	}
}

func TestDamageIsReported(t *testing.T) {
	good := one(t, "a", "1")
	for name, tt := range map[string]struct {
		count int64
		data  []byte
	}{
		"cut off":           {1, good[:len(good)-1]},
		"no header":         {1, good[:20]},
		"too many offsets":  {2, good},
		"too few offsets":   {1, append(append([]byte(nil), good...), good...)},
		"unreadable record": {1, func() []byte { b := append([]byte(nil), good...); b[batch.HeaderSize] = 0x7f; return b }()},
	} {
		t.Run(name, func(t *testing.T) {
			e := tiering.Extent{Count: tt.count, Length: int32(len(tt.data)), MaxTimestamp: 1}
			rw := records.NewRewriter(records.Rules{Keys: records.NewKeys(1, 1), End: 100})
			if _, err := rw.Judge(e, [][]byte{tt.data[:10:10], tt.data[10:]}); !errors.Is(err, objstore.ErrCorrupt) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// Whatever bytes an extent has, they are judged or refused, and what stays can be read again.
func FuzzJudge(f *testing.F) {
	b := batch.NewBuilder(batch.PlainFields(1))
	for i := range int32(4) {
		b.Add(batch.Record{OffsetDelta: i, Key: []byte{'k', byte(i)}, Value: []byte("v")})
	}
	data, err := b.AppendTo(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data, uint16(70), uint16(4))
	f.Add(batch.AppendMarker(data, 1, 1, false, 1, 1), uint16(1), uint16(5))
	f.Fuzz(func(t *testing.T, data []byte, cut, count uint16) {
		at := min(int(cut), len(data))
		e := tiering.Extent{Base: 10, Count: int64(count), Length: int32(len(data))}
		keys := records.NewKeys(1<<10, 16)
		keys.Put(sum("k\x01"), 1000)
		rw := records.NewRewriter(records.Rules{Keys: keys, End: 1 << 40, DeleteRetention: 10, Moment: records.Moment{Now: 5}})
		p, err := rw.Judge(e, [][]byte{data[:at:at], data[at:]})
		if err != nil || count == 0 || len(data) == 0 {
			return
		}
		for _, with := range records.Assemble([]records.Piece{p}, nil, 1<<20).With {
			if with.Base < 10 || with.End() > e.End() {
				t.Fatalf("extent from %d to %d in place of one from 10 to %d", with.Base, with.End(), e.End())
			}
		}
	})
}

func BenchmarkJudge(b *testing.B) {
	var data []byte
	var n tiering.Offset
	for len(data) < 1<<20 {
		bb := batch.NewBuilder(batch.PlainFields(1))
		for i := range int32(100) {
			bb.Add(batch.Record{OffsetDelta: i, Key: fmt.Appendf(nil, "key %d", n), Value: make([]byte, 100)})
			n++
		}
		var err error
		if data, err = bb.AppendTo(data); err != nil {
			b.Fatal(err)
		}
	}
	e := tiering.Extent{Count: int64(n), Length: int32(len(data))}
	keys := records.NewKeys(64<<20, int64(n))
	x := records.NewIndex(keys, 0, n)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if err := records.Batches(e, [][]byte{data}, x.Batch); err != nil {
			b.Fatal(err)
		}
		if _, err := records.NewRewriter(records.Rules{Keys: keys, End: n}).Judge(e, [][]byte{data}); err != nil {
			b.Fatal(err)
		}
	}
}

// An abort marker goes at once with the data of its transaction, a commit stays for its time.
func TestAnAbortMarkerGoesWithItsTransaction(t *testing.T) {
	for _, commit := range []bool{true, false} {
		data := append(batch.AppendMarker(nil, 5, 0, commit, 1, 1), one(t, "a", "1")...)
		keys := records.NewKeys(1<<10, 10)
		keys.Put(sum("a"), 9)
		rw := records.NewRewriter(records.Rules{Keys: keys, End: 10, DeleteRetention: 10})
		p, err := rw.Judge(tiering.Extent{Base: 0, Count: 2, Length: int32(len(data)), MaxTimestamp: 1}, [][]byte{data})
		if err != nil {
			t.Fatal(err)
		}
		out := records.Assemble([]records.Piece{p}, nil, 1<<20)
		if len(out.With) != 1 || out.With[0].Count != 2 || out.With[0].IsHole() == commit || (len(out.Unmarked) == 0) != commit {
			t.Errorf("commit %v: it became %+v, unmarked %v", commit, out.With, out.Unmarked)
		}
	}
}

// A small batch may be of a hundred megabytes, which neither pass holds.
func TestWhatInflatesToMuchIsNeverHeld(t *testing.T) {
	f := batch.PlainFields(1000)
	f.Attributes = f.Attributes.WithCodec(batch.Zstd)
	b := batch.NewBuilder(f)
	large := make([]byte, 60<<20)
	for i, r := range []batch.Record{{Key: []byte("k"), Value: []byte("old")}, {Key: large, Value: []byte("v")}, {Key: []byte("k"), Value: large}} {
		r.OffsetDelta = int32(i)
		b.Add(r)
	}
	data, err := b.AppendTo(nil)
	if err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	x := records.NewIndex(records.NewKeys(1<<10, 10), 0, 100)
	if more, err := x.Batch(0, data); err != nil || !more {
		t.Fatal(more, err)
	}
	rw := records.NewRewriter(records.Rules{Keys: x.Keys, End: 3})
	p, err := rw.Judge(tiering.Extent{Count: 3, Length: int32(len(data)), Segment: tiering.SegmentID{Session: tiering.SessionID{1}}}, [][]byte{data})
	if err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 48<<20 {
		t.Errorf("the passes allocated %d bytes for a batch of %d", n, len(data))
	}
	out := batch.View(records.Assemble([]records.Piece{p}, nil, 1<<20).Data[0])
	var kept []int32
	for h, err := range out.Heads(false, nil) {
		if err != nil {
			t.Fatal(err)
		}
		kept = append(kept, h.OffsetDelta)
	}
	if !p.Changed || !slices.Equal(kept, []int32{1, 2}) {
		t.Errorf("records %v are left, changed %v", kept, p.Changed)
	}
}
