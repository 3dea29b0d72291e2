package memory

import (
	"context"
	"math/rand/v2"
	"time"
)

// Faults says what goes wrong with a client's calls and watches. Probabilities are
// between 0 and 1; the zero value is a client without faults. For a call, one of
// FailBefore, FailAfter and ApplyLate is drawn: their sum is at most 1.
type Faults struct {
	// Latency is the most that a call takes, drawn uniformly and divided at random between
	// the way there and the way back.
	Latency time.Duration

	// FailBefore is the probability that a call fails and is not applied.
	FailBefore float64

	// FailAfter is the probability that a call is applied and fails all the same.
	FailAfter float64

	// ApplyLate is the probability that a changing call fails and is applied later, after
	// up to LateBy, if its conditions hold by then.
	ApplyLate float64
	LateBy    time.Duration

	// WatchLag is the probability that a delivery of a watch comes late, by up to WatchLagBy.
	WatchLag   float64
	WatchLagBy time.Duration

	// WatchLoss is the probability that a delivery is replaced by the end of its watch.
	WatchLoss float64
}

// Inject sets the faults of the calls and deliveries that begin from now on, drawn from
// rnd, which belongs to the client from then on.
func (c *Client) Inject(f Faults, rnd *rand.Rand) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults, c.rnd = f, rnd
}

// Pause stops the client as SIGSTOP stops a process: no call returns, even when its
// context ends, and no watch delivers, until Resume. Time goes on.
func (c *Client) Pause() { c.set(func() { c.paused = true }) }

// Resume lets a paused client go on.
func (c *Client) Resume() { c.set(func() { c.paused = false }) }

// Partition cuts the client off: requests and answers wait until their contexts end or
// the partition heals, and so do deliveries.
func (c *Client) Partition() { c.set(func() { c.parted = true }) }

// Heal ends the partition.
func (c *Client) Heal() { c.set(func() { c.parted = false }) }

func (c *Client) set(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
	close(c.changed)
	c.changed = make(chan struct{})
}

// state returns what stops the client, and a channel that is closed when that changes.
func (c *Client) state() (paused, parted bool, changed <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.paused, c.parted, c.changed
}

// gate waits until nothing stops the client. It fails when ctx or the server ends.
func (c *Client) gate(ctx context.Context) error {
	for first := true; ; first = false {
		paused, parted, changed := c.state()
		switch {
		case paused:
			if first {
				c.server.fire(Pause)
			}
			select {
			case <-changed:
			case <-c.server.done:
				return errClosed
			}
		case parted:
			if first {
				c.server.fire(Partition)
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return ctx.Err()
			case <-c.server.done:
				return errClosed
			}
		default:
			return ctx.Err()
		}
	}
}

// faulty reports whether faults were ever injected.
func (c *Client) faulty() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rnd != nil
}

// fate is what the faults have drawn for one call.
type fate struct {
	there, back time.Duration
	fail        Fault // FailBefore, FailAfter, ApplyLate or none
	late        time.Duration
}

func (c *Client) drawCall(changes bool) fate {
	c.mu.Lock()
	defer c.mu.Unlock()
	var ft fate
	f, rnd := &c.faults, c.rnd
	if rnd == nil {
		return ft
	}
	if f.Latency > 0 {
		total := uniform(rnd, f.Latency)
		ft.there = time.Duration(rnd.Float64() * float64(total))
		ft.back = total - ft.there
	}
	x := rnd.Float64()
	switch {
	case x < f.FailBefore:
		ft.fail = FailBefore
	case x < f.FailBefore+f.FailAfter:
		ft.fail = FailAfter
	case x < f.FailBefore+f.FailAfter+f.ApplyLate && changes:
		ft.fail = ApplyLate
		ft.late = uniform(rnd, f.LateBy)
	}
	return ft
}

func (c *Client) drawDelivery() (lag time.Duration, lost bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f, rnd := &c.faults, c.rnd
	if rnd == nil {
		return 0, false
	}
	var fired []Fault
	if rnd.Float64() < f.WatchLag {
		lag = uniform(rnd, f.WatchLagBy)
		fired = append(fired, WatchLag)
	}
	if rnd.Float64() < f.WatchLoss {
		lost = true
		fired = append(fired, WatchLoss)
	}
	for _, f := range fired {
		c.server.fire(f)
	}
	return lag, lost
}

// uniform draws from (0, most], in nanoseconds; 0 if most is not positive.
func uniform(rnd *rand.Rand, most time.Duration) time.Duration {
	if most <= 0 {
		return 0
	}
	return 1 + time.Duration(rnd.Int64N(int64(most)))
}
