package kafka

import (
	"context"
	"time"

	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// Parts are what the agent hands in. All methods of all parts may be called concurrently.
type Parts struct {
	Topics      Topics
	Changes     TopicChanges
	Cluster     Cluster
	Producer    Producer
	Reader      Reader
	Offsets     Offsets
	Records     Records
	ProducerIDs ProducerIDs

	Groups       Groups
	Transactions Transactions

	Traffic Traffic     // nil: nobody counts
	Zones   ZoneTraffic // likewise
	// Pressure tells producers to wait; nil: nothing does.
	Pressure Pressure
}

// Traffic counts the bytes of record batches that clients move, by topic. Its methods must
// return quickly.
type Traffic interface {
	Produced(topic tiering.TopicID, bytes int) // taken over, whatever becomes of them
	Fetched(topic tiering.TopicID, bytes int)
}

type noTraffic struct{}

func (noTraffic) Produced(tiering.TopicID, int) {}
func (noTraffic) Fetched(tiering.TopicID, int)  {}

// ZoneTraffic counts the bytes of record batches that clients move, by the client's zone,
// which is empty where it is not known. Its methods must return quickly.
type ZoneTraffic interface {
	Produced(zone string, bytes int) // taken over, whatever becomes of them
	Fetched(zone string, bytes int)
}

type noZones struct{}

func (noZones) Produced(string, int) {}
func (noZones) Fetched(string, int)  {}

// Topics looks topics up. A catalogue.Catalogue is one.
type Topics interface {
	// Topic and TopicByID look into this agent's copy: no call, no lock.
	Topic(name string) (*catalogue.Topic, bool)
	TopicByID(id tiering.TopicID) (*catalogue.Topic, bool)
	// Find and FindByID are linearizable; catalogue.ErrTopicNotFound is proof of absence.
	Find(ctx context.Context, name string) (*catalogue.Topic, error)
	FindByID(ctx context.Context, id tiering.TopicID) (*catalogue.Topic, error)
	// Fresh returns when this agent's copy holds all that was there when it was called.
	Fresh(ctx context.Context) error
	// View is all topics at one time.
	View() catalogue.View
}

// TopicChanges changes topics. A catalogue.Catalogue is one.
type TopicChanges interface {
	Create(ctx context.Context, topics []catalogue.NewTopic) []catalogue.Created
	Delete(ctx context.Context, name string) (catalogue.Change, error)
	DeleteByID(ctx context.Context, id tiering.TopicID) (catalogue.Change, error)
	SetPartitions(ctx context.Context, name string, n int32) (catalogue.Change, error)
	AlterConfigs(ctx context.Context, name string, alter func(old map[string]string) (map[string]string, error)) (catalogue.Change, error)
	// WaitRevision waits until this agent's copy shows a change.
	WaitRevision(ctx context.Context, revision int64) error
}

// Agent is a live agent, as clients are told of it.
type Agent struct {
	NodeID int32
	Host   string
	Port   int32
	Rack   string // its zone; empty for none

	// Listeners are its addresses on listeners other than the default, by their names.
	Listeners map[string]Address
	// NotLeader and NotReplica keep clients' records away from an agent that is there for
	// other work: as long as there are others, it is named as no partition's leader, or
	// consumers are not sent to it (KIP-392).
	NotLeader, NotReplica bool
}

// Address is where clients connect to.
type Address struct {
	Host string
	Port int32
}

// Cluster knows who is there. Its answers come from memory.
type Cluster interface {
	ClusterID() string
	Self() int32
	// Shards is the number of shards, fixed for the life of the cluster.
	Shards() uint32
	// Agents returns the live agents in the order of their node ids. The slice is shared:
	// it is replaced, never modified.
	Agents() []Agent
	// Familiar returns Agents and those that were among them a few seconds ago, which clients
	// keep what they have for: they find out themselves whether one is back.
	Familiar() []Agent
	// Leader returns who leads a shard, and under which epoch. Between two leaders it names
	// a live agent with the newest epoch known: any agent can serve any partition, so
	// clients need not wait for the election.
	Leader(shard tiering.ShardID) (node int32, epoch tiering.LeaderEpoch)
}

// Pressure says how producers are to be held back. Its methods must return quickly.
type Pressure interface {
	// Throttle is for how long a producer that is answered now should send nothing (KIP-219).
	Throttle() time.Duration
}

// noPressure holds nobody back.
type noPressure struct{}

func (noPressure) Throttle() time.Duration { return 0 }

// Partition is a partition with the shard that it lives on.
type Partition struct {
	tiering.TopicPartition
	Shard tiering.ShardID
}

// AppendBatch is one batch on its way to be stored.
type AppendBatch struct {
	Partition tiering.TopicPartition
	Shard     tiering.ShardID
	Data      []byte      // one validated batch; must stay as it is until done
	Meta      shard.Batch // what the leader needs to know of Data
	Client    string      // client id that it came with

	// The result, valid once done has been called.
	Base     tiering.Offset // of the first record
	LogStart tiering.Offset // of the partition; -1 if not known
	Code     int16          // Kafka's error code; 0: durable and committed
	// Moved says, beside NOT_LEADER_OR_FOLLOWER, that another agent leads the shard by now, with
	// a higher epoch than any that clients were told of while they came here.
	Moved bool
}

// Producer stores batches.
type Producer interface {
	// Append takes the batches over and returns at once; the order of batches of one
	// partition is kept, also over several calls one after the other. done is called once,
	// from another goroutine, after all batches have their results. The client may be gone
	// by then: what was taken over is stored all the same.
	Append(batches []*AppendBatch, done func())
}

// FetchPartition asks for the records of one partition from Offset on.
type FetchPartition struct {
	Partition
	Offset   tiering.Offset
	MaxBytes int // a first batch that is larger is returned all the same (KIP-74)
}

// FetchRequest asks for records of several partitions, in order of preference: when
// MaxBytes runs out, the later ones get none.
type FetchRequest struct {
	MinBytes      int           // wait until the results hold this much, or an error
	MaxBytes      int           // over all partitions; the first batch may exceed it
	MaxWait       time.Duration // the longest wait
	ReadCommitted bool          // records below the last stable offset only (KIP-98)
	Partitions    []FetchPartition

	// Admit is called when the wait is over and there are records to read, with the bytes
	// that they have: at most once for those near the ends of their logs, and once for those
	// of partitions that lag; nil admits all. If it returns fewer, they are the limit in the
	// place of MaxBytes. False says that none may be read: the results have no such records.
	// It waits no longer than ctx.
	Admit func(ctx context.Context, lagging bool, bytes int) (limit int, ok bool)
}

// FetchResult is what became of one FetchPartition.
type FetchResult struct {
	Code                                int16
	HighWatermark, LastStable, LogStart tiering.Offset // -1 where not known
	Aborted                             []AbortedTransaction
	Records                             [][]byte // whole batches with their offsets in place; immutable
	Lagging                             bool     // the records were admitted as those of a partition that lags
}

// AbortedTransaction tells a read_committed consumer what to skip.
type AbortedTransaction struct {
	ProducerID int64
	First      tiering.Offset
}

// Reader reads records.
type Reader interface {
	// Fetch returns one result for each partition, in order, as soon as MinBytes are
	// there, a partition has an error, MaxWait is over or ctx ends.
	Fetch(ctx context.Context, req FetchRequest) []FetchResult
}

// OffsetKind says which offset an OffsetQuery asks for.
type OffsetKind uint8

// The kinds of offsets.
const (
	EarliestOffset  OffsetKind = iota // the log start
	LatestOffset                      // the high watermark, or the last stable offset where ReadCommitted
	TimestampOffset                   // the first record whose timestamp is Timestamp or later
	MaxTimestamp                      // the record with the greatest timestamp (KIP-734)
)

// OffsetQuery asks for one offset of one partition.
type OffsetQuery struct {
	Partition
	Kind          OffsetKind
	Timestamp     int64
	ReadCommitted bool
}

// OffsetAnswer answers an OffsetQuery. Where no record fits, offset, timestamp and epoch
// are -1. Epoch is that of the record, or of the leader where the offset is the end.
type OffsetAnswer struct {
	Code      int16
	Offset    tiering.Offset
	Timestamp int64 // of the record, for TimestampOffset and MaxTimestamp; else -1
	Epoch     tiering.LeaderEpoch
}

// EpochQuery asks where a leader epoch ended (KIP-101, KIP-320).
type EpochQuery struct {
	Partition
	Epoch tiering.LeaderEpoch
}

// EpochAnswer is the newest epoch at or before the one asked for, and the offset at
// which the next one starts, or the log ends. Both are -1 where no such epoch is known.
type EpochAnswer struct {
	Code  int16
	Epoch tiering.LeaderEpoch
	End   tiering.Offset
}

// Offsets answers questions about offsets, so that no answer is older than the question:
// by the leaders, or after a linearizable read.
type Offsets interface {
	List(ctx context.Context, queries []OffsetQuery) []OffsetAnswer
	EpochEnds(ctx context.Context, queries []EpochQuery) []EpochAnswer
	// Producers returns what is known of the producers of partitions (KIP-664).
	Producers(ctx context.Context, partitions []Partition) []ProducersAnswer
	// Sizes returns the stored bytes of partitions, -1 where they are not known.
	Sizes(ctx context.Context, partitions []Partition) []int64
}

// ProducersAnswer is what is known of a partition's producers.
type ProducersAnswer struct {
	Code      int16
	Producers []shard.ProducerState
}

// TrimQuery asks to delete the records before Offset; -1 stands for the high watermark.
type TrimQuery struct {
	Partition
	Offset tiering.Offset
}

// TrimAnswer is the log start after a trim, -1 where Code is not 0.
type TrimAnswer struct {
	Code     int16
	LogStart tiering.Offset
}

// Records deletes records.
type Records interface {
	Trim(ctx context.Context, queries []TrimQuery) []TrimAnswer
}

// ProducerIDs hands out producer ids, each once.
type ProducerIDs interface {
	Next(ctx context.Context) (int64, error)
}
