//go:build planted

package planted

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/floelog/floe/agent/kafka"
	"github.com/floelog/floe/protocol/batch"
	"github.com/floelog/floe/tiering"
)

// producer stands between Produce and the pipeline.
type producer struct {
	kafka.Producer
	h  *host
	on func(p *producer, batches []*kafka.AppendBatch, done func())

	mu   sync.Mutex // guards the following
	ends map[tiering.TopicPartition]tiering.Offset
}

func (p *producer) Append(batches []*kafka.AppendBatch, done func()) { p.on(p, batches, done) }

// guess returns the offset that a batch is expected to have, by the answers before.
func (p *producer) guess(b *kafka.AppendBatch) tiering.Offset {
	p.mu.Lock()
	defer p.mu.Unlock()
	base := p.ends[b.Partition]
	p.ends[b.Partition] = base + tiering.Offset(b.Meta.Count)
	return base
}

func (p *producer) learn(b *kafka.AppendBatch) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ends[b.Partition] = max(p.ends[b.Partition], b.Base+tiering.Offset(b.Meta.Count))
}

func onAppend(on func(p *producer, batches []*kafka.AppendBatch, done func())) func() bug {
	return func() bug {
		return bug{clients: func(h *host, parts *kafka.Parts) {
			parts.Producer = &producer{Producer: parts.Producer, h: h, on: on, ends: map[tiering.TopicPartition]tiering.Offset{}}
		}}
	}
}

func appendBugs() map[string]func() bug {
	return map[string]func() bug{
		"ack-of-failure":      onAppend(ackFailure),
		"ack-early":           onAppend(ackEarly),
		"answers-swapped":     onAppend(swapAnswers),
		"duplicates-accepted": onAppend(acceptAll),
		"gaps-accepted":       onAppend(acceptGaps),
		"zombies-accepted":    zombies,
		"producer-id-reused": func() bug {
			return bug{clients: func(_ *host, parts *kafka.Parts) { parts.ProducerIDs = &stutter{ProducerIDs: parts.ProducerIDs} }}
		},
	}
}

func ackFailure(p *producer, batches []*kafka.AppendBatch, done func()) {
	p.Producer.Append(batches, func() {
		for _, b := range batches {
			switch b.Code {
			case 0:
				p.learn(b)
			case kerr.UnknownTopicOrPartition.Code, kerr.UnknownTopicID.Code, kerr.OutOfOrderSequenceNumber.Code:
			default:
				b.Code, b.Moved, b.Base = 0, false, p.guess(b)
			}
		}
		done()
	})
}

func ackEarly(p *producer, batches []*kafka.AppendBatch, done func()) {
	if !p.h.oneIn(20) {
		p.Producer.Append(batches, func() {
			for _, b := range batches {
				if b.Code == 0 {
					p.learn(b)
				}
			}
			done()
		})
		return
	}
	own := make([]*kafka.AppendBatch, len(batches))
	for i, b := range batches {
		c := *b
		c.Data = slices.Clone(b.Data)
		own[i] = &c
		b.Base = p.guess(b)
	}
	p.Producer.Append(own, func() {})
	go done() // it answers a request and ends
}

func swapAnswers(p *producer, batches []*kafka.AppendBatch, done func()) {
	p.Producer.Append(batches, func() {
		for i := 1; i < len(batches); i++ {
			if a, b := batches[i-1], batches[i]; a.Code == 0 && b.Code == 0 && p.h.oneIn(10) {
				a.Base, b.Base = b.Base, a.Base
			}
		}
		done()
	})
}

func acceptAll(p *producer, batches []*kafka.AppendBatch, done func()) {
	for _, b := range batches {
		if b.Meta.Transaction == 0 {
			b.Meta.ProducerID = -1
		}
	}
	p.Producer.Append(batches, done)
}

func acceptGaps(p *producer, batches []*kafka.AppendBatch, done func()) {
	if p.h.oneIn(30) { // as while a leader changes; what follows is under way already
		for _, b := range batches {
			b.Code, b.Base, b.LogStart = kerr.NotLeaderForPartition.Code, -1, -1
		}
		time.AfterFunc(20*time.Millisecond, done)
		return
	}
	p.Producer.Append(batches, func() {
		var again []*kafka.AppendBatch
		for _, b := range batches {
			if b.Code == kerr.OutOfOrderSequenceNumber.Code {
				b.Code, b.Meta.ProducerID, b.Meta.Transaction = 0, -1, 0
				again = append(again, b)
			}
		}
		if len(again) == 0 {
			done()
			return
		}
		p.Producer.Append(again, done)
	})
}

// zombies takes the batches of producers that another one has fenced as if they had no
// producer: nothing tells them from records of no transaction.
func zombies() bug {
	return bug{clients: func(h *host, parts *kafka.Parts) {
		parts.Transactions = &anyEpoch{parts.Transactions}
		parts.Producer = &producer{Producer: parts.Producer, h: h, on: func(p *producer, batches []*kafka.AppendBatch, done func()) {
			for _, b := range batches {
				if b.Meta.Transaction == 0 && batch.View(b.Data).IsTransactional() {
					b.Meta.ProducerID = -1
				}
			}
			p.Producer.Append(batches, done)
		}}
	}}
}

type anyEpoch struct{ kafka.Transactions }

func (a *anyEpoch) Enlist(ctx context.Context, e kafka.Enlistment) (kafka.Enlisted, error) {
	got, err := a.Transactions.Enlist(ctx, e)
	switch {
	case err != nil || len(e.Partitions) == 0:
	case got.Code == kerr.InvalidProducerEpoch.Code, got.Code == kerr.ProducerFenced.Code, got.Code == kerr.InvalidTxnState.Code:
		return kafka.Enlisted{}, nil
	}
	return got, err
}

// stutter hands one producer id out again and again.
type stutter struct {
	kafka.ProducerIDs

	mu   sync.Mutex // guards the following
	only int64
}

func (s *stutter) Next(ctx context.Context) (int64, error) {
	s.mu.Lock()
	only := s.only
	s.mu.Unlock()
	if only > 0 {
		return only, nil
	}
	id, err := s.ProducerIDs.Next(ctx)
	if err == nil {
		s.mu.Lock()
		s.only = id
		s.mu.Unlock()
	}
	return id, err
}
