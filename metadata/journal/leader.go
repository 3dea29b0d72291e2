package journal

import (
	"context"
	"fmt"
	"sync"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// Proposal asks a leader for a change. Draft decides what the record shall say; it may
// run more than once, on fresh drafts, until the record that holds it is resolved. Done
// is called exactly once, from the leader's goroutine, with the seq of the record (0 if
// nothing had to be written) or with
//
//	metadata.ErrFenced       this leadership is over; ask the next leader. If the change was
//	                         committed after all, repeating it is recognised by its id.
//	metadata.ErrSessionDead  the session it names is gone; it was not committed now
//	metadata.ErrInvalid      it can never be committed
type Proposal struct {
	Session tiering.SessionID // whose uploads it names; zero for none
	Size    int               // estimate of what it adds to a record, bytes
	Draft   func(*shard.Draft) error
	Done    func(seq uint64, err error)
}

// Leader is this agent's leadership of one shard, from takeover to release or loss.
type Leader struct {
	set     *Set
	id      tiering.ShardID
	view    *View
	session Session
	epoch   tiering.LeaderEpoch
	value   []byte // of the leader key, as this agent wrote it

	wake chan struct{} // capacity 1: there is something to do
	over chan struct{} // closed when the appender has ended

	mu        sync.Mutex // guards the following
	queue     []*Proposal
	releasing bool
	ended     bool

	// appender is touched by the leader's own goroutine only.
	appender struct {
		head         []byte // value of the head key, as this agent wrote it last
		seq          uint64
		snapshotSeq  uint64
		journalBytes int64 // since the snapshot, as far as this leader wrote it
		failures     int   // of snapshots, one after the other
		retryAt      uint64
	}
	snapshotting chan snapshotResult
}

// Epoch returns the leadership's epoch.
func (l *Leader) Epoch() tiering.LeaderEpoch { return l.epoch }

// Over is closed when the leadership has ended and every proposal was answered.
func (l *Leader) Over() <-chan struct{} { return l.over }

// Propose queues a change. It never blocks: callers bound what they have under way.
func (l *Leader) Propose(p *Proposal) {
	l.mu.Lock()
	refused := l.ended || l.releasing
	if !refused {
		l.queue = append(l.queue, p)
	}
	l.mu.Unlock()
	if refused {
		p.Done(0, fmt.Errorf("shard %d: %w: leadership is given up", l.id, metadata.ErrFenced))
		return
	}
	l.nudge()
}

// Release gives the shard up: it refuses new proposals, finishes those it has, and
// deletes the leadership, so that another agent can take over at once. It returns when
// that is done, or with ctx's error while it goes on in the background.
func (l *Leader) Release(ctx context.Context) error {
	l.mu.Lock()
	l.releasing = true
	l.mu.Unlock()
	l.nudge()
	select {
	case <-l.over:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("releasing shard %d: %w", l.id, ctx.Err())
	}
}

func (l *Leader) nudge() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// run is the appender: the only one that writes to the shard's journal. It is owned by
// the Set, whose Run waits for it.
func (l *Leader) run(ctx context.Context) {
	err := l.serve(ctx)
	l.set.resign(l)
	l.mu.Lock()
	l.ended = true
	rest := l.queue
	l.queue = nil
	l.mu.Unlock()
	for _, p := range rest {
		p.Done(0, err)
	}
	close(l.over)
}

// serve appends until the leadership ends and says why it did: always an ErrFenced.
func (l *Leader) serve(ctx context.Context) error {
	defer l.awaitSnapshot()
	for {
		batch, releasing := l.take()
		switch {
		case len(batch) > 0:
			if err := l.commit(ctx, batch); err != nil {
				return err
			}
			l.maybeSnapshot(ctx)
			continue
		case releasing:
			l.awaitSnapshot()
			l.resignKey(ctx)
			return fmt.Errorf("shard %d: %w: leadership was released", l.id, metadata.ErrFenced)
		}
		select {
		case <-l.wake:
		case r := <-l.snapshotting:
			l.snapshotDone(r)
		case <-l.session.Lost():
			return fmt.Errorf("shard %d: %w: the agent's session was lost", l.id, metadata.ErrFenced)
		case <-l.set.stopped:
			return fmt.Errorf("shard %d: %w: the agent stops", l.id, metadata.ErrFenced)
		case <-ctx.Done():
			return fmt.Errorf("shard %d: %w: the agent stops", l.id, metadata.ErrFenced)
		}
	}
}

// take returns what the next record should hold, in order of arrival.
func (l *Leader) take() (batch []*Proposal, releasing bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	size := 0
	n := 0
	for n < len(l.queue) {
		size += l.queue[n].Size
		if n > 0 && size > maxRecordBytes {
			break
		}
		n++
	}
	batch = l.queue[:n:n]
	l.queue = l.queue[n:]
	if len(l.queue) == 0 {
		l.queue = nil
	}
	return batch, l.releasing
}

// pending is a proposal that is part of the record under way.
type pending struct {
	*Proposal
	err error // of its Draft: nothing of it is in the record
}

// commit appends one record that holds the batch, and answers every proposal. It returns
// an error if the leadership is over.
func (l *Leader) commit(ctx context.Context, batch []*Proposal) error {
	dead := map[tiering.SessionID]bool{}
	for {
		live := batch[:0:0]
		for _, p := range batch {
			if dead[p.Session] {
				p.Done(0, fmt.Errorf("shard %d: %w: %s", l.id, metadata.ErrSessionDead, p.Session))
			} else {
				live = append(live, p)
			}
		}
		if batch = live; len(batch) == 0 {
			return nil
		}
		record, ps, err := l.draft(batch)
		if err == nil && len(record.Changes) > 0 {
			err = l.append(ctx, record, ps, dead)
		}
		switch {
		case err == nil:
			l.answer(ps, record)
			return nil
		case err == errDeadSession:
			continue
		default:
			for _, p := range batch {
				p.Done(0, err)
			}
			return err
		}
	}
}

func (l *Leader) answer(ps []pending, r *shard.Record) {
	seq := r.Seq
	if len(r.Changes) == 0 {
		seq = 0
	}
	for _, p := range ps {
		p.Done(seq, p.err)
	}
}

// draft builds the next record from the batch, while nothing else can move the view.
func (l *Leader) draft(batch []*Proposal) (*shard.Record, []pending, error) {
	now, nonce := l.set.parts.Now().UnixMilli(), l.set.parts.Nonce()
	ps := make([]pending, len(batch))
	var record shard.Record
	var err error
	l.view.Read(func(s *shard.State) {
		if s.Seq != l.appender.seq {
			err = fmt.Errorf("shard %d: %w: the journal moved to record %d without this leader", l.id, metadata.ErrFenced, s.Seq)
			return
		}
		d := shard.NewDraft(s, l.epoch, l.session.ID(), nonce, now)
		for i, p := range batch {
			ps[i] = pending{p, p.Draft(d)}
		}
		record = d.Record()
	})
	return &record, ps, err
}

// resignKey deletes the leadership, if it is still this one, so that the next leader
// need not wait for the lease. Best effort: the lease does it otherwise.
func (l *Leader) resignKey(ctx context.Context) {
	key := l.set.cfg.Keys.Leader(l.id)
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	_, err := l.set.parts.Store.Txn(ctx, metadata.Txn{
		If:   []metadata.Condition{metadata.Equals(key, l.value)},
		Then: []metadata.Op{metadata.Delete(key)},
	})
	if err != nil {
		l.set.parts.Log.Info("giving up leadership: it ends with the lease instead", "shard", l.id, "err", err)
	}
}

// resign takes the leader out of the Set's books.
func (s *Set) resign(l *Leader) {
	s.mu.Lock()
	if s.leaders[l.id] == l {
		delete(s.leaders, l.id)
		s.signalLocked()
	}
	s.mu.Unlock()
	s.parts.Observe.LeadershipLost(l.id)
	s.parts.Log.Info("leadership ended", "shard", l.id, "epoch", l.epoch)
}
