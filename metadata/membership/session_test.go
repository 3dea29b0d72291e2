package membership_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/membership"
	"github.com/floelog/floe/metadata/memory"
	"github.com/floelog/floe/tiering"
)

var keys = metadata.NewKeys("test")

const ttl = membership.DefaultTTL

func config(node membership.NodeID) membership.SessionConfig {
	return membership.SessionConfig{NodeID: node, Address: fmt.Sprintf("host%d:9092", node), RPCAddress: "10.0.0.1:9644",
		Zone: "z1", Version: "1.2.3", Roles: []string{"kafka"}}
}

func mustStart(t *testing.T, store metadata.Store, node membership.NodeID) *membership.Session {
	t.Helper()
	s, err := membership.Start(t.Context(), store, keys, config(node))
	if err != nil {
		t.Fatalf("starting agent %d: %v", node, err)
	}
	return s
}

func mustClose(t *testing.T, s *membership.Session) {
	t.Helper()
	if err := s.Close(context.Background()); err != nil {
		t.Errorf("closing agent %d: %v", s.NodeID(), err)
	}
}

// registered returns the session registered under the node id and whether its key is there.
func registered(t *testing.T, store metadata.Store, s *membership.Session) (agent, session bool) {
	t.Helper()
	kvs, _, err := store.Get(context.Background(), keys.Agent(int32(s.NodeID())), keys.Session(s.ID()))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(kvs[0].Value), s.ID().String()), kvs[1].Exists()
}

func TestNodeIDs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := memory.New()
		defer srv.Close()
		clean := srv.Client("clean")
		var sessions []*membership.Session
		for i, want := range []membership.NodeID{1, 2, 3, 7, 4} {
			node := membership.NodeID(0)
			if i == 3 {
				node = 7
			}
			s := mustStart(t, srv.Client(fmt.Sprint("agent", i)), node)
			if agent, session := registered(t, clean, s); s.NodeID() != want || !agent || !session || !s.Alive() || s.Err() != nil {
				t.Errorf("agent %d has node id %d, want %d; registered %v, session %v, alive %v", i, s.NodeID(), want, agent, session, s.Alive())
			}
			sessions = append(sessions, s)
		}
		mustClose(t, sessions[1])
		if agent, session := registered(t, clean, sessions[1]); agent || session || sessions[1].Alive() || !errors.Is(sessions[1].Err(), membership.ErrClosed) {
			t.Errorf("after Close: registered %v, session %v, alive %v, %v", agent, session, sessions[1].Alive(), sessions[1].Err())
		}
		<-sessions[1].Lost()
		again := mustStart(t, srv.Client("again"), 0)
		if again.NodeID() != 2 || again.ID() == sessions[1].ID() {
			t.Errorf("the lowest free node id is %d, want 2, with a new session", again.NodeID())
		}
		time.Sleep(time.Hour)
		for _, s := range append(sessions, again) {
			if s != sessions[1] && !s.Alive() {
				t.Errorf("agent %d died: %v", s.NodeID(), s.Err())
			}
			mustClose(t, s)
		}
	})
}

func TestHeldNodeIDIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := memory.New()
		defer srv.Close()
		first := mustStart(t, srv.Client("first"), 5)
		defer mustClose(t, first)
		began := time.Now()
		_, err := membership.Start(t.Context(), srv.Client("second"), keys, config(5))
		if !errors.Is(err, membership.ErrNodeIDTaken) || strings.Contains(err.Error(), "\n") ||
			!strings.Contains(err.Error(), "host5:9092") || !strings.Contains(err.Error(), first.ID().String()) {
			t.Errorf("error is %v, want one line that names the holder", err)
		}
		if d := time.Since(began); d < 2*ttl || d > 2*ttl+3*time.Second {
			t.Errorf("refused after %v", d)
		}
		if !first.Alive() {
			t.Error("the holder died of it")
		}
	})
}

func TestRestartTakesOverItsOwnNodeID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := memory.New()
		defer srv.Close()
		dead := srv.Client("dead")
		old := mustStart(t, dead, 5)
		dead.Partition() // as if killed
		began := time.Now()
		s := mustStart(t, srv.Client("restarted"), 5)
		if d := time.Since(began); d > ttl+time.Second {
			t.Errorf("took over after %v, want soon after %v", d, ttl)
		}
		if old.Alive() {
			t.Error("two sessions of a node id are alive")
		}
		mustClose(t, s)
		dead.Heal()
		mustClose(t, old)
	})
}

