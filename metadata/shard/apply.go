package shard

import (
	"maps"
	"slices"

	"github.com/floelog/floe/tiering"
)

// Apply takes the next record. It checks the whole record first, so that on ErrCorrupt
// the state is as it was; the caller must then stop serving the shard.
func (s *State) Apply(r Record) error {
	if err := s.Check(r); err != nil {
		return err
	}
	s.Seq, s.Epoch = r.Seq, r.Epoch
	for _, c := range r.Changes {
		switch c := c.(type) {
		case Append:
			s.append(r, c)
		case Submitted:
			s.submissions[c.Session] = submitted{c.Seq, c.Outcomes}
		case Replace:
			s.replace(c)
		case Archive:
			s.archive(c)
		case Trim:
			s.trim(c)
		case DropTopic:
			s.dropTopic(c.Topic)
		case ForgetSession:
			delete(s.submissions, c.Session)
		case ExpireProducers:
			s.expireProducers(c.Before)
		default:
			s.coordinate(r, c)
		}
	}
	return nil
}

// coordinate takes the changes that come from coordinators.
func (s *State) coordinate(r Record, c Change) {
	switch c := c.(type) {
	case PutRows:
		s.putRows(c)
	case CommitOffsets:
		s.commitOffsets(c, r.Time)
	case ConcludeOffsets:
		s.concludeOffsets(c, r.Time)
	case DeleteOffsets:
		s.deleteOffsets(c)
	case DropGroup:
		s.dropGroup(c.Group)
	case Mark:
		s.mark(r, c)
	}
}

func (s *State) append(r Record, a Append) {
	p := s.mutable(a.Partition)
	s.extend(r, p, a.Extents)
	for _, b := range a.Producers {
		e := p.producer(b.ProducerID)
		if b.Transaction > 0 && e.open == 0 {
			p.begin(e, b, r.Time)
		}
		e.add(b, r.Time)
	}
}

// extend adds extents at the end of a partition's log.
func (s *State) extend(r Record, p *Partition, extents []tiering.Extent) {
	if p.LastEpoch() < r.Epoch {
		p.Epochs = append(p.Epochs, EpochStart{r.Epoch, p.Next})
	}
	for _, e := range extents {
		e.Base, e.Epoch = p.Next, r.Epoch
		p.Extents = append(p.Extents, e)
		p.Next = e.End()
		s.countInline(e, 1)
	}
}

// producer returns what is known of a producer, to be changed.
func (p *Partition) producer(id int64) *producer {
	e := p.producers[id]
	if e == nil {
		if p.producers == nil {
			p.producers = map[int64]*producer{}
		}
		e = newProducer()
		p.producers[id] = e
	}
	return e
}

// add remembers one batch; a new epoch forgets those of the old one (KIP-360).
func (e *producer) add(b ProducerAppend, now int64) {
	if e.epoch != b.ProducerEpoch {
		e.epoch, e.batches = b.ProducerEpoch, nil
	}
	e.updated = max(e.updated, now)
	if len(e.batches) == maxProducerBatches {
		e.batches = slices.Delete(e.batches, 0, 1)
	}
	e.batches = append(e.batches, producerBatch{b.FirstSeq, b.LastSeq, b.Base, b.Timestamp})
}

func (s *State) countInline(e tiering.Extent, n int) {
	if e.IsInline() {
		s.inlineBytes += int64(n) * int64(len(e.Inline))
		s.inlineRuns += n
	}
}

func (s *State) trim(c Trim) {
	p := s.partitions[c.Partition]
	if p == nil {
		return
	}
	p.LogStart = max(p.LogStart, min(c.LogStart, p.Next))
	if i := p.FindManifest(p.LogStart); i > 0 {
		p.Manifests = slices.Clone(p.Manifests[i:])
	}
	if i := p.Find(p.LogStart); i > 0 {
		for _, e := range p.Extents[:i] {
			s.countInline(e, -1)
		}
		p.Extents = slices.Clone(p.Extents[i:])
	}
	// Of the epochs that ended before the log start only the last one's start still bounds a later one.
	k := 0
	for k+1 < len(p.Epochs) && p.Epochs[k+1].Start <= p.LogStart {
		k++
	}
	if k > 0 {
		p.Epochs = slices.Clone(p.Epochs[k:])
	}
	p.trimAborted()
}

func (s *State) dropTopic(id tiering.TopicID) {
	for tp, p := range s.partitions {
		if tp.Topic != id {
			continue
		}
		for _, e := range p.Extents {
			s.countInline(e, -1)
		}
		delete(s.partitions, tp)
	}
	s.forgetOffsets(id)
}

func (s *State) expireProducers(before int64) {
	for _, p := range s.partitions {
		for id, e := range p.producers {
			if e.expired(before) {
				delete(p.producers, id)
				s.forgotten = max(s.forgotten, id)
			}
		}
	}
	for name, g := range s.groups {
		maps.DeleteFunc(g.Producers, func(_ int64, e *GroupProducer) bool { return e.expired(before) })
		s.tidy(name, g)
	}
}

// expired reports whether ExpireProducers{before} forgets the producer; never one whose
// transaction is open, or nothing would tell how far readers may read.
func (e *producer) expired(before int64) bool { return e.open == 0 && e.updated < before }
