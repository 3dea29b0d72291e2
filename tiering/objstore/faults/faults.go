// Package faults wraps an object store in one that fails as real ones do: late, twice,
// half, and without saying whether it happened. It serves simulations and tests.
//
// Which request meets which fault is drawn from the injected random source, one draw
// per fault and request, under a lock: the same sequence of requests meets the same
// faults. Concurrent requests may come in another order; what they meet is then
// different, but still seeded. Every wait ends with its context and passes under
// testing/synctest in no time.
//
// Each fault that fires is counted by name: a simulation whose faults never fire has
// tested nothing. All methods may be called concurrently.
package faults

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/floelog/floe/tiering/objstore"
)

// Fault names something that went wrong on purpose.
type Fault string

// The faults, as they are counted.
const (
	Slow        Fault = "slow"         // waited before the request
	Throttled   Fault = "throttled"    // refused with ErrThrottled
	Failed      Fault = "failed"       // refused with ErrInjected
	LostReply   Fault = "lost reply"   // done, and answered with ErrInjected
	Late        Fault = "late"         // a Put answered with ErrInjected, to be done later
	LateDone    Fault = "late done"    // such a Put created its object in the end
	LateRefused Fault = "late refused" // such a Put was refused in the end
	LateDropped Fault = "late dropped" // such a Put was given up by Close
	Truncated   Fault = "truncated"    // a GET noticed that bytes were missing: ErrCorrupt
	Short       Fault = "short"        // a GET returned too few bytes without an error
	Flipped     Fault = "flipped"      // a GET returned bytes with one bit changed
	Missing     Fault = "missing"      // an existing object answered with ErrNotFound
)

// ErrInjected is the error of a fault that has no error of the contract: an HTTP 500, a
// connection that broke. It says nothing about whether the request was carried out.
var ErrInjected = errors.New("injected fault")

// Rates are the probabilities, from 0 to 1, of the faults of one kind of request.
type Rates struct {
	Slow             float64 // waits for SlowMin to SlowMax, drawn evenly
	SlowMin, SlowMax time.Duration

	Throttled, Failed, LostReply float64

	// Late applies to Put. The caller is kept waiting for LateGiveUp, or until its
	// context ends, and is then told ErrInjected. The object is created LateMin to
	// LateMax after that, or, if LateMax is 0, when Release is called.
	Late                         float64
	LateGiveUp, LateMin, LateMax time.Duration

	// Truncated, Short and Flipped apply to GetRange and GetUpTo. Short and Flipped break the
	// contract of objstore as no driver of Floe does, but a proxy or a bad disk may:
	// whoever reads must check the bytes.
	Truncated, Short, Flipped float64

	Missing float64 // applies to GetRange, GetUpTo and Head
}

// Plan holds the rates of each kind of request. The zero Plan has no faults.
type Plan struct{ Put, Get, Head, List, Delete Rates }

// Store is an objstore.Store with faults. Make one with New, and Close it.
type Store struct {
	inner objstore.Store
	stop  chan struct{}  // closed by Close
	late  sync.WaitGroup // of goroutines that carry out late puts; Close waits for them

	mu     sync.Mutex // guards the following
	rng    *rand.Rand
	plan   Plan
	fired  map[Fault]int
	held   []heldPut // late puts that wait for Release
	closed bool
}

type heldPut struct {
	key  string
	body objstore.Body
}

var _ objstore.Store = (*Store)(nil)

// New returns inner with the faults of plan, drawn from rng, which belongs to the store
// from then on.
func New(inner objstore.Store, rng *rand.Rand, plan Plan) *Store {
	return &Store{inner: inner, rng: rng, plan: plan, fired: map[Fault]int{}, stop: make(chan struct{})}
}

// SetPlan replaces the plan for all requests that start from now on.
func (s *Store) SetPlan(plan Plan) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.plan = plan
}

// Fired returns how often each fault has fired.
func (s *Store) Fired() map[Fault]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.fired)
}

// Release carries out, one after the other, the late puts that are held, and returns
// how many there were.
func (s *Store) Release(ctx context.Context) int {
	s.mu.Lock()
	held := s.held
	s.held = nil
	s.mu.Unlock()
	for _, p := range held {
		s.finish(ctx, p)
	}
	return len(held)
}

// Close drops the late puts that have not been carried out, and waits for those that
// are being carried out. The store without faults can still be used.
func (s *Store) Close() {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.stop)
	}
	s.fired[LateDropped] += len(s.held)
	s.held = nil
	s.mu.Unlock()
	s.late.Wait()
}

// dice are the faults drawn for one request. More than one may be drawn; the first
// that ends the request is the one that fires.
type dice struct {
	slow, giveUp, lateBy                time.Duration
	throttled, failed, lost, late, held bool
	truncated, short, flipped, missing  bool
	bit                                 uint64
}

func (s *Store) throw(pick func(*Plan) *Rates) dice {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return dice{}
	}
	r := pick(&s.plan)
	// All are drawn, whatever comes of each, so that rates do not shift the sequence.
	chance := func(rate float64) bool { return s.rng.Float64() < rate }
	span := func(lo, hi time.Duration) time.Duration { return lo + time.Duration(s.rng.Float64()*float64(hi-lo)) }
	d := dice{
		throttled: chance(r.Throttled),
		failed:    chance(r.Failed),
		lost:      chance(r.LostReply),
		late:      chance(r.Late),
		truncated: chance(r.Truncated),
		short:     chance(r.Short),
		flipped:   chance(r.Flipped),
		missing:   chance(r.Missing),
		bit:       s.rng.Uint64(),
		giveUp:    r.LateGiveUp,
		lateBy:    span(r.LateMin, r.LateMax),
		held:      r.LateMax <= 0,
	}
	slow, wait := chance(r.Slow), span(r.SlowMin, r.SlowMax)
	if slow {
		d.slow = max(wait, 1)
	}
	return d
}

