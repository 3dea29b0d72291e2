package level_test

import (
	"testing"

	"github.com/floelog/floe/metadata/level"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering/segment"
)

// TestNewestLevelWritesTheNewestVersions holds the table to what the encoders do.
func TestNewestLevelWritesTheNewestVersions(t *testing.T) {
	newest := level.Newest.Formats()
	if snapshot := shard.New().EncodeSnapshot(nil); snapshot[8] != newest.Snapshot {
		t.Errorf("snapshots are written in version %d, level %d names %d", snapshot[8], level.Newest, newest.Snapshot)
	}
	if newest.Record != shard.RecordVersion || newest.Segment != segment.Version {
		t.Errorf("level %d names %+v, newest are records %d, segments %d: name a new version at a level that is not released yet",
			level.Newest, newest, shard.RecordVersion, segment.Version)
	}
	for l := level.First; l < level.Newest; l++ {
		a, b := l.Formats(), (l + 1).Formats()
		if a.Record > b.Record || a.Snapshot > b.Snapshot || a.Segment > b.Segment || a.Manifest > b.Manifest || a.Copy > b.Copy || a.RPC > b.RPC {
			t.Errorf("level %d is %+v, but the next one %+v: versions never fall", l, a, b)
		}
		if a == b {
			t.Errorf("levels %d and %d are the same", l, l+1)
		}
		if a.Record == 0 || a.Snapshot == 0 || a.Segment == 0 || a.Manifest == 0 || a.Copy == 0 || a.RPC == 0 {
			t.Errorf("level %d is %+v: a version is missing", l, a)
		}
	}
}

// TestEveryLevelsRecordsAreRead writes a record as each level does.
func TestEveryLevelsRecordsAreRead(t *testing.T) {
	for l := level.First; l <= level.Newest; l++ {
		r := shard.Record{Seq: 7, Epoch: 3, Nonce: 9, Time: 11}
		b := r.EncodeAs(nil, l.Formats().Record)
		got, err := shard.DecodeRecord(b)
		if err != nil || got.Seq != 7 || got.Epoch != 3 || got.Nonce != 9 || got.Time != 11 {
			t.Errorf("level %d: got %+v, %v", l, got, err)
		}
		if b[0] != l.Formats().Record || !r.SameRecord(b) {
			t.Errorf("level %d: written as version %d", l, b[0])
		}
	}
}

func TestRange(t *testing.T) {
	own := level.Own()
	for l, want := range map[level.Level]bool{0: false, level.First: true, level.Newest: true, level.Newest + 1: false} {
		if got := own.Holds(l); got != want || l.Known() != want {
			t.Errorf("level %d: held %v, known %v, want %v", l, got, l.Known(), want)
		}
	}
}

// TestOf reads the level out of the values of cluster keys.
func TestOf(t *testing.T) {
	for value, want := range map[string]level.Level{
		`{"version":1,"id":"x","shards":64}`: 1,
		`{"version":7,"new":{}}`:             7,
		`{"version":0}`:                      0, // a recovery is under way
		`{}`:                                 -1,
		`nonsense`:                           -1,
		`{"version":-3}`:                     -1,
	} {
		got, err := level.Of([]byte(value))
		if (err != nil) != (want < 0) || err == nil && got != want {
			t.Errorf("%s: got %d, %v, want %d", value, got, err, want)
		}
	}
}

func TestIntent(t *testing.T) {
	b := level.Intent{Level: 2, Nonce: 99}.Encode()
	got, err := level.ParseIntent(b)
	if err != nil || got != (level.Intent{Level: 2, Nonce: 99}) {
		t.Errorf("%s was read as %+v, %v", b, got, err)
	}
	for _, bad := range []string{"", "{}", `{"version":2,"level":2}`, `{"version":1,"level":0}`} {
		if got, err := level.ParseIntent([]byte(bad)); err == nil {
			t.Errorf("%q was read as %+v", bad, got)
		}
	}
}
