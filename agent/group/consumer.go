package group

import (
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/coordinator"
	"github.com/floelog/floe/agent/group/classic"
	"github.com/floelog/floe/agent/group/consumer"
	"github.com/floelog/floe/agent/group/step"
)

// Groups of the consumer protocol, and the way from one protocol to the other (KIP-848).

func (m *machine) classicConfig() classic.Config {
	return classic.Config{
		InitialDelay: m.settings.InitialRebalanceDelay,
		MinSession:   m.settings.MinSessionTimeout,
		MaxSession:   m.settings.MaxSessionTimeout,
		MaxSize:      m.settings.MaxSize,
		NewID:        m.newID,
	}
}

func (m *machine) consumerConfig() consumer.Config {
	c := consumer.Defaults(m.newID)
	c.Session, c.Heartbeat = m.settings.ConsumerSessionTimeout, m.settings.ConsumerHeartbeatInterval
	c.MaxSize, c.Assignors = m.settings.ConsumerMaxSize, m.settings.ConsumerAssignors
	c.RegexRefresh = m.settings.RegexRefreshInterval
	c.MinClassicSession, c.MaxClassicSession = m.settings.MinSessionTimeout, m.settings.MaxSessionTimeout
	return c
}

// consumerHeartbeat brings a heartbeat to its group. Whoever joins, with member epoch 0,
// makes the group: of nothing, or of a classic group, whether it has members or not.
func (m *machine) consumerHeartbeat(req coordinator.Request, r *kmsg.ConsumerGroupHeartbeatRequest, now time.Time) {
	e := m.groups[r.Group]
	if e.damaged() != nil || e != nil && e.consumer() != nil {
		m.step(e, req, now)
		return
	}
	if r.MemberEpoch != 0 || e != nil && !e.vacant() && !m.upgrade(e, req, now) {
		m.reply(req.ID, noConsumerGroup(r, e))
		return
	}
	if m.full(r.Group) {
		a := r.ResponseKind().(*kmsg.ConsumerGroupHeartbeatResponse)
		a.ErrorCode = kerr.PolicyViolation.Code
		a.ErrorMessage = kmsg.StringPtr(fmt.Sprintf("There are %d groups on the shard of the group's name already, as many as max-groups allows.", len(m.groups)))
		m.reply(req.ID, a)
		return
	}
	if e != nil && !e.vacant() {
		return // upgraded, or the heartbeat was refused
	}
	g := consumer.New(r.Group, m.consumerConfig(), m.topics)
	e = m.entry(r.Group, now)
	m.configure(g, e.config)
	eff := g.Step(req, now)
	if !refused(eff) {
		if old := e.classic(); old != nil {
			m.apply(e, 0, old.Dissolve())
		}
		m.erase(e, consumerRows)
		m.apply(e, req.ID, eff)
		m.erase(e, classicRows)
		e.group = g
	} else {
		m.out.Replies = append(m.out.Replies, eff.Replies...)
	}
	m.keep(e)
}

// refused says that a heartbeat was answered with an error.
func refused(eff step.Effects) bool {
	for _, r := range eff.Replies {
		if a, ok := r.Body.(*kmsg.ConsumerGroupHeartbeatResponse); ok && a.ErrorCode != 0 {
			return true
		}
	}
	return false
}

func noConsumerGroup(r *kmsg.ConsumerGroupHeartbeatRequest, e *entry) kmsg.Response {
	a := r.ResponseKind().(*kmsg.ConsumerGroupHeartbeatResponse)
	text := fmt.Sprintf("Consumer group %s not found.", r.Group)
	if e.exists() {
		text = fmt.Sprintf("Group %s is not a consumer group.", r.Group)
	}
	a.ErrorCode, a.ErrorMessage = kerr.GroupIDNotFound.Code, &text
	return a
}

// upgrade makes a consumer group of a classic one with members, for the sake of one who joins
// with a heartbeat. It says false if that cannot be; if the heartbeat is refused, it has
// answered and left the group as it was.
func (m *machine) upgrade(e *entry, req coordinator.Request, now time.Time) bool {
	old := e.classic()
	from, ok := old.Upgradable()
	if !ok || !m.settings.upgrades() || len(from.Members) > m.settings.ConsumerMaxSize {
		return false
	}
	g, rows := consumer.Upgrade(e.name, from, m.consumerConfig(), m.topics, now)
	m.configure(g, e.config)
	joined := g.Step(req, now)
	if refused(joined) {
		m.out.Replies = append(m.out.Replies, joined.Replies...)
		return true
	}
	m.apply(e, 0, old.Dissolve())
	m.erase(e, consumerRows) // of an upgrade that a failover cut short
	m.apply(e, 0, rows)
	m.apply(e, req.ID, joined)
	// The header goes first: until then a coordinator that takes over has the classic group.
	m.erase(e, classicRows)
	e.group = g
	m.keep(e)
	return true
}

// afterStep makes a consumer group classic again whose last member of the new protocol has
// left.
func (m *machine) afterStep(e *entry, now time.Time) {
	g := e.consumer()
	if g == nil || !m.settings.downgrades() {
		return
	}
	from, ok := g.Downgradable()
	if !ok || len(from.Members) > m.settings.MaxSize {
		return
	}
	next, eff := classic.FromMembers(e.name, from, m.classicConfig(), now)
	m.erase(e, classicRows) // of an upgrade that a failover cut short
	m.apply(e, 0, eff)
	m.erase(e, consumerRows)
	e.group = next
}
