//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	// txnProducers is how many transactional producers work side by side. Each has one
	// transaction at a time, of several round trips.
	txnProducers = 16
	txnRecords   = 10
	// committers are connections that commit offsets, each one request after the other.
	committers = 64
	members    = 500
)

// coordination: transactions, offset commits and a large group, all through one agent.
func coordination(ctx context.Context, e *env) (rows []row, err error) {
	dir, remove, err := e.scratch("coordination")
	if err != nil {
		return nil, err
	}
	defer remove()
	f, err := e.startDev(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer f.stop()
	for _, measure := range []func(context.Context, *env, *floe) (row, error){transactions, commits, classicGroup, consumerGroup} {
		before := loadAverage()
		r, err := measure(ctx, e, f)
		if err != nil {
			return rows, err
		}
		r.Load = before + " → " + loadAverage()
		rows = append(rows, r)
	}
	return rows, nil
}

func freshTopic(ctx context.Context, f *floe, topic string, partitions int) (string, error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(f.addr))
	if err != nil {
		return "", err
	}
	defer cl.Close()
	return topic, createTopic(ctx, cl, topic, partitions)
}

// latencies gathers durations from several goroutines.
type latencies struct {
	mu  sync.Mutex // guards all
	all []time.Duration
}

func (l *latencies) add(d time.Duration) {
	l.mu.Lock()
	l.all = append(l.all, d)
	l.mu.Unlock()
}

// at returns a quantile in milliseconds.
func (l *latencies) at(q float64) float64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.all) == 0 {
		return 0
	}
	slices.Sort(l.all)
	return float64(l.all[min(len(l.all)-1, int(q*float64(len(l.all))))].Microseconds()) / 1000
}

// transactions: begin, 10 records, commit; the latency is that of the commit alone.
func transactions(ctx context.Context, e *env, f *floe) (row, error) {
	r := row{Scenario: fmt.Sprintf("dev: transactions of %d records, %d producers", txnRecords, txnProducers)}
	topic, err := freshTopic(ctx, f, "transactions", partitions)
	if err != nil {
		return r, err
	}
	var took latencies
	var begun, done, warm atomic.Int64
	work, cancel := context.WithTimeout(ctx, e.plan.warmup+e.plan.measure)
	defer cancel()
	warmUntil := time.Now().Add(e.plan.warmup)
	var wg sync.WaitGroup
	errs := make([]error, txnProducers)
	for i := range txnProducers {
		wg.Go(func() {
			errs[i] = runTransactions(work, f, topic, i, func(end time.Duration) {
				if time.Now().After(warmUntil) {
					done.Add(1)
					took.add(end)
				} else {
					warm.Add(1)
				}
			}, &begun)
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return r, fmt.Errorf("%s: %w", r.Scenario, err)
	}
	committed := warm.Load() + done.Load()
	n, err := countCommitted(ctx, f, topic)
	if err == nil && (n < committed*txnRecords || n > begun.Load()*txnRecords || n%txnRecords != 0) {
		err = fmt.Errorf("%d records of %d committed and %d begun transactions of %d are there", n, committed, begun.Load(), txnRecords)
	}
	if err != nil {
		return r, fmt.Errorf("%s: %w", r.Scenario, err)
	}
	rate := float64(done.Load()) / e.plan.measure.Seconds()
	r.RecordsPerS, r.score = rate*txnRecords, rate
	r.AckP50ms, r.AckP99ms = took.at(0.5), took.at(0.99)
	r.Result = fmt.Sprintf("%s transactions/s; ack is EndTxn", thousands(rate))
	r.require("≥ 1,000 transactions/s, EndTxn p50 ≤ 5 ms", rate >= 1000 && r.AckP50ms <= 5)
	return r, nil
}

// runTransactions commits one transaction after the other until ctx ends.
func runTransactions(ctx context.Context, f *floe, topic string, n int, ended func(time.Duration), begun *atomic.Int64) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(f.addr), kgo.TransactionalID(fmt.Sprintf("bench-%d", n)),
		kgo.DefaultProduceTopic(topic), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0))
	if err != nil {
		return err
	}
	defer cl.Close()
	value := make([]byte, smallValue)
	for ctx.Err() == nil {
		if err := cl.BeginTransaction(); err != nil {
			return err
		}
		begun.Add(1)
		var failed error
		for i := range txnRecords {
			cl.Produce(context.WithoutCancel(ctx), &kgo.Record{Value: value, Partition: int32((n + i/5) % partitions)}, func(_ *kgo.Record, err error) {
				if err != nil {
					failed = err
				}
			})
		}
		if err := cl.Flush(context.WithoutCancel(ctx)); err != nil || failed != nil {
			return errors.Join(err, failed)
		}
		start := time.Now()
		if err := cl.EndTransaction(context.WithoutCancel(ctx), kgo.TryCommit); err != nil {
			return err
		}
		ended(time.Since(start))
	}
	return nil
}

