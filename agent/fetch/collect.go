package fetch

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/protocol/batch"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
)

// patchBytes is how much of a batch header differs between what is stored and what is
// served: base offset 8, length 4, leader epoch 4.
const patchBytes = 16

// smallBatch is the size up to which a batch is copied whole, so that answers made of many
// tiny batches do not need two slices for each.
const smallBatch = 1024

// collector gathers whole batches from one offset on, patched, up to a limit.
type collector struct {
	limit      int
	oneAtLeast bool // the first batch is taken whatever its size
	from       tiering.Offset
	end        tiering.Offset // no batch from here on is taken
	until      time.Time      // what it has then is enough
	epochs     []shard.EpochStart
	epoch      int // index of the last batch's

	next    tiering.Offset // behind the last batch that was taken
	hollow  hollow         // what lies behind that
	aborted []abortedOf    // of the manifests that were read, in order
	slices  [][]byte
	bytes   int
	full    bool
	headers []byte // what patched copies are cut from
	scratch [][]byte
}

// hollow is a run of offsets without records that no batch of the answer follows.
type hollow struct{ from, to tiering.Offset }

// errElsewhere says that bytes are those of another place, or that a bit of an offset was flipped.
var errElsewhere = fmt.Errorf("%w: bytes of another place", objstore.ErrCorrupt)

// batches takes those of an extent that data holds, from the batch at offset at on. It returns
// the offset and the number of bytes that it has come to: behind data, unless full.
func (c *collector) batches(e *tiering.Extent, at tiering.Offset, data [][]byte) (next tiering.Offset, used int, err error) {
	in := cursor{slices: data}
	for !in.empty() {
		head, err := in.peek(batch.HeaderSize)
		if err != nil {
			return at, used, err
		}
		size := int(int32(binary.BigEndian.Uint32(head[8:]))) + 12
		last := int32(binary.BigEndian.Uint32(head[23:]))
		if size < batch.HeaderSize || last < 0 || at+tiering.Offset(last) >= e.End() {
			return at, used, fmt.Errorf("%w: a batch of %d bytes and last offset delta %d does not fit the extent", errElsewhere, size, last)
		}
		if at >= c.end {
			c.full = true
			return at, used, nil
		}
		// From level 1 on batches are stored with their own offset: another one says that these are the bytes of
		// another place, which their checksums cannot tell.
		if own := tiering.Offset(binary.BigEndian.Uint64(head)); own != 0 && own != at {
			return at, used, fmt.Errorf("%w: a batch of offset %d lies where that of %d should", errElsewhere, own, at)
		}
		next := at + tiering.Offset(last) + 1
		switch {
		case next <= c.from:
			err = in.skip(size)
		case c.bytes+size > c.limit && (c.bytes > 0 || !c.oneAtLeast):
			c.full = true
			return at, used, nil
		default:
			err = c.take(&in, size, at)
			c.next, c.hollow = next, hollow{}
		}
		if err != nil {
			return at, used, err
		}
		at = next
		used += size
	}
	return at, used, nil
}

// whole is batches for all bytes of an extent.
func (c *collector) whole(e *tiering.Extent, data [][]byte) (tiering.Offset, error) {
	at, _, err := c.batches(e, e.Base, data)
	if err == nil && !c.done() && at != e.End() {
		err = errEnds(e, at)
	}
	return at, err
}

func errEnds(e *tiering.Extent, at tiering.Offset) error {
	return fmt.Errorf("%w: the extent ends at offset %d, its batches at %d", errElsewhere, e.End(), at)
}

// taken is what a collector had at some time.
type taken struct {
	slices int
	last   []byte // the last slice, which emit may have made longer
	bytes  int
	next   tiering.Offset
	hollow hollow
	full   bool
}

func (c *collector) mark() taken {
	t := taken{len(c.slices), nil, c.bytes, c.next, c.hollow, c.full}
	if t.slices > 0 {
		t.last = c.slices[t.slices-1]
	}
	return t
}

// rewind gives back what was taken since.
func (c *collector) rewind(t taken) {
	c.slices = c.slices[:t.slices]
	if t.slices > 0 {
		c.slices[t.slices-1] = t.last
	}
	c.bytes, c.next, c.hollow, c.full = t.bytes, t.next, t.hollow, t.full
}

// done reports whether nothing more will be taken: no batch fits any more, so that nothing has
// to be read to find that out.
func (c *collector) done() bool {
	return c.full || c.bytes > 0 && c.limit-c.bytes < batch.HeaderSize
}

// hole passes offsets that have no records.
func (c *collector) hole(e *tiering.Extent) {
	from, to := max(e.Base, c.from), min(e.End(), c.end)
	if from >= to {
		return
	}
	if c.hollow.to < from { // else it goes on
		c.hollow.from = from
	}
	c.hollow.to = to
}

