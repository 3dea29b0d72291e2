// Package metadata is the contract between Floe and the consistent store that keeps
// its truth: etcd in production (metadata/etcd), the same semantics in memory for
// tests and simulation (metadata/memory). One suite (metadatatest) holds both to it.
//
// The contract is a small key-value store with guarded transactions, leases and
// watches. The protocols that stand on it are written once, above it: the shards'
// journals and leadership in metadata/journal, topics in metadata/catalogue, sessions
// and placement in metadata/membership. keys.go draws the keyspace.
//
// Invariants that an implementation owes:
//  1. Txn is atomic and linearizable: its conditions are compared and its operations
//     applied at one instant.
//  2. An error from Txn means that the outcome is unknown, unless it is ErrInvalid: the
//     transaction may have been applied, or may still be applied later. A Txn is never
//     retried inside an implementation. One more error is definite: ErrLeaseLost says that
//     a put named a lease that does not exist, and that nothing was or will be applied.
//  3. Get and Range are linearizable, unless pinned to an older revision.
//  4. A key bound to a lease disappears with it, never before the lease's time to live
//     has passed since its last renewal was granted.
//  5. Watch delivers every change of a key in revision order, or ends with an error.
package metadata

import (
	"context"
	"errors"
	"time"
)

var (
	// ErrInvalid says that the request can never work (too many operations, too large);
	// nothing was applied.
	ErrInvalid = errors.New("metadata request invalid")

	// ErrLeaseLost says that the lease does not exist (any more).
	ErrLeaseLost = errors.New("metadata lease lost")

	// ErrCompacted says that the revision asked for has been compacted away: read the
	// current state and watch from there.
	ErrCompacted = errors.New("metadata revision compacted")

	// ErrFenced says that another agent leads the shard, or may: nothing was applied, and
	// nothing of what was asked will be.
	ErrFenced = errors.New("fenced")

	// ErrConflict says that a guarded change found something other than it expected;
	// nothing was applied.
	ErrConflict = errors.New("conflicting change")

	// ErrFull says that the store takes no more data until an operator makes room (etcd's alarm
	// NOSPACE). Of a Txn the outcome is unknown all the same.
	ErrFull = errors.New("metadata store is full")

	// ErrNoQuorum says that the store has no leader, or too few of its members. The outcome is
	// unknown.
	ErrNoQuorum = errors.New("metadata store has no quorum")

	// ErrUnreachable says that no member of the store can be connected to. The outcome is unknown.
	ErrUnreachable = errors.New("metadata store cannot be reached")

	// ErrDenied says that the store refuses who asks. The outcome is unknown.
	ErrDenied = errors.New("metadata store denies access")

	// ErrSessionDead says that the agent session that a change names is no longer alive;
	// nothing was applied.
	ErrSessionDead = errors.New("agent session is dead")
)

// Limits of one transaction, those of an etcd server with default settings.
const (
	MaxTxnOps   = 128
	MaxTxnBytes = 1 << 20 // of 1.5 MiB, the rest left for keys and framing
)

// LeaseID names a lease; 0 is none.
type LeaseID int64

// KV is a key and its value. Revision is the store's revision at which the value was
// written; 0 says that the key does not exist.
type KV struct {
	Key      string
	Value    []byte
	Revision int64
}

// Exists reports whether the key was there.
func (kv KV) Exists() bool { return kv.Revision != 0 }

// Condition guards a transaction. Values are compared, never revisions: a restored etcd
// issues the same revisions again.
type Condition struct {
	Key   string
	Kind  ConditionKind
	Value []byte // for KeyEquals
}

// ConditionKind says what a Condition demands of its key.
type ConditionKind uint8

// The kinds of conditions.
const (
	KeyEquals  ConditionKind = iota // the key exists with exactly this value
	KeyAbsent                       // there is no such key
	KeyPresent                      // the key exists with any value
)

// Equals demands that key has value.
func Equals(key string, value []byte) Condition { return Condition{key, KeyEquals, value} }

// Absent demands that key does not exist.
func Absent(key string) Condition { return Condition{key, KeyAbsent, nil} }

// Present demands that key exists.
func Present(key string) Condition { return Condition{key, KeyPresent, nil} }

