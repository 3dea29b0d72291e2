package fetch_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/floelog/floe/agent/fetch"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/protocol/batch"
	"github.com/floelog/floe/tiering"
)

// writer is a transactional producer with one partition.
type writer struct {
	l      *log
	p      int32
	id     int64
	seq    int32
	number int64 // of the transaction that is open, or was last
}

// batch is a batch of the transaction that is open.
func (w *writer) batch(recs ...rec) []byte {
	f := batch.PlainFields(recs[0].at)
	f.Attributes |= batch.AttrTransactional
	f.ProducerID, f.ProducerEpoch, f.BaseSequence = w.id, 0, w.seq
	w.seq += int32(len(recs))
	return encodeAs(w.l.t, f, recs...)
}

func (w *writer) open() map[int64]int64 { return map[int64]int64{w.id: w.number} }

// begin opens the next transaction with its first batch, inline.
func (w *writer) begin(recs ...rec) {
	w.number++
	w.l.appendIn(w.open(), w.p, true, w.batch(recs...))
}

func (w *writer) end(commit bool) {
	w.l.t.Helper()
	w.l.propose(w.p, func(d *shard.Draft) error {
		o := d.Mark(shard.Marker{Partition: partition(w.p), Commit: commit, Transaction: shard.Transaction{ProducerID: w.id, Number: w.number}})
		if o.Code != shard.OK || o.Base < 0 {
			return fmt.Errorf("the marker's outcome is %+v", o)
		}
		return nil
	})
}

func (l *log) committed(p int32, offset tiering.Offset, limit int) fetch.Result {
	return l.reader.Fetch(l.t.Context(), &fetch.Request{MaxBytes: 1 << 20, ReadCommitted: true, Partitions: []fetch.Partition{from(p, offset, limit)}})[0]
}

func TestReadCommittedEndsAtTheLastStableOffset(t *testing.T) {
	withLog(t, func(l *log) {
		w := &writer{l: l, id: 5, number: 1}
		// One extent, with the open transaction's records in its middle.
		l.appendIn(w.open(), 0, false, encode(t, rec{"a", 1}, rec{"b", 1}), w.batch(rec{"x", 1}), encode(t, rec{"c", 1}))
		expect := func(offset tiering.Offset, stable tiering.Offset, want string, aborted ...shard.AbortedTransaction) {
			t.Helper()
			r := l.committed(0, offset, 1<<20)
			if got := l.text(r); got != want || r.LastStable != stable || !slices.Equal(r.Aborted, aborted) {
				t.Errorf("from offset %d: %q, last stable %d, aborted %v; want %q, %d, %v", offset, got, r.LastStable, r.Aborted, want, stable, aborted)
			}
		}
		expect(0, 2, "0=a 1=b ")
		expect(1, 2, "0=a 1=b ")
		expect(2, 2, "")
		expect(3, 2, "")
		expect(4, 2, "") // the log's end
		if r := l.committed(0, 5, 100); l.text(r) != "OFFSET_OUT_OF_RANGE" {
			t.Errorf("beyond the log's end: %q", l.text(r))
		}
		if got := l.fetch(fetch.Request{MaxBytes: 1 << 20, Partitions: []fetch.Partition{from(0, 0, 1<<20)}}); got[0] != "0=a 1=b 2=x 3=c " {
			t.Errorf("read_uncommitted has %q", got[0])
		}
		w.end(false)
		all := "0=a 1=b 2=x 3=c 4=abort(5) "
		run := shard.AbortedTransaction{ProducerID: 5, First: 2, Last: 4}
		expect(0, 5, all, run)
		expect(4, 5, "4=abort(5) ", run)
		w.begin(rec{"y", 1})
		expect(0, 5, all, run)
		expect(5, 5, "")
		w.end(true)
		expect(5, 7, "5=y 6=commit(5) ")
		// Only as much as the answer holds is told.
		if r := l.committed(0, 0, 1); l.text(r) != "0=a 1=b " || len(r.Aborted) != 0 {
			t.Errorf("one batch: %q, aborted %v", l.text(r), r.Aborted)
		}
		if r := l.reader.Fetch(l.t.Context(), &fetch.Request{MaxBytes: 1 << 20, Partitions: []fetch.Partition{from(0, 0, 1<<20)}})[0]; r.Aborted != nil || r.LastStable != 7 {
			t.Errorf("read_uncommitted is told %v, last stable %d", r.Aborted, r.LastStable)
		}
	})
}

