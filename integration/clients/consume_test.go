//go:build integration && unix

package clients

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func testFranzConsume(t *testing.T, e *env) {
	addrs := e.floe.Addrs()
	topic := topicName(t)
	createReplicated(t, addrs, topic, 2, int16(len(addrs)))
	sent := franz{}.produce(t, addrs, topic, "lz4", samples(0))
	id := topicID(t, addrs[0], topic)

	t.Run("offsets", func(t *testing.T) { franzOffsets(t, addrs, topic, sent) })
	t.Run("every-agent", func(t *testing.T) {
		for i, addr := range addrs {
			if len(fetchRaw(t, addr, id, 0, 0)) == 0 {
				t.Errorf("fetch from %s: nothing", addr)
			}
			got := franz{}.consumeWith(t, addrs, topic, 1, len(sent), kgo.Rack(fmt.Sprintf("zone-%d", i)))
			compare(t, "rack of "+addr, got, sent)
		}
		compare(t, "rack of nobody", franz{}.consumeWith(t, addrs, topic, 1, len(sent), kgo.Rack("elsewhere")), sent)
		compare(t, "without sessions", franz{}.consumeWith(t, addrs, topic, 1, len(sent), kgo.DisableFetchSessions()), sent)
	})
	t.Run("rack", func(t *testing.T) {
		franzRack(t, e, topic, id)
		single := topicName(t, "single")
		createReplicated(t, addrs, single, 1, 1)
		want := franz{}.produce(t, addrs, single, "none", samples(0))
		franzRack(t, e, single, topicID(t, addrs[0], single))
		for i := range addrs {
			got := franz{}.consumeWith(t, addrs, single, 1, len(want), kgo.Rack(fmt.Sprintf("zone-%d", i)))
			compare(t, "a topic of one replica", got, want)
		}
	})
	t.Run("sessions", func(t *testing.T) { franzSessions(t, addrs[0], id) })
	t.Run("tail", func(t *testing.T) { franzTail(t, addrs) })
	t.Run("errors", func(t *testing.T) {
		for _, tt := range []struct {
			name      string
			id        [16]byte
			partition int32
			offset    int64
			want      *kerr.Error
		}{
			{"unknown topic id", [16]byte{1, 2, 3}, 0, 0, kerr.UnknownTopicID},
			{"unknown partition", id, 2, 0, kerr.UnknownTopicOrPartition},
			{"beyond the end", id, 0, int64(len(sent)) + 1, kerr.OffsetOutOfRange},
			{"before the start", id, 0, -1, kerr.OffsetOutOfRange},
		} {
			req := fetchRequest(tt.id, tt.partition, tt.offset)
			resp := ask(t, addrs[0], req)
			if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 || resp.Topics[0].Partitions[0].ErrorCode != tt.want.Code {
				t.Errorf("%s: answered %+v, want %v", tt.name, resp.Topics, tt.want)
			}
		}
	})
}

