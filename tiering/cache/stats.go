package cache

import "sync/atomic"

// Stats are a cache's counters since New and its gauges of the moment, for metrics.
type Stats struct {
	// Counters.
	TailHits      int64 // ranges served from offered segments
	TailHitBytes  int64
	Hits          int64 // parts of ranges, one per block, that were there
	HitBytes      int64
	Misses        int64 // parts of ranges that waited for a load
	Prefetches    int64 // loads started ahead of a reader
	DiskHits      int64 // loads from the disk
	DiskHitBytes  int64
	PeerHits      int64 // loads from another agent
	PeerHitBytes  int64
	PeerErrors    int64 // loads that another agent was asked for in vain
	Gets          int64 // GETs sent
	GetErrors     int64 // GETs that failed
	GetBytes      int64 // bytes that GETs brought
	Served        int64 // ranges served to other agents
	ServedBytes   int64
	ServeRefused  int64 // ranges that other agents were refused
	Corrupt       int64 // ranges that did not verify
	EvictedBlocks int64
	EvictedTails  int64
	EvictedBytes  int64

	// Gauges.
	GetsInFlight  int64 // loads from disk and store
	AsksInFlight  int64 // loads from other agents
	BlockBytes    int64 // held by blocks
	ColdBytes     int64 // held by blocks on probation, which BlockBytes includes
	TailBytes     int64 // held by offered segments
	FetchingBytes int64 // reserved by loads in flight
	AheadBytes    int64 // fetched ahead, or being fetched, and not read yet
	Capacity      int64 // bound of blocks, segments and loads together
}

// counters are those of Stats that loads keep.
type counters struct {
	gets, getErrors, gotBytes, corrupt atomic.Int64
	diskHits, diskBytes                atomic.Int64
	peerHits, peerBytes, peerErrors    atomic.Int64
	served, servedBytes, refused       atomic.Int64
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
	out.ColdBytes = l.cold.bytes
	l.mu.Unlock()
	out.DiskHits, out.DiskHitBytes = c.diskHits.Load(), c.diskBytes.Load()
	out.PeerHits, out.PeerHitBytes, out.PeerErrors = c.peerHits.Load(), c.peerBytes.Load(), c.peerErrors.Load()
	out.Gets, out.GetErrors, out.GetBytes, out.Corrupt = c.gets.Load(), c.getErrors.Load(), c.gotBytes.Load(), c.corrupt.Load()
	out.Served, out.ServedBytes, out.ServeRefused = c.served.Load(), c.servedBytes.Load(), c.refused.Load()
	out.GetsInFlight, out.AsksInFlight, out.AheadBytes = int64(len(c.slots)), int64(len(c.asks)), c.ahead.Load()
	return out
}
