package classic

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/coordinator"
	"github.com/floelog/floe/agent/group/step"
)

func failedJoin(version int16, id string, code int16) *kmsg.JoinGroupResponse {
	r := kmsg.NewPtrJoinGroupResponse()
	r.Version, r.MemberID, r.ErrorCode = version, id, code
	return r
}

func (g *Group) join(req coordinator.Request, r *kmsg.JoinGroupRequest, now time.Time) {
	refuse := func(id string, code int16) { g.reply(req.ID, failedJoin(r.Version, id, code)) }
	session := time.Duration(r.SessionTimeoutMillis) * time.Millisecond
	m := g.byID[r.MemberID]
	switch {
	case session < g.cfg.MinSession || session > g.cfg.MaxSession:
		refuse(r.MemberID, kerr.InvalidSessionTimeout.Code)
	case !g.accepts(m, r):
		g.tooMany(m, r.MemberID, now)
		refuse("", kerr.GroupMaxSizeReached.Code)
	case !g.canSupport(r):
		refuse(r.MemberID, kerr.InconsistentGroupProtocol.Code)
	case r.MemberID == "":
		g.joinNew(req, r, now)
	case g.isPending(r.MemberID):
		if r.InstanceID != nil { // static members are never pending: this is another's id
			refuse(r.MemberID, kerr.UnknownMemberID.Code)
			return
		}
		g.enter(req, r, r.MemberID, now)
	default:
		if code := g.check(r.MemberID, r.InstanceID); code != 0 {
			refuse(r.MemberID, code)
			return
		}
		g.rejoin(req, r, m, now)
	}
}

func (g *Group) isPending(id string) bool {
	_, ok := g.pending[id]
	return ok
}

// accepts says whether there is room. While members rejoin, those that have done so count:
// so a group that became too large loses the last ones to rejoin.
func (g *Group) accepts(m *member, r *kmsg.JoinGroupRequest) bool {
	size := len(r.MemberID)
	for _, p := range r.Protocols {
		size += len(p.Name) + len(p.Metadata)
	}
	if m != nil {
		size -= m.size()
	}
	switch {
	case g.bytes+size > maxGroupBytes:
		return false
	case r.MemberID == "" && r.InstanceID != nil && g.static[*r.InstanceID] != nil:
		return true // takes the place of another
	case r.MemberID == "" && len(g.pending) >= g.cfg.MaxSize:
		return false
	case g.state == preparing:
		return m != nil && m.join.on || g.joining < g.cfg.MaxSize
	}
	return g.state == empty || m != nil || len(g.members) < g.cfg.MaxSize
}

// tooMany drops the member, or the id, that found no room.
func (g *Group) tooMany(m *member, id string, now time.Time) {
	delete(g.pending, id)
	if m == nil {
		return
	}
	g.remove(m, kerr.GroupMaxSizeReached.Code)
	g.membersWent(now)
}

// canSupport says whether the group can understand the member: it must share a protocol
// that all members know.
func (g *Group) canSupport(r *kmsg.JoinGroupRequest) bool {
	if r.ProtocolType == "" || len(r.Protocols) == 0 {
		return false
	}
	if len(g.members) == 0 {
		return g.state == empty || r.ProtocolType == g.protocolType
	}
	if r.ProtocolType != g.protocolType {
		return false
	}
	for _, p := range r.Protocols {
		if g.supports[p.Name] == len(g.members) {
			return true
		}
	}
	return false
}

// joinNew takes a client that has no member id.
func (g *Group) joinNew(req coordinator.Request, r *kmsg.JoinGroupRequest, now time.Time) {
	if r.InstanceID != nil {
		id := *r.InstanceID + "-" + g.cfg.NewID()
		if old := g.static[*r.InstanceID]; old != nil {
			g.replace(req, r, old, id, now)
			return
		}
		g.enter(req, r, id, now)
		return
	}
	id := req.Client.ID + "-" + g.cfg.NewID()
	if r.Version < 4 {
		g.enter(req, r, id, now).nameless = true
		return
	}
	g.pending[id] = now.Add(time.Duration(r.SessionTimeoutMillis) * time.Millisecond)
	g.arm(g.pending[id])
	g.reply(req.ID, failedJoin(r.Version, id, kerr.MemberIDRequired.Code))
}

// enter adds a member and asks all to rejoin.
func (g *Group) enter(req coordinator.Request, r *kmsg.JoinGroupRequest, id string, now time.Time) *member {
	g.order++
	m := &member{ClassicMember: step.ClassicMember{ID: id, ClientID: req.Client.ID, Host: req.Client.Host, Instance: r.InstanceID}, order: g.order, fresh: true}
	m.update(r)
	if g.state == empty && len(g.members) == 0 {
		g.protocolType = r.ProtocolType
	}
	if g.state == preparing && g.initial {
		g.newcomer = true
	}
	g.add(m)
	g.awaitJoin(m, req.ID, r.Version)
	m.deadline = now.Add(newMemberTimeout)
	g.arm(m.deadline)
	g.rebalance(now)
	return m
}

