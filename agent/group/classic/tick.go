package classic

import (
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/floelog/floe/agent/group/step"
)

// Tick does what is due.
func (g *Group) Tick(now time.Time) step.Effects {
	if due(g.joinAt, now) && g.state == preparing {
		g.joinDue(now)
	}
	if due(g.syncAt, now) {
		g.syncDue(now)
	}
	g.expire(now)
	g.rearm()
	return g.take()
}

func due(t, now time.Time) bool { return !t.IsZero() && !t.After(now) }

// expire ends the sessions that are over. Members that wait for an answer cannot send
// heartbeats: their sessions begin anew with the answer.
func (g *Group) expire(now time.Time) {
	went := false
	for id, t := range g.pending {
		if due(t, now) {
			delete(g.pending, id)
			went = true
		}
	}
	if went && g.state == preparing && g.allJoined() && !g.initial {
		g.complete(now)
	}
	var gone []*member
	for _, m := range g.members {
		if m.left {
			m.left = false
			if m.nameless && !m.join.on {
				gone = append(gone, m)
				continue
			}
			g.touch(m, now)
		}
		switch {
		case !due(m.deadline, now):
		case !m.fresh && (m.join.on || m.sync.on):
			m.deadline = time.Time{}
		default:
			gone = append(gone, m)
		}
	}
	for _, m := range gone {
		g.remove(m, kerr.UnknownMemberID.Code)
	}
	if len(gone) > 0 {
		g.membersWent(now)
	}
}

// rearm finds the earliest deadline.
func (g *Group) rearm() {
	g.wake = time.Time{}
	for _, t := range []time.Time{g.joinAt, g.syncAt} {
		if !t.IsZero() {
			g.arm(t)
		}
	}
	for _, t := range g.pending {
		g.arm(t)
	}
	for _, m := range g.members {
		if m.left {
			g.arm(time.Unix(0, 0))
		}
		if !m.deadline.IsZero() {
			g.arm(m.deadline)
		}
	}
}

// Touch begins the session of a member anew that committed offsets.
func (g *Group) Touch(id string, now time.Time) {
	if m := g.byID[id]; m != nil && (g.state == stable || g.state == preparing) && !m.fresh {
		g.touch(m, now)
	}
}

// Dissolve answers all who wait: the group goes on under another protocol.
func (g *Group) Dissolve() step.Effects {
	for _, m := range slices.Clone(g.members) {
		g.answerJoin(m, failedJoin(m.join.version, m.ID, kerr.RebalanceInProgress.Code))
		g.answerSync(m, failedSync(m.sync.version, kerr.RebalanceInProgress.Code))
	}
	return g.take()
}
