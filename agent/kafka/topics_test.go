package kafka_test

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/kafka"
	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/tiering"
)

func askMetadata(version int16, create bool, names ...string) *kmsg.MetadataRequest {
	req := kmsg.NewPtrMetadataRequest()
	req.Version, req.AllowAutoTopicCreation = version, create
	req.Topics = []kmsg.MetadataRequestTopic{}
	for _, n := range names {
		t := kmsg.NewMetadataRequestTopic()
		t.Topic = kmsg.StringPtr(n)
		req.Topics = append(req.Topics, t)
	}
	return req
}

func TestMetadata(t *testing.T) {
	w := newWorld(t)
	topic := w.create("orders", 5)
	w.create("bills", 1)
	w.cluster.leaders[tiering.ShardOf(topic.FirstShard, 1, 4)] = 3
	w.cluster.leaders[tiering.ShardOf(topic.FirstShard, 2, 4)] = 9 // not live (any more)
	versions(w, 3, func(v int16) {
		resp := call[*kmsg.MetadataResponse](w, askMetadata(v, false, "orders", "orders", "none", "bad name"))
		if len(resp.Brokers) != 3 || resp.Brokers[0].NodeID != 1 || v >= 1 && (resp.ControllerID != 1 || text(resp.Brokers[1].Rack) != "zone-b" || resp.Brokers[2].Rack != nil) {
			t.Errorf("v%d: brokers %+v, controller %d", v, resp.Brokers, resp.ControllerID)
		}
		if v >= 2 && text(resp.ClusterID) != w.cluster.id {
			t.Errorf("v%d: cluster %q", v, text(resp.ClusterID))
		}
		if len(resp.Topics) != 3 {
			t.Fatalf("v%d: topics %+v", v, resp.Topics)
		}
		o := resp.Topics[0]
		if text(o.Topic) != "orders" || len(o.Partitions) != 5 || v >= 10 && o.TopicID != [16]byte(topic.ID) {
			t.Fatalf("v%d: %+v", v, o)
		}
		p := o.Partitions[1]
		if p.Leader != 3 || !slices.Equal(p.Replicas, []int32{3, 1, 2}) || !slices.Equal(p.ISR, p.Replicas) || v >= 7 && p.LeaderEpoch != 5 {
			t.Errorf("v%d: partition 1: %+v", v, p)
		}
		if p := o.Partitions[2]; p.Leader < 1 || p.Leader > 3 || p.ErrorCode != 0 {
			t.Errorf("v%d: a leader that is not live: %+v", v, p)
		}
		if v < 4 { // these versions always create
			w.drop("none")
		} else if resp.Topics[1].ErrorCode != kerr.UnknownTopicOrPartition.Code {
			t.Errorf("v%d: missing topic: %d", v, resp.Topics[1].ErrorCode)
		}
		if resp.Topics[2].ErrorCode != kerr.InvalidTopicException.Code {
			t.Errorf("v%d: bad name: %d", v, resp.Topics[2].ErrorCode)
		}
	})
}

// librdkafka from 2.10 on drops what Metadata does not name, and may wait for it for ever:
// confluentinc/librdkafka#5511. Nothing else may send clients to an agent that has ended.
func TestMetadataNamesAgentsThatEndedJustNow(t *testing.T) {
	w := newWorld(t)
	w.cluster.parted = []kafka.Agent{{NodeID: 4, Host: "d.example", Port: 9092}}
	topic := w.create("orders", 5)
	for p := range int32(5) {
		w.cluster.leaders[tiering.ShardOf(topic.FirstShard, p, 4)] = 4
	}
	versions(w, 3, func(v int16) {
		resp := call[*kmsg.MetadataResponse](w, askMetadata(v, false, "orders"))
		if n := len(resp.Brokers); n != 4 || resp.Brokers[3].NodeID != 4 || resp.Brokers[3].Host != "d.example" || resp.Brokers[3].Port != 9092 {
			t.Fatalf("v%d: told of %+v, want the three that live and the one that ended", v, resp.Brokers)
		}
		for _, p := range resp.Topics[0].Partitions {
			if p.Leader == 4 || slices.Contains(p.Replicas, 4) || slices.Contains(p.ISR, 4) {
				t.Errorf("v%d: clients are sent to the agent that ended: %+v", v, p)
			}
		}
	})
	versions(w, 60, func(v int16) {
		req := kmsg.NewPtrDescribeClusterRequest()
		req.Version, req.EndpointType = v, 1
		if resp := call[*kmsg.DescribeClusterResponse](w, req); len(resp.Brokers) != 3 {
			t.Errorf("DescribeCluster v%d: %+v, want the three that live", v, resp.Brokers)
		}
	})
	versions(w, 10, func(v int16) {
		req := kmsg.NewPtrFindCoordinatorRequest()
		req.Version, req.CoordinatorKey, req.CoordinatorKeys = v, "g", []string{"g"}
		resp := call[*kmsg.FindCoordinatorResponse](w, req)
		node := resp.NodeID
		if v >= 4 {
			node = resp.Coordinators[0].NodeID
		}
		if node < 1 || node > 3 {
			t.Errorf("FindCoordinator v%d: node %d", v, node)
		}
	})
}

