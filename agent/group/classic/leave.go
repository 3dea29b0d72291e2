package classic

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/coordinator"
)

// leave removes members: before version 3 one, from then on several, which an operator may
// name by their instance ids alone.
func (g *Group) leave(id coordinator.RequestID, r *kmsg.LeaveGroupRequest, now time.Time) {
	a := r.ResponseKind().(*kmsg.LeaveGroupResponse)
	members, pending := len(g.members), len(g.pending)
	if r.Version < 3 {
		a.ErrorCode = g.leaveOne(r.MemberID, nil)
	} else {
		a.Members = make([]kmsg.LeaveGroupResponseMember, 0, len(r.Members))
		for _, m := range r.Members {
			e := kmsg.NewLeaveGroupResponseMember()
			e.MemberID, e.InstanceID = m.MemberID, m.InstanceID
			e.ErrorCode = g.leaveOne(m.MemberID, m.InstanceID)
			a.Members = append(a.Members, e)
		}
	}
	g.reply(id, a)
	// An id that was given out and never used is no reason for a stable group to rebalance.
	if len(g.members) < members || len(g.pending) < pending && g.state == preparing {
		g.membersWent(now)
	}
}

func (g *Group) leaveOne(id string, instance *string) int16 {
	if id == "" && instance != nil {
		if m := g.static[*instance]; m != nil {
			g.remove(m, kerr.UnknownMemberID.Code)
			return 0
		}
		return kerr.UnknownMemberID.Code
	}
	if g.isPending(id) {
		delete(g.pending, id)
		return 0
	}
	code := g.check(id, instance)
	if code == 0 {
		g.remove(g.byID[id], kerr.UnknownMemberID.Code)
	}
	return code
}
