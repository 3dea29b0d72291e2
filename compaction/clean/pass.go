package clean

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/floelog/floe/compaction/clean/records"
	"github.com/floelog/floe/compaction/job"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/protocol/batch"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
)

const (
	// runExtents bounds the extents that are replaced at a time: a pass over very small ones
	// must get on, and what it replaces must fit in a record.
	runExtents = 512
	// runMarkers bounds the abort markers that go at a time, for the same reason: each takes a few
	// bytes of the record. One extent may have more, but less than fill one.
	runMarkers = 32 << 10
	// smallExtent is what is written again together with its neighbours although nothing in it
	// changes. Less would leave the log in splinters; more would copy much for nothing.
	smallExtent = 1 << 20
)

// pass compacts a partition once. full says that another pass has more to do.
func (c *Cleaner) pass(ctx context.Context, t target) (full bool, err error) {
	if err := c.unarchive(ctx, t); err != nil {
		return false, err
	}
	x, err := c.index(ctx, t)
	if err != nil {
		return false, err
	}
	m := c.memo(t.tp)
	p := &pass{c: c, t: t, end: x.End(), keys: x.Keys, waiting: m.waiting, horizon: m.horizon}
	if x.End() > t.from || t.expired {
		if err := p.rewrite(ctx); err != nil {
			return false, err
		}
	}
	*m = memo{from: x.End(), limit: t.limit, done: !x.Full(), waiting: p.waiting, horizon: p.horizon, oldestAt: -1, passed: c.parts.Now()}
	c.count(func(s *Stats) {
		s.Passes++
		if x.Full() {
			s.Full++
		}
	})
	return x.Full(), nil
}

// unarchive turns the partition's manifests back into extents, the last one first: a pass
// replaces extents only.
func (c *Cleaner) unarchive(ctx context.Context, t target) error {
	before, races := -1, 0
	for {
		var last shard.Manifest
		var of uint64
		n := 0
		c.parts.Journals.View(t.shard).Read(func(s *shard.State) {
			p := s.Partition(t.tp)
			if n = len(p.Manifests); n > 0 {
				last = p.Manifests[n-1]
				of, _ = p.Digest(last.Base, last.End())
			}
		})
		if n == 0 {
			return nil
		}
		if races++; before < 0 || n < before {
			races = 0
		}
		if before = n; races > maxRaces {
			return fmt.Errorf("%w: its manifests stay", errGivenUp)
		}
		if err := c.stillMine(t); err != nil {
			return err
		}
		extents, aborted, err := c.parts.Manifests.Content(ctx, t.tp, last)
		if err != nil {
			return fmt.Errorf("reading the manifest at offset %d: %w", last.Base, err)
		}
		aborted = slices.DeleteFunc(slices.Clone(aborted), func(a shard.AbortedTransaction) bool { return a.Last < last.Base || a.Last >= last.End() })
		if err := c.parts.Journals.Change(ctx, t.shard, shard.Replace{Partition: t.tp, Of: of, With: extents, Aborted: aborted}); err != nil {
			return fmt.Errorf("turning the manifest at offset %d back into extents: %w", last.Base, err)
		}
	}
}

// vanished says what it means that an extent's object is not there: nil if the extent is not
// there any more either, cause if it should be.
func (c *Cleaner) vanished(ctx context.Context, t target, e tiering.Extent, cause error) error {
	if err := c.parts.Journals.Sync(ctx, t.shard); err != nil {
		return err
	}
	named := false
	c.parts.Journals.View(t.shard).Read(func(s *shard.State) {
		d, ok := s.Partition(t.tp).Digest(e.Base, e.End())
		named = ok && d == shard.DigestOf([]tiering.Extent{e})
	})
	if named {
		return cause
	}
	return nil
}

