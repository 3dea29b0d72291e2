package journal

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// View is a shard's state as this agent knows it. It may lag behind what is committed;
// Set.Sync says how far it must come to answer what a client will act upon.
type View struct {
	id     tiering.ShardID
	inline atomic.Int64 // state's inline bytes, for a look without the lock

	mu      sync.RWMutex // guards the following; held for computation only
	state   *shard.State
	last    recordID      // of the record applied last; zero after a snapshot
	stopped error         // why the next record cannot be applied; nil: nothing keeps it
	changed chan struct{} // closed and replaced when state moves, or stopped is set
}

// recordID tells a record from any other of the same seq.
type recordID struct {
	leader tiering.SessionID
	nonce  uint64
}

func newView(id tiering.ShardID) *View {
	return &View{id: id, state: shard.New(), changed: make(chan struct{})}
}

// Read calls f with the state, which must not be kept or changed. Slices of extents read
// from it stay valid afterwards: they are only ever appended to or replaced.
func (v *View) Read(f func(*shard.State)) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	f(v.state)
}

// InlineBytes returns the bytes of the shard's inline extents.
func (v *View) InlineBytes() int64 { return v.inline.Load() }

// Seq returns the seq of the last record applied.
func (v *View) Seq() uint64 {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.state.Seq
}

// Err returns why the view stands still: the record after its last one is damaged. nil: it does not.
func (v *View) Err() error {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.stopped
}

// stop notes why the view stands still before record seq, unless it has come so far meanwhile, and reports whether
// it did not before.
func (v *View) stop(seq uint64, why error) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.state.Seq >= seq {
		return false
	}
	first := v.stopped == nil
	v.stopped = why
	v.signalLocked()
	return first
}

// resume notes that nothing keeps the view: all that the store holds could be read, as when it was restored to
// what it was before a record was damaged.
func (v *View) resume() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.stopped = nil
}

// Wait returns when the view has applied record seq, or when it stands still before it, with Err.
func (v *View) Wait(ctx context.Context, seq uint64) error {
	for {
		v.mu.RLock()
		at, changed, stopped := v.state.Seq, v.changed, v.stopped
		v.mu.RUnlock()
		switch {
		case at >= seq:
			return nil
		case stopped != nil:
			return fmt.Errorf("waiting for shard %d to reach record %d (at %d): %w", v.id, seq, at, stopped)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("waiting for shard %d to reach record %d (at %d): %w", v.id, seq, at, ctx.Err())
		}
	}
}

// apply takes the record if it is the next one. It reports whether it was, and whether
// records are missing before it.
func (v *View) apply(r *shard.Record) (applied, gap bool, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	id := recordID{r.Leader, r.Nonce}
	switch {
	case r.Seq == v.state.Seq && v.last != recordID{} && v.last != id:
		return false, false, fmt.Errorf("shard %d: %w: record %d is another one now: was the metadata store restored?", v.id, shard.ErrCorrupt, r.Seq)
	case r.Seq <= v.state.Seq:
		return false, false, nil
	case r.Seq > v.state.Seq+1:
		return false, true, nil
	}
	if err := v.state.Apply(*r); err != nil {
		return false, false, fmt.Errorf("shard %d: %w", v.id, err)
	}
	v.last, v.stopped = id, nil
	v.inline.Store(v.state.InlineBytes())
	v.signalLocked()
	return true, false, nil
}

// advance replaces the state by a newer one, from a snapshot.
func (v *View) advance(s *shard.State) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if s.Seq <= v.state.Seq {
		return false
	}
	v.state, v.last, v.stopped = s, recordID{}, nil
	v.inline.Store(s.InlineBytes())
	v.signalLocked()
	return true
}

func (v *View) signalLocked() {
	close(v.changed)
	v.changed = make(chan struct{})
}
