package fetch_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/fetch"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/protocol/batch"
	"github.com/floelog/floe/tiering"
)

// history is a partition as its readers may see it, in the plainest form: what was written at
// each offset, and what is left of it. Everything that the tiers do is done at random.
type history struct {
	l       *log
	rnd     *rand.Rand
	records []written // by offset
	batches []leftOver
	start   tiering.Offset
	epoch   tiering.LeaderEpoch
}

type written struct {
	rec
	removed bool
	epoch   tiering.LeaderEpoch
}

// leftOver is a batch as it is stored: it covers offsets up to the next one, or to end.
type leftOver struct{ base, end tiering.Offset }

var codecs = []batch.Codec{batch.None, batch.Gzip, batch.Snappy, batch.LZ4} // a client's zstd decoder does not end with its test

func (h *history) end() tiering.Offset { return tiering.Offset(len(h.records)) }

func (h *history) step() {
	switch n := h.rnd.IntN(20); {
	case n < 9 || h.end() == 0:
		h.write()
	case n < 14:
		h.clean()
	case n < 15:
		h.l.lead(0)
		h.epoch++
	case n < 18:
		h.archive()
	default:
		if h.rnd.IntN(3) == 0 {
			h.start = max(h.start, tiering.Offset(h.rnd.IntN(len(h.records))))
			h.l.trim(0, h.start)
		}
	}
}

func (h *history) write() {
	var batches [][]byte
	for range 1 + h.rnd.IntN(4) {
		recs := make([]rec, 1+h.rnd.IntN(4))
		base := h.end()
		for i := range recs {
			recs[i] = rec{fmt.Sprint("r", h.end()), int64(h.rnd.IntN(1000))}
			h.records = append(h.records, written{rec: recs[i], epoch: h.epoch})
		}
		h.batches = append(h.batches, leftOver{base, h.end()})
		batches = append(batches, encode(h.l.t, recs...))
	}
	h.l.append(0, h.rnd.IntN(3) == 0, batches...)
}

// run picks some of the extents that are left, as far as they hold what is below the end.
func (h *history) run() []tiering.Extent {
	extents := h.l.state(0).Extents
	if len(extents) == 0 {
		return nil
	}
	i := h.rnd.IntN(len(extents))
	return extents[i:min(len(extents), i+1+h.rnd.IntN(5))]
}

// clean replaces a run by what log compaction leaves of it: all, nothing, or anything between.
// What is left of it goes into one segment, as one extent or two.
func (h *history) clean() {
	run := h.run()
	if len(run) == 0 {
		return
	}
	from, to := run[0].Base, run[len(run)-1].End()
	keep := []int{0, 50, 90, 100}[h.rnd.IntN(4)]
	var out []leftOver
	for _, b := range h.batches {
		if b.base < from || b.base >= to {
			continue
		}
		left := 0
		for at := b.base; at < b.end; at++ {
			if r := &h.records[at]; !r.removed {
				r.removed = h.rnd.IntN(100) >= keep
				if !r.removed {
					left++
				}
			}
		}
		if left > 0 || h.rnd.IntN(10) == 0 { // sometimes an empty one, which keeps a sequence number
			out = append(out, b)
		}
	}
	first := to
	for i := range out { // none leaves a gap behind it
		out[i].end = to
		if i > 0 {
			out[i-1].end = out[i].base
		}
		first = out[0].base
	}
	var with []tiering.Extent
	if first > from {
		with = append(with, hole(from, first))
	}
	if len(out) > 0 {
		with = append(with, h.store(out)...)
	}
	h.batches = slices.DeleteFunc(h.batches, func(b leftOver) bool { return b.base >= from && b.base < to })
	h.batches = append(h.batches, out...)
	slices.SortFunc(h.batches, func(a, b leftOver) int { return int(a.base - b.base) })
	h.l.replace(0, nil, with...)
}

