// Package consumer is the logic of one consumer group of the new protocol (KIP-848): members
// heartbeat, the group computes who shall own what, and moves each member there by itself.
//
// Three epochs tell how far things are. The group's epoch rises whenever members,
// subscriptions or topics change. The assignment epoch is the group epoch that the target
// assignment was computed for. A member's epoch is the one whose target it has reached.
//
//	Empty        no members
//	Assigning    assignment epoch < group epoch: the next heartbeat computes the target
//	Reconciling  some member is not where its target is
//	Stable       all members are
//
// Invariants:
//  1. No partition is owned by two members at any time: it is assigned to a member, or being
//     revoked from it, and free for another one only when the member has said that it let it go,
//     has left, or was fenced.
//  2. Epochs of the group never fall, nor does a member's while it is in the group, but to -2
//     when a static member leaves for a while (KIP-345).
//  3. What a reply shows is in rows that are emitted in the same step; a group that is loaded
//     from its rows goes on where it was, without a rebalance. Only timers start afresh.
//
// The group is pure: no I/O, no clock, no randomness but Config.NewID. One goroutine, the
// shard's loop, may use a group. It is not for classic groups; but members that still speak
// the classic protocol may be in it (classic.go), and whole groups move in both directions
// (migrate.go).
package consumer

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/coordinator"
	"github.com/floelog/floe/agent/group/step"
)

// Config is what all groups of the new protocol have in common. Names are Kafka's.
type Config struct {
	Session   time.Duration // group.consumer.session.timeout.ms
	Heartbeat time.Duration // group.consumer.heartbeat.interval.ms
	MaxSize   int           // group.consumer.max.size
	// Assignors are the names that members may ask for; the first is the default
	// (group.consumer.assignors). Each is known to assignor.ByName.
	Assignors []string
	// RegexRefresh is the least time between two resolutions of a group's regular
	// expressions because topics changed: each looks at every topic. Why not smaller: topics
	// that are created one by one would each cost a rebalance. Why not larger: consumers
	// wait that long for a new topic. Kafka has 10 s.
	RegexRefresh time.Duration
	// Bounds of the session time-outs of members that speak the classic protocol
	// (group.min.session.timeout.ms, group.max.session.timeout.ms).
	MinClassicSession, MaxClassicSession time.Duration
	NewID                                func() string // a new member id, unique for ever
}

// Defaults returns Kafka 4's settings.
func Defaults(newID func() string) Config {
	return Config{
		Session: 45 * time.Second, Heartbeat: 5 * time.Second, MaxSize: 1<<31 - 1,
		Assignors: []string{"uniform", "range"}, RegexRefresh: 10 * time.Second,
		MinClassicSession: 6 * time.Second, MaxClassicSession: 30 * time.Minute,
		NewID: newID,
	}
}

// Group is one consumer group.
type Group struct {
	name   string
	cfg    Config
	topics coordinator.Topics

	epoch    int32  // the group's
	assigned int32  // the assignment epoch, never above epoch
	hash     uint64 // of what is subscribed to, as of epoch; see metadataHash

	members map[string]*member
	statics map[string]*member       // by instance id
	subs    map[string]*subscription // by subscription.key: those that members have
	owner   map[partition]*member    // who has it assigned, or is to let it go
	given   []string                 // ids that were given out and not used yet, oldest first

	stale   bool      // subs changed, or what they resolve to: hash may be out of date
	refresh time.Time // of the regular expressions, when due; zero: not
	regexAt time.Time // when they were resolved last
	trust   time.Time // from when on a difference of topics is believed; see catchUp
	now     time.Time // of the step that is under way
	timers  timers
	dirty   dirty
}

// New returns a group without members. Nothing is to be stored of it until somebody joins.
func New(name string, cfg Config, t coordinator.Topics) *Group {
	return &Group{
		name: name, cfg: cfg, topics: t, hash: emptyHash,
		members: make(map[string]*member), statics: make(map[string]*member),
		subs: make(map[string]*subscription), owner: make(map[partition]*member),
	}
}

// Configure sets the group's own session time-out, heartbeat interval and default assignor
// (consumer.session.timeout.ms and so on); zero and empty leave what Config said.
func (g *Group) Configure(session, heartbeat time.Duration, defaultAssignor string) {
	if session > 0 {
		g.cfg.Session = session
	}
	if heartbeat > 0 {
		g.cfg.Heartbeat = heartbeat
	}
	if defaultAssignor != "" {
		g.cfg.Assignors = preferring(g.cfg.Assignors, defaultAssignor)
	}
	for _, m := range g.members {
		g.timers.update(m, g.deadline(m))
	}
}

// preferring returns names with first in front, where it is one of them.
func preferring(names []string, first string) []string {
	out := []string{first}
	for _, n := range names {
		if n != first {
			out = append(out, n)
		}
	}
	if len(out) > len(names) {
		return names
	}
	return out
}

