package disk

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/floelog/floe/tiering/cache"
)

// writing is a piece that waits to be written.
type writing struct {
	key
	lo        int64
	bytes     []byte
	cancelled bool // the block was dropped meanwhile; guarded by the cache's lock
}

// Put implements cache.Disk.
func (c *Cache) Put(start int64, p cache.Piece, bytes []byte) {
	w := &writing{key: key{p.Segment, start}, lo: int64(p.Position) - start, bytes: bytes}
	c.mu.Lock()
	taken := !c.off && len(bytes) > 0 && c.queued+w.cost() <= c.opts.QueueBytes && w.cost() <= c.opts.Bytes/8
	if taken {
		c.queue = append(c.queue, w)
		c.queued += w.cost()
	}
	c.mu.Unlock()
	if taken {
		c.wake()
		return
	}
	c.skip(int64(len(bytes)))
}

// cost is what a piece counts for while it waits: small ones are more than their bytes.
func (w *writing) cost() int64 { return int64(len(w.bytes)) + 4<<10 }

func (c *Cache) skip(n int64) {
	c.skipped.Add(1)
	c.skippedBytes.Add(n)
}

// wake tells the writer that there is something to do.
func (c *Cache) wake() {
	select {
	case c.work <- struct{}{}:
	default:
	}
}

// write changes files until the cache is closed.
func (c *Cache) write() {
	for {
		select {
		case <-c.work:
		case <-c.stop:
			return
		}
		for c.writeNext() {
			select {
			case <-c.stop:
				return
			default:
			}
		}
	}
}

// writeNext does one thing that there is to do; files that have to go come first.
func (c *Cache) writeNext() bool {
	c.mu.Lock()
	var gone key
	var w *writing
	switch {
	case len(c.doomed) > 0:
		gone = c.doomed[0]
		if c.doomed = c.doomed[1:]; len(c.doomed) == 0 {
			c.doomed = nil
		}
	case len(c.queue) > 0:
		w = c.queue[0]
		c.queue[0] = nil
		c.queue = c.queue[1:]
		c.queued -= w.cost()
		c.writing = w
	default:
		c.mu.Unlock()
		return false
	}
	c.mu.Unlock()
	if w == nil {
		return c.remove(gone)
	}
	return c.store(w)
}

// remove removes a file. When the cache has been given up, it stops at the first error.
func (c *Cache) remove(k key) bool {
	err := c.opts.Files.Remove(fileName(k))
	if err == nil {
		return true
	}
	c.fail(err)
	c.mu.Lock()
	c.doomed = nil
	c.mu.Unlock()
	return false
}

// store writes one piece: into a new file if it is the start of its block, at the end of the
// file if it continues it, and nowhere otherwise.
func (c *Cache) store(w *writing) bool {
	c.mu.Lock()
	e := c.index.entries[w.key]
	appends := w.lo > 0 && e != nil && e.filled() == w.lo && len(e.frames) < maxFrames
	anew := w.lo == 0 && (e == nil || e.frames == nil || e.filled() < int64(len(w.bytes)))
	if !appends && !anew {
		c.writing = nil
		c.mu.Unlock()
		c.skip(int64(len(w.bytes)))
		return true
	}
	size := int64(0)
	var frames []frame
	n := frameHeader + int64(len(w.bytes))
	switch {
	case appends:
		size, frames = e.frames[len(e.frames)-1].end(), e.frames
	case e != nil:
		c.index.remove(e) // readers of the file that it had shall not take the next for bad
		e = nil
	}
	grows := max(size+n, minCost)
	if e != nil {
		grows = max(grows-e.cost(), 0)
	}
	c.doom(c.index.makeRoom(grows, e))
	doomed := len(c.doomed) > 0
	c.mu.Unlock()
	if doomed && !c.clearDoomed() {
		return true
	}

	header, name, err := encodeFrame(w.key, w.lo, w.bytes), fileName(w.key), error(nil)
	if appends {
		err = c.opts.Files.Append(name, size, header, w.bytes)
	} else {
		err = c.opts.Files.Create(name, header, w.bytes)
	}
	f, ferr := decodeFrame(w.key, w.lo, size, header)
	if err == nil {
		err = ferr
	}
	if err != nil {
		c.unwritten(w, e, fmt.Errorf("writing %s: %w", name, err))
		return true
	}
	c.written.Add(int64(len(w.bytes)))
	c.writes.Add(1)
	c.stored(w, append(frames[:len(frames):len(frames)], f), size+n)
	return true
}

// unwritten ends a block that could not be written; e is the entry of the file that was to be
// continued, if any. Trouble with a new file is the disk's. One that is not there any more was removed
// by somebody else, or found bad by a reader while room was made.
func (c *Cache) unwritten(w *writing, e *entry, err error) {
	vanished := e != nil && errors.Is(err, fs.ErrNotExist)
	c.mu.Lock()
	c.writing = nil
	if vanished && c.index.entries[w.key] == e {
		c.index.remove(e)
	}
	c.doomed = append(c.doomed, w.key)
	c.mu.Unlock()
	if vanished {
		c.fault(err)
		return
	}
	c.fail(err)
}

// clearDoomed removes the files that make room, before anything takes it.
func (c *Cache) clearDoomed() bool {
	for {
		c.mu.Lock()
		if len(c.doomed) == 0 {
			ok := !c.off
			if !ok {
				c.writing = nil
			}
			c.mu.Unlock()
			return ok
		}
		k := c.doomed[0]
		c.doomed = c.doomed[1:]
		c.mu.Unlock()
		if !c.remove(k) {
			c.mu.Lock()
			c.writing = nil
			c.mu.Unlock()
			return false
		}
	}
}

// stored takes note of a piece that was written.
func (c *Cache) stored(w *writing, frames []frame, size int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writing = nil
	e := c.index.entries[w.key]
	switch {
	case w.cancelled || c.off:
		if e != nil {
			c.index.remove(e)
		}
		c.doomed = append(c.doomed, w.key)
		c.wake()
	case e != nil:
		c.index.rewrite(e, frames, size)
	case w.lo == 0:
		c.index.add(&entry{key: w.key, frames: frames, size: size})
	default:
		c.doomed = append(c.doomed, w.key) // its beginning has gone meanwhile
		c.wake()
	}
}
