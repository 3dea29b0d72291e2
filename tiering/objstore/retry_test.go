package objstore_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/tiering/objstore"
	"github.com/floelog/floe/tiering/objstore/faults"
	"github.com/floelog/floe/tiering/objstore/memory"
	"github.com/floelog/floe/tiering/objstore/objstoretest"
)

func rng() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }

func TestRetryConformance(t *testing.T) {
	objstoretest.Run(t, func(*testing.T) objstore.Store {
		return objstore.Retry(memory.New(), rng(), objstore.RetryConfig{})
	})
}

// A script is a memory store whose next requests fail with the given errors, each
// before or (applied) after it was carried out. hang waits for the context instead.
type script struct {
	objstore.Store
	steps []step
	calls int
	times []time.Time
}

type step struct {
	err     error
	applied bool
	hang    bool
}

func (s *script) next(ctx context.Context, do func() error) error {
	s.calls++
	s.times = append(s.times, time.Now())
	if len(s.steps) == 0 {
		return do()
	}
	st := s.steps[0]
	s.steps = s.steps[1:]
	if st.hang {
		<-ctx.Done()
		return ctx.Err()
	}
	if st.applied || st.err == nil {
		if err := do(); err != nil {
			return err
		}
	}
	return st.err
}

func (s *script) Put(ctx context.Context, key string, body objstore.Body) error {
	return s.next(ctx, func() error { return s.Store.Put(ctx, key, body) })
}

func (s *script) GetRange(ctx context.Context, key string, off, n int64) (data []byte, err error) {
	err = s.next(ctx, func() error {
		data, err = s.Store.GetRange(ctx, key, off, n)
		return err
	})
	return data, err
}

func (s *script) GetUpTo(ctx context.Context, key string, off, n int64) (data objstore.Body, size int64, err error) {
	err = s.next(ctx, func() error {
		data, size, err = s.Store.GetUpTo(ctx, key, off, n)
		return err
	})
	return data, size, err
}

func (s *script) Delete(ctx context.Context, keys ...string) error {
	return s.next(ctx, func() error { return s.Store.Delete(ctx, keys...) })
}

var errReset = errors.New("connection reset")

func repeat(n int, st step) []step {
	steps := make([]step, n)
	for i := range steps {
		steps[i] = st
	}
	return steps
}

func TestRetryPut(t *testing.T) {
	body := objstoretest.Body(1, 1000, 100)
	other := objstoretest.Body(2, 1000, 100)
	for name, test := range map[string]struct {
		before objstore.Body // under the key already
		steps  []step
		want   error
		calls  int
	}{
		"works at once":                {calls: 1},
		"failed before":                {steps: []step{{err: errReset}}, calls: 2},
		"reply lost":                   {steps: []step{{err: errReset, applied: true}}, calls: 2},
		"reply lost, then trouble":     {steps: []step{{err: errReset, applied: true}, {err: objstore.ErrThrottled}}, calls: 3},
		"first put finds an object":    {before: body, want: objstore.ErrExists, calls: 1},
		"retry finds its own":          {before: body, steps: []step{{err: errReset}}, calls: 2},
		"retry finds another's":        {before: other, steps: []step{{err: errReset}}, want: objstore.ErrExists, calls: 2},
		"retry finds another length":   {before: other[:5], steps: []step{{err: errReset}}, want: objstore.ErrExists, calls: 2},
		"denied is final":              {steps: []step{{err: objstore.ErrDenied}}, want: objstore.ErrDenied, calls: 1},
		"a hanging attempt is dropped": {steps: []step{{hang: true}}, calls: 2},
		"the last error is returned":   {steps: repeat(20, step{err: errReset}), want: errReset, calls: 10},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				inner := &script{Store: memory.New(), steps: test.steps}
				if test.before != nil {
					if err := inner.Store.Put(t.Context(), "k", test.before); err != nil {
						t.Fatal(err)
					}
				}
				err := objstore.Retry(inner, rng(), objstore.RetryConfig{}).Put(t.Context(), "k", body)
				if !errors.Is(err, test.want) || (test.want == nil && err != nil) {
					t.Errorf("got error %v, want %v", err, test.want)
				}
				if inner.calls != test.calls {
					t.Errorf("%d attempts, want %d", inner.calls, test.calls)
				}
				info, headErr := inner.Store.Head(t.Context(), "k")
				if err == nil && (headErr != nil || info.CRC32C != body.CRC32C()) {
					t.Errorf("put said it worked, the store holds %+v, %v", info, headErr)
				}
			})
		})
	}
}

