// Package retry repeats those calls to the metadata store that may be repeated, with
// growing, jittered pauses, until the store answers or the caller gives up.
//
// A transaction whose outcome is unknown may be applied at any later time, so reading
// it back as absent proves nothing. Txn therefore puts the same transaction again until
// the store answers one of the attempts, and tells the caller whether an earlier attempt
// went unanswered. It is the caller's transaction that must make this harmless: its
// conditions must be such that at most one attempt can ever be applied, and that the
// Else keys show whether one was.
//
// All functions may be called concurrently.
package retry

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/floelog/floe/metadata"
)

const (
	// firstPause is about the time that a healthy store needs for a few transactions.
	// Shorter would only add load to one that is in trouble; longer would be felt after
	// a single lost reply.
	firstPause = 10 * time.Millisecond

	// maxPause bounds how long recovery goes unnoticed. Shorter: hundreds of agents keep a
	// struggling store busy. Longer: clients wait although the store is back.
	maxPause = time.Second

	// attemptTimeout ends an attempt at a member that hangs, so that the next one may
	// reach another. Shorter would abandon what a slow disk or an election delays anyway;
	// longer would use up a request's patience (30 s in most clients) on one attempt.
	attemptTimeout = 3 * time.Second
)

// Pacer draws the pauses between attempts.
type Pacer struct{ random io.Reader }

// NewPacer returns a Pacer that draws its jitter from random, which must be safe for
// concurrent use, as crypto/rand.Reader is.
func NewPacer(random io.Reader) *Pacer { return &Pacer{random} }

// Pause waits between half of and the full pause after the given attempt (from 0 up),
// or returns the context's error.
func (p *Pacer) Pause(ctx context.Context, attempt int) error {
	d := firstPause << min(max(attempt, 0), 16)
	return p.wait(ctx, min(d, maxPause))
}

func (p *Pacer) wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d - p.Jitter(d/2))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Jitter draws a duration from [0, limit).
func (p *Pacer) Jitter(limit time.Duration) time.Duration {
	var b [8]byte
	if _, err := io.ReadFull(p.random, b[:]); err != nil || limit <= 0 {
		return 0 // without randomness the pauses are merely not spread
	}
	return time.Duration(binary.LittleEndian.Uint64(b[:]) % uint64(limit))
}

// Txn puts txn until the store answers. unanswered tells that at least one earlier
// attempt went without an answer, so that a refusal may be due to txn itself.
//
// The errors are metadata.ErrInvalid (never applied), metadata.ErrLeaseLost (the lease
// that txn names is gone, and with it everything that any attempt did under it), and the
// context's error, after which the outcome is unknown whenever unanswered is true.
func Txn(ctx context.Context, store metadata.Store, p *Pacer, txn metadata.Txn) (res metadata.TxnResult, unanswered bool, err error) {
	for attempt := 0; ; attempt++ {
		if ctx.Err() != nil {
			return metadata.TxnResult{}, unanswered, gaveUp(ctx, err)
		}
		res, err = once(ctx, func(ctx context.Context) (metadata.TxnResult, error) { return store.Txn(ctx, txn) })
		if err == nil || errors.Is(err, metadata.ErrInvalid) || errors.Is(err, metadata.ErrLeaseLost) {
			return res, unanswered, err
		}
		unanswered = true
		if p.Pause(ctx, attempt) != nil {
			return metadata.TxnResult{}, unanswered, gaveUp(ctx, err)
		}
	}
}

// Get reads keys at one instant, linearizably, repeating the read until it works.
func Get(ctx context.Context, store metadata.Store, p *Pacer, keys ...string) ([]metadata.KV, int64, error) {
	var revision int64
	kvs, err := Read(ctx, p, func(ctx context.Context) (kvs []metadata.KV, err error) {
		kvs, revision, err = store.Get(ctx, keys...)
		return kvs, err
	})
	return kvs, revision, err
}

// Read repeats a read of the store, or another call that does no harm when it is
// repeated, until it works. ErrInvalid, ErrCompacted and ErrLeaseLost are answers.
func Read[T any](ctx context.Context, p *Pacer, read func(context.Context) (T, error)) (T, error) {
	var err error
	for attempt := 0; ; attempt++ {
		var v, zero T
		if ctx.Err() != nil {
			return zero, gaveUp(ctx, err)
		}
		v, err = once(ctx, read)
		if err == nil || errors.Is(err, metadata.ErrInvalid) ||
			errors.Is(err, metadata.ErrCompacted) || errors.Is(err, metadata.ErrLeaseLost) {
			return v, err
		}
		if p.Pause(ctx, attempt) != nil {
			return zero, gaveUp(ctx, err)
		}
	}
}

func once[T any](ctx context.Context, call func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	return call(ctx)
}

// gaveUp is the context's error, with the store's last one as its reason.
func gaveUp(ctx context.Context, last error) error {
	if last == nil {
		return ctx.Err()
	}
	return fmt.Errorf("%w (last answer of the metadata store: %v)", ctx.Err(), last)
}
