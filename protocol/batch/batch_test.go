package batch_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/floelog/floe/protocol/batch"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

var codecs = []batch.Codec{batch.None, batch.Gzip, batch.Snappy, batch.LZ4, batch.Zstd}

// compressor is franz-go's own for a codec, nil for none.
func compressor(t testing.TB, c batch.Codec) kgo.Compressor {
	t.Helper()
	k := map[batch.Codec]kgo.CompressionCodec{
		batch.None: kgo.NoCompression(), batch.Gzip: kgo.GzipCompression(), batch.Snappy: kgo.SnappyCompression(),
		batch.LZ4: kgo.Lz4Compression(), batch.Zstd: kgo.ZstdCompression(),
	}[c]
	comp, err := kgo.DefaultCompressor(k)
	if err != nil {
		t.Fatal(err)
	}
	return comp
}

// franz encodes records with franz-go's encoder and compressor.
func franz(t testing.TB, c batch.Codec, first int64, recs []batch.Record) []byte {
	t.Helper()
	var raw []byte
	maxTime := int64(-1)
	for _, r := range recs {
		k := kmsg.Record{TimestampDelta64: r.TimestampDelta, OffsetDelta: r.OffsetDelta, Key: r.Key, Value: r.Value}
		for h := range r.Headers.All() {
			k.Headers = append(k.Headers, kmsg.Header{Key: string(h.Key), Value: h.Value})
		}
		body := k.AppendTo(nil)
		_, n := binary.Varint(body) // kmsg leaves the length to its caller
		k.Length = int32(len(body) - n)
		raw = k.AppendTo(raw)
		maxTime = max(maxTime, first+r.TimestampDelta)
	}
	if comp := compressor(t, c); comp != nil {
		out, _ := comp.Compress(new(bytes.Buffer), raw)
		raw = bytes.Clone(out)
	}
	return seal(kmsg.RecordBatch{
		PartitionLeaderEpoch: -1, Magic: 2, Attributes: int16(c), LastOffsetDelta: int32(len(recs) - 1), FirstTimestamp: first,
		MaxTimestamp: maxTime, ProducerID: -1, ProducerEpoch: -1, FirstSequence: -1, NumRecords: int32(len(recs)), Records: raw,
	})
}

// seal fills length and CRC.
func seal(rb kmsg.RecordBatch) []byte {
	b := rb.AppendTo(nil)
	return resealed(b)
}

func resealed(b []byte) []byte {
	binary.BigEndian.PutUint32(b[8:], uint32(len(b)-12))
	binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], crc32.MakeTable(crc32.Castagnoli)))
	return b
}

func sample() []batch.Record {
	return []batch.Record{
		{OffsetDelta: 0, Key: []byte("k0"), Value: []byte("v0")},
		{OffsetDelta: 1, TimestampDelta: 5, Key: []byte("k1"), Value: nil},
		{OffsetDelta: 2, TimestampDelta: -3, Key: []byte{}, Value: []byte{}, Headers: batch.MakeHeaders(
			batch.Header{Key: []byte("h"), Value: []byte("x")}, batch.Header{Key: []byte("n")})},
		{OffsetDelta: 3, TimestampDelta: 1 << 40, Key: []byte("big"), Value: bytes.Repeat([]byte("0123456789"), 20_000)},
		{OffsetDelta: 4, TimestampDelta: 7, Key: []byte("last"), Value: []byte("end")},
	}
}

func many(n, size int) []batch.Record {
	rng := rand.New(rand.NewPCG(1, 2))
	out := make([]batch.Record, n)
	for i := range out {
		v := make([]byte, size)
		for j := range v {
			v[j] = "abcdefgh"[rng.IntN(8)]
		}
		out[i] = batch.Record{OffsetDelta: int32(i), TimestampDelta: int64(i), Key: fmt.Appendf(nil, "key-%d", i), Value: v}
	}
	return out
}

func rules() *batch.Rules {
	return &batch.Rules{ProduceVersion: 9, BeforeMaxMs: math.MaxInt64, AfterMaxMs: math.MaxInt64, NowMs: 1000}
}

