package manifests_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/floelog/floe/metadata/manifests"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/manifest"
	"github.com/floelog/floe/tiering/objstore"
	"github.com/floelog/floe/tiering/objstore/memory"
)

var (
	session = tiering.SessionID{5}
	tp      = tiering.TopicPartition{Topic: tiering.TopicID{1}, Partition: 2}
)

// bucket counts the requests, and holds them up while gate is not nil.
type bucket struct {
	objstore.Store
	gets    atomic.Int64
	purpose atomic.Int64
	gate    chan struct{}
}

func (b *bucket) GetRange(ctx context.Context, key string, off, n int64) ([]byte, error) {
	b.gets.Add(1)
	b.purpose.Store(int64(objstore.PurposeOf(ctx)))
	if b.gate != nil {
		select {
		case <-b.gate:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return b.Store.GetRange(ctx, key, off, n)
}

// store puts a manifest of n extents under seq.
func (b *bucket) store(t testing.TB, seq uint64, n int) (shard.Manifest, []tiering.Extent) {
	t.Helper()
	id := tiering.SegmentID{Session: session, Seq: seq}
	var extents []tiering.Extent
	for i := range n {
		extents = append(extents, tiering.Extent{
			Base: tiering.Offset(10 * i), Count: 10, MaxTimestamp: int64(i), Length: 100, Segment: tiering.SegmentID{Session: session, Seq: uint64(i)}, Position: 64,
		})
	}
	data, err := manifest.Encode(manifest.Manifest{ID: id, Partition: tp, Extents: extents})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Put(t.Context(), id.ManifestKey(), objstore.Body{data}); err != nil {
		t.Fatal(err)
	}
	return shard.ManifestOf(id, int32(len(data)), extents), extents
}

func newBucket() *bucket { return &bucket{Store: memory.New()} }

func TestExtentsAreReadOnce(t *testing.T) {
	b := newBucket()
	m, want := b.store(t, 1, 20)
	r := manifests.NewReader(b, 1<<20)
	for range 3 {
		got, err := r.Extents(objstore.WithPurpose(t.Context(), objstore.Fetch), tp, m)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("got %v, %v, want %v", got, err, want)
		}
	}
	if n, p := b.gets.Load(), objstore.Purpose(b.purpose.Load()); n != 1 || p != objstore.Fetch {
		t.Errorf("%d requests, for %s", n, p)
	}
	if s := r.Stats(); s.Hits != 2 || s.Reads != 1 || s.Bytes < 20*64 {
		t.Errorf("stats %+v", s)
	}
}

// TestMemoryIsBounded reads more manifests than there is room for, one of them all the time.
func TestMemoryIsBounded(t *testing.T) {
	b := newBucket()
	const capacity = 100 << 10
	r := manifests.NewReader(b, capacity)
	hot, _ := b.store(t, 0, 50)
	read := func(m shard.Manifest) {
		t.Helper()
		if _, err := r.Extents(t.Context(), tp, m); err != nil {
			t.Fatal(err)
		}
		if s := r.Stats(); s.Bytes < 0 || s.Bytes > capacity {
			t.Fatalf("%d bytes in memory, want at most %d", s.Bytes, capacity)
		}
	}
	read(hot)
	const others = 100
	for i := range uint64(others) {
		m, _ := b.store(t, i+1, 50)
		read(m)
		read(hot)
	}
	if n := b.gets.Load(); n != others+1 {
		t.Errorf("%d requests, want %d: what is used all the time was forgotten", n, others+1)
	}
	if s := r.Stats(); s.Bytes < capacity/2 {
		t.Errorf("only %d bytes of %d are used", s.Bytes, capacity)
	}
	huge, _ := b.store(t, 1000, 2000)
	before := r.Stats().Bytes
	read(huge)
	if got := r.Stats().Bytes; got != before {
		t.Errorf("a manifest that is larger than the room changed it from %d to %d bytes", before, got)
	}
	none := manifests.NewReader(b, 0)
	for range 2 {
		if _, err := none.Extents(t.Context(), tp, hot); err != nil {
			t.Fatal(err)
		}
	}
	if s := none.Stats(); s.Reads != 2 || s.Bytes != 0 {
		t.Errorf("without capacity: %+v", s)
	}
}

func TestWhatTheStateDoesNotSayIsRefused(t *testing.T) {
	b := newBucket()
	good, _ := b.store(t, 1, 20)
	other, _ := b.store(t, 2, 20)
	stray := b.misplace(t, good)
	for name, c := range map[string]struct {
		tp     tiering.TopicPartition
		change func(*shard.Manifest)
		want   error
	}{
		"another partition":         {tiering.TopicPartition{Topic: tp.Topic}, func(*shard.Manifest) {}, objstore.ErrCorrupt},
		"another base":              {tp, func(m *shard.Manifest) { m.Base++ }, objstore.ErrCorrupt},
		"another count":             {tp, func(m *shard.Manifest) { m.Count++ }, objstore.ErrCorrupt},
		"other bytes":               {tp, func(m *shard.Manifest) { m.Bytes-- }, objstore.ErrCorrupt},
		"another timestamp":         {tp, func(m *shard.Manifest) { m.MaxTimestamp++ }, objstore.ErrCorrupt},
		"a smaller object":          {tp, func(m *shard.Manifest) { m.Size-- }, objstore.ErrCorrupt},
		"a larger object":           {tp, func(m *shard.Manifest) { m.Size++ }, objstore.ErrCorrupt},
		"no object":                 {tp, func(m *shard.Manifest) { m.Size = 0 }, objstore.ErrCorrupt},
		"more than a manifest has":  {tp, func(m *shard.Manifest) { m.Size = manifest.MaxBytes + 1 }, objstore.ErrCorrupt},
		"an object of another name": {tp, func(m *shard.Manifest) { m.Object = stray }, objstore.ErrCorrupt},
		"an object that is gone":    {tp, func(m *shard.Manifest) { m.Object.Seq = 99 }, objstore.ErrNotFound},
	} {
		m := good
		c.change(&m)
		for _, first := range []bool{true, false} { // with the manifest in memory and without
			r := manifests.NewReader(b, 1<<20)
			if !first {
				if _, err := r.Extents(t.Context(), tp, good); err != nil {
					t.Fatal(err)
				}
			}
			got, err := r.Extents(t.Context(), c.tp, m)
			if !errors.Is(err, c.want) {
				t.Errorf("%s, read first %v: got %v, %v, want %v", name, first, got, err, c.want)
			}
			if _, err := r.Extents(t.Context(), tp, other); err != nil {
				t.Errorf("%s: afterwards %v", name, err)
			}
		}
	}
}

// misplace stores a manifest under another's name.
func (b *bucket) misplace(t *testing.T, m shard.Manifest) tiering.SegmentID {
	t.Helper()
	data, err := b.GetRange(t.Context(), m.Object.ManifestKey(), 0, int64(m.Size))
	if err != nil {
		t.Fatal(err)
	}
	id := tiering.SegmentID{Session: session, Seq: 50}
	if err := b.Put(t.Context(), id.ManifestKey(), objstore.Body{data}); err != nil {
		t.Fatal(err)
	}
	return id
}

func TestOneRequestForAllThatWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBucket()
		m, _ := b.store(t, 1, 20)
		b.gate = make(chan struct{})
		r := manifests.NewReader(b, 1<<20)
		results := make(chan error, 10)
		for range cap(results) {
			go func() {
				_, err := r.Extents(t.Context(), tp, m)
				results <- err
			}()
		}
		synctest.Wait()
		close(b.gate)
		for range cap(results) {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
		if n := b.gets.Load(); n != 1 {
			t.Errorf("%d requests", n)
		}
	})
}

