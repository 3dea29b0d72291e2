package memory_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/memory"
)

// inBubble runs a test in virtual time with a server and a client without faults.
func inBubble(t *testing.T, test func(t *testing.T, server *memory.Server, healthy *memory.Client)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		server := memory.New()
		defer server.Close()
		test(t, server, server.Client("healthy"))
	})
}

func put(key, value string) metadata.Txn {
	return metadata.Txn{Then: []metadata.Op{metadata.Put(key, []byte(value))}}
}

// value reads a key, "-" if there is none.
func value(t *testing.T, store metadata.Store, key string) string {
	t.Helper()
	kvs, _, err := store.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	if !kvs[0].Exists() {
		return "-"
	}
	return string(kvs[0].Value)
}

// must applies a transaction through a client without faults.
func must(t *testing.T, store metadata.Store, txn metadata.Txn) metadata.TxnResult {
	t.Helper()
	res, err := store.Txn(t.Context(), txn)
	if err != nil || !res.Succeeded {
		t.Fatalf("txn: %v, succeeded %v", err, res.Succeeded)
	}
	return res
}

func wantFired(t *testing.T, server *memory.Server, fault memory.Fault, want int) {
	t.Helper()
	if got := server.Fired()[fault]; got != want {
		t.Errorf("fault %q fired %d times, want %d", fault, got, want)
	}
}

// TestUnknownOutcomes checks what each way of failing leaves behind, at once and later.
func TestUnknownOutcomes(t *testing.T) {
	for _, c := range []struct {
		fault       memory.Fault
		faults      memory.Faults
		atOnce      string
		later       string
		whenGuarded string // later, if the condition was made to fail meanwhile
	}{
		{memory.FailBefore, memory.Faults{FailBefore: 1}, "-", "-", "-"},
		{memory.FailAfter, memory.Faults{FailAfter: 1}, "late", "late", "late"},
		{memory.ApplyLate, memory.Faults{ApplyLate: 1, LateBy: time.Minute}, "-", "late", "-"},
	} {
		for _, guarded := range []bool{false, true} {
			inBubble(t, func(t *testing.T, server *memory.Server, healthy *memory.Client) {
				must(t, healthy, put("/guard", "1"))
				faulty := server.Client("faulty")
				faulty.Inject(c.faults, rand.New(rand.NewPCG(1, 2)))
				buffer := []byte("late")
				_, err := faulty.Txn(t.Context(), metadata.Txn{
					If:   []metadata.Condition{metadata.Equals("/guard", []byte("1"))},
					Then: []metadata.Op{metadata.Put("/a", buffer)},
				})
				copy(buffer, "XXXX") // the caller's again
				if !errors.Is(err, memory.ErrFault) {
					t.Errorf("%s: error %v", c.fault, err)
				}
				if got := value(t, healthy, "/a"); got != c.atOnce {
					t.Errorf("%s: value is %q at once, want %q", c.fault, got, c.atOnce)
				}
				want := c.later
				if guarded {
					must(t, healthy, put("/guard", "2"))
					want = c.whenGuarded
				}
				time.Sleep(time.Minute)
				synctest.Wait()
				if got := value(t, healthy, "/a"); got != want {
					t.Errorf("%s, guarded %v: value is %q later, want %q", c.fault, guarded, got, want)
				}
				wantFired(t, server, c.fault, 1)
			})
		}
	}
}

// TestLatency checks that a call takes time and, abandoned on its way, is applied.
func TestLatency(t *testing.T) {
	inBubble(t, func(t *testing.T, server *memory.Server, healthy *memory.Client) {
		slow := server.Client("slow")
		slow.Inject(memory.Faults{Latency: time.Second}, rand.New(rand.NewPCG(1, 2)))
		var most time.Duration
		for range 100 {
			start := time.Now()
			must(t, slow, put("/a", "1"))
			most = max(most, time.Since(start))
		}
		if most < time.Second/2 || most > time.Second {
			t.Errorf("100 calls with latencies up to 1s took at most %v", most)
		}
		wantFired(t, server, memory.Latency, 100)

		abandoned := 0
		for i := range 20 {
			key := "/abandoned/" + strconv.Itoa(i)
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			_, err := slow.Txn(ctx, put(key, "1"))
			cancel()
			if !errors.Is(err, context.DeadlineExceeded) {
				continue // it was as fast as that
			}
			abandoned++
			time.Sleep(time.Second)
			synctest.Wait()
			if got := value(t, healthy, key); got != "1" {
				t.Errorf("abandoned put left %q", got)
			}
		}
		if abandoned == 0 || server.Fired()[memory.Abandoned] == 0 {
			t.Error("no call was abandoned on its way")
		}
	})
}

