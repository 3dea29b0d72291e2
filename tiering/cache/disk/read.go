package disk

import (
	"fmt"
	"hash/crc32"
)

// read serves Gets until the cache is closed.
func (c *Cache) read() {
	for {
		select {
		case r := <-c.reads:
			b, err := c.bytesOf(r)
			switch {
			case err == nil:
				r.done <- b
				continue
			case ofOneFile(err):
				c.bad(r, err)
			default:
				c.fail(err)
			}
			r.done <- nil
		case <-c.stop:
			return
		}
	}
}

// bytesOf reads what a Get wants; nil if it is not there after all.
func (c *Cache) bytesOf(r *reading) ([]byte, error) {
	name := fileName(r.entry.key)
	if r.frames == nil {
		frames, err := readFrames(r.entry.key, r.size, func(b []byte, at int64) error { return c.opts.Files.ReadAt(name, b, at) })
		if err != nil {
			return nil, fmt.Errorf("reading the frames of %s: %w", name, err)
		}
		r.frames = frames
		c.learn(r)
		if frames[len(frames)-1].hi < r.hi {
			return nil, nil
		}
	}
	out := make([]byte, r.hi-r.lo)
	for _, f := range r.frames {
		if f.hi <= r.lo || f.lo >= r.hi {
			continue
		}
		// A frame is read whole, for its checksum, into its place if all of it is wanted.
		whole := f.lo >= r.lo && f.hi <= r.hi
		var b []byte
		if whole {
			b = out[f.lo-r.lo : f.hi-r.lo]
		} else {
			b = make([]byte, f.hi-f.lo)
		}
		if err := c.opts.Files.ReadAt(name, b, f.at); err != nil {
			return nil, fmt.Errorf("reading %s: %w", name, err)
		}
		if crc32.Checksum(b, castagnoli) != f.crc {
			return nil, fmt.Errorf("%w: the checksum of its bytes differs", errFrame)
		}
		if !whole {
			copy(out[max(f.lo, r.lo)-r.lo:], b[max(f.lo, r.lo)-f.lo:min(f.hi, r.hi)-f.lo])
		}
	}
	return out, nil
}

// learn takes note of the frames of a file that was there at the start.
func (c *Cache) learn(r *reading) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := r.entry; c.index.entries[e.key] == e && e.frames == nil {
		c.index.rewrite(e, r.frames, e.size)
	}
}
