// Package jobtest is a small cluster in memory for the tests of jobs: one agent that leads all
// shards, journals over metadata/memory, objects over tiering/objstore/memory, and a reader
// that shows what clients would see. It is used by one goroutine, except where noted.
package jobtest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/journal"
	metamemory "github.com/floelog/floe/metadata/memory"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/protocol/batch"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/cache"
	"github.com/floelog/floe/tiering/manifest"
	"github.com/floelog/floe/tiering/objstore"
	objmemory "github.com/floelog/floe/tiering/objstore/memory"
	"github.com/floelog/floe/tiering/segment"
)

// World is the cluster. It is a job.Journals, a job.Segments and a job.Claims; their methods may
// be called concurrently.
type World struct {
	*journal.Set
	Meta    *metamemory.Server
	Store   metadata.Store
	Objects objstore.Store // what is really stored
	Cache   *cache.Cache   // reads Objects
	Session tiering.SessionID

	t      testing.TB
	lost   chan struct{}
	lease  metadata.LeaseID
	seq    uint64 // of the last submission
	commit sync.Mutex

	mu   sync.Mutex // guards the following
	next uint64
	open map[uint64]bool // numbers whose done was not called
}

// New starts a cluster of the given number of shards. It ends with the test.
func New(t testing.TB, shards uint32) *World {
	t.Helper()
	server := metamemory.New()
	w := &World{Meta: server, Store: server.Client("a"), Objects: objmemory.New(), Session: tiering.SessionID{5},
		t: t, lost: make(chan struct{}), open: map[uint64]bool{}}
	keys := metadata.NewKeys("t")
	nonce := uint64(0)
	var mu sync.Mutex
	w.Set = journal.New(journal.Config{Keys: keys, Shards: shards}, journal.Parts{Store: w.Store, Objects: w.Objects,
		Log: slog.New(slog.DiscardHandler), Now: time.Now, Nonce: func() uint64 {
			mu.Lock()
			defer mu.Unlock()
			nonce++
			return nonce
		}})
	var err error
	if w.Cache, err = cache.New(w.Objects, segment.VerifyBatches, cache.Options{Capacity: 64 << 20}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-ended
		w.Cache.Close()
		server.Close()
	})
	<-w.Loaded()
	if w.lease, err = w.Store.Grant(ctx, 10_000*time.Hour); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Store.Txn(ctx, metadata.Txn{Then: []metadata.Op{metadata.PutLeased(keys.Session(w.Session), []byte("x"), w.lease)}}); err != nil {
		t.Fatal(err)
	}
	for i := range shards {
		w.Lead(tiering.ShardID(i))
	}
	return w
}

type session struct{ w *World }

func (s session) ID() tiering.SessionID   { return s.w.Session }
func (s session) Lease() metadata.LeaseID { return s.w.lease }
func (session) Node() int32               { return 1 }
func (session) Alive() bool               { return true }
func (s session) Lost() <-chan struct{}   { return s.w.lost }

// Lead takes a shard over, or again, with a new leader epoch.
func (w *World) Lead(id tiering.ShardID) {
	w.t.Helper()
	if l := w.Leader(id); l != nil {
		if err := l.Release(context.Background()); err != nil {
			w.t.Fatal(err)
		}
	}
	for range 1000 {
		_, err := w.Acquire(context.Background(), session{w}, id)
		if err == nil {
			return
		}
		w.t.Logf("leading shard %d: %v", id, err) // the metadata store fails: the test's own doing
	}
	w.t.Fatalf("shard %d cannot be led", id)
}

// Shard returns the shard of a partition.
func (w *World) Shard(tp tiering.TopicPartition) tiering.ShardID {
	return tiering.ShardOf(0, tp.Partition, w.NumShards())
}

