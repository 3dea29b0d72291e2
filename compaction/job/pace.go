package job

import (
	"context"
	"sync"
	"time"
)

const (
	// busyFactor is how much slower jobs go while clients keep the agent busy. Less would be
	// felt in their latency; more would let extents pile up under a load that lasts.
	busyFactor = 8
	// paceSlack is how much of the rate may be saved up while nothing is to do.
	paceSlack = time.Second
	// maxCharge bounds how long one charge delays the next one: a job that is charged while
	// clients are busy must not hold up all that come when they are not.
	maxCharge = 10 * time.Second
)

// Pace keeps all jobs of an agent together to a number of bytes a second, so that they leave
// room for what clients wait for.
type Pace struct {
	rate float64
	busy func() bool
	now  func() time.Time

	mu   sync.Mutex // guards the following
	free time.Time  // when what has been charged is paid off
}

// NewPace returns a Pace of rate bytes a second, 0 for no limit. While busy returns true, jobs go
// slower, but go on.
func NewPace(rate float64, busy func() bool, now func() time.Time) *Pace {
	return &Pace{rate: rate, busy: busy, now: now}
}

// Spend returns when there is room for a job to move so many bytes, or with ctx's error.
func (p *Pace) Spend(ctx context.Context, bytes int64) error {
	if p.rate <= 0 || bytes <= 0 {
		return ctx.Err()
	}
	cost := time.Duration(float64(bytes) / p.rate * float64(time.Second))
	if p.busy() {
		cost *= busyFactor
	}
	p.mu.Lock()
	now := p.now()
	if earliest := now.Add(-paceSlack); p.free.Before(earliest) {
		p.free = earliest
	}
	wait := p.free.Sub(now)
	p.free = p.free.Add(min(cost, maxCharge))
	p.mu.Unlock()
	if wait <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
