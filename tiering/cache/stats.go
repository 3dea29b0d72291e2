package cache

// Stats are a cache's counters since New and its gauges of the moment, for metrics.
type Stats struct {
	// Counters.
	TailHits      int64 // ranges served from offered segments
	TailHitBytes  int64
	Hits          int64 // parts of ranges, one per block, that were there
	HitBytes      int64
	Misses        int64 // parts of ranges that waited for a GET
	Prefetches    int64 // GETs started ahead of a reader
	Gets          int64 // GETs sent
	GetErrors     int64 // GETs that failed
	GetBytes      int64 // bytes that GETs brought
	Corrupt       int64 // ranges that did not verify
	EvictedBlocks int64
	EvictedTails  int64
	EvictedBytes  int64

	// Gauges.
	GetsInFlight  int64
	BlockBytes    int64 // held by blocks
	TailBytes     int64 // held by offered segments
	FetchingBytes int64 // reserved by GETs in flight
	Capacity      int64 // bound of the three together
}

// Stats returns the counters and gauges, each exact but not all of one instant.
func (c *Cache) Stats() Stats {
	var out Stats
	for i := range c.stripes {
		s := &c.stripes[i]
		s.mu.Lock()
		out.TailHits += s.counts.TailHits
		out.TailHitBytes += s.counts.TailHitBytes
		out.Hits += s.counts.Hits
		out.HitBytes += s.counts.HitBytes
		out.Misses += s.counts.Misses
		out.Prefetches += s.counts.Prefetches
		s.mu.Unlock()
	}
	l := c.ledger
	l.mu.Lock()
	out.EvictedBlocks, out.EvictedTails, out.EvictedBytes = l.evictedBlocks, l.evictedTails, l.evictedBytes
	out.BlockBytes, out.TailBytes, out.FetchingBytes, out.Capacity = l.blockBytes(), l.tailBytes, l.fetching, l.capacity
	l.mu.Unlock()
	out.Gets, out.GetErrors, out.GetBytes, out.Corrupt = c.gets.Load(), c.getErrors.Load(), c.gotBytes.Load(), c.corrupt.Load()
	out.GetsInFlight = int64(len(c.slots))
	return out
}
