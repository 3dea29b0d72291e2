package shard

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"maps"
	"math"
	"slices"

	"github.com/floelog/floe/tiering"
)

// A snapshot is a shard's whole state in one object:
//
//	0   8  magic "FLOESNAP"
//	8   1  version
//	9   n  body: seq uvarint | epoch uvarint | forgotten producer id + 1 uvarint
//	       partitions: count, each, in order: partition | next | log start | cleaned |
//	           manifests: count, each as in Archive |
//	           extents: count, each (base uvarint, epoch uvarint, extent) |
//	           epochs: count, each (epoch uvarint, start uvarint) |
//	           producers: count, each, by id: id uvarint | epoch | updated varint |
//	               ended uvarint | coordinator epoch varint |
//	               batches: count, each as in Append, without the transaction
//	           open transactions: count, each, by first offset: producer id uvarint |
//	               epoch | number uvarint | first offset uvarint | since varint
//	           aborted transactions: count, each, by last offset:
//	               producer id uvarint | first offset uvarint | last offset uvarint
//	       submissions: count, each, by session: session 16 | seq uvarint | outcomes
//	       rows and groups: see coordinated
//	9+n 4  CRC-32C of everything before, little-endian
//
// Version 1 had no transactions (ended, coordinator epoch, open, aborted), rows and groups;
// versions 1 and 2 had neither cleaned nor manifests.
const (
	snapshotMagic   = "FLOESNAP"
	snapshotVersion = 3
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
	e.coordinated(s)
	return binary.LittleEndian.AppendUint32(e.b, crc32.Checksum(e.b[start:], castagnoli))
}

func (e *encoder) partitionState(p *Partition) {
	e.uint(uint64(p.Next))
	e.uint(uint64(p.LogStart))
	e.uint(uint64(p.Cleaned))
	e.uint(uint64(len(p.Manifests)))
	for _, m := range p.Manifests {
		e.manifest(m)
	}
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
		e.uint(uint64(pr.ended))
		e.int(int64(pr.coordinator))
		e.uint(uint64(len(pr.batches)))
		for _, b := range pr.batches {
			e.producerBatch(ProducerAppend{ProducerEpoch: pr.epoch, FirstSeq: b.firstSeq, LastSeq: b.lastSeq, Base: b.base, Timestamp: b.timestamp})
		}
	}
	e.transactions(p)
}

func (e *encoder) transactions(p *Partition) {
	e.uint(uint64(len(p.open)))
	for _, t := range p.open {
		e.uint(uint64(t.ProducerID))
		e.uint(uint64(t.Epoch))
		e.uint(uint64(t.Number))
		e.uint(uint64(t.First))
		e.int(t.Since)
	}
	e.uint(uint64(len(p.aborted)))
	for _, a := range p.aborted {
		e.uint(uint64(a.ProducerID))
		e.uint(uint64(a.First))
		e.uint(uint64(a.Last))
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
	d.readVersion("snapshot", snapshotVersion)
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
	if d.version >= 2 {
		d.coordinated(s)
	}
	return s
}

// consistent reports whether manifests and extents lie end to end, from the log start or
// before up to the next offset, and the epochs ascend.
func (p *Partition) consistent() bool {
	if p.LogStart > p.Next || p.Cleaned > p.Next || p.first() > p.LogStart || p.first() < p.Next && len(p.Epochs) == 0 {
		return false
	}
	for i, m := range p.Manifests {
		end := p.Next
		if i+1 < len(p.Manifests) {
			end = p.Manifests[i+1].Base
		} else if len(p.Extents) > 0 {
			end = p.Extents[0].Base
		}
		if m.End() != end {
			return false
		}
	}
	for i, e := range p.Extents {
		end := p.Next
		if i+1 < len(p.Extents) {
			end = p.Extents[i+1].Base
		}
		if whole(e, e.Base) != nil || e.End() != end {
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

// first returns the offset at which the first manifest, or else extent, begins; the next offset
// if there is none.
func (p *Partition) first() tiering.Offset {
	switch {
	case len(p.Manifests) > 0:
		return p.Manifests[0].Base
	case len(p.Extents) > 0:
		return p.Extents[0].Base
	}
	return p.Next
}

func (d *decoder) partitionState() *Partition {
	p := &Partition{Next: tiering.Offset(d.int63("offset")), LogStart: tiering.Offset(d.int63("offset"))}
	if d.version >= 3 {
		p.Cleaned = tiering.Offset(d.int63("offset"))
		if n := d.count(minManifestBytes, "manifest"); n > 0 {
			p.Manifests = make([]Manifest, n)
		}
		for i := range p.Manifests {
			p.Manifests[i] = d.manifest()
		}
	}
	if n := d.count(minExtentBytes+1, "extent"); n > 0 {
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
		pr := newProducer()
		pr.epoch, pr.updated = d.producerEpoch(), d.int()
		if d.version >= 2 {
			pr.ended = d.int63("transaction")
			pr.coordinator = int32(d.between(math.MinInt32, math.MaxInt32, "coordinator epoch"))
		}
		if !d.producerBatches(pr) {
			return p
		}
		p.producers[id] = pr
	}
	if d.version >= 2 {
		d.transactions(p)
	}
	return p
}

// producerBatches reads what is remembered of a producer's batches, and reports whether that
// makes sense.
func (d *decoder) producerBatches(pr *producer) bool {
	n := d.count(5, "producer batch")
	if n > maxProducerBatches {
		d.fail("too many producer batches")
	}
	if d.err != nil || n == 0 {
		return d.err == nil
	}
	pr.batches = make([]producerBatch, n)
	for i := range pr.batches {
		b := d.producerBatch()
		if b.ProducerEpoch != pr.epoch {
			d.fail("producer batches do not belong together")
			return false
		}
		pr.batches[i] = producerBatch{b.FirstSeq, b.LastSeq, b.Base, b.Timestamp}
	}
	return d.err == nil
}

func (d *decoder) transactions(p *Partition) {
	if n := d.count(5, "open transaction"); n > 0 {
		p.open = make([]OpenTransaction, 0, n)
		for range n {
			t := OpenTransaction{
				Transaction{d.int63("producer id"), d.producerEpoch(), d.int63("transaction")}, tiering.Offset(d.int63("offset")), d.int(),
			}
			e := p.producers[t.ProducerID]
			if e == nil || e.open > 0 || t.Number < 1 || t.First >= p.Next || len(p.open) > 0 && p.open[len(p.open)-1].First > t.First {
				d.fail("inconsistent open transaction")
				return
			}
			e.open = t.Number
			p.open = append(p.open, t)
		}
	}
	if n := d.count(3, "aborted transaction"); n > 0 {
		p.aborted = make([]abortedRun, 0, n)
		last := tiering.Offset(-1)
		for range n {
			a := AbortedTransaction{d.int63("producer id"), tiering.Offset(d.int63("offset")), tiering.Offset(d.int63("offset"))}
			if a.First >= a.Last || a.Last <= last || a.Last >= p.Next {
				d.fail("inconsistent aborted transaction")
				return
			}
			last = a.Last
			p.aborted = append(p.aborted, abortedRun{AbortedTransaction: a})
		}
	}
	p.boundAborted()
}