func TestMetadataOfAllAndNone(t *testing.T) {
	w := newWorld(t)
	w.create("b", 1)
	w.create("a", 1)
	versions(w, 3, func(v int16) {
		req := askMetadata(v, true)
		if v > 0 {
			if resp := call[*kmsg.MetadataResponse](w, req); len(resp.Topics) != 0 {
				t.Errorf("v%d: no topics asked for, got %d", v, len(resp.Topics))
			}
			req.Topics = nil
		}
		resp := call[*kmsg.MetadataResponse](w, req)
		if len(resp.Topics) != 2 || text(resp.Topics[0].Topic) != "a" || text(resp.Topics[1].Topic) != "b" {
			t.Errorf("v%d: all topics: %+v", v, resp.Topics)
		}
	})
}

func TestMetadataByID(t *testing.T) { synctest.Test(t, testMetadataByID) }

func testMetadataByID(t *testing.T) {
	w := newWorld(t)
	topic := w.create("orders", 1)
	for v := int16(10); v <= 13; v++ {
		req := askMetadata(v, true, "x", "y")
		req.Topics[0].Topic, req.Topics[0].TopicID = nil, topic.ID
		req.Topics[1].Topic, req.Topics[1].TopicID = nil, [16]byte{1}
		if v < 12 {
			req.Topics[0].Topic, req.Topics[1].Topic = kmsg.StringPtr("x"), kmsg.StringPtr("y")
		}
		resp := call[*kmsg.MetadataResponse](w, req)
		want := []int16{0, kerr.UnknownTopicID.Code}
		if v < 12 {
			want = []int16{kerr.InvalidRequest.Code, kerr.InvalidRequest.Code}
		}
		if resp.Topics[0].ErrorCode != want[0] || resp.Topics[1].ErrorCode != want[1] {
			t.Errorf("v%d: %d and %d, want %v", v, resp.Topics[0].ErrorCode, resp.Topics[1].ErrorCode, want)
		}
		if v >= 12 && (text(resp.Topics[0].Topic) != "orders" || resp.Topics[1].Topic != nil) {
			t.Errorf("v%d: names %s and %s", v, text(resp.Topics[0].Topic), text(resp.Topics[1].Topic))
		}
	}
}

func TestAutoCreation(t *testing.T) {
	w := newWorld(t, func(s *kafka.Settings) { s.NumPartitions, s.ReplicationFactor = 3, 2 })
	resp := call[*kmsg.MetadataResponse](w, askMetadata(12, true, "new", "new.too", "new_too", "bad name"))
	got := resp.Topics
	if got[0].ErrorCode != 0 || len(got[0].Partitions) != 3 || len(got[0].Partitions[0].Replicas) < 2 {
		t.Errorf("created: %+v", got[0])
	}
	if got[1].ErrorCode != 0 || got[2].ErrorCode != kerr.InvalidTopicException.Code {
		t.Errorf("names that collide: %d and %d", got[1].ErrorCode, got[2].ErrorCode)
	}
	if got[3].ErrorCode != kerr.InvalidTopicException.Code {
		t.Errorf("bad name: %d", got[3].ErrorCode)
	}
	if _, ok := w.topics.Topic("new"); !ok {
		t.Error("this agent does not know the topic that it created")
	}
	off := newWorld(t, func(s *kafka.Settings) { s.AutoCreateTopics = false })
	resp = call[*kmsg.MetadataResponse](off, askMetadata(12, true, "new"))
	if resp.Topics[0].ErrorCode != kerr.UnknownTopicOrPartition.Code {
		t.Errorf("creation is switched off: %d", resp.Topics[0].ErrorCode)
	}
}

