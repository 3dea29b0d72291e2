package membership

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/retry"
	"github.com/floelog/floe/tiering"
)

// A dead holder's lease may take holderTTLs of its time to live and holderGrace to end: etcd looks
// for expired leases twice a second, and a new leader of etcd gives each its whole time again.
// Less would refuse agents that restart at once, more delays the refusal.
const (
	holderTTLs  = 2
	holderGrace = 2 * time.Second
)

// registration is a registration on its way.
type registration struct {
	store metadata.Store
	keys  metadata.Keys
	cfg   SessionConfig
	pacer *retry.Pacer

	agent   Agent
	value   []byte // of the session's key
	gate    gate
	lease   metadata.LeaseID
	renewed time.Time // when the last grant or renewal that was answered began
}

// register grants a lease and creates the agent's keys under it, in one transaction.
//
// That transaction demands that neither the registration nor the session exists, so it
// can be put again until it is answered, and an attempt that arrives late can do nothing:
// while the lease lives the session's key exists or another attempt is still to come, and
// once the lease is gone nothing can be bound to it. A new lease gets a new session id, so
// that a session that others may have seen dead never lives again.
func register(ctx context.Context, store metadata.Store, keys metadata.Keys, cfg SessionConfig) (*registration, error) {
	r := &registration{store: store, keys: keys, cfg: cfg, pacer: retry.NewPacer(cfg.Random),
		agent: Agent{Address: cfg.Address, RPCAddress: cfg.RPCAddress, Zone: cfg.Zone,
			Version: cfg.Version, Roles: cfg.Roles, TTL: cfg.TTL, Levels: cfg.Levels, Listeners: cfg.Listeners}}
	for {
		err := r.pick(ctx)
		if err == nil {
			err = r.admit(ctx)
		}
		if err == nil {
			err = r.holdLease(ctx)
		}
		created := false
		if err == nil {
			created, err = r.create(ctx)
		}
		if created { // which may have taken long
			err = r.holdLease(ctx)
		}
		switch {
		case created && err == nil:
			return r, nil
		case errors.Is(err, metadata.ErrLeaseLost):
			r.lease = 0
		case err != nil:
			r.giveUp(ctx)
			return nil, err
		}
	}
}

// pick chooses the node id: the one that is wanted, once it is free, or the lowest free.
func (r *registration) pick(ctx context.Context) error {
	if r.cfg.NodeID != 0 {
		r.agent.NodeID = r.cfg.NodeID
		return r.waitFree(ctx)
	}
	kvs, err := readAll(ctx, r.store, r.pacer, r.keys.Agents())
	if err != nil {
		return err
	}
	taken := make(map[string]bool, len(kvs))
	for _, kv := range kvs {
		taken[kv.Key] = true
	}
	r.agent.NodeID = 1
	for taken[r.keys.Agent(int32(r.agent.NodeID))] {
		r.agent.NodeID++
	}
	return nil
}

// waitFree waits until nobody holds the node id, for as long as the lease of a holder
// that is dead already can live: that of this agent's own last life, most of all.
func (r *registration) waitFree(ctx context.Context) error {
	key := r.keys.Agent(int32(r.agent.NodeID))
	var holder []byte // first seen
	var limit <-chan time.Time
	for {
		kvs, revision, err := retry.Get(ctx, r.store, r.pacer, key)
		if err != nil {
			return err
		}
		kv := kvs[0]
		if !kv.Exists() {
			return nil
		}
		if holder == nil {
			holder = kv.Value
			t := time.NewTimer(holderTTLs*r.holderTTL(kv.Value) + holderGrace)
			defer t.Stop()
			limit = t.C
		} else if string(holder) != string(kv.Value) {
			return r.taken(kv.Value) // by one that started meanwhile
		}
		if gone, err := r.waitChange(ctx, key, revision+1, limit); err != nil {
			return err
		} else if !gone {
			return r.taken(kv.Value)
		}
	}
}

