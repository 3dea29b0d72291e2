package load

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/integration/history"
	"github.com/floelog/floe/integration/torture/check"
)

// sessionTimeout is how long a member that crashed holds its partitions, which is part of what a group is without
// progress after the end; in the protocol of KIP-848 it is the agents' setting (rig). Less would put members out
// while a new leader of etcd and one of a shard are found.
const sessionTimeout = 10 * time.Second

// group is a consumer group and what it subscribes to.
type group struct {
	name   string
	topics []string
	judged bool // its commits are in the history: a client that commits by itself does not tell in time
	opts   []kgo.Opt
	last   atomic.Int64 // nanoseconds since the epoch: when a member committed last
}

func groups() []*group {
	return []*group{
		{name: "torture-classic", topics: []string{topicPlain, topicTxn}, judged: true, opts: []kgo.Opt{kgo.Balancers(kgo.CooperativeStickyBalancer())}},
		{name: "torture-eager", topics: []string{topicTxn}, judged: true, opts: []kgo.Opt{kgo.Balancers(kgo.RangeBalancer())}},
		{name: "torture-consumer", topics: []string{topicPlain, topicTxn}, judged: true, opts: []kgo.Opt{kgo.Balancers(kgo.StickyBalancer()), kgo.ServerSideBalancer()}},
		{name: "torture-auto", topics: []string{topicTxn}, opts: []kgo.Opt{kgo.Balancers(kgo.CooperativeStickyBalancer()), kgo.AutoCommitInterval(time.Second)}},
	}
}

// startGroups starts the members of each group, which leave or crash and are replaced.
func (l *Load) startGroups() {
	l.groups = groups()
	for i, g := range l.groups {
		for m := range 2 {
			r := l.random(400 + uint64(10*i+m))
			l.readers.Go(func() {
				for l.read.Err() == nil {
					life, cancel := context.WithTimeout(l.read, 2*l.lifetime(r))
					l.member(life, g, r)
					cancel()
				}
			})
		}
	}
}

// member is one life of a member of a group.
type member struct {
	l *Load
	g *group
	c *client
	// untold is of members in transactions: from one revocation to the end of the transaction, franz-go tells
	// their callbacks of no other.
	untold bool

	mu    sync.Mutex // guards the following
	holds map[history.Partition]bool
	asked map[history.Partition]uint64
}

func (l *Load) member(life context.Context, g *group, r *rand.Rand) {
	m := &member{l: l, g: g, holds: map[history.Partition]bool{}, asked: map[history.Partition]uint64{}}
	opts := append(m.options(), kgo.BlockRebalanceOnPoll())
	opts = append(opts, reading(history.Committed)...)
	opts = append(opts, seeing(r)...)
	opts = append(opts, g.opts...)
	if g.judged {
		opts = append(opts, kgo.DisableAutoCommit())
	} else {
		opts = append(opts, kgo.AutoCommitCallback(func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, _ *kmsg.OffsetCommitResponse, err error) {
			if err == nil {
				g.progressed(l)
			}
		}))
	}
	m.c = l.must(g.name, opts...)
	l.rec.Add(check.Event{Op: check.OpConsumer, Who: m.c.name, A: int64(history.Committed)})
	for l.lasts(life, l.read) {
		short, cancel := context.WithTimeout(l.read, time.Second)
		m.poll(short)
		cancel()
	}
	if r.IntN(3) == 0 && l.write.Err() == nil {
		l.rec.Note(m.c.name, "crashes")
		m.c.crash()
		return
	}
	id, gen := m.c.GroupMetadata()
	ctx, cancel := context.WithTimeout(context.Background(), 2*produceTimeout)
	defer cancel()
	left := m.c.LeaveGroupContext(ctx) == nil
	m.c.Close()
	if left && id != "" && g.judged && l.write.Err() == nil {
		l.lateCommit(g, id, gen)
	}
}

// lasts reports whether a member's life goes on. At the end of the load nobody leaves any more until all end, so that
// how long a group stands still is up to the cluster.
func (l *Load) lasts(life, all context.Context) bool {
	return all.Err() == nil && (life.Err() == nil || l.write.Err() != nil)
}

// options are those of every member of a group of subscribers.
func (m *member) options() []kgo.Opt {
	return []kgo.Opt{
		kgo.ConsumerGroup(m.g.name), kgo.ConsumeTopics(m.g.topics...), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.SessionTimeout(sessionTimeout), kgo.RebalanceTimeout(sessionTimeout), kgo.HeartbeatInterval(time.Second),
		kgo.FetchMaxWait(500 * time.Millisecond),
		kgo.OnPartitionsAssigned(func(_ context.Context, c *kgo.Client, added map[string][]int32) { m.assigned(c, added) }),
		kgo.OnPartitionsRevoked(func(_ context.Context, _ *kgo.Client, gone map[string][]int32) { m.gone(gone) }),
		kgo.OnPartitionsLost(func(_ context.Context, _ *kgo.Client, gone map[string][]int32) { m.gone(gone) }),
		kgo.OnOffsetsFetched(func(_ context.Context, _ *kgo.Client, resp *kmsg.OffsetFetchResponse) error {
			m.fetched(resp)
			return nil
		}),
	}
}

