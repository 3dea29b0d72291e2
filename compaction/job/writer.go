package job

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
	"github.com/floelog/floe/tiering/segment"
)

const (
	// changeBytes bounds the changes that are brought to a shard at a time, by estimate: a
	// quarter of a record. More would hold up what clients wait for in the same journal; less
	// would cost more records.
	changeBytes = 256 << 10
	// shardsAtOnce bounds how many shards one segment is committed to at a time. Fewer would
	// take long where a segment holds something of every shard; more would queue in the
	// metadata store.
	shardsAtOnce = 16
)

// Run is what takes the place of a run of one partition's extents: record batches for the
// same offsets.
type Run struct {
	Shard     tiering.ShardID
	Partition tiering.TopicPartition
	Epochs    []shard.EpochStart // of the partition, as the job's view had them

	// Of, With, Cleaned and Unmarked are as in shard.Replace. The extents of With lie end to
	// end and have no segment yet, unless they already have one and keep it; Length is that of
	// their batches, 0 for a hole.
	Of       uint64
	With     []tiering.Extent
	Cleaned  tiering.Offset
	Unmarked []tiering.Offset

	// Data is the batches of those extents of With that are to be stored, in order. They are
	// verified, and nobody changes them any more. A batch may lie across slices.
	Data [][]byte
}

// Carrier has the journal records that travel in the next segment's header.
type Carrier interface {
	Take() []segment.JournalRecord
	GiveBack(records []segment.JournalRecord) // of a segment that was not stored
}

// Tail is offered the segments that are likely to be read soon; see tiering/cache.
type Tail interface {
	Offer(id tiering.SegmentID, body objstore.Body, held int64)
}

// Writer stores what jobs make of extents and lets the shards' journals name it.
type Writer struct {
	Journals Journals
	Segments Segments
	Objects  objstore.Store
	Cluster  [16]byte
	Now      func() time.Time
	Carrier  Carrier // nil: nothing is carried
	Tail     Tail    // nil: nothing is offered
}

// Segment says what Store is to write.
type Segment struct {
	Level   uint8            // 1: runs of many partitions, 2: of one
	Purpose objstore.Purpose // of the request
	Offer   bool             // it holds what is likely to be read soon
	Bare    bool             // it carries no journal records
	Runs    []Run
}

// Store packs the batches of all runs into one segment, each with its own base offset and
// leader epoch in its header, stores it and commits the replacements. A partition's runs lie
// side by side in its chunk, by offset. Runs that come late already are left out; without
// batches, nothing is stored. It returns the bytes that the segment has. The runs are the
// Writer's from now on.
//
// A *CorruptError, if it is not part of another error, says that all went well but for the runs
// that it names. After any other error some of the replacements may be in force; if ctx has
// ended, or if it is an *UnansweredError, some may still come into force.
func (w *Writer) Store(ctx context.Context, seg Segment) (int64, error) {
	slices.SortStableFunc(seg.Runs, func(a, b Run) int {
		if c := a.Partition.Compare(b.Partition); c != 0 {
			return c
		}
		return int(min(1, max(-1, a.With[0].Base-b.With[0].Base)))
	})
	seg.Runs = slices.DeleteFunc(seg.Runs, w.late)
	chunks, runs, corrupt := chunksOf(seg.Runs)
	size, err := w.store(ctx, seg, chunks, runs)
	switch {
	case corrupt == nil:
		return size, err
	case err == nil:
		return size, corrupt
	}
	return size, errors.Join(err, corrupt)
}

// store stores the chunks that the runs' batches are, and commits the replacements.
func (w *Writer) store(ctx context.Context, seg Segment, chunks []segment.Chunk, runs []Run) (int64, error) {
	if len(chunks) == 0 {
		return 0, w.commit(ctx, runs)
	}
	id, done := w.Segments.NextSegment()
	built, err := w.put(ctx, id, seg, chunks)
	if err != nil {
		done()
		return 0, err
	}
	place(id, built.Entries, runs)
	if seg.Offer && w.Tail != nil {
		w.Tail.Offer(id, built.Body, built.Size)
	}
	err = w.commit(ctx, runs)
	done()
	return built.Size, err
}

