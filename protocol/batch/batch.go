// Package batch reads, checks, patches and builds Kafka record batches of magic 2, the
// unit in which records travel from a producer through object storage to a consumer.
// It is pure: bytes in, bytes or verdicts out; no I/O, no clock, no goroutines.
//
// Invariants:
//
//  1. Nothing here trusts a length or a count that it read: every slice is bounds-checked
//     against the bytes that are there, and nothing is allocated by a claimed size alone.
//  2. Only Patch, SetTimestamp and Info.Stamp write into bytes that they were given.
//  3. Decompression is charged to an Allowance; output beyond it is never produced.
//
// All functions may be called concurrently on different bytes; reads of the same bytes
// may run in parallel. An Allowance and a Builder belong to one goroutine.
//
// The layout (big endian), KIP-98:
//
//	 0        8      12      16  17     21    23      27        35        43       51   53     57    61
//	+--------+-------+-------+---+------+-----+-------+---------+---------+--------+----+------+-----+---...
//	| base   | length| leader| m | CRC  | at- | last  | first   | max     | prod.  | ep.| base | re- | records
//	| offset |       | epoch | 2 | -32C | trs | delta | time-   | time-   | id     |    | seq. | cor | (or the
//	| i64    | i32   | i32   | i8| u32  | i16 | i32   | stamp   | stamp   | i64    | i16| i32  | ds  | codec's
//	|        |       |       |   |      |     |       | i64     | i64     |        |    |      | i32 | output)
//	+--------+-------+-------+---+------+-----+-------+---------+---------+--------+----+------+-----+---...
//	         |       '- length counts from here to the end
//	         CRC covers everything from attrs on: base offset and leader epoch may be patched
package batch

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/twmb/franz-go/pkg/kerr"
)

// Positions of the header's fields; part of the wire format.
const (
	posBaseOffset    = 0
	posLength        = 8
	posLeaderEpoch   = 12
	posMagic         = 16
	posCRC           = 17
	posAttributes    = 21
	posLastDelta     = 23
	posFirstTime     = 27
	posMaxTime       = 35
	posProducerID    = 43
	posProducerEpoch = 51
	posBaseSequence  = 53
	posCount         = 57
)

const (
	// HeaderSize is the number of bytes before the records.
	HeaderSize = 61
	// PatchSize is the number of leading bytes that Patch touches. A reader that must not
	// write into shared bytes copies these alone.
	PatchSize = 16
	// Magic is the only format that Floe stores.
	Magic = 2

	lengthOverhead = posLength + 4          // bytes that the length field does not count
	minLegacy      = 14                     // least length of a message of magic 0
	upToMagic      = posMagic + 1           // bytes needed to tell the format
	minRecordSize  = 7                      // length, attributes, two deltas, key, value, headers
	noTimestamp    = -1                     // Kafka's "no timestamp"
	noProducerID   = -1                     // Kafka's "not idempotent"
	maxDelta       = int32(^uint32(0) >> 1) // largest offset delta
)

// Attributes are the flags of a batch.
type Attributes int16

// The bits of Attributes above the codec's three.
const (
	attrCodec         Attributes = 0x07
	AttrLogAppendTime Attributes = 1 << 3
	AttrTransactional Attributes = 1 << 4
	AttrControl       Attributes = 1 << 5
	// AttrDeleteHorizon says that the first timestamp is the time from which on log
	// compaction may drop the batch's tombstones (KIP-534). Only agents set it.
	AttrDeleteHorizon Attributes = 1 << 6
)

// Codec returns the compression codec, which may be one that nobody knows.
func (a Attributes) Codec() Codec { return Codec(a & attrCodec) }

// WithCodec returns a with its codec replaced.
func (a Attributes) WithCodec(c Codec) Attributes { return a&^attrCodec | Attributes(c)&attrCodec }

// TimestampType says whose clock stamped the records.
type TimestampType int8

// The timestamp types of KIP-32.
const (
	CreateTime    TimestampType = 0
	LogAppendTime TimestampType = 1
)

// View is exactly one batch, header and records. Its accessors are valid on what Next
// or Validate returned: at least HeaderSize bytes, whose length field is true.
type View []byte

