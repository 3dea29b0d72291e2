//go:build linux

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/floelog/floe/cmd/floe/planted"
	"github.com/floelog/floe/integration/fixture/program"
	"github.com/floelog/floe/integration/torture/fault"
)

// leastPlanted is how many bugs the rig proves itself by.
const leastPlanted = 20

func TestTableOfPlantedBugs(t *testing.T) {
	root, err := program.Root()
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(root, "docs", "testing.md"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(page), planted.Markdown()) {
		t.Errorf("docs/testing.md has not the table of cmd/floe/planted:\n%s", planted.Markdown())
	}
	names := map[string]bool{}
	for _, b := range planted.Bugs() {
		if names[b.Name] {
			t.Errorf("two bugs are called %s", b.Name)
		}
		names[b.Name] = true
		if _, err := fault.Find(b.Faults...); err != nil {
			t.Errorf("%s: %v", b.Name, err)
		}
		if len(b.Kinds) == 0 {
			t.Errorf("%s: nothing finds it", b.Name)
		}
		for _, k := range b.Kinds {
			name := strings.TrimPrefix(k, "int-") // the page has some in short
			short, isShort := strings.CutPrefix(name, "committed-offset")
			if !strings.Contains(string(page), "`"+name+"`") && !(isShort && strings.Contains(string(page), "`"+short+"`")) {
				t.Errorf("%s: docs/testing.md knows no anomaly %s", b.Name, k)
			}
		}
	}
	if len(names) < leastPlanted {
		t.Errorf("%d bugs, want %d", len(names), leastPlanted)
	}
}

func TestFindPlantedBugs(t *testing.T) {
	if all, err := planted.Find("all"); err != nil || len(all) != len(planted.Bugs())+1 {
		t.Errorf("all: %d, %v", len(all), err)
	}
	if two, err := planted.Find("ack-early", "one-for-all"); err != nil || len(two) != 2 || two[1].Name != "one-for-all" {
		t.Errorf("two: %v, %v", two, err)
	}
	if _, err := planted.Find("ack-erly"); err == nil {
		t.Error("a bug that is not there was found")
	}
}

func TestPlanOfPlantedBug(t *testing.T) {
	calm := plantedPlan(planted.Bug{}, plantedMix, 1)
	if len(calm) != 1 || calm[0].Length != plantedMix || len(calm[0].Shots) != 0 {
		t.Errorf("without faults: %v", calm)
	}
	plan := plantedPlan(planted.Bug{Faults: []string{"F1", "F2"}}, 2*(plantedMix+plantedCalm), 1)
	if len(plan) != 4 || len(plan[0].Shots) != 2 || len(plan[1].Shots) != 0 || plan[0].Shots[0].Seed == plan[2].Shots[0].Seed {
		t.Errorf("of two faults: %v", plan)
	}
}
