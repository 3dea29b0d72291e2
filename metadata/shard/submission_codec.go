package shard

import (
	"fmt"
	"math"

	"github.com/floelog/floe/tiering"
)

// submissionVersion is the version of the form in which submissions and their outcomes
// travel between agents.
//
//	version 2 | session 16 | seq uvarint
//	parts: count, each: partition | segment session 16 | segment seq uvarint | position uvarint | inline bytes |
//	    batches: count, each: length, count uvarint | max timestamp varint |
//	        producer id varint | producer epoch varint | first seq varint |
//	        transaction uvarint
const submissionVersion = 2

// Encode appends the submission's wire form to b.
func (s *Submission) Encode(b []byte) []byte {
	e := encoder{append(b, submissionVersion)}
	e.raw(s.Session[:])
	e.uint(s.Seq)
	e.uint(uint64(len(s.Parts)))
	for i := range s.Parts {
		p := &s.Parts[i]
		e.partition(p.Partition)
		e.raw(p.Segment.Session[:])
		e.uint(p.Segment.Seq)
		e.uint(uint64(p.Position))
		e.bytes(p.Inline)
		e.uint(uint64(len(p.Batches)))
		for _, x := range p.Batches {
			e.uint(uint64(x.Length))
			e.uint(uint64(x.Count))
			e.int(x.MaxTimestamp)
			e.int(x.ProducerID)
			e.int(int64(x.ProducerEpoch))
			e.int(int64(x.FirstSeq))
			e.uint(uint64(x.Transaction))
		}
	}
	return e.b
}

// DecodeSubmission reads a submission and checks that it is sound; inline bytes alias b.
func DecodeSubmission(b []byte) (*Submission, error) {
	d := decoder{b: b}
	d.readVersion("submission", submissionVersion)
	if d.err == nil && d.version != submissionVersion {
		d.fail(fmt.Sprintf("version %d of a submission", d.version))
	}
	s := &Submission{Session: d.session(), Seq: d.uint()}
	s.Parts = make([]Part, d.count(37, "part"))
	for i := range s.Parts {
		p := &s.Parts[i]
		p.Partition = d.partition()
		p.Segment.Session = d.session()
		p.Segment.Seq = d.uint()
		p.Position = tiering.Position(d.int63("position"))
		p.Inline = d.bytes()
		p.Batches = make([]Batch, d.count(7, "batch"))
		for j := range p.Batches {
			p.Batches[j] = Batch{
				Length: d.int32("batch length"), Count: d.int32("record count"), MaxTimestamp: d.int(),
				ProducerID:    d.int(),
				ProducerEpoch: int16(d.between(math.MinInt16, math.MaxInt16, "producer epoch")),
				FirstSeq:      int32(d.between(math.MinInt32, math.MaxInt32, "sequence")),
				Transaction:   d.int63("transaction"),
			}
		}
		if err := p.check(); d.err == nil && err != nil {
			d.fail(err.Error())
		}
	}
	if d.err == nil && len(d.b) > 0 {
		d.fail("trailing bytes")
	}
	if d.err != nil {
		return nil, fmt.Errorf("decoding submission: %w", d.err)
	}
	return s, nil
}

// EncodeOutcomes appends the wire form of outcomes to b.
func EncodeOutcomes(b []byte, out []Outcome) []byte {
	e := encoder{b}
	e.outcomes(out)
	return e.b
}

// DecodeOutcomes reads what EncodeOutcomes wrote.
func DecodeOutcomes(b []byte) ([]Outcome, error) {
	d := decoder{b: b}
	out := d.outcomes()
	if d.err == nil && len(d.b) > 0 {
		d.fail("trailing bytes")
	}
	if d.err != nil {
		return nil, fmt.Errorf("decoding outcomes: %w", d.err)
	}
	return out, nil
}