// noSums hides what a store knows of checksums.
type noSums struct{ objstore.Store }

func (s noSums) Head(ctx context.Context, key string) (objstore.Info, error) {
	info, err := s.Store.Head(ctx, key)
	info.CRC32C, info.HasCRC = 0, false
	return info, err
}

func TestRetryComparesBytesWhereThereIsNoSum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for seed, want := range map[uint64]error{1: nil, 2: objstore.ErrExists} {
			inner := &script{Store: noSums{memory.New()}, steps: []step{{err: errReset}}}
			if err := inner.Store.Put(t.Context(), "k", objstoretest.Body(seed, 500, 50)); err != nil {
				t.Fatal(err)
			}
			err := objstore.Retry(inner, rng(), objstore.RetryConfig{}).Put(t.Context(), "k", objstoretest.Body(1, 500, 70))
			if !errors.Is(err, want) || want == nil && err != nil {
				t.Errorf("object of seed %d: %v, want %v", seed, err, want)
			}
		}
	})
}

func TestRetryReads(t *testing.T) {
	for name, test := range map[string]struct {
		steps []step
		want  error
		calls int
	}{
		"trouble passes":          {steps: repeat(3, step{err: errReset}), calls: 4},
		"not found is final":      {steps: []step{{err: objstore.ErrNotFound}}, want: objstore.ErrNotFound, calls: 1},
		"damage is read again":    {steps: repeat(2, step{err: objstore.ErrCorrupt}), calls: 3},
		"lasting damage is told":  {steps: repeat(9, step{err: objstore.ErrCorrupt}), want: objstore.ErrCorrupt, calls: 3},
		"a bad request is final":  {steps: []step{{err: objstore.ErrInvalid}}, want: objstore.ErrInvalid, calls: 1},
		"a stalled read is timed": {steps: repeat(2, step{hang: true}), calls: 3},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				inner := &script{Store: memory.New(), steps: test.steps}
				if err := inner.Store.Put(t.Context(), "k", objstoretest.Body(1, 100, 100)); err != nil {
					t.Fatal(err)
				}
				data, err := objstore.Retry(inner, rng(), objstore.RetryConfig{}).GetRange(t.Context(), "k", 0, 100)
				if !errors.Is(err, test.want) || test.want == nil && (err != nil || len(data) != 100) {
					t.Errorf("got %d bytes, %v; want error %v", len(data), err, test.want)
				}
				if inner.calls != test.calls {
					t.Errorf("%d attempts, want %d", inner.calls, test.calls)
				}
				inner.calls, inner.steps = 0, test.steps
				body, size, err := objstore.Retry(inner, rng(), objstore.RetryConfig{}).GetUpTo(t.Context(), "k", 1, 1000)
				if !errors.Is(err, test.want) || test.want == nil && (err != nil || body.Size() != 99 || size != 100) {
					t.Errorf("up to the end: got %d bytes of %d, %v; want error %v", body.Size(), size, err, test.want)
				}
				if inner.calls != test.calls {
					t.Errorf("up to the end: %d attempts, want %d", inner.calls, test.calls)
				}
			})
		})
	}
}

func TestRetryStopsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := &script{Store: memory.New(), steps: repeat(100, step{err: errReset})}
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		start := time.Now()
		err := objstore.Retry(inner, rng(), objstore.RetryConfig{}).Delete(ctx, "k")
		if !errors.Is(err, errReset) {
			t.Errorf("got %v, want the last error", err)
		}
		if took := time.Since(start); took > 300*time.Millisecond {
			t.Errorf("returned %v after the start", took)
		}
	})
}

// outage is a store that refuses every Delete.
type outage struct {
	objstore.Store
	requests atomic.Int64
}

func (o *outage) Delete(context.Context, ...string) error {
	o.requests.Add(1)
	return objstore.ErrThrottled
}