// index learns the newest offsets of keys.
func (c *Cleaner) index(ctx context.Context, t target) (*records.Index, error) {
	keys := records.NewKeys(c.cfg.Memory, int64(t.limit-t.from))
	x := records.NewIndex(keys, t.from, t.limit)
	for at := t.from; at < t.limit; {
		l, err := c.look(t, at, 0)
		if err != nil {
			return nil, err
		}
		if len(l.extents) == 0 {
			break
		}
		e := l.extents[0]
		data, err := c.read(ctx, e)
		if errors.Is(err, objstore.ErrNotFound) {
			if err = c.vanished(ctx, t, e, err); err == nil {
				continue
			}
		}
		if err != nil {
			return nil, err
		}
		if e.IsHole() {
			x.Hole(e.End())
		}
		x.Follow(l.moment.Aborted)
		more := true
		err = records.Batches(e, data, func(base tiering.Offset, v batch.View) (bool, error) {
			var err error
			more, err = x.Batch(base, v)
			return more, err
		})
		if err != nil {
			return nil, err
		}
		if !more {
			break
		}
		at = e.End()
	}
	return x, nil
}

// pass is the second part of a pass.
type pass struct {
	c    *Cleaner
	t    target
	keys *records.Keys
	end  tiering.Offset // compacted up to here

	w       *records.Rewriter
	at      tiering.Offset // everything before is in force
	races   int
	waiting int64
	horizon int64
}

// rewrite replaces what has to be replaced, and lets the partition's state say how far it is
// compacted.
func (p *pass) rewrite(ctx context.Context) error {
	p.begin()
	for p.at < p.end {
		l, err := p.c.look(p.t, p.at, p.end)
		if err != nil {
			return err
		}
		if p.at == 0 {
			p.at = l.first
		}
		switch {
		case len(l.extents) == 0 || l.extents[0].Base >= p.end:
			p.at = p.end
			continue
		case l.extents[0].Base < p.at:
			// What was judged already and what was not have been put together meanwhile. The keys
			// are the same, so all but the first part of the pass is made again.
			if err := p.raced(ctx); err != nil {
				return err
			}
			p.begin()
			continue
		}
		if err := p.step(ctx, l); err != nil {
			return err
		}
	}
	return p.conclude(ctx)
}

func (p *pass) begin() {
	p.w = records.NewRewriter(records.Rules{Keys: p.keys, End: p.end, DeleteRetention: p.t.policy.DeleteRetention.Milliseconds()})
	p.at, p.waiting, p.horizon = 0, 0, 0
}

// raced counts what another job has spoilt and sees to it that the view is not behind.
func (p *pass) raced(ctx context.Context) error {
	p.c.count(func(s *Stats) { s.Races++ })
	if p.races++; p.races > maxRaces {
		return fmt.Errorf("%w: other jobs were faster %d times", errGivenUp, p.races)
	}
	return p.c.parts.Journals.Sync(ctx, p.t.shard)
}

// step judges extents until a run of them is worth replacing, and replaces it.
func (p *pass) step(ctx context.Context, l look) error {
	p.w.Follow(l.moment)
	mark := p.w.Mark()
	r := run{}
	next := p.at
	for i, e := range l.extents {
		if e.Base >= p.end || r.bytes >= p.c.cfg.RunBytes || r.markers >= runMarkers || i == runExtents {
			break
		}
		data, err := p.c.read(ctx, e)
		if errors.Is(err, objstore.ErrNotFound) {
			if err = p.c.vanished(ctx, p.t, e, err); err == nil {
				p.w.GoBack(mark)
				return p.raced(ctx)
			}
		}
		if err != nil {
			return err
		}
		if e.Length < smallExtent && !e.IsInline() && len(data) > 0 {
			// Pieces wait for others: many small ones would hold as many whole blocks of the cache.
			data = [][]byte{slices.Concat(data...)}
		}
		piece, err := p.w.Judge(e, data)
		if err != nil {
			return err
		}
		next = e.End()
		if r.add(piece) {
			break
		}
	}
	if r.changed > 0 {
		ok, err := p.replace(ctx, l, r.pieces[:r.changed])
		if err != nil {
			return err
		}
		if !ok {
			p.w.GoBack(mark)
			return p.raced(ctx)
		}
	}
	p.waiting += r.waiting
	p.horizon = max(p.horizon, r.horizon)
	p.at = next
	return nil
}

