//go:build integration && unix

package clients

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

func testFranzAdmin(t *testing.T, e *env) {
	addrs := e.floe.Addrs()
	t.Run("cluster", func(t *testing.T) { adminCluster(t, addrs) })
	t.Run("topics", func(t *testing.T) { adminTopics(t, addrs) })
	t.Run("configs", func(t *testing.T) { adminConfigs(t, addrs) })
	t.Run("records", func(t *testing.T) { adminRecords(t, e) })
	t.Run("log-dirs", func(t *testing.T) { adminLogDirs(t, addrs) })
	t.Run("re-creation", func(t *testing.T) { adminRecreation(t, addrs) })
}

func adminCluster(t *testing.T, addrs []string) {
	var id string
	for _, addr := range addrs {
		meta, err := admin(t, []string{addr}).BrokerMetadata(deadline(t))
		if err != nil {
			t.Fatal(err)
		}
		if id == "" {
			id = meta.Cluster
		}
		if meta.Cluster != id || id == "" || len(meta.Brokers) != len(addrs) || meta.Controller <= 0 {
			t.Errorf("through %s: cluster %q, controller %d, agents %+v", addr, meta.Cluster, meta.Controller, meta.Brokers)
		}
		for _, b := range meta.Brokers {
			if b.NodeID < 1 {
				t.Errorf("agent %+v: ids are from 1 up", b)
			}
		}
	}
}

func adminTopics(t *testing.T, addrs []string) {
	a, ctx, topic := admin(t, addrs), deadline(t), topicName(t)
	refused := func(what string, err error, want *kerr.Error) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	dry, err := a.ValidateCreateTopics(ctx, 3, -1, nil, topic)
	if err != nil || dry[topic].Err != nil {
		t.Errorf("validate: %v, %v", dry, err)
	}
	forever := map[string]*string{"retention.ms": kadm.StringPtr("-1")} // its records are old
	created, err := a.CreateTopic(ctx, 3, -1, forever, topic)
	if err != nil || created.NumPartitions != 3 || created.ID == (kadm.TopicID{}) {
		t.Fatalf("create: %+v, %v", created, err)
	}
	_, err = a.CreateTopic(ctx, 3, -1, nil, topic)
	refused("create again", err, kerr.TopicAlreadyExists)
	_, err = a.CreateTopic(ctx, 3, -1, nil, "no spaces please")
	refused("create with a bad name", err, kerr.InvalidTopicException)
	_, err = a.CreateTopic(ctx, 0, -1, nil, topicName(t, "empty"))
	refused("create without partitions", err, kerr.InvalidPartitions)
	_, err = a.CreateTopic(ctx, 1, -1, map[string]*string{"retention.ms": kadm.StringPtr("soon")}, topicName(t, "bad"))
	refused("create with a bad config", err, kerr.InvalidConfig)
	if grown, err := a.UpdatePartitions(ctx, 5, topic); err != nil || grown.Error() != nil {
		t.Errorf("more partitions: %v, %v", grown, err)
	}
	fewer, err := a.UpdatePartitions(ctx, 2, topic)
	if err != nil {
		t.Fatal(err)
	}
	refused("fewer partitions", fewer[topic].Err, kerr.InvalidPartitions)
	for _, addr := range addrs {
		topics := listed(t, addr, func(in kadm.TopicDetails) bool { return len(in[topic].Partitions) == 5 }, topic)
		if topics[topic].ID != created.ID {
			t.Errorf("through %s: %+v", addr, topics[topic])
		}
		for _, p := range topics[topic].Partitions {
			if p.Err != nil || p.Leader < 1 || len(p.Replicas) == 0 || len(p.ISR) == 0 {
				t.Errorf("through %s: partition %+v", addr, p)
			}
		}
	}
	var wide []record
	for p := range int32(5) {
		wide = append(wide, franz{}.produce(t, addrs, topic, "none", []record{{partition: p, timestamp: 1_700_000_000_000, value: fmt.Append(nil, p)}})...)
	}
	compare(t, "after more partitions", franz{}.consume(t, addrs, topic, 5, 5), wide)
	if deleted, err := a.DeleteTopic(ctx, topic); err != nil || deleted.Err != nil {
		t.Errorf("delete: %v, %v", deleted, err)
	}
	again, err := a.DeleteTopic(ctx, topic)
	refused("delete again", errors.Join(err, again.Err), kerr.UnknownTopicOrPartition)
	for _, addr := range addrs {
		listed(t, addr, func(in kadm.TopicDetails) bool { return !in.Has(topic) })
	}
}

