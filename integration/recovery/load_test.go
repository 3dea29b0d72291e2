//go:build integration && unix

package recovery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	partitions = 4
	// patience bounds every wait for the cluster.
	patience = 60 * time.Second
)

// place is where a record was acknowledged.
type place struct {
	topic     string
	partition int32
	offset    int64
}

// load remembers what the cluster has acknowledged.
type load struct {
	t     testing.TB
	addrs []string

	mu        sync.Mutex // guards the following
	acked     map[place]string
	committed map[string]bool            // values of committed transactions
	aborted   map[string]bool            // values of aborted transactions
	offsets   map[string]map[int32]int64 // by group, of topic idempotent
	round     int
}

func newLoad(t testing.TB, addrs []string) *load {
	return &load{t: t, addrs: addrs, acked: map[place]string{}, committed: map[string]bool{}, aborted: map[string]bool{}, offsets: map[string]map[int32]int64{}}
}

func (l *load) context() (context.Context, context.CancelFunc) {
	return context.WithTimeout(l.t.Context(), patience)
}

func (l *load) client(opts ...kgo.Opt) *kgo.Client {
	l.t.Helper()
	c, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(l.addrs...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(kgo.NoCompression())}, opts...)...)
	if err != nil {
		l.t.Fatal(err)
	}
	return c
}

// create makes topics.
func (l *load) create(topics ...string) {
	l.t.Helper()
	ctx, cancel := l.context()
	defer cancel()
	c := l.client()
	defer c.Close()
	if _, err := kadm.NewClient(c).CreateTopics(ctx, partitions, 1, nil, topics...); err != nil {
		l.t.Fatal(err)
	}
}

// records makes a batch of records for each partition, small ones or such that go into segments.
func (l *load) records(topic string, small bool) (rs []*kgo.Record) {
	l.round++
	padding := ""
	if !small {
		padding = strings.Repeat("x", 20<<10)
	}
	for p := range int32(partitions) {
		for i := range 3 {
			rs = append(rs, &kgo.Record{Topic: topic, Partition: p, Value: fmt.Appendf(nil, "%s/%d/%d/%d/%s", topic, l.round, p, i, padding)})
		}
	}
	return rs
}

// note remembers acknowledged records.
func (l *load) note(results kgo.ProduceResults) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for _, r := range results {
		if r.Err != nil {
			errs = append(errs, r.Err)
			continue
		}
		l.acked[place{r.Record.Topic, r.Record.Partition, r.Record.Offset}] = string(r.Record.Value)
	}
	return errors.Join(errs...)
}

// produce writes one round of records to a topic.
func (l *load) produce(topic string, small bool, opts ...kgo.Opt) {
	l.t.Helper()
	ctx, cancel := l.context()
	defer cancel()
	c := l.client(opts...)
	defer c.Close()
	if err := l.note(c.ProduceSync(ctx, l.records(topic, small)...)); err != nil {
		l.t.Fatal(err)
	}
}

// transact writes one round in a transaction, together with the offsets of a group.
func (l *load) transact(commit bool) {
	l.t.Helper()
	ctx, cancel := l.context()
	defer cancel()
	c := l.client(kgo.TransactionalID("drill"))
	defer c.Close()
	if err := c.BeginTransaction(); err != nil {
		l.t.Fatal(err)
	}
	results := c.ProduceSync(ctx, l.records("transactional", l.round%2 == 0)...)
	if err := l.note(results); err != nil {
		l.t.Fatal(err)
	}
	if err := c.EndTransaction(ctx, kgo.TransactionEndTry(commit)); err != nil {
		l.t.Fatal(err)
	}
	values := l.committed
	if !commit {
		values = l.aborted
	}
	for _, r := range results {
		values[string(r.Record.Value)] = true
	}
}

// commit commits offsets of a group.
func (l *load) commit(group string, at int64) {
	l.t.Helper()
	ctx, cancel := l.context()
	defer cancel()
	c := l.client()
	defer c.Close()
	var offsets kadm.Offsets
	l.offsets[group] = map[int32]int64{}
	for p := range int32(partitions) {
		offsets.AddOffset("idempotent", p, at+int64(p), -1)
		l.offsets[group][p] = at + int64(p)
	}
	if err := kadm.NewClient(c).CommitAllOffsets(ctx, group, offsets); err != nil {
		l.t.Fatal(err)
	}
}

