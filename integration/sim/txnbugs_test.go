package sim

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent"
	"github.com/floelog/floe/agent/coordinator"
	"github.com/floelog/floe/agent/group"
	"github.com/floelog/floe/agent/kafka"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// coordinationBugs are those of transactions and groups.
var coordinationBugs = []bug{
	{"answer before the decision: EndTxn is answered while its row is on its way", 100, []string{"durability", "lost write"}, func() plant {
		return onTxns(func(w *world, inner kafka.Transactions) kafka.Transactions {
			return &hastyEnd{Transactions: inner, w: w}
		})
	}},
	{"answers ahead of records: a coordinator answers from memory before it has written", 100, []string{"durability"}, func() plant {
		return onMachine("", func() machineBug { return &ahead{} })
	}},
	{"markers forgotten: a new coordinator does not conclude what is prepared", 300, []string{"progress"}, func() plant {
		return onMachine("transactions", func() machineBug {
			first := true
			return stepBug(func(m coordinator.Machine, ev coordinator.Event, now time.Time) coordinator.Effects {
				out := m.Step(ev, now)
				if first {
					out.Calls = nil
				}
				first = false
				return out
			})
		})
	}},
	{"a marker left out: one partition or group of several is not concluded", 100, []string{"torn transaction"}, func() plant {
		return onMachine("transactions", func() machineBug { return stepBug(concludeFewer) })
	}},
	{"next transaction too early: it starts before the markers of the one before are written", 100, []string{"torn transaction"}, func() plant {
		return onMachine("transactions", func() machineBug { return stepBug(concludeLater) })
	}},
	{"decision forgotten: a new coordinator aborts what was to be committed", 2000, []string{"torn transaction"}, func() plant {
		p := onMachine("transactions", func() machineBug {
			first := true
			return stepBug(func(m coordinator.Machine, ev coordinator.Event, now time.Time) coordinator.Effects {
				out := m.Step(ev, now)
				for i, c := range out.Calls {
					if c, ok := c.(coordinator.Conclude); ok && first {
						c.Commit = false
						out.Calls[i] = c
					}
				}
				first = false
				return out
			})
		})
		// Shards that are handed over one by one seldom leave a transaction that is decided and not
		// concluded: agents that die do.
		p.tune = func(w *world) {
			w.shape.txns, w.shape.faultTime, w.mix.crash, w.mix.peers = 3, 30*time.Second, true, 2
		}
		return p
	}},
	{"verification left out: a batch is taken although its partition is not part of the transaction", 100, []string{"verification", "durability"}, func() plant {
		return onTxns(func(_ *world, inner kafka.Transactions) kafka.Transactions { return &trusting{inner} })
	}},
	{"number not compared: a partition takes batches of transactions that have ended there", 2000, []string{"verification", "late batch"}, func() plant {
		return plant{
			wrapPeers: func(w *world, _ *process, inner agent.Peers) agent.Peers { return &forgiving{inner, w} },
			tune: func(w *world) {
				w.shape.txns, w.shape.faultTime, w.mix.store, w.mix.outages = 3, 30*time.Second, 2, true
			},
		}
	}},
	{"epoch not raised: the next transaction has the epoch of the one before", 100, []string{"epochs"}, func() plant {
		return onTxns(func(_ *world, inner kafka.Transactions) kafka.Transactions { return &flat{inner} })
	}},
	{"last stable offset: it is the high watermark", 100, []string{"pre-committed read", "aborted read", "aborted lists"}, func() plant {
		return onFetch(func(req *kafka.FetchRequest, fetch func() []kafka.FetchResult) []kafka.FetchResult {
			committed := req.ReadCommitted
			req.ReadCommitted = false
			out := fetch()
			for i := range out {
				if committed {
					out[i].LastStable = out[i].HighWatermark
				}
			}
			return out
		})
	}},
	{"aborted transactions cut short: the last one is left out", 1000, []string{"aborted read"}, func() plant {
		return onFetch(func(_ *kafka.FetchRequest, fetch func() []kafka.FetchResult) []kafka.FetchResult {
			out := fetch()
			for i := range out {
				out[i].Aborted = out[i].Aborted[:max(0, len(out[i].Aborted)-1)]
			}
			return out
		})
	}},
	{"aborted transactions too long: they begin at the log's start", 300, []string{"poll skip", "aborted lists: which are not among"}, func() plant {
		return onFetch(func(_ *kafka.FetchRequest, fetch func() []kafka.FetchResult) []kafka.FetchResult {
			out := fetch()
			for i := range out {
				out[i].Aborted = slices.Clone(out[i].Aborted)
				for j := range out[i].Aborted {
					out[i].Aborted[j].First = 0
				}
			}
			return out
		})
	}},
	{"offsets of an aborted transaction applied", 300, []string{"torn transaction"}, func() plant {
		return onMachine("groups", func() machineBug {
			return stepBug(func(m coordinator.Machine, ev coordinator.Event, now time.Time) coordinator.Effects {
				if r, ok := ev.(coordinator.Request); ok {
					if c, ok := r.Body.(group.Conclude); ok {
						c.Commit = true
						r.Body = c
						ev = r
					}
				}
				return m.Step(ev, now)
			})
		})
	}},
	{"offsets of a transaction applied at once", 100, []string{"torn transaction"}, func() plant {
		return onGroups(func(*world, kafka.Groups) kafka.Groups { return &impatient{} })
	}},
	{"stale generation accepted: a commit counts for whoever is in the group", 1000, []string{"stale commit"}, func() plant {
		known := &newestMembers{by: map[string]kafka.GroupMember{}}
		return onGroups(func(*world, kafka.Groups) kafka.Groups { return &tolerant{known: known} })
	}},
	{"committed offsets from memory: a deposed coordinator goes on answering", 300, []string{"committed offset"}, func() plant {
		return onGroups(func(*world, kafka.Groups) kafka.Groups {
			return &remembers{answers: map[tiering.TopicPartition]rememberedOffset{}}
		})
	}},
	{"groups not loaded: a new coordinator knows no members", 300, []string{"needless rebalance"}, func() plant {
		return plant{wrapMachines: func(_ *world, _ *process, name string, load coordinator.Load) coordinator.Load {
			return func(id tiering.ShardID, epoch tiering.LeaderEpoch, s *shard.State, topics coordinator.Topics, now time.Time) (coordinator.Machine, error) {
				if name == "groups" {
					s = shard.New()
				}
				return load(id, epoch, s, topics, now)
			}
		}}
	}},
	{"sessions not renewed: a new coordinator ends them by the old one's clock", 1000, []string{"needless rebalance"}, func() plant {
		return plant{wrapMachines: func(_ *world, _ *process, name string, load coordinator.Load) coordinator.Load {
			return func(id tiering.ShardID, epoch tiering.LeaderEpoch, s *shard.State, topics coordinator.Topics, now time.Time) (coordinator.Machine, error) {
				if name == "groups" {
					now = now.Add(-sessionTimeout)
				}
				return load(id, epoch, s, topics, now)
			}
		}}
	}},
	{"revocation not awaited: a partition is given on while its owner has it", 2000, []string{"two owners"}, func() plant {
		return onGroups(func(*world, kafka.Groups) kafka.Groups { return &eager{} })
	}},
}

