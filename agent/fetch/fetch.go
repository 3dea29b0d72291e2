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
//
// All exported methods may be called concurrently.
package fetch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"golang.org/x/sync/errgroup"

	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/cache"
	"github.com/floelog/floe/tiering/objstore"
)

const (
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

	// Admit, if set, is called once before the first record is read, with the bytes that
	// there are. If it returns fewer, they are the limit in the place of MaxBytes; if false,
	// nothing is read.
	Admit func(bytes int) (limit int, ok bool)
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

// Reader serves fetches.
type Reader struct {
	views   Views
	cache   Cache
	waiters *waiters
	hurry   chan struct{} // closed when nobody shall wait any more
	once    sync.Once
}

// NewReader returns a Reader. Its Applied must be told of every record that a view applies.
func NewReader(views Views, c Cache) *Reader {
	return &Reader{views: views, cache: c, waiters: newWaiters(), hurry: make(chan struct{})}
}

// Hurry makes requests that wait, and later ones, answer with what there is: the agent
// drains.
func (r *Reader) Hurry() { r.once.Do(func() { close(r.hurry) }) }

// Applied wakes the requests that wait for what the record brought.
func (r *Reader) Applied(id tiering.ShardID, rec *shard.Record) { r.waiters.applied(id, rec) }

// Fetch answers with as much as the request allows, as soon as MinBytes are there or a
// partition has an error, after MaxWait at the latest. There is one result for each
// partition, in order.
func (r *Reader) Fetch(ctx context.Context, req *Request) []Result {
	results := make([]Result, len(req.Partitions))
	w := r.waiters.register(req.Partitions)
	defer r.waiters.unregister(w)
	deadline := time.NewTimer(max(0, req.MaxWait))
	defer deadline.Stop()
	var plan planned
	for {
		plan = r.plan(ctx, req, results)
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
	r.read(ctx, req, plan.available, results)
	return results
}

// read fills in the records, as far as the request's limit goes: the earlier partitions
// first, the first batch of the first one that has any whatever its size, so that a
// consumer can always make progress (KIP-74). The plan found so many bytes available.
func (r *Reader) read(ctx context.Context, req *Request, available int, results []Result) {
	var due []int // partitions that have something to read
	sum := 0
	for i := range req.Partitions {
		if p := &req.Partitions[i]; results[i].Code == 0 && p.Offset < results[i].end(req.ReadCommitted) {
			due = append(due, i)
			sum += min(p.MaxBytes, req.MaxBytes)
		}
	}
	most := req.MaxBytes
	if len(due) > 0 && req.Admit != nil {
		limit, ok := req.Admit(available)
		if !ok {
			return
		}
		if limit < available {
			most = min(most, limit)
		}
	}
	one := func(n, left int) {
		p, res := &req.Partitions[due[n]], &results[due[n]]
		if limit := min(p.MaxBytes, left); limit > 0 || left == most {
			if err := r.readPartition(ctx, p, wanted{limit, left == most, req.ReadCommitted}, res); err != nil {
				res.Code, res.Records, res.Bytes, res.Aborted = codeOf(err), nil, 0, nil
			}
		}
	}
	if len(due) > 1 && sum <= most {
		// No partition can take what another may have, so none waits for another's GETs. A
		// limit of one byte less than the request's keeps the first-batch rule to the first.
		var g errgroup.Group
		g.SetLimit(readsAtOnce)
		for n := range due {
			g.Go(func() error {
				one(n, most-min(n, 1))
				return nil
			})
		}
		_ = g.Wait() // the functions return nil
		return
	}
	left := most
	for n := range due {
		one(n, left)
		left -= results[due[n]].Bytes
	}
}

// sync waits for the view, for a bounded time: a metadata store that is silent must not
// hold connections.
func (r *Reader) sync(ctx context.Context, id tiering.ShardID) error {
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	return r.views.Sync(ctx, id)
}

// codeOf says what a consumer hears of records that could not be read. Both codes make it
// try again.
func codeOf(err error) int16 {
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.Is(err, cache.ErrClosed):
		return kerr.NotLeaderForPartition.Code
	}
	return kerr.KafkaStorageError.Code
}

// wanted is how much of a partition is read.
type wanted struct {
	limit         int  // in bytes
	oneAtLeast    bool // but the first batch whatever its size
	readCommitted bool
}

// readPartition reads batches from the partition's offset on.
func (r *Reader) readPartition(ctx context.Context, p *Partition, want wanted, res *Result) error {
	for attempt := 1; ; attempt++ {
		run := r.extents(p, want, res)
		if res.Code != 0 {
			return nil
		}
		out := collector{limit: want.limit, oneAtLeast: want.oneAtLeast, from: p.Offset, end: res.end(want.readCommitted)}
		err := r.collect(ctx, p, run, &out)
		if errors.Is(err, objstore.ErrNotFound) && attempt == 1 {
			// The extent may have been replaced since: look again with what is committed now.
			if err := r.sync(ctx, p.Shard); err != nil {
				return err
			}
			continue
		}
		if err != nil && out.bytes == 0 {
			return err
		}
		// What was read before an error is good; the consumer meets the error next time.
		res.Records, res.Bytes = out.slices, out.bytes
		if next := out.next; len(res.Aborted) > 0 {
			res.Aborted = slices.DeleteFunc(res.Aborted, func(a shard.AbortedTransaction) bool { return a.First >= next })
		}
		return nil
	}
}

func (r *Reader) collect(ctx context.Context, p *Partition, run []tiering.Extent, out *collector) error {
	for i := range run {
		if out.full {
			return nil
		}
		data, err := r.bytesOf(ctx, run, i, out.scratch[:0])
		if err != nil {
			return fmt.Errorf("%s: %w", p.Partition, err)
		}
		out.scratch = data
		if err := out.extent(&run[i], data); err != nil {
			return fmt.Errorf("%s: extent at offset %d in segment %s: %w", p.Partition, run[i].Base, run[i].Segment, err)
		}
	}
	return nil
}

// bytesOf returns the bytes of the i-th extent of a run.
func (r *Reader) bytesOf(ctx context.Context, run []tiering.Extent, i int, dst [][]byte) ([][]byte, error) {
	e := &run[i]
	if e.IsInline() {
		return append(dst, e.Inline), nil
	}
	end := e.Position + tiering.Position(e.Length)
	useful := end
	for j := i + 1; j < len(run) && run[j].Segment == e.Segment && run[j].Position == useful; j++ {
		useful += tiering.Position(run[j].Length)
	}
	return r.cache.Read(ctx, cache.Range{Segment: e.Segment, Position: e.Position, Length: int(e.Length), End: useful}, dst)
}

// extents returns the extents from the partition's offset on, and the watermarks that go
// with them: the view may have moved since the plan, and no answer may hold records beyond
// its own high watermark, or skip records that were trimmed meanwhile.
func (r *Reader) extents(p *Partition, want wanted, res *Result) (run []tiering.Extent) {
	r.views.View(p.Shard).Read(func(s *shard.State) {
		ps := s.Partition(p.Partition)
		res.watermarks(ps)
		if p.Offset < ps.LogStart {
			res.Code = kerr.OffsetOutOfRange.Code
			return
		}
		run = ps.Extents[ps.Find(p.Offset):]
		if want.readCommitted {
			// Some of these may lie behind the last batch that fits; but a later look at the view
			// may no longer know those of records that were trimmed meanwhile.
			run = reach(run, res.LastStable, want.limit)
			res.Aborted = nil
			if n := len(run); n > 0 {
				res.Aborted = ps.AbortedIn(p.Offset, min(run[n-1].End(), res.LastStable))
			}
		}
	})
	return run
}

// reach cuts a run of extents behind the last one that a reader comes to who starts within
// the first, stops at end and takes limit bytes, or one batch.
func reach(run []tiering.Extent, end tiering.Offset, limit int) []tiering.Extent {
	n := 0
	for i := range run {
		if run[i].Base >= end {
			return run[:i]
		}
		if i > 0 {
			n += int(run[i].Length)
		}
		if n >= limit {
			return run[:i+1]
		}
	}
	return run
}
