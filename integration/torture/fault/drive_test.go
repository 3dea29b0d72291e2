//go:build linux

package fault_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/integration/torture/fault"
	"github.com/floelog/floe/integration/torture/rig"
)

// pretend is a fault that does nothing, and has an effect from its nth run on; never, if n is 0.
type pretend struct {
	id   string
	n    int
	runs int
	err  error
}

func (p *pretend) ID() string   { return p.id }
func (p *pretend) Name() string { return "pretended" }

func (p *pretend) Run(ctx context.Context, r *fault.Round) (int, error) {
	<-ctx.Done()
	r.Note("run")
	if p.runs++; p.n > 0 && p.runs >= p.n {
		return 1, p.err
	}
	return 0, p.err
}

func TestDrive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken")
		always, late, never := &pretend{id: "F1", n: 1}, &pretend{id: "F2", n: 3}, &pretend{id: "F3", err: broken}
		faults := []fault.Fault{always, late, never}
		plan, err := fault.Plan(1, []string{"F1", "F2", "F3"}, fault.Times{For: 4 * time.Minute, Window: time.Minute, AtLeast: 1})
		if err != nil {
			t.Fatal(err)
		}
		for i := range plan { // each once
			plan[i].Shots = nil
		}
		plan[0].Shots = []fault.Shot{{Fault: "F1"}, {Fault: "F2"}, {Fault: "F3"}}
		began := time.Now()
		var mu sync.Mutex
		seen := map[fault.What]int{}
		out := fault.Drive(t.Context(), &rig.Cluster{}, faults, plan, func(e fault.Event) {
			mu.Lock()
			defer mu.Unlock()
			seen[e.What]++
		})
		// After the plan's 4 windows, two faults are fired again together twice, and one alone once more.
		if took := time.Since(began); out.Windows != 7 || took != 7*time.Minute {
			t.Errorf("%d windows took %v", out.Windows, took)
		}
		if always.runs != 1 || late.runs != 3 || never.runs != 4 {
			t.Errorf("runs: %d, %d, %d; want 1, 3, 4", always.runs, late.runs, never.runs)
		}
		if missed := out.Missed(faults); len(missed) != 1 || missed[0] != "F3" {
			t.Errorf("missed %v, want F3", missed)
		}
		if len(out.Errors) != 4 || !errors.Is(out.Errors[0], broken) {
			t.Errorf("errors: %v", out.Errors)
		}
		if seen[fault.Healed] != 7 || seen[fault.Noted] != 8 || seen[fault.Ended] != 8 || seen[fault.Began] != 8+3 {
			t.Errorf("events: %v", seen)
		}
	})
}
