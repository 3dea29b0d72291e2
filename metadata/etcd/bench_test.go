package etcd_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/etcd"
)

// BenchmarkAppend measures what a journal's append costs: a transaction that compares two
// values and puts two of 200 bytes, with and without a network, one shard at a time and
// many at once.
func BenchmarkAppend(b *testing.B) {
	for _, c := range []struct {
		name string
		open func(b *testing.B) *etcd.Client
	}{
		{"InProcess", func(b *testing.B) *etcd.Client { return start(b, etcd.EmbeddedConfig{}).NewClient() }},
		{"TCP", func(b *testing.B) *etcd.Client {
			return connect(b, start(b, etcd.EmbeddedConfig{ClientURL: "http://127.0.0.1:0"}).Endpoint())
		}},
	} {
		for _, shards := range []int{1, 16, 64} {
			b.Run(fmt.Sprintf("%s/shards=%d", c.name, shards), func(b *testing.B) {
				benchmarkAppend(b, c.open(b), shards)
			})
		}
	}
}

func benchmarkAppend(b *testing.B, store metadata.Store, shards int) {
	var left atomic.Int64
	left.Store(int64(b.N))
	took := make([][]time.Duration, shards)
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	for shard := range shards {
		wg.Go(func() {
			a := newAppender(b, store, shard)
			for left.Add(-1) >= 0 {
				start := time.Now()
				a.append()
				took[shard] = append(took[shard], time.Since(start))
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	all := slices.Concat(took...)
	slices.Sort(all)
	for _, p := range []int{50, 99} {
		b.ReportMetric(float64(all[len(all)*p/100].Microseconds()), fmt.Sprintf("p%d-µs", p))
	}
}

// appender writes one shard's journal.
type appender struct {
	b            *testing.B
	store        metadata.Store
	leader, head string
	shard        int
	seq          uint64
	record       []byte
}

func newAppender(b *testing.B, store metadata.Store, shard int) *appender {
	prefix := fmt.Sprintf("/floe/bench/shards/%05d/", shard)
	a := &appender{b: b, store: store, leader: prefix + "leader", head: prefix + "head", shard: shard,
		record: bytes.Repeat([]byte{'r'}, 200)}
	a.txn(metadata.Txn{Then: []metadata.Op{metadata.Put(a.leader, []byte("me")), metadata.Put(a.head, a.value(0))}})
	return a
}

func (a *appender) value(seq uint64) []byte {
	return binary.BigEndian.AppendUint64(bytes.Repeat([]byte{'h'}, 192), seq)
}

func (a *appender) append() {
	a.seq++
	next := a.value(a.seq)
	a.txn(metadata.Txn{
		If: []metadata.Condition{metadata.Equals(a.leader, []byte("me")), metadata.Equals(a.head, a.value(a.seq-1))},
		Then: []metadata.Op{metadata.Put(a.head, next),
			metadata.Put(fmt.Sprintf("/floe/bench/shards/%05d/journal/%016x", a.shard, a.seq), a.record)},
		Else: []string{a.leader, a.head},
	})
}

func (a *appender) txn(txn metadata.Txn) {
	res, err := a.store.Txn(a.b.Context(), txn)
	if err != nil || !res.Succeeded {
		a.b.Errorf("append: %v, succeeded %v", err, res.Succeeded)
	}
}
