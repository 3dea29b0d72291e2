package kafka_test

import (
	"bytes"
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/kafka"
	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/protocol"
	"github.com/floelog/floe/protocol/batch"
	"github.com/floelog/floe/tiering"
)

const now = 1_700_000_000_000 // of the world's clock

// records builds a batch with n records.
func records(n int, change ...func(*batch.Fields)) []byte {
	f := batch.PlainFields(now)
	f.ProducerID, f.ProducerEpoch, f.BaseSequence = 7, 1, 20
	for _, c := range change {
		c(&f)
	}
	f.LastOffsetDelta = int32(n - 1)
	b := batch.NewBuilder(f)
	for i := range n {
		b.Add(batch.Record{OffsetDelta: int32(i), Key: []byte("key"), Value: bytes.Repeat([]byte("value "), 20)})
	}
	out, err := b.AppendTo(nil)
	if err != nil {
		panic(err)
	}
	return out
}

type toPartition struct {
	topic     *catalogue.Topic
	partition int32
	records   []byte
}

func produceReq(version, acks int16, parts ...toPartition) *kmsg.ProduceRequest {
	req := kmsg.NewPtrProduceRequest()
	req.Version, req.Acks, req.TimeoutMillis = version, acks, 30_000
	for _, p := range parts {
		req.Topics = append(req.Topics, kmsg.ProduceRequestTopic{Topic: p.topic.Name, TopicID: p.topic.ID,
			Partitions: []kmsg.ProduceRequestTopicPartition{{Partition: p.partition, Records: p.records}}})
	}
	return req
}

// accept gives every batch an offset.
func accept(batches []*kafka.AppendBatch) {
	for _, b := range batches {
		b.Base, b.LogStart = 1000+tiering.Offset(b.Partition.Partition), 3
	}
}

func TestProduce(t *testing.T) { synctest.Test(t, testProduce) }

func testProduce(t *testing.T) {
	w := newWorld(t)
	topic := w.create("t", 3)
	missing := &catalogue.Topic{Name: "none", ID: tiering.TopicID{9}}
	versions(w, 0, func(v int16) {
		w.prod.calls, w.prod.done = nil, nil
		b0, refused, b2 := records(3), records(1), records(1, func(f *batch.Fields) { f.Attributes = batch.Attributes(0).WithCodec(batch.Gzip) })
		req := produceReq(v, -1, toPartition{topic, 0, b0}, toPartition{topic, 3, refused}, toPartition{missing, 0, refused[:70]}, toPartition{topic, 2, b2})
		wire := request(req)
		p := w.h.Serve(w.ctx, nil, wire)
		select {
		case <-p.Done():
			t.Fatalf("v%d: answered before the batches are stored", v)
		default:
		}
		if len(w.prod.calls) != 1 || len(w.prod.calls[0]) != 2 {
			t.Fatalf("v%d: appended %v", v, w.prod.calls)
		}
		got := w.prod.calls[0]
		if !bytes.Equal(got[0].Data, b0) || !aliases(got[0].Data, wire.Body) {
			t.Errorf("v%d: the batch is not that of the frame", v)
		}
		if m := got[0].Meta; m.Length != int32(len(b0)) || m.Count != 3 || m.MaxTimestamp != now || m.ProducerID != 7 || m.ProducerEpoch != 1 || m.FirstSeq != 20 {
			t.Errorf("v%d: %+v", v, m)
		}
		if got[1].Partition != (tiering.TopicPartition{Topic: topic.ID, Partition: 2}) || got[1].Shard != tiering.ShardOf(topic.FirstShard, 2, 4) {
			t.Errorf("v%d: second batch goes to %v on shard %d", v, got[1].Partition, got[1].Shard)
		}
		w.prod.finish(0, func(b *kafka.AppendBatch) { accept([]*kafka.AppendBatch{b}) })
		resp := answered[*kmsg.ProduceResponse](w, req, p)
		unknown := kerr.UnknownTopicOrPartition.Code
		if v >= 13 {
			unknown = kerr.UnknownTopicID.Code
		}
		for i, want := range []struct {
			code   int16
			offset int64
		}{{0, 1000}, {kerr.UnknownTopicOrPartition.Code, -1}, {unknown, -1}, {0, 1002}} {
			o := resp.Topics[i].Partitions[0]
			if o.ErrorCode != want.code || o.BaseOffset != want.offset || o.LogAppendTime != -1 ||
				v >= 5 && (o.LogStartOffset == 3) != (want.code == 0) || v >= 8 && (o.ErrorMessage == nil) != (want.code == 0) {
				t.Errorf("v%d: partition %d: %+v, want %+v", v, i, o, want)
			}
		}
	})
}

func aliases(part, whole []byte) bool {
	i := bytes.Index(whole, part)
	return i >= 0 && len(part) > 0 && &whole[i] == &part[0]
}

