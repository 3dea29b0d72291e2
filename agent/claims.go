package agent

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/metadata/membership"
	"github.com/floelog/floe/tiering"
)

const (
	// claimEvery is how often claims are looked through when nobody comes or goes. Looking
	// costs no request unless there is something to claim.
	claimEvery = 2 * time.Second
	// claimPatience is for how long another agent may keep a claim that placement gives to this
	// one: longer than a job may take to notice. After that it is taken: a claim only keeps work
	// from being done twice, and one that nobody knows of any more must not last as long as its
	// session does.
	claimPatience = time.Minute
	// claimTime bounds one attempt to claim a shard, or to give it up.
	claimTime = 2 * time.Second
)

// claims implements job.Claims for one life of the agent: placement says which agent does a
// shard's jobs, a key under that agent's lease that it alone does. Placement is that of
// leadership, among the agents that have the role for jobs, so usually it is the agent that
// leads the shard, and that its producers write to: what it merges is in its memory.
//
// A shard without a journal has no jobs and is not claimed. A cluster in which nothing happens
// writes nothing.
type claims struct {
	keys    metadata.Keys
	store   metadata.Store
	set     *journal.Set
	placing *placing
	session *membership.Session
	log     *slog.Logger

	// Touched by run only.
	giving    map[tiering.ShardID]bool // given up, but the key may still be there
	conflicts map[tiering.ShardID]conflict

	mu   sync.Mutex // guards the following
	held map[tiering.ShardID]bool
}

// conflict is a claim of another agent, and since when it has been in the way.
type conflict struct {
	value []byte
	since time.Time
}

func (a *Agent) newClaims(session *membership.Session) *claims {
	return &claims{
		keys: a.keys, store: a.parts.Meta, set: a.set, placing: a.placing, session: session, log: a.parts.Log,
		giving: map[tiering.ShardID]bool{}, conflicts: map[tiering.ShardID]conflict{}, held: map[tiering.ShardID]bool{},
	}
}

// Claimed implements job.Claims.
func (c *claims) Claimed() []tiering.ShardID {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]tiering.ShardID, 0, len(c.held))
	if !c.session.Alive() {
		return out
	}
	for id := range c.held {
		out = append(out, id)
	}
	slices.Sort(out)
	return out
}

// run claims and gives up until ctx ends. What is claimed then goes with the session.
func (c *claims) run(ctx context.Context) {
	tick := time.NewTicker(claimEvery)
	defer tick.Stop()
	for ctx.Err() == nil && c.session.Alive() {
		view, changed := c.placing.look(), c.set.Changed()
		c.adjust(ctx, view)
		select {
		case <-ctx.Done():
		case <-c.session.Lost():
		case <-view.agents.Changed():
		case <-view.pins.Changed():
		case <-changed:
		case <-tick.C:
		}
	}
}

// adjust compares what is claimed with what placement says.
func (c *claims) adjust(ctx context.Context, view placingView) {
	wanted := c.wanted(view)
	for _, id := range c.Claimed() {
		if !wanted[id] {
			c.hold(id, false)
			c.giving[id] = true
		}
	}
	for id := range c.giving {
		if wanted[id] || c.giveUp(ctx, id) {
			delete(c.giving, id)
		}
	}
	for id := range c.conflicts {
		if !wanted[id] {
			delete(c.conflicts, id)
		}
	}
	for id := range tiering.ShardID(c.set.NumShards()) {
		if wanted[id] && !c.has(id) {
			c.claim(ctx, id)
		}
	}
}

// wanted returns the shards that placement gives to this agent and that have a journal.
func (c *claims) wanted(view placingView) map[tiering.ShardID]bool {
	known, _ := c.set.Leaderships()
	out := map[tiering.ShardID]bool{}
	for id, node := range view.place(membership.RoleJobs, liveLeaders(known)) {
		if node == c.session.NodeID() && c.set.View(id).Seq() > 0 {
			out[id] = true
		}
	}
	return out
}

// sweeps reports whether placement gives the sweep of the object store to this agent, which is
// whose jobs are those of shard 0. That others may see it differently for a moment does no
// harm: a sweep relies on nobody else's absence.
func (c *claims) sweeps(view placingView) bool {
	known, _ := c.set.Leaderships()
	return c.session.Alive() && view.place(membership.RoleJobs, liveLeaders(known))[0] == c.session.NodeID()
}

func (c *claims) has(id tiering.ShardID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.held[id]
}

func (c *claims) hold(id tiering.ShardID, held bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if held {
		c.held[id] = true
	} else {
		delete(c.held, id)
	}
}

func (c *claims) value() []byte { return []byte(c.session.ID().String()) }

// claim tries once to create the shard's key, or to take it from who has kept it for too long.
func (c *claims) claim(ctx context.Context, id tiering.ShardID) {
	key := c.keys.Job(id)
	free := metadata.Absent(key)
	old, contested := c.conflicts[id]
	if contested && time.Since(old.since) >= claimPatience {
		free = metadata.Equals(key, old.value)
	}
	ctx, cancel := context.WithTimeout(ctx, claimTime)
	defer cancel()
	res, err := c.store.Txn(ctx, metadata.Txn{
		If:   []metadata.Condition{free},
		Then: []metadata.Op{metadata.PutLeased(key, c.value(), c.session.Lease())},
		Else: []string{key},
	})
	switch {
	case err != nil: // the next look tries again, and finds its own value if this one worked
		c.log.Debug("claiming a shard's jobs", "shard", id, "err", err)
	case res.Succeeded || bytes.Equal(res.Else[0].Value, c.value()):
		delete(c.conflicts, id)
		c.hold(id, true)
	case !res.Else[0].Exists():
		delete(c.conflicts, id)
	case !contested || !bytes.Equal(old.value, res.Else[0].Value):
		c.conflicts[id] = conflict{res.Else[0].Value, time.Now()}
	}
}

// giveUp deletes the shard's key and reports whether it is certain that it is not this agent's.
func (c *claims) giveUp(ctx context.Context, id tiering.ShardID) bool {
	key := c.keys.Job(id)
	ctx, cancel := context.WithTimeout(ctx, claimTime)
	defer cancel()
	_, err := c.store.Txn(ctx, metadata.Txn{
		If:   []metadata.Condition{metadata.Equals(key, c.value())},
		Then: []metadata.Op{metadata.Delete(key)},
	})
	return err == nil
}
