// Package journal keeps the shards' logs of metadata records: it appends to those that
// this agent leads, follows all others, and takes and gives up leadership.
//
// Invariants (DESIGN chapters 3 and 9; RELIABILITY I12 to I14):
//  1. A record is committed by one transaction that compares, by value, the leadership
//     this agent created, the head it wrote last, and that the session of every agent
//     whose uploads the record names is alive. A fenced leader commits nothing.
//  2. An append whose outcome is unknown is resolved by writing the same record again at
//     the same seq, never by reading alone: a transaction that timed out can still be
//     applied later. Until then its proposals are neither answered nor reused.
//  3. Takeover fences first (a new leadership and a head of a higher epoch in one
//     transaction) and reads second.
//  4. Per shard one append is in flight; what arrives meanwhile shares the next record.
//  5. A View only moves forward, record by record, in seq order.
//  6. A record whose checksum does not match, or that makes no sense, is never applied: the view of its
//     shard stands still, here, until it can be read or a snapshot covers it, and no agent takes
//     the shard over meanwhile.
//
// Set is the whole of it for one agent. All exported methods may be called concurrently.
package journal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
)

// Session is the agent's life as the metadata store sees it.
type Session interface {
	ID() tiering.SessionID
	Node() int32 // the agent's node id, which may change with the session
	Lease() metadata.LeaseID
	Alive() bool           // false once leadership under it must not be claimed any more
	Lost() <-chan struct{} // closed when Alive turns false
}

// Observer hears what happened, for metrics. Its methods must return quickly and may be
// called concurrently.
type Observer interface {
	Appended(id tiering.ShardID, bytes int, took time.Duration)
	UnknownOutcome(id tiering.ShardID)
	LeadershipGained(id tiering.ShardID, epoch tiering.LeaderEpoch)
	LeadershipLost(id tiering.ShardID)
	SnapshotWritten(id tiering.ShardID, bytes int)
	JournalLength(id tiering.ShardID, records uint64)
}

// Config is what a Set needs to know.
type Config struct {
	Keys   metadata.Keys
	Shards uint32

	// SnapshotRecords and SnapshotBytes are how far a journal grows before its leader
	// writes a snapshot: smaller costs object-store requests, larger costs etcd space and
	// takeover time. Defaults: 2,000 records, 4 MiB.
	SnapshotRecords uint64
	SnapshotBytes   int64

	// SnapshotAge is how long a journal may hold a record before its leader writes a snapshot
	// anyway; 0: for ever. It bounds for how long objects that carry journal records must be
	// kept, see Uncovered. A leader writes its first one takeoverSnapshot after its takeover: what
	// the leader before it had committed last may not be in the bucket yet.
	SnapshotAge time.Duration
}

// Parts are the components that a Set works with.
type Parts struct {
	Store   metadata.Store
	Objects objstore.Store
	Log     *slog.Logger
	Now     func() time.Time
	Nonce   func() uint64 // random
	// RecordVersion returns the version in which records are written, by the cluster's level
	// (metadata/level); nil: the newest.
	RecordVersion func() byte
	Observe       Observer // nil: nobody
	// Committed is called with every record that a leader of this Set has committed, as it
	// was written; nil: nobody. It must not keep the leader waiting.
	Committed func(id tiering.ShardID, seq uint64, value []byte)
	// Applied is called after a record was applied to a shard's view, outside all locks,
	// in seq order per shard most of the time: listeners must read the view for truth.
	Applied func(id tiering.ShardID, r *shard.Record)
}

