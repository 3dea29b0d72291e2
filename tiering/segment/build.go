package segment

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
)

// Chunk is what Build is to store for one partition.
type Chunk struct {
	Shard          tiering.ShardID
	TopicPartition tiering.TopicPartition

	// Base is the offset of the first record. At level 0 nobody knows it yet and it is
	// ignored.
	Base tiering.Offset

	// Slices are together whole record batches whose checksums have been verified. A
	// batch may lie across slices. Nobody may change the bytes while the segment is in use.
	Slices [][]byte
}

// Built is a segment ready to be put.
type Built struct {
	Body    objstore.Body // header, the chunks' own slices, index and footer
	Entries []Entry       // Entries[i] describes chunks[i], after Build has sorted them
	Size    int64         // of the body
	CRC32C  uint32        // of the body, for a store that takes the sum beside the bytes
}

// Build lays out a segment of the given chunks, which it first sorts in place by shard,
// topic id and partition. It copies no record bytes and reads only the batches' headers.
// A segment without chunks is valid: it carries journal records. The error is ErrInvalid.
func Build(h Header, chunks []Chunk) (*Built, error) {
	if len(chunks) > MaxChunks {
		return nil, fmt.Errorf("%w: %d chunks, at most %d fit in a segment", ErrInvalid, len(chunks), MaxChunks)
	}
	size, err := headerSize(&h)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(chunks, func(a, b Chunk) int {
		if a.Shard != b.Shard {
			return int(int64(a.Shard) - int64(b.Shard))
		}
		return a.TopicPartition.Compare(b.TopicPartition)
	})
	parts := 2
	for i := range chunks {
		parts += len(chunks[i].Slices)
	}
	header := appendHeader(make([]byte, 0, size), &h, size)
	out := &Built{
		Body:    append(make(objstore.Body, 0, parts), header),
		Entries: make([]Entry, len(chunks)),
		CRC32C:  crc32.Checksum(header, castagnoli),
	}
	tail := make([]byte, 0, len(chunks)*entryBytes+FooterBytes)
	position := tiering.Position(size)
	var s scanner
	for i := range chunks {
		c, e := &chunks[i], &out.Entries[i]
		*e = Entry{Shard: c.Shard, TopicPartition: c.TopicPartition, Position: position, Base: c.Base}
		if h.Level == 0 {
			e.Base = Unassigned
		}
		if err := fill(e, &s, c.Slices); err != nil {
			return nil, err
		}
		if i > 0 && out.Entries[i-1].compare(*e) == 0 {
			return nil, fmt.Errorf("%w: two chunks of %s", ErrInvalid, e.TopicPartition)
		}
		out.Body = append(out.Body, c.Slices...)
		out.CRC32C = combineCRC(out.CRC32C, e.CRC, e.Length)
		tail = appendEntry(tail, e)
		position = e.End()
	}
	tail = appendFooter(tail, &Footer{
		IndexPosition: position,
		IndexLength:   int64(len(tail)),
		IndexCRC:      crc32.Checksum(tail, castagnoli),
		HeaderLength:  size,
	})
	out.Body = append(out.Body, tail)
	out.CRC32C = crc32.Update(out.CRC32C, castagnoli, tail)
	out.Size = int64(position) + int64(len(tail))
	return out, nil
}

// fill completes the entry of a chunk and checks what the caller said of it.
func fill(e *Entry, s *scanner, slices [][]byte) error {
	if err := describe(e, s, slices); err != nil {
		return fmt.Errorf("%w: chunk of %s: %v", ErrInvalid, e.TopicPartition, err)
	}
	switch {
	case e.Batches == 0:
		return fmt.Errorf("%w: chunk of %s is empty", ErrInvalid, e.TopicPartition)
	case e.TopicPartition.Partition < 0:
		return fmt.Errorf("%w: partition of %s is negative", ErrInvalid, e.TopicPartition)
	case e.Base < Unassigned:
		return fmt.Errorf("%w: base offset %d of %s", ErrInvalid, e.Base, e.TopicPartition)
	}
	return nil
}

// describe derives an entry's length, counts, timestamps and checksum from the headers
// of the batches, see crc.go.
func describe(e *Entry, s *scanner, slices [][]byte) error {
	s.reset(slices)
	e.Length = s.left
	for {
		ok, err := s.next()
		if err != nil || !ok {
			return err
		}
		first, greatest := s.times()
		if e.Batches == 0 {
			e.MinTimestamp, e.MaxTimestamp = first, greatest
		}
		e.MinTimestamp = min(e.MinTimestamp, first)
		e.MaxTimestamp = max(e.MaxTimestamp, greatest)
		e.Records += int64(binary.BigEndian.Uint32(s.head[batchRecordsAt:]))
		e.Batches++
		e.CRC = crc32.Update(e.CRC, castagnoli, s.head[:batchAttributesAt])
		e.CRC = combineCRC(e.CRC, s.crc(), s.length-batchAttributesAt)
		s.pass()
	}
}
