package weather_test

import (
	"errors"
	"testing"
	"time"

	"github.com/floelog/floe/tiering/weather"
)

var errTest = errors.New("the test fails it")

// clock is a clock that stands until it is moved.
type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func station() (*weather.Station, *clock) {
	c := &clock{time.Unix(1_000_000, 0)}
	return weather.NewStation(time.Second, c.now), c
}

func TestBadWeatherTakesSeveralFailuresAndOneSuccessEndsIt(t *testing.T) {
	for _, state := range weather.States() {
		if !state.Bad() {
			continue
		}
		s, c := station()
		began := c.t
		for i := range 10 {
			s.Failed(state, errTest)
			r := s.Report()
			if bad := i >= 3; r.State.Bad() != bad {
				t.Fatalf("%v after %d failures of %v", r.State, i+1, state)
			}
			if r.State.Bad() && (r.State != state || !r.Since.Equal(began) || r.Cause != errTest) {
				t.Fatalf("%+v, want %v since %v", r, state, began)
			}
			c.t = c.t.Add(time.Second)
		}
		s.Succeeded(time.Millisecond)
		if r := s.Report(); r.State != weather.Fair || !r.Since.IsZero() {
			t.Errorf("after a success: %+v", r)
		}
	}
}

func TestThrottlingHoldsForAWhile(t *testing.T) {
	s, c := station()
	began := c.t
	s.Failed(weather.Throttled, errTest)
	s.Succeeded(time.Millisecond)
	if r := s.Report(); r.State != weather.Throttled || !r.Since.Equal(began) {
		t.Fatalf("%+v", r)
	}
	c.t = c.t.Add(5 * time.Second)
	s.Failed(weather.Throttled, errTest)
	c.t = c.t.Add(9 * time.Second)
	if r := s.Report(); r.State != weather.Throttled || !r.Since.Equal(began) {
		t.Fatalf("%+v", r)
	}
	c.t = c.t.Add(2 * time.Second)
	if r := s.Report(); r.State != weather.Fair {
		t.Fatalf("%+v", r)
	}
}

func TestSlowIsAnAverage(t *testing.T) {
	s, c := station()
	for range 40 {
		s.Succeeded(3 * time.Second)
	}
	if r := s.Report(); r.State != weather.Slow || !r.Since.Equal(c.t) {
		t.Fatalf("%+v", r)
	}
	for range 40 {
		s.Succeeded(10 * time.Millisecond)
	}
	if r := s.Report(); r.State != weather.Fair {
		t.Fatalf("%+v", r)
	}
}

func TestWhatNobodyConfirmsIsForgotten(t *testing.T) {
	s, c := station()
	for range 5 {
		s.Failed(weather.Denied, errTest)
	}
	c.t = c.t.Add(time.Minute)
	if r := s.Report(); r.State != weather.Denied {
		t.Fatalf("%+v", r)
	}
	c.t = c.t.Add(time.Second)
	if r := s.Report(); r.State != weather.Fair {
		t.Fatalf("%+v", r)
	}
	s.Failed(weather.Denied, errTest)
	if r := s.Report(); r.State != weather.Fair {
		t.Fatalf("one failure after a long time: %+v", r)
	}
}