const (
	// maxRecordBytes bounds a record: etcd takes 1.5 MiB in a request, head and framing
	// included. Smaller would cost more appends under load.
	maxRecordBytes = metadata.MaxTxnBytes - 64<<10
	// attemptTimeout bounds one attempt of a transaction. Long enough for a slow fsync,
	// short enough to notice a lost connection within a lease.
	attemptTimeout = 2 * time.Second
	// retryMin and retryMax bound the pause between attempts of unknown outcome.
	retryMin = 20 * time.Millisecond
	retryMax = 500 * time.Millisecond
	// reconcileEvery is how often views are checked against the heads: a watch is a hint.
	reconcileEvery = 30 * time.Second
	// lagPatience is for how long a view that is behind its head may stand still before it is
	// read again. Shorter: a store under load has whole journals read for nothing. Longer:
	// together with reconcileEvery it bounds how long a lost event goes unnoticed, to less
	// than a minute.
	lagPatience = 5 * time.Second
	// takeoverSnapshot is when a new leader covers the journal that it found. Shorter would have
	// leadership that moves twice cost two snapshots. Longer leaves a hole in what the bucket
	// alone can tell, if the metadata store is lost within it.
	takeoverSnapshot = 5 * time.Second
	// rangePage is how many keys one read of the keyspace returns at most.
	rangePage = 1000
)

// Leadership says who leads a shard, or led it last.
type Leadership struct {
	Node    int32
	Session tiering.SessionID
	Epoch   tiering.LeaderEpoch
	Live    bool // the leadership stands; otherwise the shard has no leader right now
}

// Set is an agent's view of all shards and its leadership of some.
type Set struct {
	cfg   Config
	parts Parts
	views []*View

	loaded  chan struct{}
	work    sync.WaitGroup // leaders' and snapshots' goroutines; Run waits for it
	stopped chan struct{}  // closed when Run is about to return

	mu      sync.Mutex // guards the following
	leaders map[tiering.ShardID]*Leader
	taking  map[tiering.ShardID]bool // takeovers under way
	known   []knowledge
	changed chan struct{} // closed and replaced when known or leaders change
	closing bool
}

// knowledge is a leadership and the revision of the store at which it was true. What
// different goroutines read may arrive in another order than it was true in.
type knowledge struct {
	Leadership
	revision int64
}

// New returns a Set that knows nothing yet; Run fills it.
func New(cfg Config, parts Parts) *Set {
	if cfg.SnapshotRecords == 0 {
		cfg.SnapshotRecords = 2000
	}
	if cfg.SnapshotBytes == 0 {
		cfg.SnapshotBytes = 4 << 20
	}
	if parts.Observe == nil {
		parts.Observe = nobody{}
	}
	if parts.Committed == nil {
		parts.Committed = func(tiering.ShardID, uint64, []byte) {}
	}
	if parts.RecordVersion == nil {
		parts.RecordVersion = func() byte { return shard.RecordVersion }
	}
	if parts.Applied == nil {
		parts.Applied = func(tiering.ShardID, *shard.Record) {}
	}
	s := &Set{
		cfg: cfg, parts: parts,
		views:   make([]*View, cfg.Shards),
		loaded:  make(chan struct{}),
		stopped: make(chan struct{}),
		leaders: map[tiering.ShardID]*Leader{},
		taking:  map[tiering.ShardID]bool{},
		known:   make([]knowledge, cfg.Shards),
		changed: make(chan struct{}),
	}
	for i := range s.views {
		s.views[i] = newView(tiering.ShardID(i))
		s.known[i].Epoch = -1
	}
	return s
}

// Run loads all shards and follows them until ctx ends; then it waits for every
// goroutine of the Set. It returns an error only if it cannot go on: a view found
// corrupt data.
func (s *Set) Run(ctx context.Context) error {
	defer s.work.Wait()
	defer s.stop()
	for {
		revision, err := s.load(ctx)
		if err == nil {
			s.signalLoaded()
			err = s.follow(ctx, revision+1)
		}
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, shard.ErrCorrupt) {
			return err
		}
		s.parts.Log.Warn("following the journals was interrupted; reading them again", "err", err)
		if !pause(ctx, retryMax) {
			return nil
		}
	}
}

