package objstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/floelog/floe/tiering/weather"
)

const (
	// maxLimit is the most requests of a kind under way at a time. Less would hold back a store that
	// scales; more is what drivers have no connections for.
	maxLimit = 256
	// minLimit is the fewest, as long as some succeed.
	minLimit = 1
	// closeAfter failures in a row close the gate: then one request at a time tests the water. Fewer:
	// a store that fails half of the requests is hardly asked any more. More: in an outage, that
	// many requests of each kind wait for their time limits.
	closeAfter = 5
	// firstProbe and maxProbe bound the pause between two tests of a store that fails, and so how
	// long the end of an outage goes unnoticed. Shorter: hundreds of agents load a store that starts.
	firstProbe = 100 * time.Millisecond
	maxProbe   = time.Second
	// maxProbes are under way at a time. Fewer: tests that hang until their time limit, 18 s for a
	// segment of 8 MiB, would keep others from finding out that the outage is over. More: an outage
	// that ends has as many requests to answer at once.
	maxProbes = 32
	// maxRetryAfter bounds what a store may ask for by Retry-After. Longer: one wrong answer of a
	// proxy would stop an agent.
	maxRetryAfter = 5 * time.Second
	// stuckAfter is the age of requests that are given up and made again when another one has opened
	// the gate, as are all that tested the water before it: they hang on connections that the outage has
	// broken. Shorter: uploads that are about to end would begin anew.
	stuckAfter = 2 * time.Second
)

// ErrUnavailable says that the store fails whatever it is asked, and that the request was not made, or had no answer.
var ErrUnavailable = errors.New("object store is not available")

// gate bounds the requests of one kind that are under way, by how the store takes them
// (additive increase, multiplicative decrease), and tests the water while all of them fail.
//
// Invariants:
//  1. inFlight requests have passed and not left; without a test under way they are at most limit.
//  2. Who waits, waits in order; nobody waits while the gate would let one pass.
//  3. A success of a closed gate's request opens it for all that wait, as far as the limit goes.
type gate struct {
	station *weather.Station
	now     func() time.Time

	mu        sync.Mutex // guards the following
	rng       *rand.Rand
	limit     float64
	good      float64 // the limit before it was lowered; below it, it grows fast
	inFlight  int
	round     int // how often the limit was lowered
	failures  int // in a row
	closed    bool
	probe     time.Duration // pause between tests
	notBefore time.Time     // the next request
	waiting   []chan pass   // each with room for its pass
	passes    int           // so far
	underWay  map[int]underWay
	timer     *time.Timer // lets the first pass when it is time
	cause     error       // the last failure
}

// pass is one request's way through the gate.
type pass struct {
	number, round int
	began         time.Time
	test          bool // of a closed gate
}

// underWay is a request that has passed and not left.
type underWay struct {
	pass
	abort context.CancelFunc
}

func newGate(slow time.Duration, rng *rand.Rand) *gate {
	return &gate{station: weather.NewStation(slow, time.Now), now: time.Now, rng: rng, limit: maxLimit, good: maxLimit, underWay: map[int]underWay{}}
}

// enter waits until a request may be made, for at most patience if the gate is closed; 0 is no
// bound. Who has passed must leave.
func (g *gate) enter(ctx context.Context, patience time.Duration) (pass, error) {
	g.mu.Lock()
	now := g.now()
	if len(g.waiting) == 0 && g.openLocked(now) {
		p := g.passLocked(now)
		g.mu.Unlock()
		return p, nil
	}
	turn := make(chan pass, 1)
	g.waiting = append(g.waiting, turn)
	g.armLocked(now)
	g.mu.Unlock()
	var impatient *time.Timer
	var over <-chan time.Time
	if patience > 0 {
		impatient = time.NewTimer(patience)
		defer impatient.Stop()
		over = impatient.C
	}
	for {
		select {
		case p := <-turn:
			return p, nil
		case <-ctx.Done():
			return g.giveUp(turn, ctx.Err())
		case <-over:
			if cause, closed := g.shut(); closed {
				return g.giveUp(turn, cause)
			}
			impatient.Reset(patience) // it only is a store that is busy, so far
		}
	}
}

// shut tells whether the gate is closed, and why.
func (g *gate) shut() (cause error, closed bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		return nil, false
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, g.cause), true
}

// giveUp stops waiting, unless the pass came meanwhile.
func (g *gate) giveUp(turn chan pass, err error) (pass, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if i := slices.Index(g.waiting, turn); i >= 0 {
		g.waiting = slices.Delete(g.waiting, i, i+1)
		return pass{}, err
	}
	return <-turn, nil
}

// openLocked reports whether one more request may be made now. Whoever then waits arms the timer for
// the same time: by a later one nothing may be in the way any more, and nobody would let it pass.
func (g *gate) openLocked(now time.Time) bool {
	if now.Before(g.notBefore) {
		return false
	}
	if g.closed {
		return g.inFlight < maxProbes
	}
	return g.inFlight < int(g.limit)
}

