package load

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/floelog/floe/integration/history"
	"github.com/floelog/floe/integration/torture/check"
)

const (
	processors = 2
	// copyTimeout is the time limit of their transactions. The end of one waits for a heartbeat, which a rebalance may hold
	// up until the session of a member that crashed ends: with less, each crash would fail its neighbour's transaction.
	// More would keep readers from what comes behind a transaction whose id nobody takes over.
	copyTimeout = 3 * sessionTimeout
)

// startProcessors starts the members of groups that consume, process and produce in
// transactions, one of each protocol.
func (l *Load) startProcessors() {
	for i, g := range []*group{
		{name: "torture-process", topics: []string{topicIn}, judged: true, opts: []kgo.Opt{kgo.Balancers(kgo.CooperativeStickyBalancer())}},
		{name: "torture-process-next", topics: []string{topicIn}, judged: true, opts: []kgo.Opt{kgo.Balancers(kgo.StickyBalancer()), kgo.ServerSideBalancer()}},
	} {
		l.processing = append(l.processing, g)
		for m := range processors {
			r := l.random(700 + uint64(10*i+m))
			l.copiers.Go(func() {
				for l.copy.Err() == nil {
					life, cancel := context.WithTimeout(l.copy, 2*l.lifetime(r))
					if err := l.process(life, g, m, r); err != nil {
						l.rec.Note(g.name, "member %d ends: %v", m, err)
						pause(l.copy, 4*retryPause)
					}
					cancel()
				}
			})
		}
	}
}

// process is one life of a member that copies what it reads to another topic.
func (l *Load) process(life context.Context, g *group, n int, r *rand.Rand) error {
	m := &member{l: l, g: g, untold: true, holds: map[history.Partition]bool{}, asked: map[history.Partition]uint64{}}
	m.c = l.newClient(g.name)
	// Sessions abort what a rebalance interrupts. To block rebalances as other members do would hang: the
	// end of a transaction waits for a heartbeat, and that for the member's consent to a rebalance.
	opts := append(l.options(m.c), m.options()...)
	opts = append(opts, producing()...)
	opts = append(opts, reading(history.Committed)...)
	opts = append(opts, seeing(r)...)
	opts = append(opts, g.opts...)
	opts = append(opts, kgo.TransactionalID(fmt.Sprintf("%s-%d", g.name, n)), kgo.TransactionTimeout(copyTimeout))
	s, err := kgo.NewGroupTransactSession(opts...)
	if err != nil {
		return err
	}
	l.lives(m.c, s.Client())
	defer m.c.dies()
	l.rec.Add(check.Event{Op: check.OpConsumer, Who: m.c.name, A: int64(history.Committed)})
	for l.lasts(life, l.copy) {
		if err = m.copy(s, r); err != nil {
			break
		}
	}
	if r.IntN(3) == 0 && l.write.Err() == nil {
		m.c.crashWith(s.CloseAllowingRebalance)
	} else {
		s.CloseAllowingRebalance()
	}
	return err
}

// taken is what a poll brought of a partition.
type taken struct {
	from, to int64
	records  int
}

// copy runs one transaction: what it polls, it writes to the other topic, and commits where
// it is.
func (m *member) copy(s *kgo.GroupTransactSession, r *rand.Rand) error {
	ctx, cancel := context.WithTimeout(m.l.copy, time.Second)
	fetches := s.PollRecords(ctx, pollMax/4)
	cancel()
	m.l.polled(m.c, fetches, "")
	got := map[history.Partition]taken{}
	fetches.EachPartition(func(p kgo.FetchTopicPartition) {
		if k := len(p.Records); k > 0 && p.Err == nil {
			part, from := m.l.part(p.Topic, p.Partition), p.Records[0].Offset
			if was, ok := got[part]; ok {
				from = was.from
			}
			got[part] = taken{from, p.Records[k-1].Offset + 1, got[part].records + k}
		}
	})
	if len(got) == 0 {
		return nil
	}
	if err := s.Begin(); err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	txn := m.l.rec.Add(check.Event{Op: check.OpBegin, Who: m.c.name})
	for part, t := range got {
		m.l.rec.Add(check.Event{Op: check.OpConsumed, Who: m.c.name, Group: m.g.name, Part: part, ID: txn, A: t.from, B: t.to})
		for range min(t.records, 20) { // its output is smaller than its input
			m.l.send(m.c, true, txn, topicOut, m.l.part(topicOut, r.Int32N(m.l.cfg.Partitions)), history.MinSize+r.IntN(100), nil)
		}
	}
	return m.end(s, txn, got, r)
}

// end commits a transaction, or aborts it.
func (m *member) end(s *kgo.GroupTransactSession, txn uint64, got map[history.Partition]taken, r *rand.Rand) error {
	turn := func(fate history.Fate) {
		m.l.rec.Add(check.Event{Op: check.OpTurn, Who: m.c.name, ID: txn, A: int64(fate)})
	}
	try := kgo.TryCommit
	if r.IntN(8) == 0 {
		try = kgo.TryAbort
		turn(history.Aborted)
	} else {
		_, gen := m.c.GroupMetadata()
		for part, t := range got {
			m.l.rec.Add(check.Event{Op: check.OpCommit, Who: m.c.name, Group: m.g.name, Part: part, A: t.to, B: int64(gen), ID: txn})
		}
		turn(history.Ending)
	}
	committed, err := s.End(context.Background(), try)
	switch {
	case committed && err == nil:
		turn(history.Done)
		m.g.progressed(m.l)
	case try == kgo.TryCommit:
		turn(history.Unclear) // a commit may have been tried
	}
	if !committed { // the client goes back to what is committed
		m.mu.Lock()
		for part := range m.holds {
			m.l.rec.Add(check.Event{Op: check.OpAssigned, Who: m.c.name, Part: part, A: -1})
		}
		m.mu.Unlock()
	}
	if err != nil {
		return fmt.Errorf("end: %w", err)
	}
	return nil
}
