package journal_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

func TestALeaderThatWasPausedCommitsNothing(t *testing.T) {
	bubble(t, 1, func(w *world) {
		a, b := w.start(1), w.start(2)
		old := a.acquire(0)
		w.must(old, 1)
		if _, err := b.set.Acquire(w.ctx, b.session, 0); !errors.Is(err, metadata.ErrConflict) {
			t.Fatalf("taking a shard whose lease lives: %v", err)
		}
		a.client.Pause()
		a.session.held.Store(true) // it notices nothing: Alive stays true
		zombie := propose(old, tiering.SessionID{}, 2)
		time.Sleep(2 * ttl)
		l := b.acquire(0)
		if l.Epoch() <= old.Epoch() {
			t.Errorf("epoch %d after epoch %d", l.Epoch(), old.Epoch())
		}
		w.must(l, 3)
		w.unanswered(zombie)
		a.client.Resume()
		if got := <-zombie; !errors.Is(got.err, metadata.ErrFenced) {
			t.Errorf("the zombie's proposal: %+v, want ErrFenced", got)
		}
		<-old.Over()
		if got := <-propose(old, tiering.SessionID{}, 4); !errors.Is(got.err, metadata.ErrFenced) {
			t.Errorf("a proposal after the end: %+v, want ErrFenced", got)
		}
		w.must(l, 5)
		for n, want := range map[int64]int{1: 1, 2: 0, 3: 1, 4: 0, 5: 1} {
			if got := w.count(0, n); got != want {
				t.Errorf("mark %d is in the journal %d times, want %d", n, got, want)
			}
		}
		if a.set.Leader(0) != nil || a.set.Leadership(0).Node != 2 {
			t.Errorf("the zombie still believes in %+v", a.set.Leadership(0))
		}
	})
}

func TestALeaderWhoseLeaseIsGoneCommitsNothingThoughNobodyHasTakenOver(t *testing.T) {
	bubble(t, 1, func(w *world) {
		a := w.start(1)
		l := a.acquire(0)
		w.must(l, 1)
		if err := w.admin.Revoke(w.ctx, a.session.lease); err != nil { // a itself notices nothing
			t.Fatal(err)
		}
		if got := <-propose(l, tiering.SessionID{}, 2); !errors.Is(got.err, metadata.ErrFenced) || w.count(0, 2) != 0 {
			t.Errorf("got %+v, in the journal %d times", got, w.count(0, 2))
		}
	})
}

func TestATransactionOfAFencedLeaderThatArrivesLateIsRefused(t *testing.T) {
	bubble(t, 1, func(w *world) {
		a, b := w.start(1), w.start(2)
		old := a.acquire(0)
		w.must(old, 1)
		gate := make(chan metadata.Txn, 1)
		a.store.hookTxn(func(txn metadata.Txn, apply func() (metadata.TxnResult, error)) (metadata.TxnResult, error) {
			if isAppend(txn) && len(gate) == 0 {
				gate <- txn // lost on its way, for now
				return metadata.TxnResult{}, errLost
			}
			if isAppend(txn) {
				return metadata.TxnResult{}, errLost
			}
			return apply()
		})
		done := propose(old, a.session.id, 2)
		synctest.Wait()
		a.kill()
		l := b.acquire(0)
		if res, err := w.admin.Txn(w.ctx, <-gate); err != nil || res.Succeeded {
			t.Errorf("the late append: %+v, %v", res, err)
		}
		w.must(l, 3)
		a.store.hookTxn(nil)
		if got := <-done; !errors.Is(got.err, metadata.ErrFenced) {
			t.Errorf("got %+v, want ErrFenced", got)
		}
		if w.count(0, 2) != 0 {
			t.Error("a fenced leader's record is in the journal")
		}
	})
}

