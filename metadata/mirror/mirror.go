// Package mirror keeps a local copy of all keys with one prefix: loaded at one pinned
// revision, kept up by a watch, and checked against the store from time to time, because
// a watch is a hint and no promise. Topics and live agents are read through it.
//
// Invariants:
//  1. A View is a state that the prefix had at one revision, except that a value that
//     cannot be decoded leaves what was there before and is named in View.Unreadable.
//     While that list is not empty, absence from the state proves nothing.
//  2. Whatever the watch loses is repaired by the next reconciliation.
//  3. What was present before Fresh was called is in the View when it returns.
//
// Run owns the state and is called once; everything else may be called concurrently,
// and View takes no lock.
package mirror

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/retry"
)

// DefaultReconcile is the time between two reconciliations. Shorter costs the store a
// read of the whole prefix per agent; longer leaves an event that a watch lost unnoticed.
const DefaultReconcile = 60 * time.Second

const (
	// pageKeys is how many keys one read takes: about 250 KiB of topics. Smaller makes a
	// load slow, larger makes the store hold one big answer.
	pageKeys = 1000

	// listTimeout bounds one read of the whole prefix, during which events wait. Shorter
	// could fail for ever with 100,000 keys; longer would delay the events of a watch that
	// works although reads hang.
	listTimeout = 10 * time.Second

	// freshGap is the least time between the starts of two reads of the whole prefix that
	// callers of Fresh cause. Shorter lets clients that ask for unknown ids load the
	// store; longer makes those wait who ask for a topic that was created just now.
	freshGap = time.Second

	// lossReconcile bounds the time to the reconciliation that follows the loss of a
	// watch, spread at random so that agents that lost the same server do not all read at
	// once; a restored store, whose revisions went back, is noticed by it.
	lossReconcile = 5 * time.Second

	// waitNudge is how long WaitRevision trusts the watch before it asks for a read.
	waitNudge = 250 * time.Millisecond

	// gatherBatches is how many waiting batches of events become one change of state.
	// Fewer makes a burst cost a copy each; more delays the first of them.
	gatherBatches = 128
)

// ErrStopped says that the mirror's Run has ended, so that it will learn nothing more.
var ErrStopped = errors.New("metadata mirror stopped")

// Change is what happened to one key: Old is nil if it is new, New is nil if it is gone.
// Values are shared and must not be modified.
type Change[V any] struct {
	Key string // without the prefix
	Old *V
	New *V
}

// Config says what to mirror.
type Config[V, S any] struct {
	Store  metadata.Store
	Prefix string
	Name   string // what the keys are, for log and errors: "topics"

	// Decode reads the value of a key, given without the prefix. It must not keep value.
	Decode func(key string, value []byte) (V, error)

	// Fold returns the state after the changes, at most one for each key; none at all when
	// the first load finds nothing. It must leave the old state as it is: readers hold it.
	Fold func(old S, changes []Change[V]) S

	Pacer     *retry.Pacer
	Log       *slog.Logger
	Reconcile time.Duration // 0: DefaultReconcile
}

// View is the state at one revision.
type View[S any] struct {
	State      S
	Revision   int64    // 0 until the first load
	Unreadable []string // keys whose newest value cannot be decoded, sorted

	changed  chan struct{} // closed when a View with another State follows
	advanced chan struct{} // closed when any other View follows
}

// Changed returns a channel that is closed when the state is no longer the newest. Take
// the View first, act on it, then wait: no change is missed.
func (v *View[S]) Changed() <-chan struct{} { return v.changed }

// Mirror is a local copy of a prefix. V is the type of one decoded value, S that of the
// state folded from all.
type Mirror[V, S any] struct {
	cfg     Config[V, S]
	view    atomic.Pointer[View[S]]
	stopped chan struct{} // closed when Run returns

	// Owned by Run.
	entries    map[string]entry[V]
	unreadable map[string]struct{}
	lastList   time.Time

	kick chan struct{} // a barrier waits
	mu   sync.Mutex    // guards next
	next *barrier
}

// entry is one key as last seen. value is nil only before the first value.
type entry[V any] struct {
	value   []byte
	decoded *V // of the newest readable value; nil if there was none
}

// barrier is passed when a read of the whole prefix that began after its creation has
// been applied.
type barrier struct {
	done chan struct{}
	err  error // valid after done
}

// New returns a Mirror that is empty until Run has loaded it.
func New[V, S any](cfg Config[V, S]) *Mirror[V, S] {
	if cfg.Reconcile <= 0 {
		cfg.Reconcile = DefaultReconcile
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	m := &Mirror[V, S]{
		cfg:        cfg,
		stopped:    make(chan struct{}),
		entries:    map[string]entry[V]{},
		unreadable: map[string]struct{}{},
		kick:       make(chan struct{}, 1),
	}
	m.view.Store(&View[S]{changed: make(chan struct{}), advanced: make(chan struct{})})
	return m
}

// View returns the newest state. It is never nil and must not be modified.
func (m *Mirror[V, S]) View() *View[S] { return m.view.Load() }

// WaitRevision waits until the View is of revision rev or later, as after a change of
// one's own. It trusts the watch at first and then asks the store. WaitRevision(ctx, 1)
// waits for the first load.
func (m *Mirror[V, S]) WaitRevision(ctx context.Context, rev int64) error {
	var nudge *time.Timer
	for {
		v := m.view.Load()
		if v.Revision >= rev {
			return nil
		}
		if nudge == nil {
			nudge = time.NewTimer(waitNudge)
			defer nudge.Stop()
		}
		select {
		case <-v.advanced:
		case <-nudge.C:
			if err := m.Fresh(ctx); err != nil && (ctx.Err() != nil || errors.Is(err, ErrStopped)) {
				return err
			}
			nudge.Reset(waitNudge)
		case <-ctx.Done():
			return fmt.Errorf("waiting for revision %d of %s: %w", rev, m.cfg.Name, ctx.Err())
		case <-m.stopped:
			return ErrStopped
		}
	}
}

// Fresh returns when the View holds at least what was in the store when Fresh was
// called. It costs a linearizable read of the whole prefix, which concurrent callers
// share and which happens about once a second at most: for a miss that must be certain.
func (m *Mirror[V, S]) Fresh(ctx context.Context) error {
	m.mu.Lock()
	if m.next == nil {
		m.next = &barrier{done: make(chan struct{})}
	}
	b := m.next
	m.mu.Unlock()
	select {
	case m.kick <- struct{}{}:
	default:
	}
	select {
	case <-b.done:
		return b.err
	case <-ctx.Done():
		return fmt.Errorf("reading %s: %w", m.cfg.Name, ctx.Err())
	case <-m.stopped:
		return ErrStopped
	}
}
