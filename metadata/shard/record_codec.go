package shard

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/floelog/floe/tiering"
)

// RecordVersion is the newest version of the journal record format. This code reads every
// version up to it, for ever, and writes the one that the cluster's level names, see
// metadata/level.
//
//	version 1 byte | seq uvarint | epoch uvarint | leader 16 | nonce uvarint | time varint
//	changes: count uvarint, then each: kind 1 byte, fields as in the change's encode
//	CRC-32C of everything before, 4 bytes, little-endian (version 4)
//
// Version 1 had the kinds up to 7, and no transaction in Append's producers. Version 2 had the
// kinds up to 13. From version 3 on kind 14 takes the place of kind 3. Version 4 has the
// checksum: etcd has its own, but compares it only when a member starts, and the network and the
// headers of segments, which carry records, are further ways for a bit to change.
const RecordVersion = 4

// checkedVersion is the first version of records that ends with a checksum.
const checkedVersion = 4

// Encode appends the record's journal form to b, of the newest version.
func (r Record) Encode(b []byte) []byte { return r.EncodeAs(b, RecordVersion) }

// EncodeAs appends the record's journal form of a version that the cluster's level names
// (metadata/level): 3 or newer, up to the newest that this code reads.
func (r Record) EncodeAs(b []byte, version byte) []byte {
	start := len(b)
	e := encoder{append(b, version)}
	e.uint(r.Seq)
	e.uint(uint64(r.Epoch))
	e.raw(r.Leader[:])
	e.uint(r.Nonce)
	e.int(r.Time)
	e.uint(uint64(len(r.Changes)))
	for _, c := range r.Changes {
		e.b = append(e.b, byte(c.kind()))
		c.encode(&e)
	}
	if version >= checkedVersion {
		return binary.LittleEndian.AppendUint32(e.b, crc32.Checksum(e.b[start:], castagnoli))
	}
	return e.b
}

// SameRecord reports whether the encoded record in the journal is r: written by the same
// leader session, at the same seq, with the same nonce.
func (r Record) SameRecord(encoded []byte) bool {
	var h Record
	d := decoder{b: encoded}
	d.header(&h)
	return d.err == nil && h.Seq == r.Seq && h.Leader == r.Leader && h.Nonce == r.Nonce
}

// DecodeRecord reads a record; its inline bytes alias b.
func DecodeRecord(b []byte) (Record, error) {
	var r Record
	d := decoder{b: b}
	d.checksum(RecordVersion)
	d.header(&r)
	n := d.count(2, "change")
	if n > 0 {
		r.Changes = make([]Change, 0, n)
	}
	for range n {
		if c := d.change(); d.err == nil {
			r.Changes = append(r.Changes, c)
		}
	}
	if d.err == nil && len(d.b) > 0 {
		d.fail("trailing bytes")
	}
	if d.err != nil {
		return Record{}, fmt.Errorf("decoding journal record: %w", d.err)
	}
	return r, nil
}

// checksum compares the checksum of a record whose version has one, and takes it off.
func (d *decoder) checksum(newest byte) {
	if len(d.b) == 0 || d.b[0] < checkedVersion || d.b[0] > newest {
		return
	}
	n := len(d.b) - crc32.Size
	if n < 1 || crc32.Checksum(d.b[:n], castagnoli) != binary.LittleEndian.Uint32(d.b[n:]) {
		d.fail("checksum does not match")
		return
	}
	d.b = d.b[:n:n]
}

func (d *decoder) header(r *Record) {
	d.readVersion("record", RecordVersion)
	r.Seq = d.uint()
	r.Epoch = tiering.LeaderEpoch(d.int32("epoch"))
	r.Leader = d.session()
	r.Nonce = d.uint()
	r.Time = d.int()
}

