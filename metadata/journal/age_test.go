package journal_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/tiering"
)

func TestAnOldRecordIsCoveredByASnapshot(t *testing.T) {
	bubble(t, 1, func(w *world) {
		w.age = time.Minute
		a := w.start(1)
		l := a.acquire(0)
		w.must(l, 1)
		first, some, err := journal.Uncovered(w.ctx, w.admin, keys, 1)
		if err != nil || !some || first != time.Now().UnixMilli() {
			t.Fatalf("uncovered since %d, %v, %v; want now", first, some, err)
		}
		time.Sleep(30 * time.Second)
		w.must(l, 2)
		time.Sleep(29 * time.Second)
		synctest.Wait()
		if w.get(keys.Snapshot(0)).Exists() {
			t.Error("a snapshot was written before the oldest record was a minute old")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		p, err := journal.ParsePointer(w.get(keys.Snapshot(0)))
		if err != nil || p.Seq != 2 {
			t.Fatalf("snapshot pointer %+v, %v; want one of record 2", p, err)
		}
		if n, err := journal.ParseSnapshotKey(p.Key); err != nil || n.Seq != 2 || n.Shard != 0 || n.Session != a.session.id {
			t.Errorf("the key %s says %+v, %v", p.Key, n, err)
		}
		if _, some, err := journal.Uncovered(w.ctx, w.admin, keys, 1); some || err != nil {
			t.Errorf("records without a snapshot: %v, %v", some, err)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := a.seen.snapshots.Load(); n != 1 {
			t.Errorf("an idle shard wrote %d snapshots, want the one", n)
		}
	})
}

func TestANewLeaderCoversTheJournalThatItFound(t *testing.T) {
	bubble(t, 1, func(w *world) {
		w.age = time.Hour
		a, b := w.start(1), w.start(2)
		w.must(a.acquire(0), 1)
		a.kill()
		b.acquire(0)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if p, err := journal.ParsePointer(w.get(keys.Snapshot(0))); err != nil || p.Seq != 1 {
			t.Errorf("snapshot pointer %+v, %v; want one of record 1", p, err)
		}
	})
}

func TestStoredValuesReadBack(t *testing.T) {
	h := journal.Head{Epoch: 7, Session: tiering.SessionID{1, 2}, Seq: 99}
	if got, err := journal.ParseHead(h.Encode()); err != nil || got != h {
		t.Errorf("head %+v reads back as %+v, %v", h, got, err)
	}
	for _, key := range []string{"snap/00001/0000000000000001", "snap/1/0000000000000001-00000000000000000000000000000000-0000000000000001", "seg/x"} {
		if n, err := journal.ParseSnapshotKey(key); err == nil {
			t.Errorf("%s reads as %+v", key, n)
		}
	}
}
