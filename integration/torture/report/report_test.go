package report_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/floelog/floe/integration/history"
	"github.com/floelog/floe/integration/torture/check"
	"github.com/floelog/floe/integration/torture/report"
)

// every returns when something succeeds that does so every 100 ms, but for pauses.
func every(end time.Duration, pauses ...check.FaultSpan) (at []time.Duration) {
	for t := time.Duration(0); t < end; t += 100 * time.Millisecond {
		paused := false
		for _, p := range pauses {
			paused = paused || t > p.From && t < p.To
		}
		if !paused {
			at = append(at, t)
		}
	}
	return at
}

func TestRecovery(t *testing.T) {
	s := check.Stats{End: 100 * time.Second, Faults: []check.FaultSpan{
		{Name: "killed", From: 10 * time.Second, To: 12 * time.Second},
		{Name: "killed", From: 40 * time.Second, To: 41 * time.Second},
		{Name: "paused", From: 70 * time.Second, To: 75 * time.Second},
	}}
	// Partition 0 is without service for 4 s, for 2 s, and not at all; partition 1 never.
	for part, times := range [][]time.Duration{
		every(s.End, check.FaultSpan{From: 10 * time.Second, To: 14 * time.Second}, check.FaultSpan{From: 40 * time.Second, To: 42 * time.Second}),
		every(s.End),
	} {
		for _, at := range times {
			s.Tries = append(s.Tries, check.Try{What: "produce", At: at, OK: true, Part: int32(part)})
		}
	}
	got := report.Recoveries(&s)
	want := []report.Recovery{
		{Event: "killed", Probe: "produce", Events: 2, Median: 2 * time.Second, P99: 4 * time.Second, Max: 4 * time.Second, EndMedian: time.Second, EndMax: 2 * time.Second},
		{Event: "paused", Probe: "produce", Events: 1, Median: 100 * time.Millisecond, P99: 100 * time.Millisecond, Max: 100 * time.Millisecond},
	}
	if len(got) != len(want) {
		t.Fatalf("got %+v, want %+v", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("got %+v, want %+v", got[i], want[i])
		}
	}
}

func TestRecoveryThatDoesNotCome(t *testing.T) {
	s := check.Stats{End: 100 * time.Second, Faults: []check.FaultSpan{{Name: "down", From: 10 * time.Second, To: 20 * time.Second}}}
	for _, at := range every(10 * time.Second) {
		s.Tries = append(s.Tries, check.Try{What: "fetch", At: at, OK: true})
	}
	got := report.Recoveries(&s)
	if len(got) != 1 || got[0].Max < 40*time.Second || got[0].EndMax != 30*time.Second {
		t.Errorf("got %+v, want all of the time that is looked at", got)
	}
}

func verdict(kinds ...history.Kind) check.Verdict {
	v := check.Verdict{Report: history.Report{Sent: 10, Acked: 10, Reads: 20, Anomalies: map[history.Kind]*history.Anomaly{}}}
	for _, k := range kinds {
		v.Report.Anomalies[k] = &history.Anomaly{Count: 1, Examples: []string{"an example"}}
	}
	return v
}

func TestVerdicts(t *testing.T) {
	fired := []report.Fault{{ID: "F1", Name: "killed", Fired: 3, Mixes: 2}}
	missed := append(fired, report.Fault{ID: "F2", Name: "paused"})
	slow := verdict()
	slow.Stats.Faults = []check.FaultSpan{{From: 0, To: 5 * time.Second}}
	slow.Stats.Seconds = []check.Second{{Sent: 10, SentBytes: 1000}, {Sent: 10, Read: 20}}
	tests := []struct {
		name string
		run  report.Run
		v    check.Verdict
		says string // of the failure; empty: passed
	}{
		{"clean", report.Run{Faults: fired}, verdict(), ""},
		{"an anomaly", report.Run{Faults: fired}, verdict(history.LostWrite), "lost-write: 1"},
		{"a fault that never fired", report.Run{Faults: missed}, verdict(), "[F2]"},
		{"a short run", report.Run{Faults: missed, Short: true}, verdict(), ""},
		{"an error", report.Run{Errors: []string{"agent-1 ended by itself"}}, verdict(), "ended by itself"},
		{"too little load", report.Run{MinOps: 2000, MinBytes: 20e6}, slow, "20 operations/s and 0.0 MB/s"},
		{"nothing", report.Run{}, check.Verdict{}, "nothing was tested"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := report.New(tt.run, tt.v)
			if r.Passed != (tt.says == "") || !strings.Contains(strings.Join(r.Failures, "\n"), tt.says) {
				t.Errorf("passed %v, failures %v; want %q", r.Passed, r.Failures, tt.says)
			}
			var text, js bytes.Buffer
			if err := r.Text(&text); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(text.String(), tt.says) || strings.Contains(text.String(), "FAILED") == r.Passed {
				t.Errorf("the text does not say %q:\n%s", tt.says, text.String())
			}
			var back report.Report
			if err := r.JSON(&js); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(js.Bytes(), &back); err != nil || back.Passed != r.Passed {
				t.Errorf("JSON: %v, passed %v", err, back.Passed)
			}
		})
	}
}

// TestEveryAnomalyBreaksAnInvariant: what the checker can find has a place in the report.
func TestEveryAnomalyBreaksAnInvariant(t *testing.T) {
	for _, kind := range []history.Kind{
		history.LostWrite, history.Unseen, history.Duplicate, history.InconsistentOffsets, history.NonmonotonicSend, history.PollSkip, history.NonmonotonicPoll,
		history.IntPollSkip, history.IntNonmonotonicPoll, history.AbortedRead, history.PrecommittedRead, history.Torn, history.Cycle, history.Resurrected, history.Phantom,
		history.Corrupt, history.ReadAhead, history.WatermarkBack, history.StaleWatermark, check.OffsetBack, check.OffsetUnknown, check.OffsetPhantom, check.StaleCommit,
		check.TwoOwners, check.Reprocessed, check.Unprocessed, check.TornOffsets, check.Trimmed, check.Stuck, check.FetchError, check.SequenceLost, check.Fsck, check.Orphans,
	} {
		broken := 0
		for _, i := range report.New(report.Run{}, verdict(kind)).Invariants {
			broken += i.Found
		}
		if broken == 0 {
			t.Errorf("%s breaks nothing", kind)
		}
	}
}
