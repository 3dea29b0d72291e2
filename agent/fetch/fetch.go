// Package fetch serves reads from a shard's view: it plans which extents answer a request,
// reads their bytes (inline ones from the view, others through the cache), patches the
// offsets in, and lets requests that found too little wait for commits.
//
// Invariants:
//  1. Only committed records are served: what the view holds, below its next offset.
//  2. An offset is called out of range only after a linearizable read of the shard's head
//     (RELIABILITY I22); a reader ahead of a lagging view waits for the view.
//  3. Waiting requests wait for events, never in turn: any partition's commit wakes them.
//  4. A read_committed request sees only what lies below the last stable offset, and is told of
//     every aborted transaction in it, by the same look at the view: both never go back, and
//     a view that lags knows less of both.
//  5. Cached bytes are shared between readers and never changed: the 16 bytes that differ
//     (base offset, leader epoch) are written into a copy.
//  6. Whatever it needs, a read takes from one look at the view: which objects there are,
//     where leader epochs begin, what was aborted. What a look says stays true; only objects
//     go, and then another look is taken.
//  7. A reader always gets on: where all records up to the end have been removed, an empty
//     batch tells it so.
//  8. Readers that catch up never hold what readers of the tail wait for: see Lane.
//
// All exported methods may be called concurrently.
package fetch

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/cache"
)

const (
	// DefaultNewest is how many bytes at a partition's end have readers that do not lag. Not
	// fewer: a partition written at 100 MB/s moves that much while a consumer takes two
	// answers. Not more: it is a third of the default cache.
	DefaultNewest = 64 << 20
	// DefaultLaggingReads lagging partitions are read at a time. Not fewer: a read of
	// small extents waits for one GET, and it takes this many to fill a network. Not more: each
	// holds a piece of an extent, and the cache has GETs of others to make.
	DefaultLaggingReads = 16
	// laggingPatience is how long a request waits for memory and for places to read lagging
	// partitions. Not shorter: it gives up its place in the line. Not longer: clients
	// give up after 30 s.
	laggingPatience = 5 * time.Second
	// mixedPatience is that of a request that has records at the tail of others to read, too. Not
	// shorter: it would hardly ever come to read those that lag while many do. Not
	// longer: the records that it has wait.
	mixedPatience = 500 * time.Millisecond
	// readTime is how long a request reads before it answers with what it has. Not shorter: a slow
	// store would make for many small answers. Not longer: a client that gives up has all of it
	// read again, and would never get on where that takes longer than its patience.
	readTime = 5 * time.Second
	// readsAtOnce bounds the partitions of one request that are read at a time: enough to
	// hide a GET's latency, few enough to leave the cache's GETs to others.
	readsAtOnce = 8
	// syncTimeout bounds a look at the metadata store: shorter than clients' patience,
	// longer than an election there.
	syncTimeout = 5 * time.Second
)

// Cache reads byte ranges of segments.
type Cache interface {
	Read(ctx context.Context, r cache.Range, dst [][]byte) ([][]byte, error)
	// Has reports whether Read would not have to wait.
	Has(r cache.Range) bool
	// Renew has the next Read of the range ask the object store itself.
	Renew(r cache.Range)
}

// Manifests reads the extents that a manifest stands for, ascending, whose epochs nobody needs, and
// the aborted transactions that have an offset of its, ascending by Last. The slices are shared: nobody
// may change them. The error is objstore.ErrNotFound if the object is gone.
type Manifests interface {
	Content(ctx context.Context, tp tiering.TopicPartition, m shard.Manifest) ([]tiering.Extent, []shard.AbortedTransaction, error)
}

// Observer counts reads. Its methods must return quickly.
type Observer interface {
	// Fetched tells of one read of one partition.
	Fetched(lane Lane, bytes int)
	// Lagged tells how long the read of a lagging partition waited for its place, or, where
	// not admitted, before it was given up for this time.
	Lagged(waited time.Duration, admitted bool)
}

// Views are this agent's views of the shards.
type Views interface {
	View(id tiering.ShardID) *journal.View
	Sync(ctx context.Context, ids ...tiering.ShardID) error
}

// Partition is what a request asks of one partition.
type Partition struct {
	Partition tiering.TopicPartition
	Shard     tiering.ShardID
	Offset    tiering.Offset
	MaxBytes  int
}

// Request asks for records of several partitions.
type Request struct {
	MinBytes   int
	MaxBytes   int
	MaxWait    time.Duration
	Partitions []Partition

	// ReadCommitted asks for what lies below the last stable offset only (KIP-98).
	ReadCommitted bool

	// Admit, if set, is called once for each lane before its first record is read, with the
	// bytes that there are. What it returns is the limit in the place of MaxBytes, if less; if
	// false, nothing is read in the lane. It must not wait longer than ctx.
	Admit func(ctx context.Context, lane Lane, bytes int) (limit int, ok bool)
}

