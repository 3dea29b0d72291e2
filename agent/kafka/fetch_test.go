package kafka_test

import (
	"bytes"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/kafka"
	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/tiering"
)

type fromPartition struct {
	topic     *catalogue.Topic
	partition int32
	epoch     int32
}

func fetchReq(version int16, parts ...fromPartition) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.Version, req.ReplicaID, req.SessionEpoch = version, -1, -1
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes = 500, 1, 1<<20
	for _, p := range parts {
		fp := kmsg.NewFetchRequestTopicPartition()
		fp.Partition, fp.CurrentLeaderEpoch, fp.FetchOffset, fp.PartitionMaxBytes = p.partition, p.epoch, 3, 1000
		req.Topics = append(req.Topics, kmsg.FetchRequestTopic{Topic: p.topic.Name, TopicID: p.topic.ID, Partitions: []kmsg.FetchRequestTopicPartition{fp}})
	}
	return req
}

// Every version is held to kmsg's encoding by answered, byte for byte.
func TestFetch(t *testing.T) { synctest.Test(t, testFetch) }

func testFetch(t *testing.T) {
	w := newWorld(t)
	topic, other := w.create("t", 3), w.create("other", 1)
	missing := &catalogue.Topic{Name: "none", ID: tiering.TopicID{9}}
	chunks := [][]byte{[]byte("first batch"), bytes.Repeat([]byte("x"), 300)}
	w.reader.answer = func(p kafka.FetchPartition) kafka.FetchResult {
		r := kafka.FetchResult{HighWatermark: 9, LastStable: 8, LogStart: 1}
		if p.TopicPartition.Topic == topic.ID && p.TopicPartition.Partition == 0 {
			r.Records = chunks
			r.Aborted = []kafka.AbortedTransaction{{ProducerID: 4, First: 5}}
		}
		return r
	}
	versions(w, 1, func(v int16) {
		for _, level := range []int8{0, 1} {
			w.reader.requests = nil
			req := fetchReq(v, fromPartition{topic, 0, 5}, fromPartition{topic, 1, -1}, fromPartition{other, 0, -1})
			req.IsolationLevel = level
			p := w.start(req)
			resp := answered[*kmsg.FetchResponse](w, req, p)
			if len(resp.Topics) != 2 || len(resp.Topics[0].Partitions) != 2 || resp.ErrorCode != 0 {
				t.Fatalf("v%d: %+v", v, resp)
			}
			got := resp.Topics[0].Partitions[0]
			if !bytes.Equal(got.RecordBatches, bytes.Join(chunks, nil)) || got.HighWatermark != 9 || got.LastStableOffset != 8 || v >= 5 && got.LogStartOffset != 1 || got.PreferredReadReplica != -1 {
				t.Errorf("v%d: %+v", v, got)
			}
			if level == 0 && got.AbortedTransactions != nil || level == 1 && (len(got.AbortedTransactions) != 1 || got.AbortedTransactions[0].FirstOffset != 5) {
				t.Errorf("v%d, isolation %d: aborted %+v", v, level, got.AbortedTransactions)
			}
			if other := resp.Topics[1].Partitions[0]; other.RecordBatches == nil || len(other.RecordBatches) != 0 {
				t.Errorf("v%d: no records must be empty, not null: %+v", v, other)
			}
			asked := w.reader.requests[0]
			if asked.MinBytes != 1 || asked.MaxBytes != 1<<20 || asked.MaxWait != 500*time.Millisecond || asked.ReadCommitted != (level == 1) ||
				len(asked.Partitions) != 3 || asked.Partitions[0].Offset != 3 || asked.Partitions[0].MaxBytes != 1000 {
				t.Errorf("v%d: asked %+v", v, asked)
			}
		}
		resp := call[*kmsg.FetchResponse](w, fetchReq(v, fromPartition{topic, 7, -1}, fromPartition{missing, 0, -1}, fromPartition{other, 0, -1}))
		unknown := kerr.UnknownTopicOrPartition.Code
		if resp.Topics[0].Partitions[0].ErrorCode != unknown || resp.Topics[0].Partitions[0].HighWatermark != -1 {
			t.Errorf("v%d: no such partition: %+v", v, resp.Topics[0])
		}
		if v >= 13 {
			unknown = kerr.UnknownTopicID.Code
		}
		if resp.Topics[1].Partitions[0].ErrorCode != unknown || resp.Topics[2].Partitions[0].ErrorCode != 0 {
			t.Errorf("v%d: no such topic: %+v", v, resp.Topics)
		}
		if last := w.reader.requests[len(w.reader.requests)-1]; last.MaxWait != 0 || last.MinBytes != 0 {
			t.Errorf("v%d: an error is there, but the reader waits: %+v", v, last)
		}
	})
}

