// Package txn coordinates the transactions of one shard: a coordinator.Machine that knows
// which transactional id has which producer id and epoch, which partitions and groups take
// part in its open transaction, and that brings every transaction to its end.
//
//	Empty -> Ongoing -> PrepareCommit -> CompleteCommit -+
//	  ^         |   \-> PrepareAbort  -> CompleteAbort  -+-> Ongoing ...
//	  +---------+--------------- InitProducerId ---------+
//
// Invariants:
//  1. A transaction is decided once, by the row that says PrepareCommit or PrepareAbort.
//     Nothing is concluded before that row is committed, and what it decided never changes.
//  2. The next transaction of an id starts when all of the one before is concluded.
//  3. Producer id and epoch of an id never go back, and no producer is given epoch 32767: the
//     coordinator can always fence one with an epoch above its own.
//  4. All that matters is in the id's row: a machine loaded from rows concludes what is
//     prepared and aborts what has run out of time.
//  5. A refusal that a client takes for final leaves only when a read has proved that no
//     other coordinator knows better (KAFKA-21181), unless a row was written. From memory
//     alone come: "try again", and "this is part of transaction n", which the leader of the
//     partition or group compares with what it knows itself.
//
// The rules are those of Kafka 4 with both of its protocols, which a producer's requests
// tell apart: in version 1 the epoch rises with InitProducerId, and in version 2 with every
// transaction (KIP-890). Where Kafka answers CONCURRENT_TRANSACTIONS and lets the client ask
// again, a request waits here for a while first.
//
// A machine belongs to one goroutine. It knows nothing of permissions, and nothing of what
// partitions and groups do with a transaction's end.
package txn

import (
	"errors"
	"fmt"
	"time"

	"github.com/floelog/floe/agent/coordinator"
	"github.com/floelog/floe/tiering"
)

// Settings are the limits of transactions.
type Settings struct {
	// MaxTimeout is the longest timeout that a producer may ask for its transactions
	// (transaction.max.timeout.ms). An open transaction holds readers of committed records
	// back for as long.
	MaxTimeout time.Duration
	// IDExpiration is how long a transactional id without an open transaction is remembered
	// after its last change (transactional.id.expiration.ms).
	IDExpiration time.Duration
	// ConcurrentWait is how long a request waits for the transaction before it to be
	// concluded, or for a producer id, before its client is told to come again. Not shorter:
	// a conclusion takes milliseconds, a client's pause between attempts up to a tenth of a
	// second. Not longer: the later answers of the connection wait too, and another shard's
	// failover takes longer than any client should be kept in the dark.
	ConcurrentWait time.Duration
	// MaxWaiting is how many requests may wait for one id. A producer has one under way;
	// more come from those who take an id from each other. What is above is told at once to
	// come again.
	MaxWaiting int
	// MaxPartitions is how many partitions and groups may take part in one transaction. They
	// are in one row, which is written anew whenever one is added: more would make rows of
	// hundreds of kilobytes.
	MaxPartitions int
}

// DefaultSettings returns Kafka's defaults.
func DefaultSettings() Settings {
	return Settings{
		MaxTimeout:     15 * time.Minute,
		IDExpiration:   7 * 24 * time.Hour,
		ConcurrentWait: time.Second,
		MaxWaiting:     64,
		MaxPartitions:  5000,
	}
}

// maxPartitions bounds MaxPartitions: a row of 27 bytes for each must fit into a change.
const maxPartitions = 20000

// Validate says what is wrong with the settings.
func (s Settings) Validate() error {
	var errs []error
	positive := func(name string, d time.Duration) {
		if d < time.Millisecond {
			errs = append(errs, fmt.Errorf("%s is %v: give at least 1ms", name, d))
		}
	}
	positive("transaction.max.timeout.ms", s.MaxTimeout)
	positive("transactional.id.expiration.ms", s.IDExpiration)
	positive("the wait for a concurrent transaction", s.ConcurrentWait)
	if s.MaxTimeout > 1<<31*time.Millisecond-time.Millisecond {
		errs = append(errs, fmt.Errorf("transaction.max.timeout.ms is %v: it has 31 bits of milliseconds", s.MaxTimeout))
	}
	if s.MaxWaiting < 1 {
		errs = append(errs, fmt.Errorf("the requests that may wait for a transactional id are %d: give at least 1", s.MaxWaiting))
	}
	if s.MaxPartitions < 1 || s.MaxPartitions > maxPartitions {
		errs = append(errs, fmt.Errorf("the partitions of a transaction are at most %d: give between 1 and %d", s.MaxPartitions, maxPartitions))
	}
	return errors.Join(errs...)
}

// Partition is a partition of a transaction, and whose leader concludes it there.
type Partition struct {
	tiering.TopicPartition
	Shard tiering.ShardID
}

// Group is a consumer group whose offsets a transaction commits, and whose coordinator
// concludes it there.
type Group struct {
	Name  string
	Shard tiering.ShardID
}

// Enlist is a request to make partitions and groups part of a producer's transaction, which
// starts one if none is open; or to say whether they are (KIP-890). Its answer is an
// Enlisted.
type Enlist struct {
	ID         string // transactional id
	ProducerID int64
	Epoch      int16
	Partitions []Partition
	Groups     []Group
	Add        bool // make them part of it; otherwise only say whether they are
	Version    int8 // of the protocol that the producer speaks: 1, or 2 (KIP-890)
}

// Enlisted is the answer to an Enlist, with Kafka's codes. The epoch's refusal is always
// PRODUCER_FENCED: older requests know it as INVALID_PRODUCER_EPOCH.
type Enlisted struct {
	Code int16 // for the whole; TRANSACTION_ABORTABLE also where a group is not part of it
	// Codes has one for each partition: TRANSACTION_ABORTABLE where it is not part of the
	// open transaction. Nil where all are 0.
	Codes  []int16
	Number int64 // the transaction's number, where Code is 0; see shard.Transaction
}

// NewLoad returns what builds the machines of shards. Requests are Enlist, and of package
// kmsg InitProducerIDRequest, EndTxnRequest, DescribeTransactionsRequest and
// ListTransactionsRequest, which are answered with their kmsg responses.
func NewLoad(s Settings) coordinator.Load {
	return loader{s}.load
}
