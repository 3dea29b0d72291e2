package objstore

import (
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/floelog/floe/tiering/weather"
)

// A pause that ends between two looks at the clock must not leave those that wait without anybody
// who lets them pass. The clock here moves on with every look.
func TestGateOpensWhenThePauseEndsBetweenTwoLooks(t *testing.T) {
	const step = time.Millisecond
	for pause := step; pause < 8*step; pause += step / 2 {
		g := newGate(time.Second, rand.New(rand.NewPCG(1, 2)))
		start := time.Now()
		g.notBefore = start.Add(pause)
		at := start
		g.now = func() time.Time {
			at = at.Add(step)
			return at
		}
		passed := make(chan error, 1)
		go func() {
			_, err := g.enter(t.Context(), 0)
			passed <- err
		}()
		select {
		case err := <-passed:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("nobody passes after a pause of %v", pause)
		}
	}
}

// A request that panics leaves, as any other.
func TestGateIsLeftByAPanic(t *testing.T) {
	w := Weatherproof(nil, rand.New(rand.NewPCG(1, 2)), RetryConfig{})
	func() {
		defer func() {
			if recover() == nil {
				t.Error("no panic")
			}
		}()
		_, _ = w.GetRange(t.Context(), "key", 0, 1) // of a store that is nil
	}()
	if _, inFlight, _ := w.gates[kindGet].numbers(); inFlight != 0 {
		t.Errorf("%d requests are under way for ever", inFlight)
	}
	if r := w.gates[kindGet].station.Report(); r.State != weather.Fair || errors.Is(r.Cause, ErrUnavailable) {
		t.Errorf("a panic of our own is taken for the store's weather: %v", r)
	}
}
