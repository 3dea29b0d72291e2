package journal

import (
	"context"
	"fmt"
	"time"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// retryAged is the pause after a snapshot that failed, before age asks for one again. Shorter
// loads an object store in trouble; longer keeps garbage that carries records for longer.
const retryAged = 30 * time.Second

// startAging arms the timer of the journal that was found at the takeover.
func (l *Leader) startAging() {
	l.aging = time.NewTimer(time.Hour)
	l.aging.Stop()
	if l.appender.seq > l.appender.snapshotSeq {
		l.ageFrom(min(takeoverSnapshot, l.set.cfg.SnapshotAge))
	}
}

// ageFrom arms the timer anew.
func (l *Leader) ageFrom(d time.Duration) {
	if l.set.cfg.SnapshotAge > 0 {
		l.aging.Reset(d)
	}
}

// ageAgain arms the timer if there are records that no snapshot holds.
func (l *Leader) ageAgain(d time.Duration) {
	l.aging.Stop()
	if l.appender.seq > l.appender.snapshotSeq {
		l.ageFrom(d)
	}
}

// aged writes a snapshot because the journal's oldest record is due for one.
func (l *Leader) aged(work context.Context) {
	if l.snapshotting == nil && l.appender.seq > l.appender.snapshotSeq {
		l.startSnapshot(work)
	}
}

// Uncovered returns the time, milliseconds by its leader's clock, of the oldest journal record
// that its shard's snapshot does not hold yet, and false if there is none. Objects that were
// stored since then may carry records without which a cluster whose metadata store is lost
// could not be rebuilt: nobody may delete them although no state names them.
func Uncovered(ctx context.Context, store metadata.Store, keys metadata.Keys, shards uint32) (oldest int64, some bool, err error) {
	for i := range shards {
		from := keys.Journal(tiering.ShardID(i))
		page, err := store.Range(ctx, from, metadata.PrefixEnd(from), 0, 1)
		if err != nil {
			return 0, false, fmt.Errorf("reading the journal of shard %d: %w", i, err)
		}
		if len(page.KVs) == 0 {
			continue
		}
		r, err := shard.DecodeRecord(page.KVs[0].Value)
		if err != nil {
			return 0, false, fmt.Errorf("shard %d: %s: %w", i, page.KVs[0].Key, err)
		}
		if !some || r.Time < oldest {
			oldest, some = r.Time, true
		}
	}
	return oldest, some, nil
}
