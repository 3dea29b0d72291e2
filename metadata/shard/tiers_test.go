package shard_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"slices"
	"testing"

	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// tiered has manifests of 10 offsets each from 0 up to 30 and extents of 10 up to 50; every 10
// offsets are of another leader epoch.
func tiered(t *testing.T) *shard.State {
	s := shard.New()
	for i := range 5 {
		commit(t, s, tiering.LeaderEpoch(i), 0, func(d *shard.Draft) { submit(t, d, submission(uint64(i+1), part(tpA, plain(10)))) })
	}
	for i := range 3 {
		first := s.Partition(tpA).Extents[:1]
		m := shard.ManifestOf(tiering.SegmentID{Session: session, Seq: uint64(100 + i)}, 50, first)
		commit(t, s, 4, 0, func(d *shard.Draft) { d.Add(shard.Archive{Partition: tpA, Of: shard.DigestOf(first), Manifest: m}) })
	}
	return s
}

func TestRun(t *testing.T) {
	p := tiered(t).Partition(tpA)
	for _, tc := range []struct {
		name               string
		from, to           tiering.Offset
		manifests, extents int
		ok                 bool
	}{
		{"a manifest", 0, 10, 1, 0, true},
		{"the last manifest", 20, 30, 1, 0, true},
		{"manifests", 0, 30, 3, 0, true},
		{"manifests and extents", 10, 40, 2, 1, true},
		{"an extent", 30, 40, 0, 1, true},
		{"all", 0, 50, 3, 2, true},
		{"nothing", 10, 10, 0, 0, false},
		{"backwards", 20, 10, 0, 0, false},
		{"from within a manifest", 5, 10, 0, 0, false},
		{"from within a manifest up to extents", 25, 40, 0, 0, false},
		{"up to within a manifest", 0, 15, 0, 0, false},
		{"from within an extent", 35, 50, 0, 0, false},
		{"up to within an extent", 20, 35, 0, 0, false},
		{"beyond the end", 30, 60, 0, 0, false},
		{"after the end", 50, 60, 0, 0, false},
		{"before the beginning", -10, 10, 0, 0, false},
	} {
		manifests, extents, ok := p.Run(tc.from, tc.to)
		if ok != tc.ok || ok && (len(manifests) != tc.manifests || len(extents) != tc.extents) {
			t.Errorf("%s: got %d manifests, %d extents, %v, want %d, %d, %v", tc.name, len(manifests), len(extents), ok, tc.manifests, tc.extents, tc.ok)
		}
		digest, ok := p.Digest(tc.from, tc.to)
		if ok != tc.ok || ok == (digest == 0) {
			t.Errorf("%s: digest %x, %v", tc.name, digest, ok)
		}
		if ok && tc.manifests == 0 && digest != shard.DigestOf(extents) {
			t.Errorf("%s: digest %x, of its extents %x", tc.name, digest, shard.DigestOf(extents))
		}
	}
	if _, _, ok := new(shard.Partition).Run(0, 1); ok {
		t.Error("an empty partition has a run")
	}
}

// TestDigestFormat: digests are in journals, and must stay what they are.
func TestDigestFormat(t *testing.T) {
	merged := tiering.Extent{Base: 5, Count: 2, MaxTimestamp: 7, Length: 9, Segment: tiering.SegmentID{Session: session, Seq: 3}, Position: 64}
	inline := tiering.Extent{Base: 7, Count: 1, Length: 2, Inline: []byte("ab")}
	whole, _ := tiered(t).Partition(tpA).Digest(0, 50)
	for name, c := range map[string]struct{ got, want uint64 }{
		"extents":               {shard.DigestOf([]tiering.Extent{merged, inline}), 0x46d68df5095bc4b3},
		"manifests and extents": {whole, 0x9c87ca608ba323a7},
	} {
		if c.got != c.want {
			t.Errorf("digest of %s: got %#x, want %#x", name, c.got, c.want)
		}
	}
	seen := map[uint64]string{}
	for name, change := range map[string]func(*tiering.Extent){
		"nothing":  func(*tiering.Extent) {},
		"base":     func(e *tiering.Extent) { e.Base++ },
		"count":    func(e *tiering.Extent) { e.Count++ },
		"session":  func(e *tiering.Extent) { e.Segment.Session[15]++ },
		"segment":  func(e *tiering.Extent) { e.Segment.Seq++ },
		"position": func(e *tiering.Extent) { e.Position++ },
		"length":   func(e *tiering.Extent) { e.Length++ },
		"hole":     func(e *tiering.Extent) { *e = tiering.Extent{Base: e.Base, Count: e.Count, MaxTimestamp: -1} },
		"bytes":    func(e *tiering.Extent) { e.Segment, e.Position, e.Inline = tiering.SegmentID{}, 0, []byte("123456789") },
		"others":   func(e *tiering.Extent) { e.Segment, e.Position, e.Inline = tiering.SegmentID{}, 0, []byte("123456780") },
	} {
		e := merged
		change(&e)
		digest := shard.DigestOf([]tiering.Extent{e})
		if other, twice := seen[digest]; twice {
			t.Errorf("extents that differ in %s and %s have the same digest", name, other)
		}
		seen[digest] = name
	}
}

