package consumer

import (
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/coordinator"
	"github.com/floelog/floe/agent/group/assignor"
)

// ConsumerGroupHeartbeat (KIP-848):
//
//	version 0: a member without an id gets one from the group
//	version 1: clients choose their ids; SubscribedTopicRegex
//
// The member epoch says what it is about: 0 to join, -1 to leave, -2 for a static member to
// leave for a while, and otherwise the epoch that the client knows.
func (g *Group) heartbeat(from coordinator.Client, req *kmsg.ConsumerGroupHeartbeatRequest) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.ConsumerGroupHeartbeatResponse)
	r := g.validate(req)
	switch {
	case r != nil:
	case req.MemberEpoch < 0:
		r = g.leave(req, resp)
	default:
		r = g.beat(from, req, resp)
	}
	if r != nil {
		resp.ErrorCode, resp.ErrorMessage = r.code, &r.message
	}
	return resp
}

// validate refuses what no group could make sense of.
func (g *Group) validate(req *kmsg.ConsumerGroupHeartbeatRequest) *refusal {
	empty := func(s *string) bool { return s != nil && strings.TrimSpace(*s) == "" }
	wrong := ""
	switch e := req.MemberEpoch; {
	case empty(&req.Group):
		wrong = "GroupId can't be empty."
	case empty(req.InstanceID):
		wrong = "InstanceId can't be empty."
	case empty(req.RackID):
		wrong = "RackId can't be empty."
	case e < leftForAWhile:
		wrong = "MemberEpoch is invalid."
	case empty(&req.MemberID) && (e != 0 || req.Version >= 1):
		wrong = "MemberId can't be empty."
	case e == leftForAWhile && req.InstanceID == nil:
		wrong = "InstanceId can't be null."
	case wordsOfHeartbeat(req) > maxWords:
		wrong = "What the member says of itself and its subscription takes more than 256 KiB."
	case e == 0 && req.RebalanceTimeoutMillis == -1:
		wrong = "RebalanceTimeoutMs must be provided in first request."
	case e == 0 && (req.Topics == nil || len(req.Topics) > 0):
		wrong = "TopicPartitions must be empty when (re-)joining."
	case e == 0 && req.SubscribedTopicNames == nil && req.SubscribedTopicRegex == nil:
		wrong = "Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining."
	}
	if wrong != "" {
		return refuse(kerr.InvalidRequest, wrong)
	}
	if a := req.ServerAssignor; a != nil && !slices.Contains(g.cfg.Assignors, *a) {
		return refuse(kerr.UnsupportedAssignor, "ServerAssignor "+*a+" is not supported. Supported assignors: "+strings.Join(g.cfg.Assignors, ", ")+".")
	}
	return nil
}

// maxWords bounds the bytes of what a member says of itself, which becomes one row. Why not
// larger: a change takes no more than coordinator.MaxChangeBytes, and names, a regular expression
// and the rest may come in different requests. Why not smaller: some ten thousand topics by name.
const maxWords = coordinator.MaxChangeBytes / 3

func wordsOfHeartbeat(req *kmsg.ConsumerGroupHeartbeatRequest) int {
	n := len(req.MemberID)
	for _, s := range []*string{req.InstanceID, req.RackID, req.SubscribedTopicRegex} {
		if s != nil {
			n += len(*s)
		}
	}
	for _, name := range req.SubscribedTopicNames {
		n += len(name) + 4 // its length in the row, and to bound empty ones
	}
	return n
}

