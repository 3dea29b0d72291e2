package shard_test

import (
	"bytes"
	"errors"
	"reflect"
	"testing"

	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// sampleChanges are the changes of sampleRecord that agents ask for.
func sampleChanges() []shard.Change {
	var out []shard.Change
	for _, c := range sampleRecord().Changes {
		switch c.(type) {
		case shard.Replace, shard.Archive, shard.Trim:
			out = append(out, c)
		}
	}
	return out
}

func encodeChanges(t testing.TB, changes ...shard.Change) []byte {
	t.Helper()
	b, err := shard.EncodeChanges(changes, shard.RecordVersion)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestChangesFormat(t *testing.T) {
	for version, file := range map[byte]string{3: "changes.v3.hex", 4: "changes.v4.hex"} {
		want := golden(t, file)
		if got, err := shard.EncodeChanges(sampleChanges(), version); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s\ngot  %x, %v\nwant %x", formatChanged, got, err, want)
		}
		got, err := shard.DecodeChanges(want)
		if err != nil || !reflect.DeepEqual(got, sampleChanges()) {
			t.Errorf("%s was read as %+v, %v, want %+v", file, got, err, sampleChanges())
		}
	}
	want := golden(t, "changes.v4.hex")
	for n := range want {
		if _, err := shard.DecodeChanges(want[:n]); !errors.Is(err, shard.ErrCorrupt) {
			t.Fatalf("cut to %d bytes: got %v", n, err)
		}
	}
	for _, version := range []byte{0, 2, shard.RecordVersion + 1} {
		b := bytes.Clone(want)
		b[0] = version
		want := shard.ErrCorrupt
		if version > shard.RecordVersion {
			want = shard.ErrVersion
		}
		if _, err := shard.DecodeChanges(b); !errors.Is(err, want) {
			t.Errorf("version %d: got %v", version, err)
		}
	}
	if got, err := shard.DecodeChanges(encodeChanges(t)); err != nil || len(got) > 0 {
		t.Errorf("no changes were read as %v, %v", got, err)
	}
}

// TestOnlyWhatJobsDoMayBeAskedFor encodes every kind of change, and some that make no sense.
func TestOnlyWhatJobsDoMayBeAskedFor(t *testing.T) {
	seg := tiering.SegmentID{Session: session, Seq: 1}
	refused := []shard.Change{
		nil,
		shard.Replace{Partition: tpA},
		shard.Replace{Partition: tiering.TopicPartition{Partition: -1}, With: []tiering.Extent{{Count: 1, Length: 1, Segment: seg}}},
		shard.Replace{Partition: tpA, With: []tiering.Extent{{Count: 1, Length: 1, Segment: seg}, {Base: 2, Count: 1, Length: 1, Segment: seg}}},
		shard.Replace{Partition: tpA, With: []tiering.Extent{{Count: 1, Length: 1, Segment: seg}}, Unmarked: []tiering.Offset{1}},
		shard.Archive{Partition: tpA, Manifest: shard.Manifest{Count: 1, Size: 0, Object: seg}},
		shard.Archive{Partition: tpA, Manifest: shard.Manifest{Count: 1, Size: 1}},
		shard.Trim{Partition: tpA, LogStart: -1},
	}
	for _, c := range sampleRecord().Changes {
		switch c.(type) {
		case shard.Replace, shard.Archive, shard.Trim:
			continue
		}
		refused = append(refused, c)
		// A peer that sends it all the same is not believed either.
		r := shard.Record{Changes: []shard.Change{c}}
		enc := r.EncodeAs(nil, newest)
		empty := shard.Record{}.EncodeAs(nil, newest)
		bare := append([]byte{newest}, enc[len(empty)-1:]...)
		if _, err := shard.DecodeChanges(bare); !errors.Is(err, shard.ErrCorrupt) {
			t.Errorf("%T sent by a peer: got %v", c, err)
		}
	}
	for _, c := range refused {
		if b, err := shard.EncodeChanges([]shard.Change{c}, shard.RecordVersion); !errors.Is(err, shard.ErrCorrupt) {
			t.Errorf("%+v: got %x, %v", c, b, err)
		}
	}
}

func FuzzDecodeChanges(f *testing.F) {
	f.Add(golden(f, "changes.v3.hex"))
	f.Add(encodeChanges(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		var changes []shard.Change
		var err error
		bounded(t, b, func() { changes, err = shard.DecodeChanges(b) })
		if err != nil {
			return
		}
		if got, err := shard.EncodeChanges(changes, b[0]); err != nil || !bytes.Equal(got, b) {
			t.Fatalf("read and written again: %x, was %x", got, b)
		}
		// A leader can write down whatever could be read.
		s := sampleState(t)
		d := shard.NewDraft(s, s.Epoch, leader, 1, 0)
		for _, c := range changes {
			d.Add(c)
		}
		size, r := d.Size(), d.Record()
		if enc := r.Encode(nil); len(enc) > size {
			t.Fatalf("record of %d bytes, estimated at %d", len(enc), size)
		}
		if err := s.Apply(r); err != nil {
			t.Fatal(err)
		}
		if _, err := shard.DecodeSnapshot(s.EncodeSnapshot(nil)); err != nil {
			t.Fatal(err)
		}
	})
}
