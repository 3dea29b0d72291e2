package sweep

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/metadata/membership"
	"github.com/floelog/floe/metadata/retry"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
)

const (
	// manifestReads is how many manifests are read at a time: one after the other, those of a
	// large cluster would take longer than the interval; more would disturb consumers.
	manifestReads = 8
	// maxProbes is how many named objects that LIST left out are asked for one by one, to tell
	// a list that lies from data that is lost.
	maxProbes = 16
)

// look is one sweep's way through the bucket, window by window.
type look struct {
	sweeper *Sweeper
	report  *Report
	before  map[tiering.SessionID]membership.SessionState // S0 of the package comment
	after   map[tiering.SessionID]membership.SessionState // S1
	shards  []standing
	covered int64 // what was stored before, milliseconds since 1970, carries no journal record that matters
	window  *window
	missing []missing // named and not listed, maxProbes at most
	more    int       // further ones
	found   []garbage
	sparse  []Sparse
	old     int64 // what was stored before, milliseconds since 1970, may be called sparse
}

// missing is an object that is named and should have been listed.
type missing struct {
	name
	shard     tiering.ShardID
	partition tiering.TopicPartition
	manifest  tiering.SegmentID // that names it; zero: the state does
	base      tiering.Offset    // of its first record
}

// judge marks what the states name and decides about the rest of the window.
func (l *look) judge(ctx context.Context) (err error) {
	s := l.sweeper
	l.report.Windows++
	if l.after, err = s.sessions(ctx); err != nil {
		return err
	}
	if l.shards, err = s.standings(ctx); err != nil {
		return err
	}
	if l.covered, err = s.covered(ctx); err != nil {
		return err
	}
	ids := make([]tiering.ShardID, s.parts.Shards.NumShards())
	for i := range ids {
		ids[i] = tiering.ShardID(i)
	}
	if err := s.sync(ctx, ids...); err != nil {
		return err
	}
	for _, id := range ids {
		if err := l.mark(ctx, id); err != nil {
			return fmt.Errorf("shard %d: %w", id, err)
		}
	}
	if err := l.explain(ctx); err != nil {
		return err
	}
	l.collect()
	return nil
}

func (s *Sweeper) sync(ctx context.Context, ids ...tiering.ShardID) error {
	ctx, cancel := context.WithTimeout(ctx, readTime)
	defer cancel()
	return s.parts.Shards.Sync(ctx, ids...)
}

// covered returns from when on what is stored may carry journal records that no snapshot holds.
func (s *Sweeper) covered(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, readTime)
	defer cancel()
	oldest, err := retry.Read(ctx, s.pacer, func(ctx context.Context) (int64, error) {
		oldest, some, err := journal.Uncovered(ctx, s.parts.Meta, s.cfg.Keys, s.parts.Shards.NumShards())
		if !some {
			oldest = math.MaxInt64
		}
		return oldest, err
	})
	if err != nil || oldest == math.MaxInt64 {
		return oldest, err
	}
	return oldest - min(skew, s.cfg.Grace).Milliseconds(), nil
}

// mark marks what a shard's state names, and what the manifests do that it names.
func (l *look) mark(ctx context.Context, id tiering.ShardID) error {
	type partition struct {
		tp        tiering.TopicPartition
		manifests []shard.Manifest
		extents   []tiering.Extent
	}
	var partitions []partition
	l.sweeper.parts.Shards.View(id).Read(func(s *shard.State) {
		for _, tp := range s.Partitions() {
			p := s.Partition(tp)
			partitions = append(partitions, partition{tp, p.Manifests, p.Extents})
		}
	})
	for _, p := range partitions {
		by := missing{shard: id, partition: p.tp}
		for manifests := range slices.Chunk(p.manifests, 2*manifestReads) {
			if err := l.markManifests(ctx, by, manifests); err != nil {
				return err
			}
		}
		if err := l.markExtents(by, p.extents); err != nil {
			return err
		}
	}
	return nil
}

