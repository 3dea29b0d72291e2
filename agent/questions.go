package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/floelog/floe/agent/coordinator"
	"github.com/floelog/floe/agent/group"
	"github.com/floelog/floe/agent/peer"
	"github.com/floelog/floe/agent/txn"
	"github.com/floelog/floe/compaction"
	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/metadata/membership"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// questions brings what is asked of a shard's leader to it, here or elsewhere. All questions
// may be asked again after an unknown outcome: their answers do not change by it.
type questions struct {
	self   *atomic.Int32 // the agent's node id
	set    *journal.Set
	agents *membership.Agents
	peers  Peers
	groups *coordinator.Shell
	txns   *coordinator.Shell
	marks  *marker
	loads  *shardLoads
	sparse atomic.Pointer[compaction.Sparse] // segments that are mostly dead; nil: none are known
}

// coordinate makes the coordinators of groups and transactions.
func (a *Agent) coordinate() error {
	if err := errors.Join(a.cfg.Groups.Validate(), a.cfg.Transactions.Validate()); err != nil {
		return err
	}
	parts := func(kind string) coordinator.Parts {
		return coordinator.Parts{
			Journals: a.set, Call: a.call, Now: time.Now, Log: a.parts.Log, Observe: a.metrics.coordinators.of(kind),
			Topics: func() (coordinator.Topics, <-chan struct{}) {
				v := a.catalogue.View()
				return v, v.Changed()
			},
		}
	}
	machines := a.parts.Machines
	if machines == nil {
		machines = func(_ string, load coordinator.Load) coordinator.Load { return load }
	}
	a.questions = &questions{
		self: &a.node, set: a.set, agents: a.agents, peers: a.parts.Peers,
		groups: coordinator.New(machines("groups", group.NewLoad(a.cfg.Groups, uuid.NewString)), parts("groups")),
		txns:   coordinator.New(machines("transactions", txn.NewLoad(a.cfg.Transactions)), parts("transactions")),
		marks:  &marker{set: a.set, topics: a.catalogue},
	}
	a.ports.Groups, a.ports.Transactions = groups{a.questions}, transactions{a.questions}
	return nil
}

// question is one kind of question. In and Out travel as JSON: there are thousands a second
// at most, and agents of different versions understand each other.
type question[In, Out any] struct {
	kind string
	here func(ctx context.Context, q *questions, id tiering.ShardID, in In) (Out, error)
}

var (
	enlistQuestion = question[txn.Enlist, txn.Enlisted]{"enlist", func(ctx context.Context, q *questions, id tiering.ShardID, in txn.Enlist) (out txn.Enlisted, err error) {
		return askShell[txn.Enlisted](ctx, q.txns, id, in)
	}}
	concludeQuestion = question[group.Conclude, group.Concluded]{"conclude", func(ctx context.Context, q *questions, id tiering.ShardID, in group.Conclude) (group.Concluded, error) {
		return askShell[group.Concluded](ctx, q.groups, id, in)
	}}
	markQuestion = question[[]shard.Marker, []int16]{"mark", func(ctx context.Context, q *questions, id tiering.ShardID, in []shard.Marker) ([]int16, error) {
		return q.marks.mark(ctx, id, in)
	}}
	configsQuestion = question[group.Configs, map[string]string]{"group configs", func(ctx context.Context, q *questions, id tiering.ShardID, in group.Configs) (map[string]string, error) {
		return askShell[map[string]string](ctx, q.groups, id, in)
	}}
	alterConfigsQuestion = question[group.AlterConfigs, string]{"alter group configs", func(ctx context.Context, q *questions, id tiering.ShardID, in group.AlterConfigs) (string, error) {
		refused, err := askShell[error](ctx, q.groups, id, in)
		if refused != nil {
			return refused.Error(), err
		}
		return "", err
	}}
)

// answers are the questions that other agents may ask, by kind.
var answers = map[string]func(ctx context.Context, q *questions, id tiering.ShardID, body []byte) ([]byte, error){
	enlistQuestion.kind:       enlistQuestion.answer,
	concludeQuestion.kind:     concludeQuestion.answer,
	markQuestion.kind:         markQuestion.answer,
	configsQuestion.kind:      configsQuestion.answer,
	alterConfigsQuestion.kind: alterConfigsQuestion.answer,
	changeKind:                answerChange,
	sparseKind:                answerSparse,
	loadKind:                  answerLoad,
}

func askShell[Out any](ctx context.Context, s *coordinator.Shell, id tiering.ShardID, in any) (out Out, err error) {
	v, err := s.Ask(ctx, id, coordinator.Client{}, in)
	if err == nil && v != nil {
		out = v.(Out)
	}
	return out, err
}

