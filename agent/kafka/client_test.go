package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/floelog/floe/agent/kafka"
	"github.com/floelog/floe/protocol"
	"github.com/floelog/floe/protocol/batch"
	"github.com/floelog/floe/tiering"
)

// memlog keeps batches in memory, as a producer, a reader and for offsets.
type memlog struct {
	offsets
	mu      sync.Mutex
	batches map[tiering.TopicPartition][][]byte
	next    map[tiering.TopicPartition]tiering.Offset
	changed chan struct{} // closed and replaced by every append
}

func newMemlog() *memlog {
	return &memlog{batches: map[tiering.TopicPartition][][]byte{}, next: map[tiering.TopicPartition]tiering.Offset{}, changed: make(chan struct{})}
}

func (l *memlog) Append(batches []*kafka.AppendBatch, done func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range batches {
		data := append([]byte(nil), b.Data...)
		b.Base, b.LogStart = l.next[b.Partition], 0
		batch.Patch(data, int64(b.Base), 5)
		l.batches[b.Partition] = append(l.batches[b.Partition], data)
		l.next[b.Partition] += tiering.Offset(b.Meta.Count)
	}
	close(l.changed)
	l.changed = make(chan struct{})
	go done()
}

func (l *memlog) Fetch(ctx context.Context, req kafka.FetchRequest) []kafka.FetchResult {
	timer := time.NewTimer(req.MaxWait)
	defer timer.Stop()
	for {
		out, n, changed := l.read(req)
		if n >= req.MinBytes {
			return out
		}
		select {
		case <-changed:
		case <-timer.C:
			return out
		case <-ctx.Done():
			return out
		}
	}
}

func (l *memlog) read(req kafka.FetchRequest) (out []kafka.FetchResult, n int, changed chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range req.Partitions {
		r := kafka.FetchResult{HighWatermark: l.next[p.TopicPartition], LastStable: l.next[p.TopicPartition]}
		for _, b := range l.batches[p.TopicPartition] {
			if v := batch.View(b); tiering.Offset(v.BaseOffset())+tiering.Offset(v.Count()) > p.Offset {
				r.Records = append(r.Records, b)
				n += len(b)
			}
		}
		out = append(out, r)
	}
	return out, n, l.changed
}

func (l *memlog) List(_ context.Context, qs []kafka.OffsetQuery) []kafka.OffsetAnswer {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]kafka.OffsetAnswer, len(qs))
	for i, q := range qs {
		out[i] = kafka.OffsetAnswer{Timestamp: -1, Epoch: 5}
		if q.Kind == kafka.LatestOffset {
			out[i].Offset = l.next[q.TopicPartition]
		}
	}
	return out
}

// listen serves the world's handler on a socket, as the one agent that there is, and returns
// its address.
func (w *world) listen() string {
	addr := w.listenAs(kafka.DefaultListener)
	w.cluster.agents = []kafka.Agent{agentAt(1, "127.0.0.1", int32(addr.Port), "zone-a")}
	return addr.String()
}

// listenAs serves the world's handler on a listener of that name.
func (w *world) listenAs(name string) *net.TCPAddr {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	s, err := protocol.NewServer(ln, w.h, protocol.Config{Name: name, Log: slog.New(slog.DiscardHandler),
		ProduceBudget: protocol.NewBudget(256 << 20), ControlBudget: protocol.NewBudget(256 << 20)})
	if err != nil {
		w.t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(w.ctx) }()
	w.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			w.t.Error(err)
		}
		<-served
	})
	return ln.Addr().(*net.TCPAddr)
}

