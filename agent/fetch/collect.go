package fetch

import (
	"encoding/binary"
	"fmt"

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

	next    tiering.Offset // behind the last batch that was taken
	slices  [][]byte
	bytes   int
	full    bool
	headers []byte // what patched copies are cut from
	scratch [][]byte
}

// extent takes the batches of one extent, which are data.
func (c *collector) extent(e *tiering.Extent, data [][]byte) error {
	in := cursor{slices: data}
	next := e.Base
	for !in.empty() {
		head, err := in.peek(batch.HeaderSize)
		if err != nil {
			return err
		}
		size := int(int32(binary.BigEndian.Uint32(head[8:]))) + 12
		last := int32(binary.BigEndian.Uint32(head[23:]))
		if size < batch.HeaderSize || last < 0 || next+tiering.Offset(last) >= e.End() {
			return fmt.Errorf("%w: a batch of %d bytes and last offset delta %d does not fit the extent", objstore.ErrCorrupt, size, last)
		}
		base := next
		if base >= c.end {
			c.full = true
			return nil
		}
		next += tiering.Offset(last) + 1
		if next <= c.from {
			if err := in.skip(size); err != nil {
				return err
			}
			continue
		}
		if c.bytes+size > c.limit && (c.bytes > 0 || !c.oneAtLeast) {
			c.full = true
			return nil
		}
		if err := c.take(&in, size, base, e.Epoch); err != nil {
			return err
		}
		c.next = next
	}
	if next != e.End() {
		return fmt.Errorf("%w: the extent ends at offset %d, its batches at %d", objstore.ErrCorrupt, e.End(), next)
	}
	return nil
}

// take moves one batch from the input to the output.
func (c *collector) take(in *cursor, size int, base tiering.Offset, epoch tiering.LeaderEpoch) error {
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
	batch.Patch(c.headers[start:], int64(base), int32(epoch))
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
