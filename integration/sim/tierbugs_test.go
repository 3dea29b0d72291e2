package sim

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/floelog/floe/agent/kafka"
	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/protocol/batch"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/manifest"
	"github.com/floelog/floe/tiering/objstore"
)

// tierBugs are planted into merging, log compaction, retention, deletion, and reading of
// what they leave.
var tierBugs = slices.Concat(mergeBugs, cleanBugs, sweepBugs)

var mergeBugs = []bug{
	{"digest not compared: a late replacement takes the place of whatever is there", 1200, []string{"compaction: is back"}, func() plant {
		p := onChange(func(b *changeBug, ctx context.Context, id tiering.ShardID, changes []shard.Change) error {
			sleep(ctx, 2*time.Second)
			for i, c := range changes {
				if r, ok := c.(shard.Replace); ok {
					b.View(id).Read(func(s *shard.State) {
						if of, ok := s.Partition(r.Partition).Digest(r.Base(), r.End()); ok {
							r.Of = of
						}
					})
					changes[i] = r
				}
			}
			return b.Journals.Change(ctx, id, changes...)
		})
		p.tune = func(w *world) { w.shape.compact = true }
		return p
	}},
	{"a merge loses a batch", 100, []string{"one value: holds other bytes", "one value: does not hold all"}, func() plant {
		return onRun(func(g *rogue, r *rogueRun) { r.drop(1 + g.rnd.IntN(len(r.batches)-1)) })
	}},
	{"a hole takes the batch behind it along", 100, []string{"one value: holds other bytes"}, func() plant {
		return onRun(func(_ *rogue, r *rogueRun) { r.drop(0) })
	}},
	{"stamps left out: a merged segment holds what producers sent", 100, []string{"stamps: epoch 0"}, func() plant {
		return onRun(func(_ *rogue, r *rogueRun) { r.raw, r.changed = true, true })
	}},
	{"stamps of a wrong base: they are off by one", 100, []string{"stamps: is stamped"}, func() plant {
		return onRun(func(_ *rogue, r *rogueRun) { r.shift, r.changed = 1, true })
	}},
	{"stamps of a wrong epoch: a merged segment is of the first one's", 300, []string{"stamps: and epoch 1 at"}, func() plant {
		return onRun(func(_ *rogue, r *rogueRun) {
			r.epochs = r.epochs[:min(1, len(r.epochs))]
			r.changed = true
		})
	}},
	{"a manifest off by one: it leaves out its last offset", 300, []string{"manifests: the state says"}, func() plant {
		return onManifest(func(m *manifest.Manifest) { m.Extents[len(m.Extents)-1].Count-- })
	}},
	{"a manifest with another place: an extent of it points elsewhere", 300, []string{"manifests: without being replaced"}, func() plant {
		return onManifest(func(m *manifest.Manifest) {
			for i := 1; i < len(m.Extents); i++ {
				if a, b := &m.Extents[i-1], &m.Extents[i]; a.Segment == b.Segment {
					a.Position, b.Position = b.Position, a.Position
				}
			}
			m.Extents[0].Position++
		})
	}},
	{"retention beyond the policy: the first extent goes although it is kept", 100, []string{"retention"}, func() plant {
		return onRun(func(g *rogue, r *rogueRun) {
			if r.part.keeps.age < 0 && r.part.keeps.bytes < 0 {
				ctx, cancel := context.WithTimeout(g.w.live, 10*time.Second)
				defer cancel()
				_ = g.Change(ctx, r.part.shard, shard.Trim{Partition: r.part.TopicPartition, LogStart: r.extents[0].End()}) // tried again soon
			}
		})
	}},
}

// onManifest plants a change of manifests on their way to the bucket.
func onManifest(change func(*manifest.Manifest)) plant {
	return plant{wrapObjects: func(_ *world, _ *process, s objstore.Store) objstore.Store { return &manifestBug{objectBug{s}, change} }}
}

type manifestBug struct {
	objectBug
	change func(*manifest.Manifest)
}

func (b *manifestBug) Put(ctx context.Context, key string, body objstore.Body) error {
	if strings.HasPrefix(key, tiering.ManifestPrefix) {
		m, err := manifest.Decode(slices.Concat(body...))
		if err != nil {
			return err
		}
		b.change(&m)
		data, err := manifest.Encode(m)
		if err != nil {
			return err
		}
		body = objstore.Body{data}
	}
	return b.Store.Put(ctx, key, body)
}

