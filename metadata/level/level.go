// Package level says which versions of every format a cluster writes.
//
// Agents of several releases work together while a cluster is upgraded, so no agent may write
// what another that lives cannot read. The cluster's level, one number, stands for a version of
// each format. It is the version of the cluster's key in the metadata store: an agent that does
// not know the level refuses to start. An agent reads every level from First to its own Newest,
// for ever, and writes what the cluster's level says.
//
// Invariants:
//  1. A level, once released, never changes its meaning; a new format or a new version of one takes
//     a new level. Readers need no table: whatever is stored tells its own version.
//  2. The cluster's level never falls, and it rises (catalogue.Raise) only while every live agent
//     reads the next one and none that does not can register in between.
//
// To change a format: raise the version that its decoder accepts, keep the encoder of the version
// before, let the encoder ask for the version (as Record.EncodeAs does), and name the new version
// in the table below at the newest level that is not released yet.
//
// Everything may be called concurrently.
package level

import "fmt"

// Level is what a cluster writes. The zero Level is none.
type Level int

const (
	// First is the level of clusters that were made before there were levels.
	First Level = 1
	// Newest is the greatest level that this release reads and writes.
	Newest Level = 2
)

// Formats holds a version of each format that depends on the level.
type Formats struct {
	Record   byte // journal records, and what jobs ask leaders to change: shard.Record.EncodeAs
	Snapshot byte // shard.State.EncodeSnapshot
	Segment  byte // tiering/segment
	Manifest byte // tiering/manifest
	Copy     byte // of the catalogue: catalogue.Copy.Encode
	RPC      byte // agent/peer; from 2 on, agents refuse calls without the cluster's secret
}

// table is what each level writes. See the package comment before changing it.
var table = [Newest + 1]Formats{
	1: {Record: 3, Snapshot: 3, Segment: 1, Manifest: 1, Copy: 1, RPC: 1},
	2: {Record: 4, Snapshot: 3, Segment: 1, Manifest: 1, Copy: 1, RPC: 2}, // not released yet
}

// Formats returns what the level writes. The level is one that this release knows.
func (l Level) Formats() Formats { return table[l] }

// Known reports whether this release reads and writes the level.
func (l Level) Known() bool { return l >= First && l <= Newest }

// Range is the levels that an agent reads and writes.
type Range struct{ Min, Max Level }

// Own is the range of this release.
func Own() Range { return Range{First, Newest} }

// Holds reports whether the level is in the range.
func (r Range) Holds(l Level) bool { return r.Min <= l && l <= r.Max }

// String writes the range as people read it.
func (r Range) String() string { return fmt.Sprintf("%d to %d", r.Min, r.Max) }
