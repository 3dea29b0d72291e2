package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/metadata/membership"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

const (
	// peerTimeout bounds one question to another agent: longer than an append ever takes
	// while its leader lives, about as long as a lease, after which another one leads.
	peerTimeout = 3 * time.Second
	// sequenceRetry is how long a submission waits for news of its shard's leadership
	// before it is tried again without any.
	sequenceRetry = 100 * time.Millisecond
)

// sequencer brings submissions to their shard's leader, here or elsewhere, and repeats
// them until the outcome is definite.
type sequencer struct {
	self   int32
	set    *journal.Set
	agents *membership.Agents
	peers  Peers
}

// Sequence implements produce.Sequencer.
func (q *sequencer) Sequence(ctx context.Context, id tiering.ShardID, s *shard.Submission) ([]shard.Outcome, error) {
	for {
		_, changed := q.set.Leaderships()
		out, err := q.try(ctx, id, s)
		if err == nil || definite(err) {
			return out, err
		}
		t := time.NewTimer(sequenceRetry)
		select {
		case <-changed:
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, fmt.Errorf("sequencing on shard %d: %w (last: %w)", id, ctx.Err(), err)
		}
		t.Stop()
	}
}

// definite reports whether an error says for certain that repeating cannot help.
func definite(err error) bool {
	return errors.Is(err, metadata.ErrSessionDead) || errors.Is(err, metadata.ErrInvalid) || errors.Is(err, shard.ErrStaleSubmission)
}

func (q *sequencer) try(ctx context.Context, id tiering.ShardID, s *shard.Submission) ([]shard.Outcome, error) {
	if l := q.set.Leader(id); l != nil {
		return propose(l, s)
	}
	lead := q.set.Leadership(id)
	if !lead.Live || lead.Node == q.self {
		return nil, fmt.Errorf("shard %d has no leader: %w", id, metadata.ErrFenced)
	}
	a, ok := q.agents.View().Agent(membership.NodeID(lead.Node))
	if !ok {
		return nil, fmt.Errorf("shard %d is led by agent %d, which is not registered: %w", id, lead.Node, metadata.ErrFenced)
	}
	ctx, cancel := context.WithTimeout(ctx, peerTimeout)
	defer cancel()
	return q.peers.Sequence(ctx, a.RPCAddress, id, s)
}

// SequenceHere implements peer.Sequencer: only what this agent leads.
func (q *sequencer) SequenceHere(_ context.Context, id tiering.ShardID, s *shard.Submission) ([]shard.Outcome, error) {
	if uint32(id) >= q.set.NumShards() {
		return nil, fmt.Errorf("shard %d of %d: %w", id, q.set.NumShards(), metadata.ErrInvalid)
	}
	l := q.set.Leader(id)
	if l == nil {
		return nil, fmt.Errorf("shard %d is not led here: %w", id, metadata.ErrFenced)
	}
	return propose(l, s)
}

// propose waits for the leader's answer, which always comes: the leader answers what it
// has when it ends.
func propose(l *journal.Leader, s *shard.Submission) ([]shard.Outcome, error) {
	var out []shard.Outcome
	done := make(chan error, 1)
	l.Propose(&journal.Proposal{
		Session: s.Session,
		Size:    submissionSize(s),
		Draft: func(d *shard.Draft) (err error) {
			out, err = d.Submit(s)
			return err
		},
		Done: func(_ uint64, err error) { done <- err },
	})
	if err := <-done; err != nil {
		return nil, err
	}
	return out, nil
}

// submissionSize estimates from above what a submission adds to a record.
func submissionSize(s *shard.Submission) int {
	n := 256
	for i := range s.Parts {
		n += 160 + len(s.Parts[i].Inline) + 64*len(s.Parts[i].Batches)
	}
	return n
}
