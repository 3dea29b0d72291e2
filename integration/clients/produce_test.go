//go:build integration && unix

package clients

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func testFranzProduce(t *testing.T, e *env) {
	t.Run("acks", func(t *testing.T) { franzAcks(t, e) })
	t.Run("every-agent", func(t *testing.T) { franzEveryAgent(t, e) })
	t.Run("large", func(t *testing.T) { franzLarge(t, e) })
	t.Run("time-of-arrival", func(t *testing.T) { franzLogAppendTime(t, e) })
	t.Run("auto-create", func(t *testing.T) { franzAutoCreate(t, e) })
	t.Run("many", func(t *testing.T) { franzMany(t, e) })
}

func franzAcks(t *testing.T, e *env) {
	addrs := e.floe.Addrs()
	for _, tt := range []struct {
		name string
		opts []kgo.Opt
	}{
		{"idempotent", nil},
		{"all", []kgo.Opt{kgo.DisableIdempotentWrite()}},
		{"all-in-flight", []kgo.Opt{kgo.DisableIdempotentWrite(), kgo.MaxProduceRequestsInflightPerBroker(10)}},
		{"leader", []kgo.Opt{kgo.DisableIdempotentWrite(), kgo.RequiredAcks(kgo.LeaderAck())}},
		{"none", []kgo.Opt{kgo.DisableIdempotentWrite(), kgo.RequiredAcks(kgo.NoAck())}},
	} {
		topic := topicName(t, tt.name)
		createTopic(t, addrs, topic, 1)
		sent := franz{}.produceWith(t, addrs, topic, samples(0), tt.opts...)
		for i := range sent {
			if tt.name != "none" && sent[i].offset != int64(i) {
				t.Errorf("%s: record %d has offset %d", tt.name, i, sent[i].offset)
			}
			sent[i].offset = int64(i) // not told without acknowledgement
		}
		compare(t, tt.name, franz{}.consume(t, addrs, topic, 1, len(sent)), sent)
		if tt.name != "none" {
			e.written[topic] = sent
		}
	}
}

// franzEveryAgent writes a batch through each agent in turn, whoever leads the partition.
func franzEveryAgent(t *testing.T, e *env) {
	addrs := e.floe.Addrs()
	topic := topicName(t)
	createTopic(t, addrs, topic, 1)
	id := topicID(t, addrs[0], topic)
	for i, addr := range addrs {
		batch := encodeBatch(t, record{timestamp: 1_700_000_000_000, value: fmt.Append(nil, i)})
		p := produceRaw(t, addr, id, 0, batch)
		if p.ErrorCode != 0 || p.BaseOffset != int64(i) {
			t.Errorf("produce through %s: %v, offset %d, want %d", addr, kerr.ErrorForCode(p.ErrorCode), p.BaseOffset, i)
		}
	}
	batch := encodeBatch(t, record{value: []byte("damaged")})
	batch[len(batch)-1] ^= 1
	if p := produceRaw(t, addrs[0], id, 0, batch); p.ErrorCode != kerr.CorruptMessage.Code {
		t.Errorf("produce of damaged bytes: %v, want %v", kerr.ErrorForCode(p.ErrorCode), kerr.CorruptMessage)
	}
	if p := produceRaw(t, addrs[0], id, 7, encodeBatch(t, record{value: []byte("nowhere")})); p.ErrorCode != kerr.UnknownTopicOrPartition.Code {
		t.Errorf("produce to a partition that does not exist: %v", kerr.ErrorForCode(p.ErrorCode))
	}
	if p := produceRaw(t, addrs[0], [16]byte{9}, 0, encodeBatch(t, record{value: []byte("nowhere")})); p.ErrorCode != kerr.UnknownTopicID.Code {
		t.Errorf("produce to a topic id that does not exist: %v", kerr.ErrorForCode(p.ErrorCode))
	}
}

// franzLarge writes records of all sizes up to the limit of the topic, and beyond it.
func franzLarge(t *testing.T, e *env) {
	addrs := e.floe.Addrs()
	for _, tt := range []struct {
		name     string
		settings []string
		fits     int
		exceeds  int
	}{
		{"default", nil, 1_000_000, 1_100_000},
		{"raised", []string{"max.message.bytes", "5000000"}, 4_900_000, 5_100_000},
		{"lowered", []string{"max.message.bytes", "1000"}, 800, 1_100},
	} {
		topic := topicName(t, tt.name)
		createTopic(t, addrs, topic, 1, tt.settings...)
		opts := []kgo.Opt{kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.ProducerBatchMaxBytes(10 << 20), kgo.DefaultProduceTopic(topic)}
		c := dial(t, addrs, opts...)
		value := bytes.Repeat([]byte{'x'}, tt.exceeds)
		err := c.ProduceSync(deadline(t), &kgo.Record{Value: value}).FirstErr()
		if !errors.Is(err, kerr.MessageTooLarge) {
			t.Errorf("%s: a record of %d bytes: %v, want %v", tt.name, tt.exceeds, err, kerr.MessageTooLarge)
		}
		sent := franz{}.produceWith(t, addrs, topic, []record{{value: value[:tt.fits]}}, opts[:2]...)
		// A record larger than what the consumer asks for comes all the same (KIP-74).
		got := franz{}.consumeWith(t, addrs, topic, 1, 1, kgo.FetchMaxBytes(500), kgo.FetchMaxPartitionBytes(100))
		compare(t, tt.name, got, sent)
	}
}

