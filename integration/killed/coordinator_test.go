//go:build integration && unix && cgo

package killed

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/floelog/floe/integration/fixture"
)

// ending is a way in which a coordinator's agent ends and comes back.
type ending struct {
	name string
	fire func(a *application, victim int)
}

// endings are fired in turn, the first three at least. librdkafka's transactional producers
// keep a group's coordinator in mind and wait for it, for ever (its issue #5511), if Metadata
// has ceased to name it before they ask it something: whether an agent is away for a moment,
// for longer or after it said goodbye, they must find the next one.
var endings = []ending{
	{"SIGKILL, started again at once", func(a *application, victim int) {
		a.floe.KillProcess(victim)
		a.floe.StartProcess(victim)
	}},
	{"SIGKILL, started again when others have taken over", func(a *application, victim int) {
		a.floe.KillProcess(victim)
		a.stable(time.Now())
		a.floe.StartProcess(victim)
	}},
	{"SIGTERM, started again", func(a *application, victim int) {
		a.floe.StopProcess(victim)
		a.floe.StartProcess(victim)
	}},
	{"SIGKILL, started again when clients are not told of it any more", func(a *application, victim int) {
		a.floe.KillProcess(victim)
		a.stable(time.Now())
		a.hold(forgotten)
		a.stable(time.Now())
		a.floe.StartProcess(victim)
	}},
}

// fewestEnds is how many coordinators end at least.
const fewestEnds = 3

// forgotten is longer than clients are told of an agent that has ended.
const forgotten = 15 * time.Second

// besideOthers is how much longer everything may take where the test runs among all others,
// on a machine that has other things to do; a run with a duration has it for itself.
const besideOthers = 3

// hold lets time pass: how long an agent stays away is what the ending is.
func (a *application) hold(d time.Duration) {
	select {
	case <-time.After(d):
	case <-a.t.Context().Done():
	}
}

// TestCoordinatorKilled ends the agents that coordinate a transactional application and a
// group of readers, again and again: every value comes out exactly once, no member stands
// still for long, nobody is rebalanced, and committed offsets never go back.
func TestCoordinatorKilled(t *testing.T) {
	f := fixture.Agents(t, 3, fixture.StoreFile, "--lease-ttl", lease.String())
	a := startApplication(t, f)
	a.stable(time.Now())
	moved := map[string]int64{}
	for _, m := range a.members {
		moved[m.name] = m.moved.Load()
		m.longest.Store(0)
	}
	r := rand.New(rand.NewPCG(seed(t), 1))
	limit := standstill
	if *duration == 0 {
		limit *= besideOthers
	}
	begun, fired, worst := time.Now(), 0, map[string]time.Duration{}
	for ; fired < fewestEnds || time.Since(begun) < *duration; fired++ {
		e := endings[fired%len(endings)]
		e.fire(a, a.coordinatorOf([]string{eosGroup, readerGroup}[r.IntN(2)]))
		a.stable(time.Now())
		for _, m := range a.members {
			gap := time.Duration(m.longest.Swap(0)) * time.Millisecond
			if gap > limit {
				t.Errorf("%s: %s made no progress for %v, want at most %v", e.name, m.name, gap, limit)
			}
			worst[m.name] = max(worst[m.name], gap)
		}
	}
	for _, m := range a.members {
		if n := m.moved.Load() - moved[m.name]; n != 0 {
			t.Errorf("%s was rebalanced: %d partitions were given or taken while only coordinators moved", m.name, n)
		}
	}
	gaps := slices.Sorted(maps.Values(worst))
	t.Logf("%d ends of coordinators; longest time without progress: median of the members %v, worst %v", fired, gaps[len(gaps)/2], gaps[len(gaps)-1])
	a.finish()
}
