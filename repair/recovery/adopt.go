package recovery

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/protocol/batch"
	"github.com/floelog/floe/repair/stored"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/segment"
)

// flush is a chunk of a flush, or of a merged segment, that no state names and that may have been
// acknowledged.
type flush struct {
	*stocked
	entry segment.Entry
}

// adopt takes up what was flushed after the last record that is known, shard by shard.
func (p *Plan) adopt(ctx context.Context, b *bucket) error {
	named, err := p.named(ctx)
	if err != nil {
		return err
	}
	p.noteFlushed(b)
	candidates, err := p.candidates(ctx, b, named)
	if err != nil {
		return err
	}
	a := &adoption{plan: p, topics: p.topicIDs(), taken: map[batchMark]bool{}, thinned: map[producerMark]int32{},
		plain: map[tiering.TopicPartition][]sketch{}, followed: map[chain]spot{}}
	flushes := map[tiering.ShardID][]flush{}
	for _, s := range p.shards {
		f, merged := levels(candidates[s.id])
		flushes[s.id] = inOrder(f)
		s.merged, s.looked = merged, make([]bool, len(merged))
		if err := a.merged(ctx, s); err != nil {
			return err
		}
		if err := a.salvage(ctx, s, flushes[s.id]); err != nil {
			return err
		}
	}
	if p.cfg.Coordinators != nil {
		a.transactions = p.cfg.Coordinators(p.states())
	}
	for _, s := range p.shards {
		if err := a.follow(ctx, flushes[s.id]); err != nil {
			return err
		}
		if err := a.shard(ctx, s, s.unplaced(flushes[s.id])); err != nil {
			return err
		}
	}
	return nil
}

// chunkName is a segment's part for one shard.
type chunkName struct {
	segment tiering.SegmentID
	shard   tiering.ShardID
}

// named returns which segments the states name, with what their manifests do.
func (p *Plan) named(ctx context.Context) (map[chunkName]bool, error) {
	out := map[chunkName]bool{}
	for _, s := range p.shards {
		for _, tp := range s.state.Partitions() {
			part := s.state.Partition(tp)
			for _, e := range part.Extents {
				out[chunkName{e.Segment, s.id}] = true
			}
			for _, m := range part.Manifests {
				extents, err := stored.Manifest(ctx, p.cfg.Objects, p.id, tp, m)
				if unreadable(err) {
					s.problem("manifest %s cannot be used: %v", m.Object.ManifestKey(), err)
					continue
				} else if err != nil {
					return nil, fmt.Errorf("reading manifest %s: %w", m.Object.ManifestKey(), err)
				}
				for _, e := range extents {
					out[chunkName{e.Segment, s.id}] = true
				}
			}
		}
	}
	return out, nil
}

// noteFlushed notes the flushes that the states name: of each session all before them were
// sequenced. Merged segments share their numbers, and say nothing about flushes.
func (p *Plan) noteFlushed(b *bucket) {
	flushes := make(map[tiering.SegmentID]bool, len(b.segments))
	for _, o := range b.segments {
		flushes[o.id] = o.level == 0 && !o.damaged
	}
	for _, s := range p.shards {
		for _, tp := range s.state.Partitions() {
			for _, e := range s.state.Partition(tp).Extents {
				if flushes[e.Segment] {
					s.flush(e.Segment)
				}
			}
		}
	}
}