func TestProduceRefusals(t *testing.T) {
	w := newWorld(t)
	w.prod.auto = accept
	plain := w.create("plain", 1)
	small := w.create("small", 1, "max.message.bytes=50")
	compacted := w.create("compacted", 1, "cleanup.policy=compact")
	recent := w.create("recent", 1, "message.timestamp.before.max.ms=1000")
	noKey := func() []byte {
		b := batch.NewBuilder(batch.PlainFields(now))
		b.Add(batch.Record{Value: []byte("v")})
		out, err := b.AppendTo(nil)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}()
	broken := records(1)
	broken[len(broken)-1] ^= 1
	for name, c := range map[string]struct {
		topic   *catalogue.Topic
		records []byte
		change  func(*kmsg.ProduceRequest)
		want    int16
		record  int32 // -1: none is named
	}{
		"no records":    {plain, nil, nil, 0, -1}, // the validator's choice of code
		"crc":           {plain, broken, nil, kerr.CorruptMessage.Code, -1},
		"two batches":   {plain, append(records(1), records(1)...), nil, kerr.InvalidRecord.Code, -1},
		"too large":     {small, records(1), nil, kerr.MessageTooLarge.Code, -1},
		"no key":        {compacted, noKey, nil, kerr.InvalidRecord.Code, 0},
		"too old":       {recent, records(1, func(f *batch.Fields) { f.FirstTimestamp = now - 2000 }), nil, kerr.InvalidTimestamp.Code, 0},
		"too new":       {plain, records(1, func(f *batch.Fields) { f.FirstTimestamp = now + 3_600_001 }), nil, kerr.InvalidTimestamp.Code, 0},
		"transactional": {plain, records(1, func(f *batch.Fields) { f.Attributes |= batch.AttrTransactional }), nil, kerr.TransactionalIDAuthorizationFailed.Code, -1},
		"acks 2":        {plain, records(1), func(r *kmsg.ProduceRequest) { r.Acks = 2 }, kerr.InvalidRequiredAcks.Code, -1},
		"control batch": {plain, batch.AppendMarker(nil, 7, 1, true, 0, now), nil, kerr.InvalidRecord.Code, -1},
	} {
		versions(w, 0, func(v int16) {
			req := produceReq(v, -1, toPartition{c.topic, 0, bytes.Clone(c.records)})
			if c.change != nil {
				c.change(req)
			}
			o := call[*kmsg.ProduceResponse](w, req).Topics[0].Partitions[0]
			if o.ErrorCode == 0 || c.want != 0 && o.ErrorCode != c.want || o.BaseOffset != -1 {
				t.Errorf("%s, v%d: %+v, want %d", name, v, o, c.want)
			}
			if v >= 8 && ((c.record >= 0) != (len(o.ErrorRecords) == 1) || c.record >= 0 && o.ErrorRecords[0].RelativeOffset != c.record || o.ErrorMessage == nil) {
				t.Errorf("%s, v%d: records %+v, message %s", name, v, o.ErrorRecords, text(o.ErrorMessage))
			}
			if req.Acks == 2 {
				return
			}
			req.Acks = 0
			p := w.start(req)
			if <-p.Done(); !p.Response().None || !p.Response().Close {
				t.Errorf("%s, v%d: with acks=0 the answer is %+v", name, v, p.Response())
			}
		})
	}
	if len(w.prod.calls) != 0 {
		t.Errorf("%d requests were appended", len(w.prod.calls))
	}
}

func TestProduceByTopicConfig(t *testing.T) {
	w := newWorld(t)
	w.prod.auto = accept
	stamped := w.create("stamped", 1, "message.timestamp.type=LogAppendTime")
	packed := w.create("packed", 1, "compression.type=zstd")
	unpacked := w.create("unpacked", 1, "compression.type=uncompressed", "max.message.bytes=2000")
	gzip := func(f *batch.Fields) { f.Attributes = f.Attributes.WithCodec(batch.Gzip) }
	old := func(f *batch.Fields) { f.FirstTimestamp = 5 }

	o := call[*kmsg.ProduceResponse](w, produceReq(9, 1, toPartition{stamped, 0, records(2, old)})).Topics[0].Partitions[0]
	got := w.prod.calls[0][0]
	if o.ErrorCode != 0 || o.LogAppendTime != now || got.Meta.MaxTimestamp != now {
		t.Errorf("LogAppendTime: %+v, %+v", o, got.Meta)
	}
	if v := batch.View(got.Data); v.Attributes()&batch.AttrLogAppendTime == 0 || v.MaxTimestamp() != now || v.VerifyCRC() != nil {
		t.Errorf("LogAppendTime is not in the batch: attributes %x, timestamp %d", v.Attributes(), v.MaxTimestamp())
	}
	call[*kmsg.ProduceResponse](w, produceReq(9, 1, toPartition{packed, 0, records(5)}))
	if v := batch.View(w.prod.calls[1][0].Data); v.Codec() != batch.Zstd || v.Count() != 5 || v.VerifyCRC() != nil || int(w.prod.calls[1][0].Meta.Length) != len(v) {
		t.Errorf("zstd: codec %v, %+v", v.Codec(), w.prod.calls[1][0].Meta)
	}
	call[*kmsg.ProduceResponse](w, produceReq(9, 1, toPartition{unpacked, 0, records(5, gzip)}))
	if v := batch.View(w.prod.calls[2][0].Data); v.Codec() != batch.None || v.VerifyCRC() != nil {
		t.Errorf("uncompressed: codec %v", v.Codec())
	}
	o = call[*kmsg.ProduceResponse](w, produceReq(9, 1, toPartition{unpacked, 0, records(50, gzip)})).Topics[0].Partitions[0]
	if o.ErrorCode != kerr.MessageTooLarge.Code {
		t.Errorf("larger than max.message.bytes once uncompressed: %+v", o)
	}
}

