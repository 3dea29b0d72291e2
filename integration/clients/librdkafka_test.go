//go:build integration && unix && cgo

package clients

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
)

// librdkafka is confluent-kafka-go, and so the C library below most other languages.
type librdkafka struct{}

func (librdkafka) name() string { return "confluent-kafka-go" }

func (librdkafka) version(*testing.T) string {
	_, version := kafka.LibraryVersion()
	return "librdkafka " + version
}

func (l librdkafka) produce(t *testing.T, addrs []string, topic, codec string, records []record) []record {
	t.Helper()
	return l.produceWith(t, addrs, topic, records, kafka.ConfigMap{"compression.type": codec, "enable.idempotence": true})
}

func (librdkafka) produceWith(t *testing.T, addrs []string, topic string, records []record, settings kafka.ConfigMap) []record {
	t.Helper()
	config := kafka.ConfigMap{"bootstrap.servers": strings.Join(addrs, ","), "message.timeout.ms": int(patience.Milliseconds())}
	for k, v := range settings {
		config[k] = v
	}
	p, err := kafka.NewProducer(&config)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	reports := make(chan kafka.Event, len(records))
	for i, r := range records {
		m := &kafka.Message{TopicPartition: kafka.TopicPartition{Topic: &topic, Partition: r.partition}, Key: r.key, Value: r.value, Opaque: i}
		if r.timestamp != 0 {
			m.Timestamp = time.UnixMilli(r.timestamp)
		}
		for _, h := range r.headers {
			m.Headers = append(m.Headers, kafka.Header{Key: h.name, Value: h.value})
		}
		if err := p.Produce(m, reports); err != nil {
			t.Fatalf("librdkafka: produce to %s: %v", topic, err)
		}
	}
	out := slices.Clone(records)
	ctx := deadline(t)
	for range records {
		select {
		case report := <-reports:
			m := report.(*kafka.Message)
			if m.TopicPartition.Error != nil {
				t.Fatalf("librdkafka: produce to %s: %v", topic, m.TopicPartition.Error)
			}
			i := m.Opaque.(int)
			out[i].offset = int64(m.TopicPartition.Offset) // the report has no time
		case <-ctx.Done():
			t.Fatalf("librdkafka: produce to %s: no report", topic)
		}
	}
	return out
}

func newConsumer(t *testing.T, addrs []string) *kafka.Consumer {
	t.Helper()
	// The group is a name that the library demands; partitions are assigned by hand.
	c, err := kafka.NewConsumer(&kafka.ConfigMap{"bootstrap.servers": strings.Join(addrs, ","), "group.id": "none",
		"enable.auto.commit": false, "enable.auto.offset.store": false})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("librdkafka: close: %v", err)
		}
	})
	return c
}

func (librdkafka) consume(t *testing.T, addrs []string, topic string, partitions, records int) []record {
	t.Helper()
	c := newConsumer(t, addrs)
	var all []kafka.TopicPartition
	for p := range partitions {
		all = append(all, kafka.TopicPartition{Topic: &topic, Partition: int32(p), Offset: kafka.OffsetBeginning})
	}
	if err := c.Assign(all); err != nil {
		t.Fatal(err)
	}
	var out []record
	end := time.Now().Add(patience)
	for len(out) < records {
		m, err := c.ReadMessage(time.Until(end))
		if err != nil {
			t.Fatalf("librdkafka: %v after %d of %d records", err, len(out), records)
		}
		r := record{partition: m.TopicPartition.Partition, offset: int64(m.TopicPartition.Offset), timestamp: m.Timestamp.UnixMilli(), key: m.Key, value: m.Value}
		for _, h := range m.Headers {
			r.headers = append(r.headers, header{h.Key, h.Value})
		}
		out = append(out, r)
	}
	return out
}

// testLibrdkafka runs acknowledgements, offsets of times and the admin client.
func testLibrdkafka(t *testing.T, e *env) {
	addrs := e.floe.Addrs()
	for _, acks := range []string{"0", "1", "all"} {
		topic := topicName(t, "acks", acks)
		createTopic(t, addrs, topic, 1)
		sent := librdkafka{}.produceWith(t, addrs, topic, samples(0), kafka.ConfigMap{"acks": acks})
		for i := range sent {
			sent[i].offset = int64(i) // not told with acks=0
		}
		compare(t, "acks="+acks, librdkafka{}.consume(t, addrs, topic, 1, len(sent)), sent)
	}

	topic := topicName(t, "times")
	createTopic(t, addrs, topic, 1)
	var records []record
	for i := range 5 {
		records = append(records, record{timestamp: 1_700_000_000_000 + 1000*int64(i), value: fmt.Append(nil, i)})
	}
	librdkafka{}.produce(t, addrs, topic, "none", records)
	c := newConsumer(t, addrs)
	for _, tt := range []struct {
		time int64
		want kafka.Offset
	}{{1, 0}, {1_700_000_000_000, 0}, {1_700_000_002_000, 2}, {1_700_000_002_001, 3}, {1_700_000_004_001, kafka.OffsetEnd}} {
		got, err := c.OffsetsForTimes([]kafka.TopicPartition{{Topic: &topic, Partition: 0, Offset: kafka.Offset(tt.time)}}, int(patience.Milliseconds()))
		if err != nil || len(got) != 1 || got[0].Error != nil || got[0].Offset != tt.want {
			t.Errorf("offset of time %d: %v, %v, want %v", tt.time, got, err, tt.want)
		}
	}
	low, high, err := c.QueryWatermarkOffsets(topic, 0, int(patience.Milliseconds()))
	if err != nil || low != 0 || high != 5 {
		t.Errorf("watermarks are %d and %d, %v", low, high, err)
	}
	adminOfLibrdkafka(t, addrs)
}

