package sim

import (
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"maps"
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/floelog/floe/protocol/batch"
)

// keeping is what a topic's configs say about keeping its records.
type keeping struct {
	compact         bool          // its records have keys, and log compaction may be asked for
	age             time.Duration // retention.ms, below 0: for ever
	bytes           int64         // retention.bytes, below 0: without limit
	deleteRetention time.Duration
	minLag, maxLag  time.Duration
	least           atomic.Int64 // smallest retention.bytes that was asked for

	later     bool        // cleanup.policy is changed when the topic has records
	asked     atomic.Bool // log compaction was asked for
	confirmed bool        // the operator was told that it is
}

func (k *keeping) String() string {
	return fmt.Sprintf("compact %v (later %v) retention %v, %d bytes, deletes %v, lag %v", k.compact, k.later, k.age, k.bytes, k.deleteRetention, k.minLag)
}

// policy is the topic's cleanup.policy in the end.
func (k *keeping) policy() string {
	switch {
	case k.compact && k.age >= 0:
		return "compact,delete"
	case k.compact:
		return "compact"
	}
	return "delete"
}

// keep draws the configs of a topic.
func (w *world) keep(topic string) *keeping {
	r := w.rand("configs " + topic)
	k := &keeping{age: -1, bytes: -1}
	switch r.IntN(6) {
	case 0, 1: // everything is kept
	case 2:
		k.bytes = pick(r, int64(4<<10), 16<<10, 64<<10)
	case 3:
		k.age = pick(r, 2*time.Second, 8*time.Second, 20*time.Second)
	case 4:
		k.compact = true
	case 5:
		k.compact, k.age = true, pick(r, -1, 8*time.Second, 20*time.Second)
	}
	if w.shape.compact && topic == "t0" {
		k.compact, k.bytes = true, -1
	}
	k.deleteRetention = pick(r, time.Second, 3*time.Second, 10*time.Second)
	k.minLag = pick(r, 0, 0, time.Second)
	k.maxLag = max(k.minLag, pick(r, time.Second, time.Hour))
	k.least.Store(k.bytes)
	k.later = k.compact && r.IntN(3) == 0
	k.asked.Store(k.compact && !k.later)
	return k
}

// configs returns what creates such a topic.
func (k *keeping) configs(r *rand.Rand) map[string]string {
	ms := func(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }
	c := map[string]string{"retention.ms": "-1", "retention.bytes": strconv.FormatInt(k.bytes, 10), "segment.ms": ms(pick(r, 2*time.Second, time.Hour))}
	if k.age >= 0 {
		c["retention.ms"] = ms(k.age)
	}
	if !k.compact {
		return c
	}
	if !k.later {
		c["cleanup.policy"] = k.policy()
	}
	c["delete.retention.ms"], c["min.compaction.lag.ms"] = ms(k.deleteRetention), ms(k.minLag)
	c["min.cleanable.dirty.ratio"] = pick(r, "0.01", "0.3")
	c["max.compaction.lag.ms"] = ms(k.maxLag)
	return c
}

// tiers draws how eagerly jobs turn what was written into what is kept: thousands of times
// more so than by default.
func (w *world) tiers(r *rand.Rand) {
	c := &w.config
	c.MergeTarget, c.MergeAge = pick(r, int64(2<<10), 8<<10, 32<<10), pick(r, time.Second, 5*time.Second)
	c.MergeEvery = pick(r, 500*time.Millisecond, 2*time.Second)
	c.ManifestExtents = 2 + r.IntN(6)
	c.CleanEvery, c.CleanMemory = pick(r, 500*time.Millisecond, 2*time.Second), pick(r, int64(64), 512, 64<<10)
	c.GCInterval, c.GCGrace = pick(r, 700*time.Millisecond, 2*time.Second), pick(r, -1, time.Second, 3*time.Second)
	c.RetentionInterval = pick(r, 500*time.Millisecond, 2*time.Second)
	c.CarryAge = pick(r, time.Second, 5*time.Second)
	w.shape.compact = r.IntN(2) == 0
}

// tierNames are what jobs must have done somewhere in a few hundred seeds.
var tierNames = []string{
	"tier replaced", "tier manifest", "tier unarchived", "tier hole", "tier superseded", "tier aborted data", "tier tombstone",
	"tier marker", "tier cleaned", "tier trimmed by age", "tier trimmed by size", "tier trimmed by an operator", "tier deleted segment", "tier deleted manifest",
	"tier deleted snapshot", "tier no effect", "tier list cut", "tier topic again", "tier policy changed",
}

// countTiers counts what jobs have done. The caller holds mu.
func (w *world) countTiers(fired map[string]int) { maps.Copy(fired, w.audit.did) }

// keyedRecord makes the record i of a batch for a compacted topic. No two are alike.
func (p *producer) keyedRecord(name string, i int32, value []byte) batch.Record {
	r := batch.Record{
		OffsetDelta: i, TimestampDelta: int64(i), Key: fmt.Appendf(nil, "k%d", p.rnd.IntN(7)), Value: value,
		Headers: batch.MakeHeaders(batch.Header{Key: []byte("name"), Value: fmt.Appendf(nil, "%s/%d", name, i)}),
	}
	if p.rnd.IntN(5) == 0 {
		r.Value = nil
	}
	return r
}

// recordDigest identifies a record by all that nobody may change.
func recordDigest(r *batch.Record, timestamp int64) uint64 {
	var h maphash.Hash
	h.SetSeed(digestSeed)
	field := func(b []byte) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(b)))
		if b == nil {
			n[0] = 0xff
		}
		h.Write(n[:])
		h.Write(b)
	}
	field(r.Key)
	field(r.Value)
	for x := range r.Headers.All() {
		field(x.Key)
		field(x.Value)
	}
	var t [8]byte
	binary.BigEndian.PutUint64(t[:], uint64(timestamp))
	h.Write(t[:])
	return h.Sum64()
}
