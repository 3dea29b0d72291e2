//go:build integration && unix

package clients

import (
	"context"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// franz is franz-go, in pure Go.
type franz struct{}

func (franz) name() string { return "franz-go" }

func (franz) version(t *testing.T) string { return moduleVersion(t, "github.com/twmb/franz-go") }

var franzCodecs = map[string]kgo.CompressionCodec{
	"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
	"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
}

// dial returns a client that ends with the test.
func dial(t *testing.T, addrs []string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	c, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(addrs...), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.DialTimeout(patience), kgo.RetryTimeout(patience)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func admin(t *testing.T, addrs []string) *kadm.Client {
	t.Helper()
	return kadm.NewClient(dial(t, addrs))
}

func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// createTopic creates a topic whose records are kept for ever, with settings NAME, VALUE.
func createTopic(t *testing.T, addrs []string, topic string, partitions int, settings ...string) {
	t.Helper()
	createReplicated(t, addrs, topic, partitions, -1, settings...)
}

// createReplicated is createTopic with a replication factor.
func createReplicated(t *testing.T, addrs []string, topic string, partitions int, replicas int16, settings ...string) {
	t.Helper()
	forever := "-1"
	configs := map[string]*string{"retention.ms": &forever}
	for i := 0; i < len(settings); i += 2 {
		configs[settings[i]] = &settings[i+1]
	}
	if _, err := admin(t, addrs).CreateTopic(deadline(t), int32(partitions), replicas, configs, topic); err != nil {
		t.Fatalf("create topic %s: %v", topic, err)
	}
}

func (f franz) produce(t *testing.T, addrs []string, topic, codec string, records []record) []record {
	return f.produceWith(t, addrs, topic, records, kgo.ProducerBatchCompression(franzCodecs[codec]))
}

func (franz) produceWith(t *testing.T, addrs []string, topic string, records []record, opts ...kgo.Opt) []record {
	t.Helper()
	c := dial(t, addrs, append(opts, kgo.DefaultProduceTopic(topic))...)
	var batch []*kgo.Record
	for _, r := range records {
		k := &kgo.Record{Partition: r.partition, Key: r.key, Value: r.value}
		if r.timestamp != 0 {
			k.Timestamp = time.UnixMilli(r.timestamp)
		}
		for _, h := range r.headers {
			k.Headers = append(k.Headers, kgo.RecordHeader{Key: h.name, Value: h.value})
		}
		batch = append(batch, k)
	}
	if err := c.ProduceSync(deadline(t), batch...).FirstErr(); err != nil {
		t.Fatalf("franz-go: produce to %s: %v", topic, err)
	}
	out := make([]record, len(records))
	for i, k := range batch {
		out[i] = records[i]
		out[i].offset, out[i].timestamp = k.Offset, k.Timestamp.UnixMilli()
	}
	return out
}

func fromFranz(k *kgo.Record) record {
	r := record{partition: k.Partition, offset: k.Offset, timestamp: k.Timestamp.UnixMilli(), key: k.Key, value: k.Value}
	for _, h := range k.Headers {
		r.headers = append(r.headers, header{h.Key, h.Value})
	}
	return r
}

func (f franz) consume(t *testing.T, addrs []string, topic string, partitions, records int) []record {
	t.Helper()
	return f.consumeWith(t, addrs, topic, partitions, records)
}

func (franz) consumeWith(t *testing.T, addrs []string, topic string, partitions, records int, opts ...kgo.Opt) []record {
	t.Helper()
	assigned := map[int32]kgo.Offset{}
	for p := range partitions {
		assigned[int32(p)] = kgo.NewOffset().AtStart()
	}
	c := dial(t, addrs, append(opts, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: assigned}))...)
	return poll(t, c, records)
}

// poll reads that many records.
func poll(t *testing.T, c *kgo.Client, records int) []record {
	t.Helper()
	ctx := deadline(t)
	var out []record
	for len(out) < records {
		fetches := c.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatalf("franz-go: %v after %d of %d records", err, len(out), records)
		}
		fetches.EachRecord(func(k *kgo.Record) { out = append(out, fromFranz(k)) })
	}
	return out
}

// ask sends one request to the agent at an address and returns its answer.
func ask[R kmsg.Response](t *testing.T, addr string, req interface {
	kmsg.Request
	RequestWith(context.Context, kmsg.Requestor) (R, error)
}) R {
	t.Helper()
	c := dial(t, []string{addr})
	resp, err := req.RequestWith(deadline(t), seed{c})
	if err != nil {
		t.Fatalf("%s to %s: %v", kmsg.NameForKey(req.Key()), addr, err)
	}
	return resp
}

// seed sends requests to the address that its client was given, whatever they are.
type seed struct{ c *kgo.Client }

func (s seed) Request(ctx context.Context, req kmsg.Request) (kmsg.Response, error) {
	return s.c.SeedBrokers()[0].RetriableRequest(ctx, req)
}
