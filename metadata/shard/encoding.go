package shard

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/floelog/floe/tiering"
)

// encoder appends numbers to a buffer: varints (zig-zag where signed), as in
// encoding/binary, and byte strings led by their length.
type encoder struct{ b []byte }

func (e *encoder) uint(v uint64)  { e.b = binary.AppendUvarint(e.b, v) }
func (e *encoder) int(v int64)    { e.b = binary.AppendVarint(e.b, v) }
func (e *encoder) raw(v []byte)   { e.b = append(e.b, v...) }
func (e *encoder) bytes(v []byte) { e.uint(uint64(len(v))); e.raw(v) }

func (e *encoder) partition(tp tiering.TopicPartition) {
	e.raw(tp.Topic[:])
	e.uint(uint64(tp.Partition))
}

// extent writes all of an extent but its base and epoch.
//
//	count uvarint | max timestamp varint | length uvarint | session 16 | then
//	    zero session:  the batches themselves, length bytes; none for a hole (version 3)
//	    otherwise:     segment seq uvarint | position uvarint
func (e *encoder) extent(x tiering.Extent) {
	e.uint(uint64(x.Count))
	e.int(x.MaxTimestamp)
	e.uint(uint64(x.Length))
	e.raw(x.Segment.Session[:])
	if x.Segment.IsZero() {
		e.raw(x.Inline)
		return
	}
	e.uint(x.Segment.Seq)
	e.uint(uint64(x.Position))
}

func (e *encoder) outcomes(out []Outcome) {
	e.uint(uint64(len(out)))
	for _, o := range out {
		e.uint(uint64(o.Code))
		e.int(int64(o.Base))
	}
}

// decoder reads what encoder wrote. The first thing wrong is kept in err, and from then
// on everything reads as zero; byte strings alias the input.
type decoder struct {
	b       []byte
	err     error
	version byte // of the format that is read
}

// readVersion reads a format's version, from 1 up to the newest that this code writes.
func (d *decoder) readVersion(what string, newest byte) {
	v := d.raw(1)
	if d.err != nil {
		return
	}
	switch d.version = v[0]; {
	case d.version < 1:
		d.fail(what + " version 0")
	case d.version > newest:
		d.err = fmt.Errorf("%w: it is a %s of version %d, and this release reads up to %d: run a newer release of floe here", ErrVersion, what, d.version, newest)
		d.b = nil
	}
}

func (d *decoder) fail(what string) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s, %d bytes before the end", ErrCorrupt, what, len(d.b))
	}
	d.b = nil
}

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 || n > 1 && d.b[n-1] == 0 { // the shortest form only, so that equal values encode equally
		d.fail("bad number")
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) int() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 || n > 1 && d.b[n-1] == 0 {
		d.fail("bad number")
		return 0
	}
	d.b = d.b[n:]
	return v
}

// limited reads a number that must not be greater than limit.
func (d *decoder) limited(limit uint64, what string) uint64 {
	v := d.uint()
	if v > limit {
		d.fail(what + " out of range")
		return 0
	}
	return v
}

// between reads a signed number that must lie in [low, high].
func (d *decoder) between(low, high int64, what string) int64 {
	v := d.int()
	if v < low || v > high {
		d.fail(what + " out of range")
		return 0
	}
	return v
}

func (d *decoder) int32(what string) int32 { return int32(d.limited(math.MaxInt32, what)) }
func (d *decoder) producerEpoch() int16 {
	return int16(d.limited(math.MaxInt16, "producer epoch"))
}

func (d *decoder) int63(what string) int64 { return int64(d.limited(math.MaxInt64, what)) }

// count reads the number of elements that follow, each of at least size bytes, so that
// no allocation is larger than the bytes that are there justify.
func (d *decoder) count(size int, what string) int {
	n := d.uint()
	if n > uint64(len(d.b)/size) {
		d.fail(what + " count exceeds the data")
		return 0
	}
	return int(n)
}

func (d *decoder) raw(n int) []byte {
	if n < 0 || n > len(d.b) {
		d.fail("data ends early")
		return nil
	}
	v := d.b[:n:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) bytes() []byte { return d.raw(d.count(1, "bytes")) }

func (d *decoder) session() (id tiering.SessionID) {
	copy(id[:], d.raw(len(id)))
	return id
}

func (d *decoder) topic() (id tiering.TopicID) {
	copy(id[:], d.raw(len(id)))
	return id
}

func (d *decoder) partition() tiering.TopicPartition {
	return tiering.TopicPartition{Topic: d.topic(), Partition: d.int32("partition")}
}

const (
	minExtentBytes   = 1 + 1 + 1 + 16 + 1
	minProducerBytes = 6
	minOutcomeBytes  = 2
)

func (d *decoder) extent() (x tiering.Extent) {
	x.Count = d.int63("record count")
	x.MaxTimestamp = d.int()
	x.Length = d.int32("extent length")
	x.Segment.Session = d.session()
	if hole := x.Length == 0 && x.Segment.Session.IsZero() && x.MaxTimestamp == tiering.NoTimestamp; x.Count < 1 || x.Length < 1 && (!hole || d.version < 3) {
		d.fail("extent of nothing")
		return x
	}
	if x.Segment.Session.IsZero() {
		if x.Length > 0 {
			x.Inline = d.raw(int(x.Length))
		}
		return x
	}
	x.Segment.Seq = d.uint()
	x.Position = tiering.Position(d.int63("position"))
	return x
}

func (d *decoder) outcomes() []Outcome {
	out := make([]Outcome, d.count(minOutcomeBytes, "outcome"))
	for i := range out {
		out[i] = Outcome{Code(d.limited(math.MaxInt16, "outcome")), tiering.Offset(d.int())}
	}
	return out
}
