package sim

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
)

// concludeTime is how long transactions may take to end once nobody works on them any more:
// the longest timeout, a lease, and markers that must find their shards' leaders.
const concludeTime = time.Minute

// startTxnProducers starts the transactional producers, some of them twice under one id.
func (w *world) startTxnProducers(tasks *sync.WaitGroup) {
	for i := range w.shape.txns {
		p := w.newTxnProducer(i, 1)
		tasks.Go(func() { p.run(w.live) })
		if p.rivals {
			rival := w.newTxnProducer(i, 2)
			after := time.Duration(rival.rnd.Int64N(int64(w.shape.faultTime)))
			tasks.Go(func() {
				if sleep(w.live, after) {
					rival.run(w.live)
				}
			})
		}
	}
}

// awaitConcluded waits until no request is under way and no transaction is open, or
// decided and not concluded.
func (w *world) awaitConcluded(ctx context.Context) bool {
	w.zombies.Wait()
	for deadline := time.Now().Add(concludeTime); ; sleep(ctx, 200*time.Millisecond) {
		if !w.audit.await(ctx, w.server.Revision()) {
			return false
		}
		left := w.audit.unfinished()
		if len(left) == 0 {
			return true
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			w.fail("progress", nil, "transactions have not ended %v after all was healed: %v", concludeTime, left)
			return false
		}
	}
}

func (w *world) txnOf(digest uint64) *clientTxn {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s := w.sent[digest]; s != nil {
		return s.txn
	}
	return nil
}

// coordinationNames are what must happen to transactions and groups somewhere in a few
// hundred seeds.
var coordinationNames = []string{
	"zombie enlist", "zombie batch", "zombie produce", "zombie offsets", "zombie numbered offsets", "zombie end", "zombie commit",
	"txn committed", "txn aborted", "txn unknown", "txn aborted by the coordinator", "txn fenced", "txn read", "txn refused a late batch",
	"group offset committed", "group offset refused", "group offset unstable", "group offset none", "group offset in a transaction",
	"group rebalance", "group epoch",
}

// countCoordination counts what has happened to transactions and groups. The caller holds mu.
func (w *world) countCoordination(fired map[string]int) {
	for _, t := range w.txns {
		fired["txn "+[]string{"open", "committed", "aborted", "unknown"}[t.fate]]++
		if len(t.reads) > 0 {
			fired["txn read"]++
		}
		if truth := w.audit.txns.truths[txnKey{t.pid, t.number}]; truth != nil && truth.decided > 0 && !truth.commit && t.told == 0 {
			fired["txn aborted by the coordinator"]++
		}
	}
	for _, try := range w.tries {
		switch {
		case try.acked != 0 && try.txn != nil:
			fired["group offset in a transaction"]++
		case try.acked != 0:
			fired["group offset committed"]++
		case try.refused == kerr.IllegalGeneration.Code, try.refused == kerr.UnknownMemberID.Code, try.refused == kerr.StaleMemberEpoch.Code:
			fired["group offset refused"]++
		}
	}
	for i := range w.fetches {
		switch f := &w.fetches[i]; {
		case f.got.Code == kerr.UnstableOffsetCommit.Code:
			fired["group offset unstable"]++
		case f.got.Offset < 0:
			fired["group offset none"]++
		}
	}
	for _, t := range w.told {
		fired["group "+map[bool]string{true: "rebalance", false: "epoch"}[t.member == ""]]++
	}
}

// checkTransactions: invariants 4 to 6, over what producers and consumers were told.
func (w *world) checkTransactions() {
	for _, t := range w.txns {
		w.checkFate(t)
		w.checkGrants(t)
	}
	w.checkIdentities()
	seen := w.checkCommittedPolls()
	w.checkFinals()
	w.checkCycles(seen)
}

// truthOf returns what the journals say of a client's transaction: by its number, or by what of
// it was committed. Nil: they say nothing.
func (w *world) truthOf(t *clientTxn) *truth {
	if t.number != 0 {
		return w.audit.txns.truths[txnKey{t.pid, t.number}]
	}
	for _, truth := range w.audit.txns.truths {
		if truth.client == t {
			return truth
		}
	}
	return nil
}