// franzOffsets asks for offsets in all forms.
func franzOffsets(t *testing.T, addrs []string, topic string, sent []record) {
	a := admin(t, addrs)
	ctx := deadline(t)
	newest := sent[0]
	for _, r := range sent {
		if r.timestamp > newest.timestamp {
			newest = r
		}
	}
	after := func(ms int64) func() (kadm.ListedOffsets, error) {
		return func() (kadm.ListedOffsets, error) { return a.ListOffsetsAfterMilli(ctx, ms, topic) }
	}
	first := func(ms int64) int64 {
		i := slices.IndexFunc(sent, func(r record) bool { return r.timestamp >= ms })
		if i < 0 {
			return int64(len(sent)) // kadm answers the end where there is none
		}
		return sent[i].offset
	}
	n := int64(len(sent))
	for _, tt := range []struct {
		name        string
		list        func() (kadm.ListedOffsets, error)
		want, empty int64 // of partitions 0 and 1
	}{
		{"earliest", func() (kadm.ListedOffsets, error) { return a.ListStartOffsets(ctx, topic) }, 0, 0},
		{"latest", func() (kadm.ListedOffsets, error) { return a.ListEndOffsets(ctx, topic) }, n, 0},
		{"latest committed", func() (kadm.ListedOffsets, error) { return a.ListCommittedOffsets(ctx, topic) }, n, 0},
		{"greatest time", func() (kadm.ListedOffsets, error) { return a.ListMaxTimestampOffsets(ctx, topic) }, newest.offset, -1},
		{"earliest local", func() (kadm.ListedOffsets, error) { return a.ListLocalLogStartOffsets(ctx, topic) }, 0, 0},
		{"latest tiered", func() (kadm.ListedOffsets, error) { return a.ListLatestRemoteOffsets(ctx, topic) }, -1, -1},
		{"time 0", after(0), 0, 0},
		{"an exact time", after(sent[3].timestamp), first(sent[3].timestamp), 0},
		{"between times", after(newest.timestamp - 1), first(newest.timestamp - 1), 0},
		{"after all", after(newest.timestamp + 1), n, 0},
	} {
		got, err := tt.list()
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		for p, want := range []int64{tt.want, tt.empty} {
			if o, ok := got.Lookup(topic, int32(p)); !ok || o.Err != nil || o.Offset != want {
				t.Errorf("%s: partition %d is at %d, %v, want %d", tt.name, p, o.Offset, o.Err, want)
			}
		}
	}
}

// franzRack checks that an agent sends a consumer of another zone to that zone's agent, whether it
// leads or not, and that the zone's own agent serves it.
func franzRack(t *testing.T, e *env, topic string, id [16]byte) {
	addrs := e.floe.Addrs()
	meta, err := admin(t, addrs).Metadata(deadline(t), topic)
	if err != nil {
		t.Fatal(err)
	}
	byAddr := map[string]kadm.BrokerDetail{}
	for _, b := range meta.Brokers {
		byAddr[fmt.Sprintf("%s:%d", b.Host, b.Port)] = b
	}
	for _, addr := range addrs {
		for _, b := range meta.Brokers {
			if b.Rack == nil {
				continue // floe dev has no zones
			}
			req := fetchRequest(id, 0, 0)
			req.Rack = *b.Rack
			p := ask(t, addr, req).Topics[0].Partitions[0]
			want := int32(-1)
			if byAddr[addr].NodeID != b.NodeID {
				want = b.NodeID
			}
			if p.PreferredReadReplica != want || p.ErrorCode != 0 || (len(p.RecordBatches) > 0) != (want < 0) {
				t.Errorf("fetch from %s for %s: sent to agent %d with %d bytes, %v, want agent %d",
					addr, *b.Rack, p.PreferredReadReplica, len(p.RecordBatches), kerr.ErrorForCode(p.ErrorCode), want)
			}
		}
	}
}

