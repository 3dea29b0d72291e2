package journal_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

var errLost = errors.New("reply lost")

func TestAnAcknowledgedRecordIsInTheJournalAndInEveryView(t *testing.T) {
	bubble(t, 2, func(w *world) {
		a, b := w.start(1), w.start(2)
		l := a.acquire(1)
		for n := int64(1); n <= 5; n++ {
			if seq := w.must(l, n); seq != uint64(n) {
				t.Fatalf("mark %d is in record %d", n, seq)
			}
			if at := a.set.View(1).Seq(); at != uint64(n) {
				t.Fatalf("the leader's own view is at %d after record %d was acknowledged", at, n)
			}
		}
		if err := b.set.Sync(w.ctx, 0, 1); err != nil {
			t.Fatal(err)
		}
		if at := b.set.View(1).Seq(); at != 5 {
			t.Fatalf("the other agent's view is at %d after Sync", at)
		}
		if got := b.set.Leadership(1); got != (journal.Leadership{Node: 1, Session: a.session.id, Epoch: l.Epoch(), Live: true}) {
			t.Errorf("the other agent sees %+v", got)
		}
		if a.set.Leader(1) != l || b.set.Leader(1) != nil || a.set.Leader(0) != nil {
			t.Error("the books of leaders are wrong")
		}
	})
}

func TestOneAppendIsInFlightAndTheRestShareTheNextRecord(t *testing.T) {
	bubble(t, 1, func(w *world) {
		a := w.start(1)
		l := a.acquire(0)
		gate := make(chan struct{})
		flying := 0
		a.store.hookTxn(func(txn metadata.Txn, apply func() (metadata.TxnResult, error)) (metadata.TxnResult, error) {
			if !isAppend(txn) {
				return apply()
			}
			if flying++; flying > 1 {
				t.Error("two appends at a time")
			}
			<-gate
			flying--
			return apply()
		})
		answers := []<-chan answer{propose(l, tiering.SessionID{}, 1)}
		synctest.Wait() // the first is on its way
		for n := int64(2); n <= 40; n++ {
			answers = append(answers, propose(l, tiering.SessionID{}, n))
		}
		w.unanswered(answers[0])
		gate <- struct{}{}
		gate <- struct{}{}
		for i, done := range answers {
			if got, want := <-done, min(uint64(i+1), 2); got.err != nil || got.seq != want {
				t.Errorf("mark %d: %+v, want record %d", i+1, got, want)
			}
		}
		var want []int64
		for n := int64(2); n <= 40; n++ {
			want = append(want, n)
		}
		if got := marks(w.journal(0)[1]); !slices.Equal(got, want) {
			t.Errorf("the second record holds %v, want them in order of arrival", got)
		}
	})
}

// TestUnknownOutcomesAreResolvedByWriting loses the reply to the first attempts of an
// append, with all that may have become of them.
func TestUnknownOutcomesAreResolvedByWriting(t *testing.T) {
	type attempt func(n int, apply func() bool) error
	for name, c := range map[string]struct {
		calls   int
		attempt attempt // applies or not, and loses the reply or not
	}{
		"it had been applied": {2, func(n int, apply func() bool) error {
			if apply() != (n == 1) {
				t.Error("the first attempt is applied and the second refused")
			}
			return lostUntil(n, 2)
		}},
		"it had not been applied": {4, func(n int, apply func() bool) error {
			if n == 4 && !apply() {
				t.Error("the last attempt is applied")
			}
			return lostUntil(n, 4)
		}},
		"it is applied late, before the second attempt": {2, func(n int, apply func() bool) error {
			if n == 2 && (!apply() || apply()) {
				t.Error("the late attempt is applied and the second refused")
			}
			return lostUntil(n, 2)
		}},
		"it arrives late, after the second attempt": {3, func(n int, apply func() bool) error {
			switch {
			case n == 2 && (!apply() || apply()):
				t.Error("the second attempt is applied and the late one refused")
			case n == 3 && apply():
				t.Error("the third attempt is refused")
			}
			return lostUntil(n, 3)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 1, func(w *world) {
				a := w.start(1)
				l := a.acquire(0)
				w.must(l, 1)
				calls, done := 0, make(chan answer, 2)
				a.store.hookTxn(func(txn metadata.Txn, apply func() (metadata.TxnResult, error)) (metadata.TxnResult, error) {
					if !isAppend(txn) {
						return apply()
					}
					calls++
					if len(done) > 0 {
						t.Errorf("answered with %+v before its outcome was known", <-done)
					}
					var res metadata.TxnResult
					lost := c.attempt(calls, func() bool {
						var err error
						if res, err = apply(); err != nil {
							t.Error(err)
						}
						return res.Succeeded
					})
					return res, lost
				})
				proposeTo(l, a.session.id, 2, done)
				if got := <-done; got.err != nil || got.seq != 2 {
					t.Fatalf("got %+v, want record 2", got)
				}
				if calls != c.calls || a.seen.unknown.Load() != int64(c.calls-1) {
					t.Errorf("%d attempts, %d unknown, want %d and %d", calls, a.seen.unknown.Load(), c.calls, c.calls-1)
				}
				a.store.hookTxn(nil)
				w.must(l, 3)
				for n := int64(1); n <= 3; n++ {
					if got := w.count(0, n); got != 1 {
						t.Errorf("mark %d is in the journal %d times", n, got)
					}
				}
			})
		})
	}
}

