package shard

import (
	"github.com/floelog/floe/tiering"
)

// What coordinators keep in a shard. A consumer group and a transactional id belong to the
// shard of their name's hash, whose leader is their coordinator. The state of membership and
// of transactions is theirs to understand: here it is rows of bytes, each under a name and a
// key. Offsets and what transactions do to partitions are typed, because invariants of the
// log hang on them.

// Space is a kind of name that coordinators keep rows of. The numbers are part of the format.
type Space uint8

// The spaces.
const (
	Groups       Space = 1 // consumer groups, by group id
	Transactions Space = 2 // transactional ids
)

// Row is one row of a name.
type Row struct {
	Key   string
	Value []byte // empty: the row is deleted
}

// PutRows writes and deletes rows of a name; a name without rows is forgotten. The state
// keeps the values.
type PutRows struct {
	Space Space
	Name  string
	Rows  []Row
}

// Transaction tells a transaction from any other of its producer.
type Transaction struct {
	ProducerID int64
	Epoch      int16
	// Number counts the transactions of a transactional id, from 1. A late request of
	// transaction n is told by it from one of n+1, although both may have the same epoch
	// (KAFKA-17754, KIP-890).
	Number int64
}

// CommitOffsets commits offsets of a group: at once where Transaction.Number is 0, and
// otherwise when the transaction is concluded.
type CommitOffsets struct {
	Group       string
	Transaction Transaction
	Offsets     []GroupOffset
}

// GroupOffset is one committed offset, as a record names it.
type GroupOffset struct {
	Partition tiering.TopicPartition
	Offset    tiering.Offset
	Epoch     tiering.LeaderEpoch // of the last record consumed, -1 where not known
	Metadata  string
	Expires   int64 // milliseconds since 1970; -1: by the group's retention
}

// ConcludeOffsets makes the offsets of a transaction the group's committed ones, or
// forgets them. Later offsets of this transaction, or of one before it, are refused. It does nothing
// if this transaction, or a later one, was concluded before.
type ConcludeOffsets struct {
	Group       string
	Transaction Transaction
	Commit      bool
}

// DeleteOffsets forgets offsets of a group, committed and pending.
type DeleteOffsets struct {
	Group      string
	Partitions []tiering.TopicPartition
}

// DropGroup forgets a group: rows, offsets and all, also which transactions have ended.
type DropGroup struct{ Group string }

// Mark ends a transaction in one partition: a control batch is appended, inline, and the
// producer's state in the partition remembers the end.
type Mark struct {
	Partition   tiering.TopicPartition
	Base        tiering.Offset // must be the partition's next offset
	Transaction Transaction    // Epoch is the marker's, which may be above the transaction's (KIP-890); Number is above 0
	Commit      bool
	Coordinator int32  // coordinator epoch
	Timestamp   int64  // of the marker, milliseconds
	Batch       []byte // the control batch, with base offset 0
}

// Marker asks a leader for a Mark; see Draft.Mark.
type Marker struct {
	Partition   tiering.TopicPartition
	Transaction Transaction // Number 0: whichever is open, an operator's request
	Commit      bool
	Coordinator int32
}

// CommittedOffset is a committed offset as the state knows it.
type CommittedOffset struct {
	GroupOffset
	Committed int64 // leader's time of the commit (of the transaction's offsets, when they were sent)

	write uint64 // which of the shard's CommitOffsets wrote it, from 1
}

// Group is what a shard knows of a group's offsets. Readers must not change it, nor keep it: the
// next record may.
type Group struct {
	Offsets   map[tiering.TopicPartition]CommittedOffset
	Producers map[int64]*GroupProducer // transactional producers that have committed offsets, by id
}

// GroupProducer is what is known of a transactional producer in one group.
type GroupProducer struct {
	Epoch   int16
	Ended   int64                                      // number of the last transaction concluded, 0 for none
	Open    int64                                      // number of the open transaction, 0 for none
	Pending map[tiering.TopicPartition]CommittedOffset // of the open transaction
	Updated int64                                      // leader's time of the last change, milliseconds
}

// OpenTransaction is a transaction that has records in a partition and no marker yet.
type OpenTransaction struct {
	Transaction
	First tiering.Offset // its first record's
	Since int64          // leader's time of it, milliseconds
}

// AbortedTransaction is a run of offsets in which the records of a producer are void.
type AbortedTransaction struct {
	ProducerID int64
	First      tiering.Offset // the transaction's first record's
	Last       tiering.Offset // the marker's
}

// ProducerState is what is known of a producer in one partition, for DescribeProducers
// (KIP-664).
type ProducerState struct {
	ProducerID  int64
	Epoch       int16
	LastSeq     int32          // -1: none
	Updated     int64          // leader's time of its last batch or marker, milliseconds
	Coordinator int32          // epoch of the coordinator that wrote its last marker, -1: none
	OpenSince   tiering.Offset // first offset of its open transaction, -1: none
}
