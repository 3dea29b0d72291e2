package kafka

import (
	"context"
	"errors"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// What the coordinators of groups and transactions are to the handlers. Each method asks the
// coordinator on this agent, unless it says otherwise, and returns ErrNotCoordinator if
// that is elsewhere, or ctx's error. Any other refusal is Kafka's code in the answer.

// ErrNotCoordinator says that another agent coordinates the group or transactional id, or
// nobody for the moment.
var ErrNotCoordinator = errors.New("not the coordinator")

// From is who sent a request.
type From struct {
	ClientID string // of the request's header
	Host     string // its address without the port, as Kafka shows it: "/192.0.2.1"
}

// GroupMember is who acts on a group's offsets. The zero value of ID with Epoch -1 is a
// client that manages its partitions itself.
type GroupMember struct {
	ID       string
	Instance *string // group.instance.id (KIP-345); nil: none
	Epoch    int32   // generation of a classic group, or member epoch (KIP-848)
	Version  int16   // of the request: which codes its client knows
}

// FetchedOffset is one answer to a question for committed offsets. Offset -1 says that
// there is none, for certain.
type FetchedOffset struct {
	Partition tiering.TopicPartition
	Offset    tiering.Offset
	Epoch     tiering.LeaderEpoch
	Metadata  string
	Code      int16 // UNSTABLE_OFFSET_COMMIT where a transaction is open (KIP-447)
}

// Groups coordinates consumer groups.
type Groups interface {
	// Ask passes on a request about one group. These are known: JoinGroup, SyncGroup,
	// Heartbeat, LeaveGroup, ConsumerGroupHeartbeat, and with exactly one group
	// DescribeGroups, ConsumerGroupDescribe and DeleteGroups.
	Ask(ctx context.Context, from From, group string, req kmsg.Request) (kmsg.Response, error)
	// List asks every coordinator on this agent; ListGroups's filters are obeyed.
	List(ctx context.Context, from From, req *kmsg.ListGroupsRequest) (*kmsg.ListGroupsResponse, error)
	// Commit commits offsets, as part of a transaction unless its Number is 0. The code is
	// for all of them.
	Commit(ctx context.Context, from From, group string, m GroupMember, tx shard.Transaction, offsets []shard.GroupOffset) (code int16, err error)
	// Fetch returns committed offsets, as of a time after the call: of the given partitions,
	// one answer each, or of all that have any. stable asks for require_stable.
	Fetch(ctx context.Context, from From, group string, m GroupMember, partitions []tiering.TopicPartition, all, stable bool) (offsets []FetchedOffset, code int16, err error)
	// Delete forgets committed offsets: a code for each partition, and one for the group.
	Delete(ctx context.Context, group string, partitions []tiering.TopicPartition) (codes []int16, code int16, err error)
	// Configs returns a group's own configs, and AlterConfigs changes them (a nil value resets
	// one). Both find the coordinator wherever it is.
	Configs(ctx context.Context, group string) (map[string]string, error)
	AlterConfigs(ctx context.Context, group string, alter map[string]*string) error
}

// Enlistment asks a transaction's coordinator whether partitions and groups are part of the
// open transaction of a producer, or to make them so.
type Enlistment struct {
	ID         string // transactional id
	ProducerID int64
	Epoch      int16
	Partitions []Partition
	Groups     []string
	Add        bool // make them part of it; otherwise only ask (KIP-890)
	Here       bool // only if the coordinator is on this agent
	// Version is of the protocol that the producer speaks: 1, or 2 where its epoch rises with
	// every transaction (KIP-890).
	Version int8
}

// Enlisted is the answer: a Kafka code for the whole, one for each partition where Code is
// 0 (none if all are 0), and the transaction's number, which the batches carry on.
type Enlisted struct {
	Code   int16
	Codes  []int16
	Number int64
}

// Marking asks to end a transaction in one partition at an operator's request
// (WriteTxnMarkers).
type Marking struct {
	Partition   Partition
	ProducerID  int64
	Epoch       int16
	Commit      bool
	Coordinator int32
}

// Transactions coordinates transactions.
type Transactions interface {
	// Ask passes on a request about one transactional id. These are known: InitProducerId,
	// EndTxn, and with exactly one id DescribeTransactions.
	Ask(ctx context.Context, from From, id string, req kmsg.Request) (kmsg.Response, error)
	// List asks every coordinator on this agent; ListTransactions's filters are obeyed.
	List(ctx context.Context, from From, req *kmsg.ListTransactionsRequest) (*kmsg.ListTransactionsResponse, error)
	// Enlist asks the coordinator, wherever it is unless Enlistment.Here says otherwise.
	Enlist(ctx context.Context, e Enlistment) (Enlisted, error)
	// Mark asks the leaders of the partitions, wherever they are: one code for each.
	Mark(ctx context.Context, markings []Marking) []int16
}
