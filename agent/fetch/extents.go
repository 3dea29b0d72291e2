package fetch

import (
	"context"
	"errors"
	"fmt"

	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/cache"
	"github.com/floelog/floe/tiering/objstore"
)

const (
	// looks bound how often a read begins anew because what the view named is gone. Twice is
	// the rule: a view that is up to date names what exists, and it stays for a grace. Once
	// more is for a reader that was stopped for longer than that.
	looks = 3
	// maxWhole is the size up to which an extent is read in one go. Not smaller: a block of the
	// cache is fetched anyway. Not larger: it is held while a batch of it may be all that fits.
	maxWhole = 2 << 20
	// minPiece and maxPiece bound what is read of a larger one at a time, unless a batch is
	// larger. Not smaller: every piece is a walk through the cache. Not larger: see maxWhole.
	minPiece, maxPiece = 256 << 10, 4 << 20
	// maxUseful is how far ahead of a range the cache is told of more. Not less: it is what a
	// fast reader takes in a second. Not more: it is counted again for every extent.
	maxUseful = 64 << 20
)

// look is what one look at a partition found from an offset on. All of it may be kept: it is
// only ever appended to or replaced.
type look struct {
	manifests []shard.Manifest
	extents   []tiering.Extent
	epochs    []shard.EpochStart
	aborted   shard.Aborted
}

func (l *look) take(p *shard.Partition, offset tiering.Offset) {
	l.manifests = p.Manifests[p.FindManifest(offset):]
	l.extents = p.Extents[p.Find(offset):]
	l.epochs, l.aborted = p.Epochs, p.Aborted()
}

// gone says whether an object was not there any more.
func gone(err error) bool { return errors.Is(err, objstore.ErrNotFound) }

// load returns the extents and aborted transactions that a manifest stands for.
func (r *Reader) load(ctx context.Context, tp tiering.TopicPartition, m *shard.Manifest) ([]tiering.Extent, []shard.AbortedTransaction, error) {
	run, aborted, err := r.manifests.Content(objstore.WithPurpose(ctx, objstore.Fetch), tp, *m)
	if err != nil {
		return nil, nil, fmt.Errorf("manifest %s of offset %d: %w", m.Object, m.Base, err)
	}
	if len(run) == 0 || run[0].Base != m.Base || run[len(run)-1].End() != m.End() {
		return nil, nil, fmt.Errorf("manifest %s of offset %d: %w: its extents do not cover %d offsets", m.Object, m.Base, objstore.ErrCorrupt, m.Count)
	}
	return run, aborted, nil
}

// collect goes through manifests and extents until out is full.
func (r *Reader) collect(ctx context.Context, tp tiering.TopicPartition, at *look, cold bool, out *collector) error {
	for i := range at.manifests {
		m := &at.manifests[i]
		if r.enough(out) || m.Base >= out.end {
			break
		}
		run, aborted, err := r.load(ctx, tp, m)
		if err == nil {
			out.aborted = append(out.aborted, abortedOf{m.End(), aborted})
			err = r.collectRun(ctx, run[find(run, out.from):], cold, out)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", tp, err)
		}
	}
	if err := r.collectRun(ctx, at.extents, cold, out); err != nil {
		return fmt.Errorf("%s: %w", tp, err)
	}
	return out.finish()
}

// enough reports whether a read is to end with what it has.
func (r *Reader) enough(out *collector) bool {
	if out.bytes > 0 && r.now().After(out.until) {
		out.full = true
	}
	return out.done()
}

func (r *Reader) collectRun(ctx context.Context, run []tiering.Extent, cold bool, out *collector) error {
	for i := range run {
		e := &run[i]
		if r.enough(out) || e.Base >= out.end {
			return nil
		}
		if e.IsHole() {
			out.hole(e)
			continue
		}
		var at tiering.Offset
		var err error
		if int(e.Length) > max(maxWhole, 2*(out.limit-out.bytes)) && !e.IsInline() {
			at, err = r.collectPieces(ctx, run, i, cold, out)
		} else {
			var data [][]byte
			if data, err = r.bytesOf(ctx, run, i, cold, out.scratch[:0]); err != nil {
				return err
			}
			out.scratch = data
			before := out.mark()
			if at, err = out.whole(e, data); errors.Is(err, errElsewhere) && !e.IsInline() {
				out.rewind(before)
				at, err = r.readAgain(ctx, run, i, cold, out)
			}
		}
		if err == nil && !out.done() && at != e.End() {
			err = errEnds(e, at)
		}
		if err != nil {
			return fmt.Errorf("extent at offset %d in segment %s: %w", e.Base, e.Segment, err)
		}
	}
	return nil
}

