//go:build integration && unix

package weather

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/floelog/floe/integration/nemesis"
)

// TestStoreWeather: one cluster, one bad day after the other of its object store.
func TestStoreWeather(t *testing.T) {
	w := newWorld(t)
	w.begin()
	w.storeDown()
	w.readOnly(http.StatusForbidden, "are refused")
	w.readOnly(http.StatusInsufficientStorage, "find no space")
	w.throttled()
	w.slow()
	w.finish()
	for f, least := range map[nemesis.Fault]int{nemesis.Cut: 10, nemesis.SlowDown: 10, nemesis.Slow: 5} {
		if n := w.store.Fired()[f]; n < least {
			t.Errorf("%s happened %d times", f, n)
		}
	}
}

// flood produces large records as fast as it may, until stopped: more than agents have memory for.
func (w *world) flood() (stop func()) {
	w.Helper()
	ctx, cancel := context.WithCancel(w.Context())
	value := w.payload(large)
	var work sync.WaitGroup
	const clients = 8 // each has a few requests of a few MiB under way
	for range clients {
		client := w.client(kgo.MaxBufferedRecords(200))
		work.Go(func() {
			for i := int32(0); ctx.Err() == nil; i++ {
				client.Produce(ctx, &kgo.Record{Topic: "large", Partition: i % 8, Value: value}, nil)
			}
			client.Close()
		})
	}
	return func() {
		cancel()
		work.Wait()
	}
}

func (w *world) storeDown() {
	before := w.newCold() // read while the store is down
	after := w.newCold()
	w.store.Set(map[nemesis.Fault]float64{nemesis.Cut: 1}, 0)
	known := w.newKnown() // it cannot be rolled up any more
	ctx, cancel := context.WithTimeout(w.Context(), 4*patience)
	defer cancel()
	stop := w.flood()
	page := w.says(w.leader("large", 0), true, "degraded: object store: puts reach nobody")
	w.Logf("while the store is down, /readyz says:\n%s", page)
	// What is small goes on, until the budgets are spent.
	if _, err := w.produce(ctx, w.client(), "small", 2, 100); err != nil {
		w.Errorf("a small record: %v", err)
	}
	// What is known is read; what would come from the store is refused, soon.
	for node := int32(1); node <= agents; node++ {
		if n, err := w.fetch(ctx, node, "small", 1, known.Offset); err != nil || n == 0 {
			w.Errorf("reading what agent %d knows: %d bytes, %v", node, n, err)
		}
	}
	asked := time.Now()
	if _, err := w.fetch(ctx, before.node, before.topic, 0, 0); !errors.Is(err, kerr.KafkaStorageError) || time.Since(asked) > 20*time.Second {
		w.Errorf("reading from the store: %v after %v", err, time.Since(asked))
	}
	w.hold(12 * time.Second)
	w.bounded()
	w.refuses()
	stop()
	w.store.Set(nil, 0)
	ended := time.Now()
	w.recovered("store down", ended, after)
	w.fair()
}

// refuses waits until agents refuse what they have no memory for: that is how large the flood is.
func (w *world) refuses() {
	w.Helper()
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	deadline := time.After(patience)
	for w.floe.Metric("floe_produce_refused_total") == 0 {
		select {
		case <-again.C:
		case <-deadline:
			w.Error("nothing was refused although nothing could be stored: the flood was too small")
			return
		}
	}
}

// fair waits until all agents say that all is well.
func (w *world) fair() {
	w.Helper()
	for i := range agents {
		w.says(i, true, "ready", "puts reach nobody", "puts are refused", "no session")
	}
}

