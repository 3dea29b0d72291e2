package agent

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/floelog/floe/agent/peer"
	"github.com/floelog/floe/metadata/membership"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/cache"
	"github.com/floelog/floe/tiering/objstore"
)

const (
	// askTimeout bounds a question for a block. Shorter: an owner that has to get it from a slow
	// store is asked in vain. Longer: a reader waits that long for one that is gone.
	askTimeout = time.Second
	// restAfter is for how long an owner that did not answer is not asked again. Shorter: one
	// that is gone, and whose lease still lives, costs a time-out per block. Longer: a zone
	// fetches blocks several times over after a moment's trouble.
	restAfter = 3 * time.Second
	// restOld is the same for one that does not know how to serve blocks.
	restOld = time.Minute
)

// BlockPeers asks other agents for bytes of segments; see peer.Client.
type BlockPeers interface {
	Block(ctx context.Context, addr string, r cache.Range) ([]byte, error)
}

// zone is the agents of this agent's zone, among which the blocks of segments are shared out:
// by rendezvous hashing, so that an agent that comes or goes moves its own share only.
type zone struct {
	name string
	now  func() time.Time

	agents atomic.Pointer[membership.Agents] // nil until the agent is assembled
	self   *atomic.Int32                     // the agent's node id; set before agents
	peers  BlockPeers                        // likewise

	known atomic.Pointer[neighbours]

	mu      sync.Mutex // guards the following
	resting map[string]time.Time
}

var _ cache.Zone = (*zone)(nil)

// neighbours is the list of agents of the zone, this one included, made once per change.
type neighbours struct {
	revision int64
	list     []neighbour
}

type neighbour struct {
	node int32
	addr string
}

func newZone(name string, now func() time.Time) *zone {
	return &zone{name: name, now: now, resting: map[string]time.Time{}}
}

// connect tells the zone who is there and how to ask. Until then, it is this agent alone.
func (z *zone) connect(self *atomic.Int32, agents *membership.Agents, peers BlockPeers) {
	z.self, z.peers = self, peers
	z.agents.Store(agents)
}

func (z *zone) neighbours() *neighbours {
	agents := z.agents.Load()
	if agents == nil {
		return &neighbours{}
	}
	view := agents.View()
	if k := z.known.Load(); k != nil && k.revision == view.Revision() {
		return k
	}
	k := &neighbours{revision: view.Revision()}
	for _, a := range view.All() {
		if a.Zone == z.name && !a.Leaving && a.RPCAddress != "" {
			k.list = append(k.list, neighbour{int32(a.NodeID), a.RPCAddress})
		}
	}
	z.known.Store(k)
	return k
}

// Owner implements cache.Zone. An agent owns a block if the hash of both is greater than that
// with any other agent.
func (z *zone) Owner(segment tiering.SegmentID, start int64) (addr string, elsewhere bool) {
	list := z.neighbours().list
	if len(list) < 2 {
		return "", false
	}
	key := binary.LittleEndian.Uint64(segment.Session[:8]) ^ binary.LittleEndian.Uint64(segment.Session[8:])
	key = mix(key ^ mix(segment.Seq) ^ mix(uint64(start)*0x9e3779b97f4a7c15))
	var owner neighbour
	var most uint64
	for _, n := range list {
		if h := mix(key ^ mix(uint64(n.node))); h >= most {
			owner, most = n, h
		}
	}
	if owner.node == z.self.Load() || z.rests(owner.addr) {
		return "", false
	}
	return owner.addr, true
}

// mix spreads the bits of a number over all of them (the finalizer of MurmurHash3).
func mix(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

func (z *zone) rests(addr string) bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	until, ok := z.resting[addr]
	if ok && !z.now().Before(until) {
		delete(z.resting, addr)
		ok = false
	}
	return ok
}

func (z *zone) rest(addr string, d time.Duration) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.resting[addr] = z.now().Add(d)
}

// Ask implements cache.Zone. An owner that cannot be reached, or not in time, rests. One that
// answers does not, whatever it says: another block it may have.
func (z *zone) Ask(asker context.Context, addr string, p cache.Piece, cold bool) ([]byte, error) {
	ctx, cancel := context.WithTimeout(asker, askTimeout)
	defer cancel()
	b, err := z.peers.Block(ctx, addr, cache.Range{Segment: p.Segment, Position: p.Position, Length: int(p.Length), Cold: cold})
	switch {
	case err == nil || asker.Err() != nil || errors.Is(err, cache.ErrBusy):
	case errors.Is(err, peer.ErrNotServed) || errors.Is(err, objstore.ErrCorrupt):
	case errors.Is(err, peer.ErrNoBlocks):
		z.rest(addr, restOld)
	default:
		z.rest(addr, restAfter)
	}
	return b, err
}
