package journal_test

import (
	"bytes"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/shard"
)

// A bit that etcd, or the way from it, has flipped stops one shard, and no agent.
func TestADamagedRecordStopsItsShardAlone(t *testing.T) {
	bubble(t, 2, func(w *world) {
		a := w.start(1)
		l := a.acquire(0)
		w.must(l, 1)
		w.must(l, 2)
		a.stop() // both shards are without a leader
		value := bytes.Clone(w.get(keys.JournalRecord(0, 2)).Value)
		good := bytes.Clone(value)
		value[len(value)-5] ^= 1 // what the mark says
		w.put(keys.JournalRecord(0, 2), value)

		b := w.start(2)
		if got := b.set.View(0); got.Seq() != 1 || !errors.Is(got.Err(), shard.ErrCorrupt) || b.set.Stopped() != 1 {
			t.Errorf("the view is at record %d, stopped by %v; %d stand still", got.Seq(), got.Err(), b.set.Stopped())
		}
		head := w.get(keys.Head(0)).Value
		for range 3 {
			if _, err := b.set.Acquire(w.ctx, b.session, 0); !errors.Is(err, shard.ErrCorrupt) {
				t.Errorf("the shard is taken over: %v", err)
			}
		}
		if got := w.get(keys.Head(0)).Value; !bytes.Equal(got, head) {
			t.Errorf("a takeover that cannot be was begun: the head is %s, it was %s", got, head)
		}
		if err := b.set.Sync(w.ctx, 0); !errors.Is(err, shard.ErrCorrupt) {
			t.Errorf("what the shard holds is answered: %v", err)
		}
		w.must(b.acquire(1), 3)

		w.put(keys.JournalRecord(0, 2), good) // as an operator, or etcd's repair, would
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if got := b.set.View(0); got.Seq() != 2 || got.Err() != nil {
			t.Errorf("mended, the view is at record %d, stopped by %v", got.Seq(), got.Err())
		}
		w.must(b.acquire(0), 4)
	})
}

// The leader knows what it wrote: others pass over a damaged record by its next snapshot.
func TestASnapshotPassesOverADamagedRecord(t *testing.T) {
	bubble(t, 1, func(w *world) {
		w.records = 10
		a := w.start(1)
		l := a.acquire(0)
		w.must(l, 1)
		w.must(l, 2)
		w.put(keys.JournalRecord(0, 2), []byte{4, 0})
		b := w.start(2)
		for n := int64(3); n <= 12; n++ {
			w.must(l, n)
			synctest.Wait()
		}
		if got := b.set.View(0); got.Seq() != 1 || got.Err() == nil {
			t.Errorf("the view is at record %d, stopped by %v", got.Seq(), got.Err())
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if got := b.set.View(0); got.Seq() != 12 || got.Err() != nil || snapshotOf(a, 0) != snapshotOf(b, 0) {
			t.Errorf("behind the snapshot the view is at record %d, stopped by %v", got.Seq(), got.Err())
		}
	})
}

// Records are written in the version that the cluster's level names.
func TestRecordsAreWrittenInTheClustersVersion(t *testing.T) {
	bubble(t, 1, func(w *world) {
		w.version.Store(3)
		l := w.start(1).acquire(0)
		w.must(l, 1)
		w.version.Store(4)
		w.must(l, 2)
		if a, b := w.get(keys.JournalRecord(0, 1)).Value[0], w.get(keys.JournalRecord(0, 2)).Value[0]; a != 3 || b != 4 {
			t.Errorf("written in versions %d and %d, want 3 and 4", a, b)
		}
	})
}

// An agent that has a record goes on when it is damaged later, and takes the shard over: its next snapshot mends it.
func TestARecordThatIsDamagedLaterStopsNobodyWhoHasIt(t *testing.T) {
	bubble(t, 1, func(w *world) {
		a := w.start(1)
		b := w.start(2)
		l := a.acquire(0)
		w.must(l, 1)
		w.must(l, 2)
		synctest.Wait()
		w.put(keys.JournalRecord(0, 1), []byte{4, 0})
		if err := l.Release(w.ctx); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := b.set.View(0); got.Seq() != 2 || got.Err() != nil {
			t.Errorf("the view is at record %d, stopped by %v", got.Seq(), got.Err())
		}
		w.must(b.acquire(0), 3)
		if got := b.set.View(0); got.Seq() != 3 || got.Err() != nil {
			t.Errorf("the view is at record %d, stopped by %v", got.Seq(), got.Err())
		}
	})
}

// A store that is restored to what it was before the damaged record has nothing that keeps the shard.
func TestAShardWhoseDamagedRecordIsGoneIsTakenOver(t *testing.T) {
	bubble(t, 1, func(w *world) {
		a := w.start(1)
		l := a.acquire(0)
		w.must(l, 1)
		head := w.get(keys.Head(0)).Value
		if err := l.Release(w.ctx); err != nil {
			t.Fatal(err)
		}
		w.put(keys.JournalRecord(0, 2), []byte{4, 0})
		synctest.Wait()
		if a.set.View(0).Err() == nil {
			t.Fatal("the view goes on")
		}
		if _, err := w.admin.Txn(w.ctx, metadata.Txn{Then: []metadata.Op{metadata.Delete(keys.JournalRecord(0, 2)), metadata.Put(keys.Head(0), head)}}); err != nil {
			t.Fatal(err)
		}
		w.must(a.acquire(0), 2)
	})
}
