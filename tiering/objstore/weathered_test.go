package objstore_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/tiering/objstore"
	"github.com/floelog/floe/tiering/objstore/memory"
	"github.com/floelog/floe/tiering/objstore/objstoretest"
	"github.com/floelog/floe/tiering/weather"
)

func TestWeatherproofConformance(t *testing.T) {
	objstoretest.Run(t, func(*testing.T) objstore.Store {
		return objstore.Weatherproof(memory.New(), rng(), objstore.RetryConfig{})
	})
}

// sky is a store whose requests take a while and meet with whatever rule says; a rule that
// waits for the context makes them hang.
type sky struct {
	objstore.Store
	rule     func(ctx context.Context) error
	takes    time.Duration
	requests atomic.Int64
	inFlight atomic.Int64
	most     atomic.Int64
}

func (s *sky) pass(ctx context.Context) error {
	s.requests.Add(1)
	n := s.inFlight.Add(1)
	defer s.inFlight.Add(-1)
	for old := s.most.Load(); n > old && !s.most.CompareAndSwap(old, n); old = s.most.Load() {
	}
	if s.takes > 0 {
		select {
		case <-time.After(s.takes):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return s.rule(ctx)
}

func (s *sky) Put(ctx context.Context, key string, body objstore.Body) error {
	if err := s.pass(ctx); err != nil {
		return err
	}
	return s.Store.Put(ctx, key, body)
}

func (s *sky) GetRange(ctx context.Context, key string, off, n int64) ([]byte, error) {
	if err := s.pass(ctx); err != nil {
		return nil, err
	}
	return s.Store.GetRange(ctx, key, off, n)
}

func fair(context.Context) error { return nil }

func produce(ctx context.Context) context.Context {
	return objstore.WithPurpose(ctx, objstore.Produce)
}

func conditionOf(w *objstore.Weathered, kind string) weather.Report {
	for _, c := range w.Weather() {
		if c.Kind == kind {
			return c.Report
		}
	}
	panic("no kind " + kind)
}

// However a store fails, flushes are tried at most about once a second, and all go on within
// two seconds of the end.
func TestOutage(t *testing.T) {
	refused := &netError{syscall.ECONNREFUSED}
	for name, tc := range map[string]struct {
		rule  func(ctx context.Context) error
		state weather.State
	}{
		"unreachable": {func(context.Context) error { return refused }, weather.Unreachable},
		"500":         {func(context.Context) error { return errors.New("InternalError") }, weather.Failing},
		"throttled":   {func(context.Context) error { return objstore.ErrThrottled }, weather.Throttled},
		"read-only":   {func(context.Context) error { return objstore.ErrDenied }, weather.Denied},
		"full":        {func(context.Context) error { return objstore.ErrFull }, weather.Full},
		"hangs":       {func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, weather.Hanging},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const outage, flushes = 5 * time.Minute, 40
				s := &sky{Store: memory.New(), rule: tc.rule, takes: 10 * time.Millisecond}
				var over atomic.Bool
				rule := s.rule
				s.rule = func(ctx context.Context) error {
					if over.Load() {
						return nil
					}
					return rule(ctx)
				}
				w := objstore.Weatherproof(s, rng(), objstore.RetryConfig{})
				var work sync.WaitGroup
				for i := range flushes {
					work.Go(func() {
						if err := w.Put(produce(t.Context()), fmt.Sprintf("k%d", i), objstore.Body{[]byte("x")}); err != nil {
							t.Error(err)
						}
					})
				}
				time.Sleep(outage)
				if r := conditionOf(w, "put"); r.State != tc.state || time.Since(r.Since) < outage-time.Minute {
					t.Errorf("the weather is %v since %v", r.State, r.Since)
				}
				if r := conditionOf(w, "get"); r.State != weather.Fair {
					t.Errorf("nobody asked for an object, and the weather is %v", r.State)
				}
				if n := s.requests.Load(); n > int64(outage/time.Second)*5/2+2*flushes {
					t.Errorf("%d requests in %v", n, outage)
				}
				over.Store(true)
				ended := time.Now()
				work.Wait()
				if took := time.Since(ended); took > 2*time.Second {
					t.Errorf("the end of the outage was noticed after %v", took)
				}
				if r := conditionOf(w, "put"); r.State.Bad() {
					t.Errorf("after the end: %v", r.State)
				}
			})
		})
	}
}

