package shard

import (
	"math"

	"github.com/floelog/floe/tiering"
)

// The changes that came with version 2 of the record format. Strings and values are bytes of
// any kind, led by their length.

func (PutRows) kind() changeKind         { return kindPutRows }
func (CommitOffsets) kind() changeKind   { return kindCommitOffsets }
func (ConcludeOffsets) kind() changeKind { return kindConcludeOffsets }
func (DeleteOffsets) kind() changeKind   { return kindDeleteOffsets }
func (DropGroup) kind() changeKind       { return kindDropGroup }
func (Mark) kind() changeKind            { return kindMark }

const (
	minRowBytes         = 2
	minGroupOffsetBytes = 16 + 1 + 1 + 1 + 1 + 1
	minPartitionBytes   = 16 + 1
)

func (e *encoder) string(s string) {
	e.uint(uint64(len(s)))
	e.b = append(e.b, s...)
}

func (d *decoder) string() string { return string(d.bytes()) }

// value reads bytes that are kept for long: a copy, or a small row would keep the whole
// record alive. Empty is nil.
func (d *decoder) value() []byte {
	b := d.bytes()
	if len(b) == 0 {
		return nil
	}
	return append(make([]byte, 0, len(b)), b...)
}

func (e *encoder) bool(v bool) {
	if v {
		e.b = append(e.b, 1)
	} else {
		e.b = append(e.b, 0)
	}
}

func (d *decoder) bool(what string) bool { return d.limited(1, what) == 1 }

// producer id varint | epoch varint | number varint
func (e *encoder) transaction(t Transaction) {
	e.int(t.ProducerID)
	e.int(int64(t.Epoch))
	e.int(t.Number)
}

func (d *decoder) transaction() Transaction {
	return Transaction{
		ProducerID: d.int(),
		Epoch:      int16(d.between(math.MinInt16, math.MaxInt16, "producer epoch")),
		Number:     d.int(),
	}
}

func (d *decoder) space() Space {
	s := Space(d.limited(math.MaxUint8, "space"))
	if s != Groups && s != Transactions {
		d.fail("unknown space")
	}
	return s
}

// space uvarint | name bytes | rows: count, each (key bytes, value bytes; empty: deleted)
func (c PutRows) encode(e *encoder) {
	e.uint(uint64(c.Space))
	e.string(c.Name)
	e.uint(uint64(len(c.Rows)))
	for _, r := range c.Rows {
		e.string(r.Key)
		e.bytes(r.Value)
	}
}

func (d *decoder) putRows() PutRows {
	c := PutRows{Space: d.space(), Name: d.string()}
	if n := d.count(minRowBytes, "row"); n > 0 {
		c.Rows = make([]Row, n)
	}
	for i := range c.Rows {
		c.Rows[i] = Row{Key: d.string(), Value: d.value()}
	}
	return c
}

// partition | offset varint | leader epoch varint | metadata bytes | expires varint
func (e *encoder) groupOffset(o GroupOffset) {
	e.partition(o.Partition)
	e.int(int64(o.Offset))
	e.int(int64(o.Epoch))
	e.string(o.Metadata)
	e.int(o.Expires)
}

func (d *decoder) groupOffset() GroupOffset {
	return GroupOffset{
		Partition: d.partition(),
		Offset:    tiering.Offset(d.int()),
		Epoch:     tiering.LeaderEpoch(d.between(math.MinInt32, math.MaxInt32, "leader epoch")),
		Metadata:  d.string(),
		Expires:   d.int(),
	}
}

// group bytes | transaction | offsets: count, each as in groupOffset
func (c CommitOffsets) encode(e *encoder) {
	e.string(c.Group)
	e.transaction(c.Transaction)
	e.uint(uint64(len(c.Offsets)))
	for _, o := range c.Offsets {
		e.groupOffset(o)
	}
}

func (d *decoder) commitOffsets() CommitOffsets {
	c := CommitOffsets{Group: d.string(), Transaction: d.transaction()}
	if n := d.count(minGroupOffsetBytes, "offset"); n > 0 {
		c.Offsets = make([]GroupOffset, n)
	}
	for i := range c.Offsets {
		c.Offsets[i] = d.groupOffset()
	}
	return c
}

// group bytes | transaction | commit 1 byte, 0 or 1
func (c ConcludeOffsets) encode(e *encoder) {
	e.string(c.Group)
	e.transaction(c.Transaction)
	e.bool(c.Commit)
}

// group bytes | partitions: count, each
func (c DeleteOffsets) encode(e *encoder) {
	e.string(c.Group)
	e.uint(uint64(len(c.Partitions)))
	for _, tp := range c.Partitions {
		e.partition(tp)
	}
}

func (d *decoder) deleteOffsets() DeleteOffsets {
	c := DeleteOffsets{Group: d.string()}
	if n := d.count(minPartitionBytes, "partition"); n > 0 {
		c.Partitions = make([]tiering.TopicPartition, n)
	}
	for i := range c.Partitions {
		c.Partitions[i] = d.partition()
	}
	return c
}

func (c DropGroup) encode(e *encoder) { e.string(c.Group) }

// partition | base uvarint | transaction | commit 1 byte, 0 or 1 | coordinator epoch varint |
// timestamp varint | control batch bytes
func (c Mark) encode(e *encoder) {
	e.partition(c.Partition)
	e.uint(uint64(c.Base))
	e.transaction(c.Transaction)
	e.bool(c.Commit)
	e.int(int64(c.Coordinator))
	e.int(c.Timestamp)
	e.bytes(c.Batch)
}

func (d *decoder) mark() Mark {
	return Mark{
		Partition: d.partition(), Base: tiering.Offset(d.int63("offset")),
		Transaction: d.transaction(), Commit: d.bool("commit"),
		Coordinator: int32(d.between(math.MinInt32, math.MaxInt32, "coordinator epoch")),
		Timestamp:   d.int(), Batch: d.bytes(),
	}
}
