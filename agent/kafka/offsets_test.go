package kafka_test

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/kafka"
	"github.com/floelog/floe/tiering"
)

func TestListOffsets(t *testing.T) {
	w := newWorld(t)
	w.create("t", 2)
	type result struct {
		code      int16
		offset    int64
		timestamp int64
	}
	unsupported := result{kerr.UnsupportedVersion.Code, -1, -1}
	for name, c := range map[string]struct {
		timestamp int64
		since     int16
		want      result
		kind      kafka.OffsetKind
		asks      bool
	}{
		"latest":                  {-1, 1, result{0, 101, -1}, kafka.LatestOffset, true},
		"earliest":                {-2, 1, result{0, 101, -1}, kafka.EarliestOffset, true},
		"greatest timestamp":      {-3, 7, result{0, 101, 1}, kafka.MaxTimestamp, true},
		"earliest local":          {-4, 8, result{0, 101, -1}, kafka.EarliestOffset, true},
		"latest tiered":           {-5, 9, result{0, -1, -1}, 0, false},
		"earliest pending upload": {-6, 11, result{0, -1, -1}, 0, false},
		"by time":                 {5000, 1, result{0, 101, 5001}, kafka.TimestampOffset, true},
		"time of no meaning":      {-7, 99, unsupported, 0, false},
	} {
		versions(w, 2, func(v int16) {
			w.offsets.queries = nil
			req := kmsg.NewPtrListOffsetsRequest()
			req.Version, req.ReplicaID, req.IsolationLevel, req.TimeoutMillis = v, -1, 1, 1000
			topic := kmsg.NewListOffsetsRequestTopic()
			topic.Topic = "t"
			p := kmsg.NewListOffsetsRequestTopicPartition()
			p.Partition, p.Timestamp, p.CurrentLeaderEpoch = 1, c.timestamp, 5
			topic.Partitions = append(topic.Partitions, p)
			req.Topics = append(req.Topics, topic)
			out := call[*kmsg.ListOffsetsResponse](w, req).Topics[0].Partitions[0]
			want, asks := c.want, c.asks
			if v < c.since {
				want, asks = unsupported, false
			}
			if got := (result{out.ErrorCode, out.Offset, out.Timestamp}); got != want || v >= 4 && asks && out.LeaderEpoch != 5 {
				t.Errorf("%s, v%d: %+v, want %+v", name, v, out, want)
			}
			if asks != (len(w.offsets.queries) == 1) || asks && (w.offsets.queries[0].Kind != c.kind || w.offsets.queries[0].ReadCommitted != (v >= 2)) {
				t.Errorf("%s, v%d: asked %+v", name, v, w.offsets.queries)
			}
		})
	}
}

func TestOffsetQuestionsThatHaveNoAnswer(t *testing.T) {
	w := newWorld(t)
	w.create("t", 4)
	req := kmsg.NewPtrListOffsetsRequest()
	req.Version = 9
	epochs := kmsg.NewPtrOffsetForLeaderEpochRequest()
	epochs.Version = 4
	for _, c := range []struct {
		topic            string
		partition, epoch int32
	}{{"none", 0, -1}, {"t", 4, -1}, {"t", -1, -1}, {"t", 0, 4}, {"t", 1, 6}, {"t", 2, -1}, {"t", 2, -1}, {"t", 3, 5}} {
		p := kmsg.NewListOffsetsRequestTopicPartition()
		p.Partition, p.CurrentLeaderEpoch, p.Timestamp = c.partition, c.epoch, -1
		req.Topics = append(req.Topics, kmsg.ListOffsetsRequestTopic{Topic: c.topic, Partitions: []kmsg.ListOffsetsRequestTopicPartition{p}})
		e := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
		e.Partition, e.CurrentLeaderEpoch, e.LeaderEpoch = c.partition, c.epoch, 3
		epochs.Topics = append(epochs.Topics, kmsg.OffsetForLeaderEpochRequestTopic{Topic: c.topic, Partitions: []kmsg.OffsetForLeaderEpochRequestTopicPartition{e}})
	}
	unknown, fenced, newer, twice := kerr.UnknownTopicOrPartition.Code, kerr.FencedLeaderEpoch.Code, kerr.UnknownLeaderEpoch.Code, kerr.InvalidRequest.Code
	got := call[*kmsg.ListOffsetsResponse](w, req)
	for i, want := range []int16{unknown, unknown, unknown, fenced, newer, twice, twice, 0} {
		if p := got.Topics[i].Partitions[0]; p.ErrorCode != want || want != 0 && p.Offset != -1 {
			t.Errorf("list %d: %+v, want %d", i, p, want)
		}
	}
	for v := int16(2); v <= 4; v++ {
		epochs.Version = v
		ends := call[*kmsg.OffsetForLeaderEpochResponse](w, epochs)
		for i, want := range []int16{unknown, unknown, unknown, fenced, newer, 0, 0, 0} {
			p := ends.Topics[i].Partitions[0]
			if p.ErrorCode != want || want != 0 && (p.EndOffset != -1 || p.LeaderEpoch != -1) || want == 0 && (p.EndOffset != 77 || p.LeaderEpoch != 2) {
				t.Errorf("v%d: epoch end %d: %+v, want %d", v, i, p, want)
			}
		}
	}
	w.offsets.code = kerr.OffsetNotAvailable.Code
	if p := call[*kmsg.ListOffsetsResponse](w, req).Topics[7].Partitions[0]; p.ErrorCode != kerr.OffsetNotAvailable.Code || p.Offset != -1 {
		t.Errorf("refused by the leader: %+v", p)
	}
}

