//go:build linux

// Package fault is the faults that a torture run fires at a rig.Cluster, numbered as in the project's
// catalogue of faults (F1 to F35), the plan of when which of them do, and who carries the plan out.
//
// A Fault breaks something, holds it for a while and heals it, again and again until its window is over, and says
// how often it really had an effect: a partition that no byte met has tested nothing. Plans are pure: a seed
// gives the same one always. What a fault does within its window follows its own seed, but not the clock.
//
// Several faults run at once, each on a goroutine that Drive waits for. They may hit the same process: the rig's
// methods are made for that. A Fault's value is stateless.
package fault

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/floelog/floe/integration/torture/rig"
)

// Target is how many of several equal things a fault hits.
type Target int

// The targets, as Jepsen has them.
const (
	One Target = iota
	Majority
	All
)

func (t Target) String() string { return [...]string{"one", "majority", "all"}[t] }

// of returns how many of n are hit.
func (t Target) of(n int) int { return [...]int{1, n/2 + 1, n}[t] }

// Round is one run of a fault. It is for the goroutine that runs it.
type Round struct {
	Cluster *rig.Cluster
	Rand    *rand.Rand
	Target  Target
	Note    func(format string, args ...any) // what is worth reading beside the history
}

// Fault is something that goes wrong with a cluster.
type Fault interface {
	// ID is the fault's number in the catalogue, such as "F7".
	ID() string
	// Name says what it does.
	Name() string
	// Run breaks and heals until ctx ends, and returns soon after, with everything healed that it broke. An error says
	// that the fault itself could not be carried out, or that the cluster did what it must not, whatever
	// the history says.
	Run(ctx context.Context, r *Round) (fired int, err error)
}

// simple is a fault that needs nothing but a function for one break and its healing.
type simple struct {
	id, name string
	once     func(ctx context.Context, r *Round) (fired int, err error)
}

func (f *simple) ID() string   { return f.id }
func (f *simple) Name() string { return f.name }

// Run implements Fault.
func (f *simple) Run(ctx context.Context, r *Round) (fired int, err error) {
	for ctx.Err() == nil {
		n, err := f.once(ctx, r)
		fired += n
		if err != nil && !errors.Is(err, rig.ErrKilled) { // that was another fault, which starts it again
			return fired, err
		}
		r.hold(ctx, time.Second, 4*time.Second) // what recovers meanwhile is part of the test
	}
	return fired, nil
}

// Faults returns all faults that can be fired from outside at any moment, in the order of their numbers.
func Faults() []Fault {
	all := slices.Concat(processFaults(), networkFaults(), etcdFaults(), storeFaults(), cacheFaults(), clientFaults())
	slices.SortFunc(all, func(a, b Fault) int { return number(a.ID()) - number(b.ID()) })
	return all
}

func number(id string) int {
	n, _ := strconv.Atoi(id[1:]) // the test of the table checks them
	return n
}

// Elsewhere says of the catalogue's other faults where they are tested, and why not here.
func Elsewhere() map[string]string {
	return map[string]string{
		"F15": "integration/recovery: it ends the cluster, wipes or restores etcd and runs floe recover",
		"F25": "repair/fsck and integration/recovery: it is loss of data, after which no history is right",
		"F26": "integration/sim: the clock of a Go process cannot be bent from outside",
		"F34": "integration/fleet: mixed versions and what is refused; here every agent has the same binary",
	}
}

// Find returns the faults of those numbers; all of them without numbers.
func Find(ids ...string) ([]Fault, error) {
	if len(ids) == 0 {
		return Faults(), nil
	}
	var out []Fault
	for _, id := range ids {
		i := slices.IndexFunc(Faults(), func(f Fault) bool { return f.ID() == id })
		switch why, elsewhere := Elsewhere()[id]; {
		case i >= 0:
			out = append(out, Faults()[i])
		case elsewhere:
			return nil, fmt.Errorf("%s is not fired here: %s", id, why)
		default:
			return nil, fmt.Errorf("there is no fault %s", id)
		}
	}
	return out, nil
}

// hold lets a time between the two pass, or less if ctx ends.
func (r *Round) hold(ctx context.Context, least, most time.Duration) {
	timer := time.NewTimer(least + time.Duration(r.Rand.Int64N(int64(most-least)+1)))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// agents draws as many agents as the target says.
func (r *Round) agents() []*rig.Agent {
	all := slices.Clone(r.Cluster.Agents())
	r.Rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all[:r.Target.of(len(all))]
}

// agent draws one.
func (r *Round) agent() *rig.Agent {
	all := r.Cluster.Agents()
	return all[r.Rand.IntN(len(all))]
}

// chance is true with that probability.
func (r *Round) chance(p float64) bool { return r.Rand.Float64() < p }

// healing is a context for what heals: it lives on when the window is over.
func healing(ctx context.Context) context.Context { return context.WithoutCancel(ctx) }
