// Package coordinator runs the coordinators of consumer groups and transactions: pure state
// machines, one for each shard that this agent leads, behind a shell that is written once.
//
//	request -> mailbox -> Machine.Step(event, now) -> Effects -> journal record -> replies
//	                        ^ tick, change, result          \--> calls to other shards
//
// Invariants:
//  1. What a reply acknowledges is committed before the reply leaves; and no reply shows a
//     change whose record is not committed: replies leave in the order of the steps.
//  2. A machine belongs to one leadership. When that ends, the machine is dropped, whatever
//     it has in memory, and everybody who waits hears ErrNotCoordinator.
//  3. Only one goroutine, its shard's loop, touches a machine.
//
// Machines do no I/O and read no clock: everything comes in by events and leaves by Effects.
package coordinator

import (
	"errors"
	"iter"
	"time"

	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// ErrNotCoordinator says that this agent does not lead the shard, or does not any more.
var ErrNotCoordinator = errors.New("not the coordinator")

// RequestID names a request that waits for its reply, within one machine.
type RequestID uint64

// Client is who sent a request.
type Client struct {
	ID   string // the client id of the request's header
	Host string // the address that it came from, without the port
}

// Event is what a machine is told: one of the types below.
type Event interface{ event() }

// Request asks for something. It is answered by a Reply with its ID, exactly once, in this
// step or a later one.
type Request struct {
	ID     RequestID
	Client Client
	Body   any // a kmsg request, or a type of the machine's package
}

// Tick says that the time that the machine asked for by Effects.Wake has come.
type Tick struct{}

// Changed says that topics were created, changed or deleted.
type Changed struct{ Topics Topics }

// Topics are all topics at one time; a catalogue.View is one. It is immutable and may be kept.
type Topics interface {
	Topic(name string) (*catalogue.Topic, bool)
	TopicByID(id tiering.TopicID) (*catalogue.Topic, bool)
	Topics() iter.Seq[*catalogue.Topic] // in the order of their names
}

// Result is what became of a Call.
type Result struct {
	Call  Call
	Value any // what the call's kind says
	Err   error
}

// Cancelled says that nobody waits for the reply to a request any more; a reply is ignored.
type Cancelled struct{ ID RequestID }

func (Request) event()   {}
func (Tick) event()      {}
func (Changed) event()   {}
func (Result) event()    {}
func (Cancelled) event() {}

// Effects are what a step wants done.
type Effects struct {
	// Changes are committed before any of Replies leaves and any of Calls is made: in one
	// record, all or none, where they are not larger than MaxChangeBytes together; otherwise
	// in several, in order, so that a failover may leave the first ones alone.
	Changes []shard.Change
	Replies []Reply
	Calls   []Call
}

// MaxChangeBytes bounds one change, and the changes that are committed together: a journal
// record takes a little more than a megabyte.
const MaxChangeBytes = 768 << 10

// Reply answers a request. Exactly one of Body and Read is set.
type Reply struct {
	ID   RequestID
	Body any
	// Read makes the reply from the shard's state, after a linearizable read has proved
	// that nothing newer is committed anywhere. It runs outside the machine's loop and must
	// not touch the machine. It must not keep the state.
	Read func(*shard.State) any
}

// Call is work outside the machine's shard: one of the types below. It is repeated until it
// succeeds or the leadership ends, so machines hear of definite outcomes only.
type Call interface{ call() }

// Conclude ends a transaction in a partition or a group of another shard, or of this one.
// Its Result has no Value; a topic that is gone counts as concluded. Err is ErrFencedMarker
// if the partition knows a newer epoch of the producer.
type Conclude struct {
	Name        string // the transactional id
	Shard       tiering.ShardID
	Partition   tiering.TopicPartition // of a partition's marker
	Group       string                 // or the group's; empty for a partition
	Transaction shard.Transaction
	Commit      bool
	Coordinator int32 // the epoch of this coordinator's leadership
}

// ErrFencedMarker says that a marker carries an epoch older than what its target knows.
var ErrFencedMarker = errors.New("the producer has a newer epoch there")

// NewProducerID asks for a producer id that was never used. Its Result's Value is an int64.
type NewProducerID struct{ Name string }

func (Conclude) call()      {}
func (NewProducerID) call() {}

// Machine is the pure logic of one shard's groups, or transactions.
type Machine interface {
	// Step takes an event at a time and says what to do about it. The machine's own memory
	// has changed when it returns; the shell sees to it that nobody hears of that too early.
	Step(ev Event, now time.Time) Effects
	// Wake returns when the machine wants its next Tick; zero: not before another event.
	Wake() time.Time
}

// Damaged is what a Machine also implements that can do without names whose rows it cannot
// read: it serves the others.
type Damaged interface {
	// Damaged says what could not be read when the machine was loaded.
	Damaged() []error
}

// Load builds a machine from the state of a shard whose leadership, of the given epoch, has
// just begun. It must not keep the state, and must copy what it keeps of it.
type Load func(id tiering.ShardID, epoch tiering.LeaderEpoch, s *shard.State, topics Topics, now time.Time) (Machine, error)