func TestDeleteRecords(t *testing.T) {
	w := newWorld(t)
	w.create("t", 2)
	w.create("compacted", 1, "cleanup.policy=compact")
	versions(w, 21, func(v int16) {
		req := kmsg.NewPtrDeleteRecordsRequest()
		req.Version, req.TimeoutMillis = v, 1000
		for _, c := range []struct {
			topic     string
			partition int32
			offset    int64
		}{{"t", 0, 7}, {"t", 1, -1}, {"t", 1, -2}, {"t", 2, 1}, {"none", 0, 1}, {"compacted", 0, 1}} {
			p := kmsg.NewDeleteRecordsRequestTopicPartition()
			p.Partition, p.Offset = c.partition, c.offset
			req.Topics = append(req.Topics, kmsg.DeleteRecordsRequestTopic{Topic: c.topic, Partitions: []kmsg.DeleteRecordsRequestTopicPartition{p}})
		}
		resp := call[*kmsg.DeleteRecordsResponse](w, req)
		for i, want := range []struct {
			code int16
			low  int64
		}{{0, 7}, {0, 42}, {kerr.OffsetOutOfRange.Code, -1}, {kerr.UnknownTopicOrPartition.Code, -1}, {kerr.UnknownTopicOrPartition.Code, -1}, {kerr.PolicyViolation.Code, -1}} {
			if p := resp.Topics[i].Partitions[0]; p.ErrorCode != want.code || p.LowWatermark != want.low {
				t.Errorf("v%d: %d: %+v, want %+v", v, i, p, want)
			}
		}
	})
}

func TestFindCoordinator(t *testing.T) {
	w := newWorld(t)
	w.cluster.leaders[tiering.ShardOfName("g", 4)] = 2
	versions(w, 10, func(v int16) {
		req := kmsg.NewPtrFindCoordinatorRequest()
		req.Version, req.CoordinatorKey, req.CoordinatorKeys = v, "g", []string{"g", "g"}
		ask := func(kind int8) kmsg.FindCoordinatorResponseCoordinator {
			req.CoordinatorType = kind
			resp := call[*kmsg.FindCoordinatorResponse](w, req)
			if v >= 4 {
				if len(resp.Coordinators) != 2 || resp.Coordinators[0].Key != "g" {
					t.Fatalf("v%d: %+v", v, resp)
				}
				return resp.Coordinators[1]
			}
			return kmsg.FindCoordinatorResponseCoordinator{ErrorCode: resp.ErrorCode, ErrorMessage: resp.ErrorMessage, NodeID: resp.NodeID, Host: resp.Host, Port: resp.Port}
		}
		if c := ask(0); c.ErrorCode != 0 || c.NodeID != 2 || c.Host != "b.example" || c.Port != 9093 {
			t.Errorf("v%d: group: %+v", v, c)
		}
		if v >= 1 { // v0 has no kinds
			if c := ask(1); c.ErrorCode != 0 || c.NodeID != 2 || c.Host != "b.example" {
				t.Errorf("v%d: transactional id: %+v", v, c)
			}
			if c := ask(2); c.ErrorCode != kerr.InvalidRequest.Code || c.NodeID != -1 {
				t.Errorf("v%d: share group: %+v", v, c)
			}
		}
		agents := w.cluster.agents
		w.cluster.agents = nil
		if c := ask(0); c.ErrorCode != kerr.CoordinatorNotAvailable.Code {
			t.Errorf("v%d: nobody there: %+v", v, c)
		}
		w.cluster.agents = agents
	})
}