// BaseOffset is the offset of the first record; 0 as produced.
func (v View) BaseOffset() int64 { return int64(binary.BigEndian.Uint64(v[posBaseOffset:])) }

// LeaderEpoch is the partition's leader epoch at the time of the append.
func (v View) LeaderEpoch() int32 { return int32(binary.BigEndian.Uint32(v[posLeaderEpoch:])) }

// CRC is the stored CRC-32C over everything from the attributes on.
func (v View) CRC() uint32 { return binary.BigEndian.Uint32(v[posCRC:]) }

// Attributes are the batch's flags.
func (v View) Attributes() Attributes { return Attributes(binary.BigEndian.Uint16(v[posAttributes:])) }

// Codec is the compression codec of the records.
func (v View) Codec() Codec { return v.Attributes().Codec() }

// TimestampType tells whether MaxTimestamp overrides the records' own timestamps.
func (v View) TimestampType() TimestampType {
	if v.Attributes()&AttrLogAppendTime != 0 {
		return LogAppendTime
	}
	return CreateTime
}

// IsTransactional reports whether the batch belongs to a transaction.
func (v View) IsTransactional() bool { return v.Attributes()&AttrTransactional != 0 }

// IsControl reports whether the batch holds transaction markers instead of data.
func (v View) IsControl() bool { return v.Attributes()&AttrControl != 0 }

// LastOffsetDelta is the last offset minus the base offset. Compaction keeps it even
// where the last records are gone.
func (v View) LastOffsetDelta() int32 { return int32(binary.BigEndian.Uint32(v[posLastDelta:])) }

// LastOffset is the offset of the batch's last record.
func (v View) LastOffset() int64 { return v.BaseOffset() + int64(v.LastOffsetDelta()) }

// FirstTimestamp is what the records' timestamp deltas are added to, in milliseconds.
func (v View) FirstTimestamp() int64 { return int64(binary.BigEndian.Uint64(v[posFirstTime:])) }

// Timestamp is the time of one of the batch's records, in milliseconds since 1970.
func (v View) Timestamp(r Record) int64 { return v.TimestampAt(r.TimestampDelta) }

// TimestampAt is the time of a record with a timestamp delta.
func (v View) TimestampAt(delta int64) int64 {
	if v.TimestampType() == LogAppendTime {
		return v.MaxTimestamp()
	}
	return v.FirstTimestamp() + delta
}

// MaxTimestamp is the greatest timestamp of the records, in milliseconds.
func (v View) MaxTimestamp() int64 { return int64(binary.BigEndian.Uint64(v[posMaxTime:])) }

// ProducerID is the idempotent producer's id, -1 for none.
func (v View) ProducerID() int64 { return int64(binary.BigEndian.Uint64(v[posProducerID:])) }

// ProducerEpoch is the idempotent producer's epoch, -1 for none.
func (v View) ProducerEpoch() int16 { return int16(binary.BigEndian.Uint16(v[posProducerEpoch:])) }

// BaseSequence is the first record's sequence number, -1 for none.
func (v View) BaseSequence() int32 { return int32(binary.BigEndian.Uint32(v[posBaseSequence:])) }

// LastSequence is the last record's sequence number. Sequence numbers wrap from the
// greatest int32 to 0; -1 if the batch has none.
func (v View) LastSequence() int32 {
	base := v.BaseSequence()
	if base < 0 {
		return -1
	}
	return int32((int64(base) + int64(v.LastOffsetDelta())) & int64(maxDelta))
}

// Count is the number of records that the header claims.
func (v View) Count() int32 { return int32(binary.BigEndian.Uint32(v[posCount:])) }

// Payload is what follows the header: the records, or the codec's output.
func (v View) Payload() []byte { return v[HeaderSize:] }

// Fields returns the whole header but its length, magic and CRC.
func (v View) Fields() Fields {
	return Fields{
		BaseOffset: v.BaseOffset(), LeaderEpoch: v.LeaderEpoch(), Attributes: v.Attributes(),
		LastOffsetDelta: v.LastOffsetDelta(), FirstTimestamp: v.FirstTimestamp(), MaxTimestamp: v.MaxTimestamp(),
		ProducerID: v.ProducerID(), ProducerEpoch: v.ProducerEpoch(), BaseSequence: v.BaseSequence(),
	}
}