func TestReleaseHandsOverWithoutWaitingForTheLease(t *testing.T) {
	for name, lose := range map[string]bool{"at once": false, "although the first reply is lost": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 1, func(w *world) {
				a, b := w.start(1), w.start(2)
				old := a.acquire(0)
				gate := make(chan struct{})
				a.store.hookTxn(func(txn metadata.Txn, apply func() (metadata.TxnResult, error)) (metadata.TxnResult, error) {
					if isAppend(txn) {
						<-gate
					} else if lose {
						lose = false
						return metadata.TxnResult{}, errLost
					}
					return apply()
				})
				first, second := propose(old, tiering.SessionID{}, 1), propose(old, tiering.SessionID{}, 2)
				released := make(chan error, 1)
				go func() { released <- old.Release(w.ctx) }()
				synctest.Wait()
				if got := <-propose(old, tiering.SessionID{}, 3); !errors.Is(got.err, metadata.ErrFenced) {
					t.Errorf("a proposal during the release: %+v", got)
				}
				began := time.Now()
				close(gate)
				if err := <-released; err != nil {
					t.Fatal(err)
				}
				if x, y := <-first, <-second; x.err != nil || y.err != nil {
					t.Errorf("what was queued before the release: %+v, %+v", x, y)
				}
				l := b.acquire(0)
				if took := time.Since(began); took >= ttl/4 {
					t.Errorf("the shard was without a leader for %v", took)
				}
				w.must(l, 4)
				if !a.session.Alive() || a.set.Leader(0) != nil {
					t.Error("the old leader is still in the books, or its session is gone")
				}
			})
		})
	}
}

func TestReleaseDoesNotWaitForTheObjectStore(t *testing.T) {
	bubble(t, 1, func(w *world) {
		w.records = 1
		a := w.start(1)
		l := a.acquire(0)
		w.objects.onPut = func(ctx context.Context, _ string) error { <-ctx.Done(); return ctx.Err() }
		w.must(l, 1)
		synctest.Wait() // the snapshot is being written
		began := time.Now()
		if err := l.Release(w.ctx); err != nil || time.Since(began) > time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		if w.get(keys.Leader(0)).Exists() {
			t.Error("the shard still has a leader")
		}
	})
}

func TestATakeoverWhoseReplyIsLostIsRecognised(t *testing.T) {
	for name, applied := range map[string]bool{"it had been applied": true, "it had not been applied": false} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 1, func(w *world) {
				a := w.start(1)
				calls := 0
				a.store.hookTxn(func(_ metadata.Txn, apply func() (metadata.TxnResult, error)) (metadata.TxnResult, error) {
					if calls++; calls == 1 {
						if applied {
							_, _ = apply()
						}
						return metadata.TxnResult{}, errLost
					}
					return apply()
				})
				l := a.acquire(0)
				if calls != 2 || l.Epoch() != 1 {
					t.Errorf("%d attempts, epoch %d", calls, l.Epoch())
				}
				w.must(l, 1)
			})
		})
	}
}

func TestATakeoverThatFailsHalfWayLeavesNoLeadershipBehind(t *testing.T) {
	bubble(t, 1, func(w *world) {
		a, b := w.start(1), w.start(2)
		a.store.hookScan(func(func() (metadata.Page, error)) (metadata.Page, error) { return metadata.Page{}, errLost })
		if _, err := a.set.Acquire(w.ctx, a.session, 0); !errors.Is(err, errLost) {
			t.Fatalf("got %v", err)
		}
		a.store.hookScan(nil)
		l := b.acquire(0)
		if l.Epoch() != 2 {
			t.Errorf("epoch %d, want one above that of the takeover that failed", l.Epoch())
		}
		w.must(l, 1)
	})
}

func TestALeftoverOfTheSameSessionIsTakenOverWithAHigherEpoch(t *testing.T) {
	bubble(t, 1, func(w *world) {
		a := w.start(1)
		ctx, cancel := context.WithCancel(w.ctx)
		old, err := a.set.Acquire(ctx, a.session, 0)
		if err != nil {
			t.Fatal(err)
		}
		w.must(old, 1)
		// Its context ends while an append of it is under way, which arrives later.
		var late metadata.Txn
		a.store.hookTxn(func(txn metadata.Txn, _ func() (metadata.TxnResult, error)) (metadata.TxnResult, error) {
			late = txn
			return metadata.TxnResult{}, errLost
		})
		done := propose(old, tiering.SessionID{}, 2)
		synctest.Wait()
		cancel()
		if got := <-done; !errors.Is(got.err, metadata.ErrFenced) {
			t.Errorf("got %+v, want ErrFenced", got)
		}
		<-old.Over()
		a.store.hookTxn(nil)
		if !w.get(keys.Leader(0)).Exists() {
			t.Fatal("the leadership should be left over")
		}
		l := a.acquire(0)
		if l.Epoch() != old.Epoch()+1 {
			t.Errorf("epoch %d after %d", l.Epoch(), old.Epoch())
		}
		if res, err := w.admin.Txn(w.ctx, late); err != nil || res.Succeeded {
			t.Errorf("the late append of the one before: %+v, %v", res, err)
		}
		w.must(l, 3)
		if w.count(0, 2) != 0 || w.count(0, 3) != 1 {
			t.Error("the journal holds the wrong records")
		}
	})
}

