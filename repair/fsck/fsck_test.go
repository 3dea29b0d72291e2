package fsck_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/metadata/membership"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/repair/fsck"
	"github.com/floelog/floe/repair/repairtest"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/manifest"
	"github.com/floelog/floe/tiering/objstore"
	"github.com/floelog/floe/tiering/segment"
)

func check(t *testing.T, w *repairtest.World, deep bool, options ...func(*fsck.Config)) *fsck.Report {
	t.Helper()
	cfg := fsck.Config{Name: repairtest.Name, Meta: w.Meta, Objects: w.Objects, Deep: deep, Now: time.Now}
	for _, o := range options {
		o(&cfg)
	}
	r, err := fsck.Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// loaded returns a cluster with a bit of everything.
func loaded(t *testing.T) *repairtest.World {
	w := repairtest.New(t)
	w.Produce(0, 3, nil)
	w.Produce(0, 2, &repairtest.Producer{ID: 1, Epoch: 0, Seq: 0})
	w.Inline(0, 4)
	w.Produce(1, 5, nil)
	w.Snapshot(1)
	w.Produce(1, 1, nil)
	return w
}

func TestAWholeClusterIsClean(t *testing.T) {
	w := loaded(t)
	merged(t, w)
	archived(t, w)
	for _, deep := range []bool{false, true} {
		r := check(t, w, deep)
		if !r.Clean || len(r.Findings) > 0 {
			t.Errorf("deep %v: %+v", deep, r.Findings)
		}
		c := r.Checked
		if c.Shards != 2 || c.Topics != 1 || c.Partitions != 2 || c.Extents != 5 || c.Inline != 1 || c.Holes != 1 || c.Segments != 3 || c.Manifests != 1 {
			t.Errorf("deep %v: checked %+v", deep, c)
		}
		if deep && (c.Batches != 5 || c.Bytes == 0) {
			t.Errorf("%d batches of %d bytes were read", c.Batches, c.Bytes)
		}
	}
}

// A trim that ends within a manifest leaves it, with extents that lie before the log start.
func TestAManifestThatIsTrimmedInTheMiddleIsClean(t *testing.T) {
	w := loaded(t)
	archivedRun(t, w, 2)
	w.Commit(1, func(d *shard.Draft) { d.Add(shard.Trim{Partition: w.Partition(1), LogStart: 5}) })
	if p := w.States[1].Partition(w.Partition(1)); len(p.Manifests) != 1 || p.LogStart != 5 {
		t.Fatalf("the partition is %+v", p)
	}
	if r := check(t, w, true); !r.Clean || len(r.Findings) > 0 {
		t.Errorf("%+v", r.Findings)
	}
}

// merged replaces the first two extents of partition 0 by one of level 1 with a hole behind.
func merged(t *testing.T, w *repairtest.World) tiering.SegmentID {
	t.Helper()
	b := append(w.Batch(3, nil, 0), w.Batch(1, nil, 3)...)
	id, entries := w.Segment(1, segment.Chunk{Shard: 0, TopicPartition: w.Partition(0), Base: 0, Slices: [][]byte{b}})
	w.Commit(0, func(d *shard.Draft) {
		of, ok := d.State().Partition(w.Partition(0)).Digest(0, 5)
		if !ok {
			t.Fatal("there is no such run")
		}
		d.Add(shard.Replace{Partition: w.Partition(0), Of: of, With: []tiering.Extent{
			{Base: 0, Count: 4, MaxTimestamp: 1002, Segment: id, Position: entries[0].Position, Length: int32(len(b))},
			{Base: 4, Count: 1, MaxTimestamp: tiering.NoTimestamp},
		}})
	})
	return id
}

// archived moves the first extent of partition 1 into a manifest.
func archived(t *testing.T, w *repairtest.World) string {
	t.Helper()
	return archivedRun(t, w, 1)
}

// archivedRun moves the first extents of partition 1 into a manifest.
func archivedRun(t *testing.T, w *repairtest.World, n int) string {
	t.Helper()
	p := w.States[1].Partition(w.Partition(1))
	extents := p.Extents[:n]
	m := shard.Manifest{Base: extents[0].Base}
	for _, e := range extents {
		m.Count += e.Count
		m.Bytes += int64(e.Length)
		m.MaxTimestamp = max(m.MaxTimestamp, e.MaxTimestamp)
	}
	cluster, err := tiering.ParseTopicID(w.Cluster.ID)
	if err != nil {
		t.Fatal(err)
	}
	id := tiering.SegmentID{Session: w.Session, Seq: 900}
	b, err := manifest.Encode(manifest.Manifest{Cluster: cluster, ID: id, Partition: w.Partition(1), Extents: extents})
	if err == nil {
		err = w.Objects.Put(t.Context(), id.ManifestKey(), objstore.Body{b})
	}
	if err != nil {
		t.Fatal(err)
	}
	m.Object, m.Size = id, int32(len(b))
	w.Commit(1, func(d *shard.Draft) {
		d.Add(shard.Archive{Partition: w.Partition(1), Of: shard.DigestOf(extents), Manifest: m})
	})
	return id.ManifestKey()
}

func TestDamageIsFound(t *testing.T) {
	remove := func(t *testing.T, w *repairtest.World, key string) {
		if err := w.Objects.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		name   string
		deep   bool // found by a deep check only
		kind   string
		object bool // the finding names it
		damage func(t *testing.T, w *repairtest.World) (key string)
	}{
		{"a segment is gone", false, "missing", true, func(t *testing.T, w *repairtest.World) string {
			key := w.Produce(0, 2, nil).Segment.Key()
			remove(t, w, key)
			return key
		}},
		{"a segment's index is damaged", false, "segment", true, func(t *testing.T, w *repairtest.World) string {
			part := w.Produce(0, 2, nil)
			w.Damage(part.Segment.Key(), int64(part.Position)+int64(part.Batches[0].Length)+3)
			return part.Segment.Key()
		}},
		{"a record is damaged", true, "chunk", true, func(t *testing.T, w *repairtest.World) string {
			part := w.Produce(0, 2, nil)
			w.Damage(part.Segment.Key(), int64(part.Position)+70)
			return part.Segment.Key()
		}},
		{"an extent names a place outside of its chunk", false, "chunk", true, func(t *testing.T, w *repairtest.World) string {
			part := w.Flush(0, 2, nil)
			part.Position += 1000
			w.Submit(0, part)
			return part.Segment.Key()
		}},
		{"an extent names more records than there are", true, "batch", true, func(t *testing.T, w *repairtest.World) string {
			part := w.Flush(0, 2, nil)
			part.Batches[0].Count = 3
			w.Submit(0, part)
			return part.Segment.Key()
		}},
		{"a stamped offset is another one", true, "batch", true, func(t *testing.T, w *repairtest.World) string {
			b := append(w.Batch(3, nil, 0), w.Batch(2, nil, 77)...)
			id, entries := w.Segment(1, segment.Chunk{TopicPartition: w.Partition(0), Base: 0, Slices: [][]byte{b}})
			w.Commit(0, func(d *shard.Draft) {
				of, _ := d.State().Partition(w.Partition(0)).Digest(0, 5)
				d.Add(shard.Replace{Partition: w.Partition(0), Of: of, With: []tiering.Extent{
					{Base: 0, Count: 5, MaxTimestamp: 1002, Segment: id, Position: entries[0].Position, Length: int32(len(b))}}})
			})
			return id.Key()
		}},
		{"a snapshot is gone", false, "shard", false, func(t *testing.T, w *repairtest.World) string {
			key := w.Snapshot(0)
			remove(t, w, key)
			return key
		}},
		{"a manifest is damaged", false, "manifest", true, func(t *testing.T, w *repairtest.World) string {
			key := archived(t, w)
			w.Damage(key, 30)
			return key
		}},
		{"a journal record is gone", false, "shard", false, func(t *testing.T, w *repairtest.World) string {
			if _, err := w.Meta.Txn(t.Context(), metadata.Txn{Then: []metadata.Op{metadata.Delete(w.Keys.JournalRecord(0, 2))}}); err != nil {
				t.Fatal(err)
			}
			return ""
		}},
		{"a journal record is damaged", false, "shard", false, func(t *testing.T, w *repairtest.World) string {
			w.Commit(0, func(d *shard.Draft) { d.Add(shard.DropGroup{Group: "g"}) })
			key := w.Keys.JournalRecord(0, w.States[0].Seq)
			kvs, _, err := w.Meta.Get(t.Context(), key)
			if err != nil {
				t.Fatal(err)
			}
			value := bytes.Clone(kvs[0].Value)
			value[len(value)-5] ^= 1 // the group's name
			w.Put(key, value)
			return ""
		}},
		{"the head is another one", false, "shard", false, func(t *testing.T, w *repairtest.World) string {
			w.Put(w.Keys.Head(0), journal.Head{Epoch: repairtest.Epoch, Session: w.Session, Seq: 99}.Encode())
			return ""
		}},
		{"a topic's value is damaged", false, "topic", false, func(t *testing.T, w *repairtest.World) string {
			w.Put(w.Keys.Topic("bad"), []byte("{"))
			return ""
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := loaded(t)
			key := tt.damage(t, w)
			if r := check(t, w, false); r.Clean != tt.deep {
				t.Errorf("a check by indexes: clean %v, want %v: %+v", r.Clean, tt.deep, r.Findings)
			}
			r := check(t, w, true)
			if r.Clean || r.Findings[0].Kind != tt.kind || r.Findings[0].Severity != fsck.Damage || r.Findings[0].Remedy == "" {
				t.Fatalf("clean %v, found %+v; want %s", r.Clean, r.Findings, tt.kind)
			}
			if f := r.Findings[0]; tt.object && (f.Object != key || f.Topic != "orders" || f.Partition < 0 || f.To <= f.From) {
				t.Errorf("the finding does not tell what is concerned: %+v", f)
			}
		})
	}
}

// A cluster that runs merges and deletes while it is checked: what looked wrong is right by then.
func TestWhatMovesMeanwhileIsNoDamage(t *testing.T) {
	w := loaded(t)
	old := w.States[0].Partition(w.Partition(0)).Extents[0].Segment.Key()
	moving := &movingStore{Store: w.Objects, key: old}
	moving.move = func() {
		merged(t, w)
		if err := w.Objects.Delete(t.Context(), old); err != nil {
			t.Fatal(err)
		}
	}
	r := check(t, w, true, func(c *fsck.Config) { c.Objects, c.Parallel = moving, 1 })
	if !r.Clean || r.Rechecked == 0 {
		t.Errorf("clean %v, %d looked at again, found %+v", r.Clean, r.Rechecked, r.Findings)
	}
}

// movingStore calls move just before key is first asked for.
type movingStore struct {
	objstore.Store
	key  string
	move func()
}

func (m *movingStore) Head(ctx context.Context, key string) (objstore.Info, error) {
	if move := m.move; key == m.key && move != nil {
		m.move = nil
		move()
	}
	return m.Store.Head(ctx, key)
}

func TestACheckThatCannotBeMadeIsAnError(t *testing.T) {
	w := loaded(t)
	down := errors.New("down")
	_, err := fsck.Run(t.Context(), fsck.Config{Name: repairtest.Name, Meta: w.Meta, Objects: &broken{w.Objects, down}, Now: time.Now})
	if !errors.Is(err, down) {
		t.Errorf("a store that is down: %v", err)
	}
	if _, err := fsck.Run(t.Context(), fsck.Config{Name: "another", Meta: w.Meta, Objects: w.Objects}); !errors.Is(err, fsck.ErrNoCluster) {
		t.Errorf("a cluster that does not exist: %v", err)
	}
}

type broken struct {
	objstore.Store
	err error
}

func (b *broken) Head(context.Context, string) (objstore.Info, error) { return objstore.Info{}, b.err }

func TestObjectsWithoutANameAreClassified(t *testing.T) {
	w := loaded(t)
	w.Carry() // unnamed, and the journal's records are in no snapshot of shard 0
	alive := tiering.SessionID{0xaa}
	put := func(id tiering.SegmentID) string {
		if err := w.Objects.Put(t.Context(), id.Key(), objstore.Body{[]byte("garbage")}); err != nil {
			t.Fatal(err)
		}
		return id.Key()
	}
	s, err := membership.Start(t.Context(), w.Meta, w.Keys, membership.SessionConfig{Address: "a:1"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close(context.WithoutCancel(t.Context())) })
	alive = s.ID()
	put(tiering.SegmentID{Session: alive, Seq: 1})
	if err := w.Objects.Put(t.Context(), "stranger.txt", objstore.Body{[]byte("x")}); err != nil {
		t.Fatal(err)
	}
	count := func(r *fsck.Report, class string) int64 {
		for _, c := range r.Unnamed {
			if c.Name == class {
				return c.Objects
			}
		}
		return 0
	}
	r := check(t, w, false)
	if !r.Clean || count(r, "live") != 1 || count(r, "carrying") != 1 || count(r, "unknown") != 1 || count(r, "garbage") != 0 {
		t.Errorf("%+v", r.Unnamed)
	}
	w.Snapshot(0)
	w.Snapshot(1)
	put(tiering.SegmentID{Session: tiering.SessionID{0xbb}, Seq: 1})
	r = check(t, w, false)
	// What was carried is covered now; the snapshot before is named no more.
	if count(r, "carrying") != 0 || count(r, "garbage") != 3 || r.Unreferred <= 0 {
		t.Errorf("%+v, %v", r.Unnamed, r.Unreferred)
	}
	r = check(t, w, false, func(c *fsck.Config) { c.Now = func() time.Time { return time.Now().Add(48 * time.Hour) } })
	if count(r, "overdue") != 3 || !r.Clean || r.Warnings != 2 {
		t.Errorf("two days later: %+v %+v", r.Unnamed, r.Findings)
	}
}

func TestWhatSegmentsCarryIsRead(t *testing.T) {
	w := loaded(t)
	w.Carry()
	if r := check(t, w, false); r.Warnings > 0 || r.Checked.Headers != 1 {
		t.Errorf("%d headers, %+v", r.Checked.Headers, r.Findings)
	}
	w.Inline(0, 1)
	w.Carry()
	page, err := w.Objects.List(t.Context(), tiering.SegmentPrefix, "", 100)
	if err != nil {
		t.Fatal(err)
	}
	key := slices.MaxFunc(page, func(a, b objstore.Info) int { return strings.Compare(a.Key[8:], b.Key[8:]) }).Key
	w.Damage(key, 60)
	r := check(t, w, false)
	if !r.Clean || r.Warnings != 1 || r.Findings[0].Kind != "carried" || r.Findings[0].Object != key {
		t.Errorf("%+v", r.Findings)
	}
}

func TestRowsOfCoordinatorsAreRead(t *testing.T) {
	w := loaded(t)
	w.Commit(0, func(d *shard.Draft) {
		d.Add(shard.PutRows{Space: shard.Groups, Name: "g", Rows: []shard.Row{{Key: "k", Value: []byte("v")}}})
	})
	r := check(t, w, false, func(c *fsck.Config) {
		c.Coordinators = func(id tiering.ShardID, s *shard.State) []error {
			if id == 0 && len(s.Names(shard.Groups)) == 1 {
				return []error{errors.New("cannot be read")}
			}
			return nil
		}
	})
	if r.Clean || r.Checked.Rows != 1 || !strings.Contains(r.Findings[0].Detail, "cannot be read") {
		t.Errorf("%d rows, %+v", r.Checked.Rows, r.Findings)
	}
}
