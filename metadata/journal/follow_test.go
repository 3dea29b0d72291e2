package journal_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
)

func snapshotOf(a *agent, id tiering.ShardID) (s string) {
	a.set.View(id).Read(func(st *shard.State) { s = string(st.EncodeSnapshot(nil)) })
	return s
}

// grown starts an agent whose journal was cut by a snapshot.
func grown(w *world) (*agent, *journal.Leader) {
	w.t.Helper()
	w.records = 10
	a := w.start(1)
	l := a.acquire(0)
	for n := int64(1); n <= 25; n++ {
		w.must(l, n)
		synctest.Wait() // a snapshot that was begun is written
	}
	if a.seen.snapshots.Load() != 2 {
		w.t.Fatalf("%d snapshots, want 2", a.seen.snapshots.Load())
	}
	return a, l
}

func TestASnapshotCutsTheJournalAndANewAgentStartsFromIt(t *testing.T) {
	bubble(t, 1, func(w *world) {
		a, l := grown(w)
		page, err := w.admin.Range(w.ctx, keys.Journal(0), metadata.PrefixEnd(keys.Journal(0)), 0, 0)
		if err != nil || len(page.KVs) == 0 || len(page.KVs) > 10 {
			t.Fatalf("%d records are left, %v", len(page.KVs), err)
		}
		b := w.start(2)
		if b.set.View(0).Seq() != 25 || snapshotOf(a, 0) != snapshotOf(b, 0) {
			t.Errorf("the new agent is at %d with another state", b.set.View(0).Seq())
		}
		if err := l.Release(w.ctx); err != nil {
			t.Fatal(err)
		}
		w.must(b.acquire(0), 26)
		objs, err := w.objects.List(w.ctx, journal.SnapshotPrefix, "", 100)
		if err != nil || len(objs) != 2 {
			t.Errorf("%d snapshots are kept, %v, want the newest and the one before", len(objs), err)
		}
	})
}

func TestASnapshotThatVanishesWhileItIsLoadedIsLookedForAgain(t *testing.T) {
	bubble(t, 1, func(w *world) {
		a, l := grown(w)
		missing := 0
		w.objects.onGet = func(key string) error {
			if missing++; missing > 3 {
				return nil
			}
			if missing == 1 { // the pointer moves on twice meanwhile
				w.objects.mu.Lock()
				hook := w.objects.onGet
				w.objects.onGet = nil
				w.objects.mu.Unlock()
				for n := int64(26); n <= 46; n++ {
					w.must(l, n)
					synctest.Wait()
				}
				w.objects.mu.Lock()
				w.objects.onGet = hook
				w.objects.mu.Unlock()
			}
			return objstore.ErrNotFound
		}
		b := w.startUnloaded(2)
		select {
		case <-b.set.Loaded():
		case <-time.After(time.Minute):
			t.Fatal("never loaded")
		}
		if err := b.set.Sync(w.ctx, 0); err != nil || snapshotOf(a, 0) != snapshotOf(b, 0) {
			t.Errorf("at %d: %v", b.set.View(0).Seq(), err)
		}
	})
}

func TestASnapshotPointerWhoseReplyIsLostIsResolved(t *testing.T) {
	for name, applied := range map[string]bool{"it had moved": true, "it had not moved": false} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 1, func(w *world) {
				w.records = 5
				a := w.start(1)
				l := a.acquire(0)
				lost := 0
				a.store.hookTxn(func(txn metadata.Txn, apply func() (metadata.TxnResult, error)) (metadata.TxnResult, error) {
					if strings.HasSuffix(txn.Then[0].Key, "/snapshot") && lost == 0 {
						lost++
						if applied {
							_, _ = apply()
						}
						return metadata.TxnResult{}, errLost
					}
					return apply()
				})
				for n := int64(1); n <= 7; n++ {
					w.must(l, n)
				}
				time.Sleep(time.Second)
				synctest.Wait()
				if a.seen.snapshots.Load() != 1 || lost != 1 {
					t.Errorf("%d snapshots, %d replies lost", a.seen.snapshots.Load(), lost)
				}
				if b := w.start(2); snapshotOf(a, 0) != snapshotOf(b, 0) {
					t.Error("the new agent has another state")
				}
			})
		})
	}
}