// What another agent created a moment ago is found, although this one's watch lags.
func TestLookupMissAsksTheStore(t *testing.T) { synctest.Test(t, testLookupMissAsksTheStore) }

func testLookupMissAsksTheStore(t *testing.T) {
	w := newWorld(t)
	other := catalogue.New(w.store, metadata.NewKeys("test"), w.topics.Cluster(), catalogue.Config{})
	for _, c := range other.Create(w.ctx, []catalogue.NewTopic{{Name: "t1", Partitions: 1}, {Name: "t2", Partitions: 1}, {Name: "t3", Partitions: 1},
		{Name: "t4", Partitions: 1}, {Name: "t5", Partitions: 1}}) {
		if c.Err != nil {
			t.Fatal(c.Err)
		}
	}
	resp := call[*kmsg.MetadataResponse](w, askMetadata(12, false, "t1", "t2", "t3", "t4", "t5", "t6"))
	for i, topic := range resp.Topics {
		if missing := i == 5; missing != (topic.ErrorCode == kerr.UnknownTopicOrPartition.Code) {
			t.Errorf("%s: %d", text(topic.Topic), topic.ErrorCode)
		}
	}
}

func createReq(version int16, topics ...kmsg.CreateTopicsRequestTopic) *kmsg.CreateTopicsRequest {
	req := kmsg.NewPtrCreateTopicsRequest()
	req.Version, req.Topics, req.TimeoutMillis = version, topics, 5000
	return req
}

func newTopic(name string, partitions int32, rf int16, configs ...string) kmsg.CreateTopicsRequestTopic {
	t := kmsg.NewCreateTopicsRequestTopic()
	t.Topic, t.NumPartitions, t.ReplicationFactor = name, partitions, rf
	for i := 0; i+1 < len(configs); i += 2 {
		c := kmsg.NewCreateTopicsRequestTopicConfig()
		c.Name, c.Value = configs[i], kmsg.StringPtr(configs[i+1])
		t.Configs = append(t.Configs, c)
	}
	return t
}

func assigned(name string, n int32, assignments ...[]int32) kmsg.CreateTopicsRequestTopic {
	t := newTopic(name, n, -1)
	for i, nodes := range assignments {
		a := kmsg.NewCreateTopicsRequestTopicReplicaAssignment()
		a.Partition, a.Replicas = int32(i), nodes
		t.ReplicaAssignment = append(t.ReplicaAssignment, a)
	}
	return t
}

