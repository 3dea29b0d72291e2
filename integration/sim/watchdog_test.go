package sim

import (
	"fmt"
	"os"
	"runtime"
	"time"
)

// seedTime is how long a seed may take by the clock on the wall: it takes a second or two.
// One in which something asks again and again, be it with pauses that cost only virtual
// time, would go on for ever without a word. Shorter: a busy machine fails what is right.
// Longer: a run of hours tells less.
const seedTime = 5 * time.Minute

// watchSeed ends the process with the stacks of all goroutines unless the seed ends in time:
// nothing else can end a bubble. It must be called outside of the bubble, and what it returns
// when the seed has ended.
func watchSeed(seed uint64) (stop func() bool) {
	return time.AfterFunc(seedTime, func() {
		b := make([]byte, 64<<20)
		b = b[:runtime.Stack(b, true)]
		fmt.Fprintf(os.Stderr, "%s\n", b)
		panic(fmt.Sprintf("seed %d has not ended after %v: see the stacks above for what it waits for, or what runs", seed, seedTime))
	}).Stop
}