func (w *world) readOnly(status int, says string) {
	c := w.newCold()
	w.writes.status.Store(int64(status))
	client := w.client()
	ctx, cancel := context.WithTimeout(w.Context(), 4*patience)
	defer cancel()
	acked := make(chan error, 1)
	client.Produce(ctx, &kgo.Record{Topic: "large", Value: w.payload(large)}, func(_ *kgo.Record, err error) { acked <- err })
	w.says(w.leader("large", 0), true, "degraded: object store: puts "+says)
	if n, err := w.fetch(ctx, c.node, c.topic, 0, 0); err != nil || n == 0 {
		w.Errorf("reading from a store that is read-only: %d bytes, %v", n, err)
	}
	w.hold(3 * time.Second)
	select {
	case err := <-acked:
		w.Errorf("a record was acknowledged that could not be stored (%v)", err)
	default:
	}
	if w.writes.refused.Swap(0) == 0 {
		w.Error("no PUT was refused")
	}
	w.writes.status.Store(0)
	ended := time.Now()
	w.recovered(http.StatusText(status), ended, w.newCold())
	if err := <-acked; err != nil {
		w.Errorf("the record that waited: %v", err)
	}
	w.fair()
}

// throttled checks that a store which refuses half of the requests is asked twice as often at most.
func (w *world) throttled() {
	count := func(outcome ...string) float64 { return w.floe.Metric("floe_objstore_requests_total", outcome...) }
	all, ok := count(), count(`outcome="ok"`)+count(`outcome="not_found"`)+count(`outcome="exists"`)
	c := w.newCold()
	w.store.Set(map[nemesis.Fault]float64{nemesis.SlowDown: 0.5}, 0)
	stop := w.flood()
	w.says(w.leader("large", 0), true, "degraded: object store: puts are throttled")
	w.hold(8 * time.Second)
	w.bounded()
	stop()
	all, ok = count()-all, count(`outcome="ok"`)+count(`outcome="not_found"`)+count(`outcome="exists"`)-ok
	w.Logf("throttled: %v requests for %v that succeeded", all, ok)
	const burst = 2 * 5 * 50 // that the budgets of both agents let through, for each kind
	if all > 2.2*ok+burst {
		w.Errorf("%v requests for %v that succeeded", all, ok)
	}
	w.store.Set(nil, 0)
	w.recovered("throttled", time.Now(), c)
}

func (w *world) slow() {
	c := w.newCold()
	w.store.Set(map[nemesis.Fault]float64{nemesis.Slow: 1}, 4*time.Second)
	stop := w.flood()
	w.says(w.leader("large", 0), true, "degraded: object store: puts are slow")
	w.hold(4 * time.Second)
	w.bounded()
	stop()
	w.store.Set(nil, 0)
	w.recovered("slow", time.Now(), c)
}

// TestEtcdWeather: etcd is gone, with and without a word, and comes back.
func TestEtcdWeather(t *testing.T) {
	w := newWorld(t)
	w.begin()
	w.etcdDown("etcd refuses connections", nemesis.Trouble{Refuse: true}, "no session")
	w.etcdDown("etcd is silent", nemesis.Trouble{Up: nemesis.Traffic{Blackhole: true}, Down: nemesis.Traffic{Blackhole: true}, CutOnLift: true}, "no session")
	w.finish()
}

func (w *world) etcdDown(name string, trouble nemesis.Trouble, says string) {
	c := w.newCold()
	known := w.newKnown()
	ctx, cancel := context.WithTimeout(w.Context(), 4*patience)
	defer cancel()
	imposed := w.etcd.Impose(trouble)
	if trouble.Refuse {
		w.etcd.Cut()
	}
	w.says(0, true, "degraded: metadata store: ")
	w.hold(3*lease + time.Second)
	page := w.says(0, true, says)
	w.Logf("%s; /readyz says:\n%s", name, page)
	for node := int32(1); node <= agents; node++ {
		if n, err := w.fetch(ctx, node, "small", 1, known.Offset); err != nil || n == 0 {
			w.Errorf("reading what agent %d knows: %d bytes, %v", node, n, err)
		}
	}
	if n, err := w.fetch(ctx, c.node, c.topic, 0, 0); err != nil || n == 0 {
		w.Errorf("reading from the object store: %d bytes, %v", n, err)
	}
	w.bounded()
	next := cold{c.topic, agents + 1 - c.node}
	imposed.Lift()
	w.recovered(name, time.Now(), next)
	w.fair()
}
