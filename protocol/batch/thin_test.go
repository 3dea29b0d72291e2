package batch_test

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/floelog/floe/protocol/batch"
)

func collect(t *testing.T, v batch.View) (out []batch.Record) {
	t.Helper()
	for r, err := range v.Records(nil) {
		if err != nil {
			t.Fatal(err)
		}
		r.Key, r.Value = bytes.Clone(r.Key), bytes.Clone(r.Value)
		out = append(out, r)
	}
	return out
}

// What is thinned out keeps everything else, in every codec, as this package and as franz-go
// read it.
func TestThinKeepsWhatItIsTold(t *testing.T) {
	for _, codec := range codecs {
		for seed := range uint64(40) {
			r := rand.New(rand.NewPCG(seed, uint64(codec)))
			f := batch.PlainFields(1_700_000_000_000)
			f.Attributes = f.Attributes.WithCodec(codec) | batch.AttrTransactional
			f.ProducerID, f.ProducerEpoch, f.BaseSequence, f.BaseOffset, f.LeaderEpoch = 9, 4, math.MaxInt32-1, 1000, 6
			if seed%3 == 0 {
				f.Attributes |= batch.AttrLogAppendTime
				f.MaxTimestamp = f.FirstTimestamp + 77
			}
			b := batch.NewBuilder(f)
			n := 1 + r.IntN(20)
			for i := range n {
				rec := batch.Record{OffsetDelta: int32(i), TimestampDelta: int64(r.IntN(100) - 50), Key: fmt.Appendf(nil, "k%d", i)}
				if r.IntN(3) > 0 {
					rec.Value = bytes.Repeat([]byte{'v'}, r.IntN(200))
				}
				if r.IntN(3) == 0 {
					rec.Headers = batch.MakeHeaders(batch.Header{Key: []byte("h"), Value: []byte{1}})
				}
				b.Add(rec)
			}
			data, err := b.AppendTo(nil)
			if err != nil {
				t.Fatal(err)
			}
			v := batch.View(data)
			keep := make([]bool, n)
			for i := range keep {
				keep[i] = r.IntN(2) == 0
			}
			keep[r.IntN(n)] = true
			horizon := batch.NoHorizon
			if seed%2 == 0 {
				horizon = f.FirstTimestamp + 86_400_000
			}
			out, err := batch.Thin([]byte("before"), v, func(i int) bool { return keep[i] }, horizon, nil)
			if err != nil {
				t.Fatal(err)
			}
			w := batch.View(out[6:])
			if err := w.VerifyCRC(); err != nil {
				t.Fatal(err)
			}
			if w.DeleteHorizon() != horizon || w.Codec() != codec || w.LastOffsetDelta() != v.LastOffsetDelta() || w.LastSequence() != v.LastSequence() ||
				w.ProducerID() != 9 || w.ProducerEpoch() != 4 || !w.IsTransactional() || w.TimestampType() != v.TimestampType() || w.BaseOffset() != 1000 || w.LeaderEpoch() != 6 {
				t.Fatalf("%v, seed %d: %+v became %+v", codec, seed, v.Fields(), w.Fields())
			}
			want := collect(t, v)
			got := collect(t, w)
			i, greatest := 0, int64(-1)
			consumed := consume(t, out[6:])
			for k, x := range want {
				if !keep[k] {
					continue
				}
				g := got[i]
				if g.OffsetDelta != x.OffsetDelta || w.Timestamp(g) != v.Timestamp(x) || !same(g.Key, x.Key) || !same(g.Value, x.Value) || g.Headers.Len() != x.Headers.Len() {
					t.Fatalf("%v, seed %d: record %d is %+v, was %+v", codec, seed, k, g, x)
				}
				if c := consumed[i]; c.Offset != 1000+int64(k) || c.Timestamp.UnixMilli() != v.Timestamp(x) || !same(c.Value, x.Value) {
					t.Fatalf("%v, seed %d: franz-go reads record %d as %+v", codec, seed, k, c)
				}
				greatest = max(greatest, v.Timestamp(x))
				i++
			}
			if i != len(got) || w.MaxTimestamp() != greatest {
				t.Fatalf("%v, seed %d: %d records, greatest timestamp %d, want %d, %d", codec, seed, len(got), w.MaxTimestamp(), i, greatest)
			}
		}
	}
}

// Timestamps as far from the horizon as can be come back all the same.
func TestThinOfExtremeTimestamps(t *testing.T) {
	for _, first := range []int64{0, -1, math.MinInt64 + 1, math.MaxInt64 - 1} {
		b := batch.NewBuilder(batch.PlainFields(first))
		b.Add(batch.Record{Key: []byte("k")})
		data, err := b.AppendTo(nil)
		if err != nil {
			t.Fatal(err)
		}
		out, err := batch.Thin(nil, data, func(int) bool { return true }, 1_700_000_000_000, nil)
		if err != nil {
			t.Fatal(err)
		}
		w := batch.View(out)
		if got := w.Timestamp(collect(t, w)[0]); got != first {
			t.Errorf("%d became %d", first, got)
		}
	}
}

func TestThinRefusesToKeepNothing(t *testing.T) {
	b := batch.NewBuilder(batch.PlainFields(1))
	b.Add(batch.Record{Key: []byte("k")})
	data, err := b.AppendTo(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := batch.Thin(nil, data, func(int) bool { return false }, batch.NoHorizon, nil); err == nil {
		t.Error("no error")
	}
}

func TestAppendHeaderReachesFurther(t *testing.T) {
	b := batch.NewBuilder(batch.PlainFields(5))
	for i := range int32(3) {
		b.Add(batch.Record{OffsetDelta: i, Key: []byte("k")})
	}
	data, err := b.AppendTo(nil)
	if err != nil {
		t.Fatal(err)
	}
	original := slices.Clone(data)
	for _, last := range []int32{2, 3, 1000, math.MaxInt32} {
		out := append(batch.AppendHeader([]byte("x"), data, 70, 3, last), batch.View(data).Payload()...)
		v := batch.View(out[1:])
		if err := v.VerifyCRC(); err != nil {
			t.Errorf("last offset delta %d: %v", last, err)
		}
		if v.BaseOffset() != 70 || v.LeaderEpoch() != 3 || v.LastOffsetDelta() != last || v.Count() != 3 || len(collect(t, v)) != 3 {
			t.Errorf("last offset delta %d: %+v", last, v.Fields())
		}
	}
	if !bytes.Equal(data, original) {
		t.Error("the batch itself was changed")
	}
}