// machineBug is a bug of a coordinator's machine.
type machineBug interface {
	step(m coordinator.Machine, ev coordinator.Event, now time.Time) coordinator.Effects
	wake(m coordinator.Machine) time.Time
}

// stepBug is one that has no state of its own.
type stepBug func(m coordinator.Machine, ev coordinator.Event, now time.Time) coordinator.Effects

func (b stepBug) step(m coordinator.Machine, ev coordinator.Event, now time.Time) coordinator.Effects {
	return b(m, ev, now)
}

func (b stepBug) wake(m coordinator.Machine) time.Time { return m.Wake() }

// buggy is a machine with a bug.
type buggy struct {
	inner coordinator.Machine
	bug   machineBug
}

func (b *buggy) Step(ev coordinator.Event, now time.Time) coordinator.Effects {
	return b.bug.step(b.inner, ev, now)
}

func (b *buggy) Wake() time.Time { return b.bug.wake(b.inner) }

// onMachine plants a bug in the machines of a name, or of all.
func onMachine(of string, newBug func() machineBug) plant {
	return plant{wrapMachines: func(_ *world, _ *process, name string, load coordinator.Load) coordinator.Load {
		if of != "" && of != name {
			return load
		}
		return func(id tiering.ShardID, epoch tiering.LeaderEpoch, s *shard.State, topics coordinator.Topics, now time.Time) (coordinator.Machine, error) {
			m, err := load(id, epoch, s, topics, now)
			return &buggy{m, newBug()}, err
		}
	}}
}

// ahead lets replies leave with the step before their changes.
type ahead struct{ held []shard.Change }

func (a *ahead) step(m coordinator.Machine, ev coordinator.Event, now time.Time) coordinator.Effects {
	out := m.Step(ev, now)
	out.Changes, a.held = a.held, out.Changes
	return out
}

func (a *ahead) wake(m coordinator.Machine) time.Time {
	if len(a.held) > 0 {
		return time.Unix(0, 0)
	}
	return m.Wake()
}

