package protocol

import (
	"encoding/binary"
	"fmt"
	"iter"
)

// maxProduceVersion is the highest version of Produce that DecodeProduce reads: 13, which
// names topics by their ids (KIP-516). Versions 0 to 2 differ in having no transactional id.
const maxProduceVersion = 13

// MaxProducePartitions bounds the partition entries of a produce request. An entry takes 10
// bytes to send and hundreds while it is served, so that a frame of empty ones would cost
// fifty times its size. Kafka's clients stay below it by far: a request of theirs is 1 MiB
// unless told otherwise, and the smallest batch has 61 bytes. A client that goes beyond is
// none of them, and building so large an answer for it would be what it is after: its
// connection ends.
const MaxProducePartitions = 64 << 10

// ProduceRequest is a decoded produce request. It holds positions within the frame, no
// copies, and nothing that grows with what the frame claims.
type ProduceRequest struct {
	// TransactionalID is nil for null.
	TransactionalID []byte
	Acks            int16
	TimeoutMillis   int32
	// Partitions counts the partitions over all topics, at most MaxProducePartitions. It is
	// real, not claimed, and so may be used to size an answer.
	Partitions int
	// NumTopics counts the topics, likewise, and with the same bound.
	NumTopics int

	version int16
	topics  []byte // the topics, checked
}

// ProduceTopic is one topic of a produce request.
type ProduceTopic struct {
	Name       []byte   // up to version 12; aliases the frame
	ID         [16]byte // from version 13 on
	Partitions int

	version    int16
	partitions []byte
}

// ProducePartition is what was produced to one partition.
type ProducePartition struct {
	Index   int32
	Records []byte // nil for null; aliases the frame and may be written to
}

// DecodeProduce checks the whole of a produce request's body without allocating, in any
// version from 0 to 13. Errors are ErrMalformed.
//
//	transactional id  nullable string, version 3 on
//	acks              i16
//	timeout           i32
//	topics            array of: name, or UUID from version 13 on
//	                            array of: partition i32, records nullable bytes, tags
//	                            tags
//	tags
//
// From version 9 on, lengths are compact and the tags are there.
func DecodeProduce(version int16, body []byte) (ProduceRequest, error) {
	if version < 0 || version > maxProduceVersion {
		return ProduceRequest{}, fmt.Errorf("%w: produce version %d is unknown", ErrMalformed, version)
	}
	r := ProduceRequest{version: version}
	c := cursor{b: body, flexible: version >= 9}
	if version >= 3 {
		r.TransactionalID = c.nullableString()
	}
	r.Acks = int16(c.fixed(2))
	r.TimeoutMillis = int32(c.fixed(4))
	n := c.count()
	r.topics = c.b
	for ; n > 0 && !c.bad; n-- {
		t := c.topic(version)
		c.b = t.partitions
		for p := t.Partitions; p > 0 && !c.bad && r.Partitions <= MaxProducePartitions; p-- {
			c.partition()
			r.Partitions++
		}
		c.tags()
		if r.NumTopics++; r.NumTopics > MaxProducePartitions || r.Partitions > MaxProducePartitions {
			return ProduceRequest{}, fmt.Errorf("%w: produce version %d: more than %d topics or partitions", ErrMalformed, version, MaxProducePartitions)
		}
	}
	c.tags()
	if c.bad || len(c.b) > 0 {
		return ProduceRequest{}, fmt.Errorf("%w: produce version %d: %d bytes are left where it ends or breaks off",
			ErrMalformed, version, len(c.b))
	}
	return r, nil
}

// Topics yields the topics in the request's order.
func (r *ProduceRequest) Topics() iter.Seq[ProduceTopic] {
	return func(yield func(ProduceTopic) bool) {
		c := cursor{b: r.topics, flexible: r.version >= 9}
		for range r.NumTopics {
			t := c.topic(r.version)
			if !yield(t) {
				return
			}
			c.b = t.partitions
			for range t.Partitions {
				c.partition()
			}
			c.tags()
		}
	}
}

// All yields the topic's partitions in the request's order.
func (t *ProduceTopic) All() iter.Seq[ProducePartition] {
	return func(yield func(ProducePartition) bool) {
		c := cursor{b: t.partitions, flexible: t.version >= 9}
		for range t.Partitions {
			if !yield(c.partition()) {
				return
			}
		}
	}
}

// cursor reads on through a body; bad sticks.
type cursor struct {
	b        []byte
	flexible bool
	bad      bool
}

func (c *cursor) fail() {
	c.bad = true
	c.b = nil
}

// take cuts off the next n bytes.
func (c *cursor) take(n int) []byte {
	if n < 0 || n > len(c.b) {
		c.fail()
		return nil
	}
	out := c.b[:n:n]
	c.b = c.b[n:]
	return out
}

// fixed reads a big-endian number of 2 or 4 bytes.
func (c *cursor) fixed(n int) uint32 {
	b := c.take(n)
	if c.bad {
		return 0
	}
	if n == 2 {
		return uint32(binary.BigEndian.Uint16(b))
	}
	return binary.BigEndian.Uint32(b)
}

// compact reads a compact length: one more than the length, 0 for null (-1).
func (c *cursor) compact() int {
	n, rest, ok := uvarint(c.b)
	if !ok {
		c.fail()
		return 0
	}
	c.b = rest
	return int(n) - 1
}

func (c *cursor) stringLen() int {
	if c.flexible {
		return c.compact()
	}
	return int(int16(c.fixed(2)))
}

func (c *cursor) nullableString() []byte {
	n := c.stringLen()
	if n == -1 {
		return nil
	}
	return c.take(n)
}

// count reads an array's count. It is not believed: whoever loops stops at bad.
func (c *cursor) count() int {
	n := 0
	if c.flexible {
		n = c.compact()
	} else {
		n = int(int32(c.fixed(4)))
	}
	if n < 0 {
		c.fail()
		return 0
	}
	return n
}

func (c *cursor) tags() {
	if !c.flexible || c.bad {
		return
	}
	rest, ok := skipTags(c.b, maxUnknownTags)
	if !ok {
		c.fail()
		return
	}
	c.b = rest
}

// topic reads up to the first partition.
func (c *cursor) topic(version int16) ProduceTopic {
	t := ProduceTopic{version: version}
	if version >= 13 {
		copy(t.ID[:], c.take(len(t.ID)))
	} else {
		t.Name = c.take(c.stringLen())
	}
	t.Partitions = c.count()
	t.partitions = c.b
	return t
}

func (c *cursor) partition() ProducePartition {
	p := ProducePartition{Index: int32(c.fixed(4))}
	n := 0
	if c.flexible {
		n = c.compact()
	} else {
		n = int(int32(c.fixed(4)))
	}
	if n != -1 {
		p.Records = c.take(n)
	}
	c.tags()
	return p
}
