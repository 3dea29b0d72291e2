package history

import (
	"encoding/binary"
	"fmt"
)

// MinSize is the size of the smallest record.
const MinSize = 12

// Payload returns the record of a value:
//
//	0        8      12
//	+--------+------+---------------------+
//	| value  | size | filler from value   |   big-endian
//	+--------+------+---------------------+
//
// The size must be the one that was given to Send, and at least MinSize.
func Payload(v Value, size int) []byte {
	b := make([]byte, 0, size+8)
	b = binary.BigEndian.AppendUint64(b, uint64(v))
	b = binary.BigEndian.AppendUint32(b, uint32(size))
	for x := uint64(v); len(b) < size; {
		x = mix(x)
		b = binary.BigEndian.AppendUint64(b, x)
	}
	return b[:size]
}

// mix is SplitMix64's step (Steele, Lea and Flood, 2014): cheap, and no run of it repeats.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// Identify says which record's bytes a read has.
func Identify(r Read) Seen {
	v, err := decode(r.Record)
	seen := Seen{Offset: r.Offset, Value: v, Size: int32(len(r.Record))}
	if err != nil {
		seen.Bad = err.Error()
	}
	return seen
}

// decode returns the value of a record, and an error unless all its bytes are the value's.
func decode(b []byte) (Value, error) {
	if len(b) < MinSize {
		return 0, fmt.Errorf("a record of %d bytes", len(b))
	}
	v, size := Value(binary.BigEndian.Uint64(b)), binary.BigEndian.Uint32(b[8:])
	if int64(size) != int64(len(b)) {
		return v, fmt.Errorf("value %d has %d bytes and was sent with %d", v, len(b), size)
	}
	if at := differs(v, b); at < len(b) {
		return v, fmt.Errorf("value %d differs from what was sent at byte %d of %d", v, at, len(b))
	}
	return v, nil
}

// differs returns the first byte of the filler that is not that of Payload; len(b) if all are.
func differs(v Value, b []byte) int {
	at, x := MinSize, uint64(v)
	for ; at+8 <= len(b); at += 8 {
		if x = mix(x); binary.BigEndian.Uint64(b[at:]) != x {
			break
		}
	}
	want := binary.BigEndian.AppendUint64(nil, either(at+8 <= len(b), x, mix(x)))
	for i := 0; i < 8 && at < len(b); i++ {
		if b[at] != want[i] {
			return at
		}
		at++
	}
	return at
}
