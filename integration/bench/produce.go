//go:build linux

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// The client's buffers. Smaller ones starve a store whose PUTs take 100 ms; larger ones
// only lengthen the queue in the client.
const (
	maxBatchBytes   = 1000012
	bufferedRecords = 50_000
	bufferedBytes   = 32 << 20
	defaultLinger   = 10 * time.Millisecond
)

// lateness beyond which a paced record's clock starts when it was due, and not when it was
// sent, so that a stalled client does not hide the server's stall.
const lateness = 10 * time.Millisecond

// load says what to produce.
type load struct {
	brokers    string
	topic      string
	partitions int
	size       int           // bytes of a value, at least headerSize
	records    int64         // to send; 0: as many as duration allows
	warmup     time.Duration // sent before what is measured
	duration   time.Duration // of what is measured
	rate       float64       // records/s; 0: as fast as they go
	linger     time.Duration
	inflight   int    // requests; 0: an idempotent producer, which the client limits to 5
	inTurn     bool   // one record to each partition in turn, and not runs of 64 KiB
	run        uint64 // marks the records
}

// produced is what came of a load. Figures are of records sent after the warm-up.
type produced struct {
	records int64
	seconds float64 // from the end of the warm-up to the last acknowledgement
	acks    histogram
	acked   bitmap // of all records
}

func (p *produced) rate() float64               { return float64(p.records) / p.seconds }
func (p *produced) mibPerSecond(l load) float64 { return p.rate() * float64(l.size) / (1 << 20) }
func (p *produced) gib(l load) float64          { return float64(p.records) * float64(l.size) / (1 << 30) }

// producer sends a load. The client calls promises one at a time.
type producer struct {
	load
	cl      *kgo.Client
	pool    sync.Pool
	warmEnd time.Time
	warm    func() // called once, when the warm-up is over

	// Written by promises, read after the client is closed.
	out     produced
	lastAck time.Time
	failure error

	failed atomic.Bool
}

// produce sends a load and waits for every acknowledgement. warm is called when the
// warm-up ends. A record that fails is an error.
func produce(ctx context.Context, l load, warm func()) (*produced, error) {
	opts := []kgo.Opt{
		kgo.SeedBrokers(l.brokers), kgo.ClientID("floe-bench"), kgo.DefaultProduceTopic(l.topic),
		kgo.ProducerLinger(l.linger), kgo.ProducerBatchMaxBytes(maxBatchBytes),
		kgo.MaxBufferedRecords(bufferedRecords), kgo.MaxBufferedBytes(bufferedBytes),
		kgo.RequiredAcks(kgo.AllISRAcks()), kgo.ProducerBatchCompression(kgo.NoCompression()),
		kgo.RecordDeliveryTimeout(time.Minute),
	}
	if l.inflight > 0 {
		opts = append(opts, kgo.DisableIdempotentWrite(), kgo.MaxProduceRequestsInflightPerBroker(l.inflight))
	}
	if l.inTurn {
		opts = append(opts, kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
	}
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	if err := cl.Ping(ctx); err != nil {
		return nil, fmt.Errorf("reach %s: %w", l.brokers, err)
	}
	p := &producer{load: l, cl: cl, warm: warm}
	fill := rand.New(rand.NewPCG(l.run, uint64(l.size)))
	p.pool.New = func() any {
		value := make([]byte, l.size) // called by the one goroutine that sends
		for i := 0; i+8 <= len(value); i += 8 {
			binary.LittleEndian.PutUint64(value[i:], fill.Uint64())
		}
		return &kgo.Record{Value: value}
	}
	p.warmEnd = time.Now().Add(l.warmup)
	sent := p.send(ctx)
	err = cl.Flush(ctx)
	cl.Close() // no promise is called after this
	switch {
	case p.failure != nil:
		return nil, fmt.Errorf("produce: %w", p.failure)
	case err != nil:
		return nil, fmt.Errorf("produce: wait for acknowledgements: %w", err)
	case p.out.acked.without(nil) != sent:
		return nil, fmt.Errorf("produce: %d records sent, %d acknowledged", sent, p.out.acked.without(nil))
	case p.out.records == 0:
		return nil, errors.New("produce: the warm-up took all the time there was")
	}
	p.out.seconds = p.lastAck.Sub(p.warmEnd).Seconds()
	return &p.out, nil
}

// send returns how many records it sent.
func (p *producer) send(ctx context.Context) (sent int64) {
	start, end := time.Now(), p.warmEnd.Add(p.duration)
	timer := time.NewTimer(0)
	defer timer.Stop()
	warming := true
	for ; p.records == 0 || sent < p.records; sent++ {
		now := time.Now()
		if p.rate > 0 {
			due := start.Add(time.Duration(float64(sent) / p.rate * 1e9))
			if wait := due.Sub(now); wait > 0 {
				timer.Reset(wait)
				select {
				case <-timer.C:
				case <-ctx.Done():
				}
				now = time.Now()
			}
			if now.Sub(due) > lateness {
				now = due
			}
		}
		if p.records == 0 && now.After(end) || ctx.Err() != nil || p.failed.Load() {
			return sent
		}
		if warming && !now.Before(p.warmEnd) {
			warming = false
			p.warm()
		}
		r := p.pool.Get().(*kgo.Record)
		*r = kgo.Record{Value: r.Value}
		header{run: p.run, sequence: uint64(sent), sent: now.UnixNano()}.put(r.Value)
		p.cl.Produce(ctx, r, p.promise)
	}
	return sent
}

func (p *producer) promise(r *kgo.Record, err error) {
	if err != nil {
		if p.failure == nil {
			p.failure = err
			p.failed.Store(true)
		}
		return
	}
	now := time.Now()
	h, _ := getHeader(r.Value)
	p.out.acked.add(h.sequence)
	p.lastAck = now
	if sent := time.Unix(0, h.sent); !sent.Before(p.warmEnd) {
		p.out.records++
		p.out.acks.add(now.Sub(sent))
	}
	p.pool.Put(r)
}
