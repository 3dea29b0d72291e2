package journal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
)

// load brings every view up to one revision and returns it.
func (s *Set) load(ctx context.Context) (int64, error) {
	from := s.cfg.Keys.Shards()
	return s.read(ctx, from, metadata.PrefixEnd(from))
}

// reload brings one view up to date.
func (s *Set) reload(ctx context.Context, id tiering.ShardID) error {
	from := s.cfg.Keys.Shard(id)
	_, err := s.read(ctx, from, metadata.PrefixEnd(from))
	return err
}

// keyspace is what a read of the keyspace found about one shard.
type keyspace struct {
	leader   Leadership
	snapshot snapshotValue
	records  []metadata.KV
}

// read applies everything in [from, end) to the views it is about, as of one revision.
func (s *Set) read(ctx context.Context, from, end string) (int64, error) {
	for {
		found, revision, err := s.scan(ctx, from, end)
		if err != nil {
			return 0, err
		}
		err = s.applyFound(ctx, found)
		switch {
		case err == nil:
			return revision, nil
		case errors.Is(err, objstore.ErrNotFound), errors.Is(err, errGap):
			// The pointer, or the journal behind it, has moved since: look again.
			s.parts.Log.Info("a snapshot was superseded while it was read", "err", err)
			if !pause(ctx, retryMin) {
				return 0, ctx.Err()
			}
		default:
			return 0, err
		}
	}
}

func (s *Set) scan(ctx context.Context, from, end string) (map[tiering.ShardID]*keyspace, int64, error) {
	found := map[tiering.ShardID]*keyspace{}
	var revision int64
	for {
		page, err := s.parts.Store.Range(ctx, from, end, revision, rangePage)
		if errors.Is(err, metadata.ErrCompacted) && revision != 0 {
			clear(found)
			revision, from = 0, s.startOf(end, from)
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

// startOf returns where a read that ends at end has to start again: at the prefix of all
// shards, or of the one shard it is about.
func (s *Set) startOf(end, at string) string {
	if end == metadata.PrefixEnd(s.cfg.Keys.Shards()) {
		return s.cfg.Keys.Shards()
	}
	k, err := s.cfg.Keys.ParseShardKey(at[:len(at)-1])
	if err != nil {
		return s.cfg.Keys.Shards()
	}
	return s.cfg.Keys.Shard(k.Shard)
}

func (s *Set) sort(found map[tiering.ShardID]*keyspace, kv metadata.KV) error {
	k, err := s.cfg.Keys.ParseShardKey(kv.Key)
	if err != nil {
		return err
	}
	if uint32(k.Shard) >= s.cfg.Shards {
		return fmt.Errorf("key %q: the cluster has %d shards only", kv.Key, s.cfg.Shards)
	}
	f := found[k.Shard]
	if f == nil {
		f = &keyspace{}
		found[k.Shard] = f
	}
	switch k.Name {
	case "leader":
		f.leader, err = decodeLeader(kv.Value)
	case "snapshot":
		f.snapshot, err = decodeSnapshotPointer(kv)
	case "journal":
		f.records = append(f.records, kv)
	}
	return err
}

func (s *Set) applyFound(ctx context.Context, found map[tiering.ShardID]*keyspace) error {
	for id, f := range found {
		s.setLeadership(id, f.leader)
		if f.snapshot.Seq > s.views[id].Seq() {
			if err := s.loadSnapshot(ctx, id, f.snapshot); err != nil {
				return err
			}
		}
		for _, kv := range f.records {
			if err := s.applyRecord(id, kv.Value); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Set) loadSnapshot(ctx context.Context, id tiering.ShardID, p snapshotValue) error {
	b, err := s.parts.Objects.GetRange(ctx, p.Key, 0, p.Size)
	if err != nil {
		return fmt.Errorf("shard %d: loading snapshot %s: %w", id, p.Key, err)
	}
	st, err := shard.DecodeSnapshot(b)
	if err != nil {
		return fmt.Errorf("shard %d: snapshot %s: %w", id, p.Key, err)
	}
	if st.Seq != p.Seq {
		return fmt.Errorf("shard %d: snapshot %s: %w: holds record %d, not %d", id, p.Key, shard.ErrCorrupt, st.Seq, p.Seq)
	}
	if s.views[id].advance(st) {
		s.parts.Applied(id, &shard.Record{Seq: st.Seq})
	}
	return nil
}

// errGap says that records are missing before one that arrived.
var errGap = errors.New("journal records are missing")

func (s *Set) applyRecord(id tiering.ShardID, value []byte) error {
	r, err := shard.DecodeRecord(value)
	if err != nil {
		return fmt.Errorf("shard %d: %w", id, err)
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
			if err := s.reconcile(ctx); err != nil {
				return err
			}
		}
	}
}

func (s *Set) event(ctx context.Context, ev metadata.Event) error {
	k, err := s.cfg.Keys.ParseShardKey(ev.Key)
	if err != nil || uint32(k.Shard) >= s.cfg.Shards {
		s.parts.Log.Warn("ignoring a key that is not of this version", "key", ev.Key)
		return nil
	}
	switch {
	case k.Name == "leader" && ev.Deleted:
		s.setLeadership(k.Shard, Leadership{})
	case k.Name == "leader":
		l, err := decodeLeader(ev.Value)
		if err != nil {
			return err
		}
		s.setLeadership(k.Shard, l)
	case k.Name == "journal" && !ev.Deleted && k.Seq > s.views[k.Shard].Seq():
		if err := s.applyRecord(k.Shard, ev.Value); errors.Is(err, errGap) {
			return s.reload(ctx, k.Shard)
		} else if err != nil {
			return err
		}
	}
	return nil
}

// reconcile reloads the views that are behind their heads although the watch is quiet.
func (s *Set) reconcile(ctx context.Context) error {
	for first := uint32(0); first < s.cfg.Shards; first += metadata.MaxTxnOps {
		n := min(s.cfg.Shards-first, metadata.MaxTxnOps)
		keys := make([]string, n)
		before := make([]uint64, n)
		for i := range keys {
			keys[i] = s.cfg.Keys.Head(tiering.ShardID(first + uint32(i)))
			before[i] = s.views[first+uint32(i)].Seq()
		}
		kvs, _, err := s.parts.Store.Get(ctx, keys...)
		if err != nil {
			s.parts.Log.Warn("checking the views against the journals' heads", "err", err)
			return nil // the next tick tries again; the watch goes on
		}
		for i, kv := range kvs {
			id := tiering.ShardID(first + uint32(i))
			if !kv.Exists() {
				continue
			}
			h, err := decodeHead(kv.Value)
			if err != nil {
				return err
			}
			if at := s.views[id].Seq(); at < h.Seq && at == before[i] {
				s.parts.Log.Warn("a view lags behind its journal; reading it again", "shard", id, "at", at, "head", h.Seq)
				if err := s.reload(ctx, id); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