// A real client, with the versions of several Kafka releases: what it produces to a topic
// that it makes itself comes back, once and in order.
func TestClient(t *testing.T) {
	for name, versions := range map[string]*kversion.Versions{"2.1": kversion.V2_1_0(), "2.8": kversion.V2_8_0(), "3.6": kversion.V3_6_0(), "newest": nil} {
		t.Run(name, func(t *testing.T) {
			w := newWorldOf(t, newMemlog(), func(s *kafka.Settings) { s.NumPartitions = 3 })
			w.clock = time.Now()
			addr := w.listen()
			ctx, cancel := context.WithTimeout(w.ctx, 30*time.Second)
			defer cancel()
			opts := []kgo.Opt{kgo.SeedBrokers(addr), kgo.AllowAutoTopicCreation(), kgo.DefaultProduceTopic("made"),
				kgo.ConsumeTopics("made"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.Rack("zone-a"),
				kgo.MetadataMinAge(50 * time.Millisecond), kgo.FetchMaxWait(100 * time.Millisecond)}
			if versions != nil {
				opts = append(opts, kgo.MaxVersions(versions))
			}
			cl, err := kgo.NewClient(opts...)
			if err != nil {
				t.Fatal(err)
			}
			defer cl.Close()
			const total = 500
			for i := range total {
				cl.Produce(ctx, &kgo.Record{Key: fmt.Append(nil, i%7), Value: fmt.Append(nil, i)}, func(_ *kgo.Record, err error) {
					if err != nil {
						t.Errorf("record %d: %v", i, err)
					}
				})
			}
			if err := cl.Flush(ctx); err != nil {
				t.Fatal(err)
			}
			next := map[int32]int64{}
			for got := 0; got < total; {
				fs := cl.PollFetches(ctx)
				if err := fs.Err(); err != nil {
					t.Fatalf("after %d records: %v", got, err)
				}
				fs.EachRecord(func(r *kgo.Record) {
					if r.Offset != next[r.Partition] {
						t.Errorf("partition %d: offset %d after %d", r.Partition, r.Offset, next[r.Partition]-1)
					}
					next[r.Partition]++
					got++
				})
			}
			if name == "newest" {
				adminClient(ctx, t, cl)
			}
		})
	}
}

// adminClient does what operators' tools do.
func adminClient(ctx context.Context, t *testing.T, cl *kgo.Client) {
	adm := kadm.NewClient(cl)
	if _, err := adm.CreateTopic(ctx, 4, 1, map[string]*string{"retention.ms": kadm.StringPtr("1000")}, "by-hand"); err != nil {
		t.Fatal(err)
	}
	if _, err := adm.CreateTopic(ctx, 4, 1, nil, "by-hand"); !errors.Is(err, kerr.TopicAlreadyExists) {
		t.Errorf("created twice: %v", err)
	}
	if r, err := adm.CreatePartitions(ctx, 2, "by-hand"); err != nil || r.Error() != nil {
		t.Errorf("growing: %v, %v", err, r.Error())
	}
	topics, err := adm.ListTopics(ctx)
	if err != nil || len(topics) != 2 || len(topics["by-hand"].Partitions) != 6 {
		t.Errorf("topics: %v, %v", topics, err)
	}
	configs, err := adm.DescribeTopicConfigs(ctx, "by-hand")
	if err != nil || len(configs) != 1 || configs[0].Err != nil || len(configs[0].Configs) < 30 {
		t.Errorf("configs: %+v, %v", configs, err)
	}
	ends, err := adm.ListEndOffsets(ctx, "made")
	sum := int64(0)
	ends.Each(func(o kadm.ListedOffset) { sum += o.Offset })
	if err != nil || ends.Error() != nil || sum != 500 {
		t.Errorf("end offsets add up to %d: %v, %v", sum, err, ends.Error())
	}
	if _, err := adm.DeleteTopic(ctx, "by-hand"); err != nil {
		t.Errorf("deleting: %v", err)
	}
	dirs, err := adm.DescribeAllLogDirs(ctx, nil)
	if err != nil || len(dirs[1]) != 1 || dirs[1].Error() != nil {
		t.Errorf("log dirs: %+v, %v", dirs, err)
	}
}