func adminOfLibrdkafka(t *testing.T, addrs []string) {
	a, err := kafka.NewAdminClient(&kafka.ConfigMap{"bootstrap.servers": strings.Join(addrs, ",")})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	ctx := deadline(t)
	topic := topicName(t, "admin")
	failed := func(what string, results []kafka.TopicResult, err error) {
		t.Helper()
		if err != nil || len(results) != 1 || results[0].Error.Code() != kafka.ErrNoError {
			t.Errorf("%s: %v, %v", what, results, err)
		}
	}
	spec := kafka.TopicSpecification{Topic: topic, NumPartitions: 1, ReplicationFactor: 1, Config: map[string]string{"retention.ms": "-1"}}
	created, err := a.CreateTopics(ctx, []kafka.TopicSpecification{spec})
	failed("create", created, err)
	created, err = a.CreateTopics(ctx, []kafka.TopicSpecification{spec})
	if err != nil || created[0].Error.Code() != kafka.ErrTopicAlreadyExists {
		t.Errorf("create again: %v, %v", created, err)
	}
	grown, err := a.CreatePartitions(ctx, []kafka.PartitionsSpecification{{Topic: topic, IncreaseTo: 4}})
	failed("create partitions", grown, err)
	// Any agent is asked, which hears of what another one did within moments, as Kafka's brokers do.
	eventually(t, "metadata tells of the partitions", func() (bool, string) {
		meta, err := a.GetMetadata(&topic, false, int(patience.Milliseconds()))
		return err == nil && len(meta.Brokers) == len(addrs) && len(meta.Topics[topic].Partitions) == 4, fmt.Sprintf("%+v, %v", meta, err)
	})
	eventually(t, "the topic is described with its partitions", func() (bool, string) {
		described, err := a.DescribeTopics(ctx, kafka.NewTopicCollectionOfTopicNames([]string{topic}))
		return err == nil && len(described.TopicDescriptions) == 1 && len(described.TopicDescriptions[0].Partitions) == 4, fmt.Sprintf("%+v, %v", described, err)
	})
	whole, err := a.DescribeCluster(ctx)
	if err != nil || len(whole.Nodes) != len(addrs) || whole.ClusterID == nil || *whole.ClusterID == "" || whole.Controller == nil {
		t.Errorf("describe cluster: %+v, %v", whole, err)
	}
	resource := kafka.ConfigResource{Type: kafka.ResourceTopic, Name: topic, Config: []kafka.ConfigEntry{
		{Name: "max.message.bytes", Value: "2000000", IncrementalOperation: kafka.AlterConfigOpTypeSet}}}
	altered, err := a.IncrementalAlterConfigs(ctx, []kafka.ConfigResource{resource})
	if err != nil || altered[0].Error.Code() != kafka.ErrNoError {
		t.Errorf("alter configs: %v, %v", altered, err)
	}
	eventually(t, "the configs are described as they were altered", func() (bool, string) {
		configs, err := a.DescribeConfigs(ctx, []kafka.ConfigResource{{Type: kafka.ResourceTopic, Name: topic}})
		return err == nil && configs[0].Config["max.message.bytes"].Value == "2000000" && configs[0].Config["retention.ms"].Value == "-1", fmt.Sprint(configs, err)
	})
	librdkafka{}.produce(t, addrs, topic, "none", []record{{value: []byte("a")}, {value: []byte("b")}, {value: []byte("c")}})
	tp := kafka.TopicPartition{Topic: &topic, Partition: 0, Offset: 2}
	trimmed, err := a.DeleteRecords(ctx, []kafka.TopicPartition{tp})
	if err != nil || trimmed.DeleteRecordsResults[0].TopicPartition.Error != nil || trimmed.DeleteRecordsResults[0].DeletedRecords.LowWatermark != 2 {
		t.Errorf("delete records: %+v, %v", trimmed, err)
	}
	tp.Offset = 0
	listed, err := a.ListOffsets(ctx, map[kafka.TopicPartition]kafka.OffsetSpec{{Topic: &topic, Partition: 0}: kafka.EarliestOffsetSpec})
	if err != nil || len(listed.ResultInfos) != 1 {
		t.Errorf("list offsets: %+v, %v", listed, err)
	}
	for _, info := range listed.ResultInfos {
		if info.Error.Code() != kafka.ErrNoError || info.Offset != 2 {
			t.Errorf("earliest offset after delete records: %+v", info)
		}
	}
	deleted, err := a.DeleteTopics(ctx, []string{topic})
	failed("delete", deleted, err)
	eventually(t, "the deleted topic is described as unknown", func() (bool, string) {
		gone, err := a.DescribeTopics(ctx, kafka.NewTopicCollectionOfTopicNames([]string{topic}))
		var kerr kafka.Error
		return !errors.As(err, &kerr) && len(gone.TopicDescriptions) == 1 && gone.TopicDescriptions[0].Error.Code() == kafka.ErrUnknownTopicOrPart, fmt.Sprintf("%+v, %v", gone, err)
	})
}
