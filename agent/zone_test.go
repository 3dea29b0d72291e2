package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/agent/peer"
	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/membership"
	"github.com/floelog/floe/metadata/memory"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/cache"
	"github.com/floelog/floe/tiering/objstore"
)

// blockPeers answers as it is told.
type blockPeers struct {
	mu    sync.Mutex
	err   error
	hang  bool
	asked []string
}

func (p *blockPeers) Block(ctx context.Context, addr string, r cache.Range) ([]byte, error) {
	p.mu.Lock()
	p.asked = append(p.asked, addr)
	err, hang := p.err, p.hang
	p.mu.Unlock()
	if hang {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return make([]byte, r.Length), err
}

// registered is a copy of the agents of a cluster in which some are registered, by zone.
func registered(t *testing.T, zones ...string) (*membership.Agents, []*membership.Session, func()) {
	t.Helper()
	server, keys := memory.New(), metadata.NewKeys("t")
	store := server.Client("test")
	agents := membership.NewAgents(store, keys, membership.AgentsConfig{})
	ctx, stop := context.WithCancel(t.Context())
	var tasks sync.WaitGroup
	tasks.Go(func() { _ = agents.Run(ctx) }) // ends with ctx
	var sessions []*membership.Session
	for i, zone := range zones {
		s, err := membership.Start(ctx, store, keys, membership.SessionConfig{
			NodeID: membership.NodeID(i + 1), Address: "h:1", RPCAddress: fmt.Sprintf("agent%d", i+1), Zone: zone, Version: "t",
		})
		if err != nil {
			t.Fatal(err)
		}
		sessions = append(sessions, s)
	}
	if err := agents.Fresh(ctx); err != nil {
		t.Fatal(err)
	}
	return agents, sessions, func() {
		for _, s := range sessions {
			if err := s.Close(ctx); err != nil {
				t.Error(err)
			}
		}
		stop()
		tasks.Wait()
		server.Close()
	}
}

func zoneOf(agents *membership.Agents, node int32, name string, peers BlockPeers) *zone {
	z, self := newZone(name, time.Now), new(atomic.Int32)
	self.Store(node)
	z.connect(self, agents, peers)
	return z
}

const blocksLooked = 3000

// owners asks an agent for the owners of many blocks.
func owners(z *zone) (out [blocksLooked]string) {
	for i := range out {
		out[i] = "here"
		id := tiering.SegmentID{Session: tiering.SessionID{byte(i % 7)}, Seq: uint64(i / 10)}
		if addr, elsewhere := z.Owner(id, int64(i%10)*cache.DefaultBlockSize); elsewhere {
			out[i] = addr
		}
	}
	return out
}

func TestBlocksAreSharedOutInAZone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agents, sessions, end := registered(t, "a", "a", "b", "a", "")
		defer end()
		var all [3][blocksLooked]string
		nodes := []int32{1, 2, 4}
		count := map[string]int{}
		for i, node := range nodes {
			all[i] = owners(zoneOf(agents, node, "a", nil))
		}
		for i := range blocksLooked {
			owner := ""
			for k, node := range nodes {
				switch o := all[k][i]; {
				case o == "here" && owner == "":
					owner = fmt.Sprintf("agent%d", node)
				case o == "here":
					t.Fatalf("block %d has two owners", i)
				}
			}
			for k, node := range nodes {
				if o := all[k][i]; o != owner && owner != fmt.Sprintf("agent%d", node) {
					t.Fatalf("block %d is owned by %s, agent %d asks %s", i, owner, node, o)
				}
			}
			count[owner]++
		}
		for owner, n := range count {
			if n < blocksLooked/3*8/10 || n > blocksLooked/3*12/10 {
				t.Errorf("%s owns %d of %d blocks", owner, n, blocksLooked)
			}
		}
		for node, zone := range map[int32]string{3: "b", 5: ""} {
			if o := owners(zoneOf(agents, node, zone, nil)); o != [blocksLooked]string(slicesRepeat("here")) {
				t.Errorf("agent %d, alone in its zone, asks others", node)
			}
		}
		// One that leaves gives its share to the others, and theirs stay where they are.
		if err := sessions[3].Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := agents.Fresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		for i, o := range owners(zoneOf(agents, 1, "a", nil)) {
			if before := all[0][i]; o == "agent4" || before != "agent4" && o != before {
				t.Fatalf("block %d: %s, before %s", i, o, before)
			}
		}
	})
}

