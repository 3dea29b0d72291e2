// Package health observes how a metadata store answers. A Store is the store with a weather
// station beside its writes and one beside its reads: a store that is full takes no writes and
// is read all the same. It changes no call and no answer, and repeats nothing.
//
// Renewals of leases count as reads: they need no room. An idle agent renews its lease every
// second, so that the weather is known without requests of its own; what it is for writes is
// known when something is written.
//
// All methods may be called concurrently.
package health

import (
	"context"
	"errors"
	"time"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/tiering/weather"
)

// slowAfter is the average latency beyond which a store is called slow. Shorter: a member on a busy
// disk would be. Longer: what producers wait for is a multiple of it by then.
const slowAfter = 250 * time.Millisecond

// Store is a metadata.Store that is observed.
type Store struct {
	metadata.Store
	write, read *weather.Station
}

// Observe returns store, observed.
func Observe(store metadata.Store, now func() time.Time) *Store {
	return &Store{store, weather.NewStation(slowAfter, now), weather.NewStation(slowAfter, now)}
}

// Weather returns the state of writes, then that of reads.
func (s *Store) Weather() []weather.Condition {
	return []weather.Condition{
		{Store: "metadata", Kind: "write", Report: s.write.Report()},
		{Store: "metadata", Kind: "read", Report: s.read.Report()},
	}
}

// heard notes the outcome of a call that began at start, unless it says nothing of the store.
func heard(ctx context.Context, station *weather.Station, start time.Time, err error) {
	state, counts := stateOf(ctx, err)
	switch {
	case !counts:
	case state == weather.Fair:
		station.Succeeded(time.Since(start))
	default:
		station.Failed(state, err)
	}
}

func stateOf(ctx context.Context, err error) (state weather.State, counts bool) {
	switch {
	case err == nil, errors.Is(err, metadata.ErrLeaseLost), errors.Is(err, metadata.ErrCompacted):
		return weather.Fair, true
	case errors.Is(err, metadata.ErrInvalid):
		return 0, false
	case errors.Is(err, metadata.ErrFull):
		return weather.Full, true
	case errors.Is(err, metadata.ErrNoQuorum):
		return weather.NoQuorum, true
	case errors.Is(err, metadata.ErrDenied):
		return weather.Denied, true
	case errors.Is(ctx.Err(), context.Canceled):
		return 0, false // the caller has other things to do
	case errors.Is(err, context.DeadlineExceeded):
		return weather.Hanging, true
	case errors.Is(err, metadata.ErrUnreachable):
		return weather.Unreachable, true
	}
	return weather.Failing, true
}

// Txn implements metadata.Store, as do the following.
func (s *Store) Txn(ctx context.Context, txn metadata.Txn) (metadata.TxnResult, error) {
	start := time.Now()
	res, err := s.Store.Txn(ctx, txn)
	if len(txn.Then) > 0 && (err != nil || res.Succeeded) {
		heard(ctx, s.write, start, err)
	} else {
		heard(ctx, s.read, start, err)
	}
	return res, err
}

// Get observes a read.
func (s *Store) Get(ctx context.Context, keys ...string) ([]metadata.KV, int64, error) {
	start := time.Now()
	kvs, revision, err := s.Store.Get(ctx, keys...)
	heard(ctx, s.read, start, err)
	return kvs, revision, err
}

// Range observes a read.
func (s *Store) Range(ctx context.Context, from, end string, revision int64, limit int) (metadata.Page, error) {
	start := time.Now()
	page, err := s.Store.Range(ctx, from, end, revision, limit)
	heard(ctx, s.read, start, err)
	return page, err
}

// Grant observes a write.
func (s *Store) Grant(ctx context.Context, ttl time.Duration) (metadata.LeaseID, error) {
	start := time.Now()
	id, err := s.Store.Grant(ctx, ttl)
	heard(ctx, s.write, start, err)
	return id, err
}

// KeepAlive observes a renewal.
func (s *Store) KeepAlive(ctx context.Context, lease metadata.LeaseID) error {
	start := time.Now()
	err := s.Store.KeepAlive(ctx, lease)
	heard(ctx, s.read, start, err)
	return err
}
