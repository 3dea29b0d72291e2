package consumer

import (
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/coordinator"
	"github.com/floelog/floe/agent/group/assignor"
	"github.com/floelog/floe/agent/group/step"
)

// Upgradable returns why a classic group cannot become a consumer group, nil if it can: it
// must be one of consumers, whose words can be read, and not too large.
func Upgradable(from step.ClassicGroup, cfg Config) error {
	if from.ProtocolType != protocolType {
		return fmt.Errorf("its protocol type is %q, not %q", from.ProtocolType, protocolType)
	}
	if len(from.Members) > cfg.MaxSize {
		return fmt.Errorf("it has %d members, a consumer group at most %d", len(from.Members), cfg.MaxSize)
	}
	for _, c := range from.Members {
		if _, err := wordsOf(from, c); err != nil {
			return fmt.Errorf("member %q: %w", c.ID, err)
		}
	}
	return nil
}

// wordsOf reads a classic member's subscription.
func wordsOf(from step.ClassicGroup, c step.ClassicMember) (*kmsg.ConsumerMemberMetadata, error) {
	if len(c.Protocols) == 0 {
		return nil, fmt.Errorf("it has no protocols")
	}
	i := max(0, slices.IndexFunc(c.Protocols, func(p step.Protocol) bool { return p.Name == from.Protocol }))
	var words kmsg.ConsumerMemberMetadata
	if err := words.ReadFrom(c.Protocols[i].Metadata); err != nil {
		return nil, fmt.Errorf("subscription in protocol %q: %w", c.Protocols[i].Name, err)
	}
	return &words, nil
}

// Upgrade turns a classic group into a consumer group, when a member of the new protocol joins
// it. The members keep what they have, until the one that joins makes the epoch rise; those
// who wait for a classic join or sync are to hear REBALANCE_IN_PROGRESS. The effects have
// all rows of the new group; the caller deletes the classic ones in the same step. Members
// whose words cannot be read do not come along; see Upgradable.
func Upgrade(name string, from step.ClassicGroup, cfg Config, t coordinator.Topics, now time.Time) (*Group, step.Effects) {
	g := New(name, cfg, t)
	g.now = now
	g.epoch = max(from.Generation, 0)
	g.assigned = g.epoch
	for _, c := range from.Members {
		words, err := wordsOf(from, c)
		if err != nil || g.members[c.ID] != nil {
			continue
		}
		m := g.add(c.ID)
		m.instance, m.clientID, m.host = c.Instance, c.ClientID, c.Host
		m.rebalance, m.heard = c.Rebalance, now
		m.epoch, m.previous = g.epoch, g.epoch
		m.rack = words.Rack
		m.classic = &classic{session: c.Session, protocols: c.Protocols}
		g.subscribe(m, words.Topics, "", nil)
		if m.instance != nil {
			g.statics[*m.instance] = m
		}
		m.target = g.unowned(g.readAssignment(c.Assignment))
		g.own(m, m.target, nil)
		g.timers.update(m, g.deadline(m))
	}
	g.stale = false
	g.hash = metadataHash(g.subscribedTopics())
	g.dirty.group = true
	return g, step.Effects{Rows: g.flush()}
}

// readAssignment reads what a classic group's leader assigned to a member: what of it exists.
// A member that has not got an assignment yet, or one that cannot be read, has nothing.
func (g *Group) readAssignment(b []byte) assignor.Assignment {
	var in kmsg.ConsumerMemberAssignment
	if len(b) == 0 || in.ReadFrom(b) != nil {
		return nil
	}
	var a assignor.Assignment
	for _, t := range in.Topics {
		topic, ok := g.topics.Topic(t.Topic)
		if !ok {
			continue
		}
		ps := slices.DeleteFunc(slices.Clone(t.Partitions), func(p int32) bool { return p < 0 || p >= topic.Partitions })
		slices.Sort(ps)
		if ps = slices.Compact(ps); len(ps) > 0 && a.Of(topic.ID) == nil {
			a = append(a, share{Topic: topic.ID, Partitions: ps})
			slices.SortFunc(a, func(x, y share) int { return compareTopics(x.Topic, y.Topic) })
		}
	}
	return a
}

// unowned returns the partitions of a that nobody has.
func (g *Group) unowned(a assignor.Assignment) assignor.Assignment {
	return filter(a, func(t topicID, p int32) bool { return g.owner[partition{Topic: t, Partition: p}] == nil })
}

// Downgradable returns the group as a classic one, if only members that speak the classic
// protocol remain, and at least one does. The caller deletes the rows (see Drop) and has the
// members rebalance.
func (g *Group) Downgradable() (step.ClassicGroup, bool) {
	if len(g.members) == 0 {
		return step.ClassicGroup{}, false
	}
	for _, m := range g.members {
		if m.classic == nil {
			return step.ClassicGroup{}, false
		}
	}
	// The generation is what members know already, not the epoch to which the last one's
	// departure raised the group: theirs would be illegal, and they would lose all they have.
	out := step.ClassicGroup{Generation: g.assigned, ProtocolType: protocolType}
	for _, m := range g.sortedMembers() {
		out.Generation = max(out.Generation, m.epoch)
		out.Members = append(out.Members, g.classicOf(m))
	}
	out.Leader = out.Members[0].ID
	out.Protocol = vote(out.Members)
	return out, true
}

// vote selects the protocol that most members prefer among those that all support; the join
// of each member has seen to it that there is one, unless another one's words changed since.
func vote(members []step.ClassicMember) string {
	support, votes := make(map[string]int), make(map[string]int)
	for _, m := range members {
		for _, p := range m.Protocols {
			support[p.Name]++
		}
	}
	for _, m := range members {
		if i := slices.IndexFunc(m.Protocols, func(p step.Protocol) bool { return support[p.Name] == len(members) }); i >= 0 {
			votes[m.Protocols[i].Name]++
		}
	}
	best := members[0].Protocols[0].Name
	for _, p := range members[0].Protocols {
		if votes[p.Name] > votes[best] {
			best = p.Name
		}
	}
	return best
}