// rounds puts some of everything on the cluster.
func (l *load) rounds(n int) {
	l.t.Helper()
	for i := range n {
		l.produce("plain", i%2 == 0, kgo.DisableIdempotentWrite())
		l.produce("idempotent", i%2 == 1)
		l.transact(i%3 != 2)
		l.commit(fmt.Sprintf("group-%d", i%3), int64(l.round))
	}
}

// until produces in the background until stop is called, whatever becomes of it.
func (l *load) until() (stop func()) {
	ctx, cancel := context.WithCancel(l.t.Context())
	c := l.client()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := 0; ctx.Err() == nil; n++ {
			var rs []*kgo.Record
			for p := range int32(partitions) {
				rs = append(rs, &kgo.Record{Topic: "idempotent", Partition: p, Value: fmt.Appendf(nil, "background/%d/%d", n, p)})
			}
			_ = l.note(c.ProduceSync(ctx, rs...)) // what fails was not acknowledged
		}
	}()
	return func() {
		cancel()
		c.Close() // what is in flight has no answer, and is given up
		<-done
	}
}

// read reads all records of a topic.
func (l *load) read(topic string, opts ...kgo.Opt) map[place]string {
	l.t.Helper()
	ctx, cancel := l.context()
	defer cancel()
	c := l.client(append(opts, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))...)
	defer c.Close()
	ends, err := kadm.NewClient(c).ListEndOffsets(ctx, topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		l.t.Fatal(err)
	}
	left := map[int32]int64{}
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset > 0 {
			left[o.Partition] = o.Offset
		}
	})
	// A record behind the end tells that the end was reached, whatever precedes it.
	for p := range left {
		r := c.ProduceSync(ctx, &kgo.Record{Topic: topic, Partition: p, Value: []byte("end")})
		if err := r.FirstErr(); err != nil {
			l.t.Fatal(err)
		}
		left[p] = r[0].Record.Offset
	}
	out := map[place]string{}
	for len(left) > 0 {
		fetches := c.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			l.t.Fatalf("reading %s, %v are left: %v", topic, left, err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if r.Offset == left[r.Partition] {
				delete(left, r.Partition)
				return
			}
			out[place{topic, r.Partition, r.Offset}] = string(r.Value)
		})
	}
	return out
}

// verify demands that everything is there that was acknowledged, at its offset.
func (l *load) verify() {
	l.t.Helper()
	missing := 0
	complain := func(format string, args ...any) {
		if missing++; missing <= 10 {
			l.t.Errorf(format, args...)
		}
	}
	all := map[place]string{}
	for _, topic := range []string{"plain", "idempotent", "transactional"} {
		for at, value := range l.read(topic) {
			all[at] = value
		}
	}
	for at, value := range l.acked {
		if got, ok := all[at]; !ok {
			complain("%+v is gone", at)
		} else if got != value {
			complain("%+v holds %.40q, %.40q was acknowledged there", at, got, value)
		}
	}
	seen := map[string]int{}
	for _, value := range l.read("transactional", kgo.FetchIsolationLevel(kgo.ReadCommitted())) {
		seen[value]++
		if !l.committed[value] && value != "end" {
			complain("%.40q is read, and was not committed", value)
		}
	}
	for value := range l.committed {
		if seen[value] != 1 {
			complain("%.40q was committed and is read %d times", value, seen[value])
		}
	}
	if len(l.acked) == 0 || len(l.committed) == 0 || len(l.aborted) == 0 {
		l.t.Fatal("the load has done nothing")
	}
	if missing > 0 {
		l.t.Errorf("%d of %d acknowledged records are not as they were", missing, len(l.acked))
	}
	l.verifyOffsets()
}

func (l *load) verifyOffsets() {
	l.t.Helper()
	ctx, cancel := l.context()
	defer cancel()
	c := l.client()
	defer c.Close()
	for group, want := range l.offsets {
		got, err := kadm.NewClient(c).FetchOffsets(ctx, group)
		if err != nil {
			l.t.Fatal(err)
		}
		var wrong []string
		for p, at := range want {
			if o, ok := got.Lookup("idempotent", p); !ok || o.At != at {
				wrong = append(wrong, fmt.Sprintf("partition %d: %d, want %d", p, o.At, at))
			}
		}
		slices.Sort(wrong)
		if len(wrong) > 0 {
			l.t.Errorf("group %s: %v", group, wrong)
		}
	}
}
