//go:build integration && unix

package tiers

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/floelog/floe/integration/history"
)

// keysPerPartition are few, so that a minute writes each many times.
const keysPerPartition = 12

// compactedTopic is a topic that log compaction works on.
type compactedTopic struct {
	name       string
	partitions int32
	codec      kgo.CompressionCodec
	trims      bool // compact,delete
}

var compactedTopics = []compactedTopic{
	{"compacted-none", 24, kgo.NoCompression(), false},
	{"compacted-gzip", 24, kgo.GzipCompression(), false},
	{"compacted-snappy", 24, kgo.SnappyCompression(), false},
	{"compacted-lz4", 24, kgo.Lz4Compression(), false},
	{"compacted-zstd", 24, kgo.ZstdCompression(), false},
	{"compacted-deleted", 30, kgo.Lz4Compression(), true},
	{txnCompacted, 30, kgo.ZstdCompression(), false},
}

// keyed are producers and consumers of compacted topics.
type keyed struct {
	c         *cluster
	h         *history.Keys
	producers []*kgo.Client
	follower  *keyReader
}

func (c *cluster) newKeyed() *keyed {
	k := &keyed{c: c, h: history.NewKeys(c.trace)}
	client := c.client("creator")
	defer client.Close()
	for _, topic := range compactedTopics {
		configs := map[string]*string{
			"cleanup.policy": kadm.StringPtr("compact"), "min.cleanable.dirty.ratio": kadm.StringPtr("0.05"),
			"delete.retention.ms": kadm.StringPtr("2000"), "min.compaction.lag.ms": kadm.StringPtr("0"),
		}
		if topic.trims {
			configs["cleanup.policy"] = kadm.StringPtr("compact,delete")
			configs["retention.ms"] = kadm.StringPtr("15000")
		}
		c.create(client, topic.name, topic.partitions, configs)
	}
	k.follower = k.newReader("key-follower")
	for _, topic := range compactedTopics {
		if topic.name != txnCompacted {
			k.producers = append(k.producers, c.client("keys-of-"+topic.name, kgo.ProducerBatchCompression(topic.codec), kgo.DefaultProduceTopic(topic.name)))
		}
	}
	return k
}

func (c *cluster) create(client *kgo.Client, topic string, partitions int32, configs map[string]*string) {
	c.t.Helper()
	if _, err := kadm.NewClient(client).CreateTopic(c.t.Context(), partitions, agents, configs, topic); err != nil {
		c.t.Fatalf("create %s: %v", topic, err)
	}
}

// draw makes a record of a key of the producer's own: mostly of a few keys, some with
// tombstones.
func (k *keyed) draw(r *rand.Rand, topic compactedTopic, producer string) (*kgo.Record, history.Value) {
	p := history.Partition{Topic: topic.name, ID: r.Int32N(topic.partitions)}
	key := fmt.Sprintf("%s-%d", producer, min(r.IntN(keysPerPartition), r.IntN(keysPerPartition)))
	size := 0
	if r.IntN(6) > 0 {
		size = history.MinSize + r.IntN(300)
	}
	return k.record(p, key, size)
}

func (k *keyed) record(p history.Partition, key string, size int) (*kgo.Record, history.Value) {
	v := k.h.Send(p, key, size)
	record := &kgo.Record{Topic: p.Topic, Partition: p.ID, Key: []byte(key),
		Headers: []kgo.RecordHeader{{Key: "v", Value: binary.BigEndian.AppendUint64(nil, uint64(v))}}}
	if size > 0 {
		record.Value = history.Payload(v, size)
	}
	return record, v
}

// write writes to each compacted topic without transactions until ctx ends.
func (k *keyed) write(ctx context.Context, n int) {
	topic, client, r := compactedTopics[n], k.producers[n], k.c.rand(uint64(3000+n))
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for range 1 + r.IntN(4) {
			record, v := k.draw(r, topic, "k")
			client.Produce(context.Background(), record, k.promise(v))
		}
	}
}

func (k *keyed) promise(v history.Value) func(*kgo.Record, error) {
	return func(r *kgo.Record, err error) {
		if err != nil {
			k.c.note("value %d to %s/%d: %v", v, r.Topic, r.Partition, err)
			k.h.Unknown(v)
			return
		}
		k.h.Acked(v, r.Offset)
	}
}

