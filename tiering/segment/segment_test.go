package segment_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
	"github.com/floelog/floe/tiering/segment"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// batch returns a record batch v2 with the given payload in place of records.
func batch(records int32, firstTime, maxTime int64, payload []byte) []byte {
	be := binary.BigEndian
	b := make([]byte, 61, 61+len(payload))
	b = append(b, payload...)
	be.PutUint32(b[8:], uint32(len(b)-12))
	b[16] = 2
	be.PutUint32(b[23:], uint32(records-1))
	be.PutUint64(b[27:], uint64(firstTime))
	be.PutUint64(b[35:], uint64(maxTime))
	be.PutUint64(b[43:], ^uint64(0))
	be.PutUint16(b[51:], ^uint16(0))
	be.PutUint32(b[53:], ^uint32(0))
	be.PutUint32(b[57:], uint32(records))
	return seal(b)
}

func seal(b []byte) []byte {
	binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], castagnoli))
	return b
}

func partition(topic byte, p int32) tiering.TopicPartition {
	return tiering.TopicPartition{Topic: tiering.TopicID{topic}, Partition: p}
}

func header() segment.Header {
	h := segment.Header{Level: 1, CreatedAt: 1_700_000_000_000}
	for i := range h.Cluster {
		h.Cluster[i] = byte(0xc0 + i)
		h.ID.Session[i] = byte(0x50 + i)
	}
	h.ID.Seq = 7
	h.Carry = []segment.JournalRecord{
		{Shard: 3, Seq: 41, Bytes: []byte("first record")},
		{Shard: 9, Seq: 1 << 40, Bytes: []byte{}},
	}
	return h
}

func chunks() []segment.Chunk {
	return []segment.Chunk{
		{Shard: 2, TopicPartition: partition(1, 0), Base: 500, Slices: [][]byte{
			batch(3, 1000, 1500, []byte("three records of shard two")),
		}},
		{Shard: 0, TopicPartition: partition(2, 5), Base: 0, Slices: [][]byte{
			batch(1, 2000, 2000, []byte("one")),
			batch(2, 900, 3000, []byte("two more")),
		}},
		{Shard: 0, TopicPartition: partition(2, 4), Base: 77, Slices: [][]byte{
			batch(1, 10, 10, nil),
		}},
	}
}

func build(t testing.TB, h segment.Header, cs []segment.Chunk) *segment.Built {
	t.Helper()
	built, err := segment.Build(h, cs)
	if err != nil {
		t.Fatal(err)
	}
	return built
}

// reader reads from object and counts the reads.
func reader(object []byte, reads *int) segment.ReadFunc {
	return func(off tiering.Position, n int64) ([]byte, error) {
		if reads != nil {
			*reads++
		}
		if off < 0 || n < 0 || int64(off)+n > int64(len(object)) {
			return nil, fmt.Errorf("read of %d bytes at %d, beyond the %d there are", n, off, len(object))
		}
		return object[off : int64(off)+n : int64(off)+n], nil
	}
}

func TestBuildAndOpen(t *testing.T) {
	h, cs := header(), chunks()
	built := build(t, h, cs)
	object := built.Body.Bytes()
	if built.Size != int64(len(object)) || built.CRC32C != crc32.Checksum(object, castagnoli) {
		t.Fatalf("size %d and CRC %08x, the body has %d and %08x", built.Size, built.CRC32C, len(object), crc32.Checksum(object, castagnoli))
	}
	reads := 0
	seg, err := segment.Open(built.Size, reader(object, &reads))
	if err != nil {
		t.Fatal(err)
	}
	if reads != 1 {
		t.Errorf("%d reads to open a small segment, want 1", reads)
	}
	if !reflect.DeepEqual(seg.Entries, built.Entries) {
		t.Errorf("read entries\n%+v\nbuilt\n%+v", seg.Entries, built.Entries)
	}
	got, err := seg.ReadHeader(reader(object, nil))
	if err != nil {
		t.Fatal(err)
	}
	h.Version = segment.Version
	if !reflect.DeepEqual(got, h) {
		t.Errorf("read header\n%+v\nwant\n%+v", got, h)
	}
	if !slices.IsSortedFunc(cs, func(a, b segment.Chunk) int {
		if a.Shard != b.Shard {
			return int(a.Shard) - int(b.Shard)
		}
		return a.TopicPartition.Compare(b.TopicPartition)
	}) {
		t.Error("chunks were not sorted in place")
	}
	for i, e := range seg.Entries {
		want := objstore.Body(cs[i].Slices).Bytes()
		b, err := seg.ReadChunk(e, reader(object, nil))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b, want) || e.CRC != crc32.Checksum(want, castagnoli) || e.Base != cs[i].Base {
			t.Errorf("chunk %d: %d bytes %+v", i, len(b), e)
		}
	}
	e := seg.Entries[1]
	if e.Batches != 2 || e.Records != 3 || e.MinTimestamp != 900 || e.MaxTimestamp != 3000 {
		t.Errorf("entry of two batches: %+v", e)
	}
}