// TestWhoeverAskedFirstMayLeave: then another of those that wait asks; one that waits may
// leave too.
func TestWhoeverAskedFirstMayLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBucket()
		m, _ := b.store(t, 1, 20)
		b.gate = make(chan struct{})
		r := manifests.NewReader(b, 1<<20)
		ask := func(ctx context.Context) chan error {
			result := make(chan error, 1)
			go func() {
				_, err := r.Extents(ctx, tp, m)
				result <- err
			}()
			synctest.Wait()
			return result
		}
		first, leave := context.WithCancel(t.Context())
		gone := fmt.Errorf("connection gone")
		second, hangUp := context.WithCancelCause(t.Context())
		one, two, three := ask(first), ask(second), ask(t.Context())
		hangUp(gone)
		if err := <-two; !errors.Is(err, gone) {
			t.Errorf("the one that waited and left: %v", err)
		}
		leave()
		if err := <-one; !errors.Is(err, context.Canceled) {
			t.Errorf("the one that asked and left: %v", err)
		}
		synctest.Wait()
		close(b.gate)
		if err := <-three; err != nil {
			t.Errorf("the one that stayed: %v", err)
		}
		if n := b.gets.Load(); n != 2 {
			t.Errorf("%d requests, want 2", n)
		}
	})
}

// TestFailuresAreNotKept: what failed once is asked for again.
func TestFailuresAreNotKept(t *testing.T) {
	b := newBucket()
	m, _ := b.store(t, 1, 20)
	data, err := b.GetRange(t.Context(), m.Object.ManifestKey(), 0, int64(m.Size))
	if err != nil {
		t.Fatal(err)
	}
	r := manifests.NewReader(b, 1<<20)
	if err := b.Delete(t.Context(), m.Object.ManifestKey()); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Extents(t.Context(), tp, m); !errors.Is(err, objstore.ErrNotFound) {
		t.Fatalf("got %v", err)
	}
	if err := b.Put(t.Context(), m.Object.ManifestKey(), objstore.Body{data}); err != nil {
		t.Fatal(err)
	}
	if got, err := r.Extents(t.Context(), tp, m); err != nil || len(got) != 20 {
		t.Errorf("got %d extents, %v", len(got), err)
	}
}

func BenchmarkHit(b *testing.B) {
	s := newBucket()
	m, _ := s.store(b, 1, 512)
	r := manifests.NewReader(s, 1<<20)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Extents(b.Context(), tp, m); err != nil {
			b.Fatal(err)
		}
	}
}
