package txn

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/floelog/floe/tiering"
)

// status is where a transactional id stands. The numbers are Kafka's and part of the row's
// format. Kafka's Dead and PrepareEpochFence are passing states of its memory: a forgotten
// id has no row here, and a fence is decided and prepared in one step.
type status uint8

const (
	empty          status = 0 // no transaction since the last InitProducerId
	ongoing        status = 1
	prepareCommit  status = 2
	prepareAbort   status = 3
	completeCommit status = 4
	completeAbort  status = 5
)

// statusNames are the names that DescribeTransactions and ListTransactions use, of all states
// that Kafka knows.
var statusNames = [...]string{
	"Empty", "Ongoing", "PrepareCommit", "PrepareAbort", "CompleteCommit", "CompleteAbort", "Dead", "PrepareEpochFence",
}

func (s status) String() string { return statusNames[s] }

// prepared reports whether a transaction is decided and not yet concluded everywhere.
func (s status) prepared() bool { return s == prepareCommit || s == prepareAbort }

// complete reports whether the last transaction is concluded everywhere.
func (s status) complete() bool { return s == completeCommit || s == completeAbort }

// lastEpoch is the highest epoch that a producer is given: the one above is kept for fencing
// it, after which its id has a new producer id.
const lastEpoch = math.MaxInt16 - 1

// row is all that is kept of a transactional id.
type row struct {
	status     status
	version    int8  // of the protocol by which its last transaction was joined, and then ended
	producer   int64 // producer id
	previous   int64 // the producer id before, as long as its last request may be repeated; or -1
	next       int64 // the producer id after this transaction, where epochs have run out; or -1
	epoch      int16 // while prepared by version 2: the markers', above the producer's own
	last       int16 // the epoch before, as long as its last request may be repeated; or -1
	timeout    int32 // of transactions, milliseconds
	number     int64 // of the last transaction, from 1
	started    int64 // leader's time of the last transaction's start, milliseconds, or -1
	updated    int64 // leader's time of the last change, milliseconds
	partitions []Partition
	groups     []Group
}

// rowKey is the key of an id's only row.
const rowKey = "t"

const rowVersion = 1

// encode writes the row. Numbers are varints, signed ones in zig-zag.
//
//	version 1 byte = 1
//	status 1 byte | protocol 1 byte
//	producer | previous | next | epoch | last | timeout | number | started | updated   signed
//	topics: count, each (id 16 bytes | partitions: count, each (number | shard))
//	groups: count, each (name: length, bytes | shard)
//
// Topics, the partitions of each, and groups ascend. At least one partition has each topic.
func (r *row) encode() []byte {
	size := 64 + 8*len(r.partitions)
	for _, g := range r.groups {
		size += len(g.Name) + 8
	}
	b := make([]byte, 0, size)
	b = append(b, rowVersion, byte(r.status), byte(r.version))
	for _, v := range [...]int64{
		r.producer, r.previous, r.next, int64(r.epoch), int64(r.last), int64(r.timeout), r.number, r.started, r.updated,
	} {
		b = binary.AppendVarint(b, v)
	}
	topics := 0
	for i := range r.partitions {
		if i == 0 || r.partitions[i].Topic != r.partitions[i-1].Topic {
			topics++
		}
	}
	b = binary.AppendUvarint(b, uint64(topics))
	for rest := r.partitions; len(rest) > 0; {
		n := 1
		for n < len(rest) && rest[n].Topic == rest[0].Topic {
			n++
		}
		b = append(b, rest[0].Topic[:]...)
		b = binary.AppendUvarint(b, uint64(n))
		for _, p := range rest[:n] {
			b = binary.AppendUvarint(b, uint64(p.Partition))
			b = binary.AppendUvarint(b, uint64(p.Shard))
		}
		rest = rest[n:]
	}
	b = binary.AppendUvarint(b, uint64(len(r.groups)))
	for _, g := range r.groups {
		b = binary.AppendUvarint(b, uint64(len(g.Name)))
		b = append(b, g.Name...)
		b = binary.AppendUvarint(b, uint64(g.Shard))
	}
	return b
}

var errRow = errors.New("the row of a transactional id is corrupt")

// rowReader reads what encode wrote; the first thing wrong is kept in err.
type rowReader struct {
	b   []byte
	err error
}

func (r *rowReader) fail(what string) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s, %d bytes before the end", errRow, what, len(r.b))
	}
	r.b = nil
}

func (r *rowReader) raw(n int) []byte {
	if n > len(r.b) {
		r.fail("cut short")
		return make([]byte, min(n, 16))
	}
	v := r.b[:n]
	r.b = r.b[n:]
	return v
}

func (r *rowReader) signed(low, high int64, what string) int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 || n > 1 && r.b[n-1] == 0 || v < low || v > high {
		r.fail(what)
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *rowReader) unsigned(high uint64, what string) uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || n > 1 && r.b[n-1] == 0 || v > high {
		r.fail(what)
		return 0
	}
	r.b = r.b[n:]
	return v
}