// assigned records all that the member has in its generation, as far as that is known, and begins the questions for
// the offsets of what is new, which the client asks for next.
func (m *member) assigned(c *kgo.Client, added map[string][]int32) {
	_, gen := c.GroupMetadata()
	m.mu.Lock()
	defer m.mu.Unlock()
	var news []history.Partition
	for topic, parts := range added {
		for _, p := range parts {
			m.holds[m.l.part(topic, p)] = true
			news = append(news, m.l.part(topic, p))
		}
	}
	has := news
	if !m.untold {
		has = slices.Collect(maps.Keys(m.holds))
	}
	for _, part := range has {
		m.l.rec.Add(check.Event{Op: check.OpOwns, Who: m.c.name, Group: m.g.name, Part: part, A: int64(gen)})
	}
	for _, part := range news {
		m.l.rec.Add(check.Event{Op: check.OpAssigned, Who: m.c.name, Part: part, A: -1})
		if m.g.judged {
			m.asked[part] = m.l.rec.Add(check.Event{Op: check.OpAskOffset, Who: m.c.name, Group: m.g.name, Part: part})
		}
	}
}

func (m *member) gone(gone map[string][]int32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for topic, parts := range gone {
		for _, p := range parts {
			part := m.l.part(topic, p)
			delete(m.holds, part)
			m.l.rec.Add(check.Event{Op: check.OpLeaves, Who: m.c.name, Group: m.g.name, Part: part})
		}
	}
}

// fetched records where the member begins to read, before it does.
func (m *member) fetched(resp *kmsg.OffsetFetchResponse) {
	m.mu.Lock()
	defer m.mu.Unlock()
	one := func(topic string, p int32, code int16, offset int64) {
		part := m.l.part(topic, p)
		if code != 0 || !m.holds[part] {
			return
		}
		if id, ok := m.asked[part]; ok {
			delete(m.asked, part)
			m.l.rec.Add(check.Event{Op: check.OpOffset, Who: m.c.name, ID: id, A: offset})
		}
		m.l.rec.Add(check.Event{Op: check.OpAssigned, Who: m.c.name, Part: part, A: max(0, offset)})
	}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			one(t.Topic, p.Partition, p.ErrorCode, p.Offset)
		}
	}
	for _, g := range resp.Groups {
		for _, t := range g.Topics {
			for _, p := range t.Partitions {
				one(t.Topic, p.Partition, p.ErrorCode, p.Offset)
			}
		}
	}
}

// poll polls and commits what came; meanwhile no rebalance takes place.
func (m *member) poll(ctx context.Context) {
	commit := map[string]map[int32]kgo.EpochOffset{}
	m.l.pollEach(ctx, m.c, "", func(topic string, p int32, next int64, records []*kgo.Record) {
		if commit[topic] == nil {
			commit[topic] = map[int32]kgo.EpochOffset{}
		}
		commit[topic][p] = kgo.EpochOffset{Epoch: records[len(records)-1].LeaderEpoch, Offset: next}
	})
	if m.g.judged && len(commit) > 0 {
		m.commit(commit)
	}
	m.c.AllowRebalance()
}

// commit commits offsets and records the attempt.
func (m *member) commit(what map[string]map[int32]kgo.EpochOffset) {
	_, gen := m.c.GroupMetadata()
	ids := map[history.Partition]uint64{}
	for topic, parts := range what {
		for p, o := range parts {
			part := m.l.part(topic, p)
			ids[part] = m.l.rec.Add(check.Event{Op: check.OpCommit, Who: m.c.name, Group: m.g.name, Part: part, A: o.Offset, B: int64(gen)})
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*produceTimeout)
	defer cancel()
	outcomes := map[history.Partition]check.Outcome{}
	m.c.CommitOffsetsSync(ctx, what, func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) {
		if err != nil {
			return
		}
		for _, t := range resp.Topics {
			for _, p := range t.Partitions {
				if p.ErrorCode == 0 {
					outcomes[m.l.part(t.Topic, p.Partition)] = check.Taken
				}
			}
		}
	})
	for part, id := range ids {
		// An error is no refusal: the client may have tried before, and heard nothing.
		outcome := either(outcomes[part] == check.Taken, check.Taken, check.Doubtful)
		m.l.rec.Add(check.Event{Op: check.OpCommitted, Who: m.c.name, ID: id, A: int64(outcome)})
		if outcome == check.Taken {
			m.g.progressed(m.l)
		}
	}
}

// progressed notes that the group goes on.
func (g *group) progressed(l *Load) {
	g.last.Store(time.Now().UnixNano())
	l.rec.Add(check.Event{Op: check.OpGroupProgress, Group: g.name})
}
