package fsck

import (
	"cmp"
	"slices"

	"github.com/floelog/floe/tiering"
)

// Report is what a check found.
type Report struct {
	Cluster    string    `json:"cluster"`
	ClusterID  string    `json:"clusterId"`
	Deep       bool      `json:"deep"` // every named byte was read
	Clean      bool      `json:"clean"`
	Damage     int       `json:"damage"`
	Warnings   int       `json:"warnings"`
	Findings   []Finding `json:"findings"`            // at most maxFindings
	Unlisted   int       `json:"unlisted,omitempty"`  // findings beyond
	Rechecked  int       `json:"rechecked,omitempty"` // segments and manifests that looked wrong, looked at again
	Frozen     bool      `json:"frozen"`              // deletion is stopped, see floe recover
	Checked    Totals    `json:"checked"`             // what was looked at
	Unnamed    []Class   `json:"unnamed"`             // objects that nothing names
	Unreferred float64   `json:"unreferredShare"`     // of the bucket's bytes: of those that wait to be deleted, or should have been
	Bucket     Class     `json:"bucket"`              // all objects
}

// Totals count what was checked.
type Totals struct {
	Shards     int   `json:"shards"`
	Topics     int   `json:"topics"`
	Partitions int   `json:"partitions"`
	Extents    int   `json:"extents"`
	Inline     int   `json:"inlineExtents"`
	Holes      int   `json:"holes"`
	Manifests  int   `json:"manifests"`
	Segments   int   `json:"segments"`
	Batches    int64 `json:"batches"` // of a deep check, and inline ones
	Bytes      int64 `json:"bytes"`   // that were read of chunks
	Groups     int   `json:"groups"`
	Rows       int   `json:"coordinatorRows"`
	Headers    int   `json:"headers"` // of segments that nothing names and that may carry journal records
}

// Class is a kind of objects.
type Class struct {
	Name    string `json:"name"`
	Meaning string `json:"meaning"`
	Objects int64  `json:"objects"`
	Bytes   int64  `json:"bytes"`
	Example string `json:"example,omitempty"`
}

// Severity says how bad a finding is.
type Severity string

// The severities.
const (
	Damage  Severity = "damage"  // records, or what tells where they are, are wrong or gone
	Warning Severity = "warning" // nothing is lost
)

// Finding is one thing that is wrong.
type Finding struct {
	Severity  Severity        `json:"severity"`
	Kind      string          `json:"kind"`
	Shard     tiering.ShardID `json:"shard"`
	Topic     string          `json:"topic,omitempty"` // name, or id where the topic is not known
	Partition int32           `json:"partition"`       // -1: none
	From      tiering.Offset  `json:"from"`            // offsets [From, To) are concerned; -1: none
	To        tiering.Offset  `json:"to"`
	Object    string          `json:"object,omitempty"`
	Detail    string          `json:"detail"`
	Remedy    string          `json:"remedy"`
}

// maxFindings bounds the findings that are listed. Fewer would hide which topics are
// concerned; more are no use to anybody.
const maxFindings = 10_000

// The remedies that findings name.
const (
	remedyObject  = "restore the object from a version or replica of the bucket; otherwise the records are lost, and kafka-delete-records or a merge of other offsets goes past them"
	remedyRecover = "stop the agents and run floe recover"
	remedyBehind  = "stop the agents and run floe recover --force-over-restored"
	remedyReport  = "keep bucket and etcd as they are and report a bug"
	remedyCarried = "let the agents run: a snapshot of each shard covers its journal within minutes, and then nobody needs the segment"
	remedySweep   = "see that agents run and that floe gc is not frozen"
)

// add files findings in the report.
func (r *Report) add(fs []Finding) {
	for _, f := range fs {
		if f.Severity == Damage {
			r.Damage++
		} else {
			r.Warnings++
		}
		if len(r.Findings) < maxFindings {
			r.Findings = append(r.Findings, f)
		} else {
			r.Unlisted++
		}
	}
}

// finish puts the report in order.
func (r *Report) finish() {
	slices.SortStableFunc(r.Findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Severity, b.Severity), cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.From, b.From))
	})
	r.Clean = r.Damage == 0
}