// readAgain takes the batches of an extent, whose bytes the cache had from another place, or with a flipped bit,
// from the object store itself.
func (r *Reader) readAgain(ctx context.Context, run []tiering.Extent, i int, cold bool, out *collector) (tiering.Offset, error) {
	r.cache.Renew(r.rangeOf(run, i, cold))
	data, err := r.bytesOf(ctx, run, i, cold, out.scratch[:0])
	if err != nil {
		return run[i].Base, err
	}
	out.scratch = data
	return out.whole(&run[i], data)
}

// collectPieces reads of a large extent what out needs, from where the reader left off.
func (r *Reader) collectPieces(ctx context.Context, run []tiering.Extent, i int, cold bool, out *collector) (tiering.Offset, error) {
	e := &run[i]
	at, pos := r.marks.find(e, out.from)
	in := pieces{run: run, i: i, pos: pos, cold: cold}
	for renewed := false; !out.done() && in.pos < int(e.Length); {
		data, err := r.next(ctx, &in, out.limit-out.bytes, out.scratch[:0])
		if err != nil {
			return at, err
		}
		out.scratch = data
		next, used, err := out.batches(e, at, data)
		at = next
		in.pos += used
		if errors.Is(err, errElsewhere) && !renewed { // what came before it is taken
			renewed = true
			r.cache.Renew(in.rangeOf(r, int(objstore.Body(data).Size())-used))
			continue
		}
		if err != nil {
			return at, err
		}
	}
	if in.pos < int(e.Length) {
		r.marks.add(e, at, in.pos)
	}
	return at, nil
}

// pieces is where a walk through a large extent has come to.
type pieces struct {
	run  []tiering.Extent
	i    int // the extent's index
	pos  int // bytes from the extent's start
	cold bool
}

// rangeOf returns the next n bytes.
func (in *pieces) rangeOf(r *Reader, n int) cache.Range {
	rg := r.rangeOf(in.run, in.i, in.cold)
	rg.Position += tiering.Position(in.pos)
	rg.Length = n
	return rg
}

// next reads the whole batches of the next piece, at least one; size is about what is needed.
func (r *Reader) next(ctx context.Context, in *pieces, size int, dst [][]byte) ([][]byte, error) {
	e := &in.run[in.i]
	left := int(e.Length) - in.pos
	for size = min(max(size, minPiece), maxPiece); ; size *= 2 {
		rg := r.rangeOf(in.run, in.i, in.cold)
		rg.Position += tiering.Position(in.pos)
		rg.Length, rg.Cut = left, size < left-minPiece
		if rg.Cut {
			rg.Length = size
		}
		out, err := r.cache.Read(ctx, rg, dst)
		if err != nil || len(out) > len(dst) {
			return out, err
		}
		if !rg.Cut {
			return dst, fmt.Errorf("%w: nothing was read", objstore.ErrCorrupt)
		}
	}
}

// bytesOf returns the bytes of the i-th extent of a run.
func (r *Reader) bytesOf(ctx context.Context, run []tiering.Extent, i int, cold bool, dst [][]byte) ([][]byte, error) {
	if e := &run[i]; e.IsInline() {
		return append(dst, e.Inline), nil
	}
	return r.cache.Read(ctx, r.rangeOf(run, i, cold), dst)
}

// rangeOf returns where the i-th extent of a run is, and what a reader goes on with.
func (r *Reader) rangeOf(run []tiering.Extent, i int, cold bool) cache.Range {
	e := &run[i]
	useful := e.Position + tiering.Position(e.Length)
	for j := i + 1; j < len(run) && run[j].Segment == e.Segment && run[j].Position == useful && useful < e.Position+maxUseful; j++ {
		useful += tiering.Position(run[j].Length)
	}
	return cache.Range{Segment: e.Segment, Position: e.Position, Length: int(e.Length), End: useful, Rest: run[i+1:], Cold: cold}
}
