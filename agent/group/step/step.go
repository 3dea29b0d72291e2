// Package step is the vocabulary between the machine of a shard's groups (package group) and
// the pure logic of one group (packages classic and consumer).
package step

import (
	"time"

	"github.com/floelog/floe/agent/coordinator"
	"github.com/floelog/floe/metadata/shard"
)

// Effects are what one group wants done: its rows are committed before its replies leave.
type Effects struct {
	Rows    []shard.Row // of shard.Groups, under the group's name; an empty value deletes
	Replies []coordinator.Reply
}

// ClassicMember is a member that speaks the classic protocol, in the form in which it moves
// between a classic group and a consumer group (KIP-848, online migration).
type ClassicMember struct {
	ID, ClientID, Host string
	Instance           *string // group.instance.id (KIP-345)
	Session, Rebalance time.Duration
	Protocols          []Protocol // in the member's order of preference
	Assignment         []byte
}

// Protocol is an assignor that a member of a classic group supports.
type Protocol struct {
	Name     string
	Metadata []byte
}

// ClassicGroup is a classic group, in the form in which it is migrated.
type ClassicGroup struct {
	Generation   int32
	ProtocolType string
	Protocol     string
	Leader       string
	Members      []ClassicMember
}

// MemberRef is who commits or fetches offsets, as the request says it.
type MemberRef struct {
	ID            string
	Instance      *string
	Epoch         int32 // generation of a classic group, or member epoch (KIP-848); -1: no member
	Transactional bool  // TxnOffsetCommit, whose clients do not all tell who they are
	Version       int16 // of the request: which codes its client knows
}
