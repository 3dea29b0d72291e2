package kafka_test

import (
	"bytes"
	"testing"
	"testing/synctest"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/kafka"
	"github.com/floelog/floe/protocol"
)

// charged wraps a request as the connection does, with its frame charged to a budget.
func charged(t *testing.T, req kmsg.Request, b *protocol.Budget) *protocol.Request {
	t.Helper()
	r := request(req)
	var err error
	if r.Charge, err = b.Acquire(t.Context(), int64(len(r.Body))); err != nil {
		t.Fatal(err)
	}
	return r
}

// What was refused must not stay in memory, unaccounted, as long as what was accepted.
func TestProduceLetsGoOfWhatWasRefused(t *testing.T) {
	for _, c := range []struct {
		name    string
		refused int // bytes
		copied  bool
	}{{"little", 200, false}, {"most", 1 << 20, true}} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			topic := w.create("t", 2)
			a, b := records(3), records(5)
			budget := protocol.NewBudget(4 << 20)
			wire := charged(t, produceReq(9, -1, toPartition{topic, 0, a}, toPartition{topic, 9, make([]byte, c.refused)}, toPartition{topic, 1, b}), budget)
			p := w.h.Serve(w.ctx, nil, wire)
			got := w.prod.calls[0]
			if !bytes.Equal(got[0].Data, a) || !bytes.Equal(got[1].Data, b) {
				t.Fatal("the batches are not those of the frame")
			}
			if aliases(got[0].Data, wire.Body) == c.copied || aliases(got[1].Data, wire.Body) == c.copied {
				t.Errorf("copied %v, want %v", !c.copied, c.copied)
			}
			want := int64(len(wire.Body))
			if c.copied {
				want = int64(len(a) + len(b))
			}
			if n := budget.InUse(); n != want {
				t.Errorf("%d bytes are charged, want %d", n, want)
			}
			w.prod.finish(0, func(b *kafka.AppendBatch) { accept([]*kafka.AppendBatch{b}) })
			if <-p.Done(); budget.InUse() != 0 {
				t.Errorf("%d bytes are still charged", budget.InUse())
			}
		})
	}
}

// Both are refused: Kafka stores the last alone, and the client believes in both.
func TestProduceRefusesAPartitionTwice(t *testing.T) {
	w := newWorld(t)
	w.prod.auto = accept
	topic := w.create("t", 3)
	bad := records(1)
	bad[len(bad)-1] ^= 1
	twice := kerr.InvalidRequest.Code
	for name, c := range map[string]struct {
		parts []toPartition
		want  []int16
		taken int
	}{
		"twice":         {[]toPartition{{topic, 1, records(1)}, {topic, 0, records(1)}, {topic, 1, records(2)}}, []int16{twice, 0, twice}, 1},
		"thrice":        {[]toPartition{{topic, 1, records(1)}, {topic, 1, records(1)}, {topic, 1, records(2)}}, []int16{twice, twice, twice}, 0},
		"a bad one":     {[]toPartition{{topic, 1, bad}, {topic, 1, records(2)}}, []int16{twice, twice}, 0},
		"not there":     {[]toPartition{{topic, 7, bad}, {topic, 7, bad}, {topic, 2, records(1)}}, []int16{3, 3, 0}, 1},
		"each but once": {[]toPartition{{topic, 2, records(1)}, {topic, 1, records(1)}}, []int16{0, 0}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			w.prod.calls = nil
			resp := call[*kmsg.ProduceResponse](w, produceReq(9, -1, c.parts...))
			for i, code := range c.want {
				if got := resp.Topics[i].Partitions[0].ErrorCode; got != code {
					t.Errorf("entry %d: %d, want %d", i, got, code)
				}
			}
			taken := 0
			for _, call := range w.prod.calls {
				taken += len(call)
			}
			if taken != c.taken {
				t.Errorf("%d batches were appended, want %d", taken, c.taken)
			}
		})
	}
}

// A frame of entries that are tiny costs many times its bytes: such requests wait for each
// other, and one of too many entries is none of a Kafka client's.
func TestProduceEntriesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		topic := w.create("t", 10_000)
		entries := func(n int) *kmsg.ProduceRequest {
			req := produceReq(9, 1, toPartition{topic, 0, records(1)})
			for i := range n - 1 {
				req.Topics[0].Partitions = append(req.Topics[0].Partitions, kmsg.ProduceRequestTopicPartition{Partition: 1 + int32(i)})
			}
			return req
		}
		if p := w.start(entries(protocol.MaxProducePartitions + 1)); !p.Response().Close || !p.Response().None {
			t.Errorf("a request of too many entries is answered: %+v", p.Response().ErrorCode)
		}
		first := w.start(entries(protocol.MaxProducePartitions))
		second := make(chan *protocol.Pending, 1)
		go func() { second <- w.start(entries(10)) }()
		if synctest.Wait(); len(w.prod.calls) != 1 {
			t.Fatalf("%d requests were taken, want 1: the memory for entries is in use", len(w.prod.calls))
		}
		w.prod.finish(0, func(b *kafka.AppendBatch) { b.Base = 1 })
		<-first.Done()
		p := <-second
		w.prod.finish(1, func(b *kafka.AppendBatch) { b.Base = 2 })
		resp := answered[*kmsg.ProduceResponse](w, produceReq(9, 1), p)
		if got := resp.Topics[0].Partitions; len(got) != 10 || got[0].BaseOffset != 2 || got[1].ErrorCode == 0 {
			t.Errorf("%d entries, the first %+v", len(got), got[0])
		}
		if all := w.start(entries(1 << 15)); len(w.prod.calls) != 3 {
			t.Errorf("the memory for entries was not given back: %v", all.Response())
		}
		w.prod.finish(2, func(b *kafka.AppendBatch) { b.Base = 3 })
	})
}

// What a topic's compression.type makes of a batch is charged to the budget as the frame is, and
// refused, to be sent again, while there is no room.
func TestRecompressedBatchesAreCharged(t *testing.T) {
	for room, want := range map[int64]int16{1 << 20: 0, 100: kerr.NotEnoughReplicas.Code} {
		w := newWorld(t)
		topic := w.create("t", 1, "compression.type=zstd")
		req := produceReq(9, -1, toPartition{topic, 0, records(30)})
		frame := int64(len(request(req).Body))
		budget := protocol.NewBudget(frame + room)
		p := w.h.Serve(w.ctx, nil, charged(t, req, budget))
		if want == 0 {
			if n := int64(len(w.prod.calls[0][0].Data)); budget.InUse() != frame+n && budget.InUse() != n {
				t.Errorf("%d bytes are charged for a batch of %d from a frame of %d", budget.InUse(), n, frame)
			}
			w.prod.finish(0, func(b *kafka.AppendBatch) { accept([]*kafka.AppendBatch{b}) })
		}
		<-p.Done()
		out := kmsg.NewPtrProduceResponse()
		out.Version = 9
		if err := out.ReadFrom(p.Response().Buffers[0]); err != nil {
			t.Fatal(err)
		}
		if got := out.Topics[0].Partitions[0].ErrorCode; got != want {
			t.Errorf("with room for %d bytes: code %d, want %d", room, got, want)
		}
	}
}
