package classic

import (
	"bytes"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/coordinator"
	"github.com/floelog/floe/agent/group/step"
)

func failedSync(version int16, code int16) *kmsg.SyncGroupResponse {
	r := kmsg.NewPtrSyncGroupResponse()
	r.Version, r.ErrorCode = version, code
	return r
}

func (g *Group) sync(id coordinator.RequestID, r *kmsg.SyncGroupRequest, now time.Time) {
	code := g.check(r.MemberID, r.InstanceID)
	switch {
	case code != 0:
	case r.Generation != g.generation:
		code = kerr.IllegalGeneration.Code
	case differs(r.ProtocolType, g.protocolType) || differs(r.Protocol, g.protocol):
		code = kerr.InconsistentGroupProtocol.Code
	case g.state == preparing:
		code = kerr.RebalanceInProgress.Code
	}
	if code != 0 {
		g.reply(id, failedSync(r.Version, code))
		return
	}
	m := g.byID[r.MemberID]
	if m.unsynced {
		m.unsynced = false
		if g.unsynced--; g.unsynced == 0 {
			g.syncAt = time.Time{}
		}
	}
	if g.state == stable { // its session begins anew, as Kafka's did up to 3.x: it has just been heard of
		g.touch(m, now)
		g.reply(id, g.assigned(m, r.Version))
		return
	}
	g.awaitSync(m, id, r.Version)
	if m.isLeaderOf(g) {
		g.assign(r.GroupAssignment, now)
	}
}

func differs(asked *string, is string) bool { return asked != nil && is != "" && *asked != is }

func (g *Group) assigned(m *member, version int16) *kmsg.SyncGroupResponse {
	r := kmsg.NewPtrSyncGroupResponse()
	r.Version, r.MemberAssignment = version, m.Assignment
	r.ProtocolType, r.Protocol = kmsg.StringPtr(g.protocolType), kmsg.StringPtr(g.protocol)
	return r
}

// assign takes the leader's assignment: it ends the rebalance, and all of the group is
// journaled. Members that the leader forgot get nothing.
func (g *Group) assign(assignments []kmsg.SyncGroupRequestGroupAssignment, now time.Time) {
	by := make(map[string][]byte, len(assignments))
	size := g.bytes
	for _, a := range assignments {
		if m := g.byID[a.MemberID]; m != nil {
			size += len(a.MemberAssignment) - len(m.Assignment)
			by[a.MemberID] = a.MemberAssignment
		}
	}
	if size > maxGroupBytes { // as where a broker finds the record too large
		for _, m := range g.members {
			if m.sync.on {
				g.answerSync(m, failedSync(m.sync.version, kerr.UnknownServerError.Code))
				g.touch(m, now)
			}
		}
		g.prepare(now)
		return
	}
	for _, m := range g.members {
		m.Assignment = g.reassign(m, by[m.ID])
	}
	g.transition(stable, now)
	g.storeAll()
	for _, m := range g.members {
		if m.sync.on {
			g.answerSync(m, g.assigned(m, m.sync.version))
			g.touch(m, now)
		}
	}
}

// reassign copies an assignment for a member and keeps account of its bytes.
func (g *Group) reassign(m *member, to []byte) []byte {
	g.bytes += len(to) - len(m.Assignment)
	return bytes.Clone(to)
}

func (g *Group) heartbeat(id coordinator.RequestID, r *kmsg.HeartbeatRequest, now time.Time) {
	a := r.ResponseKind().(*kmsg.HeartbeatResponse)
	a.ErrorCode = g.check(r.MemberID, r.InstanceID)
	if a.ErrorCode == 0 && r.Generation != g.generation {
		a.ErrorCode = kerr.IllegalGeneration.Code
	}
	if a.ErrorCode == 0 {
		if m := g.byID[r.MemberID]; !m.fresh {
			g.touch(m, now)
		}
		if g.state == preparing {
			a.ErrorCode = kerr.RebalanceInProgress.Code
		}
	}
	g.reply(id, a)
}

// CheckCommit says whether a member may commit offsets, by Kafka's code. A group without
// members takes commits from anybody who claims no generation.
func (g *Group) CheckCommit(m step.MemberRef) int16 {
	if m.Epoch < 0 && g.state == empty {
		return 0
	}
	if m.Epoch >= 0 || m.ID != "" || m.Instance != nil {
		if code := g.check(m.ID, m.Instance); code != 0 {
			return code
		}
		if m.Epoch != g.generation {
			return kerr.IllegalGeneration.Code
		}
	} else if !m.Transactional {
		return kerr.UnknownMemberID.Code
	}
	if !m.Transactional && g.state == completing {
		return kerr.RebalanceInProgress.Code
	}
	return 0
}

// CheckFetch says whether a member may fetch offsets: anybody may.
func (g *Group) CheckFetch(step.MemberRef) int16 { return 0 }
