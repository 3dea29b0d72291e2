//go:build linux

package fault_test

import (
	"fmt"
	"reflect"
	"regexp"
	"testing"
	"time"

	"github.com/floelog/floe/integration/torture/fault"
)

func ids() []string {
	var out []string
	for _, f := range fault.Faults() {
		out = append(out, f.ID())
	}
	return out
}

// TestTheCatalogueIsComplete: each of F1 to F35 is fired, or it is said where it is tested.
func TestTheCatalogueIsComplete(t *testing.T) {
	known := map[string]bool{}
	for _, f := range fault.Faults() {
		if known[f.ID()] || f.Name() == "" || !regexp.MustCompile(`^F[1-9][0-9]?$`).MatchString(f.ID()) {
			t.Errorf("%q is there twice, has no name, or is not of the catalogue", f.ID())
		}
		known[f.ID()] = true
	}
	for id, why := range fault.Elsewhere() {
		if known[id] || why == "" {
			t.Errorf("%s is fired here, or nobody says why it is not", id)
		}
		known[id] = true
	}
	for n := 1; n <= 35; n++ {
		if id := fmt.Sprintf("F%d", n); !known[id] {
			t.Errorf("%s is neither fired nor excused", id)
		}
	}
	if len(known) != 35 {
		t.Errorf("%d faults, want 35", len(known))
	}
}

func TestFind(t *testing.T) {
	if got, err := fault.Find("F7", "F1"); err != nil || len(got) != 2 || got[0].ID() != "F7" {
		t.Errorf("%v, %v", got, err)
	}
	for _, id := range []string{"F26", "F99", ""} {
		if got, err := fault.Find(id); err == nil {
			t.Errorf("%q: %v", id, got)
		}
	}
	if got, err := fault.Find(); err != nil || len(got) != len(fault.Faults()) {
		t.Errorf("%d faults, %v", len(got), err)
	}
}

func TestEveryFaultIsPlannedAsOftenAsAsked(t *testing.T) {
	for _, tt := range []struct {
		length  time.Duration
		atLeast int
		faults  []string
	}{
		{5 * time.Minute, 1, ids()}, {10 * time.Minute, 2, ids()}, {30 * time.Minute, 5, ids()}, {2 * time.Hour, 10, ids()},
		{time.Minute, 1, []string{"F1"}}, {10 * time.Second, 1, []string{"F1"}}, {10 * time.Minute, 0, []string{"F1", "F2"}},
	} {
		for seed := range uint64(50) {
			plan, err := fault.Plan(seed, tt.faults, fault.Times{For: tt.length, Window: fault.MixLength, AtLeast: tt.atLeast})
			if err != nil {
				t.Fatal(err)
			}
			on, calm := map[string]int{}, 0
			for _, w := range plan {
				twice := map[string]bool{}
				for _, s := range w.Shots {
					if twice[s.Fault] {
						t.Fatalf("seed %d: %s is twice in a mix", seed, s.Fault)
					}
					twice[s.Fault] = true
					on[s.Fault]++
				}
				if len(w.Shots) == 0 {
					calm++
				}
			}
			least, most := 1<<30, 0
			for _, id := range tt.faults {
				least, most = min(least, on[id]), max(most, on[id])
			}
			if least < tt.atLeast || most > least+2 {
				t.Errorf("seed %d, %v: faults are on %d to %d times, want %d and about equally often", seed, tt.length, least, most, tt.atLeast)
			}
			if want := len(plan) / 4; calm < want || calm > want+1 {
				t.Errorf("seed %d: %d of %d windows without faults", seed, calm, len(plan))
			}
		}
	}
}

func TestASeedGivesOnePlan(t *testing.T) {
	times := fault.Times{For: 20 * time.Minute, Window: fault.MixLength, AtLeast: 3}
	a, err := fault.Plan(1, ids(), times)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := fault.Plan(1, ids(), times)
	c, _ := fault.Plan(2, ids(), times)
	if !reflect.DeepEqual(a, b) || reflect.DeepEqual(a, c) {
		t.Error("a plan does not follow from its seed alone")
	}
	targets := map[fault.Target]int{}
	for _, w := range a {
		for _, s := range w.Shots {
			targets[s.Target]++
		}
	}
	if len(targets) != 3 {
		t.Errorf("targets are %v, want one, majority and all", targets)
	}
}

func TestAPlanThatCannotBe(t *testing.T) {
	if plan, err := fault.Plan(1, ids(), fault.Times{For: time.Minute, Window: fault.MixLength, AtLeast: 5}); err == nil {
		t.Errorf("a plan of %d windows", len(plan))
	}
	if plan, err := fault.Plan(1, nil, fault.Times{For: time.Minute, Window: fault.MixLength}); err == nil {
		t.Errorf("a plan of no faults: %v", plan)
	}
}