// Step answers a request: ConsumerGroupHeartbeat, or from members that speak the classic
// protocol JoinGroup, SyncGroup, Heartbeat and LeaveGroup. Every request is answered at once.
// A body of another kind is a mistake of the caller, and has no effect.
func (g *Group) Step(req coordinator.Request, now time.Time) step.Effects {
	g.now = now
	var resp kmsg.Response
	switch body := req.Body.(type) {
	case *kmsg.ConsumerGroupHeartbeatRequest:
		resp = g.heartbeat(req.Client, body)
	case *kmsg.JoinGroupRequest:
		resp = g.join(req.Client, body)
	case *kmsg.SyncGroupRequest:
		resp = g.sync(body)
	case *kmsg.HeartbeatRequest:
		resp = g.classicHeartbeat(body)
	case *kmsg.LeaveGroupRequest:
		resp = g.leaveClassic(body)
	default:
		return step.Effects{}
	}
	return step.Effects{Rows: g.flush(), Replies: []coordinator.Reply{{ID: req.ID, Body: resp}}}
}

// Cancelled does nothing: no request waits.
func (g *Group) Cancelled(coordinator.RequestID) {}

// TopicsChanged takes notice of topics that were created, changed or deleted. If that
// concerns the group, its epoch rises, and the next heartbeats see to the rest.
func (g *Group) TopicsChanged(t coordinator.Topics, now time.Time) step.Effects {
	g.now, g.topics = now, t
	regexes := false
	for _, s := range g.subs {
		regexes = regexes || s.pattern != nil
		g.resolve(s, false)
	}
	if due := g.regexAt.Add(g.cfg.RegexRefresh); regexes && now.Before(due) && !now.Before(g.trust) {
		g.refresh = due
	} else if regexes {
		g.resolveRegexes()
	}
	g.settle(false)
	return step.Effects{Rows: g.flush()}
}

// Tick fences members whose time is over.
func (g *Group) Tick(now time.Time) step.Effects {
	g.now = now
	if !g.refresh.IsZero() && !now.Before(g.refresh) {
		g.resolveRegexes()
	}
	fenced := false
	for m := g.timers.due(now); m != nil; m = g.timers.due(now) {
		if d := g.deadline(m); d.After(now) {
			g.timers.update(m, d)
			continue
		}
		g.remove(m)
		fenced = true
	}
	g.settle(fenced)
	return step.Effects{Rows: g.flush()}
}

// Wake returns when the group wants its next Tick; zero: not before another request.
func (g *Group) Wake() time.Time {
	at := g.timers.first()
	if g.dirty.any() { // what Load repaired
		return g.now
	}
	for _, t := range []time.Time{g.refresh, g.unsettled()} {
		if !t.IsZero() && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	return at
}

// Members returns the number of members.
func (g *Group) Members() int { return len(g.members) }

// State returns the group's state in Kafka's words; see the package comment.
func (g *Group) State() string {
	switch {
	case len(g.members) == 0:
		return "Empty"
	case g.epoch > g.assigned:
		return "Assigning"
	}
	for _, m := range g.members {
		if !m.reached(g.assigned) {
			return "Reconciling"
		}
	}
	return "Stable"
}

// Subscribed reports whether a member subscribes to a topic, by its name or by a regular
// expression.
func (g *Group) Subscribed(topic string) bool {
	for _, s := range g.subs {
		if s.has(topic) {
			return true
		}
	}
	return false
}

// CheckCommit returns the code with which a commit of offsets is refused, 0 for none.
func (g *Group) CheckCommit(r step.MemberRef) int16 {
	if r.Epoch < 0 && len(g.members) == 0 {
		return 0 // an administrator's, or a client that manages its partitions itself
	}
	if r.Transactional && r.Epoch == -1 && r.ID == "" && r.Instance == nil {
		return 0 // its sender need not say who it is (KAFKA-18060)
	}
	m := g.members[r.ID]
	if m == nil {
		return kerr.UnknownMemberID.Code
	}
	if m.classic == nil && !r.Transactional && r.Version < 9 {
		return kerr.UnsupportedVersion.Code
	}
	code := m.checkEpoch(r.Epoch)
	if code == kerr.StaleMemberEpoch.Code && r.Transactional {
		return kerr.IllegalGeneration.Code // TxnOffsetCommit does not know the other
	}
	return code
}

// CheckFetch returns the code with which a question for offsets is refused, 0 for none.
func (g *Group) CheckFetch(r step.MemberRef) int16 {
	if r.ID == "" && r.Epoch < 0 {
		return 0
	}
	m := g.members[r.ID]
	if m == nil {
		return kerr.UnknownMemberID.Code
	}
	return m.checkEpoch(r.Epoch)
}

// refusal is why a request is refused.
type refusal struct {
	code    int16
	message string
}

func refuse(err *kerr.Error, message string) *refusal { return &refusal{err.Code, message} }