// CorruptError names runs whose batches do not cover their extents. They were left out. It is an
// objstore.ErrCorrupt.
type CorruptError struct{ Runs []CorruptRun }

// CorruptRun is one of them.
type CorruptRun struct {
	Partition tiering.TopicPartition
	Base      tiering.Offset // of the run
	Err       error
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("%d runs cannot be replaced, the first is of %s from offset %d on: %v", len(e.Runs), e.Runs[0].Partition, e.Runs[0].Base, e.Runs[0].Err)
}

// Unwrap returns what is wrong with each run.
func (e *CorruptError) Unwrap() []error {
	out := make([]error, len(e.Runs))
	for i := range e.Runs {
		out[i] = e.Runs[i].Err
	}
	return out
}

// late reports whether what a run replaces is not there any more, so that nothing is stored for
// it in vain.
func (w *Writer) late(r Run) (late bool) {
	w.Journals.View(r.Shard).Read(func(s *shard.State) {
		of, ok := s.Partition(r.Partition).Digest(r.With[0].Base, r.With[len(r.With)-1].End())
		late = !ok || of != r.Of
	})
	return late
}

// put builds the segment and stores it.
func (w *Writer) put(ctx context.Context, id tiering.SegmentID, seg Segment, chunks []segment.Chunk) (*segment.Built, error) {
	h := segment.Header{Level: seg.Level, ID: id, CreatedAt: w.Now().UnixMilli(), Cluster: w.Cluster}
	carrier := w.Carrier
	if seg.Bare {
		carrier = nil
	}
	if carrier != nil {
		h.Carry = carrier.Take()
	}
	built, err := segment.Build(h, chunks)
	if err == nil {
		err = w.Objects.Put(objstore.WithPurpose(ctx, seg.Purpose), id.Key(), built.Body)
	}
	if err != nil {
		if carrier != nil {
			carrier.GiveBack(h.Carry)
		}
		return nil, fmt.Errorf("storing segment %s of level %d: %w", id, seg.Level, err)
	}
	return built, nil
}

// toStore reports whether the extent's batches are to go into the new segment.
func toStore(e *tiering.Extent) bool { return !e.IsHole() && e.Segment.IsZero() }

// chunksOf stamps the batches of the runs, which are sorted, and gathers them by partition. It
// leaves out, and names, the runs whose batches are not those of their extents: one such
// partition must not hold up all others.
func chunksOf(runs []Run) (chunks []segment.Chunk, good []Run, bad *CorruptError) {
	for i := range runs {
		r := &runs[i]
		data, base, err := stamp(r)
		if err != nil {
			if bad == nil {
				bad = &CorruptError{}
			}
			bad.Runs = append(bad.Runs, CorruptRun{r.Partition, r.With[0].Base, err})
			continue
		}
		good = append(good, *r)
		if len(data) == 0 {
			continue
		}
		if n := len(chunks); n == 0 || chunks[n-1].TopicPartition != r.Partition {
			chunks = append(chunks, segment.Chunk{Shard: r.Shard, TopicPartition: r.Partition, Base: base})
		}
		c := &chunks[len(chunks)-1]
		c.Slices = append(c.Slices, data...)
	}
	return chunks, good, bad
}

// stamp returns the batches of a run that are to be stored, and the base offset of the first.
func stamp(r *Run) (out [][]byte, base tiering.Offset, err error) {
	rest := r.Data
	epochAt := func(at tiering.Offset) tiering.LeaderEpoch { return shard.EpochAt(r.Epochs, at) }
	for k := range r.With {
		e := &r.With[k]
		if !toStore(e) {
			continue
		}
		if len(out) == 0 {
			base = e.Base
		}
		var data [][]byte
		var ok bool
		if data, rest, ok = cut(rest, int64(e.Length)); !ok {
			return nil, 0, fmt.Errorf("%w: %s: less than the %d bytes of the extent at %d", segment.ErrCorrupt, r.Partition, e.Length, e.Base)
		}
		var end tiering.Offset
		if out, end, err = segment.Stamp(out, data, e.Base, epochAt); err != nil {
			return nil, 0, fmt.Errorf("%s: the extent at %d: %w", r.Partition, e.Base, err)
		}
		if end != e.End() {
			return nil, 0, fmt.Errorf("%w: %s: the batches of the extent at %d end at %d, not at %d", segment.ErrCorrupt, r.Partition, e.Base, end, e.End())
		}
	}
	if len(rest) > 0 {
		return nil, 0, fmt.Errorf("%w: %s: more bytes than the extents from %d on have", segment.ErrCorrupt, r.Partition, r.With[0].Base)
	}
	return out, base, nil
}

