package batch_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/floelog/floe/protocol/batch"
)

// allocated returns how many bytes f allocates, all in all: more than it ever holds.
func allocated(f func()) int64 {
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return int64(after.TotalAlloc - before.TotalAlloc)
}

// bombs are small batches that inflate to 104 MiB, or to less where nobody counts what that
// allocates.
func bombs(t *testing.T, codec batch.Codec) map[string]batch.View {
	t.Helper()
	size := 104 << 20
	if raceDetector {
		size = 8 << 20
	}
	zeros := make([]byte, size) // but for as much as makes it no more hostile than may be sent
	r := rand.NewChaCha8([32]byte{})
	for at := 0; at < size; at += 1 << 20 {
		_, _ = r.Read(zeros[at : at+2<<10])
	}
	build := func(records ...batch.Record) batch.View {
		f := batch.PlainFields(1000)
		f.Attributes = f.Attributes.WithCodec(codec)
		b := batch.NewBuilder(f)
		for i, r := range records {
			r.OffsetDelta = int32(i)
			b.Add(r)
		}
		out, err := b.AppendTo(nil)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	small := batch.Record{Key: []byte("k"), Value: []byte("v"), TimestampDelta: 5}
	many := []batch.Record{small}
	for i := range 2000 {
		many = append(many, batch.Record{Key: fmt.Append(nil, i), Value: zeros[2<<10 : size/2000]})
	}
	some := zeros[:size/4]
	large := batch.Record{Key: some, Value: zeros[:size/2], Headers: batch.MakeHeaders(batch.Header{Key: []byte("h"), Value: some})}
	out := map[string]batch.View{"a large record": build(small, large, small)}
	if codec == batch.Zstd {
		out["many records"] = build(many...)
	}
	return out
}

// maxHeld is what Heads, Thin and Recompress may allocate beside their output, whatever a batch
// inflates to; of snappy in one block it is more.
const maxHeld = 24 << 20

func TestWhatInflatesToMuchIsNeverHeld(t *testing.T) {
	for _, codec := range codecs[1:] {
		for name, v := range bombs(t, codec) {
			t.Run(fmt.Sprint(codec, " ", name), func(t *testing.T) {
				most := func(what string, n int64, out batch.View) {
					t.Helper()
					if n > maxHeld+4*int64(len(out)) && !raceDetector {
						t.Errorf("%s of %d bytes allocates %d for %d", what, len(v), n, len(out))
					}
				}
				var heads []batch.Head
				most("reading heads", allocated(func() {
					heads = make([]batch.Head, 0, v.Count())
					for h, err := range v.Heads(true, nil) {
						if err != nil {
							t.Fatal(err)
						}
						heads = append(heads, h)
					}
				}), nil)
				var thin batch.View
				most("thinning", allocated(func() {
					var err error
					if thin, err = batch.Thin(nil, v, func(i int) bool { return i > 0 }, 2000, nil); err != nil {
						t.Fatal(err)
					}
				}), thin)
				to := batch.Gzip
				if codec == batch.Gzip {
					to = batch.Zstd
				}
				var again batch.View
				most("recompressing", allocated(func() {
					var err error
					if again, err = batch.Recompress(nil, v, to, 4<<20, nil); err != nil {
						t.Fatal(err)
					}
				}), again)
				_, err := batch.Recompress(nil, v, batch.None, 1<<20, nil)
				if bad := (*batch.Error)(nil); !errors.As(err, &bad) {
					t.Errorf("without compression it has a place in 1 MiB: %v", err)
				}
				sameRecords(t, again, v, 0, heads)
				sameRecords(t, thin, v, 1, heads)
			})
		}
	}
}

// sameRecords demands that got has the records of v from the given one on, and that heads are v's.
func sameRecords(t *testing.T, got, v batch.View, from int, heads []batch.Head) {
	t.Helper()
	if err := got.VerifyCRC(); err != nil {
		t.Fatal(err)
	}
	if int(got.Count()) != len(heads)-from {
		t.Fatalf("%d records, want %d", got.Count(), len(heads)-from)
	}
	i := from
	for h, err := range got.Heads(true, nil) {
		if err != nil {
			t.Fatal(err)
		}
		want := heads[i]
		if got.TimestampAt(h.TimestampDelta) != v.TimestampAt(want.TimestampDelta) || h.OffsetDelta != want.OffsetDelta || h.KeySum != want.KeySum || h.HasKey != want.HasKey || h.HasValue != want.HasValue {
			t.Errorf("record %d is %+v, was %+v", i, h, want)
		}
		i++
	}
	if v.Codec() != batch.LZ4 {
		return // what follows the heads has been through the same compressor as keys have
	}
	i = 0
	var sums [][2][sha256.Size]byte
	for r := range v.Records(nil) {
		sums = append(sums, [2][sha256.Size]byte{sha256.Sum256(r.Key), sha256.Sum256(r.Value)})
		if h := heads[i]; h.KeySum != sums[i][0] || h.HasKey != (r.Key != nil) || h.HasValue != (r.Value != nil) || h.OffsetDelta != r.OffsetDelta {
			t.Errorf("record %d has head %+v", i, h)
		}
		i++
	}
	i = from
	for r := range got.Records(nil) {
		if sha256.Sum256(r.Key) != sums[i][0] || sha256.Sum256(r.Value) != sums[i][1] {
			t.Errorf("record %d is not what it was", i)
		}
		i++
	}
	if i != len(sums) {
		t.Errorf("%d records, want %d", i, len(sums))
	}
}

// What only a compressor with a larger window made small is not made large.
func TestThinDoesNotMakeABatchLarge(t *testing.T) {
	r := rand.NewChaCha8([32]byte{1})
	block := make([]byte, 7<<20)
	_, _ = r.Read(block)
	f := batch.PlainFields(1000)
	f.Attributes = f.Attributes.WithCodec(batch.Zstd)
	b := batch.NewBuilder(f)
	for i := range int32(42) {
		at := int(i) % 7 << 20
		b.Add(batch.Record{OffsetDelta: i, Key: []byte{byte(i)}, Value: bytes.Clone(block[at : at+1<<20])})
	}
	v, err := b.AppendTo(nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(v) > 12<<20 {
		t.Fatalf("the batch takes %d bytes", len(v))
	}
	if out, err := batch.Thin(nil, v, func(i int) bool { return i > 0 }, batch.NoHorizon, nil); !errors.Is(err, batch.ErrGrown) {
		t.Errorf("%d bytes became %d, %v", len(v), len(out), err)
	}
}

// What a topic's compression.type has made smaller than a client may is read all the same.
func TestWhatIsStoredMayBeSmallerThanWhatIsSent(t *testing.T) {
	f := batch.PlainFields(1000)
	f.Attributes = f.Attributes.WithCodec(batch.LZ4)
	b := batch.NewBuilder(f)
	b.Add(batch.Record{Key: []byte("k"), Value: make([]byte, 40<<20)})
	sent, err := b.AppendTo(nil)
	if err != nil {
		t.Fatal(err)
	}
	rules := batch.Rules{ProduceVersion: 12, BeforeMaxMs: math.MaxInt64, AfterMaxMs: math.MaxInt64}
	if _, err := batch.Validate(sent, &rules); err != nil {
		t.Fatal(err)
	}
	stored, err := batch.Recompress(nil, sent, batch.Zstd, 1<<20, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := batch.Validate(stored, &rules); err == nil {
		t.Error("a client may send it")
	}
	n := 0
	for h, err := range batch.View(stored).Heads(true, nil) {
		if err != nil || h.OffsetDelta != 0 || !h.HasValue {
			t.Fatal(h, err)
		}
		n++
	}
	if n != 1 {
		t.Errorf("%d records", n)
	}
}
