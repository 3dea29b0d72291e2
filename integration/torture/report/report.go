// Package report puts together what a torture run was, what it found, and how long things
// took to come back: as a text for people and as JSON for machines. It is pure.
package report

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/floelog/floe/integration/history"
	"github.com/floelog/floe/integration/torture/check"
)

// Fault is how often a fault of the catalogue had an effect.
type Fault struct {
	ID, Name string
	Fired    int // times
	Mixes    int // in which it was on
}

// Run is what a run was, beside its history.
type Run struct {
	Seed      uint64
	Began     time.Time
	Length    time.Duration // of the faults
	Mixes     []string      // the faults of each mix, in order
	Faults    []Fault
	Elsewhere map[string]string // faults that are not fired here, and where they are tested
	Errors    []string          // of the run: faults that failed, processes that ended by themselves
	Measured  []string          // events whose recovery was measured: only one at a time was on
	Short     bool              // too short for every fault to have its turn
	MinOps    float64           // operations a second, and bytes a second, that the load must reach while faults are on; 0: any
	MinBytes  float64
}

// Load is what clients reached in a part of a run. An operation is a record that was
// acknowledged or that a consumer was given; bytes are those of records' values, sent and
// read together.
type Load struct {
	Seconds                     int
	Operations, Sent, Read      float64 // a second
	Bytes, SentBytes, ReadBytes float64 // a second
}

// Invariant is the verdict on one.
type Invariant struct {
	ID, Text string
	Found    int
	Kinds    []history.Kind // of anomalies that break it
}

// Report is the whole of it.
type Report struct {
	Run
	Passed              bool
	Counts              string
	Fates               map[string]int // transactions
	Commits             map[string]int // of offsets
	Answers             int            // about committed offsets
	Events              uint64
	DuringFaults, Quiet Load
	Invariants          []Invariant
	Anomalies           map[history.Kind]*history.Anomaly
	Recovery            []Recovery
	Missed              []string // faults without an effect
	Failures            []string // why it did not pass
}

// New judges a run.
func New(run Run, v check.Verdict) *Report {
	r := &Report{Run: run, Counts: v.Report.Counts(), Fates: v.Fates, Answers: v.Asked, Events: v.Events, Anomalies: v.Report.Anomalies, Commits: map[string]int{}}
	for o, n := range v.Commits {
		r.Commits[[...]string{"without an answer", "taken", "aborted", "in doubt"}[o]] += n
	}
	r.DuringFaults, r.Quiet = loads(&v.Stats)
	r.Invariants = judge(v.Report.Anomalies)
	for _, row := range Recoveries(&v.Stats) {
		if slices.Contains(run.Measured, row.Event) {
			r.Recovery = append(r.Recovery, row)
		}
	}
	for _, f := range run.Faults {
		if f.Fired == 0 {
			r.Missed = append(r.Missed, f.ID)
		}
	}
	r.fail(v)
	r.Passed = len(r.Failures) == 0
	return r
}

func (r *Report) fail(v check.Verdict) {
	for _, kind := range slices.Sorted(maps.Keys(r.Anomalies)) {
		r.Failures = append(r.Failures, fmt.Sprintf("%s: %d", kind, r.Anomalies[kind].Count))
	}
	r.Failures = append(r.Failures, r.Errors...)
	if len(r.Missed) > 0 && !r.Short {
		r.Failures = append(r.Failures, fmt.Sprintf("faults that had no effect, which this run has not tested: %v", r.Missed))
	}
	if d := r.DuringFaults; r.MinOps > 0 && d.Seconds > 0 && (d.Operations < r.MinOps || d.Bytes < r.MinBytes) {
		r.Failures = append(r.Failures, fmt.Sprintf("while faults were on, clients reached %.0f operations/s and %.1f MB/s; %.0f and %.1f are asked for",
			d.Operations, d.Bytes/1e6, r.MinOps, r.MinBytes/1e6))
	}
	if v.Report.Acked == 0 || v.Report.Reads < v.Report.Acked {
		r.Failures = append(r.Failures, fmt.Sprintf("%d records were acknowledged and %d read: nothing was tested", v.Report.Acked, v.Report.Reads))
	}
}

