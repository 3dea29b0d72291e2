package agent

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/floelog/floe/agent/kafka/topicconfig"
	"github.com/floelog/floe/agent/peer"
	"github.com/floelog/floe/compaction/job"
	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/metadata/level"
	"github.com/floelog/floe/metadata/membership"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// changeKind is the question by which a job's changes travel to the shard's leader:
//
//	asker's session 16 | length of its value 2 BE | value | changes (shard.EncodeChanges)
//	answer: seq of the record 8 BE
//
// The value is that of the session's key, which holds the session's upload low watermark, and the
// append demands it. So a copy of the question that the network delivers when the asker has long
// given up does nothing once the watermark has passed the objects that it names, which may have been
// swept away: the digests alone might fit again, where a manifest was turned back into its extents.
const changeKind = "change"

// changePatience bounds how long one change waits for a shard that has no leader or does not
// answer. Shorter: what was merged is thrown away whenever an agent dies, until its lease ends and
// another one leads. Longer: the jobs of all other shards wait as long.
const changePatience = 15 * time.Second

// viewPatience is how long a committed change waits to be seen in this agent's own view: as long
// as a watch may lag while it is well. A view that lags more makes jobs plan in vain, no more.
const viewPatience = 3 * time.Second

// registerStopped registers the gauge of shards that stand still here, which somebody must look after.
func registerStopped(reg prometheus.Registerer, set *journal.Set) error {
	return reg.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "floe_journal_stopped_shards", Help: "Shards that stand still on this agent because a record of their journal cannot be read: see floe fsck."},
		func() float64 { return float64(set.Stopped()) }))
}

// journals implements job.Journals for one life of the agent: changes go to the shard's leader,
// here or by a question to another agent, in the name of the life's session.
type journals struct {
	*journal.Set
	q       *questions
	session *membership.Session
}

// Change implements job.Journals.
func (j journals) Change(ctx context.Context, id tiering.ShardID, changes ...shard.Change) error {
	ctx, cancel := context.WithTimeoutCause(ctx, changePatience, job.ErrUnanswered)
	defer cancel()
	for {
		changed := j.Changed()
		err := j.try(ctx, id, changes)
		if err == nil || errors.Is(err, metadata.ErrSessionDead) || errors.Is(err, metadata.ErrInvalid) {
			return err
		}
		t := time.NewTimer(sequenceRetry)
		select {
		case <-changed:
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return fmt.Errorf("changing shard %d: %w (last: %w)", id, context.Cause(ctx), err)
		}
		t.Stop()
	}
}

// asker is the session in whose name changes are committed, and what its key has.
type asker struct {
	session tiering.SessionID
	value   []byte
}

func (a asker) append(b []byte) []byte {
	b = append(b, a.session[:]...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(a.value)))
	return append(b, a.value...)
}

// cutAsker reads what append wrote, and returns what follows.
func cutAsker(b []byte) (a asker, rest []byte, err error) {
	const head = len(a.session) + 2
	if len(b) < head {
		return a, nil, fmt.Errorf("%w: changes that name no session", metadata.ErrInvalid)
	}
	n := copy(a.session[:], b)
	end := head + int(binary.BigEndian.Uint16(b[n:]))
	if a.session.IsZero() || end == head || end > len(b) {
		return a, nil, fmt.Errorf("%w: changes that name no session, or not its value", metadata.ErrInvalid)
	}
	a.value = b[head:end:end]
	return a, b[end:], nil
}

// try asks the shard's leader once. What a try that failed may have committed all the same is
// recognised when it is repeated, by the digests of the changes.
func (j journals) try(ctx context.Context, id tiering.ShardID, changes []shard.Change) error {
	by := asker{j.session.ID(), j.session.Value()}
	if l := j.Leader(id); l != nil {
		_, err := proposeChanges(ctx, l, by, changes)
		return err
	}
	lead := j.Leadership(id)
	if !lead.Live || lead.Node == j.q.self.Load() {
		return fmt.Errorf("shard %d has no leader: %w", id, metadata.ErrFenced)
	}
	a, ok := j.q.agents.View().Agent(membership.NodeID(lead.Node))
	if !ok {
		return fmt.Errorf("shard %d is led by agent %d, which is not registered: %w", id, lead.Node, metadata.ErrFenced)
	}
	encoded, err := shard.EncodeChanges(changes, level.First.Formats().Record) // they are the same in every version
	if err != nil {
		return fmt.Errorf("%w: %w", metadata.ErrInvalid, err)
	}
	ask, cancel := context.WithTimeout(ctx, peerTimeout)
	defer cancel()
	b, err := j.q.peers.Ask(ask, a.RPCAddress, peer.Question{Shard: id, Kind: changeKind, Body: append(by.append(nil), encoded...)})
	if err != nil {
		return err
	}
	if len(b) != 8 {
		return fmt.Errorf("the answer to %q from agent %d has %d bytes", changeKind, lead.Node, len(b))
	}
	see, cancel := context.WithTimeout(ctx, viewPatience)
	defer cancel()
	_ = j.View(id).Wait(see, binary.BigEndian.Uint64(b)) // it is committed, seen or not
	return nil
}