func TestBuildKeepsTheCallersSlices(t *testing.T) {
	cs := chunks()
	built := build(t, header(), cs)
	i := 1
	for _, c := range cs {
		for _, s := range c.Slices {
			if &built.Body[i][0] != &s[0] {
				t.Errorf("slice %d was copied", i)
			}
			i++
		}
	}
}

func TestLevel0HasNoOffsets(t *testing.T) {
	h := header()
	h.Level = 0
	for _, e := range build(t, h, chunks()).Entries {
		if e.Base != segment.Unassigned {
			t.Errorf("base %d", e.Base)
		}
	}
}

func TestLogAppendTimeIsTheBatchsTime(t *testing.T) {
	b := batch(2, 5, 900, nil)
	b[22] |= 1 << 3
	e := build(t, header(), []segment.Chunk{{Slices: [][]byte{seal(b)}}}).Entries[0]
	if e.MinTimestamp != 900 || e.MaxTimestamp != 900 {
		t.Errorf("time %d to %d, want 900", e.MinTimestamp, e.MaxTimestamp)
	}
}

func TestSegmentWithoutChunksCarries(t *testing.T) {
	built := build(t, header(), nil)
	object := built.Body.Bytes()
	seg, err := segment.Open(built.Size, reader(object, nil))
	if err != nil || len(seg.Entries) != 0 {
		t.Fatalf("%v, %d entries", err, len(seg.Entries))
	}
	h, err := seg.ReadHeader(reader(object, nil))
	if err != nil || len(h.Carry) != 2 || string(h.Carry[0].Bytes) != "first record" {
		t.Fatalf("%v, carry %+v", err, h.Carry)
	}
}

func TestLargeHeaderAndIndexTakeASecondRead(t *testing.T) {
	h := header()
	h.Carry = append(h.Carry, segment.JournalRecord{Shard: 1, Seq: 2, Bytes: make([]byte, 100<<10)})
	var cs []segment.Chunk
	for p := range int32(2000) {
		cs = append(cs, segment.Chunk{TopicPartition: partition(1, p), Slices: [][]byte{batch(1, 1, 1, nil)}})
	}
	built := build(t, h, cs)
	object := built.Body.Bytes()
	reads := 0
	seg, err := segment.Open(built.Size, reader(object, &reads))
	if err != nil || reads != 2 || len(seg.Entries) != 2000 {
		t.Fatalf("%v after %d reads", err, reads)
	}
	reads = 0
	got, err := seg.ReadHeader(reader(object, &reads))
	if err != nil || reads != 2 || len(got.Carry) != 3 || len(got.Carry[2].Bytes) != 100<<10 {
		t.Fatalf("%v after %d reads", err, reads)
	}
}

func TestBatchesMayLieAcrossSlices(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var all []byte
	for i := range 20 {
		all = append(all, batch(int32(i+1), int64(i), int64(i), make([]byte, rng.IntN(300)))...)
	}
	whole := build(t, header(), []segment.Chunk{{Slices: [][]byte{all}}})
	for range 200 {
		var cut [][]byte
		for rest := all; len(rest) > 0; {
			n := min(rng.IntN(90), len(rest))
			cut = append(cut, rest[:n])
			rest = rest[n:]
		}
		if err := segment.VerifyBatches(cut); err != nil {
			t.Fatal(err)
		}
		pieces := build(t, header(), []segment.Chunk{{Slices: cut}})
		if pieces.Entries[0] != whole.Entries[0] || pieces.CRC32C != whole.CRC32C {
			t.Fatalf("cut: %+v\nwhole: %+v", pieces.Entries[0], whole.Entries[0])
		}
		if err := segment.VerifyChunk(whole.Entries[0], cut); err != nil {
			t.Fatal(err)
		}
	}
}