func (g *gate) passLocked(now time.Time) pass {
	g.inFlight++
	if g.closed {
		g.notBefore = now.Add(g.jitterLocked(g.probe))
	}
	g.passes++
	return pass{g.passes, g.round, now, g.closed}
}

// jitterLocked draws from the upper half of d: agents that fail together do not ask together.
func (g *gate) jitterLocked(d time.Duration) time.Duration {
	return d/2 + time.Duration(g.rng.Int64N(int64(d/2)+1))
}

// admitLocked lets those pass who may, in order.
func (g *gate) admitLocked() {
	now := g.now()
	for len(g.waiting) > 0 && g.openLocked(now) {
		g.waiting[0] <- g.passLocked(now)
		g.waiting = g.waiting[1:]
	}
	if len(g.waiting) == 0 {
		g.waiting = nil
	}
	g.armLocked(now)
}

// armLocked makes the first that waits pass when nothing but time is in its way.
func (g *gate) armLocked(now time.Time) {
	d := g.notBefore.Sub(now)
	if len(g.waiting) == 0 || d <= 0 {
		return
	}
	if g.timer != nil {
		g.timer.Reset(d)
		return
	}
	g.timer = time.AfterFunc(d, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.admitLocked()
	})
}

// begin returns the context of a request that has passed, which ends when it is found to be stuck.
func (g *gate) begin(ctx context.Context, p pass) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.underWay[p.number] = underWay{p, cancel}
	return ctx
}

// leave tells what became of a request; asked is for how long the store wants to be left alone.
// ctx is the caller's: what ended with it says nothing of the store.
func (g *gate) leave(ctx context.Context, p pass, err error, asked time.Duration) {
	state, counts := stateOf(ctx, err)
	switch {
	case !counts:
	case state == weather.Fair:
		g.station.Succeeded(time.Since(p.began))
	default:
		g.station.Failed(state, err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inFlight--
	g.underWay[p.number].abort()
	delete(g.underWay, p.number)
	switch {
	case !counts:
		if g.closed {
			g.notBefore = time.Now() // it was a test: another takes its place
		}
	case state == weather.Fair:
		g.succeededLocked(p)
	default:
		g.cause = err
		g.failedLocked(p, state, asked)
	}
	g.admitLocked()
}

func (g *gate) succeededLocked(p pass) {
	g.failures = 0
	if g.closed {
		g.closed, g.notBefore = false, time.Time{}
		for _, u := range g.underWay {
			if u.test && u.began.Before(p.began) || time.Since(u.began) >= stuckAfter {
				u.abort()
			}
		}
		return
	}
	if float64(g.inFlight+1) < g.limit/2 {
		return // it was not the limit that held them back
	}
	if g.limit < g.good {
		g.limit++
	} else {
		g.limit += 1 / g.limit
	}
	g.limit = min(g.limit, maxLimit)
}

func (g *gate) failedLocked(p pass, state weather.State, asked time.Duration) {
	g.failures++
	if (state == weather.Throttled || state == weather.Hanging) && p.round == g.round {
		// Once for all that were under way together.
		g.round++
		under := min(g.limit, float64(g.inFlight+1))
		g.good = max(under/2, minLimit)
		g.limit = g.good
	}
	now := time.Now()
	if asked > 0 {
		if until := now.Add(min(asked, maxRetryAfter)); until.After(g.notBefore) {
			g.notBefore = until
		}
	}
	switch {
	case g.closed:
		g.probe = min(2*g.probe, maxProbe)
	case g.failures >= closeAfter:
		g.closed, g.probe = true, firstProbe
		if next := now.Add(g.jitterLocked(g.probe)); next.After(g.notBefore) {
			g.notBefore = next
		}
	}
}

// numbers are the gate's limit, and how many requests are under way and wait.
func (g *gate) numbers() (limit, inFlight, waiting int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return int(g.limit), g.inFlight, len(g.waiting)
}

// stateOf says what weather an attempt met with; false if it says nothing of the store: what the
// caller ended, a bug of its own, damage on the way. ctx is the caller's.
func stateOf(ctx context.Context, err error) (state weather.State, counts bool) {
	var network net.Error
	switch {
	case err == nil, errors.Is(err, ErrExists), errors.Is(err, ErrNotFound), errors.Is(err, ErrBeyond):
		return weather.Fair, true
	case errors.Is(err, ErrInvalid):
		return 0, false
	case errors.Is(err, ErrThrottled):
		return weather.Throttled, true
	case errors.Is(err, ErrDenied):
		return weather.Denied, true
	case errors.Is(err, ErrFull):
		return weather.Full, true
	case ctx.Err() != nil, errors.Is(err, context.Canceled):
		return 0, false
	case errors.Is(err, ErrCorrupt):
		return 0, false
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &network) && network.Timeout():
		return weather.Hanging, true
	case errors.As(err, &network), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		return weather.Unreachable, true
	}
	return weather.Failing, true
}