// concludeFewer takes one of several conclusions for done.
func concludeFewer(m coordinator.Machine, ev coordinator.Event, now time.Time) coordinator.Effects {
	out := m.Step(ev, now)
	if n := len(out.Calls); n > 1 {
		if c, ok := out.Calls[n-1].(coordinator.Conclude); ok {
			out.Calls = out.Calls[:n-1]
			add(&out, m.Step(coordinator.Result{Call: c}, now))
		}
	}
	return out
}

// concludeLater takes all conclusions for done when they are decided.
func concludeLater(m coordinator.Machine, ev coordinator.Event, now time.Time) coordinator.Effects {
	out := m.Step(ev, now)
	for _, c := range slices.Clone(out.Calls) {
		if c, ok := c.(coordinator.Conclude); ok {
			add(&out, m.Step(coordinator.Result{Call: c}, now))
		}
	}
	return out
}

func add(out *coordinator.Effects, more coordinator.Effects) {
	out.Changes = append(out.Changes, more.Changes...)
	out.Replies = append(out.Replies, more.Replies...)
	out.Calls = append(out.Calls, more.Calls...)
}

func onTxns(wrap func(*world, kafka.Transactions) kafka.Transactions) plant {
	return plant{wrapTxns: func(w *world, _ *process, inner kafka.Transactions) kafka.Transactions { return wrap(w, inner) }}
}

// hastyEnd answers each EndTxn at once.
type hastyEnd struct {
	kafka.Transactions
	w *world
}

func (h *hastyEnd) Ask(ctx context.Context, from kafka.From, id string, req kmsg.Request) (kmsg.Response, error) {
	end, ok := req.(*kmsg.EndTxnRequest)
	if !ok {
		return h.Transactions.Ask(ctx, from, id, req)
	}
	h.w.tasks.Go(func() {
		ctx, cancel := context.WithTimeout(h.w.live, serveTime)
		defer cancel()
		_, _ = h.Transactions.Ask(ctx, from, id, req) // nobody waits for it
	})
	resp := end.ResponseKind().(*kmsg.EndTxnResponse)
	resp.ProducerID, resp.ProducerEpoch = end.ProducerID, end.ProducerEpoch+1
	return resp, nil
}

// trusting only asks for a transaction's number, and not for what is part of it.
type trusting struct{ kafka.Transactions }

func (t *trusting) Enlist(ctx context.Context, e kafka.Enlistment) (kafka.Enlisted, error) {
	if e.Version == 2 && len(e.Partitions) > 0 {
		ask := e
		ask.Add = false
		if got, err := t.Transactions.Enlist(ctx, ask); err == nil && got.Code == 0 && got.Number > 0 {
			return kafka.Enlisted{Number: got.Number}, nil
		}
	}
	return t.Transactions.Enlist(ctx, e)
}

// flat ends transactions of the second protocol as those of the first.
type flat struct{ kafka.Transactions }

func (f *flat) Ask(ctx context.Context, from kafka.From, id string, req kmsg.Request) (kmsg.Response, error) {
	end, ok := req.(*kmsg.EndTxnRequest)
	if !ok || end.Version < 5 {
		return f.Transactions.Ask(ctx, from, id, req)
	}
	older := *end
	older.Version = 4
	resp, err := f.Transactions.Ask(ctx, from, id, &older)
	if got, ok := resp.(*kmsg.EndTxnResponse); ok {
		got.ProducerID, got.ProducerEpoch = end.ProducerID, end.ProducerEpoch
	}
	return resp, err
}

// forgiving gives a batch of a transaction that has ended in its partition the next number, on
// its way to the leader.
type forgiving struct {
	agent.Peers
	w *world
}

func (f *forgiving) Sequence(ctx context.Context, addr string, id tiering.ShardID, s *shard.Submission) ([]shard.Outcome, error) {
	changed := *s
	changed.Parts = slices.Clone(s.Parts)
	f.w.audit.mu.Lock()
	for i := range changed.Parts {
		p := &changed.Parts[i]
		p.Batches = slices.Clone(p.Batches)
		for j := range p.Batches {
			b := &p.Batches[j]
			if log := f.w.audit.logs[p.Partition]; log != nil && b.Transaction > 0 {
				b.Transaction = max(b.Transaction, log.ended[b.ProducerID]+1)
			}
		}
	}
	f.w.audit.mu.Unlock()
	return f.Peers.Sequence(ctx, addr, id, &changed)
}

// onFetch plants a bug around fetches.
func onFetch(around func(req *kafka.FetchRequest, fetch func() []kafka.FetchResult) []kafka.FetchResult) plant {
	return plant{wrapReader: func(_ *world, _ *process, inner kafka.Reader) kafka.Reader { return &misreader{inner, around} }}
}

