package batch_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"testing"

	"github.com/floelog/floe/protocol/batch"
	"github.com/klauspost/compress/zstd"
	"github.com/twmb/franz-go/pkg/kerr"
)

func put16(pos int, x uint16) func([]byte) []byte {
	return func(b []byte) []byte { binary.BigEndian.PutUint16(b[pos:], x); return resealed(b) }
}

func put32(pos int, x uint32) func([]byte) []byte {
	return func(b []byte) []byte { binary.BigEndian.PutUint32(b[pos:], x); return resealed(b) }
}

func put64(pos int, x uint64) func([]byte) []byte {
	return func(b []byte) []byte { binary.BigEndian.PutUint64(b[pos:], x); return resealed(b) }
}

func TestValidateRefuses(t *testing.T) {
	type change = func([]byte) []byte
	attrs := func(a batch.Attributes) change { return put16(21, uint16(a)) }
	rows := []struct {
		name   string
		change change
		rules  func(*batch.Rules)
		want   *kerr.Error
		record int32
	}{
		{"empty", func([]byte) []byte { return nil }, nil, kerr.InvalidRecord, -1},
		{"cut off", func(b []byte) []byte { return b[:len(b)-1] }, nil, kerr.InvalidRecord, -1},
		{"cut off in the header", func(b []byte) []byte { return b[:30] }, nil, kerr.InvalidRecord, -1},
		{"two batches", func(b []byte) []byte { return append(b, b...) }, nil, kerr.InvalidRecord, -1},
		{"length negative", func(b []byte) []byte { binary.BigEndian.PutUint32(b[8:], 1<<31); return b }, nil, kerr.CorruptMessage, -1},
		{"length below the header", func(b []byte) []byte { binary.BigEndian.PutUint32(b[8:], 40); return b }, nil, kerr.CorruptMessage, -1},
		{"magic 1", func(b []byte) []byte { b[16] = 1; return b }, nil, kerr.InvalidRecord, -1},
		{"magic 3", func(b []byte) []byte { b[16] = 3; return b }, nil, kerr.CorruptMessage, -1},
		{"magic -1", func(b []byte) []byte { b[16] = 255; return b }, nil, kerr.CorruptMessage, -1},
		{"flipped bit", func(b []byte) []byte { b[len(b)-1] ^= 4; return b }, nil, kerr.CorruptMessage, -1},
		{"base offset", func(b []byte) []byte { b[7] = 1; return b }, nil, kerr.InvalidRecord, -1},
		{"codec 5", attrs(5), nil, kerr.UnsupportedCompressionType, -1},
		{"codec 7", attrs(7), nil, kerr.UnsupportedCompressionType, -1},
		{"zstd too early", attrs(4), func(r *batch.Rules) { r.ProduceVersion = 6 }, kerr.UnsupportedCompressionType, -1},
		{"plain bytes said to be zstd", attrs(4), nil, kerr.InvalidRecord, 0},
		{"plain bytes said to be gzip", attrs(1), nil, kerr.InvalidRecord, -1},
		{"control", attrs(batch.AttrControl), nil, kerr.InvalidRecord, -1},
		{"transactional without producer", attrs(batch.AttrTransactional), nil, kerr.InvalidRecord, -1},
		{"delete horizon", attrs(batch.AttrDeleteHorizon), nil, kerr.InvalidRecord, -1},
		{"count 0", put32(57, 0), nil, kerr.InvalidRecord, -1},
		{"count negative", put32(57, 1<<31), nil, kerr.InvalidRecord, -1},
		{"count over delta", put32(57, 6), nil, kerr.InvalidRecord, -1},
		{"delta negative", put32(23, 1<<31), nil, kerr.InvalidRecord, -1},
		{"delta over count", put32(23, 5), nil, kerr.InvalidRecord, -1},
		{"producer without sequence", put64(43, 7), nil, kerr.InvalidRecord, -1},
		{"producer id -2", put64(43, ^uint64(1)), nil, kerr.InvalidRecord, -1},
		{"trailing bytes", func(b []byte) []byte { return resealed(append(b, 0)) }, nil, kerr.InvalidRecord, -1},
		{"last record cut", func(b []byte) []byte { return resealed(b[:len(b)-1]) }, nil, kerr.InvalidRecord, 4},
		{"first record's length", func(b []byte) []byte { b[61] += 2; return resealed(b) }, nil, kerr.InvalidRecord, 0},
		{"first record's length negative", func(b []byte) []byte { b[61] = 1; return resealed(b) }, nil, kerr.InvalidRecord, 0},
		{"first record's offset", func(b []byte) []byte { b[64] = 2; return resealed(b) }, nil, kerr.InvalidRecord, 0},
		{"key length -2", func(b []byte) []byte { b[65] = 3; return resealed(b) }, nil, kerr.InvalidRecord, 0},
		{"larger than max.message.bytes", nil, func(r *batch.Rules) { r.MaxMessageBytes = 100 }, kerr.MessageTooLarge, -1},
		{"larger than segment.bytes", nil, func(r *batch.Rules) { r.MaxSegmentBytes = 100 }, kerr.RecordListTooLarge, -1},
		{"too old", nil, func(r *batch.Rules) { r.BeforeMaxMs = 898 }, kerr.InvalidTimestamp, 0},
		{"too new", nil, func(r *batch.Rules) { r.AfterMaxMs = 1 << 30 }, kerr.InvalidTimestamp, 3},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			b := franz(t, batch.None, 100, sample())
			if row.change != nil {
				b = row.change(b)
			}
			r := rules()
			if row.rules != nil {
				row.rules(r)
			}
			refused(t, b, r, row.want, row.record)
		})
	}
}

