package produce

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/protocol/batch"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
	"github.com/floelog/floe/tiering/objstore/memory"
)

// rig is a pipeline over a store and a sequencer that the test holds.
type rig struct {
	*Pipeline
	store *slowStore
	seq   *leader
}

// slowStore lets the test decide how long each upload takes and which fails.
type slowStore struct {
	objstore.Store
	mu   sync.Mutex
	took map[uint64]time.Duration // by segment seq
	fail map[uint64]error
	puts []string
}

func (s *slowStore) Put(ctx context.Context, key string, body objstore.Body) error {
	id, err := tiering.ParseSegmentKey(key)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.puts = append(s.puts, key)
	d, fail := s.took[id.Seq], s.fail[id.Seq]
	s.mu.Unlock()
	time.Sleep(d)
	if fail != nil {
		return fail
	}
	return s.Store.Put(ctx, key, body)
}

// leader is a shard's leader: a real state machine without a journal.
type leader struct {
	mu     sync.Mutex
	states map[tiering.ShardID]*shard.State
	subs   []*shard.Submission
	took   time.Duration
	fail   error
}

func (l *leader) Sequence(ctx context.Context, id tiering.ShardID, s *shard.Submission) ([]shard.Outcome, error) {
	time.Sleep(l.took)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		return nil, l.fail
	}
	st := l.states[id]
	if st == nil {
		st = shard.New()
		l.states[id] = st
	}
	d := shard.NewDraft(st, 1, tiering.SessionID{1}, 7, 0)
	out, err := d.Submit(s)
	if err != nil {
		return nil, err
	}
	l.subs = append(l.subs, s)
	return out, st.Apply(d.Record())
}

type noTail struct{}

func (noTail) Offer(tiering.SegmentID, objstore.Body, int64) {}

// quietObserver notes why flushes closed.
type quietObserver struct {
	mu      sync.Mutex
	reasons []string
}

func (o *quietObserver) Flushed(_ int64, _ int, _ time.Duration, reason string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.reasons = append(o.reasons, reason)
}
func (*quietObserver) Uploaded(int64, time.Duration, error) {}
func (*quietObserver) Inlined(int, int)                     {}
func (*quietObserver) Sequenced(int, time.Duration)         {}
func (*quietObserver) Refused(int)                          {}

func newRig(cfg Config, o Observer) *rig {
	r := &rig{
		store: &slowStore{Store: memory.New(), took: map[uint64]time.Duration{}, fail: map[uint64]error{}},
		seq:   &leader{states: map[tiering.ShardID]*shard.State{}},
	}
	if cfg.UploadTime == 0 {
		cfg.UploadTime = time.Minute
	}
	r.Pipeline = New(cfg, Parts{
		Objects: r.store, Sequence: r.seq, Tail: noTail{}, Session: tiering.SessionID{9}, Shards: 4,
		Now: time.Now, Log: slog.New(slog.DiscardHandler), Observe: o,
	})
	return r
}

var topic = tiering.TopicID{1}

