package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/catalogue"
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
	// topicPatience is how long a leader waits for its copy of the catalogue to show a topic
	// that another agent knows already, before it asks the metadata store whether there is
	// one: a watch lags by milliseconds.
	topicPatience = 100 * time.Millisecond
)

// sequencer brings submissions to their shard's leader, here or elsewhere, and repeats
// them until the outcome is definite.
type sequencer struct {
	self   *atomic.Int32 // the agent's node id
	set    *journal.Set
	agents *membership.Agents
	topics *catalogue.Catalogue
	peers  Peers
	loads  *shardLoads
}

// Sequence implements produce.Sequencer.
func (q *sequencer) Sequence(ctx context.Context, id tiering.ShardID, s *shard.Submission) ([]shard.Outcome, error) {
	for {
		changed := q.set.Changed()
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
		return q.propose(ctx, id, l, s)
	}
	lead := q.set.Leadership(id)
	if !lead.Live || lead.Node == q.self.Load() {
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
	return q.propose(ctx, id, l, s)
}

// propose hands a submission to the leader and waits for its answer. If ctx ends first,
// the outcome is not known, and a submission that still waits is dropped: a caller that
// repeats itself must not fill the leader's queue.
func (q *sequencer) propose(ctx context.Context, id tiering.ShardID, l *journal.Leader, s *shard.Submission) ([]shard.Outcome, error) {
	gone, err := q.deletedTopics(ctx, s)
	if err != nil {
		return nil, err
	}
	var held atomic.Pointer[shard.Submission]
	held.Store(s)
	var out []shard.Outcome
	done := make(chan error, 1)
	l.Propose(&journal.Proposal{
		Session: s.Session,
		Size:    submissionSize(s),
		Draft: func(d *shard.Draft) (err error) {
			sub := held.Load()
			if sub == nil {
				return fmt.Errorf("%w: nobody waits for it any more", metadata.ErrFenced)
			}
			for _, topic := range gone {
				d.Refuse(topic)
			}
			out, err = d.Submit(sub)
			return err
		},
		Done: func(_ uint64, err error) { done <- err },
	})
	select {
	case err := <-done:
		if err != nil {
			return nil, err
		}
		q.loads.sequenced(id, s)
		return out, nil
	case <-ctx.Done():
		held.Store(nil)
		return nil, fmt.Errorf("waiting for the leader's answer: %w", ctx.Err())
	}
}

// deletedTopics returns those topics of a submission that are proved to be deleted. A
// topic that this agent's copy of the catalogue lacks may just be new.
func (q *sequencer) deletedTopics(ctx context.Context, s *shard.Submission) ([]tiering.TopicID, error) {
	view := q.topics.View()
	missing := unknownTopics(view, s)
	patience := time.NewTimer(topicPatience)
	defer patience.Stop()
	for waiting := true; waiting && len(missing) > 0; {
		select {
		case <-view.Changed():
			view = q.topics.View()
			missing = unknownTopics(view, s)
		case <-patience.C:
			waiting = false
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if len(missing) == 0 {
		return nil, nil
	}
	gone, err := q.topics.Gone(ctx, missing)
	if err != nil {
		return nil, fmt.Errorf("looking for the topics of a submission: %w", err)
	}
	return gone, nil
}

func unknownTopics(view catalogue.View, s *shard.Submission) (missing []tiering.TopicID) {
	for i := range s.Parts {
		id := s.Parts[i].Partition.Topic
		if _, ok := view.TopicByID(id); !ok && !slices.Contains(missing, id) {
			missing = append(missing, id)
		}
	}
	return missing
}

// submissionSize estimates from above what a submission adds to a record.
func submissionSize(s *shard.Submission) int {
	n := 256
	for i := range s.Parts {
		n += 160 + len(s.Parts[i].Inline) + 64*len(s.Parts[i].Batches)
	}
	return n
}
