package shard

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/floelog/floe/tiering"
)

// ErrStaleSubmission says that a submission arrived after a later one of the same
// session: a delayed duplicate, whose sender has long had its answer. Nothing is done.
var ErrStaleSubmission = errors.New("submission is stale")

// Submission is what an agent asks a leader to commit: batches that are durable in a
// segment, or that travel inside. A session numbers its submissions to each shard from 1
// and sends the next only when it knows the outcome of the one before, so that
// remembering the last one is enough to recognise every repetition.
type Submission struct {
	Session tiering.SessionID
	Seq     uint64
	Parts   []Part // a partition may have several, in the order of its batches
}

// Part is a run of batches of one partition, side by side in one segment or inline.
type Part struct {
	Partition tiering.TopicPartition
	Segment   tiering.SegmentID // zero: the batches are inline
	Position  tiering.Position  // of the first batch in the segment; 0 where inline
	Inline    []byte            // the batches themselves, where there is no segment; kept by the record
	Batches   []Batch           // contiguous, in the order in which the producer sent them
}

// Batch is what a leader needs to know of a record batch.
type Batch struct {
	Length        int32 // bytes, with the header
	Count         int32 // offsets it takes
	MaxTimestamp  int64
	ProducerID    int64 // -1: not idempotent
	ProducerEpoch int16
	FirstSeq      int32
	Transaction   int64 // number of the transaction that it is part of, 0: none; see Transaction.Number
}

// check demands what Draft relies on.
func (p *Part) check() error {
	total := int64(0)
	for _, b := range p.Batches {
		if b.Length < 1 || b.Count < 1 || b.Transaction < 0 ||
			(b.ProducerID >= 0 && (b.ProducerEpoch < 0 || b.FirstSeq < 0)) || (b.ProducerID < 0 && b.Transaction > 0) {
			return fmt.Errorf("impossible batch %+v", b)
		}
		total += int64(b.Length)
	}
	switch inline := p.Segment.IsZero(); {
	case p.Partition.Partition < 0:
		return fmt.Errorf("partition %s", p.Partition)
	case total > math.MaxInt32:
		return fmt.Errorf("batches of %d bytes side by side", total)
	case inline && (p.Position != 0 || total != int64(len(p.Inline))):
		return fmt.Errorf("batches of %d bytes in %d inline at position %d", total, len(p.Inline), p.Position)
	case !inline && (p.Segment.Session.IsZero() || len(p.Inline) > 0):
		return fmt.Errorf("batches in segment %s with %d bytes inline", p.Segment, len(p.Inline))
	case p.Position < 0 || int64(p.Position) > math.MaxInt64-total:
		return fmt.Errorf("position %d", p.Position)
	}
	return nil
}

// NumBatches returns the number of batches of all parts.
func (s *Submission) NumBatches() int {
	n := 0
	for i := range s.Parts {
		n += len(s.Parts[i].Batches)
	}
	return n
}

// Draft is the next record in the making: every addition is decided against the state
// that the leader leads plus the additions before it. The state must not change while
// a draft of it is open.
type Draft struct {
	state    *State
	record   Record
	size     int // estimate of the encoded record
	next     map[tiering.TopicPartition]tiering.Offset
	producer map[producerKey]*producer
	sessions map[tiering.SessionID]submitted
	dropped  map[tiering.TopicID]bool
}

type producerKey struct {
	tp tiering.TopicPartition
	id int64
}

// NewDraft starts the record that follows s. now is the leader's clock in milliseconds;
// nonce must be drawn at random.
func NewDraft(s *State, epoch tiering.LeaderEpoch, leader tiering.SessionID, nonce uint64, now int64) *Draft {
	return &Draft{
		state:    s,
		record:   Record{Seq: s.Seq + 1, Epoch: epoch, Leader: leader, Nonce: nonce, Time: now},
		next:     map[tiering.TopicPartition]tiering.Offset{},
		producer: map[producerKey]*producer{},
		sessions: map[tiering.SessionID]submitted{},
		size:     64,
	}
}

// State returns the state that the draft starts from.
func (d *Draft) State() *State { return d.state }

// Empty reports whether the record would change nothing.
func (d *Draft) Empty() bool { return len(d.record.Changes) == 0 }

// Size estimates the bytes of the encoded record from above.
func (d *Draft) Size() int { return d.size }

