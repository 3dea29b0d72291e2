package sim

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/floelog/floe/compaction/job"
	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/protocol/batch"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
)

// rogue is a job with a bug. It rewrites runs of extents beside the real jobs of an agent.
type rogue struct {
	job.Journals
	w       *world
	p       *process
	numbers job.Segments
	rnd     *rand.Rand
	edit    func(*rogue, *rogueRun)
}

// rogueRun is a run of extents that a rogue rewrites, and what is to become of it.
type rogueRun struct {
	part    *partition
	extents []tiering.Extent
	epochs  []shard.EpochStart
	stable  tiering.Offset
	next    tiering.Offset
	aborted []shard.AbortedTransaction
	newest  map[string]tiering.Offset // of all keys of the run, aborted or not

	batches  []placed // those that stay; an edit changes them
	reaching bool     // abort markers reach over holes, too
	raw      bool     // nothing is stamped
	shift    int64    // what stamps are wrong by
	unmarked []tiering.Offset
	cleaned  tiering.Offset
	changed  bool // by the edit: otherwise nothing is done
}

// onRun plants a rogue beside the jobs of every life of an agent.
func onRun(edit func(*rogue, *rogueRun)) plant {
	return plant{
		wrapJobs: func(w *world, p *process, j job.Journals, s job.Segments) job.Journals {
			g := &rogue{Journals: j, w: w, p: p, numbers: s, rnd: w.rand("rogue " + p.name), edit: edit}
			w.tasks.Go(g.run)
			return j
		},
		tune: func(w *world) { w.shape.compact = true },
	}
}

func (g *rogue) run() {
	ctx, cancel := context.WithCancel(g.w.live)
	defer cancel()
	for sleep(ctx, time.Duration(500+g.rnd.Int64N(1000))*time.Millisecond) && !g.p.gate.isDead() {
		select {
		case <-g.p.ended:
			return
		default:
		}
		parts := g.w.known()
		if len(parts) == 0 {
			continue
		}
		if r := g.look(ctx, parts[g.rnd.IntN(len(parts))]); r != nil {
			if g.edit(g, r); r.changed && errors.Is(g.rewrite(ctx, r), metadata.ErrSessionDead) {
				return
			}
		}
	}
}

// look reads the first extents of a partition that are not inline; nil if there are too few.
func (g *rogue) look(ctx context.Context, part *partition) *rogueRun {
	r := &rogueRun{part: part, newest: map[string]tiering.Offset{}}
	g.p.agent.ReadShard(part.shard, func(s *shard.State) {
		p := s.Partition(part.TopicPartition)
		r.epochs, r.stable, r.next, r.aborted = p.Epochs, p.LastStable(), p.Next, p.AbortedIn(p.LogStart, p.Next)
		for _, e := range p.Extents {
			if e.IsInline() || len(r.extents) == 64 {
				break
			}
			r.extents = append(r.extents, e)
		}
	})
	for _, e := range r.extents {
		data, err := g.w.raw.GetRange(ctx, e.Segment.Key(), int64(e.Position), int64(e.Length))
		if e.IsHole() {
			data, err = nil, nil
		}
		next := e.Base
		for ; len(data) > 0 && err == nil; next = r.batches[len(r.batches)-1].end() {
			var v batch.View
			if v, data, err = batch.Next(data); err == nil {
				r.batches = append(r.batches, placed{next, v})
			}
		}
		if err != nil {
			return nil
		}
	}
	for _, b := range r.batches {
		for rec := range b.Records(nil) {
			if !b.IsControl() {
				r.newest[string(rec.Key)] = b.base + tiering.Offset(rec.OffsetDelta)
			}
		}
	}
	if len(r.batches) < 2 {
		return nil
	}
	return r
}

// drop takes a batch out.
func (r *rogueRun) drop(i int) {
	r.batches = slices.Delete(slices.Clone(r.batches), i, i+1)
	r.changed = true
}

// thin takes records of batch i out, those for which keep is false, and reports whether the
// batch is still there.
func (r *rogueRun) thin(i int, keep func(rec *batch.Record, at tiering.Offset) bool) bool {
	b := r.batches[i]
	var which []bool
	for rec, err := range b.Records(nil) {
		if err != nil {
			return true
		}
		which = append(which, keep(&rec, b.base+tiering.Offset(rec.OffsetDelta)))
	}
	switch {
	case !slices.Contains(which, false):
		return true
	case !slices.Contains(which, true):
		r.drop(i)
		return false
	}
	if v, err := batch.Thin(nil, b.View, func(i int) bool { return which[i] }, batch.NoHorizon, nil); err == nil {
		r.batches[i] = placed{b.base, v}
		r.changed = true
	}
	return true
}

// each thins all batches with records.
func (r *rogueRun) each(keep func(b placed, rec *batch.Record, at tiering.Offset) bool) {
	for i := 0; i < len(r.batches); {
		b := r.batches[i]
		if b.IsControl() || r.thin(i, func(rec *batch.Record, at tiering.Offset) bool { return keep(b, rec, at) }) {
			i++
		}
	}
}

// void reports whether a batch belongs to an aborted transaction.
func (r *rogueRun) void(b placed) bool {
	return b.IsTransactional() && slices.ContainsFunc(r.aborted, func(t shard.AbortedTransaction) bool {
		return t.ProducerID == b.ProducerID() && t.First <= b.base && b.base <= t.Last
	})
}

// rewrite stores what is left as one extent, with a hole before it if need be, and has it
// take the place of the run.
func (g *rogue) rewrite(ctx context.Context, r *rogueRun) error {
	if len(r.batches) == 0 {
		return nil
	}
	id, done := g.numbers.NextSegment()
	defer done()
	with, data := r.assemble(id)
	if err := g.w.raw.Put(ctx, id.Key(), objstore.Body{data}); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	return g.Change(ctx, r.part.shard, shard.Replace{Partition: r.part.TopicPartition, Of: shard.DigestOf(r.extents), With: with, Unmarked: r.unmarked, Cleaned: r.cleaned})
}