func TestAWaitForCommittedRecordsEndsWithTheMarker(t *testing.T) {
	withLog(t, func(l *log) {
		w := &writer{l: l, id: 5}
		w.begin(rec{"x", 1})
		start := time.Now()
		var writing sync.WaitGroup
		defer writing.Wait()
		writing.Go(func() {
			time.Sleep(time.Second)
			l.append(0, true, encode(t, rec{"plain", 1})) // beyond the last stable offset: nothing to read yet
			time.Sleep(time.Second)
			w.end(true)
		})
		got := l.fetch(fetch.Request{MinBytes: 1, MaxBytes: 1 << 20, MaxWait: time.Minute, ReadCommitted: true, Partitions: []fetch.Partition{from(0, 0, 1<<20)}})
		if took := time.Since(start); took != 2*time.Second || got[0] != "0=x 1=plain 2=commit(5) " {
			t.Errorf("after %v: %q, want all after 2s", took, got[0])
		}
	})
}

func TestMinBytesCountsWhatMayBeRead(t *testing.T) {
	withLog(t, func(l *log) {
		w := &writer{l: l, id: 5}
		one := encode(t, rec{"a", 1})
		l.append(0, true, one)
		w.begin(rec{"x", 1})
		for _, c := range []struct {
			minBytes  int
			committed bool
			wait      time.Duration
		}{{len(one), true, 0}, {len(one) + 1, true, time.Second}, {len(one) + 1, false, 0}} {
			start := time.Now()
			l.fetch(fetch.Request{MinBytes: c.minBytes, MaxBytes: 1 << 20, MaxWait: time.Second, ReadCommitted: c.committed, Partitions: []fetch.Partition{from(0, 0, 1<<20)}})
			if took := time.Since(start); took != c.wait {
				t.Errorf("%+v: waited %v", c, took)
			}
		}
	})
}

func TestCommittedOffsets(t *testing.T) {
	withLog(t, func(l *log) {
		w := &writer{l: l, id: 5}
		l.append(0, true, encode(t, rec{"a", 100}, rec{"b", 300}))
		w.begin(rec{"x", 400})
		l.append(0, true, encode(t, rec{"c", 200}))
		id, tp, ctx := tiering.ShardID(0), partition(0), l.t.Context()
		expect := func(what string, got, want fetch.Offset, err error) {
			t.Helper()
			if err != nil || got != want {
				t.Errorf("%s: %v, %v, want %v", what, got, err, want)
			}
		}
		expect("latest", l.reader.Latest(id, tp, true), fetch.Offset{Offset: 2, Timestamp: -1, Epoch: 1}, nil)
		expect("latest, uncommitted", l.reader.Latest(id, tp, false), fetch.Offset{Offset: 4, Timestamp: -1, Epoch: 1}, nil)
		for ms, want := range map[int64][2]fetch.Offset{ // committed and not
			300: {{Offset: 1, Timestamp: 300, Epoch: 1}, {Offset: 1, Timestamp: 300, Epoch: 1}},
			301: {fetch.NoOffset, {Offset: 2, Timestamp: 400, Epoch: 1}},
		} {
			for i, committed := range []bool{true, false} {
				got, err := l.reader.ByTimestamp(ctx, id, tp, ms, committed)
				expect(fmt.Sprint("by timestamp ", ms, committed), got, want[i], err)
			}
		}
		got, err := l.reader.MaxTimestamp(ctx, id, tp, true)
		expect("max timestamp", got, fetch.NoOffset, err)
		got, err = l.reader.MaxTimestamp(ctx, id, tp, false)
		expect("max timestamp, uncommitted", got, fetch.Offset{Offset: 2, Timestamp: 400, Epoch: 1}, err)
	})
}

// One extent may reach over the last stable offset.
func TestTimestampsWithinAnExtentThatIsNotAllStable(t *testing.T) {
	withLog(t, func(l *log) {
		w := &writer{l: l, id: 5, number: 1}
		l.appendIn(w.open(), 0, false, encode(t, rec{"a", 100}), w.batch(rec{"x", 200}))
		for ms, want := range map[int64]fetch.Offset{100: {Offset: 0, Timestamp: 100, Epoch: 1}, 101: fetch.NoOffset} {
			if got, err := l.reader.ByTimestamp(l.t.Context(), 0, partition(0), ms, true); err != nil || got != want {
				t.Errorf("by timestamp %d: %v, %v, want %v", ms, got, err, want)
			}
		}
	})
}