// update takes over what a request says of its member.
func (m *member) update(r *kmsg.JoinGroupRequest) {
	m.Session = time.Duration(r.SessionTimeoutMillis) * time.Millisecond
	m.Rebalance = time.Duration(r.RebalanceTimeoutMillis) * time.Millisecond
	if r.Version == 0 || m.Rebalance < 0 {
		m.Rebalance = m.Session
	}
	m.Protocols = copyProtocols(r.Protocols)
}

// change updates a member that rejoins.
func (g *Group) change(m *member, r *kmsg.JoinGroupRequest) {
	g.count(m, -1)
	m.update(r)
	g.count(m, 1)
}

// rejoin takes a member's JoinGroup. It asks for a rebalance if it comes from the leader,
// or says something new; otherwise it is told again what it might have missed.
func (g *Group) rejoin(req coordinator.Request, r *kmsg.JoinGroupRequest, m *member, now time.Time) {
	same := m.matches(r.Protocols)
	switch {
	case g.state == completing && same:
		g.reply(req.ID, g.joined(m, r.Version, m.isLeaderOf(g)))
	case g.state == stable && same && !m.isLeaderOf(g):
		g.reply(req.ID, g.joined(m, r.Version, false))
	default:
		g.change(m, r)
		g.awaitJoin(m, req.ID, r.Version)
		if m.fresh {
			m.deadline = now.Add(newMemberTimeout)
		}
		g.rebalance(now)
	}
}

// joined tells a member the generation; the leader learns the members, too.
func (g *Group) joined(m *member, version int16, members bool) *kmsg.JoinGroupResponse {
	r := kmsg.NewPtrJoinGroupResponse()
	r.Version, r.MemberID, r.Generation, r.LeaderID = version, m.ID, g.generation, g.leader
	r.ProtocolType, r.Protocol = kmsg.StringPtr(g.protocolType), kmsg.StringPtr(g.protocol)
	if !members {
		return r
	}
	r.Members = make([]kmsg.JoinGroupResponseMember, 0, len(g.members))
	for _, m := range g.members {
		e := kmsg.NewJoinGroupResponseMember()
		e.MemberID, e.InstanceID, e.ProtocolMetadata = m.ID, m.Instance, m.metadata(g.protocol)
		r.Members = append(r.Members, e)
	}
	return r
}

// replace gives a static member's place to a client that started anew under its instance
// id (KIP-345). A stable group goes on if it can: then the newcomer gets the old one's
// assignment, and no rebalance is needed.
func (g *Group) replace(req coordinator.Request, r *kmsg.JoinGroupRequest, old *member, id string, now time.Time) {
	oldLeader := g.leader
	m := g.succeed(old, id)
	g.change(m, r)
	g.touch(m, now)
	switch {
	case g.state == stable && g.selectProtocol() == g.protocol:
		g.forget(old.ID)
		g.storeMember(m)
		g.topics = g.subscriptions()
		// From version 9 on a leader is told that it leads, but need not assign (KIP-814).
		// Older ones would assign if they knew that they lead.
		answer := g.joined(m, r.Version, r.Version >= 9 && m.isLeaderOf(g))
		if r.Version < 9 {
			answer.LeaderID = oldLeader
		}
		answer.SkipAssignment = r.Version >= 9 && m.isLeaderOf(g)
		g.reply(req.ID, answer)
	case g.state == completing:
		// The leader may be about to assign partitions to the old id.
		g.forget(old.ID)
		g.awaitJoin(m, req.ID, r.Version)
		g.prepare(now)
	default:
		g.forget(old.ID)
		g.awaitJoin(m, req.ID, r.Version)
		g.rebalance(now)
	}
}

// succeed puts a member under a new id in the place of old, whose requests are fenced.
func (g *Group) succeed(old *member, id string) *member {
	refused := failedJoin(old.join.version, old.ID, kerr.FencedInstanceID.Code)
	g.answerJoin(old, refused)
	g.answerSync(old, failedSync(old.sync.version, kerr.FencedInstanceID.Code))
	m := &member{ClassicMember: old.ClassicMember, order: old.order, unsynced: old.unsynced}
	m.ID = id
	g.bytes += m.size() - old.size()
	for i := range g.members {
		if g.members[i] == old {
			g.members[i] = m
		}
	}
	delete(g.byID, old.ID)
	g.byID[id], g.static[*m.Instance] = m, m
	if g.leader == old.ID {
		g.leader = id
	}
	return m
}