func lostUntil(n, last int) error {
	if n < last {
		return errLost
	}
	return nil
}

func TestAnAppendThatASnapshotTrimmedBeforeItsReplyIsKnownCountsAsCommitted(t *testing.T) {
	bubble(t, 1, func(w *world) {
		a := w.start(1)
		l := a.acquire(0)
		w.must(l, 1)
		first := true
		a.store.hookTxn(func(txn metadata.Txn, apply func() (metadata.TxnResult, error)) (metadata.TxnResult, error) {
			if !isAppend(txn) || !first {
				return apply()
			}
			first = false
			if _, err := apply(); err != nil {
				t.Error(err)
			}
			// What a snapshot does that began before, and read the view after the watch had this record.
			if _, err := w.admin.Txn(w.ctx, metadata.Txn{Then: []metadata.Op{metadata.Delete(keys.JournalRecord(0, 2))}}); err != nil {
				t.Error(err)
			}
			return metadata.TxnResult{}, errLost
		})
		if got := <-propose(l, tiering.SessionID{}, 2); got.err != nil || got.seq != 2 {
			t.Fatalf("got %+v, want record 2", got)
		}
		w.must(l, 3)
	})
}

func TestAnUnknownOutcomeIsAnsweredAsFencedWhenTheAgentStops(t *testing.T) {
	bubble(t, 1, func(w *world) {
		a := w.start(1)
		l := a.acquire(0)
		a.client.Partition()
		done := propose(l, tiering.SessionID{}, 1)
		time.Sleep(time.Minute)
		w.unanswered(done)
		a.cancel() // Run ends, although the context of the leadership lives
		<-a.ended
		if got := <-done; !errors.Is(got.err, metadata.ErrFenced) {
			t.Errorf("got %+v, want ErrFenced", got)
		}
		<-l.Over()
	})
}

func TestADeadSessionsProposalIsRefusedAndTheOthersGoThrough(t *testing.T) {
	for _, unknown := range []bool{false, true} {
		t.Run(fmt.Sprintf("after an unknown outcome: %v", unknown), func(t *testing.T) {
			bubble(t, 1, func(w *world) {
				a, b, c := w.start(1), w.start(2), w.start(3)
				l := a.acquire(0)
				var late []metadata.Txn
				gate, held := make(chan struct{}), true
				a.store.hookTxn(func(txn metadata.Txn, apply func() (metadata.TxnResult, error)) (metadata.TxnResult, error) {
					if isAppend(txn) && held {
						held = false
						<-gate
					} else if isAppend(txn) && unknown && len(late) == 0 {
						late = append(late, txn)
						b.kill() // between the attempt that is lost and the next
						return metadata.TxnResult{}, errLost
					}
					return apply()
				})
				first := propose(l, tiering.SessionID{}, 1)
				synctest.Wait()
				ofB, ofC, ofNobody, again := propose(l, b.session.id, 2), propose(l, c.session.id, 3), propose(l, tiering.SessionID{}, 4), propose(l, b.session.id, 5)
				if !unknown {
					b.kill()
				}
				close(gate)
				if got := <-first; got.err != nil {
					t.Error(got)
				}
				for _, done := range []<-chan answer{ofB, again} {
					if got := <-done; !errors.Is(got.err, metadata.ErrSessionDead) {
						t.Errorf("of the dead session: %+v, want ErrSessionDead", got)
					}
				}
				for _, done := range []<-chan answer{ofC, ofNobody} {
					if got := <-done; got.err != nil || got.seq != 2 {
						t.Errorf("of another: %+v, want record 2", got)
					}
				}
				for _, txn := range late { // the lost attempt arrives at last
					if res, err := w.admin.Txn(w.ctx, txn); err != nil || res.Succeeded {
						t.Errorf("a record that names a dead session was applied: %+v, %v", res, err)
					}
				}
				w.must(l, 6)
				for n, want := range map[int64]int{1: 1, 2: 0, 3: 1, 4: 1, 5: 0, 6: 1} {
					if got := w.count(0, n); got != want {
						t.Errorf("mark %d is in the journal %d times, want %d", n, got, want)
					}
				}
			})
		})
	}
}