// beat serves a member that joins, or that is there.
func (g *Group) beat(from coordinator.Client, req *kmsg.ConsumerGroupHeartbeatRequest, resp *kmsg.ConsumerGroupHeartbeatResponse) *refusal {
	pattern, r := g.pattern(req)
	if r != nil {
		return r
	}
	m, r := g.known(req)
	if r != nil {
		return r
	}
	bump := g.update(m, from, req, pattern)
	g.settle(bump)
	g.retarget()
	moved := g.reconcile(m, req.Topics)
	g.touch(m)

	resp.MemberID, resp.MemberEpoch = kmsg.StringPtr(m.id), m.epoch
	resp.HeartbeatIntervalMillis = int32(g.cfg.Heartbeat.Milliseconds())
	// A client that tells everything has lost a reply, or joins, and wants to hear everything.
	full := req.RebalanceTimeoutMillis != -1 && (req.SubscribedTopicNames != nil || req.SubscribedTopicRegex != nil) && req.Topics != nil
	if full || moved || req.MemberEpoch == 0 {
		resp.Assignment = &kmsg.ConsumerGroupHeartbeatResponseAssignment{Topics: toResponse(m.assigned)}
	}
	return nil
}

// pattern compiles the regular expression of a request, if the group does not know it.
func (g *Group) pattern(req *kmsg.ConsumerGroupHeartbeatRequest) (*regexp.Regexp, *refusal) {
	if req.SubscribedTopicRegex == nil {
		return nil, nil
	}
	if m := g.members[req.MemberID]; m != nil && m.sub.regex == *req.SubscribedTopicRegex {
		return m.sub.pattern, nil
	}
	for _, s := range g.subs {
		if s.regex == *req.SubscribedTopicRegex {
			return s.pattern, nil
		}
	}
	return compile(*req.SubscribedTopicRegex)
}

// full reports whether there is no room for a new member. A static one takes its own place.
func (g *Group) full(instance *string) bool {
	return len(g.members) >= g.cfg.MaxSize && (instance == nil || g.statics[*instance] == nil)
}

// known finds the member of a request, or makes it if it joins and may. Nothing has changed
// if it is refused.
func (g *Group) known(req *kmsg.ConsumerGroupHeartbeatRequest) (*member, *refusal) {
	id := req.MemberID
	m := g.members[id]
	if m == nil && g.full(req.InstanceID) {
		return nil, refuse(kerr.GroupMaxSizeReached, "The consumer group has reached its maximum capacity.")
	}
	if id == "" {
		id = g.cfg.NewID()
	}
	if req.InstanceID != nil {
		return g.knownStatic(req, id)
	}
	if m == nil {
		if req.MemberEpoch != 0 {
			return nil, unknownMember(id)
		}
		return g.add(id), nil
	}
	return m, m.checkHeartbeat(req)
}

func unknownMember(id string) *refusal {
	return refuse(kerr.UnknownMemberID, "Member "+id+" is not a member of the group.")
}

// knownStatic is known for a request with an instance id (KIP-345).
func (g *Group) knownStatic(req *kmsg.ConsumerGroupHeartbeatRequest, id string) (*member, *refusal) {
	old := g.statics[*req.InstanceID]
	if req.MemberEpoch != 0 {
		if old == nil {
			return nil, refuse(kerr.UnknownMemberID, "Instance id "+*req.InstanceID+" is unknown.")
		}
		if old.id != id {
			return nil, fencedInstance(old, id)
		}
		return old, old.checkHeartbeat(req)
	}
	other := g.members[id]
	if other != nil && other != old {
		// The id belongs to another member: a client that changes its instance id must leave first.
		return nil, fencedInstance(other, id)
	}
	if old == nil {
		m := g.add(id)
		m.instance = kmsg.StringPtr(*req.InstanceID)
		g.statics[*req.InstanceID] = m
		return m, nil
	}
	if old.classic == nil && old.epoch != leftForAWhile {
		if old.id == id && old.checkHeartbeat(req) == nil {
			return old, nil // the reply to its first request was lost
		}
		return nil, refuse(kerr.UnreleasedInstanceID, "Static member "+id+" with instance id "+*req.InstanceID+
			" cannot join the group because the instance id is owned by "+old.id+" member.")
	}
	return g.replace(old, id), nil
}

func fencedInstance(m *member, id string) *refusal {
	return refuse(kerr.FencedInstanceID, "Static member "+id+" was fenced by member "+m.id+".")
}

