//go:build integration && unix

package clients

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/IBM/sarama"
)

// saramaClient is sarama, in pure Go.
type saramaClient struct{}

func saramaConfig() *sarama.Config {
	c := sarama.NewConfig()
	c.Version = sarama.MaxVersion
	c.Producer.RequiredAcks = sarama.WaitForAll
	c.Producer.Idempotent = true
	c.Producer.Return.Successes = true
	c.Producer.Partitioner = sarama.NewManualPartitioner
	c.Net.MaxOpenRequests = 1 // demanded of idempotent producers
	c.Consumer.Offsets.Initial = sarama.OffsetOldest
	c.Consumer.Offsets.AutoCommit.Enable = false
	c.Consumer.Group.Heartbeat.Interval = 300 * time.Millisecond
	c.Consumer.Group.Rebalance.GroupStrategies = []sarama.BalanceStrategy{sarama.NewBalanceStrategySticky()}
	c.Consumer.MaxWaitTime = 100 * time.Millisecond
	return c
}

func (saramaClient) write(t *testing.T, addrs []string, topic, codec string, partition int32, values []string) {
	t.Helper()
	config := saramaConfig()
	if codec == "gzip" {
		config.Producer.Compression = sarama.CompressionGZIP
	}
	p, err := sarama.NewSyncProducer(addrs, config)
	if err != nil {
		t.Fatalf("sarama: %v", err)
	}
	var messages []*sarama.ProducerMessage
	for _, v := range values {
		messages = append(messages, &sarama.ProducerMessage{Topic: topic, Partition: partition, Value: sarama.StringEncoder(v)})
	}
	if err := errors.Join(p.SendMessages(messages), p.Close()); err != nil {
		t.Fatalf("sarama: produce to %s: %v", topic, err)
	}
}

// saramaHandler is told of a member's generations.
type saramaHandler struct {
	topic string
	tell  *member
	work  func(sarama.ConsumerGroupSession, []*sarama.ConsumerMessage) error
	fail  context.CancelCauseFunc
}

func (h saramaHandler) Setup(s sarama.ConsumerGroupSession) error {
	h.tell.assign(sorted(s.Claims()[h.topic]))
	return nil
}

func (saramaHandler) Cleanup(sarama.ConsumerGroupSession) error { return nil }

func (h saramaHandler) ConsumeClaim(s sarama.ConsumerGroupSession, c sarama.ConsumerGroupClaim) error {
	for {
		select {
		case m, ok := <-c.Messages():
			if !ok {
				return nil
			}
			if err := h.work(s, withMore(m, c.Messages())); err != nil {
				h.fail(err)
				return err
			}
		case <-s.Context().Done():
			return nil
		}
	}
}

// withMore returns a message and those that are there behind it.
func withMore(m *sarama.ConsumerMessage, there <-chan *sarama.ConsumerMessage) []*sarama.ConsumerMessage {
	batch := []*sarama.ConsumerMessage{m}
	for len(batch) < most {
		select {
		case m, ok := <-there:
			if !ok {
				return batch
			}
			batch = append(batch, m)
		default:
			return batch
		}
	}
	return batch
}

// consume is a member's life.
func (saramaClient) consume(ctx context.Context, m membership, tell *member, work func(sarama.ConsumerGroupSession, []*sarama.ConsumerMessage) error) error {
	config := saramaConfig()
	if m.committed {
		config.Consumer.IsolationLevel = sarama.ReadCommitted
	}
	group, err := sarama.NewConsumerGroup(m.addrs, m.group, config)
	if err != nil {
		return err
	}
	defer group.Close()
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	for ctx.Err() == nil { // once for each generation
		if err := group.Consume(ctx, []string{m.topic}, saramaHandler{m.topic, tell, work, fail}); err != nil && ctx.Err() == nil {
			return err
		}
	}
	return context.Cause(ctx)
}

func allFromSarama(batch []*sarama.ConsumerMessage) []record {
	var out []record
	for _, m := range batch {
		out = append(out, record{partition: m.Partition, offset: m.Offset, key: m.Key, value: m.Value})
	}
	return out
}