// countCommitted reads a topic to its end as read_committed consumers do.
func countCommitted(ctx context.Context, f *floe, topic string) (n int64, err error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(f.addr), kgo.ConsumeTopics(topic), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return 0, err
	}
	defer cl.Close()
	ends, err := kadm.NewClient(cl).ListEndOffsets(ctx, topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return 0, err
	}
	left := map[int32]int64{} // the offset of each partition's last marker
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset > 0 {
			left[o.Partition] = o.Offset
		}
	})
	// The last offsets are markers, which no consumer is given: a sentinel behind them tells the end.
	for p := range left {
		if err := sentinel(ctx, f, topic, p); err != nil {
			return 0, err
		}
	}
	for len(left) > 0 {
		fetches := cl.PollFetches(ctx)
		if err := errors.Join(fetches.Err(), ctx.Err()); err != nil {
			return 0, err
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if string(r.Key) == sentinelKey {
				delete(left, r.Partition)
			} else {
				n++
			}
		})
	}
	return n, nil
}

const sentinelKey = "the end"

func sentinel(ctx context.Context, f *floe, topic string, p int32) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(f.addr), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		return err
	}
	defer cl.Close()
	return cl.ProduceSync(ctx, &kgo.Record{Topic: topic, Partition: p, Key: []byte(sentinelKey)}).FirstErr()
}

// commits: many consumers commit one offset each, again and again.
func commits(ctx context.Context, e *env, f *floe) (row, error) {
	r := row{Scenario: fmt.Sprintf("dev: offset commits, %d at a time", committers)}
	topic, err := freshTopic(ctx, f, "commits", partitions)
	if err != nil {
		return r, err
	}
	id, err := topicID(ctx, f, topic)
	if err != nil {
		return r, err
	}
	var took latencies
	var done atomic.Int64
	work, cancel := context.WithTimeout(ctx, e.plan.warmup+e.plan.measure)
	defer cancel()
	warmUntil := time.Now().Add(e.plan.warmup)
	var wg sync.WaitGroup
	errs := make([]error, committers)
	for i := range committers {
		wg.Go(func() {
			errs[i] = runCommits(work, f, topic, id, fmt.Sprintf("bench-%d", i%8), int32(i%partitions), func(d time.Duration) {
				if time.Now().After(warmUntil) {
					done.Add(1)
					took.add(d)
				}
			})
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return r, fmt.Errorf("%s: %w", r.Scenario, err)
	}
	rate := float64(done.Load()) / e.plan.measure.Seconds()
	r.AckP50ms, r.AckP99ms, r.score = took.at(0.5), took.at(0.99), rate
	r.Result = thousands(rate) + " commits/s"
	r.require("≥ 10,000 commits/s", rate >= 10_000)
	return r, nil
}

func topicID(ctx context.Context, f *floe, topic string) (id [16]byte, err error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(f.addr))
	if err != nil {
		return id, err
	}
	defer cl.Close()
	topics, err := kadm.NewClient(cl).ListTopics(ctx, topic)
	if err == nil {
		err = topics.Error()
	}
	return topics[topic].ID, err
}

func runCommits(ctx context.Context, f *floe, topic string, id [16]byte, group string, partition int32, done func(time.Duration)) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(f.addr))
	if err != nil {
		return err
	}
	defer cl.Close()
	for offset := int64(1); ctx.Err() == nil; offset++ {
		req := kmsg.NewPtrOffsetCommitRequest()
		req.Group = group
		t := kmsg.NewOffsetCommitRequestTopic()
		t.Topic, t.TopicID = topic, id
		p := kmsg.NewOffsetCommitRequestTopicPartition()
		p.Partition, p.Offset = partition, offset
		t.Partitions = append(t.Partitions, p)
		req.Topics = append(req.Topics, t)
		start := time.Now()
		resp, err := req.RequestWith(context.WithoutCancel(ctx), cl)
		if err == nil {
			err = kerr.ErrorForCode(resp.Topics[0].Partitions[0].ErrorCode)
		}
		if err != nil {
			return err
		}
		done(time.Since(start))
	}
	return nil
}