func (l *look) markManifests(ctx context.Context, by missing, manifests []shard.Manifest) error {
	lists := make([][]tiering.Extent, len(manifests))
	var g errgroup.Group
	g.SetLimit(manifestReads)
	for i, m := range manifests {
		by.base = m.Base
		if err := l.markOne(name{kind: Manifest, id: m.Object}, int64(m.Size), int64(m.Size), by); err != nil {
			return err
		}
		g.Go(func() (err error) {
			if lists[i], err = l.sweeper.parts.Manifests.Extents(ctx, by.partition, m); err != nil {
				return fmt.Errorf("%s: manifest %s: %w", by.partition, m.Object.ManifestKey(), err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		// If the manifest is gone explain says more. If it is not named any more this is no loss,
		// but what it named may be named elsewhere now, and was not seen there.
		return errors.Join(l.explain(ctx), err)
	}
	for i, extents := range lists {
		by.manifest = manifests[i].Object
		if err := l.markExtents(by, extents); err != nil {
			return err
		}
	}
	return nil
}

func (l *look) markExtents(by missing, extents []tiering.Extent) error {
	for i := range extents {
		e := &extents[i]
		if e.Segment.IsZero() {
			continue
		}
		by.base = e.Base
		if err := l.markOne(name{kind: Segment, id: e.Segment}, int64(e.Position)+int64(e.Length), int64(e.Length), by); err != nil {
			return err
		}
	}
	return nil
}

// markOne notes that an object is named: its first end bytes at least, length of them here.
func (l *look) markOne(n name, end, length int64, by missing) error {
	t := l.window.objects[n.kind]
	o, listed := t[n.id]
	switch {
	case listed && end > o.size:
		return fmt.Errorf("%s, offset %d: %s has %d bytes, %d are named: run floe fsck", by.partition, by.base, n.objectKey(), o.size, end)
	case listed:
		o.named = true
		o.live += length
		o.extents++
		o.archived = o.archived || !by.manifest.IsZero()
		t[n.id] = o
	case l.young(n.id) || !l.window.covers(n):
	case len(l.missing) < maxProbes:
		by.name = n
		l.missing = append(l.missing, by)
	default:
		l.more++
	}
	return nil
}

// young reports whether an object may have been stored after LIST looked.
func (l *look) young(id tiering.SegmentID) bool {
	st, lived := l.before[id.Session]
	if lived {
		return id.Seq >= st.LowWatermark
	}
	_, lives := l.after[id.Session]
	return lives // it began meanwhile
}

// explain finds out why objects that are named were not listed.
func (l *look) explain(ctx context.Context) error {
	s := l.sweeper
	var lost []missing
	for _, m := range l.missing {
		_, err := s.parts.Objects.Head(ctx, m.objectKey())
		switch {
		case err == nil:
			return fmt.Errorf("the list of objects leaves out %s, which is there", m.objectKey())
		case !errors.Is(err, objstore.ErrNotFound):
			return fmt.Errorf("looking for %s, which is named and was not listed: %w", m.objectKey(), err)
		}
		// Another sweeper may have been faster, with what was named a moment ago only.
		if err := s.sync(ctx, m.shard); err != nil {
			return err
		}
		if s.names(m) {
			lost = append(lost, m)
		}
	}
	if len(lost) == 0 && l.more == 0 {
		l.missing = nil
		return nil
	}
	l.report.Lost = len(lost) + l.more
	if len(lost) == 0 {
		return fmt.Errorf("%d objects were not listed although they were named", l.more)
	}
	return fmt.Errorf("%d objects are named and gone, the first is %s of %s from offset %d on: run floe fsck",
		l.report.Lost, lost[0].objectKey(), lost[0].partition, lost[0].base)
}

// names reports whether the view still names the object, or the manifest that named it.
func (s *Sweeper) names(m missing) (still bool) {
	manifest := m.manifest
	if m.kind == Manifest {
		manifest = m.id
	}
	s.parts.Shards.View(m.shard).Read(func(st *shard.State) {
		p := st.Partition(m.partition)
		if manifest.IsZero() {
			still = slices.ContainsFunc(p.Extents, func(e tiering.Extent) bool { return e.Segment == m.id })
		} else {
			still = slices.ContainsFunc(p.Manifests, func(x shard.Manifest) bool { return x.Object == manifest })
		}
	})
	return still
}

// collect decides about all objects of the window.
func (l *look) collect() {
	for kind, objects := range l.window.objects {
		for id, o := range objects {
			n := name{kind: Kind(kind), id: id}
			st, alive := l.after[id.Session]
			switch {
			case o.named:
				l.count(n.kind, Named, o.size)
				if n.kind == Segment {
					l.weigh(id, o)
				}
			case alive && id.Seq >= st.LowWatermark:
				l.count(n.kind, InFlight, o.size)
			case n.kind == Segment && l.covered < math.MaxInt64 && o.modified >= l.covered:
				l.count(n.kind, Carries, o.size)
			case alive:
				l.discard(garbage{n, o.size, BelowWatermark})
			default:
				l.discard(garbage{n, o.size, DeadSession})
			}
		}
	}
}

func (l *look) count(k Kind, v Verdict, size int64) { l.report.Counts[k][v].add(size) }

// discard notes garbage, as much as there is room for: what was noted before has its place.
func (l *look) discard(g garbage) {
	if _, before := l.sweeper.seen[g.name]; before || len(l.found) < maxGarbage {
		l.found = append(l.found, g)
		return
	}
	l.report.Left++
}
