package records_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/compaction/clean/records"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/protocol/batch"
	"github.com/floelog/floe/tiering"
)

var codecs = []batch.Codec{batch.None, batch.Gzip, batch.Snappy, batch.LZ4, batch.Zstd}

// written is a record as it was appended, and what the reference knows of it.
type written struct {
	at         tiering.Offset
	batch      tiering.Offset // base of its batch
	key, value []byte
	time       int64
	header     string
	producer   int64 // -1: none
	txn        int   // 0: none
	aborted    bool
	marker     bool
	here       bool
}

// extent is an extent with its bytes.
type extent struct {
	tiering.Extent
	data [][]byte
}

// world is a log, its extents and a reference that knows every record of it.
type world struct {
	t        *testing.T
	r        *rand.Rand
	all      []written
	extents  []extent
	epochs   []shard.EpochStart
	aborted  []shard.AbortedTransaction
	next     tiering.Offset
	cleaned  tiering.Offset
	logStart tiering.Offset
	now      int64
	txns     int
	open     map[int64]int // producer -> index in all of its transaction's first record
	stable   tiering.Offset
	horizons map[tiering.Offset]int64 // by base of the batch
	keys     int
}

const retention = 1000

func newWorld(t *testing.T, seed uint64) *world {
	return &world{t: t, r: rand.New(rand.NewPCG(seed, 1)), open: map[int64]int{}, horizons: map[tiering.Offset]int64{}, now: 1_000_000,
		keys: 1 + int(seed%40), epochs: []shard.EpochStart{{Epoch: 1, Start: 0}}}
}

// add appends a batch as an extent of its own.
func (w *world) add(data []byte, count int) {
	base := w.next
	w.next += tiering.Offset(count)
	w.extents = append(w.extents, extent{tiering.Extent{Base: base, Count: int64(count), Length: int32(len(data)), MaxTimestamp: batch.View(data).MaxTimestamp()}, w.cut(data)})
}

// cut cuts bytes into slices anywhere.
func (w *world) cut(data []byte) [][]byte {
	var out [][]byte
	for len(data) > 0 && w.r.IntN(3) == 0 {
		n := w.r.IntN(len(data) + 1)
		out = append(out, data[:n:n])
		data = data[n:]
	}
	return append(out, data)
}

// produce appends a batch of records, of a transaction if producer is 0 or more.
func (w *world) produce(producer int64) {
	f := batch.PlainFields(w.now)
	f.Attributes = f.Attributes.WithCodec(codecs[w.r.IntN(len(codecs))])
	if w.r.IntN(4) == 0 {
		f.Attributes |= batch.AttrLogAppendTime
		f.MaxTimestamp = w.now + 3
	}
	txn := 0
	if producer >= 0 {
		if first, ok := w.open[producer]; ok {
			txn = w.all[first].txn
		} else {
			w.txns++
			txn = w.txns
			w.open[producer] = len(w.all)
		}
		f.Attributes |= batch.AttrTransactional
		f.ProducerID, f.ProducerEpoch, f.BaseSequence = producer, 3, 17
	}
	b := batch.NewBuilder(f)
	n := 1 + w.r.IntN(6)
	for i := range n {
		rec := batch.Record{OffsetDelta: int32(i), TimestampDelta: int64(w.r.IntN(9) - 4), Key: fmt.Appendf(nil, "k%d", w.r.IntN(w.keys))}
		x := written{at: w.next + tiering.Offset(i), batch: w.next, producer: f.ProducerID, txn: txn, here: true}
		if w.r.IntN(4) > 0 {
			rec.Value = fmt.Appendf(nil, "value %d %s", x.at, bytes.Repeat([]byte("x"), w.r.IntN(60)))
		}
		if w.r.IntN(50) == 0 {
			rec.Key = nil
		}
		if w.r.IntN(3) == 0 {
			x.header = fmt.Sprint(x.at)
			rec.Headers = batch.MakeHeaders(batch.Header{Key: []byte("h"), Value: []byte(x.header)})
		}
		x.key, x.value, x.time = rec.Key, rec.Value, w.now+rec.TimestampDelta
		if f.Attributes&batch.AttrLogAppendTime != 0 {
			x.time = f.MaxTimestamp
		}
		b.Add(rec)
		w.all = append(w.all, x)
	}
	data, err := b.AppendTo(nil)
	if err != nil {
		w.t.Fatal(err)
	}
	w.add(data, n)
}

// end ends a producer's transaction.
func (w *world) end(producer int64, commit bool) {
	first := w.open[producer]
	delete(w.open, producer)
	txn := w.all[first].txn
	if !commit {
		w.aborted = append(w.aborted, shard.AbortedTransaction{ProducerID: producer, First: w.all[first].at, Last: w.next})
		for i := range w.all {
			w.all[i].aborted = w.all[i].aborted || w.all[i].txn == txn
		}
	}
	w.all = append(w.all, written{at: w.next, batch: w.next, producer: producer, txn: txn, marker: true, aborted: !commit, here: true, time: w.now})
	w.add(batch.AppendMarker(nil, producer, 3, commit, 1, w.now), 1)
}