// checkHeartbeat refuses an epoch that the member cannot have. One behind is fine if the
// reply that told the newer one may have been lost.
func (m *member) checkHeartbeat(req *kmsg.ConsumerGroupHeartbeatRequest) *refusal {
	switch e := req.MemberEpoch; {
	case e > m.epoch:
		return refuse(kerr.FencedMemberEpoch, "The consumer group member has a greater member epoch than the one known by the group coordinator. The member must abandon all its partitions and rejoin.")
	case e < m.epoch && (e != m.previous || !ownsOnly(req.Topics, m.assigned)):
		return refuse(kerr.FencedMemberEpoch, "The consumer group member has a smaller member epoch than the one known by the group coordinator. The member must abandon all its partitions and rejoin.")
	}
	return nil
}

// update takes over what a request says of its member, and reports whether the member
// subscribes to something else than before.
func (g *Group) update(m *member, from coordinator.Client, req *kmsg.ConsumerGroupHeartbeatRequest, pattern *regexp.Regexp) (resubscribed bool) {
	changed := m.classic != nil
	m.classic, m.joinBy, m.syncBy = nil, noTime, noTime
	if req.RackID != nil && (m.rack == nil || *m.rack != *req.RackID) {
		m.rack, changed = kmsg.StringPtr(*req.RackID), true
	}
	if ms := req.RebalanceTimeoutMillis; ms != -1 && m.rebalance != millis(ms) {
		m.rebalance, changed = millis(ms), true
	}
	if a := req.ServerAssignor; a != nil && m.assignor != *a {
		m.assignor, changed = *a, true
	}
	if m.clientID != from.ID || m.host != from.Host {
		m.clientID, m.host, changed = from.ID, from.Host, true
	}
	if req.SubscribedTopicNames != nil || req.SubscribedTopicRegex != nil || m.sub == nil {
		var names []string
		regex := ""
		if m.sub != nil {
			names, regex = m.sub.names, m.sub.regex
			if req.SubscribedTopicRegex == nil {
				pattern = m.sub.pattern
			}
		}
		if req.SubscribedTopicNames != nil {
			names = req.SubscribedTopicNames
		}
		if req.SubscribedTopicRegex != nil {
			regex = *req.SubscribedTopicRegex
		}
		resubscribed = g.subscribe(m, names, regex, pattern)
	}
	if changed || resubscribed {
		g.dirty.mark(m, memberRow)
	}
	return resubscribed
}

func millis(ms int32) time.Duration { return time.Duration(max(ms, 0)) * time.Millisecond }

// leave serves a member that leaves, for good or for a while.
func (g *Group) leave(req *kmsg.ConsumerGroupHeartbeatRequest, resp *kmsg.ConsumerGroupHeartbeatResponse) *refusal {
	m := g.members[req.MemberID]
	if req.InstanceID != nil {
		if m = g.statics[*req.InstanceID]; m == nil {
			return refuse(kerr.UnknownMemberID, "Instance id "+*req.InstanceID+" is unknown.")
		} else if m.id != req.MemberID {
			return fencedInstance(m, req.MemberID)
		}
	}
	if m == nil {
		return unknownMember(req.MemberID)
	}
	resp.MemberID, resp.MemberEpoch = kmsg.StringPtr(m.id), req.MemberEpoch
	if req.MemberEpoch != leftForAWhile {
		g.remove(m)
		g.settle(true)
		return nil
	}
	// It keeps its place, but what it was to let go it has let go.
	g.own(m, m.assigned, nil)
	m.epoch, m.revokeBy = leftForAWhile, noTime
	g.dirty.mark(m, currentRow)
	return nil
}

func toResponse(a assignor.Assignment) []kmsg.ConsumerGroupHeartbeatResponseAssignmentTopic {
	out := make([]kmsg.ConsumerGroupHeartbeatResponseAssignmentTopic, len(a))
	for i, s := range a {
		out[i].TopicID, out[i].Partitions = s.Topic, s.Partitions
	}
	return out
}