func TestCreateTopics(t *testing.T) {
	w := newWorld(t, func(s *kafka.Settings) { s.NumPartitions, s.MaxPartitions = 2, 50 })
	w.create("there", 1)
	w.create("with.dot", 1)
	noValue := newTopic("t", 1, 1, "retention.ms", "")
	noValue.Configs[0].Value = nil
	gap := assigned("t", -1, []int32{1}, []int32{1})
	gap.ReplicaAssignment[1].Partition = 2
	twice := assigned("t", -1, []int32{1}, []int32{1})
	twice.ReplicaAssignment[1].Partition = 0
	for name, c := range map[string]struct {
		topic kmsg.CreateTopicsRequestTopic
		want  *kerr.Error
	}{
		"exists":                {newTopic("there", 1, 1), kerr.TopicAlreadyExists},
		"empty name":            {newTopic("", 1, 1), kerr.InvalidTopicException},
		"dot dot":               {newTopic("..", 1, 1), kerr.InvalidTopicException},
		"collides":              {newTopic("with_dot", 1, 1), kerr.InvalidTopicException},
		"no partitions":         {newTopic("t", 0, 1), kerr.InvalidPartitions},
		"negative partitions":   {newTopic("t", -2, 1), kerr.InvalidPartitions},
		"too many partitions":   {newTopic("t", 51, 1), kerr.InvalidPartitions},
		"no replicas":           {newTopic("t", 1, 0), kerr.InvalidReplicationFactor},
		"negative replicas":     {newTopic("t", 1, -2), kerr.InvalidReplicationFactor},
		"unknown config":        {newTopic("t", 1, 1, "no.such", "1"), kerr.InvalidConfig},
		"bad config":            {newTopic("t", 1, 1, "retention.ms", "-7"), kerr.InvalidConfig},
		"config without value":  {noValue, kerr.InvalidConfig},
		"number and assignment": {assigned("t", 1, []int32{1}), kerr.InvalidRequest},
		"gap in assignment":     {gap, kerr.InvalidReplicaAssignment},
		"partition twice":       {twice, kerr.InvalidReplicaAssignment},
		"empty assignment":      {assigned("t", -1, []int32{}), kerr.InvalidReplicaAssignment},
		"node twice":            {assigned("t", -1, []int32{1, 1}), kerr.InvalidReplicaAssignment},
		"unknown node":          {assigned("t", -1, []int32{7}), kerr.InvalidReplicaAssignment},
		"uneven assignment":     {assigned("t", -1, []int32{1, 2}, []int32{1}), kerr.InvalidReplicaAssignment},
	} {
		versions(w, 19, func(v int16) {
			resp := call[*kmsg.CreateTopicsResponse](w, createReq(v, c.topic))
			if got := resp.Topics[0]; got.ErrorCode != c.want.Code || text(got.ErrorMessage) == "<null>" {
				t.Errorf("%s, v%d: %d %s, want %s", name, v, got.ErrorCode, text(got.ErrorMessage), c.want.Message)
			}
		})
	}
	if _, err := w.topics.Find(w.ctx, "t"); !errors.Is(err, catalogue.ErrTopicNotFound) {
		t.Errorf("a refused topic exists: %v", err)
	}
}

func TestCreateTopicsCreates(t *testing.T) {
	w := newWorld(t, func(s *kafka.Settings) {
		s.NumPartitions, s.TopicDefaults = 2, map[string]string{"retention.bytes": "77"}
	})
	versions(w, 19, func(v int16) {
		name := "t" + string(rune('0'+v))
		req := createReq(v, newTopic(name, -1, 9, "retention.ms", "5"), assigned(name+"a", -1, []int32{1, 2}, []int32{2, 3}, []int32{3, 1}),
			newTopic("twice", 1, 1), newTopic("twice", 1, 1))
		req.ValidateOnly = true
		if resp := call[*kmsg.CreateTopicsResponse](w, req); resp.Topics[0].ErrorCode != 0 || resp.Topics[0].TopicID != [16]byte{} {
			t.Errorf("v%d: validation: %+v", v, resp.Topics[0])
		}
		if _, ok := w.topics.Topic(name); ok {
			t.Errorf("v%d: validation created the topic", v)
		}
		req.ValidateOnly = false
		resp := call[*kmsg.CreateTopicsResponse](w, req)
		if len(resp.Topics) != 3 {
			t.Fatalf("v%d: %+v", v, resp.Topics)
		}
		for _, out := range resp.Topics {
			if out.Topic == "twice" {
				if out.ErrorCode != kerr.InvalidRequest.Code {
					t.Errorf("v%d: named twice: %d", v, out.ErrorCode)
				}
				continue
			}
			topic, ok := w.topics.Topic(out.Topic) // known to this agent at once
			if out.ErrorCode != 0 || !ok {
				t.Fatalf("v%d: %+v, known: %v", v, out, ok)
			}
			if v >= 7 && out.TopicID != [16]byte(topic.ID) || v >= 5 && (out.NumPartitions != topic.Partitions || out.ReplicationFactor != topic.ReplicationFactor) {
				t.Errorf("v%d: %+v, topic %+v", v, out, topic)
			}
			if want := map[string]int32{name: 2, name + "a": 3}[out.Topic]; topic.Partitions != want {
				t.Errorf("v%d: %d partitions, want %d", v, topic.Partitions, want)
			}
			if v >= 5 && out.Topic == name {
				got := map[string]string{}
				for _, c := range out.Configs {
					got[c.Name] = text(c.Value) + " " + kmsg.ConfigSource(c.Source).String()
				}
				if got["retention.ms"] != "5 DYNAMIC_TOPIC_CONFIG" || got["retention.bytes"] != "77 STATIC_BROKER_CONFIG" || got["cleanup.policy"] != "delete DEFAULT_CONFIG" {
					t.Errorf("v%d: configs %v", v, got)
				}
			}
		}
	})
}