// The layout of a cluster's state depends on these shards.
func TestCoordinatorShardsNeverChange(t *testing.T) {
	for key, want := range map[string]int{"": 1, "group-1": 14, "my-transactional-id": 46} {
		if got := tiering.ShardOfName(key, 64); int(got) != want {
			t.Errorf("%q: shard %d, want %d", key, got, want)
		}
	}
	var hits [64]int
	for i := range 6400 {
		hits[tiering.ShardOfName("group-"+string(rune('a'+i%26))+string(rune('0'+i/26%10))+string(rune('A'+i/260)), 64)]++
	}
	for s, n := range hits {
		if n == 0 || n > 200 {
			t.Errorf("shard %d has %d of 6400 groups", s, n)
		}
	}
}

func TestInitProducerID(t *testing.T) {
	w := newWorld(t)
	seen := map[int64]bool{}
	versions(w, 22, func(v int16) {
		ask := func(change func(*kmsg.InitProducerIDRequest)) *kmsg.InitProducerIDResponse {
			req := kmsg.NewPtrInitProducerIDRequest()
			req.Version = v
			change(req)
			return call[*kmsg.InitProducerIDResponse](w, req)
		}
		for range 3 {
			resp := ask(func(*kmsg.InitProducerIDRequest) {})
			if resp.ErrorCode != 0 || resp.ProducerEpoch != 0 || seen[resp.ProducerID] {
				t.Errorf("v%d: %+v", v, resp)
			}
			seen[resp.ProducerID] = true
		}
		if resp := ask(func(r *kmsg.InitProducerIDRequest) { r.TransactionalID = kmsg.StringPtr("") }); resp.ErrorCode != kerr.InvalidRequest.Code {
			t.Errorf("v%d: empty transactional id: %+v", v, resp)
		}
		if v < 3 {
			return
		}
		resp := ask(func(r *kmsg.InitProducerIDRequest) { r.ProducerID, r.ProducerEpoch = 4, 2 })
		if resp.ErrorCode != 0 || seen[resp.ProducerID] || resp.ProducerEpoch != 0 {
			t.Errorf("v%d: known producer: %+v", v, resp)
		}
		seen[resp.ProducerID] = true
		if resp := ask(func(r *kmsg.InitProducerIDRequest) { r.ProducerID = 4 }); resp.ErrorCode != kerr.InvalidRequest.Code {
			t.Errorf("v%d: id without epoch: %+v", v, resp)
		}
	})
}

func TestDescribeLogDirs(t *testing.T) {
	w := newWorld(t, func(s *kafka.Settings) { s.StoreName = "s3://bucket/prefix" })
	w.create("a", 2)
	w.create("b", 8)
	for s := range 4 {
		w.cluster.leaders[tiering.ShardID(s)] = int32(1 + s%2) // this agent leads every other shard
	}
	versions(w, 35, func(v int16) {
		req := kmsg.NewPtrDescribeLogDirsRequest()
		req.Version = v
		resp := call[*kmsg.DescribeLogDirsResponse](w, req)
		if len(resp.Dirs) != 1 || resp.Dirs[0].Dir != "s3://bucket/prefix" || resp.Dirs[0].ErrorCode != 0 {
			t.Fatalf("v%d: %+v", v, resp)
		}
		n := 0
		for _, topic := range resp.Dirs[0].Topics {
			for _, p := range topic.Partitions {
				if n++; p.Size != 1000+int64(p.Partition) {
					t.Errorf("v%d: %s %+v", v, topic.Topic, p)
				}
			}
		}
		if n != 5 {
			t.Errorf("v%d: %d partitions, this agent leads 5", v, n)
		}
		req.Topics = []kmsg.DescribeLogDirsRequestTopic{{Topic: "b", Partitions: []int32{0, 1, 99}}, {Topic: "none", Partitions: []int32{0}}}
		resp = call[*kmsg.DescribeLogDirsResponse](w, req)
		if topics := resp.Dirs[0].Topics; len(topics) != 1 || topics[0].Topic != "b" || len(topics[0].Partitions) != 1 {
			t.Errorf("v%d: named partitions: %+v", v, topics)
		}
	})
}