func equalRecords(t *testing.T, v batch.View, want []batch.Record) {
	t.Helper()
	i := 0
	for r, err := range v.Records(nil) {
		if err != nil {
			t.Fatalf("record %d: %v", i, err)
		}
		w := want[i]
		if r.OffsetDelta != w.OffsetDelta || r.TimestampDelta != w.TimestampDelta || !same(r.Key, w.Key) || !same(r.Value, w.Value) {
			t.Fatalf("record %d: got %d %d %q, want %d %d %q", i, r.OffsetDelta, r.TimestampDelta, r.Key, w.OffsetDelta, w.TimestampDelta, w.Key)
		}
		if r.Headers.Len() != w.Headers.Len() {
			t.Fatalf("record %d: %d headers, want %d", i, r.Headers.Len(), w.Headers.Len())
		}
		var hs []batch.Header
		for h := range r.Headers.All() {
			hs = append(hs, h)
		}
		j := 0
		for h := range w.Headers.All() {
			if !same(h.Key, hs[j].Key) || !same(h.Value, hs[j].Value) {
				t.Fatalf("record %d header %d: %q=%q, want %q=%q", i, j, hs[j].Key, hs[j].Value, h.Key, h.Value)
			}
			j++
		}
		i++
	}
	if i != len(want) {
		t.Fatalf("%d records, want %d", i, len(want))
	}
}

func same(a, b []byte) bool { return bytes.Equal(a, b) && (a == nil) == (b == nil) }

func TestReadsWhatFranzGoWrites(t *testing.T) {
	for _, c := range codecs {
		for name, recs := range map[string][]batch.Record{"mixed": sample(), "one": sample()[:1], "many": many(3000, 100)} {
			t.Run(c.String()+"/"+name, func(t *testing.T) {
				b := franz(t, c, 100, recs)
				info, err := batch.Validate(b, rules())
				if err != nil {
					t.Fatal(err)
				}
				if want := info.Batch.MaxTimestamp(); info.MaxTimestamp != want {
					t.Errorf("max timestamp %d, want %d", info.MaxTimestamp, want)
				}
				v, rest, err := batch.Next(append(b, "tail"...))
				if err != nil || string(rest) != "tail" || len(v) != len(b) {
					t.Fatalf("Next: %d bytes, rest %q, %v", len(v), rest, err)
				}
				if v.Codec() != c || int(v.Count()) != len(recs) || v.CRC() != v.ComputeCRC() {
					t.Errorf("codec %v count %d", v.Codec(), v.Count())
				}
				equalRecords(t, v, recs)
			})
		}
	}
}

func TestFranzGoReadsWhatBuilderWrites(t *testing.T) {
	for _, c := range codecs {
		t.Run(c.String(), func(t *testing.T) {
			recs := append(sample(), many(500, 300)...)
			f := batch.PlainFields(100)
			f.BaseOffset = 40
			f.Attributes = f.Attributes.WithCodec(c)
			bld := batch.NewBuilder(f)
			for i := range recs {
				recs[i].OffsetDelta = int32(i)
				bld.Add(recs[i])
			}
			b, err := bld.AppendTo([]byte("prefix"))
			if err != nil {
				t.Fatal(err)
			}
			b = b[len("prefix"):]
			got := consume(t, b)
			if len(got) != len(recs) {
				t.Fatalf("franz-go reads %d records, want %d", len(got), len(recs))
			}
			for i, r := range got {
				if r.Offset != 40+int64(i) || r.Timestamp.UnixMilli() != 100+recs[i].TimestampDelta ||
					!same(r.Key, recs[i].Key) || !same(r.Value, recs[i].Value) || len(r.Headers) != recs[i].Headers.Len() {
					t.Fatalf("record %d reads as offset %d key %q", i, r.Offset, r.Key)
				}
			}
		})
	}
}

// consume parses stored batches as franz-go's consumer does.
func consume(t *testing.T, b []byte) []*kgo.Record {
	t.Helper()
	p := kmsg.NewFetchResponseTopicPartition()
	p.RecordBatches = b
	p.HighWatermark = math.MaxInt64
	fp, _ := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{Topic: "t", KeepControlRecords: true}, &p, kgo.DefaultDecompressor(), nil)
	if fp.Err != nil {
		t.Fatal(fp.Err)
	}
	return fp.Records
}

