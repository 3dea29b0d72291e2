package journal_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/memory"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// chaos lets some agents share some shards while everything goes wrong that the store can
// do, and checks afterwards what they said against what was written.
type chaos struct {
	*world
	rnd  *rand.Rand // of the test's own goroutine
	last atomic.Int64
	wg   sync.WaitGroup
	quit chan struct{}

	mu        sync.Mutex // guards the following
	running   map[int32]*agent
	proposals map[int64]*proposal
}

type proposal struct {
	shard   tiering.ShardID
	answers []answer
}

const (
	chaosAgents = 3
	chaosShards = 2
)

func someFaults(rnd *rand.Rand) memory.Faults {
	latency := time.Duration(1+rnd.IntN(20)) * time.Millisecond
	if rnd.IntN(6) == 0 {
		latency = 4 * time.Second // calls are given up on their way, and arrive all the same
	}
	return memory.Faults{
		Latency:    latency,
		FailBefore: 0.1 * rnd.Float64(), FailAfter: 0.2 * rnd.Float64(),
		ApplyLate: 0.2 * rnd.Float64(), LateBy: time.Duration(rnd.IntN(8000)) * time.Millisecond,
		WatchLag: 0.3 * rnd.Float64(), WatchLagBy: time.Duration(rnd.IntN(3000)) * time.Millisecond,
		WatchLoss: 0.02 * rnd.Float64(),
	}
}

// enter starts an agent with faults of its own, and what drives it.
func (c *chaos) enter(node int32) {
	a := c.startUnloaded(node)
	a.client.Inject(someFaults(c.rnd), rand.New(rand.NewPCG(c.rnd.Uint64(), 1)))
	c.mu.Lock()
	c.running[node] = a
	c.mu.Unlock()
	worker := rand.New(rand.NewPCG(c.rnd.Uint64(), 2))
	c.wg.Go(func() { c.place(a) })
	c.wg.Go(func() { c.work(a, worker) })
}

// place takes every shard that has no leader. It stands in for placement, rudely: all
// agents want everything.
func (c *chaos) place(a *agent) {
	for {
		known, changed := a.set.Leaderships()
		for i, k := range known {
			id := tiering.ShardID(i)
			mine := k.Live && k.Session == a.session.id
			if a.set.Leader(id) == nil && (!k.Live || mine) && a.session.Alive() {
				_, _ = a.set.Acquire(c.ctx, a.session, id) // refusals are part of the game
			}
		}
		select {
		case <-c.quit:
			return
		case <-a.ended:
			return
		case <-a.session.Lost():
			return
		case <-changed:
		case <-time.After(300 * time.Millisecond):
		}
	}
}

// work proposes to whatever this agent leads, on behalf of any agent's session.
func (c *chaos) work(a *agent, rnd *rand.Rand) {
	for {
		select {
		case <-c.quit:
			return
		case <-a.ended:
			return
		case <-time.After(time.Duration(rnd.IntN(100)) * time.Millisecond):
		}
		id := tiering.ShardID(rnd.IntN(chaosShards))
		l := a.set.Leader(id)
		if l == nil {
			continue
		}
		for range rnd.IntN(4) {
			n := c.last.Add(1)
			p := &proposal{shard: id}
			var session tiering.SessionID
			c.mu.Lock()
			c.proposals[n] = p
			if rnd.IntN(3) > 0 {
				session = c.running[1+rnd.Int32N(chaosAgents)].session.id
			}
			c.mu.Unlock()
			done := make(chan answer, 2)
			proposeTo(l, session, n, done)
			c.wg.Go(func() {
				got := <-done
				c.mu.Lock()
				p.answers = append(p.answers, got)
				c.mu.Unlock()
			})
		}
	}
}

