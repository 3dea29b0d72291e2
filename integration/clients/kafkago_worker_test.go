//go:build integration && unix

package clients

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
)

// kafkaGo is segmentio/kafka-go, in pure Go.
type kafkaGo struct{}

func (kafkaGo) write(t *testing.T, addrs []string, topic, codec string, partition int32, values []string) {
	t.Helper()
	// Of its own: the package's goes on connecting to these addresses, and takes what another
	// server on one of them says for an array of a billion elements.
	transport := &kafka.Transport{}
	defer transport.CloseIdleConnections()
	w := kafka.Writer{Addr: kafka.TCP(addrs...), Topic: topic, RequiredAcks: kafka.RequireAll, BatchTimeout: time.Millisecond, Transport: transport,
		Balancer: kafka.BalancerFunc(func(kafka.Message, ...int) int { return int(partition) })}
	if codec == "gzip" {
		w.Compression = kafka.Gzip
	}
	var messages []kafka.Message
	for _, v := range values {
		messages = append(messages, kafka.Message{Value: []byte(v)})
	}
	if err := errors.Join(w.WriteMessages(deadline(t), messages...), w.Close()); err != nil {
		t.Fatalf("kafka-go: produce to %s: %v", topic, err)
	}
}

func (kafkaGo) join(t *testing.T, b *board, m membership) *member {
	t.Helper()
	return b.run(t, "member of kafka-go", func(ctx context.Context, tell *member) error {
		group, err := kafka.NewConsumerGroup(kafka.ConsumerGroupConfig{ID: m.group, Brokers: m.addrs, Topics: []string{m.topic},
			HeartbeatInterval: 300 * time.Millisecond, JoinGroupBackoff: 100 * time.Millisecond})
		if err != nil {
			return err
		}
		defer group.Close()
		ctx, fail := context.WithCancelCause(ctx)
		defer fail(nil)
		for {
			g, err := group.Next(ctx)
			if err != nil {
				return errors.Join(err, context.Cause(ctx))
			}
			var assigned []int32
			for _, a := range g.Assignments[m.topic] {
				assigned = append(assigned, int32(a.ID))
				g.Start(func(ctx context.Context) {
					if err := readGeneration(ctx, m, g, a, tell); err != nil {
						fail(err)
					}
				})
			}
			tell.assign(sorted(assigned))
		}
	})
}

// readGeneration reads a partition until its generation ends.
func readGeneration(ctx context.Context, m membership, g *kafka.Generation, a kafka.PartitionAssignment, tell *member) error {
	r := kafka.NewReader(kafka.ReaderConfig{Brokers: m.addrs, Topic: m.topic, Partition: a.ID, MaxWait: 100 * time.Millisecond})
	defer r.Close()
	if err := r.SetOffset(a.Offset); err != nil {
		return err
	}
	for {
		got, err := r.ReadMessage(ctx)
		if err == nil {
			err = g.CommitOffsets(map[string]map[int]int64{m.topic: {a.ID: got.Offset + 1}})
		}
		switch {
		case ctx.Err() != nil, errors.Is(err, kafka.ErrGenerationEnded):
			return nil
		case errors.Is(err, kafka.RebalanceInProgress), errors.Is(err, kafka.IllegalGeneration), errors.Is(err, kafka.UnknownMemberId):
			return nil // the next generation reads it again
		case err != nil:
			return err
		}
		tell.got(record{partition: int32(a.ID), offset: got.Offset, key: got.Key, value: got.Value})
	}
}
