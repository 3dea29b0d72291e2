package sweep_test

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/compaction/sweep"
	"github.com/floelog/floe/metadata/memory"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
	"github.com/floelog/floe/tiering/objstore/faults"
)

// liar is a bucket whose LIST leaves keys out, repeats pages, or invents them.
type liar struct {
	objstore.Store
	mu   sync.Mutex // guards the following
	rnd  *rand.Rand
	rate float64
	told int
}

func (l *liar) List(ctx context.Context, prefix, after string, limit int) ([]objstore.Info, error) {
	infos, err := l.Store.List(ctx, prefix, after, limit)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil || l.rnd.Float64() >= l.rate || len(infos) == 0 {
		return infos, err
	}
	l.told++
	i := l.rnd.IntN(len(infos))
	switch l.rnd.IntN(5) {
	case 0:
		return append(infos[:i:i], infos[i+1:]...), nil
	case 1:
		return infos[:i], nil
	case 2:
		return append(infos[:i+1:i+1], infos[i:]...), nil
	case 3:
		infos[i].Key = prefix + "stray"
		return infos, nil
	}
	return nil, nil
}

// agentsAtWork lets a cluster flush, merge, archive, trim, drop and die for a while, with
// two sweepers at work.
func agentsAtWork(w *world, rnd *rand.Rand, grace time.Duration, store *faults.Store, lies *liar) {
	var work sync.WaitGroup
	ctx, stop := context.WithCancel(w.ctx)
	for range 2 {
		pause := rand.New(rand.NewPCG(rnd.Uint64(), 1))
		work.Go(func() {
			meta := w.server.Client("sweeper")
			meta.Inject(memory.Faults{Latency: 300 * time.Millisecond, FailBefore: 0.01, FailAfter: 0.01, ApplyLate: 0.01, LateBy: 10 * time.Second,
				WatchLag: 0.3, WatchLagBy: 8 * time.Second}, rand.New(rand.NewPCG(pause.Uint64(), 1)))
			views := w.journals(meta, w.bucket)
			run, end := context.WithCancel(w.ctx)
			ended := make(chan struct{})
			go func() { defer close(ended); _ = views.Run(run) }()
			defer func() { end(); <-ended }()
			s := w.sweeper(grace, func(cfg *sweep.Config, p *sweep.Parts) {
				cfg.Window = 40
				p.Meta, p.Objects, p.Shards, p.Garbage = meta, guarded{lies, w}, views, w.judged
				p.Manifests = manifests{store}
			})
			for ctx.Err() == nil {
				r := s.Sweep(w.ctx)
				if r.Frozen || r.Lost > 0 {
					w.t.Errorf("a sound cluster is in doubt: %v", r.Err)
				}
				time.Sleep(5*time.Second + time.Duration(pause.Int64N(int64(20*time.Second))))
			}
		})
	}
	nodes := []*node{w.start(store), w.start(store), w.start(store)}
	for step := range 1000 {
		w.lead(rnd)
		i := rnd.IntN(len(nodes))
		n, hold := nodes[i], time.Duration(rnd.Int64N(int64(30*time.Second)))
		if rnd.IntN(3) > 0 {
			hold /= 100
		}
		tp := tiering.TopicPartition{Topic: tiering.TopicID{byte(rnd.IntN(3))}, Partition: int32(rnd.IntN(6))}
		other := tp
		other.Partition = (tp.Partition + 1) % 6
		x := rnd.IntN(100)
		to := w.state(tp).Next
		work.Go(func() { // what fails is part of the play
			switch {
			case x < 60:
				_ = n.flush(hold, tp, other)
			case x < 75:
				_ = n.merge(tp, hold)
			case x < 83:
				_ = n.archive(tp, hold)
			case x < 88:
				_ = n.unarchive(tp, hold)
			case x < 94:
				_ = n.change(tp, shard.Trim{Partition: tp, LogStart: to})
			case x < 95:
				_ = n.change(tp, shard.DropTopic{Topic: tp.Topic})
			}
		})
		if x >= 98 {
			n.kill()
			nodes[i] = w.start(store)
		}
		time.Sleep(time.Duration(rnd.Int64N(int64(time.Second))))
		if step%20 == 0 {
			w.check()
		}
	}
	stop()
	work.Wait()
}

// TestNothingThatIsNamedIsDeletedAndGarbageGoes plays random clusters with failing reads, late
// PUTs, lying lists and dying agents. At rest, two sweeps leave what is named.
func TestNothingThatIsNamedIsDeletedAndGarbageGoes(t *testing.T) {
	for seed := range uint64(4) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 7))
			grace := []time.Duration{20 * time.Second, time.Second}[seed%2]
			w := newWorld(t, 4)
			defer w.close()
			store := faults.New(w.bucket, rand.New(rand.NewPCG(seed, 2)), faults.Plan{
				Put: faults.Rates{Late: 0.05, LateGiveUp: time.Second, LateMin: time.Second, LateMax: 10 * time.Minute, LostReply: 0.02, Slow: 0.2, SlowMin: time.Millisecond, SlowMax: 5 * time.Second},
				Get: faults.Rates{Failed: 0.01, Missing: 0.002},
			})
			lies := &liar{Store: store, rnd: rand.New(rand.NewPCG(seed, 3)), rate: 0.06}
			agentsAtWork(w, rnd, grace, store, lies)
			deleted := w.deleted
			if deleted == 0 || lies.told == 0 {
				t.Errorf("seed %d: %d objects were deleted while agents worked, %d lists lied", seed, deleted, lies.told)
			}
			store.SetPlan(faults.Plan{})
			time.Sleep(15 * time.Minute) // PUTs that were held back arrive
			synctest.Wait()
			w.lead(rnd)
			time.Sleep(2 * snapshotAge)
			store.Close()
			s := w.sweeper(grace, nil)
			for range 2 {
				if r := s.Sweep(w.ctx); r.Err != nil {
					t.Fatalf("seed %d: a sweep at rest: %v", seed, r.Err)
				}
				time.Sleep(grace)
			}
			w.check()
			named := w.named()
			for key := range w.stored() {
				if !named[key] {
					t.Errorf("seed %d: %s is garbage and stays", seed, key)
				}
			}
			t.Logf("seed %d: %d objects deleted at work, %v, %d lies", seed, deleted, store.Fired(), lies.told)
			if len(named) == 0 {
				t.Errorf("seed %d: nothing was left to name", seed)
			}
		})
	}
}
