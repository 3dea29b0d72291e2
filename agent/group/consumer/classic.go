package consumer

import (
	"bytes"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/coordinator"
	"github.com/floelog/floe/agent/group/assignor"
	"github.com/floelog/floe/agent/group/step"
)

// Members that speak the classic protocol, inside a group of the new one (KIP-848, online
// migration). To them a member epoch is a generation: whenever theirs is behind, Heartbeat says
// REBALANCE_IN_PROGRESS; JoinGroup reconciles and answers at once, never with a leader; and
// SyncGroup fetches what is assigned. They acknowledge that they let partitions go by joining
// again without them.

// protocolType is the only one that a consumer group has.
const protocolType = "consumer"

// join serves JoinGroup.
func (g *Group) join(from coordinator.Client, req *kmsg.JoinGroupRequest) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.JoinGroupResponse)
	resp.Generation = -1
	resp.MemberID = req.MemberID
	words, code := g.validateJoin(req)
	if code != 0 {
		resp.ErrorCode = code
		return resp
	}
	if req.Version >= 4 && req.MemberID == "" && req.InstanceID == nil { // KIP-394
		resp.MemberID, resp.ErrorCode = g.give(), kerr.MemberIDRequired.Code
		return resp
	}
	m, r := g.joining(req, len(words.OwnedPartitions) > 0)
	if r != nil {
		resp.ErrorCode = r.code
		return resp
	}
	g.settle(g.updateClassic(m, from, req, words))
	g.retarget()
	g.reconcile(m, g.ownedByName(words.OwnedPartitions))
	m.joinBy, m.syncBy = noTime, g.now.Add(m.rebalance)
	g.touch(m)

	resp.MemberID, resp.Generation = m.id, m.epoch
	resp.ProtocolType = kmsg.StringPtr(protocolType)
	resp.Protocol = kmsg.StringPtr(m.classic.protocols[0].Name)
	return resp
}

func (g *Group) validateJoin(req *kmsg.JoinGroupRequest) (*kmsg.ConsumerMemberMetadata, int16) {
	session := millis(req.SessionTimeoutMillis)
	if session < g.cfg.MinClassicSession || session > g.cfg.MaxClassicSession {
		return nil, kerr.InvalidSessionTimeout.Code
	}
	if g.members[req.MemberID] == nil && g.full(req.InstanceID) {
		return nil, kerr.GroupMaxSizeReached.Code
	}
	if wordsOfJoin(req) > maxWords {
		return nil, kerr.InvalidRequest.Code
	}
	if req.ProtocolType != protocolType || !g.supports(req.Protocols) {
		return nil, kerr.InconsistentGroupProtocol.Code
	}
	var words kmsg.ConsumerMemberMetadata // all protocols of a consumer say the same
	if words.ReadFrom(req.Protocols[0].Metadata) != nil {
		return nil, kerr.InconsistentGroupProtocol.Code
	}
	return &words, 0
}

// wordsOfJoin is wordsOfHeartbeat of a classic member. Its topics are in the row twice: as a
// subscription, and in the words of its first protocol.
func wordsOfJoin(req *kmsg.JoinGroupRequest) int {
	n := len(req.MemberID)
	if req.InstanceID != nil {
		n += len(*req.InstanceID)
	}
	for _, p := range req.Protocols {
		n += len(p.Name) + len(p.Metadata) + 8
	}
	return n
}

// supports reports whether all classic members have one of these protocols in common.
func (g *Group) supports(protocols []kmsg.JoinGroupRequestProtocol) bool {
	n, votes := 0, make(map[string]int)
	for _, m := range g.members {
		if m.classic != nil {
			n++
			for _, p := range m.classic.protocols {
				votes[p.Name]++
			}
		}
	}
	return slices.ContainsFunc(protocols, func(p kmsg.JoinGroupRequestProtocol) bool { return votes[p.Name] == n })
}

// maxGiven bounds the ids that are remembered until their clients join: an id comes back within
// a round trip, and if it was forgotten its client is refused once more and gets another.
// Fewer would do that to clients that come all at once; more would keep the ids of clients that
// never come back.
const maxGiven = 1024

