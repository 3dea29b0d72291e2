package segment

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/floelog/floe/tiering"
)

// FooterBytes is the size of a footer, the last bytes of every segment.
const FooterBytes = 40

// Footer, version 1:
//
//	 0   8  index position
//	 8   8  index length
//	16   4  CRC-32C of the index
//	20   4  header length: where the first chunk starts
//	24   2  version, the same as the header's
//	26   2  reserved, 0
//	28   8  magic "floe.end"
//	36   4  CRC-32C of bytes 0 to 36
const footerMagic = "floe.end"

// Footer says where the index is.
type Footer struct {
	Version       uint16
	IndexPosition tiering.Position
	IndexLength   int64
	IndexCRC      uint32
	HeaderLength  int
}

func appendFooter(b []byte, f *Footer) []byte {
	be := binary.BigEndian
	start := len(b)
	b = be.AppendUint64(b, uint64(f.IndexPosition))
	b = be.AppendUint64(b, uint64(f.IndexLength))
	b = be.AppendUint32(b, f.IndexCRC)
	b = be.AppendUint32(b, uint32(f.HeaderLength))
	b = be.AppendUint16(b, Version)
	b = append(b, 0, 0)
	b = append(b, footerMagic...)
	return be.AppendUint32(b, crc32.Checksum(b[start:], castagnoli))
}

// ParseFooter decodes the footer at the end of tail, the last bytes of an object of
// objectSize bytes. Errors are ErrCorrupt or ErrVersion.
func ParseFooter(tail []byte, objectSize int64) (Footer, error) {
	if objectSize < headerMin+FooterBytes {
		return Footer{}, corrupt("object: %d bytes, a segment has at least %d", objectSize, headerMin+FooterBytes)
	}
	if len(tail) < FooterBytes || int64(len(tail)) > objectSize {
		return Footer{}, corrupt("footer: %d bytes of an object of %d, want at least %d", len(tail), objectSize, FooterBytes)
	}
	b := tail[len(tail)-FooterBytes:]
	at := objectSize - FooterBytes
	be := binary.BigEndian
	if string(b[28:36]) != footerMagic {
		return Footer{}, corrupt("footer: magic %q at %d, want %q", b[28:36], at+28, footerMagic)
	}
	if want, got := be.Uint32(b[36:]), crc32.Checksum(b[:36], castagnoli); got != want {
		return Footer{}, corrupt("footer: CRC-32C is %08x, stored at %d is %08x", got, at+36, want)
	}
	f := Footer{
		Version:       be.Uint16(b[24:]),
		IndexPosition: tiering.Position(be.Uint64(b)),
		IndexLength:   int64(be.Uint64(b[8:])),
		IndexCRC:      be.Uint32(b[16:]),
		HeaderLength:  int(be.Uint32(b[20:])),
	}
	if f.Version != Version {
		return Footer{}, versionError("footer", f.Version)
	}
	return f, f.check(at, b[26:28])
}

func (f Footer) check(at int64, reserved []byte) error {
	switch {
	case reserved[0]|reserved[1] != 0:
		return corrupt("footer: reserved bytes at %d are % x", at+26, reserved)
	case f.HeaderLength < headerMin || f.HeaderLength > MaxHeaderBytes:
		return corrupt("footer: header length %d, want %d to %d", f.HeaderLength, headerMin, MaxHeaderBytes)
	case int64(f.IndexPosition) < int64(f.HeaderLength) || int64(f.IndexPosition) > at:
		return corrupt("footer: index position %d outside [%d, %d]", f.IndexPosition, f.HeaderLength, at)
	case f.IndexLength != at-int64(f.IndexPosition):
		return corrupt("footer: index of %d bytes at %d does not end at the footer's %d", f.IndexLength, f.IndexPosition, at)
	case f.IndexLength%entryBytes != 0 || f.IndexLength > MaxChunks*entryBytes:
		return corrupt("footer: index length %d is not that of up to %d entries of %d bytes", f.IndexLength, MaxChunks, entryBytes)
	case f.IndexLength == 0 && int64(f.IndexPosition) != int64(f.HeaderLength):
		return corrupt("footer: no index for the %d bytes of chunks", int64(f.IndexPosition)-int64(f.HeaderLength))
	}
	return nil
}
