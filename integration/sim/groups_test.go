package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/floelog/floe/agent/kafka"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

const (
	sessionTimeout   = 6 * time.Second // of members of both protocols
	rebalanceTimeout = 8 * time.Second

	// recoverTime is how long members may take to be in their group again once everything is
	// healed: a lease, a session and a rebalance must have ended before that.
	recoverTime = 90 * time.Second
)

// offsetFetch is the answer to a question for a committed offset, and the store's revisions
// before the question and after the answer.
type offsetFetch struct {
	client, agent, group string
	part                 *partition
	from, to             int64
	stable               bool
	got                  kafka.FetchedOffset
}

// groupWorld is what the members of one group have told the checker, so that it can say
// what the coordinator may not do.
type groupWorld struct {
	w    *world
	name string

	mu          sync.Mutex             // guards the following
	generations map[int32]*generation  // of the classic protocol
	newest      int32                  // generation that a member was told
	restless    int                    // members that join, leave or are silent just now
	disturbed   time.Time              // when somebody last did what may cause a rebalance
	alive       map[*member]lastSigns  // members that are in the group, as far as they know
	owners      map[*partition]*member // of the consumer protocol
	silent      map[*member]bool       // members that were not heard of since they fell silent: a new coordinator may end their sessions later
}

// lastSigns says until when a member is certainly in the group.
type lastSigns struct {
	id    string
	epoch int32
	until time.Time
}

// generation is one of a classic group.
type generation struct {
	size   int       // members, as its leader was told; 0: not known
	at     time.Time // when the last member was told what it owns
	synced map[*member]bool
	owners map[string]*member
}

// toldEpoch is a generation, or a member epoch, that a client was told. What is older is stale.
type toldEpoch struct {
	group  string
	member string // empty: all of the group
	epoch  int32
	at     int64 // by world.tick
}

// member is one client in a group.
type member struct {
	w         *world
	g         *groupWorld
	name      string
	rnd       *rand.Rand
	consumer  bool // of the new protocol (KIP-848)
	id        string
	epoch     int32 // generation, or member epoch; -1: not in the group
	owned     []*partition
	recovered chan struct{} // closed when all is well, after everything was healed
	joins     int
}

func (w *world) newGroup(name string) *groupWorld {
	return &groupWorld{w: w, name: name, generations: map[int32]*generation{}, alive: map[*member]lastSigns{}, owners: map[*partition]*member{}, silent: map[*member]bool{}, newest: -1}
}

// startGroups starts everybody who has to do with groups.
func (w *world) startGroups(ctx context.Context, tasks *sync.WaitGroup) {
	start := func(g *groupWorld, n int, consumer bool) {
		w.mu.Lock()
		w.groups = append(w.groups, g)
		w.mu.Unlock()
		for i := range n {
			m := &member{w: w, g: g, name: fmt.Sprintf("%s.%d", g.name, i), consumer: consumer, epoch: -1, recovered: make(chan struct{})}
			m.rnd = w.rand(m.name)
			w.members = append(w.members, m)
			tasks.Go(func() { m.run(ctx) })
		}
	}
	start(w.newGroup("classic"), w.shape.classic, false)
	start(w.newGroup("consumer"), w.shape.consumer, true)
	for i := range w.shape.committers {
		c := &committer{w: w, name: fmt.Sprintf("commits%d", i), rnd: w.rand(fmt.Sprintf("committer %d", i))}
		tasks.Go(func() { c.run(ctx) })
	}
}

// awaitGroups waits until all members are in their groups again.
func (w *world) awaitGroups() {
	deadline := time.After(recoverTime)
	for _, m := range w.members {
		select {
		case <-m.recovered:
		case <-deadline:
			w.fail("progress", nil, "%s is not in its group %v after all was healed (member %q, epoch %d)", m.name, recoverTime, m.id, m.epoch)
			return
		}
	}
}

// well notes that the member has what it wants.
func (m *member) well() {
	if !m.w.isHealed() {
		return
	}
	select {
	case <-m.recovered:
	default:
		close(m.recovered)
	}
}

// generation returns a generation of the classic protocol. The caller holds mu.
func (g *groupWorld) generation(n int32) *generation {
	gen := g.generations[n]
	if gen == nil {
		gen = &generation{owners: map[string]*member{}, synced: map[*member]bool{}}
		g.generations[n] = gen
	}
	return gen
}

