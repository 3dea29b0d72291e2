//go:build integration && unix

package fleet

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/floelog/floe/integration/history"
)

const (
	topic      = "fleet"
	partitions = 12
	producers  = 4
	recordSize = 2 << 10
	// patience is how long anything may take that the test waits for: far more than it needs, for
	// a machine that runs every test at once.
	patience = 60 * time.Second
)

// load is clients at work, with the defaults of franz-go.
type load struct {
	t     testing.TB
	h     *history.History
	addrs []string

	stopSending, stopReading context.CancelFunc
	senders, readers         sync.WaitGroup
	producers                []*kgo.Client
	watch                    watch

	mu   sync.Mutex // guards the following
	errs []error
	next map[int32]int64 // of the consumer
}

// start creates the topic and puts a load of that many bytes per second on the fleet.
func start(t testing.TB, h *history.History, addrs []string, rate int) *load {
	t.Helper()
	l := &load{t: t, h: h, addrs: addrs, next: map[int32]int64{}}
	l.watch.note = h.Note
	l.watch.reset()
	admin := kadm.NewClient(l.client("creator"))
	defer admin.Close()
	if resp, err := admin.CreateTopic(t.Context(), partitions, 1, nil, topic); err != nil || resp.Err != nil {
		t.Fatal(err, resp.Err)
	}
	send, stopSending := context.WithCancel(context.Background())
	read, stopReading := context.WithCancel(context.Background())
	l.stopSending, l.stopReading = stopSending, stopReading
	t.Cleanup(func() {
		stopSending()
		for _, p := range l.producers {
			p.Close()
		}
		l.senders.Wait()
		stopReading()
		l.readers.Wait()
	})
	for i := range producers {
		who := history.Producer{Name: fmt.Sprintf("producer-%d", i), Idempotent: true}
		client := l.client(who.Name, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.WithHooks(&l.watch))
		l.producers = append(l.producers, client)
		l.senders.Go(func() { l.send(send, client, who, uint64(i), max(1, rate/producers/recordSize)) })
	}
	l.consume(read)
	l.group(read)
	l.awaitAcks(time.Now())
	l.watch.reset()
	return l
}

// client makes a client that has nothing but a name and addresses.
func (l *load) client(name string, opts ...kgo.Opt) *kgo.Client {
	l.t.Helper()
	client, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(l.addrs...), kgo.ClientID(name), kgo.WithLogger(clientLog{l.h, name}), kgo.Dialer(l.watch.dial)}, opts...)...)
	if err != nil {
		l.t.Fatal(err)
	}
	return client
}

// clientLog writes what a client warns of into the history's trace.
type clientLog struct {
	h    *history.History
	name string
}

func (clientLog) Level() kgo.LogLevel { return kgo.LogLevelInfo }

func (c clientLog) Log(_ kgo.LogLevel, msg string, keyvals ...any) {
	c.h.Note("%s logs: %s %v", c.name, msg, keyvals)
}

// burst is how often a second records are handed in: many at a time, as in a program that is busy.
const burst = 50

// send hands records to a client at a rate until ctx ends.
func (l *load) send(ctx context.Context, client *kgo.Client, who history.Producer, seed uint64, perSecond int) {
	r := rand.New(rand.NewPCG(seed, 7))
	tick := time.NewTicker(time.Second / burst)
	defer tick.Stop()
	begun, sent := time.Now(), 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		// A producer that was held up catches up, but for no more than a second's worth.
		due := int(time.Since(begun).Seconds() * float64(perSecond))
		sent = max(sent, due-perSecond)
		for ; sent < due; sent++ {
			p := history.Partition{Topic: topic, ID: r.Int32N(partitions)}
			v := l.h.Send(who, p, recordSize)
			record := &kgo.Record{Topic: topic, Partition: p.ID, Value: history.Payload(v, recordSize)}
			handed := time.Now()
			client.Produce(context.Background(), record, func(r *kgo.Record, err error) {
				if err != nil {
					l.h.Unknown(v, err)
					l.failed(fmt.Errorf("%s, value %d to partition %d: %w", who.Name, v, p.ID, err))
					return
				}
				l.h.Acked(v, r.Offset)
				l.watch.acked(p.ID, handed, time.Now())
			})
		}
	}
}

func (l *load) failed(err error) {
	l.h.Note("ERROR %v", err)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.errs = append(l.errs, err)
}