// Op is one change of a transaction: a put, or a deletion of one key or of a range.
// A transaction must not touch a key twice.
type Op struct {
	Key    string
	Value  []byte
	Lease  LeaseID // for a put: the key dies with this lease; 0 for none
	Delete bool
	End    string // for a deletion: delete [Key, End); empty: just Key
}

// Put returns an Op that sets key.
func Put(key string, value []byte) Op { return Op{Key: key, Value: value} }

// PutLeased returns an Op that sets key for as long as the lease lives.
func PutLeased(key string, value []byte, lease LeaseID) Op {
	return Op{Key: key, Value: value, Lease: lease}
}

// Delete returns an Op that deletes key; deleting an absent key is no error.
func Delete(key string) Op { return Op{Key: key, Delete: true} }

// DeleteRange returns an Op that deletes all keys in [from, end).
func DeleteRange(from, end string) Op { return Op{Key: from, End: end, Delete: true} }

// Txn is a guarded change: if all conditions hold, all operations are applied;
// otherwise nothing is, and the keys of Else are read at that same instant.
type Txn struct {
	If   []Condition
	Then []Op
	Else []string
}

// TxnResult is the store's answer to a Txn.
type TxnResult struct {
	Succeeded bool
	Revision  int64 // of the store after the transaction
	Else      []KV  // one for each key of Txn.Else, in order, unless Succeeded
}

// Page is a part of a range of keys.
type Page struct {
	KVs      []KV  // in ascending order of keys
	Revision int64 // at which the page was read; pin the next page to it
	More     bool
}

// Event is one change of a key; Deleted events carry no value. Revision is that of the
// change.
type Event struct {
	KV
	Deleted bool
}

// WatchBatch is what a watch delivers: changes in revision order, all changes of one
// revision in one batch. With this batch, every matching change up to and including
// Revision has been delivered; a batch without events (progress) only moves Revision. Not
// every store tells of progress: a watch of keys that rest may never reach the store's
// revision. Err, if set, is the last that the watch delivers. Values are shared: do not modify them.
type WatchBatch struct {
	Events   []Event
	Revision int64
	Err      error
}

// Store is a consistent key-value store. All methods may be called concurrently.
type Store interface {
	// Txn applies a guarded change. See invariant 2 for what an error means.
	Txn(ctx context.Context, txn Txn) (TxnResult, error)

	// Get reads keys at one instant, linearizably, and returns one KV for each in order.
	Get(ctx context.Context, keys ...string) (kvs []KV, revision int64, err error)

	// Range reads up to limit keys of [from, end), at revision if it is not 0 (ErrCompacted
	// if that is gone, ErrInvalid if the store has not reached it), else linearizably at
	// the newest. A limit of 0 means all.
	Range(ctx context.Context, from, end string, revision int64, limit int) (Page, error)

	// Watch delivers the changes of all keys that start with prefix, from the given
	// revision on (inclusive), until ctx ends; then the channel is closed. ErrCompacted
	// arrives as a batch's Err, and so does any loss of the watch.
	Watch(ctx context.Context, prefix string, revision int64) <-chan WatchBatch

	// Grant creates a lease that lives for ttl beyond its last renewal.
	Grant(ctx context.Context, ttl time.Duration) (LeaseID, error)

	// KeepAlive renews the lease once, or returns ErrLeaseLost.
	KeepAlive(ctx context.Context, lease LeaseID) error

	// Revoke ends the lease and deletes its keys; no error if it is gone already.
	Revoke(ctx context.Context, lease LeaseID) error

	// Compact forgets the history before revision; compacting twice is no error.
	// A revision that the store has not reached is ErrInvalid.
	Compact(ctx context.Context, revision int64) error
}

// RangeToEnd, as the end of a range, stands for the end of all keys.
const RangeToEnd = "\x00"

// PrefixEnd returns the end of the range of all keys that start with prefix.
func PrefixEnd(prefix string) string {
	b := []byte(prefix)
	for i := len(b) - 1; i >= 0; i-- {
		if b[i] < 0xff {
			b[i]++
			return string(b[:i+1])
		}
	}
	return RangeToEnd
}
