package shard_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// golden reads a file of annotated bytes.
func golden(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	for line := range strings.Lines(string(text)) {
		data, _, _ := strings.Cut(line, "#")
		b, err := hex.DecodeString(strings.TrimSpace(data))
		if err != nil {
			t.Fatalf("%s: %q: %v", name, line, err)
		}
		out = append(out, b...)
	}
	return out
}

const formatChanged = "the format has changed: what was written by this version must stay readable, so it needs a new version number and a file beside this one"

// sampleRecord1 is what version 1 could say.
func sampleRecord1() shard.Record {
	tp3 := tiering.TopicPartition{Topic: tpA.Topic, Partition: 3}
	return shard.Record{
		Seq: 300, Epoch: 7, Leader: leader, Nonce: math.MaxUint64, Time: 1700000000000,
		Changes: []shard.Change{
			shard.Append{
				Partition: tp3, Base: 1000,
				Extents: []tiering.Extent{
					{Base: 1000, Count: 5, MaxTimestamp: 1700000000001, Length: 200, Segment: tiering.SegmentID{Session: session, Seq: 9}, Position: 4096},
					{Base: 1005, Count: 2, MaxTimestamp: -1, Length: 4, Inline: []byte("abcd")},
				},
				Producers: []shard.ProducerAppend{{ProducerID: 77, ProducerEpoch: 2, FirstSeq: math.MaxInt32, LastSeq: 0, Base: 1003, Timestamp: 1700000000001}},
			},
			shard.Submitted{Session: session, Seq: 12, Outcomes: []shard.Outcome{{Base: 1000}, {Code: shard.OutOfOrderSequence, Base: -1}}},
			shard.Replace{Partition: tp3, With: []tiering.Extent{{
				Base: 900, Count: 100, MaxTimestamp: 1600000000000, Length: 12345, Segment: tiering.SegmentID{Session: session, Seq: 8}, Position: 64,
			}}},
			shard.Replace{Partition: tiering.TopicPartition{Topic: tpB.Topic}, With: []tiering.Extent{{Count: 1, Length: 1, Inline: []byte("x")}}},
			shard.Trim{Partition: tp3, LogStart: 800},
			shard.DropTopic{Topic: tpB.Topic},
			shard.ForgetSession{Session: session},
			shard.ExpireProducers{Before: 1600000000000},
		},
	}
}

// sampleRecord2 is what version 2 could say.
func sampleRecord2() shard.Record {
	r := sampleRecord1()
	r.Changes[0].(shard.Append).Producers[0].Transaction = 300
	tx := shard.Transaction{ProducerID: 77, Epoch: 2, Number: 300}
	tp3 := tiering.TopicPartition{Topic: tpA.Topic, Partition: 3}
	r.Changes = append(r.Changes,
		shard.PutRows{Space: shard.Transactions, Name: "t\xff", Rows: []shard.Row{{Key: "", Value: []byte("v")}, {Key: "k"}}},
		shard.CommitOffsets{Group: "g", Transaction: tx, Offsets: []shard.GroupOffset{
			{Partition: tp3, Offset: 1000, Epoch: 7, Metadata: "m\xff", Expires: 1700000000001},
			{Partition: tpB, Offset: 5, Epoch: -1, Expires: -1},
		}},
		shard.ConcludeOffsets{Group: "g", Transaction: tx, Commit: true},
		shard.DeleteOffsets{Group: "g", Partitions: []tiering.TopicPartition{tp3, tpB}},
		shard.DropGroup{Group: "g"},
		shard.Mark{Partition: tp3, Base: 1007, Transaction: tx, Commit: true, Coordinator: -1, Timestamp: 1700000000000, Batch: []byte("marker")},
	)
	return r
}