// TestASnapshotThatIsNamedIsNotDeleted: the pointer moved, its reply was lost, and before
// the writer asked again, the next leader had moved it on.
func TestASnapshotThatIsNamedIsNotDeleted(t *testing.T) {
	bubble(t, 1, func(w *world) {
		w.records = 5
		a, b := w.start(1), w.start(2)
		l := a.acquire(0)
		gate := make(chan struct{})
		a.store.hookTxn(func(txn metadata.Txn, apply func() (metadata.TxnResult, error)) (metadata.TxnResult, error) {
			if !strings.HasSuffix(txn.Then[0].Key, "/snapshot") {
				return apply()
			}
			res, err := apply()
			if res.Succeeded {
				<-gate
				err = errLost
			}
			return res, err
		})
		for n := int64(1); n <= 5; n++ {
			w.must(l, n)
		}
		synctest.Wait()
		if err := w.admin.Revoke(w.ctx, a.session.lease); err != nil { // a itself notices nothing
			t.Fatal(err)
		}
		next := b.acquire(0)
		for n := int64(6); n <= 10; n++ {
			w.must(next, n)
		}
		synctest.Wait()
		close(gate)
		time.Sleep(time.Second)
		objs, err := w.objects.List(w.ctx, journal.SnapshotPrefix, "", 100)
		if err != nil || len(objs) != 2 || b.seen.snapshots.Load() != 1 {
			t.Errorf("%d snapshots are kept, %v, want both that the pointer names", len(objs), err)
		}
	})
}

func TestAFailedSnapshotIsTriedAgainWhenTheJournalHasGrown(t *testing.T) {
	bubble(t, 1, func(w *world) {
		w.records = 8
		a := w.start(1)
		l := a.acquire(0)
		fail := 2
		w.objects.onPut = func(context.Context, string) error {
			if fail--; fail >= 0 {
				return objstore.ErrDenied
			}
			return nil
		}
		for n := int64(1); n <= 12; n++ {
			w.must(l, n)
			synctest.Wait()
			if n < 12 && a.seen.snapshots.Load() != 0 {
				t.Fatalf("a snapshot at record %d", n)
			}
		}
		if a.seen.snapshots.Load() != 1 {
			t.Errorf("%d snapshots, want 1 after two that failed", a.seen.snapshots.Load())
		}
	})
}