// franzLogAppendTime has Floe set the times.
func franzLogAppendTime(t *testing.T, e *env) {
	addrs := e.floe.Addrs()
	topic := topicName(t)
	createTopic(t, addrs, topic, 1, "message.timestamp.type", "LogAppendTime")
	from := time.Now().UnixMilli()
	sent := franz{}.produce(t, addrs, topic, "gzip", samples(0))
	to := time.Now().UnixMilli()
	assigned := map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().AtStart()}}
	c := dial(t, addrs, kgo.ConsumePartitions(assigned))
	n := 0
	ctx := deadline(t)
	for n < len(sent) {
		fetches := c.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatal(err)
		}
		fetches.EachRecord(func(k *kgo.Record) {
			n++
			if at := k.Timestamp.UnixMilli(); at < from || at > to || k.Attrs.TimestampType() != 1 {
				t.Errorf("offset %d: time %d of type %d, want one of arrival between %d and %d", k.Offset, at, k.Attrs.TimestampType(), from, to)
			}
			if k.Offset < int64(len(sent)) && !bytes.Equal(k.Value, sent[k.Offset].value) {
				t.Errorf("offset %d: value %s, want %s", k.Offset, show(k.Value), show(sent[k.Offset].value))
			}
		})
	}
	p := produceRaw(t, addrs[0], topicID(t, addrs[0], topic), 0, encodeBatch(t, record{timestamp: 5, value: []byte("raw")}))
	if p.ErrorCode != 0 || p.LogAppendTime < from {
		t.Errorf("produce: %v, time of arrival %d, want at least %d", kerr.ErrorForCode(p.ErrorCode), p.LogAppendTime, from)
	}
}

func franzAutoCreate(t *testing.T, e *env) {
	addrs := e.floe.Addrs()
	topic := topicName(t)
	c := dial(t, addrs, kgo.DefaultProduceTopic(topic), kgo.UnknownTopicRetries(0))
	if err := c.ProduceSync(deadline(t), kgo.StringRecord("x")).FirstErr(); !errors.Is(err, kerr.UnknownTopicOrPartition) {
		t.Errorf("without leave to create: %v, want %v", err, kerr.UnknownTopicOrPartition)
	}
	c = dial(t, addrs, kgo.DefaultProduceTopic(topic), kgo.AllowAutoTopicCreation())
	if err := c.ProduceSync(deadline(t), kgo.StringRecord("x")).FirstErr(); err != nil {
		t.Errorf("with leave to create: %v", err)
	}
	for _, addr := range addrs {
		got := franz{}.consume(t, []string{addr}, topic, 1, 1)
		if string(got[0].value) != "x" {
			t.Errorf("through %s: read %v", addr, got)
		}
	}
}

// franzMany writes to many partitions at once from several producers: offsets are dense,
// and the order of each producer is kept.
func franzMany(t *testing.T, e *env) {
	const partitions, producers, each = 12, 3, 400
	addrs := e.floe.Addrs()
	topic := topicName(t)
	createTopic(t, addrs, topic, partitions)
	done := make(chan error, producers)
	ctx := deadline(t)
	for p := range producers {
		c := dial(t, addrs, kgo.DefaultProduceTopic(topic), kgo.ProducerLinger(time.Millisecond))
		go func() {
			var records []*kgo.Record
			for i := range each {
				records = append(records, &kgo.Record{Partition: int32(i % partitions), Key: fmt.Append(nil, p), Value: fmt.Append(nil, i)})
			}
			done <- c.ProduceSync(ctx, records...).FirstErr()
		}()
	}
	for range producers {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	got := franz{}.consume(t, addrs, topic, partitions, producers*each)
	e.written[topic] = got
	next := map[int32]int64{}
	last := map[string]int{}
	for _, r := range got {
		if r.offset != next[r.partition] {
			t.Errorf("partition %d: offset %d follows %d", r.partition, r.offset, next[r.partition]-1)
		}
		next[r.partition] = r.offset + 1
		stream := fmt.Sprintf("producer %s, partition %d", r.key, r.partition)
		i := int(number(t, string(r.value)))
		before, seen := last[stream]
		if want := before + partitions; seen && i != want || !seen && i != int(r.partition) {
			t.Errorf("%s: record %d follows %d", stream, i, before)
		}
		last[stream] = i
	}
	if len(got) != producers*each {
		t.Errorf("read %d records, want %d", len(got), producers*each)
	}
}

// encodeBatch returns a record batch of one record, uncompressed, as a producer without
// idempotence sends it.
func encodeBatch(t *testing.T, r record) []byte {
	t.Helper()
	return encodeRecordBatch(r.timestamp, [][2][]byte{{r.key, r.value}})
}

func produceRaw(t *testing.T, addr string, id [16]byte, partition int32, batch []byte) kmsg.ProduceResponseTopicPartition {
	t.Helper()
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = -1, int32(patience.Milliseconds())
	topic := kmsg.NewProduceRequestTopic()
	topic.TopicID = id
	part := kmsg.NewProduceRequestTopicPartition()
	part.Partition, part.Records = partition, slices.Clone(batch)
	topic.Partitions = append(topic.Partitions, part)
	req.Topics = append(req.Topics, topic)
	resp := ask(t, addr, req)
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		t.Fatalf("produce through %s is answered for %+v", addr, resp.Topics)
	}
	return resp.Topics[0].Partitions[0]
}