func (h *history) store(kept []leftOver) []tiering.Extent {
	var bodies [][]byte
	for _, b := range kept {
		bodies = append(bodies, h.encode(b))
	}
	id, position := h.l.store(0, bodies...)
	cut := h.rnd.IntN(len(kept))
	var out []tiering.Extent
	for i, b := range kept {
		if i == 0 || i == cut {
			out = append(out, tiering.Extent{Base: b.base, MaxTimestamp: -1, Segment: id, Position: position})
		}
		e := &out[len(out)-1]
		e.Count = int64(b.end - e.Base)
		e.Length += int32(len(bodies[i]))
		position += tiering.Position(len(bodies[i]))
		for at := b.base; at < b.end; at++ {
			if r := h.records[at]; !r.removed {
				e.MaxTimestamp = max(e.MaxTimestamp, r.at)
			}
		}
	}
	return out
}

// encode is a batch as log compaction leaves it, sometimes with a delete horizon in the place
// of the first timestamp.
func (h *history) encode(b leftOver) []byte {
	f := batch.PlainFields(int64(h.rnd.IntN(2000)))
	f.Attributes = f.Attributes.WithCodec(codecs[h.rnd.IntN(len(codecs))])
	if h.rnd.IntN(2) == 0 {
		f.Attributes |= batch.AttrDeleteHorizon
	}
	f.BaseOffset, f.LeaderEpoch, f.LastOffsetDelta = int64(b.base), 77, int32(b.end-b.base)-1
	builder := batch.NewBuilder(f)
	for at := b.base; at < b.end; at++ {
		if r := h.records[at]; !r.removed {
			builder.Add(batch.Record{OffsetDelta: int32(at - b.base), TimestampDelta: r.at - f.FirstTimestamp, Value: []byte(r.value)})
		}
	}
	out, err := builder.AppendTo(nil)
	if err != nil {
		h.l.t.Fatal(err)
	}
	return out
}

// archive moves the first extents behind a manifest, as far as none is inline.
func (h *history) archive() {
	extents := h.l.state(0).Extents
	n := 0
	for n < len(extents) && n < 4 && !extents[n].IsInline() {
		n++
	}
	if n > 0 {
		h.l.archive(0, n)
	}
}

// check reads from every offset, with answers of several sizes, and by time.
func (h *history) check() {
	t := h.l.t
	for from := h.start; from < h.end(); from++ {
		for _, limit := range []int{1, 200, 1 << 20} {
			r := h.l.reader.Fetch(t.Context(), &fetch.Request{MaxBytes: 1 << 20, Partitions: []fetch.Partition{{Partition: partition(0), Offset: from, MaxBytes: limit}}})[0]
			values, next := consume(t, r, from)
			if r.Code != 0 || next <= from || next > h.end() || limit == 1<<20 && next != h.end() || limit == 200 && len(r.Records) > 1 && r.Bytes > limit && len(values) > 4 {
				t.Fatalf("from %d, %d bytes: code %d, %d bytes, goes on from %d of %d", from, limit, r.Code, r.Bytes, next, h.end())
			}
			var want []string
			for at := from; at < next; at++ {
				if w := h.records[at]; !w.removed {
					want = append(want, fmt.Sprintf("%d=%s", at, w.value))
				}
			}
			if got, goesOn := client(t, r, from); goesOn != next || !slices.Equal(got, want) {
				t.Fatalf("from %d, %d bytes: a client has %v and goes on from %d, want %v and %d", from, limit, got, goesOn, want, next)
			}
			if !slices.Equal(values, want) {
				t.Fatalf("from %d, %d bytes: %v\nwant %v", from, limit, values, want)
			}
			for rest := bytes.Join(r.Records, nil); len(rest) > 0; {
				v, tail, err := batch.Next(rest)
				if err != nil {
					t.Fatal(err)
				}
				if want := h.records[v.BaseOffset()].epoch; tiering.LeaderEpoch(v.LeaderEpoch()) != want || v.VerifyCRC() != nil {
					t.Fatalf("the batch at offset %d has leader epoch %d, want %d; checksum: %v", v.BaseOffset(), v.LeaderEpoch(), want, v.VerifyCRC())
				}
				rest = tail
			}
		}
	}
	h.checkTimes()
}

