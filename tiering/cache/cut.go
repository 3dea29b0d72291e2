package cache

// cut shortens what was read, the slices of out behind the first kept ones, to the whole
// batches at its start. It returns how many bytes these have.
func (c *Cache) cut(out [][]byte, kept int) ([][]byte, int64) {
	whole := c.opts.Whole(out[kept:])
	left := whole
	for i := kept; i < len(out); i++ {
		if n := int64(len(out[i])); n <= left {
			left -= n
			continue
		}
		if left > 0 {
			out[i] = out[i][:left:left]
			i++
		}
		return out[:i], whole
	}
	return out, whole
}

// cutParts is cut for what came from blocks: parts that hold nothing of it any more go.
func (c *Cache) cutParts(out [][]byte, kept int, parts []part) ([][]byte, []part) {
	out, left := c.cut(out, kept)
	whole := parts[:0]
	for _, p := range parts {
		p.hi = min(p.hi, p.lo+left)
		left -= p.hi - p.lo
		if p.hi > p.lo {
			whole = append(whole, p)
		}
	}
	return out, whole
}

// Has reports whether a read of the range would be served from memory, as things are.
func (c *Cache) Has(r Range) bool {
	t := c.tailStripe(r.Segment)
	t.mu.Lock()
	offered := t.tails[r.Segment]
	t.mu.Unlock()
	if offered != nil && len(offered.ends) > 0 && r.end() <= offered.ends[len(offered.ends)-1] {
		return true
	}
	size := c.opts.BlockSize
	for n := int64(r.Position) / size; n*size < r.end(); n++ {
		if !c.hasBlock(blockKey{r.Segment, n}, min(r.end()-n*size, size)) {
			return false
		}
	}
	return true
}

func (c *Cache) hasBlock(key blockKey, to int64) bool {
	s := c.stripeOf(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.blocks[key]
	return b != nil && b.content.filled() >= to
}