func TestPartition(t *testing.T) {
	inBubble(t, func(t *testing.T, server *memory.Server, healthy *memory.Client) {
		cut := server.Client("cut")
		lease, err := cut.Grant(t.Context(), 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		must(t, cut, metadata.Txn{Then: []metadata.Op{metadata.PutLeased("/leased", nil, lease)}})
		batches := cut.Watch(t.Context(), "/", server.Revision()+1)
		cut.Partition()

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if _, err := cut.Txn(ctx, put("/a", "cut")); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("call in a partition: %v after %v", err, time.Since(start))
		}
		must(t, healthy, put("/a", "1"))
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if got := value(t, healthy, "/leased"); got != "-" {
			t.Errorf("key of a lease that could not be renewed is %q", got)
		}
		select {
		case b := <-batches:
			t.Errorf("batch %+v in a partition", b)
		default:
		}
		wantFired(t, server, memory.LeaseExpiry, 1)

		done := make(chan error, 1)
		go func() { done <- cut.KeepAlive(t.Context(), lease) }()
		synctest.Wait()
		cut.Heal()
		if err := <-done; !errors.Is(err, metadata.ErrLeaseLost) {
			t.Errorf("keep alive after the partition: %v", err)
		}
		if got := keys(t, batches, 2); !slices.Equal(got, []string{"/a", "/leased"}) {
			t.Errorf("changes after the partition: %q", got)
		}
	})
}

// keys reads the keys of the next n events.
func keys(t *testing.T, batches <-chan metadata.WatchBatch, n int) []string {
	t.Helper()
	var all []string
	for len(all) < n {
		b := <-batches
		if b.Err != nil {
			t.Fatal(b.Err)
		}
		for _, ev := range b.Events {
			all = append(all, ev.Key)
		}
	}
	return all
}

// TestPause stops a client before, during and after its requests.
func TestPause(t *testing.T) {
	inBubble(t, func(t *testing.T, server *memory.Server, healthy *memory.Client) {
		stopped := server.Client("stopped")
		batches := stopped.Watch(t.Context(), "/", server.Revision()+1)
		stopped.Pause()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		done := make(chan error, 1)
		go func() {
			_, err := stopped.Txn(ctx, put("/a", "stopped"))
			done <- err
		}()
		must(t, healthy, put("/a", "1"))
		time.Sleep(time.Minute)
		synctest.Wait()
		select {
		case err := <-done:
			t.Errorf("call of a stopped client returned %v", err)
		case b := <-batches:
			t.Errorf("batch %+v of a stopped client", b)
		default:
		}
		stopped.Resume()
		if err := <-done; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("call after the pause: %v", err)
		}
		if got := keys(t, batches, 1); got[0] != "/a" {
			t.Errorf("change after the pause: %q", got)
		}
		if server.Fired()[memory.Pause] == 0 {
			t.Error("pause did not fire")
		}

		// A request that was sent before the pause is applied, but its answer waits.
		stopped.Inject(memory.Faults{Latency: time.Second}, rand.New(rand.NewPCG(1, 2)))
		go func() {
			_, err := stopped.Txn(t.Context(), put("/b", "sent"))
			done <- err
		}()
		synctest.Wait()
		stopped.Pause()
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := value(t, healthy, "/b"); got != "sent" {
			t.Errorf("request sent before the pause left %q", got)
		}
		if len(done) != 0 {
			t.Errorf("answer arrived in a stopped client: %v", <-done)
		}
		stopped.Resume()
		if err := <-done; err != nil {
			t.Errorf("call after the pause: %v", err)
		}
	})
}