// The records of an answer are the reader's slices.
func TestFetchDoesNotCopyRecords(t *testing.T) {
	w := newWorld(t)
	topic := w.create("t", 1)
	chunk := []byte("batch")
	w.reader.answer = func(kafka.FetchPartition) kafka.FetchResult { return kafka.FetchResult{Records: [][]byte{chunk}} }
	p := w.start(fetchReq(12, fromPartition{topic, 0, -1}))
	found := false
	for _, b := range p.Response().Buffers {
		found = found || len(b) > 0 && &b[0] == &chunk[0]
	}
	if !found {
		t.Error("the records were copied")
	}
}

func TestFetchLimits(t *testing.T) {
	w := newWorld(t, func(s *kafka.Settings) { s.FetchMaxBytes, s.FetchMaxWait = 5000, time.Second })
	topic := w.create("t", 1)
	for _, c := range []struct {
		minBytes, maxBytes, partition, wait int32
		want                                kafka.FetchRequest
		wantPartition                       int
	}{
		{1, 100, 10, 100, kafka.FetchRequest{MinBytes: 1, MaxBytes: 100, MaxWait: 100 * time.Millisecond}, 10},
		{-1, -1, -1, -1, kafka.FetchRequest{}, 0},
		{1 << 30, 1<<31 - 1, 1<<31 - 1, 1<<31 - 1, kafka.FetchRequest{MinBytes: 5000, MaxBytes: 5000, MaxWait: time.Second}, 5000},
		{500, 100, 10, 0, kafka.FetchRequest{MinBytes: 100, MaxBytes: 100}, 10},
	} {
		req := fetchReq(12, fromPartition{topic, 0, -1})
		req.MinBytes, req.MaxBytes, req.MaxWaitMillis, req.Topics[0].Partitions[0].PartitionMaxBytes = c.minBytes, c.maxBytes, c.wait, c.partition
		call[*kmsg.FetchResponse](w, req)
		got := w.reader.requests[len(w.reader.requests)-1]
		if got.MinBytes != c.want.MinBytes || got.MaxBytes != c.want.MaxBytes || got.MaxWait != c.want.MaxWait || got.Partitions[0].MaxBytes != c.wantPartition {
			t.Errorf("%+v: asked %+v", c, got)
		}
	}
}

func TestFetchLeaderEpochs(t *testing.T) {
	w := newWorld(t)
	topic := w.create("t", 4)
	w.cluster.leaders[tiering.ShardOf(topic.FirstShard, 0, 4)] = 2
	versions(w, 1, func(v int16) {
		resp := call[*kmsg.FetchResponse](w, fetchReq(v, fromPartition{topic, 0, 4}, fromPartition{topic, 1, 6}, fromPartition{topic, 2, 5}))
		parts := resp.Topics[0].Partitions
		want := []int16{kerr.FencedLeaderEpoch.Code, kerr.UnknownLeaderEpoch.Code, 0}
		if v < 9 {
			want = []int16{0, 0, 0}
		}
		for i, code := range want {
			if parts[i].ErrorCode != code {
				t.Errorf("v%d: partition %d: %d, want %d", v, i, parts[i].ErrorCode, code)
			}
		}
		if v >= 16 && (parts[0].CurrentLeader.LeaderID != 2 || parts[0].CurrentLeader.LeaderEpoch != 5 || len(resp.Brokers) != 1 || resp.Brokers[0].Host != "b.example") {
			t.Errorf("v%d: leader %+v at %+v", v, parts[0].CurrentLeader, resp.Brokers)
		}
		if v < 16 && parts[0].CurrentLeader.LeaderID != -1 && v >= 12 {
			t.Errorf("v%d: names a leader: %+v", v, parts[0].CurrentLeader)
		}
	})
}

