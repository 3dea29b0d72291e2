package agent

import (
	"context"
	"errors"
	"log/slog"
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
// that have no leader and releases those that another live agent should lead. A shard that
// is slow to take or to release holds no other up.
type leadership struct {
	self    membership.NodeID
	set     *journal.Set
	placing *placing
	session leaderSession
	log     *slog.Logger
	settled chan struct{}        // closed when every shard had a leader for the first time
	done    chan tiering.ShardID // takes and releases that have ended
}

// leaderSession is a session as the journals want it.
type leaderSession struct{ *membership.Session }

// Node returns the agent's node id under this session.
func (s leaderSession) Node() int32 { return int32(s.NodeID()) }

func newLeadership(placing *placing, session *membership.Session, log *slog.Logger) *leadership {
	return &leadership{
		self: session.NodeID(), set: placing.set, placing: placing, session: leaderSession{session},
		log: log, settled: make(chan struct{}), done: make(chan tiering.ShardID),
	}
}

// run goes on until ctx ends or the session is lost, and returns when no take or release is
// under way. The leaderships it took live on until work ends, the session is lost or they
// are released.
func (l *leadership) run(ctx, work context.Context) {
	busy := map[tiering.ShardID]bool{}
	slots := make(chan struct{}, takeoversAtOnce)
	defer func() {
		for range busy {
			<-l.done
		}
	}()
	settled := false
	for ctx.Err() == nil && l.session.Alive() {
		view := l.placing.look()
		known, changed := l.set.Leaderships()
		l.start(ctx, work, view, known, busy, slots)
		if !settled && len(busy) == 0 && l.complete(known) {
			settled = true
			close(l.settled)
		}
		select {
		case <-ctx.Done():
		case <-l.session.Lost():
		case <-view.agents.Changed():
		case <-view.pins.Changed():
		case <-changed:
		case id := <-l.done:
			if delete(busy, id); len(busy) == 0 {
				l.log.Info("leadership has moved", "leads", l.leads())
			}
		}
	}
}

// start begins what duties say, but for shards that something is under way for.
func (l *leadership) start(ctx, work context.Context, view placingView, known []journal.Leadership, busy map[tiering.ShardID]bool, slots chan struct{}) {
	take, release := l.duties(view, known)
	begin := func(id tiering.ShardID, f func() bool) {
		if busy[id] {
			return
		}
		busy[id] = true
		go func() {
			slots <- struct{}{}
			again := f()
			<-slots
			if again {
				select {
				case <-ctx.Done():
				case <-time.After(leadershipRetry):
				}
			}
			l.done <- id
		}()
	}
	for _, id := range release {
		begin(id, func() bool {
			l.release(ctx, id)
			return false
		})
	}
	for _, id := range take {
		begin(id, func() bool { return l.take(ctx, work, id) })
	}
}

// take takes one shard over. Its leader lives until work ends, but while it is being taken
// the end of ctx is enough to give it up.
func (l *leadership) take(ctx, work context.Context, id tiering.ShardID) (again bool) {
	life, cancel := context.WithCancel(work)
	stop := context.AfterFunc(ctx, cancel)
	leader, err := l.set.Acquire(life, l.session, id)
	if err == nil && stop() {
		go func() { // owned by the leader, which the journals wait for
			<-leader.Over()
			cancel()
		}()
		return false
	}
	cancel()
	if err != nil && ctx.Err() == nil && !errors.Is(err, metadata.ErrConflict) {
		l.log.Warn("a shard could not be taken over", "shard", id, "err", err)
	}
	return err != nil
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
func (l *leadership) duties(view placingView, known []journal.Leadership) (take, release []tiering.ShardID) {
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
	return membership.Duties(l.self, view.place(membership.RoleProduce, current), live)
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
	var g errgroup.Group
	g.SetLimit(takeoversAtOnce)
	for i := range l.set.NumShards() {
		g.Go(func() error {
			l.release(ctx, tiering.ShardID(i))
			return nil
		})
	}
	_ = g.Wait() // the functions return nil
}
