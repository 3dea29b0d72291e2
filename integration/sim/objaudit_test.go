package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
	objmemory "github.com/floelog/floe/tiering/objstore/memory"
)

// bucket is the object store itself, behind all faults of the ways to it. Deletions are
// judged here, and lists leave out what they may.
type bucket struct {
	*objmemory.Store
	w *world

	mu  sync.Mutex // guards the following
	rnd *rand.Rand
}

// Delete implements objstore.Store.
func (b *bucket) Delete(ctx context.Context, keys ...string) error {
	if b.w.audit.await(ctx, b.w.server.Revision()) {
		b.w.audit.deleting(ctx, keys)
	}
	return b.Store.Delete(ctx, keys...)
}

// newest is how long a list may not know of an object (RELIABILITY F22).
const newest = 5 * time.Second

// List implements objstore.Store.
func (b *bucket) List(ctx context.Context, prefix, after string, limit int) ([]objstore.Info, error) {
	infos, err := b.Store.List(ctx, prefix, after, limit)
	if err != nil || b.w.isHealed() {
		return infos, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.rnd.Float64() >= 0.1*b.w.mix.store {
		return infos, nil
	}
	all, out := b.rnd.IntN(3) == 0, infos[:0]
	for _, i := range infos {
		if (all || time.Since(i.Modified) < newest) && b.rnd.IntN(3) == 0 {
			continue
		}
		out = append(out, i)
	}
	if len(out) < len(infos) {
		b.w.note("tier list cut")
	}
	return out, nil
}

// deleting demands that nothing names objects that are about to go, and notes that they went.
// What names them later is found when it is read.
func (a *auditor) deleting(ctx context.Context, keys []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var named map[string]string
	for _, k := range keys {
		if named == nil && !strings.HasPrefix(k, "gc/") {
			named = a.named()
		}
		if by, ok := named[k]; ok {
			a.w.fail("deleted", nil, "%s is deleted, which %s names", k, by)
		}
		kind, _, _ := strings.Cut(k, "/")
		if _, err := a.w.raw.Head(ctx, k); err == nil {
			a.note("tier deleted " + map[string]string{"seg": "segment", "man": "manifest", "snap": "snapshot", "cat": "copy", "gc": "mark"}[kind])
		}
		a.deleted[k] = a.revision
	}
}

// named returns what names each object that any state, manifest or pointer names.
func (a *auditor) named() map[string]string {
	out := map[string]string{}
	for id, s := range a.shards {
		by := fmt.Sprintf("shard %d", id)
		for _, tp := range s.state.Partitions() {
			p := s.state.Partition(tp)
			name(out, by, p.Extents)
			for _, m := range p.Manifests {
				out[m.Object.ManifestKey()] = by
				name(out, "manifest "+m.Object.String(), a.manifests[m.Object])
			}
		}
		for _, k := range []string{s.snapshot.Key, s.snapshot.Previous} {
			if k != "" {
				out[k] = by
			}
		}
	}
	return out
}

func name(out map[string]string, by string, extents []tiering.Extent) {
	for i := range extents {
		if e := &extents[i]; !e.Segment.IsZero() {
			out[e.Segment.Key()] = by
		}
	}
}

// unnamed returns the objects that should have been deleted by now: nothing names them, nor
// can anything name them any more, and no record is in them only.
func (a *auditor) unnamed(ctx context.Context) (out []string) {
	oldest, ok := a.uncovered(ctx)
	a.mu.Lock()
	defer a.mu.Unlock()
	if !ok {
		return []string{"the journals cannot be read"}
	}
	named := a.named()
	for _, prefix := range []string{"seg/", "man/", "snap/"} {
		infos, err := a.w.raw.Store.List(ctx, prefix, "", 1<<20)
		if err != nil {
			return []string{err.Error()}
		}
		for _, o := range infos {
			if _, ok := named[o.Key]; !ok && !a.awaited(prefix, o, oldest) {
				out = append(out, o.Key)
			}
		}
	}
	return out
}

// awaited reports whether an object that nothing names may still be needed. Records that
// are in no snapshot are from oldest on.
func (a *auditor) awaited(prefix string, o objstore.Info, oldest time.Time) bool {
	if prefix == "snap/" {
		return a.awaitedSnapshot(o.Key)
	}
	parse := tiering.ParseSegmentKey
	if prefix == "man/" {
		parse = tiering.ParseManifestKey
	}
	id, err := parse(o.Key)
	if err != nil {
		a.w.fail("garbage", nil, "an object of unknown form: %v", err)
		return true
	}
	v, alive := a.sessions[id.Session]
	// Clocks may differ by as much as the grace, the sweeper thinks.
	return alive && id.Seq >= v.LowWatermark || prefix == "seg/" && !o.Modified.Before(oldest.Add(-max(0, a.w.config.GCGrace)-time.Millisecond))
}

func (a *auditor) awaitedSnapshot(key string) bool {
	n, err := journal.ParseSnapshotKey(key)
	_, alive := a.sessions[n.Session]
	return err == nil && alive && n.Seq > a.shard(n.Shard).snapshot.Seq
}

// uncovered returns when the oldest journal record was written that no snapshot holds.
func (a *auditor) uncovered(ctx context.Context) (oldest time.Time, ok bool) {
	oldest = time.Now()
	for id := range tiering.ShardID(a.w.config.Shards) {
		a.mu.Lock()
		seq, end := a.shard(id).snapshot.Seq, a.shard(id).state.Seq
		a.mu.Unlock()
		if seq == end {
			continue
		}
		kvs, _, err := a.store.Get(ctx, a.w.keys.JournalRecord(id, seq+1))
		if err != nil || !kvs[0].Exists() {
			return oldest, false
		}
		r, err := shard.DecodeRecord(kvs[0].Value)
		if err != nil {
			return oldest, false
		}
		if at := time.UnixMilli(r.Time); at.Before(oldest) {
			oldest = at
		}
	}
	return oldest, true
}