// consume reads as Kafka's consumer does: it skips what aborted transactions wrote, as the
// answer tells it, and control batches. It returns the offset to go on from.
func consume(t testing.TB, r fetch.Result, offset tiering.Offset) (values []string, next tiering.Offset) {
	void := map[int64]bool{}
	told := slices.SortedFunc(slices.Values(r.Aborted), func(a, b shard.AbortedTransaction) int { return int(a.First - b.First) })
	next = offset
	for rest := bytes.Join(r.Records, nil); len(rest) > 0; {
		v, tail, err := batch.Next(rest)
		if err != nil {
			t.Fatal(err)
		}
		rest, next = tail, tiering.Offset(v.LastOffset()+1)
		for len(told) > 0 && int64(told[0].First) <= v.LastOffset() {
			void[told[0].ProducerID] = true
			told = told[1:]
		}
		switch {
		case v.IsControl():
			if commit, _, err := batch.ReadMarker(v); err != nil {
				t.Fatal(err)
			} else if !commit {
				delete(void, v.ProducerID())
			}
			continue
		case v.IsTransactional() && void[v.ProducerID()]:
			continue
		}
		for rec, err := range v.Records(nil) {
			if err != nil {
				t.Fatal(err)
			}
			if at := tiering.Offset(v.BaseOffset()) + tiering.Offset(rec.OffsetDelta); at >= offset {
				values = append(values, fmt.Sprintf("%d=%s", at, rec.Value))
			}
		}
	}
	if len(told) > 0 {
		t.Errorf("the answer ends at offset %d and tells of %v", next, told)
	}
	return values, next
}