// grow appends some batches and moves time.
func (w *world) grow(batches int) {
	for range batches {
		w.now += int64(w.r.IntN(50))
		producer := int64(w.r.IntN(6) - 2)
		_, open := w.open[producer]
		switch {
		case w.r.IntN(20) == 0:
			w.epochs = append(w.epochs, shard.EpochStart{Epoch: w.epochs[len(w.epochs)-1].Epoch + 1, Start: w.next})
			fallthrough
		case producer < 0 || !open || w.r.IntN(2) == 0:
			w.produce(max(-1, producer))
		default:
			w.end(producer, w.r.IntN(2) == 0)
		}
	}
	w.stable = w.next
	for _, first := range w.open {
		w.stable = min(w.stable, w.all[first].at)
	}
}

// merge puts extents side by side together, as merging does; a hole stays one.
func (w *world) merge() {
	var out []extent
	for _, e := range w.extents {
		if n := len(out); n > 0 && !e.IsHole() && !out[n-1].IsHole() && w.r.IntN(3) > 0 {
			l := &out[n-1]
			l.Count += e.Count
			l.Length += e.Length
			l.MaxTimestamp = max(l.MaxTimestamp, e.MaxTimestamp)
			l.data = w.cut(slices.Concat(append(slices.Clone(l.data), e.data...)...))
			continue
		}
		out = append(out, e)
	}
	w.extents = out
}

// pass compacts once, with room for so many bytes of keys, and has the reference do the same.
func (w *world) pass(room int64) {
	keys := records.NewKeys(room, 1<<20)
	aborted := records.NewAborted(w.aborted)
	x := records.NewIndex(keys, max(w.cleaned, w.logStart), w.stable)
	x.Follow(aborted)
	for _, e := range w.extents {
		more := true
		if e.IsHole() {
			x.Hole(e.End())
		}
		w.walk(e, func(base tiering.Offset, v batch.View) (bool, error) {
			var err error
			more, err = x.Batch(base, v)
			return more, err
		})
		if !more {
			break
		}
	}
	if x.End() <= w.cleaned {
		if x.Full() {
			w.t.Fatalf("no progress from %d with room for %d keys", w.cleaned, keys.Cap())
		}
		return
	}
	rw := records.NewRewriter(records.Rules{Keys: keys, End: x.End(), DeleteRetention: retention})
	rw.Follow(records.Moment{LogStart: w.logStart, Aborted: aborted, Now: w.now})
	var out []extent
	var pieces []records.Piece
	flush := func() {
		if len(pieces) == 0 {
			return
		}
		o := records.Assemble(pieces, w.epochs, 1<<10)
		w.unmark(o.Unmarked)
		rest := slices.Concat(o.Data...)
		if int64(len(rest)) != o.Bytes {
			w.t.Fatalf("%d bytes, it says %d", len(rest), o.Bytes)
		}
		for _, e := range o.With {
			out = append(out, extent{e, w.cut(rest[:e.Length:e.Length])})
			rest = rest[e.Length:]
		}
		if len(rest) > 0 {
			w.t.Fatalf("%d bytes too many", len(rest))
		}
		pieces = nil
	}
	for _, e := range w.extents {
		mark := rw.Mark()
		if w.r.IntN(3) == 0 { // what is judged twice is judged alike
			if _, err := rw.Judge(e.Extent, e.data); err != nil {
				w.t.Fatal(err)
			}
			rw.GoBack(mark)
		}
		p, err := rw.Judge(e.Extent, e.data)
		if err != nil {
			w.t.Fatal(err)
		}
		if !p.Changed && w.r.IntN(2) == 0 {
			flush()
			out = append(out, e)
			continue
		}
		pieces = append(pieces, p)
		if w.r.IntN(4) == 0 {
			flush()
		}
	}
	flush()
	w.extents = out
	w.cleaned = x.End()
	seen := w.stable
	if x.Full() {
		seen = x.End()
	}
	w.reference(x.End(), seen)
	w.check()
}

func (w *world) unmark(at []tiering.Offset) {
	for _, at := range at {
		n := len(w.aborted)
		w.aborted = slices.DeleteFunc(w.aborted, func(a shard.AbortedTransaction) bool { return a.Last == at })
		if len(w.aborted) != n-1 {
			w.t.Fatalf("the marker at %d is no abort marker that is known", at)
		}
	}
}