// Change implements job.Journals.
func (w *World) Change(ctx context.Context, id tiering.ShardID, changes ...shard.Change) error {
	for {
		changed := w.Changed()
		err := metadata.ErrFenced
		if l := w.Leader(id); l != nil {
			err = w.propose(ctx, l, func(d *shard.Draft) error {
				for _, c := range changes {
					d.Add(c)
				}
				return nil
			})
		}
		if !errors.Is(err, metadata.ErrFenced) {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (w *World) propose(ctx context.Context, l *journal.Leader, draft func(*shard.Draft) error) error {
	done := make(chan error, 1)
	l.Propose(&journal.Proposal{Session: w.Session, Size: 64 << 10, Draft: draft, Done: func(_ uint64, err error) { done <- err }})
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// NextSegment implements job.Segments.
func (w *World) NextSegment() (tiering.SegmentID, func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.next++
	n := w.next
	w.open[n] = true
	return tiering.SegmentID{Session: w.Session, Seq: n}, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if !w.open[n] {
			w.t.Errorf("segment number %d was given back twice", n)
		}
		delete(w.open, n)
	}
}

// Open returns how many segment numbers have not been given back.
func (w *World) Open() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.open)
}

// Claimed implements job.Claims: all shards.
func (w *World) Claimed() []tiering.ShardID {
	out := make([]tiering.ShardID, w.NumShards())
	for i := range out {
		out[i] = tiering.ShardID(i)
	}
	return out
}

// Batch returns a record batch of one record per value.
func (w *World) Batch(timestamp int64, values ...string) []byte {
	w.t.Helper()
	b := batch.NewBuilder(batch.PlainFields(timestamp))
	for i, v := range values {
		b.Add(batch.Record{OffsetDelta: int32(i), Value: []byte(v)})
	}
	data, err := b.AppendTo(nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return data
}

// Part is what one partition gets by one flush.
type Part struct {
	Partition tiering.TopicPartition
	Batches   [][]byte
}

// Flush stores the parts as one segment of level 0 and commits them, all of a shard in one
// record.
func (w *World) Flush(parts ...Part) {
	w.t.Helper()
	id, done := w.NextSegment()
	defer done()
	var chunks []segment.Chunk
	for _, p := range parts {
		chunks = append(chunks, segment.Chunk{Shard: w.Shard(p.Partition), TopicPartition: p.Partition, Slices: p.Batches})
	}
	built, err := segment.Build(segment.Header{ID: id}, chunks)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.Objects.Put(context.Background(), id.Key(), built.Body); err != nil {
		w.t.Fatal(err)
	}
	at := map[tiering.TopicPartition]tiering.Position{}
	for _, e := range built.Entries {
		at[e.TopicPartition] = e.Position
	}
	w.submit(parts, func(p *shard.Part) { p.Segment, p.Position = id, at[p.Partition] })
}

// Inline commits the parts inside a journal.
func (w *World) Inline(parts ...Part) {
	w.t.Helper()
	w.submit(parts, func(p *shard.Part) { p.Segment = tiering.SegmentID{} })
}

// submit commits the parts, each shard's in one record. place says where a part lies; without a
// segment it is inline.
func (w *World) submit(parts []Part, place func(*shard.Part)) {
	w.t.Helper()
	w.commit.Lock()
	defer w.commit.Unlock()
	byShard := map[tiering.ShardID][]shard.Part{}
	for _, p := range parts {
		part := shard.Part{Partition: p.Partition}
		place(&part)
		for _, b := range p.Batches {
			v := batch.View(b)
			part.Batches = append(part.Batches, shard.Batch{Length: int32(len(b)), Count: v.LastOffsetDelta() + 1, MaxTimestamp: v.MaxTimestamp(), ProducerID: -1})
			if part.Segment.IsZero() {
				part.Inline = append(part.Inline, b...)
			}
		}
		byShard[w.Shard(p.Partition)] = append(byShard[w.Shard(p.Partition)], part)
	}
	for id, of := range byShard {
		w.seq++
		sub := &shard.Submission{Session: w.Session, Seq: w.seq, Parts: of}
		err := w.propose(context.Background(), w.Leader(id), func(d *shard.Draft) error {
			out, err := d.Submit(sub)
			for _, o := range out {
				if o.Code != shard.OK {
					err = errors.Join(err, fmt.Errorf("outcome %+v", o))
				}
			}
			return err
		})
		if err != nil {
			w.t.Fatal(err)
		}
	}
}

// State returns a copy of a partition's state as far as it is exported.
func (w *World) State(tp tiering.TopicPartition) (p shard.Partition) {
	w.View(w.Shard(tp)).Read(func(s *shard.State) {
		from := s.Partition(tp)
		p.Next, p.LogStart, p.Cleaned = from.Next, from.LogStart, from.Cleaned
		p.Manifests, p.Extents, p.Epochs = from.Manifests, from.Extents, from.Epochs
	})
	return p
}

// Seen is a batch as a reader sees it.
type Seen struct {
	Base  int64
	Epoch int32
	Bytes string // of the batch, with base offset and leader epoch patched in
}

// Read returns every batch that the partition's manifests and extents name, read from the
// objects.
func (w *World) Read(tp tiering.TopicPartition) (out []Seen) {
	w.t.Helper()
	p := w.State(tp)
	var extents []tiering.Extent
	for _, m := range p.Manifests {
		data, err := w.Objects.GetRange(context.Background(), m.Object.ManifestKey(), 0, int64(m.Size))
		if err != nil {
			w.t.Fatal(err)
		}
		read, err := manifest.Decode(data)
		if err != nil || read.Partition != tp || read.ID != m.Object {
			w.t.Fatalf("%s: the manifest at %d is of %s: %v", tp, m.Base, read.Partition, err)
		}
		extents = append(extents, read.Extents...)
	}
	extents = append(extents, p.Extents...)
	at := p.LogStart
	if len(extents) > 0 {
		at = extents[0].Base
	}
	for _, e := range extents {
		if e.Base != at {
			w.t.Fatalf("%s: an extent begins at %d, the one before ends at %d", tp, e.Base, at)
		}
		at = e.End()
		out = append(out, w.readExtent(tp, &p, e)...)
	}
	if at != p.Next {
		w.t.Fatalf("%s: the extents end at %d, the log at %d", tp, at, p.Next)
	}
	return out
}

func (w *World) readExtent(tp tiering.TopicPartition, p *shard.Partition, e tiering.Extent) (out []Seen) {
	w.t.Helper()
	if e.IsHole() {
		return nil
	}
	data := e.Inline
	if !e.IsInline() {
		var err error
		if data, err = w.Objects.GetRange(context.Background(), e.Segment.Key(), int64(e.Position), int64(e.Length)); err != nil {
			w.t.Fatalf("%s: the extent at %d: %v", tp, e.Base, err)
		}
	}
	base := e.Base
	for len(data) > 0 {
		v, rest, err := batch.Next(data)
		if err == nil {
			err = v.VerifyCRC()
		}
		if err != nil {
			w.t.Fatalf("%s: a batch at %d: %v", tp, base, err)
		}
		own := append([]byte(nil), v...)
		epoch := shard.EpochAt(p.Epochs, base)
		batch.Patch(own[:batch.PatchSize], int64(base), int32(epoch))
		out = append(out, Seen{int64(base), int32(epoch), string(own)})
		base += tiering.Offset(v.LastOffsetDelta()) + 1
		data = rest
	}
	if base != e.End() {
		w.t.Fatalf("%s: the batches of the extent at %d end at %d, not at %d", tp, e.Base, base, e.End())
	}
	return out
}
