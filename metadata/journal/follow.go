package journal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
)

// load brings every view up to one revision and returns it.
func (s *Set) load(ctx context.Context) (int64, error) {
	from := s.cfg.Keys.Shards()
	return s.read(ctx, from, metadata.PrefixEnd(from), 0, s.cfg.Shards)
}

// reload brings one view up to date.
func (s *Set) reload(ctx context.Context, id tiering.ShardID) error {
	from := s.cfg.Keys.Shard(id)
	_, err := s.read(ctx, from, metadata.PrefixEnd(from), id, 1)
	return err
}

// keyspace is what a read of the keyspace found about one shard.
type keyspace struct {
	leader   Leadership
	head     headValue
	snapshot snapshotValue
	records  []metadata.KV
}

// loadsAtOnce bounds the shards that are loaded at a time, each with its snapshot in memory.
// Fewer: an agent starts as slowly as the object store answers, a request after the other,
// and snapshots that it has heard of are replaced meanwhile. More: more memory.
const loadsAtOnce = 16

// read applies everything in [from, end), which is about n shards from first on, as of one
// revision, or newer.
func (s *Set) read(ctx context.Context, from, end string, first tiering.ShardID, n uint32) (int64, error) {
	for wait := retryMin; ; wait = min(2*wait, retryMax) {
		before := make([]uint64, n)
		for i := range before {
			before[i] = s.views[int(first)+i].Seq()
		}
		found, revision, err := s.scan(ctx, from, end)
		if err != nil {
			return 0, err
		}
		if from == s.cfg.Keys.Shards() {
			s.forgetRevisionsAfter(revision)
		}
		gone := make([]error, n)
		work, limited := errgroup.WithContext(ctx)
		work.SetLimit(loadsAtOnce)
		for i, seq := range before {
			id := first + tiering.ShardID(i)
			work.Go(func() error {
				err := s.applyFound(limited, id, found[id], seq, revision)
				var stop *damagedError
				switch {
				case errors.As(err, &stop):
					s.stopView(id, stop)
					return nil
				case errors.Is(err, objstore.ErrNotFound):
					gone[i], err = err, nil
				case err == nil:
					s.views[id].resume()
				}
				return err
			})
		}
		if err := work.Wait(); err != nil {
			return 0, err
		}
		again := false
		for i, err := range gone {
			if err == nil {
				continue
			}
			// The pointer has moved since, or the object store is at fault: look again.
			s.parts.Log.Info("a snapshot is gone; reading its journal again", "err", err)
			if again = n == 1; again {
				break
			}
			if err := s.reload(ctx, first+tiering.ShardID(i)); err != nil {
				return 0, err
			}
		}
		if !again {
			return revision, nil
		}
		if !pause(ctx, wait) {
			return 0, ctx.Err()
		}
	}
}

func (s *Set) scan(ctx context.Context, start, end string) (map[tiering.ShardID]*keyspace, int64, error) {
	found := map[tiering.ShardID]*keyspace{}
	from, revision := start, int64(0)
	for {
		page, err := s.parts.Store.Range(ctx, from, end, revision, rangePage)
		if errors.Is(err, metadata.ErrCompacted) && revision != 0 {
			clear(found)
			from, revision = start, 0
			continue
		}
		if err != nil {
			return nil, 0, fmt.Errorf("reading the journals: %w", err)
		}
		for _, kv := range page.KVs {
			if err := s.sort(found, kv); err != nil {
				return nil, 0, err
			}
		}
		revision = page.Revision
		if !page.More {
			return found, revision, nil
		}
		from = page.KVs[len(page.KVs)-1].Key + "\x00"
	}
}

func (s *Set) sort(found map[tiering.ShardID]*keyspace, kv metadata.KV) error {
	k, ok := s.parse(kv.Key)
	if !ok {
		return nil
	}
	f := found[k.Shard]
	if f == nil {
		f = &keyspace{}
		found[k.Shard] = f
	}
	var err error
	switch k.Name {
	case "leader":
		f.leader, err = decodeLeader(kv.Value)
	case "head":
		f.head, err = decodeHead(kv.Value)
	case "snapshot":
		f.snapshot, err = decodeSnapshotPointer(kv)
	case "journal":
		f.records = append(f.records, kv)
	}
	return err
}

func (s *Set) parse(key string) (metadata.ShardKey, bool) {
	k, err := s.cfg.Keys.ParseShardKey(key)
	if err != nil || uint32(k.Shard) >= s.cfg.Shards {
		s.parts.Log.Warn("ignoring a key that is not of this version", "key", key)
		return k, false
	}
	return k, true
}