// disturb does one thing to the cluster.
func (c *chaos) disturb() {
	node := 1 + c.rnd.Int32N(chaosAgents)
	a := c.running[node]
	switch c.rnd.IntN(9) {
	case 0: // stopped like a process, for longer than its lease lives or not
		a.client.Pause()
		a.session.held.Store(true)
		time.Sleep(time.Duration(c.rnd.Int64N(int64(2 * ttl))))
		a.session.held.Store(false)
		a.client.Resume()
	case 1:
		a.client.Partition()
		time.Sleep(time.Duration(c.rnd.Int64N(int64(2 * ttl))))
		a.client.Heal()
	case 2: // the session ends before the agent knows
		if c.admin.Revoke(c.ctx, a.session.lease) == nil {
			time.Sleep(time.Duration(c.rnd.Int64N(int64(ttl))))
			a.session.lose()
		}
	case 3: // a new process in place of the old one
		a.stop()
		c.enter(node)
	case 4:
		if l := a.set.Leader(tiering.ShardID(c.rnd.IntN(chaosShards))); l != nil {
			_ = l.Release(c.ctx)
		}
	case 5:
		c.server.BreakWatches()
	case 6:
		synctest.Wait() // the witness has seen everything
		if err := c.admin.Compact(c.ctx, c.server.Revision()); err != nil {
			c.t.Error(err)
		}
	case 7:
		a.client.Inject(someFaults(c.rnd), rand.New(rand.NewPCG(c.rnd.Uint64(), 3)))
	case 8:
		time.Sleep(time.Duration(c.rnd.Int64N(int64(3 * time.Second))))
	}
}

// settle heals everything, gives every node a living session and waits for the cluster
// to find itself.
func (c *chaos) settle() {
	for node := int32(1); node <= chaosAgents; node++ {
		a := c.running[node]
		a.client.Inject(memory.Faults{}, rand.New(rand.NewPCG(1, 1)))
		if !a.session.Alive() {
			a.stop()
			c.enter(node)
			c.running[node].client.Inject(memory.Faults{}, rand.New(rand.NewPCG(1, 1)))
		}
	}
	for id := range tiering.ShardID(chaosShards) {
		if !c.served(id) {
			c.t.Errorf("shard %d takes no proposals a minute after all faults have ended", id)
		}
	}
	for _, a := range c.running {
		if err := a.set.Sync(c.ctx, 0, 1); err != nil {
			c.t.Errorf("agent %d: %v", a.node, err)
		}
	}
	close(c.quit)
}

// served waits until somebody commits a mark of the test's own.
func (c *chaos) served(id tiering.ShardID) bool {
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		for _, a := range c.running {
			if l := a.set.Leader(id); l != nil {
				if got := <-propose(l, tiering.SessionID{}, c.last.Add(1)); got.err == nil {
					return true
				}
			}
		}
	}
	return false
}

// history is what was written to one shard, in order.
type history struct {
	next   uint64              // the seq that the next record must have
	leader tiering.LeaderEpoch // of the last leadership that was created
	led    bool                // and it has not ended
	at     map[int64][]uint64  // by mark: the seqs of the records that hold it
	state  *shard.State
}

type headJSON struct {
	Epoch   tiering.LeaderEpoch
	Session string
	Seq     uint64
}

// check reads the whole history.
func (c *chaos) check() map[tiering.ShardID]*history {
	all := map[tiering.ShardID]*history{}
	for id := range tiering.ShardID(chaosShards) {
		all[id] = &history{next: 1, at: map[int64][]uint64{}, state: shard.New()}
	}
	heads := map[tiering.ShardID]headJSON{}
	for _, ev := range c.written() {
		k, err := keys.ParseShardKey(ev.Key)
		if err != nil {
			c.t.Fatal(err)
		}
		h := all[k.Shard]
		if k.Name == "leader" {
			h.led = !ev.Deleted
		}
		if ev.Deleted {
			continue
		}
		switch k.Name {
		case "journal":
			c.checkRecord(h, k, ev)
		case "head":
			var now headJSON
			if err := json.Unmarshal(ev.Value, &now); err != nil {
				c.t.Fatal(err)
			}
			was := heads[k.Shard]
			takeover := now.Seq == was.Seq && now.Epoch > was.Epoch
			appended := now.Seq == was.Seq+1 && now.Epoch == was.Epoch && now.Session == was.Session
			if !takeover && !appended {
				c.t.Errorf("shard %d: head %+v after %+v", k.Shard, now, was)
			}
			heads[k.Shard] = now
		case "leader":
			var now headJSON
			if err := json.Unmarshal(ev.Value, &now); err != nil {
				c.t.Fatal(err)
			}
			if now.Epoch <= h.leader {
				c.t.Errorf("shard %d: leadership of epoch %d after %d", k.Shard, now.Epoch, h.leader)
			}
			h.leader = now.Epoch
		}
	}
	return all
}

