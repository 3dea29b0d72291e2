package classic

import (
	"bytes"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/coordinator"
	"github.com/floelog/floe/agent/group/step"
)

// waiting is a request that is answered later.
type waiting struct {
	id      coordinator.RequestID
	version int16
	on      bool
}

type member struct {
	step.ClassicMember
	order    uint64
	join     waiting
	sync     waiting
	fresh    bool      // its first join phase is under way: it cannot send heartbeats
	nameless bool      // its client has not heard its id yet, and has no instance id to be known by
	left     bool      // its client hung up while it waited: its session begins at the next Tick
	unsynced bool      // no SyncGroup of this generation came from it
	deadline time.Time // end of its session; zero: none, it waits
}

func (m *member) isLeaderOf(g *Group) bool { return m.ID == g.leader }

// size is what the member counts for in maxGroupBytes.
func (m *member) size() int {
	n := len(m.ID) + len(m.ClientID) + len(m.Host) + len(m.Assignment)
	for _, p := range m.Protocols {
		n += len(p.Name) + len(p.Metadata)
	}
	return n
}

// metadata returns what the member says under a protocol.
func (m *member) metadata(protocol string) []byte {
	for _, p := range m.Protocols {
		if p.Name == protocol {
			return p.Metadata
		}
	}
	return nil
}

func (m *member) matches(protocols []kmsg.JoinGroupRequestProtocol) bool {
	return slices.EqualFunc(m.Protocols, protocols, func(a step.Protocol, b kmsg.JoinGroupRequestProtocol) bool {
		return a.Name == b.Name && bytes.Equal(a.Metadata, b.Metadata)
	})
}

// copyProtocols copies what a request says: its bytes belong to the connection. Of a
// protocol that is named twice the first counts.
func copyProtocols(in []kmsg.JoinGroupRequestProtocol) []step.Protocol {
	out := make([]step.Protocol, 0, len(in))
	seen := make(map[string]struct{}, len(in))
	for _, p := range in {
		if _, twice := seen[p.Name]; twice {
			continue
		}
		seen[p.Name] = struct{}{}
		out = append(out, step.Protocol{Name: p.Name, Metadata: bytes.Clone(p.Metadata)})
	}
	return out
}

// add takes a member in. The first one decides the protocol type.
func (g *Group) add(m *member) {
	g.members = append(g.members, m)
	g.byID[m.ID] = m
	if m.Instance != nil {
		g.static[*m.Instance] = m
	}
	if g.leader == "" {
		g.leader = m.ID
	}
	g.count(m, 1)
	delete(g.pending, m.ID)
}

// count adds what a member contributes to the group's sums, or takes it away (n = -1).
func (g *Group) count(m *member, n int) {
	g.bytes += n * m.size()
	for _, p := range m.Protocols {
		if g.supports[p.Name] += n; g.supports[p.Name] == 0 {
			delete(g.supports, p.Name)
		}
	}
	if m.join.on {
		g.joining += n
	}
	if m.unsynced {
		g.unsynced += n
	}
}

// remove takes a member out; code answers what it waits for.
func (g *Group) remove(m *member, code int16) {
	g.answerJoin(m, failedJoin(m.join.version, "", code))
	g.answerSync(m, failedSync(m.sync.version, code))
	g.count(m, -1)
	delete(g.byID, m.ID)
	if m.Instance != nil && g.static[*m.Instance] == m {
		delete(g.static, *m.Instance)
	}
	g.members = slices.DeleteFunc(g.members, func(o *member) bool { return o == m })
	if m.isLeaderOf(g) {
		g.leader = ""
		if len(g.members) > 0 {
			g.leader = g.members[0].ID
		}
	}
	g.forget(m.ID)
}

// touch begins a member's session anew.
func (g *Group) touch(m *member, now time.Time) {
	m.deadline = now.Add(m.Session)
	g.arm(m.deadline)
}

// check says whether a request's member is one, by Kafka's code.
func (g *Group) check(id string, instance *string) int16 {
	if instance != nil {
		switch m := g.static[*instance]; {
		case m == nil:
			return kerr.UnknownMemberID.Code
		case m.ID != id:
			return kerr.FencedInstanceID.Code
		}
	}
	if g.byID[id] == nil {
		return kerr.UnknownMemberID.Code
	}
	return 0
}

// await parks a request. One that the same member parked before is a lost connection's.
func (g *Group) await(m *member, w *waiting, id coordinator.RequestID, version int16) {
	*w = waiting{id, version, true}
	g.waits[id] = m
	m.left = false
}

func (g *Group) awaitJoin(m *member, id coordinator.RequestID, version int16) {
	g.answerJoin(m, failedJoin(m.join.version, m.ID, kerr.RebalanceInProgress.Code))
	g.await(m, &m.join, id, version)
	g.joining++
}

func (g *Group) awaitSync(m *member, id coordinator.RequestID, version int16) {
	g.answerSync(m, failedSync(m.sync.version, kerr.RebalanceInProgress.Code))
	g.await(m, &m.sync, id, version)
}

func (g *Group) answerJoin(m *member, r *kmsg.JoinGroupResponse) {
	if !m.join.on {
		return
	}
	delete(g.waits, m.join.id)
	g.reply(m.join.id, r)
	m.join = waiting{}
	g.joining--
}

func (g *Group) answerSync(m *member, r *kmsg.SyncGroupResponse) {
	if !m.sync.on {
		return
	}
	delete(g.waits, m.sync.id)
	g.reply(m.sync.id, r)
	m.sync = waiting{}
}

// Cancelled says that nobody waits for the answer to a request any more. The member's
// session begins then; one that its client cannot know of goes at once.
func (g *Group) Cancelled(id coordinator.RequestID) {
	m := g.waits[id]
	if m == nil {
		return
	}
	delete(g.waits, id)
	if m.join.on && m.join.id == id {
		m.join = waiting{}
		g.joining--
	}
	if m.sync.on && m.sync.id == id {
		m.sync = waiting{}
	}
	m.left = true
	g.arm(time.Unix(0, 0))
}