// A store that fails everything must not see twice the requests of a busy agent, and
// of a quiet one no more than a retry a second.
func TestRetryBudget(t *testing.T) {
	for _, test := range []struct {
		calls int
		every time.Duration
		most  float64 // requests per call
	}{{2000, 10 * time.Millisecond, 1.3}, {20, time.Minute, 10}} {
		synctest.Test(t, func(t *testing.T) {
			inner := &outage{Store: memory.New()}
			s := objstore.Retry(inner, rng(), objstore.RetryConfig{})
			start := time.Now()
			var wg sync.WaitGroup
			for range test.calls {
				wg.Go(func() {
					if err := s.Delete(t.Context(), "k"); !errors.Is(err, objstore.ErrThrottled) {
						t.Error(err)
					}
				})
				time.Sleep(test.every) // virtual
			}
			wg.Wait()
			calls, requests := float64(test.calls), float64(inner.requests.Load())
			if bound := calls + 50 + 0.2*calls + time.Since(start).Seconds(); requests > bound {
				t.Errorf("%v requests for %v calls, the budget allows %v", requests, calls, bound)
			}
			if requests > test.most*calls {
				t.Errorf("%v requests for %v calls, want at most %v times as many", requests, calls, test.most)
			}
			if requests < 1.15*calls {
				t.Errorf("%v requests for %v calls: the budget is not used", requests, calls)
			}
		})
	}
}

func TestRetryBacksOffMoreWhenThrottled(t *testing.T) {
	waits := func(t *testing.T, err error) (total time.Duration) {
		synctest.Test(t, func(t *testing.T) {
			for seed := range uint64(20) {
				inner := &script{Store: memory.New(), steps: repeat(4, step{err: err})}
				s := objstore.Retry(inner, rand.New(rand.NewPCG(seed, 0)), objstore.RetryConfig{})
				if err := s.Delete(t.Context(), "k"); err != nil {
					t.Fatal(err)
				}
				for i := range 4 {
					wait := inner.times[i+1].Sub(inner.times[i])
					bound := 50 * time.Millisecond << i
					if errors.Is(err, objstore.ErrThrottled) {
						bound = 500 * time.Millisecond << i
					}
					if wait < 0 || wait > bound {
						t.Errorf("wait %d is %v, want at most %v", i, wait, bound)
					}
					total += wait
				}
			}
		})
		return total
	}
	plain, throttled := waits(t, errReset), waits(t, objstore.ErrThrottled)
	if throttled < 5*plain {
		t.Errorf("waited %v in all when throttled, %v otherwise", throttled, plain)
	}
}

// Every kind of trouble at once: what Put says it stored is there, byte for byte.
func TestRetryOverFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		truth := memory.New()
		rates := faults.Rates{
			Slow: 0.3, SlowMin: time.Millisecond, SlowMax: 2 * time.Second,
			Throttled: 0.05, Failed: 0.05, LostReply: 0.1,
			Late: 0.1, LateGiveUp: time.Second, LateMin: 10 * time.Millisecond, LateMax: time.Minute,
			Truncated: 0.1,
		}
		faulty := faults.New(truth, rng(), faults.Plan{Put: rates, Get: rates, Head: rates, List: rates, Delete: rates})
		s := objstore.Retry(faulty, rng(), objstore.RetryConfig{BudgetRatio: 1})
		for i := range 300 {
			key, body := fmt.Sprintf("k/%d", i), objstoretest.Body(uint64(i), 2000, 123)
			if err := s.Put(t.Context(), key, body); err != nil {
				t.Fatalf("put %d: %v", i, err)
			}
			data, err := s.GetRange(t.Context(), key, 0, 2000)
			if err != nil || string(data) != string(body.Bytes()) {
				t.Fatalf("get %d: %v", i, err)
			}
		}
		faulty.Close()
		fired := faulty.Fired()
		for _, f := range []faults.Fault{faults.Slow, faults.Throttled, faults.Failed, faults.LostReply, faults.Late, faults.LateRefused, faults.Truncated} {
			if fired[f] == 0 {
				t.Errorf("%s never fired: %v", f, fired)
			}
		}
	})
}