func TestAProposalWhoseDraftFailsIsToldAndTheOthersGoThrough(t *testing.T) {
	bubble(t, 1, func(w *world) {
		a := w.start(1)
		l := a.acquire(0)
		done := make(chan answer, 2)
		sub := &shard.Submission{Session: a.session.id, Seq: 1, Parts: []shard.Part{{}}}
		sub.Parts[0].Batches = []shard.Batch{{Length: 1, Count: 0}}
		l.Propose(&journal.Proposal{
			Draft: func(d *shard.Draft) error { _, err := d.Submit(sub); return err },
			Done:  func(seq uint64, err error) { done <- answer{seq, err} },
		})
		if got := <-done; !errors.Is(got.err, shard.ErrCorrupt) || got.seq != 0 {
			t.Errorf("got %+v", got)
		}
		if seq := w.must(l, 1); seq != 1 {
			t.Errorf("the next is record %d", seq)
		}
	})
}

func TestProposalsThatCanNeverBeCommittedHarmNobodyElse(t *testing.T) {
	huge := shard.Replace{With: []tiering.Extent{{Count: 1, Length: 2 << 20, Inline: make([]byte, 2<<20)}}}
	for name, change := range map[string]shard.Change{
		"too large":                 huge,
		"not a record that is read": shard.Trim{LogStart: -1},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 1, func(w *world) {
				a := w.start(1)
				l := a.acquire(0)
				gate, held := make(chan struct{}), true
				a.store.hookTxn(func(txn metadata.Txn, apply func() (metadata.TxnResult, error)) (metadata.TxnResult, error) {
					if held {
						held = false
						<-gate
					}
					return apply()
				})
				answers := map[int64]<-chan answer{1: propose(l, tiering.SessionID{}, 1)}
				synctest.Wait()
				for n := int64(2); n < 9; n++ {
					answers[n] = propose(l, tiering.SessionID{}, n)
				}
				bad := make(chan answer, 2)
				l.Propose(&journal.Proposal{
					Draft: func(d *shard.Draft) error { d.Add(change); return nil },
					Done:  func(seq uint64, err error) { bad <- answer{seq, err} },
				})
				answers[9] = propose(l, tiering.SessionID{}, 9)
				close(gate)
				if got := <-bad; !errors.Is(got.err, metadata.ErrInvalid) {
					t.Errorf("the bad one: %+v, want ErrInvalid", got)
				}
				for n, done := range answers {
					if got := <-done; got.err != nil || w.count(0, n) != 1 {
						t.Errorf("mark %d: %+v, in the journal %d times", n, got, w.count(0, n))
					}
				}
				if a.set.Leader(0) != l {
					t.Error("the leadership has ended")
				}
			})
		})
	}
}

func TestMoreSessionsThanATransactionMayName(t *testing.T) {
	bubble(t, 1, func(w *world) {
		a := w.start(1)
		l := a.acquire(0)
		gate, held := make(chan struct{}), true
		a.store.hookTxn(func(txn metadata.Txn, apply func() (metadata.TxnResult, error)) (metadata.TxnResult, error) {
			if held {
				held = false
				<-gate
			}
			return apply()
		})
		answers := []<-chan answer{propose(l, tiering.SessionID{}, 0)}
		synctest.Wait()
		for n := range int64(200) {
			id := tiering.SessionID{0xff, byte(n)}
			w.put(keys.Session(id), nil)
			answers = append(answers, propose(l, id, n+1))
		}
		close(gate)
		for n, done := range answers {
			if got := <-done; got.err != nil {
				t.Fatalf("mark %d: %+v", n, got)
			}
		}
	})
}

func TestSyncTellsHowFarAViewMustCome(t *testing.T) {
	bubble(t, 3, func(w *world) {
		a, b := w.start(1), w.start(2)
		l := a.acquire(2)
		b.client.Partition()
		w.must(l, 1)
		ctx, cancel := context.WithTimeout(w.ctx, time.Second)
		defer cancel()
		if err := b.set.Sync(ctx, 0, 1, 2); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("of an agent that is cut off: %v", err)
		}
		if at := b.set.View(2).Seq(); at != 0 {
			t.Errorf("its view is at %d", at)
		}
		b.client.Heal()
		if err := b.set.Sync(w.ctx, 0, 1, 2); err != nil || b.set.View(2).Seq() != 1 {
			t.Errorf("after the cut: %v, at %d", err, b.set.View(2).Seq())
		}
		ctx2, cancel2 := context.WithTimeout(w.ctx, time.Second)
		defer cancel2()
		if err := b.set.View(2).Wait(ctx2, 2); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Wait for a record that is not there: %v", err)
		}
	})
}