// sampleRecord has every kind of change.
func sampleRecord() shard.Record {
	r := sampleRecord2()
	tp3 := tiering.TopicPartition{Topic: tpA.Topic, Partition: 3}
	r.Changes = append(r.Changes,
		shard.Replace{
			Partition: tp3, Of: 0x0123456789abcdef,
			With: []tiering.Extent{
				{Base: 700, Count: 100, MaxTimestamp: tiering.NoTimestamp},
				{Base: 800, Count: 50, MaxTimestamp: 1600000000000, Length: 12345, Segment: tiering.SegmentID{Session: session, Seq: 8}},
				{Base: 850, Count: 50, MaxTimestamp: 1600000000001, Length: 100, Segment: tiering.SegmentID{Session: session, Seq: 10}, Position: 64},
			},
			Cleaned: 900, Unmarked: []tiering.Offset{700, 890},
			Aborted: []shard.AbortedTransaction{{ProducerID: 300, First: 90, Last: 700}, {ProducerID: 5, First: 701, Last: 899}},
		},
		shard.Archive{Partition: tp3, Of: math.MaxUint64, Manifest: shard.Manifest{
			Base: 700, Count: 200, MaxTimestamp: 1600000000001, Bytes: 1 << 40, Object: tiering.SegmentID{Session: session, Seq: 11}, Size: 9000,
		}},
	)
	return r
}

func TestRecordFormat(t *testing.T) {
	for version, file := range map[byte]string{3: "record.v3.hex", 4: "record.v4.hex"} {
		want := golden(t, file)
		if got := sampleRecord().EncodeAs([]byte("before"), version); !bytes.Equal(got, append([]byte("before"), want...)) {
			t.Errorf("%s\ngot  %x\nwant %x", formatChanged, got, want)
		}
	}
	for file, want := range map[string]shard.Record{
		"record.v1.hex": sampleRecord1(), "record.v2.hex": sampleRecord2(), "record.v3.hex": sampleRecord(), "record.v4.hex": sampleRecord(),
	} {
		got, err := shard.DecodeRecord(golden(t, file))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s was read as %+v, %v, want %+v", file, got, err, want)
		}
	}
}

