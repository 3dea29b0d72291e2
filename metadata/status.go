package metadata

import (
	"context"
	"time"
)

// MemberStatus is what a member of the store says of itself, for people and monitors.
type MemberStatus struct {
	Name    string        // its address
	Err     error         // why it does not answer; nothing else is known then
	Latency time.Duration // of its answer
	Version string
	Leads   bool
	Bytes   int64 // of its database
	InUse   int64 // of these, what is not free for reuse
	Quota   int64 // at which it refuses writes; 0: not known
	Alarms  []string

	// Skew is how far its clock is from the caller's at least, ahead above 0; 0 where it is
	// within what can be told, or not known.
	Skew time.Duration
}

// Inspector is a Store that can ask its members how they are. Nothing that Floe promises hangs
// on the answers.
type Inspector interface {
	// Members asks all members at once, and takes as long as the slowest, or until ctx ends.
	Members(ctx context.Context) []MemberStatus
}
