package diagnosis

import (
	"slices"
	"time"
)

// Examined is what one agent says of itself.
type Examined struct {
	Node     int32     `json:"node"`
	Address  string    `json:"address,omitempty"`
	Zone     string    `json:"zone,omitempty"`
	Version  string    `json:"version,omitempty"`
	Clock    time.Time `json:"clock,omitzero"`  // the agent's own, when it answered
	Looked   time.Time `json:"looked,omitzero"` // when it measured last; zero: not yet
	Error    string    `json:"error,omitempty"` // why it says nothing
	Findings []Finding `json:"findings"`
}

// Report is what is known of a cluster.
type Report struct {
	Cluster  string     `json:"cluster,omitempty"`
	At       time.Time  `json:"at"`
	Agents   []Examined `json:"agents"`
	Findings []Finding  `json:"findings"` // of all agents, the worst first
	Severity Severity   `json:"severity"` // the worst; empty: nothing was found
}

// NewReport puts together what agents say, and what somebody else found.
func NewReport(cluster string, at time.Time, agents []Examined, others ...Finding) *Report {
	of := [][]Finding{others}
	for i := range agents {
		of = append(of, agents[i].Findings)
	}
	all := Merge(of...)
	return &Report{Cluster: cluster, At: at, Agents: slices.Clone(agents), Findings: all, Severity: Worst(all)}
}
