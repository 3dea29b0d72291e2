package manifest_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/manifest"
	"github.com/floelog/floe/tiering/objstore"
)

var (
	sessionA = tiering.SessionID{0xa}
	sessionB = tiering.SessionID{0xb}
)

// sample has everything: sessions that come back, a segment that goes on, holes, epochs and
// timestamps that go back, and numbers at their limits.
func sample() manifest.Manifest {
	at := func(session tiering.SessionID, seq uint64) tiering.SegmentID {
		return tiering.SegmentID{Session: session, Seq: seq}
	}
	return manifest.Manifest{
		Cluster:   [16]byte{0xc, 15: 1},
		ID:        at(sessionA, 300),
		Partition: tiering.TopicPartition{Topic: tiering.TopicID{7}, Partition: 3},
		Extents: []tiering.Extent{
			{Base: 1000, Count: 5, MaxTimestamp: tiering.NoTimestamp, Epoch: 2},
			{Base: 1005, Count: 300, MaxTimestamp: 1700000000000, Epoch: 2, Length: 4096, Segment: at(sessionA, 9), Position: 128},
			{Base: 1305, Count: 1, MaxTimestamp: 1700000000001, Epoch: 3, Length: 100, Segment: at(sessionA, 9), Position: 4224},
			{Base: 1306, Count: 10, MaxTimestamp: 1600000000000, Epoch: 3, Length: math.MaxInt32, Segment: at(sessionB, math.MaxUint64), Position: 64},
			{Base: 1316, Count: 1 << 40, MaxTimestamp: tiering.NoTimestamp, Epoch: math.MaxInt32},
			{Base: 1316 + 1<<40, Count: 1, MaxTimestamp: math.MinInt64, Epoch: 0, Length: 1, Segment: at(sessionA, 0), Position: math.MaxInt64 - 1},
		},
		Aborted: []manifest.Aborted{
			{ProducerID: 1000, First: 10, Last: 1000},
			{ProducerID: 7, First: 1100, Last: 1310},
			{ProducerID: math.MaxInt64, First: 1305, Last: math.MaxInt64},
		},
	}
}

func encode(t testing.TB, m manifest.Manifest) []byte {
	t.Helper()
	b, err := manifest.Encode(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func golden(t testing.TB) (out []byte) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "manifest.v1.hex"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		data, _, _ := strings.Cut(line, "#")
		b, err := hex.DecodeString(strings.TrimSpace(data))
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		out = append(out, b...)
	}
	return out
}

func TestFormat(t *testing.T) {
	want := golden(t)
	if got := encode(t, sample()); !bytes.Equal(got, want) {
		t.Errorf("the format has changed, it needs a new version and a file beside this one\ngot  %x\nwant %x", got, want)
	}
	if got, err := manifest.Decode(want); err != nil || !reflect.DeepEqual(got, sample()) {
		t.Errorf("read as %+v, %v, want %+v", got, err, sample())
	}
}

func TestDamagedBytesAreRefused(t *testing.T) {
	good := golden(t)
	for n := range good {
		if _, err := manifest.Decode(good[:n]); !errors.Is(err, manifest.ErrCorrupt) || !errors.Is(err, objstore.ErrCorrupt) {
			t.Fatalf("cut to %d bytes of %d: got %v", n, len(good), err)
		}
	}
	for i := range good {
		b := bytes.Clone(good)
		b[i] ^= 0x10
		if _, err := manifest.Decode(b); !errors.Is(err, manifest.ErrCorrupt) {
			t.Fatalf("a flipped bit in byte %d: got %v", i, err)
		}
	}
	if _, err := manifest.Decode(append(bytes.Clone(good), 0)); !errors.Is(err, manifest.ErrCorrupt) {
		t.Errorf("a byte too many: got %v", err)
	}
	if _, err := manifest.Decode(make([]byte, manifest.MaxBytes+1)); !errors.Is(err, manifest.ErrCorrupt) {
		t.Errorf("too large: got %v", err)
	}
	for version, want := range map[byte]error{0: manifest.ErrCorrupt, 2: manifest.ErrVersion} {
		b := bytes.Clone(good)
		b[8] = version
		if _, err := manifest.Decode(summed(b[:len(b)-4])); !errors.Is(err, want) {
			t.Errorf("version %d: got %v, want %v", version, err, want)
		}
	}
}