// checkFate compares what the producer was told about its transaction with what was decided.
func (w *world) checkFate(t *clientTxn) {
	truth := w.truthOf(t)
	decided := truth != nil && truth.decided > 0
	switch {
	case t.fate == fateCommitted && (!decided || !truth.commit):
		w.fail("lost write", nil, "the commit of %s (%s, number %d) was acknowledged; the decision: %+v", t.name, t.id, t.number, truth)
	case t.fate == fateCommitted && truth.decided > t.told:
		w.fail("durability", nil, "the commit of %s (%s) was acknowledged at revision %d and decided at revision %d", t.name, t.id, t.told, truth.decided)
	case t.fate == fateAborted && decided && truth.commit:
		w.fail("aborted read", nil, "%s (%s, number %d) was never committed by its producer, and is committed at revision %d", t.name, t.id, t.number, truth.decided)
	case decided && truth.client != nil && truth.client != t:
		w.fail("zombie", nil, "%s (%s) is transaction %d of producer %d, which %s is", t.name, t.id, t.number, t.pid, truth.client.name)
	}
	if t.fate != fateCommitted {
		return
	}
	for _, s := range t.sent {
		w.checkInTxn(t, truth, s)
	}
	for _, try := range t.tries {
		if try.acked != 0 && (try.applied == 0 || try.applied > try.acked || truth != nil && truth.groups[try.group] == 0) {
			w.fail("lost write", nil, "%s of %s was acknowledged in group %s at revision %d; it was written at revision %d", try.name, t.name, try.group, try.acked, try.applied)
		}
	}
}

// checkInTxn demands that an acknowledged batch of a committed transaction is part of it.
func (w *world) checkInTxn(t *clientTxn, truth *truth, s *sent) {
	if !s.acked || s.part.gone.Load() || truth == nil {
		return
	}
	log := w.audit.log(s.part.TopicPartition)
	for _, a := range s.answers {
		if i, ok := log.find(a.base); ok {
			if b := log.batches[i]; b.digest == s.digest && w.audit.txns.truths[b.key] == truth {
				return
			}
		}
	}
	w.fail("lost write", s.part, "%s of %s was acknowledged (%+v) and is not part of transaction %d", s.name, t.name, s.answers, t.number)
}

// checkGrants: what a coordinator said is part of a transaction was so at that time.
func (w *world) checkGrants(t *clientTxn) {
	for _, g := range t.grants {
		truth := w.audit.txns.truths[txnKey{t.pid, g.number}]
		var since int64
		switch {
		case truth == nil:
		case g.part != nil:
			since = truth.enlisted[g.part.TopicPartition]
		default:
			since = truth.groups[g.group]
		}
		if since == 0 || since > g.revision {
			w.fail("durability", g.part, "%s was told at revision %d that this (or group %q) is part of transaction %d; it is since revision %d", t.name, g.revision, g.group, g.number, since)
		}
	}
}

// checkIdentities: an identity that is told was written before, and a later one is above it.
func (w *world) checkIdentities() {
	for i, a := range w.identities {
		written := false
		for _, row := range w.audit.txns.identities[a.id] {
			written = written || row.revision <= a.revision && row.producer == a.pid && row.epoch >= int64(a.epoch)
		}
		if !written {
			w.fail("durability", nil, "%s was told producer id %d with epoch %d at revision %d, before that was written", a.id, a.pid, a.epoch, a.revision)
		}
		for _, b := range w.identities[:i] {
			if a.id == b.id && b.ended < a.began && a.pid == b.pid && a.epoch <= b.epoch {
				w.fail("epochs", nil, "%s was told epoch %d after epoch %d of producer id %d", a.id, a.epoch, b.epoch, a.pid)
			}
		}
	}
}

// checkCommittedPolls compares what readers of committed records were given with what was
// committed. It returns whose records were given to whom.
func (w *world) checkCommittedPolls() map[uint64]*clientTxn {
	seen := map[uint64]*clientTxn{}
	for i := range w.polls {
		p := &w.polls[i]
		if !p.committed || p.code != 0 || p.part.gone.Load() {
			continue
		}
		log := w.audit.log(p.part.TopicPartition)
		if to := log.at(p.to); p.stable > to.stable {
			w.fail("last stable offset", p.part, "%s says %d to %s, it is %d", p.agent, p.stable, p.client, to.stable)
		}
		for _, b := range p.batches {
			if s := w.sent[b.digest]; s != nil && s.txn != nil && b.kept {
				seen[b.digest] = s.txn
			}
			w.checkCommittedBatch(p, log, b)
		}
	}
	return seen
}