func refused(t *testing.T, b []byte, r *batch.Rules, want *kerr.Error, record int32) {
	t.Helper()
	_, err := batch.Validate(b, r)
	if !errors.Is(err, want) {
		t.Fatalf("got %v, want %s", err, want.Message)
	}
	var e *batch.Error
	if !errors.As(err, &e) || e.Record != record {
		t.Errorf("record %d is blamed, want %d: %v", e.Record, record, err)
	}
}

func TestValidateRecordRulesInEveryCodec(t *testing.T) {
	large := bytes.Repeat([]byte("large"), 50_000)
	for _, c := range codecs {
		t.Run(c.String(), func(t *testing.T) {
			compacted := rules()
			compacted.Compacted = true
			recs := []batch.Record{{Key: []byte("k"), Value: large}, {OffsetDelta: 1, Value: large}}
			refused(t, franz(t, c, 1, recs), compacted, kerr.InvalidRecord, 1)

			recs[1].Key = []byte{}
			if _, err := batch.Validate(franz(t, c, 1, recs), compacted); err != nil {
				t.Errorf("an empty key is a key: %v", err)
			}
			recs[1].OffsetDelta = 3
			refused(t, franz(t, c, 1, recs), rules(), kerr.InvalidRecord, 1)

			late := rules()
			late.AfterMaxMs = 10
			recs[1].OffsetDelta, recs[1].TimestampDelta = 1, 5000
			refused(t, franz(t, c, 1, recs), late, kerr.InvalidTimestamp, 1)

			recs[0].TimestampDelta, recs[1].TimestampDelta = 0, 0
			none := franz(t, c, -1, recs)
			strict := rules()
			strict.BeforeMaxMs, strict.AfterMaxMs = 0, 0
			if _, err := batch.Validate(none, strict); err != nil {
				t.Errorf("records without a timestamp have no limits: %v", err)
			}
		})
	}
}

