// Package classic is the pure logic of one group of the classic protocol: JoinGroup,
// SyncGroup, Heartbeat and LeaveGroup, for consumers, Kafka Connect and any other
// protocol type.
//
//	Empty -> PreparingRebalance -> CompletingRebalance -> Stable
//	  ^             |   ^                 |                 |
//	  +-- nobody ---+   +---- a member comes, goes or changes
//
// Invariants:
//  1. Generations only rise, across failovers too: a generation is journaled before
//     anybody hears of it, and so is everybody's assignment before anybody is assigned.
//  2. A group that is loaded is Stable if its last rebalance was completed and no member
//     left since: its members go on without a rebalance, their sessions begin anew.
//     Otherwise it prepares a rebalance, which its members join by their heartbeats.
//  3. No two members have one id, and no two one instance id.
//  4. Each request is answered once: a join when the join phase ends, a sync when the
//     leader has sent its assignment, everything else at once.
//
// A Group is used by one goroutine. It reads no clock and draws no ids: time comes with
// each call, ids from Config.NewID.
package classic

import (
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/coordinator"
	"github.com/floelog/floe/agent/group/step"
)

// Config is what all classic groups have in common.
type Config struct {
	InitialDelay           time.Duration // how long the first members of an empty group wait for more
	MinSession, MaxSession time.Duration // what members may ask for
	MaxSize                int           // members of one group
	NewID                  func() string // a string that nobody else has
}

const (
	// newMemberTimeout is how long a member may wait for its first join phase to end. It sends
	// no heartbeats meanwhile, so the session does not bound it (KAFKA-7610).
	newMemberTimeout = 5 * time.Minute

	// maxGroupBytes bounds what the members of one group may hand in: metadata and
	// assignments. Less would refuse groups of thousands of members that each name thousands
	// of topics; more would let one group fill an agent's memory.
	maxGroupBytes = 64 << 20

	// ConsumerType is the protocol type of consumers, whose metadata can be understood.
	ConsumerType = "consumer"
)

type state uint8

const (
	empty state = iota
	preparing
	completing
	stable
)

var stateNames = [...]string{"Empty", "PreparingRebalance", "CompletingRebalance", "Stable"}

// Group is one classic group.
type Group struct {
	name string
	cfg  Config

	state        state
	since        time.Time // when the state was entered
	generation   int32
	protocolType string // empty: no member has ever joined
	protocol     string // chosen, from completing on
	leader       string // member id

	members  []*member // by order
	byID     map[string]*member
	static   map[string]*member   // by instance id
	pending  map[string]time.Time // ids given out whose clients have not joined yet (KIP-394): when they expire
	supports map[string]int       // protocol: how many members know it
	joining  int                  // members that wait for the join phase to end
	unsynced int                  // members that have not sent a SyncGroup of this generation
	bytes    int                  // of all members, see maxGroupBytes
	order    uint64               // of the last member that came

	initial   bool // the rebalance under way is that of an empty group
	newcomer  bool // a member came since the initial delay was last set
	joinAt    time.Time
	delay     time.Duration // of the initial delay under way
	remaining time.Duration // by how much it may still be prolonged
	syncAt    time.Time     // when members that did not sync are removed
	wake      time.Time     // not after any deadline; zero: none

	topics  map[string]struct{} // that the members subscribe to; nil: not known
	waits   map[coordinator.RequestID]*member
	journal journal
	out     step.Effects // of the call under way
}

// New returns a group without members.
func New(name string, cfg Config) *Group {
	return &Group{
		name: name, cfg: cfg,
		byID: map[string]*member{}, static: map[string]*member{}, pending: map[string]time.Time{},
		supports: map[string]int{}, waits: map[coordinator.RequestID]*member{},
		journal: journal{stored: map[string]storedMember{}},
	}
}

// Step takes a JoinGroup, SyncGroup, Heartbeat or LeaveGroup request of this group.
func (g *Group) Step(req coordinator.Request, now time.Time) step.Effects {
	switch r := req.Body.(type) {
	case *kmsg.JoinGroupRequest:
		g.join(req, r, now)
	case *kmsg.SyncGroupRequest:
		g.sync(req.ID, r, now)
	case *kmsg.HeartbeatRequest:
		g.heartbeat(req.ID, r, now)
	case *kmsg.LeaveGroupRequest:
		g.leave(req.ID, r, now)
	}
	return g.take()
}

func (g *Group) take() step.Effects {
	out := g.out
	g.out = step.Effects{}
	return out
}

func (g *Group) reply(id coordinator.RequestID, body any) {
	g.out.Replies = append(g.out.Replies, coordinator.Reply{ID: id, Body: body})
}

// State returns Kafka's name of the group's state.
func (g *Group) State() string { return stateNames[g.state] }

// Members returns how many members the group has.
func (g *Group) Members() int { return len(g.members) }

// Blank says that there is nothing to remember of the group: nobody has joined, nobody is
// about to, and nothing was journaled.
func (g *Group) Blank() bool {
	return g.state == empty && g.protocolType == "" && g.generation == 0 && len(g.pending) == 0
}

// Idle says that nobody is in the group, and nobody is about to join it.
func (g *Group) Idle() bool { return g.state == empty && len(g.pending) == 0 }

// ProtocolType returns the protocol type of the members, or of the last ones.
func (g *Group) ProtocolType() string { return g.protocolType }

// TopicsChanged does nothing: members of a classic group watch the topics themselves.
func (g *Group) TopicsChanged(coordinator.Topics, time.Time) step.Effects { return step.Effects{} }

// Retention returns from when on the group's offsets age (KIP-211): zero means from each
// one's own commit. Where ok is false they do not age.
func (g *Group) Retention() (from time.Time, ok bool) {
	switch {
	case g.protocolType == "":
		return time.Time{}, true
	case g.state == empty:
		return g.since, true
	case g.protocolType == ConsumerType && g.topics != nil && g.state == stable:
		return time.Time{}, true
	}
	return time.Time{}, false
}

// Subscribed says whether members consume a topic, as far as that is known: those whose
// metadata nobody can read might consume any.
func (g *Group) Subscribed(topic string) bool {
	if g.protocolType != ConsumerType {
		return false
	}
	if len(g.members) == 0 {
		return false
	}
	if g.topics == nil {
		return true
	}
	_, ok := g.topics[topic]
	return ok
}

func (g *Group) transition(s state, now time.Time) {
	g.state, g.since = s, now
}

// arm makes sure that the group is woken at t or before.
func (g *Group) arm(t time.Time) {
	if g.wake.IsZero() || t.Before(g.wake) {
		g.wake = t
	}
}

// Wake returns when the group wants its next Tick; zero: not before another call.
func (g *Group) Wake() time.Time { return g.wake }