func (s *Store) count(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fired[f]++
}

// before plays what happens on the way to the store.
func (s *Store) before(ctx context.Context, what string, d dice) error {
	if d.slow > 0 {
		s.count(Slow)
		if err := wait(ctx, d.slow); err != nil {
			return err
		}
	}
	switch {
	case d.throttled:
		s.count(Throttled)
		return fmt.Errorf("faults: %s: %w", what, objstore.ErrThrottled)
	case d.failed:
		s.count(Failed)
		return fmt.Errorf("faults: %s failed: %w", what, ErrInjected)
	}
	return nil
}

// after plays what happens on the way back.
func (s *Store) after(what string, d dice, err error) error {
	if d.lost {
		s.count(LostReply)
		return fmt.Errorf("faults: %s: reply lost: %w", what, ErrInjected)
	}
	return err
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Put implements objstore.Store.
func (s *Store) Put(ctx context.Context, key string, body objstore.Body) error {
	d := s.throw(func(p *Plan) *Rates { return &p.Put })
	if err := s.before(ctx, "put "+key, d); err != nil {
		return err
	}
	if d.late {
		return s.putLate(ctx, key, body, d)
	}
	return s.after("put "+key, d, s.inner.Put(ctx, key, body))
}

// GetRange implements objstore.Store.
func (s *Store) GetRange(ctx context.Context, key string, off, n int64) ([]byte, error) {
	d := s.throw(func(p *Plan) *Rates { return &p.Get })
	if err := s.before(ctx, "get "+key, d); err != nil {
		return nil, err
	}
	data, err := s.inner.GetRange(ctx, key, off, n)
	if err = s.after("get "+key, d, err); err != nil {
		return nil, err
	}
	return s.spoil(key, d, data)
}

// GetUpTo implements objstore.Store.
func (s *Store) GetUpTo(ctx context.Context, key string, off, n int64) (objstore.Body, int64, error) {
	d := s.throw(func(p *Plan) *Rates { return &p.Get })
	if err := s.before(ctx, "get "+key, d); err != nil {
		return nil, 0, err
	}
	data, size, err := s.inner.GetUpTo(ctx, key, off, n)
	if err = s.after("get "+key, d, err); err != nil {
		return nil, 0, err
	}
	if d.missing || d.truncated || d.short || d.flipped {
		spoiled, err := s.spoil(key, d, data.Bytes())
		if err != nil {
			return nil, 0, err
		}
		data = objstore.Body{spoiled}
	}
	return data, size, nil
}

// spoil plays what happens to bytes on the way back.
func (s *Store) spoil(key string, d dice, data []byte) ([]byte, error) {
	switch {
	case d.missing:
		s.count(Missing)
		return nil, fmt.Errorf("faults: get %s: %w", key, objstore.ErrNotFound)
	case d.truncated:
		s.count(Truncated)
		return nil, fmt.Errorf("faults: get %s: %w: it was cut", key, objstore.ErrCorrupt)
	case d.short && len(data) > 0:
		s.count(Short)
		return data[:d.bit%uint64(len(data))], nil
	case d.flipped && len(data) > 0:
		s.count(Flipped)
		bit := d.bit % (uint64(len(data)) * 8)
		data[bit/8] ^= 1 << (bit % 8)
	}
	return data, nil
}

// Head implements objstore.Store.
func (s *Store) Head(ctx context.Context, key string) (objstore.Info, error) {
	d := s.throw(func(p *Plan) *Rates { return &p.Head })
	if err := s.before(ctx, "head "+key, d); err != nil {
		return objstore.Info{}, err
	}
	info, err := s.inner.Head(ctx, key)
	if err = s.after("head "+key, d, err); err != nil {
		return objstore.Info{}, err
	}
	if d.missing {
		s.count(Missing)
		return objstore.Info{}, fmt.Errorf("faults: head %s: %w", key, objstore.ErrNotFound)
	}
	return info, nil
}

// List implements objstore.Store.
func (s *Store) List(ctx context.Context, prefix, after string, limit int) ([]objstore.Info, error) {
	d := s.throw(func(p *Plan) *Rates { return &p.List })
	if err := s.before(ctx, "list "+prefix, d); err != nil {
		return nil, err
	}
	infos, err := s.inner.List(ctx, prefix, after, limit)
	if err = s.after("list "+prefix, d, err); err != nil {
		return nil, err
	}
	return infos, nil
}

// Delete implements objstore.Store.
func (s *Store) Delete(ctx context.Context, keys ...string) error {
	d := s.throw(func(p *Plan) *Rates { return &p.Delete })
	if err := s.before(ctx, "delete", d); err != nil {
		return err
	}
	return s.after("delete", d, s.inner.Delete(ctx, keys...))
}

// String implements objstore.Store.
func (s *Store) String() string { return s.inner.String() + " with faults" }
