package faults

import (
	"context"
	"fmt"
	"time"

	"github.com/floelog/floe/tiering/objstore"
)

// putLate gives the caller up before the put is carried out.
func (s *Store) putLate(ctx context.Context, key string, body objstore.Body, d dice) error {
	p := heldPut{key: key, body: objstore.Body{body.Copy()}} // the caller's body may change
	if !s.schedule(context.WithoutCancel(ctx), p, d) {
		return s.inner.Put(ctx, key, body) // closed meanwhile: no faults any more
	}
	if d.giveUp > 0 {
		if err := wait(ctx, d.giveUp); err != nil {
			return err
		}
	}
	return fmt.Errorf("faults: put %s: no reply: %w", key, ErrInjected)
}

// schedule holds the put for Release, or lets it wait for its time. It reports whether
// the store is still open.
func (s *Store) schedule(ctx context.Context, p heldPut, d dice) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.fired[Late]++
	if d.held {
		s.held = append(s.held, p)
		return true
	}
	s.late.Go(func() { s.finishAfter(ctx, p, d.giveUp+d.lateBy) })
	return true
}

func (s *Store) finishAfter(ctx context.Context, p heldPut, delay time.Duration) {
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		s.finish(ctx, p)
	case <-s.stop:
		s.count(LateDropped)
	}
}

func (s *Store) finish(ctx context.Context, p heldPut) {
	if err := s.inner.Put(ctx, p.key, p.body); err != nil {
		s.count(LateRefused) // as a rule since a retry was quicker: ErrExists
		return
	}
	s.count(LateDone)
}