// A new leader of etcd lets the lease of an agent that was killed live for its whole time again.
func TestRestartOutwaitsAnElection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := memory.New()
		defer srv.Close()
		dead := srv.Client("dead")
		old := mustStart(t, dead, 5)
		dead.Partition() // as if killed
		time.AfterFunc(ttl*9/10, srv.ExtendLeases)
		s := mustStart(t, srv.Client("restarted"), 5)
		mustClose(t, s)
		dead.Heal()
		mustClose(t, old)
	})
}

func TestStartValidates(t *testing.T) {
	for want, cfg := range map[string]membership.SessionConfig{
		"advertised address": {},
		"time to live":       {Address: "a:1", TTL: time.Second},
		"node id -1":         {Address: "a:1", NodeID: -1},
	} {
		srv := memory.New()
		if _, err := membership.Start(t.Context(), srv.Client("x"), keys, cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error is %v, want one about %q", err, want)
		}
		srv.Close()
	}
}

// TestLostInTime stops an agent in several ways: its session must be dead for it no
// later than for the store, and for good.
func TestLostInTime(t *testing.T) {
	for name, tc := range map[string]struct{ stop, resume func(*memory.Client) }{
		"partition": {(*memory.Client).Partition, (*memory.Client).Heal},
		"pause":     {(*memory.Client).Pause, (*memory.Client).Resume},
		"errors": {func(c *memory.Client) { c.Inject(memory.Faults{FailBefore: 1}, rand.New(rand.NewPCG(1, 1))) },
			func(c *memory.Client) { c.Inject(memory.Faults{}, rand.New(rand.NewPCG(1, 1))) }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := memory.New()
				defer srv.Close()
				clean, c := srv.Client("clean"), srv.Client("agent")
				c.Inject(memory.Faults{Latency: 20 * time.Millisecond}, rand.New(rand.NewPCG(1, 1)))
				s := mustStart(t, c, 0)
				time.Sleep(10*ttl + 100*time.Millisecond)
				tc.stop(c)
				began := time.Now()
				<-s.Lost()
				if d := time.Since(began); d > ttl || d < ttl*4/5-200*time.Millisecond {
					t.Errorf("lost after %v, want between 4/5 and all of %v", d, ttl)
				}
				if s.Alive() || !errors.Is(s.Err(), metadata.ErrLeaseLost) {
					t.Errorf("lost, but alive %v, %v", s.Alive(), s.Err())
				}
				if _, session := registered(t, clean, s); !session {
					t.Error("the store ended the session before the agent knew")
				}
				tc.resume(c)
				time.Sleep(ttl)
				if agent, session := registered(t, clean, s); s.Alive() || agent || session {
					t.Errorf("later: alive %v, registered %v, session %v", s.Alive(), agent, session)
				}
				mustClose(t, s)
			})
		})
	}
}

func TestShortOutageIsSurvived(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := memory.New()
		defer srv.Close()
		c := srv.Client("agent")
		s := mustStart(t, c, 0)
		defer mustClose(t, s)
		for range 50 {
			c.Partition()
			time.Sleep(ttl*3/5 + 100*time.Millisecond)
			c.Heal()
			time.Sleep(ttl)
		}
		if !s.Alive() {
			t.Errorf("died: %v", s.Err())
		}
	})
}

func TestRevokedLeaseIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := memory.New()
		defer srv.Close()
		s := mustStart(t, srv.Client("agent"), 0)
		if err := srv.Client("operator").Revoke(t.Context(), s.Lease()); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		<-s.Lost()
		if d := time.Since(began); d > ttl/5 || !errors.Is(s.Err(), metadata.ErrLeaseLost) {
			t.Errorf("noticed after %v: %v", d, s.Err())
		}
		mustClose(t, s)
	})
}

// counting counts puts of session keys.
type counting struct {
	metadata.Store
	mu   sync.Mutex
	puts int
}

