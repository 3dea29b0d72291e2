//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// consumed is what a consumer read.
type consumed struct {
	records int64
	seconds float64 // from the first poll to the last record
	e2e     histogram
	checks  *verifier
}

// consumeAll reads a topic of one run from its start to ends.
func consumeAll(ctx context.Context, l load, ends map[int32]int64) (*consumed, error) {
	c, err := newConsumer(l)
	if err != nil {
		return nil, err
	}
	defer c.cl.Close()
	c.ends.Store(&ends)
	return c.run(ctx)
}

// consumer reads all partitions of a topic with one client. run is for one goroutine;
// ends may be stored by another.
type consumer struct {
	cl   *kgo.Client
	ends atomic.Pointer[map[int32]int64] // nil while records are still produced
	from time.Time                       // records sent before are not measured end to end
	out  consumed
}

func newConsumer(l load) (*consumer, error) {
	starts, at := map[int32]int64{}, map[int32]kgo.Offset{}
	for p := range int32(l.partitions) {
		starts[p], at[p] = 0, kgo.NewOffset().At(0)
	}
	cl, err := kgo.NewClient(
		kgo.SeedBrokers(l.brokers), kgo.ClientID("floe-bench"),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{l.topic: at}),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()), // out of range is an error, never a silent skip
		kgo.FetchMaxWait(500*time.Millisecond),
		kgo.FetchMaxPartitionBytes(1<<20),
	)
	if err != nil {
		return nil, err
	}
	return &consumer{cl: cl, out: consumed{checks: newVerifier(l.run, l.size, starts)}}, nil
}

// idleTimeout ends a consumer that is owed records and gets none.
const idleTimeout = 20 * time.Second

// run polls until the ends are reached.
func (c *consumer) run(ctx context.Context) (*consumed, error) {
	start := time.Now()
	last := start
	for !c.complete() {
		poll, cancel := context.WithTimeout(ctx, 100*time.Millisecond) // ends may come meanwhile
		fetches := c.cl.PollFetches(poll)
		cancel()
		now := time.Now()
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("consume: %w after %d records", context.Cause(ctx), c.out.records)
		}
		for _, e := range fetches.Errors() {
			if e.Topic != "" || !errors.Is(e.Err, context.DeadlineExceeded) {
				return nil, fmt.Errorf("consume %s-%d: %w", e.Topic, e.Partition, e.Err)
			}
		}
		fetches.EachRecord(func(r *kgo.Record) { c.add(r, now) })
		if fetches.NumRecords() > 0 { // of another run, too
			last = now
		}
		if c.ends.Load() != nil && now.Sub(last) > idleTimeout {
			return nil, fmt.Errorf("consume: no record for %v after %d records", idleTimeout, c.out.records)
		}
	}
	c.out.seconds = last.Sub(start).Seconds()
	return &c.out, nil
}

func (c *consumer) add(r *kgo.Record, now time.Time) {
	sent, ok := c.out.checks.add(r.Partition, r.Offset, r.Value)
	if !ok {
		return
	}
	c.out.records++
	if !c.from.IsZero() && !sent.Before(c.from) {
		c.out.e2e.add(now.Sub(sent))
	}
}

func (c *consumer) complete() bool {
	ends := c.ends.Load()
	if ends == nil {
		return false
	}
	for p, end := range *ends {
		if c.out.checks.next[p] < end {
			return false
		}
	}
	return true
}
