//go:build integration && unix

package fleet

import (
	"strings"
	"testing"
	"time"

	"github.com/floelog/floe/integration/fixture"
	"github.com/floelog/floe/metadata/level"
)

// levels returns the format levels that the agents write at, as their metrics say; 0 of a release
// that knows none.
func (f *fleet) levels() (at [3]float64) {
	f.t.Helper()
	for i := range at {
		for _, s := range f.floe.Scrape(i) {
			if s.Name == "floe_format_level" {
				at[i] = s.Value
			}
		}
	}
	return at
}

// TestUpgrade puts this release in the place of an older one, agent by agent, goes back half-way, and
// forth again; then the level rises, and the older release is refused.
func TestUpgrade(t *testing.T) {
	old := fixture.FloeAt(t, *oldFlag)
	f := newFleet(t)
	for i := range 3 {
		f.floe.Use(i, old)
	}
	f.floe.Start()
	f.begin()
	replace := func(i int, binary, name string, args ...string) {
		t.Helper()
		f.floe.Use(i, binary, args...)
		f.restart(i, name)
	}
	// They would raise the level at once, if the older release did not hold it back.
	now := []string{"--format-level-after", "0s"}
	replace(0, *floeFlag, "upgrade of agent 0", now...)
	replace(1, *floeFlag, "upgrade of agent 1", now...)
	if got, want := f.levels(), [3]float64{1, 1, 0}; got != want {
		t.Errorf("beside an older release the agents write at levels %v, want %v", got, want)
	}
	replace(1, old, "agent 1 goes back")
	replace(1, *floeFlag, "upgrade of agent 1, again", now...)
	replace(2, *floeFlag, "upgrade of agent 2", now...)
	f.awaitLevel(float64(level.Newest))
	f.load.awaitAcks(time.Now())
	f.rest()
	f.report("the level has risen")

	f.stop(2)
	f.floe.Use(2, old)
	if said := f.floe.Refuses(2); !strings.Contains(said, "run a release that reads version 2") {
		t.Errorf("the older release was refused with %q, which does not name the version", said)
	}
	f.floe.Use(2, *floeFlag)
	f.run(2)
	f.load.finish()
}

// awaitLevel waits until all agents write at a level.
func (f *fleet) awaitLevel(want float64) {
	f.t.Helper()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for f.levels() != [3]float64{want, want, want} {
		select {
		case <-tick.C:
		case <-limit.C:
			f.t.Fatalf("after %v the agents write at levels %v, want %v", patience, f.levels(), want)
		}
	}
}