func (c *counting) Txn(ctx context.Context, txn metadata.Txn) (metadata.TxnResult, error) {
	c.mu.Lock()
	c.puts++
	c.mu.Unlock()
	return c.Store.Txn(ctx, txn)
}

func TestLowWatermark(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := memory.New()
		defer srv.Close()
		clean, c := srv.Client("clean"), &counting{Store: srv.Client("agent")}
		s := mustStart(t, c, 3)
		check := func(want uint64) {
			t.Helper()
			got, err := membership.Sessions(t.Context(), clean, keys)
			if err != nil || len(got) != 1 || got[s.ID()] != (membership.SessionState{NodeID: 3, LowWatermark: want}) {
				t.Errorf("sessions are %v (%v), want a low watermark of %d", got, err, want)
			}
		}
		check(0)
		s.SetLowWatermark(7)
		synctest.Wait()
		check(7)
		for i := range uint64(1000) {
			s.SetLowWatermark(i)
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(membership.DefaultPublish)
		check(999)
		time.Sleep(time.Hour)
		if c.puts > 5 {
			t.Errorf("%d transactions, want the publications bounded, and none while nothing changes", c.puts)
		}
		// A session whose key is gone is dead.
		if _, err := clean.Txn(t.Context(), metadata.Txn{Then: []metadata.Op{metadata.Delete(keys.Session(s.ID()))}}); err != nil {
			t.Fatal(err)
		}
		s.SetLowWatermark(2000)
		<-s.Lost()
		if !errors.Is(s.Err(), metadata.ErrSessionDead) {
			t.Errorf("the session ended with %v, want that it is dead", s.Err())
		}
		mustClose(t, s)
		if got, err := membership.Sessions(t.Context(), clean, keys); err != nil || len(got) != 0 {
			t.Errorf("sessions after the end are %v, %v", got, err)
		}
	})
}

// TestChaos starts, stops, cuts off and restarts agents while answers are lost and
// requests come late. At every moment, a session that thinks that it lives is in the
// store, and alone with its node id; and no session that was dead lives again.
func TestChaos(t *testing.T) {
	fired := map[memory.Fault]int{}
	started := 0
	for seed := range uint64(40) {
		synctest.Test(t, func(t *testing.T) { started += chaos(t, seed, fired) })
	}
	for _, f := range []memory.Fault{memory.FailBefore, memory.FailAfter, memory.ApplyLate, memory.Partition, memory.LeaseExpiry} {
		if fired[f] == 0 {
			t.Errorf("fault %q never happened", f)
		}
	}
	if started < 1000 {
		t.Errorf("only %d sessions started", started)
	}
}

type population struct {
	mu       sync.Mutex
	sessions map[*membership.Session]bool
}

