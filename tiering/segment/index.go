package segment

import (
	"encoding/binary"
	"hash/crc32"
	"math"

	"github.com/floelog/floe/tiering"
)

// Index, version 1: one entry per chunk, in the order of the chunks.
//
//	 0   4  shard
//	 4  16  topic id
//	20   4  partition
//	24   8  position of the chunk
//	32   8  length of the chunk
//	40   8  base offset, -1 if none was assigned
//	48   8  min timestamp
//	56   8  max timestamp
//	64   8  records
//	72   4  batches
//	76   4  CRC-32C of the chunk's bytes
const entryBytes = 80

// batchHeaderBytes is the size of a record batch without records.
const batchHeaderBytes = 61

func appendEntry(b []byte, e *Entry) []byte {
	be := binary.BigEndian
	b = be.AppendUint32(b, uint32(e.Shard))
	b = append(b, e.TopicPartition.Topic[:]...)
	b = be.AppendUint32(b, uint32(e.TopicPartition.Partition))
	b = be.AppendUint64(b, uint64(e.Position))
	b = be.AppendUint64(b, uint64(e.Length))
	b = be.AppendUint64(b, uint64(e.Base))
	b = be.AppendUint64(b, uint64(e.MinTimestamp))
	b = be.AppendUint64(b, uint64(e.MaxTimestamp))
	b = be.AppendUint64(b, uint64(e.Records))
	b = be.AppendUint32(b, e.Batches)
	return be.AppendUint32(b, e.CRC)
}

func decodeEntry(b []byte) Entry {
	be := binary.BigEndian
	e := Entry{
		Shard:        tiering.ShardID(be.Uint32(b)),
		Position:     tiering.Position(be.Uint64(b[24:])),
		Length:       int64(be.Uint64(b[32:])),
		Base:         tiering.Offset(be.Uint64(b[40:])),
		MinTimestamp: int64(be.Uint64(b[48:])),
		MaxTimestamp: int64(be.Uint64(b[56:])),
		Records:      int64(be.Uint64(b[64:])),
		Batches:      be.Uint32(b[72:]),
		CRC:          be.Uint32(b[76:]),
	}
	copy(e.TopicPartition.Topic[:], b[4:])
	e.TopicPartition.Partition = int32(be.Uint32(b[20:]))
	return e
}

// ParseIndex decodes the index that f describes: the f.IndexLength bytes of the object
// from f.IndexPosition on. Errors are ErrCorrupt.
func ParseIndex(b []byte, f Footer) ([]Entry, error) {
	if int64(len(b)) != f.IndexLength {
		return nil, corrupt("index: %d bytes, want %d", len(b), f.IndexLength)
	}
	if f.IndexLength%entryBytes != 0 || f.IndexLength > MaxChunks*entryBytes {
		return nil, corrupt("index: length %d is not that of up to %d entries of %d bytes", f.IndexLength, MaxChunks, entryBytes)
	}
	if got := crc32.Checksum(b, castagnoli); got != f.IndexCRC {
		return nil, corrupt("index: CRC-32C is %08x, the footer has %08x", got, f.IndexCRC)
	}
	entries := make([]Entry, len(b)/entryBytes)
	for i := range entries {
		e := decodeEntry(b[i*entryBytes:])
		if err := checkEntry(e, i, f); err != nil {
			return nil, err
		}
		if i == 0 && int64(e.Position) != int64(f.HeaderLength) {
			return nil, corrupt("index entry 0: position %d, the header ends at %d", e.Position, f.HeaderLength)
		}
		if i > 0 {
			prev := entries[i-1]
			if e.Position != prev.End() {
				return nil, corrupt("index entry %d: position %d, the chunk before ends at %d", i, e.Position, prev.End())
			}
			if prev.compare(e) >= 0 {
				return nil, corrupt("index entry %d: shard %d, %s is not after shard %d, %s",
					i, e.Shard, e.TopicPartition, prev.Shard, prev.TopicPartition)
			}
		}
		entries[i] = e
	}
	if n := len(entries); n > 0 && entries[n-1].End() != f.IndexPosition {
		return nil, corrupt("index: chunks end at %d, the index starts at %d", entries[n-1].End(), f.IndexPosition)
	}
	return entries, nil
}

func checkEntry(e Entry, i int, f Footer) error {
	switch {
	case int64(e.Position) < int64(f.HeaderLength) || e.Position >= f.IndexPosition:
		return corrupt("index entry %d: position %d outside [%d, %d)", i, e.Position, f.HeaderLength, f.IndexPosition)
	case e.Length < batchHeaderBytes || e.Length > int64(f.IndexPosition-e.Position):
		return corrupt("index entry %d: length %d, want %d to %d", i, e.Length, batchHeaderBytes, f.IndexPosition-e.Position)
	case e.Batches == 0 || int64(e.Batches) > e.Length/batchHeaderBytes:
		return corrupt("index entry %d: %d batches in %d bytes", i, e.Batches, e.Length)
	case e.Records < 0 || e.Records > int64(e.Batches)*math.MaxInt32:
		return corrupt("index entry %d: %d records in %d batches", i, e.Records, e.Batches)
	case e.Base < Unassigned:
		return corrupt("index entry %d: base offset %d", i, e.Base)
	case e.TopicPartition.Partition < 0:
		return corrupt("index entry %d: partition %d", i, e.TopicPartition.Partition)
	}
	return nil
}