// candidates returns the chunks that may have been sequenced after the last record that is known
// of their shard.
func (p *Plan) candidates(ctx context.Context, b *bucket, named map[chunkName]bool) (map[tiering.ShardID][]flush, error) {
	oldest := time.Time{}
	for i, s := range p.shards {
		if at := s.base.Modified; i == 0 || at.Before(oldest) {
			oldest = at
		}
	}
	var recent []*stocked
	for _, o := range b.segments {
		if !o.damaged && o.Modified.Add(baseSlack).After(oldest) {
			recent = append(recent, o)
		}
	}
	indexes := make([]*segment.Segment, len(recent))
	order := make([]int, len(recent))
	for i := range order {
		order[i] = i
	}
	err := each(ctx, p, "flushes", order, func(ctx context.Context, i int) error {
		o := recent[i]
		seg, err := segment.Open(o.Size, p.reader(ctx, o.Key))
		if unreadable(err) {
			return nil // was reported, or is named and then damage for fsck to find
		}
		indexes[i] = seg
		return err
	})
	out := map[tiering.ShardID][]flush{}
	for i, o := range recent {
		if indexes[i] == nil {
			continue
		}
		for _, e := range indexes[i].Entries {
			if uint32(e.Shard) >= p.cluster.Shards {
				continue
			}
			s := p.shards[e.Shard]
			unknown := (o.level > 0 || o.id.Seq > s.flushed[o.id.Session]) && !named[chunkName{o.id, e.Shard}]
			if s.covered[o.id] && !o.Modified.After(s.base.Modified) {
				unknown = false // later ones are of a history that the base does not know
			}
			if unknown && o.Modified.Add(baseSlack).After(s.base.Modified) {
				out[e.Shard] = append(out[e.Shard], flush{o, e})
			}
		}
	}
	return out, err
}

func (p *Plan) reader(ctx context.Context, key string) segment.ReadFunc {
	return func(off tiering.Position, n int64) ([]byte, error) {
		return p.cfg.Objects.GetRange(ctx, key, int64(off), n)
	}
}

// inOrder puts chunks into the order in which they were most likely sequenced: those of a
// session by number, sessions side by side by when the store had them.
func inOrder(all []flush) []flush {
	sessions := map[tiering.SessionID][]flush{}
	for _, f := range all {
		sessions[f.id.Session] = append(sessions[f.id.Session], f)
	}
	var queues [][]flush
	for _, q := range sessions {
		slices.SortFunc(q, func(a, b flush) int {
			return cmp.Or(cmp.Compare(a.id.Seq, b.id.Seq), cmp.Compare(a.entry.Position, b.entry.Position))
		})
		queues = append(queues, q)
	}
	out := make([]flush, 0, len(all))
	for len(queues) > 0 {
		first := 0
		for i, q := range queues {
			if cmp.Or(q[0].Modified.Compare(queues[first][0].Modified), cmp.Compare(q[0].Key, queues[first][0].Key)) < 0 {
				first = i
			}
		}
		out = append(out, queues[first][0])
		if queues[first] = queues[first][1:]; len(queues[first]) == 0 {
			queues = slices.Delete(queues, first, first+1)
		}
	}
	return out
}

// adoption takes chunks up by the rules by which a leader does.
type adoption struct {
	plan         *Plan
	topics       map[tiering.TopicID]*catalogue.Topic
	transactions Transactions
	seq          uint64             // of submissions
	taken        map[batchMark]bool // that merged segments have proved
	// thinned holds, of producers of whose batches merged segments hold some that are thinned out, the first
	// sequence number of the last of these.
	thinned map[producerMark]int32
	// plain are batches of plain producers that merged segments hold thinned out, and followed is up to where
	// the flushes of a session are known to lie before or among what merged segments hold.
	plain    map[tiering.TopicPartition][]sketch
	followed map[chain]spot
}

// shard takes up the chunks of one shard. A batch of an idempotent producer that does not
// follow its last one waits for a flush of another agent that brings the one between.
func (a *adoption) shard(ctx context.Context, s *rebuilt, chunks []flush) error {
	var waiting []shard.Part
	for _, f := range chunks {
		parts, err := a.parts(ctx, s, f, &s.report)
		if err != nil {
			return err
		}
		for _, part := range parts {
			later, err := a.submit(s, part)
			if err != nil {
				return err
			}
			waiting = append(waiting, later...)
		}
	}
	for progress := true; progress; {
		progress = false
		for _, part := range slices.Clone(waiting) {
			later, err := a.submit(s, part)
			if err != nil {
				return err
			}
			waiting = append(waiting[1:], later...)
			progress = progress || len(later) == 0
		}
	}
	for _, part := range waiting {
		s.report.OutOfOrder += len(part.Batches)
	}
	return nil
}