// The sum of a chunk longer than any single digit of the length's powers.
func TestChecksumOfLongChunks(t *testing.T) {
	for _, n := range []int{0, 1, 194, 195, 255, 256, 65474, 65475, 65536, 1<<24 - 40, 1 << 24} {
		b := batch(1, 1, 1, bytes.Repeat([]byte{0xa5}, n))
		e := build(t, header(), []segment.Chunk{{Slices: [][]byte{b, b}}}).Entries[0]
		if want := crc32.Update(crc32.Checksum(b, castagnoli), castagnoli, b); e.CRC != want {
			t.Errorf("%d bytes of payload: CRC %08x, want %08x", n, e.CRC, want)
		}
	}
}

func TestBuildRefuses(t *testing.T) {
	good := batch(1, 1, 1, []byte("x"))
	edit := func(f func(b []byte)) [][]byte {
		b := bytes.Clone(good)
		f(b)
		return [][]byte{b}
	}
	for _, tc := range []struct {
		name   string
		header func(*segment.Header)
		chunks []segment.Chunk
		want   string
	}{
		{name: "an empty chunk", chunks: []segment.Chunk{{}}, want: "is empty"},
		{name: "two chunks of a partition", chunks: []segment.Chunk{{Slices: [][]byte{good}}, {Slices: [][]byte{good}}}, want: "two chunks"},
		{name: "half a batch", chunks: []segment.Chunk{{Slices: [][]byte{good[:61]}}}, want: "length 62"},
		{name: "a part of a header", chunks: []segment.Chunk{{Slices: [][]byte{good, good[:60]}}}, want: "batch at 62: cut off after 60"},
		{name: "magic 1", chunks: []segment.Chunk{{Slices: edit(func(b []byte) { b[16] = 1 })}}, want: "magic 1"},
		{name: "negative length", chunks: []segment.Chunk{{Slices: edit(func(b []byte) { b[8] = 0xff })}}, want: "length -"},
		{name: "negative records", chunks: []segment.Chunk{{Slices: edit(func(b []byte) { b[57] = 0xff })}}, want: "records"},
		{name: "negative delta", chunks: []segment.Chunk{{Slices: edit(func(b []byte) { b[23] = 0xff })}}, want: "last offset delta"},
		{name: "negative partition", chunks: []segment.Chunk{{TopicPartition: partition(1, -1), Slices: [][]byte{good}}}, want: "is negative"},
		{name: "negative base", chunks: []segment.Chunk{{Base: -2, Slices: [][]byte{good}}}, want: "base offset -2"},
		{name: "too many chunks", chunks: make([]segment.Chunk, segment.MaxChunks+1), want: "at most"},
		{name: "too much carried", header: func(h *segment.Header) {
			for range 20 {
				h.Carry = append(h.Carry, segment.JournalRecord{Bytes: make([]byte, 1<<20)})
			}
		}, want: "carried"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := header()
			if tc.header != nil {
				tc.header(&h)
			}
			_, err := segment.Build(h, tc.chunks)
			if !errors.Is(err, segment.ErrInvalid) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want ErrInvalid with %q", err, tc.want)
			}
		})
	}
}

// readAll does what an auditor does: everything is read and compared.
func readAll(object []byte) error {
	read := reader(object, nil)
	seg, err := segment.Open(int64(len(object)), read)
	if err != nil {
		return err
	}
	if _, err := seg.ReadHeader(read); err != nil {
		return err
	}
	for _, e := range seg.Entries {
		if _, err := seg.ReadChunk(e, read); err != nil {
			return err
		}
	}
	return nil
}

