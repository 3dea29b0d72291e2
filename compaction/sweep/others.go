package sweep

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/metadata/retry"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
)

// standing is where a shard stands according to the metadata store.
type standing struct {
	head    uint64 // seq of its last record
	pointer journal.Pointer
}

// standings reads all of them, linearizably. They never go back.
func (s *Sweeper) standings(ctx context.Context) ([]standing, error) {
	ctx, cancel := context.WithTimeout(ctx, readTime)
	defer cancel()
	const most = metadata.MaxTxnOps / 2
	out := make([]standing, 0, len(s.heads))
	for first := 0; first < len(s.heads); first += most {
		n := min(most, len(s.heads)-first)
		keys := make([]string, 0, 2*n)
		for i := first; i < first+n; i++ {
			keys = append(keys, s.cfg.Keys.Head(tiering.ShardID(i)), s.cfg.Keys.Snapshot(tiering.ShardID(i)))
			s.heads[i] = max(s.heads[i], s.parts.Shards.View(tiering.ShardID(i)).Seq())
		}
		kvs, _, err := retry.Get(ctx, s.parts.Meta, s.pacer, keys...)
		if err != nil {
			return nil, fmt.Errorf("reading heads and snapshot pointers: %w", err)
		}
		for i := range n {
			st, err := parseStanding(kvs[2*i], kvs[2*i+1])
			if err != nil {
				return nil, fmt.Errorf("shard %d: %w", first+i, err)
			}
			if st.head < s.heads[first+i] {
				return nil, fmt.Errorf("shard %d: its journal ends at record %d, and it had %d: %w", first+i, st.head, s.heads[first+i], errRestored)
			}
			s.heads[first+i] = st.head
			out = append(out, st)
		}
	}
	return out, nil
}

func parseStanding(head, pointer metadata.KV) (st standing, err error) {
	if head.Exists() {
		h, err := journal.ParseHead(head.Value)
		if err != nil {
			return st, err
		}
		st.head = h.Seq
	}
	st.pointer, err = journal.ParsePointer(pointer)
	return st, err
}

// judgeOthers decides about snapshots, copies of the catalogue, clocks and self-tests.
func (l *look) judgeOthers(ctx context.Context, o *others) error {
	listed := map[string]bool{}
	for _, n := range o.snapshots {
		key := n.Key()
		listed[key] = true
		if err := l.judgeSnapshot(ctx, key, n); err != nil {
			return err
		}
	}
	for i, st := range l.shards {
		for _, key := range []string{st.pointer.Key, st.pointer.Previous} {
			if key != "" && !listed[key] {
				if err := l.findSnapshot(ctx, tiering.ShardID(i), key); err != nil {
					return err
				}
			}
		}
	}
	l.judgeCopies(o.copies)
	for _, t := range o.selfTests {
		if l.sweeper.parts.Now().Sub(t.Modified) > selfTestTime {
			l.discard(garbage{name{kind: SelfTest, key: t.Key}, t.Size, Abandoned})
		} else {
			l.count(SelfTest, InFlight, t.Size)
		}
	}
	for _, c := range o.clocks {
		if _, alive := l.after[c.session]; alive {
			l.count(Clock, InFlight, c.size)
		} else {
			l.discard(garbage{name{kind: Clock, key: c.key}, c.size, DeadSession})
		}
	}
	return nil
}

func (l *look) judgeSnapshot(ctx context.Context, key string, n snapshotObject) error {
	if int(n.Shard) >= len(l.shards) {
		return fmt.Errorf("%s is of a shard that this cluster does not have: do two clusters share the bucket?", key)
	}
	st := l.shards[n.Shard]
	_, alive := l.after[n.Session]
	switch {
	case key == st.pointer.Key || key == st.pointer.Previous:
		l.count(Snapshot, Named, n.size)
	case n.Seq > st.head:
		return fmt.Errorf("%s lies beyond the end of its journal, record %d: %w", key, st.head, errRestored)
	case n.Seq <= st.pointer.Seq:
		l.discard(garbage{name{kind: Snapshot, key: key}, n.size, Superseded})
	case alive:
		l.count(Snapshot, InFlight, n.size)
	default:
		// Its leader died before it could move the pointer, or the pointer was taken back.
		if err := l.sweeper.sameHistory(ctx, key, n, st.pointer); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		l.discard(garbage{name{kind: Snapshot, key: key}, n.size, DeadSession})
	}
	return nil
}