func (c *chaos) checkRecord(h *history, k metadata.ShardKey, ev metadata.Event) {
	r, err := shard.DecodeRecord(ev.Value)
	if err != nil {
		c.t.Fatal(err)
	}
	if r.Seq != h.next || k.Seq != r.Seq {
		c.t.Errorf("shard %d: record %d under key %s, want record %d", k.Shard, r.Seq, ev.Key, h.next)
	}
	h.next = r.Seq + 1
	if r.Epoch != h.leader || !h.led {
		c.t.Errorf("shard %d: record %d is of epoch %d under a leadership of epoch %d that stands: %v", k.Shard, r.Seq, r.Epoch, h.leader, h.led)
	}
	for _, m := range marks(r) {
		h.at[m] = append(h.at[m], r.Seq)
	}
	if err := h.state.Apply(r); err != nil {
		c.t.Errorf("shard %d: %v", k.Shard, err)
	}
}

// verdict compares answers and history, and returns how many of each kind there were.
func (c *chaos) verdict(all map[tiering.ShardID]*history) map[string]int {
	kinds := map[string]int{}
	for n, p := range c.proposals {
		if len(p.answers) != 1 {
			c.t.Fatalf("mark %d was answered %d times", n, len(p.answers))
		}
		a, at := p.answers[0], all[p.shard].at[n]
		there := "absent"
		if len(at) > 0 {
			there = "present"
		}
		switch {
		case len(at) > 1:
			c.t.Errorf("mark %d is in records %v", n, at)
		case a.err == nil && (len(at) != 1 || at[0] != a.seq):
			c.t.Errorf("mark %d was acknowledged as record %d, but is in %v", n, a.seq, at)
		case a.err == nil:
			there = "acknowledged"
		case errors.Is(a.err, metadata.ErrSessionDead):
			there = "dead, " + there
			if len(at) != 0 {
				c.t.Errorf("mark %d of a dead session is in record %v", n, at)
			}
		case errors.Is(a.err, metadata.ErrFenced):
			there = "fenced, " + there
		default:
			c.t.Errorf("mark %d: %v", n, a.err)
		}
		kinds[there]++
	}
	for _, a := range c.running {
		for id, h := range all {
			if a.set.View(id).Seq() >= h.state.Seq && snapshotOf(a, id) != string(h.state.EncodeSnapshot(nil)) {
				c.t.Errorf("agent %d: the view of shard %d is not what the journal says", a.node, id)
			}
		}
	}
	return kinds
}

// TestNothingAcknowledgedIsLostOrDoubled is the whole protocol under random schedules.
func TestNothingAcknowledgedIsLostOrDoubled(t *testing.T) {
	seeds := uint64(200)
	if testing.Short() {
		seeds = 20
	}
	kinds, fired := map[string]int{}, map[memory.Fault]int{}
	var snapshots int64
	for seed := range seeds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			bubble(t, chaosShards, func(w *world) {
				w.records = 20
				c := &chaos{
					world: w, rnd: rand.New(rand.NewPCG(seed, 0)), quit: make(chan struct{}),
					running: map[int32]*agent{}, proposals: map[int64]*proposal{},
				}
				for node := int32(1); node <= chaosAgents; node++ {
					c.enter(node)
				}
				for range 8 {
					time.Sleep(time.Duration(c.rnd.Int64N(int64(2 * time.Second))))
					c.disturb()
				}
				c.settle()
				for _, a := range w.agents {
					a.stop()
					snapshots += a.seen.snapshots.Load()
				}
				c.wg.Wait()
				for kind, n := range c.verdict(c.check()) {
					kinds[kind] += n
				}
				for f, n := range w.server.Fired() {
					fired[f] += n
				}
			})
		})
	}
	t.Logf("proposals: %v; faults: %v; snapshots: %d", kinds, fired, snapshots)
	for _, kind := range strings.Split("acknowledged|dead, absent|fenced, absent|fenced, present", "|") {
		if kinds[kind] == 0 && !testing.Short() {
			t.Errorf("no proposal ended %s: the schedules are too tame", kind)
		}
	}
	for _, f := range []memory.Fault{memory.FailBefore, memory.FailAfter, memory.ApplyLate, memory.Abandoned, memory.Partition, memory.Pause, memory.WatchLag, memory.WatchLoss} {
		if fired[f] == 0 && !testing.Short() {
			t.Errorf("the fault %q never happened", f)
		}
	}
	if snapshots == 0 {
		t.Error("no snapshot was ever written")
	}
}
