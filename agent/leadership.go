package agent

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/metadata/membership"
	"github.com/floelog/floe/tiering"
)

const (
	// takeoversAtOnce bounds how many shards are taken at a time. Each costs the metadata
	// store a few reads and one write; more would queue there.
	takeoversAtOnce = 16
	// movesAtOnce bounds how many shards are on their way to another agent at a time, from
	// release to takeover, in which nothing is committed on them. More would wait for each
	// other in the metadata store. Fewer: an agent that joins or leaves takes longer.
	movesAtOnce = 4
	// successorPatience is how long one of them waits for its next leader before another
	// goes: longer than a takeover takes while the metadata store is well.
	successorPatience = 500 * time.Millisecond
	// leadershipRetry is the pause after a takeover that failed for another reason than
	// that somebody else was faster.
	leadershipRetry = 200 * time.Millisecond
	// unreadableRetry is the pause after one that failed because the shard's journal cannot be
	// read, which somebody must mend. Shorter: every attempt reads all of the journal. Longer: a
	// shard that was mended waits.
	unreadableRetry = 5 * time.Second
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
	settled chan struct{}        // closed when every shard that can be read had a leader for the first time
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
	lanes := lanes{take: make(chan struct{}, takeoversAtOnce), move: make(chan struct{}, movesAtOnce)}
	defer func() {
		for range busy {
			<-l.done
		}
	}()
	settled, led := false, map[tiering.ShardID]bool{}
	for ctx.Err() == nil && l.session.Alive() {
		view := l.placing.look()
		known, changed := l.set.Leaderships()
		l.start(ctx, work, view, known, busy, lanes)
		if !settled && l.allLed(known, led) {
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

// lanes hold the places of takes and of moves that may be under way.
type lanes struct{ take, move chan struct{} }

// start begins what duties say, but for shards that something is under way for.
func (l *leadership) start(ctx, work context.Context, view placingView, known []journal.Leadership, busy map[tiering.ShardID]bool, lanes lanes) {
	take, release := l.duties(view, known)
	begin := func(id tiering.ShardID, lane chan struct{}, f func() time.Duration) {
		if busy[id] {
			return
		}
		busy[id] = true
		go func() {
			lane <- struct{}{}
			wait := f()
			<-lane
			if wait > 0 {
				select {
				case <-ctx.Done():
				case <-time.After(wait):
				}
			}
			l.done <- id
		}()
	}
	for _, id := range release {
		begin(id, lanes.move, func() time.Duration {
			l.handOver(ctx, id)
			return 0
		})
	}
	for _, id := range take {
		begin(id, lanes.take, func() time.Duration { return l.take(ctx, work, id) })
	}
}

// take takes one shard over. Its leader lives until work ends, but while it is being taken
// the end of ctx is enough to give it up. It returns the pause before it may be tried again,
// 0 if it was taken.
func (l *leadership) take(ctx, work context.Context, id tiering.ShardID) (wait time.Duration) {
	life, cancel := context.WithCancel(work)
	stop := context.AfterFunc(ctx, cancel)
	leader, err := l.set.Acquire(life, l.session, id)
	if err == nil && stop() {
		go func() { // owned by the leader, which the journals wait for
			<-leader.Over()
			cancel()
		}()
		return 0
	}
	cancel()
	if err != nil && ctx.Err() == nil && !errors.Is(err, metadata.ErrConflict) {
		l.log.Warn("a shard could not be taken over", "shard", id, "err", err)
	}
	if l.set.View(id).Err() != nil {
		return unreadableRetry
	}
	return leadershipRetry
}

// allLed notes which shards have a leader, and reports whether every one has had one. Shards
// that move have none for a moment, as when this agent takes its share. Those that stand still,
// since their journal cannot be read, keep no agent from serving the others. One that this agent
// has only begun to take has no leader yet.
func (l *leadership) allLed(known []journal.Leadership, led map[tiering.ShardID]bool) bool {
	all := true
	for i, k := range known {
		id := tiering.ShardID(i)
		led[id] = led[id] || k.Live && (membership.NodeID(k.Node) != l.self || l.set.Leader(id) != nil)
		all = all && (led[id] || l.set.View(id).Err() != nil)
	}
	return all
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

func (l *leadership) release(ctx context.Context, id tiering.ShardID) (released bool) {
	leader := l.set.Leader(id)
	if leader == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, releaseTimeout)
	defer cancel()
	if err := leader.Release(ctx); err != nil {
		l.log.Warn("a shard is being released slowly", "shard", id, "err", err)
	}
	return true
}

// handOver releases a shard and waits until another agent leads it, if there is one.
func (l *leadership) handOver(ctx context.Context, id tiering.ShardID) {
	if ctx.Err() != nil || !l.release(ctx, id) {
		return
	}
	patience := time.NewTimer(successorPatience)
	defer patience.Stop()
	for {
		changed, agents := l.set.Changed(), l.placing.agents.View()
		if k := l.set.Leadership(id); k.Live && k.Node != int32(l.self) || !hasOthers(agents, l.self) {
			return
		}
		select {
		case <-changed:
		case <-agents.Changed():
		case <-patience.C:
			return
		case <-l.session.Lost():
			return
		case <-ctx.Done():
			return
		}
	}
}

// hasOthers reports whether there are other agents that stay.
func hasOthers(view membership.AgentsView, self membership.NodeID) bool {
	return slices.ContainsFunc(view.NodeIDs(), func(id membership.NodeID) bool { return id != self })
}

// handAllOver gives up everything to other agents, for one that drains and is marked as
// leaving.
func (l *leadership) handAllOver(ctx context.Context) { l.each(ctx, movesAtOnce, l.handOver) }

// takeBack leads the shards again that nobody leads, for as long as the session lives.
func (l *leadership) takeBack(ctx context.Context) {
	l.each(ctx, takeoversAtOnce, func(ctx context.Context, id tiering.ShardID) {
		if !l.set.Leadership(id).Live {
			l.take(ctx, context.WithoutCancel(ctx), id)
		}
	})
}

// releaseAll gives up everything, whether anybody takes it or not.
func (l *leadership) releaseAll(ctx context.Context) {
	l.each(ctx, takeoversAtOnce, func(ctx context.Context, id tiering.ShardID) { l.release(ctx, id) })
}

// each calls f for every shard, some at a time.
func (l *leadership) each(ctx context.Context, atOnce int, f func(context.Context, tiering.ShardID)) {
	var g errgroup.Group
	g.SetLimit(atOnce)
	for i := range l.set.NumShards() {
		g.Go(func() error {
			f(ctx, tiering.ShardID(i))
			return nil
		})
	}
	_ = g.Wait() // the functions return nil
}
