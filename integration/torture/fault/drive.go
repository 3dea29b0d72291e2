//go:build linux

package fault

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/floelog/floe/integration/torture/rig"
)

// Event is something that a driver did, for the history and for what measures recovery.
type Event struct {
	At     time.Time
	Window int
	What   What
	Fault  string // ID; empty for a window's own events
	Text   string
}

// What is the kind of an Event.
type What string

// The kinds of events.
const (
	Began  What = "began"  // a fault is on, or a window without faults begins
	Ended  What = "ended"  // it has healed what it broke
	Healed What = "healed" // everything runs and every fault of the window has ended
	Noted  What = "noted"  // by a fault
)

// Outcome is what became of a plan.
type Outcome struct {
	Fired   map[string]int // by ID, how often each fault had an effect
	On      map[string]int // by ID, in how many windows it was on
	Errors  []error
	Windows int // that were carried out
}

// Missed returns the faults that had no effect: they fail a run.
func (o *Outcome) Missed(faults []Fault) (ids []string) {
	for _, f := range faults {
		if o.Fired[f.ID()] == 0 {
			ids = append(ids, f.ID())
		}
	}
	return ids
}

// Drive carries a plan out, with the cluster healed after each window, until it is through or ctx ends; faults of the plan
// that had no effect, since others hid them, are fired again at its end.
// tell is called for every event, from several goroutines.
func Drive(ctx context.Context, c *rig.Cluster, faults []Fault, plan []Window, tell func(Event)) *Outcome {
	d := &driver{cluster: c, faults: map[string]Fault{}, tell: tell, out: &Outcome{Fired: map[string]int{}, On: map[string]int{}}}
	for _, f := range faults {
		d.faults[f.ID()] = f
	}
	for i, w := range plan {
		if ctx.Err() != nil {
			break
		}
		d.window(ctx, i, w)
		d.out.Windows++
	}
	for again := range mostAgain {
		for _, w := range makeUp(d.out.Missed(faults), plan, uint64(again)) {
			if ctx.Err() == nil {
				d.window(ctx, d.out.Windows, w)
				d.out.Windows++
			}
		}
	}
	return d.out
}

// mostAgain is how often a fault that had no effect is fired again, beside few others. Once may not be enough for one that
// is drawn to be rare; one that needs more than three has something wrong with it.
const mostAgain = 3

// makeUp gives faults that others have hidden windows of their own: the store's are not felt while etcd is down.
func makeUp(missed []string, plan []Window, seed uint64) (out []Window) {
	const together = 2
	for len(missed) > 0 && len(plan) > 0 {
		n := min(together, len(missed))
		w := Window{Length: plan[0].Length}
		for i, id := range missed[:n] {
			w.Shots = append(w.Shots, Shot{Fault: id, Target: All, Seed: seed<<32 + uint64(len(out)*together+i)})
		}
		out, missed = append(out, w), missed[n:]
	}
	return out
}

type driver struct {
	cluster *rig.Cluster
	faults  map[string]Fault
	tell    func(Event)

	mu  sync.Mutex // guards the following
	out *Outcome
}

// window runs one mix, and heals.
func (d *driver) window(ctx context.Context, n int, w Window) {
	limited, cancel := context.WithTimeout(ctx, w.Length)
	defer cancel()
	var work sync.WaitGroup
	for _, s := range w.Shots {
		work.Go(func() { d.shot(limited, n, s) })
	}
	if len(w.Shots) == 0 {
		d.event(n, Began, "", "no faults")
		<-limited.Done()
	}
	work.Wait()
	// A fault that ended early leaves its time to recovery.
	<-limited.Done()
	if err := d.cluster.Heal(context.WithoutCancel(ctx)); err != nil {
		d.fail(fmt.Errorf("heal after window %d: %w", n, err))
	}
	d.event(n, Healed, "", "")
}

func (d *driver) shot(ctx context.Context, window int, s Shot) {
	f, ok := d.faults[s.Fault]
	if !ok {
		d.fail(fmt.Errorf("the plan has a fault %s that nobody knows", s.Fault))
		return
	}
	r := &Round{Cluster: d.cluster, Rand: rand.New(rand.NewPCG(s.Seed, 3)), Target: s.Target}
	r.Note = func(format string, args ...any) { d.event(window, Noted, s.Fault, fmt.Sprintf(format, args...)) }
	d.event(window, Began, s.Fault, fmt.Sprintf("%s, %v", f.Name(), s.Target))
	fired, err := f.Run(ctx, r)
	d.event(window, Ended, s.Fault, fmt.Sprintf("fired %d times", fired))
	d.mu.Lock()
	d.out.Fired[s.Fault] += fired
	d.out.On[s.Fault]++
	d.mu.Unlock()
	if err != nil && !errors.Is(err, context.Canceled) {
		d.fail(fmt.Errorf("%s in window %d, seed %d: %w", s.Fault, window, s.Seed, err))
	}
}

func (d *driver) event(window int, what What, fault, text string) {
	d.tell(Event{At: time.Now(), Window: window, What: what, Fault: fault, Text: text})
}

func (d *driver) fail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.out.Errors = append(d.out.Errors, err)
}