func slicesRepeat(s string) []string {
	out := make([]string, blocksLooked)
	for i := range out {
		out[i] = s
	}
	return out
}

// An owner that does not answer is left alone for a while; one that is only busy is not.
func TestAnOwnerThatDoesNotAnswerRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agents, _, end := registered(t, "", "")
		defer end()
		p := cache.Piece{Segment: tiering.SegmentID{Session: tiering.SessionID{1}, Seq: 1}, Length: 100}
		for _, tc := range []struct {
			name  string
			err   error
			hang  bool
			took  time.Duration
			rests time.Duration
		}{
			{"it answers", nil, false, 0, 0},
			{"it is busy", fmt.Errorf("asking: %w", cache.ErrBusy), false, 0, 0},
			{"it is gone", errors.New("connection refused"), false, 0, restAfter},
			{"it hangs", nil, true, askTimeout, restAfter},
			{"it has not got the bytes either", fmt.Errorf("asking: %w: not found", peer.ErrNotServed), false, 0, 0},
			{"it answers something else", fmt.Errorf("asking: %w", objstore.ErrCorrupt), false, 0, 0},
			{"it is old", fmt.Errorf("asking: %w", peer.ErrNoBlocks), false, 0, restOld},
		} {
			peers := &blockPeers{err: tc.err, hang: tc.hang}
			z := zoneOf(agents, 1, "", peers)
			for { // some block of the other agent
				if _, elsewhere := z.Owner(p.Segment, 0); elsewhere {
					break
				}
				p.Segment.Seq++
			}
			start := time.Now()
			b, err := z.Ask(t.Context(), "agent2", p, false)
			if took := time.Since(start); took != tc.took || (err == nil) != (tc.name == "it answers") || err == nil && len(b) != 100 {
				t.Errorf("%s: %d bytes, %v after %v", tc.name, len(b), err, took)
			}
			asks := func() bool {
				_, elsewhere := z.Owner(p.Segment, 0)
				return elsewhere
			}
			if tc.rests > 0 {
				time.Sleep(tc.rests - time.Nanosecond)
				if asks() {
					t.Errorf("%s: it is asked again before %v", tc.name, tc.rests)
				}
				time.Sleep(time.Nanosecond)
			}
			if !asks() {
				t.Errorf("%s: it is not asked after %v", tc.name, tc.rests)
			}
		}
	})
}

// An agent that ends, or loses its life, does not take that for its neighbours' fault.
func TestNobodyRestsBecauseTheAskerEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agents, _, end := registered(t, "", "")
		defer end()
		z := zoneOf(agents, 1, "", &blockPeers{hang: true})
		before := owners(z)
		ctx, cancel := context.WithTimeout(t.Context(), askTimeout/2)
		defer cancel()
		p := cache.Piece{Segment: tiering.SegmentID{Session: tiering.SessionID{1}, Seq: 1}, Length: 100}
		if _, err := z.Ask(ctx, "agent2", p, false); err == nil {
			t.Error("no error")
		}
		if after := owners(z); after != before {
			t.Error("an owner rests")
		}
	})
}

func TestAnAgentThatIsNotConnectedAsksNobody(t *testing.T) {
	if o := owners(newZone("", time.Now)); o != [blocksLooked]string(slicesRepeat("here")) {
		t.Error("it asks somebody")
	}
}

func BenchmarkOwner(b *testing.B) {
	server, keys := memory.New(), metadata.NewKeys("t")
	defer server.Close()
	z := newZone("", time.Now)
	z.connect(new(atomic.Int32), membership.NewAgents(server.Client("b"), keys, membership.AgentsConfig{}), nil)
	k := &neighbours{}
	for i := range 20 {
		k.list = append(k.list, neighbour{int32(i), fmt.Sprint("agent", i)})
	}
	z.known.Store(k)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		z.Owner(tiering.SegmentID{Seq: uint64(i)}, 0)
	}
}
