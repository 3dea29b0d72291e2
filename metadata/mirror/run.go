package mirror

import (
	"context"
	"errors"
	"time"

	"github.com/floelog/floe/metadata"
)

// Run loads the prefix and follows it until ctx ends; it returns the context's error.
// What fails is repeated for ever, so that an outage of the store ends nothing.
func (m *Mirror[V, S]) Run(ctx context.Context) error {
	defer close(m.stopped)
	for failures := 0; ctx.Err() == nil; failures++ {
		if err := m.list(ctx); err == nil {
			m.followOn(ctx)
			failures = 0
		} else if ctx.Err() == nil {
			m.cfg.Log.Warn("metadata cannot be listed; trying again", "what", m.cfg.Name, "err", err)
		}
		if m.cfg.Pacer.Pause(ctx, failures) != nil {
			break
		}
	}
	return ctx.Err()
}

// followOn watches from where the View is, again and again, until the history it needs
// is gone or the state must be listed anew.
func (m *Mirror[V, S]) followOn(ctx context.Context) {
	due := time.Now().Add(m.untilReconcile())
	for failures := 0; ctx.Err() == nil; failures++ {
		progressed, err := m.follow(ctx, &due)
		if progressed {
			failures = 0
		}
		switch {
		case ctx.Err() != nil || errors.Is(err, metadata.ErrCompacted):
			return
		case errors.Is(err, errRewatch):
			failures = 0
			continue
		}
		m.cfg.Log.Warn("metadata watch lost; watching again", "what", m.cfg.Name, "err", err)
		if soon := time.Now().Add(m.cfg.Pacer.Jitter(lossReconcile)); soon.Before(due) {
			due = soon
		}
		if m.cfg.Pacer.Pause(ctx, failures) != nil {
			return
		}
	}
}

// untilReconcile spreads the agents' reconciliations over the last tenth of the time.
func (m *Mirror[V, S]) untilReconcile() time.Duration {
	return m.cfg.Reconcile - m.cfg.Pacer.Jitter(m.cfg.Reconcile/10)
}

// errRewatch says that a reconciliation found what the watch had not delivered.
var errRewatch = errors.New("watch is behind the store")

// follow applies one watch until it ends, and reconciles when it is due or asked for.
func (m *Mirror[V, S]) follow(ctx context.Context, due *time.Time) (progressed bool, err error) {
	wctx, cancel := context.WithCancel(ctx)
	watch := m.cfg.Store.Watch(wctx, m.cfg.Prefix, m.view.Load().Revision+1)
	defer func() { // the channel closes soon after cancel; nothing else may be left behind
		cancel()
		for range watch {
		}
	}()
	timer := time.NewTimer(time.Until(*due))
	defer timer.Stop()
	asked := m.turn() // when a barrier may have its read
	for {
		reconcile := false
		select {
		case b, ok := <-watch:
			if !ok {
				return progressed, errors.New("watch closed")
			}
			if err := m.applyBatches(b, watch); err != nil {
				return progressed, err
			}
			progressed = true
		case <-m.kick:
			asked = m.turn()
		case <-asked:
			asked, reconcile = nil, true
		case <-timer.C:
			reconcile = true
		}
		if !reconcile {
			continue
		}
		if changed, err := m.reconcile(ctx); changed {
			*due = time.Now().Add(m.untilReconcile())
			return true, errRewatch
		} else if err != nil && ctx.Err() == nil {
			m.cfg.Log.Warn("metadata cannot be reconciled; trying again", "what", m.cfg.Name, "err", err)
			*due = time.Now().Add(lossReconcile)
		} else {
			*due = time.Now().Add(m.untilReconcile())
		}
		timer.Reset(time.Until(*due))
	}
}

// turn returns when the next read for a barrier may begin, or nil if none waits.
func (m *Mirror[V, S]) turn() <-chan time.Time {
	m.mu.Lock()
	waiting := m.next != nil
	m.mu.Unlock()
	if !waiting {
		return nil
	}
	return time.After(freshGap - min(time.Since(m.lastList), freshGap))
}

// reconcile lists the prefix and reports whether that changed anything.
func (m *Mirror[V, S]) reconcile(ctx context.Context) (changed bool, err error) {
	before := m.view.Load()
	if err := m.list(ctx); err != nil {
		return false, err
	}
	after := m.view.Load()
	return after.changed != before.changed || after.Revision < before.Revision, nil
}