func TestLayoutGolden(t *testing.T) {
	f := batch.Fields{BaseOffset: 7, LeaderEpoch: 3, FirstTimestamp: 0x0102030405060708,
		ProducerID: 0x1112131415161718, ProducerEpoch: 0x2122, BaseSequence: 0x31323334, Attributes: batch.AttrTransactional}
	bld := batch.NewBuilder(f)
	bld.Add(batch.Record{OffsetDelta: 0, TimestampDelta: 1, Key: []byte("K"), Value: []byte("V"),
		Headers: batch.MakeHeaders(batch.Header{Key: []byte("h")})})
	b, err := bld.AppendTo(nil)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Join([]string{
		"0000000000000007", // base offset
		"0000003d",         // length 61 = 73 - 12
		"00000003",         // leader epoch
		"02",               // magic
		"7141724c",         // CRC-32C
		"0010",             // attributes: transactional
		"00000000",         // last offset delta
		"0102030405060708", // first timestamp
		"0102030405060709", // max timestamp
		"1112131415161718", // producer id
		"2122",             // producer epoch
		"31323334",         // base sequence
		"00000001",         // records
		"16",               // length 11
		"00",               // attributes
		"02",               // timestamp delta 1
		"00",               // offset delta 0
		"024b",             // key
		"0256",             // value
		"02",               // one header
		"0268", "01",       // its key, null value
	}, "")
	if got := hex.EncodeToString(b); got != want {
		t.Errorf("batch\n got %s\nwant %s", got, want)
	}
}

func TestPatchLeavesCRCValid(t *testing.T) {
	b := franz(t, batch.None, 5, sample())
	batch.Patch(b[:batch.PatchSize], 1<<40, 9)
	v := batch.View(b)
	if err := v.VerifyCRC(); err != nil {
		t.Error(err)
	}
	if v.BaseOffset() != 1<<40 || v.LeaderEpoch() != 9 || v.LastOffset() != 1<<40+4 {
		t.Errorf("base %d epoch %d last %d", v.BaseOffset(), v.LeaderEpoch(), v.LastOffset())
	}
}

func TestStamp(t *testing.T) {
	t.Run("log append time", func(t *testing.T) {
		b := franz(t, batch.LZ4, 5, sample())
		r := rules()
		r.LogAppendTime = true
		r.BeforeMaxMs, r.AfterMaxMs = 0, 0 // not asked for with LogAppendTime
		info, err := batch.Validate(b, r)
		if err != nil {
			t.Fatal(err)
		}
		info.Stamp(r)
		v := batch.View(b)
		if err := v.VerifyCRC(); err != nil {
			t.Error(err)
		}
		if v.TimestampType() != batch.LogAppendTime || v.MaxTimestamp() != 1000 || v.Timestamp(batch.Record{TimestampDelta: 9}) != 1000 {
			t.Errorf("type %d max %d", v.TimestampType(), v.MaxTimestamp())
		}
	})
	t.Run("a false header is corrected", func(t *testing.T) {
		b := franz(t, batch.None, 5, sample()[:2])
		batch.SetTimestamp(b, batch.LogAppendTime, 99)
		info, err := batch.Validate(b, rules())
		if err != nil {
			t.Fatal(err)
		}
		info.Stamp(rules())
		v := batch.View(b)
		if err := v.VerifyCRC(); err != nil {
			t.Error(err)
		}
		if v.TimestampType() != batch.CreateTime || v.MaxTimestamp() != 10 {
			t.Errorf("type %d max %d, want CreateTime and 10", v.TimestampType(), v.MaxTimestamp())
		}
	})
	t.Run("a true header is left alone", func(t *testing.T) {
		b := franz(t, batch.None, 5, sample())
		before := bytes.Clone(b)
		info, err := batch.Validate(b, rules())
		if err != nil {
			t.Fatal(err)
		}
		if info.Stamp(rules()); !bytes.Equal(b, before) {
			t.Error("bytes changed")
		}
	})
}

func TestRecompressKeepsEverythingElse(t *testing.T) {
	recs := append(sample(), many(200, 50)...)
	for i := range recs {
		recs[i].OffsetDelta = int32(i)
	}
	for _, from := range codecs {
		for _, to := range codecs {
			b := franz(t, from, 77, recs)
			binary.BigEndian.PutUint64(b[43:], 5) // producer id, epoch, sequence
			binary.BigEndian.PutUint16(b[51:], 6)
			binary.BigEndian.PutUint32(b[53:], 8)
			resealed(b)
			out, err := batch.Recompress(nil, b, to, math.MaxInt32, nil)
			if err != nil {
				t.Fatalf("%v to %v: %v", from, to, err)
			}
			want := batch.View(b).Fields()
			want.Attributes = want.Attributes.WithCodec(to)
			if got := batch.View(out).Fields(); got != want {
				t.Errorf("%v to %v: %+v, want %+v", from, to, got, want)
			}
			if _, err := batch.Validate(out, rules()); err != nil {
				t.Errorf("%v to %v: %v", from, to, err)
			}
			equalRecords(t, out, recs)
		}
	}
}

