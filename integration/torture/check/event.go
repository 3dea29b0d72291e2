// Package check judges what the clients of a torture run did and heard. Everything is an
// Event; a Recorder takes them in the order in which they happened, writes them to a file
// and hands them to a Checker, so that a file can be judged again by another version of the
// checker. The records' own anomalies are found by integration/history; this package adds
// what groups, transactions of consumers, log starts and topics may not do.
//
// The order of events is the order of calls: what is asked is recorded before it is sent,
// what is heard after it has arrived. So of two events of which the first is an answer and
// the second a question, the first happened before the second.
//
// A Recorder may be used by any number of goroutines at once, a Checker by one.
package check

import (
	"time"

	"github.com/floelog/floe/integration/history"
)

// Op is what an event is about.
type Op uint8

// The fields that an operation uses, beside At and Who, the client.
const (
	OpSend          Op = iota + 1 // Part, A: bytes, B: 1 if idempotent, ID: the transaction or 0; gives a value
	OpAcked                       // ID: value, A: offset
	OpFailed                      // ID: value, Text
	OpUnknown                     // ID: value, Text
	OpBegin                       // gives a transaction
	OpTurn                        // ID: transaction, A: history.Fate
	OpConsumer                    // A: history.Isolation
	OpAssigned                    // Part, A: offset; below 0: not known
	OpPolled                      // Part, A: log start, B: last stable offset, C: high watermark, Seen
	OpLook                        // Part; gives a look
	OpSaw                         // ID: look, A, B, C as in OpPolled; what was not asked for is below 0
	OpWhole                       // Part, A: start, B: end
	OpTrim                        // Part, A: offset
	OpDeleted                     // Part: from now on it is nobody's loss
	OpOwns                        // Group, Part, A: generation
	OpLeaves                      // Group, Part
	OpCommit                      // Group, Part, A: offset, B: generation, ID: the transaction or 0; gives a commit
	OpCommitted                   // ID: commit, A: Outcome
	OpAskOffset                   // Group, Part; gives a question
	OpOffset                      // ID: question, A: offset; -1: none
	OpConsumed                    // Part, ID: transaction, A: from, B: to, without it; Group: whose offsets it commits, or none
	OpFault                       // Text: name, A: 1 begins, 0 ends
	OpProbe                       // Text: what, Part, A: 1 if it worked, B: nanoseconds
	OpAnomaly                     // Group: kind, Text
	OpNote                        // Text
	OpGroupProgress               // Group: it has committed something
	opEnd
)

// Outcome is what a client has heard of a commit of offsets.
type Outcome uint8

// Everything that is not certain is unclear for ever.
const (
	Pending Outcome = iota
	Taken
	Refused // it has certainly no effect
	Doubtful
)

// Event is one thing that a client did or heard.
type Event struct {
	At      time.Duration // since the beginning of the run
	Op      Op
	Who     string
	Part    history.Partition
	Group   string
	ID      uint64
	A, B, C int64
	Text    string
	Seen    []history.Seen
}

// Kinds of anomalies beside those of history.
const (
	OffsetBack    history.Kind = "committed-offset-back"    // an answer older than an acknowledged commit
	OffsetUnknown history.Kind = "committed-offset-unknown" // no committed offset, after one was acknowledged
	OffsetPhantom history.Kind = "committed-offset-phantom" // an offset that nobody committed, or whose commit was refused
	StaleCommit   history.Kind = "stale-commit"             // a commit of a former owner that was taken
	TwoOwners     history.Kind = "double-assignment"        // one partition, two members, one generation
	Reprocessed   history.Kind = "reprocessed"              // a record consumed by two committed transactions
	Unprocessed   history.Kind = "unprocessed"              // a record that committed transactions passed over
	TornOffsets   history.Kind = "torn-offsets"             // a transaction whose offsets are there and whose records are not, or the reverse
	Trimmed       history.Kind = "trimmed"                  // records gone from the front that nobody let go
	Stuck         history.Kind = "stuck"                    // a client without progress after everything was healed
	FetchError    history.Kind = "fetch-error"              // an error of a fetch that does not pass by itself
	SequenceLost  history.Kind = "sequence-lost"            // an idempotent producer whose records are not known any more
	Fsck          history.Kind = "fsck"                     // what fsck has found in the stores
	Orphans       history.Kind = "orphans"                  // more unreferenced bytes than may be
)