// listed waits until the agent at an address lists topics as they should be: an agent hears of
// what another one created, altered or deleted within moments, as Kafka's brokers do.
func listed(t *testing.T, addr string, should func(kadm.TopicDetails) bool, topics ...string) kadm.TopicDetails {
	t.Helper()
	a, ctx := admin(t, []string{addr}), deadline(t)
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for {
		in, err := a.ListTopics(ctx, topics...)
		if err != nil {
			t.Fatalf("listing topics through %s: %v", addr, err)
		}
		if should(in) {
			return in
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			t.Fatalf("through %s: %+v", addr, in)
		}
	}
}

func adminConfigs(t *testing.T, addrs []string) {
	a, ctx, topic := admin(t, addrs), deadline(t), topicName(t)
	createTopic(t, addrs, topic, 1)
	value := func(key string) (string, bool) {
		t.Helper()
		configs, err := a.DescribeTopicConfigs(ctx, topic)
		if err != nil {
			t.Fatal(err)
		}
		of, err := configs.On(topic, nil)
		if err != nil || of.Err != nil {
			t.Fatalf("describe configs: %v, %v", err, of.Err)
		}
		for _, c := range of.Configs {
			if c.Key == key {
				return c.MaybeValue(), c.Source.String() == "DYNAMIC_TOPIC_CONFIG"
			}
		}
		t.Fatalf("describe configs: no %s", key)
		return "", false
	}
	// An agent hears of what another one altered within moments, as Kafka's brokers do.
	check := func(key, want string, set bool) {
		t.Helper()
		again := time.NewTicker(10 * time.Millisecond)
		defer again.Stop()
		for {
			got, own := value(key)
			if got == want && own == set {
				return
			}
			select {
			case <-again.C:
			case <-ctx.Done():
				t.Fatalf("%s is %q, the topic's own %v, want %q, %v", key, got, own, want, set)
			}
		}
	}
	alter := func(op kadm.IncrementalOp, key, value string) error {
		t.Helper()
		done, err := a.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: op, Name: key, Value: &value}}, topic)
		if err != nil {
			t.Fatal(err)
		}
		one, err := done.On(topic, nil)
		return errors.Join(err, one.Err)
	}
	check("retention.ms", "-1", true)
	check("cleanup.policy", "delete", false)
	for _, step := range []struct {
		op          kadm.IncrementalOp
		key, value  string
		want        string
		set, refuse bool
	}{
		{kadm.SetConfig, "max.message.bytes", "12345", "12345", true, false},
		{kadm.SetConfig, "retention.ms", "soon", "-1", true, true},
		{kadm.AppendConfig, "cleanup.policy", "compact", "delete,compact", true, false},
		{kadm.SubtractConfig, "cleanup.policy", "delete", "compact", true, false},
		{kadm.DeleteConfig, "cleanup.policy", "", "delete", false, false},
	} {
		err := alter(step.op, step.key, step.value)
		if step.refuse != errors.Is(err, kerr.InvalidConfig) || !step.refuse && err != nil {
			t.Errorf("alter %s by %q: %v", step.key, step.value, err)
		}
		check(step.key, step.want, step.set)
	}
	if err := alter(kadm.SetConfig, "no.such.config", "1"); !errors.Is(err, kerr.InvalidConfig) {
		t.Errorf("alter an unknown config: %v", err)
	}
	// The older form replaces everything.
	if done, err := a.AlterTopicConfigsState(ctx, []kadm.AlterConfig{{Name: "segment.ms", Value: kadm.StringPtr("60000")}}, topic); err != nil || done[0].Err != nil {
		t.Errorf("replace configs: %v, %v", done, err)
	}
	check("segment.ms", "60000", true)
	check("max.message.bytes", "1048588", false)
	agents, err := a.DescribeBrokerConfigs(ctx, 1)
	if err != nil || len(agents) != 1 || agents[0].Err != nil || len(agents[0].Configs) == 0 {
		t.Errorf("configs of agent 1: %+v, %v", agents, err)
	}
}

