package objstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// RetryConfig says how Retry tries again. A zero field means the default.
type RetryConfig struct {
	// Attempts per call, the first included. Default 10: with the default delays some
	// 8 s of trouble are ridden out. More would keep a producer waiting beyond its own
	// patience, fewer would hand it errors over a blip.
	Attempts int

	// Base and Cap bound the delay before attempt k+1, which is drawn evenly from
	// 0 to min(Cap, Base<<k). Defaults 50 ms and 5 s. After ErrThrottled ThrottledBase
	// (default 500 ms) takes the place of Base: the store asked for fewer requests.
	Base, Cap, ThrottledBase time.Duration

	// An attempt is given up after Timeout plus a second for every BytesPerSecond that
	// it carries. Defaults 10 s and 1 MiB/s: slower stores exist, but then the
	// connection has stalled far more often than that it is slow.
	Timeout        time.Duration
	BytesPerSecond int64

	// The budget of retries, over all calls: every call pays in BudgetRatio (default
	// 0.2), every second BudgetPerSecond (default 1, for quiet agents), up to
	// BudgetBurst (default 50); a retry takes 1. So a store that fails every request of
	// a busy agent sees 1.2 times the requests, not Attempts times, and of a quiet one
	// at most a retry a second.
	BudgetRatio, BudgetPerSecond, BudgetBurst float64
}

func (c RetryConfig) withDefaults() RetryConfig {
	setDefault(&c.Attempts, 10)
	setDefault(&c.Base, 50*time.Millisecond)
	setDefault(&c.Cap, 5*time.Second)
	setDefault(&c.ThrottledBase, 500*time.Millisecond)
	setDefault(&c.Timeout, 10*time.Second)
	setDefault(&c.BytesPerSecond, 1<<20)
	setDefault(&c.BudgetRatio, 0.2)
	setDefault(&c.BudgetPerSecond, 1)
	setDefault(&c.BudgetBurst, 50)
	return c
}

func setDefault[T int | int64 | float64 | time.Duration](field *T, value T) {
	if *field == 0 {
		*field = value
	}
}

// maxRereads is how often a damaged answer is read again. Not more: an object that is
// damaged in the store stays so, and whoever asked has to hear of it.
const maxRereads = 2

// maxCarry bounds the time that an attempt gets for its bytes. Not less: the largest object at
// the slowest pace. Not more: GetUpTo may be asked for far more than there is.
const maxCarry = time.Hour

// Retry returns a store that repeats what failed and may work the next time, with
// exponential backoff, full jitter drawn from rng, a timeout per attempt and a budget
// that keeps an outage from turning into a storm. ErrExists, ErrNotFound, ErrDenied, ErrFull
// and ErrInvalid are final. The last error is returned as it came, wrapped.
//
// A Put whose outcome was unknown and which is then told ErrExists is compared with the
// object there, by size and CRC-32C: the same means that an earlier attempt had worked.
func Retry(inner Store, rng *rand.Rand, cfg RetryConfig) Store {
	cfg = cfg.withDefaults()
	return &retry{inner: inner, cfg: cfg, rng: rng, tokens: cfg.BudgetBurst, filled: time.Now()}
}

type retry struct {
	inner Store
	cfg   RetryConfig
	proof bool // of a Weathered, which has gates
	gates [kinds]*gate

	mu     sync.Mutex // guards the following
	rng    *rand.Rand
	tokens float64
	filled time.Time // when BudgetPerSecond was paid in last
}

var errBudget = errors.New("retry budget spent")

// do runs try until it works, fails for good, or patience or budget end.
func (r *retry) do(ctx context.Context, k kind, size int64, try func(context.Context) error) error {
	if r.proof {
		return r.ride(ctx, k, size, try)
	}
	r.payIn()
	rereads := 0
	for attempt := 1; ; attempt++ {
		err := r.attempt(ctx, size, try)
		if err == nil || final(err) || ctx.Err() != nil {
			return err
		}
		if isCorrupt(err) {
			if rereads++; rereads > maxRereads {
				return err
			}
		}
		if attempt >= r.cfg.Attempts {
			return fmt.Errorf("given up after %d attempts: %w", attempt, err)
		}
		if !r.takeOut() {
			return fmt.Errorf("%w after %d attempts: %w", errBudget, attempt, err)
		}
		if !wait(ctx, r.delay(attempt, err)) {
			return err
		}
	}
}

