//go:build integration && unix && cgo

package clients

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
)

// pollMillis is how long a member waits for a record before it looks whether it is to end.
const pollMillis = 100

// logsCritical is the syslog level of the clients here: lost connections, fenced producers
// and the new protocol, of all of which they would tell, are what is tested.
const logsCritical = 0

func (l librdkafka) write(t *testing.T, addrs []string, topic, codec string, partition int32, values []string) {
	t.Helper()
	l.produce(t, addrs, topic, codec, valuesOf(partition, values))
}

// settings are those of a member.
func (m membership) settings() *kafka.ConfigMap {
	config := kafka.ConfigMap{"bootstrap.servers": strings.Join(m.addrs, ","), "group.id": m.group, "auto.offset.reset": "earliest",
		"enable.auto.commit": false, "group.protocol": m.protocol, "fetch.wait.max.ms": 100, "isolation.level": "read_uncommitted", "log_level": logsCritical}
	if m.protocol == classic { // the group protocol consumer has its server choose these
		config["partition.assignment.strategy"], config["heartbeat.interval.ms"] = "cooperative-sticky", 300
	}
	if m.instance != "" {
		config["group.instance.id"] = m.instance
	}
	if m.committed {
		config["isolation.level"] = "read_committed"
	}
	return &config
}

// consumer returns a subscribed consumer that tells its assignment.
func (m membership) consumer(tell *member) (*kafka.Consumer, error) {
	c, err := kafka.NewConsumer(m.settings())
	if err != nil {
		return nil, err
	}
	has := map[int32]bool{} // callbacks come with polls
	err = c.Subscribe(m.topic, func(_ *kafka.Consumer, e kafka.Event) error {
		switch e := e.(type) {
		case kafka.AssignedPartitions:
			for _, tp := range e.Partitions {
				has[tp.Partition] = true
			}
		case kafka.RevokedPartitions:
			for _, tp := range e.Partitions {
				delete(has, tp.Partition)
			}
		}
		var all []int32
		for p := range has {
			all = append(all, p)
		}
		tell.assign(sorted(all))
		return nil
	})
	return c, err
}

// next returns a record and what to commit with it, or nil.
func next(c *kafka.Consumer, waitMillis int) (*kafka.Message, []kafka.TopicPartition, error) {
	switch e := c.Poll(waitMillis).(type) {
	case *kafka.Message:
		tp := e.TopicPartition
		tp.Offset++
		return e, []kafka.TopicPartition{tp}, tp.Error
	case kafka.Error:
		if e.IsFatal() || !e.IsRetriable() && e.Code() != kafka.ErrTransport && e.Code() != kafka.ErrAllBrokersDown {
			return nil, nil, e
		}
	}
	return nil, nil, nil
}

func fromLibrdkafka(m *kafka.Message) record {
	return record{partition: m.TopicPartition.Partition, offset: int64(m.TopicPartition.Offset), key: m.Key, value: m.Value}
}

func (librdkafka) join(t *testing.T, b *board, m membership) *member {
	t.Helper()
	return b.run(t, "member of librdkafka", func(ctx context.Context, tell *member) error {
		c, err := m.consumer(tell)
		if err != nil {
			return err
		}
		defer c.Close()
		owed := map[int32]kafka.TopicPartition{} // commits
		for ctx.Err() == nil || len(owed) > 0 {
			got, at, err := next(c, pollMillis)
			if err != nil {
				return err
			}
			if got != nil {
				owed[at[0].Partition] = at[0]
				tell.got(fromLibrdkafka(got))
			}
			if err := commitOwed(c, owed); err != nil {
				return fmt.Errorf("commit: %w", err)
			}
		}
		return nil
	})
}

// commitOwed commits what is owed of the partitions that the member still has; not while
// the group changes: then it is for later.
func commitOwed(c *kafka.Consumer, owed map[int32]kafka.TopicPartition) error {
	has, err := c.Assignment()
	if err != nil {
		return err
	}
	var all []kafka.TopicPartition
	for p, tp := range owed {
		if slices.ContainsFunc(has, func(h kafka.TopicPartition) bool { return h.Partition == p }) {
			all = append(all, tp)
		} else {
			delete(owed, p) // its new owner reads it again
		}
	}
	if len(all) == 0 {
		return nil
	}
	_, err = c.CommitOffsets(all)
	var failed kafka.Error
	if errors.As(err, &failed) && slices.Contains(groupChanges, failed.Code()) {
		return nil
	}
	clear(owed)
	return err
}