// cut returns the first n bytes of slices and the rest, which is empty if nothing is left.
func cut(in [][]byte, n int64) (head, rest [][]byte, ok bool) {
	for i, p := range in {
		if int64(len(p)) < n {
			n -= int64(len(p))
			continue
		}
		head = append(append(make([][]byte, 0, i+1), in[:i]...), p[:n:n])
		if rest = in[i+1:]; n < int64(len(p)) {
			rest = append([][]byte{p[n:]}, rest...)
		}
		return head, rest, true
	}
	return nil, nil, false
}

// place tells the extents where their batches lie.
func place(id tiering.SegmentID, entries []segment.Entry, runs []Run) {
	next := make(map[tiering.TopicPartition]tiering.Position, len(entries))
	for i := range entries {
		next[entries[i].TopicPartition] = entries[i].Position
	}
	for i := range runs {
		r := &runs[i]
		for k := range r.With {
			if e := &r.With[k]; toStore(e) {
				e.Segment, e.Position = id, next[r.Partition]
				next[r.Partition] += tiering.Position(e.Length)
			}
		}
	}
}

// UnansweredError says which shards did not answer. It is ErrUnanswered.
type UnansweredError struct {
	Shards []tiering.ShardID
	Err    error // joined, of all of them
}

func (e *UnansweredError) Error() string { return e.Err.Error() }

// Unwrap returns what happened.
func (e *UnansweredError) Unwrap() error { return e.Err }

// commit brings the replacements to each shard and waits for all answers.
func (w *Writer) commit(ctx context.Context, runs []Run) error {
	byShard := map[tiering.ShardID][]shard.Change{}
	for i := range runs {
		r := &runs[i]
		byShard[r.Shard] = append(byShard[r.Shard], shard.Replace{Partition: r.Partition, Of: r.Of, With: r.With, Cleaned: r.Cleaned, Unmarked: r.Unmarked})
	}
	type failure struct {
		id  tiering.ShardID
		err error
	}
	var g errgroup.Group
	g.SetLimit(shardsAtOnce)
	failed := make(chan failure, len(byShard))
	for id, changes := range byShard {
		g.Go(func() error {
			if err := w.change(ctx, id, changes); err != nil {
				failed <- failure{id, err}
			}
			return nil
		})
	}
	_ = g.Wait() // the functions return nil
	close(failed)
	var silent []tiering.ShardID
	var errs []error
	for f := range failed {
		errs = append(errs, f.err)
		if errors.Is(f.err, ErrUnanswered) {
			silent = append(silent, f.id)
		}
	}
	if len(silent) > 0 {
		return &UnansweredError{silent, errors.Join(errs...)}
	}
	return errors.Join(errs...)
}

// change commits a shard's replacements, as many at a time as changeBytes allows. One that is
// refused does not hold up the others; one that is not answered ends it.
func (w *Writer) change(ctx context.Context, id tiering.ShardID, changes []shard.Change) error {
	var errs []error
	for len(changes) > 0 && ctx.Err() == nil {
		n, size := 0, 0
		for n < len(changes) {
			if size += replaceSize(changes[n].(shard.Replace)); n > 0 && size > changeBytes {
				break
			}
			n++
		}
		if err := w.Journals.Change(ctx, id, changes[:n]...); err != nil {
			errs = append(errs, fmt.Errorf("committing %d replacements on shard %d: %w", n, id, err))
			if errors.Is(err, ErrUnanswered) {
				return errors.Join(errs...)
			}
		}
		changes = changes[n:]
	}
	if len(changes) > 0 {
		errs = append(errs, ctx.Err())
	}
	return errors.Join(errs...)
}

// replaceSize estimates from above what a replacement adds to a record.
func replaceSize(r shard.Replace) int { return 80 + 64*len(r.With) + 10*len(r.Unmarked) }
