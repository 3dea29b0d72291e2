package kafka_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/kafka"
	"github.com/floelog/floe/protocol"
)

// longPoll is a reader without records: it waits, and counts who does.
type longPoll struct{ waiting atomic.Int32 }

func (l *longPoll) fetch(ctx context.Context, req kafka.FetchRequest) []kafka.FetchResult {
	l.waiting.Add(1)
	defer l.waiting.Add(-1)
	timer := time.NewTimer(req.MaxWait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return make([]kafka.FetchResult, len(req.Partitions))
}

// begin serves a request in the background.
func (w *world) begin(r *protocol.Request) chan *protocol.Pending {
	c := make(chan *protocol.Pending, 1)
	go func() { c <- w.h.Serve(w.ctx, nil, r) }()
	synctest.Wait()
	return c
}

// A fetch that waits must not hold what other requests are decoded with.
func TestFetchWaitsWithoutItsCharge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		topic := w.create("t", 1)
		var l longPoll
		w.reader.fetch = l.fetch
		control := protocol.NewBudget(1 << 20)
		p := w.begin(charged(t, fetchReq(12, fromPartition{topic, 0, -1}), control))
		if l.waiting.Load() != 1 || control.InUse() != 0 {
			t.Errorf("%d fetches wait and hold %d bytes of the control budget", l.waiting.Load(), control.InUse())
		}
		<-p
	})
}

// What waiting fetches hold is bounded: beyond it they wait for their turn, no longer than
// their clients want to, and are answered with what there is.
func TestWaitingFetchesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		topic := w.create("t", 1)
		var l longPoll
		w.reader.fetch = l.fetch
		parts := make([]fromPartition, 40_000)
		for i := range parts {
			parts[i] = fromPartition{topic, 0, -1}
		}
		large := func(wait int32) *protocol.Request {
			req := fetchReq(6, parts...)
			req.MaxWaitMillis = wait
			return request(req)
		}
		var all []chan *protocol.Pending
		for _, wait := range []int32{4_000, 4_000, 4_000, 10_000} {
			all = append(all, w.begin(large(wait)))
		}
		if n := l.waiting.Load(); n != 3 {
			t.Errorf("%d fetches of 40,000 partitions wait, want 3", n)
		}
		start := time.Now()
		if <-w.begin(large(500)); time.Since(start) != 500*time.Millisecond {
			t.Errorf("answered after %v, want half a second", time.Since(start))
		}
		for _, p := range all {
			<-p
		}
		if d := time.Since(start); d != 10*time.Second {
			t.Errorf("all are answered after %v, want 10 s: the fourth's turn comes after 4", d)
		}
	})
}

// A session has one request waiting: a newer one ends it, and so does the session's end.
func TestOneFetchWaitsPerSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		topic := w.create("t", 1)
		first := fetchReq(12, fromPartition{topic, 0, -1})
		first.SessionEpoch = 0
		opened := call[*kmsg.FetchResponse](w, first)
		if opened.SessionID == 0 {
			t.Fatalf("no session: %+v", opened)
		}
		var l longPoll
		w.reader.fetch = l.fetch
		next := func(epoch int32) *kmsg.FetchRequest {
			req := fetchReq(12)
			req.SessionID, req.SessionEpoch, req.MaxWaitMillis = opened.SessionID, epoch, 20_000
			return req
		}
		start := time.Now()
		a := w.begin(request(next(1)))
		b := w.begin(request(next(2)))
		if n := l.waiting.Load(); n != 1 {
			t.Errorf("%d requests of one session wait", n)
		}
		if resp := answered[*kmsg.FetchResponse](w, first, <-a); resp.ErrorCode != kerr.InvalidFetchSessionEpoch.Code {
			t.Errorf("the request that was overtaken: %+v", resp)
		}
		w.reader.fetch = nil
		last := fetchReq(12, fromPartition{topic, 0, -1})
		last.SessionID = opened.SessionID // with epoch -1: ends the session
		call[*kmsg.FetchResponse](w, last)
		if resp := answered[*kmsg.FetchResponse](w, first, <-b); resp.ErrorCode != kerr.FetchSessionIDNotFound.Code {
			t.Errorf("the request whose session ended: %+v", resp)
		}
		if d := time.Since(start); d != 0 {
			t.Errorf("they were answered after %v", d)
		}
	})
}

const batchSize = 1048588 // the default of max.message.bytes

