package objstore_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/floelog/floe/tiering/objstore"
	"github.com/floelog/floe/tiering/objstore/memory"
	"github.com/floelog/floe/tiering/objstore/objstoretest"
)

func TestHedgedConformance(t *testing.T) {
	objstoretest.Run(t, func(t *testing.T) objstore.Store {
		s, err := objstore.Hedged(memory.New(), objstore.HedgeConfig{}, prometheus.NewRegistry())
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}

// A slow store answers each GET after a time of its own, in virtual time, and knows which were
// cancelled before.
type slow struct {
	objstore.Store
	answer func(get int) (time.Duration, error)

	mu        sync.Mutex
	gets      int
	cancelled int
}

func (s *slow) GetRange(ctx context.Context, _ string, _, n int64) ([]byte, error) {
	s.mu.Lock()
	get := s.gets
	s.gets++
	s.mu.Unlock()
	d, err := s.answer(get)
	select {
	case <-time.After(d):
	case <-ctx.Done():
		s.mu.Lock()
		s.cancelled++
		s.mu.Unlock()
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	return make([]byte, n), nil
}

func (s *slow) GetUpTo(ctx context.Context, key string, off, n int64) (objstore.Body, int64, error) {
	b, err := s.GetRange(ctx, key, off, n/2)
	return objstore.Body{b}, off + n/2, err
}

func (s *slow) seen() (gets, cancelled int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	gets, cancelled, s.gets, s.cancelled = s.gets, s.cancelled, 0, 0
	return gets, cancelled
}

// hedge returns a hedged store that has learned to ask again after 30 ms, and has saved up for
// three such GETs.
func hedge(t *testing.T, cfg objstore.HedgeConfig) (*slow, objstore.Store, *prometheus.Registry) {
	t.Helper()
	s, reg := &slow{Store: memory.New()}, prometheus.NewRegistry()
	s.answer = func(get int) (time.Duration, error) {
		if get < 32 {
			return 30 * time.Millisecond, nil
		}
		return 20 * time.Millisecond, nil
	}
	h, err := objstore.Hedged(s, cfg, reg)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 60 {
		if _, err := h.GetRange(t.Context(), "k", 0, 1<<20); err != nil {
			t.Fatalf("GET %d: %v", i, err)
		}
	}
	synctest.Wait()
	s.seen()
	return s, h, reg
}

func timed(t *testing.T, s objstore.Store, n int64) (time.Duration, error) {
	t.Helper()
	start := time.Now()
	data, err := s.GetRange(t.Context(), "k", 0, n)
	if err == nil && int64(len(data)) != n {
		t.Errorf("got %d bytes, want %d", len(data), n)
	}
	d := time.Since(start)
	synctest.Wait() // for the loser
	return d, err
}

func TestASlowGetUpToIsAskedASecondTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h, _ := hedge(t, objstore.HedgeConfig{})
		s.answer = func(get int) (time.Duration, error) {
			return []time.Duration{time.Minute, 22 * time.Millisecond}[get], nil
		}
		start := time.Now()
		data, size, err := h.GetUpTo(t.Context(), "k", 7, 1<<20)
		if err != nil || data.Size() != 1<<19 || size != 7+(1<<19) {
			t.Errorf("got %d bytes of %d, %v", data.Size(), size, err)
		}
		took := time.Since(start)
		synctest.Wait() // for the loser
		if gets, cancelled := s.seen(); took != 52*time.Millisecond || gets != 2 || cancelled != 1 {
			t.Errorf("%d GETs, %d cancelled, %v", gets, cancelled, took)
		}
	})
}

func TestASlowGetIsAskedASecondTime(t *testing.T) {
	errBad := errors.New("connection reset")
	const ms = time.Millisecond
	for _, tc := range []struct {
		name            string
		first, second   time.Duration
		firstE, secondE error
		took            time.Duration
		err             error
		gets, cancelled int
	}{
		{name: "the first is quick", first: 25 * ms, took: 25 * ms, gets: 1},
		{name: "the first is quick to fail", first: 25 * ms, firstE: errBad, took: 25 * ms, err: errBad, gets: 1},
		{name: "the second wins", first: time.Minute, second: 22 * ms, took: 52 * ms, gets: 2, cancelled: 1},
		{name: "the first wins late", first: 40 * ms, second: time.Minute, took: 40 * ms, gets: 2, cancelled: 1},
		{name: "the second fails", first: 90 * ms, second: 5 * ms, secondE: errBad, took: 90 * ms, gets: 2},
		{name: "the first fails late", first: 35 * ms, firstE: errBad, second: 50 * ms, took: 80 * ms, gets: 2},
		{name: "both fail", first: 50 * ms, firstE: objstore.ErrNotFound, second: 5 * ms, secondE: errBad, took: 50 * ms, err: objstore.ErrNotFound, gets: 2},
		{name: "both fail, the first sooner", first: 50 * ms, firstE: objstore.ErrNotFound, second: 40 * ms, secondE: errBad, took: 70 * ms, err: objstore.ErrNotFound, gets: 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, h, _ := hedge(t, objstore.HedgeConfig{})
				s.answer = func(get int) (time.Duration, error) {
					if get == 0 {
						return tc.first, tc.firstE
					}
					return tc.second, tc.secondE
				}
				took, err := timed(t, h, 1<<20)
				if took != tc.took || !errors.Is(err, tc.err) {
					t.Errorf("took %v: %v, want %v: %v", took, err, tc.took, tc.err)
				}
				if gets, cancelled := s.seen(); gets != tc.gets || cancelled != tc.cancelled {
					t.Errorf("%d GETs, %d cancelled, want %d and %d", gets, cancelled, tc.gets, tc.cancelled)
				}
			})
		})
	}
}

func TestSecondGetsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h, reg := hedge(t, objstore.HedgeConfig{})
		for _, first := range []time.Duration{time.Second, time.Second, 45 * time.Millisecond} {
			s.seen()
			s.answer = func(get int) (time.Duration, error) {
				if get == 0 {
					return first, nil
				}
				return 20 * time.Millisecond, nil
			}
			if _, err := timed(t, h, 1<<20); err != nil {
				t.Fatal(err)
			}
		}
		if sent, won := value(t, reg, "floe_objstore_hedges_total"), value(t, reg, "floe_objstore_hedges_won_total"); sent != 3 || won != 2 {
			t.Errorf("%v sent, %v won, want 3 and 2", sent, won)
		}
	})
}

func value(t *testing.T, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

// However slow the store becomes, the second GETs stay within their budget.
func TestSecondGetsHaveABudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h, _ := hedge(t, objstore.HedgeConfig{MaxDelay: 100 * time.Millisecond})
		s.answer = func(int) (time.Duration, error) { return time.Second, nil }
		const calls = 1000
		for range calls {
			if _, err := timed(t, h, 1<<20); err != nil {
				t.Fatal(err)
			}
		}
		// 5 % of the calls and the burst that had been saved up before.
		if gets, _ := s.seen(); gets <= calls || gets > calls+calls/20+8 {
			t.Errorf("%d GETs for %d calls", gets, calls)
		}
	})
}

func TestNoSecondGetWhileTheStoreThrottles(t *testing.T) {
	for _, tc := range []struct {
		name     string
		throttle func(s *slow, h objstore.Store) error
	}{
		{"a GET was throttled", func(s *slow, h objstore.Store) error {
			s.answer = func(int) (time.Duration, error) {
				return time.Millisecond, fmt.Errorf("slow down: %w", objstore.ErrThrottled)
			}
			_, err := h.GetRange(context.Background(), "k", 0, 1<<20)
			return err
		}},
		{"a PUT was throttled", func(s *slow, h objstore.Store) error {
			s.Store = &script{Store: s.Store, steps: []step{{err: objstore.ErrThrottled}}}
			return h.Put(context.Background(), "p", objstoretest.Body(1, 10, 10))
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, h, _ := hedge(t, objstore.HedgeConfig{})
				if err := tc.throttle(s, h); !errors.Is(err, objstore.ErrThrottled) {
					t.Fatalf("error %v", err)
				}
				s.answer = func(int) (time.Duration, error) { return 500 * time.Millisecond, nil }
				s.seen()
				if _, err := timed(t, h, 1<<20); err != nil {
					t.Fatal(err)
				}
				if gets, _ := s.seen(); gets != 1 {
					t.Errorf("%d GETs right after the store throttled", gets)
				}
				time.Sleep(10 * time.Second)
				if _, err := timed(t, h, 1<<20); err != nil {
					t.Fatal(err)
				}
				if gets, _ := s.seen(); gets != 2 {
					t.Errorf("%d GETs long after", gets)
				}
			})
		})
	}
}

// What GETs of one size take says nothing of those of another.
func TestLatenciesAreLearnedBySize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h, _ := hedge(t, objstore.HedgeConfig{})
		s.answer = func(int) (time.Duration, error) { return 300 * time.Millisecond, nil }
		for range 31 {
			if _, err := timed(t, h, 32<<20); err != nil {
				t.Fatal(err)
			}
		}
		if gets, _ := s.seen(); gets != 31 {
			t.Errorf("%d GETs for 31 calls of a size that nothing is known of", gets)
		}
	})
}

// A store that has become slower as a whole is not asked twice for ever.
func TestTheDelayFollowsTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h, _ := hedge(t, objstore.HedgeConfig{})
		s.answer = func(int) (time.Duration, error) { return 200 * time.Millisecond, nil }
		for range 200 {
			if _, err := timed(t, h, 1<<20); err != nil {
				t.Fatal(err)
			}
		}
		s.seen()
		s.answer = func(int) (time.Duration, error) { return 190 * time.Millisecond, nil }
		for range 50 {
			if _, err := timed(t, h, 1<<20); err != nil {
				t.Fatal(err)
			}
		}
		if gets, _ := s.seen(); gets != 50 {
			t.Errorf("%d GETs for 50 calls", gets)
		}
	})
}

func TestACallThatIsBrokenOffEndsBothGets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h, _ := hedge(t, objstore.HedgeConfig{})
		s.answer = func(int) (time.Duration, error) { return time.Hour, nil }
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := h.GetRange(ctx, "k", 0, 1<<20); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
		synctest.Wait()
		if gets, cancelled := s.seen(); gets != 2 || cancelled != 2 {
			t.Errorf("%d GETs, %d cancelled, want 2 and 2", gets, cancelled)
		}
	})
}
