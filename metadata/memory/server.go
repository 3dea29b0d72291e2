// Package memory keeps the metadata contract in memory, for tests and simulation. A
// Server holds the data; each Client of it is a metadata.Store with faults of its own:
// latency, unknown outcomes, partitions, pauses, watches that lag or break.
//
// Time is that of package time, so that testing/synctest drives it: leases expire and
// late requests arrive in virtual time. Nothing blocks but on channels and timers, and no
// lock is held meanwhile. All exported methods may be called concurrently.
//
// Close ends everything that the package started and waits for it; it belongs at the end
// of the synctest bubble in which the Server was made.
package memory

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/floelog/floe/metadata"
)

var (
	// ErrFault is what a call returns that a fault made fail. Its outcome is unknown.
	ErrFault = errors.New("injected fault")

	errClosed = errors.New("metadata server closed")
)

// Fault names a kind of fault in Server.Fired.
type Fault string

// The kinds of faults.
const (
	Latency     Fault = "latency"        // a call took time
	FailBefore  Fault = "fail before"    // a call failed and was not applied
	FailAfter   Fault = "fail after"     // a call was applied and failed
	ApplyLate   Fault = "apply late"     // a call failed and was applied later
	Abandoned   Fault = "abandoned"      // a call's context ended on its way: applied later
	Partition   Fault = "partition"      // a call or a delivery met a partition
	Pause       Fault = "pause"          // a call or a delivery met a paused client
	WatchLag    Fault = "watch lag"      // a delivery came late
	WatchLoss   Fault = "watch loss"     // a watch ended with an error
	LeaseExpiry Fault = "lease expiry"   // a lease ended for want of renewal
	LeaseExtend Fault = "lease extend"   // leases were extended by a new leader
	Restore     Fault = "server restore" // the server went back to a snapshot
)

// Server is a consistent store in memory.
type Server struct {
	done chan struct{}  // closed by Close
	wg   sync.WaitGroup // timers and watches that may still run; added to under mu

	mu        sync.Mutex
	closed    bool
	data      data
	lastLease metadata.LeaseID
	leases    map[metadata.LeaseID]*lease
	watches   map[*watch]struct{}
	timers    map[*timer]struct{}
	fired     map[Fault]int
}

// lease is the time side of a lease; data knows its keys.
type lease struct {
	ttl      time.Duration
	deadline time.Time
	timer    *timer
}

// timer is a function that will run in its own goroutine, unless Close comes first.
type timer struct{ t *time.Timer }

// New returns an empty server.
func New() *Server {
	return &Server{
		done:    make(chan struct{}),
		data:    newData(),
		leases:  make(map[metadata.LeaseID]*lease),
		watches: make(map[*watch]struct{}),
		timers:  make(map[*timer]struct{}),
		fired:   make(map[Fault]int),
	}
}

// Close ends all watches, makes all calls fail, drops what would have happened later, and
// returns when no goroutine of the server is left.
func (s *Server) Close() {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.done)
		for t := range s.timers {
			s.stop(t)
		}
	}
	s.mu.Unlock()
	s.wg.Wait()
}

// Fired tells how often each fault has happened, over all clients.
func (s *Server) Fired() map[Fault]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.fired)
}

func (s *Server) fire(f Fault) {
	s.mu.Lock()
	s.fired[f]++
	s.mu.Unlock()
}

// Revision returns the store's revision.
func (s *Server) Revision() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.data.revision
}

// Snapshot is a server's content at one revision: a backup.
type Snapshot struct {
	data data
	ttls map[metadata.LeaseID]time.Duration
}

// Revision returns the revision of the snapshot.
func (s *Snapshot) Revision() int64 { return s.data.revision }

// Snapshot makes a backup.
func (s *Server) Snapshot() *Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	snap := &Snapshot{s.data.clone(), make(map[metadata.LeaseID]time.Duration, len(s.leases))}
	for id, l := range s.leases {
		snap.ttls[id] = l.ttl
	}
	return snap
}

