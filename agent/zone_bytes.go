package agent

import (
	"context"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/floelog/floe/agent/peer"
	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/metadata/membership"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/cache"
)

// The kinds of bytes that are counted by zone.
const (
	kindData     = "data"     // record batches, between clients and this agent
	kindBlock    = "block"    // of segments, from other agents' caches
	kindInline   = "inline"   // record batches inside submissions to shards' leaders
	kindMetadata = "metadata" // everything else of submissions and questions to leaders, estimated
)

// The zones of whoever is at the other end, as they are counted.
const (
	zoneSame    = "same"
	zoneOther   = "other"
	zoneUnknown = "unknown" // a client's or this agent's is not known
)

// zoneBytes counts what this agent moves by the zone at the other end. It implements
// kafka.ZoneTraffic. Its methods may be called concurrently.
type zoneBytes struct {
	zone string // this agent's

	in, out                 map[string]prometheus.Counter // data, by zone
	block, inline, metadata map[string]prometheus.Counter // by zone
}

func newZoneBytes(zone string, reg prometheus.Registerer) *zoneBytes {
	vec := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "floe_zone_bytes_total",
		Help: "Bytes by the zone at the other end: record batches that clients produced (data in) and fetched (data out); blocks that other agents' caches gave (block in); record batches (inline out) and everything else (metadata out, estimated) of what shards' leaders are sent."},
		[]string{"kind", "direction", "zone"})
	reg.MustRegister(vec)
	of := func(kind, direction string, zones ...string) map[string]prometheus.Counter {
		m := map[string]prometheus.Counter{}
		for _, z := range zones { // from the start, so that a rate sees the first bytes
			m[z] = vec.WithLabelValues(kind, direction, z)
		}
		return m
	}
	return &zoneBytes{
		zone: zone,
		in:   of(kindData, "in", zoneSame, zoneOther, zoneUnknown), out: of(kindData, "out", zoneSame, zoneOther, zoneUnknown),
		block: of(kindBlock, "in", zoneSame, zoneOther), inline: of(kindInline, "out", zoneSame, zoneOther),
		metadata: of(kindMetadata, "out", zoneSame, zoneOther),
	}
}

// ofClient compares a client's zone, if that is known, with this agent's.
func (z *zoneBytes) ofClient(zone string) string {
	switch {
	case zone == "" || z.zone == "":
		return zoneUnknown
	case zone == z.zone:
		return zoneSame
	}
	return zoneOther
}

// Produced implements kafka.ZoneTraffic, as does Fetched.
func (z *zoneBytes) Produced(zone string, bytes int) { z.in[z.ofClient(zone)].Add(float64(bytes)) }

func (z *zoneBytes) Fetched(zone string, bytes int) { z.out[z.ofClient(zone)].Add(float64(bytes)) }

// ofAgent compares another agent's zone with this one's; all that have none share it.
func (z *zoneBytes) ofAgent(zone string) string {
	if zone == z.zone {
		return zoneSame
	}
	return zoneOther
}

// over counts what is asked of other agents.
func (z *zoneBytes) over(peers Peers, agents *membership.Agents) Peers {
	c := &countedPeers{Peers: peers, bytes: z, agents: agents}
	if b, ok := peers.(BlockPeers); ok {
		return countedBlockPeers{c, b}
	}
	return c
}

// countedPeers counts what other agents are sent, by their zones.
type countedPeers struct {
	Peers
	bytes  *zoneBytes
	agents *membership.Agents
	known  atomic.Pointer[agentZones]
}

// agentZones are the zones of agents by their RPC addresses, made once per change.
type agentZones struct {
	revision int64
	by       map[string]string
}

// zone compares the zone of the agent at an address with this one's.
func (c *countedPeers) zone(addr string) string {
	view := c.agents.View()
	k := c.known.Load()
	if k == nil || k.revision != view.Revision() {
		k = &agentZones{view.Revision(), map[string]string{}}
		for _, a := range view.All() {
			k.by[a.RPCAddress] = a.Zone
		}
		c.known.Store(k)
	}
	zone, ok := k.by[addr]
	if !ok { // it has just ended
		return zoneOther
	}
	return c.bytes.ofAgent(zone)
}

// Sequence implements Peers, as does Ask.
func (c *countedPeers) Sequence(ctx context.Context, addr string, id tiering.ShardID, s *shard.Submission) ([]shard.Outcome, error) {
	inline := 0
	for i := range s.Parts {
		inline += len(s.Parts[i].Inline)
	}
	zone := c.zone(addr)
	c.bytes.inline[zone].Add(float64(inline))
	c.bytes.metadata[zone].Add(float64(submissionSize(s) - inline))
	return c.Peers.Sequence(ctx, addr, id, s)
}

func (c *countedPeers) Ask(ctx context.Context, addr string, q peer.Question) ([]byte, error) {
	c.bytes.metadata[c.zone(addr)].Add(float64(len(q.Kind) + len(q.Body)))
	return c.Peers.Ask(ctx, addr, q)
}

// countedBlockPeers are countedPeers that give blocks, too.
type countedBlockPeers struct {
	*countedPeers
	blocks BlockPeers
}

// Block implements BlockPeers.
func (c countedBlockPeers) Block(ctx context.Context, addr string, r cache.Range) ([]byte, error) {
	zone := c.zone(addr) // as of now: it may be gone when it has answered
	b, err := c.blocks.Block(ctx, addr, r)
	c.bytes.block[zone].Add(float64(len(b)))
	return b, err
}

// inlineRoom says whether batches of a shard may be committed inline: whether it may take
// more inline bytes, and where its leader is.
func (a *Agent) inlineRoom(id tiering.ShardID) bool {
	return a.set.View(id).InlineBytes() < maxShardInline && (!a.cfg.InlineHere || inZone(a.cfg.Zone, id, a.set, a.agents))
}

// inZone reports whether a shard's leader is known to be of this agent's zone, so that
// record batches inside a submission cross no zone on their way to it.
func inZone(zone string, id tiering.ShardID, set *journal.Set, agents *membership.Agents) bool {
	lead := set.Leadership(id)
	a, ok := agents.View().Agent(membership.NodeID(lead.Node))
	return lead.Live && ok && a.Zone == zone
}
