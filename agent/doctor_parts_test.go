package agent

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/floelog/floe/agent/kafka"
	"github.com/floelog/floe/tiering"
)

// What happens often is kept with nearly all of its counts, however much else comes along, and no
// count is more than what happened.
func TestTopKeepsTheFrequent(t *testing.T) {
	tops := newTop[string]()
	truth := map[string]float64{}
	add := func(key string) {
		tops.add(key, 1, 10)
		truth[key]++
	}
	for i := range 20000 {
		add(fmt.Sprintf("rare-%d", i))
		if i%10 == 0 {
			add("often")
		}
	}
	got := tops.take()
	if len(got) != topEntries {
		t.Errorf("%d are kept", len(got))
	}
	often := 0.0
	for _, e := range got {
		if e.n > truth[e.key] || e.bytes != 10*e.n || e.n > e.rank {
			t.Errorf("%s: counted %v of %v, ranked %v", e.key, e.n, truth[e.key], e.rank)
		}
		if e.key == "often" {
			often = e.n
		}
	}
	if often < 0.9*truth["often"] {
		t.Errorf("of what happened %v times %v were counted", truth["often"], often)
	}
	if len(tops.take()) != 0 {
		t.Error("what was taken is still there")
	}
}

// Samples of partitions add up to about the bytes that were sent, by partition.
func TestBusiestSamplesBytes(t *testing.T) {
	b := newBusiest()
	const each, requests = 16 << 10, 3000 // of which four make a sampleStep
	batch := func(p int32, n int) *kafka.AppendBatch {
		return &kafka.AppendBatch{Partition: tiering.TopicPartition{Partition: p}, Data: make([]byte, n), Client: "c"}
	}
	for range requests {
		b.sent([]*kafka.AppendBatch{batch(0, each), batch(1, 3*each)})
	}
	c := b.take()
	if len(c.clients) != 1 || c.clients[0].n != 2*requests || c.clients[0].bytes != 4*each*requests {
		t.Errorf("clients: %+v", c.clients)
	}
	for _, e := range c.partitions {
		want := float64(each * requests)
		if e.key.Partition == 1 {
			want *= 3
		}
		if e.n < 0.8*want || e.n > 1.2*want {
			t.Errorf("partition %d: %v bytes by samples, %v were sent", e.key.Partition, e.n, want)
		}
	}
}

func TestLeaseWatch(t *testing.T) {
	var w leaseWatch
	w.forget()
	if w.take() != noMargin {
		t.Error("there is a margin without a lease")
	}
	at := time.Unix(1000, 0)
	after := func(ms int) time.Time { return at.Add(time.Duration(ms) * time.Millisecond) }
	const ttl = 3 * time.Second
	w.begin(after(0))
	w.answered(after(600), after(700), ttl)   // 2.3 s were left
	w.answered(after(1300), after(2700), ttl) // 1 s: since 600
	w.answered(after(2800), after(2900), ttl)
	if got := w.take(); got != 900*time.Millisecond {
		t.Errorf("the least margin is %v", got)
	}
	if w.take() != noMargin {
		t.Error("a margin is told of twice")
	}
}

func TestDistribution(t *testing.T) {
	before := distribution{bounds: []float64{1, 2, 4}, counts: []float64{10, 10, 10}}
	now := distribution{bounds: []float64{1, 2, 4}, counts: []float64{60, 109, 110}}
	for _, tt := range []struct{ share, want float64 }{{0.6, 0}, {0.05, 1}, {0.005, 2}} {
		if got := now.atLeast(before, 100, tt.share); got != tt.want {
			t.Errorf("the slowest %v take at least %v, want %v", tt.share, got, tt.want)
		}
	}
	if got := (distribution{}).atLeast(distribution{}, 0, 0.01); got != 0 {
		t.Errorf("of nothing: %v", got)
	}
}

func BenchmarkBusiestSent(b *testing.B) {
	busy := newBusiest()
	batches := make([]*kafka.AppendBatch, 16)
	for i := range batches {
		batches[i] = &kafka.AppendBatch{Partition: tiering.TopicPartition{Partition: int32(i)}, Data: make([]byte, 16<<10), Client: "client"}
	}
	b.ReportAllocs()
	for b.Loop() {
		busy.sent(batches)
	}
}

// Client ids and groups may have 32 KiB, and thousands are kept: nothing but their beginnings may be.
func TestLongNamesAreNotKept(t *testing.T) {
	const names = 1000
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	b := newBusiest()
	before := heap()
	for i := range names {
		b.assigned(fmt.Sprintf("%d-%s", i, strings.Repeat("x", 32<<10)), 1)
	}
	if kept := int64(heap()) - int64(before); kept > names*1024 {
		t.Errorf("%d bytes are kept of %d names", kept, names)
	}
	if len(b.epochs) != names {
		t.Errorf("%d names are known", len(b.epochs))
	}
}

// Connections are limited at each listener apart.
func TestConnectionsOfTheFullestListener(t *testing.T) {
	reg := prometheus.NewRegistry()
	open := newTraffic(reg).open
	open.WithLabelValues("kafka").Set(40)
	open.WithLabelValues("outside").Set(70)
	open.WithLabelValues("inside").Set(5)
	got, err := gatherTotals(reg)
	if err != nil || got.connections != 70 {
		t.Errorf("%v connections, %v: want those of the fullest listener, 70", got.connections, err)
	}
}