// applyFound applies what was found about one shard, whose view stood at record before
// when the reading began.
func (s *Set) applyFound(ctx context.Context, id tiering.ShardID, f *keyspace, before uint64, revision int64) error {
	if f == nil {
		f = &keyspace{}
	}
	if err := goneBack(id, before, f.head.Seq); err != nil {
		return err
	}
	leader := f.leader
	if !leader.Live {
		// Nobody leads it now. Clients have heard of the last leader's epoch, which the head
		// names, and must not hear of an older one from an agent that was not there.
		leader.Epoch = f.head.Epoch
	}
	s.setLeadership(id, leader, revision)
	if f.snapshot.Seq > s.views[id].Seq() {
		if err := s.loadSnapshot(ctx, id, f.snapshot); err != nil {
			return err
		}
	}
	for _, kv := range f.records {
		k, err := s.cfg.Keys.ParseShardKey(kv.Key)
		if err != nil {
			return err
		}
		// Everything was read at one revision, so records that are missing are lost.
		if err := s.applyRecord(id, k.Seq, kv); errors.Is(err, errGap) {
			return fmt.Errorf("%w: %w", shard.ErrCorrupt, err)
		} else if err != nil {
			return err
		}
	}
	return nil
}

// goneBack reports a head that lies behind what a view had applied before it was read: no
// journal ever shrinks, so the store has lost what it had acknowledged. A view that went
// on would take the records that are written next for ones that it has.
func goneBack(id tiering.ShardID, view, head uint64) error {
	if view <= head {
		return nil
	}
	return fmt.Errorf("shard %d: %w: the journal ends at record %d, before record %d of the view: was the metadata store restored?", id, shard.ErrCorrupt, head, view)
}

func (s *Set) loadSnapshot(ctx context.Context, id tiering.ShardID, p snapshotValue) error {
	b, err := s.parts.Objects.GetRange(objstore.WithPurpose(ctx, objstore.Metadata), p.Key, 0, p.Size)
	if err != nil {
		return fmt.Errorf("shard %d: loading snapshot %s: %w", id, p.Key, err)
	}
	st, err := shard.DecodeSnapshot(b)
	if errors.Is(err, shard.ErrVersion) {
		return &damagedError{p.Seq, fmt.Errorf("shard %d: snapshot %s: %w", id, p.Key, err)}
	}
	if err == nil && st.Seq != p.Seq {
		err = fmt.Errorf("holds record %d, not %d", st.Seq, p.Seq)
	}
	if err != nil {
		// It may have been damaged on its way here, so this is no shard.ErrCorrupt, which
		// would end the agent: it is read again.
		return fmt.Errorf("shard %d: snapshot %s: %w: %v", id, p.Key, objstore.ErrCorrupt, err)
	}
	if s.views[id].advance(st) { // from here on others change st
		s.parts.Applied(id, &shard.Record{Seq: p.Seq})
	}
	return nil
}

// damagedError says that a record, or the snapshot up to it, cannot be read: it is damaged, or of a version that this
// release does not know. Its shard alone stands still; a record that can be read and contradicts the state ends the Set.
type damagedError struct {
	seq uint64
	err error
}

func (e *damagedError) Error() string { return "a journal record cannot be read: " + e.err.Error() }
func (e *damagedError) Unwrap() error { return e.err }

// stopView lets a shard's view stand still.
func (s *Set) stopView(id tiering.ShardID, why *damagedError) {
	if s.views[id].stop(why.seq, why) {
		s.parts.Log.Error("a shard stands still here: the next record of its journal cannot be applied", "shard", id, "err", why,
			"remedy", "if an agent leads the shard, its next snapshot passes over the record; otherwise see floe fsck and floe recover")
	}
}

// errGap says that records are missing before one that arrived.
var errGap = errors.New("journal records are missing")

// applyRecord applies a record, unless the view has it. One that it has may have been damaged since: that concerns
// those who have not.
func (s *Set) applyRecord(id tiering.ShardID, seq uint64, kv metadata.KV) error {
	r, err := shard.DecodeRecord(kv.Value)
	switch {
	case err != nil && seq <= s.views[id].Seq():
		return nil
	case err != nil:
		return &damagedError{seq, fmt.Errorf("shard %d: %s: %w", id, kv.Key, err)}
	}
	if key := s.cfg.Keys.JournalRecord(id, r.Seq); key != kv.Key {
		return fmt.Errorf("shard %d: %w: key %q holds record %d", id, shard.ErrCorrupt, kv.Key, r.Seq)
	}
	return s.apply(id, &r)
}

func (s *Set) apply(id tiering.ShardID, r *shard.Record) error {
	applied, gap, err := s.views[id].apply(r)
	switch {
	case err != nil:
		return err
	case gap:
		return fmt.Errorf("shard %d: record %d: %w", id, r.Seq, errGap)
	case applied:
		s.parts.Applied(id, r)
	}
	return nil
}