func TestDeleteTopics(t *testing.T) { synctest.Test(t, testDeleteTopics) }

func testDeleteTopics(t *testing.T) {
	w := newWorld(t)
	versions(w, 20, func(v int16) {
		a, b := w.create("a", 1), w.create("b", 1)
		req := kmsg.NewPtrDeleteTopicsRequest()
		req.Version, req.TimeoutMillis = v, 5000
		req.TopicNames = []string{"a", "none", "b", "b"}
		want := []int16{0, kerr.UnknownTopicOrPartition.Code, kerr.InvalidRequest.Code, kerr.InvalidRequest.Code}
		if v >= 6 {
			add := func(name *string, id [16]byte) {
				t := kmsg.NewDeleteTopicsRequestTopic()
				t.Topic, t.TopicID = name, id
				req.Topics = append(req.Topics, t)
			}
			add(nil, a.ID)
			add(kmsg.StringPtr("none"), [16]byte{})
			add(nil, [16]byte{9})
			add(nil, [16]byte{})
			add(kmsg.StringPtr("b"), b.ID)
			want = []int16{0, kerr.UnknownTopicOrPartition.Code, kerr.UnknownTopicID.Code, kerr.InvalidRequest.Code, kerr.InvalidRequest.Code}
		}
		resp := call[*kmsg.DeleteTopicsResponse](w, req)
		for i, code := range want {
			if resp.Topics[i].ErrorCode != code {
				t.Errorf("v%d: topic %d: %d %s, want %d", v, i, resp.Topics[i].ErrorCode, text(resp.Topics[i].ErrorMessage), code)
			}
		}
		if v >= 6 && (text(resp.Topics[0].Topic) != "a" || resp.Topics[0].TopicID != [16]byte(a.ID)) {
			t.Errorf("v%d: %+v", v, resp.Topics[0])
		}
		if _, ok := w.topics.Topic("a"); ok {
			t.Errorf("v%d: this agent still knows the topic", v)
		}
		w.drop("b")
	})
}

func TestCreatePartitions(t *testing.T) {
	w := newWorld(t, func(s *kafka.Settings) { s.MaxPartitions = 9 })
	versions(w, 37, func(v int16) {
		w.create("t", 3)
		ask := func(validate bool, name string, n int32, assignments ...[]int32) int16 {
			req := kmsg.NewPtrCreatePartitionsRequest()
			req.Version, req.ValidateOnly, req.TimeoutMillis = v, validate, 5000
			topic := kmsg.NewCreatePartitionsRequestTopic()
			topic.Topic, topic.Count = name, n
			for _, nodes := range assignments {
				a := kmsg.NewCreatePartitionsRequestTopicAssignment()
				a.Replicas = nodes
				topic.Assignment = append(topic.Assignment, a)
			}
			req.Topics = append(req.Topics, topic)
			return call[*kmsg.CreatePartitionsResponse](w, req).Topics[0].ErrorCode
		}
		for _, c := range []struct {
			name   string
			n      int32
			assign [][]int32
			want   int16
		}{
			{"none", 5, nil, kerr.UnknownTopicOrPartition.Code},
			{"t", 3, nil, kerr.InvalidPartitions.Code},
			{"t", 2, nil, kerr.InvalidPartitions.Code},
			{"t", -1, nil, kerr.InvalidPartitions.Code},
			{"t", 10, nil, kerr.InvalidPartitions.Code},
			{"t", 5, [][]int32{{1}}, kerr.InvalidReplicaAssignment.Code},
			{"t", 5, [][]int32{{1}, {1, 1}}, kerr.InvalidReplicaAssignment.Code},
			{"t", 5, [][]int32{{1}, {2}}, 0},
		} {
			if got := ask(true, c.name, c.n, c.assign...); got != c.want {
				t.Errorf("v%d: %s to %d %v: %d, want %d", v, c.name, c.n, c.assign, got, c.want)
			}
		}
		if topic, _ := w.topics.Topic("t"); topic.Partitions != 3 {
			t.Errorf("v%d: validation made %d partitions", v, topic.Partitions)
		}
		if got := ask(false, "t", 5); got != 0 {
			t.Errorf("v%d: %d", v, got)
		}
		if topic, _ := w.topics.Topic("t"); topic.Partitions != 5 {
			t.Errorf("v%d: %d partitions", v, topic.Partitions)
		}
		w.drop("t")
	})
}

