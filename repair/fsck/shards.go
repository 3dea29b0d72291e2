package fsck

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/protocol/batch"
	"github.com/floelog/floe/repair/stored"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
	"github.com/floelog/floe/tiering/segment"
)

// ref is an extent that names a segment.
type ref struct {
	shard  tiering.ShardID
	tp     tiering.TopicPartition
	extent tiering.Extent
}

// world is what some shards were at the time that they were read.
type world struct {
	mu        sync.Mutex // guards the following while shards are read
	segments  map[tiering.SegmentID][]ref
	manifests map[tiering.SegmentID]bool
	snapshots map[string]bool
	findings  map[tiering.ShardID][]Finding
}

// names is what states name.
type names struct {
	segments, manifests map[tiering.SegmentID]bool
	snapshots           map[string]bool
}

func (w *world) names() *names {
	n := &names{segments: make(map[tiering.SegmentID]bool, len(w.segments)), manifests: w.manifests, snapshots: w.snapshots}
	for id := range w.segments {
		n.segments[id] = true
	}
	return n
}

func (n *names) add(o *names) {
	maps.Copy(n.segments, o.segments)
	maps.Copy(n.manifests, o.manifests)
	maps.Copy(n.snapshots, o.snapshots)
}

// load reads shards and checks what they say of themselves.
func (c *checker) load(ctx context.Context, ids []tiering.ShardID) (*world, error) {
	w := &world{
		segments: map[tiering.SegmentID][]ref{}, manifests: map[tiering.SegmentID]bool{},
		snapshots: map[string]bool{}, findings: map[tiering.ShardID][]Finding{},
	}
	return w, each(ctx, c, "shards", ids, func(ctx context.Context, id tiering.ShardID) error { return c.shard(ctx, w, id) })
}

// shard reads and checks one shard.
func (c *checker) shard(ctx context.Context, w *world, id tiering.ShardID) error {
	j, s, err := stored.ReadShard(ctx, c.Meta, c.Objects, c.keys, id)
	if j != nil && j.Pointer.Key != "" {
		w.mu.Lock()
		w.snapshots[j.Pointer.Key], w.snapshots[j.Pointer.Previous] = true, true
		w.mu.Unlock()
	}
	if damaged(err) {
		w.found(id, Finding{Damage, "shard", id, "", -1, -1, -1, "", err.Error(), remedyRecover})
	} else if err != nil {
		return err
	}
	if s == nil {
		return nil
	}
	for _, tp := range s.Partitions() {
		if err := c.partition(ctx, w, id, tp, s.Partition(tp)); err != nil {
			return err
		}
	}
	c.rows(w, id, s)
	return nil
}

// damaged tells damage from a check that could not be made.
func damaged(err error) bool {
	return errors.Is(err, stored.ErrDamaged) || errors.Is(err, shard.ErrCorrupt) || errors.Is(err, objstore.ErrCorrupt) || errors.Is(err, objstore.ErrNotFound)
}

func (w *world) found(id tiering.ShardID, f Finding) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.findings[id] = append(w.findings[id], f)
}

// rows has the rows of coordinators decoded.
func (c *checker) rows(w *world, id tiering.ShardID, s *shard.State) {
	n := 0
	for _, space := range []shard.Space{shard.Groups, shard.Transactions} {
		for _, name := range s.Names(space) {
			for range s.Rows(space, name) {
				n++
			}
		}
	}
	groups := len(s.GroupNames())
	c.count(func(t *Totals) { t.Rows += n; t.Groups += groups })
	if c.Coordinators == nil {
		return
	}
	for _, err := range c.Coordinators(id, s) {
		w.found(id, Finding{Damage, "coordinator", id, "", -1, -1, -1, "", err.Error(), remedyReport})
	}
}