func (w *world) checkCommittedBatch(p *poll, log *auditedLog, b polled) {
	if b.base+offsetOf(b.count) > p.stable {
		w.fail("last stable offset", p.part, "%s was given offset %d by %s, which says that %d is not stable", p.client, b.base, p.agent, p.stable)
	}
	k, ok := log.find(b.base)
	if !ok || !b.transactional || b.control {
		return
	}
	is := log.batches[k]
	end := log.ends[is.key]
	t := w.txnOf(b.digest)
	switch {
	case end.revision == 0 || end.revision > p.to:
		w.fail("pre-committed read", p.part, "%s was given offset %d of %s by %s before its transaction had ended", p.client, b.base, t.describe(), p.agent)
	case b.kept && !end.commit:
		w.fail("aborted read", p.part, "%s was given offset %d of %s by %s, which is aborted (void: %v)", p.client, b.base, t.describe(), p.agent, p.aborted)
	case !b.kept && end.commit:
		w.fail("poll skip", p.part, "%s was not given offset %d of %s by %s, which is committed (void: %v)", p.client, b.base, t.describe(), p.agent, p.aborted)
	case b.kept && t != nil && (t.asked == 0 || t.asked > p.ended):
		w.fail("pre-committed read", p.part, "%s was given offset %d of %s by %s before its commit was asked for", p.client, b.base, t.describe(), p.agent)
	}
}

// checkFinals: who reads all that is committed in the end is given all of a transaction or
// nothing, each batch once, and what its producer was told.
func (w *world) checkFinals() {
	for _, c := range w.finals {
		times := map[uint64]int{}
		for _, d := range c.polled {
			times[d]++
		}
		for _, t := range w.txns {
			w.checkFinal(c, t, times)
		}
	}
}

func (w *world) checkFinal(c *consumer, t *clientTxn, times map[uint64]int) {
	given, missing := "", ""
	for _, s := range t.sent {
		if s.part.gone.Load() || s.part.keeps.compact {
			continue // of what is compacted each answer is checked by itself, record by record
		}
		switch n := times[s.digest]; {
		case n > 1:
			w.fail("duplicate", s.part, "%s of %s was given %d times to %s", s.name, t.name, n, c.name)
		case n == 1:
			given = s.name
		case s.acked && !w.trimmedAway(s):
			missing = s.name
		}
	}
	switch {
	case given != "" && t.fate == fateAborted:
		w.fail("aborted read", nil, "%s of %s was given to %s, and was never committed", given, t.name, c.name)
	case missing != "" && t.fate == fateCommitted:
		w.fail("lost write", nil, "%s of %s is committed and was not given to %s", missing, t.name, c.name)
	case missing != "" && given != "":
		w.fail("torn transaction", nil, "%s of %s was given to %s, and %s was not", given, t.name, c.name, missing)
	}
}

// trimmedAway reports whether the batch was deleted by an operator.
func (w *world) trimmedAway(s *sent) bool {
	log := w.audit.log(s.part.TopicPartition)
	start := log.marks[len(log.marks)-1].start
	for _, a := range s.answers {
		if a.base < start {
			return true
		}
	}
	return false
}

// checkCycles: no committed transactions read each other's writes in a circle (G1c).
func (w *world) checkCycles(seen map[uint64]*clientTxn) {
	state := map[*clientTxn]int{} // 1: on the way, 2: done
	var visit func(t *clientTxn, way string)
	visit = func(t *clientTxn, way string) {
		way = fmt.Sprintf("%s %s", way, t.name)
		switch state[t] {
		case 1:
			w.fail("cycle", nil, "committed transactions have read each other:%s", way)
			return
		case 2:
			return
		}
		state[t] = 1
		for _, d := range t.reads {
			if from := seen[d]; from != nil && from != t {
				visit(from, way)
			} else if from == t {
				w.fail("pre-committed read", nil, "%s has read what it wrote itself before its commit", t.name)
			}
		}
		state[t] = 2
	}
	for _, t := range w.txns {
		if t.fate == fateCommitted {
			visit(t, "")
		}
	}
}
