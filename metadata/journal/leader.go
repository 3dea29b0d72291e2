package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// Proposal asks a leader for a change. Draft decides what the record shall say; it may
// run more than once, on fresh drafts, until the record that holds it is resolved. It runs
// while the view is locked, so it must look at the draft's state only, and when it fails
// it must leave the draft as it was; its error then becomes Done's. Done is called exactly
// once, from the leader's goroutine (or from Propose, if the leadership has ended), with
// the seq of the record (0 if nothing had to be written) or with
//
//	metadata.ErrFenced       this leadership is over; ask the next leader. The change may have
//	                         been committed after all (the agent stopped, or the next leader
//	                         has trimmed the journal, before its outcome was known): repeating
//	                         it must be recognised, as submissions are by their number.
//	metadata.ErrSessionDead  the session it names is gone; it was not committed, and never will be
//	metadata.ErrConflict     the session's key has another value than Value; likewise, as long as
//	                         it never has the same value again
//	metadata.ErrInvalid      it can never be committed
type Proposal struct {
	Session tiering.SessionID // whose uploads it names; zero for none
	Value   []byte            // that the session's key must have; nil: any
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
	aging        *time.Timer // until the journal's oldest record is due for a snapshot; see age.go
}

// Epoch returns the leadership's epoch.
func (l *Leader) Epoch() tiering.LeaderEpoch { return l.epoch }

// Alive reports whether nobody else can lead the shard yet, as far as this agent's clock tells:
// a hint, for what is said without a record. False is for ever.
func (l *Leader) Alive() bool { return l.session.Alive() }

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
	work, cancel := context.WithCancel(ctx)
	l.startAging()
	err := l.serve(ctx, work)
	l.aging.Stop()
	l.set.resign(l)
	l.mu.Lock()
	l.ended = true
	rest := l.queue
	l.queue = nil
	l.mu.Unlock()
	for _, p := range rest {
		p.Done(0, err)
	}
	cancel() // a snapshot is a help, not a duty: the next leader writes one
	if l.snapshotting != nil {
		l.snapshotDone(<-l.snapshotting)
	}
	l.set.vacate(ctx, l.session, l.id, l.value)
	close(l.over)
}

// serve appends until the leadership ends and says why it did: always an ErrFenced. Its
// snapshots end with work.
func (l *Leader) serve(ctx, work context.Context) error {
	for {
		batch, releasing := l.take()
		switch {
		case len(batch) > 0:
			if err := l.commit(ctx, batch); err != nil {
				return err
			}
			l.maybeSnapshot(work)
			continue
		case releasing:
			return fmt.Errorf("shard %d: %w: leadership was released", l.id, metadata.ErrFenced)
		}
		select {
		case <-l.wake:
		case r := <-l.snapshotting:
			l.snapshotDone(r)
		case <-l.aging.C:
			l.aged(work)
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

// commit appends the batch, as one record if that can be, and answers every proposal. It
// returns an error if the leadership is over.
func (l *Leader) commit(ctx context.Context, batch []*Proposal) error {
	for len(batch) > 0 {
		moved := map[tiering.SessionID]metadata.KV{}
		record, ps, err := l.draft(batch)
		if err == nil && len(record.Changes) > 0 {
			err = l.append(ctx, record, ps, moved)
		}
		switch {
		case err == nil:
			l.answer(ps, record)
			return nil
		case errors.Is(err, errSessionMoved):
			batch = l.refuseMoved(batch, moved)
		case errors.Is(err, metadata.ErrInvalid) && len(batch) > 1:
			// Too large together, or one of them is bad: they are tried apart.
			half := len(batch) / 2
			if err := l.commit(ctx, batch[:half]); err != nil {
				refuse(batch[half:], err)
				return err
			}
			batch = batch[half:]
		case errors.Is(err, metadata.ErrInvalid):
			refuse(batch, err)
			return nil
		default:
			refuse(batch, err)
			return err
		}
	}
	return nil
}

func refuse(batch []*Proposal, err error) {
	for _, p := range batch {
		p.Done(0, err)
	}
}

// refuseMoved answers the proposals whose sessions are not what they must be, as the store has
// them, and returns the others.
func (l *Leader) refuseMoved(batch []*Proposal, moved map[tiering.SessionID]metadata.KV) []*Proposal {
	var live []*Proposal
	for _, p := range batch {
		switch kv, known := moved[p.Session]; {
		case known && !kv.Exists():
			p.Done(0, fmt.Errorf("shard %d: %w: %s", l.id, metadata.ErrSessionDead, p.Session))
		case known && !p.accepts(kv):
			p.Done(0, fmt.Errorf("shard %d: %w: session %s is at %s", l.id, metadata.ErrConflict, p.Session, kv.Value))
		default:
			live = append(live, p)
		}
	}
	return live
}

// accepts reports whether the session's key is what the proposal demands.
func (p *Proposal) accepts(kv metadata.KV) bool {
	return kv.Exists() && (p.Value == nil || bytes.Equal(kv.Value, p.Value))
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
		if bad := s.Check(record); bad != nil {
			err = fmt.Errorf("shard %d: %w: %w", l.id, metadata.ErrInvalid, bad)
		}
	})
	return &record, ps, err
}

// vacate deletes a leadership that ended, if it is still this one, so that the next leader
// need not wait for the lease: that may live for as long as the agent does. Nothing is to
// be done when the session is lost, nor when the agent stops, which ends its session.
func (s *Set) vacate(ctx context.Context, session Session, id tiering.ShardID, value []byte) {
	key := s.cfg.Keys.Leader(id)
	txn := metadata.Txn{
		If:   []metadata.Condition{metadata.Equals(key, value)},
		Then: []metadata.Op{metadata.Delete(key)},
	}
	for wait := retryMin; session.Alive() && ctx.Err() == nil && !s.isStopped(); wait = min(2*wait, retryMax) {
		actx, cancel := context.WithTimeout(ctx, attemptTimeout)
		_, err := s.parts.Store.Txn(actx, txn)
		cancel()
		if err == nil || errors.Is(err, metadata.ErrInvalid) {
			return
		}
		s.parts.Observe.UnknownOutcome(id)
		pause(ctx, wait)
	}
}

func (s *Set) isStopped() bool {
	select {
	case <-s.stopped:
		return true
	default:
		return false
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
	s.parts.Log.Debug("leadership ended", "shard", l.id, "epoch", l.epoch)
}