// follow applies what the watch delivers, from the given revision on, until the watch
// or ctx ends.
func (s *Set) follow(ctx context.Context, revision int64) error {
	ctx, cancel := context.WithCancel(ctx)
	watch := s.parts.Store.Watch(ctx, s.cfg.Keys.Shards(), revision)
	defer func() {
		cancel()
		for range watch { // until the store has closed it
		}
	}()
	tick := time.NewTicker(reconcileEvery)
	defer tick.Stop()
	var behind []lag
	patience := time.NewTimer(reconcileEvery)
	patience.Stop()
	defer patience.Stop()
	for {
		select {
		case batch, ok := <-watch:
			if !ok {
				return errors.New("the watch ended")
			}
			if batch.Err != nil {
				return fmt.Errorf("watching the journals: %w", batch.Err)
			}
			for _, ev := range batch.Events {
				if err := s.event(ctx, ev); err != nil {
					return err
				}
			}
		case <-tick.C:
			var err error
			if behind, err = s.reconcile(ctx); err != nil {
				return err
			}
			if len(behind) > 0 {
				patience.Reset(lagPatience)
			}
		case <-patience.C:
			if err := s.repair(ctx, behind); err != nil {
				return err
			}
		}
	}
}

func (s *Set) event(ctx context.Context, ev metadata.Event) error {
	k, ok := s.parse(ev.Key)
	if !ok {
		return nil
	}
	switch {
	case k.Name == "leader" && ev.Deleted:
		s.setLeadership(k.Shard, Leadership{}, ev.Revision)
	case k.Name == "leader":
		l, err := decodeLeader(ev.Value)
		if err != nil {
			return err
		}
		s.setLeadership(k.Shard, l, ev.Revision)
	case k.Name == "journal" && !ev.Deleted && k.Seq > s.views[k.Shard].Seq():
		if v := s.views[k.Shard]; v.Err() != nil && k.Seq > v.Seq()+1 {
			return nil // reconcile looks again from time to time
		}
		var damaged *damagedError
		if err := s.applyRecord(k.Shard, k.Seq, ev.KV); errors.Is(err, errGap) || errors.As(err, &damaged) { // on its way here, perhaps
			return s.reload(ctx, k.Shard)
		} else if err != nil {
			return err
		}
	}
	return nil
}

// lag is a view that stood at record at when the journal's head was seen beyond it. Under
// load that is so at any instant: what is missing is on its way. A view that moves on has
// missed nothing, since whatever follows a lost record is a gap.
type lag struct {
	id       tiering.ShardID
	at, head uint64
}

// reconcile looks whether the watch has missed something: it corrects who leads, and
// returns the views that are behind their heads, for repair.
func (s *Set) reconcile(ctx context.Context) (behind []lag, err error) {
	const most = metadata.MaxTxnOps / 2
	for first := uint32(0); first < s.cfg.Shards; first += most {
		some, err := s.reconcileSome(ctx, tiering.ShardID(first), int(min(s.cfg.Shards-first, most)))
		if err != nil {
			return nil, err
		}
		behind = append(behind, some...)
	}
	return behind, nil
}

// repair reloads the views that have not moved since they were found behind.
func (s *Set) repair(ctx context.Context, behind []lag) error {
	for _, l := range behind {
		if s.views[l.id].Seq() != l.at {
			continue
		}
		s.parts.Log.Warn("a view lags behind its journal; reading it again", "shard", l.id, "at", l.at, "head", l.head)
		if err := s.reload(ctx, l.id); err != nil {
			return err
		}
	}
	return nil
}

func (s *Set) reconcileSome(ctx context.Context, first tiering.ShardID, n int) (behind []lag, err error) {
	keys := make([]string, 2*n) // the heads, then the leaders
	before := make([]uint64, n)
	for i := range n {
		id := first + tiering.ShardID(i)
		keys[i], keys[n+i] = s.cfg.Keys.Head(id), s.cfg.Keys.Leader(id)
		before[i] = s.views[id].Seq()
	}
	actx, cancel := context.WithTimeout(ctx, attemptTimeout)
	kvs, revision, err := s.parts.Store.Get(actx, keys...)
	cancel()
	if err != nil {
		s.parts.Log.Warn("checking the views against the journals' heads", "err", err)
		return nil, nil // the next tick tries again; the watch goes on
	}
	for i := range n {
		id := first + tiering.ShardID(i)
		var h headValue
		var l Leadership
		if kvs[i].Exists() {
			if h, err = decodeHead(kvs[i].Value); err != nil {
				return nil, err
			}
		}
		if kvs[n+i].Exists() {
			if l, err = decodeLeader(kvs[n+i].Value); err != nil {
				return nil, err
			}
		}
		if err := goneBack(id, before[i], h.Seq); err != nil {
			return nil, err
		}
		if !l.Live {
			l.Epoch = h.Epoch
		}
		s.setLeadership(id, l, revision)
		if at := s.views[id].Seq(); at < h.Seq {
			behind = append(behind, lag{id, at, h.Seq})
		}
	}
	return behind, nil
}