func (d *decoder) change() Change {
	k := d.raw(1)
	if d.err != nil {
		return nil
	}
	switch kind := changeKind(k[0]); kind {
	case kindAppend:
		return d.append()
	case kindSubmitted:
		return Submitted{d.session(), d.uint(), d.outcomes()}
	case kindReplace:
		return d.replace2()
	case kindTrim:
		return Trim{d.partition(), tiering.Offset(d.int63("offset"))}
	case kindDropTopic:
		return DropTopic{d.topic()}
	case kindForgetSession:
		return ForgetSession{d.session()}
	case kindExpireProducers:
		return ExpireProducers{d.int()}
	default:
		if d.version >= 2 {
			return d.change2(kind)
		}
		return d.unknown(kind)
	}
}

// change2 reads the kinds that came with version 2.
func (d *decoder) change2(kind changeKind) Change {
	switch kind {
	case kindPutRows:
		return d.putRows()
	case kindCommitOffsets:
		return d.commitOffsets()
	case kindConcludeOffsets:
		return ConcludeOffsets{d.string(), d.transaction(), d.bool("commit")}
	case kindDeleteOffsets:
		return d.deleteOffsets()
	case kindDropGroup:
		return DropGroup{d.string()}
	case kindMark:
		return d.mark()
	}
	if d.version >= 3 {
		return d.change3(kind)
	}
	return d.unknown(kind)
}

func (d *decoder) unknown(kind changeKind) Change {
	d.fail(fmt.Sprintf("change kind %d is not known", kind))
	return nil
}

// partition | base uvarint | extents | producers: count, each
// (id uvarint, epoch uvarint, first seq uvarint, last seq uvarint, base uvarint, timestamp varint,
// transaction uvarint)
func (a Append) encode(e *encoder) {
	e.partition(a.Partition)
	e.uint(uint64(a.Base))
	e.uint(uint64(len(a.Extents)))
	for _, x := range a.Extents {
		e.extent(x)
	}
	e.uint(uint64(len(a.Producers)))
	for _, p := range a.Producers {
		e.uint(uint64(p.ProducerID))
		e.producerBatch(p)
		e.uint(uint64(p.Transaction))
	}
}

func (e *encoder) producerBatch(p ProducerAppend) {
	e.uint(uint64(p.ProducerEpoch))
	e.uint(uint64(p.FirstSeq))
	e.uint(uint64(p.LastSeq))
	e.uint(uint64(p.Base))
	e.int(p.Timestamp)
}

func (d *decoder) append() Append {
	a := Append{Partition: d.partition(), Base: tiering.Offset(d.int63("offset"))}
	a.Extents = make([]tiering.Extent, d.count(minExtentBytes, "extent"))
	next := a.Base
	for i := range a.Extents {
		a.Extents[i] = d.extent()
		a.Extents[i].Base = next
		next = a.Extents[i].End()
	}
	if n := d.count(minProducerBytes, "producer"); n > 0 {
		a.Producers = make([]ProducerAppend, n)
		for i := range a.Producers {
			id := d.int63("producer id")
			a.Producers[i] = d.producerBatch()
			a.Producers[i].ProducerID = id
			if d.version >= 2 {
				a.Producers[i].Transaction = d.int63("transaction")
			}
		}
	}
	return a
}

func (d *decoder) producerBatch() ProducerAppend {
	return ProducerAppend{
		ProducerEpoch: d.producerEpoch(),
		FirstSeq:      d.int32("sequence"), LastSeq: d.int32("sequence"),
		Base: tiering.Offset(d.int63("offset")), Timestamp: d.int(),
	}
}

func (c Submitted) encode(e *encoder) {
	e.raw(c.Session[:])
	e.uint(c.Seq)
	e.outcomes(c.Outcomes)
}

func (c Trim) encode(e *encoder) {
	e.partition(c.Partition)
	e.uint(uint64(c.LogStart))
}

func (c DropTopic) encode(e *encoder)       { e.raw(c.Topic[:]) }
func (c ForgetSession) encode(e *encoder)   { e.raw(c.Session[:]) }
func (c ExpireProducers) encode(e *encoder) { e.int(c.Before) }