// groupChanges are the errors of a commit that comes while the group changes.
var groupChanges = []kafka.ErrorCode{kafka.ErrIllegalGeneration, kafka.ErrRebalanceInProgress, kafka.ErrUnknownMemberID,
	kafka.ErrStaleMemberEpoch}

func (librdkafka) pipe(t *testing.T, b *board, p piping) *member {
	t.Helper()
	return b.run(t, "pipe of librdkafka", func(ctx context.Context, tell *member) error {
		c, err := p.consumer(tell)
		if err != nil {
			return err
		}
		defer c.Close()
		out, err := transactional(ctx, p.addrs, p.id)
		if err != nil {
			return err
		}
		defer out.Close()
		for ctx.Err() == nil {
			got, at, err := next(c, pollMillis)
			if err != nil {
				return err
			}
			if got == nil {
				continue
			}
			records, poisoned, err := p.copyFrom(context.WithoutCancel(ctx), c, out, got, at)
			if poisoned || err != nil {
				return err
			}
			tell.got(records...)
		}
		return nil
	})
}

// copyFrom is one transaction, with a message and those that are there behind it.
func (p piping) copyFrom(ctx context.Context, c *kafka.Consumer, out *kafka.Producer, m *kafka.Message, at []kafka.TopicPartition) (records []record, poisoned bool, err error) {
	if err := out.BeginTransaction(); err != nil {
		return nil, false, err
	}
	offsets := map[int32]kafka.TopicPartition{}
	for ; m != nil; m, at, err = next(c, 0) {
		if err := deliver(out, p.to, m.TopicPartition.Partition, m.Value); err != nil {
			return nil, false, err
		}
		records = append(records, fromLibrdkafka(m))
		offsets[at[0].Partition] = at[0]
		if poisoned = poisoned || string(m.Value) == p.poison; len(records) == most {
			break
		}
	}
	if err != nil {
		return nil, false, err
	}
	group, err := c.GetConsumerGroupMetadata()
	if err != nil {
		return nil, false, err
	}
	if err := out.SendOffsetsToTransaction(ctx, slices.Collect(maps.Values(offsets)), group); err != nil {
		return nil, false, err
	}
	if poisoned {
		return nil, true, out.AbortTransaction(ctx)
	}
	return records, false, out.CommitTransaction(ctx)
}

func transactional(ctx context.Context, addrs []string, id string) (*kafka.Producer, error) {
	p, err := kafka.NewProducer(&kafka.ConfigMap{"bootstrap.servers": strings.Join(addrs, ","), "transactional.id": id, "linger.ms": 0, "log_level": logsCritical})
	if err != nil {
		return nil, err
	}
	if err := p.InitTransactions(ctx); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// deliver writes a record and waits for its acknowledgement.
func deliver(p *kafka.Producer, topic string, partition int32, value []byte) error {
	reports := make(chan kafka.Event, 1)
	err := p.Produce(&kafka.Message{TopicPartition: kafka.TopicPartition{Topic: &topic, Partition: partition}, Value: value}, reports)
	if err != nil {
		return err
	}
	return (<-reports).(*kafka.Message).TopicPartition.Error // within message.timeout.ms
}

func (librdkafka) fence(t *testing.T, addrs []string, topic, id string) string {
	t.Helper()
	ctx := deadline(t)
	begin := func(value string) *kafka.Producer {
		p, err := transactional(ctx, addrs, id)
		if err == nil {
			t.Cleanup(p.Close)
			err = p.BeginTransaction()
		}
		if err == nil {
			err = deliver(p, topic, 0, []byte(value))
		}
		if err != nil {
			t.Fatalf("librdkafka: write %s: %v", value, err)
		}
		return p
	}
	first := begin("zombie")
	second := begin("alive")
	told := first.CommitTransaction(ctx)
	if err := second.CommitTransaction(ctx); err != nil {
		t.Errorf("librdkafka: commit: %v", err)
	}
	return fmt.Sprint(told)
}
