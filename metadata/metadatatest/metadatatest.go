// Package metadatatest holds every implementation of metadata.Store to the contract: one
// test for each of its sentences. It is used from tests only.
package metadatatest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/floelog/floe/metadata"
)

// Harness says how to reach the store under test.
type Harness struct {
	// Open returns that many clients of one store, which need not be empty nor private;
	// they are closed by t.Cleanup. Clients of a cluster should use different members.
	Open func(t *testing.T, clients int) []metadata.Store

	// Bubble runs one test, in virtual time if it is synctest.Test; nil for real time.
	Bubble func(t *testing.T, test func(t *testing.T))

	// TTL is a time to live for leases that the store can keep; it bounds how long the
	// tests of leases take.
	TTL time.Duration
}

// patience is how long a test waits for what must come: far more than any store needs.
const patience = 30 * time.Second

// Run holds the store to the contract. Tests of one store do not run in parallel.
func Run(t *testing.T, h Harness) {
	if h.Bubble == nil {
		h.Bubble = func(t *testing.T, test func(t *testing.T)) { test(t) }
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			h.Bubble(t, func(t *testing.T) {
				clients := max(c.clients, 1)
				e := &env{T: t, ctx: t.Context(), ttl: h.TTL, stores: h.Open(t, clients)}
				e.Store = e.stores[0]
				e.prefix = fmt.Sprintf("/metadatatest/%s/%d/", c.name, e.revision())
				c.test(e)
			})
		})
	}
}

var cases = []struct {
	name    string
	clients int
	test    func(*env)
}{
	{"TxnConditions", 1, testTxnConditions},
	{"TxnNeedsAllConditions", 1, testTxnNeedsAllConditions},
	{"TxnOperations", 1, testTxnOperations},
	{"TxnRevisions", 1, testTxnRevisions},
	{"TxnElse", 1, testTxnElse},
	{"TxnOneWinner", 3, testTxnOneWinner},
	{"TxnIncrements", 3, testTxnIncrements},
	{"TxnElseAtOneInstant", 3, testTxnElseAtOneInstant},
	{"TxnLimits", 1, testTxnLimits},
	{"TxnAtTheLimits", 1, testTxnAtTheLimits},
	{"TxnKeepsNoBuffers", 1, testTxnKeepsNoBuffers},
	{"ContextEnded", 1, testContextEnded},
	{"GetAtOneInstant", 3, testGetAtOneInstant},
	{"GetManyKeys", 1, testGetManyKeys},
	{"GetLinearizable", 3, testGetLinearizable},
	{"RangeBounds", 1, testRangeBounds},
	{"RangePinned", 1, testRangePinned},
	{"RangeBadRevisions", 1, testRangeBadRevisions},
	{"Compact", 1, testCompact},
	{"WatchHistory", 1, testWatchHistory},
	{"WatchRevisionInOneBatch", 1, testWatchRevisionInOneBatch},
	{"WatchLargeHistory", 1, testWatchLargeHistory},
	{"WatchConcurrent", 3, testWatchConcurrent},
	{"WatchCompacted", 1, testWatchCompacted},
	{"WatchEnds", 1, testWatchEnds},
	{"LeaseExpires", 1, testLeaseExpires},
	{"LeaseRenewed", 1, testLeaseRenewed},
	{"LeaseRevoked", 1, testLeaseRevoked},
	{"LeaseRebound", 1, testLeaseRebound},
	{"LeaseLost", 1, testLeaseLost},
}

// env is what one test works with. The embedded Store is the first of its clients.
type env struct {
	*testing.T
	metadata.Store
	ctx    context.Context
	ttl    time.Duration
	stores []metadata.Store
	prefix string // of all keys of the test
}

func (e *env) key(format string, args ...any) string {
	return e.prefix + fmt.Sprintf(format, args...)
}

func (e *env) revision() int64 {
	e.Helper()
	_, revision, err := e.Get(e.ctx)
	if err != nil {
		e.Fatalf("get of no keys: %v", err)
	}
	return revision
}

