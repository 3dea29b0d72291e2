package sweep

import (
	"time"

	"github.com/floelog/floe/tiering"
)

// Kind is a kind of object that is swept.
type Kind uint8

// The kinds, by key prefix.
const (
	Segment  Kind = iota // seg/
	Manifest             // man/
	Snapshot             // snap/
	Copy                 // cat/, of the catalogue
	Clock                // gc/clock/, see ClockKey
	SelfTest             // selftest/, of agents that start
	numKinds
)

func (k Kind) String() string {
	return [numKinds]string{"segment", "manifest", "snapshot", "catalogue", "clock", "self-test"}[k]
}

// Kinds returns all kinds.
func Kinds() []Kind { return []Kind{Segment, Manifest, Snapshot, Copy, Clock, SelfTest} }

// Verdict is what a sweep makes of an object.
type Verdict uint8

// The verdicts.
const (
	Named    Verdict = iota // a state, a manifest or a pointer names it
	InFlight                // its session lives, and may still let something name it
	Carries                 // it may carry journal records that no snapshot holds yet
	Waiting                 // garbage that waits for its grace
	Ripe                    // garbage that is deleted now
	numVerdicts
)

func (v Verdict) String() string {
	return [numVerdicts]string{"named", "in-flight", "carries-journal", "grace", "ripe"}[v]
}

// Verdicts returns all verdicts.
func Verdicts() []Verdict { return []Verdict{Named, InFlight, Carries, Waiting, Ripe} }

// Reason says why an object that nothing names never will be named.
type Reason uint8

// The reasons.
const (
	DeadSession    Reason = iota // the session that stored it is dead
	BelowWatermark               // its session says that it is done with it
	Superseded                   // a newer snapshot or copy has taken its place
	Abandoned                    // whoever should have removed it has long ended
	numReasons
)

func (r Reason) String() string {
	return [numReasons]string{"dead-session", "below-watermark", "superseded", "abandoned"}[r]
}

// Reasons returns all reasons.
func Reasons() []Reason { return []Reason{DeadSession, BelowWatermark, Superseded, Abandoned} }

// Count counts objects and their bytes.
type Count struct {
	Objects int   `json:"objects"`
	Bytes   int64 `json:"bytes"`
}

func (c *Count) add(size int64) {
	c.Objects++
	c.Bytes += size
}

// Report is what one sweep found and did. With an Err, the counts are of what was looked at
// until then.
type Report struct {
	Took    time.Duration
	Err     error // why nothing was deleted, or not all; nil: the sweep is complete
	Frozen  bool  // Err is a freeze, or what led to one
	Lost    int   // objects that are named and gone
	Counts  [numKinds][numVerdicts]Count
	Reasons [numReasons]Count // of what is Waiting or Ripe
	Deleted Count
	Left    int   // garbage that this sweep had no room to remember
	Live    int64 // bytes of segments that extents name
	Sparse  int   // segments of which less than half is live
	Folders int   // empty objects that are named like a folder of Floe's: somebody else's, and left alone
	Windows int   // rounds in which the bucket was looked through
}

// Garbage counts what is garbage.
func (r *Report) Garbage() (c Count) {
	for k := range r.Counts {
		for _, v := range []Verdict{Waiting, Ripe} {
			c.Objects += r.Counts[k][v].Objects
			c.Bytes += r.Counts[k][v].Bytes
		}
	}
	return c
}

// Object is one object that is garbage.
type Object struct {
	Kind   Kind
	Key    string
	Size   int64
	Reason Reason
	Ripe   bool // it has waited for its grace
}

// name is the identity of an object. Segments and manifests, of which there are many, are
// named by their ids, all others by their keys.
type name struct {
	kind Kind
	id   tiering.SegmentID
	key  string
}

func (n name) objectKey() string {
	switch n.kind {
	case Segment:
		return n.id.Key()
	case Manifest:
		return n.id.ManifestKey()
	}
	return n.key
}

// garbage is an object that nothing names or ever will.
type garbage struct {
	name
	size   int64
	reason Reason
}