// parts reads a chunk and returns its batches as a submission names them: runs that are side by
// side, without those whose transaction nobody knows. What is left out is counted in r.
func (a *adoption) parts(ctx context.Context, s *rebuilt, f flush, r *ShardReport) ([]shard.Part, error) {
	if t := a.topics[f.entry.TopicPartition.Topic]; t == nil || f.entry.TopicPartition.Partition >= t.Partitions {
		r.OfNoTopic += int(f.entry.Batches)
		return nil, nil
	}
	seg := segment.Segment{Size: f.Size}
	b, err := seg.ReadChunk(f.entry, a.plan.reader(ctx, f.Key))
	if unreadable(err) {
		s.problem("a chunk of %s in %s cannot be used: %v", f.entry.TopicPartition, f.Key, err)
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("reading %s: %w", f.Key, err)
	}
	var parts []shard.Part
	position, open := f.entry.Position, false
	for len(b) > 0 {
		var v batch.View
		if v, b, err = batch.Next(b); err != nil {
			s.problem("a chunk of %s in %s cannot be used: %v", f.entry.TopicPartition, f.Key, err)
			return nil, nil
		}
		x, ok := a.describe(s, f.entry.TopicPartition, v)
		switch {
		case a.taken[batchMark{f.entry.TopicPartition, v.CRC(), len(v)}], a.superseded(f.entry.TopicPartition, v), a.followedBy(f, position):
			r.Duplicates++
			ok = false
		case !ok:
			r.OfNoTransaction++
		case open:
			last := &parts[len(parts)-1]
			last.Batches = append(last.Batches, x)
		default:
			parts = append(parts, shard.Part{Partition: f.entry.TopicPartition, Segment: f.id, Position: position, Batches: []shard.Batch{x}})
		}
		open = ok
		position += tiering.Position(len(v))
	}
	return parts, nil
}

// describe returns what a leader needs to know of a batch; false for one of a transaction that
// is not known to be open, which readers of committed records must never see.
func (a *adoption) describe(s *rebuilt, tp tiering.TopicPartition, v batch.View) (shard.Batch, bool) {
	x := shard.Batch{
		Length: int32(len(v)), Count: v.LastOffsetDelta() + 1, MaxTimestamp: v.MaxTimestamp(),
		ProducerID: v.ProducerID(), ProducerEpoch: v.ProducerEpoch(), FirstSeq: v.BaseSequence(),
	}
	if x.ProducerID < 0 {
		x.ProducerID, x.ProducerEpoch, x.FirstSeq = -1, -1, -1
	}
	if !v.IsTransactional() {
		return x, true
	}
	if v.IsControl() || a.transactions == nil {
		return x, false
	}
	number, ok := a.transactions(x.ProducerID, x.ProducerEpoch)
	for _, t := range s.state.Partition(tp).Open() {
		if t.ProducerID == x.ProducerID && t.Number != number {
			return x, false
		}
	}
	x.Transaction = number
	return x, ok
}

// submit has a part decided as a leader would, and returns what did not follow its producer's
// last batch.
func (a *adoption) submit(s *rebuilt, part shard.Part) (later []shard.Part, err error) {
	a.seq++
	d := shard.NewDraft(s.state, s.leads(), a.plan.session, a.seq, a.plan.now)
	from := s.state.Partition(part.Partition).Next
	outcomes, err := d.Submit(&shard.Submission{Session: a.plan.session, Seq: a.seq, Parts: []shard.Part{part}})
	if err != nil {
		return nil, fmt.Errorf("taking up %s of %s: %w", part.Segment, part.Partition, err)
	}
	if err := s.state.Apply(d.Record()); err != nil {
		return nil, fmt.Errorf("taking up %s of %s: %w", part.Segment, part.Partition, err)
	}
	position := part.Position
	for i, o := range outcomes {
		x := part.Batches[i]
		switch {
		case o.Code == shard.OutOfOrderSequence:
			later = append(later, shard.Part{Partition: part.Partition, Segment: part.Segment, Position: position, Batches: []shard.Batch{x}})
		case o.Code != shard.OK:
			s.report.Refused++
		case o.Base < from:
			s.report.Duplicates++
		case x.Transaction > 0:
			s.report.InTransactions++
		}
		position += tiering.Position(x.Length)
	}
	if to := s.state.Partition(part.Partition).Next; to > from {
		s.report.Adopted = append(s.report.Adopted, Adopted{
			Topic: a.topics[part.Partition.Topic].Name, Partition: part.Partition.Partition, From: from, To: to, Object: part.Segment.Key(),
		})
	}
	return later, nil
}