func TestALostWatchIsReplaced(t *testing.T) {
	bubble(t, 1, func(w *world) {
		a, b := w.start(1), w.start(2)
		l := a.acquire(0)
		for n := int64(1); n <= 3; n++ {
			w.server.BreakWatches()
			w.must(l, n)
			if err := b.set.Sync(w.ctx, 0); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestAViewThatFellBehindTheStoresHistoryIsReadAgain(t *testing.T) {
	bubble(t, 1, func(w *world) {
		w.records = 4
		a, b := w.start(1), w.start(2)
		l := a.acquire(0)
		b.client.Partition()
		for n := int64(1); n <= 10; n++ {
			w.must(l, n)
			synctest.Wait()
		}
		if err := w.admin.Compact(w.ctx, w.server.Revision()); err != nil {
			t.Fatal(err)
		}
		w.server.BreakWatches() // what was on its way is gone too
		b.client.Heal()
		w.must(l, 11)
		if err := b.set.Sync(w.ctx, 0); err != nil || snapshotOf(a, 0) != snapshotOf(b, 0) {
			t.Errorf("at %d: %v", b.set.View(0).Seq(), err)
		}
	})
}

func TestAViewIsRepairedWhenTheWatchMissesSomething(t *testing.T) {
	for name, c := range map[string]struct {
		swallow func(metadata.Event) bool
		within  time.Duration
	}{
		"a record, and later ones arrive":    {func(ev metadata.Event) bool { return ev.Key == keys.JournalRecord(0, 2) }, 0},
		"the last records, and all is quiet": {func(ev metadata.Event) bool { return strings.HasPrefix(ev.Key, keys.Journal(0)) }, 36 * time.Second},
		"all":                                {func(metadata.Event) bool { return true }, 36 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 1, func(w *world) {
				a := w.start(1)
				b := w.startUnloaded(2, func(b *agent) { b.store.swallow = c.swallow })
				<-b.set.Loaded()
				l := a.acquire(0)
				for n := int64(1); n <= 3; n++ {
					w.must(l, n)
				}
				time.Sleep(c.within)
				synctest.Wait()
				if at := b.set.View(0).Seq(); at != 3 {
					t.Errorf("the view is at %d", at)
				}
				if got := b.set.Leadership(0); !got.Live || got.Node != 1 {
					t.Errorf("the leadership seen is %+v", got)
				}
				a.kill()
				time.Sleep(c.within)
				synctest.Wait()
				if got := b.set.Leadership(0); got.Live {
					t.Errorf("the leadership seen is %+v, which has ended", got)
				}
			})
		})
	}
}

// TestAViewThatIsOnlyLateIsNotReadAgain: under steady load the watch is behind the head at
// nearly every instant, and no whole journal must be read for that.
func TestAViewThatIsOnlyLateIsNotReadAgain(t *testing.T) {
	bubble(t, 1, func(w *world) {
		const every, late = 200 * time.Millisecond, 170 * time.Millisecond
		a := w.start(1)
		b := w.startUnloaded(2, func(b *agent) {
			b.store.swallow = func(ev metadata.Event) bool {
				if strings.HasPrefix(ev.Key, keys.Journal(0)) {
					time.Sleep(late)
				}
				return false
			}
		})
		<-b.set.Loaded()
		scans, heads, behind := 0, 0, 0
		b.store.hookScan(func(read func() (metadata.Page, error)) (metadata.Page, error) { scans++; return read() })
		b.store.hookGet(func(read func() ([]metadata.KV, int64, error)) ([]metadata.KV, int64, error) {
			kvs, revision, err := read()
			heads++
			if b.set.View(0).Seq() < a.set.View(0).Seq() {
				behind++
			}
			return kvs, revision, err
		})
		l := a.acquire(0)
		time.Sleep(every / 2) // the looks fall between two records
		records := 3 * time.Minute / every
		for n := range int64(records) {
			w.must(l, n+1)
			time.Sleep(every)
		}
		synctest.Wait()
		if heads < 5 || behind != heads {
			t.Errorf("behind at %d of %d looks, want all of more", behind, heads)
		}
		if at := b.set.View(0).Seq(); scans != 0 || at != uint64(records) {
			t.Errorf("the journal was read %d times, the view is at %d of %d", scans, at, records)
		}
	})
}

func TestKeysOfALaterVersionAreIgnored(t *testing.T) {
	bubble(t, 2, func(w *world) {
		w.put(keys.Shard(0)+"novelty", []byte("?"))
		w.put(keys.Shard(7)+"head", []byte("?"))
		a := w.start(1)
		w.put(keys.Shard(1)+"novelty", []byte("?"))
		w.must(a.acquire(1), 1)
	})
}

func TestCorruptDataStopsTheSet(t *testing.T) {
	good := func(seq uint64) shard.Record {
		return shard.Record{Seq: seq, Epoch: 9, Nonce: 77, Changes: []shard.Change{mark(5)}}
	}
	for name, spoil := range map[string]func(w *world){
		"a record that does not fit": func(w *world) {
			r := good(4)
			r.Changes = []shard.Change{shard.Append{Base: 17, Extents: []tiering.Extent{{Count: 1, Length: 1, Inline: []byte{1}}}}}
			w.put(keys.JournalRecord(0, 4), r.Encode(nil))
		},
		"a record of an older epoch": func(w *world) {
			r := good(4)
			r.Epoch = 0
			w.put(keys.JournalRecord(0, 4), r.Encode(nil))
		},
		"a record in another's place":     func(w *world) { w.put(keys.JournalRecord(0, 4), good(5).Encode(nil)) },
		"a record without the one before": func(w *world) { w.put(keys.JournalRecord(0, 5), good(5).Encode(nil)) },
	} {
		for _, when := range []string{"while it is followed", "when it is loaded"} {
			t.Run(name+" "+when, func(t *testing.T) {
				bubble(t, 1, func(w *world) {
					a := w.start(1)
					l := a.acquire(0)
					for n := int64(1); n <= 3; n++ {
						w.must(l, n)
					}
					b := a
					if when == "when it is loaded" {
						spoil(w)
						b = w.startUnloaded(2)
					} else {
						spoil(w)
					}
					select {
					case <-b.ended:
					case <-time.After(time.Minute):
						t.Fatal("the Set goes on")
					}
					if !errors.Is(b.err, shard.ErrCorrupt) {
						t.Errorf("Run: %v, want ErrCorrupt", b.err)
					}
				})
			})
		}
	}
}

// TestARestoredStoreIsNoticed: what agents had seen committed is gone. Neither a leader
// nor a follower may go on as if nothing had happened.
func TestARestoredStoreIsNoticed(t *testing.T) {
	for name, later := range map[string]int{"before anything new is written": 0, "after as many new records": 2, "after fewer new records": 1} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 1, func(w *world) {
				a, b := w.start(1), w.start(2)
				l := a.acquire(0)
				w.must(l, 1)
				backup := w.server.Snapshot()
				w.must(l, 2)
				w.must(l, 3)
				synctest.Wait()
				for _, x := range []*agent{a, b} {
					x.client.Partition()
					x.session.held.Store(true)
				}
				w.server.Restore(backup)
				time.Sleep(2 * ttl)
				if later > 0 {
					c := w.start(3)
					lc := c.acquire(0)
					for n := range later {
						w.must(lc, int64(10+n))
					}
				}
				for _, x := range []*agent{a, b} {
					x.client.Heal()
				}
				zombie := propose(l, tiering.SessionID{}, 20)
				for _, x := range []*agent{a, b} {
					select {
					case <-x.ended:
					case <-time.After(time.Minute):
						t.Fatalf("agent %d goes on", x.node)
					}
					if !errors.Is(x.err, shard.ErrCorrupt) {
						t.Errorf("Run: %v, want ErrCorrupt", x.err)
					}
				}
				if got := <-zombie; !errors.Is(got.err, metadata.ErrFenced) {
					t.Errorf("the old leader's proposal: %+v", got)
				}
			})
		})
	}
}
