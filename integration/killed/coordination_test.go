//go:build integration && unix && cgo

package killed

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/floelog/floe/integration/fixture"
)

const (
	appMembers    = 10
	appPartitions = 32
	appRate       = 400 // values a second
	// standstill is how long a member may be without progress: the lease, after which another
	// agent takes over, and three seconds for it and the client to find each other.
	standstill = lease + 3*time.Second
)

// application is a group that consumes, processes and produces in transactions, next to a
// group that only consumes and commits, while somebody writes values.
type application struct {
	t      *testing.T
	floe   *fixture.Floe
	in     string
	out    string
	adm    *kadm.Client
	work   sync.WaitGroup
	cancel context.CancelFunc

	sent atomic.Int64 // values that were acknowledged: 1 to sent
	stop atomic.Bool  // no more values

	mu       sync.Mutex // guards the following
	members  []*member
	failures []error
}

// member is a member of one of the groups.
type member struct {
	name    string
	moved   atomic.Int64 // partitions given or taken
	held    atomic.Int64 // partitions it has
	last    atomic.Int64 // time of its last progress, milliseconds
	longest atomic.Int64 // longest time without, milliseconds
}

// progressed notes that the member has committed something.
func (m *member) progressed() {
	now := time.Now().UnixMilli()
	last := m.last.Swap(now)
	if gap := now - last; last > 0 && gap > m.longest.Load() {
		m.longest.Store(gap)
	}
}

func (a *application) fail(format string, args ...any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.failures) < 20 {
		a.failures = append(a.failures, fmt.Errorf(format, args...))
	}
}

func (a *application) client(opts ...kgo.Opt) *kgo.Client {
	cl, err := kgo.NewClient(append(a.impatient(), opts...)...)
	if err != nil {
		panic(err) // the options are this test's
	}
	return cl
}

// impatient are the options of a client that asks again soon and often, so that the time
// that it stands still is the cluster's and not its own.
func (a *application) impatient() []kgo.Opt {
	return []kgo.Opt{
		kgo.SeedBrokers(a.floe.Addrs()...), kgo.RetryBackoffFn(func(int) time.Duration { return retryPause }), kgo.RequestRetries(1000),
		kgo.MetadataMinAge(retryPause), kgo.RequestTimeoutOverhead(2 * time.Second), kgo.ProduceRequestTimeout(3 * time.Second),
	}
}

const retryPause = 50 * time.Millisecond

// startApplication creates the topics and starts everything.
func startApplication(t *testing.T, f *fixture.Floe) *application {
	t.Helper()
	a := &application{t: t, floe: f, in: "app-in", out: "app-out"}
	cl := a.client()
	t.Cleanup(cl.Close)
	a.adm = kadm.NewClient(cl)
	if resp, err := a.adm.CreateTopics(t.Context(), appPartitions, 1, nil, a.in, a.out); err != nil || resp.Error() != nil {
		t.Fatal(err, resp.Error())
	}
	ctx, cancel := context.WithCancel(context.Background())
	a.cancel = cancel
	t.Cleanup(a.end)
	for i := range appMembers {
		eos := a.member(fmt.Sprintf("eos-%d", i))
		a.work.Go(func() { a.process(ctx, eos, i) })
		plain := a.member(fmt.Sprintf("reader-%d", i))
		a.work.Go(func() { a.read(ctx, plain) })
	}
	a.work.Go(func() { a.write(ctx) })
	for _, group := range []string{eosGroup, readerGroup} {
		a.work.Go(func() { a.watchOffsets(ctx, group) })
	}
	return a
}

const (
	eosGroup    = "app-eos"
	readerGroup = "app-reader"
)

func (a *application) member(name string) *member {
	m := &member{name: name}
	a.members = append(a.members, m)
	return m
}

func (a *application) end() {
	a.cancel()
	a.work.Wait()
}

// write sends values, each its number, at a steady rate.
func (a *application) write(ctx context.Context) {
	cl := a.client(kgo.DefaultProduceTopic(a.in), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()), kgo.UnknownTopicRetries(-1))
	defer cl.Close()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for next := int64(1); !a.stop.Load(); {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		var batch []*kgo.Record
		for range appRate / 50 {
			batch = append(batch, &kgo.Record{Value: binary.BigEndian.AppendUint64(nil, uint64(next))})
			next++
		}
		if err := cl.ProduceSync(ctx, batch...).FirstErr(); err != nil {
			if ctx.Err() == nil {
				a.fail("writing: %w", err)
			}
			return
		}
		a.sent.Store(next - 1)
	}
}