// knows notes an epoch that was told.
func (w *world) knows(group, member string, epoch int32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told = append(w.told, toldEpoch{group, member, epoch, w.tick()})
}

// disturb notes that the group may rebalance because of what this member does.
func (m *member) disturb() {
	m.g.mu.Lock()
	defer m.g.mu.Unlock()
	m.g.disturbed = time.Now()
	delete(m.g.alive, m)
}

// restless counts members that do what a group may rebalance for.
func (m *member) restless(n int) {
	m.g.mu.Lock()
	defer m.g.mu.Unlock()
	m.g.restless += n
}

// signed notes that the coordinator has heard of the member since a time.
func (m *member) signed(since time.Time) {
	m.g.mu.Lock()
	defer m.g.mu.Unlock()
	delete(m.g.silent, m)
	m.g.alive[m] = lastSigns{m.id, m.epoch, since.Add(sessionTimeout)}
}

// anyMember returns who is in the group, or was not long ago (KIP-447); false if that is nobody.
func (g *groupWorld) anyMember() (kafka.GroupMember, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var first *member
	for m := range g.alive {
		if first == nil || m.name < first.name {
			first = m
		}
	}
	s := g.alive[first]
	return kafka.GroupMember{ID: s.id, Epoch: s.epoch, Version: 3}, first != nil
}

// needless reports whether nothing has happened since a time that a group may rebalance for: nobody
// came or went, and nobody was silent for so long that its session may have ended.
func (g *groupWorld) needless(since time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, s := range g.alive {
		if !time.Now().Before(s.until) {
			return false
		}
	}
	return g.restless == 0 && len(g.silent) == 0 && g.disturbed.Before(since)
}

// dropped is called when the coordinator does not know the member any more.
func (m *member) dropped(code int16) {
	m.g.mu.Lock()
	s, ok := m.g.alive[m]
	m.g.mu.Unlock()
	if ok && s.id == m.id && time.Now().Before(s.until) {
		m.w.fail("needless rebalance", nil, "%s was told %v although its session ends at %v only", m.name, kerr.ErrorForCode(code), s.until.Sub(m.w.start))
	}
	m.disturb()
}

// run keeps the member in its group, and works.
func (m *member) run(ctx context.Context) {
	for ctx.Err() == nil {
		if m.consumer {
			m.heartbeat(ctx)
		} else {
			m.classic(ctx)
		}
		if m.epoch > 0 || m.epoch == 0 && !m.consumer {
			m.work(ctx)
		}
		switch k := m.rnd.IntN(40); {
		case m.w.isHealed() || m.epoch < 0:
		case k == 0:
			m.leave(ctx)
		case k == 1:
			m.fallSilent(ctx)
		}
		sleep(ctx, time.Duration(m.rnd.Int64N(int64(1200*time.Millisecond))))
	}
}

// fallSilent does nothing for longer than a session, and then commits as if nothing had happened.
func (m *member) fallSilent(ctx context.Context) {
	m.restless(1)
	defer m.restless(-1)
	m.disturb()
	m.g.mu.Lock()
	m.g.silent[m] = true
	m.g.mu.Unlock()
	sleep(ctx, sessionTimeout+time.Duration(m.rnd.Int64N(int64(sessionTimeout))))
	m.work(ctx)
	m.disturb()
}

// work commits offsets of what the member owns, and reads them back.
func (m *member) work(ctx context.Context) {
	if len(m.owned) == 0 {
		return
	}
	part := m.owned[m.rnd.IntN(len(m.owned))]
	who := kafka.GroupMember{ID: m.id, Epoch: m.epoch, Version: 9}
	if m.rnd.IntN(4) == 0 {
		stable := m.rnd.IntN(2) == 0
		m.w.fetchOffset(ctx, m.name, m.g.name, kafka.GroupMember{Epoch: -1, Version: 9}, part, stable, m.rnd)
	}
	at := tiering.Offset(m.rnd.IntN(10000))
	code, _ := m.w.commitOffset(ctx, m.name, m.g.name, who, map[tiering.TopicPartition]tiering.Offset{part.TopicPartition: at}, m.rnd)
	switch code {
	case kerr.UnknownMemberID.Code:
		m.lost()
	case kerr.IllegalGeneration.Code:
		if !m.consumer {
			m.epoch = -1
		}
	}
}