// settle waits for every answer, writes a last record to each partition, and waits until the
// follower was given it.
func (k *keyed) settle() map[history.Partition]int64 {
	k.c.t.Helper()
	for _, client := range k.producers {
		k.c.await("answers of compacted topics", func(ctx context.Context) error { return client.Flush(ctx) })
	}
	client := k.c.client("last-keys")
	defer client.Close()
	var mu sync.Mutex
	ends := map[history.Partition]int64{}
	for _, topic := range compactedTopics {
		for p := range topic.partitions {
			at := history.Partition{Topic: topic.name, ID: p}
			record, v := k.record(at, "last", history.MinSize)
			client.Produce(context.Background(), record, func(r *kgo.Record, err error) {
				k.promise(v)(r, err)
				mu.Lock()
				defer mu.Unlock()
				ends[at] = r.Offset + 1
			})
		}
	}
	k.c.await("the last records of compacted topics", func(ctx context.Context) error { return client.Flush(ctx) })
	k.follower.reach(ends)
	for p, start := range k.starts(ends) {
		k.h.Followed(k.follower.name, p, start, ends[p])
	}
	k.follower.end()
	return ends
}

// starts asks where the partitions start.
func (k *keyed) starts(of map[history.Partition]int64) map[history.Partition]int64 {
	k.c.t.Helper()
	var topics []string
	for _, topic := range compactedTopics {
		topics = append(topics, topic.name)
	}
	client := k.c.client("starts")
	defer client.Close()
	starts := map[history.Partition]int64{}
	k.c.await("the starts of compacted topics", func(ctx context.Context) error {
		listed, err := kadm.NewClient(client).ListStartOffsets(ctx, topics...)
		if err != nil {
			return err
		}
		listed.Each(func(o kadm.ListedOffset) {
			if o.Err == nil {
				starts[history.Partition{Topic: o.Topic, ID: o.Partition}] = o.Offset
			}
		})
		if len(starts) < len(of) {
			return fmt.Errorf("%d of %d partitions told", len(starts), len(of))
		}
		return nil
	})
	return starts
}

// finish reads everything afresh and judges.
func (k *keyed) finish(ends map[history.Partition]int64) history.Report {
	k.c.t.Helper()
	reader := k.newReader("key-reader")
	reader.reach(ends)
	for p, start := range k.starts(ends) {
		k.h.ReadWhole(reader.name, p, start, ends[p])
	}
	reader.end()
	return k.h.Check()
}

// keyReader is a consumer of all compacted topics from their start.
type keyReader struct {
	k      *keyed
	name   string
	client *kgo.Client
	stop   context.CancelFunc
	ended  chan struct{}

	mu   sync.Mutex // guards next
	next map[history.Partition]int64
}

func (k *keyed) newReader(name string) *keyReader {
	from := map[string]map[int32]kgo.Offset{}
	for _, topic := range compactedTopics {
		from[topic.name] = map[int32]kgo.Offset{}
		for p := range topic.partitions {
			from[topic.name][p] = kgo.NewOffset().AtStart()
		}
	}
	r := &keyReader{k: k, name: name, ended: make(chan struct{}), next: map[history.Partition]int64{}}
	r.client = k.c.client(name, kgo.ConsumePartitions(from), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	k.c.t.Cleanup(r.end)
	go func() {
		defer close(r.ended)
		r.run(ctx)
	}()
	return r
}

func (r *keyReader) end() {
	r.stop()
	<-r.ended
}

func (r *keyReader) run(ctx context.Context) {
	defer r.client.Close()
	for {
		fetches := r.client.PollFetches(ctx)
		if ctx.Err() != nil {
			return
		}
		fetches.EachPartition(func(p kgo.FetchTopicPartition) {
			if p.Err != nil {
				r.k.c.note("%s heard of %s/%d: %v", r.name, p.Topic, p.Partition, p.Err)
			}
			if len(p.Records) == 0 {
				return
			}
			at := history.Partition{Topic: p.Topic, ID: p.Partition}
			reads := make([]history.KeyRead, len(p.Records))
			for i, x := range p.Records {
				reads[i] = history.KeyRead{Offset: x.Offset, Key: string(x.Key), Record: x.Value}
				if len(x.Headers) == 1 && len(x.Headers[0].Value) == 8 {
					reads[i].Value = history.Value(binary.BigEndian.Uint64(x.Headers[0].Value))
				}
			}
			r.k.h.Polled(r.name, at, reads)
			r.mu.Lock()
			defer r.mu.Unlock()
			r.next[at] = reads[len(reads)-1].Offset + 1
		})
	}
}

// reach waits until the reader has come to the ends, or to where nothing is left.
func (r *keyReader) reach(ends map[history.Partition]int64) {
	r.k.c.t.Helper()
	r.k.c.await(r.name+" at the end", func(context.Context) error {
		r.mu.Lock()
		next := maps.Clone(r.next)
		r.mu.Unlock()
		var behind []string
		var starts map[history.Partition]int64
		for p, end := range ends {
			if next[p] >= end {
				continue
			}
			if starts == nil {
				starts = r.k.starts(ends)
			}
			if starts[p] < end {
				behind = append(behind, fmt.Sprintf("%s at %d of %d", p, next[p], end))
			}
		}
		if len(behind) > 0 {
			return fmt.Errorf("%d partitions are behind, such as %s", len(behind), behind[0])
		}
		return nil
	})
}