func TestProduceAnswersWhatBecameOfBatches(t *testing.T) {
	w := newWorld(t)
	topic := w.create("t", 1)
	w.prod.auto = func(bs []*kafka.AppendBatch) { bs[0].Code = kerr.OutOfOrderSequenceNumber.Code }
	o := call[*kmsg.ProduceResponse](w, produceReq(9, -1, toPartition{topic, 0, records(1)})).Topics[0].Partitions[0]
	if o.ErrorCode != kerr.OutOfOrderSequenceNumber.Code || o.BaseOffset != -1 || o.ErrorMessage == nil {
		t.Errorf("%+v", o)
	}
	p := w.start(produceReq(9, 0, toPartition{topic, 0, records(1)}))
	if <-p.Done(); !p.Response().None || !p.Response().Close {
		t.Errorf("acks=0 and an error: %+v", p.Response())
	}
	w.prod.auto = accept
	p = w.start(produceReq(9, 0, toPartition{topic, 0, records(1)}))
	if <-p.Done(); !p.Response().None || p.Response().Close {
		t.Errorf("acks=0: %+v", p.Response())
	}
}

// The answer leaves when the client's patience ends; the frame stays charged until its
// batches are done with.
func TestProduceTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		topic := w.create("t", 1)
		budget := protocol.NewBudget(1 << 20)
		start := func(ctx context.Context, acks int16) *protocol.Pending {
			req := produceReq(9, acks, toPartition{topic, 0, records(1)})
			req.TimeoutMillis = 700 // it is answered a little before
			r := request(req)
			var err error
			if r.Charge, err = budget.Acquire(w.ctx, int64(len(r.Body))); err != nil {
				t.Fatal(err)
			}
			return w.h.Serve(ctx, nil, r)
		}
		began := time.Now()
		p := start(w.ctx, 1)
		o := answered[*kmsg.ProduceResponse](w, produceReq(9, 1), p).Topics[0].Partitions[0]
		if o.ErrorCode != kerr.RequestTimedOut.Code || o.BaseOffset != -1 || time.Since(began) != 630*time.Millisecond {
			t.Errorf("after %v: %+v", time.Since(began), o)
		}
		if budget.InUse() == 0 {
			t.Error("the frame's memory was given back while its batches are under way")
		}
		w.prod.finish(0, func(b *kafka.AppendBatch) { b.Base = 5 })
		if budget.InUse() != 0 {
			t.Errorf("%d bytes are still charged", budget.InUse())
		}
		gone, leave := context.WithCancel(w.ctx)
		p = start(gone, 1)
		leave()
		<-p.Done() // as the connection's end demands
		w.prod.finish(1, func(b *kafka.AppendBatch) { b.Base = 5 })
		p = start(w.ctx, 0)
		time.Sleep(time.Hour)
		select {
		case <-p.Done():
			t.Error("acks=0 timed out")
		default:
		}
		w.prod.finish(2, func(b *kafka.AppendBatch) { b.Base = 5 })
		<-p.Done()
		if budget.InUse() != 0 {
			t.Errorf("%d bytes are still charged at the end", budget.InUse())
		}
	})
}

func BenchmarkProduce(b *testing.B) {
	w := newWorld(b)
	topic := w.create("t", 8)
	w.prod.auto = accept
	var parts []toPartition
	for p := range int32(8) {
		parts = append(parts, toPartition{topic, p, records(100)})
	}
	r := request(produceReq(9, -1, parts...))
	b.SetBytes(int64(len(r.Body)))
	b.ReportAllocs()
	for b.Loop() {
		p := w.h.Serve(w.ctx, nil, r)
		<-p.Done()
		w.prod.calls = w.prod.calls[:0]
	}
}
