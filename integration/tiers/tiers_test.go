//go:build integration && unix

package tiers

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/floelog/floe/integration/history"
	"github.com/floelog/floe/integration/workload"
)

var errAborted = errors.New("aborted")

// logTopic is a topic that is not compacted.
type logTopic struct {
	name       string
	partitions int32
	rate       int // records a second of each of its two producers
	configs    map[string]string
	trims      bool
}

var logTopics = []logTopic{
	{"keep", 400, 40, nil, false},
	{"hot", 3, 30, nil, false}, // enough in a partition for manifests
	{"short-ms", 120, 25, map[string]string{"retention.ms": "4000", "segment.ms": "1000"}, true},
	{"short-bytes", 60, 25, map[string]string{"retention.bytes": "20000"}, true},
	{"trimmed", 60, 20, map[string]string{"retention.ms": "-1"}, true},
}

// load is everything that runs on the cluster.
type load struct {
	c     *cluster
	logs  []*workload.Load
	hist  []*history.History
	keys  *keyed
	txns  *transactions
	churn *churn

	stop      context.CancelFunc
	work      sync.WaitGroup
	deletions int
}

func (c *cluster) startLoad() *load {
	l := &load{c: c}
	for i, topic := range logTopics {
		h := c.history(topic.name, history.Config{Trims: topic.trims})
		l.hist = append(l.hist, h)
		l.logs = append(l.logs, workload.Start(c.t, h, workload.Config{
			Agents: c.floe.Addrs(), Topic: topic.name, Partitions: topic.partitions, Idempotent: 1, Plain: 1, Rate: topic.rate,
			Racks: []string{""}, Seed: c.seed + uint64(i), Configs: topic.configs, Trims: topic.trims,
			Observe: time.Second, Patience: clientPatience, Stuck: c.keepStacks,
		}))
	}
	l.keys = c.newKeyed()
	l.txns = c.newTransactions(l.keys)
	l.churn = &churn{c: c, h: c.history("churn", history.Config{})}
	ctx, stop := context.WithCancel(context.Background())
	l.stop = stop
	c.t.Cleanup(func() {
		stop()
		l.work.Wait()
	})
	for n := range l.keys.producers {
		l.work.Go(func() { l.keys.write(ctx, n) })
	}
	for n := range txnWriters {
		l.work.Go(func() { l.txns.write(ctx, n) })
	}
	for n := range churnTopics {
		l.work.Go(func() { l.churn.run(ctx, n) })
	}
	trimmed := len(logTopics) - 1
	l.work.Go(func() {
		l.deletions = c.deleter(ctx, l.hist[trimmed], logTopics[trimmed].name, logTopics[trimmed].partitions)
	})
	return l
}

// finish ends all that sends, starts the agents again, so that their caches are cold, reads
// everything, and judges. It returns how many sweeps there were when the load had ended.
func (l *load) finish() (swept float64) {
	l.c.t.Helper()
	l.stop()
	l.work.Wait()
	for _, x := range l.logs {
		x.Settle(patience)
	}
	ends, txnEnds := l.keys.settle(), l.txns.settle()
	l.c.note("SETTLED")
	l.c.trimmed("short-ms", "short-bytes", "trimmed", "compacted-deleted")
	l.c.restful()
	swept = l.c.sweeps()
	l.c.floe.Stop()
	l.c.floe.Start()
	l.c.note("STARTED AGAIN")
	sum := history.Report{}
	add := func(name string, r history.Report) {
		l.c.t.Logf("%-12s %s", name, r.Counts())
		if err := r.Err(); err != nil {
			l.c.t.Errorf("%s: %v", name, err)
		}
		if r.Acked == 0 || r.Reads == 0 {
			l.c.t.Errorf("%s: nothing was tested", name)
		}
		sum.Sent += r.Sent
		sum.Acked += r.Acked
		sum.Reads += r.Reads
	}
	for i, x := range l.logs {
		add(logTopics[i].name, x.Finish(patience))
		if err := x.Errors(); err != nil {
			l.c.t.Errorf("%s: producers heard errors that a retry does not cure: %v", logTopics[i].name, err)
		}
	}
	keys := l.keys.finish(ends)
	add("keys", keys)
	add("txn", l.txns.finish(txnEnds))
	l.churn.finish()
	add("churn", l.churn.h.Check())
	if keys.Offsets >= keys.Acked {
		l.c.t.Errorf("%d records of compacted topics were kept, of %d", keys.Offsets, keys.Acked)
	}
	l.c.t.Logf("%d records were sent, %d acknowledged, %d read; of compacted topics %d of %d were kept; %d topics came and went, %d times records were deleted, %d transactions were committed, %d aborted, %d unknown",
		sum.Sent, sum.Acked, sum.Reads, keys.Offsets, keys.Acked, l.churn.generations.Load(), l.deletions, l.txns.committed.Load(), l.txns.aborted.Load(), l.txns.unknown.Load())
	for what, n := range map[string]int64{"a topic came and went": l.churn.generations.Load() - churnTopics, "records were deleted": int64(l.deletions),
		"a transaction was committed": l.txns.committed.Load(), "a transaction was aborted": l.txns.aborted.Load()} {
		if n <= 0 {
			l.c.t.Errorf("never %s", what)
		}
	}
	return swept
}

// TestTiers puts a mixed load on some thousand partitions while everything that happens to
// records later happens at once, agents end, and the object store fails. What should be there
// is there, what should not is not, and the bucket holds nothing else.
func TestTiers(t *testing.T) {
	c := start(t)
	l := c.startLoad()
	n := &saboteur{c: c, r: c.rand(1), fired: map[string]int{}}
	n.run()
	swept := l.finish()
	n.report()
	c.audit(swept)
}

// need fails the test if a counter of the agents never moved.
func (c *cluster) need(what, counter string, labels ...string) {
	c.t.Helper()
	v := c.meter.sum(counter, labels...)
	c.t.Logf("%-40s %12.0f", what, v)
	if v == 0 {
		c.t.Errorf("never: %s", what)
	}
}

// restful waits until log compaction has nothing to do.
func (c *cluster) restful() {
	c.t.Helper()
	passes, quiet := -1.0, 0
	c.await("log compaction at rest", func(context.Context) error {
		due, now := c.floe.Metric("floe_clean_due"), c.floe.Metric("floe_clean_passes_total")
		if quiet++; due > 0 || now != passes {
			quiet, passes = 0, now
		}
		if quiet < 10 {
			return fmt.Errorf("%v partitions are due, %v passes", due, now)
		}
		return nil
	})
}

// trimmed waits until the log start of each topic has moved in some partition.
func (c *cluster) trimmed(topics ...string) {
	c.t.Helper()
	client := c.client("trimmed")
	defer client.Close()
	moved := map[string]int{}
	c.await("the log starts", func(ctx context.Context) error {
		clear(moved)
		starts, err := kadm.NewClient(client).ListStartOffsets(ctx, topics...)
		if err != nil {
			return err
		}
		starts.Each(func(o kadm.ListedOffset) {
			if o.Err == nil && o.Offset > 0 {
				moved[o.Topic]++
			}
		})
		for _, topic := range topics {
			if moved[topic] == 0 {
				err = errors.Join(err, fmt.Errorf("%s: nothing was trimmed", topic))
			}
		}
		return errors.Join(err, starts.Error())
	})
	c.t.Logf("partitions whose log start has moved: %s", counts(moved))
}