func adminRecords(t *testing.T, e *env) {
	addrs := e.floe.Addrs()
	a, ctx, topic := admin(t, addrs), deadline(t), topicName(t)
	createTopic(t, addrs, topic, 1)
	sent := franz{}.produce(t, addrs, topic, "zstd", samples(0)) // one batch: it is cut in its middle
	n := int64(len(sent))
	trim := func(offset int64) (int64, error) {
		t.Helper()
		var o kadm.Offsets
		o.AddOffset(topic, 0, offset, -1)
		done, err := a.DeleteRecords(ctx, o)
		if err != nil {
			t.Fatal(err)
		}
		one := done[topic][0]
		return one.LowWatermark, one.Err
	}
	for _, tt := range []struct {
		offset, want int64
		err          *kerr.Error
	}{{4, 4, nil}, {2, 4, nil}, {n + 1, 0, kerr.OffsetOutOfRange}, {8, 8, nil}} {
		low, err := trim(tt.offset)
		if tt.err == nil && (err != nil || low != tt.want) || tt.err != nil && !errors.Is(err, tt.err) {
			t.Errorf("delete up to %d: low watermark %d, %v, want %d, %v", tt.offset, low, err, tt.want, tt.err)
		}
	}
	for _, addr := range addrs {
		got := franz{}.consume(t, []string{addr}, topic, 1, int(n)-8)
		compare(t, "through "+addr, got, sent[8:])
	}
	e.written[topic] = sent[8:]

	emptied := topicName(t, "all")
	createTopic(t, addrs, emptied, 1)
	franz{}.produce(t, addrs, emptied, "none", samples(0))
	topic = emptied
	if low, err := trim(-1); err != nil || low != n {
		t.Errorf("delete all: low watermark %d, %v, want %d", low, err, n)
	}
	next := franz{}.produce(t, addrs, emptied, "none", []record{{timestamp: 1_700_000_000_000, value: []byte("next")}})
	if next[0].offset != n {
		t.Errorf("the record after all were deleted has offset %d, want %d", next[0].offset, n)
	}
	compare(t, "after all were deleted", franz{}.consume(t, addrs, emptied, 1, 1), next)
}

func adminLogDirs(t *testing.T, addrs []string) {
	const size = 100_000
	a, topic := admin(t, addrs), topicName(t)
	createTopic(t, addrs, topic, 3)
	noise := []record{{value: bytes.Repeat([]byte("0123456789"), size/10)}}
	franz{}.produceWith(t, addrs, topic, noise, kgo.ProducerBatchCompression(kgo.NoCompression()))
	dirs, err := a.DescribeAllLogDirs(deadline(t), kadm.TopicsSet{topic: {0: {}, 1: {}, 2: {}}})
	if err != nil {
		t.Fatal(err)
	}
	var sum int64
	partitions := 0
	for _, of := range dirs {
		of.EachPartition(func(p kadm.DescribedLogDirPartition) {
			partitions++
			sum += p.Size
		})
		if err := of.Error(); err != nil {
			t.Error(err)
		}
	}
	if partitions != 3 || sum < size || sum > size+1000 {
		t.Errorf("log dirs have %d partitions of %d bytes, want 3 of a little more than %d", partitions, sum, size)
	}
}

// adminRecreation deletes a topic and creates it again: nothing of the old one is seen.
func adminRecreation(t *testing.T, addrs []string) {
	a, ctx, topic := admin(t, addrs), deadline(t), topicName(t)
	createTopic(t, addrs, topic, 2)
	old := topicID(t, addrs[0], topic)
	franz{}.produce(t, addrs, topic, "none", samples(0))
	if deleted, err := a.DeleteTopic(ctx, topic); err != nil || deleted.Err != nil {
		t.Fatalf("delete: %v, %v", deleted, err)
	}
	createTopic(t, addrs, topic, 1)
	for _, addr := range addrs {
		// An agent that knows the new topic has heard that the old one is gone.
		listed(t, addr, func(in kadm.TopicDetails) bool { return in[topic].Err == nil && in[topic].ID != old }, topic)
		p := ask(t, addr, fetchRequest(old, 0, 0)).Topics[0].Partitions[0]
		if p.ErrorCode != kerr.UnknownTopicID.Code || len(p.RecordBatches) > 0 {
			t.Errorf("through %s: fetch by the old id: %v, %d bytes", addr, kerr.ErrorForCode(p.ErrorCode), len(p.RecordBatches))
		}
		ends, err := admin(t, []string{addr}).ListEndOffsets(ctx, topic)
		if o, ok := ends.Lookup(topic, 0); err != nil || !ok || o.Offset != 0 || len(ends[topic]) != 1 {
			t.Errorf("through %s: the new topic ends at %+v, %v", addr, ends[topic], err)
		}
	}
	sent := franz{}.produce(t, addrs, topic, "none", []record{{timestamp: 1_700_000_000_000, value: []byte("new")}})
	compare(t, "the new topic", franz{}.consume(t, addrs, topic, 1, 1), sent)
}
