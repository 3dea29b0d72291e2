//go:build integration && unix

package clients

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// most is how many records a member takes at a time, so that it works in several steps.
const most = 10

func (f franz) write(t *testing.T, addrs []string, topic, codec string, partition int32, values []string) {
	t.Helper()
	f.produce(t, addrs, topic, codec, valuesOf(partition, values))
}

// valuesOf returns records with these values and nothing else.
func valuesOf(partition int32, values []string) []record {
	var records []record
	for _, v := range values {
		records = append(records, record{partition: partition, value: []byte(v)})
	}
	return records
}

// options are those of a member, which tells its assignment.
func (m membership) options(tell *member) []kgo.Opt {
	balancer := kgo.CooperativeStickyBalancer()
	if m.protocol == consumer {
		balancer = kgo.StickyBalancer() // "uniform", there
	}
	has := map[int32]bool{} // callbacks come one after the other
	change := func(by map[string][]int32, gained bool) {
		var all []int32
		for _, p := range by[m.topic] {
			has[p] = gained
		}
		for p, ok := range has {
			if ok {
				all = append(all, p)
			}
		}
		if len(by[m.topic]) > 0 {
			tell.assign(sorted(all))
		}
	}
	lose := func(_ context.Context, _ *kgo.Client, lost map[string][]int32) { change(lost, false) }
	opts := []kgo.Opt{kgo.SeedBrokers(m.addrs...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.RetryTimeout(patience),
		kgo.ConsumerGroup(m.group), kgo.ConsumeTopics(m.topic), kgo.Balancers(balancer), kgo.HeartbeatInterval(300 * time.Millisecond),
		kgo.DisableAutoCommit(), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(100 * time.Millisecond),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, got map[string][]int32) { change(got, true) }),
		kgo.OnPartitionsRevoked(lose), kgo.OnPartitionsLost(lose)}
	if m.protocol == consumer {
		opts = append(opts, kgo.ServerSideBalancer())
	}
	if m.instance != "" {
		opts = append(opts, kgo.InstanceID(m.instance))
	}
	if m.committed {
		opts = append(opts, kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	}
	return opts
}

func (franz) join(t *testing.T, b *board, m membership) *member {
	t.Helper()
	return b.run(t, "member of franz-go", func(ctx context.Context, tell *member) error {
		c, err := kgo.NewClient(append(m.options(tell), kgo.BlockRebalanceOnPoll())...)
		if err != nil {
			return err
		}
		defer c.CloseAllowingRebalance()
		for {
			c.AllowRebalance() // what was polled before is committed
			fetches := c.PollRecords(ctx, most)
			if err := fetches.Err(); err != nil {
				return err
			}
			records := fetches.Records()
			if err := commitFranz(context.WithoutCancel(ctx), c, records); err != nil {
				return fmt.Errorf("commit: %w", err)
			}
			tell.got(allFromFranz(records)...)
		}
	})
}

// commitFranz commits records; again, if the member's epoch has changed meanwhile, which
// the client leaves to its user.
func commitFranz(ctx context.Context, c *kgo.Client, records []*kgo.Record) error {
	for {
		if err := c.CommitRecords(ctx, records...); !errors.Is(err, kerr.StaleMemberEpoch) {
			return err
		}
	}
}

func allFromFranz(from []*kgo.Record) []record {
	var out []record
	for _, k := range from {
		out = append(out, fromFranz(k))
	}
	return out
}

func (franz) pipe(t *testing.T, b *board, p piping) *member {
	t.Helper()
	return b.run(t, "pipe of franz-go", func(ctx context.Context, tell *member) error {
		s, err := kgo.NewGroupTransactSession(append(p.options(tell), kgo.TransactionalID(p.id))...)
		if err != nil {
			return err
		}
		defer s.Close()
		for {
			fetches := s.PollRecords(ctx, most)
			if err := fetches.Err(); err != nil {
				return err
			}
			poisoned, err := p.copy(context.WithoutCancel(ctx), s, fetches.Records(), tell)
			if poisoned || err != nil {
				return err
			}
		}
	})
}

// copy is one transaction.
func (p piping) copy(ctx context.Context, s *kgo.GroupTransactSession, records []*kgo.Record, tell *member) (poisoned bool, err error) {
	if err := s.Begin(); err != nil {
		return false, err
	}
	var out []*kgo.Record
	for _, r := range records {
		out = append(out, &kgo.Record{Topic: p.to, Partition: r.Partition, Key: r.Key, Value: r.Value})
		poisoned = poisoned || string(r.Value) == p.poison
	}
	if err := s.ProduceSync(ctx, out...).FirstErr(); err != nil {
		return false, err
	}
	done, err := s.End(ctx, kgo.TransactionEndTry(!poisoned))
	if done {
		tell.got(allFromFranz(records)...)
	}
	return poisoned, err
}

func (franz) fence(t *testing.T, addrs []string, topic, id string) string {
	t.Helper()
	ctx := deadline(t)
	begin := func(value string) *kgo.Client {
		c := dial(t, addrs, kgo.TransactionalID(id))
		if err := errors.Join(c.BeginTransaction(), c.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: []byte(value)}).FirstErr()); err != nil {
			t.Fatalf("franz-go: write %s: %v", value, err)
		}
		return c
	}
	first := begin("zombie")
	second := begin("alive")
	told := first.EndTransaction(ctx, kgo.TryCommit)
	if err := second.EndTransaction(ctx, kgo.TryCommit); err != nil {
		t.Errorf("franz-go: commit: %v", err)
	}
	return strings.TrimSpace(fmt.Sprint(told))
}