// summed appends the checksum.
func summed(b []byte) []byte {
	return binary.BigEndian.AppendUint32(bytes.Clone(b), crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
}

// TestWhatNoManifestCanSay is refused before it is stored.
func TestWhatNoManifestCanSay(t *testing.T) {
	for name, spoil := range map[string]func(*manifest.Manifest){
		"no extents":            func(m *manifest.Manifest) { m.Extents = nil },
		"too many extents":      func(m *manifest.Manifest) { *m = large(manifest.MaxExtents + 1) },
		"no session":            func(m *manifest.Manifest) { m.ID.Session = tiering.SessionID{} },
		"a negative partition":  func(m *manifest.Manifest) { m.Partition.Partition = -1 },
		"a gap":                 func(m *manifest.Manifest) { m.Extents[2].Base++ },
		"a negative base":       func(m *manifest.Manifest) { m.Extents = m.Extents[:1]; m.Extents[0].Base = -1 },
		"no records":            func(m *manifest.Manifest) { m.Extents[1].Count = 0 },
		"offsets that overflow": func(m *manifest.Manifest) { m.Extents[5].Count = math.MaxInt64 - 1<<40 },
		"a negative epoch":      func(m *manifest.Manifest) { m.Extents[0].Epoch = -1 },
		"a negative length":     func(m *manifest.Manifest) { m.Extents[1].Length = -1 },
		"a negative position":   func(m *manifest.Manifest) { m.Extents[1].Position = -1 },
		"a position that wraps": func(m *manifest.Manifest) { m.Extents[5].Length = 2 },
		"an inline extent": func(m *manifest.Manifest) {
			m.Extents[1].Segment, m.Extents[1].Inline = tiering.SegmentID{}, make([]byte, 4096)
		},
		"a segment and bytes":    func(m *manifest.Manifest) { m.Extents[1].Inline = []byte("x") },
		"a hole with a segment":  func(m *manifest.Manifest) { m.Extents[0].Segment.Session = sessionA },
		"a hole at a position":   func(m *manifest.Manifest) { m.Extents[0].Position = 1 },
		"a hole with a time":     func(m *manifest.Manifest) { m.Extents[0].MaxTimestamp = 0 },
		"a segment of no agent":  func(m *manifest.Manifest) { m.Extents[1].Segment.Session = tiering.SessionID{} },
		"bytes of an empty hole": func(m *manifest.Manifest) { m.Extents[0].Inline = []byte{1} },
	} {
		m := sample()
		spoil(&m)
		if b, err := manifest.Encode(m); !errors.Is(err, manifest.ErrInvalid) {
			t.Errorf("%s: got %x, %v", name, b, err)
		}
	}
}

// large has n extents of merged segments, as compaction leaves them.
func large(n int) manifest.Manifest {
	rnd := rand.New(rand.NewPCG(1, 1))
	m := sample()
	m.Extents, m.Aborted = nil, nil
	at, now := tiering.Offset(1<<33), int64(1700000000000)
	for i := range n {
		now += rnd.Int64N(600000)
		e := tiering.Extent{
			Base: at, Count: 20000 + rnd.Int64N(20000), MaxTimestamp: now, Epoch: tiering.LeaderEpoch(i / 100), Length: 32<<20 + rnd.Int32N(1<<20),
			Segment: tiering.SegmentID{Session: tiering.SessionID{byte(i / 200), 1}, Seq: uint64(1000 + 7*i)}, Position: 4096,
		}
		at = e.End()
		m.Extents = append(m.Extents, e)
	}
	return m
}

func TestLargeManifests(t *testing.T) {
	worst := large(manifest.MaxExtents)
	for i := range worst.Extents { // every number as long as it gets
		e := &worst.Extents[i]
		e.Base, e.Count, e.Length = tiering.Offset(i)<<49, 1<<49, math.MaxInt32
		e.Segment = tiering.SegmentID{Session: tiering.SessionID{1, byte(i), byte(i >> 8)}, Seq: uint64(i%2) << 63}
		e.MaxTimestamp, e.Position, e.Epoch = int64(i%2)<<62, math.MaxInt64-math.MaxInt32, tiering.LeaderEpoch(i%2)<<30
	}
	for i := range manifest.MaxAborted {
		worst.Aborted = append(worst.Aborted, manifest.Aborted{ProducerID: int64(i%2) << 62, First: tiering.Offset(i % 2), Last: tiering.Offset(i+1) << 46})
	}
	for name, m := range map[string]manifest.Manifest{"512 extents": large(512), "the most extents": worst} {
		b := encode(t, m)
		if len(b) > manifest.MaxBytes {
			t.Errorf("%s take %d bytes", name, len(b))
		}
		if got, err := manifest.Decode(b); err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("%s do not read back: %v", name, err)
		}
	}
	if b := encode(t, large(512)); len(b) > 512*24 {
		t.Errorf("512 extents take %d bytes, want at most 24 each", len(b))
	}
}

