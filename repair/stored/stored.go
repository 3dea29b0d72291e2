// Package stored reads what a cluster's stores hold of a shard, for those who check and those
// who rebuild it. It follows nothing, keeps nothing and writes nothing.
//
// Invariants:
//  1. What is read of the metadata store is of one revision.
//  2. ErrDamaged says that the bytes were read and are wrong, or that an object is gone
//     although the store still points to it; any other error says that nothing is known.
//
// All functions may be called concurrently.
package stored

import (
	"context"
	"errors"
	"fmt"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
)

// ErrDamaged says that what is stored cannot be what an intact agent wrote.
var ErrDamaged = errors.New("stored metadata is damaged")

// page is how many keys are read at once: fewer are more round trips, more could exceed what
// etcd puts into one answer, of records of up to 1 MiB.
const page = 16

// restarts bounds how often a read begins anew because the store has compacted its revision, or
// a leader has moved the snapshot away. More only hides a store in trouble.
const restarts = 8

// Journal is what the metadata store holds of a shard.
type Journal struct {
	ID       tiering.ShardID
	Leader   []byte        // nil: none
	Head     *journal.Head // nil: none
	Pointer  journal.Pointer
	Records  []Record // ascending by seq
	Revision int64    // at which all of it was read
}

// Record is a journal record as it is stored.
type Record struct {
	Seq   uint64
	Bytes []byte
}

// ReadJournal reads the keys of a shard. Records are not decoded.
func ReadJournal(ctx context.Context, store metadata.Store, keys metadata.Keys, id tiering.ShardID) (*Journal, error) {
	for attempt := 0; ; attempt++ {
		j, err := readJournal(ctx, store, keys, id)
		if attempt < restarts && errors.Is(err, metadata.ErrCompacted) {
			continue
		}
		return j, err
	}
}

func readJournal(ctx context.Context, store metadata.Store, keys metadata.Keys, id tiering.ShardID) (*Journal, error) {
	j := &Journal{ID: id}
	from, end := keys.Shard(id), metadata.PrefixEnd(keys.Shard(id))
	for more := true; more; {
		p, err := store.Range(ctx, from, end, j.Revision, page)
		if err != nil {
			return nil, fmt.Errorf("shard %d: reading %s: %w", id, keys.Shard(id), err)
		}
		j.Revision = p.Revision
		for _, kv := range p.KVs {
			if err := j.add(keys, kv); err != nil {
				return nil, fmt.Errorf("shard %d: %w: %s: %w", id, ErrDamaged, kv.Key, err)
			}
			from = kv.Key + "\x00"
		}
		more = p.More
	}
	return j, nil
}

func (j *Journal) add(keys metadata.Keys, kv metadata.KV) error {
	k, err := keys.ParseShardKey(kv.Key)
	if err != nil {
		return err
	}
	switch k.Name {
	case "leader":
		j.Leader = kv.Value
	case "head":
		h, err := journal.ParseHead(kv.Value)
		if err != nil {
			return err
		}
		j.Head = &h
	case "snapshot":
		j.Pointer, err = journal.ParsePointer(kv)
		return err
	case "journal":
		j.Records = append(j.Records, Record{k.Seq, kv.Value})
	}
	return nil
}

// Snapshot reads and decodes a snapshot object of size bytes.
func Snapshot(ctx context.Context, objects objstore.Store, key string, size int64) (*shard.State, error) {
	b, err := objects.GetRange(ctx, key, 0, size)
	if err != nil {
		return nil, fmt.Errorf("reading snapshot %s: %w", key, err)
	}
	s, err := shard.DecodeSnapshot(b)
	if err != nil {
		return nil, fmt.Errorf("%w: snapshot %s: %w", ErrDamaged, key, err)
	}
	return s, nil
}

// State returns what snapshot and journal add up to. The error is ErrDamaged, an
// objstore.ErrNotFound for a snapshot that is not there, or comes from the object store.
func (j *Journal) State(ctx context.Context, objects objstore.Store) (*shard.State, error) {
	s := shard.New()
	if j.Pointer.Key != "" {
		var err error
		if s, err = Snapshot(ctx, objects, j.Pointer.Key, j.Pointer.Size); err != nil {
			return nil, fmt.Errorf("shard %d: %w", j.ID, err)
		}
		if s.Seq != j.Pointer.Seq {
			return nil, fmt.Errorf("shard %d: %w: snapshot %s holds record %d, its pointer says %d", j.ID, ErrDamaged, j.Pointer.Key, s.Seq, j.Pointer.Seq)
		}
	}
	for _, raw := range j.Records {
		r, err := shard.DecodeRecord(raw.Bytes)
		switch {
		case err != nil:
			return nil, fmt.Errorf("shard %d: %w: journal record %d: %w", j.ID, ErrDamaged, raw.Seq, err)
		case r.Seq != raw.Seq:
			return nil, fmt.Errorf("shard %d: %w: under the key of journal record %d there is record %d", j.ID, ErrDamaged, raw.Seq, r.Seq)
		case r.Seq <= s.Seq:
			continue
		}
		if err := s.Apply(r); err != nil {
			return nil, fmt.Errorf("shard %d: %w: %w", j.ID, ErrDamaged, err)
		}
	}
	return s, j.checkHead(s)
}

// checkHead compares the head with what the journal adds up to.
func (j *Journal) checkHead(s *shard.State) error {
	switch {
	case j.Head == nil && s.Seq == 0:
		return nil
	case j.Head == nil:
		return fmt.Errorf("shard %d: %w: there is no head, but the journal ends at record %d", j.ID, ErrDamaged, s.Seq)
	case j.Head.Seq != s.Seq:
		return fmt.Errorf("shard %d: %w: the head is record %d, but the journal ends at %d", j.ID, ErrDamaged, j.Head.Seq, s.Seq)
	case j.Head.Epoch < s.Epoch:
		return fmt.Errorf("shard %d: %w: the head has epoch %d, but the last record %d", j.ID, ErrDamaged, j.Head.Epoch, s.Epoch)
	}
	return nil
}

// ReadShard reads a shard of a cluster that may be running: a snapshot that a leader has moved
// away meanwhile is looked for anew.
func ReadShard(ctx context.Context, store metadata.Store, objects objstore.Store, keys metadata.Keys, id tiering.ShardID) (*Journal, *shard.State, error) {
	for attempt := 0; ; attempt++ {
		j, err := ReadJournal(ctx, store, keys, id)
		if err != nil {
			return nil, nil, err
		}
		s, err := j.State(ctx, objects)
		if err == nil || !errors.Is(err, objstore.ErrNotFound) {
			return j, s, err
		}
		kvs, _, gerr := store.Get(ctx, keys.Snapshot(id))
		if gerr != nil {
			return j, nil, fmt.Errorf("shard %d: reading its snapshot pointer: %w", id, gerr)
		}
		if p, perr := journal.ParsePointer(kvs[0]); perr == nil && p.Key == j.Pointer.Key || attempt == restarts {
			return j, nil, fmt.Errorf("%w: %w", ErrDamaged, err)
		}
	}
}
