package fetch_test

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/floelog/floe/agent/fetch"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/protocol/batch"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
	"github.com/floelog/floe/tiering/segment"
)

// manifests are manifests in memory.
type manifests struct {
	mu      sync.Mutex
	objects map[tiering.SegmentID][]tiering.Extent
	aborted map[tiering.SegmentID][]shard.AbortedTransaction
	asked   int
	missing func() // called when a manifest is not there
}

func (m *manifests) Content(_ context.Context, _ tiering.TopicPartition, want shard.Manifest) ([]tiering.Extent, []shard.AbortedTransaction, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked++
	run, ok := m.objects[want.Object]
	if !ok {
		if m.missing != nil {
			m.missing()
		}
		return nil, nil, fmt.Errorf("manifest %s: %w", want.Object, objstore.ErrNotFound)
	}
	return run, m.aborted[want.Object], nil
}

// state looks at a partition.
func (l *log) state(p int32) (out shard.Partition) {
	l.set.View(tiering.ShardID(p)).Read(func(s *shard.State) { out = *s.Partition(partition(p)) })
	return out
}

// change commits a change.
func (l *log) change(p int32, c shard.Change) {
	l.t.Helper()
	l.propose(p, func(d *shard.Draft) error { d.Add(c); return nil })
}

// replace puts extents in the place of a run.
func (l *log) replace(p int32, unmarked []tiering.Offset, with ...tiering.Extent) {
	l.t.Helper()
	ps := l.state(p)
	of, ok := ps.Digest(with[0].Base, with[len(with)-1].End())
	if !ok {
		l.t.Fatalf("no run from offset %d to %d", with[0].Base, with[len(with)-1].End())
	}
	l.change(p, shard.Replace{Partition: partition(p), Of: of, With: with, Unmarked: unmarked})
}

// archive moves the first n extents into a manifest.
func (l *log) archive(p int32, n int) {
	l.t.Helper()
	ps := l.state(p)
	run := slices.Clone(ps.Extents[:n])
	l.segs++
	m := shard.ManifestOf(tiering.SegmentID{Session: l.session.id, Seq: l.segs}, 1, run)
	for i := range run {
		run[i].Epoch = 99 // means nothing: partitions know their epochs
	}
	aborted := ps.AbortedIn(m.Base, m.End())
	l.manifests.objects[m.Object], l.manifests.aborted[m.Object] = run, aborted
	l.change(p, shard.Archive{Partition: partition(p), Of: shard.ArchiveDigest(ps.Extents[:n], aborted), Manifest: m})
	if got := len(l.state(p).Manifests); got != len(ps.Manifests)+1 {
		l.t.Fatalf("%d manifests after one was added to %d", got, len(ps.Manifests))
	}
}

// store puts batches into a segment of their own and returns where they are.
func (l *log) store(p int32, batches ...[]byte) (tiering.SegmentID, tiering.Position) {
	l.t.Helper()
	l.segs++
	id := tiering.SegmentID{Session: l.session.id, Seq: l.segs}
	built, err := segment.Build(segment.Header{ID: id}, []segment.Chunk{{Shard: tiering.ShardID(p), TopicPartition: partition(p), Slices: batches}})
	if err != nil {
		l.t.Fatal(err)
	}
	if err := l.objects.Put(l.t.Context(), id.Key(), built.Body); err != nil {
		l.t.Fatal(err)
	}
	return id, built.Entries[0].Position
}

// trim moves the log start.
func (l *log) trim(p int32, to tiering.Offset) {
	l.change(p, shard.Trim{Partition: partition(p), LogStart: to})
}

// lead begins a new leader epoch.
func (l *log) lead(p int32) {
	l.t.Helper()
	id := tiering.ShardID(p)
	if err := l.set.Leader(id).Release(l.t.Context()); err != nil {
		l.t.Fatal(err)
	}
	if _, err := l.set.Acquire(l.t.Context(), l.session, id); err != nil {
		l.t.Fatal(err)
	}
}

func hole(from, to tiering.Offset) tiering.Extent {
	return tiering.Extent{Base: from, Count: int64(to - from), MaxTimestamp: tiering.NoTimestamp}
}