// franzSessions goes through the life of a fetch session (KIP-227).
func franzSessions(t *testing.T, addr string, id [16]byte) {
	step := func(session, epoch int32, partitions ...int32) *kmsg.FetchResponse {
		t.Helper()
		req := fetchRequest(id, 0, 0)
		req.SessionID, req.SessionEpoch, req.MinBytes = session, epoch, 0
		req.Topics[0].Partitions = nil
		for _, p := range partitions {
			part := kmsg.NewFetchRequestTopicPartition()
			part.Partition, part.PartitionMaxBytes = p, 1<<20
			req.Topics[0].Partitions = append(req.Topics[0].Partitions, part)
		}
		if len(partitions) == 0 {
			req.Topics = nil
		}
		return ask(t, addr, req)
	}
	count := func(r *kmsg.FetchResponse) (n int) {
		for _, topic := range r.Topics {
			n += len(topic.Partitions)
		}
		return n
	}
	opened := step(0, 0, 0, 1)
	if opened.ErrorCode != 0 || opened.SessionID == 0 || count(opened) != 2 {
		t.Fatalf("opening: %v, session %d, %d partitions", kerr.ErrorForCode(opened.ErrorCode), opened.SessionID, count(opened))
	}
	session := opened.SessionID
	// Partition 1 is empty and unchanged: only partition 0 has something to say.
	if r := step(session, 1); r.ErrorCode != 0 || count(r) != 1 || r.Topics[0].Partitions[0].Partition != 0 {
		t.Errorf("first increment: %v, %d partitions", kerr.ErrorForCode(r.ErrorCode), count(r))
	}
	if r := step(session, 7); r.ErrorCode != kerr.InvalidFetchSessionEpoch.Code {
		t.Errorf("wrong epoch: %v", kerr.ErrorForCode(r.ErrorCode))
	}
	if r := step(session+1, 1); r.ErrorCode != kerr.FetchSessionIDNotFound.Code {
		t.Errorf("unknown session: %v", kerr.ErrorForCode(r.ErrorCode))
	}
	if r := step(session, -1, 0); r.ErrorCode != 0 || r.SessionID != 0 {
		t.Errorf("closing: %v, session %d", kerr.ErrorForCode(r.ErrorCode), r.SessionID)
	}
	if r := step(session, 2); r.ErrorCode != kerr.FetchSessionIDNotFound.Code {
		t.Errorf("after closing: %v", kerr.ErrorForCode(r.ErrorCode))
	}
}

// franzTail has consumers wait at the end of a topic, one on each agent; what is written
// then through one agent reaches all of them.
func franzTail(t *testing.T, addrs []string) {
	topic := topicName(t)
	createTopic(t, addrs, topic, 6)
	assigned := map[int32]kgo.Offset{}
	for p := range int32(6) {
		assigned[p] = kgo.NewOffset().At(0)
	}
	var waiting []*kgo.Client
	for i := range addrs {
		waiting = append(waiting, dial(t, addrs, kgo.Rack(fmt.Sprintf("zone-%d", i)), kgo.FetchMaxWait(30*time.Second),
			kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: assigned})))
	}
	for i := range 3 {
		want := franz{}.produce(t, addrs, topic, "none", []record{{partition: int32(2 * i), timestamp: 1_700_000_000_000, value: fmt.Append(nil, i)}})
		for _, c := range waiting {
			compare(t, "a consumer that waits", poll(t, c, 1), want)
		}
	}
}

func topicID(t *testing.T, addr, topic string) [16]byte {
	t.Helper()
	req := kmsg.NewPtrMetadataRequest()
	one := kmsg.NewMetadataRequestTopic()
	one.Topic = &topic
	req.Topics = append(req.Topics, one)
	resp := ask(t, addr, req)
	if len(resp.Topics) != 1 || resp.Topics[0].ErrorCode != 0 || resp.Topics[0].TopicID == [16]byte{} {
		t.Fatalf("metadata of %s from %s: %+v", topic, addr, resp.Topics)
	}
	return resp.Topics[0].TopicID
}

func fetchRequest(id [16]byte, partition int32, offset int64) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes = 5000, 1, 50<<20
	req.SessionEpoch = -1 // none
	topic := kmsg.NewFetchRequestTopic()
	topic.TopicID = id
	part := kmsg.NewFetchRequestTopicPartition()
	part.Partition, part.FetchOffset, part.PartitionMaxBytes = partition, offset, 10<<20
	topic.Partitions = append(topic.Partitions, part)
	req.Topics = append(req.Topics, topic)
	return req
}

// fetchRaw returns the batches that an agent sends of a partition.
func fetchRaw(t *testing.T, addr string, id [16]byte, partition int32, offset int64) []byte {
	t.Helper()
	resp := ask(t, addr, fetchRequest(id, partition, offset))
	if resp.ErrorCode != 0 || len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 || resp.Topics[0].Partitions[0].ErrorCode != 0 {
		t.Fatalf("fetch from %s: %v, %+v", addr, kerr.ErrorForCode(resp.ErrorCode), resp.Topics)
	}
	return resp.Topics[0].Partitions[0].RecordBatches
}
