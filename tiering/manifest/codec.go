package manifest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"

	"github.com/floelog/floe/tiering"
)

// A manifest, version 1. Numbers of more than one byte are varints in their shortest form, zig-zag
// where signed, as in encoding/binary:
//
//	0   8  magic "floe.man"
//	8   1  version
//	9  16  cluster id
//	25 16  session       } the manifest's id
//	41  n  seq uvarint   }
//	   16  topic id
//	    n  partition uvarint
//	    n  base offset uvarint
//	    n  number of sessions uvarint, each 16 bytes, in the order in which extents name them first
//	    n  number of extents uvarint, each:
//	           records uvarint
//	           leader epoch varint, less that of the extent before
//	           bytes uvarint; 0 is a hole, of which nothing follows
//	           max timestamp varint, less that of the extent before that is no hole
//	           session uvarint: which of the above, from 0
//	           segment seq varint, less that of the extent before that is no hole
//	           position varint, less where that extent ends, if it is in the same segment
//	    n  number of aborted transactions uvarint, each:
//	           last offset uvarint, less that of the one before, or less base offset
//	           last offset less first offset uvarint
//	           producer id varint, less that of the one before
//	    4  CRC-32C of everything before, big-endian
//
// Differences wrap around.
const (
	magic      = "floe.man"
	version    = 1
	fixedBytes = 8 + 1 + 16 + 16
	minBytes   = fixedBytes + 1 + 16 + 1 + 1 + 1 + 1 + minExtent + 1 + crcBytes
	minExtent  = 3
	minAborted = 3
	crcBytes   = 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// previous is what an extent's numbers are relative to.
type previous struct {
	epoch     tiering.LeaderEpoch
	timestamp int64
	segment   tiering.SegmentID
	end       tiering.Position
}

// position returns where an extent of the segment is expected.
func (p *previous) position(segment tiering.SegmentID) tiering.Position {
	if segment == p.segment {
		return p.end
	}
	return 0
}

func (p *previous) after(e tiering.Extent) {
	p.epoch = e.Epoch
	if !e.IsHole() {
		p.timestamp, p.segment, p.end = e.MaxTimestamp, e.Segment, e.Position+tiering.Position(e.Length)
	}
}

// Encode returns the object. ErrInvalid if m breaks a limit or an invariant of the format.
func Encode(m Manifest) ([]byte, error) {
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("encoding the manifest %s of %s: %w: %w", m.ID, m.Partition, ErrInvalid, err)
	}
	numbers := map[tiering.SessionID]uint64{}
	var sessions []byte
	for _, e := range m.Extents {
		if _, known := numbers[e.Segment.Session]; !known && !e.IsHole() {
			numbers[e.Segment.Session] = uint64(len(numbers))
			sessions = append(sessions, e.Segment.Session[:]...)
		}
	}
	b := make([]byte, 0, minBytes+len(sessions)+24*len(m.Extents)+12*len(m.Aborted))
	b = append(append(b, magic...), version)
	b = append(b, m.Cluster[:]...)
	b = append(b, m.ID.Session[:]...)
	b = binary.AppendUvarint(b, m.ID.Seq)
	b = append(b, m.Partition.Topic[:]...)
	b = binary.AppendUvarint(b, uint64(m.Partition.Partition))
	b = binary.AppendUvarint(b, uint64(m.Extents[0].Base))
	b = binary.AppendUvarint(b, uint64(len(numbers)))
	b = append(b, sessions...)
	b = binary.AppendUvarint(b, uint64(len(m.Extents)))
	var prev previous
	for _, e := range m.Extents {
		b = binary.AppendUvarint(b, uint64(e.Count))
		b = binary.AppendVarint(b, int64(e.Epoch)-int64(prev.epoch))
		b = binary.AppendUvarint(b, uint64(e.Length))
		if !e.IsHole() {
			b = binary.AppendVarint(b, e.MaxTimestamp-prev.timestamp)
			b = binary.AppendUvarint(b, numbers[e.Segment.Session])
			b = binary.AppendVarint(b, int64(e.Segment.Seq-prev.segment.Seq))
			b = binary.AppendVarint(b, int64(e.Position-prev.position(e.Segment)))
		}
		prev.after(e)
	}
	b = appendAborted(b, m.Extents[0].Base, m.Aborted)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli)), nil
}

func appendAborted(b []byte, base tiering.Offset, list []Aborted) []byte {
	b = binary.AppendUvarint(b, uint64(len(list)))
	prev := Aborted{Last: base}
	for _, a := range list {
		b = binary.AppendUvarint(b, uint64(a.Last-prev.Last))
		b = binary.AppendUvarint(b, uint64(a.Last-a.First))
		b = binary.AppendVarint(b, a.ProducerID-prev.ProducerID)
		prev = a
	}
	return b
}

// Decode reads an object. The result shares no memory with b. Errors are ErrCorrupt or
// ErrVersion.
func Decode(b []byte) (Manifest, error) {
	m, err := decode(b)
	if err != nil {
		return Manifest{}, fmt.Errorf("decoding a manifest of %d bytes: %w", len(b), err)
	}
	return m, nil
}

