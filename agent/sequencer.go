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
		return propose(ctx, l, s)
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
func (q *sequencer) SequenceHere(ctx context.Context, id tiering.ShardID, s *shard.Submission) ([]shard.Outcome, error) {
	if uint32(id) >= q.set.NumShards() {
		return nil, fmt.Errorf("shard %d of %d: %w", id, q.set.NumShards(), metadata.ErrInvalid)
	}
	l := q.set.Leader(id)
	if l == nil {
		return nil, fmt.Errorf("shard %d is not led here: %w", id, metadata.ErrFenced)
	}
	return propose(ctx, l, s)
}

// propose waits for the leader's answer. It comes when the leader ends at the latest, but
// that may wait for a metadata store that cannot be reached, and an agent that stops does
// not: when ctx ends first, the outcome is unknown.
func propose(ctx context.Context, l *journal.Leader, s *shard.Submission) ([]shard.Outcome, error) {
	type answer struct {
		out []shard.Outcome
		err error
	}
	var out []shard.Outcome
	done := make(chan answer, 1)
	l.Propose(&journal.Proposal{
		Session: s.Session,
		Size:    submissionSize(s),
		Draft: func(d *shard.Draft) (err error) {
			out, err = d.Submit(s)
			return err
		},
		Done: func(_ uint64, err error) { done <- answer{out, err} },
	})
	select {
	case a := <-done:
		if a.err != nil {
			return nil, a.err
		}
		return a.out, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for the leader's answer: %w", ctx.Err())
	}
}

// submissionSize estimates from above what a submission adds to a record.
func submissionSize(s *shard.Submission) int {
	n := 256
	for i := range s.Parts {
		n += 160 + len(s.Parts[i].Inline) + 64*len(s.Parts[i].Batches)
	}
	return n
}
