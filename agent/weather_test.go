package agent

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/floelog/floe/metadata/health"
	"github.com/floelog/floe/metadata/memory"
	"github.com/floelog/floe/protocol"
	"github.com/floelog/floe/tiering/objstore"
	"github.com/floelog/floe/tiering/weather"
)

// weatherOf is an object store's weather that the test makes.
type weatherOf struct{ put weather.State }

func (w *weatherOf) Weather() []weather.Condition {
	return []weather.Condition{{Store: "object", Kind: "put", Report: weather.Report{State: w.put, Since: time.Now(), Cause: errors.New("as the test wants it")}}}
}

func (w *weatherOf) Loads() []objstore.Load { return []objstore.Load{{Kind: "put", Limit: 7}} }

func newSky(t *testing.T) (*sky, *weatherOf, *protocol.Budget) {
	t.Helper()
	srv := memory.New()
	t.Cleanup(srv.Close)
	w, b := &weatherOf{}, protocol.NewBudget(1000)
	return &sky{objects: w, meta: health.Observe(srv.Client("test"), time.Now), budget: b, unserved: func() bool { return false }}, w, b
}

// fill takes memory for produce requests until n bytes are in use.
func fill(t *testing.T, s *sky, b *protocol.Budget, n int64) {
	t.Helper()
	c, err := b.Acquire(t.Context(), n-b.InUse())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Release)
	s.glanced.Store(nil)
}

func TestProducersAreHeldBackByMemoryAndWeather(t *testing.T) {
	for _, tc := range []struct {
		state          weather.State
		used           int64
		throttled, all bool // told to wait; for as long as may be
		shed           bool
	}{
		{weather.Fair, 100, false, false, false},
		{weather.Fair, 700, false, false, false},
		{weather.Fair, 900, true, false, false},
		{weather.Fair, 1000, true, true, false},
		{weather.Throttled, 100, false, false, false},
		{weather.Throttled, 400, true, false, false},
		{weather.Throttled, 800, true, false, false},
		{weather.Unreachable, 100, false, false, false},
		{weather.Unreachable, 400, true, false, false},
		{weather.Denied, 500, true, false, true},
		{weather.Full, 1000, true, true, true},
	} {
		s, w, b := newSky(t)
		w.put = tc.state
		fill(t, s, b, tc.used)
		d := s.Throttle()
		if d > 0 != tc.throttled || d == maxProduceThrottle != tc.all || d > protocol.MaxThrottle || s.Shed() != tc.shed || s.StoreDown() != tc.state.Bad() {
			t.Errorf("%v with %d of %d bytes in use: throttled for %v, shedding %v, down %v", tc.state, tc.used, b.Size(), d, s.Shed(), s.StoreDown())
		}
	}
}

func TestSheddingGoesOnUntilThereIsRoom(t *testing.T) {
	s, w, b := newSky(t)
	w.put = weather.Unreachable
	c, err := b.Acquire(t.Context(), 600)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		used int64
		shed bool
	}{{600, true}, {400, true}, {300, false}} {
		c.Shrink(step.used)
		if s.Shed() != step.shed {
			t.Errorf("with %d bytes in use: shedding %v", step.used, !step.shed)
		}
	}
	fill(t, s, b, 550)
	if !s.Shed() {
		t.Error("nothing is shed")
	}
	w.put = weather.Fair
	s.glanced.Store(nil)
	if s.Shed() {
		t.Error("something is shed in fair weather")
	}
}

func TestNobodyIsServedBetweenTwoSessions(t *testing.T) {
	s, _, _ := newSky(t)
	s.unserved = func() bool { return true }
	if s.Throttle() != sessionThrottle {
		t.Errorf("throttled for %v", s.Throttle())
	}
}

// Every state of every store has a remedy, in one line.
func TestConditionsAreDescribed(t *testing.T) {
	for store := range remedies {
		for _, state := range weather.States() {
			if state == weather.Fair || store == "object" && state == weather.NoQuorum {
				continue
			}
			c := weather.Condition{Store: store, Kind: "put", Report: weather.Report{State: state, Since: time.Unix(100, 0), Cause: errors.New(strings.Repeat("long ", 100))}}
			line := describe(c, time.Unix(112, 0))
			if !strings.Contains(line, store+" store: puts "+remedies[store][state]) || remedies[store][state] == "" || !strings.Contains(line, "12s") || strings.Contains(line, "\n") || len(line) > 450 {
				t.Errorf("%v: %q", state, line)
			}
		}
	}
}

func TestWeatherIsAMetric(t *testing.T) {
	s, w, _ := newSky(t)
	w.put = weather.Denied
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(s)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			found[name] = m.GetGauge().GetValue()
		}
	}
	if found["floe_store_state put denied object"] != 1 || found["floe_store_state put fair object"] != 0 || found["floe_store_state write fair metadata"] != 1 || found["floe_objstore_limit put"] != 7 {
		t.Errorf("%v", found)
	}
}
