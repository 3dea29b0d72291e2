package memory

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/floelog/floe/metadata"
)

const (
	// progressEvery is how long a watch without events waits before it tells that the
	// store has moved on. Shorter would wake idle simulations for nothing, longer would
	// hide from them what depends on progress.
	progressEvery = time.Second

	// maxBatchEvents is the number of events from which on a batch takes no further
	// revision. Fewer would cost more deliveries when a watch catches up, more would hide
	// that a consumer cannot rely on catching up in one batch.
	maxBatchEvents = 1000
)

// watch is one watch of a client. Its fields are guarded by Server.mu.
//
// Invariant: unless behind, every matching change before next has been collected.
type watch struct {
	prefix string
	wake   chan struct{} // capacity 1: there is something to collect
	next   int64         // first revision not yet collected
	told   int64         // revision of the last batch
	behind bool          // a matching change may wait from next on
	armed  bool          // run knows that there is progress to tell
	err    error         // why the watch ends
}

func (w *watch) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *watch) end(err error) {
	if w.err == nil {
		w.err = err
		w.poke()
	}
}

// changed takes note of changes, which are those of the newest revision.
func (w *watch) changed(changes []change, revision int64) {
	switch {
	case w.behind:
	case revision < w.next: // a watch from a future revision
	case touches(changes, w.prefix):
		w.behind = true
		w.poke()
	default:
		w.next = revision + 1
		if !w.armed {
			w.armed = true
			w.poke()
		}
	}
}

// Watch implements metadata.Store.
func (c *Client) Watch(ctx context.Context, prefix string, revision int64) <-chan metadata.WatchBatch {
	s := c.server
	out := make(chan metadata.WatchBatch)
	w := &watch{prefix: prefix, next: revision, wake: make(chan struct{}, 1)}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		close(out)
		return out
	}
	if revision <= 0 {
		w.next = s.data.revision + 1
	}
	w.told = w.next - 1
	w.behind = w.next <= s.data.revision
	w.poke()
	s.watches[w] = struct{}{}
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		defer close(out)
		c.runWatch(ctx, w, out)
		s.mu.Lock()
		delete(s.watches, w)
		s.mu.Unlock()
	}()
	return out
}

// runWatch delivers until the watch ends.
func (c *Client) runWatch(ctx context.Context, w *watch, out chan<- metadata.WatchBatch) {
	progress := time.NewTimer(progressEvery)
	defer progress.Stop()
	progress.Stop()
	ticking, due := false, false
	for {
		batch, armed := c.server.collect(w, due)
		due = false
		if batch != nil {
			if !c.deliver(ctx, *batch, out) || batch.Err != nil {
				return
			}
			continue
		}
		if armed && !ticking {
			ticking = true
			progress.Reset(progressEvery)
		}
		select {
		case <-ctx.Done():
			return
		case <-c.server.done:
			return
		case <-w.wake:
		case <-progress.C:
			ticking, due = false, true
		}
	}
}

// collect takes what the watch is to be told next, nil if nothing. Progress is only told
// when it is due; armed says that there is some, or will be.
func (s *Server) collect(w *watch, due bool) (batch *metadata.WatchBatch, armed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.err != nil {
		return &metadata.WatchBatch{Err: w.err}, false
	}
	if w.behind {
		if w.next < s.data.compacted {
			return &metadata.WatchBatch{Err: fmt.Errorf("watch from revision %d: %w", w.next, metadata.ErrCompacted)}, false
		}
		if batch := w.events(&s.data); batch != nil {
			return batch, w.armed
		}
	}
	if due {
		w.armed = false
		if w.told < w.next-1 {
			w.told = w.next - 1
			return &metadata.WatchBatch{Revision: w.told}, false
		}
	}
	return nil, w.armed
}

// events collects matching changes, whole revisions only, nil if there are none.
func (w *watch) events(d *data) *metadata.WatchBatch {
	batch := new(metadata.WatchBatch)
	for _, ch := range d.since(w.next) {
		revision := ch.event.Revision
		if len(batch.Events) >= maxBatchEvents && revision > batch.Revision {
			w.next, w.told = batch.Revision+1, batch.Revision
			return batch
		}
		if strings.HasPrefix(ch.event.Key, w.prefix) {
			batch.Events = append(batch.Events, ch.event)
			batch.Revision = revision
		}
	}
	w.behind = false
	w.next = max(w.next, d.revision+1)
	if len(batch.Events) == 0 {
		return nil
	}
	// Not the store's revision, although that would be true: etcd tells it later.
	w.told = batch.Revision
	return batch
}

// deliver hands a batch to the consumer, with the client's faults; it reports whether the
// watch goes on.
func (c *Client) deliver(ctx context.Context, batch metadata.WatchBatch, out chan<- metadata.WatchBatch) bool {
	lag, lost := c.drawDelivery()
	if lag > 0 {
		if !c.server.sleep(ctx, lag) {
			return false
		}
	}
	if lost {
		batch = metadata.WatchBatch{Err: fmt.Errorf("%w: watch lost", ErrFault)}
	}
	for {
		paused, parted, changed := c.state()
		send := out
		switch {
		case paused:
			c.server.fire(Pause)
			send = nil
		case parted:
			c.server.fire(Partition)
			send = nil
		}
		select {
		case send <- batch:
			return !lost
		case <-changed:
		case <-ctx.Done():
			return false
		case <-c.server.done:
			return false
		}
	}
}
