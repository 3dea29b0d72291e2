// Package weather tells what state a store is in by the outcomes of the requests to it: a
// Station hears of each and reports the weather, with since when, and why. It makes no
// request of its own, so a store that nobody asks has no weather.
//
// Invariants:
//  1. Only downAfter failures in a row, without a success between them, make bad weather; one
//     success ends it. A single failure is what retries are for.
//  2. A state that no request has confirmed for forgetAfter is forgotten.
//
// All methods may be called concurrently.
package weather

import (
	"sync"
	"time"
)

// State is what the requests to a store meet with.
type State uint8

// The states. Those from Unreachable on are bad weather: nothing that is asked for is done.
const (
	Fair        State = iota // requests succeed
	Slow                     // they succeed, and take long
	Throttled                // some are refused because there are too many
	Unreachable              // no answer comes: connections fail
	Hanging                  // no answer comes in time
	Failing                  // the store answers that it failed
	NoQuorum                 // the store has no leader, or too few members
	Denied                   // the store refuses who asks, or the bucket is missing
	Full                     // the store takes no more bytes
	numStates
)

var stateNames = [numStates]string{"fair", "slow", "throttled", "unreachable", "hanging", "failing", "no quorum", "denied", "full"}

func (s State) String() string { return stateNames[s] }

// Bad reports whether nothing that is asked for is done.
func (s State) Bad() bool { return s >= Unreachable }

// States returns all states, in order.
func States() []State {
	out := make([]State, numStates)
	for i := range out {
		out[i] = State(i)
	}
	return out
}

const (
	// downAfter failures in a row make bad weather. Fewer: a store that fails half of what it is
	// asked would be taken for one that is down. More: it takes longer to stop asking.
	downAfter = 4
	// throttledFor is how long a store that throttled is said to throttle. Shorter: the state
	// comes and goes between two requests. Longer: it outlives what it tells of.
	throttledFor = 10 * time.Second
	// forgetAfter is how long a state holds that no request confirms.
	forgetAfter = time.Minute
	// smoothing is the weight of the newest latency in the average.
	smoothing = 0.125
)

// Report is the weather at one moment.
type Report struct {
	State State
	Since time.Time // when it began; zero while it is fair
	Cause error     // the last failure of its kind; nil if the weather is fair or slow
}

// Station observes one kind of requests to one store.
type Station struct {
	slow time.Duration
	now  func() time.Time

	mu        sync.Mutex // guards the following
	failures  int        // in a row
	first     time.Time  // of these
	last      State      // of the newest failure
	cause     error
	heard     time.Time // of the newest outcome
	throttled time.Time // when the store throttled last, and since when it does so
	throttles time.Time
	took      time.Duration // smoothed, of successes
	slowSince time.Time
}

// NewStation returns a Station for requests that are slow when they take longer than slow, on
// average.
func NewStation(slow time.Duration, now func() time.Time) *Station {
	return &Station{slow: slow, now: now}
}

// Succeeded tells of a request that the store has answered as it should, be it with a no.
func (s *Station) Succeeded(took time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heard = s.now()
	s.failures = 0
	s.took += time.Duration(smoothing * float64(took-s.took))
	switch {
	case s.took < s.slow:
		s.slowSince = time.Time{}
	case s.slowSince.IsZero():
		s.slowSince = s.heard
	}
}

// Failed tells of a request that met with a state, and with what error.
func (s *Station) Failed(state State, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if s.failures == 0 || now.Sub(s.heard) > forgetAfter {
		s.failures, s.first = 0, now
	}
	s.heard, s.last, s.cause = now, state, err
	s.failures++
	if state == Throttled {
		if now.Sub(s.throttled) > throttledFor {
			s.throttles = now
		}
		s.throttled = now
	}
}

// Report returns the weather.
func (s *Station) Report() Report {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	switch {
	case s.heard.IsZero() || now.Sub(s.heard) > forgetAfter:
		return Report{}
	case s.failures >= downAfter && s.last != Throttled:
		return Report{s.last, s.first, s.cause}
	case !s.throttled.IsZero() && now.Sub(s.throttled) <= throttledFor:
		return Report{Throttled, s.throttles, s.cause}
	case !s.slowSince.IsZero():
		return Report{State: Slow, Since: s.slowSince}
	}
	return Report{}
}

// Condition is the weather of one kind of requests to one store, as operators are told.
type Condition struct {
	Store string // "object" or "metadata"
	Kind  string // of requests: put, get, write, read, ...
	Report
}