// What is not an aborted transaction of the extents is refused.
func TestAbortedTransactionsAreOfTheExtents(t *testing.T) {
	end := large(2).Extents[1].End()
	for name, list := range map[string][]manifest.Aborted{
		"before":       {{ProducerID: 1, First: 5, Last: 1<<33 - 1}},
		"behind":       {{ProducerID: 1, First: end, Last: end + 1}},
		"backwards":    {{ProducerID: 1, First: 1<<33 + 2, Last: 1<<33 + 2}},
		"negative":     {{ProducerID: 1, First: -1, Last: 1<<33 + 2}},
		"no producer":  {{ProducerID: -1, First: 1, Last: 1<<33 + 2}},
		"twice":        {{ProducerID: 1, First: 1, Last: 1<<33 + 2}, {ProducerID: 2, First: 1, Last: 1<<33 + 2}},
		"out of order": {{ProducerID: 1, First: 1, Last: 1<<33 + 2}, {ProducerID: 2, First: 1, Last: 1<<33 + 1}},
		"too many":     make([]manifest.Aborted, manifest.MaxAborted+1),
	} {
		m := large(2)
		m.Aborted = list
		if _, err := manifest.Encode(m); !errors.Is(err, manifest.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	good := golden(f)
	f.Add(good[:len(good)-4])
	big := encode(f, large(20))
	f.Add(big[:len(big)-4])
	f.Fuzz(func(t *testing.T, b []byte) {
		b = summed(b) // or hardly any input would come past it
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		m, err := manifest.Decode(b)
		runtime.ReadMemStats(&after)
		if got, limit := after.TotalAlloc-before.TotalAlloc, uint64(64*len(b)+64<<10); got > limit {
			t.Errorf("decoding %d bytes allocated %d, want at most %d", len(b), got, limit)
		}
		if err != nil {
			if !errors.Is(err, manifest.ErrCorrupt) && !errors.Is(err, manifest.ErrVersion) {
				t.Fatalf("got %v", err)
			}
			return
		}
		if got := encode(t, m); !bytes.Equal(got, b) {
			t.Fatalf("read and written again: %x, was %x", got, b)
		}
	})
}

func BenchmarkDecode512(b *testing.B) {
	enc := encode(b, large(512))
	b.SetBytes(int64(len(enc)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := manifest.Decode(enc); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(enc))/512, "bytes/extent")
}
