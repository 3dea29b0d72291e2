package classic

import (
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/group/step"
)

// subscriptions returns the topics that the members subscribe to, or nil where that
// cannot be known: they are no consumers, or one says it in a form that nobody knows.
func (g *Group) subscriptions() map[string]struct{} {
	if g.protocolType != ConsumerType {
		return nil
	}
	topics := map[string]struct{}{}
	for _, m := range g.members {
		md, ok := readMetadata(m.metadata(g.protocol))
		if !ok {
			return nil
		}
		for _, t := range md.Topics {
			topics[t] = struct{}{}
		}
	}
	return topics
}

func readMetadata(b []byte) (*kmsg.ConsumerMemberMetadata, bool) {
	md := kmsg.NewConsumerMemberMetadata()
	if err := md.ReadFrom(b); err != nil {
		return nil, false
	}
	return &md, true
}

// Upgradable returns the group in the form in which it becomes a consumer group (KIP-848):
// its members must be consumers whose metadata and assignments can be read. User data in an
// assignment is an assignor's own, such as that of Kafka Streams: what assigns in its place does
// not know it, and members that miss it fail.
func (g *Group) Upgradable() (step.ClassicGroup, bool) {
	if g.protocolType != ConsumerType || len(g.members) == 0 {
		return step.ClassicGroup{}, false
	}
	out := step.ClassicGroup{Generation: g.generation, ProtocolType: g.protocolType, Protocol: g.protocol, Leader: g.leader}
	for _, m := range g.members {
		for _, p := range m.Protocols {
			if _, ok := readMetadata(p.Metadata); !ok {
				return step.ClassicGroup{}, false
			}
		}
		if len(m.Assignment) > 0 {
			a := kmsg.NewConsumerMemberAssignment()
			if a.ReadFrom(m.Assignment) != nil || len(a.UserData) > 0 {
				return step.ClassicGroup{}, false
			}
		}
		out.Members = append(out.Members, m.ClassicMember)
	}
	return out, true
}

// FromMembers builds the group that a consumer group becomes when its last member of the
// new protocol has left. What that one had is free, so a rebalance begins.
func FromMembers(name string, from step.ClassicGroup, cfg Config, now time.Time) (*Group, step.Effects) {
	g := New(name, cfg)
	g.generation, g.protocolType, g.leader = from.Generation, from.ProtocolType, from.Leader
	for _, c := range from.Members {
		g.order++
		m := &member{ClassicMember: c, order: g.order}
		g.add(m)
		g.touch(m, now)
	}
	if g.byID[g.leader] == nil && len(g.members) > 0 {
		g.leader = g.members[0].ID
	}
	g.protocol = g.selectProtocol()
	g.topics = g.subscriptions()
	g.transition(stable, now)
	for _, m := range g.members {
		g.putMember(m)
	}
	g.putHeader(flagRebalance)
	g.prepare(now)
	return g, g.take()
}