func TestFetchNearby(t *testing.T) {
	w := newWorld(t)
	const partitions = 64 // so many that an even spread cannot fail by chance
	topic := w.create("t", partitions)
	w.cluster.leaders[tiering.ShardOf(topic.FirstShard, 1, 4)] = 2
	// In place of agent 3: the topic has three replicas.
	w.cluster.agents[2] = kafka.Agent{NodeID: 4, Host: "d.example", Port: 1, Rack: "zone-b"}
	ask := func(v int16, rack string, partition int32) (int32, int) {
		w.reader.requests = nil
		req := fetchReq(v, fromPartition{topic, partition, -1})
		req.Rack = rack
		out := call[*kmsg.FetchResponse](w, req).Topics[0].Partitions[0]
		if out.ErrorCode != 0 {
			t.Fatalf("%+v", out)
		}
		return out.PreferredReadReplica, len(w.reader.requests)
	}
	used := map[int32]bool{}
	for p := range int32(partitions) {
		node, reads := ask(12, "zone-b", p)
		again, _ := ask(12, "zone-b", p)
		if p%4 == 1 && node != 2 {
			t.Errorf("partition %d: sent to %d, although agent 2 of the zone leads it", p, node)
		}
		used[node] = true
		if node != 2 && node != 4 || reads != 0 || again != node {
			t.Errorf("partition %d: sent to %d, then %d, with %d reads", p, node, again, reads)
		}
	}
	if len(used) != 2 {
		t.Errorf("all partitions are sent to the same agent: %v", used)
	}
	for rack, v := range map[string]int16{"zone-a": 12, "zone-x": 12, "": 12, "zone-b": 10} {
		if node, reads := ask(v, rack, 0); node != -1 && v >= 11 || reads != 1 {
			t.Errorf("rack %q, v%d: sent to %d, %d reads", rack, v, node, reads)
		}
	}
	topic = w.createReplicated("single", 1, 1)
	delete(w.cluster.leaders, topic.FirstShard) // so that this agent leads it
	if node, reads := ask(12, "zone-b", 0); node != 2 && node != 4 || reads != 0 {
		t.Errorf("with a replication factor of 1: sent to %d, %d reads, want an agent of the zone", node, reads)
	}
}

func TestFetchAsFollowerIsRefused(t *testing.T) {
	w := newWorld(t)
	topic := w.create("t", 1)
	versions(w, 1, func(v int16) {
		req := fetchReq(v, fromPartition{topic, 0, -1})
		if req.ReplicaID = 2; v >= 15 {
			req.ReplicaID, req.ReplicaState.ID = -1, 2
		}
		resp := call[*kmsg.FetchResponse](w, req)
		want := kerr.ClusterAuthorizationFailed.Code
		if v >= 7 && resp.ErrorCode != want || resp.Topics[0].Partitions[0].ErrorCode != want || len(w.reader.requests) != 0 {
			t.Errorf("v%d: %+v", v, resp)
		}
	})
}

// consumer speaks fetch sessions as clients do.
type consumer struct {
	w         *world
	version   int16
	id, epoch int32
}

func (c *consumer) fetch(forget []fromPartition, parts ...fromPartition) *kmsg.FetchResponse {
	c.w.t.Helper()
	req := fetchReq(c.version, parts...)
	req.SessionID, req.SessionEpoch = c.id, c.epoch
	for _, p := range forget {
		req.ForgottenTopics = append(req.ForgottenTopics, kmsg.FetchRequestForgottenTopic{Topic: p.topic.Name, TopicID: p.topic.ID, Partitions: []int32{p.partition}})
	}
	resp := call[*kmsg.FetchResponse](c.w, req)
	if resp.ErrorCode == 0 {
		c.id, c.epoch = resp.SessionID, c.epoch+1
	}
	return resp
}