// answerChange serves another agent's jobs.
func answerChange(ctx context.Context, q *questions, id tiering.ShardID, body []byte) ([]byte, error) {
	by, rest, err := cutAsker(body)
	if err != nil {
		return nil, err
	}
	changes, err := shard.DecodeChanges(rest)
	if err != nil {
		return nil, fmt.Errorf("%w: changes that cannot be read: %w", metadata.ErrInvalid, err)
	}
	l := q.set.Leader(id)
	if l == nil {
		return nil, fmt.Errorf("shard %d is not led here: %w", id, metadata.ErrFenced)
	}
	seq, err := proposeChanges(ctx, l, by, changes)
	if err != nil {
		return nil, err
	}
	return binary.BigEndian.AppendUint64(nil, seq), nil
}

// proposeChanges hands changes to the leader and waits for its answer. Once ctx has ended, what
// is not part of a record yet never will be: nothing that was asked again may come late.
func proposeChanges(ctx context.Context, l *journal.Leader, by asker, changes []shard.Change) (uint64, error) {
	type answer struct {
		seq uint64
		err error
	}
	done := make(chan answer, 1)
	var held atomic.Pointer[[]shard.Change]
	held.Store(&changes)
	l.Propose(&journal.Proposal{
		Session: by.session,
		Value:   by.value,
		Size:    changesSize(changes),
		Draft: func(d *shard.Draft) error {
			now := held.Load()
			if now == nil || ctx.Err() != nil {
				return fmt.Errorf("%w: nobody waits for it any more", metadata.ErrFenced)
			}
			for _, c := range *now {
				d.Add(c)
			}
			return nil
		},
		Done: func(seq uint64, err error) { done <- answer{seq, err} },
	})
	select {
	case a := <-done:
		return a.seq, a.err
	case <-ctx.Done():
		held.Store(nil) // callers that repeat themselves must not fill the leader's memory
		return 0, fmt.Errorf("waiting for the leader's answer: %w", ctx.Err())
	}
}

// changesSize estimates from above what changes add to a record.
func changesSize(changes []shard.Change) int {
	n := 0
	for _, c := range changes {
		n += 160
		if r, ok := c.(shard.Replace); ok {
			n += 64*len(r.With) + 10*len(r.Unmarked)
		}
	}
	return n
}

// policies implements job.Policies: what topics' configs say, parsed once per change of a topic.
type policies struct {
	topics   *catalogue.Catalogue
	defaults map[string]string

	mu    sync.Mutex // guards the following
	known map[tiering.TopicID]knownPolicy
}

// knownPolicy is the policy of a topic as it was when it was parsed. A topic that has changed is
// another *catalogue.Topic.
type knownPolicy struct {
	topic  *catalogue.Topic
	policy job.Policy
	ok     bool
}

func newPolicies(topics *catalogue.Catalogue, defaults map[string]string) *policies {
	return &policies{topics: topics, defaults: defaults, known: map[tiering.TopicID]knownPolicy{}}
}

// Policy implements job.Policies. A topic whose configs cannot be read, as those of a newer
// release may, is treated like one that is not known: nothing is done for it.
func (p *policies) Policy(id tiering.TopicID) (job.Policy, bool) {
	t, ok := p.topics.View().TopicByID(id)
	p.mu.Lock()
	defer p.mu.Unlock()
	if !ok {
		delete(p.known, id)
		return job.Policy{}, false
	}
	k, ok := p.known[id]
	if !ok || k.topic != t {
		k = knownPolicy{topic: t}
		if s, err := topicconfig.Parse(t.Configs, p.defaults); err == nil {
			k.policy, k.ok = policyOf(s), true
		}
		p.known[id] = k
	}
	return k.policy, k.ok
}

func policyOf(s *topicconfig.Settings) job.Policy {
	return job.Policy{
		Delete: s.Deleted, Retention: s.Retention, RetentionBytes: s.RetentionBytes,
		SegmentBytes: s.SegmentBytes, SegmentAge: s.SegmentAge,
		Compact: s.Compacted, MinDirtyRatio: s.MinDirtyRatio, MinCompactionLag: s.MinCompactionLag,
		MaxCompactionLag: s.MaxCompactionLag, DeleteRetention: s.DeleteRetention,
	}
}