func (c saramaClient) join(t *testing.T, b *board, m membership) *member {
	t.Helper()
	return b.run(t, "member of sarama", func(ctx context.Context, tell *member) error {
		return c.consume(ctx, m, tell, func(s sarama.ConsumerGroupSession, got []*sarama.ConsumerMessage) error {
			s.MarkMessage(got[len(got)-1], "")
			s.Commit()
			tell.got(allFromSarama(got)...)
			return nil
		})
	})
}

func saramaTransactional(addrs []string, id string) (sarama.SyncProducer, error) {
	config := saramaConfig()
	config.Producer.Transaction.ID = id
	return sarama.NewSyncProducer(addrs, config)
}

// errPoisoned ends a pipe that has aborted.
var errPoisoned = errors.New("poisoned")

func (c saramaClient) pipe(t *testing.T, b *board, p piping) *member {
	t.Helper()
	return b.run(t, "pipe of sarama", func(ctx context.Context, tell *member) (err error) {
		out, err := saramaTransactional(p.addrs, p.id)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, out.Close()) }()
		// Claims are worked on side by side, and a producer has one transaction.
		turn := make(chan struct{}, 1)
		err = c.consume(ctx, p.membership, tell, func(s sarama.ConsumerGroupSession, got []*sarama.ConsumerMessage) error {
			select {
			case turn <- struct{}{}:
			case <-s.Context().Done():
				return nil
			}
			poisoned, err := p.copyMessages(out, got)
			if poisoned && err == nil {
				return errPoisoned // and nobody has a turn any more
			}
			<-turn
			if err == nil {
				tell.got(allFromSarama(got)...)
			}
			return err
		})
		if errors.Is(err, errPoisoned) || errors.Is(err, context.Canceled) {
			return nil
		}
		return err
	})
}

// copyMessages is one transaction.
func (p piping) copyMessages(out sarama.SyncProducer, batch []*sarama.ConsumerMessage) (poisoned bool, err error) {
	if err := out.BeginTxn(); err != nil {
		return false, fmt.Errorf("begin: %w", err)
	}
	var copies []*sarama.ProducerMessage
	for _, m := range batch {
		copies = append(copies, &sarama.ProducerMessage{Topic: p.to, Partition: m.Partition, Value: sarama.ByteEncoder(m.Value)})
		poisoned = poisoned || string(m.Value) == p.poison
	}
	if err := out.SendMessages(copies); err != nil {
		return false, fmt.Errorf("produce: %w", err)
	}
	if err := out.AddMessageToTxn(batch[len(batch)-1], p.group, nil); err != nil {
		return false, fmt.Errorf("add offsets: %w", err)
	}
	if poisoned {
		return true, out.AbortTxn()
	}
	if err := out.CommitTxn(); err != nil {
		return false, fmt.Errorf("commit: %w", err)
	}
	return false, nil
}

func (saramaClient) fence(t *testing.T, addrs []string, topic, id string) string {
	t.Helper()
	begin := func(value string) sarama.SyncProducer {
		p, err := saramaTransactional(addrs, id)
		if err != nil {
			t.Fatalf("sarama: %v", err)
		}
		if err = p.BeginTxn(); err == nil {
			_, _, err = p.SendMessage(&sarama.ProducerMessage{Topic: topic, Value: sarama.StringEncoder(value)})
		}
		if err != nil {
			t.Fatalf("sarama: write %s: %v", value, err)
		}
		return p
	}
	first := begin("zombie")
	second := begin("alive")
	told := first.CommitTxn()
	if err := second.CommitTxn(); err != nil {
		t.Errorf("sarama: commit: %v", err)
	}
	if err := second.Close(); err != nil {
		t.Errorf("sarama: close: %v", err)
	}
	_ = first.Close()                        // it has been told already that it is fenced
	const producerFenced = sarama.KError(90) // has no name in sarama
	if errors.Is(told, producerFenced) {
		return "producer fenced"
	}
	return fmt.Sprint(told)
}