func TestEpochAt(t *testing.T) {
	epochs := []shard.EpochStart{{Epoch: 2, Start: 10}, {Epoch: 5, Start: 20}}
	for offset, want := range map[tiering.Offset]tiering.LeaderEpoch{0: 2, 9: 2, 10: 2, 19: 2, 20: 5, 99: 5} {
		if got := shard.EpochAt(epochs, offset); got != want {
			t.Errorf("offset %d is of epoch %d, want %d", offset, got, want)
		}
	}
	if got := shard.EpochAt(nil, 0); got != -1 {
		t.Errorf("without epochs: got %d", got)
	}
}

func TestTrimAcrossManifests(t *testing.T) {
	for _, tc := range []struct {
		to                 tiering.Offset
		manifests, extents int
		epoch              tiering.LeaderEpoch
	}{
		{0, 3, 2, 0}, {9, 3, 2, 0}, {10, 2, 2, 1}, {25, 1, 2, 2}, {29, 1, 2, 2}, {30, 0, 2, 3}, {45, 0, 1, 4}, {50, 0, 0, 4},
	} {
		s := tiered(t)
		held := s.Partition(tpA).Manifests
		commit(t, s, 4, 0, func(d *shard.Draft) { d.Add(shard.Trim{Partition: tpA, LogStart: tc.to}) })
		p := s.Partition(tpA)
		if len(p.Manifests) != tc.manifests || len(p.Extents) != tc.extents || p.LogStart != tc.to || p.Epochs[0].Epoch != tc.epoch {
			t.Errorf("trim to %d left %d manifests, %d extents, log start %d, epoch %d", tc.to, len(p.Manifests), len(p.Extents), p.LogStart, p.Epochs[0].Epoch)
		}
		if len(held) != 3 || held[0].Base != 0 || held[2].Base != 20 {
			t.Errorf("trim to %d changed the manifests that a reader holds: %+v", tc.to, held)
		}
		if _, err := shard.DecodeSnapshot(s.EncodeSnapshot(nil)); err != nil {
			t.Errorf("trim to %d: %v", tc.to, err)
		}
	}
}

// TestReadersKeepTheirManifests archives and unarchives under the hands of a reader.
func TestReadersKeepTheirManifests(t *testing.T) {
	s := tiered(t)
	p := s.Partition(tpA)
	held, extents := p.Manifests, p.Extents
	want, wantExtents := slices.Clone(held), slices.Clone(extents)
	last := tiering.Extent{Base: 20, Count: 10, MaxTimestamp: 7, Length: 100, Segment: tiering.SegmentID{Session: session, Seq: 1}, Position: 1000}
	of, _ := p.Digest(20, 30)
	commit(t, s, 4, 0, func(d *shard.Draft) {
		d.Add(shard.Replace{Partition: tpA, Of: of, With: []tiering.Extent{last}})
	})
	if got := s.Partition(tpA); len(got.Manifests) != 2 || len(got.Extents) != 3 || got.Extents[0].Epoch != 2 {
		t.Fatalf("unarchived: %+v", got)
	}
	run := s.Partition(tpA).Extents[:2]
	m := shard.ManifestOf(tiering.SegmentID{Session: session, Seq: 200}, 50, run)
	commit(t, s, 4, 0, func(d *shard.Draft) { d.Add(shard.Archive{Partition: tpA, Of: shard.DigestOf(run), Manifest: m}) })
	if got := s.Partition(tpA).Manifests; len(got) != 3 || got[2] != m || m.Count != 20 || m.Bytes != 200 {
		t.Fatalf("archived: %+v", got)
	}
	if !slices.Equal(held, want) || !slices.EqualFunc(extents, wantExtents, func(a, b tiering.Extent) bool { return a.Base == b.Base && a.Epoch == b.Epoch }) {
		t.Errorf("a reader's slices have changed: %+v, %+v", held, extents)
	}
}

func TestManifestOfHolesOnly(t *testing.T) {
	hole := []tiering.Extent{{Base: 5, Count: 2, MaxTimestamp: tiering.NoTimestamp}, {Base: 7, Count: 3, MaxTimestamp: tiering.NoTimestamp}}
	want := shard.Manifest{Base: 5, Count: 5, MaxTimestamp: tiering.NoTimestamp, Size: 40}
	if got := shard.ManifestOf(tiering.SegmentID{}, 40, hole); got != want || got.End() != 10 {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestFormsThatNoAgentWrites(t *testing.T) {
	record := golden(t, "record.v2.hex")
	record[0] = newest
	if _, err := shard.DecodeRecord(record); !errors.Is(err, shard.ErrCorrupt) {
		t.Errorf("a replacement of version 2 in a record of version %d: got %v", newest, err)
	}
	snapshot := golden(t, "snapshot.v3.hex")
	snapshot = snapshot[:len(snapshot)-4]
	// The log start of 1 is before the first extent: base 0 of 5 records becomes base 2 of 3.
	late := bytes.Replace(snapshot, []byte{0, 5, 5, 0x0e, 0xc8}, []byte{2, 5, 3, 0x0e, 0xc8}, 1)
	if bytes.Equal(late, snapshot) {
		t.Fatal("the golden file has no such extent")
	}
	late = binary.LittleEndian.AppendUint32(late, crc32.Checksum(late, crc32.MakeTable(crc32.Castagnoli)))
	if _, err := shard.DecodeSnapshot(late); !errors.Is(err, shard.ErrCorrupt) {
		t.Errorf("a snapshot whose log starts before its extents: got %v", err)
	}
}
