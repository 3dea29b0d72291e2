//go:build integration && linux

package main

import (
	"flag"
	"testing"
	"time"

	"github.com/floelog/floe/integration/torture/fault"
)

var (
	lengthFlag = flag.Duration("torture.for", 5*time.Minute, "how long faults are fired")
	seedFlag   = flag.Uint64("torture.seed", 0, "seed of the plan, the faults and the load; 0: by the clock")
	outFlag    = flag.String("torture.out", "", "folder in which the history and the report stay")
)

// TestTorture is a short run of the command: every fault fires, and nothing is found. How
// much load the machine bears is not asked.
func TestTorture(t *testing.T) {
	o := options{length: *lengthFlag, seed: *seedFlag, out: *outFlag, logs: *outFlag, window: fault.MixLength, atLeast: 1, slow: true}
	if o.seed == 0 {
		o.seed = uint64(time.Now().UnixNano()) % 1_000_000
	}
	t.Logf("seed %d", o.seed)
	if err := run(o); err != nil {
		t.Fatal(err)
	}
}