// records makes a batch of n records whose bytes name it.
func records(t testing.TB, partition int32, name string, n int) *Batch {
	t.Helper()
	b := batch.NewBuilder(batch.PlainFields(1000))
	for i := range n {
		b.Add(batch.Record{OffsetDelta: int32(i), Value: []byte(fmt.Sprintf("%s/%d", name, i))})
	}
	data, err := b.AppendTo(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &Batch{
		Partition: tiering.TopicPartition{Topic: topic, Partition: partition}, Shard: tiering.ShardID(partition), Data: data,
		Meta: shard.Batch{Length: int32(len(data)), Count: int32(n), MaxTimestamp: 1000, ProducerID: -1},
	}
}

// sent appends one batch and returns a channel that is closed when it has its result.
func (r *rig) sent(b ...*Batch) chan struct{} {
	done := make(chan struct{})
	r.Append(b, func() { close(done) })
	return done
}

func closed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func (r *rig) close(t *testing.T) {
	t.Helper()
	if err := r.Close(t.Context()); err != nil {
		t.Error("closing:", err)
	}
}

func TestALaterUploadThatIsFasterDoesNotOvertake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(Config{FlushBytes: 1, FlushAge: time.Second, Uploads: 4}, &quietObserver{})
		r.store.took[1] = 100 * time.Millisecond
		first, second := records(t, 0, "first", 3), records(t, 0, "second", 2)
		a, b := r.sent(first), r.sent(second)
		time.Sleep(50 * time.Millisecond)
		synctest.Wait()
		if closed(a) || closed(b) {
			t.Fatal("a batch was answered before the upload that its partition waits for")
		}
		<-a
		<-b
		if first.Base != 0 || second.Base != 3 || first.Code != 0 || second.Code != 0 {
			t.Errorf("offsets %d and %d (codes %d, %d), want 0 and 3", first.Base, second.Base, first.Code, second.Code)
		}
		r.close(t)
	})
}

func TestAFailedUploadFailsItsOwnBatchesOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(Config{FlushBytes: 1, FlushAge: time.Second, Uploads: 4}, &quietObserver{})
		r.store.took[1] = 10 * time.Millisecond
		r.store.fail[1] = objstore.ErrDenied
		lost, kept := records(t, 0, "lost", 1), records(t, 0, "kept", 1)
		a, b := r.sent(lost), r.sent(kept)
		<-a
		<-b
		if lost.Code != kerr.KafkaStorageError.Code || lost.Base != -1 {
			t.Errorf("the failed batch got code %d at %d, want KAFKA_STORAGE_ERROR", lost.Code, lost.Base)
		}
		if kept.Code != 0 || kept.Base != 0 {
			t.Errorf("the other batch got code %d at %d, want 0 at 0", kept.Code, kept.Base)
		}
		if low := r.LowWatermark(); low != 3 {
			t.Errorf("the low watermark is %d, want 3: both uploads are done with", low)
		}
		r.close(t)
	})
}

func TestNothingIsAnsweredBeforeItsCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(Config{FlushBytes: 1, FlushAge: time.Second, Uploads: 4}, &quietObserver{})
		r.seq.took = time.Hour
		done := r.sent(records(t, 0, "a", 1))
		time.Sleep(59 * time.Minute)
		synctest.Wait()
		if closed(done) {
			t.Fatal("a batch was answered although its shard's leader has not")
		}
		if low := r.LowWatermark(); low != 1 {
			t.Errorf("the low watermark is %d while segment 1 may still be named", low)
		}
		<-done
		r.close(t)
	})
}

func TestSmallPartsTravelInlineButNeverOvertake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(Config{FlushBytes: 1 << 20, FlushAge: 50 * time.Millisecond, Uploads: 1, InlineMax: 100, InlineRate: 1 << 20}, &quietObserver{})
		r.store.took[1] = 20 * time.Millisecond
		inline := records(t, 1, "i", 1)
		<-r.sent(inline)
		if len(r.store.puts) != 0 || inline.Code != 0 {
			t.Fatalf("a small batch cost %d uploads (code %d), want none", len(r.store.puts), inline.Code)
		}
		big, small := records(t, 2, "a batch that is too large to travel inline", 10), records(t, 2, "s", 1)
		a, b := r.sent(big), r.sent(small)
		<-a
		<-b
		if big.Base != 0 || small.Base != 10 {
			t.Errorf("offsets %d and %d, want 0 and 10: a small batch overtook a large one", big.Base, small.Base)
		}
		r.close(t)
	})
}

func TestInlineStopsAtItsBudgetAndRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := records(t, 0, "x", 1)
		size := float64(len(b.Data))
		r := newRig(Config{FlushBytes: 1, FlushAge: time.Second, Uploads: 4, InlineMax: 1 << 10, InlineRate: 4 * size}, &quietObserver{})
		for range 3 { // half a second's worth is two batches
			<-r.sent(records(t, 0, "x", 1))
		}
		if n := len(r.store.puts); n != 1 {
			t.Errorf("%d uploads after three batches, want 1: the third is beyond the budget", n)
		}
		time.Sleep(time.Second)
		<-r.sent(records(t, 0, "x", 1))
		if n := len(r.store.puts); n != 1 {
			t.Errorf("%d uploads after a pause, want still 1", n)
		}
		r.close(t)
	})
}

func TestWhyAFlushCloses(t *testing.T) {
	for _, c := range []struct {
		name string
		cfg  Config
		run  func(t *testing.T, r *rig)
		want []string
	}{
		{"at once while no upload is under way", Config{FlushBytes: 1 << 20, FlushAge: time.Hour, FlushIdle: true, Uploads: 2},
			func(t *testing.T, r *rig) { <-r.sent(records(t, 0, "a", 1)) }, []string{"idle"}},
		{"by age where idle flushes are off", Config{FlushBytes: 1 << 20, FlushAge: time.Second, Uploads: 2},
			func(t *testing.T, r *rig) {
				start := time.Now()
				<-r.sent(records(t, 0, "a", 1))
				if took := time.Since(start); took != time.Second {
					t.Errorf("answered after %v, want 1s", took)
				}
			}, []string{"age"}},
		{"what gathered during an upload leaves when it ends", Config{FlushBytes: 1 << 20, FlushAge: time.Hour, FlushIdle: true, Uploads: 2},
			func(t *testing.T, r *rig) {
				r.store.took[1] = time.Second
				a, b, c := r.sent(records(t, 0, "a", 1)), r.sent(records(t, 0, "b", 1)), r.sent(records(t, 1, "c", 1))
				<-a
				<-b
				<-c
			}, []string{"idle", "idle"}},
		{"the number of batches", Config{FlushBytes: 1 << 30, FlushAge: time.Hour, Uploads: 2},
			func(t *testing.T, r *rig) {
				many := make([]*Batch, maxFlushBatches)
				for i := range many {
					many[i] = records(t, int32(i%4), "n", 1)
				}
				<-r.sent(many...)
			}, []string{"batches"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := &quietObserver{}
				r := newRig(c.cfg, o)
				c.run(t, r)
				r.close(t)
				if fmt.Sprint(o.reasons) != fmt.Sprint(c.want) {
					t.Errorf("flushes closed by %v, want %v", o.reasons, c.want)
				}
			})
		})
	}
}

func TestADefiniteRefusalIsRetriableAndClosingAnswersEverybody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(Config{FlushBytes: 1, FlushAge: time.Second, Uploads: 4}, &quietObserver{})
		r.seq.fail = metadata.ErrSessionDead
		b := records(t, 0, "a", 1)
		<-r.sent(b)
		if b.Code != kerr.NotLeaderForPartition.Code {
			t.Errorf("code %d, want NOT_LEADER_OR_FOLLOWER", b.Code)
		}
		r.close(t)
		late := records(t, 0, "late", 1)
		<-r.sent(late)
		if late.Code != kerr.NotLeaderForPartition.Code {
			t.Errorf("after Close code %d, want NOT_LEADER_OR_FOLLOWER", late.Code)
		}
	})
}

func TestCloseGivesUpWhenItsContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(Config{FlushBytes: 1, FlushAge: time.Second, Uploads: 4}, &quietObserver{})
		stuck := stuckLeader{}
		r.Pipeline.parts.Sequence = stuck
		done := r.sent(records(t, 0, "a", 1))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := r.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Close returned %v, want its context's error", err)
		}
		<-done // abandoned, but answered
	})
}

// stuckLeader never answers.
type stuckLeader struct{}

func (stuckLeader) Sequence(ctx context.Context, _ tiering.ShardID, _ *shard.Submission) ([]shard.Outcome, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}