// give returns an id for a client that is to join with it (KIP-394).
func (g *Group) give() string {
	id := g.cfg.NewID()
	if len(g.given) == maxGiven {
		g.given = slices.Delete(g.given, 0, 1)
	}
	g.given = append(g.given, id)
	return id
}

// joining finds the member that joins, or makes it. One that is unknown and yet owns
// something was fenced and does not know; others may have that now. Kafka lets it join; here it is
// told, so that it lets go first, and then joins. But only once: some clients come back under
// a new id with the same claim (franz-go's, refused in JoinGroup), and would never get in.
func (g *Group) joining(req *kmsg.JoinGroupRequest, owns bool) (*member, *refusal) {
	id := req.MemberID
	if id == "" {
		id = g.cfg.NewID()
	}
	if req.InstanceID == nil {
		if m := g.members[id]; m != nil {
			return m, nil
		}
		i := slices.Index(g.given, id)
		if owns && req.MemberID != "" && i < 0 {
			return nil, unknownMember(id)
		}
		if i >= 0 {
			g.given = slices.Delete(g.given, i, i+1)
		}
		return g.add(id), nil
	}
	old := g.statics[*req.InstanceID]
	switch {
	case req.MemberID != "" && old == nil:
		return nil, unknownMember(id)
	case req.MemberID != "" && old.id != id:
		return nil, fencedInstance(old, id)
	case req.MemberID != "":
		return old, nil
	case old == nil:
		m := g.add(id)
		m.instance = kmsg.StringPtr(*req.InstanceID)
		g.statics[*req.InstanceID] = m
		return m, nil
	}
	return g.replace(old, id), nil
}

// updateClassic takes over what a request says of its member, and reports whether the
// member subscribes to something else than before.
func (g *Group) updateClassic(m *member, from coordinator.Client, req *kmsg.JoinGroupRequest, words *kmsg.ConsumerMemberMetadata) bool {
	now := &classic{session: millis(req.SessionTimeoutMillis)}
	for _, p := range req.Protocols {
		now.protocols = append(now.protocols, step.Protocol{Name: p.Name, Metadata: bytes.Clone(p.Metadata)})
	}
	rebalance := millis(req.RebalanceTimeoutMillis)
	if req.Version == 0 {
		rebalance = now.session
	}
	rack := m.rack
	if words.Rack != nil {
		rack = kmsg.StringPtr(*words.Rack)
	}
	changed := !now.equal(m.classic) || m.rebalance != rebalance || m.clientID != from.ID || m.host != from.Host || !sameString(rack, m.rack)
	m.classic, m.rebalance, m.clientID, m.host, m.rack, m.revokeBy = now, rebalance, from.ID, from.Host, rack, noTime
	resubscribed := g.subscribe(m, words.Topics, "", nil)
	if changed || resubscribed {
		g.dirty.mark(m, memberRow)
	}
	return resubscribed
}

func (c *classic) equal(o *classic) bool {
	return o != nil && c.session == o.session && slices.EqualFunc(c.protocols, o.protocols, func(a, b step.Protocol) bool {
		return a.Name == b.Name && bytes.Equal(a.Metadata, b.Metadata)
	})
}

func sameString(a, b *string) bool {
	return a == b || a != nil && b != nil && *a == *b
}

// ownedByName is what a classic member says that it has; it always says.
func (g *Group) ownedByName(topics []kmsg.ConsumerMemberMetadataOwnedPartition) owned {
	out := make(owned, 0, len(topics))
	for _, t := range topics {
		if topic, ok := g.topics.Topic(t.Topic); ok {
			out = append(out, kmsg.ConsumerGroupHeartbeatRequestTopic{TopicID: topic.ID, Partitions: t.Partitions})
		}
	}
	return out
}

// classicMember finds the member of a request that is not JoinGroup.
func (g *Group) classicMember(id string, instance *string) (*member, int16) {
	m := g.members[id]
	if instance != nil {
		if m = g.statics[*instance]; m != nil && m.id != id {
			return nil, kerr.FencedInstanceID.Code
		}
	}
	if m == nil || m.classic == nil {
		return nil, kerr.UnknownMemberID.Code
	}
	return m, 0
}

