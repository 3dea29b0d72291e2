// Package objstore is the contract between Floe and an object store, and what every
// driver of one has in common. The drivers are the child packages s3, minio, file and
// memory; the suite in objstoretest holds all of them to this contract. Decorators
// (Retry, Hedged, Metered, faults.Store) add behaviour around a driver, never inside one.
//
// Invariants:
//  1. An object is written once: Put creates or fails, nothing overwrites.
//  2. After Put returned nil the object is durable and every reader sees all of it.
//  3. A reader gets exactly the bytes it asked for, or an error; fewer only from GetUpTo,
//     and only if the store says itself that the object ends there.
//
// All methods may be called concurrently.
//
// # The onion
//
// The order of the decorators decides what each of them counts. Floe uses, from the
// outside in,
//
//	Retry( Hedged( Metered( [faults.New(] driver [)] ) ) )
//
// where an agent has Weatherproof in the place of Retry. Metered inside Retry counts
// attempts: what the store bills and throttles by, with each attempt's own latency, and
// 412s that a lost reply caused count as "exists". A call that was retried twice and
// worked is three requests. Metered outside Retry would count calls: retries hidden,
// backoff part of the latency. Hedged lies outside Metered, so that both of its GETs
// count, and inside Retry: there it sees each attempt, so that it learns from latencies
// without pauses, hears of every throttling and does not hedge a pause, and both of its
// GETs share the attempt's time limit. Faults lie inside Metered, so that an injected
// fault looks like the store's own in every count. A cache goes outside all of them: its
// hits are no requests.
package objstore

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// ErrExists says that Put found an object under the key. On a first attempt the key
// was reused, which Floe never does; on a retry the first attempt had worked.
var ErrExists = errors.New("object exists")

// ErrNotFound says that there is no such object (or not any more).
var ErrNotFound = errors.New("object not found")

// ErrCorrupt says that bytes came back that are not the ones that were stored: too
// few, too many, or with another checksum. Reading again may help.
var ErrCorrupt = errors.New("object corrupt")

// ErrBeyond says that the object ends at or before the position from which bytes were
// wanted, so that there are none. It is an ErrCorrupt too: whoever names a position has
// reason to believe that there is something.
var ErrBeyond = fmt.Errorf("%w: it ends before", ErrCorrupt)

// ErrThrottled says that the store asked for fewer requests (HTTP 429, 503 SlowDown).
var ErrThrottled = errors.New("object store throttles")

// ErrDenied says that the store refuses the credentials, or the bucket is missing:
// retrying does not help until an operator acts.
var ErrDenied = errors.New("object store denies access")

// ErrFull says that the store takes no more bytes: a disk or a quota is full.
var ErrFull = errors.New("object store is full")

// ErrInvalid says that the call itself is wrong: a key outside the allowed characters
// or a negative range. It is a bug of the caller; nothing was asked of the store.
var ErrInvalid = errors.New("invalid object store request")

// Info describes a stored object.
type Info struct {
	Key      string
	Size     int64
	Modified time.Time // by the store's clock
	CRC32C   uint32    // Castagnoli sum of the whole object, where HasCRC
	HasCRC   bool      // the store knows the sum (List may leave it out)
}

// Store is an object store. Keys are relative to the store's own prefix and as
// CheckKey demands; no key may be a directory of another ("a" beside "a/b"), which
// neither a file system nor MinIO can hold.
type Store interface {
	// Put creates the object with a checksum that the store verifies. ErrExists if
	// there is one; any other error leaves the outcome unknown: the object may
	// appear, even later. The body is not kept or changed.
	Put(ctx context.Context, key string, body Body) error

	// GetRange returns exactly n bytes from position off. ErrNotFound if there is no
	// object, ErrCorrupt if the object ends before off+n or the answer is damaged.
	// The caller owns the result. Of no bytes (n = 0) only the place is checked.
	GetRange(ctx context.Context, key string, off, n int64) ([]byte, error)

	// GetUpTo returns the bytes from position off on, n > 0 of them or as many as there are,
	// and the size of the object by the store's own word: always min(n, size-off) bytes.
	// ErrNotFound if there is no object, ErrBeyond if it has no byte at off, ErrCorrupt if
	// the answer is damaged or cut. The caller owns the result, which comes in slices as
	// ReadSlices makes them.
	GetUpTo(ctx context.Context, key string, off, n int64) (data Body, size int64, err error)

	// Head describes the object, or ErrNotFound.
	Head(ctx context.Context, key string) (Info, error)

	// List returns up to limit objects whose keys start with prefix and are greater
	// than after, in ascending byte order of keys. Fewer than limit means the end. The
	// prefix is any string of key characters, not necessarily a whole directory.
	List(ctx context.Context, prefix, after string, limit int) ([]Info, error)

	// Delete removes the objects; those that do not exist count as removed. On an
	// error any subset may be gone.
	Delete(ctx context.Context, keys ...string) error

	// String names the store for people, without credentials.
	String() string
}
