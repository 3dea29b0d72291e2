package txn

import (
	"bytes"
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

func partition(topic byte, n int32, shard tiering.ShardID) Partition {
	return Partition{tiering.TopicPartition{Topic: tiering.TopicID{15: topic}, Partition: n}, shard}
}

// The bytes of rows, by field. They are in journals and snapshots: a change needs a version.
var rowFormats = []struct {
	name string
	row  row
	hex  string
}{
	{"a new id", row{status: empty, version: 0, producer: 5, previous: -1, next: -1, epoch: 0, last: -1, timeout: 60000, started: -1, updated: 7},
		"01 0000" + // version, status, protocol
			"0a 01 01 00 01 c0a907 00 01 0e" + // ids 5 -1 -1, epochs 0 -1, timeout, number, start, change
			"00 00"}, // topics, groups
	{"decided, with a new producer id to come", row{
		status: prepareCommit, version: 2, producer: 1, previous: -1, next: 2, epoch: 32767, last: 32766,
		timeout: 1, number: 3, started: 4, updated: 5,
		partitions: []Partition{partition(1, 0, 2), partition(1, 9, 300), partition(2, 7, 0)},
		groups:     []Group{{"a", 1}, {"bc", 63}},
	}, "01 0202" + "02 01 04 feff03 fcff03 02 06 08 0a" +
		"02" + // two topics
		"00000000000000000000000000000001 02 0002 09ac02" + // id, two partitions: number, shard
		"00000000000000000000000000000002 01 0700" +
		"02 0161 01 026263 3f"}, // two groups: length, name, shard
}

func unhex(t testing.TB, s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRowFormat(t *testing.T) {
	for _, f := range rowFormats {
		t.Run(f.name, func(t *testing.T) {
			want := unhex(t, f.hex)
			if got := f.row.encode(); !bytes.Equal(got, want) {
				t.Errorf("encode:\n got %x\nwant %x", got, want)
			}
			got, err := decodeRow(want)
			if err != nil || !reflect.DeepEqual(got, f.row) {
				t.Errorf("decode: %+v, %v", got, err)
			}
			for n := range want {
				if _, err := decodeRow(want[:n]); !errors.Is(err, errRow) {
					t.Fatalf("cut to %d bytes: %v", n, err)
				}
			}
		})
	}
}

func TestRowsThatCannotBe(t *testing.T) {
	ongoingRow := row{
		status: ongoing, version: 1, producer: 1, previous: -1, next: -1, last: -1, timeout: 1, number: 1,
		partitions: []Partition{partition(1, 0, 0), partition(1, 1, 1), partition(2, 0, 0)}, groups: []Group{{"a", 1}, {"b", 1}},
	}
	for name, spoil := range map[string]func(*row){
		"open with nothing in it":             func(r *row) { r.partitions, r.groups = nil, nil },
		"complete with partitions":            func(r *row) { r.status = completeAbort },
		"a producer with the fencing epoch":   func(r *row) { r.epoch = 32767 },
		"the next id before it is decided":    func(r *row) { r.epoch, r.next = 32767, 9 },
		"the next id before epochs run out":   func(r *row) { r.status, r.next = prepareAbort, 9 },
		"decided at the fencing epoch":        func(r *row) { r.status, r.epoch = prepareAbort, 32767 },
		"open without a number":               func(r *row) { r.number = 0 },
		"open without a start":                func(r *row) { r.started = -1 },
		"no producer id":                      func(r *row) { r.producer = -1 },
		"no timeout":                          func(r *row) { r.timeout = 0 },
		"partitions in disorder":              func(r *row) { r.partitions[0], r.partitions[1] = r.partitions[1], r.partitions[0] },
		"a partition twice":                   func(r *row) { r.partitions[1] = r.partitions[0] },
		"topics in disorder":                  func(r *row) { r.partitions[0], r.partitions[2] = r.partitions[2], r.partitions[0] },
		"groups in disorder":                  func(r *row) { r.groups[0], r.groups[1] = r.groups[1], r.groups[0] },
		"a status that is not known":          func(r *row) { r.status = 6 },
		"a protocol version that is not one":  func(r *row) { r.version = 3 },
		"a repetition from the fencing epoch": func(r *row) { r.last = 32767 },
	} {
		r, err := decodeRow(ongoingRow.encode())
		if err != nil {
			t.Fatal(err)
		}
		spoil(&r)
		if got, err := decodeRow(r.encode()); !errors.Is(err, errRow) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	b := ongoingRow.encode()
	if _, err := decodeRow(append(b[:len(b):len(b)], 0)); !errors.Is(err, errRow) {
		t.Errorf("a byte after the end: %v", err)
	}
	b[0] = 2
	if _, err := decodeRow(b); !errors.Is(err, errRow) || !strings.Contains(err.Error(), "version 2 is not known") {
		t.Errorf("another version: %v", err)
	}
}

func FuzzDecodeRow(f *testing.F) {
	for _, r := range rowFormats {
		f.Add(unhex(f, r.hex))
	}
	f.Add([]byte{rowVersion})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeRow(b)
		if err != nil {
			if !errors.Is(err, errRow) {
				t.Errorf("not the row's error: %v", err)
			}
			return
		}
		if again := r.encode(); !bytes.Equal(again, b) {
			t.Errorf("read %x, wrote %x", b, again)
		}
		if len(r.partitions)+len(r.groups) > len(b) {
			t.Errorf("%d bytes made %d partitions and %d groups", len(b), len(r.partitions), len(r.groups))
		}
	})
}

func TestOpenTransactionsOfRows(t *testing.T) {
	s := shard.New()
	d := shard.NewDraft(s, 1, tiering.SessionID{1}, 1, 1)
	p := []Partition{partition(1, 0, 2)}
	for name, r := range map[string]row{
		"ongoing":   {status: ongoing, version: 2, producer: 1, previous: -1, next: -1, epoch: 4, last: -1, timeout: 1, number: 7, started: 1, partitions: p},
		"prepared":  {status: prepareCommit, version: 2, producer: 2, previous: -1, next: -1, epoch: 5, last: 4, timeout: 1, number: 8, started: 1, partitions: p},
		"older":     {status: prepareAbort, version: 1, producer: 3, previous: -1, next: -1, epoch: 6, last: -1, timeout: 1, number: 9, started: 1, partitions: p},
		"concluded": {status: completeCommit, version: 2, producer: 4, previous: -1, next: -1, epoch: 1, last: -1, timeout: 1, number: 3, started: -1},
	} {
		b := r.encode()
		if err := CheckRow(rowKey, b); err != nil {
			t.Fatal(err)
		}
		d.Add(shard.PutRows{Space: shard.Transactions, Name: name, Rows: []shard.Row{{Key: rowKey, Value: b}}})
	}
	if err := s.Apply(d.Record()); err != nil {
		t.Fatal(err)
	}
	open := Open([]*shard.State{shard.New(), s})
	for _, tt := range []struct {
		producer int64
		epoch    int16
		number   int64 // 0: none
	}{{1, 4, 7}, {1, 5, 0}, {2, 4, 8}, {2, 5, 0}, {3, 6, 9}, {4, 1, 0}, {9, 0, 0}} {
		if number, ok := open(tt.producer, tt.epoch); number != tt.number || ok != (tt.number > 0) {
			t.Errorf("producer %d, epoch %d: transaction %d, %v; want %d", tt.producer, tt.epoch, number, ok, tt.number)
		}
	}
	if err := CheckRow("x", nil); err == nil {
		t.Error("a row under an unknown key was taken")
	}
}