func TestValidateLimitsDecompression(t *testing.T) {
	zeros := []batch.Record{{Value: make([]byte, 3<<20)}, {OffsetDelta: 1, Value: make([]byte, 3<<20)}}
	for _, c := range codecs[1:] {
		t.Run(c.String(), func(t *testing.T) {
			b := franz(t, c, 1, zeros)
			r := rules()
			r.Allowance = batch.NewAllowance(batch.Limits{Bytes: 64 << 20, Records: 100, Ratio: 1 << 20})
			info, err := batch.Validate(b, r)
			if err != nil {
				t.Fatal(err)
			}
			if info.Inflated < 6<<20 {
				t.Errorf("%d bytes counted", info.Inflated)
			}
			for name, l := range map[string]batch.Limits{
				"bytes": {Bytes: 5 << 20, Records: 100, Ratio: 1 << 20}, "ratio": {Bytes: 64 << 20, Records: 100, Ratio: 2},
				"records": {Bytes: 64 << 20, Records: 1, Ratio: 1 << 20},
			} {
				r.Allowance = batch.NewAllowance(l)
				if _, err := batch.Validate(b, r); !errors.Is(err, kerr.MessageTooLarge) {
					t.Errorf("limit of %s: %v", name, err)
				}
				for _, err := range batch.View(b).Records(batch.NewAllowance(l)) {
					if err != nil && !errors.Is(err, kerr.MessageTooLarge) {
						t.Errorf("limit of %s when reading: %v", name, err)
					}
				}
			}
		})
	}
	t.Run("one allowance for the whole request", func(t *testing.T) {
		b := franz(t, batch.Gzip, 1, zeros)
		r := rules()
		r.Allowance = batch.NewAllowance(batch.Limits{Bytes: 10 << 20, Records: 100, Ratio: 1 << 20})
		if _, err := batch.Validate(b, r); err != nil {
			t.Fatal(err)
		}
		if _, err := batch.Validate(b, r); !errors.Is(err, kerr.MessageTooLarge) {
			t.Errorf("the second batch: %v", err)
		}
	})
}

func TestValidateRefusesHugeZstdWindow(t *testing.T) {
	var out bytes.Buffer
	w, err := zstd.NewWriter(&out, zstd.WithWindowSize(64<<20), zstd.WithSingleSegment(false))
	if err != nil {
		t.Fatal(err)
	}
	plain := franz(t, batch.None, 1, []batch.Record{{Value: make([]byte, 1<<20)}})
	if _, err := w.Write(plain[batch.HeaderSize:]); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	b := append(bytes.Clone(plain[:batch.HeaderSize]), out.Bytes()...)
	b = put16(21, uint16(batch.Zstd))(b)
	if _, err := batch.Validate(b, rules()); !errors.Is(err, kerr.InvalidRecord) {
		t.Errorf("a window of 64 MiB: %v", err)
	}
}

func TestRawSnappyThatLiesAboutItsSize(t *testing.T) {
	b := franz(t, batch.Snappy, 1, sample()[:1])
	lie := append(bytes.Clone(b[:batch.HeaderSize]), binary.AppendUvarint(nil, 400<<20)...)
	lie = resealed(append(lie, 0, 0))
	if _, err := batch.Validate(lie, rules()); err == nil {
		t.Error("400 MiB from two bytes were believed")
	}
}

func TestTimestampLimitsDoNotOverflow(t *testing.T) {
	b := franz(t, batch.None, math.MaxInt64-10, sample()[:1])
	r := rules()
	r.NowMs = math.MaxInt64 - 5
	if _, err := batch.Validate(b, r); err != nil {
		t.Error(err)
	}
	r.NowMs = 0
	r.AfterMaxMs = 5
	refused(t, b, r, kerr.InvalidTimestamp, 0)
}

func FuzzNext(f *testing.F) {
	for _, c := range codecs {
		f.Add(franz(f, c, 1, sample()[:3]))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for len(b) > 0 {
			v, rest, err := batch.Next(b)
			if err != nil {
				var e *batch.Error
				if !errors.As(err, &e) || e.Kind == nil {
					t.Fatalf("error without a kind: %v", err)
				}
				return
			}
			if len(v) < batch.HeaderSize || len(v)+len(rest) != len(b) {
				t.Fatalf("%d + %d bytes of %d", len(v), len(rest), len(b))
			}
			b = rest
		}
	})
}