// consumer is a member of a group. librdkafka goes on with its membership for as long as its
// session lasts, whatever becomes of the coordinator, so that a rebalance is Floe's doing.
func (a *application) consumer(m *member, group string) (*ck.Consumer, error) {
	c, err := ck.NewConsumer(a.config(ck.ConfigMap{
		"client.id": m.name, "group.id": group, "auto.offset.reset": "earliest", "enable.auto.commit": false, "enable.auto.offset.store": false,
		"isolation.level": "read_committed", "session.timeout.ms": 45_000, "heartbeat.interval.ms": 1000, "fetch.wait.max.ms": 200,
		"partition.assignment.strategy": "cooperative-sticky",
	}))
	if err != nil {
		return nil, err
	}
	return c, c.SubscribeTopics([]string{a.in}, func(c *ck.Consumer, ev ck.Event) error {
		switch ev := ev.(type) {
		case ck.AssignedPartitions:
			m.held.Add(int64(len(ev.Partitions)))
			m.moved.Add(int64(len(ev.Partitions)))
			return c.IncrementalAssign(ev.Partitions)
		case ck.RevokedPartitions:
			m.held.Add(-int64(len(ev.Partitions)))
			m.moved.Add(int64(len(ev.Partitions)))
			return c.IncrementalUnassign(ev.Partitions)
		}
		return nil
	})
}

// config adds what makes a client ask again soon, so that the time that it stands still is
// the cluster's and not its own.
func (a *application) config(c ck.ConfigMap) *ck.ConfigMap {
	c["bootstrap.servers"] = strings.Join(a.floe.Addrs(), ",")
	c["reconnect.backoff.ms"], c["reconnect.backoff.max.ms"] = 50, 200
	c["retry.backoff.ms"] = 50
	c["topic.metadata.refresh.fast.interval.ms"] = 50
	c["socket.timeout.ms"] = 10_000
	c["log_level"] = 0
	return &c
}

// poll gathers messages for a moment, and where each partition's first one is.
func poll(ctx context.Context, c *ck.Consumer) (messages []*ck.Message, from map[int32]ck.Offset) {
	from = map[int32]ck.Offset{}
	for wait := 200; len(messages) < 500 && ctx.Err() == nil; wait = 1 {
		ev := c.Poll(wait)
		if ev == nil {
			return messages, from
		}
		if msg, ok := ev.(*ck.Message); ok && msg.TopicPartition.Error == nil {
			messages = append(messages, msg)
			if _, ok := from[msg.TopicPartition.Partition]; !ok {
				from[msg.TopicPartition.Partition] = msg.TopicPartition.Offset
			}
		}
	}
	return messages, from
}

// after returns the offsets that say that the messages are done with.
func (a *application) after(messages []*ck.Message) (offsets []ck.TopicPartition) {
	last := map[int32]ck.Offset{}
	for _, m := range messages {
		last[m.TopicPartition.Partition] = m.TopicPartition.Offset + 1
	}
	for p, o := range last {
		offsets = append(offsets, ck.TopicPartition{Topic: &a.in, Partition: p, Offset: o})
	}
	return offsets
}

// process copies what it reads to the other topic, in transactions with its offsets.
func (a *application) process(ctx context.Context, m *member, n int) {
	c, err := a.consumer(m, eosGroup)
	if err != nil {
		a.fail("%s: %w", m.name, err)
		return
	}
	defer c.Close()
	p, err := ck.NewProducer(a.config(ck.ConfigMap{
		"client.id": m.name, "transactional.id": fmt.Sprintf("app-%d", n), "transaction.timeout.ms": 60_000, "linger.ms": 1, "go.delivery.reports": false,
	}))
	if err == nil {
		err = p.InitTransactions(ctx)
	}
	if err != nil {
		a.fail("%s: %w", m.name, err)
		return
	}
	defer p.Close()
	for ctx.Err() == nil {
		messages, from := poll(ctx, c)
		if len(messages) == 0 {
			continue
		}
		err := a.transact(p, c, messages)
		if err == nil {
			m.progressed()
			continue
		}
		var kafka ck.Error
		if errors.As(err, &kafka) && kafka.TxnRequiresAbort() {
			err = retried(ctx, func() error { return p.AbortTransaction(context.Background()) })
		}
		if err != nil && ctx.Err() == nil {
			a.fail("%s: %w", m.name, err)
			return
		}
		for partition, offset := range from { // again, as far as it is still this member's
			_ = c.Seek(ck.TopicPartition{Topic: &a.in, Partition: partition, Offset: offset}, 1000)
		}
	}
}

// retried repeats what may be repeated, as librdkafka says.
func retried(ctx context.Context, f func() error) error {
	for {
		err := f()
		var kafka ck.Error
		if err == nil || !errors.As(err, &kafka) || !kafka.IsRetriable() || ctx.Err() != nil {
			return err
		}
	}
}