// classicGroup and consumerGroup: how long until every one of many members has what it is
// due: each exactly one partition.
func classicGroup(ctx context.Context, _ *env, f *floe) (row, error) {
	return gather(ctx, f, "classic")
}

func consumerGroup(ctx context.Context, _ *env, f *floe) (row, error) {
	return gather(ctx, f, "consumer", kgo.ServerSideBalancer())
}

func gather(ctx context.Context, f *floe, protocol string, opts ...kgo.Opt) (row, error) {
	r := row{Scenario: fmt.Sprintf("dev: %s group of %d members, all at once", protocol, members)}
	topic, err := freshTopic(ctx, f, "group-"+protocol, members)
	if err != nil {
		return r, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 2*time.Minute, errors.New("the group did not become stable"))
	defer cancel()
	var mu sync.Mutex // guards the following
	owner := map[int32]int{}
	complete := make(chan struct{})
	clients := make([]*kgo.Client, members)
	defer func() {
		var wg sync.WaitGroup
		for _, cl := range clients {
			if cl != nil {
				wg.Go(cl.Close)
			}
		}
		wg.Wait()
	}()
	start := time.Now()
	for i := range members {
		assigned := func(_ context.Context, _ *kgo.Client, got map[string][]int32) {
			mu.Lock()
			defer mu.Unlock()
			for _, p := range got[topic] {
				owner[p] = i
			}
			held := map[int]bool{}
			for _, m := range owner {
				held[m] = true
			}
			if len(held) == members {
				select {
				case <-complete:
				default:
					close(complete)
				}
			}
		}
		lost := func(_ context.Context, _ *kgo.Client, gone map[string][]int32) {
			mu.Lock()
			defer mu.Unlock()
			for _, p := range gone[topic] {
				if owner[p] == i {
					delete(owner, p)
				}
			}
		}
		if clients[i], err = kgo.NewClient(append(opts[:len(opts):len(opts)], kgo.SeedBrokers(f.addr), kgo.ConsumerGroup("bench-"+protocol), kgo.ConsumeTopics(topic),
			kgo.OnPartitionsAssigned(assigned), kgo.OnPartitionsRevoked(lost), kgo.OnPartitionsLost(lost), kgo.DisableAutoCommit())...); err != nil {
			return r, err
		}
	}
	select {
	case <-complete:
	case <-ctx.Done():
		return r, fmt.Errorf("%s: %w", r.Scenario, context.Cause(ctx))
	}
	took := time.Since(start)
	r.score = -took.Seconds()
	r.Result = fmt.Sprintf("stable after %.1f s", took.Seconds())
	r.require("≤ 10 s", took <= 10*time.Second)
	return r, nil
}
