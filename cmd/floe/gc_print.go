package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/floelog/floe/cmd/floe/settings"
	"github.com/floelog/floe/compaction/sweep"
)

// collection is one run of floe gc.
type collection struct {
	*view
	flags  gcFlags
	listed []gcObject
}

// gcObject is one object that is garbage.
type gcObject struct {
	Key    string `json:"key"`
	Kind   string `json:"kind"`
	Bytes  int64  `json:"bytes"`
	Reason string `json:"reason"`
}

// gcReport is what floe gc --json prints.
type gcReport struct {
	DryRun  bool                              `json:"dryRun"`
	Doubt   string                            `json:"doubt,omitempty"` // why nothing is deleted
	Took    string                            `json:"took"`
	Kinds   map[string]map[string]sweep.Count `json:"kinds"`
	Garbage sweep.Count                       `json:"garbage"`
	Reasons map[string]sweep.Count            `json:"reasons"` // of the garbage
	Deleted sweep.Count                       `json:"deleted"`
	Live    int64                             `json:"liveSegmentBytes"`
	Sparse  int                               `json:"sparseSegments"`
	Objects []gcObject                        `json:"objects,omitempty"`
}

// garbage notes one object.
func (c *collection) garbage(o sweep.Object) {
	if c.flags.keys {
		c.listed = append(c.listed, gcObject{o.Key, o.Kind.String(), o.Size, o.Reason.String()})
	}
}

func (c *collection) print(r *sweep.Report) error {
	if c.asJSON {
		return c.view.print(c.report(r))
	}
	fmt.Fprintf(c.out, "%-10s %-16s %10s %12s\n", "KIND", "VERDICT", "OBJECTS", "BYTES")
	for _, k := range sweep.Kinds() {
		for _, v := range sweep.Verdicts() {
			if n := r.Counts[k][v]; n.Objects > 0 {
				fmt.Fprintf(c.out, "%-10s %-16s %10d %12s\n", k, verdictWords[v], n.Objects, settings.Bytes(n.Bytes))
			}
		}
	}
	g := r.Garbage()
	var why []string
	for _, reason := range sweep.Reasons() {
		if n := r.Reasons[reason]; n.Objects > 0 {
			why = append(why, fmt.Sprintf("%d %s", n.Objects, reasonWords[reason]))
		}
	}
	if len(why) > 0 {
		fmt.Fprintf(c.out, "\n%d objects of %s are garbage: %s\n", g.Objects, settings.Bytes(g.Bytes), strings.Join(why, ", "))
	}
	for _, o := range c.listed {
		fmt.Fprintf(c.out, "  %s\n", o.Key)
	}
	switch {
	case r.Err != nil:
		return nil // said by the error
	case c.flags.execute:
		fmt.Fprintf(c.out, "deleted %d objects of %s\n", r.Deleted.Objects, settings.Bytes(r.Deleted.Bytes))
	case g.Objects > 0:
		fmt.Fprintf(c.out, "nothing was deleted (agents delete them when their grace is over; --execute does so now)\n")
	default:
		fmt.Fprintln(c.out, "\nnothing is garbage")
	}
	return nil
}

// verdictWords say to people why an object is kept or not.
var verdictWords = map[sweep.Verdict]string{
	sweep.Named: "named", sweep.InFlight: "in flight", sweep.Carries: "carries journal", sweep.Waiting: "garbage", sweep.Ripe: "garbage twice",
}

var reasonWords = map[sweep.Reason]string{
	sweep.DeadSession:    "of agents' sessions that are over",
	sweep.BelowWatermark: "that their agents are done with",
	sweep.Superseded:     "in whose place newer ones are",
}

func (c *collection) report(r *sweep.Report) gcReport {
	out := gcReport{
		DryRun: !c.flags.execute, Took: r.Took.Round(time.Millisecond).String(), Kinds: map[string]map[string]sweep.Count{},
		Garbage: r.Garbage(), Reasons: map[string]sweep.Count{}, Deleted: r.Deleted, Live: r.Live, Sparse: r.Sparse, Objects: c.listed,
	}
	if r.Err != nil {
		out.Doubt = r.Err.Error()
	}
	for _, k := range sweep.Kinds() {
		verdicts := map[string]sweep.Count{}
		for _, v := range sweep.Verdicts() {
			verdicts[v.String()] = r.Counts[k][v]
		}
		out.Kinds[k.String()] = verdicts
	}
	for _, reason := range sweep.Reasons() {
		out.Reasons[reason.String()] = r.Reasons[reason]
	}
	return out
}
