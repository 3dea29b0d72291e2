package recovery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/repair/stored"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
	"github.com/floelog/floe/tiering/segment"
)

// bucket is what is stored, by kind.
type bucket struct {
	segments  []*stocked
	snapshots map[tiering.ShardID][]objstore.Info
	copies    []objstore.Info // newest first
}

// stocked is a segment of the bucket.
type stocked struct {
	objstore.Info
	id      tiering.SegmentID
	level   uint8
	damaged bool
}

// listPage is how many objects are listed at once.
const listPage = 1000

func (p *Plan) list(ctx context.Context) (*bucket, error) {
	b := &bucket{snapshots: map[tiering.ShardID][]objstore.Info{}}
	for after, done := "", int64(0); ; {
		page, err := p.cfg.Objects.List(ctx, "", after, listPage)
		if err != nil {
			return nil, fmt.Errorf("listing the bucket: %w", err)
		}
		for _, o := range page {
			b.add(o)
		}
		done += int64(len(page))
		p.cfg.Progress("objects", done, 0)
		if len(page) < listPage {
			break
		}
		after = page[len(page)-1].Key
	}
	newest := func(a, b objstore.Info) int { return cmp.Or(b.Modified.Compare(a.Modified), cmp.Compare(b.Key, a.Key)) }
	slices.SortFunc(b.copies, newest)
	p.Report.Objects = len(b.segments)
	return b, nil
}

func (b *bucket) add(o objstore.Info) {
	if id, err := tiering.ParseSegmentKey(o.Key); err == nil {
		b.segments = append(b.segments, &stocked{Info: o, id: id})
	} else if n, err := journal.ParseSnapshotKey(o.Key); err == nil {
		b.snapshots[n.Shard] = append(b.snapshots[n.Shard], o)
	} else if _, _, err := catalogue.ParseCopyKey(o.Key); err == nil {
		b.copies = append(b.copies, o)
	}
}

// each calls f for every element, a bounded number at a time.
func each[T any](ctx context.Context, p *Plan, stage string, all []T, f func(context.Context, T) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(p.cfg.Parallel)
	var mu sync.Mutex
	done, total := int64(0), int64(len(all))
	p.cfg.Progress(stage, 0, total)
	for _, x := range all {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			err := f(ctx, x)
			mu.Lock()
			done++
			at := done
			mu.Unlock()
			p.cfg.Progress(stage, at, total)
			return err
		})
	}
	return g.Wait()
}

// unreadable tells an object that is damaged or gone from a store that does not answer.
func unreadable(err error) bool {
	return errors.Is(err, stored.ErrDamaged) || errors.Is(err, shard.ErrCorrupt) || errors.Is(err, objstore.ErrCorrupt) || errors.Is(err, objstore.ErrNotFound)
}

// bases finds the newest snapshot of each shard that can be read.
func (p *Plan) bases(ctx context.Context, b *bucket) error {
	p.shards = make([]*rebuilt, p.cluster.Shards)
	for i := range p.shards {
		p.shards[i] = newRebuilt(tiering.ShardID(i))
	}
	for id := range b.snapshots {
		if uint32(id) >= p.cluster.Shards {
			return fmt.Errorf("%w: the bucket has a snapshot of shard %d, the cluster %d shards", ErrOtherCluster, id, p.cluster.Shards)
		}
	}
	return each(ctx, p, "snapshots", p.shards, func(ctx context.Context, s *rebuilt) error {
		for _, o := range b.snapshots[s.id] {
			n, err := journal.ParseSnapshotKey(o.Key)
			if err != nil {
				return err
			}
			s.saw(0, n.Seq)
			state, err := stored.Snapshot(ctx, p.cfg.Objects, o.Key, o.Size)
			if unreadable(err) {
				s.problem("snapshot %s cannot be used: %v", o.Key, err)
				continue
			} else if err != nil {
				return err
			}
			s.saw(state.Epoch, state.Seq)
			if cmp.Or(cmp.Compare(state.Epoch, s.state.Epoch), cmp.Compare(state.Seq, s.state.Seq)) > 0 {
				s.state, s.base = state, o
			}
		}
		s.report.Base, s.report.BaseSeq = s.base.Key, s.state.Seq
		return nil
	})
}

// journals takes the records that the metadata store has, if it has any.
func (p *Plan) journals(ctx context.Context) error {
	return each(ctx, p, "journals", p.shards, func(ctx context.Context, s *rebuilt) error {
		j, err := stored.ReadJournal(ctx, p.cfg.Meta, p.keys, s.id)
		if err != nil {
			return err
		}
		if j.Head != nil {
			s.saw(j.Head.Epoch, j.Head.Seq)
		}
		for _, r := range j.Records {
			s.offer(r.Seq, r.Bytes, "the metadata store", time.Time{})
		}
		kvs, _, err := p.cfg.Meta.Get(ctx, p.keys.Head(s.id))
		if err != nil {
			return fmt.Errorf("reading %s: %w", p.keys.Head(s.id), err)
		}
		s.head = kvs[0]
		return nil
	})
}

// headers reads the header of every segment: who wrote it, and the records that it carries. A segment of another
// cluster that somebody has put here is passed over.
func (p *Plan) headers(ctx context.Context, b *bucket) error {
	var mu sync.Mutex // guards the shards, and the following
	own, foreign := 0, 0
	err := each(ctx, p, "segments", b.segments, func(ctx context.Context, o *stocked) error {
		h, err := stored.Header(ctx, p.cfg.Objects, o.Info)
		mu.Lock()
		defer mu.Unlock()
		if unreadable(err) || errors.Is(err, segment.ErrVersion) {
			o.damaged = true
			p.Report.problem("segment %s cannot be used: %v", o.Key, err)
			return nil
		} else if err != nil {
			return err
		}
		if h.Cluster != p.id {
			o.damaged = true // not this cluster's to take from
			foreign++
			p.Report.problem("segment %s is of another cluster, %s: it is passed over", o.Key, tiering.TopicID(h.Cluster))
			return nil
		}
		own++
		o.level = h.Level
		for _, r := range h.Carry {
			if uint32(r.Shard) < p.cluster.Shards {
				p.shards[r.Shard].offer(r.Seq, r.Bytes, o.Key, o.Modified)
			}
		}
		return nil
	})
	if err == nil && own == 0 && foreign > 0 {
		return fmt.Errorf("%w: the catalogue is of cluster %s, and none of the %d segments", ErrOtherCluster, p.cluster.ID, foreign)
	}
	return err
}
