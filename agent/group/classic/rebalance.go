package classic

import (
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
)

// minPostponement is the least time that static members get who all failed to rejoin, so
// that a rebalance timeout of nothing does not keep the group awake.
const minPostponement = time.Second

// rebalance begins a rebalance, or ends the join phase of the one under way if all have
// joined.
func (g *Group) rebalance(now time.Time) {
	if g.state == preparing {
		g.maybeComplete(now)
		return
	}
	g.prepare(now)
}

// prepare begins the join phase. That of an empty group waits for more members
// (group.initial.rebalance.delay.ms, KIP-134).
func (g *Group) prepare(now time.Time) {
	if g.state == completing {
		for _, m := range g.members {
			m.Assignment = g.reassign(m, nil)
			if m.sync.on {
				g.answerSync(m, failedSync(m.sync.version, kerr.RebalanceInProgress.Code))
				g.touch(m, now)
			}
		}
	}
	g.clearSync()
	g.initial, g.newcomer = g.state == empty, false
	g.transition(preparing, now)
	if g.initial {
		g.delay = g.cfg.InitialDelay
		g.remaining = max(g.rebalanceTimeout()-g.delay, 0)
		g.joinAt = now.Add(g.delay)
		g.arm(g.joinAt)
		return
	}
	if g.allJoined() {
		g.complete(now)
		return
	}
	g.joinAt = now.Add(g.rebalanceTimeout())
	g.arm(g.joinAt)
}

func (g *Group) allJoined() bool { return g.joining == len(g.members) && len(g.pending) == 0 }

func (g *Group) maybeComplete(now time.Time) {
	if g.state == preparing && !g.initial && g.allJoined() {
		g.complete(now)
	}
}

// membersWent follows up the removal of members.
func (g *Group) membersWent(now time.Time) {
	switch {
	case g.state == stable || g.state == completing:
		g.prepare(now)
	case g.state == preparing && g.allJoined() && (!g.initial || len(g.members) == 0):
		g.complete(now)
	}
}

// rebalanceTimeout is the longest that any member asks for.
func (g *Group) rebalanceTimeout() time.Duration {
	var t time.Duration
	for _, m := range g.members {
		t = max(t, m.Rebalance)
	}
	return t
}

// joinDue is called when joinAt has come. The initial delay goes on as long as members
// come, up to the rebalance timeout.
func (g *Group) joinDue(now time.Time) {
	if g.initial && g.newcomer && g.remaining > 0 {
		g.newcomer = false
		delay := min(g.cfg.InitialDelay, g.remaining)
		g.remaining = max(g.remaining-g.delay, 0)
		g.delay = delay
		g.joinAt = now.Add(delay)
		g.arm(g.joinAt)
		return
	}
	g.complete(now)
}

// complete ends the join phase: dynamic members that did not rejoin are out, and a new
// generation begins. If nobody rejoined, the static members get more time.
func (g *Group) complete(now time.Time) {
	g.joinAt = time.Time{}
	for _, m := range slices.Clone(g.members) {
		if !m.join.on && m.Instance == nil {
			g.remove(m, kerr.UnknownMemberID.Code)
		}
	}
	if len(g.members) > 0 && !g.electLeader() {
		g.joinAt = now.Add(max(g.rebalanceTimeout(), minPostponement))
		g.arm(g.joinAt)
		return
	}
	g.initial = false
	g.generation++
	if len(g.members) == 0 {
		g.protocol = ""
		g.transition(empty, now)
		g.storeAll()
		g.topics = g.subscriptions()
		return
	}
	g.protocol = g.selectProtocol()
	g.topics = g.subscriptions()
	g.transition(completing, now)
	g.storeGeneration()
	for _, m := range g.members {
		if m.join.on {
			g.answerJoin(m, g.joined(m, m.join.version, m.isLeaderOf(g)))
		}
		m.fresh, m.nameless = false, false
		m.unsynced = true
		g.touch(m, now)
	}
	g.unsynced = len(g.members)
	g.syncAt = now.Add(g.rebalanceTimeout())
	g.arm(g.syncAt)
}

// electLeader makes sure that the leader is one of those that joined.
func (g *Group) electLeader() bool {
	if m := g.byID[g.leader]; m != nil && m.join.on {
		return true
	}
	for _, m := range g.members {
		if m.join.on {
			g.leader = m.ID
			return true
		}
	}
	return false
}

// selectProtocol lets each member vote for the first of its protocols that all know. Of
// those with equal votes the one that sorts first wins.
func (g *Group) selectProtocol() string {
	votes := map[string]int{}
	for _, m := range g.members {
		for _, p := range m.Protocols {
			if g.supports[p.Name] == len(g.members) {
				votes[p.Name]++
				break
			}
		}
	}
	best := ""
	for name, n := range votes {
		if best == "" || n > votes[best] || n == votes[best] && name < best {
			best = name
		}
	}
	return best
}

func (g *Group) clearSync() {
	for _, m := range g.members {
		m.unsynced = false
	}
	g.unsynced = 0
	g.syncAt = time.Time{}
}

// syncDue removes the members that joined but never asked for their assignment
// (KAFKA-13435).
func (g *Group) syncDue(now time.Time) {
	g.syncAt = time.Time{}
	if g.unsynced == 0 {
		return
	}
	for _, m := range slices.Clone(g.members) {
		if m.unsynced {
			g.remove(m, kerr.UnknownMemberID.Code)
		}
	}
	g.prepare(now)
}