// lost forgets that the member was in the group.
func (m *member) lost() {
	m.g.mu.Lock()
	for part, owner := range m.g.owners {
		if owner == m {
			delete(m.g.owners, part)
		}
	}
	delete(m.g.alive, m)
	m.g.disturbed = time.Now()
	m.g.mu.Unlock()
	m.id, m.epoch, m.owned = "", -1, nil
}

// commitOffset commits offsets once and returns the code, or an error where it is not known.
func (w *world) commitOffset(ctx context.Context, client, group string, who kafka.GroupMember, offsets map[tiering.TopicPartition]tiering.Offset, rnd *rand.Rand) (int16, error) {
	to := w.coordinator(rnd, group)
	if to == nil {
		return 0, errUnreachable
	}
	try := w.newCommit(group, who.ID, who.Epoch, offsets)
	serve := func(ctx context.Context, p *process) (enlisted, error) {
		groups, _ := p.coordinators()
		code, err := groups.Commit(ctx, from, group, who, shard.Transaction{}, try.list())
		return enlisted{code: code, revision: w.server.Revision()}, err
	}
	if w.copyLater(rnd, "commit", func(ctx context.Context, p *process) { _, _ = serve(ctx, p) }) {
		w.mu.Lock()
		try.copied = true
		w.mu.Unlock()
	}
	got, err := call(ctx, to, rnd, false, func(ctx context.Context) (enlisted, error) { return serve(ctx, to) })
	w.history.add(client, "commit", nil, "%s by %q epoch %d: %s code %d from %s (%v)", group, who.ID, who.Epoch, try.name, got.code, to.name, err)
	if err != nil {
		return 0, err
	}
	w.outcome(try, got.code, got.revision)
	switch got.code {
	case 0, kerr.UnknownMemberID.Code, kerr.IllegalGeneration.Code, kerr.StaleMemberEpoch.Code, kerr.RebalanceInProgress.Code, kerr.GroupIDNotFound.Code:
	default:
		if !again(got.code) {
			w.fail("answers", nil, "%s: OffsetCommit was answered %v", client, kerr.ErrorForCode(got.code))
		}
	}
	return got.code, nil
}

// fetchOffset asks for a committed offset.
func (w *world) fetchOffset(ctx context.Context, client, group string, who kafka.GroupMember, part *partition, stable bool, rnd *rand.Rand) {
	to := w.coordinator(rnd, group)
	if to == nil {
		return
	}
	f := offsetFetch{client: client, agent: to.name, group: group, part: part, stable: stable}
	f.from = w.server.Revision()
	type result struct {
		offsets []kafka.FetchedOffset
		code    int16
		to      int64
	}
	got, err := call(ctx, to, rnd, false, func(ctx context.Context) (r result, err error) {
		groups, _ := to.coordinators()
		r.offsets, r.code, err = groups.Fetch(ctx, from, group, who, []tiering.TopicPartition{part.TopicPartition}, false, stable)
		r.to = w.server.Revision()
		return r, err
	})
	w.history.add(client, "fetch offset", part, "%s: %v code %d from %s (%v)", group, got.offsets, got.code, to.name, err)
	if err != nil || got.code != 0 {
		return
	}
	if len(got.offsets) != 1 || got.offsets[0].Partition != part.TopicPartition {
		w.fail("answers", part, "%s asked %s for one offset and was told %v", client, to.name, got.offsets)
		return
	}
	f.got, f.to = got.offsets[0], got.to
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fetches = append(w.fetches, f)
}

// committer commits offsets of simple groups, which have no members, and looks at those of
// all groups.
type committer struct {
	w    *world
	name string
	rnd  *rand.Rand
}

func (c *committer) run(ctx context.Context) {
	for sleep(ctx, time.Duration(c.rnd.Int64N(int64(time.Second)))) {
		parts := c.w.known()
		part := parts[c.rnd.IntN(len(parts))]
		if part.topic[0] != 't' {
			continue
		}
		group := fmt.Sprintf("s%d", c.rnd.IntN(2))
		who := kafka.GroupMember{Epoch: -1, Version: 9}
		switch c.rnd.IntN(4) {
		case 0:
			c.w.commitOffset(ctx, c.name, group, who, map[tiering.TopicPartition]tiering.Offset{part.TopicPartition: tiering.Offset(c.rnd.IntN(1000))}, c.rnd)
		case 1:
			group = pick(c.rnd, "classic", "consumer")
			fallthrough
		default:
			c.w.fetchOffset(ctx, c.name, group, who, part, c.rnd.IntN(2) == 0, c.rnd)
		}
	}
}