// run gathers pieces side by side.
type run struct {
	pieces  []records.Piece
	changed int // so many of them are to be replaced: the last of these has changed
	bytes   int64
	markers int // abort markers that go
	waiting int64
	horizon int64
}

// add takes the next piece; it ends the run if it stays as it is and is not small.
func (r *run) add(p records.Piece) (ended bool) {
	r.waiting += p.Waiting
	r.horizon = max(r.horizon, p.Horizon)
	r.markers += len(p.Unmarked)
	hole := p.Of.IsHole()
	n := len(r.pieces)
	if hole && n > 0 && r.pieces[n-1].Of.IsHole() {
		p.Changed = true // two holes become one
	}
	switch {
	case p.Changed:
		r.pieces = append(r.pieces, p)
		r.changed = len(r.pieces)
	case !hole && int64(p.Of.Length) > smallExtent:
		return true
	case !hole && r.changed == 0:
		r.pieces, r.bytes = r.pieces[:0], 0 // nothing is to be replaced up to here
		return false
	default:
		r.pieces = append(r.pieces, p)
	}
	r.bytes += p.Bytes
	return false
}

// replace puts what stays of the pieces in the place of their extents. false: another job
// was faster.
func (p *pass) replace(ctx context.Context, l look, pieces []records.Piece) (ok bool, err error) {
	most := p.c.cfg.RunBytes
	if l.policy.SegmentBytes > 0 {
		most = min(most, l.policy.SegmentBytes)
	}
	out := records.Assemble(pieces, l.epochs, most)
	of := make([]tiering.Extent, len(pieces))
	in := int64(0)
	for i := range pieces {
		of[i] = pieces[i].Of
		in += int64(of[i].Length)
	}
	r := job.Run{Shard: p.t.shard, Partition: p.t.tp, Epochs: l.epochs, Of: shard.DigestOf(of),
		With: out.With, Data: out.Data, Unmarked: out.Unmarked}
	if r.With[len(r.With)-1].End() >= p.end {
		r.Cleaned = p.end
	}
	if err := p.c.parts.Pace(ctx, out.Bytes); err != nil {
		return false, err
	}
	if ok, err = p.store(ctx, r); ok {
		p.c.count(func(s *Stats) { s.BytesIn += in; s.BytesOut += out.Bytes })
	}
	return ok, err
}

// store commits a run and reports whether it is in force.
func (p *pass) store(ctx context.Context, r job.Run) (ok bool, err error) {
	with := r.With // the Writer tells these extents where their bytes are
	if _, err := p.c.parts.Writer.Store(ctx, job.Segment{Level: 2, Purpose: objstore.Clean, Runs: []job.Run{r}}); err != nil {
		return false, fmt.Errorf("replacing the run from offset %d on: %w", with[0].Base, err)
	}
	p.c.parts.Journals.View(p.t.shard).Read(func(s *shard.State) {
		d, there := s.Partition(p.t.tp).Digest(with[0].Base, with[len(with)-1].End())
		ok = there && d == shard.DigestOf(with)
	})
	return ok, nil
}

// conclude has the partition's state say how far it is compacted, if the last run did not say
// so: an extent takes its own place.
func (p *pass) conclude(ctx context.Context) error {
	for {
		var e tiering.Extent
		cleaned := tiering.Offset(0)
		p.c.parts.Journals.View(p.t.shard).Read(func(s *shard.State) {
			ps := s.Partition(p.t.tp)
			cleaned = max(ps.Cleaned, ps.LogStart)
			if i := ps.Find(p.end - 1); i < len(ps.Extents) {
				e = ps.Extents[i]
			}
		})
		if cleaned >= p.end || e.Count == 0 {
			return nil
		}
		if err := p.c.stillMine(p.t); err != nil {
			return err
		}
		r := job.Run{Shard: p.t.shard, Partition: p.t.tp, Of: shard.DigestOf([]tiering.Extent{e}), With: []tiering.Extent{e}, Cleaned: p.end}
		if ok, err := p.store(ctx, r); err != nil || ok {
			return err
		}
		if err := p.raced(ctx); err != nil {
			return err
		}
	}
}
