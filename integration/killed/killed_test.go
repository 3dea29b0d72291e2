//go:build integration && unix

package killed

import (
	"testing"
	"time"

	"github.com/floelog/floe/integration/fixture"
	"github.com/floelog/floe/integration/workload"
)

// TestKilled fires every fault at three agents, and then more of them for the duration.
func TestKilled(t *testing.T) {
	minio := fixture.StartMinIO(t)
	f := fixture.AgentsOnMinIO(t, 3, minio, fixture.StoreS3, "--lease-ttl", lease.String())
	c := start(t, f, minio, "", "zone-0", "zone-1", "zone-2")
	begun := time.Now()
	for _, i := range c.r.Perm(len(faults)) {
		c.fire(faults[i])
	}
	for time.Since(begun) < *duration {
		c.fire(faults[c.r.IntN(len(faults))])
	}
	for _, f := range faults {
		if c.seen[f.name] == nil || c.seen[f.name].fired == 0 {
			t.Errorf("%s was never fired", f.name)
		}
	}
	c.finish()
	worst := time.Duration(0)
	for _, d := range c.seen["SIGKILL agent"].takeovers {
		worst = max(worst, d)
	}
	t.Logf("longest takeover after SIGKILL %v; the aim is %v", round(worst), lease+time.Second)
}

// TestRollingRestart: agents that drain leave no request without an answer, so even a
// plain producer's records are not doubled.
func TestRollingRestart(t *testing.T) {
	f := fixture.Agents(t, 3, fixture.StoreFile, "--lease-ttl", lease.String())
	// Nothing hangs here: who gives up what takes long on a busy machine, and sends it again, doubles it.
	c := startLoad(t, f, nil, workload.Config{Racks: []string{""}, Commit: patience, Patience: patience})
	for range 2 {
		c.fire(fault{"SIGTERM rolling", rollingRestart})
	}
	if report := c.finish(); report.Doubled > 0 {
		t.Errorf("%d records of a plain producer were doubled", report.Doubled)
	}
}

// TestDevKilled kills the whole of floe dev during load and starts it on the same data.
func TestDevKilled(t *testing.T) {
	f := fixture.Dev(t, 1)
	c := start(t, f, nil, "")
	begun := time.Now()
	for n := 0; n < 5 || time.Since(begun) < *duration/4; n++ {
		c.fire(fault{"SIGKILL floe dev", killAll})
		c.hold(time.Duration(c.r.Int64N(int64(time.Second))))
	}
	c.finish()
}