// Whatever transactions do, a read_committed consumer that starts anywhere, and takes answers
// of any size, sees all committed records, in order, and no other.
func TestReadCommittedIsExact(t *testing.T) {
	manifests, across := 0, 0
	for seed := range uint64(30) {
		withLog(t, func(l *log) {
			rnd := rand.New(rand.NewPCG(seed, 3))
			m := newModel(l, rnd)
			for range 60 {
				m.step()
			}
			m.check()
			for _, x := range l.state(0).Manifests {
				if list := l.manifests.aborted[x.Object]; len(list) > 0 {
					manifests++
					if list[len(list)-1].Last >= x.End() {
						across++
					}
				}
			}
			for _, w := range m.writers {
				if m.isOpen(w) {
					m.finish(w, rnd.IntN(2) == 0)
				}
			}
			m.check()
		})
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	if manifests < 10 || across < 5 {
		t.Errorf("%d manifests with aborted transactions, %d with one across their ends: the play is too tame", manifests, across)
	}
}

// model knows which records were written by whom, and what became of them.
type model struct {
	l       *log
	rnd     *rand.Rand
	writers []*writer
	open    map[int64]int64
	first   map[int64]tiering.Offset // of open transactions
	records []modelled               // by offset
	start   tiering.Offset
	count   int
}

type modelled struct {
	value  string // empty: a marker
	writer int64  // 0: none
	number int64
	void   bool
}

func newModel(l *log, rnd *rand.Rand) *model {
	m := &model{l: l, rnd: rnd, open: map[int64]int64{}, first: map[int64]tiering.Offset{}}
	for i := range int64(4) {
		m.writers = append(m.writers, &writer{l: l, id: 10 + i})
	}
	return m
}

func (m *model) isOpen(w *writer) bool { return m.open[w.id] != 0 }

func (m *model) step() {
	switch n := m.rnd.IntN(12); {
	case n == 10:
		m.archive()
	case n == 11:
		m.unarchive()
	case n < 6:
		m.write()
	case n < 9:
		if w := m.writers[m.rnd.IntN(len(m.writers))]; m.isOpen(w) {
			m.finish(w, m.rnd.IntN(2) == 0)
		}
	default:
		m.start = max(m.start, tiering.Offset(m.rnd.IntN(len(m.records)/4+1)))
		m.l.propose(0, func(d *shard.Draft) error {
			d.Add(shard.Trim{Partition: partition(0), LogStart: m.start})
			return nil
		})
	}
}

// archive moves some of the first extents into a manifest, what is inline by way of a segment.
func (m *model) archive() {
	p := m.l.state(0)
	n := 0
	for most := 1 + m.rnd.IntN(12); n < min(most, len(p.Extents)) && p.Extents[n].End() <= p.FirstOpen(); n++ {
		if e := p.Extents[n]; e.IsInline() {
			e.Segment, e.Position = m.l.store(0, e.Inline)
			e.Inline = nil
			m.l.replace(0, nil, e)
		}
	}
	if n > 0 {
		m.l.archive(0, n)
	}
	after := m.l.state(0)
	if list := after.AbortedIn(0, 1<<40); n > 0 && len(list) > 0 && list[0].Last < after.Manifests[len(after.Manifests)-1].End() {
		m.l.t.Fatalf("the state still has %v", list)
	}
}

// unarchive turns the last manifest back into extents.
func (m *model) unarchive() {
	p := m.l.state(0)
	n := len(p.Manifests)
	if n == 0 || m.rnd.IntN(2) == 0 {
		return
	}
	x := p.Manifests[n-1]
	of, _ := p.Digest(x.Base, x.End())
	list := slices.DeleteFunc(slices.Clone(m.l.manifests.aborted[x.Object]), func(a shard.AbortedTransaction) bool { return a.Last < x.Base || a.Last >= x.End() })
	m.l.change(0, shard.Replace{Partition: partition(0), Of: of, With: m.l.manifests.objects[x.Object], Aborted: list})
	if got := len(m.l.state(0).Manifests); got != n-1 {
		m.l.t.Fatalf("%d manifests of %d are left", got, n)
	}
}

// write appends several batches side by side, of several writers and of none.
func (m *model) write() {
	var batches [][]byte
	for range 1 + m.rnd.IntN(4) {
		recs := make([]rec, 1+m.rnd.IntN(3))
		w := (*writer)(nil)
		entry := modelled{}
		if i := m.rnd.IntN(len(m.writers) + 1); i < len(m.writers) {
			w = m.writers[i]
			if !m.isOpen(w) {
				w.number++
				m.open[w.id], m.first[w.id] = w.number, tiering.Offset(len(m.records))
			}
			entry.writer, entry.number = w.id, w.number
		}
		for i := range recs {
			m.count++
			recs[i] = rec{fmt.Sprint("r", m.count), int64(m.count)}
			entry.value = recs[i].value
			m.records = append(m.records, entry)
		}
		if w != nil {
			batches = append(batches, w.batch(recs...))
		} else {
			batches = append(batches, encode(m.l.t, recs...))
		}
	}
	m.l.appendIn(m.open, 0, m.rnd.IntN(2) == 0, batches...)
}

func (m *model) finish(w *writer, commit bool) {
	w.end(commit)
	for i := range m.records {
		if r := &m.records[i]; r.writer == w.id && r.number == w.number {
			r.void = !commit
		}
	}
	m.records = append(m.records, modelled{})
	delete(m.open, w.id)
	delete(m.first, w.id)
}

// visible returns the committed records of [from, to).
func (m *model) visible(from, to tiering.Offset) []string {
	var out []string
	for at := from; at < to; at++ {
		if r := m.records[at]; r.value != "" && !r.void {
			out = append(out, fmt.Sprintf("%d=%s", at, r.value))
		}
	}
	return out
}

func (m *model) check() {
	t := m.l.t
	stable := tiering.Offset(len(m.records))
	for _, first := range m.first {
		stable = min(stable, first)
	}
	for from := m.start; from < stable; from++ {
		for _, limit := range []int{1, 300, 1 << 20} {
			r := m.l.committed(0, from, limit)
			got, next := consume(t, r, from)
			if r.Code != 0 || r.LastStable != stable || next <= from || next > stable || limit == 1<<20 && next != stable {
				t.Fatalf("from %d, %d bytes: code %d, last stable %d (want %d), goes on from %d", from, limit, r.Code, r.LastStable, stable, next)
			}
			// As much as read_uncommitted gets, as far as that is stable.
			all := m.l.reader.Fetch(t.Context(), &fetch.Request{MaxBytes: 1 << 20, Partitions: []fetch.Partition{{Partition: partition(0), Offset: from, MaxBytes: limit}}})[0]
			if _, end := consume(t, all, from); next != min(end, stable) {
				t.Fatalf("from %d, %d bytes: goes on from %d, want %d or the last stable offset %d", from, limit, next, end, stable)
			}
			if want := m.visible(from, next); !slices.Equal(got, want) {
				t.Fatalf("from %d, %d bytes, aborted %v:\n%v\nwant\n%v", from, limit, r.Aborted, got, want)
			}
		}
	}
}
