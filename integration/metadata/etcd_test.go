//go:build integration && unix

package metadata

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/floelog/floe/integration/fixture"
	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/etcd"
	"github.com/floelog/floe/metadata/metadatatest"
)

// patience bounds waiting for what must come; an election takes 1 to 2 s, on a machine that has
// nothing else to do.
const patience = 2 * time.Minute

func connect(t *testing.T, endpoints ...string) *etcd.Client {
	t.Helper()
	c, err := etcd.Open(t.Context(), etcd.Config{Endpoints: endpoints})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return c
}

// TestContract gives each client of the contract's tests another member.
func TestContract(t *testing.T) {
	endpoints := fixture.Etcd(t, 3).Endpoints()
	metadatatest.Run(t, metadatatest.Harness{
		TTL: 5 * time.Second, // a busy machine may be seconds late to renew a lease
		Open: func(t *testing.T, clients int) []metadata.Store {
			stores := make([]metadata.Store, clients)
			for i := range stores {
				stores[i] = connect(t, endpoints[i%len(endpoints)])
			}
			return stores
		},
	})
}

// put puts a key, again and again until the store answers: the outcomes in between are
// unknown, and the same value again does no harm.
func put(t *testing.T, store metadata.Store, key, value string) int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		try, stop := context.WithTimeout(ctx, 2*time.Second)
		res, err := store.Txn(try, metadata.Txn{Then: []metadata.Op{metadata.Put(key, []byte(value))}})
		stop()
		if err == nil {
			return res.Revision
		}
		if ctx.Err() != nil {
			t.Fatalf("put of %s: %v", key, err)
		}
	}
}

// read reads keys linearizably, as soon as the store answers.
func read(t *testing.T, store metadata.Store, keys ...string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		try, stop := context.WithTimeout(ctx, 2*time.Second)
		kvs, _, err := store.Get(try, keys...)
		stop()
		if err == nil {
			values := make([]string, len(kvs))
			for i, kv := range kvs {
				if values[i] = "-"; kv.Exists() {
					values[i] = string(kv.Value)
				}
			}
			return values
		}
		if ctx.Err() != nil {
			t.Fatalf("get of %s: %v", keys, err)
		}
	}
}

// TestLeaderFails kills or pauses the leader under writers. Each transaction is sent
// once: what was acknowledged must be there, and none may find its own key taken, as a
// doubled one would.
func TestLeaderFails(t *testing.T) {
	cluster := fixture.Etcd(t, 3)
	for _, c := range []struct {
		name        string
		fail, again func(int)
	}{
		{"killed", cluster.Kill, cluster.Restart},
		{"paused", cluster.Pause, cluster.Resume},
	} {
		t.Run(c.name, func(t *testing.T) {
			store := connect(t, cluster.Endpoints()...)
			w := &writers{store: store, prefix: "/" + c.name + "/"}
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			var wg sync.WaitGroup
			for i := range 8 {
				wg.Go(func() { w.run(ctx, i) })
			}
			w.await(t, 100)
			leader := cluster.Leader()
			c.fail(leader)
			w.await(t, 100)
			c.again(leader)
			w.await(t, 100)
			stop()
			wg.Wait()
			w.check(t)
		})
	}
}

// writers create keys, each once.
type writers struct {
	store  metadata.Store
	prefix string

	mu           sync.Mutex
	acknowledged []string
	unknown      []string
	faults       []error
}

func (w *writers) run(ctx context.Context, writer int) {
	for n := 0; ctx.Err() == nil; n++ {
		key := fmt.Sprintf("%s%d/%06d", w.prefix, writer, n)
		try, cancel := context.WithTimeout(ctx, time.Second)
		res, err := w.store.Txn(try, metadata.Txn{
			If:   []metadata.Condition{metadata.Absent(key)},
			Then: []metadata.Op{metadata.Put(key, []byte(strconv.Itoa(n)))},
		})
		cancel()
		w.mu.Lock()
		switch {
		case err == nil && res.Succeeded:
			w.acknowledged = append(w.acknowledged, key)
		case err == nil:
			w.faults = append(w.faults, fmt.Errorf("%s existed before it was put", key))
		case errors.Is(err, metadata.ErrInvalid), errors.Is(err, metadata.ErrLeaseLost):
			w.faults = append(w.faults, fmt.Errorf("%s: unknown outcome called definite: %w", key, err))
		default:
			w.unknown = append(w.unknown, key)
		}
		w.mu.Unlock()
	}
}

// await waits until that many more transactions were acknowledged.
func (w *writers) await(t *testing.T, more int) {
	t.Helper()
	count := func() int {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.acknowledged)
	}
	want := count() + more
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for count() < want {
		select {
		case <-again.C:
		case <-timeout.C:
			t.Fatalf("%d transactions acknowledged, want %d", count(), want)
		}
	}
}