// Error says why bytes were refused. Kind is the answer that Kafka gives; errors.Is finds it.
type Error struct {
	Kind   *kerr.Error
	Record int32 // index of the offending record within its batch, -1 for the batch itself
	Reason string
}

func (e *Error) Error() string {
	if e.Record >= 0 {
		return fmt.Sprintf("%s: record %d: %s", e.Kind.Message, e.Record, e.Reason)
	}
	return e.Kind.Message + ": " + e.Reason
}

// Unwrap returns Kind.
func (e *Error) Unwrap() error { return e.Kind }

func refuse(kind *kerr.Error, format string, args ...any) *Error {
	return &Error{Kind: kind, Record: -1, Reason: fmt.Sprintf(format, args...)}
}

// Next cuts the first batch off b, which holds batches back to back. It checks that the
// batch is there in full and of magic 2, nothing else. An empty b is an error: callers
// loop while bytes remain. Errors are of type *Error.
func Next(b []byte) (v View, rest []byte, err error) {
	n, e := sizeOf(b)
	if e != nil {
		return nil, b, e
	}
	return View(b[:n:n]), b[n:], nil
}

// sizeOf returns how many bytes the first batch of b takes, which b is known to hold.
func sizeOf(b []byte) (int, *Error) {
	if len(b) < upToMagic {
		return 0, refuse(kerr.InvalidRecord, "%d bytes are too few for a record batch", len(b))
	}
	length := int(int32(binary.BigEndian.Uint32(b[posLength:])))
	magic := int8(b[posMagic])
	switch {
	case length < minLegacy:
		return 0, refuse(kerr.CorruptMessage, "batch length %d is impossible", length)
	case magic < 0 || magic > Magic:
		return 0, refuse(kerr.CorruptMessage, "record format (magic) %d is unknown", magic)
	case magic < Magic:
		return 0, refuse(kerr.InvalidRecord, "record format (magic) %d is no longer taken; use 2", magic)
	case length > len(b)-lengthOverhead:
		return 0, refuse(kerr.InvalidRecord, "batch of length %d is cut off after %d bytes", length, len(b)-lengthOverhead)
	case length < HeaderSize-lengthOverhead:
		return 0, refuse(kerr.CorruptMessage, "batch length %d is shorter than its header", length)
	}
	return length + lengthOverhead, nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ComputeCRC returns the CRC-32C that the header should hold.
func (v View) ComputeCRC() uint32 { return crc32.Checksum(v[posAttributes:], castagnoli) }

// VerifyCRC returns an *Error of kind CORRUPT_MESSAGE if the stored CRC is wrong.
func (v View) VerifyCRC() error {
	if want, got := v.CRC(), v.ComputeCRC(); want != got {
		return refuse(kerr.CorruptMessage, "CRC-32C is %08x, the header says %08x", got, want)
	}
	return nil
}

// Patch writes the base offset and the leader epoch into a batch's first PatchSize
// bytes. The CRC does not cover them.
func Patch(b []byte, baseOffset int64, leaderEpoch int32) {
	_ = b[PatchSize-1]
	binary.BigEndian.PutUint64(b[posBaseOffset:], uint64(baseOffset))
	binary.BigEndian.PutUint32(b[posLeaderEpoch:], uint32(leaderEpoch))
}

// SetTimestamp sets the timestamp type and the greatest timestamp in place and, if that
// changed anything, the CRC. With LogAppendTime, ms becomes the time of every record.
func SetTimestamp(v View, t TimestampType, ms int64) {
	if v.TimestampType() == t && v.MaxTimestamp() == ms {
		return
	}
	a := v.Attributes() &^ AttrLogAppendTime
	if t == LogAppendTime {
		a |= AttrLogAppendTime
	}
	binary.BigEndian.PutUint16(v[posAttributes:], uint16(a))
	binary.BigEndian.PutUint64(v[posMaxTime:], uint64(ms))
	binary.BigEndian.PutUint32(v[posCRC:], v.ComputeCRC())
}