// waitChange waits for a change of key, or for whatever asks for another look.
func (r *registration) waitChange(ctx context.Context, key string, revision int64, limit <-chan time.Time) (changed bool, err error) {
	wctx, cancel := context.WithCancel(ctx)
	watch := r.store.Watch(wctx, key, revision)
	defer func() {
		cancel()
		for range watch {
		}
	}()
	for {
		select {
		case b, ok := <-watch:
			if !ok || b.Err != nil {
				return true, r.pacer.Pause(ctx, lastPause)
			}
			if len(b.Events) > 0 {
				return true, nil
			}
		case <-limit:
			return false, nil
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

func (r *registration) holderTTL(value []byte) time.Duration {
	if a, err := decodeAgent(fmt.Sprint(r.agent.NodeID), value); err == nil {
		return a.TTL
	}
	return r.cfg.TTL
}

// taken says who has the node id.
func (r *registration) taken(value []byte) error {
	a, err := decodeAgent(fmt.Sprint(r.agent.NodeID), value)
	if err != nil {
		return fmt.Errorf("%w: %d is held by a live agent of another version (%v): stop it, or choose another node id", ErrNodeIDTaken, r.agent.NodeID, err)
	}
	return fmt.Errorf("%w: %d is held by the live agent at %s (session %s): stop it, or choose another node id", ErrNodeIDTaken, r.agent.NodeID, a.Address, a.Session)
}

// holdLease makes sure that there is a lease with more than half of its time left.
func (r *registration) holdLease(ctx context.Context) error {
	if r.lease != 0 && time.Since(r.renewed) < r.cfg.TTL/2 {
		return nil
	}
	id, err := uuid.NewRandomFromReader(r.cfg.Random)
	if err != nil {
		return fmt.Errorf("drawing a session id: %w", err)
	}
	var began time.Time // of the attempt that is answered
	lease, err := retry.Read(ctx, r.pacer, func(ctx context.Context) (metadata.LeaseID, error) {
		began = time.Now()
		if r.lease != 0 {
			return r.lease, r.store.KeepAlive(ctx, r.lease)
		}
		return r.store.Grant(ctx, r.cfg.TTL) // one whose answer is lost ends by itself
	})
	if err != nil {
		return err
	}
	if r.lease == 0 {
		r.agent.Session = tiering.SessionID(id)
	}
	r.lease, r.renewed = lease, began
	return nil
}

// create creates the keys; false without an error says that somebody has the node id.
func (r *registration) create(ctx context.Context) (created bool, err error) {
	agent, err := r.agent.encode()
	if err != nil {
		return false, err
	}
	session, err := SessionState{NodeID: r.agent.NodeID}.encode()
	if err != nil {
		return false, err
	}
	r.value = session
	agentKey, sessionKey := r.keys.Agent(int32(r.agent.NodeID)), r.keys.Session(r.agent.Session)
	res, _, err := retry.Txn(ctx, r.store, r.pacer, metadata.Txn{
		If:   append(r.gate.conditions(), metadata.Absent(agentKey), metadata.Absent(sessionKey)),
		Then: append(r.gate.ops(), metadata.PutLeased(agentKey, agent, r.lease), metadata.PutLeased(sessionKey, session, r.lease)),
		Else: []string{agentKey, sessionKey},
	})
	if err != nil || res.Succeeded {
		return res.Succeeded, err
	}
	if string(res.Else[0].Value) == string(agent) && res.Else[1].Exists() {
		return true, nil // by an attempt that was not answered
	}
	if res.Else[1].Exists() {
		// An attempt for another node id was applied after it had been refused once. Only
		// the end of its lease undoes it.
		r.giveUp(ctx)
		return false, metadata.ErrLeaseLost
	}
	return false, nil
}

// giveUp ends the lease if the store can be reached; else it ends by itself.
func (r *registration) giveUp(ctx context.Context) {
	if r.lease == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := r.store.Revoke(ctx, r.lease); err != nil {
		r.cfg.Log.Info("lease of a registration that failed ends by itself", "ttl", r.cfg.TTL, "err", err)
	}
}

// pageKeys is how many keys one read takes: a few hundred KiB.
const pageKeys = 1000

// readAll reads all keys with a prefix at one revision, linearizably.
func readAll(ctx context.Context, store metadata.Store, p *retry.Pacer, prefix string) ([]metadata.KV, error) {
	for {
		var kvs []metadata.KV
		from, revision := prefix, int64(0)
		for {
			page, err := retry.Read(ctx, p, func(ctx context.Context) (metadata.Page, error) {
				return store.Range(ctx, from, metadata.PrefixEnd(prefix), revision, pageKeys)
			})
			if errors.Is(err, metadata.ErrCompacted) && revision != 0 {
				break // compacted meanwhile: start over
			}
			if err != nil {
				return nil, err
			}
			kvs = append(kvs, page.KVs...)
			if !page.More || len(page.KVs) == 0 {
				return kvs, nil
			}
			if revision == 0 {
				revision = page.Revision
			}
			from = page.KVs[len(page.KVs)-1].Key + "\x00"
		}
	}
}