func (w *writers) check(t *testing.T) {
	page, err := w.store.Range(t.Context(), w.prefix, metadata.PrefixEnd(w.prefix), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	exists := make(map[string]bool)
	for _, kv := range page.KVs {
		exists[kv.Key] = true
	}
	for _, key := range w.acknowledged {
		if !exists[key] {
			t.Errorf("%s was acknowledged and is lost", key)
		}
	}
	if err := errors.Join(w.faults...); err != nil {
		t.Error(err)
	}
	t.Logf("%d acknowledged, %d unknown, of which %d applied", len(w.acknowledged), len(w.unknown), len(exists)-len(w.acknowledged))
}

// TestLateTransactions sends transactions through a member that is paused with them, and
// supersedes them meanwhile: whenever they arrive, their conditions keep them out.
func TestLateTransactions(t *testing.T) {
	cluster := fixture.Etcd(t, 3)
	leader := cluster.Leader()
	member := (leader + 1) % 3 // a follower
	through := connect(t, cluster.Endpoints()[member])
	other := connect(t, cluster.Endpoints()[leader])
	put(t, other, "/head", "1")
	if got := read(t, through, "/head"); got[0] != "1" {
		t.Fatalf("head is %q, want 1", got[0])
	}

	cluster.Pause(member)
	const late = 32
	var wg sync.WaitGroup
	for i := range late {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, err := through.Txn(ctx, metadata.Txn{
				If:   []metadata.Condition{metadata.Equals("/head", []byte("1"))},
				Then: []metadata.Op{metadata.Put(fmt.Sprintf("/late/%d", i), nil)},
			})
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("transaction through a paused member: %v, want its deadline", err)
			}
		})
	}
	wg.Wait()
	superseded := put(t, other, "/head", "2")
	cluster.Resume(member)
	put(t, through, "/after", "x") // what the member held goes before
	page, err := other.Range(t.Context(), "/late/", metadata.PrefixEnd("/late/"), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range page.KVs {
		t.Errorf("%s was applied at revision %d, superseded at %d", kv.Key, kv.Revision, superseded)
	}
}

// TestWatchOutlivesMembers kills each member in turn under a watch, which must deliver
// every change once, in order, or end with an error.
func TestWatchOutlivesMembers(t *testing.T) {
	cluster := fixture.Etcd(t, 3)
	store := connect(t, cluster.Endpoints()...)
	first := put(t, store, "/watched/a", "start")
	batches := store.Watch(t.Context(), "/watched/", first)
	last := first
	for member := range 3 {
		cluster.Kill(member)
		for n := range 20 {
			last = put(t, store, "/watched/a", fmt.Sprintf("%d.%d", member, n))
		}
		cluster.Restart(member)
	}
	page, err := store.Range(t.Context(), "/watched/", metadata.PrefixEnd("/watched/"), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	var final metadata.Event
	distinct := make(map[string]bool)
	for at := first - 1; at < last; {
		select {
		case b, ok := <-batches:
			if !ok || b.Err != nil {
				t.Fatalf("watch ended after revision %d: %v", at, b.Err)
			}
			for _, ev := range b.Events {
				if ev.Revision <= at {
					t.Errorf("event of revision %d after %d", ev.Revision, at)
				}
				at = ev.Revision
				final = ev
				distinct[string(ev.Value)] = true
			}
			at = max(at, b.Revision)
		case <-timeout.C:
			t.Fatalf("watch delivered up to revision %d, want %d", at, last)
		}
	}
	if len(distinct) != 61 || string(final.Value) != string(page.KVs[0].Value) {
		t.Errorf("%d values, the last %q; want 61 and %q", len(distinct), final.Value, page.KVs[0].Value)
	}
}

// TestLeaseOutlivesLeader kills the leader under a lease: it may live longer, never shorter.
func TestLeaseOutlivesLeader(t *testing.T) {
	cluster := fixture.Etcd(t, 3)
	store := connect(t, cluster.Endpoints()...)
	const ttl = 3 * time.Second
	lease, err := store.Grant(t.Context(), ttl)
	if err != nil {
		t.Fatal(err)
	}
	res, err := store.Txn(t.Context(), metadata.Txn{Then: []metadata.Op{metadata.PutLeased("/leased", []byte("x"), lease)}})
	if err != nil {
		t.Fatal(err)
	}
	batches := store.Watch(t.Context(), "/leased", res.Revision+1)
	renewed := time.Now()
	if err := store.KeepAlive(t.Context(), lease); err != nil {
		t.Fatal(err)
	}
	cluster.Kill(cluster.Leader())
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for deleted := false; !deleted; {
		select {
		case b, ok := <-batches:
			if !ok || b.Err != nil {
				t.Fatalf("watch ended: %v", b.Err)
			}
			deleted = len(b.Events) == 1 && b.Events[0].Deleted
		case <-timeout.C:
			t.Fatal("lease did not expire")
		}
	}
	if lived := time.Since(renewed); lived < ttl {
		t.Errorf("lease of %v lived for %v after its renewal", ttl, lived)
	}
	if got := read(t, store, "/leased"); got[0] != "-" {
		t.Errorf("key of an expired lease is %q", got[0])
	}
	if err := store.KeepAlive(t.Context(), lease); !errors.Is(err, metadata.ErrLeaseLost) {
		t.Errorf("keep alive: %v", err)
	}
}