// client is what a real client makes of an answer, and where it goes on.
func client(t testing.TB, r fetch.Result, from tiering.Offset) (values []string, next tiering.Offset) {
	t.Helper()
	in := kmsg.NewFetchResponseTopicPartition()
	in.RecordBatches, in.HighWatermark = bytes.Join(r.Records, nil), int64(r.HighWatermark)
	out, goesOn := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{Offset: int64(from)}, &in, kgo.DefaultDecompressor(), nil)
	if out.Err != nil {
		t.Fatal(out.Err)
	}
	for _, rec := range out.Records {
		values = append(values, fmt.Sprintf("%d=%s", rec.Offset, rec.Value))
	}
	return values, tiering.Offset(goesOn)
}

func (h *history) checkTimes() {
	t := h.l.t
	// A search may look at any time: those of the records, and those between.
	greatest := fetch.NoOffset
	for _, ms := range []int64{0, 250, 500, 750, 990, 1000} {
		want := fetch.NoOffset
		for at := h.start; at < h.end(); at++ {
			r := h.records[at]
			if r.removed {
				continue
			}
			o := fetch.Offset{Offset: at, Timestamp: r.at, Epoch: r.epoch}
			if want == fetch.NoOffset && r.at >= ms {
				want = o
			}
			if greatest == fetch.NoOffset || r.at > greatest.Timestamp {
				greatest = o
			}
		}
		if got, err := h.l.reader.ByTimestamp(t.Context(), 0, partition(0), ms, false); err != nil || got != want {
			t.Fatalf("by timestamp %d: %v, %v, want %v", ms, got, err, want)
		}
	}
	if got, err := h.l.reader.MaxTimestamp(t.Context(), 0, partition(0), false); err != nil || got != greatest {
		t.Fatalf("max timestamp: %v, %v, want %v", got, err, greatest)
	}
	if got := h.l.reader.Earliest(0, partition(0)).Offset; got != h.start {
		t.Fatalf("earliest is %d, want %d", got, h.start)
	}
}

// Whatever the tiers do to a partition, a reader sees from each offset on what is left, all of
// it and in order, under the leader epochs under which it was written, and always gets on.
func TestReadersSeeWhatIsLeft(t *testing.T) {
	for seed := range uint64(30) {
		withLog(t, func(l *log) {
			h := &history{l: l, rnd: rand.New(rand.NewPCG(seed, 7)), epoch: 1}
			for i := range 40 {
				h.step()
				if i%8 == 7 {
					h.check()
				}
			}
			shape(l.state(0), h)
		})
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	for what, n := range seen {
		if n == 0 {
			t.Errorf("no partition had %s: the test is too kind", what)
		}
	}
}

var seen = map[string]int{"manifests": 0, "holes": 0, "holes in manifests": 0, "extents of two epochs": 0, "a log start in a hole": 0, "a hole at its end": 0}

// shape counts what the test has come upon.
func shape(p shard.Partition, h *history) {
	count := func(run []tiering.Extent, within string) {
		for _, e := range run {
			if e.IsHole() {
				seen[within]++
				if e.Base < p.LogStart && p.LogStart < e.End() {
					seen["a log start in a hole"]++
				}
				if e.End() == p.Next {
					seen["a hole at its end"]++
				}
			} else if h.records[e.Base].epoch != h.records[e.End()-1].epoch {
				seen["extents of two epochs"]++
			}
		}
	}
	seen["manifests"] += len(p.Manifests)
	for _, m := range p.Manifests {
		count(h.l.manifests.objects[m.Object], "holes in manifests")
	}
	count(p.Extents, "holes")
}
