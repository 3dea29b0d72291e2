//go:build integration && unix

package tiers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/floelog/floe/integration/nemesis"
)

// mix is a way in which the object store fails.
type mix struct {
	name   string
	shares map[nemesis.Fault]float64
	delay  time.Duration
}

// mixes are what RELIABILITY calls F17 to F24, by the requests that they hit.
var mixes = []mix{
	{"slow", map[nemesis.Fault]float64{nemesis.Slow: 0.3}, 3 * time.Second},
	{"errors", map[nemesis.Fault]float64{nemesis.Error: 0.1, nemesis.SlowDown: 0.3}, 0},
	{"PUTs of unknown outcome", map[nemesis.Fault]float64{nemesis.LostReply: 0.15, nemesis.LatePut: 0.15}, 5 * time.Second},
	{"GETs with wrong bytes", map[nemesis.Fault]float64{nemesis.Truncated: 0.1, nemesis.Flipped: 0.1}, 0},
	{"objects and lists that are not seen", map[nemesis.Fault]float64{nemesis.NotFound: 0.1, nemesis.ListMissing: 0.3, nemesis.ListExtra: 0.3}, 0},
	{"denied and cut off", map[nemesis.Fault]float64{nemesis.Denied: 0.15, nemesis.Cut: 0.1}, 0},
	{"all of it", all(0.03), time.Second},
}

func all(share float64) map[nemesis.Fault]float64 {
	shares := map[nemesis.Fault]float64{}
	for _, f := range nemesis.Faults() {
		shares[f] = share
	}
	return shares
}

// ending is what happens to agents.
type ending struct {
	name string
	fire func(n *saboteur)
}

var endings = []ending{
	{"SIGKILL", func(n *saboteur) {
		victim := n.r.IntN(agents)
		n.c.floe.KillProcess(victim)
		n.hold(time.Duration(n.r.Int64N(int64(2 * lease))))
		n.start(victim)
	}},
	{"SIGSTOP", func(n *saboteur) {
		victim := n.r.IntN(agents)
		n.c.floe.Pause(victim)
		n.hold(time.Duration(n.r.Int64N(int64(3 * lease))))
		n.c.floe.Continue(victim)
	}},
	{"SIGTERM rolling", func(n *saboteur) {
		for i := range agents {
			n.c.floe.StopProcess(i)
			n.start(i)
		}
	}},
	{"none", func(n *saboteur) { n.hold(time.Second + time.Duration(n.r.Int64N(int64(3*time.Second)))) }},
}

// saboteur fires faults. It is one goroutine's: that of the test.
type saboteur struct {
	c     *cluster
	r     *rand.Rand
	fired map[string]int // agents' and mixes
	ended int            // agents that did not start because the store failed their test
}

func (n *saboteur) start(agent int) { n.ended += n.c.floe.StartUntilReady(agent) }

// hold lets time pass: how long a fault lasts is what it is.
func (n *saboteur) hold(d time.Duration) {
	select {
	case <-time.After(d):
	case <-n.c.t.Context().Done():
	}
}

// run fires faults for the test's duration, a new mix and a new ending at a time; it goes on
// until each of both was there, and each of the store's.
func (n *saboteur) run() {
	begun := time.Now()
	todo := n.r.Perm(len(mixes))
	for round := 0; round < len(mixes) || time.Since(begun) < *duration; round++ {
		m := mixes[n.r.IntN(len(mixes))]
		if round < len(todo) {
			m = mixes[todo[round]]
		} else if n.r.IntN(4) == 0 {
			m = mix{name: "store is well"}
		}
		e := endings[(round+int(n.c.seed))%len(endings)]
		if round >= len(mixes) {
			e = endings[n.r.IntN(len(endings))]
		}
		n.c.note("FAULT store: %s; agents: %s", m.name, e.name)
		n.c.store.Set(m.shares, m.delay)
		e.fire(n)
		n.hold(time.Second)
		n.fired[m.name]++
		n.fired[e.name]++
	}
	n.rest()
	n.c.store.Set(nil, 0)
	n.c.note("HEALED")
}

// rest lets what chance has left out of the mixes happen.
func (n *saboteur) rest() {
	for _, f := range nemesis.Faults() {
		n.c.await("the store's fault "+string(f), func(context.Context) error {
			if n.c.store.Fired()[f] > 0 {
				return nil
			}
			n.c.store.Set(map[nemesis.Fault]float64{f: 0.3}, time.Second)
			return errors.New("it never fired")
		})
	}
}

// report prints what was fired, and fails the test if an ending was not.
func (n *saboteur) report() {
	fired := n.c.store.Fired()
	for _, e := range endings {
		if n.fired[e.name] == 0 {
			n.c.t.Errorf("the agents' fault %s never fired", e.name)
		}
	}
	n.c.t.Logf("faults of the run: %s; starts that the store's test ended: %d", counts(n.fired), n.ended)
	n.c.t.Logf("faults of the store: %s; requests: %s", counts(fired), counts(n.c.store.Requests()))
}

func counts[K ~string](of map[K]int) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(of)) {
		out = append(out, fmt.Sprintf("%s %d", k, of[k]))
	}
	return strings.Join(out, ", ")
}
