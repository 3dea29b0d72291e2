package segment

import (
	"encoding/binary"

	"github.com/floelog/floe/tiering"
)

const (
	stampBytes = batchMagicAt // base offset, length and leader epoch: before what a batch's CRC covers
	stampsSlab = 64           // headers per allocation
)

// Stamp appends to dst the batches that slices together are, each with its own base offset
// and the leader epoch that epochAt gives of it: what segments of level 1 on hold. Only the
// first 16 bytes of each batch are copied; a batch may lie across slices. The first batch
// begins at base, every other one where the last offset delta of the one before ends; end is
// where the last one does. The error is ErrCorrupt; then dst is returned as it came.
func Stamp(dst, slices [][]byte, base tiering.Offset, epochAt func(tiering.Offset) tiering.LeaderEpoch) (out [][]byte, end tiering.Offset, err error) {
	out, end = dst, base
	var s scanner
	var slab []byte
	s.reset(slices)
	for {
		ok, err := s.next()
		if err != nil {
			return dst, base, err
		}
		if !ok {
			return out, end, nil
		}
		if len(slab) == 0 {
			slab = make([]byte, stampsSlab*stampBytes)
		}
		head := slab[:stampBytes:stampBytes]
		slab = slab[stampBytes:]
		copy(head, s.head)
		binary.BigEndian.PutUint64(head, uint64(end))
		binary.BigEndian.PutUint32(head[batchEpochAt:], uint32(epochAt(end)))
		out = append(out, head)
		end += tiering.Offset(s.lastDelta()) + 1
		out = s.appendRest(out)
	}
}

// appendRest appends the batch that next found, without its first stampBytes, and moves behind
// it.
func (s *scanner) appendRest(out [][]byte) [][]byte {
	skip := stampBytes
	s.walk(s.length, func(p []byte) {
		if skip >= len(p) {
			skip -= len(p)
			return
		}
		out = append(out, p[skip:len(p):len(p)])
		skip = 0
	})
	return out
}

// CheckStamps demands that none of the batches that slices together are was stamped with another offset than
// the one at which it lies: base for the first, for every other one where the last offset delta of the one
// before ends. A batch of level 0 has none. Checksums cannot tell bytes of one place from those of another: this can.
// The error is ErrCorrupt.
func CheckStamps(slices [][]byte, base tiering.Offset) error {
	var s scanner
	s.reset(slices)
	for {
		ok, err := s.next()
		if err != nil || !ok {
			return err
		}
		if own := tiering.Offset(binary.BigEndian.Uint64(s.head)); own != 0 && own != base {
			return corrupt("a batch of offset %d lies where that of %d should", own, base)
		}
		base += tiering.Offset(s.lastDelta()) + 1
		s.walk(s.length, func([]byte) {})
	}
}