func (s *Set) signalLoaded() {
	select {
	case <-s.loaded:
	default:
		close(s.loaded)
	}
}

// stop keeps new leaders from starting and tells the others that nobody follows any more.
func (s *Set) stop() {
	s.mu.Lock()
	s.closing = true
	s.mu.Unlock()
	close(s.stopped)
}

// Loaded is closed when every view has been filled once.
func (s *Set) Loaded() <-chan struct{} { return s.loaded }

// Stopped returns how many views stand still because a record of their shard is damaged.
func (s *Set) Stopped() (n int) {
	for _, v := range s.views {
		if v.Err() != nil {
			n++
		}
	}
	return n
}

// NumShards returns the cluster's number of shards.
func (s *Set) NumShards() uint32 { return s.cfg.Shards }

// View returns this agent's view of a shard.
func (s *Set) View(id tiering.ShardID) *View { return s.views[id] }

// Leader returns this agent's leadership of a shard, or nil.
func (s *Set) Leader(id tiering.ShardID) *Leader {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leaders[id]
}

// Leadership returns who leads a shard as far as this agent has seen.
func (s *Set) Leadership(id tiering.ShardID) Leadership {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.known[id].Leadership
}

// Leaderships returns who leads each shard and a channel that is closed when that
// changes.
func (s *Set) Leaderships() ([]Leadership, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Leadership, len(s.known))
	for i, k := range s.known {
		out[i] = k.Leadership
	}
	return out, s.changed
}

// Changed returns a channel that is closed when a leadership changes.
func (s *Set) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// setLeadership takes note of what was true at a revision, unless something newer is known.
func (s *Set) setLeadership(id tiering.ShardID, l Leadership, revision int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := &s.known[id]
	if revision < old.revision {
		return
	}
	if !l.Live {
		l.Node, l.Session, l.Epoch = old.Node, old.Session, max(old.Epoch, l.Epoch)
	}
	if l.Epoch < old.Epoch {
		return
	}
	old.revision = revision
	if l != old.Leadership {
		old.Leadership = l
		s.signalLocked()
	}
}

// forgetRevisionsAfter lets what was read at the given revision stand, although something
// of a higher one is known: a restored store issues revisions again. A watch from there on
// brings back what was newer.
func (s *Set) forgetRevisionsAfter(revision int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.known {
		s.known[i].revision = min(s.known[i].revision, revision)
	}
}

func (s *Set) signalLocked() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// Sync returns when this agent's views of the given shards hold everything that was
// committed before the call: a linearizable read of the heads, then a wait for the views.
func (s *Set) Sync(ctx context.Context, ids ...tiering.ShardID) error {
	for len(ids) > 0 {
		n := min(len(ids), metadata.MaxTxnOps)
		keys := make([]string, n)
		for i, id := range ids[:n] {
			keys[i] = s.cfg.Keys.Head(id)
		}
		kvs, _, err := s.parts.Store.Get(ctx, keys...)
		if err != nil {
			return fmt.Errorf("reading the journals' heads: %w", err)
		}
		for i, kv := range kvs {
			if !kv.Exists() {
				continue
			}
			h, err := decodeHead(kv.Value)
			if err != nil {
				return err
			}
			if err := s.views[ids[i]].Wait(ctx, h.Seq); err != nil {
				return err
			}
		}
		ids = ids[n:]
	}
	return nil
}

// pause waits for d or for ctx to end, and reports whether ctx lives.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

type nobody struct{}

func (nobody) Appended(tiering.ShardID, int, time.Duration)          {}
func (nobody) UnknownOutcome(tiering.ShardID)                        {}
func (nobody) LeadershipGained(tiering.ShardID, tiering.LeaderEpoch) {}
func (nobody) LeadershipLost(tiering.ShardID)                        {}
func (nobody) SnapshotWritten(tiering.ShardID, int)                  {}
func (nobody) JournalLength(tiering.ShardID, uint64)                 {}
