package journal_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// TestAShardOfANewerReleaseIsLeftAlone has a record of a version that nobody knows appear in the
// journal of a shard: it stands still and is not taken over; the others go on, and nothing ends.
func TestAShardOfANewerReleaseIsLeftAlone(t *testing.T) {
	bubble(t, 2, func(w *world) {
		a := w.start(1)
		l, other := a.acquire(0), a.acquire(1)
		w.must(l, 1)
		if err := l.Release(w.ctx); err != nil {
			t.Fatal(err)
		}
		future := shard.Record{Seq: 2, Epoch: 1, Leader: tiering.SessionID{7}, Nonce: 1}.Encode(nil)
		future[0] = 200
		w.put(keys.JournalRecord(0, 2), future)
		synctest.Wait()
		if err := a.set.View(0).Err(); !errors.Is(err, shard.ErrVersion) || a.set.Stopped() != 1 {
			t.Fatalf("the view goes on: %v", err)
		}
		if _, err := a.set.Acquire(w.ctx, a.session, 0); !errors.Is(err, shard.ErrVersion) {
			t.Errorf("the shard was taken over: %v", err)
		}
		w.must(other, 1)
		b := w.start(2) // reads it when it starts
		time.Sleep(2 * time.Minute)
		if err := b.set.View(0).Err(); !errors.Is(err, shard.ErrVersion) || b.set.View(1).Err() != nil {
			t.Errorf("the second agent: %v, %v", err, b.set.View(1).Err())
		}
		if b.set.View(0).Seq() != 1 || b.set.View(1).Seq() != 1 {
			t.Errorf("the second agent stands at %d and %d", b.set.View(0).Seq(), b.set.View(1).Seq())
		}
	})
}
