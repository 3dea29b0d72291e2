package agent

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/metadata/membership"
	"github.com/floelog/floe/tiering"
)

const (
	// takeoversAtOnce bounds how many shards are taken or released at a time. Each costs
	// the metadata store a few reads and one write; more would queue there.
	takeoversAtOnce = 16
	// leadershipRetry is the pause after a takeover that failed for another reason than
	// that somebody else was faster.
	leadershipRetry = 200 * time.Millisecond
	// releaseTimeout bounds how long a planned move waits for the appends in flight.
	releaseTimeout = 10 * time.Second
)

// leadership makes this agent lead the shards that placement gives it: it takes those
// that have no leader and releases those that another live agent should lead.
type leadership struct {
	self    membership.NodeID
	set     *journal.Set
	agents  *membership.Agents
	session *membership.Session
	log     *slog.Logger
	settled chan struct{} // closed when placement and leadership agreed for the first time
}

// run goes on until ctx ends or the session is lost. Leaders end with the session.
func (l *leadership) run(ctx context.Context) {
	var once sync.Once
	for {
		if ctx.Err() != nil {
			return
		}
		view := l.agents.View()
		known, changed := l.set.Leaderships()
		take, release := l.duties(view, known)
		again := l.perform(ctx, take, release)
		if len(take) == 0 && len(release) == 0 && l.complete(known) {
			once.Do(func() { close(l.settled) })
		}
		var retry <-chan time.Time
		if again {
			retry = time.After(leadershipRetry)
		}
		select {
		case <-ctx.Done():
			return
		case <-l.session.Lost():
			return
		case <-view.Changed():
		case <-changed:
		case <-retry:
		}
	}
}

// complete reports whether every shard has a live leader.
func (l *leadership) complete(known []journal.Leadership) bool {
	for _, k := range known {
		if !k.Live {
			return false
		}
	}
	return true
}

// duties compares who leads with who should. A shard between leaders counts as nobody's:
// who led it last is known to those only who were there, and agents that place shards by
// different knowledge could each leave one to another for ever.
func (l *leadership) duties(view membership.AgentsView, known []journal.Leadership) (take, release []tiering.ShardID) {
	current := map[tiering.ShardID]membership.NodeID{}
	live := map[tiering.ShardID]membership.NodeID{}
	for i, k := range known {
		if k.Live {
			current[tiering.ShardID(i)] = membership.NodeID(k.Node)
			live[tiering.ShardID(i)] = membership.NodeID(k.Node)
		}
	}
	// A leadership of this agent's own that no leader here serves any more: its key is the
	// last of an older session or of an end that did not reach the store; it is taken again.
	for id, node := range live {
		if node == l.self && l.set.Leader(id) == nil {
			delete(live, id)
		}
	}
	placement := membership.Place(l.set.NumShards(), view.NodeIDs(), current)
	return membership.Duties(l.self, placement, live)
}

// perform carries duties out and reports whether something is worth another try soon.
func (l *leadership) perform(ctx context.Context, take, release []tiering.ShardID) (again bool) {
	var mu sync.Mutex
	var g errgroup.Group
	g.SetLimit(takeoversAtOnce)
	for _, id := range release {
		g.Go(func() error {
			l.release(ctx, id)
			return nil
		})
	}
	for _, id := range take {
		g.Go(func() error {
			_, err := l.set.Acquire(ctx, l.session, id)
			if err != nil && ctx.Err() == nil {
				if !errors.Is(err, metadata.ErrConflict) {
					l.log.Warn("a shard could not be taken over", "shard", id, "err", err)
				}
				mu.Lock()
				again = true
				mu.Unlock()
			}
			return nil
		})
	}
	_ = g.Wait() // the functions return nil
	if n := len(take) + len(release); n > 0 {
		l.log.Info("leadership moved", "took", len(take), "released", len(release), "leads", l.leads())
	}
	return again
}

// leads counts the shards that this agent leads.
func (l *leadership) leads() (n int) {
	for i := range l.set.NumShards() {
		if l.set.Leader(tiering.ShardID(i)) != nil {
			n++
		}
	}
	return n
}

func (l *leadership) release(ctx context.Context, id tiering.ShardID) {
	leader := l.set.Leader(id)
	if leader == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, releaseTimeout)
	defer cancel()
	if err := leader.Release(ctx); err != nil {
		l.log.Warn("a shard is being released slowly", "shard", id, "err", err)
	}
}

// releaseAll gives up everything, for an agent that drains.
func (l *leadership) releaseAll(ctx context.Context) {
	var all []tiering.ShardID
	for i := range l.set.NumShards() {
		if id := tiering.ShardID(i); l.set.Leader(id) != nil {
			all = append(all, id)
		}
	}
	l.perform(ctx, nil, all)
}
