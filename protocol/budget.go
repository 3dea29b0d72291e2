package protocol

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
)

// Budget is a number of bytes that requests in memory share. Who asks first is served
// first, so a large request is not starved by small ones. Safe for concurrent use.
type Budget struct {
	size int64
	sem  *semaphore.Weighted
	used atomic.Int64

	waiting atomic.Int64 // callers of Acquire
	waited  atomic.Int64 // nanoseconds, of those that wait no more
}

// NewBudget makes a budget of size bytes.
func NewBudget(size int64) *Budget {
	return &Budget{size: size, sem: semaphore.NewWeighted(size)}
}

// Size returns the whole budget in bytes.
func (b *Budget) Size() int64 { return b.size }

// InUse returns the bytes that are charged at the moment.
func (b *Budget) InUse() int64 { return b.used.Load() }

// Waiting returns how many callers of Acquire wait.
func (b *Budget) Waiting() int64 { return b.waiting.Load() }

// Waited returns how long callers of Acquire have waited in all, once they had what they
// wanted or gave up.
func (b *Budget) Waited() time.Duration { return time.Duration(b.waited.Load()) }

// Acquire waits until n bytes are free and charges them. It fails if ctx ends first, and
// at once if n is more than the whole budget.
func (b *Budget) Acquire(ctx context.Context, n int64) (*Charge, error) {
	if n < 0 || n > b.size {
		return nil, fmt.Errorf("a request needs %d bytes of memory, the whole budget is %d: raise the budget or lower the request limit", n, b.size)
	}
	if b.sem.TryAcquire(n) {
		return b.charged(n), nil
	}
	b.waiting.Add(1)
	since := time.Now()
	err := b.sem.Acquire(ctx, n)
	b.waiting.Add(-1)
	b.waited.Add(int64(time.Since(since)))
	if err != nil {
		return nil, fmt.Errorf("waiting for %d bytes of the request budget: %w", n, err)
	}
	return b.charged(n), nil
}

// TryAcquire charges n bytes if they are free and nobody waits for any.
func (b *Budget) TryAcquire(n int64) (*Charge, bool) {
	if n < 0 || !b.sem.TryAcquire(n) {
		return nil, false
	}
	return b.charged(n), true
}

func (b *Budget) charged(n int64) *Charge {
	b.used.Add(n)
	c := &Charge{budget: b}
	c.n.Store(n)
	return c
}

// Charge is a part of a budget that is in use. A nil Charge holds nothing.
type Charge struct {
	budget *Budget
	n      atomic.Int64
}

// Bytes returns what is still held.
func (c *Charge) Bytes() int64 {
	if c == nil {
		return 0
	}
	return c.n.Load()
}

// Shrink gives back what is held beyond n bytes, because that much is no longer in
// memory. A charge never waits in order to grow (see TryGrow): who waits for budget must not hold some.
func (c *Charge) Shrink(n int64) {
	if c == nil {
		return
	}
	n = max(n, 0)
	for held := c.n.Load(); held > n; held = c.n.Load() {
		if c.n.CompareAndSwap(held, n) {
			c.budget.used.Add(n - held)
			c.budget.sem.Release(held - n)
			return
		}
	}
}

// TryGrow charges n bytes more if they are free and nobody waits for any. A nil Charge is of no budget,
// and may grow at will. Not to be called after Release, or beside it.
func (c *Charge) TryGrow(n int64) bool {
	if c == nil {
		return true
	}
	if n < 0 || !c.budget.sem.TryAcquire(n) {
		return false
	}
	c.budget.used.Add(n)
	c.n.Add(n)
	return true
}

// Release gives the bytes back. Only the first call has an effect; any goroutine may
// make it.
func (c *Charge) Release() { c.Shrink(0) }