// named lists the partitions of a response, and asked those of the newest read.
func named(resp *kmsg.FetchResponse) (s string) {
	for _, topic := range resp.Topics {
		for _, p := range topic.Partitions {
			s += fmt.Sprint(p.Partition)
		}
	}
	return s
}

func (c *consumer) asked() (s string) {
	for _, p := range c.w.reader.requests[len(c.w.reader.requests)-1].Partitions {
		s += fmt.Sprint(p.TopicPartition.Partition)
	}
	return s
}

func TestFetchSession(t *testing.T) {
	for v := int16(7); v <= 18; v++ {
		w := newWorld(t)
		topic := w.create("t", 5)
		high := map[int32]tiering.Offset{}
		data := map[int32]bool{}
		w.reader.answer = func(p kafka.FetchPartition) kafka.FetchResult {
			r := kafka.FetchResult{HighWatermark: 10 + high[p.TopicPartition.Partition], LastStable: 10}
			if data[p.TopicPartition.Partition] {
				r.Records = [][]byte{[]byte("x")}
			}
			return r
		}
		c := &consumer{w: w, version: v}
		part := func(p int32) fromPartition { return fromPartition{topic, p, -1} }
		expect := func(what, wantNamed, wantAsked string, resp *kmsg.FetchResponse) {
			t.Helper()
			if resp.ErrorCode != 0 || resp.SessionID != c.id || named(resp) != wantNamed || c.asked() != wantAsked {
				t.Errorf("v%d: %s: code %d, named %q, asked %q; want %q and %q", v, what, resp.ErrorCode, named(resp), c.asked(), wantNamed, wantAsked)
			}
		}
		expect("full", "012", "012", c.fetch(nil, part(0), part(1), part(2)))
		if c.id == 0 {
			t.Fatalf("v%d: no session", v)
		}
		expect("nothing new", "", "012", c.fetch(nil))
		data[1] = true
		expect("records", "1", "012", c.fetch(nil))
		data[1] = false
		expect("the one with records waits for the others", "", "021", c.fetch(nil))
		high[0]++
		expect("high watermark", "0", "021", c.fetch(nil))
		expect("added and forgotten", "4", "214", c.fetch([]fromPartition{part(0)}, part(4)))
		expect("unknown partition is told", "9", "214", c.fetch(nil, fromPartition{topic, 9, -1}))
		expect("and again", "9", "214", c.fetch(nil))
		expect("forgotten", "", "214", c.fetch([]fromPartition{{topic, 9, -1}}))

		wrong := &consumer{w: w, version: v, id: c.id, epoch: c.epoch + 1}
		if resp := wrong.fetch(nil); resp.ErrorCode != kerr.InvalidFetchSessionEpoch.Code || resp.SessionID != 0 || len(resp.Topics) != 0 {
			t.Errorf("v%d: wrong epoch: %+v", v, resp)
		}
		wrong = &consumer{w: w, version: v, id: c.id ^ 1, epoch: 5}
		if resp := wrong.fetch(nil); resp.ErrorCode != kerr.FetchSessionIDNotFound.Code {
			t.Errorf("v%d: wrong session: %+v", v, resp)
		}
		if other := map[bool]int16{true: 12, false: 13}[v >= 13]; true {
			wrong = &consumer{w: w, version: other, id: c.id, epoch: c.epoch}
			if resp := wrong.fetch(nil); resp.ErrorCode != kerr.FetchSessionTopicIDError.Code {
				t.Errorf("v%d: the session goes on with names instead of ids, or the reverse: %+v", v, resp)
			}
		}
		expect("still there", "", "214", c.fetch(nil))
		old := c.id
		c.epoch = -1
		if resp := c.fetch(nil, part(0)); resp.SessionID != 0 || named(resp) != "0" {
			t.Errorf("v%d: final request: %+v", v, resp)
		}
		gone := &consumer{w: w, version: v, id: old, epoch: 1}
		if resp := gone.fetch(nil); resp.ErrorCode != kerr.FetchSessionIDNotFound.Code {
			t.Errorf("v%d: the session outlives its end: %+v", v, resp)
		}
	}
}