// apply applies operations without conditions.
func (e *env) apply(ops ...metadata.Op) metadata.TxnResult {
	e.Helper()
	res := e.txn(metadata.Txn{Then: ops})
	if !res.Succeeded {
		e.Fatalf("transaction without conditions did not succeed")
	}
	return res
}

func (e *env) txn(txn metadata.Txn) metadata.TxnResult {
	e.Helper()
	res, err := e.Txn(e.ctx, txn)
	if err != nil {
		e.Fatalf("txn: %v", err)
	}
	return res
}

func (e *env) put(key, value string) int64 {
	e.Helper()
	return e.apply(metadata.Put(key, []byte(value))).Revision
}

func (e *env) get(keys ...string) []metadata.KV {
	e.Helper()
	kvs, _, err := e.Get(e.ctx, keys...)
	if err != nil {
		e.Fatalf("get: %v", err)
	}
	if len(kvs) != len(keys) {
		e.Fatalf("get of %d keys returned %d", len(keys), len(kvs))
	}
	return kvs
}

// want checks keys and values; "-" stands for a key that does not exist.
func (e *env) want(pairs ...string) {
	e.Helper()
	for i := 0; i < len(pairs); i += 2 {
		kv := e.get(pairs[i])[0]
		if got := show(kv); got != pairs[i+1] {
			e.Errorf("%s = %q, want %q", pairs[i], got, pairs[i+1])
		}
		if kv.Key != pairs[i] {
			e.Errorf("get of %q returned key %q", pairs[i], kv.Key)
		}
	}
}

func (e *env) wantErr(what string, err, want error) {
	e.Helper()
	if !errors.Is(err, want) {
		e.Errorf("%s: error %v, want %v", what, err, want)
	}
}

func show(kv metadata.KV) string {
	if !kv.Exists() {
		return "-"
	}
	return string(kv.Value)
}

// each runs f once for each client, or n times over the clients, at the same time.
func (e *env) each(n int, f func(i int, store metadata.Store) error) {
	e.Helper()
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = f(i, e.stores[i%len(e.stores)]) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		e.Fatal(err)
	}
}

// watching reads a watch and checks what every watch must keep.
type watching struct {
	e        *env
	batches  <-chan metadata.WatchBatch
	revision int64 // up to which everything was delivered
	stop     context.CancelFunc
}

func (e *env) watch(prefix string, revision int64) *watching {
	ctx, cancel := context.WithCancel(e.ctx)
	e.Cleanup(cancel)
	return &watching{e, e.Watch(ctx, prefix, revision), revision - 1, cancel}
}

// next returns the next batch, events or progress.
func (w *watching) next() metadata.WatchBatch {
	w.e.Helper()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	select {
	case b, ok := <-w.batches:
		if !ok {
			w.e.Fatal("watch ended without an error while its context lives")
		}
		return b
	case <-timeout.C:
		w.e.Fatal("watch delivered nothing")
		panic("unreachable")
	}
}

// until collects events up to and including revision.
func (w *watching) until(revision int64) []metadata.Event {
	w.e.Helper()
	var all []metadata.Event
	for w.revision < revision {
		b := w.next()
		if b.Err != nil {
			w.e.Fatalf("watch: %v", b.Err)
		}
		w.check(b)
		all = append(all, b.Events...)
	}
	return all
}

// check holds a batch to the order of revisions.
func (w *watching) check(b metadata.WatchBatch) {
	w.e.Helper()
	last := w.revision // a revision that was delivered must not come again
	for i, ev := range b.Events {
		if ev.Revision < last || i == 0 && ev.Revision <= last {
			w.e.Fatalf("watch: event of revision %d after revision %d", ev.Revision, last)
		}
		last = ev.Revision
	}
	if b.Revision < last {
		w.e.Fatalf("watch: batch of revision %d has or follows revision %d", b.Revision, last)
	}
	w.revision = b.Revision
}
