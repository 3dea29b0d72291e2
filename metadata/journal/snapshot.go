package journal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
)

// SnapshotPrefix is the key prefix under which all snapshots are stored.
const SnapshotPrefix = "snap/"

// snapshotKey is unique for ever: no session writes two snapshots with one nonce.
func snapshotKey(id tiering.ShardID, session tiering.SessionID, seq, nonce uint64) string {
	return fmt.Sprintf("%s%05d/%016x-%s-%016x", SnapshotPrefix, id, seq, session, nonce)
}

type snapshotResult struct {
	seq   uint64
	bytes int
	err   error
}

// maybeSnapshot starts a snapshot if the journal has grown enough and none is under way.
// Failed ones wait longer each time: until the journal has grown by the threshold again.
func (l *Leader) maybeSnapshot(ctx context.Context) {
	select {
	case r := <-l.snapshotting:
		l.snapshotDone(r)
	default:
	}
	a := &l.appender
	cfg := l.set.cfg
	grown := a.seq-a.snapshotSeq >= cfg.SnapshotRecords || a.journalBytes >= cfg.SnapshotBytes
	if l.snapshotting != nil || !grown || a.seq < a.retryAt {
		return
	}
	l.startSnapshot(ctx)
}

func (l *Leader) startSnapshot(ctx context.Context) {
	l.appender.journalBytes = 0
	done := make(chan snapshotResult, 1)
	l.snapshotting = done
	l.set.work.Add(1)
	go func() {
		defer l.set.work.Done()
		done <- l.snapshot(ctx)
	}()
}

func (l *Leader) snapshotDone(r snapshotResult) {
	l.snapshotting = nil
	a := &l.appender
	if r.err != nil {
		a.failures++
		a.retryAt = a.seq + l.set.cfg.SnapshotRecords/4
		l.ageAgain(retryAged)
		l.set.parts.Log.Warn("writing a snapshot failed; the journal grows on", "shard", l.id, "failures", a.failures, "err", r.err)
		return
	}
	a.failures, a.retryAt, a.snapshotSeq = 0, 0, r.seq
	l.ageAgain(l.set.cfg.SnapshotAge)
	l.set.parts.Observe.SnapshotWritten(l.id, r.bytes)
	l.set.parts.Observe.JournalLength(l.id, a.seq-a.snapshotSeq)
}

// snapshot writes the state as one object; then, in one fenced transaction, moves the
// pointer and deletes the journal behind it.
func (l *Leader) snapshot(ctx context.Context) snapshotResult {
	ctx = objstore.WithPurpose(ctx, objstore.Metadata)
	var data []byte
	var seq uint64
	l.view.Read(func(s *shard.State) { data, seq = s.EncodeSnapshot(nil), s.Seq })
	k := l.set.cfg.Keys
	kvs, _, err := l.set.parts.Store.Get(ctx, k.Snapshot(l.id))
	if err != nil {
		return snapshotResult{err: err}
	}
	old, err := decodeSnapshotPointer(kvs[0])
	if err != nil {
		return snapshotResult{err: err}
	}
	key := snapshotKey(l.id, l.session.ID(), seq, l.set.parts.Nonce())
	if err := l.set.parts.Objects.Put(ctx, key, objstore.Body{data}); err != nil {
		return snapshotResult{err: fmt.Errorf("storing %s: %w", key, err)}
	}
	pointer := snapshotValue{Key: key, Size: int64(len(data)), Seq: seq, Previous: old.Key}.encode()
	moved, err := l.movePointer(ctx, kvs[0], pointer, key, seq)
	switch {
	case err != nil:
		return snapshotResult{err: err}
	case !moved:
		// Fenced: this pointer can never be written any more, so nobody will name the object.
		err = fmt.Errorf("%w: another leader has taken over", metadata.ErrFenced)
		return snapshotResult{err: errors.Join(err, l.set.parts.Objects.Delete(ctx, key))}
	}
	if old.Previous != "" {
		if err := l.set.parts.Objects.Delete(ctx, old.Previous); err != nil {
			l.set.parts.Log.Warn("deleting an old snapshot", "shard", l.id, "key", old.Previous, "err", err)
		}
	}
	return snapshotResult{seq: seq, bytes: len(data)}
}

// movePointer reports whether the pointer named the new snapshot, object; the next leader
// may have moved it on already, and then still names this one as the one before. An
// unknown outcome is resolved by writing the same again.
func (l *Leader) movePointer(ctx context.Context, old metadata.KV, pointer []byte, object string, seq uint64) (bool, error) {
	k := l.set.cfg.Keys
	snapshotKey, leaderKey := k.Snapshot(l.id), k.Leader(l.id)
	unmoved := metadata.Absent(snapshotKey)
	if old.Exists() {
		unmoved = metadata.Equals(snapshotKey, old.Value)
	}
	txn := metadata.Txn{
		If: []metadata.Condition{metadata.Equals(leaderKey, l.value), unmoved},
		Then: []metadata.Op{
			metadata.Put(snapshotKey, pointer),
			metadata.DeleteRange(k.Journal(l.id), k.JournalRecord(l.id, seq+1)),
		},
		Else: []string{snapshotKey},
	}
	for wait := retryMin; ; wait = min(2*wait, retryMax) {
		actx, cancel := context.WithTimeout(ctx, attemptTimeout)
		res, err := l.set.parts.Store.Txn(actx, txn)
		cancel()
		switch {
		case err == nil && res.Succeeded:
			return true, nil
		case err == nil:
			now, err := decodeSnapshotPointer(res.Else[0])
			return now.Key == object || now.Previous == object, err
		case errors.Is(err, metadata.ErrInvalid):
			return false, err
		}
		l.set.parts.Observe.UnknownOutcome(l.id)
		if !pause(ctx, wait) {
			return false, fmt.Errorf("moving the snapshot pointer: %w", err)
		}
	}
}

func since(now func() time.Time, start time.Time) time.Duration { return now().Sub(start) }
