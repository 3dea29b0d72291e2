package sim

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/kafka"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// commitOffsets commits offsets of a group as part of the transaction.
func (x *txnUnderWay) commitOffsets(ctx context.Context, group string) bool {
	who := kafka.GroupMember{Epoch: -1, Version: 3}
	if g := x.anyGroup(); g != nil && x.rnd.IntN(2) == 0 {
		if m, ok := g.anyMember(); ok {
			group, who = g.name, m
		}
	}
	if !x.add(ctx, nil, group) {
		return false
	}
	e := x.enlistment(nil, group, false)
	for more := true; more; more = x.retry(ctx) {
		to := x.w.coordinator(x.rnd, group)
		if to == nil {
			continue
		}
		offsets := map[tiering.TopicPartition]tiering.Offset{}
		parts := x.w.known()
		for range 1 + x.rnd.IntN(2) {
			if part := parts[x.rnd.IntN(len(parts))]; part.topic[0] == 't' {
				offsets[part.TopicPartition] = tiering.Offset(x.rnd.IntN(1000))
			}
		}
		if len(offsets) == 0 {
			return true
		}
		try := x.w.newCommit(group, who.ID, who.Epoch, offsets)
		x.w.mu.Lock()
		try.txn = x.txn
		x.txn.tries = append(x.txn.tries, try)
		x.w.mu.Unlock()
		if x.v2 { // the first protocol cannot tell a late commit from one of the next transaction
			x.w.copyLater(x.rnd, "offsets", func(ctx context.Context, p *process) {
				x.w.mu.Lock()
				try.copied = true
				x.w.mu.Unlock()
				_, _ = x.commitOnce(ctx, p, e, who, try)
			})
		}
		got, err := call(ctx, to, x.rnd, !x.v2, func(ctx context.Context) (enlisted, error) { return x.commitOnce(ctx, to, e, who, try) })
		x.w.history.add(x.name, "offsets", nil, "%s %s of %s code %d number %d (%v)", group, try.name, x.txn.name, got.code, got.number, err)
		if err != nil {
			continue
		}
		x.w.outcome(try, got.code, got.revision)
		if got.code == 0 {
			x.granted(got, nil, group)
			if parts := x.w.known(); x.rnd.IntN(3) == 0 {
				x.w.fetchOffset(ctx, x.name, group, kafka.GroupMember{Epoch: -1, Version: 9}, parts[x.rnd.IntN(len(parts))], true, x.rnd)
			}
			return true
		}
		if x.refused(got.code, "TxnOffsetCommit") {
			return false
		}
	}
	return false
}

// anyGroup returns one of the groups that have members, or nil.
func (x *txnUnderWay) anyGroup() *groupWorld {
	x.w.mu.Lock()
	defer x.w.mu.Unlock()
	if len(x.w.groups) == 0 {
		return nil
	}
	return x.w.groups[x.rnd.IntN(len(x.w.groups))]
}

// outcome notes what a client was told of a commit.
func (w *world) outcome(try *commitTry, code int16, revision int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if code == 0 {
		try.acked = revision
	} else {
		try.refused = code
	}
}

// commitOnce does what the handler of TxnOffsetCommit does.
func (x *txnUnderWay) commitOnce(ctx context.Context, p *process, e kafka.Enlistment, who kafka.GroupMember, try *commitTry) (enlisted, error) {
	got, err := enlist(ctx, p, e)
	if err != nil || got.code != 0 {
		return got, err
	}
	tx := shard.Transaction{ProducerID: e.ProducerID, Epoch: e.Epoch, Number: got.number}
	commit := func(ctx context.Context, p *process) (int16, error) {
		groups, _ := p.coordinators()
		return groups.Commit(ctx, from, try.group, who, tx, try.list())
	}
	rnd := rand.New(rand.NewPCG(uint64(try.began), uint64(tx.Number)))
	if x.w.copyLater(rnd, "numbered offsets", func(ctx context.Context, p *process) { _, _ = commit(ctx, p) }) {
		x.w.mu.Lock()
		try.copied = true
		x.w.mu.Unlock()
	}
	got.code, err = commit(ctx, p)
	got.revision = x.w.server.Revision()
	return got, err
}