func decode(b []byte) (m Manifest, err error) {
	n := len(b) - crcBytes
	switch {
	case len(b) < minBytes || len(b) > MaxBytes:
		return m, fmt.Errorf("%w: want %d to %d bytes", ErrCorrupt, minBytes, MaxBytes)
	case !bytes.HasPrefix(b, []byte(magic)):
		return m, fmt.Errorf("%w: it begins with %q, want %q", ErrCorrupt, b[:len(magic)], magic)
	}
	if want, got := binary.BigEndian.Uint32(b[n:]), crc32.Checksum(b[:n], castagnoli); got != want {
		return m, fmt.Errorf("%w: CRC-32C is %08x, stored is %08x", ErrCorrupt, got, want)
	}
	switch v := b[len(magic)]; v {
	case 0:
		return m, fmt.Errorf("%w: version 0", ErrCorrupt)
	case version:
	default:
		return m, fmt.Errorf("%w: it is of version %d, this Floe reads 1 to %d: upgrade it", ErrVersion, v, version)
	}
	d := decoder{b: b[len(magic)+1 : n]}
	copy(m.Cluster[:], d.raw(len(m.Cluster)))
	copy(m.ID.Session[:], d.raw(len(m.ID.Session)))
	m.ID.Seq = d.uint(math.MaxUint64, "seq")
	copy(m.Partition.Topic[:], d.raw(len(m.Partition.Topic)))
	m.Partition.Partition = int32(d.uint(math.MaxInt32, "partition"))
	base := tiering.Offset(d.uint(math.MaxInt64, "base offset"))
	sessions := d.sessions()
	m.Extents = d.extents(base, sessions)
	m.Aborted = d.aborted(base)
	if d.err == nil && len(d.b) > 0 {
		d.fail("%d bytes too many", len(d.b))
	}
	if d.err != nil {
		return m, d.err
	}
	if err := m.check(); err != nil {
		return m, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return m, nil
}

// decoder reads the body. The first thing wrong is kept in err, and from then on everything
// reads as zero.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
	}
	d.b = nil
}

func (d *decoder) raw(n int) []byte {
	if n > len(d.b) {
		d.fail("it ends early")
		return nil
	}
	v := d.b[:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) uint(limit uint64, what string) uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 || n > 1 && d.b[n-1] == 0 || v > limit {
		d.fail("bad %s", what)
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) int(what string) int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 || n > 1 && d.b[n-1] == 0 {
		d.fail("bad %s", what)
		return 0
	}
	d.b = d.b[n:]
	return v
}

// count reads the number of things that follow, each of at least size bytes.
func (d *decoder) count(size int, what string) int {
	return d.atMost(MaxExtents, size, what)
}

func (d *decoder) atMost(limit uint64, size int, what string) int {
	n := d.uint(limit, what)
	if n > uint64(len(d.b)/size) {
		d.fail("bad %s", what)
		return 0
	}
	return int(n)
}

func (d *decoder) sessions() []tiering.SessionID {
	out := make([]tiering.SessionID, d.count(16, "number of sessions"))
	seen := make(map[tiering.SessionID]struct{}, len(out))
	for i := range out {
		copy(out[i][:], d.raw(16))
		seen[out[i]] = struct{}{}
	}
	if len(seen) < len(out) {
		d.fail("a session is listed twice")
	}
	return out
}

// extents reads the extents; m.check tells whether they make sense.
func (d *decoder) extents(base tiering.Offset, sessions []tiering.SessionID) []tiering.Extent {
	out := make([]tiering.Extent, d.count(minExtent, "number of extents"))
	used := 0
	var prev previous
	for i := range out {
		e := &out[i]
		e.Base, e.Count = base, int64(d.uint(math.MaxInt64, "number of records"))
		base = e.End()
		epoch := int64(prev.epoch) + d.int("epoch")
		if epoch < 0 || epoch > math.MaxInt32 {
			d.fail("bad epoch")
		}
		e.Epoch = tiering.LeaderEpoch(epoch)
		e.Length, e.MaxTimestamp = int32(d.uint(math.MaxInt32, "length")), tiering.NoTimestamp
		if !e.IsHole() {
			e.MaxTimestamp = prev.timestamp + d.int("timestamp")
			s := int(d.uint(MaxExtents, "session"))
			if s > used || s >= len(sessions) {
				d.fail("session %d of %d", s, len(sessions))
				return nil
			}
			used = max(used, s+1)
			e.Segment = tiering.SegmentID{Session: sessions[s], Seq: prev.segment.Seq + uint64(d.int("segment seq"))}
			e.Position = prev.position(e.Segment) + tiering.Position(d.int("position"))
		}
		if d.err != nil {
			return nil
		}
		prev.after(*e)
	}
	if used < len(sessions) {
		d.fail("sessions that no extent names")
	}
	return out
}

// aborted reads the aborted transactions; m.check tells whether they make sense.
func (d *decoder) aborted(base tiering.Offset) []Aborted {
	n := d.atMost(MaxAborted, minAborted, "number of aborted transactions")
	if n == 0 {
		return nil
	}
	out := make([]Aborted, n)
	prev := Aborted{Last: base}
	for i := range out {
		a := &out[i]
		a.Last = prev.Last + tiering.Offset(d.uint(math.MaxInt64, "offset"))
		a.First = a.Last - tiering.Offset(d.uint(math.MaxInt64, "offset"))
		a.ProducerID = prev.ProducerID + d.int("producer id")
		if d.err != nil {
			return nil
		}
		prev = *a
	}
	return out
}
