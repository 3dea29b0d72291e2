package agent

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/floelog/floe/metadata/membership"
	"github.com/floelog/floe/tiering/cache"
	"github.com/floelog/floe/tiering/cache/disk"
	"github.com/floelog/floe/tiering/segment"
)

// tiers are where the bytes of segments come from: memory, a disk if there is one, the other
// agents of the zone, the object store.
type tiers struct {
	cache *cache.Cache
	disk  *disk.Cache // nil: none
	zone  *zone       // nil: other agents are not asked
	log   *slog.Logger
}

func newTiers(cfg *Config, parts *Parts) (*tiers, error) {
	t := &tiers{log: parts.Log}
	from := cache.Parts{Store: parts.Objects, Verify: segment.VerifyBatches}
	if _, ok := parts.Peers.(BlockPeers); ok || parts.Peers == nil {
		t.zone = newZone(cfg.Zone, time.Now)
		from.Zone = t.zone
	}
	if cfg.CacheDiskDir != "" {
		d, err := disk.Open(disk.Options{Dir: cfg.CacheDiskDir, Bytes: cfg.CacheDiskBytes}, parts.Log)
		if err != nil {
			return nil, err
		}
		t.disk, from.Disk = d, d
	}
	var err error
	if t.cache, err = cache.NewOver(from, cache.Options{Whole: segment.WholeBatches, Capacity: cfg.CacheBytes}); err != nil {
		t.closeDisk()
		return nil, err
	}
	return t, nil
}

// connect lets the cache ask the other agents of the zone, if there is a way to ask them.
func (t *tiers) connect(self *atomic.Int32, agents *membership.Agents, peers Peers) {
	if b, ok := peers.(BlockPeers); ok && t.zone != nil {
		t.zone.connect(self, agents, b)
	}
}

// close ends what the agent reads from; nothing reads any more.
func (t *tiers) close() {
	t.cache.Close()
	t.closeDisk()
}

func (t *tiers) closeDisk() {
	if t.disk == nil {
		return
	}
	if err := t.disk.Close(); err != nil {
		t.log.Warn("closing the disk cache", "err", err)
	}
}

// BlockHere returns bytes of a segment that another agent of the zone asks for.
func (a *Agent) BlockHere(ctx context.Context, r cache.Range) ([][]byte, error) {
	return a.cache.Serve(ctx, r)
}

// register exposes what the cache knows of itself when it is asked for.
func (t *tiers) register(reg prometheus.Registerer) {
	gauge := func(name, help string, f func() int64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(f()) }))
	}
	counter := func(name, help string, labels prometheus.Labels, f func() int64) {
		reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels}, func() float64 { return float64(f()) }))
	}
	c := t.cache
	byTier := func(tier string, hits, bytes func(s cache.Stats) int64) {
		labels := prometheus.Labels{"tier": tier}
		counter("floe_cache_reads_total", "Blocks, or parts of them, that reads and read-ahead had, by the tier that they came from.", labels, func() int64 { return hits(c.Stats()) })
		counter("floe_cache_read_bytes_total", "Bytes that reads and read-ahead had, by the tier that they came from.", labels, func() int64 { return bytes(c.Stats()) })
	}
	byTier("memory", func(s cache.Stats) int64 { return s.Hits + s.TailHits }, func(s cache.Stats) int64 { return s.HitBytes + s.TailHitBytes })
	byTier("disk", func(s cache.Stats) int64 { return s.DiskHits }, func(s cache.Stats) int64 { return s.DiskHitBytes })
	byTier("peer", func(s cache.Stats) int64 { return s.PeerHits }, func(s cache.Stats) int64 { return s.PeerHitBytes })
	byTier("store", func(s cache.Stats) int64 { return s.Gets - s.GetErrors }, func(s cache.Stats) int64 { return s.GetBytes })
	counter("floe_cache_prefetches_total", "Blocks fetched ahead of sequential readers.", nil, func() int64 { return c.Stats().Prefetches })
	counter("floe_cache_peer_errors_total", "Blocks that another agent of the zone was asked for in vain.", nil, func() int64 { return c.Stats().PeerErrors })
	counter("floe_cache_served_total", "Blocks served to other agents of the zone.", nil, func() int64 { return c.Stats().Served })
	counter("floe_cache_served_bytes_total", "Bytes served to other agents of the zone.", nil, func() int64 { return c.Stats().ServedBytes })
	counter("floe_cache_serve_refused_total", "Blocks that other agents of the zone were refused.", nil, func() int64 { return c.Stats().ServeRefused })
	gauge("floe_cache_ahead_bytes", "Bytes fetched ahead, or being fetched, that nobody has read yet.", func() int64 { return c.Stats().AheadBytes })
	gauge("floe_cache_cold_bytes", "Bytes of cached blocks that only lagging readers asked for.", func() int64 { return c.Stats().ColdBytes })
	if d := t.disk; d != nil {
		gauge("floe_cache_disk_capacity_bytes", "Bytes that the disk cache may hold.", func() int64 { return d.Stats().Capacity })
		gauge("floe_cache_disk_bytes", "Bytes that the disk cache holds.", func() int64 { return d.Stats().Bytes })
		gauge("floe_cache_disk_given_up", "1 after the folder of the disk cache failed, until the next start.", func() int64 {
			if d.Stats().GivenUp {
				return 1
			}
			return 0
		})
		counter("floe_cache_disk_written_bytes_total", "Bytes written to the disk cache.", nil, func() int64 { return d.Stats().WrittenBytes })
		counter("floe_cache_disk_skipped_bytes_total", "Bytes that were not written to the disk cache, which had no time or place for them.", nil, func() int64 { return d.Stats().SkippedBytes })
		counter("floe_cache_disk_corrupt_total", "Blocks of the disk cache whose file was bad.", nil, func() int64 { return d.Stats().Corrupt })
		counter("floe_cache_disk_slow_total", "Reads of the disk cache that took too long.", nil, func() int64 { return d.Stats().Slow })
	}
}
