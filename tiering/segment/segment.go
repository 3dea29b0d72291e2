// Package segment is the format of a segment: the immutable object that holds record
// batches of many partitions with its own index at the end. Every level of Floe's store,
// from a flush to a large merged object, has this one format.
//
//	+--------+---------+---------+-----+-------+--------+
//	| header | chunk 0 | chunk 1 | ... | index | footer |
//	+--------+---------+---------+-----+-------+--------+
//	0                                                   object size
//
// The byte diagrams stand beside the encoders: header.go, index.go, footer.go. Numbers
// are big endian, like Kafka's. A chunk is the unchanged record batches (format v2) of one
// partition, whole batches only, one after the other.
//
// Invariants:
//  1. Chunks are contiguous, follow the header at once and end where the index starts.
//  2. Chunks ascend strictly by (shard, topic id, partition): one chunk per partition.
//  3. Every byte is under a checksum that a reader compares: header, index and footer have
//     one each, the index holds that of every chunk.
//  4. A decoder allocates no more than a constant times the bytes it is given.
//
// Versions: one number in header and footer stands for the whole file. Any change of a
// layout takes a new one. Build writes the newest only; the decoders read every version
// from 1 up for ever, and answer ErrVersion to one that they do not know yet. The golden
// files in testdata hold one segment of each version and are never rewritten.
//
// The package does no I/O and keeps no state: everything may be called concurrently, on
// bytes that nobody changes meanwhile.
package segment

import (
	"errors"
	"fmt"

	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
)

// Version is the version that Build writes.
const Version = 1

// Unassigned is the base offset of a chunk that was written before its batches were
// given offsets: that of all chunks of level 0.
const Unassigned tiering.Offset = -1

// Limits of a segment, kept by Build and checked by the decoders.
const (
	// MaxHeaderBytes bounds the header, and so what it carries. Not smaller: one journal
	// record may be 1 MiB, and an agent commits several between two flushes. Not larger:
	// a reader holds the header in memory.
	MaxHeaderBytes = 16 << 20

	// MaxChunks bounds the index to 20 MiB. Not smaller: a flush holds a chunk of every
	// partition that was written to. Not larger: a reader holds the index in memory.
	MaxChunks = 1 << 18
)

// ErrCorrupt says that bytes are not those of a segment, or not any more. The error that
// wraps it says what was found where. It is also an objstore.ErrCorrupt.
var ErrCorrupt = fmt.Errorf("segment: %w", objstore.ErrCorrupt)

// ErrVersion says that a newer Floe wrote the segment.
var ErrVersion = errors.New("segment: version not supported")

// ErrInvalid says that Build was handed something that no segment may hold.
var ErrInvalid = errors.New("segment: invalid content")

// Frame returns how many bytes a segment of so many chunks has beside their batches, if it carries
// no journal records.
func Frame(chunks int) int64 { return headerMin + FooterBytes + int64(chunks)*entryBytes }

// Header says who wrote a segment, when and for which cluster.
type Header struct {
	Version   uint16 // as read; Build writes Version
	Level     uint8  // 0 a flush, 1 merged flushes, 2 one partition's long run
	Cluster   [16]byte
	ID        tiering.SegmentID
	CreatedAt int64 // milliseconds since 1970, by the writer's clock; for people only

	// Carry holds the journal records that the agent committed since its segment before
	// this one, so that a cluster whose etcd is lost can be rebuilt from the bucket.
	Carry []JournalRecord
}

// JournalRecord is a journal record as it was committed; its bytes are opaque here.
type JournalRecord struct {
	Shard tiering.ShardID
	Seq   uint64
	Bytes []byte
}

// Entry is the index's description of one chunk.
type Entry struct {
	Shard          tiering.ShardID
	TopicPartition tiering.TopicPartition
	Position       tiering.Position // of the chunk's first byte within the object
	Length         int64            // bytes, at least one batch
	Base           tiering.Offset   // of the first record, or Unassigned
	MinTimestamp   int64            // least first timestamp of the batches, milliseconds
	MaxTimestamp   int64            // greatest timestamp of the batches, milliseconds
	Records        int64            // as the batches' headers count them
	Batches        uint32           // at least 1
	CRC            uint32           // CRC-32C of the chunk's bytes
}

// End returns the position after the chunk's last byte.
func (e Entry) End() tiering.Position { return e.Position + tiering.Position(e.Length) }

func (e Entry) compare(o Entry) int {
	if e.Shard != o.Shard {
		return int(int64(e.Shard) - int64(o.Shard))
	}
	return e.TopicPartition.Compare(o.TopicPartition)
}

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
}