// Result is the answer for one partition.
type Result struct {
	Code          int16 // Kafka's error code
	HighWatermark tiering.Offset
	LastStable    tiering.Offset
	LogStart      tiering.Offset
	Aborted       []shard.AbortedTransaction // with offsets among the records, ascending by Last; where ReadCommitted
	Records       [][]byte                   // whole batches, patched; immutable
	Bytes         int                        // of Records
	Lane          Lane                       // in which they were read

	there  int  // bytes to read, as planned
	behind bool // and they are not the newest
}

// end returns where the offsets that a request may see end.
func (r *Result) end(readCommitted bool) tiering.Offset {
	if readCommitted {
		return r.LastStable
	}
	return r.HighWatermark
}

// watermarks fills in what a look at a partition says of it as a whole.
func (r *Result) watermarks(p *shard.Partition) {
	r.HighWatermark, r.LastStable, r.LogStart = p.Next, p.LastStable(), p.LogStart
}

// Config bounds a Reader. Zero values stand for the defaults.
type Config struct {
	Newest       int // bytes at a partition's end that are never read in the lagging lane
	LaggingReads int // partitions that are read at a time in the lagging lane
}

// Parts are what a Reader works with.
type Parts struct {
	Views     Views
	Cache     Cache
	Manifests Manifests
	Observe   Observer // nil: nobody
	Now       func() time.Time
}

// Reader serves fetches.
type Reader struct {
	views     Views
	cache     Cache
	manifests Manifests
	observe   Observer
	now       func() time.Time
	newest    int
	lagging   places
	yield     yield
	marks     *marks
	waiters   *waiters
	hurry     chan struct{} // closed when nobody shall wait any more
	once      sync.Once
}

// NewReader returns a Reader. Its Applied must be told of every record that a view applies.
func NewReader(cfg Config, parts Parts) *Reader {
	r := &Reader{
		views: parts.Views, cache: parts.Cache, manifests: parts.Manifests, observe: parts.Observe, now: parts.Now,
		newest:  cmp.Or(cfg.Newest, DefaultNewest),
		lagging: make(places, cmp.Or(cfg.LaggingReads, DefaultLaggingReads)),
		yield:   yield{now: parts.Now},
		marks:   newMarks(), waiters: newWaiters(), hurry: make(chan struct{}),
	}
	if r.observe == nil {
		r.observe = unobserved{}
	}
	return r
}

type unobserved struct{}

func (unobserved) Fetched(Lane, int)          {}
func (unobserved) Lagged(time.Duration, bool) {}

// Hurry makes requests that wait, and later ones, answer with what there is: the agent
// drains.
func (r *Reader) Hurry() { r.once.Do(func() { close(r.hurry) }) }

// Applied wakes the requests that wait for what the record brought.
func (r *Reader) Applied(id tiering.ShardID, rec *shard.Record) { r.waiters.applied(id, rec) }

// Committed tells how long a commit took that this agent made: lagging readers give way if that
// becomes much longer than it was.
func (r *Reader) Committed(took time.Duration) { r.yield.committed(took) }

// Fetch answers with as much as the request allows, as soon as MinBytes are there or a
// partition has an error, after MaxWait at the latest. There is one result for each
// partition, in order.
func (r *Reader) Fetch(ctx context.Context, req *Request) []Result {
	results := make([]Result, len(req.Partitions))
	w := r.waiters.register(req.Partitions)
	defer r.waiters.unregister(w)
	deadline := time.NewTimer(max(0, req.MaxWait))
	defer deadline.Stop()
	for {
		plan := r.plan(ctx, req, results)
		if plan.failed || plan.available >= req.MinBytes || req.MaxWait <= 0 {
			break
		}
		select {
		case <-w.wake:
			continue
		case <-deadline.C:
		case <-r.hurry:
		case <-ctx.Done():
		}
		break
	}
	r.read(ctx, req, results)
	return results
}

// sync waits for the view, for a bounded time: a metadata store that is silent must not
// hold connections.
func (r *Reader) sync(ctx context.Context, id tiering.ShardID) error {
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	return r.views.Sync(ctx, id)
}

// codeOf says what a consumer hears of records that could not be read, by a request's context. Both
// codes make it try again.
func codeOf(ctx context.Context, err error) int16 {
	if ctx.Err() != nil || errors.Is(err, context.Canceled) || errors.Is(err, cache.ErrClosed) {
		return kerr.NotLeaderForPartition.Code // this agent is about to end
	}
	return kerr.KafkaStorageError.Code
}
