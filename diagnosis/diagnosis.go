// Package diagnosis says what an operator should know of an agent, and what to do about it: it
// takes plain numbers, a Snapshot of what one agent has measured, and gives findings. It is pure:
// agents gather the numbers (agent/doctor.go), `floe doctor` shows the findings of all agents.
//
// Invariants:
//  1. Each kind of finding has one row in the table (rows.go), with its bound: docs/doctor.md is
//     generated from it, and every row is exported as the metric floe_finding, found or not.
//  2. What was not measured is neither good nor bad: it is no reading.
//  3. A finding names its number and its bound, so that nobody has to believe it.
//
// All functions may be called concurrently.
package diagnosis

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// Severity says how soon somebody should look.
type Severity string

// The severities, as they are written everywhere.
const (
	Info     Severity = "info"     // costs money or time, hurts nobody, or is soon over
	Warning  Severity = "warning"  // for today: clients wait, or something will break
	Critical Severity = "critical" // for now: clients are refused, or data is in danger
)

// rank orders severities, the worst first.
func (s Severity) rank() int { return slices.Index([]Severity{Critical, Warning, Info}, s) }

// Kind is a kind of finding.
type Kind struct {
	Name     string // for metrics and programs
	Severity Severity
	Title    string // what is the matter, a few words
	Measures string // what is measured, and over which time
	Bound    float64
	Below    bool // readings below Bound are findings; otherwise those above are
	Unit     Unit
	Why      string   // why it matters, one line
	Settings []string // of floe, that may be changed
	Clients  []string // settings of Kafka clients or topics that may be changed
	Advice   string   // what to do, one line
	Runbook  string   // heading in docs/runbooks.md
	Shared   bool     // it is of what all agents see alike
	Outside  bool     // no agent can find it: floe doctor itself does

	measure func(s *Snapshot, reading func(subject string, value float64))
}

// beyond reports whether a value is a finding.
func (k *Kind) beyond(v float64) bool {
	if k.Below {
		return v < k.Bound
	}
	return v > k.Bound
}

// worse orders values, the worst first.
func (k *Kind) worse(a, b float64) int {
	if k.Below {
		return cmp.Compare(a, b)
	}
	return cmp.Compare(b, a)
}

// Finding is something that an operator should know.
type Finding struct {
	Name     string   `json:"finding"`
	Severity Severity `json:"severity"`
	Agents   []int32  `json:"agents,omitempty"`  // node ids of who found it; none: no agent did
	Subject  string   `json:"subject,omitempty"` // which client, partition, member
	Title    string   `json:"title"`
	Value    float64  `json:"value"`
	Bound    float64  `json:"bound"`
	Measured string   `json:"measured"` // value and bound, for people
	Why      string   `json:"why"`
	Settings []string `json:"settings,omitempty"`
	Clients  []string `json:"client_settings,omitempty"`
	Advice   string   `json:"advice"`
	Runbook  string   `json:"runbook"`
}

// Diagnosis is what one look has found.
type Diagnosis struct {
	Findings []Finding          // the worst first
	Worst    map[string]float64 // the worst reading of each kind that was measured, finding or not
}

// maxSubjects bounds the findings of one kind. Fewer would hide what is to be changed; with more,
// a fleet of misconfigured clients would fill the page: the worst stand for the rest.
const maxSubjects = 5

// reading is what a kind measured of one subject.
type reading struct {
	subject string
	value   float64
}

// Of says what is to be found in a snapshot.
func Of(s *Snapshot) Diagnosis {
	d := Diagnosis{Worst: map[string]float64{}}
	for i := range rows {
		k := &rows[i]
		var readings []reading
		k.measure(s, func(subject string, v float64) { readings = append(readings, reading{subject, v}) })
		if len(readings) == 0 {
			continue
		}
		slices.SortStableFunc(readings, func(a, b reading) int { return k.worse(a.value, b.value) })
		d.Worst[k.Name] = readings[0].value
		for n, r := range readings {
			if n == maxSubjects || !k.beyond(r.value) {
				break
			}
			d.Findings = append(d.Findings, k.finding(s.Node, r))
		}
	}
	order(d.Findings)
	return d
}

func (k *Kind) finding(agent int32, r reading) Finding {
	than := "at most "
	if k.Below {
		than = "at least "
	}
	var agents []int32
	if agent != 0 {
		agents = []int32{agent}
	}
	return Finding{
		Name: k.Name, Severity: k.Severity, Agents: agents, Subject: r.subject, Title: k.Title,
		Value: r.value, Bound: k.Bound, Measured: k.Unit.Format(r.value) + ", " + than + k.Unit.Format(k.Bound) + " is good",
		Why: k.Why, Settings: k.Settings, Clients: k.Clients, Advice: k.Advice, Runbook: "docs/runbooks.md#" + strings.ToLower(k.Runbook),
	}
}

// order puts the worst first; findings of one kind stay together.
func order(f []Finding) {
	slices.SortStableFunc(f, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Severity.rank(), b.Severity.rank()), cmp.Compare(place(a.Name), place(b.Name)), slices.Compare(a.Agents, b.Agents))
	})
}

// Merge puts the findings of several agents together: what they see alike is one finding, with
// the worst of their readings.
func Merge(of ...[]Finding) []Finding {
	type identity struct{ name, subject string }
	seen := map[identity]int{}
	var out []Finding
	for _, f := range slices.Concat(of...) {
		p := place(f.Name)
		if p < 0 || !rows[p].Shared { // of an agent of another version, or of one agent
			out = append(out, f)
			continue
		}
		id := identity{f.Name, f.Subject}
		i, again := seen[id]
		if !again {
			seen[id] = len(out)
			out = append(out, f)
			continue
		}
		agents := slices.Concat(out[i].Agents, f.Agents)
		slices.Sort(agents)
		if rows[p].worse(f.Value, out[i].Value) < 0 {
			out[i] = f
		}
		out[i].Agents = slices.Compact(agents)
	}
	order(out)
	return out
}

// place is a kind's place in the table.
func place(name string) int {
	return slices.IndexFunc(rows, func(k Kind) bool { return k.Name == name })
}

// Kinds returns all kinds, in the order of the table.
func Kinds() []Kind { return slices.Clone(rows) }

// Worst returns the worst severity among findings, or "" if there are none.
func Worst(f []Finding) Severity {
	if len(f) == 0 {
		return ""
	}
	return slices.MinFunc(f, func(a, b Finding) int { return cmp.Compare(a.Severity.rank(), b.Severity.rank()) }).Severity
}

// seconds is a duration as a reading.
func seconds(d time.Duration) float64 { return d.Seconds() }