// The records of answers that no client has taken are bounded; an answer gets smaller, down
// to a batch, then waits, and at last goes without records.
func TestFetchMemoryIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(s *kafka.Settings) { s.FetchMemory, s.FetchLaggingMemory = 6*batchSize, 2*batchSize })
		topic := w.create("t", 1)
		const there = 16 << 20
		w.reader.fetch = func(_ context.Context, req kafka.FetchRequest) []kafka.FetchResult {
			n, ok := req.Admit(w.ctx, false, there)
			if !ok {
				return []kafka.FetchResult{{HighWatermark: 10}}
			}
			return []kafka.FetchResult{{HighWatermark: 10, Records: [][]byte{make([]byte, n)}}}
		}
		start := func() chan *protocol.Pending {
			req := fetchReq(12, fromPartition{topic, 0, -1})
			req.MaxBytes = 8 << 20
			return w.begin(request(req))
		}
		size := func(p *protocol.Pending) (n int) {
			for _, b := range p.Response().Buffers {
				n += len(b)
			}
			return n &^ 1023 // without what is not records
		}
		var answers []*protocol.Pending
		for i, want := range []int{2 * batchSize, batchSize, batchSize} {
			answers = append(answers, <-start())
			if got := size(answers[i]); got != want&^1023 {
				t.Errorf("answer %d has %d bytes, want %d", i, got, want)
			}
		}
		began := time.Now()
		if got := size(<-start()); got != 0 || time.Since(began) != 5*time.Second {
			t.Errorf("without memory: %d bytes after %v", got, time.Since(began))
		}
		waits := start()
		answers[0].Response().Release()
		if got := size(<-waits); got != batchSize&^1023 {
			t.Errorf("the one that waited got %d bytes, want a batch", got)
		}
	})
}

// Only what the records take is held until the answer is written, and nothing without any.
func TestFetchMemoryIsGivenBack(t *testing.T) {
	w := newWorld(t, func(s *kafka.Settings) { s.FetchMemory = 4 * batchSize })
	topic := w.create("t", 1)
	asked, lacking := 0, false
	w.reader.fetch = func(_ context.Context, req kafka.FetchRequest) []kafka.FetchResult {
		n, ok := req.Admit(w.ctx, false, 1<<20)
		if asked++; !ok || n < 1<<20 {
			lacking = true
		}
		return []kafka.FetchResult{{Records: [][]byte{make([]byte, 1000)}}}
	}
	for range 100 {
		w.start(fetchReq(12, fromPartition{topic, 0, -1})) // nobody takes them
	}
	if lacking || asked != 100 {
		t.Error("100 answers of 1,000 bytes hold 2 MiB")
	}
}

// Answers of consumers that lag have memory of their own: when it is in use, others do not wait.
func TestFetchMemoryOfThoseThatLagIsApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(s *kafka.Settings) { s.FetchMemory, s.FetchLaggingMemory = 4*batchSize, batchSize })
		topic := w.create("t", 1)
		lagging := true
		w.reader.fetch = func(ctx context.Context, req kafka.FetchRequest) []kafka.FetchResult {
			n, ok := req.Admit(ctx, lagging, 1000)
			if !ok {
				return []kafka.FetchResult{{}}
			}
			return []kafka.FetchResult{{Records: [][]byte{make([]byte, n)}, Lagging: lagging}}
		}
		fetch := func() (*protocol.Pending, time.Duration) {
			began := time.Now()
			p := <-w.begin(request(fetchReq(12, fromPartition{topic, 0, -1})))
			return p, time.Since(began)
		}
		first, _ := fetch()
		if _, took := fetch(); took != 5*time.Second {
			t.Errorf("another consumer that lags was answered after %v, want without records after 5 s", took)
		}
		lagging = false
		for range 3 {
			if _, took := fetch(); took != 0 {
				t.Errorf("a consumer that keeps up waited for %v", took)
			}
		}
		lagging = true
		first.Response().Release()
		if _, took := fetch(); took != 0 {
			t.Errorf("memory that was given back is waited for: %v", took)
		}
	})
}

func TestFetchMemoryIsDivided(t *testing.T) {
	for lagging, ok := range map[int64]bool{-1: false, 0: true, 99 << 20: true, 100 << 20: false, 101 << 20: false} {
		s := kafka.DefaultSettings()
		s.FetchMemory, s.FetchLaggingMemory = 100<<20, lagging
		if err := s.Validate(); (err == nil) != ok {
			t.Errorf("%d of %d bytes for those that lag: %v", lagging, s.FetchMemory, err)
		}
	}
}