// FuzzValidate also holds Records and the validator against each other: what is accepted
// must be readable, record by record, with the offsets and the times that were promised.
func FuzzValidate(f *testing.F) {
	for _, c := range codecs {
		f.Add(franz(f, c, 1, sample()[:3]))
		f.Add(franz(f, c, 1, many(20, 10)))
	}
	limits := batch.Limits{Bytes: 8 << 20, Records: 1 << 16, Ratio: 1000}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= batch.HeaderSize {
			b = resealed(bytes.Clone(b))
		}
		r := rules()
		r.Allowance = batch.NewAllowance(limits)
		info, err := batch.Validate(b, r)
		if err != nil {
			var e *batch.Error
			if !errors.As(err, &e) || e.Kind == nil {
				t.Fatalf("error without a kind: %v", err)
			}
			return
		}
		var n int32
		maxTime := int64(-1)
		for rec, err := range info.Batch.Records(batch.NewAllowance(limits)) {
			if err != nil {
				t.Fatalf("accepted, but record %d does not read: %v", n, err)
			}
			if rec.OffsetDelta != n {
				t.Fatalf("record %d has offset delta %d", n, rec.OffsetDelta)
			}
			headers := 0
			for range rec.Headers.All() {
				headers++
			}
			if headers != rec.Headers.Len() {
				t.Fatalf("%d headers of %d read", headers, rec.Headers.Len())
			}
			maxTime = max(maxTime, info.Batch.FirstTimestamp()+rec.TimestampDelta)
			n++
		}
		if n != info.Batch.Count() || maxTime != info.MaxTimestamp {
			t.Fatalf("%d records up to %d, promised %d up to %d", n, maxTime, info.Batch.Count(), info.MaxTimestamp)
		}
	})
}

// FuzzRecords reads batches that nobody validated.
func FuzzRecords(f *testing.F) {
	for _, c := range codecs {
		f.Add(franz(f, c, 1, sample()[:3]))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v, _, err := batch.Next(b)
		if err != nil {
			return
		}
		var bytes int
		for r, err := range v.Records(batch.NewAllowance(batch.Limits{Bytes: 1 << 20, Records: 1 << 16, Ratio: 1000})) {
			if err != nil {
				break
			}
			bytes += len(r.Key) + len(r.Value)
		}
		if v.Codec() != batch.None && bytes > 1<<20 {
			t.Fatalf("%d bytes came out of an allowance of 1 MiB", bytes)
		}
	})
}

func benchmarkValidate(b *testing.B, c batch.Codec, records, size int) {
	recs := many(records, size)
	data := franz(b, c, 1, recs)
	r := rules()
	r.AfterMaxMs = 1 << 40
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := batch.Validate(data, r); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(records)*float64(b.N)/b.Elapsed().Seconds()/1e6, "Mrecords/s")
}

func BenchmarkValidate(b *testing.B) {
	b.Run("none-1KiB", func(b *testing.B) { benchmarkValidate(b, batch.None, 1000, 1024) })
	b.Run("none-100B", func(b *testing.B) { benchmarkValidate(b, batch.None, 10_000, 85) })
	for _, c := range codecs[1:] {
		b.Run(c.String()+"-100B", func(b *testing.B) { benchmarkValidate(b, c, 10_000, 85) })
	}
}

func BenchmarkPatch(b *testing.B) {
	data := franz(b, batch.None, 1, sample())
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		batch.Patch(data, int64(i), 3)
	}
}

func BenchmarkRecords(b *testing.B) {
	data := franz(b, batch.None, 1, many(10_000, 85))
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		for _, err := range batch.View(data).Records(nil) {
			if err != nil {
				b.Fatal(err)
			}
		}
	}
}