// thin is a batch of which log compaction has left some records: those of the given offset
// deltas. It covers n offsets.
func thin(t testing.TB, n int32, kept map[int32]rec) []byte {
	t.Helper()
	first := int64(-1)
	f := batch.PlainFields(0)
	f.LastOffsetDelta = n - 1
	b := batch.NewBuilder(f)
	for delta := range n {
		r, ok := kept[delta]
		if !ok {
			continue
		}
		if first < 0 {
			first = r.at
			f.FirstTimestamp = first
			b.Reset(f)
		}
		b.Add(batch.Record{OffsetDelta: delta, TimestampDelta: r.at - first, Value: []byte(r.value)})
	}
	out, err := b.AppendTo(nil)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// kept is an extent of one batch that is stored.
func (l *log) kept(p int32, base tiering.Offset, maxTimestamp int64, n int32, recs map[int32]rec) tiering.Extent {
	l.t.Helper()
	b := thin(l.t, n, recs)
	id, at := l.store(p, b)
	return tiering.Extent{Base: base, Count: int64(n), MaxTimestamp: maxTimestamp, Length: int32(len(b)), Segment: id, Position: at}
}

// stop is what an answer says, and where it leaves its reader.
type stop struct {
	text string
	next tiering.Offset
}

// ask is a fetch of one partition as a consumer takes it.
func (l *log) ask(p int32, from tiering.Offset, limit int, committed bool) stop {
	l.t.Helper()
	r := l.reader.Fetch(l.t.Context(), &fetch.Request{MaxBytes: 1 << 30, ReadCommitted: committed, Partitions: []fetch.Partition{{
		Partition: partition(p), Shard: tiering.ShardID(p), Offset: from, MaxBytes: limit}}})[0]
	values, next := consume(l.t, r, from)
	return stop{fmt.Sprint(values, r.Code), next}
}

func TestReadersPassHoles(t *testing.T) {
	withLog(t, func(l *log) {
		w := &writer{l: l, id: 5, number: 1}
		for i := range 6 { // extents of ten offsets
			recs := make([]rec, 10)
			for j := range recs {
				recs[j] = rec{fmt.Sprint(10*i + j), int64(10*i + j)}
			}
			l.append(0, i%2 == 0, encode(t, recs...))
		}
		l.replace(0, nil, hole(0, 10))
		l.replace(0, nil, l.kept(0, 10, 12, 10, map[int32]rec{0: {"10", 10}, 2: {"12", 12}})) // and nothing up to 20
		l.replace(0, nil, hole(20, 30), hole(30, 40))
		l.replace(0, nil, hole(50, 60))
		forty := "40=40 41=41 42=42 43=43 44=44 45=45 46=46 47=47 48=48 49=49"
		for _, c := range []struct {
			from  tiering.Offset
			limit int
			want  stop
		}{
			{0, 1 << 20, stop{"[10=10 12=12 " + forty + "] 0", 60}},
			{5, 1, stop{"[10=10 12=12] 0", 20}},    // the hole at the start costs nothing
			{13, 1, stop{"[] 0", 20}},              // behind the last record of its batch
			{20, 1, stop{"[" + forty + "] 0", 50}}, // a hole of two
			{35, 1, stop{"[" + forty + "] 0", 50}},
			{50, 1, stop{"[] 0", 60}}, // all that is left is a hole
			{57, 1 << 20, stop{"[] 0", 60}},
			{60, 1 << 20, stop{"[] 0", 60}},
		} {
			for _, committed := range []bool{false, true} {
				if got := l.ask(0, c.from, c.limit, committed); got != c.want {
					t.Errorf("from %d, %d bytes, committed %v: %+v, want %+v", c.from, c.limit, committed, got, c.want)
				}
			}
		}
		// It is something to answer at once.
		began := time.Now()
		l.fetch(fetch.Request{MinBytes: 1, MaxBytes: 1 << 20, MaxWait: time.Minute, Partitions: []fetch.Partition{from(0, 55, 1<<20)}})
		if took := time.Since(began); took != 0 {
			t.Errorf("a reader in a hole waited for %v", took)
		}
		// Below an open transaction: what follows may not be read yet.
		l.appendIn(w.open(), 0, true, w.batch(rec{"open", 1}))
		if got, want := l.ask(0, 52, 1, true), (stop{"[] 0", 60}); got != want {
			t.Errorf("below the last stable offset: %+v, want %+v", got, want)
		}
		if got, want := l.ask(0, 52, 1, false), (stop{"[60=open] 0", 61}); got != want {
			t.Errorf("read_uncommitted: %+v, want %+v", got, want)
		}
		// A fetch that waits for more than a hole is answered at the end of its time.
		start := time.Now()
		r := l.reader.Fetch(l.t.Context(), &fetch.Request{MinBytes: 1 << 20, MaxBytes: 1 << 20, MaxWait: time.Second, ReadCommitted: true, Partitions: []fetch.Partition{from(0, 50, 1<<20)}})
		if _, next := consume(t, r[0], 50); next != 60 || time.Since(start) != time.Second {
			t.Errorf("after %v the reader goes on from %d", time.Since(start), next)
		}
	})
}

// A hole may be larger than what one batch can say.
func TestAHoleOfBillions(t *testing.T) {
	withLog(t, func(l *log) {
		var end tiering.Offset
		for range 3 {
			l.claim(0, math.MaxInt32)
			end += math.MaxInt32
		}
		l.replace(0, nil, hole(0, end))
		for _, c := range []struct {
			limit int
			next  tiering.Offset
		}{{1, 8 + math.MaxInt32}, {1 << 20, end}} {
			if got, want := l.ask(0, 7, c.limit, false), (stop{"[] 0", c.next}); got != want {
				t.Errorf("%d bytes: %+v, want %+v", c.limit, got, want)
			}
		}
	})
}

// claim appends a batch that says to have n records.
func (l *log) claim(p int32, n int32) {
	l.t.Helper()
	data := encode(l.t, rec{"one", 1})
	l.subs[p]++
	l.propose(p, func(d *shard.Draft) error {
		_, err := d.Submit(&shard.Submission{Session: l.session.id, Seq: l.subs[p], Parts: []shard.Part{{Partition: partition(p), Inline: data,
			Batches: []shard.Batch{{Length: int32(len(data)), Count: n, MaxTimestamp: 1, ProducerID: -1, ProducerEpoch: -1, FirstSeq: -1}}}}})
		return err
	})
}

func TestManifestsAreReadAcross(t *testing.T) {
	withLog(t, func(l *log) {
		for i := range 9 {
			l.append(0, i == 4, encode(t, rec{fmt.Sprint("v", i), int64(i)}))
		}
		l.archive(0, 4)
		l.replace(0, nil, l.kept(0, 4, 4, 1, map[int32]rec{0: {"v4", 4}}))
		l.archive(0, 3)
		l.trim(0, 2)
		for at := tiering.Offset(2); at <= 9; at++ {
			var want []string
			for i := at; i < 9; i++ {
				want = append(want, fmt.Sprintf("%d=v%d", i, i))
			}
			if got, want := l.ask(0, at, 1<<20, false), (stop{fmt.Sprint(want, 0), 9}); got != want {
				t.Errorf("from %d: %+v, want %+v", at, got, want)
			}
		}
		if got := l.fetch(fetch.Request{MaxBytes: 1 << 20, Partitions: []fetch.Partition{from(0, 1, 1<<20)}}); got[0] != "OFFSET_OUT_OF_RANGE" {
			t.Errorf("below the log start, within a manifest: %q", got[0])
		}
		// What lies before the offset is not read.
		l.read.Store(0)
		if l.ask(0, 5, 1, false); l.read.Load() != int64(len(encode(t, rec{"v5", 5}))) {
			t.Errorf("%d bytes were read for one batch", l.read.Load())
		}
		// What lies there is counted without a look into them.
		l.manifests.asked = 0
		there := 0
		l.reader.Fetch(l.t.Context(), &fetch.Request{MaxBytes: 1 << 20, Partitions: []fetch.Partition{from(0, 4, 1<<20)},
			Admit: func(_ context.Context, lane fetch.Lane, bytes int) (int, bool) {
				if there = bytes; lane != fetch.Lagging {
					t.Errorf("a read of a manifest is admitted as %v", lane)
				}
				return 0, false
			}})
		if want := 5 * len(encode(t, rec{"v4", 4})); there != want || l.manifests.asked != 0 {
			t.Errorf("%d bytes from offset 4 on, want %d; %d manifests were loaded", there, want, l.manifests.asked)
		}
	})
}

// What a reader's view names may have been replaced while the reader was at it.
func TestWhatIsGoneIsLookedUpAgain(t *testing.T) {
	for _, what := range []string{"segment", "manifest"} {
		withLog(t, func(l *log) {
			for i := range 3 {
				l.append(0, false, encode(t, rec{fmt.Sprint("v", i), int64(i)}))
			}
			ps := l.state(0)
			again := func() {
				l.replace(0, nil, l.kept(0, 0, 1, 2, map[int32]rec{0: {"v0", 0}, 1: {"v1", 1}}), ps.Extents[2])
			}
			if what == "manifest" {
				l.archive(0, 3)
				l.manifests.objects, l.manifests.missing = nil, again
			} else {
				l.gone = func(key string) {
					l.gone = nil
					again()
				}
				if err := l.objects.Delete(l.t.Context(), ps.Extents[0].Segment.Key()); err != nil {
					t.Fatal(err)
				}
			}
			if got, want := l.ask(0, 0, 1<<20, false), (stop{"[0=v0 1=v1 2=v2] 0", 3}); got != want {
				t.Errorf("%s: %+v, want %+v", what, got, want)
			}
		})
	}
}

// An abort marker that has been removed with all that it concluded must not be told of: a
// consumer would wait for it and skip what the producer wrote later.
func TestAbortedTransactionsAreToldAsLongAsTheirMarkersAreThere(t *testing.T) {
	withLog(t, func(l *log) {
		w := &writer{l: l, id: 5}
		w.begin(rec{"void", 1})
		w.end(false)
		w.begin(rec{"good", 2})
		w.end(true)
		want := stop{"[2=good] 0", 4}
		check := func(when string, aborted int) {
			t.Helper()
			if got := l.ask(0, 0, 1<<20, true); got != want {
				t.Errorf("%s: %+v, want %+v", when, got, want)
			}
			if r := l.committed(0, 0, 1<<20); len(r.Aborted) != aborted {
				t.Errorf("%s: told of %v, want %d", when, r.Aborted, aborted)
			}
		}
		check("as written", 1)
		l.replace(0, nil, hole(0, 1)) // the data goes first
		check("data gone", 1)
		l.replace(0, []tiering.Offset{1}, hole(0, 1), hole(1, 2))
		check("marker gone", 0)
		l.archive(0, 2)
		check("in a manifest", 0)
	})
}

func TestTimestampsOfWhatIsLeft(t *testing.T) {
	withLog(t, func(l *log) {
		l.append(0, false, encode(t, rec{"a", 100}, rec{"b", 900}, rec{"c", 200}))
		l.append(0, true, encode(t, rec{"d", 150}, rec{"e", 300}, rec{"f", 300}))
		l.append(0, false, encode(t, rec{"g", 50}))
		l.append(0, true, encode(t, rec{"h", 250}))
		check := func(when string, max fetch.Offset, by map[int64]fetch.Offset) {
			t.Helper()
			if got, err := l.reader.MaxTimestamp(l.t.Context(), 0, partition(0), false); err != nil || got != max {
				t.Errorf("%s: max timestamp: %v, %v, want %v", when, got, err, max)
			}
			for ms, want := range by {
				if got, err := l.reader.ByTimestamp(l.t.Context(), 0, partition(0), ms, false); err != nil || got != want {
					t.Errorf("%s: by timestamp %d: %v, %v, want %v", when, ms, got, err, want)
				}
			}
		}
		at := func(offset tiering.Offset, ms int64) fetch.Offset {
			return fetch.Offset{Offset: offset, Timestamp: ms, Epoch: 1}
		}
		check("as written", at(1, 900), map[int64]fetch.Offset{0: at(0, 100), 101: at(1, 900), 901: fetch.NoOffset})
		l.trim(0, 2)
		check("trimmed within an extent", at(4, 300), map[int64]fetch.Offset{0: at(2, 200), 201: at(4, 300), 301: fetch.NoOffset})
		l.replace(0, nil, l.kept(0, 3, 300, 3, map[int32]rec{2: {"f", 300}}))
		check("cleaned", at(5, 300), map[int64]fetch.Offset{0: at(2, 200), 201: at(5, 300)})
		l.archive(0, 2)
		check("in a manifest", at(5, 300), map[int64]fetch.Offset{0: at(2, 200), 201: at(5, 300), 301: fetch.NoOffset})
		asked := l.manifests.asked
		check("newer than the manifest", at(5, 300), map[int64]fetch.Offset{})
		if got, err := l.reader.ByTimestamp(l.t.Context(), 0, partition(0), 901, false); err != nil || got != fetch.NoOffset || l.manifests.asked != asked+1 {
			t.Errorf("by a timestamp newer than all: %v, %v, after %d loads of manifests, want 1 for the greatest alone", got, err, l.manifests.asked-asked)
		}
		asked = l.manifests.asked
		l.trim(0, 6)
		check("behind the manifest", at(7, 250), map[int64]fetch.Offset{0: at(6, 50), 51: at(7, 250), 251: fetch.NoOffset})
		if l.manifests.asked != asked {
			t.Error("a manifest was loaded that was trimmed away")
		}
		l.replace(0, nil, hole(6, 7))
		check("a hole", at(7, 250), map[int64]fetch.Offset{0: at(7, 250)})
		if got := l.reader.Earliest(0, partition(0)); got != (fetch.Offset{Offset: 6, Timestamp: -1, Epoch: 1}) {
			t.Errorf("earliest is %v, want the log start, which lies in a hole", got)
		}
	})
}

// Large extents are read piece by piece; who goes on does not begin at the extent's start.
func TestLargeExtentsAreReadInPieces(t *testing.T) {
	withLog(t, func(l *log) {
		const n = 80
		var batches [][]byte
		for i := range n {
			batches = append(batches, encode(t, rec{fmt.Sprint(i, bytes.Repeat([]byte{'x'}, 30<<10)), int64(i)}))
		}
		big := encode(t, rec{fmt.Sprint("big", bytes.Repeat([]byte{'y'}, 1<<20)), n}) // larger than a piece
		batches = append(batches, big)
		l.append(0, false, batches...)
		size := len(bytes.Join(batches, nil))
		if size < 4<<20 {
			t.Fatalf("the extent has %d bytes: too small to be read in pieces", size)
		}
		for _, limit := range []int{1, 300 << 10, 1 << 20} {
			next := tiering.Offset(0)
			l.read.Store(0)
			for next <= n {
				r := l.reader.Fetch(l.t.Context(), &fetch.Request{MaxBytes: 1 << 30, Partitions: []fetch.Partition{from(0, next, limit)}})[0]
				got := bytes.Join(r.Records, nil)
				take := 1
				for take < len(batches[next:]) && len(bytes.Join(batches[next:next+tiering.Offset(take)+1], nil)) <= limit {
					take++
				}
				want := bytes.Join(batches[next:next+tiering.Offset(take)], nil)
				if r.Code != 0 || len(got) != len(want) {
					t.Fatalf("from %d, %d bytes: code %d, %d bytes, want %d", next, limit, r.Code, len(got), len(want))
				}
				_, next = consume(t, r, next)
			}
			if next != n+1 {
				t.Errorf("%d bytes at a time: the reader ends at %d", limit, next)
			}
			if got := int(l.read.Load()); limit > 1<<10 && got > 4*size {
				t.Errorf("%d bytes at a time: %d bytes were read of an extent of %d", limit, got, size)
			}
		}
		// Somewhere in the middle, and by time.
		if _, next := consume(t, l.reader.Fetch(l.t.Context(), &fetch.Request{MaxBytes: 1, Partitions: []fetch.Partition{from(0, 55, 1)}})[0], 55); next != 56 {
			t.Errorf("from the middle: goes on from %d", next)
		}
		if got, err := l.reader.ByTimestamp(l.t.Context(), 0, partition(0), 70, false); err != nil || got.Offset != 70 {
			t.Errorf("by timestamp 70: %v, %v", got, err)
		}
		if got, err := l.reader.MaxTimestamp(l.t.Context(), 0, partition(0), false); err != nil || got.Offset != n {
			t.Errorf("max timestamp: %v, %v", got, err)
		}
	})
}