// rejoin makes a classic member join within its rebalance time-out, counted from the first
// time that it is told to.
func (g *Group) rejoin(m *member) int16 {
	if m.joinBy.IsZero() {
		m.joinBy = g.now.Add(m.rebalance)
		g.timers.update(m, g.deadline(m))
	}
	return kerr.RebalanceInProgress.Code
}

// sync serves SyncGroup.
func (g *Group) sync(req *kmsg.SyncGroupRequest) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.SyncGroupResponse)
	m, code := g.classicMember(req.MemberID, req.InstanceID)
	switch {
	case code != 0:
	case req.Generation != m.epoch:
		code = kerr.IllegalGeneration.Code
	case req.ProtocolType != nil && *req.ProtocolType != protocolType,
		req.Protocol != nil && *req.Protocol != m.classic.protocols[0].Name:
		code = kerr.InconsistentGroupProtocol.Code
	case g.epoch > m.epoch && m.state != unrevoked:
		code = g.rejoin(m)
	default:
		m.syncBy = noTime
		g.touch(m)
		resp.ProtocolType, resp.Protocol = req.ProtocolType, req.Protocol
		resp.MemberAssignment = g.encodeAssignment(m, m.assigned)
	}
	resp.ErrorCode = code
	return resp
}

// encodeAssignment writes an assignment as the classic protocol has it, in the version that
// the member speaks.
func (g *Group) encodeAssignment(m *member, a assignor.Assignment) []byte {
	var words kmsg.ConsumerMemberMetadata
	var out kmsg.ConsumerMemberAssignment
	if words.ReadFrom(m.classic.protocols[0].Metadata) == nil {
		out.Version = words.Version
	}
	for _, s := range a {
		if t, ok := g.topics.TopicByID(s.Topic); ok {
			out.Topics = append(out.Topics, kmsg.ConsumerMemberAssignmentTopic{Topic: t.Name, Partitions: s.Partitions})
		}
	}
	return out.AppendTo(nil)
}

// classicHeartbeat serves Heartbeat.
func (g *Group) classicHeartbeat(req *kmsg.HeartbeatRequest) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.HeartbeatResponse)
	m, code := g.classicMember(req.MemberID, req.InstanceID)
	switch {
	case code != 0:
	case req.Generation != m.epoch:
		code = kerr.IllegalGeneration.Code
	default:
		g.touch(m)
		// It is behind, or has partitions to let go, or can have those that it waited for.
		if m.epoch < g.epoch || m.state == unrevoked || m.state == unreleased && !g.waits(m) {
			code = g.rejoin(m)
		}
	}
	resp.ErrorCode = code
	return resp
}

// leaveClassic serves LeaveGroup: several members at once from version 3 on, with a code each.
func (g *Group) leaveClassic(req *kmsg.LeaveGroupRequest) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.LeaveGroupResponse)
	leaving := req.Members
	if req.Version < 3 {
		leaving = []kmsg.LeaveGroupRequestMember{{MemberID: req.MemberID}}
	}
	left := false
	for _, l := range leaving {
		m := g.members[l.MemberID]
		var code int16
		if l.InstanceID != nil {
			// An administrator removes a static member without knowing its member id.
			if m = g.statics[*l.InstanceID]; m != nil && l.MemberID != "" && m.id != l.MemberID {
				m, code = nil, kerr.FencedInstanceID.Code
			}
		}
		answer := kmsg.LeaveGroupResponseMember{MemberID: l.MemberID, InstanceID: l.InstanceID, ErrorCode: code}
		switch {
		case code != 0:
		case m == nil || m.classic == nil:
			answer.ErrorCode = kerr.UnknownMemberID.Code
		default:
			answer.MemberID = m.id
			g.remove(m)
			left = true
		}
		if req.Version < 3 {
			resp.ErrorCode = answer.ErrorCode
		} else {
			resp.Members = append(resp.Members, answer)
		}
	}
	g.settle(left)
	return resp
}

// classicOf is a member as it moves to a classic group.
func (g *Group) classicOf(m *member) step.ClassicMember {
	return step.ClassicMember{
		ID: m.id, ClientID: m.clientID, Host: m.host, Instance: m.instance,
		Session: m.classic.session, Rebalance: max(m.rebalance, time.Millisecond),
		Protocols: m.classic.protocols, Assignment: g.encodeAssignment(m, m.target),
	}
}