var cleanBugs = []bug{
	{"the cleaner ignores the last stable offset: what may still be aborted supersedes", 300, []string{"compaction: it is not stable", "compaction: it is the newest of its key"}, func() plant {
		return onRun(func(_ *rogue, r *rogueRun) {
			if r.part.keeps.compact && r.stable < r.next {
				r.each(func(_ placed, rec *batch.Record, at tiering.Offset) bool { return at >= r.newest[string(rec.Key)] })
			}
		})
	}},
	{"the cleaner lets aborted records supersede", 300, []string{"compaction: it is the newest of its key"}, func() plant {
		return onRun(func(_ *rogue, r *rogueRun) {
			if r.part.keeps.compact && len(r.aborted) > 0 && r.part.keeps.asked.Load() {
				r.each(func(_ placed, rec *batch.Record, at tiering.Offset) bool {
					return at >= r.stable || at >= r.newest[string(rec.Key)]
				})
			}
		})
	}},
	{"the cleaner drops the newest value of a key", 100, []string{"compaction: it is the newest of its key"}, func() plant {
		return onRun(func(_ *rogue, r *rogueRun) {
			if r.part.keeps.compact {
				r.each(func(_ placed, rec *batch.Record, at tiering.Offset) bool {
					return at >= r.stable || rec.Value == nil || at != r.newest[string(rec.Key)]
				})
			}
		})
	}},
	{"tombstones go before their delete horizon", 100, []string{"compaction: tombstone true"}, func() plant {
		return onRun(func(_ *rogue, r *rogueRun) {
			if r.part.keeps.compact {
				r.each(func(_ placed, rec *batch.Record, at tiering.Offset) bool {
					return at >= r.stable || rec.Value != nil || at != r.newest[string(rec.Key)]
				})
			}
		})
	}},
	{"a delete horizon of now: delete.retention.ms is left out", 300, []string{"compaction: got delete horizon"}, func() plant {
		return onRun(func(_ *rogue, r *rogueRun) {
			for i, b := range r.batches {
				if r.part.keeps.compact && !b.IsControl() && b.DeleteHorizon() == batch.NoHorizon {
					if v, err := batch.Thin(nil, b.View, func(int) bool { return true }, b.MaxTimestamp(), nil); err == nil {
						r.batches[i], r.changed = placed{b.base, v}, true
					}
				}
			}
		})
	}},
	{"markers go while data of their transactions is left", 300, []string{"compaction: data of its transaction is left", "compaction: its delete horizon has not passed"}, func() plant {
		return onRun(func(_ *rogue, r *rogueRun) {
			for i := len(r.batches) - 1; i > 0; i-- {
				if b := r.batches[i]; r.part.keeps.compact && b.IsControl() && b.base < r.stable {
					r.unmarked = append([]tiering.Offset{b.base}, r.unmarked...)
					r.drop(i)
				}
			}
		})
	}},
	{"markers are forgotten that are still there", 300, []string{"aborted lists: agents tell of"}, func() plant {
		return onRun(func(_ *rogue, r *rogueRun) {
			for _, b := range r.batches {
				if b.IsControl() && b.base < r.stable {
					r.unmarked, r.changed = append(r.unmarked, b.base), true
				}
			}
		})
	}},
	{"committed records count as aborted", 300, []string{"compaction: it is the newest of its key"}, func() plant {
		return onRun(func(_ *rogue, r *rogueRun) {
			for i := len(r.batches) - 1; i > 0; i-- {
				if b := r.batches[i]; r.part.keeps.compact && b.IsTransactional() && !b.IsControl() && b.base < r.stable && !r.void(b) {
					r.drop(i)
				}
			}
		})
	}},
	{"an abort marker reaches over what was removed behind it", 300, []string{"compaction: the abort marker"}, func() plant {
		return onRun(func(_ *rogue, r *rogueRun) {
			r.reaching = true
			for i := len(r.batches) - 2; i > 0; i-- {
				if commit, _, err := batch.ReadMarker(r.batches[i].View); r.part.keeps.compact && err == nil && !commit && r.void(r.batches[i+1]) {
					r.drop(i + 1)
				}
			}
		})
	}},
	{"the cleaner leaves older values behind", 100, []string{"compaction: are left at revision"}, func() plant {
		return onRun(func(_ *rogue, r *rogueRun) {
			if to := min(r.stable, r.batches[len(r.batches)-1].base); r.part.keeps.compact {
				r.cleaned, r.changed = to, true
			}
		})
	}},
	{"a topic is compacted that is not to be", 300, []string{"compaction: nobody asked"}, func() plant {
		return onRun(func(_ *rogue, r *rogueRun) {
			if r.part.keeps.compact && !r.part.keeps.asked.Load() && r.batches[1].base < r.stable {
				r.drop(1)
			}
		})
	}},
	{"readers are not told of aborted transactions that they were given records of", 100, []string{"aborted lists: was not told"}, func() plant {
		return plant{wrapReader: func(_ *world, _ *process, inner kafka.Reader) kafka.Reader { return &silent{inner} }}
	}},
}