// Record returns the finished record. The draft must not be used any more.
func (d *Draft) Record() Record { return d.record }

// Add appends a change that needs no decision. Appends and submissions come through Submit,
// markers through Mark.
func (d *Draft) Add(c Change) {
	d.record.Changes = append(d.record.Changes, c)
	d.size += 128 + bulk(c)
	if drop, ok := c.(DropTopic); ok {
		d.Refuse(drop.Topic)
	}
}

// bulk bounds from above what a change may take beyond its numbers.
func bulk(c Change) int {
	n := 0
	switch c := c.(type) {
	case Replace:
		n = 64*len(c.With) + binary.MaxVarintLen64*(len(c.Unmarked)+2*len(c.Aborted))
		for _, e := range c.With {
			n += len(e.Inline)
		}
	case PutRows:
		n = len(c.Name)
		for _, r := range c.Rows {
			n += len(r.Key) + len(r.Value) + 2*binary.MaxVarintLen32
		}
	case CommitOffsets:
		n = len(c.Group)
		for _, o := range c.Offsets {
			n += 64 + len(o.Metadata)
		}
	case ConcludeOffsets:
		n = len(c.Group)
	case DeleteOffsets:
		n = len(c.Group) + 24*len(c.Partitions)
	case DropGroup:
		n = len(c.Group)
	}
	return n
}

// Refuse makes the draft answer UnknownTopicOrPartition for the batches of a topic that is
// proved to be deleted, so that a submission which comes late does not bring it back.
func (d *Draft) Refuse(topic tiering.TopicID) {
	if d.dropped == nil {
		d.dropped = map[tiering.TopicID]bool{}
	}
	d.dropped[topic] = true
}

// Submit decides about every batch of a submission, in order, and returns one outcome
// for each, which must not be changed: the record keeps them. A submission that this
// shard has decided before gets its first answer again. On an error the draft is as it
// was: ErrStaleSubmission, or ErrCorrupt for a submission that makes no sense.
func (d *Draft) Submit(sub *Submission) ([]Outcome, error) {
	for i := range sub.Parts {
		if err := sub.Parts[i].check(); err != nil {
			return nil, fmt.Errorf("%w: submission %d of %s: %w", ErrCorrupt, sub.Seq, sub.Session, err)
		}
	}
	last, seen := d.sessions[sub.Session]
	if !seen {
		last = d.state.submissions[sub.Session]
	}
	switch {
	case sub.Seq < last.seq:
		return nil, ErrStaleSubmission
	case sub.Seq == last.seq && sub.NumBatches() == len(last.outcomes):
		return last.outcomes, nil
	case sub.Seq == last.seq:
		return nil, ErrStaleSubmission
	}
	outcomes := make([]Outcome, 0, sub.NumBatches())
	for i := range sub.Parts {
		outcomes = d.part(&sub.Parts[i], outcomes)
	}
	d.sessions[sub.Session] = submitted{sub.Seq, outcomes}
	d.Add(Submitted{sub.Session, sub.Seq, outcomes})
	d.size += 16 * len(outcomes)
	return outcomes, nil
}

// part decides about the batches of one partition. Accepted batches that lie side by
// side become one extent; a refused one in between ends it.
func (d *Draft) part(part *Part, outcomes []Outcome) []Outcome {
	if d.dropped[part.Partition.Topic] {
		for range part.Batches {
			outcomes = append(outcomes, Outcome{UnknownTopicOrPartition, -1})
		}
		return outcomes
	}
	next := d.end(part.Partition)
	a := Append{Partition: part.Partition, Base: next}
	pos, joined := part.Position, false
	start := pos // of the extent that is being joined together
	for _, b := range part.Batches {
		out := d.judge(part.Partition, b, next)
		outcomes = append(outcomes, out)
		end := pos + tiering.Position(b.Length)
		if accepted := out.Code == OK && out.Base == next; accepted {
			if !joined {
				start = pos
				a.Extents = append(a.Extents, tiering.Extent{
					MaxTimestamp: b.MaxTimestamp, Segment: part.Segment, Position: start,
				})
			}
			e := &a.Extents[len(a.Extents)-1]
			e.Count += int64(b.Count)
			e.Length += b.Length
			e.MaxTimestamp = max(e.MaxTimestamp, b.MaxTimestamp)
			if e.IsInline() {
				e.Inline, e.Position = part.Inline[start:end:end], 0
			}
			if b.ProducerID >= 0 {
				a.Producers = append(a.Producers, d.remember(part.Partition, b, next))
			}
			next += tiering.Offset(b.Count)
			joined = true
		} else {
			joined = false
		}
		pos = end
	}
	if len(a.Extents) > 0 {
		d.next[part.Partition] = next
		d.record.Changes = append(d.record.Changes, a)
		d.size += 96 + 64*len(a.Extents) + 64*len(a.Producers) + len(part.Inline)
	}
	return outcomes
}