// partition checks one partition and files the segments that it names.
func (c *checker) partition(ctx context.Context, w *world, id tiering.ShardID, tp tiering.TopicPartition, p *shard.Partition) error {
	name, known := c.topicName(tp.Topic)
	at := Finding{Severity: Damage, Kind: "partition", Shard: id, Topic: name, Partition: tp.Partition, From: p.LogStart, To: p.Next, Remedy: remedyReport}
	complain := func(kind string, from, to tiering.Offset, object, remedy, format string, args ...any) {
		f := at
		f.Kind, f.From, f.To, f.Object, f.Remedy, f.Detail = kind, from, to, object, remedy, fmt.Sprintf(format, args...)
		w.found(id, f)
	}
	if t := c.topics[tp.Topic]; known {
		if want := tiering.ShardOf(t.FirstShard, tp.Partition, c.cluster.Shards); want != id || tp.Partition >= t.Partitions {
			complain("partition", p.LogStart, p.Next, "", remedyReport, "lies on shard %d, its topic has %d partitions from shard %d on", id, t.Partitions, t.FirstShard)
		}
	}
	extents := []tiering.Extent{}
	for _, m := range p.Manifests {
		list, err := stored.Manifest(ctx, c.Objects, c.id, tp, m)
		w.mu.Lock()
		w.manifests[m.Object] = true
		w.mu.Unlock()
		if damaged(err) {
			complain("manifest", m.Base, m.End(), m.Object.ManifestKey(), remedyObject, "%v", err)
			list = []tiering.Extent{{Base: m.Base, Count: m.Count, MaxTimestamp: tiering.NoTimestamp}} // checked no further
		} else if err != nil {
			return fmt.Errorf("reading manifest %s: %w", m.Object.ManifestKey(), err)
		}
		extents = append(extents, list...)
	}
	extents = append(extents, p.Extents...)
	next := p.LogStart
	for i, e := range extents {
		if i == 0 {
			next = min(e.Base, p.LogStart)
		}
		if e.Base != next {
			complain("offsets", next, e.Base, "", remedyRecover, "the extent at offset %d does not follow the one before, which ends at %d", e.Base, next)
		}
		next = e.End()
	}
	if len(extents) == 0 {
		next = p.Next
	}
	if next != p.Next || len(extents) == 0 && p.LogStart != p.Next || len(extents) > 0 && firstEnd(p) <= p.LogStart {
		complain("offsets", next, p.Next, "", remedyRecover, "extents reach from the log start %d to %d, but the partition ends at %d", p.LogStart, next, p.Next)
	}
	if !slices.IsSortedFunc(p.Epochs, func(a, b shard.EpochStart) int { return int(a.Epoch) - int(b.Epoch) }) {
		complain("partition", p.LogStart, p.Next, "", remedyReport, "leader epochs do not ascend: %v", p.Epochs)
	}
	c.file(w, id, tp, extents, complain)
	manifests := len(p.Manifests)
	c.count(func(t *Totals) { t.Partitions++; t.Manifests += manifests })
	return nil
}

// firstEnd returns where the first part of a partition ends, which a trim leaves as a whole: a
// manifest, or an extent. There is one.
func firstEnd(p *shard.Partition) tiering.Offset {
	if len(p.Manifests) > 0 {
		return p.Manifests[0].End()
	}
	return p.Extents[0].End()
}

// file notes which segments extents name, and checks those that carry their own bytes.
func (c *checker) file(w *world, id tiering.ShardID, tp tiering.TopicPartition, extents []tiering.Extent, complain func(kind string, from, to tiering.Offset, object, remedy, format string, args ...any)) {
	var t Totals
	var refs []ref
	for _, e := range extents {
		t.Extents++
		switch {
		case e.IsHole():
			t.Holes++
		case e.IsInline():
			t.Inline++
			err := segment.VerifyBatches([][]byte{e.Inline})
			n := int64(0)
			if err == nil {
				n, err = batches(e.Inline, e, false)
			}
			if err != nil {
				complain("batch", e.Base, e.End(), "", remedyReport, "inline: %v", err)
			}
			t.Batches += n
		default:
			refs = append(refs, ref{id, tp, e})
		}
	}
	w.mu.Lock()
	for _, r := range refs {
		w.segments[r.extent.Segment] = append(w.segments[r.extent.Segment], r)
	}
	w.mu.Unlock()
	c.count(func(all *Totals) {
		all.Extents += t.Extents
		all.Inline += t.Inline
		all.Holes += t.Holes
		all.Batches += t.Batches
	})
}

// batches walks the batches of an extent, whose checksums are right, and demands that they
// cover exactly its offsets; stamped, that each holds its own base offset.
func batches(b []byte, e tiering.Extent, stamped bool) (n int64, err error) {
	next := int64(e.Base)
	for len(b) > 0 {
		var v batch.View
		if v, b, err = batch.Next(b); err != nil {
			return n, fmt.Errorf("batch %d of the extent: %w", n, err)
		}
		if stamped && v.BaseOffset() != next {
			return n, fmt.Errorf("batch %d of the extent says that it begins at offset %d, but it begins at %d", n, v.BaseOffset(), next)
		}
		next += int64(v.LastOffsetDelta()) + 1
		n++
	}
	if next != int64(e.End()) {
		return n, fmt.Errorf("its batches end at offset %d, the extent at %d", next, e.End())
	}
	return n, nil
}