// silent leaves the last aborted transaction out.
type silent struct{ kafka.Reader }

func (s *silent) Fetch(ctx context.Context, req kafka.FetchRequest) []kafka.FetchResult {
	out := s.Reader.Fetch(ctx, req)
	for i := range out {
		out[i].Aborted = out[i].Aborted[:max(0, len(out[i].Aborted)-1)]
	}
	return out
}

var sweepBugs = []bug{
	{"the sweeper without sessions: what nothing names goes", 100, []string{"objects", "deleted"}, func() plant {
		return onSweep(func(b *badSweeper, ctx context.Context) []string {
			return b.unnamed(ctx, b.states(true), func(tiering.SegmentID) bool { return true })
		})
	}},
	{"the sweeper with sessions of before: one that was born since counts as dead", 300, []string{"objects", "deleted"}, func() plant {
		return onSweep(func(b *badSweeper, ctx context.Context) []string {
			last := b.last
			if b.last = b.sessions(ctx); last == nil {
				return nil
			}
			return b.unnamed(ctx, b.states(true), func(id tiering.SegmentID) bool {
				_, alive := last[id.Session]
				return !alive
			})
		})
	}},
	{"the sweeper looks at states before it reads sessions and lists", 300, []string{"objects", "deleted"}, func() plant {
		return onSweep(func(b *badSweeper, ctx context.Context) []string {
			named := b.states(true)
			sleep(ctx, time.Second)
			return b.unnamed(ctx, named, isDone(b.sessions(ctx)))
		})
	}},
	{"the sweeper does not read manifests", 300, []string{"objects", "deleted"}, func() plant {
		return onSweep(func(b *badSweeper, ctx context.Context) []string {
			return b.unnamed(ctx, b.states(false), isDone(b.sessions(ctx)))
		})
	}},
	{"the sweeper takes snapshots that nothing points to for garbage", 100, []string{"objects", "deleted"}, func() plant {
		return onSweep(func(b *badSweeper, ctx context.Context) (out []string) {
			a := b.w.audit
			a.await(ctx, b.w.server.Revision())
			a.mu.Lock()
			defer a.mu.Unlock()
			infos, err := b.w.raw.Store.List(ctx, journal.SnapshotPrefix, "", 1<<20)
			for _, o := range infos {
				n, err2 := journal.ParseSnapshotKey(o.Key)
				if err == nil && err2 == nil && a.shard(n.Shard).snapshot.Key != o.Key {
					out = append(out, o.Key)
				}
			}
			return out
		})
	}},
	{"the sweeper does not run: garbage stays", 100, []string{"garbage"}, func() plant {
		return plant{tune: func(w *world) { w.config.GCInterval = time.Hour }}
	}},
	{"retention does not run: data stays", 300, []string{"overdue: retention."}, func() plant {
		return plant{tune: func(w *world) { w.config.RetentionInterval = 10 * time.Minute }}
	}},
	{"log compaction does not run", 2000, []string{"overdue: is compacted up to"}, func() plant {
		return plant{tune: func(w *world) { w.shape.compact, w.config.CleanEvery = true, time.Hour }}
	}},
	{"a sweeper that never sees manifests as garbage", 300, []string{"garbage"}, func() plant {
		return plant{wrapObjects: func(_ *world, _ *process, s objstore.Store) objstore.Store { return &keeper{objectBug{s}} }}
	}},
}

// keeper does not list manifests.
type keeper struct{ objectBug }

func (k *keeper) Delete(ctx context.Context, keys ...string) error {
	keys = slices.DeleteFunc(slices.Clone(keys), func(k string) bool { return strings.HasPrefix(k, tiering.ManifestPrefix) })
	if len(keys) == 0 {
		return nil
	}
	return k.Store.Delete(ctx, keys...)
}
