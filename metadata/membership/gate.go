package membership

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/level"
	"github.com/floelog/floe/metadata/retry"
)

// gate is what lets an agent in: the cluster's key, which names the level, and the
// announcement of the next one, as they were read. The registration demands that they are
// unchanged, so that no level rises past an agent that registers at the same time.
type gate struct {
	cluster, intent metadata.KV
	refusal         []byte // in the announcement's place: the level must not rise to what is announced; nil: it may
}

// admit reads the gate, and refuses a cluster whose level the agent does not know.
func (r *registration) admit(ctx context.Context) error {
	kvs, _, err := retry.Get(ctx, r.store, r.pacer, r.keys.Cluster(), r.keys.LevelIntent())
	if err != nil {
		return err
	}
	r.gate = gate{cluster: kvs[0], intent: kvs[1]}
	at := level.First
	if kvs[0].Exists() {
		if at, err = level.Of(kvs[0].Value); err != nil {
			return err
		}
		if !r.cfg.Levels.Holds(at) && at != 0 { // 0: a recovery began; as for agents that live
			return fmt.Errorf("%w: it is %d, and this release reads %s: run a release of floe that reads level %d", ErrLevel, at, r.cfg.Levels, at)
		}
	}
	if kvs[1].Exists() {
		intent, err := level.ParseIntent(kvs[1].Value)
		if err == nil && r.cfg.Levels.Holds(intent.Level) {
			return nil
		}
		if r.gate.refusal, err = announcement(r.cfg.Random, max(at, level.First)); err != nil {
			return err
		}
	}
	return nil
}

// announcement returns one that is like no other: the key never has a value twice, nor none again before the level
// rises, so that one that is applied late, after it was put again and answered, brings nothing back.
func announcement(random io.Reader, to level.Level) ([]byte, error) {
	var nonce [8]byte
	if _, err := io.ReadFull(random, nonce[:]); err != nil {
		return nil, fmt.Errorf("drawing the number of an announcement: %w", err)
	}
	return level.Intent{Level: to, Nonce: binary.LittleEndian.Uint64(nonce[:])}.Encode(), nil
}

func (g gate) conditions() []metadata.Condition {
	return []metadata.Condition{unchanged(g.cluster), unchanged(g.intent)}
}

// ops puts another in the place of the announcement if it must not come true: of the level that there is.
func (g gate) ops() []metadata.Op {
	if g.refusal == nil {
		return nil
	}
	return []metadata.Op{metadata.Put(g.intent.Key, g.refusal)}
}

// unchanged demands that a key is as it was read.
func unchanged(kv metadata.KV) metadata.Condition {
	if !kv.Exists() {
		return metadata.Absent(kv.Key)
	}
	return metadata.Equals(kv.Key, kv.Value)
}

// ErrHeldBack says that the level cannot rise now.
var ErrHeldBack = errors.New("the level cannot rise")

// RaiseLevel raises the cluster's level to the given one, if every live agent reads it. It
// returns ErrHeldBack, which says who does not, and no error if the level is as high already.
// stored returns the value of the cluster's key at a level.
//
// First the level is announced. An agent that does not read it, and registers from then on,
// puts another in the announcement's place; those that registered before are read now. Then the level rises
// on the condition that the announcement is still there. Each step demands what the one before
// wrote, so that it may be put again until it is answered, by several agents at once.
func RaiseLevel(ctx context.Context, store metadata.Store, keys metadata.Keys, to level.Level, stored func(old []byte, to level.Level) ([]byte, error)) error {
	pacer := retry.NewPacer(rand.Reader)
	kvs, _, err := retry.Get(ctx, store, pacer, keys.Cluster(), keys.LevelIntent())
	if err != nil {
		return fmt.Errorf("raising the level: %w", err)
	}
	at, err := level.Of(kvs[0].Value)
	switch {
	case err != nil:
		return err
	case at >= to:
		return nil
	case at < level.First:
		return fmt.Errorf("%w: the cluster is being recovered", ErrHeldBack)
	}
	intent, err := announcement(rand.Reader, to)
	if err != nil {
		return fmt.Errorf("raising the level: %w", err)
	}
	announce := metadata.Txn{
		If:   []metadata.Condition{unchanged(kvs[0]), unchanged(kvs[1])},
		Then: []metadata.Op{metadata.Put(keys.LevelIntent(), intent)},
		Else: []string{keys.LevelIntent()},
	}
	if err := write(ctx, store, pacer, announce, intent); err != nil {
		return err
	}
	if err := readBy(ctx, store, keys, to); err != nil {
		return err
	}
	value, err := stored(kvs[0].Value, to)
	if err != nil {
		return err
	}
	return write(ctx, store, pacer, metadata.Txn{
		If:   []metadata.Condition{unchanged(kvs[0]), metadata.Equals(keys.LevelIntent(), intent)},
		Then: []metadata.Op{metadata.Put(keys.Cluster(), value), metadata.Delete(keys.LevelIntent())},
		Else: []string{keys.Cluster()},
	}, value)
}

// write puts a transaction until it is answered; value is what the first key of Else has
// if an attempt was applied that was not answered.
func write(ctx context.Context, store metadata.Store, pacer *retry.Pacer, txn metadata.Txn, value []byte) error {
	res, _, err := retry.Txn(ctx, store, pacer, txn)
	switch {
	case err != nil:
		return fmt.Errorf("raising the level: %w", err)
	case res.Succeeded || string(res.Else[0].Value) == string(value):
		return nil
	}
	return fmt.Errorf("%w: another agent raises it, or one registers that does not read it", ErrHeldBack)
}

// readBy refuses a level that not every live agent reads.
func readBy(ctx context.Context, store metadata.Store, keys metadata.Keys, to level.Level) error {
	agents, err := List(ctx, store, keys)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrHeldBack, err)
	}
	for _, a := range agents {
		if !a.Levels.Holds(to) {
			return fmt.Errorf("%w: agent %d (release %s) reads levels %s", ErrHeldBack, a.NodeID, a.Version, a.Levels)
		}
	}
	return nil
}

// List reads the registrations of all live agents, linearizably, in the order of node ids. One that
// this release cannot read is an error.
func List(ctx context.Context, store metadata.Store, keys metadata.Keys) ([]Agent, error) {
	kvs, err := readAll(ctx, store, retry.NewPacer(rand.Reader), keys.Agents())
	if err != nil {
		return nil, fmt.Errorf("reading the live agents: %w", err)
	}
	agents := make([]Agent, len(kvs))
	for i, kv := range kvs {
		if agents[i], err = decodeAgent(kv.Key[len(keys.Agents()):], kv.Value); err != nil {
			return nil, err
		}
	}
	return agents, nil
}