// sampleState1 is what a snapshot of version 1 could say.
func sampleState1(t testing.TB) *shard.State {
	s := shard.New()
	for i, fill := range []func(*shard.Draft) error{
		func(d *shard.Draft) error {
			_, err := d.Submit(submission(1, part(tpA, plain(2), idempotent(77, 2, 0, 3))))
			return err
		},
		func(d *shard.Draft) error { d.Add(shard.Trim{Partition: tpA, LogStart: 1}); return nil },
		func(d *shard.Draft) error {
			_, err := d.Submit(submission(2, part(tpA, idempotent(77, 2, 3, 2), idempotent(77, 2, 9, 2)), inlinePart(tpB, plain(1))))
			return err
		},
		func(d *shard.Draft) error { d.Add(shard.ExpireProducers{Before: 1}); return nil },
	} {
		d := shard.NewDraft(s, tiering.LeaderEpoch([]int{5, 5, 7, 7}[i]), leader, 1, int64([]int{10, 20, 50, 60}[i]))
		if err := fill(d); err != nil {
			t.Fatal(err)
		}
		if err := s.Apply(d.Record()); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// sampleState2 is what a snapshot of version 2 could say.
func sampleState2(t testing.TB) *shard.State {
	s := sampleState1(t)
	tx := shard.Transaction{ProducerID: 78, Number: 1}
	for i, fill := range []func(*shard.Draft) error{
		func(d *shard.Draft) error {
			d.Add(shard.PutRows{Space: shard.Transactions, Name: "t", Rows: []shard.Row{{Value: []byte("x")}}})
			d.Add(shard.PutRows{Space: shard.Groups, Name: "g", Rows: []shard.Row{{Key: "b", Value: []byte("2")}, {Key: "a", Value: []byte("1")}}})
			d.Add(shard.CommitOffsets{Group: "g", Offsets: []shard.GroupOffset{{Partition: tpB, Offset: 5, Epoch: 7, Metadata: "m", Expires: -1}}})
			d.Add(shard.CommitOffsets{Group: "g", Transaction: tx, Offsets: []shard.GroupOffset{{Partition: tpA, Offset: 9, Epoch: -1, Expires: 500}}})
			_, err := d.Submit(submission(3, part(tpA, transactional(tx, 0, 2)), part(tpB, transactional(tx, 0, 1))))
			return err
		},
		func(d *shard.Draft) error {
			bumped := shard.Transaction{ProducerID: 78, Epoch: 1, Number: 1}
			d.Mark(shard.Marker{Partition: tpA, Transaction: bumped, Coordinator: 7})
			d.Add(shard.ConcludeOffsets{Group: "h", Transaction: bumped, Commit: true})
			return nil
		},
	} {
		d := shard.NewDraft(s, 7, leader, 1, int64([]int{70, 80}[i]))
		if err := fill(d); err != nil {
			t.Fatal(err)
		}
		if err := s.Apply(d.Record()); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// sampleState has everything: a partition that is cleaned, with a hole and a marker removed, and
// one with a manifest.
func sampleState(t testing.TB) *shard.State {
	s := sampleState2(t)
	tpC := tiering.TopicPartition{Topic: tiering.TopicID{0xc}}
	bumped := shard.Transaction{ProducerID: 79, Number: 1}
	merged := tiering.Extent{Count: 6, MaxTimestamp: 7, Length: 150, Segment: tiering.SegmentID{Session: session, Seq: 2}, Position: 64}
	digest := func(tp tiering.TopicPartition, from, to tiering.Offset) uint64 {
		of, ok := s.Partition(tp).Digest(from, to)
		if !ok {
			t.Fatalf("%s has no run from %d to %d", tp, from, to)
		}
		return of
	}
	for i, fill := range []func(*shard.Draft){
		func(d *shard.Draft) {
			if _, err := d.Submit(submission(4, part(tpC, plain(6)), part(tpC, plain(3)), part(tpA, transactional(bumped, 0, 2)))); err != nil {
				t.Fatal(err)
			}
			d.Mark(shard.Marker{Partition: tpA, Transaction: bumped, Coordinator: 7})
		},
		func(d *shard.Draft) {
			d.Add(shard.Replace{Partition: tpC, Of: digest(tpC, 0, 6), With: []tiering.Extent{merged}})
			d.Add(shard.Replace{Partition: tpA, Of: digest(tpA, 5, 13), Cleaned: 13, Unmarked: []tiering.Offset{12}, With: []tiering.Extent{
				{Base: 5, Count: 2, MaxTimestamp: tiering.NoTimestamp},
				{Base: 7, Count: 6, MaxTimestamp: 7, Length: 178, Segment: tiering.SegmentID{Session: session, Seq: 3}, Position: 64},
			}})
		},
		func(d *shard.Draft) {
			d.Add(shard.Archive{Partition: tpC, Of: digest(tpC, 0, 6), Manifest: shard.ManifestOf(tiering.SegmentID{Session: session, Seq: 4}, 200, []tiering.Extent{merged})})
		},
	} {
		d := shard.NewDraft(s, 8, leader, 1, int64(90+i))
		fill(d)
		if err := s.Apply(d.Record()); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func TestSnapshotFormat(t *testing.T) {
	want := golden(t, "snapshot.v3.hex")
	if got := sampleState(t).EncodeSnapshot(nil); !bytes.Equal(got, want) {
		t.Errorf("%s\ngot  %x\nwant %x", formatChanged, got, want)
	}
	for file, same := range map[string]*shard.State{
		"snapshot.v1.hex": sampleState1(t), "snapshot.v2.hex": sampleState2(t), "snapshot.v3.hex": sampleState(t),
	} {
		s, err := shard.DecodeSnapshot(golden(t, file))
		if err != nil {
			t.Fatal(err)
		}
		want := same.EncodeSnapshot([]byte("before"))
		if got := s.EncodeSnapshot([]byte("before")); !bytes.Equal(got, want) {
			t.Errorf("%s: does not survive reading, or is not appended", file)
		}
		if !reflect.DeepEqual(s, same) {
			t.Errorf("%s was read as %+v, want %+v", file, s, same)
		}
	}
}

func sampleSubmission() *shard.Submission {
	return &shard.Submission{Session: session, Seq: 12, Parts: []shard.Part{
		{
			Partition: tiering.TopicPartition{Topic: tpA.Topic, Partition: 3}, Segment: tiering.SegmentID{Session: session, Seq: 9}, Position: 4096,
			Batches: []shard.Batch{transactional(shard.Transaction{ProducerID: 77, Epoch: 2, Number: 300}, math.MaxInt32, 2), plain(2)},
		},
		inlinePart(tpB, plain(1)),
	}}
}

func TestSubmissionFormat(t *testing.T) {
	want := golden(t, "submission.v2.hex")
	if got := sampleSubmission().Encode(nil); !bytes.Equal(got, want) {
		t.Errorf("%s\ngot  %x\nwant %x", formatChanged, got, want)
	}
	got, err := shard.DecodeSubmission(want)
	if err != nil || !bytes.Equal(got.Encode(nil), want) || got.NumBatches() != 3 {
		t.Errorf("read back as %+v, %v", got, err)
	}
}

// TestDamagedBytesAreRefused flips, cuts and extends what is good.
func TestDamagedBytesAreRefused(t *testing.T) {
	record, snapshot, sub := golden(t, "record.v4.hex"), golden(t, "snapshot.v3.hex"), golden(t, "submission.v2.hex")
	record2 := func(b []byte) error { _, err := shard.DecodeRecord(b); return err }
	snapshot2 := func(b []byte) error { _, err := shard.DecodeSnapshot(b); return err }
	sub2 := func(b []byte) error { _, err := shard.DecodeSubmission(b); return err }
	for name, c := range map[string]struct {
		data   []byte
		decode func([]byte) error
	}{"record": {record, record2}, "snapshot": {snapshot, snapshot2}, "submission": {sub, sub2}} {
		for n := range c.data {
			if err := c.decode(c.data[:n]); !errors.Is(err, shard.ErrCorrupt) {
				t.Fatalf("%s cut to %d bytes of %d: got %v", name, n, len(c.data), err)
			}
		}
		if err := c.decode(append(bytes.Clone(c.data), 0)); !errors.Is(err, shard.ErrCorrupt) {
			t.Errorf("%s with a byte too many: got %v", name, err)
		}
	}
	for _, c := range []struct {
		name   string
		data   []byte
		at     int
		decode func([]byte) error
	}{{"record", record, 0, record2}, {"submission", sub, 0, sub2}, {"snapshot", snapshot, 8, snapshot2}} {
		b := bytes.Clone(c.data)
		b[c.at]++
		want := shard.ErrVersion
		if c.name == "snapshot" { // whose checksum comes first
			want = shard.ErrCorrupt
		}
		if err := c.decode(b); !errors.Is(err, want) {
			t.Errorf("%s of an unknown version: got %v", c.name, err)
		}
	}
	for name, c := range map[string]struct {
		data   []byte
		decode func([]byte) error
	}{"record": {record, record2}, "snapshot": {snapshot, snapshot2}} {
		for i := range c.data {
			b := bytes.Clone(c.data)
			b[i] ^= 0x10
			if err := c.decode(b); !errors.Is(err, shard.ErrCorrupt) && !errors.Is(err, shard.ErrVersion) {
				t.Fatalf("%s with a flipped bit in byte %d: got %v", name, i, err)
			}
		}
	}
}

func TestSameRecordTellsRecordsApart(t *testing.T) {
	r := sampleRecord()
	enc := r.Encode(nil)
	if !r.SameRecord(enc) {
		t.Error("a record does not recognise itself")
	}
	for name, change := range map[string]func(*shard.Record){
		"seq":    func(r *shard.Record) { r.Seq++ },
		"leader": func(r *shard.Record) { r.Leader[3]++ },
		"nonce":  func(r *shard.Record) { r.Nonce-- },
	} {
		o := sampleRecord()
		change(&o)
		if o.SameRecord(enc) {
			t.Errorf("a record of another %s passes for the same", name)
		}
	}
	if r.SameRecord(nil) || r.SameRecord(enc[:5]) {
		t.Error("a cut record passes for the same")
	}
}
