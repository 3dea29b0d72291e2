//go:build linux

package fault

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// Window is a part of a run in which the same faults are on.
type Window struct {
	Length time.Duration
	Shots  []Shot // none: the cluster may recover
}

// Shot is a fault in a window.
type Shot struct {
	Fault  string // its ID
	Target Target
	Seed   uint64 // of what it draws
}

// Times are how a run is divided.
type Times struct {
	For     time.Duration // the whole run
	Window  time.Duration // with one mix of faults
	AtLeast int           // windows that each fault is on in
}

// MixLength is between two mixes, as in Jepsen's tests of such systems. Shorter, and faults that outlast a lease would
// not be on; longer, and a run would see few mixes.
const MixLength = 30 * time.Second

// mostAtOnce bounds a mix: with more, everything is down all the time, and nothing is tested.
const mostAtOnce = 7

// Plan draws windows from a seed: a quarter of them without faults, the others with mixes in which every fault is on at
// least as often as asked for, about equally often, and never twice in the same window. It returns
// an error if the run is too short for that.
func Plan(seed uint64, faults []string, t Times) ([]Window, error) {
	windows := max(1, int(t.For/t.Window))
	calm := (windows + 2) / 4
	busy := windows - calm
	shots := max(len(faults)*t.AtLeast, min(2*busy, len(faults)*busy))
	if len(faults) == 0 {
		return nil, fmt.Errorf("a plan of no faults")
	}
	if shots > busy*min(mostAtOnce, len(faults)) {
		return nil, fmt.Errorf("%d faults cannot be on %d times each in %v: %d windows of %v, with %d at once",
			len(faults), t.AtLeast, t.For, busy, t.Window, min(mostAtOnce, len(faults)))
	}
	r := rand.New(rand.NewPCG(seed, 2))
	out := make([]Window, windows)
	sizes := mixSizes(r, busy, shots, min(mostAtOnce, len(faults)))
	for i, isCalm := range drawCalm(r, windows, calm) {
		out[i].Length = t.Window
		if isCalm {
			continue
		}
		out[i].Shots = make([]Shot, sizes[0])
		sizes = sizes[1:]
	}
	deal(r, out, faults)
	return out, nil
}

// drawCalm says which windows have no faults.
func drawCalm(r *rand.Rand, windows, calm int) []bool {
	out := make([]bool, windows)
	for i := range calm {
		out[i] = true
	}
	r.Shuffle(windows, func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// mixSizes divides shots between windows, unequally.
func mixSizes(r *rand.Rand, windows, shots, most int) []int {
	sizes := make([]int, windows)
	for i := range sizes {
		if shots > i {
			sizes[i] = 1
		}
	}
	for left := shots - min(shots, windows); left > 0; {
		if i := r.IntN(windows); sizes[i] < most {
			sizes[i]++
			left--
		}
	}
	return sizes
}

// deal gives the shots faults from one shuffled deck after the other, so that none is on much more often than another.
func deal(r *rand.Rand, windows []Window, faults []string) {
	var deck []string
	refill := func() {
		next := append([]string(nil), faults...)
		r.Shuffle(len(next), func(i, j int) { next[i], next[j] = next[j], next[i] })
		deck = append(deck, next...)
	}
	for w := range windows {
		used := map[string]bool{}
		for s := range windows[w].Shots {
			at := 0
			for ; ; at++ { // the first card that is not on in this window; the rest keeps its order
				if at == len(deck) {
					refill()
				}
				if !used[deck[at]] {
					break
				}
			}
			id := deck[at]
			deck = append(deck[:at:at], deck[at+1:]...)
			used[id] = true
			windows[w].Shots[s] = Shot{Fault: id, Target: []Target{One, One, Majority, All}[r.IntN(4)], Seed: r.Uint64()}
		}
	}
}
