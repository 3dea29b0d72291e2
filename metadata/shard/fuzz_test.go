package shard_test

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"maps"
	"reflect"
	"runtime"
	"testing"

	"github.com/floelog/floe/metadata/shard"
)

// bounded fails if decode allocates much more than its input justifies.
func bounded(t *testing.T, in []byte, decode func()) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	decode()
	runtime.ReadMemStats(&after)
	if got, limit := after.TotalAlloc-before.TotalAlloc, uint64(64*len(in)+64<<10); got > limit {
		t.Errorf("decoding %d bytes allocated %d, want at most %d", len(in), got, limit)
	}
}

// newest is the version of snapshots that is written, and the oldest one of records that is. What
// was read of an older one is written in this one.
const newest = 3

func FuzzDecodeRecord(f *testing.F) {
	for _, file := range []string{"record.v1.hex", "record.v2.hex", "record.v3.hex", "record.v4.hex"} {
		f.Add(golden(f, file))
	}
	f.Add(shard.Record{Seq: 1}.Encode(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r shard.Record
		var err error
		bounded(t, b, func() { r, err = shard.DecodeRecord(b) })
		if err != nil {
			return
		}
		got := r.EncodeAs(nil, max(b[0], newest))
		if b[0] >= newest && !bytes.Equal(got, b) {
			t.Fatalf("read and written again: %x, was %x", got, b)
		}
		if again, err := shard.DecodeRecord(got); err != nil || !reflect.DeepEqual(again, r) {
			t.Fatalf("read, written and read again: %+v, %v, was %+v", again, err, r)
		}
		s := sampleState(t)
		r.Seq = s.Seq + 1
		before := s.EncodeSnapshot(nil)
		if err := s.Apply(r); err != nil && !bytes.Equal(s.EncodeSnapshot(nil), before) {
			t.Fatalf("refused with %v, but the state changed", err)
		}
		snap := s.EncodeSnapshot(nil)
		back, err := shard.DecodeSnapshot(snap)
		if err != nil {
			t.Fatalf("the record was taken, but leads to a state that cannot be read back: %v", err)
		}
		if !maps.Equal(back.Topics(), s.Topics()) {
			t.Fatalf("the state has topics %v, read back %v", s.Topics(), back.Topics())
		}
	})
}

func FuzzDecodeSnapshot(f *testing.F) {
	for _, file := range []string{"snapshot.v1.hex", "snapshot.v2.hex", "snapshot.v3.hex"} {
		good := golden(f, file)
		f.Add(good[:len(good)-4])
	}
	f.Add(shard.New().EncodeSnapshot(nil)[:9])
	f.Fuzz(func(t *testing.T, b []byte) {
		// The sum is made right, or hardly any input would come past it.
		b = binary.LittleEndian.AppendUint32(bytes.Clone(b), crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
		var s *shard.State
		var err error
		bounded(t, b, func() { s, err = shard.DecodeSnapshot(b) })
		if err != nil {
			return
		}
		got := s.EncodeSnapshot(nil)
		if b[8] == newest && !bytes.Equal(got, b) {
			t.Fatalf("read and written again: %x, was %x", got, b)
		}
		if again, err := shard.DecodeSnapshot(got); err != nil || !bytes.Equal(again.EncodeSnapshot(nil), got) {
			t.Fatalf("read, written and read again: %v", err)
		}
		for _, tp := range s.Partitions() {
			p := s.Partition(tp)
			if stable := p.LastStable(); stable < 0 || stable > p.Next {
				t.Fatalf("%s: last stable offset %d, next %d", tp, stable, p.Next)
			}
			p.AbortedIn(p.LogStart, p.Next)
		}
	})
}

func FuzzDecodeSubmission(f *testing.F) {
	f.Add(golden(f, "submission.v2.hex"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var s *shard.Submission
		var err error
		bounded(t, b, func() { s, err = shard.DecodeSubmission(b) })
		if err != nil {
			return
		}
		if got := s.Encode(nil); !bytes.Equal(got, b) {
			t.Fatalf("read and written again: %x, was %x", got, b)
		}
		// A leader can take whatever could be read: what comes of it is a sound record.
		state := sampleState(t)
		d := shard.NewDraft(state, state.Epoch, leader, 1, 0)
		out, err := d.Submit(s)
		if err != nil {
			return
		}
		if len(out) != s.NumBatches() {
			t.Fatalf("%d outcomes for %d batches", len(out), s.NumBatches())
		}
		size, r := d.Size(), d.Record()
		enc := r.Encode(nil)
		if len(enc) > size {
			t.Fatalf("record of %d bytes, estimated at %d", len(enc), size)
		}
		if _, err := shard.DecodeRecord(enc); err != nil {
			t.Fatal(err)
		}
		if err := state.Apply(r); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzDecodeOutcomes(f *testing.F) {
	f.Add(shard.EncodeOutcomes(nil, []shard.Outcome{{Base: 5}, {Code: shard.OutOfOrderSequence, Base: -1}}))
	f.Add(shard.EncodeOutcomes(nil, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		var out []shard.Outcome
		var err error
		bounded(t, b, func() { out, err = shard.DecodeOutcomes(b) })
		if err != nil {
			return
		}
		if got := shard.EncodeOutcomes(nil, out); !bytes.Equal(got, b) {
			t.Fatalf("read and written again: %x, was %x", got, b)
		}
	})
}