// count reads a number of things of at least size bytes each, so that no more are ever
// allocated than the input can hold.
func (r *rowReader) count(size int, what string) int {
	return int(r.unsigned(uint64(len(r.b)/size), what))
}

// decodeRow reads a row. It keeps nothing of b.
func decodeRow(b []byte) (row, error) {
	in := rowReader{b: b}
	head := in.raw(3)
	if in.err == nil && head[0] != rowVersion {
		return row{}, fmt.Errorf("%w: version %d is not known, this agent reads %d", errRow, head[0], rowVersion)
	}
	if head[1] > byte(completeAbort) || head[2] > 2 {
		in.fail("status or protocol")
	}
	r := row{
		status:   status(head[1]),
		version:  int8(head[2]),
		producer: in.signed(0, math.MaxInt64, "producer id"),
		previous: in.signed(-1, math.MaxInt64, "previous producer id"),
		next:     in.signed(-1, math.MaxInt64, "next producer id"),
		epoch:    int16(in.signed(0, math.MaxInt16, "epoch")),
		last:     int16(in.signed(-1, lastEpoch, "last epoch")),
		timeout:  int32(in.signed(1, math.MaxInt32, "timeout")),
		number:   in.signed(0, math.MaxInt64, "number"),
		started:  in.signed(-1, math.MaxInt64, "start"),
		updated:  in.signed(0, math.MaxInt64, "last change"),
	}
	r.readPartitions(&in)
	r.readGroups(&in)
	if len(in.b) > 0 {
		in.fail("bytes after the end")
	}
	if in.err == nil {
		in.err = r.check()
	}
	if in.err != nil {
		return row{}, in.err
	}
	return r, nil
}

func (r *row) readPartitions(in *rowReader) {
	var before []byte
	for range in.count(16+1+2, "number of topics") {
		id := in.raw(16)
		n := in.count(2, "number of partitions")
		if in.err == nil && (n == 0 || bytes.Compare(before, id) >= 0 && before != nil) {
			in.fail("order of topics")
		}
		before = id
		r.partitions = slices.Grow(r.partitions, n)
		for i := range n {
			p := Partition{TopicPartition: tiering.TopicPartition{
				Topic:     tiering.TopicID(id),
				Partition: int32(in.unsigned(math.MaxInt32, "partition")),
			}}
			p.Shard = tiering.ShardID(in.unsigned(math.MaxUint32, "shard"))
			if i > 0 && in.err == nil && r.partitions[len(r.partitions)-1].Partition >= p.Partition {
				in.fail("order of partitions")
			}
			r.partitions = append(r.partitions, p)
		}
		if in.err != nil {
			return
		}
	}
}

func (r *row) readGroups(in *rowReader) {
	n := in.count(2, "number of groups")
	if n > 0 {
		r.groups = make([]Group, 0, n)
	}
	for i := range n {
		g := Group{Name: string(in.raw(in.count(1, "length of a group's name")))}
		g.Shard = tiering.ShardID(in.unsigned(math.MaxUint32, "shard"))
		if i > 0 && r.groups[i-1].Name >= g.Name {
			in.fail("order of groups")
		}
		if in.err != nil {
			return
		}
		r.groups = append(r.groups, g)
	}
}

// check says whether the parts of a row go together.
func (r *row) check() error {
	open := r.status == ongoing || r.status.prepared()
	switch {
	case open != (len(r.partitions)+len(r.groups) > 0):
		return fmt.Errorf("%w: %s with %d partitions and %d groups", errRow, r.status, len(r.partitions), len(r.groups))
	case (r.next >= 0) != (r.epoch > lastEpoch) || r.next >= 0 && !r.status.prepared():
		return fmt.Errorf("%w: %s with epoch %d and next producer id %d", errRow, r.status, r.epoch, r.next)
	case open && (r.number == 0 || r.started < 0):
		return fmt.Errorf("%w: %s without number or start", errRow, r.status)
	}
	return nil
}

func comparePartitions(a Partition, b tiering.TopicPartition) int { return a.TopicPartition.Compare(b) }

func compareGroups(a Group, b string) int { return cmp.Compare(a.Name, b) }

// hasPartition and hasGroup report whether one takes part, and where it belongs.
func (r *row) hasPartition(tp tiering.TopicPartition) (int, bool) {
	return slices.BinarySearchFunc(r.partitions, tp, comparePartitions)
}

func (r *row) hasGroup(name string) (int, bool) {
	return slices.BinarySearchFunc(r.groups, name, compareGroups)
}

// identity returns producer id and epoch that the producer has, or has as soon as the
// prepared transaction is concluded.
func (r *row) identity() (int64, int16) {
	if r.next >= 0 {
		return r.next, 0
	}
	return r.producer, r.epoch
}