// historyPage is how many journal records are read at once: fewer are more round trips, more
// could exceed what the metadata store puts into one answer.
const historyPage = 16

// sameHistory returns errRestored if a snapshot that is newer than the pointer's is not what
// the journal adds up to.
func (s *Sweeper) sameHistory(ctx context.Context, key string, n snapshotObject, p journal.Pointer) error {
	theirs, err := s.loadSnapshot(ctx, key, n.size)
	if err != nil {
		return err
	}
	ours := shard.New()
	if p.Key != "" {
		if ours, err = s.loadSnapshot(ctx, p.Key, p.Size); err != nil {
			return err
		}
	}
	k := s.cfg.Keys
	for from, end := k.JournalRecord(n.Shard, p.Seq+1), k.JournalRecord(n.Shard, n.Seq+1); ours.Seq < n.Seq; {
		page, err := s.parts.Meta.Range(ctx, from, end, 0, historyPage)
		if err != nil {
			return fmt.Errorf("reading the journal: %w", err)
		}
		for _, kv := range page.KVs {
			r, err := shard.DecodeRecord(kv.Value)
			if err == nil {
				err = ours.Apply(r)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", kv.Key, err)
			}
			from = kv.Key + "\x00"
		}
		if len(page.KVs) == 0 {
			return errors.New("the journal has moved on meanwhile")
		}
	}
	if !bytes.Equal(theirs.EncodeSnapshot(nil), ours.EncodeSnapshot(nil)) {
		return fmt.Errorf("it is not what the journal adds up to at record %d: %w", n.Seq, errRestored)
	}
	return nil
}

func (s *Sweeper) loadSnapshot(ctx context.Context, key string, size int64) (*shard.State, error) {
	b, err := s.parts.Objects.GetRange(ctx, key, 0, size)
	if err != nil {
		return nil, fmt.Errorf("reading snapshot %s: %w", key, err)
	}
	st, err := shard.DecodeSnapshot(b)
	if err != nil {
		return nil, fmt.Errorf("snapshot %s: %w", key, err)
	}
	return st, nil
}

// findSnapshot explains why a snapshot that is pointed to was not listed: it is new, or the
// pointer has moved on, or the list lies, or it is lost.
func (l *look) findSnapshot(ctx context.Context, id tiering.ShardID, key string) error {
	s := l.sweeper
	n, err := journal.ParseSnapshotKey(key)
	if err != nil {
		return fmt.Errorf("shard %d: snapshot pointer: %w", id, err)
	}
	_, err = s.parts.Objects.Head(ctx, key)
	_, lived := l.before[n.Session]
	_, lives := l.after[n.Session]
	switch {
	case err == nil && (lived || lives):
		return nil // it may be newer than the list
	case err == nil:
		return fmt.Errorf("the list of objects leaves out %s, which is there", key)
	case !errors.Is(err, objstore.ErrNotFound):
		return fmt.Errorf("looking for %s, which is pointed to and was not listed: %w", key, err)
	}
	now, err := s.standings(ctx)
	if err != nil {
		return err
	}
	if p := now[id].pointer; p.Key != key && p.Previous != key {
		return nil
	}
	l.report.Lost++
	return fmt.Errorf("shard %d: its snapshot %s is gone: run floe fsck", id, key)
}

// keepCopies is how many copies of the catalogue are kept, of each live session and in all:
// the newest, and one for the case that it is damaged.
const keepCopies = 2

// judgeCopies keeps the newest copies. The order of copies of different sessions is by the
// store's clock; what depends on it is how current a copy is, of which there are two always.
func (l *look) judgeCopies(copies []copyObject) {
	slices.SortFunc(copies, func(a, b copyObject) int {
		return cmp.Or(b.modified.Compare(a.modified), cmp.Compare(b.key, a.key))
	})
	newer := map[tiering.SessionID]int{}
	for i, c := range copies {
		_, alive := l.after[c.session]
		newer[c.session]++
		if i < keepCopies || alive && newer[c.session] <= keepCopies {
			l.count(Copy, Named, c.size)
		} else {
			l.discard(garbage{name{kind: Copy, key: c.key}, c.size, Superseded})
		}
	}
}