func TestAShardIsNotTakenTwiceByOneAgent(t *testing.T) {
	bubble(t, 1, func(w *world) {
		a := w.start(1)
		gate := make(chan struct{})
		a.store.hookScan(func(read func() (metadata.Page, error)) (metadata.Page, error) { <-gate; return read() })
		first := make(chan error, 1)
		go func() { _, err := a.set.Acquire(w.ctx, a.session, 0); first <- err }()
		synctest.Wait()
		for _, when := range []string{"during the first takeover", "after the first takeover"} {
			if _, err := a.set.Acquire(w.ctx, a.session, 0); !errors.Is(err, metadata.ErrConflict) {
				t.Errorf("%s: got %v, want ErrConflict", when, err)
			}
			if when == "during the first takeover" {
				close(gate)
				if err := <-first; err != nil {
					t.Fatal(err)
				}
			}
		}
		w.must(a.set.Leader(0), 1)
	})
}

func TestADeadSessionTakesNothing(t *testing.T) {
	bubble(t, 1, func(w *world) {
		a := w.start(1)
		if err := w.admin.Revoke(w.ctx, a.session.lease); err != nil {
			t.Fatal(err)
		}
		if _, err := a.set.Acquire(w.ctx, a.session, 0); !errors.Is(err, metadata.ErrSessionDead) {
			t.Errorf("got %v, want ErrSessionDead", err)
		}
	})
}

func TestALostSessionEndsItsLeaderships(t *testing.T) {
	bubble(t, 2, func(w *world) {
		a, b := w.start(1), w.start(2)
		l := a.acquire(0)
		w.must(l, 1)
		a.kill()
		<-l.Over()
		synctest.Wait()
		if got := b.set.Leadership(0); got.Live || got.Node != 1 || got.Epoch != l.Epoch() {
			t.Errorf("the other agent sees %+v, want a leadership that has ended", got)
		}
		w.must(b.acquire(0), 2)
	})
}

// TestAnOldReadDoesNotOverruleTheWatch holds back what a takeover has read until the
// watch has told of its leadership's end.
func TestAnOldReadDoesNotOverruleTheWatch(t *testing.T) {
	bubble(t, 2, func(w *world) {
		a := w.start(1)
		gate := make(chan struct{})
		a.store.hookScan(func(read func() (metadata.Page, error)) (metadata.Page, error) {
			page, err := read()
			<-gate
			return page, err
		})
		taken := make(chan error, 1)
		go func() { _, err := a.set.Acquire(w.ctx, a.session, 0); taken <- err }()
		synctest.Wait()
		a.kill()
		synctest.Wait()
		close(gate)
		if err := <-taken; err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := a.set.Leadership(0); got.Live {
			t.Errorf("the agent believes in %+v, which has ended", got)
		}
	})
}

func TestEverythingEndsWithRun(t *testing.T) {
	bubble(t, 3, func(w *world) {
		w.records = 1
		a := w.start(1)
		var answered atomic.Int64
		w.objects.onPut = func(ctx context.Context, _ string) error { <-ctx.Done(); return ctx.Err() }
		for id := range tiering.ShardID(3) {
			l := a.acquire(id)
			w.must(l, int64(id))
			l.Propose(&journal.Proposal{
				Draft: func(d *shard.Draft) error { d.Add(mark(9)); return nil },
				Done:  func(uint64, error) { answered.Add(1) },
			})
		}
		a.cancel()
		<-a.ended
		if a.err != nil || answered.Load() != 3 {
			t.Errorf("Run: %v, %d of 3 proposals answered", a.err, answered.Load())
		}
		for id := range tiering.ShardID(3) {
			if a.set.Leader(id) != nil {
				t.Errorf("shard %d still has a leader here", id)
			}
		}
		if _, err := a.set.Acquire(w.ctx, a.session, 0); err == nil {
			t.Error("a Set that has ended took a shard")
		}
	})
}
