package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/floelog/floe/tiering"
)

// A block's file is one frame after another, contiguous in what they hold:
//
//	+-------+---------+-----+----------+--------+--------------+------------------+-------+
//	| magic | session | seq | position | length | CRC of bytes | CRC of the frame | bytes |
//	| 4     | 16      | 8   | 8        | 4      | 4            | 4                |       |
//	+-------+---------+-----+----------+--------+--------------+------------------+-------+
//
// Numbers are big-endian, CRCs are CRC-32C, that of the frame over the fields before it. The
// position is that of the first byte within the segment. A file that ends within a frame was
// being written when its writer died: what precedes is good.
const (
	frameMagic  = "FBK1"
	frameHeader = 48

	// maxFrames bounds the frames of a file. Not smaller: a block that is read by many, each
	// of whom knows a little more of it, grows in small steps. Not larger: each is a header
	// to read before anything of an old file is known.
	maxFrames = 64
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// key names a block: a segment and the position at which the block starts.
type key struct {
	segment tiering.SegmentID
	start   int64
}

// frame is what a file holds of a block: its bytes from lo up to hi.
type frame struct {
	lo, hi int64
	at     int64 // of the bytes within the file
	crc    uint32
}

func (f frame) end() int64 { return f.at + f.hi - f.lo }

var errFrame = errors.New("not a frame of this block")

// encodeFrame returns the header of a frame that holds bytes of a block from lo on.
func encodeFrame(k key, lo int64, bytes []byte) []byte {
	b := make([]byte, 0, frameHeader)
	b = append(b, frameMagic...)
	b = append(b, k.segment.Session[:]...)
	b = binary.BigEndian.AppendUint64(b, k.segment.Seq)
	b = binary.BigEndian.AppendUint64(b, uint64(k.start+lo))
	b = binary.BigEndian.AppendUint32(b, uint32(len(bytes)))
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(bytes, castagnoli))
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// decodeFrame reads the header of a frame that lies at a position of a file and holds bytes of
// a block from lo on.
func decodeFrame(k key, lo, at int64, b []byte) (frame, error) {
	if len(b) < frameHeader || string(b[:4]) != frameMagic {
		return frame{}, errFrame
	}
	b = b[:frameHeader]
	if sum := binary.BigEndian.Uint32(b[44:]); sum != crc32.Checksum(b[:44], castagnoli) {
		return frame{}, fmt.Errorf("%w: the header's checksum differs", errFrame)
	}
	n := int64(binary.BigEndian.Uint32(b[36:]))
	same := tiering.SessionID(b[4:20]) == k.segment.Session && binary.BigEndian.Uint64(b[20:]) == k.segment.Seq
	if !same || int64(binary.BigEndian.Uint64(b[28:])) != k.start+lo || n == 0 {
		return frame{}, fmt.Errorf("%w: it is another's", errFrame)
	}
	return frame{lo: lo, hi: lo + n, at: at + frameHeader, crc: binary.BigEndian.Uint32(b[40:])}, nil
}

// readFrames finds the frames of a file of size bytes, as far as they are whole.
func readFrames(k key, size int64, readAt func(b []byte, at int64) error) ([]frame, error) {
	var out []frame
	var lo, at int64
	var header [frameHeader]byte
	for len(out) < maxFrames && at+frameHeader < size {
		if err := readAt(header[:], at); err != nil {
			return nil, err
		}
		f, err := decodeFrame(k, lo, at, header[:])
		if err != nil || f.end() > size {
			break
		}
		out = append(out, f)
		lo, at = f.hi, f.end()
	}
	if len(out) == 0 {
		return nil, errFrame
	}
	return out, nil
}
