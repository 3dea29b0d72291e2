package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// Acquire takes a shard that has no leader, under the given session. The leadership runs
// until ctx ends, the session is lost, it is fenced or released. ErrConflict: another
// agent leads it, or took it first, or this one leads it already. ErrSessionDead: the
// session is gone. A leadership of this session that nobody serves, the leftover of a
// takeover that failed half-way, is taken over like any other.
func (s *Set) Acquire(ctx context.Context, session Session, id tiering.ShardID) (*Leader, error) {
	if !s.startTaking(id) {
		return nil, fmt.Errorf("taking shard %d over: %w: this agent leads it already", id, metadata.ErrConflict)
	}
	defer s.doneTaking(id)
	if err := s.readable(ctx, id); err != nil {
		return nil, fmt.Errorf("taking shard %d over: %w", id, err)
	}
	f, err := s.fence(ctx, session, id)
	if err != nil {
		return nil, fmt.Errorf("taking shard %d over: %w", id, err)
	}
	l, err := s.lead(ctx, session, id, f)
	if err != nil {
		s.vacate(ctx, session, id, f.leader)
		return nil, fmt.Errorf("taking shard %d over: %w", id, err)
	}
	return l, nil
}

// readable refuses to take a shard whose journal is known to be damaged, before anything is written: agents would
// pass it on without end, each with a higher epoch.
func (s *Set) readable(ctx context.Context, id tiering.ShardID) error {
	v := s.views[id]
	if v.Err() == nil {
		return nil
	}
	if err := s.reload(ctx, id); err != nil {
		return err
	}
	return v.Err()
}

func (s *Set) startTaking(id tiering.ShardID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taking[id] || s.leaders[id] != nil {
		return false
	}
	s.taking[id] = true
	return true
}

func (s *Set) doneTaking(id tiering.ShardID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.taking, id)
}

// lead reads the state, only now that nobody else can write, and starts the leader.
func (s *Set) lead(ctx context.Context, session Session, id tiering.ShardID, f fenced) (*Leader, error) {
	if err := s.reload(ctx, id); err != nil {
		return nil, err
	}
	if err := s.views[id].Err(); err != nil {
		return nil, err
	}
	kvs, _, err := s.parts.Store.Get(ctx, s.cfg.Keys.Snapshot(id))
	if err != nil {
		return nil, err
	}
	snapshot, err := decodeSnapshotPointer(kvs[0])
	if err != nil {
		return nil, err
	}
	l := &Leader{
		set: s, id: id, view: s.views[id], session: session, epoch: f.epoch, value: f.leader,
		wake: make(chan struct{}, 1), over: make(chan struct{}),
	}
	l.appender.head, l.appender.seq, l.appender.snapshotSeq = f.head, f.seq, snapshot.Seq
	if at := l.view.Seq(); at != f.seq {
		return nil, fmt.Errorf("%w: its head is record %d, but the journal ends at %d", shard.ErrCorrupt, f.seq, at)
	}
	if !s.install(ctx, l, f.revision) {
		return nil, fmt.Errorf("%w: the agent stops", metadata.ErrFenced)
	}
	return l, nil
}

func (s *Set) install(ctx context.Context, l *Leader, revision int64) bool {
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		return false
	}
	s.leaders[l.id] = l
	s.work.Add(1)
	s.signalLocked()
	s.mu.Unlock()
	s.setLeadership(l.id, Leadership{l.session.Node(), l.session.ID(), l.epoch, true}, revision)
	s.parts.Observe.LeadershipGained(l.id, l.epoch)
	s.parts.Log.Debug("leadership taken", "shard", l.id, "epoch", l.epoch, "seq", l.appender.seq)
	go func() {
		defer s.work.Done()
		l.run(ctx)
	}()
	return true
}

// fenced is a takeover that worked: the values that were written, and where the journal
// ends.
type fenced struct {
	leader, head []byte
	seq          uint64
	epoch        tiering.LeaderEpoch
	revision     int64
}

// fence creates the leadership and rewrites the head with a higher epoch, in one
// transaction. An unknown outcome is resolved by writing the same again.
func (s *Set) fence(ctx context.Context, session Session, id tiering.ShardID) (fenced, error) {
	leaderKey, headKey, sessionKey := s.cfg.Keys.Leader(id), s.cfg.Keys.Head(id), s.cfg.Keys.Session(session.ID())
	kvs, _, err := s.parts.Store.Get(ctx, leaderKey, headKey)
	if err != nil {
		return fenced{}, err
	}
	vacant := metadata.Absent(leaderKey)
	if kvs[0].Exists() {
		l, err := decodeLeader(kvs[0].Value)
		if err != nil || l.Session != session.ID() || l.Node != session.Node() {
			return fenced{}, fmt.Errorf("%w: led by %s", metadata.ErrConflict, kvs[0].Value)
		}
		vacant = metadata.Equals(leaderKey, kvs[0].Value) // our own, and no leader of it runs here
	}
	var old headValue
	unmoved := metadata.Absent(headKey)
	if kvs[1].Exists() {
		if old, err = decodeHead(kvs[1].Value); err != nil {
			return fenced{}, err
		}
		unmoved = metadata.Equals(headKey, kvs[1].Value)
	}
	// The epoch also stays above every one that this agent has ever seen.
	f := fenced{seq: old.Seq, epoch: max(old.Epoch, s.Leadership(id).Epoch) + 1}
	f.leader, f.head = encodeLeader(session.Node(), session.ID(), f.epoch), encodeHead(f.epoch, session.ID(), old.Seq)
	txn := metadata.Txn{
		If:   []metadata.Condition{vacant, unmoved, metadata.Present(sessionKey)},
		Then: []metadata.Op{metadata.PutLeased(leaderKey, f.leader, session.Lease()), metadata.Put(headKey, f.head)},
		Else: []string{leaderKey, headKey, sessionKey},
	}
	for wait := retryMin; ; wait = min(2*wait, retryMax) {
		actx, cancel := context.WithTimeout(ctx, attemptTimeout)
		res, err := s.parts.Store.Txn(actx, txn)
		cancel()
		switch {
		case err == nil:
			return f.judge(res)
		case errors.Is(err, metadata.ErrLeaseLost):
			return fenced{}, fmt.Errorf("%w: %w", metadata.ErrSessionDead, err)
		case errors.Is(err, metadata.ErrInvalid):
			return fenced{}, err
		}
		s.parts.Observe.UnknownOutcome(id)
		if !session.Alive() || !pause(ctx, wait) {
			return fenced{}, err
		}
	}
}

// judge reads the store's answer: an earlier attempt may have worked.
func (f fenced) judge(res metadata.TxnResult) (fenced, error) {
	f.revision = res.Revision
	switch {
	case res.Succeeded:
		return f, nil
	case bytes.Equal(res.Else[0].Value, f.leader) && bytes.Equal(res.Else[1].Value, f.head):
		return f, nil
	case !res.Else[2].Exists():
		return fenced{}, metadata.ErrSessionDead
	}
	return fenced{}, fmt.Errorf("%w: led by %s", metadata.ErrConflict, orNobody(res.Else[0]))
}
