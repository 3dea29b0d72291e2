package catalogue_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/catalogue"
)

var keys = metadata.NewKeys("test")

// source is randomness for concurrent use.
type source struct {
	mu  sync.Mutex
	rnd *rand.ChaCha8
}

func newSource(seed uint64) *source {
	return &source{rnd: rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})}
}

func (s *source) Read(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rnd.Read(b)
}

var cluster = catalogue.Cluster{ID: "AAAAAAAAAAAAAAAAAAAAAA", FormatVersion: catalogue.FormatVersion, Shards: 64}

func newCatalogue(store metadata.Store, seed uint64) *catalogue.Catalogue {
	return catalogue.New(store, keys, cluster, catalogue.Config{Random: newSource(seed)})
}

// start runs the catalogue until the returned function is called.
func start(t *testing.T, c *catalogue.Catalogue) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- c.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v, want that it was canceled", err)
		}
	}
}

func wait(t *testing.T, c *catalogue.Catalogue, rev int64) {
	t.Helper()
	if err := c.WaitRevision(t.Context(), rev); err != nil {
		t.Fatalf("waiting for revision %d: %v", rev, err)
	}
}

func mustCreate(t *testing.T, c *catalogue.Catalogue, name string, partitions int32) catalogue.Change {
	t.Helper()
	res := c.Create(t.Context(), []catalogue.NewTopic{{Name: name, Partitions: partitions, ReplicationFactor: 3}})
	if res[0].Err != nil {
		t.Fatalf("creating %q: %v", name, res[0].Err)
	}
	return res[0].Change
}

func put(t *testing.T, s metadata.Store, key, value string) int64 {
	t.Helper()
	res, err := s.Txn(t.Context(), metadata.Txn{Then: []metadata.Op{metadata.Put(key, []byte(value))}})
	if err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
	return res.Revision
}

var errNoAnswer = errors.New("no answer")

// hook lets a test decide what becomes of each transaction, and measures them.
type hook struct {
	metadata.Store
	latency  time.Duration
	txn      func(n int64, txn metadata.Txn) (held bool) // nil: none is held; held: no answer, applied by the test
	txns     atomic.Int64
	inFlight atomic.Int64
	most     atomic.Int64
}

func (h *hook) Txn(ctx context.Context, txn metadata.Txn) (metadata.TxnResult, error) {
	n := h.inFlight.Add(1)
	defer h.inFlight.Add(-1)
	for m := h.most.Load(); n > m && !h.most.CompareAndSwap(m, n); m = h.most.Load() {
	}
	if i := h.txns.Add(1); h.txn != nil && h.txn(i, txn) {
		return metadata.TxnResult{}, errNoAnswer
	}
	if h.latency > 0 {
		select {
		case <-time.After(h.latency):
		case <-ctx.Done():
			return metadata.TxnResult{}, ctx.Err()
		}
	}
	return h.Store.Txn(ctx, txn)
}