func TestWatchFaults(t *testing.T) {
	inBubble(t, func(t *testing.T, server *memory.Server, healthy *memory.Client) {
		lagging, losing := server.Client("lagging"), server.Client("losing")
		lagging.Inject(memory.Faults{WatchLag: 1, WatchLagBy: time.Minute}, rand.New(rand.NewPCG(1, 2)))
		losing.Inject(memory.Faults{WatchLoss: 1}, rand.New(rand.NewPCG(1, 2)))
		start := time.Now()
		late := lagging.Watch(t.Context(), "/", server.Revision()+1)
		lost := losing.Watch(t.Context(), "/", server.Revision()+1)
		broken := healthy.Watch(t.Context(), "/", server.Revision()+1)
		must(t, healthy, put("/a", "1"))
		if b := <-lost; !errors.Is(b.Err, memory.ErrFault) || len(b.Events) != 0 {
			t.Errorf("lost batch is %+v", b)
		}
		if b, ok := <-lost; ok {
			t.Errorf("batch %+v after the loss", b)
		}
		if got := keys(t, late, 1); got[0] != "/a" || time.Since(start) == 0 {
			t.Errorf("late change %q after %v", got, time.Since(start))
		}
		keys(t, broken, 1)
		server.BreakWatches()
		if b := <-broken; !errors.Is(b.Err, memory.ErrFault) {
			t.Errorf("broken batch is %+v", b)
		}
		// A watch that lags behind a compaction hears of it.
		lagging.Inject(memory.Faults{}, rand.New(rand.NewPCG(1, 2)))
		lagging.Partition()
		behind := lagging.Watch(t.Context(), "/", server.Revision()+1)
		for i := range 3 {
			must(t, healthy, put("/a", strconv.Itoa(i)))
			synctest.Wait()
		}
		if err := healthy.Compact(t.Context(), server.Revision()); err != nil {
			t.Fatal(err)
		}
		lagging.Heal()
		var b metadata.WatchBatch
		for b.Err == nil { // what was collected before still comes
			b = <-behind
		}
		if !errors.Is(b.Err, metadata.ErrCompacted) {
			t.Errorf("watch behind a compaction: %v", b.Err)
		}
		wantFired(t, server, memory.WatchLoss, 3)
	})
}

