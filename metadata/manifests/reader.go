// Package manifests reads the objects that stand for the older part of a partition's extents
// (shard.Manifest, tiering/manifest) and keeps some of them in memory.
//
// Its callers are agent/fetch, for reads of old offsets and look-ups by timestamp, and the jobs of
// compaction, through job.Manifests, for merging, cleaning and retention. Each agent has one Reader
// for all of these. Who goes through every manifest once (compaction/sweep, fsck) takes one of its
// own with capacity 0, or it would put out of memory what consumers are reading. Manifests are
// written by compaction; nothing is ever invalidated, because objects are immutable.
//
// Invariants:
//  1. What is returned is what the state says of the manifest: partition, name, offsets, bytes and
//     greatest timestamp are compared, and the object's checksum.
//  2. Of each manifest one request is under way at most, whoever asks.
//  3. Memory is bounded by the capacity, beyond what callers hold.
package manifests

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"sync"
	"unsafe"

	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/manifest"
	"github.com/floelog/floe/tiering/objstore"
)

// DefaultCapacity is the memory of an agent's Reader. Not smaller: it holds 700 manifests of 512
// extents, so that as many replays of old data go on without reading a manifest twice. Not
// larger: a manifest that was forgotten costs one small GET per 16 GiB that are read.
const DefaultCapacity = 32 << 20

// overhead is what a manifest takes beyond its extents: the entry, its place in the list and in
// the map.
const overhead = 400

// Reader reads manifests. It may be called concurrently.
type Reader struct {
	store    objstore.Store
	capacity int64

	mu    sync.Mutex
	known map[tiering.SegmentID]*list.Element // of *entry
	used  *list.List                          // the one used last in front
	bytes int64
	under map[tiering.SegmentID]*request
	stats Stats
}

type entry struct {
	object  tiering.SegmentID
	content content
}

// content is a manifest as it was read.
type content struct {
	partition tiering.TopicPartition
	is        shard.Manifest
	extents   []tiering.Extent
	aborted   []shard.AbortedTransaction
}

func (c content) size() int64 {
	return overhead + int64(len(c.extents))*int64(unsafe.Sizeof(tiering.Extent{})) + int64(len(c.aborted))*int64(unsafe.Sizeof(shard.AbortedTransaction{}))
}

// request is one GET that is under way. Its fields may be read when done is closed.
type request struct {
	done    chan struct{}
	content content
	err     error
}

// Stats counts what a Reader did.
type Stats struct {
	Hits, Reads int64 // answered from memory; read from the store
	Bytes       int64 // in memory now
}

// NewReader returns a reader that keeps up to capacity bytes of manifests; 0 keeps none.
func NewReader(store objstore.Store, capacity int64) *Reader {
	return &Reader{
		store: store, capacity: capacity,
		known: map[tiering.SegmentID]*list.Element{}, used: list.New(), under: map[tiering.SegmentID]*request{},
	}
}

// Stats returns the counters.
func (r *Reader) Stats() Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.stats
	s.Bytes = r.bytes
	return s
}

// Extents returns the extents that m, a manifest of tp's state, stands for, ascending. The slice
// is shared: nobody may change it. objstore.ErrNotFound if the object is gone: who took m from a
// view that is old asks again with a newer one. objstore.ErrCorrupt if the object is not what m
// says. The requests' purpose is that of ctx, see objstore.WithPurpose.
func (r *Reader) Extents(ctx context.Context, tp tiering.TopicPartition, m shard.Manifest) ([]tiering.Extent, error) {
	c, err := r.checked(ctx, tp, m)
	return c.extents, err
}

// Content is Extents, and the aborted transactions that have an offset of m's between their first
// record and their marker, ascending by Last. Both are shared.
func (r *Reader) Content(ctx context.Context, tp tiering.TopicPartition, m shard.Manifest) ([]tiering.Extent, []shard.AbortedTransaction, error) {
	c, err := r.checked(ctx, tp, m)
	return c.extents, c.aborted, err
}

func (r *Reader) checked(ctx context.Context, tp tiering.TopicPartition, m shard.Manifest) (content, error) {
	c, err := r.content(ctx, m)
	if err == nil {
		err = c.check(tp, m)
	}
	if err != nil {
		return content{}, fmt.Errorf("reading the manifest %s of %s from offset %d: %w", m.Object, tp, m.Base, err)
	}
	return c, nil
}

// check compares what was read with what the state says.
func (c content) check(tp tiering.TopicPartition, m shard.Manifest) error {
	switch {
	case c.partition != tp:
		return fmt.Errorf("%w: it is of %s", objstore.ErrCorrupt, c.partition)
	case c.is != m:
		return fmt.Errorf("%w: it is %+v, the state says %+v", objstore.ErrCorrupt, c.is, m)
	}
	return nil
}

// content returns a manifest from memory, or from the store with whoever else wants it.
func (r *Reader) content(ctx context.Context, m shard.Manifest) (content, error) {
	for {
		r.mu.Lock()
		if e := r.known[m.Object]; e != nil {
			r.used.MoveToFront(e)
			r.stats.Hits++
			c := e.Value.(*entry).content
			r.mu.Unlock()
			return c, nil
		}
		q := r.under[m.Object]
		if q == nil {
			q = &request{done: make(chan struct{})}
			r.under[m.Object] = q
			r.stats.Reads++
			r.mu.Unlock()
			return r.do(ctx, m, q)
		}
		r.mu.Unlock()
		select {
		case <-q.done:
			if abandoned(q.err) {
				continue // the one that asked has gone: it is this caller's turn
			}
			return q.content, q.err
		case <-ctx.Done():
			return content{}, context.Cause(ctx)
		}
	}
}

// abandoned reports whether a request ended because its own caller did not want it any more.
func abandoned(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// do reads the object in the name of all that wait for q.
func (r *Reader) do(ctx context.Context, m shard.Manifest, q *request) (content, error) {
	q.content, q.err = read(ctx, r.store, m)
	r.mu.Lock()
	delete(r.under, m.Object)
	if q.err == nil {
		r.keep(m.Object, q.content)
	}
	r.mu.Unlock()
	close(q.done)
	return q.content, q.err
}

// keep remembers a manifest in place of those that were not used for the longest time.
func (r *Reader) keep(object tiering.SegmentID, c content) {
	if c.size() > r.capacity {
		return
	}
	r.bytes += c.size()
	r.known[object] = r.used.PushFront(&entry{object, c})
	for r.bytes > r.capacity {
		last := r.used.Remove(r.used.Back()).(*entry)
		delete(r.known, last.object)
		r.bytes -= last.content.size()
	}
}

func read(ctx context.Context, store objstore.Store, m shard.Manifest) (content, error) {
	if m.Size < 1 || m.Size > manifest.MaxBytes {
		return content{}, fmt.Errorf("%w: the state says that it has %d bytes", objstore.ErrCorrupt, m.Size)
	}
	b, err := store.GetRange(ctx, m.Object.ManifestKey(), 0, int64(m.Size))
	if err != nil {
		return content{}, err
	}
	got, err := manifest.Decode(b)
	if err != nil {
		return content{}, err
	}
	aborted := make([]shard.AbortedTransaction, len(got.Aborted))
	for i, a := range got.Aborted {
		aborted[i] = shard.AbortedTransaction(a)
	}
	return content{got.Partition, shard.ManifestOf(got.ID, m.Size, got.Extents), got.Extents, aborted}, nil
}