func (r *retry) attempt(ctx context.Context, size int64, try func(context.Context) error) error {
	carries := min(float64(size)/float64(r.cfg.BytesPerSecond), maxCarry.Seconds())
	timeout := r.cfg.Timeout + time.Duration(carries*float64(time.Second))
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return try(ctx)
}

// final reports whether trying again cannot help.
func final(err error) bool {
	return errors.Is(err, ErrExists) || errors.Is(err, ErrNotFound) ||
		errors.Is(err, ErrDenied) || errors.Is(err, ErrFull) || isInvalid(err)
}

func isInvalid(err error) bool { return errors.Is(err, ErrInvalid) }
func isCorrupt(err error) bool { return errors.Is(err, ErrCorrupt) }

// wait reports whether d passed before the context ended.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (r *retry) delay(attempt int, err error) time.Duration {
	bound := r.cfg.Base
	if errors.Is(err, ErrThrottled) {
		bound = r.cfg.ThrottledBase
	}
	for range attempt - 1 {
		if bound >= r.cfg.Cap {
			break
		}
		bound *= 2
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Duration(r.rng.Int64N(int64(min(bound, r.cfg.Cap)) + 1))
}

func (r *retry) payIn() {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	r.tokens += r.cfg.BudgetRatio + r.cfg.BudgetPerSecond*now.Sub(r.filled).Seconds()
	r.tokens = min(r.tokens, r.cfg.BudgetBurst)
	r.filled = now
}

func (r *retry) takeOut() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.tokens < 1 {
		return false
	}
	r.tokens--
	return true
}

func (r *retry) Put(ctx context.Context, key string, body Body) error {
	unknown := false // an earlier attempt may have created the object
	return r.do(ctx, kindPut, body.Size(), func(ctx context.Context) error {
		err := r.inner.Put(ctx, key, body)
		if unknown && errors.Is(err, ErrExists) {
			return r.confirm(ctx, key, body)
		}
		unknown = unknown || err != nil
		return err
	})
}

// confirm returns nil if the object under key is this body, ErrExists if it is another.
func (r *retry) confirm(ctx context.Context, key string, body Body) error {
	info, err := r.inner.Head(ctx, key)
	if err == nil && info.Size == body.Size() && !info.HasCRC {
		var stored []byte
		stored, err = r.inner.GetRange(ctx, key, 0, info.Size)
		info.CRC32C = Body{stored}.CRC32C()
	}
	switch {
	case errors.Is(err, ErrNotFound):
		// Not final here: the object was there a moment ago.
		return fmt.Errorf("confirm put of %s: it exists and is not found: %v", key, err)
	case err != nil:
		return fmt.Errorf("confirm put of %s: %w", key, err)
	case info.Size != body.Size() || info.CRC32C != body.CRC32C():
		return fmt.Errorf("put %s: %w with other content (%d bytes, CRC-32C %08x)", key, ErrExists, info.Size, info.CRC32C)
	}
	return nil
}

func (r *retry) GetRange(ctx context.Context, key string, off, n int64) (data []byte, err error) {
	err = r.do(ctx, kindGet, n, func(ctx context.Context) error {
		data, err = r.inner.GetRange(ctx, key, off, n)
		return err
	})
	return data, err
}

func (r *retry) GetUpTo(ctx context.Context, key string, off, n int64) (data Body, size int64, err error) {
	err = r.do(ctx, kindGet, n, func(ctx context.Context) error {
		data, size, err = r.inner.GetUpTo(ctx, key, off, n)
		return err
	})
	return data, size, err
}

func (r *retry) Head(ctx context.Context, key string) (info Info, err error) {
	err = r.do(ctx, kindHead, 0, func(ctx context.Context) error {
		info, err = r.inner.Head(ctx, key)
		return err
	})
	return info, err
}

func (r *retry) List(ctx context.Context, prefix, after string, limit int) (infos []Info, err error) {
	err = r.do(ctx, kindList, 0, func(ctx context.Context) error {
		infos, err = r.inner.List(ctx, prefix, after, limit)
		return err
	})
	return infos, err
}

func (r *retry) Delete(ctx context.Context, keys ...string) error {
	return r.do(ctx, kindDelete, 0, func(ctx context.Context) error {
		return r.inner.Delete(ctx, keys...)
	})
}

func (r *retry) String() string { return r.inner.String() }