// TestRestore goes back to a backup: revisions are issued again, leases come back.
func TestRestore(t *testing.T) {
	inBubble(t, func(t *testing.T, server *memory.Server, store *memory.Client) {
		ctx := t.Context()
		lease, err := store.Grant(ctx, 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		first := must(t, store, metadata.Txn{Then: []metadata.Op{metadata.PutLeased("/leased", []byte("1"), lease)}})
		must(t, store, put("/a", "1"))
		snap := server.Snapshot()
		after := must(t, store, put("/a", "2"))
		if err := store.Revoke(ctx, lease); err != nil {
			t.Fatal(err)
		}
		batches := store.Watch(ctx, "/", server.Revision()+1)

		server.Restore(snap)
		if b := <-batches; b.Err == nil {
			t.Errorf("batch %+v after a restore, want an error", b)
		}
		if a, leased := value(t, store, "/a"), value(t, store, "/leased"); a != "1" || leased != "1" {
			t.Errorf("restored a = %q, leased = %q, want 1 and 1", a, leased)
		}
		if again := must(t, store, put("/a", "3")); again.Revision != after.Revision {
			t.Errorf("revision %d after the restore, want %d again", again.Revision, after.Revision)
		}
		if got := keys(t, store.Watch(ctx, "/", first.Revision), 3); !slices.Equal(got, []string{"/leased", "/a", "/a"}) {
			t.Errorf("history after the restore: %q", got)
		}
		other, err := store.Grant(ctx, time.Minute)
		if err != nil || other == lease {
			t.Errorf("lease %x (%v), which the backup knows", other, err)
		}
		time.Sleep(9 * time.Second)
		if err := store.KeepAlive(ctx, lease); err != nil {
			t.Errorf("restored lease: %v", err)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if got := value(t, store, "/leased"); got != "-" {
			t.Errorf("key of the restored lease is %q after its time", got)
		}
		// The snapshot itself did not change.
		server.Restore(snap)
		if a, leased := value(t, store, "/a"), value(t, store, "/leased"); a != "1" || leased != "1" {
			t.Errorf("restored again a = %q, leased = %q, want 1 and 1", a, leased)
		}
	})
}

func TestExtendLeases(t *testing.T) {
	inBubble(t, func(t *testing.T, server *memory.Server, store *memory.Client) {
		lease, err := store.Grant(t.Context(), 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		must(t, store, metadata.Txn{Then: []metadata.Op{metadata.PutLeased("/leased", []byte("1"), lease)}})
		time.Sleep(9 * time.Second)
		server.ExtendLeases()
		time.Sleep(9 * time.Second)
		if got := value(t, store, "/leased"); got != "1" {
			t.Errorf("key of an extended lease is %q", got)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if got := value(t, store, "/leased"); got != "-" {
			t.Errorf("key of an extended lease is %q after its time", got)
		}
	})
}

// TestClose ends calls, watches and what would have come later; synctest fails the test
// if a goroutine is left.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := memory.New()
		paused, parted, slow, late := server.Client("paused"), server.Client("parted"), server.Client("slow"), server.Client("late")
		batches := paused.Watch(t.Context(), "/", 1)
		unread := late.Watch(t.Context(), "/", 1)
		if _, err := late.Grant(t.Context(), time.Hour); err != nil {
			t.Fatal(err)
		}
		must(t, late, put("/a", "1"))
		paused.Pause()
		parted.Partition()
		slow.Inject(memory.Faults{Latency: time.Hour}, rand.New(rand.NewPCG(1, 2)))
		late.Inject(memory.Faults{ApplyLate: 1, LateBy: time.Hour}, rand.New(rand.NewPCG(1, 2)))
		if _, err := late.Txn(t.Context(), put("/a", "2")); !errors.Is(err, memory.ErrFault) {
			t.Errorf("late: %v", err)
		}
		errs := make(chan error, 3)
		for _, c := range []*memory.Client{paused, parted, slow} {
			go func() {
				_, err := c.Txn(t.Context(), put("/b", "1"))
				errs <- err
			}()
		}
		synctest.Wait()
		server.Close()
		for range cap(errs) {
			if err := <-errs; err == nil {
				t.Error("call that waited succeeded on a closed server")
			}
		}
		for range batches {
		}
		for range unread {
		}
		if _, err := late.Txn(t.Context(), put("/c", "1")); err == nil {
			t.Error("call to a closed server succeeded")
		}
		if _, ok := <-late.Watch(t.Context(), "/", 1); ok {
			t.Error("watch of a closed server delivered")
		}
		server.Close()
	})
}

// TestSeedsRepeat checks that the same seed gives the same fates.
func TestSeedsRepeat(t *testing.T) {
	run := func(seed uint64) (fates []bool) {
		inBubble(t, func(t *testing.T, server *memory.Server, _ *memory.Client) {
			c := server.Client("faulty")
			c.Inject(memory.Faults{Latency: time.Second, FailBefore: 0.2, FailAfter: 0.2, ApplyLate: 0.2, LateBy: time.Second},
				rand.New(rand.NewPCG(seed, 0)))
			for i := range 200 {
				_, err := c.Txn(t.Context(), put("/"+strconv.Itoa(i), ""))
				fates = append(fates, err == nil)
			}
			for _, f := range []memory.Fault{memory.FailBefore, memory.FailAfter, memory.ApplyLate} {
				if n := server.Fired()[f]; n < 20 || n > 60 {
					t.Errorf("fault %q of probability 0.2 fired %d times in 200", f, n)
				}
			}
		})
		return fates
	}
	if !slices.Equal(run(1), run(1)) {
		t.Error("the same seed gave different fates")
	}
	if slices.Equal(run(1), run(2)) {
		t.Error("different seeds gave the same fates")
	}
}

// BenchmarkTxn appends to a journal that is trimmed, as a simulation does all the time.
func BenchmarkTxn(b *testing.B) {
	server := memory.New()
	defer server.Close()
	store := server.Client("bench")
	head := []byte("0")
	if _, err := store.Txn(b.Context(), put("/head", "0")); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		next := fmt.Appendf(nil, "%016x", n)
		res, err := store.Txn(b.Context(), metadata.Txn{
			If:   []metadata.Condition{metadata.Equals("/head", head)},
			Then: []metadata.Op{metadata.Put("/head", next), metadata.Put("/journal/"+string(next), next)},
		})
		if err != nil || !res.Succeeded {
			b.Fatal(err, res.Succeeded)
		}
		if head = next; n%1000 != 999 {
			continue
		}
		trim := metadata.Txn{Then: []metadata.Op{metadata.DeleteRange("/journal/", "/journal/"+string(next))}}
		if _, err := store.Txn(b.Context(), trim); err != nil {
			b.Fatal(err)
		}
		if err := store.Compact(b.Context(), res.Revision); err != nil {
			b.Fatal(err)
		}
	}
}