func TestRawAndFramedSnappy(t *testing.T) {
	recs := many(1000, 100)
	raw := franz(t, batch.Snappy, 1, recs) // franz-go writes raw blocks
	if bytes.HasPrefix(batch.View(raw).Payload(), []byte("\x82SNAPPY\x00")) {
		t.Fatal("the sample is not raw")
	}
	framed, err := batch.Recompress(nil, franz(t, batch.None, 1, recs), batch.Snappy, math.MaxInt32, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(batch.View(framed).Payload(), []byte("\x82SNAPPY\x00\x00\x00\x00\x01\x00\x00\x00\x01")) {
		t.Error("what is written is not framed")
	}
	equalRecords(t, raw, recs)
	equalRecords(t, framed, recs)
}

func TestMarker(t *testing.T) {
	for _, commit := range []bool{true, false} {
		b := batch.AppendMarker(nil, 12, 3, commit, 44, 5000)
		got, epoch, err := batch.ReadMarker(b)
		if err != nil || got != commit || epoch != 44 {
			t.Errorf("marker reads %v, %d, %v", got, epoch, err)
		}
		recs := consume(t, b)
		if len(recs) != 1 || !recs[0].Attrs.IsControl() || recs[0].ProducerID != 12 || recs[0].ProducerEpoch != 3 {
			t.Fatalf("franz-go reads %+v", recs)
		}
		var key kmsg.ControlRecordKey
		var end kmsg.EndTxnMarker
		if err := errors.Join(key.ReadFrom(recs[0].Key), end.ReadFrom(recs[0].Value)); err != nil {
			t.Fatal(err)
		}
		if (key.Type == kmsg.ControlRecordKeyTypeCommit) != commit || end.CoordinatorEpoch != 44 {
			t.Errorf("franz-go reads type %v epoch %d", key.Type, end.CoordinatorEpoch)
		}
	}
	if _, _, err := batch.ReadMarker(franz(t, batch.None, 0, sample())); !errors.Is(err, kerr.InvalidRecord) {
		t.Errorf("data as a marker: %v", err)
	}
}

func TestLastSequenceWraps(t *testing.T) {
	f := batch.PlainFields(0)
	f.ProducerID, f.ProducerEpoch, f.BaseSequence = 1, 0, math.MaxInt32-1
	b := batch.NewBuilder(f)
	for i := range 4 {
		b.Add(batch.Record{OffsetDelta: int32(i)})
	}
	out, err := b.AppendTo(nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := batch.View(out).LastSequence(); got != 1 {
		t.Errorf("last sequence %d, want 1", got)
	}
	if _, err := batch.Validate(out, rules()); err != nil {
		t.Errorf("a wrapping sequence is legal: %v", err)
	}
}

func TestEmptyBatchKeepsTheProducer(t *testing.T) {
	f := batch.PlainFields(9)
	f.ProducerID, f.ProducerEpoch, f.BaseSequence, f.LastOffsetDelta, f.MaxTimestamp = 1, 2, 3, 4, 55
	f.Attributes = f.Attributes.WithCodec(batch.Zstd)
	out, err := batch.NewBuilder(f).AppendTo(nil)
	if err != nil {
		t.Fatal(err)
	}
	v, _, err := batch.Next(out)
	if err != nil || v.Count() != 0 || v.LastSequence() != 7 || v.MaxTimestamp() != 55 || v.VerifyCRC() != nil {
		t.Errorf("count %d last sequence %d, %v", v.Count(), v.LastSequence(), err)
	}
	for range v.Records(nil) {
		t.Error("a record came out of an empty batch")
	}
}

// Codecs must work across synctest bubbles: whole agents are tested in them.
func TestCodecsInsideBubbles(t *testing.T) {
	recs := many(100, 100)
	for range 3 {
		synctest.Test(t, func(t *testing.T) {
			for _, c := range codecs {
				b := franz(t, batch.None, 1, recs)
				out, err := batch.Recompress(nil, b, c, math.MaxInt32, nil)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := batch.Validate(out, rules()); err != nil {
					t.Fatal(err)
				}
				equalRecords(t, out, recs)
			}
		})
	}
}

func TestParseCodec(t *testing.T) {
	for _, c := range codecs {
		if got, err := batch.ParseCodec(c.String()); got != c || err != nil {
			t.Errorf("%v parses as %v, %v", c, got, err)
		}
	}
	if got, err := batch.ParseCodec("uncompressed"); got != batch.None || err != nil {
		t.Errorf("uncompressed parses as %v, %v", got, err)
	}
	if _, err := batch.ParseCodec("lzma"); err == nil || batch.Codec(6).Known() {
		t.Error("an unknown codec was taken")
	}
}