func TestDescribeCluster(t *testing.T) {
	w := newWorld(t)
	versions(w, 60, func(v int16) {
		req := kmsg.NewPtrDescribeClusterRequest()
		req.Version, req.EndpointType = v, 1
		resp := call[*kmsg.DescribeClusterResponse](w, req)
		if resp.ErrorCode != 0 || resp.ClusterID != w.cluster.id || len(resp.Brokers) != 3 || resp.ControllerID != 1 {
			t.Errorf("v%d: %+v", v, resp)
		}
		for kind, want := range map[int8]int16{2: kerr.MismatchedEndpointType.Code, 7: kerr.UnsupportedEndpointType.Code} {
			req.EndpointType = kind
			if resp := call[*kmsg.DescribeClusterResponse](w, req); v >= 1 && resp.ErrorCode != want {
				t.Errorf("v%d: endpoint type %d: %d", v, kind, resp.ErrorCode)
			}
		}
	})
}

func TestDescribeTopicPartitionsPages(t *testing.T) {
	w := newWorld(t)
	w.create("a", 3)
	w.create("b", 1)
	w.create("c", 4)
	type part struct {
		topic     string
		partition int32
	}
	for limit := int32(1); limit <= 9; limit++ {
		var got []part
		req := kmsg.NewPtrDescribeTopicPartitionsRequest()
		req.ResponsePartitionLimit = limit
		for pages := 0; ; pages++ {
			resp := call[*kmsg.DescribeTopicPartitionsResponse](w, req)
			n := 0
			for _, topic := range resp.Topics {
				for _, p := range topic.Partitions {
					got, n = append(got, part{text(topic.Topic), p.Partition}), n+1
					if p.EligibleLeaderReplicas == nil || p.LastKnownELR == nil {
						t.Errorf("%s-%d: null lists, which Java's admin client cannot read", text(topic.Topic), p.Partition)
					}
				}
			}
			if n > int(limit) || pages > 8 {
				t.Fatalf("limit %d: page %d has %d partitions", limit, pages, n)
			}
			if resp.NextCursor == nil {
				break
			}
			req.Cursor = &kmsg.DescribeTopicPartitionsRequestCursor{Topic: resp.NextCursor.Topic, Partition: resp.NextCursor.Partition}
		}
		want := []part{{"a", 0}, {"a", 1}, {"a", 2}, {"b", 0}, {"c", 0}, {"c", 1}, {"c", 2}, {"c", 3}}
		if !slices.Equal(got, want) {
			t.Errorf("limit %d: %v", limit, got)
		}
	}
	req := kmsg.NewPtrDescribeTopicPartitionsRequest()
	req.ResponsePartitionLimit = 100
	req.Topics = []kmsg.DescribeTopicPartitionsRequestTopic{{Topic: "c"}, {Topic: "none"}, {Topic: "a"}, {Topic: "a"}}
	resp := call[*kmsg.DescribeTopicPartitionsResponse](w, req)
	if len(resp.Topics) != 3 || text(resp.Topics[1].Topic) != "c" || resp.Topics[2].ErrorCode != kerr.UnknownTopicOrPartition.Code {
		t.Errorf("named topics: %+v", resp.Topics)
	}
	req.Cursor = &kmsg.DescribeTopicPartitionsRequestCursor{Topic: "a", Partition: -1}
	if resp := call[*kmsg.DescribeTopicPartitionsResponse](w, req); resp.Topics[0].ErrorCode != kerr.InvalidRequest.Code {
		t.Errorf("cursor before the first partition: %+v", resp.Topics[0])
	}
}
