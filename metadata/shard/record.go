package shard

import (
	"github.com/floelog/floe/tiering"
)

// Record is one journal record: changes that take effect together or not at all.
type Record struct {
	Seq     uint64              // position in the shard's journal, from 1
	Epoch   tiering.LeaderEpoch // of the leader that wrote it
	Leader  tiering.SessionID   // of the leader that wrote it
	Nonce   uint64              // with Leader and Seq, tells this record from any other
	Time    int64               // leader's clock, milliseconds since 1970; never used for order
	Changes []Change
}

// Change is one fact of a record: one of the types below.
type Change interface {
	kind() changeKind
	encode(*encoder)
}

type changeKind uint8

// The numbers are part of the journal's format: never reuse one.
const (
	kindAppend          changeKind = 1
	kindSubmitted       changeKind = 2
	kindReplace         changeKind = 3 // of versions 1 and 2: one extent, without a digest
	kindTrim            changeKind = 4
	kindDropTopic       changeKind = 5
	kindForgetSession   changeKind = 6
	kindExpireProducers changeKind = 7
	kindPutRows         changeKind = 8
	kindCommitOffsets   changeKind = 9
	kindConcludeOffsets changeKind = 10
	kindDeleteOffsets   changeKind = 11
	kindDropGroup       changeKind = 12
	kindMark            changeKind = 13
	kindReplaceRun      changeKind = 14
	kindArchive         changeKind = 15
)

// Append adds record batches at the end of a partition.
type Append struct {
	Partition tiering.TopicPartition
	Base      tiering.Offset   // must be the partition's next offset
	Extents   []tiering.Extent // contiguous from Base; Base and Epoch of each are implied
	Producers []ProducerAppend // the batches of idempotent producers among them
}

// ProducerAppend is the part of an Append that an idempotent producer's state
// remembers of one batch.
type ProducerAppend struct {
	ProducerID        int64
	ProducerEpoch     int16
	FirstSeq, LastSeq int32
	Base              tiering.Offset
	Timestamp         int64 // of the batch's newest record, milliseconds
	Transaction       int64 // number of the transaction that it is part of, 0: none; see Transaction.Number
}

// Submitted remembers what became of an agent's submission, so that the agent can
// repeat it, to this leader or the next, until it hears the answer.
type Submitted struct {
	Session  tiering.SessionID
	Seq      uint64
	Outcomes []Outcome
}

// Outcome is the answer to one submitted batch.
type Outcome struct {
	Code Code
	Base tiering.Offset // of the batch's first record where Code is OK; of the original where it is a duplicate
}

// Code says what became of a submitted batch. The values are Kafka's error codes and
// part of the journal's format.
type Code int16

// The outcomes of a submitted batch.
const (
	OK                       Code = 0
	OutOfOrderSequence       Code = 45 // OUT_OF_ORDER_SEQUENCE_NUMBER
	InvalidProducerEpoch     Code = 47 // INVALID_PRODUCER_EPOCH
	UnknownTopicOrPartition  Code = 3  // the topic was deleted meanwhile
	TransactionNotAccepted   Code = 48 // INVALID_TXN_STATE
	DuplicateOfUnknownOffset Code = 46 // DUPLICATE_SEQUENCE_NUMBER
)

// Trim moves a partition's log start forward; never back.
type Trim struct {
	Partition tiering.TopicPartition
	LogStart  tiering.Offset
}

// DropTopic forgets all partitions of a deleted topic.
type DropTopic struct{ Topic tiering.TopicID }

// ForgetSession forgets the last submission of a session that is dead.
type ForgetSession struct{ Session tiering.SessionID }

// ExpireProducers forgets the producers, of partitions and of groups, that did nothing since
// Before and have no transaction open there.
type ExpireProducers struct{ Before int64 }

func (Append) kind() changeKind          { return kindAppend }
func (Submitted) kind() changeKind       { return kindSubmitted }
func (Replace) kind() changeKind         { return kindReplaceRun }
func (Archive) kind() changeKind         { return kindArchive }
func (Trim) kind() changeKind            { return kindTrim }
func (DropTopic) kind() changeKind       { return kindDropTopic }
func (ForgetSession) kind() changeKind   { return kindForgetSession }
func (ExpireProducers) kind() changeKind { return kindExpireProducers }
