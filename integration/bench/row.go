//go:build linux

package main

import (
	"cmp"
	"fmt"
	"slices"
)

// row is one line of the table. What was not measured is 0.
type row struct {
	Scenario       string  `json:"scenario"`
	RecordsPerS    float64 `json:"records_per_s,omitempty"`
	MiBPerS        float64 `json:"mib_per_s,omitempty"` // of record values
	AckP50ms       float64 `json:"ack_p50_ms,omitempty"`
	AckP99ms       float64 `json:"ack_p99_ms,omitempty"`
	E2EP50ms       float64 `json:"e2e_p50_ms,omitempty"`
	E2EP99ms       float64 `json:"e2e_p99_ms,omitempty"`
	CPUPerGiB      float64 `json:"server_cpu_s_per_gib,omitempty"`
	OtherCPUPerGiB float64 `json:"etcd_minio_cpu_s_per_gib,omitempty"`
	PeakRSSMiB     float64 `json:"peak_rss_mib,omitempty"`
	Result         string  `json:"result,omitempty"` // where the columns do not say it

	Ceiling     float64 `json:"ceiling,omitempty"` // of this machine, in the same run
	CeilingUnit string  `json:"ceiling_unit,omitempty"`
	Ratio       float64 `json:"ratio,omitempty"` // to the ceiling

	Target string `json:"target,omitempty"`
	Met    *bool  `json:"met,omitempty"`

	Load      string  `json:"load_before_after"`
	Runs      int     `json:"runs"`
	SpreadPct float64 `json:"spread_percent"` // between the best and the worst run

	score float64 // what the row is about: the median run is the one in the middle of it
}

// against compares the row's value with what the machine can do.
func (r *row) against(value, ceiling float64, unit string) {
	r.Ceiling, r.CeilingUnit = ceiling, unit
	if ceiling > 0 {
		r.Ratio = value / ceiling
	}
}

// require states a target and whether this run met it.
func (r *row) require(target string, met bool) { r.Target, r.Met = target, &met }

// verdictWord is how the table says it.
func (r *row) verdictWord() string {
	switch {
	case r.Met == nil:
		return ""
	case *r.Met:
		return "yes"
	}
	return "NO"
}

// medians returns, for each scenario in order of appearance, the run in the middle. Of an
// even number it is the worse of the two.
func medians(runs []row) []row {
	var names []string
	byName := map[string][]row{}
	for _, r := range runs {
		if byName[r.Scenario] == nil {
			names = append(names, r.Scenario)
		}
		byName[r.Scenario] = append(byName[r.Scenario], r)
	}
	var out []row
	for _, name := range names {
		all := byName[name]
		slices.SortStableFunc(all, func(a, b row) int { return cmp.Compare(a.score, b.score) })
		mid := all[(len(all)-1)/2]
		mid.Runs = len(all)
		if mid.score != 0 {
			mid.SpreadPct = 100 * (all[len(all)-1].score - all[0].score) / abs(mid.score)
		}
		out = append(out, mid)
	}
	return out
}

func abs(v float64) float64 { return max(v, -v) }

// processLimit is what a process with the default settings may use, in MiB: memory-budget.
const processLimit = 512

// memoryRow adds up what the rows say of memory under full load. A store in memory holds
// all records, so its row does not count.
func memoryRow(rows []row) (row, bool) {
	out := row{Scenario: "memory under full load", Runs: 1}
	for _, r := range rows {
		if r.CPUPerGiB > 0 && r.Scenario != memoryProduce && r.Scenario != memoryConsume && r.PeakRSSMiB > out.PeakRSSMiB {
			out.PeakRSSMiB, out.Load, out.Result = r.PeakRSSMiB, r.Load, "most: "+r.Scenario
		}
	}
	out.require(fmt.Sprintf("≤ %d MiB, the default memory-budget", processLimit), out.PeakRSSMiB <= processLimit)
	return out, out.PeakRSSMiB > 0
}