// Restore replaces the content by that of a snapshot, as when an etcd is restored from a
// backup: revisions are issued again, leases of the backup live again for their whole
// time, and all watches break. Requests that are still on their way are applied.
func (s *Server) Restore(snap *Snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.fired[Restore]++
	for _, l := range s.leases {
		s.stop(l.timer)
	}
	s.data = snap.data.clone()
	s.leases = make(map[metadata.LeaseID]*lease, len(snap.ttls))
	for _, id := range slices.Sorted(maps.Keys(snap.ttls)) {
		s.startLease(id, snap.ttls[id])
	}
	for w := range s.watches {
		w.end(fmt.Errorf("%w: watch lost, server was restored", ErrFault))
	}
}

// BreakWatches ends all watches of all clients with an error.
func (s *Server) BreakWatches() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.watches {
		s.fired[WatchLoss]++
		w.end(fmt.Errorf("%w: watch lost", ErrFault))
	}
}

// ExtendLeases lets every lease live for its whole time again, as a newly elected leader
// of etcd does.
func (s *Server) ExtendLeases() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fired[LeaseExtend]++
	for _, l := range s.leases {
		l.deadline = time.Now().Add(l.ttl)
	}
}

// startLease adds a lease and its timer. Caller holds mu.
func (s *Server) startLease(id metadata.LeaseID, ttl time.Duration) {
	l := &lease{ttl: ttl, deadline: time.Now().Add(ttl)}
	s.leases[id] = l
	if s.data.leases[id] == nil {
		s.data.leases[id] = make(map[string]struct{})
	}
	l.timer = s.after(ttl, func() { s.expire(id, l) })
}

// expire ends a lease whose time is over. A renewal only moves the deadline, so that the
// timer may find it in the future and start again.
func (s *Server) expire(id metadata.LeaseID, l *lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.leases[id] != l {
		return
	}
	if left := time.Until(l.deadline); left > 0 {
		l.timer = s.after(left, func() { s.expire(id, l) })
		return
	}
	s.fired[LeaseExpiry]++
	s.endLease(id)
}

// endLease removes a lease and its keys. Caller holds mu.
func (s *Server) endLease(id metadata.LeaseID) {
	l := s.leases[id]
	if l == nil {
		return
	}
	s.stop(l.timer)
	delete(s.leases, id)
	before := s.data.revision
	s.data.endLease(id)
	s.publish(before)
}

// publish tells the watches of the changes after a revision, at most one. Caller holds mu.
func (s *Server) publish(after int64) {
	changes := s.data.since(after + 1)
	if len(changes) == 0 {
		return
	}
	for w := range s.watches {
		w.changed(changes, s.data.revision)
	}
}

// after runs f in its own goroutine after d, unless Close or stop comes first. Caller
// holds mu, and the server is not closed.
func (s *Server) after(d time.Duration, f func()) *timer {
	t := new(timer)
	s.timers[t] = struct{}{}
	s.wg.Add(1)
	t.t = time.AfterFunc(d, func() {
		defer s.wg.Done()
		s.mu.Lock()
		delete(s.timers, t)
		s.mu.Unlock()
		f()
	})
	return t
}

// stop stops a timer that may have run already. Caller holds mu.
func (s *Server) stop(t *timer) {
	if t.t.Stop() {
		delete(s.timers, t)
		s.wg.Done()
	}
}

// later applies a request after d, when nobody waits for its outcome any more.
func (s *Server) later(d time.Duration, apply func() error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.after(d, func() { _ = apply() }) // its outcome is what nobody hears
	}
}

// apply runs one request at one instant and tells the watches what it changed.
func (s *Server) apply(request func(*Server) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errClosed
	}
	before := s.data.revision
	err := request(s)
	s.publish(before)
	return err
}

// sleep waits for d; it reports false if ctx or the server ended first.
func (s *Server) sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
	case <-s.done:
	}
	return false
}