// reference removes from what was written what a pass up to end must remove that knows all
// keys below seen.
func (w *world) reference(end, seen tiering.Offset) {
	newest := map[string]tiering.Offset{}
	for _, x := range w.all {
		if !x.marker && !x.aborted && x.at < seen && x.key != nil {
			newest[string(x.key)] = x.at
		}
	}
	cut := map[tiering.Offset]bool{} // batches of which records lie at end or beyond
	for _, x := range w.all {
		cut[x.batch] = cut[x.batch] || x.here && x.at >= end
	}
	left := map[int]bool{}
	horizons := map[tiering.Offset]int64{}
	for i := range w.all {
		x := &w.all[i]
		if !x.here || x.at >= end {
			continue
		}
		h, set := w.horizons[x.batch]
		switch {
		case x.marker && left[x.txn]:
		case x.aborted:
			x.here = false
		case x.marker || x.value == nil && x.key != nil && newest[string(x.key)] == x.at:
			if !set && !cut[x.batch] {
				horizons[x.batch] = w.now + retention
			}
			x.here = !set || w.now < h
		default:
			x.here = x.key != nil && newest[string(x.key)] == x.at
		}
		if x.here && x.txn > 0 {
			left[x.txn] = true
		}
	}
	for at, h := range horizons {
		w.horizons[at] = h
	}
}

func (w *world) walk(e extent, f func(tiering.Offset, batch.View) (bool, error)) {
	w.t.Helper()
	if err := records.Batches(e.Extent, e.data, f); err != nil {
		w.t.Fatal(err)
	}
}

// check compares the log with the reference, as a client would read it.
func (w *world) check() {
	w.t.Helper()
	var log []byte
	next := w.extents[0].Base
	for _, e := range w.extents {
		if e.Base != next {
			w.t.Fatalf("an extent at %d, the one before ends at %d", e.Base, next)
		}
		next = e.End()
		greatest := tiering.NoTimestamp
		w.walk(e, func(base tiering.Offset, v batch.View) (bool, error) {
			if err := v.VerifyCRC(); err != nil {
				w.t.Fatal(err)
			}
			end := base + tiering.Offset(v.LastOffsetDelta())
			for _, s := range w.epochs {
				if s.Start > base && s.Start <= end {
					w.t.Fatalf("a batch from %d to %d is of the epochs before and after %d", base, end, s.Start)
				}
			}
			greatest = max(greatest, v.MaxTimestamp())
			patched := bytes.Clone(v)
			batch.Patch(patched, int64(base), 1)
			log = append(log, patched...)
			return true, nil
		})
		if greatest != e.MaxTimestamp {
			w.t.Fatalf("the extent at %d has greatest timestamp %d, its batches %d", e.Base, e.MaxTimestamp, greatest)
		}
	}
	if next != w.next {
		w.t.Fatalf("the log ends at %d, not at %d", next, w.next)
	}
	w.compare(consume(w.t, log))
}

// consume reads a log as franz-go does, control records and all.
func consume(t *testing.T, log []byte) []*kgo.Record {
	t.Helper()
	p := kmsg.NewFetchResponseTopicPartition()
	p.RecordBatches = log
	fp, _ := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{Topic: "t", KeepControlRecords: true}, &p, kgo.DefaultDecompressor(), nil)
	if fp.Err != nil {
		t.Fatal(fp.Err)
	}
	return fp.Records
}

func (w *world) compare(got []*kgo.Record) {
	w.t.Helper()
	i := 0
	for _, x := range w.all {
		if !x.here {
			continue
		}
		if i == len(got) {
			w.t.Fatalf("the record at %d is gone", x.at)
		}
		g := got[i]
		i++
		header := ""
		if len(g.Headers) > 0 {
			header = string(g.Headers[0].Value)
		}
		switch {
		case tiering.Offset(g.Offset) != x.at:
			w.t.Fatalf("a record at %d, want one at %d", g.Offset, x.at)
		case g.ProducerID != x.producer || g.Attrs.IsControl() != x.marker || g.Attrs.IsTransactional() != (x.txn > 0):
			w.t.Fatalf("the record at %d is %+v, was written as %+v", x.at, g, x)
		case g.Timestamp.UnixMilli() != x.time:
			w.t.Fatalf("the record at %d has timestamp %d, was written at %d", x.at, g.Timestamp.UnixMilli(), x.time)
		case x.marker:
		case !bytes.Equal(g.Key, x.key) || !bytes.Equal(g.Value, x.value) || (g.Value == nil) != (x.value == nil) || header != x.header:
			w.t.Fatalf("the record at %d has key %q, value %q, header %q; it was written as %q, %q, %q", x.at, g.Key, g.Value, header, x.key, x.value, x.header)
		}
	}
	if i < len(got) {
		w.t.Fatalf("a record at %d that should be gone", got[i].Offset)
	}
}