// finish tells the reader of a hole that the answer ends with: an empty batch, as log
// compaction leaves them in Kafka, moves its position. Without one a reader that wants to
// reach the end of the log, as Kafka Streams does when it restores, would wait for ever.
func (c *collector) finish() error {
	for c.hollow.from < c.hollow.to {
		if c.bytes+batch.HeaderSize > c.limit && (c.bytes > 0 || !c.oneAtLeast) {
			return nil
		}
		f := batch.PlainFields(tiering.NoTimestamp)
		f.BaseOffset, f.LeaderEpoch = int64(c.hollow.from), int32(c.epochAt(c.hollow.from))
		f.LastOffsetDelta = int32(min(int64(c.hollow.to-c.hollow.from)-1, math.MaxInt32))
		b, err := batch.NewBuilder(f).AppendTo(nil)
		if err != nil {
			return err
		}
		c.slices = append(c.slices, b)
		c.bytes += len(b)
		c.hollow.from += tiering.Offset(f.LastOffsetDelta) + 1
		c.next = c.hollow.from
	}
	return nil
}

// epochAt is shard.EpochAt for offsets that never go back. A batch is of one epoch, which the
// extent that it lies in need not be.
func (c *collector) epochAt(offset tiering.Offset) tiering.LeaderEpoch {
	if len(c.epochs) == 0 {
		return -1
	}
	for c.epoch > 0 && c.epochs[c.epoch].Start > offset {
		c.epoch--
	}
	for c.epoch+1 < len(c.epochs) && c.epochs[c.epoch+1].Start <= offset {
		c.epoch++
	}
	return c.epochs[c.epoch].Epoch
}

// take moves one batch from the input to the output.
func (c *collector) take(in *cursor, size int, base tiering.Offset) error {
	copied := patchBytes
	if size <= smallBatch {
		copied = size
	}
	if cap(c.headers)-len(c.headers) < copied {
		c.headers = make([]byte, 0, max(4<<10, copied))
	}
	start := len(c.headers)
	var err error
	if c.headers, err = in.copy(c.headers, copied); err != nil {
		return err
	}
	batch.Patch(c.headers[start:], int64(base), int32(c.epochAt(base)))
	c.emit(c.headers[start:])
	if c.slices, err = in.refer(c.slices, size-copied); err != nil {
		return err
	}
	c.bytes += size
	return nil
}

// emit appends a copied piece, joining it to the one before where they lie side by side.
func (c *collector) emit(b []byte) {
	if n := len(c.slices); n > 0 {
		prev := c.slices[n-1]
		if cap(prev) >= len(prev)+len(b) && len(b) > 0 && &prev[:len(prev)+1][len(prev)] == &b[0] {
			c.slices[n-1] = prev[:len(prev)+len(b)]
			return
		}
	}
	c.slices = append(c.slices, b)
}

// cursor walks bytes that lie in several slices.
type cursor struct {
	slices [][]byte
	at     int // within slices[0]
	spare  [batch.HeaderSize]byte
}

var errShort = fmt.Errorf("%w: the bytes end within a batch", objstore.ErrCorrupt)

func (c *cursor) settle() {
	for len(c.slices) > 0 && c.at == len(c.slices[0]) {
		c.slices, c.at = c.slices[1:], 0
	}
}

func (c *cursor) empty() bool {
	c.settle()
	return len(c.slices) == 0
}

// peek returns the next n bytes, at most a batch header, without moving.
func (c *cursor) peek(n int) ([]byte, error) {
	c.settle()
	if len(c.slices) > 0 && len(c.slices[0])-c.at >= n {
		return c.slices[0][c.at : c.at+n], nil
	}
	got := c.spare[:0]
	at := c.at
	for _, s := range c.slices {
		got = append(got, s[at:min(len(s), at+n-len(got))]...)
		if at = 0; len(got) == n {
			return got, nil
		}
	}
	return nil, errShort
}

// each calls f with the next n bytes, piece by piece, and moves behind them.
func (c *cursor) each(n int, f func([]byte)) error {
	for n > 0 {
		if c.empty() {
			return errShort
		}
		s := c.slices[0]
		m := min(n, len(s)-c.at)
		f(s[c.at : c.at+m : c.at+m])
		c.at += m
		n -= m
	}
	return nil
}

func (c *cursor) skip(n int) error { return c.each(n, func([]byte) {}) }

func (c *cursor) copy(dst []byte, n int) ([]byte, error) {
	err := c.each(n, func(b []byte) { dst = append(dst, b...) })
	return dst, err
}

func (c *cursor) refer(dst [][]byte, n int) ([][]byte, error) {
	err := c.each(n, func(b []byte) { dst = append(dst, b) })
	return dst, err
}
