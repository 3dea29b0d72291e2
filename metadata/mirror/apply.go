package mirror

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/floelog/floe/metadata"
)

// applyBatches applies first and what else waits in the channel as one change of state.
func (m *Mirror[V, S]) applyBatches(first metadata.WatchBatch, watch <-chan metadata.WatchBatch) error {
	d := m.begin()
	applied := m.view.Load().Revision
	revision := applied
	batch, err := first, error(nil)
gather:
	for n := 1; ; n++ {
		for _, ev := range batch.Events {
			switch {
			case ev.Revision <= applied: // listed already
			case ev.Deleted:
				d.remove(ev.Key)
			default:
				d.put(ev.Key, ev.Value)
			}
		}
		revision = max(revision, batch.Revision)
		if err = batch.Err; err != nil || n == gatherBatches {
			break
		}
		select {
		case b, ok := <-watch:
			if !ok {
				break gather // the caller meets the closed channel next
			}
			batch = b
		default:
			break gather
		}
	}
	m.publish(d, revision)
	return err
}

// list reads the whole prefix at one revision, makes it the state, and lets all those
// pass who asked before it began.
func (m *Mirror[V, S]) list(ctx context.Context) (err error) {
	m.mu.Lock()
	b := m.next
	m.next = nil
	m.mu.Unlock()
	m.lastList = time.Now()
	defer func() {
		if b != nil {
			b.err = err
			close(b.done)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	kvs, revision, err := m.readAll(ctx)
	if err != nil {
		return fmt.Errorf("listing %s: %w", m.cfg.Name, err)
	}
	if old := m.view.Load().Revision; revision < old {
		m.cfg.Log.Error("the metadata store went back in time: was it restored from a backup?",
			"what", m.cfg.Name, "revision", revision, "seen", old)
	}
	d := m.begin()
	present := make(map[string]struct{}, len(kvs))
	for _, kv := range kvs {
		present[kv.Key] = struct{}{}
		d.put(kv.Key, kv.Value)
	}
	for key := range m.entries {
		if _, ok := present[m.cfg.Prefix+key]; !ok {
			d.remove(m.cfg.Prefix + key)
		}
	}
	m.publish(d, revision)
	return nil
}

func (m *Mirror[V, S]) readAll(ctx context.Context) ([]metadata.KV, int64, error) {
	var kvs []metadata.KV
	from, revision := m.cfg.Prefix, int64(0)
	for {
		page, err := m.cfg.Store.Range(ctx, from, metadata.PrefixEnd(m.cfg.Prefix), revision, pageKeys)
		if err != nil {
			return nil, 0, err
		}
		kvs = append(kvs, page.KVs...)
		if revision == 0 {
			revision = page.Revision
		}
		if !page.More || len(page.KVs) == 0 {
			return kvs, revision, nil
		}
		from = page.KVs[len(page.KVs)-1].Key + "\x00"
	}
}

// diff gathers what becomes of keys until publish.
type diff[V, S any] struct {
	m       *Mirror[V, S]
	old     map[string]*V // of touched keys, as before the diff
	order   []string      // touched keys
	skipped bool          // the set of unreadable keys changed
}

func (m *Mirror[V, S]) begin() *diff[V, S] { return &diff[V, S]{m: m} }

func (d *diff[V, S]) put(fullKey string, value []byte) {
	m, key := d.m, strings.TrimPrefix(fullKey, d.m.cfg.Prefix)
	e := m.entries[key]
	if e.value != nil && bytes.Equal(e.value, value) {
		return
	}
	d.touch(key, e.decoded)
	e.value = append(make([]byte, 0, len(value)), value...)
	v, err := m.cfg.Decode(key, value)
	if err != nil {
		m.cfg.Log.Error("metadata cannot be read; is a newer version running?", "what", m.cfg.Name, "key", fullKey, "err", err)
		m.unreadable[key], d.skipped = struct{}{}, true
	} else {
		e.decoded = &v
		d.readable(key)
	}
	m.entries[key] = e
}

func (d *diff[V, S]) remove(fullKey string) {
	key := strings.TrimPrefix(fullKey, d.m.cfg.Prefix)
	e, ok := d.m.entries[key]
	if !ok {
		return
	}
	d.touch(key, e.decoded)
	d.readable(key)
	delete(d.m.entries, key)
}

func (d *diff[V, S]) touch(key string, old *V) {
	if _, ok := d.old[key]; ok {
		return
	}
	if d.old == nil {
		d.old = map[string]*V{}
	}
	d.old[key] = old
	d.order = append(d.order, key)
}

func (d *diff[V, S]) readable(key string) {
	if _, ok := d.m.unreadable[key]; ok {
		delete(d.m.unreadable, key)
		d.skipped = true
	}
}

// publish makes the diff the new View.
func (m *Mirror[V, S]) publish(d *diff[V, S], revision int64) {
	old := m.view.Load()
	var changes []Change[V]
	for _, key := range d.order {
		c := Change[V]{Key: key, Old: d.old[key], New: m.entries[key].decoded}
		if c.Old != c.New {
			changes = append(changes, c)
		}
	}
	changed := len(changes) > 0 || d.skipped || old.Revision == 0
	if !changed && revision == old.Revision {
		return
	}
	v := &View[S]{State: old.State, Revision: revision, Unreadable: old.Unreadable,
		changed: old.changed, advanced: make(chan struct{})}
	if changed {
		v.changed = make(chan struct{})
		v.State = m.cfg.Fold(old.State, changes)
		v.Unreadable = slices.Sorted(maps.Keys(m.unreadable))
	}
	m.view.Store(v)
	close(old.advanced)
	if changed {
		close(old.changed)
	}
}
