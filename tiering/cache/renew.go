package cache

// Renew lets the next Read of the range have its bytes from the object store: whoever reads
// them has found that they are those of another place, which their checksums cannot tell. What memory, disk
// and this agent's own uploads hold of the blocks that the range lies in is dropped. The caller reads the range
// again at once.
func (c *Cache) Renew(r Range) {
	if !r.valid() {
		return
	}
	c.corrupt.Add(1)
	s := c.tailStripe(r.Segment)
	s.mu.Lock()
	delete(s.tails, r.Segment) // the ledger counts it until it is displaced
	s.mu.Unlock()
	var parts []part
	for n := int64(r.Position) / c.opts.BlockSize; n <= (r.end()-1)/c.opts.BlockSize; n++ {
		key := blockKey{r.Segment, n}
		s := c.stripeOf(key)
		s.mu.Lock()
		parts = append(parts, part{block: s.blockAt(key, order{cold: r.Cold})})
		s.mu.Unlock()
	}
	c.renew(parts, false)
}
