package journal

import (
	"bytes"
	"context"
	"fmt"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/tiering"
)

// Acquire takes a shard that has no leader, under the given session. The leadership runs
// until ctx ends, the session is lost, it is fenced or released. ErrConflict: another
// agent leads it, or took it first.
func (s *Set) Acquire(ctx context.Context, session Session, id tiering.ShardID) (*Leader, error) {
	head, epoch, err := s.fence(ctx, session, id)
	if err != nil {
		return nil, fmt.Errorf("taking shard %d over: %w", id, err)
	}
	// Only now that nobody else can write is the state read.
	if err := s.reload(ctx, id); err != nil {
		return nil, fmt.Errorf("taking shard %d over: %w", id, err)
	}
	kvs, _, err := s.parts.Store.Get(ctx, s.cfg.Keys.Snapshot(id))
	if err != nil {
		return nil, fmt.Errorf("taking shard %d over: %w", id, err)
	}
	snapshot, err := decodeSnapshotPointer(kvs[0])
	if err != nil {
		return nil, fmt.Errorf("taking shard %d over: %w", id, err)
	}
	l := &Leader{
		set: s, id: id, view: s.views[id], session: session, epoch: epoch,
		value: encodeLeader(s.cfg.Node, session.ID(), epoch),
		wake:  make(chan struct{}, 1), over: make(chan struct{}),
	}
	l.appender.head = encodeHead(epoch, session.ID(), head)
	l.appender.seq, l.appender.snapshotSeq = head, snapshot.Seq
	if at := l.view.Seq(); at != head {
		return nil, fmt.Errorf("taking shard %d over: %w: its head is record %d, but the journal ends at %d", id, metadata.ErrConflict, head, at)
	}
	if !s.install(ctx, l) {
		return nil, fmt.Errorf("taking shard %d over: %w: the agent stops", id, metadata.ErrFenced)
	}
	return l, nil
}

func (s *Set) install(ctx context.Context, l *Leader) bool {
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		return false
	}
	s.leaders[l.id] = l
	s.work.Add(1)
	s.signalLocked()
	s.mu.Unlock()
	s.setLeadership(l.id, Leadership{s.cfg.Node, l.session.ID(), l.epoch, true})
	s.parts.Observe.LeadershipGained(l.id, l.epoch)
	s.parts.Log.Info("leadership taken", "shard", l.id, "epoch", l.epoch, "seq", l.appender.seq)
	go func() {
		defer s.work.Done()
		l.run(ctx)
	}()
	return true
}

// fence creates the leadership and rewrites the head with a higher epoch, in one
// transaction, and returns the seq of the journal's last record and the new epoch. An
// unknown outcome is resolved by writing the same again.
func (s *Set) fence(ctx context.Context, session Session, id tiering.ShardID) (seq uint64, epoch tiering.LeaderEpoch, err error) {
	leaderKey, headKey := s.cfg.Keys.Leader(id), s.cfg.Keys.Head(id)
	kvs, _, err := s.parts.Store.Get(ctx, leaderKey, headKey)
	if err != nil {
		return 0, 0, err
	}
	if kvs[0].Exists() {
		if seq, epoch, ours := s.ownFence(session, kvs[0], kvs[1]); ours {
			return seq, epoch, nil
		}
		return 0, 0, fmt.Errorf("%w: led by %s", metadata.ErrConflict, kvs[0].Value)
	}
	var old headValue
	unmoved := metadata.Absent(headKey)
	if kvs[1].Exists() {
		if old, err = decodeHead(kvs[1].Value); err != nil {
			return 0, 0, err
		}
		unmoved = metadata.Equals(headKey, kvs[1].Value)
	}
	// The epoch also stays above every one that this agent has ever seen.
	epoch = max(old.Epoch, s.Leadership(id).Epoch) + 1
	leader, head := encodeLeader(s.cfg.Node, session.ID(), epoch), encodeHead(epoch, session.ID(), old.Seq)
	txn := metadata.Txn{
		If:   []metadata.Condition{metadata.Absent(leaderKey), unmoved, metadata.Present(s.cfg.Keys.Session(session.ID()))},
		Then: []metadata.Op{metadata.PutLeased(leaderKey, leader, session.Lease()), metadata.Put(headKey, head)},
		Else: []string{leaderKey, headKey},
	}
	for wait := retryMin; ; wait = min(2*wait, retryMax) {
		actx, cancel := context.WithTimeout(ctx, attemptTimeout)
		res, err := s.parts.Store.Txn(actx, txn)
		cancel()
		switch {
		case err == nil && res.Succeeded:
			return old.Seq, epoch, nil
		case err == nil && bytes.Equal(res.Else[0].Value, leader) && bytes.Equal(res.Else[1].Value, head):
			return old.Seq, epoch, nil // an earlier attempt had worked
		case err == nil:
			return 0, 0, fmt.Errorf("%w: led by %s", metadata.ErrConflict, orNobody(res.Else[0]))
		}
		s.parts.Observe.UnknownOutcome(id)
		if !session.Alive() || !pause(ctx, wait) {
			return 0, 0, err
		}
	}
}

// ownFence recognises a takeover of this very session that worked after its caller had
// given up on it: nothing has been written under it, since head and leadership agree and
// no leader of it is running here.
func (s *Set) ownFence(session Session, leader, head metadata.KV) (uint64, tiering.LeaderEpoch, bool) {
	l, err := decodeLeader(leader.Value)
	if err != nil || l.Session != session.ID() || l.Node != s.cfg.Node {
		return 0, 0, false
	}
	h, err := decodeHead(head.Value)
	if err != nil || h.Epoch != l.Epoch || h.Session != session.ID().String() {
		return 0, 0, false
	}
	return h.Seq, l.Epoch, true
}