func TestEveryFlipAndEveryCutIsFound(t *testing.T) {
	object := build(t, header(), chunks()).Body.Bytes()
	if err := readAll(object); err != nil {
		t.Fatal(err)
	}
	for i := range object {
		for bit := range 8 {
			damaged := bytes.Clone(object)
			damaged[i] ^= 1 << bit
			err := readAll(damaged)
			if !errors.Is(err, segment.ErrCorrupt) && !errors.Is(err, segment.ErrVersion) {
				t.Fatalf("bit %d of byte %d flipped: %v", bit, i, err)
			}
		}
		if err := readAll(object[:i]); !errors.Is(err, segment.ErrCorrupt) {
			t.Fatalf("cut off at %d: %v", i, err)
		}
	}
	if err := readAll(append(bytes.Clone(object), 0)); !errors.Is(err, objstore.ErrCorrupt) {
		t.Fatalf("a byte too many: %v", err)
	}
}

func TestUnknownVersionIsNotCorruption(t *testing.T) {
	object := build(t, header(), chunks()).Body.Bytes()
	footer := object[len(object)-segment.FooterBytes:]
	binary.BigEndian.PutUint16(footer[24:], segment.Version+1)
	binary.BigEndian.PutUint32(footer[36:], crc32.Checksum(footer[:36], castagnoli))
	_, err := segment.Open(int64(len(object)), reader(object, nil))
	if !errors.Is(err, segment.ErrVersion) || errors.Is(err, segment.ErrCorrupt) {
		t.Errorf("footer: %v", err)
	}
	binary.BigEndian.PutUint16(object[8:], segment.Version+1)
	_, err = segment.ParseHeader(object)
	if !errors.Is(err, segment.ErrVersion) || errors.Is(err, segment.ErrCorrupt) {
		t.Errorf("header: %v", err)
	}
}

func TestReadErrorsPassThrough(t *testing.T) {
	_, err := segment.Open(1000, func(tiering.Position, int64) ([]byte, error) { return nil, objstore.ErrNotFound })
	if !errors.Is(err, objstore.ErrNotFound) {
		t.Errorf("error %v", err)
	}
	_, err = segment.Open(1000, func(tiering.Position, int64) ([]byte, error) { return make([]byte, 3), nil })
	if !errors.Is(err, segment.ErrCorrupt) {
		t.Errorf("short read: error %v", err)
	}
}

func TestVerifyBatchesFindsEveryFlipThatItMust(t *testing.T) {
	b := batch(2, 1, 2, []byte("payload"))
	for i := range b {
		damaged := bytes.Clone(b)
		damaged[i] ^= 0x10
		err := segment.VerifyBatches([][]byte{damaged[:30], damaged[30:]})
		setByReader := i < 8 || i >= 12 && i < 16
		if (err == nil) != setByReader || err != nil && !errors.Is(err, segment.ErrCorrupt) {
			t.Errorf("byte %d flipped: %v", i, err)
		}
	}
}

func TestDump(t *testing.T) {
	object := build(t, header(), chunks()).Body.Bytes()
	var out strings.Builder
	if err := segment.Dump(&out, int64(len(object)), reader(object, nil), true); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"segment of 677 bytes, version 1: header 116, chunks 281 bytes in 3, index 240 at 397",
		"level 1  created 2023-11-14T22:13:20.000Z",
		"carries journal record: shard 3 seq 41, 12 bytes",
		"chunk 1: shard 0  AgAAAAAAAAAAAAAAAAAAAA-5",
		"batches 2  records 3  time 1970-01-01T00:00:00.900Z .. 1970-01-01T00:00:03.000Z",
		"attributes none  producer -1 epoch -1 sequence -1",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	at := bytes.Index(object, []byte("two more"))
	object[at] ^= 1
	out.Reset()
	err := segment.Dump(&out, int64(len(object)), reader(object, nil), true)
	if !errors.Is(err, segment.ErrCorrupt) || !strings.Contains(out.String(), "!! segment: object corrupt: batch at") {
		t.Errorf("damage: %v\n%s", err, out.String())
	}
	if !strings.Contains(out.String(), "chunk 2: ") {
		t.Errorf("the dump ended at the damage:\n%s", out.String())
	}
}