func chaos(t *testing.T, seed uint64, fired map[memory.Fault]int) (started int) {
	srv := memory.New()
	defer srv.Close()
	var wg sync.WaitGroup
	pop := population{sessions: map[*membership.Session]bool{}}
	for i := range 6 {
		rnd := rand.New(rand.NewPCG(seed, uint64(i)))
		node := membership.NodeID(0)
		if i >= 3 {
			node = membership.NodeID(i - 1) // 2, 3, 4: in the way of those that choose
		}
		wg.Go(func() {
			for life := range 8 {
				c := srv.Client(fmt.Sprintf("agent%d.%d", i, life))
				c.Inject(memory.Faults{Latency: 20 * time.Millisecond, FailBefore: 0.1, FailAfter: 0.15, ApplyLate: 0.15, LateBy: 4 * time.Second},
					rand.New(rand.NewPCG(seed, uint64(100*i+life+10))))
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				s, err := membership.Start(ctx, c, keys, config(node))
				cancel()
				if err != nil {
					if !errors.Is(err, membership.ErrNodeIDTaken) && !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("seed %d: %v", seed, err)
					}
					continue
				}
				pop.mu.Lock()
				pop.sessions[s] = true
				pop.mu.Unlock()
				time.Sleep(time.Duration(rnd.Int64N(int64(20 * time.Second))))
				switch rnd.IntN(3) {
				case 0: // drained
				case 1: // cut off for a while
					c.Partition()
					time.Sleep(time.Duration(rnd.Int64N(int64(2 * ttl))))
					c.Heal()
				case 2: // stalled
					c.Pause()
					time.Sleep(time.Duration(rnd.Int64N(int64(2 * ttl))))
					c.Resume()
				}
				ctx, cancel = context.WithTimeout(t.Context(), time.Second)
				_ = s.Close(ctx) // what cannot be revoked in time ends by itself
				cancel()
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	clean := srv.Client("clean")
	for {
		select {
		case <-done:
			for f, n := range srv.Fired() {
				fired[f] += n
			}
			return len(pop.sessions)
		case <-time.After(37 * time.Millisecond):
			pop.inspect(t, seed, clean)
		}
	}
}

// inspect compares what the sessions think with what the store says. The store is asked
// first: a session that is gone by then must know it when it is asked.
func (p *population) inspect(t *testing.T, seed uint64, clean metadata.Store) {
	live, err := membership.Sessions(context.Background(), clean, keys)
	if err != nil {
		t.Fatal(err)
	}
	agents, err := clean.Range(context.Background(), keys.Agents(), metadata.PrefixEnd(keys.Agents()), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	nodes := map[string]string{} // by session
	for _, kv := range agents.KVs {
		var v struct{ Session string }
		if err := json.Unmarshal(kv.Value, &v); err != nil {
			t.Fatal(err)
		}
		if other, ok := nodes[v.Session]; ok {
			t.Errorf("seed %d: session %s has registered as %s and as %s", seed, v.Session, other, kv.Key)
		}
		nodes[v.Session] = kv.Key
	}
	holders := map[membership.NodeID]tiering.SessionID{}
	p.mu.Lock()
	defer p.mu.Unlock()
	for s, wasAlive := range p.sessions {
		alive := s.Alive()
		if alive && !wasAlive {
			t.Errorf("seed %d: session %s is alive again", seed, s.ID())
		}
		p.sessions[s] = alive
		if !alive {
			continue
		}
		if _, ok := live[s.ID()]; !ok {
			if _, there := registered(t, clean, s); !there { // not one that started meanwhile
				t.Errorf("seed %d: session %s of agent %d thinks that it lives, the store does not", seed, s.ID(), s.NodeID())
			}
		}
		if other, ok := holders[s.NodeID()]; ok {
			t.Errorf("seed %d: sessions %s and %s both have node id %d", seed, s.ID(), other, s.NodeID())
		}
		holders[s.NodeID()] = s.ID()
	}
}

func BenchmarkAlive(b *testing.B) {
	srv := memory.New()
	defer srv.Close()
	s, err := membership.Start(b.Context(), srv.Client("agent"), keys, config(1))
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if !s.Alive() {
			b.Fatal(s.Err())
		}
	}
	if err := s.Close(b.Context()); err != nil {
		b.Fatal(err)
	}
}

// holding keeps the first transaction back without an answer.
type holding struct {
	metadata.Store
	held *metadata.Txn
	then func() // runs after that
}

func (h *holding) Txn(ctx context.Context, txn metadata.Txn) (metadata.TxnResult, error) {
	if h.held == nil {
		h.held = &txn
		h.then()
		return metadata.TxnResult{}, errors.New("no answer")
	}
	return h.Store.Txn(ctx, txn)
}

// TestLateRegistrationIsRefused keeps an attempt to register as 1 back, until the agent
// has become 2 and the one that became 1 meanwhile has gone: one session, one node id.
func TestLateRegistrationIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := memory.New()
		defer srv.Close()
		var other *membership.Session
		h := &holding{Store: srv.Client("late")}
		h.then = func() { other = mustStart(t, srv.Client("other"), 0) }
		s := mustStart(t, h, 0)
		if other.NodeID() != 1 || s.NodeID() != 2 {
			t.Fatalf("node ids are %d and %d, want 1 and 2", other.NodeID(), s.NodeID())
		}
		mustClose(t, other)
		if res, err := h.Store.Txn(t.Context(), *h.held); err != nil || res.Succeeded {
			t.Errorf("the late attempt was applied (%v): one session has two node ids", err)
		}
		mustClose(t, s)
		if res, err := h.Store.Txn(t.Context(), *h.held); res.Succeeded || !errors.Is(err, metadata.ErrLeaseLost) {
			t.Errorf("the late attempt after the end of its session: applied %v, %v", res.Succeeded, err)
		}
	})
}