type misreader struct {
	kafka.Reader
	around func(*kafka.FetchRequest, func() []kafka.FetchResult) []kafka.FetchResult
}

func (m *misreader) Fetch(ctx context.Context, req kafka.FetchRequest) []kafka.FetchResult {
	return m.around(&req, func() []kafka.FetchResult { return m.Reader.Fetch(ctx, req) })
}

// groupsBug is a bug that needs to know the groups it is planted on.
type groupsBug interface {
	kafka.Groups
	on(inner kafka.Groups)
}

// onGroups plants a bug around what is asked of groups.
func onGroups(bug func(*world, kafka.Groups) kafka.Groups) plant {
	return plant{wrapGroups: func(w *world, _ *process, inner kafka.Groups) kafka.Groups {
		b := bug(w, inner).(groupsBug)
		b.on(inner)
		return b
	}}
}

type aroundGroups struct{ kafka.Groups }

func (a *aroundGroups) on(inner kafka.Groups) { a.Groups = inner }

// impatient takes the offsets of a transaction for offsets of none.
type impatient struct{ aroundGroups }

func (i *impatient) Commit(ctx context.Context, from kafka.From, group string, m kafka.GroupMember, _ shard.Transaction, offsets []shard.GroupOffset) (int16, error) {
	return i.Groups.Commit(ctx, from, group, m, shard.Transaction{}, offsets)
}

// newestMembers knows who joined last, by group.
type newestMembers struct {
	mu sync.Mutex
	by map[string]kafka.GroupMember
}

// tolerant lets everybody commit under the newest generation.
type tolerant struct {
	aroundGroups
	known *newestMembers
}

func (t *tolerant) Ask(ctx context.Context, from kafka.From, group string, req kmsg.Request) (kmsg.Response, error) {
	resp, err := t.Groups.Ask(ctx, from, group, req)
	t.known.mu.Lock()
	defer t.known.mu.Unlock()
	switch r := resp.(type) {
	case *kmsg.JoinGroupResponse:
		if r.ErrorCode == 0 {
			t.known.by[group] = kafka.GroupMember{ID: r.MemberID, Epoch: r.Generation, Version: 9}
		}
	case *kmsg.ConsumerGroupHeartbeatResponse:
		if r.ErrorCode == 0 && r.MemberEpoch > 0 {
			t.known.by[group] = kafka.GroupMember{ID: *r.MemberID, Epoch: r.MemberEpoch, Version: 9}
		}
	}
	return resp, err
}

func (t *tolerant) Commit(ctx context.Context, from kafka.From, group string, m kafka.GroupMember, tx shard.Transaction, offsets []shard.GroupOffset) (int16, error) {
	t.known.mu.Lock()
	if newest, ok := t.known.by[group]; ok && m.ID != "" {
		m = newest
	}
	t.known.mu.Unlock()
	return t.Groups.Commit(ctx, from, group, m, tx, offsets)
}

// rememberedOffset is an answer that is given again for a while.
type rememberedOffset struct {
	group  string
	offset kafka.FetchedOffset
	until  time.Time
}

// remembers answers questions for committed offsets from memory.
type remembers struct {
	aroundGroups

	mu      sync.Mutex
	answers map[tiering.TopicPartition]rememberedOffset
}

func (r *remembers) Fetch(ctx context.Context, from kafka.From, group string, m kafka.GroupMember, partitions []tiering.TopicPartition, all, stable bool) ([]kafka.FetchedOffset, int16, error) {
	r.mu.Lock()
	known := maps.Clone(r.answers)
	r.mu.Unlock()
	if a, ok := known[partitions[0]]; ok && a.group == group && time.Now().Before(a.until) {
		return []kafka.FetchedOffset{a.offset}, 0, nil
	}
	got, code, err := r.Groups.Fetch(ctx, from, group, m, partitions, all, stable)
	if err == nil && code == 0 && got[0].Code == 0 {
		r.mu.Lock()
		r.answers[partitions[0]] = rememberedOffset{group, got[0], time.Now().Add(5 * time.Second)}
		r.mu.Unlock()
	}
	return got, code, err
}

// eager tells the coordinator that a member has given back what it has to.
type eager struct{ aroundGroups }

func (e *eager) Ask(ctx context.Context, from kafka.From, group string, req kmsg.Request) (kmsg.Response, error) {
	if r, ok := req.(*kmsg.ConsumerGroupHeartbeatRequest); ok && r.MemberEpoch > 0 {
		less := *r
		less.Topics = []kmsg.ConsumerGroupHeartbeatRequestTopic{}
		req = &less
	}
	return e.Groups.Ask(ctx, from, group, req)
}
