package batch

import (
	"encoding/binary"
	"iter"

	"github.com/twmb/franz-go/pkg/kerr"
)

// Record is one record of a batch. Key, Value and Headers alias the batch or, in a
// compressed batch, a buffer that the iterator's next step overwrites.
//
//	+--------+-------+-----------+--------+-----+-----+-----+-------+--------+---------+
//	| length | attrs | timestamp | offset | key | key | va- | value | header | headers |
//	|        | 0, i8 | delta     | delta  | len |     | lue |       | count  |         |
//	| varint |       | varlong   | varint | vi. |     | len |       | varint |         |
//	+--------+-------+-----------+--------+-----+-----+-----+-------+--------+---------+
//
// Numbers are zigzag varints; a length of -1 is null. A header is key length, key,
// value length, value.
type Record struct {
	OffsetDelta    int32 // offset minus the batch's base offset
	TimestampDelta int64 // milliseconds since the batch's first timestamp
	Key            []byte
	Value          []byte // nil for a tombstone
	Headers        Headers
}

// Header is one header of a record.
type Header struct {
	Key   []byte
	Value []byte // nil for null
}

// Headers are a record's headers in wire form. The zero value has none.
type Headers struct {
	raw []byte
	n   int32
}

// MakeHeaders encodes headers.
func MakeHeaders(hs ...Header) Headers {
	var raw []byte
	for _, h := range hs {
		raw = binary.AppendVarint(raw, int64(len(h.Key)))
		raw = append(raw, h.Key...)
		raw = appendNullable(raw, h.Value)
	}
	return Headers{raw: raw, n: int32(len(hs))}
}

// Len returns the number of headers.
func (h Headers) Len() int { return int(h.n) }

// All yields the headers in order.
func (h Headers) All() iter.Seq[Header] {
	return func(yield func(Header) bool) {
		i := 0
		for range h.n {
			var hd Header
			hd.Key, i = span(h.raw, i)
			hd.Value, i = span(h.raw, i)
			if i > len(h.raw) || !yield(hd) {
				return
			}
		}
	}
}

// A decoding position beyond the end means that decoding failed; it sticks, so that a
// whole record is read with one check at its end.

// varint reads a zigzag varint of at most 5 bytes at b[i:] and returns the next position.
func varint(b []byte, i int) (int32, int) {
	if i < len(b) && b[i] < 0x80 {
		return int32(b[i]>>1) ^ -int32(b[i]&1), i + 1
	}
	return varintSlow(b, i)
}

//go:noinline
func varintSlow(b []byte, i int) (int32, int) {
	var u uint32
	for shift := uint(0); shift < 35; shift += 7 {
		if i >= len(b) {
			break
		}
		c := b[i]
		i++
		u |= uint32(c&0x7f) << shift
		if c < 0x80 {
			if shift == 28 && c > 0x0f {
				break
			}
			return int32(u>>1) ^ -int32(u&1), i
		}
	}
	return 0, len(b) + 1
}

// varlong reads a zigzag varint of at most 10 bytes.
func varlong(b []byte, i int) (int64, int) {
	if i < len(b) && b[i] < 0x80 {
		return int64(b[i]>>1) ^ -int64(b[i]&1), i + 1
	}
	return varlongSlow(b, i)
}

//go:noinline
func varlongSlow(b []byte, i int) (int64, int) {
	if i >= len(b) {
		return 0, len(b) + 1
	}
	x, n := binary.Varint(b[i:])
	if n <= 0 {
		return 0, len(b) + 1
	}
	return x, i + n
}

// skipNullable steps over a length and its bytes; null tells a length of -1.
func skipNullable(b []byte, i int) (null bool, next int) {
	n, i := varint(b, i)
	if n < 0 {
		if n < -1 {
			return true, len(b) + 1
		}
		return true, i
	}
	return false, i + int(n)
}

// span reads a length and its bytes, nil for null.
func span(b []byte, i int) ([]byte, int) {
	n, i := varint(b, i)
	if n == -1 && i <= len(b) {
		return nil, i
	}
	if n < 0 || i > len(b) || int(n) > len(b)-i {
		return nil, len(b) + 1
	}
	return b[i : i+int(n) : i+int(n)], i + int(n)
}

// skipHeaders steps over the count and the headers at b[i:] and returns their number.
func skipHeaders(b []byte, i int) (n int32, next int) {
	n, i = varint(b, i)
	if n < 0 || int(n) > len(b)-i {
		return 0, len(b) + 1
	}
	for range n {
		var null bool
		if null, i = skipNullable(b, i); null {
			return 0, len(b) + 1
		}
		if _, i = skipNullable(b, i); i > len(b) {
			return 0, len(b) + 1
		}
	}
	return n, i
}

// parse reads a record's body, which follows its length. It reports whether the fields
// fill the body exactly.
func (r *Record) parse(body []byte) bool {
	i := 1 // attributes, unused
	r.TimestampDelta, i = varlong(body, i)
	r.OffsetDelta, i = varint(body, i)
	r.Key, i = span(body, i)
	r.Value, i = span(body, i)
	n, end := skipHeaders(body, i)
	if end != len(body) {
		return false
	}
	r.Headers = Headers{}
	if n > 0 {
		_, start := varint(body, i)
		r.Headers = Headers{raw: body[start:], n: n}
	}
	return true
}

func appendNullable(dst, b []byte) []byte {
	if b == nil {
		return binary.AppendVarint(dst, -1)
	}
	dst = binary.AppendVarint(dst, int64(len(b)))
	return append(dst, b...)
}

// append encodes the record with its length.
func (r *Record) append(dst []byte) []byte {
	size := 1 + sizeVarint(r.TimestampDelta) + sizeVarint(int64(r.OffsetDelta)) +
		sizeNullable(r.Key) + sizeNullable(r.Value) + sizeVarint(int64(r.Headers.n)) + len(r.Headers.raw)
	dst = binary.AppendVarint(dst, int64(size))
	dst = append(dst, 0)
	dst = binary.AppendVarint(dst, r.TimestampDelta)
	dst = binary.AppendVarint(dst, int64(r.OffsetDelta))
	dst = appendNullable(dst, r.Key)
	dst = appendNullable(dst, r.Value)
	dst = binary.AppendVarint(dst, int64(r.Headers.n))
	return append(dst, r.Headers.raw...)
}

func sizeVarint(x int64) int {
	n := 1
	for u := uint64(x<<1) ^ uint64(x>>63); u >= 0x80; u >>= 7 {
		n++
	}
	return n
}

func sizeNullable(b []byte) int {
	if b == nil {
		return 1
	}
	return sizeVarint(int64(len(b))) + len(b)
}

// Records yields the records of a batch in order, decompressing as it goes. A compressed
// batch is charged to a; nil is for one that was taken once: the limits of what clients send are
// not asked again. The iteration ends
// after the first error, an *Error. Neither the CRC nor the order of offsets is checked
// here, and a batch that compaction thinned may have gaps.
func (v View) Records(a *Allowance) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		s, err := openRecords(v, a)
		if err != nil {
			yield(Record{}, err)
			return
		}
		defer s.close()
		for i := range v.Count() {
			body, err := s.next()
			var r Record
			if err == nil && !r.parse(body) {
				err = refuse(kerr.InvalidRecord, "its fields do not fill its length")
			}
			if err != nil {
				err.Record = i
				yield(Record{}, err)
				return
			}
			if !yield(r, nil) {
				return
			}
		}
		if err := s.end(); err != nil {
			yield(Record{}, err)
		}
	}
}