// loads divides the seconds of a run into those in which a fault was on and the others, from
// the first record to the last that was sent.
func loads(s *check.Stats) (during, quiet Load) {
	first, last := -1, -1
	for i := range s.Seconds {
		if s.Seconds[i].Sent > 0 {
			if first < 0 {
				first = i
			}
			last = i
		}
	}
	if first < 0 {
		return during, quiet
	}
	on := make([]bool, len(s.Seconds))
	for _, f := range s.Faults {
		for i := int(f.From / time.Second); i <= int(f.To/time.Second) && i < len(on); i++ {
			on[i] = true
		}
	}
	for i := first; i <= last; i++ {
		to := &quiet
		if on[i] {
			to = &during
		}
		sec := s.Seconds[i]
		to.Seconds++
		to.Sent += float64(sec.Sent)
		to.Read += float64(sec.Read)
		to.SentBytes += float64(sec.SentBytes)
		to.ReadBytes += float64(sec.ReadBytes)
	}
	for _, l := range []*Load{&during, &quiet} {
		n := float64(max(1, l.Seconds))
		l.Sent, l.Read, l.SentBytes, l.ReadBytes = l.Sent/n, l.Read/n, l.SentBytes/n, l.ReadBytes/n
		l.Operations, l.Bytes = l.Sent+l.Read, l.SentBytes+l.ReadBytes
	}
	return during, quiet
}

// JSON writes the report for machines.
func (r *Report) JSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// Text writes the report for people.
func (r *Report) Text(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d, %v of faults from %s in %d mixes\n\n", r.Seed, r.Length.Round(time.Second), r.Began.UTC().Format(time.DateTime), len(r.Mixes))
	fmt.Fprintf(&b, "%s\ntransactions %v; commits of offsets %v, answers about offsets %d; %d events\n\n", r.Counts, r.Fates, r.Commits, r.Answers, r.Events)
	fmt.Fprintf(&b, "%-16s %8s %14s %10s %10s %10s %10s\n", "load", "seconds", "operations/s", "sent/s", "read/s", "MB/s sent", "MB/s read")
	for _, l := range []struct {
		name string
		Load
	}{{"during faults", r.DuringFaults}, {"without", r.Quiet}} {
		fmt.Fprintf(&b, "%-16s %8d %14.0f %10.0f %10.0f %10.1f %10.1f\n", l.name, l.Seconds, l.Operations, l.Sent, l.Read, l.SentBytes/1e6, l.ReadBytes/1e6)
	}
	if len(r.Faults) > 0 {
		fmt.Fprintf(&b, "\n%-5s %6s %6s  %s\n", "fault", "fired", "mixes", "what")
		for _, f := range r.Faults {
			fmt.Fprintf(&b, "%-5s %6d %6d  %s\n", f.ID, f.Fired, f.Mixes, f.Name)
		}
		for _, id := range slices.SortedFunc(maps.Keys(r.Elsewhere), byNumber) {
			fmt.Fprintf(&b, "%-5s not here: %s\n", id, r.Elsewhere[id])
		}
	}
	r.textVerdicts(&b)
	r.textRecovery(&b)
	if r.Passed {
		b.WriteString("\npassed: no violation\n")
	} else {
		b.WriteString("\nFAILED\n")
		for _, f := range r.Failures {
			fmt.Fprintf(&b, "  %s\n", f)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// byNumber orders F2 before F10.
func byNumber(a, b string) int {
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return strings.Compare(a, b)
}

func (r *Report) textVerdicts(b *strings.Builder) {
	b.WriteString("\ninvariants\n")
	for _, i := range r.Invariants {
		verdict := "holds"
		switch {
		case len(i.Kinds) == 0:
			verdict = "not seen from outside"
		case i.Found > 0:
			verdict = fmt.Sprintf("BROKEN %d times", i.Found)
		}
		fmt.Fprintf(b, "%-4s %-22s %s\n", i.ID, verdict, i.Text)
	}
	for _, kind := range slices.Sorted(maps.Keys(r.Anomalies)) {
		fmt.Fprintf(b, "\n%s: %d\n", kind, r.Anomalies[kind].Count)
		for _, e := range r.Anomalies[kind].Examples {
			fmt.Fprintf(b, "    %s\n", e)
		}
	}
}

func (r *Report) textRecovery(b *strings.Builder) {
	if len(r.Recovery) == 0 {
		return
	}
	fmt.Fprintf(b, "\nlongest time without a success, by event, and from its end until every probe succeeds (seconds)\n%-22s %-16s %6s %8s %8s %8s %10s %8s\n",
		"event", "probe", "events", "median", "p99", "max", "end median", "end max")
	for _, row := range r.Recovery {
		fmt.Fprintf(b, "%-22s %-16s %6d %8.2f %8.2f %8.2f %10.2f %8.2f\n", row.Event, row.Probe, row.Events,
			row.Median.Seconds(), row.P99.Seconds(), row.Max.Seconds(), row.EndMedian.Seconds(), row.EndMax.Seconds())
	}
}
