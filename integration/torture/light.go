//go:build linux

package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/floelog/floe/integration/torture/rig"
)

const (
	lightTopic      = "torture-light"
	lightPartitions = 6
	// lightLimit bounds the reading of everything at the end.
	lightLimit = 2 * time.Minute
)

// light is a small load that gives every fault something to meet, and judges little: that each record of a committed
// transaction is there, once. It is for trying faults out; load.Load judges.
type light struct {
	cluster *rig.Cluster
	stop    context.CancelFunc
	work    sync.WaitGroup
	sent    atomic.Int64
	polled  atomic.Int64

	mu    sync.Mutex // guards the following
	acked map[string]bool
}

func startLight(ctx context.Context, c *rig.Cluster) (*light, error) {
	l := &light{cluster: c, acked: map[string]bool{}}
	admin, err := kgo.NewClient(kgo.SeedBrokers(c.Bootstrap()...))
	if err != nil {
		return nil, err
	}
	defer admin.Close()
	if _, err := kadm.NewClient(admin).CreateTopic(ctx, lightPartitions, rig.Agents, nil, lightTopic); err != nil {
		return nil, err
	}
	ctx, l.stop = context.WithCancel(ctx)
	for i := range 3 {
		l.work.Go(func() { l.produce(ctx, i) })
	}
	l.work.Go(func() { l.consume(ctx) })
	return l, nil
}

// produce commits one transaction after the other; a client that cannot go on is replaced.
func (l *light) produce(ctx context.Context, n int) {
	for life := 0; ctx.Err() == nil; life++ {
		client, err := kgo.NewClient(kgo.SeedBrokers(l.cluster.Bootstrap()...), kgo.TransactionalID(fmt.Sprintf("light-%d", n)),
			kgo.TransactionTimeout(20*time.Second), kgo.DefaultProduceTopic(lightTopic), kgo.RecordRetries(20))
		if err != nil {
			return
		}
		for i := 0; ctx.Err() == nil && l.transaction(ctx, client, fmt.Sprintf("%d-%d-%d", n, life, i)) == nil; i++ {
		}
		client.Close()
	}
}

func (l *light) transaction(ctx context.Context, client *kgo.Client, name string) error {
	if err := client.BeginTransaction(); err != nil {
		return err
	}
	const records = 20
	for i := range records {
		size := 100
		if i%4 == 0 {
			size = 40_000 // more than is committed inline
		}
		key := fmt.Sprintf("%s-%d", name, i)
		client.Produce(ctx, &kgo.Record{Key: []byte(key), Value: make([]byte, size)}, nil)
	}
	l.sent.Add(records)
	if err := client.Flush(ctx); err != nil {
		return err
	}
	if err := client.EndTransaction(ctx, kgo.TryCommit); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range records {
		l.acked[fmt.Sprintf("%s-%d", name, i)] = true
	}
	return nil
}

// consume reads as a member of a group.
func (l *light) consume(ctx context.Context) {
	client, err := kgo.NewClient(kgo.SeedBrokers(l.cluster.Bootstrap()...), kgo.ConsumerGroup("light"), kgo.ConsumeTopics(lightTopic))
	if err != nil {
		return
	}
	defer client.Close()
	for ctx.Err() == nil {
		l.polled.Add(int64(client.PollFetches(ctx).NumRecords()))
	}
}

// finish ends the load and reads everything.
func (l *light) finish(ctx context.Context) error {
	l.stop()
	l.work.Wait()
	ctx, cancel := context.WithTimeout(ctx, lightLimit)
	defer cancel()
	client, err := kgo.NewClient(kgo.SeedBrokers(l.cluster.Bootstrap()...), kgo.ConsumeTopics(lightTopic), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		return err
	}
	defer client.Close()
	seen := map[string]int{}
	for missing := len(l.acked); missing > 0; {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			return fmt.Errorf("%d of %d records of committed transactions were not read after %v", missing, len(l.acked), lightLimit)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			key := string(r.Key)
			if seen[key]++; l.acked[key] && seen[key] == 1 {
				missing--
			}
		})
	}
	for key, n := range seen {
		if n > 1 {
			return fmt.Errorf("record %s is there %d times", key, n)
		}
	}
	if len(l.acked) == 0 {
		return fmt.Errorf("no transaction was committed")
	}
	return nil
}

func (l *light) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return fmt.Sprintf("%d records sent, %d of committed transactions, %d read by the group", l.sent.Load(), len(l.acked), l.polled.Load())
}
