package segment

import (
	"encoding/binary"
	"hash/crc32"
)

// Fields of a record batch, format v2 (KIP-98), by position in the batch.
const (
	batchLengthAt     = 8  // 4 bytes: of what follows this field
	batchEpochAt      = 12 // 4 bytes: partition leader epoch
	batchMagicAt      = 16 // 1 byte
	batchCRCAt        = 17 // 4 bytes: CRC-32C from attributes to the end
	batchAttributesAt = 21 // 2 bytes
	batchLastDeltaAt  = 23 // 4 bytes
	batchFirstTimeAt  = 27 // 8 bytes
	batchMaxTimeAt    = 35 // 8 bytes
	batchProducerAt   = 43 // 8 bytes
	batchProdEpochAt  = 51 // 2 bytes
	batchSequenceAt   = 53 // 4 bytes
	batchRecordsAt    = 57 // 4 bytes

	batchLengthOverhead = 12 // bytes up to the end of the length field
	batchMagic          = 2

	attrLogAppendTime = 1 << 3
)

// scanner walks the batches that lie one after the other in a list of slices. A batch
// may lie across slices: blocks of the cache cut batches anywhere.
type scanner struct {
	slices [][]byte
	in     int   // position within slices[0]
	left   int64 // bytes from here to the end
	at     int64 // bytes from the start to here

	// The batch that next found. head is valid until the next call.
	head   []byte // the first batchHeaderBytes bytes
	length int64  // of the whole batch

	scratch [batchHeaderBytes]byte
}

func (s *scanner) reset(slices [][]byte) {
	s.slices, s.in, s.at, s.left = slices, 0, 0, 0
	for _, p := range slices {
		s.left += int64(len(p))
	}
}

// next finds the header of the next batch, without passing it. False at the end.
func (s *scanner) next() (bool, error) {
	if s.left == 0 {
		return false, nil
	}
	if s.left < batchHeaderBytes {
		return false, corrupt("batch at %d: cut off after %d bytes", s.at, s.left)
	}
	for s.in == len(s.slices[0]) {
		s.slices, s.in = s.slices[1:], 0
	}
	if here := s.slices[0][s.in:]; len(here) >= batchHeaderBytes {
		s.head = here[:batchHeaderBytes]
	} else {
		n := copy(s.scratch[:], here)
		for i := 1; n < batchHeaderBytes; i++ {
			n += copy(s.scratch[n:], s.slices[i])
		}
		s.head = s.scratch[:]
	}
	s.length = int64(int32(binary.BigEndian.Uint32(s.head[batchLengthAt:]))) + batchLengthOverhead
	if s.length < batchHeaderBytes || s.length > s.left {
		return false, corrupt("batch at %d: length %d, want %d to %d", s.at, s.length, batchHeaderBytes, s.left)
	}
	if m := s.head[batchMagicAt]; m != batchMagic {
		return false, corrupt("batch at %d: magic %d, want %d", s.at, m, batchMagic)
	}
	if n := s.records(); n < 0 {
		return false, corrupt("batch at %d: %d records", s.at, n)
	}
	if n := s.lastDelta(); n < 0 {
		return false, corrupt("batch at %d: last offset delta %d", s.at, n)
	}
	return true, nil
}

// pass moves behind the batch that next found.
func (s *scanner) pass() {
	if n := s.in + int(s.length); n <= len(s.slices[0]) {
		s.in = n
		s.at += s.length
		s.left -= s.length
		return
	}
	s.walk(s.length, func([]byte) {})
}

// verify compares the batch's checksum with its bytes and moves behind it.
func (s *scanner) verify() error {
	at, want := s.at, s.crc()
	var got uint32
	skip := batchAttributesAt
	s.walk(s.length, func(p []byte) {
		if skip >= len(p) {
			skip -= len(p)
			return
		}
		got = crc32.Update(got, castagnoli, p[skip:])
		skip = 0
	})
	if got != want {
		return corrupt("batch at %d: CRC-32C is %08x, its header has %08x", at, got, want)
	}
	return nil
}

// walk moves n bytes on and shows them.
func (s *scanner) walk(n int64, show func([]byte)) {
	s.at += n
	s.left -= n
	for n > 0 {
		here := s.slices[0][s.in:]
		if int64(len(here)) > n {
			show(here[:n])
			s.in += int(n)
			return
		}
		show(here)
		n -= int64(len(here))
		s.slices, s.in = s.slices[1:], 0
	}
}

func (s *scanner) crc() uint32 { return binary.BigEndian.Uint32(s.head[batchCRCAt:]) }

func (s *scanner) attributes() uint16 { return binary.BigEndian.Uint16(s.head[batchAttributesAt:]) }

func (s *scanner) int32At(at int) int32 { return int32(binary.BigEndian.Uint32(s.head[at:])) }

func (s *scanner) int64At(at int) int64 { return int64(binary.BigEndian.Uint64(s.head[at:])) }

func (s *scanner) records() int32 { return s.int32At(batchRecordsAt) }

func (s *scanner) lastDelta() int32 { return s.int32At(batchLastDeltaAt) }

// times returns the batch's first and greatest timestamps. With log append time the
// greatest is that of every record, whatever the first field says.
func (s *scanner) times() (first, greatest int64) {
	greatest = s.int64At(batchMaxTimeAt)
	if s.attributes()&attrLogAppendTime != 0 {
		return greatest, greatest
	}
	return s.int64At(batchFirstTimeAt), greatest
}

// VerifyBatches reports whether the slices together are whole record batches, each with
// the checksum that its header states; otherwise the error is ErrCorrupt. Of a batch,
// only base offset and leader epoch are outside its checksum, and these the reader sets
// itself; a flip of the length or the magic is found by the walk.
func VerifyBatches(slices [][]byte) error {
	var s scanner
	s.reset(slices)
	for {
		ok, err := s.next()
		if err != nil || !ok {
			return err
		}
		if err := s.verify(); err != nil {
			return err
		}
	}
}

// VerifyChunk compares the bytes of a chunk with its index entry and every batch with its
// own checksum. The error is ErrCorrupt.
func VerifyChunk(e Entry, slices [][]byte) error {
	var crc uint32
	var n int64
	for _, p := range slices {
		crc = crc32.Update(crc, castagnoli, p)
		n += int64(len(p))
	}
	if n != e.Length {
		return corrupt("chunk at %d: %d bytes, the index has %d", e.Position, n, e.Length)
	}
	if err := VerifyBatches(slices); err != nil {
		return err
	}
	if crc != e.CRC {
		return corrupt("chunk at %d: CRC-32C is %08x, the index has %08x", e.Position, crc, e.CRC)
	}
	got := Entry{Position: e.Position}
	if err := describe(&got, new(scanner), slices); err != nil {
		return err
	}
	if got.Records != e.Records || got.Batches != e.Batches || got.MinTimestamp != e.MinTimestamp || got.MaxTimestamp != e.MaxTimestamp {
		return corrupt("chunk at %d: %d batches, %d records, time %d to %d; the index has %d, %d, %d to %d", e.Position,
			got.Batches, got.Records, got.MinTimestamp, got.MaxTimestamp, e.Batches, e.Records, e.MinTimestamp, e.MaxTimestamp)
	}
	return nil
}
