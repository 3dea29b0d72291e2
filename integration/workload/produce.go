//go:build integration

package workload

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/integration/history"
)

// DataLoss is an anomaly that a client noticed: an idempotent producer heard that
// the sequence numbers that the cluster knows do not lead up to its own.
const DataLoss history.Kind = "sequence-lost"

// producer makes a client that tries for ever, so that its only errors are those that a
// retry does not cure.
func (l *Load) producer(who history.Producer, opts ...kgo.Opt) *kgo.Client {
	l.t.Helper()
	return l.client(who.Name, append([]kgo.Opt{
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProduceRequestTimeout(l.cfg.Commit),
		kgo.MaxBufferedRecords(maxBuffered), kgo.WithHooks(&l.torn),
		kgo.ProducerBatchCompression(kgo.NoCompression()), // the filler does not compress
		kgo.ProducerLinger(0),
		kgo.ProducerOnDataLossDetected(func(topic string, p int32) {
			l.h.Anomaly(DataLoss, "%s was told of lost sequence numbers in %s/%d", who.Name, topic, p)
		}),
	}, opts...)...)
}

// send hands records to a client at the configured rate until ctx ends.
func (l *Load) send(ctx context.Context, client *kgo.Client, who history.Producer, r *rand.Rand) {
	tick := time.NewTicker(time.Second / time.Duration(l.cfg.Rate))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		p := l.partition(r.Int32N(l.cfg.Partitions))
		size := recordSize(r)
		v := l.h.Send(who, p, size)
		record := &kgo.Record{Topic: p.Topic, Partition: p.ID, Value: history.Payload(v, size)}
		begun := time.Now()
		// It waits while maxBuffered records are under way, and that ends: their promises
		// are kept by Finish at the latest. The record's own context must not end, as that
		// would give up a record whose outcome is not known.
		client.Produce(context.Background(), record, func(r *kgo.Record, err error) { l.answered(who, v, begun, r, err) })
	}
}

// recordSize mixes records that are committed inline, alone and many together, with such
// as need an object.
func recordSize(r *rand.Rand) int {
	switch n := r.IntN(100); {
	case n < 70:
		return history.MinSize + r.IntN(200)
	case n < 95:
		return 1<<10 + r.IntN(7<<10)
	default:
		return 20<<10 + r.IntN(40<<10) // more than may be inline
	}
}

// answered is a record's promise.
func (l *Load) answered(who history.Producer, v history.Value, begun time.Time, r *kgo.Record, err error) {
	if err != nil {
		// Everything that is retriable is tried again for ever, so whatever arrives here may
		// come after attempts whose outcome is not known.
		l.h.Unknown(v, err)
		l.progress.failed(fmt.Errorf("%s, value %d to partition %d: %w", who.Name, v, r.Partition, err))
		return
	}
	l.h.Acked(v, r.Offset)
	l.progress.acked(r.Partition, begun, time.Now())
}

// torn counts produce requests that were written to a connection which ended before their
// answer: the client cannot know what became of them.
type torn struct{ count atomic.Int64 }

func (n *torn) OnBrokerE2E(_ kgo.BrokerMetadata, key int16, e2e kgo.BrokerE2E) {
	if key == int16(kmsg.Produce) && e2e.WriteErr == nil && e2e.ReadErr != nil {
		n.count.Add(1)
	}
}

// Torn returns how many produce requests were written and not answered so far.
func (l *Load) Torn() int64 { return l.torn.count.Load() }

// progress is what acknowledgements say about the time that things take.
type progress struct {
	mu      sync.Mutex // guards the following
	begun   map[int32]time.Time
	waiters []*waiter
	slowest time.Duration
	errs    []error
}

// waiter waits until a record that was begun after since is acknowledged by each partition.
type waiter struct {
	since time.Time
	took  map[int32]time.Duration
	left  map[int32]bool
	done  chan struct{}
}

func (p *progress) acked(partition int32, begun, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.slowest = max(p.slowest, now.Sub(begun))
	for i := 0; i < len(p.waiters); i++ {
		w := p.waiters[i]
		if !w.left[partition] || !begun.After(w.since) {
			continue
		}
		delete(w.left, partition)
		w.took[partition] = now.Sub(w.since)
		if len(w.left) == 0 {
			close(w.done)
			p.waiters = append(p.waiters[:i], p.waiters[i+1:]...)
			i--
		}
	}
}

// failed keeps what a producer heard, but for one error: franz-go gives a record up when an
// agent accepts a connection and is killed, or closes it, before it has answered anything,
// since that is also what a listener with TLS does. The history has the record as unknown.
func (p *progress) failed(err error) {
	var closed *kgo.ErrFirstReadEOF
	if errors.As(err, &closed) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.errs = append(p.errs, err)
}

// Slowest returns the longest time from handing a record to a client to its
// acknowledgement, of those acknowledged since the last call.
func (l *Load) Slowest() time.Duration {
	l.progress.mu.Lock()
	defer l.progress.mu.Unlock()
	d := l.progress.slowest
	l.progress.slowest = 0
	return d
}

// Errors returns the errors that producers have heard.
func (l *Load) Errors() error {
	l.progress.mu.Lock()
	defer l.progress.mu.Unlock()
	return errors.Join(l.progress.errs...)
}

// Await waits until each of the partitions has acknowledged a record that was handed to a
// client after since, and returns how long after since it did.
func (l *Load) Await(ctx context.Context, since time.Time, partitions ...int32) (map[int32]time.Duration, error) {
	w := &waiter{since: since, took: map[int32]time.Duration{}, left: map[int32]bool{}, done: make(chan struct{})}
	for _, p := range partitions {
		w.left[p] = true
	}
	if len(w.left) == 0 {
		return w.took, nil
	}
	l.progress.mu.Lock()
	l.progress.waiters = append(l.progress.waiters, w)
	l.progress.mu.Unlock()
	select {
	case <-w.done:
		return w.took, nil
	case <-ctx.Done():
		l.progress.mu.Lock()
		defer l.progress.mu.Unlock()
		return nil, fmt.Errorf("partitions %v acknowledge nothing: %w", keys(w.left), ctx.Err())
	}
}