// end commits or aborts.
func (x *txnUnderWay) end(ctx context.Context, commit bool) {
	t := x.txn
	if !commit && !x.v2 && len(x.added) == 0 {
		x.ready, x.resume = false, true // nothing to abort, and nobody knows what is under way
		return
	}
	req := kmsg.NewPtrEndTxnRequest()
	req.Version, req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Commit = 4, x.txnID, x.id, x.epoch, commit
	if x.v2 {
		req.Version = 5
	}
	x.w.mu.Lock()
	if commit {
		t.asked = x.w.tick()
	}
	x.w.mu.Unlock()
	x.w.history.add(x.name, "end", nil, "%s (number %d) commit %v", t.name, t.number, commit)
	heard := true
	for more := true; more; more = x.retryEnd(ctx) {
		to := x.w.coordinator(x.rnd, x.txnID)
		if to == nil {
			continue
		}
		if x.v2 && x.w.copyLater(x.rnd, "end", func(ctx context.Context, p *process) {
			_, _ = askTxn[*kmsg.EndTxnResponse](ctx, p, x.txnID, req)
		}) {
			heard = false
		}
		began := x.w.tick()
		got, err := call(ctx, to, x.rnd, !x.v2, func(ctx context.Context) (answered[*kmsg.EndTxnResponse], error) {
			return askTxn[*kmsg.EndTxnResponse](ctx, to, x.txnID, req)
		})
		if err != nil {
			heard = false
			continue
		}
		x.w.history.add(x.name, "ended", nil, "%s code %d from %s", t.name, got.resp.ErrorCode, to.name)
		if x.ended(got, commit, heard, began) {
			return
		}
	}
}

func (x *txnUnderWay) retryEnd(ctx context.Context) bool {
	x.think(ctx, 150*time.Millisecond)
	return ctx.Err() == nil
}

// ended takes the answer to EndTxn, and reports whether that is the end of it. heard says that
// there was an answer to every request before.
func (x *txnUnderWay) ended(got answered[*kmsg.EndTxnResponse], commit, heard bool, began int64) bool {
	t, code := x.txn, got.resp.ErrorCode
	if again(code) {
		return false
	}
	x.w.mu.Lock()
	switch {
	case code == 0:
		t.told = got.revision
		t.fate = fateAborted
		if commit {
			t.fate = fateCommitted
		}
	case commit && !heard:
		t.fate = fateUnknown
	default:
		t.fate = fateAborted
	}
	x.w.mu.Unlock()
	switch {
	case code == 0 && x.v2:
		if got.resp.ProducerID == t.pid && got.resp.ProducerEpoch <= t.epoch {
			x.w.fail("epochs", nil, "%s ended with epoch %d and goes on with epoch %d", t.name, t.epoch, got.resp.ProducerEpoch)
		}
		x.adopt(got.resp.ProducerID, got.resp.ProducerEpoch, began, got.revision)
	case code == 0:
		if x.unacked() {
			x.ready, x.resume = false, true
		}
	case fenced(code):
		x.w.history.add(x.name, "fenced", nil, "at the end of %s", t.name)
		x.fence()
	case code == kerr.InvalidTxnState.Code && !commit:
		x.ready, x.resume = false, !x.v2
	case code == kerr.InvalidTxnState.Code:
		x.w.fail("answers", nil, "%s: the commit was answered INVALID_TXN_STATE", t.name)
		x.ready = false
	default:
		x.w.fail("answers", nil, "%s: EndTxn was answered %v", t.name, kerr.ErrorForCode(code))
		x.ready = false
	}
	return true
}

// unacked reports whether a batch of the transaction is in doubt: the next one must not have
// the same epoch, or that batch could become part of it.
func (x *txnUnderWay) unacked() bool {
	for _, s := range x.txn.sent {
		if !s.acked {
			return true
		}
	}
	return false
}
