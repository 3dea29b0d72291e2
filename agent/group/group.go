// Package group is the coordinator of consumer groups: the machine of all groups of one
// shard, see package coordinator. It finds the group that a request is about, turns groups
// from one protocol to the other, and keeps the rules of committed offsets; what members of
// a group say to each other is the business of packages classic and consumer.
//
// A group is one of these:
//
//	simple    committed offsets, nobody joined yet; Kafka calls it a classic, empty group
//	classic   JoinGroup, SyncGroup ...; rows "g/..."
//	consumer  ConsumerGroupHeartbeat (KIP-848); rows "c/..."
//
// and may have configs of its own, in the row "config".
//
// Invariants:
//  1. Offsets are committed only by a member of the present generation or epoch, or, in a
//     group without members, by anybody who claims none.
//  2. Offsets of a transaction that was concluded, or of a producer that was fenced, are
//     refused; whether a transaction is open here is what the shard's state says of it.
//  3. What the machine remembers of offsets, when each was committed, is never less than
//     what the state has: it forgets only what it deletes.
//
// A machine is used by one goroutine, its shard's loop.
package group

import (
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/coordinator"
	"github.com/floelog/floe/agent/group/step"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// ErrInvalidConfig says that a group's config cannot be set to that; its text names the
// config and what it may be.
var ErrInvalidConfig = errors.New("invalid group config")

// Member is who acts on a group's offsets; see step.MemberRef.
type Member struct {
	ID       string
	Instance *string // group.instance.id (KIP-345)
	Epoch    int32   // generation, or member epoch (KIP-848); -1: none
	Version  int16   // of the request
}

// Commit asks to commit offsets, as part of a transaction unless its Number is 0. The
// reply is an int16, Kafka's code for all of them.
type Commit struct {
	Group       string
	Member      Member
	Transaction shard.Transaction
	Offsets     []shard.GroupOffset
}

// Fetch asks for committed offsets; the reply is Fetched.
type Fetch struct {
	Group      string
	Member     Member
	Partitions []tiering.TopicPartition
	All        bool // all that there are, in the place of Partitions
	Stable     bool // none that a transaction may be about to replace (KIP-447)
}

// Fetched answers Fetch: one for each partition asked for, in order, or all, by partition.
type Fetched struct {
	Offsets []Offset
	Code    int16
}

// Offset is one committed offset; -1: there is none, for certain, unless Code is set.
type Offset struct {
	Partition tiering.TopicPartition
	Offset    tiering.Offset
	Epoch     tiering.LeaderEpoch
	Metadata  string
	Code      int16
}

// Delete asks to forget committed offsets; the reply is Deleted.
type Delete struct {
	Group      string
	Partitions []tiering.TopicPartition
}

// Deleted answers Delete: a code for each partition unless Code is set.
type Deleted struct {
	Codes []int16
	Code  int16
}

// Conclude ends a transaction in a group; the reply is Concluded. It may be repeated.
type Conclude struct {
	Group       string
	Transaction shard.Transaction
	Commit      bool
}

// Concluded answers Conclude.
type Concluded struct{ Code int16 }

// Configs asks for the configs of a group that were set; the reply is a map[string]string.
type Configs struct{ Group string }

// AlterConfigs sets configs of a group, or resets them (nil); the reply is an error, which
// wraps ErrInvalidConfig, or nil.
type AlterConfigs struct {
	Group string
	Alter map[string]*string
}

// Group is the logic of one group that has members, of either protocol: a *classic.Group or
// a *consumer.Group.
type Group interface {
	// Step takes a request of one who is, or wants to be, a member.
	Step(req coordinator.Request, now time.Time) step.Effects
	// Tick does what is due; Wake returns when the next one is wanted, zero: not before
	// another call.
	Tick(now time.Time) step.Effects
	Wake() time.Time
	// Cancelled says that nobody waits for the answer to a request any more.
	Cancelled(id coordinator.RequestID)
	// TopicsChanged says that topics were created, changed or deleted.
	TopicsChanged(t coordinator.Topics, now time.Time) step.Effects
	// State is Kafka's name of the group's state, Members how many there are.
	State() string
	Members() int
	// CheckCommit and CheckFetch say whether that member may, by Kafka's code.
	CheckCommit(m step.MemberRef) int16
	CheckFetch(m step.MemberRef) int16
	// Subscribed says whether members consume a topic.
	Subscribed(topic string) bool
	// Describe answers DescribeGroups or ConsumerGroupDescribe for this group.
	Describe(req kmsg.Request) kmsg.Response
}

const (
	classicRows  = "g/"
	consumerRows = "c/"
	configRow    = "config"
	stateEmpty   = "Empty"
	stateDead    = "Dead"
)