func (a *application) transact(p *ck.Producer, c *ck.Consumer, messages []*ck.Message) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := p.BeginTransaction(); err != nil {
		return err
	}
	for _, msg := range messages {
		err := p.Produce(&ck.Message{TopicPartition: ck.TopicPartition{Topic: &a.out, Partition: msg.TopicPartition.Partition}, Value: msg.Value}, nil)
		if err != nil {
			return err
		}
	}
	group, err := c.GetConsumerGroupMetadata()
	if err != nil {
		return err
	}
	if err := retried(ctx, func() error { return p.SendOffsetsToTransaction(ctx, a.after(messages), group) }); err != nil {
		return err
	}
	return retried(ctx, func() error { return p.CommitTransaction(ctx) })
}

// read consumes and commits, without transactions.
func (a *application) read(ctx context.Context, m *member) {
	c, err := a.consumer(m, readerGroup)
	if err != nil {
		a.fail("%s: %w", m.name, err)
		return
	}
	defer c.Close()
	for ctx.Err() == nil {
		if messages, _ := poll(ctx, c); len(messages) > 0 {
			// What fails is committed with what follows.
			if _, err := c.CommitOffsets(a.after(messages)); err == nil {
				m.progressed()
			}
		}
	}
}

// watchOffsets asks for a group's committed offsets again and again: none may go back.
func (a *application) watchOffsets(ctx context.Context, group string) {
	seen := map[int32]int64{}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		got, err := a.adm.FetchOffsets(ctx, group)
		if err != nil {
			continue // nobody answers just now
		}
		got.Each(func(o kadm.OffsetResponse) {
			switch {
			case o.Err != nil || o.Topic != a.in:
			case o.At < seen[o.Partition]:
				a.fail("committed offset of %s partition %d went from %d to %d", group, o.Partition, seen[o.Partition], o.At)
			default:
				seen[o.Partition] = o.At
			}
		})
		for p, at := range seen {
			if at > 0 {
				if o, ok := got.Lookup(a.in, p); !ok || o.Err == nil && o.At < 0 {
					a.fail("committed offset of %s partition %d was %d and is not there any more", group, p, at)
				}
			}
		}
	}
}

// stable waits until all members have partitions and make progress.
func (a *application) stable(since time.Time) {
	a.t.Helper()
	await(a.t, "every member's progress", func() error {
		a.mu.Lock()
		failed := errors.Join(a.failures...)
		a.mu.Unlock()
		if failed != nil {
			a.t.Fatal(failed)
		}
		held := map[string]int64{}
		for _, m := range a.members {
			if m.held.Load() == 0 || m.last.Load() < since.UnixMilli() {
				return fmt.Errorf("%s has %d partitions and its last progress was %v ago", m.name, m.held.Load(), time.Since(time.UnixMilli(m.last.Load())))
			}
			held[m.name[:3]] += m.held.Load()
		}
		for kind, n := range held {
			if n != appPartitions {
				return fmt.Errorf("the members %s hold %d partitions of %d", kind, n, appPartitions)
			}
		}
		return nil
	})
}

func await(t *testing.T, what string, check func() error) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("%s: not after %v: %v", what, patience, err)
		}
	}
}

// coordinatorOf returns the process that coordinates a group.
func (a *application) coordinatorOf(group string) int {
	a.t.Helper()
	node := int32(0)
	await(a.t, "a coordinator", func() error {
		ctx, cancel := context.WithTimeout(a.t.Context(), 5*time.Second)
		defer cancel()
		got := a.adm.FindGroupCoordinators(ctx, group)[group]
		node = got.NodeID
		return got.Err
	})
	return int(node) - 1
}

// finish lets the application catch up and compares what came out with what went in.
func (a *application) finish() {
	a.t.Helper()
	a.stop.Store(true)
	counts := map[uint64]int{}
	cl := a.client(kgo.ConsumeTopics(a.out), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	defer cl.Close()
	ctx, cancel := context.WithTimeoutCause(a.t.Context(), 2*patience, errors.New("not everything came out"))
	defer cancel()
	for int64(len(counts)) < a.sent.Load() {
		fetches := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			a.t.Fatalf("%v: %d of %d values", context.Cause(ctx), len(counts), a.sent.Load())
		}
		fetches.EachRecord(func(r *kgo.Record) { counts[binary.BigEndian.Uint64(r.Value)]++ })
	}
	a.end()
	// What is behind: nothing may follow that was there already.
	rest, stop := context.WithTimeout(a.t.Context(), time.Second)
	defer stop()
	for rest.Err() == nil {
		cl.PollFetches(rest).EachRecord(func(r *kgo.Record) { counts[binary.BigEndian.Uint64(r.Value)]++ })
	}
	doubled := 0
	for v, n := range counts {
		if n != 1 {
			if doubled++; doubled <= 5 {
				a.t.Errorf("value %d came out %d times", v, n)
			}
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, err := range a.failures {
		a.t.Error(err)
	}
	a.t.Logf("%d values went in, %d came out, %d more than once", a.sent.Load(), len(counts), doubled)
}
