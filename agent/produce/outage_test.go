package produce

import (
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore/memory"
)

// outage is a rig whose agent knows that the store is down.
type outage struct {
	*rig
	down, shed atomic.Bool
}

func newOutage(cfg Config) *outage {
	o := &outage{rig: &rig{
		store: &slowStore{Store: memory.New(), took: map[uint64]time.Duration{}, fail: map[uint64]error{}},
		seq:   &leader{states: map[tiering.ShardID]*shard.State{}},
	}}
	cfg.UploadTime = time.Minute
	o.Pipeline = New(cfg, Parts{
		Objects: o.store, Sequence: o.seq, Tail: noTail{}, Session: tiering.SessionID{9}, Shards: 4,
		Now: time.Now, Log: slog.New(slog.DiscardHandler), Observe: &quietObserver{}, StoreDown: o.down.Load, Shed: o.shed.Load,
	})
	return o
}

// onShard makes a batch of a partition that shares shard 0 with others.
func onShard(t *testing.T, partition int32, name string, n int) *Batch {
	b := records(t, partition, name, n)
	b.Shard = 0
	return b
}

// While nothing can be stored, what is small goes on: past the large flushes of other partitions,
// but never past one of its own.
func TestSmallBatchesPassByFlushesInAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutage(Config{FlushBytes: 1, FlushAge: time.Second, Uploads: 4, InlineMax: 200, InlineRate: 1 << 20})
		o.store.took[1] = 20 * time.Second
		large, large2 := onShard(t, 0, "a name that is long enough for none of it to be small", 50), onShard(t, 1, "the same as it was before in the other one", 50)
		waits := o.sent(large, large2)
		time.Sleep(time.Second)
		behind := onShard(t, 2, "s", 1)
		b := o.sent(behind)
		synctest.Wait()
		if closed(b) {
			t.Error("a batch passed by a flush although the store is up")
		}
		o.down.Store(true)
		// That batch waits in the same lane, so a later one of its partition waits, too.
		own, second, other := onShard(t, 0, "s", 1), onShard(t, 2, "s", 1), onShard(t, 3, "s", 1)
		c, d, e := o.sent(own), o.sent(second), o.sent(other)
		more := onShard(t, 3, "s", 1)
		f := o.sent(more)
		synctest.Wait()
		if closed(waits) || closed(b) || closed(c) || closed(d) {
			t.Error("a batch passed by one of its own partition that waits")
		}
		if !closed(e) || !closed(f) || other.Code != 0 || other.Base != 0 || more.Base != 1 {
			t.Errorf("small batches of a partition without others waited: %v at %d, %v at %d", other.Code, other.Base, more.Code, more.Base)
		}
		for _, c := range []chan struct{}{waits, b, c, d} {
			<-c
		}
		if large.Base != 0 || own.Base != 50 || behind.Base != 0 || second.Base != 1 {
			t.Errorf("offsets %d, %d of partition 0 and %d, %d of partition 2: want 0, 50, 0, 1", large.Base, own.Base, behind.Base, second.Base)
		}
		o.close(t)
	})
}

// What there is no memory for is refused at once, with an error that clients retry; small
// batches go on.
func TestLargeBatchesAreShed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutage(Config{FlushBytes: 1, FlushAge: time.Second, Uploads: 4, InlineMax: 200, InlineRate: 1 << 20})
		o.down.Store(true)
		o.shed.Store(true)
		large, small := onShard(t, 0, "a name that is long enough for none of it to be small", 50), onShard(t, 1, "s", 1)
		start := time.Now()
		a, b := o.sent(large), o.sent(small)
		<-a
		<-b
		if took := time.Since(start); took > 0 {
			t.Errorf("refused after %v", took)
		}
		if large.Code != kerr.NotEnoughReplicas.Code || large.Base != -1 || !kerr.NotEnoughReplicas.Retriable {
			t.Errorf("the large batch got code %d at %d", large.Code, large.Base)
		}
		if small.Code != 0 || small.Base != 0 {
			t.Errorf("the small batch got code %d at %d", small.Code, small.Base)
		}
		if len(o.store.puts) > 0 {
			t.Errorf("%v was stored", o.store.puts)
		}
		o.shed.Store(false)
		again := onShard(t, 0, "a name that is long enough for none of it to be small", 50)
		<-o.sent(again)
		if again.Code != 0 || again.Base != 0 {
			t.Errorf("the retry got code %d at %d", again.Code, again.Base)
		}
		o.close(t)
	})
}
