package shard

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"

	"github.com/floelog/floe/tiering"
)

// A snapshot is a shard's whole state in one object:
//
//	0   8  magic "FLOESNAP"
//	8   1  version
//	9   n  body: seq uvarint | epoch uvarint | forgotten producer id + 1 uvarint
//	       partitions: count, each, in order: partition | next | log start |
//	           extents: count, each (base uvarint, epoch uvarint, extent) |
//	           epochs: count, each (epoch uvarint, start uvarint) |
//	           producers: count, each, by id: id uvarint | epoch | updated varint |
//	               batches: count, each as in Append
//	       submissions: count, each, by session: session 16 | seq uvarint | outcomes
//	9+n 4  CRC-32C of everything before, little-endian
const (
	snapshotMagic   = "FLOESNAP"
	snapshotVersion = 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// EncodeSnapshot appends the state's snapshot to b. Equal states encode equally.
func (s *State) EncodeSnapshot(b []byte) []byte {
	start := len(b)
	e := encoder{append(append(b, snapshotMagic...), snapshotVersion)}
	e.uint(s.Seq)
	e.uint(uint64(s.Epoch))
	e.uint(uint64(s.forgotten) + 1) // -1 is none, and becomes 0
	e.uint(uint64(len(s.partitions)))
	for _, tp := range s.Partitions() {
		e.partition(tp)
		e.partitionState(s.partitions[tp])
	}
	e.uint(uint64(len(s.submissions)))
	for _, id := range s.Sessions() {
		e.raw(id[:])
		e.uint(s.submissions[id].seq)
		e.outcomes(s.submissions[id].outcomes)
	}
	return binary.LittleEndian.AppendUint32(e.b, crc32.Checksum(e.b[start:], castagnoli))
}

func (e *encoder) partitionState(p *Partition) {
	e.uint(uint64(p.Next))
	e.uint(uint64(p.LogStart))
	e.uint(uint64(len(p.Extents)))
	for _, x := range p.Extents {
		e.uint(uint64(x.Base))
		e.uint(uint64(x.Epoch))
		e.extent(x)
	}
	e.uint(uint64(len(p.Epochs)))
	for _, s := range p.Epochs {
		e.uint(uint64(s.Epoch))
		e.uint(uint64(s.Start))
	}
	e.uint(uint64(len(p.producers)))
	for _, id := range slices.Sorted(maps.Keys(p.producers)) {
		pr := p.producers[id]
		e.uint(uint64(id))
		e.uint(uint64(pr.epoch))
		e.int(pr.updated)
		e.uint(uint64(len(pr.batches)))
		for _, b := range pr.batches {
			e.producerBatch(ProducerAppend{ProducerEpoch: pr.epoch, FirstSeq: b.firstSeq, LastSeq: b.lastSeq, Base: b.base, Timestamp: b.timestamp})
		}
	}
}

// DecodeSnapshot reads a snapshot; inline bytes alias b.
func DecodeSnapshot(b []byte) (*State, error) {
	n := len(b) - 4
	if n < len(snapshotMagic)+1 || !bytes.HasPrefix(b, []byte(snapshotMagic)) {
		return nil, fmt.Errorf("decoding snapshot: %w: not a snapshot", ErrCorrupt)
	}
	if crc32.Checksum(b[:n], castagnoli) != binary.LittleEndian.Uint32(b[n:]) {
		return nil, fmt.Errorf("decoding snapshot: %w: checksum does not match", ErrCorrupt)
	}
	d := decoder{b: b[len(snapshotMagic):n]}
	if v := d.raw(1); v[0] != snapshotVersion {
		return nil, fmt.Errorf("decoding snapshot: %w: version %d is not known, this agent reads up to %d", ErrCorrupt, v[0], snapshotVersion)
	}
	s := d.state()
	if d.err == nil && len(d.b) > 0 {
		d.fail("trailing bytes")
	}
	if d.err != nil {
		return nil, fmt.Errorf("decoding snapshot: %w", d.err)
	}
	return s, nil
}

func (d *decoder) state() *State {
	s := New()
	s.Seq = d.uint()
	s.Epoch = tiering.LeaderEpoch(d.int32("epoch"))
	s.forgotten = int64(d.limited(1<<63, "producer id") - 1)
	var last tiering.TopicPartition
	for i := range d.count(21, "partition") {
		tp := d.partition()
		p := d.partitionState()
		if d.err == nil && (i > 0 && last.Compare(tp) >= 0 || !p.consistent()) {
			d.fail("inconsistent partition " + tp.String())
		}
		if d.err != nil {
			return nil
		}
		last = tp
		s.partitions[tp] = p
		for _, x := range p.Extents {
			s.countInline(x, 1)
		}
	}
	var before tiering.SessionID
	for i := range d.count(18, "submission") {
		id := d.session()
		if i > 0 && bytes.Compare(before[:], id[:]) >= 0 {
			d.fail("sessions out of order")
		}
		before = id
		s.submissions[id] = submitted{d.uint(), d.outcomes()}
	}
	return s
}

// consistent reports whether the extents lie end to end up to the next offset, and the
// epochs ascend.
func (p *Partition) consistent() bool {
	if p.LogStart > p.Next {
		return false
	}
	for i, e := range p.Extents {
		end := p.Next
		if i+1 < len(p.Extents) {
			end = p.Extents[i+1].Base
		}
		if sound(e, e.Base) != nil || e.End() != end {
			return false
		}
	}
	for i := 1; i < len(p.Epochs); i++ {
		if p.Epochs[i].Epoch <= p.Epochs[i-1].Epoch || p.Epochs[i].Start <= p.Epochs[i-1].Start {
			return false
		}
	}
	return true
}

func (d *decoder) partitionState() *Partition {
	p := &Partition{Next: tiering.Offset(d.int63("offset")), LogStart: tiering.Offset(d.int63("offset"))}
	if n := d.count(minExtentBytes+2, "extent"); n > 0 {
		p.Extents = make([]tiering.Extent, n)
	}
	for i := range p.Extents {
		base, epoch := d.int63("offset"), d.int32("epoch")
		p.Extents[i] = d.extent()
		p.Extents[i].Base, p.Extents[i].Epoch = tiering.Offset(base), tiering.LeaderEpoch(epoch)
	}
	for range d.count(2, "epoch") {
		p.Epochs = append(p.Epochs, EpochStart{tiering.LeaderEpoch(d.int32("epoch")), tiering.Offset(d.int63("offset"))})
	}
	n, last := d.count(4, "producer"), int64(-1)
	if n > 0 {
		p.producers = make(map[int64]*producer, n)
	}
	for range n {
		id := d.int63("producer id")
		if id <= last {
			d.fail("producers out of order")
			return p
		}
		last = id
		pr := &producer{epoch: int16(d.limited(1<<15-1, "producer epoch")), updated: d.int()}
		for range d.count(5, "producer batch") {
			b := d.producerBatch()
			if b.ProducerEpoch != pr.epoch || len(pr.batches) == maxProducerBatches {
				d.fail("producer batches do not belong together")
				return p
			}
			pr.batches = append(pr.batches, producerBatch{b.FirstSeq, b.LastSeq, b.Base, b.Timestamp})
		}
		p.producers[id] = pr
	}
	return p
}
