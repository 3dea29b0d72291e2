package load

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/floelog/floe/integration/history"
	"github.com/floelog/floe/integration/torture/check"
)

const (
	txnIDs     = 3
	txnTimeout = 10 * time.Second // after which the coordinator aborts what a crashed client left
	maxOps     = 12               // sends and polls of one transaction
)

// startTransactions starts the transactional producers; some ids are used twice at a time,
// so that the older client becomes a zombie in the middle of its transaction.
func (l *Load) startTransactions() {
	for i := range txnIDs {
		r := l.random(500 + uint64(i))
		l.writers.Go(func() {
			for l.write.Err() == nil {
				l.transact(i, time.Now().Add(2*l.lifetime(r)), r)
			}
		})
	}
	r := l.random(600)
	l.writers.Go(func() {
		for pause(l.write, l.lifetime(r)) {
			l.rec.Note("rival", "uses a transactional id that is in use")
			l.transact(r.IntN(txnIDs), time.Now().Add(3*time.Second), r)
		}
	})
}

// writer is one life of a transactional producer. It also reads what others commit, within
// its transactions.
type writer struct {
	l   *Load
	c   *client
	in  *client // assigned
	r   *rand.Rand
	txn uint64
}

// transact runs transactions under one id until a time, an error that ends the client, or a
// crash.
func (l *Load) transact(id int, end time.Time, r *rand.Rand) {
	w := &writer{l: l, r: r}
	w.c = l.producer("transactional", kgo.TransactionalID(fmt.Sprintf("torture-%d", id)), kgo.TransactionTimeout(txnTimeout))
	at := map[int32]int64{}
	w.in = l.assign("in-transaction", topicTxn, topicTxn, history.Committed, at, seeing(r)...)
	defer w.in.crash()
	crashes := r.IntN(3) == 0
	for l.write.Err() == nil && time.Now().Before(end) {
		if err := w.one(); err != nil {
			l.rec.Note(w.c.name, "ends: %v", err)
			w.c.crash()
			return
		}
		if !pause(l.write, time.Duration(r.IntN(80))*time.Millisecond) {
			break
		}
	}
	if crashes && l.write.Err() == nil {
		if w.begin() == nil {
			w.send(nil)
		}
		l.rec.Note(w.c.name, "crashes in a transaction")
		w.c.crash()
		w.turn(history.Aborted) // nobody asks for its commit any more
		return
	}
	w.c.Close()
}

func (w *writer) begin() error {
	if err := w.c.BeginTransaction(); err != nil {
		w.txn = 0
		return fmt.Errorf("begin: %w", err)
	}
	w.txn = w.l.rec.Add(check.Event{Op: check.OpBegin, Who: w.c.name})
	return nil
}

func (w *writer) turn(fate history.Fate) {
	if w.txn != 0 {
		w.l.rec.Add(check.Event{Op: check.OpTurn, Who: w.c.name, ID: w.txn, A: int64(fate)})
	}
}

func (w *writer) send(failed *atomic.Bool) {
	p := w.r.Int32N(w.l.cfg.Partitions)
	n := size(w.r)
	if w.r.IntN(40) == 0 {
		n = largeSize(w.r)
	}
	w.l.send(w.c, true, w.txn, topicTxn, w.l.part(topicTxn, p), n, func(err error) {
		if err != nil && failed != nil {
			failed.Store(true)
		}
	})
}

// one runs a transaction of several sends and polls. An error means that the client is of no
// use any more.
func (w *writer) one() error {
	if err := w.begin(); err != nil {
		return err
	}
	var failed atomic.Bool
	for range 1 + w.r.IntN(maxOps) {
		if w.r.IntN(4) == 0 {
			w.poll()
		} else {
			w.send(&failed)
		}
	}
	if w.r.IntN(4) == 0 {
		if w.r.IntN(2) == 0 {
			_ = w.c.Flush(context.Background()) // the context does not end
		}
		return w.abort()
	}
	if err := w.c.Flush(context.Background()); err != nil || failed.Load() {
		return w.abort()
	}
	w.turn(history.Ending)
	err := w.c.EndTransaction(context.Background(), kgo.TryCommit)
	switch {
	case err == nil:
		w.turn(history.Done)
		return nil
	case errors.Is(err, kerr.OperationNotAttempted):
		return w.abort()
	}
	w.turn(history.Unclear)
	w.l.rec.Note(w.c.name, "commit of transaction %d: %v", w.txn, err)
	if err := w.c.EndTransaction(context.Background(), kgo.TryAbort); err != nil {
		return fmt.Errorf("abort after a commit without an answer: %w", err)
	}
	return nil
}

// abort ends a transaction whose commit nobody has asked for.
func (w *writer) abort() error {
	w.turn(history.Aborted)
	if err := w.c.AbortBufferedRecords(context.Background()); err != nil {
		return fmt.Errorf("give up records: %w", err)
	}
	if err := w.c.EndTransaction(context.Background(), kgo.TryAbort); err != nil {
		return fmt.Errorf("abort: %w", err)
	}
	return nil
}

// poll reads what is committed, as a part of the transaction.
func (w *writer) poll() {
	ctx, cancel := context.WithTimeout(w.l.read, 5*time.Millisecond)
	defer cancel()
	w.l.poll(ctx, w.in, "", func(p int32, next int64, records []*kgo.Record) {
		w.l.rec.Add(check.Event{Op: check.OpConsumed, Who: w.c.name, Part: w.l.part(topicTxn, p), ID: w.txn, A: records[0].Offset, B: next})
	})
}
