package objstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/floelog/floe/tiering/weather"
)

const (
	// slowAfter is the average latency beyond which a store is called slow. Shorter: uploads of 8 MiB
	// over a thin line would be. Longer: producers feel it before it is said.
	slowAfter = time.Second
	// fetchPatience is how long a consumer's read waits at a closed gate, and fetchTime for how long
	// it is tried in all. Shorter: consumers ask again at once, again and again. Longer: what else
	// the fetch has found waits, and clients give up after 30 s.
	fetchPatience = time.Second
	fetchTime     = 8 * time.Second
	// otherPatience and otherTime are those of everything but consumers and producers, who have time
	// limits of their own: jobs begin anew when they have failed.
	otherPatience = 10 * time.Second
	otherTime     = 30 * time.Second
)

// Weathered is a Store that rides out bad weather.
type Weathered struct{ retry }

// Weatherproof is Retry for an agent. It makes as many requests at a time as the store takes,
// for each kind apart (see gate); tests the water, one request at a time, while all of them
// fail, and lets everything pass that waits as soon as one succeeds; does what the store asks
// for by Retry-After; and tries again what was denied or found no space, which may end
// without a restart. A flush (Produce) is tried until its context ends.
//
// Retries are at most as many as calls, and a few (RetryConfig's budget): when it is spent,
// calls wait instead of failing.
func Weatherproof(inner Store, rng *rand.Rand, cfg RetryConfig) *Weathered {
	setDefault(&cfg.Cap, 2*time.Second)
	if cfg.BudgetRatio == 0 {
		cfg.BudgetRatio = 0.9
	}
	cfg = cfg.withDefaults()
	w := &Weathered{retry{inner: inner, cfg: cfg, rng: rng, tokens: cfg.BudgetBurst, filled: time.Now()}}
	for k := range w.gates {
		w.gates[k] = newGate(slowAfter, rand.New(rand.NewPCG(rng.Uint64(), rng.Uint64())))
	}
	w.proof = true
	return w
}

// Weather returns the state of each kind of requests, in a fixed order.
func (w *Weathered) Weather() []weather.Condition {
	out := make([]weather.Condition, kinds)
	for k, g := range w.gates {
		out[k] = weather.Condition{Store: "object", Kind: kindNames[k], Report: g.station.Report()}
	}
	return out
}

// Load is how many requests of a kind may be made at a time, are under way, and wait.
type Load struct {
	Kind                     string
	Limit, InFlight, Waiting int
}

// Loads returns the load of each kind of requests, in a fixed order.
func (w *Weathered) Loads() []Load {
	out := make([]Load, kinds)
	for k, g := range w.gates {
		out[k].Kind = kindNames[k]
		out[k].Limit, out[k].InFlight, out[k].Waiting = g.numbers()
	}
	return out
}

// limits returns how long a call waits at a closed gate, and is tried in all; 0 is no bound.
func limits(p Purpose) (patience, total time.Duration) {
	switch p {
	case Produce:
		return 0, 0
	case Fetch:
		return fetchPatience, fetchTime
	}
	return otherPatience, otherTime
}

// ride is do of a Weathered.
func (r *retry) ride(ctx context.Context, k kind, size int64, try func(context.Context) error) error {
	r.payIn()
	g := r.gates[k]
	patience, total := limits(PurposeOf(ctx))
	start := time.Now()
	rereads := 0
	var last error
	var end time.Time           // of the patience with a closed gate
	for tries := 1; ; tries++ { // since the gate was closed
		left := patience
		if _, closed := g.shut(); closed && patience > 0 {
			if end.IsZero() {
				end = time.Now().Add(patience)
			}
			left = time.Until(end)
		}
		if left < 0 || left == 0 && patience > 0 {
			return last
		}
		p, err := g.enter(ctx, left)
		if err != nil {
			return cmp.Or(last, err)
		}
		err = r.through(ctx, g, p, size, try)
		if err == nil || hopeless(err, &rereads) || ctx.Err() != nil {
			return err
		}
		stuck := errors.Is(err, context.Canceled)
		if last = err; stuck { // callers take that error for their own end
			last = fmt.Errorf("%w: no answer, and another request had one: %v", ErrUnavailable, err)
		}
		if total > 0 && time.Since(start) >= total {
			return last
		}
		if _, closed := g.shut(); closed || stuck {
			tries = 0 // the gate has pauses of its own, and what it ended begins at once
		} else if !r.pauseBefore(ctx, tries, err) {
			return last
		}
	}
}

// through makes one attempt that has passed a gate, and leaves even if it panics.
func (r *retry) through(ctx context.Context, g *gate, p pass, size int64, try func(context.Context) error) (err error) {
	var asked atomic.Int64
	err = context.Canceled // of a panic: it says nothing of the store
	defer func() { g.leave(ctx, p, err, time.Duration(asked.Load())) }()
	return r.attempt(g.begin(context.WithValue(ctx, retryAfterKey{}, &asked), p), size, try)
}

// hopeless reports whether trying again cannot help, even when the weather changes.
func hopeless(err error, rereads *int) bool {
	if state, counts := stateOf(context.Background(), err); counts && state == weather.Fair {
		return true // an answer
	}
	if isCorrupt(err) {
		*rereads++
		return *rereads > maxRereads
	}
	return isInvalid(err)
}

// pauseBefore waits between two attempts, until the budget has a retry; false if the context ended.
func (r *retry) pauseBefore(ctx context.Context, tries int, err error) bool {
	for !r.takeOut() {
		if !wait(ctx, r.delay(tries, err)+r.cfg.Base) {
			return false
		}
	}
	return wait(ctx, r.delay(tries, err))
}

// retryAfterKey is the key of an *atomic.Int64, nanoseconds, in an attempt's context.
type retryAfterKey struct{}

// NoteRetryAfter tells the Weathered that made a request, by its context, for how long the
// store wants to be left alone. Drivers call it before they return.
func NoteRetryAfter(ctx context.Context, d time.Duration) {
	if asked, ok := ctx.Value(retryAfterKey{}).(*atomic.Int64); ok && d > 0 {
		asked.Store(int64(d))
	}
}
