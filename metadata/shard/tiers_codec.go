package shard

import (
	"encoding/binary"

	"github.com/floelog/floe/tiering"
)

// change3 reads the kinds that came with version 3.
func (d *decoder) change3(kind changeKind) Change {
	switch kind {
	case kindReplaceRun:
		return d.replace()
	case kindArchive:
		return Archive{d.partition(), d.fixed64(), d.manifest()}
	}
	return d.unknown(kind)
}

// replace2 reads the replacements of versions 1 and 2: partition | base uvarint | extent
func (d *decoder) replace2() Change {
	if d.version >= 3 {
		return d.unknown(kindReplace)
	}
	c := Replace{Partition: d.partition()}
	base := tiering.Offset(d.int63("offset"))
	c.With = []tiering.Extent{d.extent()}
	c.With[0].Base = base
	d.sound(c)
	return c
}

// sound demands that a replacement is one that a leader writes.
func (d *decoder) sound(c Replace) {
	if d.err != nil {
		return
	}
	if err := c.check(); err != nil {
		d.fail("replacement: " + err.Error())
	}
}

// partition | digest 8 | base uvarint | extents: count, each | cleaned uvarint |
// markers: count, each (distance uvarint to the one before, of the first to base) |
// aborted: count, each (last: distance uvarint as above | records before last uvarint | producer id uvarint)
func (c Replace) encode(e *encoder) {
	e.partition(c.Partition)
	e.fixed64(c.Of)
	e.uint(uint64(c.Base()))
	e.uint(uint64(len(c.With)))
	for _, x := range c.With {
		e.extent(x)
	}
	e.uint(uint64(c.Cleaned))
	e.uint(uint64(len(c.Unmarked)))
	last := c.Base()
	for _, at := range c.Unmarked {
		e.uint(uint64(at - last))
		last = at
	}
	e.uint(uint64(len(c.Aborted)))
	last = c.Base()
	for _, a := range c.Aborted {
		e.uint(uint64(a.Last - last))
		e.uint(uint64(a.Last - a.First))
		e.uint(uint64(a.ProducerID))
		last = a.Last
	}
}

func (d *decoder) replace() Replace {
	c := Replace{Partition: d.partition(), Of: d.fixed64()}
	base := tiering.Offset(d.int63("offset"))
	c.With = make([]tiering.Extent, d.count(minExtentBytes-1, "extent")) // a hole has no segment number
	next := base
	for i := range c.With {
		c.With[i] = d.extent()
		c.With[i].Base = next
		next = c.With[i].End()
	}
	c.Cleaned = tiering.Offset(d.int63("offset"))
	if n := d.count(1, "marker"); n > 0 {
		c.Unmarked = make([]tiering.Offset, n)
	}
	last := base
	for i := range c.Unmarked {
		last += tiering.Offset(d.int63("offset"))
		c.Unmarked[i] = last
	}
	if n := d.count(3, "aborted transaction"); n > 0 {
		c.Aborted = make([]AbortedTransaction, n)
	}
	last = base
	for i := range c.Aborted {
		last += tiering.Offset(d.int63("offset"))
		first := last - tiering.Offset(d.int63("offset"))
		c.Aborted[i] = AbortedTransaction{d.int63("producer id"), first, last}
	}
	d.sound(c)
	return c
}

// partition | digest 8 | manifest
func (c Archive) encode(e *encoder) {
	e.partition(c.Partition)
	e.fixed64(c.Of)
	e.manifest(c.Manifest)
}

// base uvarint | count uvarint | max timestamp varint | bytes uvarint | session 16 | seq uvarint | size uvarint
func (e *encoder) manifest(m Manifest) {
	e.uint(uint64(m.Base))
	e.uint(uint64(m.Count))
	e.int(m.MaxTimestamp)
	e.uint(uint64(m.Bytes))
	e.raw(m.Object.Session[:])
	e.uint(m.Object.Seq)
	e.uint(uint64(m.Size))
}

const minManifestBytes = 6 + 16

func (d *decoder) manifest() Manifest {
	m := Manifest{
		Base: tiering.Offset(d.int63("offset")), Count: d.int63("record count"), MaxTimestamp: d.int(), Bytes: d.int63("bytes"),
		Object: tiering.SegmentID{Session: d.session(), Seq: d.uint()}, Size: d.int32("manifest size"),
	}
	if d.err == nil {
		if err := m.check(); err != nil {
			d.fail(err.Error())
		}
	}
	return m
}

func (e *encoder) fixed64(v uint64) { e.b = binary.BigEndian.AppendUint64(e.b, v) }

func (d *decoder) fixed64() uint64 {
	b := d.raw(8)
	if d.err != nil {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}