// consume starts a consumer of all partitions.
func (l *load) consume(ctx context.Context) {
	l.t.Helper()
	const name = "consumer"
	from := map[int32]kgo.Offset{}
	for p := range int32(partitions) {
		from[p] = kgo.NewOffset().At(0)
		l.h.Assigned(name, history.Partition{Topic: topic, ID: p}, 0)
	}
	client := l.client(name, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: from}), kgo.WithHooks(&l.watch))
	l.readers.Go(func() {
		defer client.Close()
		l.poll(ctx, client, name, func(p kgo.FetchTopicPartition) {
			reads := make([]history.Read, len(p.Records))
			for i, r := range p.Records {
				reads[i] = history.Read{Offset: r.Offset, Record: r.Value}
			}
			l.h.Polled(name, history.Partition{Topic: topic, ID: p.Partition},
				history.Watermarks{LogStart: p.LogStartOffset, LastStable: p.LastStableOffset, High: p.HighWatermark}, reads)
			if n := len(reads); n > 0 {
				l.watch.read(p.Partition, time.Now())
				l.mu.Lock()
				l.next[p.Partition] = reads[n-1].Offset + 1
				l.mu.Unlock()
			}
		})
	})
}

// group starts two members of a group. What they read is not part of the history, since
// groups read again; the errors that they hear count.
func (l *load) group(ctx context.Context) {
	l.t.Helper()
	for i := range 2 {
		name := fmt.Sprintf("member-%d", i)
		client := l.client(name, kgo.ConsumerGroup("fleet"), kgo.ConsumeTopics(topic))
		l.readers.Go(func() {
			defer client.Close()
			l.poll(ctx, client, name, func(p kgo.FetchTopicPartition) {})
		})
	}
}

// poll polls until ctx ends.
func (l *load) poll(ctx context.Context, client *kgo.Client, name string, each func(kgo.FetchTopicPartition)) {
	for {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			return
		}
		fetches.EachError(func(topic string, p int32, err error) {
			l.failed(fmt.Errorf("%s, partition %d: %w", name, p, err))
		})
		fetches.EachPartition(func(p kgo.FetchTopicPartition) {
			if p.Err == nil {
				each(p)
			}
		})
	}
}

// awaitAcks waits until every partition has acknowledged a record that was handed in after
// since, and returns how long after.
func (l *load) awaitAcks(since time.Time) time.Duration {
	l.t.Helper()
	w := l.watch.wait(since)
	select {
	case <-w.done:
		return time.Since(since)
	case <-time.After(patience):
		l.t.Fatalf("after %v not every partition acknowledges; %v", patience, errors.Join(l.heard()...))
	}
	return 0
}

func (l *load) heard() []error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.errs)
}

// finish ends the load, waits until all was read, and judges what was heard.
func (l *load) finish() {
	l.t.Helper()
	l.stopSending()
	l.senders.Wait()
	ctx, cancel := context.WithTimeout(l.t.Context(), patience)
	defer cancel()
	for _, p := range l.producers {
		if err := p.Flush(ctx); err != nil {
			l.t.Errorf("%d records of a producer have no answer after %v: %v", p.BufferedProduceRecords(), patience, err)
		}
	}
	l.readAll(ctx)
	l.stopReading()
	l.readers.Wait()
	report := l.h.Check()
	l.t.Log(report.Counts())
	if err := report.Err(); err != nil {
		l.t.Error(err)
	}
	if errs := l.heard(); len(errs) > 0 {
		l.t.Errorf("clients heard %d errors, the first is: %v", len(errs), errs[0])
	}
	if report.Acked == 0 || report.Reads < report.Acked {
		l.t.Errorf("%d records were acknowledged and %d read: nothing was tested", report.Acked, report.Reads)
	}
}

// readAll waits until the consumer has read as far as records were acknowledged.
func (l *load) readAll(ctx context.Context) {
	l.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		behind := ""
		l.mu.Lock()
		for p := range int32(partitions) {
			if end := l.h.AckedEnd(history.Partition{Topic: topic, ID: p}); l.next[p] < end {
				behind += fmt.Sprintf(" %d at %d of %d", p, l.next[p], end)
			}
		}
		l.mu.Unlock()
		if behind == "" {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			l.t.Errorf("the consumer has not read all after %v: partitions%s", patience, behind)
			return
		}
	}
}