func TestFetchSessionsAreBounded(t *testing.T) {
	w := newWorld(t, func(s *kafka.Settings) { s.MaxFetchSessions, s.MaxFetchSessionPartitions = 2, 6 })
	topic := w.create("t", 9)
	parts := func(n int32) (out []fromPartition) {
		for p := range n {
			out = append(out, fromPartition{topic, p, -1})
		}
		return out
	}
	open := func(n int32) *consumer {
		c := &consumer{w: w, version: 12}
		if resp := c.fetch(nil, parts(n)...); resp.ErrorCode != 0 || len(named(resp)) != int(n) {
			t.Fatalf("%+v", resp)
		}
		return c
	}
	lives := func(c *consumer) bool { return c.fetch(nil).ErrorCode == 0 }

	if c := open(7); c.id != 0 {
		t.Error("a session with more partitions than all may have")
	}
	a, b := open(1), open(2)
	if c := open(3); a.id == 0 || b.id == 0 || c.id != 0 {
		t.Errorf("sessions %d, %d and %d: the third must find no room", a.id, b.id, c.id)
	}
	w.clock = w.clock.Add(119 * time.Second)
	if !lives(a) || !lives(b) {
		t.Error("a session was evicted for nothing")
	}
	w.clock = w.clock.Add(2 * time.Second) // both are used, and old enough to give way to larger ones
	if c := open(1); c.id != 0 {
		t.Error("a session gave way to one that is no larger")
	}
	c := open(2)
	if c.id == 0 || lives(a) || !lives(b) {
		t.Error("the smallest session must give way to a larger one")
	}
	w.clock = w.clock.Add(121 * time.Second)
	lives(c)
	if d := open(1); d.id == 0 || lives(b) || !lives(c) {
		t.Error("the session that nobody used must give way to any")
	}
	// 3 partitions are in use: 4 more are too many, and the session pays for it.
	if resp := c.fetch(nil, parts(6)...); resp.ErrorCode != kerr.FetchSessionIDNotFound.Code {
		t.Errorf("a session grows beyond the bound: %+v", resp)
	}
	if lives(c) {
		t.Error("and lives on")
	}
}

func TestFetchSessionOfNothing(t *testing.T) {
	w := newWorld(t)
	topic := w.create("t", 1)
	c := &consumer{w: w, version: 12}
	if resp := c.fetch(nil); resp.ErrorCode != 0 || resp.SessionID != 0 || len(resp.Topics) != 0 {
		t.Errorf("nothing asked for: %+v", resp)
	}
	c = &consumer{w: w, version: 12}
	c.fetch(nil, fromPartition{topic, 0, -1})
	if resp := c.fetch([]fromPartition{{topic, 0, -1}}); resp.ErrorCode != 0 || resp.SessionID != 0 {
		t.Errorf("everything forgotten: %+v", resp)
	}
}

func BenchmarkFetch(b *testing.B) {
	w := newWorld(b)
	topic := w.create("t", 100)
	chunk := make([]byte, 64<<10)
	w.reader.answer = func(kafka.FetchPartition) kafka.FetchResult {
		return kafka.FetchResult{HighWatermark: 9, LastStable: 9, Records: [][]byte{chunk}}
	}
	var parts []fromPartition
	for p := range int32(100) {
		parts = append(parts, fromPartition{topic, p, -1})
	}
	r := request(fetchReq(17, parts...))
	b.SetBytes(int64(len(parts) * len(chunk)))
	b.ReportAllocs()
	for b.Loop() {
		w.h.Serve(w.ctx, nil, r)
		w.reader.requests = w.reader.requests[:0]
	}
}

// An idle consumer of many partitions, which polls by its session.
func BenchmarkFetchSession(b *testing.B) {
	w := newWorld(b)
	topic := w.create("t", 1000)
	var parts []fromPartition
	for p := range int32(1000) {
		parts = append(parts, fromPartition{topic, p, -1})
	}
	c := &consumer{w: w, version: 17}
	c.fetch(nil, parts...)
	b.ReportAllocs()
	for b.Loop() {
		if resp := c.fetch(nil); len(resp.Topics) != 0 {
			b.Fatal("news")
		}
		w.reader.requests = w.reader.requests[:0]
	}
}