// answer serves another agent.
func (k question[In, Out]) answer(ctx context.Context, q *questions, id tiering.ShardID, body []byte) ([]byte, error) {
	var in In
	if err := json.Unmarshal(body, &in); err != nil {
		return nil, fmt.Errorf("%w: a question %q that cannot be read: %w", metadata.ErrInvalid, k.kind, err)
	}
	out, err := k.here(ctx, q, id, in)
	if err != nil {
		return nil, err
	}
	return json.Marshal(out)
}

// try asks the shard's leader once. An error other than metadata.ErrInvalid may be cured by
// asking again.
func (k question[In, Out]) try(ctx context.Context, q *questions, id tiering.ShardID, in In) (out Out, err error) {
	if q.set.Leader(id) != nil {
		return k.here(ctx, q, id, in)
	}
	lead := q.set.Leadership(id)
	if !lead.Live || lead.Node == q.self.Load() {
		return out, fmt.Errorf("shard %d has no leader: %w", id, metadata.ErrFenced)
	}
	a, ok := q.agents.View().Agent(membership.NodeID(lead.Node))
	if !ok {
		return out, fmt.Errorf("shard %d is led by agent %d, which is not registered: %w", id, lead.Node, metadata.ErrFenced)
	}
	body, err := json.Marshal(in)
	if err != nil {
		return out, fmt.Errorf("%w: %w", metadata.ErrInvalid, err)
	}
	ctx, cancel := context.WithTimeout(ctx, peerTimeout)
	defer cancel()
	b, err := q.peers.Ask(ctx, a.RPCAddress, peer.Question{Shard: id, Kind: k.kind, Body: body})
	if err != nil {
		return out, err
	}
	if err := json.Unmarshal(b, &out); err != nil {
		return out, fmt.Errorf("the answer to %q from agent %d cannot be read: %w", k.kind, lead.Node, err)
	}
	return out, nil
}

// ask asks the shard's leader, whoever that is by then, until it answers or ctx ends.
func (k question[In, Out]) ask(ctx context.Context, q *questions, id tiering.ShardID, in In) (Out, error) {
	for {
		changed := q.set.Changed()
		out, err := k.try(ctx, q, id, in)
		if err == nil || errors.Is(err, metadata.ErrInvalid) || ctx.Err() != nil {
			return out, err
		}
		t := time.NewTimer(sequenceRetry)
		select {
		case <-changed:
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
		if ctx.Err() != nil {
			return out, fmt.Errorf("asking the leader of shard %d: %w (last: %w)", id, ctx.Err(), err)
		}
	}
}

// AnswerHere answers what another agent asks about a shard that this agent leads.
func (a *Agent) AnswerHere(ctx context.Context, q peer.Question) ([]byte, error) {
	if out, known, err := a.doctor.examine(q.Kind); known {
		return out, err
	}
	if q.Kind == aliveKind {
		return a.answerAlive()
	}
	answer := answers[q.Kind]
	if answer == nil || uint32(q.Shard) >= a.set.NumShards() {
		return nil, fmt.Errorf("%w: a question %q about shard %d", metadata.ErrInvalid, q.Kind, q.Shard)
	}
	return answer(ctx, a.questions, q.Shard, q.Body)
}

// call makes a machine's call once; see coordinator.Parts.
func (a *Agent) call(ctx context.Context, c coordinator.Call) (any, error) {
	switch c := c.(type) {
	case coordinator.NewProducerID:
		return a.ports.ProducerIDs.Next(ctx)
	case coordinator.Conclude:
		return nil, a.questions.conclude(ctx, c)
	}
	return nil, fmt.Errorf("a call of type %T: %w", c, metadata.ErrInvalid)
}

// conclude ends a transaction in one partition or group.
func (q *questions) conclude(ctx context.Context, c coordinator.Conclude) error {
	if c.Group != "" {
		out, err := concludeQuestion.try(ctx, q, c.Shard, group.Conclude{Group: c.Group, Transaction: c.Transaction, Commit: c.Commit})
		if err != nil {
			return err
		}
		return markedError(out.Code)
	}
	m := shard.Marker{Partition: c.Partition, Transaction: c.Transaction, Commit: c.Commit, Coordinator: c.Coordinator}
	codes, err := markQuestion.try(ctx, q, c.Shard, []shard.Marker{m})
	switch {
	case err != nil:
		return err
	case len(codes) != 1:
		return fmt.Errorf("%d answers to one marker", len(codes))
	}
	return markedError(codes[0])
}

// markedError says what became of a marker.
func markedError(code int16) error {
	switch shard.Code(code) {
	case shard.OK, shard.UnknownTopicOrPartition: // a deleted topic has nothing left to conclude
		return nil
	case shard.InvalidProducerEpoch, shard.TransactionNotAccepted:
		return coordinator.ErrFencedMarker
	}
	return fmt.Errorf("a marker was refused with code %d", code)
}
