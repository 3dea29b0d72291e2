package segment

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"

	"github.com/floelog/floe/tiering"
)

// Header, version 1:
//
//	   0   8  magic "floe.seg"
//	   8   2  version
//	  10   1  level
//	  11   1  reserved, 0
//	  12   4  header length L: all bytes up to the first chunk, the CRC included
//	  16  16  cluster id
//	  32  16  session   } the segment's id
//	  48   8  seq       }
//	  56   8  created at, milliseconds since 1970
//	  64   4  number of carried journal records, each:
//	            0  4  shard
//	            4  8  seq
//	           12  4  length n
//	           16  n  the record
//	L - 4   4  CRC-32C of bytes 0 to L - 4
const (
	headerMagic     = "floe.seg"
	headerFixed     = 68
	headerMin       = headerFixed + crcBytes
	carryFixed      = 16
	crcBytes        = 4
	headerLengthEnd = 16 // from here on the header says how long it is
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func headerSize(h *Header) (int, error) {
	n := headerMin
	for _, r := range h.Carry {
		if len(r.Bytes) > MaxHeaderBytes {
			return 0, fmt.Errorf("%w: journal record %d of shard %d has %d bytes, a header at most %d",
				ErrInvalid, r.Seq, r.Shard, len(r.Bytes), MaxHeaderBytes)
		}
		if n += carryFixed + len(r.Bytes); n > MaxHeaderBytes {
			return 0, fmt.Errorf("%w: the carried journal records need more than the %d bytes of a header",
				ErrInvalid, MaxHeaderBytes)
		}
	}
	return n, nil
}

// CarrySize returns the bytes that a journal record takes in a header, for writers that
// keep what they carry below MaxHeaderBytes.
func CarrySize(r JournalRecord) int { return carryFixed + len(r.Bytes) }

func appendHeader(b []byte, h *Header, size int) []byte {
	be := binary.BigEndian
	start := len(b)
	b = append(b, headerMagic...)
	b = be.AppendUint16(b, Version)
	b = append(b, h.Level, 0)
	b = be.AppendUint32(b, uint32(size))
	b = append(b, h.Cluster[:]...)
	b = append(b, h.ID.Session[:]...)
	b = be.AppendUint64(b, h.ID.Seq)
	b = be.AppendUint64(b, uint64(h.CreatedAt))
	b = be.AppendUint32(b, uint32(len(h.Carry)))
	for _, r := range h.Carry {
		b = be.AppendUint32(b, uint32(r.Shard))
		b = be.AppendUint64(b, r.Seq)
		b = be.AppendUint32(b, uint32(len(r.Bytes)))
		b = append(b, r.Bytes...)
	}
	return be.AppendUint32(b, crc32.Checksum(b[start:], castagnoli))
}

// headerLength reads how long the header is from its first headerLengthEnd bytes.
func headerLength(b []byte) (int, error) {
	if len(b) < headerLengthEnd {
		return 0, corrupt("header: %d bytes, want at least %d", len(b), headerMin)
	}
	if string(b[:8]) != headerMagic {
		return 0, corrupt("header: magic %q at 0, want %q", b[:8], headerMagic)
	}
	if v := binary.BigEndian.Uint16(b[8:]); v != Version {
		return 0, versionError("header", v)
	}
	n := binary.BigEndian.Uint32(b[12:])
	if n < headerMin || n > MaxHeaderBytes {
		return 0, corrupt("header: length %d at 12, want %d to %d", n, headerMin, MaxHeaderBytes)
	}
	return int(n), nil
}

func versionError(part string, v uint16) error {
	if v == 0 {
		return corrupt("%s: version 0", part)
	}
	return fmt.Errorf("%w: %s has version %d, this Floe reads 1 to %d: upgrade it", ErrVersion, part, v, Version)
}

// ParseHeader decodes the header at the start of b, which may be longer. The carried
// records share b's memory. Errors are ErrCorrupt or ErrVersion.
func ParseHeader(b []byte) (Header, error) {
	n, err := headerLength(b)
	if err != nil {
		return Header{}, err
	}
	if len(b) < n {
		return Header{}, corrupt("header: cut off at %d of %d bytes", len(b), n)
	}
	b = b[:n]
	be := binary.BigEndian
	body := b[:n-crcBytes]
	if want, got := be.Uint32(b[n-crcBytes:]), crc32.Checksum(body, castagnoli); got != want {
		return Header{}, corrupt("header: CRC-32C is %08x, stored at %d is %08x", got, n-crcBytes, want)
	}
	if body[11] != 0 {
		return Header{}, corrupt("header: reserved byte at 11 is %d", body[11])
	}
	h := Header{
		Version:   be.Uint16(b[8:]),
		Level:     b[10],
		CreatedAt: int64(be.Uint64(b[56:])),
	}
	copy(h.Cluster[:], b[16:])
	copy(h.ID.Session[:], b[32:])
	h.ID.Seq = be.Uint64(b[48:])
	h.Carry, err = parseCarry(body)
	return h, err
}

func parseCarry(body []byte) ([]JournalRecord, error) {
	be := binary.BigEndian
	count := uint64(be.Uint32(body[64:]))
	rest := body[headerFixed:]
	if count*carryFixed > uint64(len(rest)) {
		return nil, corrupt("header: %d carried records at 64 cannot fit in %d bytes", count, len(rest))
	}
	if count == 0 {
		if len(rest) != 0 {
			return nil, corrupt("header: %d bytes at %d belong to no carried record", len(rest), headerFixed)
		}
		return nil, nil
	}
	carry := make([]JournalRecord, count)
	for i := range carry {
		at := len(body) - len(rest)
		if len(rest) < carryFixed {
			return nil, corrupt("header: carried record %d at %d is cut off", i, at)
		}
		n := be.Uint32(rest[12:])
		if n > math.MaxInt32 || int(n) > len(rest)-carryFixed {
			return nil, corrupt("header: carried record %d at %d has %d bytes, %d are left", i, at, n, len(rest)-carryFixed)
		}
		end := carryFixed + int(n)
		carry[i] = JournalRecord{
			Shard: tiering.ShardID(be.Uint32(rest)),
			Seq:   be.Uint64(rest[4:]),
			Bytes: rest[carryFixed:end:end],
		}
		rest = rest[end:]
	}
	if len(rest) != 0 {
		return nil, corrupt("header: %d bytes after the last carried record", len(rest))
	}
	return carry, nil
}
