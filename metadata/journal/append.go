package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// errSessionMoved says that a session that the record names is dead, or has another value than
// is demanded, so that it can never be applied; the sessions were noted.
var errSessionMoved = errors.New("a session named by the record is not what it must be")

// append makes the record part of the journal and of the view, or finds out for certain
// that it never will be. The exception is an agent that stops while the outcome is
// unknown: it answers ErrFenced, and the proposal's own identity must do the rest.
func (l *Leader) append(ctx context.Context, r *shard.Record, ps []pending, moved map[tiering.SessionID]metadata.KV) error {
	value := r.EncodeAs(nil, l.set.parts.RecordVersion())
	// What is applied is what was written: it shares no memory with its proposers.
	own, err := shard.DecodeRecord(value)
	if err != nil {
		return fmt.Errorf("shard %d: %w: record %d cannot be read back: %w", l.id, metadata.ErrInvalid, r.Seq, err)
	}
	head := encodeHead(l.epoch, l.session.ID(), r.Seq)
	txn, sessions := l.appendTxn(r, value, head, ps)
	start := l.set.parts.Now()
	wait := retryMin
	for attempt := 1; ; attempt++ {
		res, err := l.attempt(ctx, txn)
		switch {
		case err == nil && res.Succeeded:
			return l.appended(&own, head, value, since(l.set.parts.Now, start))
		case err == nil:
			applied, err := l.refused(r, head, res.Else, ps, sessions, moved)
			if applied {
				return l.appended(&own, head, value, since(l.set.parts.Now, start))
			}
			return err
		case errors.Is(err, metadata.ErrInvalid): // of any attempt: they are all the same
			return fmt.Errorf("shard %d: appending record %d of %d bytes: %w", l.id, r.Seq, len(value), err)
		}
		// Unknown: the same record again, until the store says what became of it.
		l.set.parts.Observe.UnknownOutcome(l.id)
		if attempt == 1 {
			l.set.parts.Log.Warn("an append's outcome is unknown; writing it again until it is", "shard", l.id, "seq", r.Seq, "err", err)
		}
		if !l.pause(ctx, wait) {
			return fmt.Errorf("shard %d: %w: the agent stops while the outcome of record %d is unknown", l.id, metadata.ErrFenced, r.Seq)
		}
		wait = min(2*wait, retryMax)
	}
}

// pause waits between two attempts; it reports false if the agent stops meanwhile.
func (l *Leader) pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
	case <-l.set.stopped:
	}
	return false
}

func (l *Leader) attempt(ctx context.Context, txn metadata.Txn) (metadata.TxnResult, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	return l.set.parts.Store.Txn(ctx, txn)
}

// appendTxn is the one transaction of an append. Else reads back, in this order, the
// leadership, the head, the record's own place, and the sessions.
func (l *Leader) appendTxn(r *shard.Record, value, head []byte, ps []pending) (metadata.Txn, []tiering.SessionID) {
	k := l.set.cfg.Keys
	leaderKey, headKey, recordKey := k.Leader(l.id), k.Head(l.id), k.JournalRecord(l.id, r.Seq)
	txn := metadata.Txn{
		If:   []metadata.Condition{metadata.Equals(leaderKey, l.value), metadata.Equals(headKey, l.appender.head)},
		Then: []metadata.Op{metadata.Put(headKey, head), metadata.Put(recordKey, value)},
		Else: []string{leaderKey, headKey, recordKey},
	}
	var sessions []tiering.SessionID
	type demand struct {
		session tiering.SessionID
		value   string
	}
	demanded := map[demand]bool{}
	for _, p := range ps {
		d := demand{p.Session, string(p.Value)}
		if p.err != nil || p.Session.IsZero() || demanded[d] {
			continue
		}
		demanded[d] = true
		key := k.Session(p.Session)
		if p.Value == nil {
			txn.If = append(txn.If, metadata.Present(key))
		} else {
			txn.If = append(txn.If, metadata.Equals(key, p.Value))
		}
		if !slices.Contains(sessions, p.Session) {
			sessions = append(sessions, p.Session)
			txn.Else = append(txn.Else, key)
		}
	}
	return txn, sessions
}

// refused judges a transaction whose conditions did not hold. Either the record is there,
// by an earlier attempt, or a condition that can never hold again keeps it out for ever.
// A snapshot may have trimmed the record already; the head then still tells: no other
// leadership has this epoch, and of the records that this one drafted for this seq all
// but the last named a session that was dead or had moved on, and were refused for good.
func (l *Leader) refused(r *shard.Record, head []byte, found []metadata.KV, ps []pending, sessions []tiering.SessionID, moved map[tiering.SessionID]metadata.KV) (applied bool, err error) {
	leader, at, record := found[0], found[1], found[2]
	if record.Exists() && r.SameRecord(record.Value) || !record.Exists() && bytes.Equal(at.Value, head) {
		return true, nil
	}
	if !bytes.Equal(leader.Value, l.value) || !bytes.Equal(at.Value, l.appender.head) {
		return false, fmt.Errorf("shard %d: %w: led by %s, head is %s", l.id, metadata.ErrFenced, orNobody(leader), at.Value)
	}
	for i, s := range sessions {
		for _, p := range ps {
			if p.err == nil && p.Session == s && !p.accepts(found[3+i]) {
				moved[s] = found[3+i]
				err = errSessionMoved
			}
		}
	}
	if err == nil {
		// All conditions hold in what was read back at the same instant: the store broke its contract.
		err = fmt.Errorf("shard %d: %w: an append was refused without a reason", l.id, metadata.ErrFenced)
	}
	return false, err
}

func orNobody(kv metadata.KV) string {
	if !kv.Exists() {
		return "nobody"
	}
	return string(kv.Value)
}

// appended notes a committed record and applies it to the view, unless the watch was
// faster.
func (l *Leader) appended(r *shard.Record, head, value []byte, took time.Duration) error {
	a := &l.appender
	if a.seq == a.snapshotSeq {
		l.ageFrom(l.set.cfg.SnapshotAge) // the first record that the snapshot does not hold
	}
	a.head, a.seq = head, r.Seq
	a.journalBytes += int64(len(value))
	if err := l.set.apply(l.id, r); err != nil {
		return fmt.Errorf("%w: %w", metadata.ErrFenced, err)
	}
	l.set.parts.Committed(l.id, r.Seq, value)
	l.set.parts.Observe.Appended(l.id, len(value), took)
	l.set.parts.Observe.JournalLength(l.id, a.seq-a.snapshotSeq)
	return nil
}