// judge applies Kafka's rules for the sequence numbers of idempotent producers
// (ProducerAppendInfo, ProducerStateManager). A producer that is known with an older epoch
// starts at 0, and so does one that is not known, unless it may have been forgotten. That
// is stricter than Kafka, which lets a batch start anywhere although the one before it
// has just failed and will be sent again (see KIP-890 on verification of the lowest one).
func (d *Draft) judge(tp tiering.TopicPartition, b Batch, next tiering.Offset) Outcome {
	if b.ProducerID < 0 {
		return Outcome{OK, next}
	}
	e := d.lookup(tp, b.ProducerID)
	if e != nil && b.ProducerEpoch >= e.epoch && !e.admits(b) {
		return Outcome{TransactionNotAccepted, -1}
	}
	if e == nil {
		if b.FirstSeq != 0 && b.ProducerID > d.state.forgotten {
			return Outcome{OutOfOrderSequence, -1}
		}
		return Outcome{OK, next}
	}
	switch {
	case b.ProducerEpoch < e.epoch:
		return Outcome{InvalidProducerEpoch, -1}
	case b.ProducerEpoch > e.epoch:
		if b.FirstSeq != 0 {
			return Outcome{OutOfOrderSequence, -1}
		}
		return Outcome{OK, next}
	}
	last := lastSeq(b.FirstSeq, b.Count)
	for _, old := range e.batches {
		if old.firstSeq == b.FirstSeq && old.lastSeq == last {
			return Outcome{OK, old.base}
		}
	}
	expected := int32(0) // of a producer that only a marker has made known, or has given a new epoch
	if n := len(e.batches); n > 0 {
		expected = nextSeq(e.batches[n-1].lastSeq)
	}
	if b.FirstSeq != expected {
		return Outcome{OutOfOrderSequence, -1}
	}
	return Outcome{OK, next}
}

func (d *Draft) lookup(tp tiering.TopicPartition, id int64) *producer {
	if e := d.producer[producerKey{tp, id}]; e != nil {
		return e
	}
	return d.state.Partition(tp).producers[id]
}

func (d *Draft) remember(tp tiering.TopicPartition, b Batch, base tiering.Offset) ProducerAppend {
	pa := ProducerAppend{b.ProducerID, b.ProducerEpoch, b.FirstSeq, lastSeq(b.FirstSeq, b.Count), base, b.MaxTimestamp, b.Transaction}
	e := d.overlay(tp, b.ProducerID)
	if b.Transaction > 0 {
		e.open = b.Transaction
	}
	e.add(pa, d.record.Time)
	return pa
}

// overlay returns what the draft has made of a producer so far, to be changed.
func (d *Draft) overlay(tp tiering.TopicPartition, id int64) *producer {
	k := producerKey{tp, id}
	e := d.producer[k]
	if e == nil {
		e = newProducer()
		if old := d.state.Partition(tp).producers[id]; old != nil {
			*e = *old
			e.batches = append(make([]producerBatch, 0, maxProducerBatches), old.batches...)
		}
		d.producer[k] = e
	}
	return e
}

// end returns where a partition ends, with what the draft has added.
func (d *Draft) end(tp tiering.TopicPartition) tiering.Offset {
	if next, ok := d.next[tp]; ok {
		return next
	}
	return d.state.Partition(tp).Next
}

// lastSeq returns the sequence number of a batch's last record; numbers wrap from
// 2^31-1 to 0.
func lastSeq(first, count int32) int32 {
	return int32((int64(first) + int64(count) - 1) & math.MaxInt32)
}

func nextSeq(seq int32) int32 { return lastSeq(seq, 2) }