// netError is what the net package returns for a connection that is refused.
type netError struct{ error }

func (*netError) Timeout() bool   { return false }
func (*netError) Temporary() bool { return true }
func (e *netError) Unwrap() error { return e.error }

// A consumer's read does not wait for the end of an outage.
func TestFetchesGiveUpSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sky{Store: memory.New(), rule: func(context.Context) error { return objstore.ErrDenied }}
		w := objstore.Weatherproof(s, rng(), objstore.RetryConfig{})
		ctx := objstore.WithPurpose(t.Context(), objstore.Fetch)
		for i := range 20 {
			start := time.Now()
			_, err := w.GetRange(ctx, "k", 0, 1)
			if !errors.Is(err, objstore.ErrDenied) {
				t.Fatal(err)
			}
			if took := time.Since(start); i > 8 && took > 1500*time.Millisecond {
				t.Errorf("read %d took %v", i, took)
			}
		}
		ctx, cancel := context.WithTimeout(ctx, time.Millisecond)
		defer cancel()
		if _, err := w.GetRange(ctx, "k", 0, 1); err == nil {
			t.Error("read although its context ended")
		}
	})
}

// A store that throttles half of what it is asked is asked twice as often at most, and all is
// stored.
func TestPartialThrottlingIsNoStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(3, 4))
		var mu sync.Mutex
		s := &sky{Store: memory.New(), takes: 20 * time.Millisecond, rule: func(context.Context) error {
			mu.Lock()
			defer mu.Unlock()
			if r.IntN(2) == 0 {
				return objstore.ErrThrottled
			}
			return nil
		}}
		w := objstore.Weatherproof(s, rng(), objstore.RetryConfig{})
		const callers, each = 20, 50
		var work sync.WaitGroup
		for c := range callers {
			work.Go(func() {
				for i := range each {
					if err := w.Put(produce(t.Context()), fmt.Sprintf("k%d-%d", c, i), objstore.Body{[]byte("x")}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		work.Wait()
		if n := s.requests.Load(); n > 2*callers*each*11/10 {
			t.Errorf("%d requests for %d calls", n, callers*each)
		}
		if r := conditionOf(w, "put"); r.State != weather.Throttled {
			t.Errorf("the weather is %v", r.State)
		}
	})
}

// A store that takes eight requests at a time is soon asked about as many.
func TestTheLimitFollowsTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const room = 8
		s := &sky{Store: memory.New(), takes: 50 * time.Millisecond}
		var refused atomic.Int64
		s.rule = func(context.Context) error {
			if s.inFlight.Load() > room {
				refused.Add(1)
				return objstore.ErrThrottled
			}
			return nil
		}
		w := objstore.Weatherproof(s, rng(), objstore.RetryConfig{})
		var work sync.WaitGroup
		var made atomic.Int64
		run := func(calls int64) {
			for range 64 {
				work.Go(func() {
					for {
						n := made.Add(1)
						if n > calls {
							return
						}
						if err := w.Put(produce(t.Context()), fmt.Sprintf("k%d-%d", calls, n), objstore.Body{[]byte("x")}); err != nil {
							t.Error(err)
						}
					}
				})
			}
			work.Wait()
		}
		run(1000) // it learns
		refused.Store(0)
		start, before := time.Now(), s.requests.Load()
		run(5000)
		if n, all := refused.Load(), s.requests.Load()-before; n*5 > all {
			t.Errorf("%d of %d requests were throttled", n, all)
		}
		if took, ideal := time.Since(start), 4000/room*50*time.Millisecond; took > 3*ideal {
			t.Errorf("4000 calls took %v, the store could have done them in %v", took, ideal)
		}
		s.rule = fair
		s.most.Store(0)
		run(20_000)
		if s.most.Load() < 32 {
			t.Errorf("at most %d requests at a time at a store that takes any number", s.most.Load())
		}
	})
}

func TestRetryAfterIsHeeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := true
		s := &sky{Store: memory.New()}
		s.rule = func(ctx context.Context) error {
			if !first {
				return nil
			}
			first = false
			objstore.NoteRetryAfter(ctx, 3*time.Second)
			return objstore.ErrThrottled
		}
		w := objstore.Weatherproof(s, rng(), objstore.RetryConfig{})
		start := time.Now()
		if err := w.Put(produce(t.Context()), "k", objstore.Body{[]byte("x")}); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took < 3*time.Second || took > 4*time.Second {
			t.Errorf("asked again after %v, the store wanted 3s", took)
		}
		objstore.NoteRetryAfter(t.Context(), time.Second) // nobody waits: nothing happens
	})
}

// What callers end themselves says nothing of the store.
func TestEndedCallsAreNoBadWeather(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sky{Store: memory.New(), rule: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}
		w := objstore.Weatherproof(s, rng(), objstore.RetryConfig{})
		for range 20 {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
			if _, err := w.GetRange(ctx, "k", 0, 1); !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
			cancel()
		}
		if r := conditionOf(w, "get"); r.State != weather.Fair {
			t.Errorf("the weather is %v", r.State)
		}
		for _, l := range w.Loads() {
			if l.InFlight != 0 || l.Waiting != 0 || l.Limit < 32 {
				t.Errorf("%+v", l)
			}
		}
	})
}

// Waiting at the limit of a busy store is no reason to give up.
func TestAJobWaitsForABusyStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sky{Store: memory.New(), rule: fair, takes: 30 * time.Second}
		w := objstore.Weatherproof(s, rng(), objstore.RetryConfig{Timeout: time.Hour})
		var work sync.WaitGroup
		for i := range 300 {
			work.Go(func() {
				if err := w.Put(t.Context(), fmt.Sprintf("k%d", i), objstore.Body{[]byte("x")}); err != nil {
					t.Error(err)
				}
			})
		}
		work.Wait()
		if r := conditionOf(w, "put"); r.State != weather.Slow {
			t.Errorf("the weather is %v", r.State)
		}
	})
}

func fetching(ctx context.Context) context.Context {
	return objstore.WithPurpose(ctx, objstore.Fetch)
}

// A read that waited for others while the store was only busy gives up, too, once it is down.
func TestReadsBehindManyGiveUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sky{Store: memory.New(), rule: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}
		w := objstore.Weatherproof(s, rng(), objstore.RetryConfig{})
		start := time.Now()
		var reads sync.WaitGroup
		for range 1000 { // far more than may be under way
			reads.Go(func() {
				if _, err := w.GetRange(fetching(t.Context()), "k", 0, 1); err == nil {
					t.Error("a read of a store that hangs succeeded")
				}
			})
		}
		reads.Wait()
		if took := time.Since(start); took > 30*time.Second {
			t.Errorf("consumers were without an answer for %v", took)
		}
	})
}

// What the gate gave up because it was stuck is not the caller's end.
func TestStuckReadIsNotCanceled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type hangs struct{}
		var over atomic.Bool
		s := &sky{Store: memory.New(), rule: func(ctx context.Context) error {
			switch {
			case ctx.Value(hangs{}) != nil:
				<-ctx.Done()
				return ctx.Err()
			case over.Load():
				return objstore.ErrNotFound // an answer
			}
			return errors.New("InternalError")
		}}
		w := objstore.Weatherproof(s, rng(), objstore.RetryConfig{})
		stuck := make(chan error, 1)
		go func() {
			_, err := w.GetRange(fetching(context.WithValue(t.Context(), hangs{}, true)), "k", 0, 1)
			stuck <- err
		}()
		for range 10 { // closes the gate
			go func() { _, _ = w.GetRange(fetching(t.Context()), "k", 0, 1) }()
		}
		time.Sleep(9 * time.Second) // longer than a fetch is tried
		over.Store(true)
		if _, err := w.GetRange(fetching(t.Context()), "k", 0, 1); !errors.Is(err, objstore.ErrNotFound) {
			t.Errorf("the store that is back: %v", err)
		}
		if err := <-stuck; err == nil || errors.Is(err, context.Canceled) {
			t.Errorf("a read that was stuck: %v", err)
		}
	})
}