// assemble lays the batches out in a segment. Where one cannot reach the next, there is a hole.
func (r *rogueRun) assemble(id tiering.SegmentID) (with []tiering.Extent, data []byte) {
	at, end := r.extents[0].Base, r.extents[len(r.extents)-1].End()
	hole := func(to tiering.Offset) {
		if at < to {
			with = append(with, tiering.Extent{Base: at, Count: int64(to - at), MaxTimestamp: tiering.NoTimestamp})
		}
		at = to
	}
	for i, b := range r.batches {
		hole(b.base)
		next := end
		if i+1 < len(r.batches) {
			next = r.batches[i+1].base
		}
		reach := r.reach(b, next)
		base, epoch := int64(b.base)+r.shift, int32(shard.EpochAt(r.epochs, b.base))
		if r.raw {
			base, epoch = 0, 0
		}
		position := tiering.Position(len(data))
		data = append(batch.AppendHeader(data, b.View, base, epoch, int32(reach-b.base-1)), b.Payload()...)
		if n := len(with); n == 0 || with[n-1].IsHole() {
			with = append(with, tiering.Extent{Base: b.base, MaxTimestamp: b.MaxTimestamp(), Segment: id, Position: position})
		}
		e := &with[len(with)-1]
		e.Count, e.Length, e.MaxTimestamp = int64(reach-e.Base), int32(len(data))-int32(e.Position), max(e.MaxTimestamp, b.MaxTimestamp())
		at = reach
	}
	hole(end)
	return with, data
}

// reach returns how far a batch may reach if the next one is at next.
func (r *rogueRun) reach(b placed, next tiering.Offset) tiering.Offset {
	if !r.reaching && !b.MayReach() {
		return b.end()
	}
	for _, e := range r.epochs {
		if e.Start >= b.end() {
			next = min(next, e.Start)
		}
	}
	return next
}

// changeBug stands between an agent's jobs and the journals.
type changeBug struct {
	job.Journals
	w  *world
	on func(*changeBug, context.Context, tiering.ShardID, []shard.Change) error
}

func (b *changeBug) Change(ctx context.Context, id tiering.ShardID, changes ...shard.Change) error {
	return b.on(b, ctx, id, slices.Clone(changes))
}

func onChange(on func(*changeBug, context.Context, tiering.ShardID, []shard.Change) error) plant {
	return plant{wrapJobs: func(w *world, _ *process, j job.Journals, _ job.Segments) job.Journals { return &changeBug{j, w, on} }}
}

// badSweeper deletes from the bucket beside the real sweeper, with one of its rules left out.
type badSweeper struct {
	objectBug
	w       *world
	p       *process
	last    map[tiering.SessionID]sessionValue
	garbage func(*badSweeper, context.Context) []string
}

func onSweep(garbage func(*badSweeper, context.Context) []string) plant {
	return plant{wrapObjects: func(w *world, p *process, s objstore.Store) objstore.Store {
		b := &badSweeper{objectBug: objectBug{s}, w: w, p: p, garbage: garbage}
		w.tasks.Go(func() {
			for sleep(w.live, 700*time.Millisecond) && !p.gate.isDead() {
				if p.node.serving() != p {
					continue
				}
				if keys := b.garbage(b, w.live); len(keys) > 0 {
					_ = w.raw.Delete(w.live, keys...) // from memory: it fails at the end only
				}
			}
		})
		return b
	}}
}

// states returns what the agent's views name; with the extents of manifests, or without.
func (b *badSweeper) states(manifests bool) map[string]bool {
	named := map[string]bool{}
	for id := range tiering.ShardID(b.w.config.Shards) {
		b.p.agent.ReadShard(id, func(s *shard.State) {
			s.Objects(func(id tiering.SegmentID) { named[id.Key()] = true }, func(id tiering.SegmentID) { named[id.ManifestKey()] = true })
		})
	}
	if manifests {
		a := b.w.audit
		a.mu.Lock()
		defer a.mu.Unlock()
		for id, extents := range a.manifests {
			for i := range extents {
				if named[id.ManifestKey()] {
					named[extents[i].Segment.Key()] = true
				}
			}
		}
	}
	return named
}

// sessions returns the sessions that live now.
func (b *badSweeper) sessions(ctx context.Context) map[tiering.SessionID]sessionValue {
	a := b.w.audit
	a.await(ctx, b.w.server.Revision())
	a.mu.Lock()
	defer a.mu.Unlock()
	out := map[tiering.SessionID]sessionValue{}
	for id, v := range a.sessions {
		out[id] = v
	}
	return out
}

// unnamed lists segments that are not named; done says of whose sessions.
func (b *badSweeper) unnamed(ctx context.Context, named map[string]bool, done func(tiering.SegmentID) bool) (out []string) {
	infos, err := b.w.raw.Store.List(ctx, tiering.SegmentPrefix, "", 1<<20)
	if err != nil {
		return nil
	}
	for _, o := range infos {
		if id, err := tiering.ParseSegmentKey(o.Key); err == nil && !named[o.Key] && done(id) {
			out = append(out, o.Key)
		}
	}
	return out
}

// isDone is the rule: the session is dead, or has said that it is done with the segment.
func isDone(sessions map[tiering.SessionID]sessionValue) func(tiering.SegmentID) bool {
	return func(id tiering.SegmentID) bool {
		v, alive := sessions[id.Session]
		return !alive || id.Seq < v.LowWatermark
	}
}
