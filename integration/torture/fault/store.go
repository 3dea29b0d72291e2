//go:build linux

package fault

import (
	"context"
	"os"
	"time"

	"github.com/floelog/floe/integration/nemesis"
	"github.com/floelog/floe/integration/torture/rig"
)

func storeFaults() []Fault {
	return []Fault{
		&simple{"F17", "the object store is slow, now and then very slow", storeRound(8*time.Second, nemesis.Slow)},
		&simple{"F18", "the object store fails and throttles in bursts", storeRound(time.Second, nemesis.Error, nemesis.SlowDown)},
		&simple{"F19", "PUTs are done and not answered", storeRound(time.Second, nemesis.LostReply)},
		&simple{"F20", "PUTs are refused and done later", storeRound(15*time.Second, nemesis.LatePut)},
		&simple{"F21", "GETs bring less, or other bytes", storeRound(time.Second, nemesis.Truncated, nemesis.Flipped, nemesis.WrongRange)},
		&simple{"F22", "objects seem not to be there, LISTs lie", storeRound(time.Second, nemesis.NotFound, nemesis.ListMissing, nemesis.ListExtra)},
		&simple{"F23", "agents are killed while they upload", killUploading},
		&simple{"F24", "credentials are refused, or the bucket is gone", storeRound(time.Second, nemesis.Denied, nemesis.NoBucket)},
		&simple{"F29", "merges, retention, log compaction and the sweep race with reads", races},
	}
}

// storeRound has an object store do some things wrong, to a share of the requests that is drawn, up to all of them.
func storeRound(delay time.Duration, faults ...nemesis.Fault) func(context.Context, *Round) (int, error) {
	return func(ctx context.Context, r *Round) (fired int, err error) {
		shares := map[nemesis.Fault]float64{}
		for _, f := range faults {
			shares[f] = []float64{0.01, 0.1, 0.5, 1}[r.Rand.IntN(4)]
		}
		var all []*nemesis.StoreImposition
		hit := r.agents()
		for _, a := range hit {
			all = append(all, a.Store.Impose(shares, delay))
		}
		r.hold(ctx, 3*time.Second, 10*time.Second)
		for _, i := range all {
			fired += i.Fired()
		}
		if fired == 0 { // what they need is in their memory
			cold(ctx, r, hit[0])
			r.hold(ctx, 2*time.Second, 4*time.Second)
		}
		fired = 0
		for _, i := range all {
			fired += i.Lift()
		}
		return fired, hit[0].Start(healing(ctx))
	}
}

// cold starts an agent again without anything in its caches, so that it asks the object store.
func cold(ctx context.Context, r *Round, a *rig.Agent) {
	a.Kill()
	if err := os.RemoveAll(a.CacheDir()); err != nil {
		r.Note("empty the cache of %s: %v", a.Name(), err)
	}
	limited, cancel := context.WithTimeout(ctx, 8*time.Second)
	defer cancel()
	_ = a.Start(limited) // while the store fails, it cannot: its caller starts it when that is over
}

// killUploading makes uploads slow, and kills an agent that is in the middle of one.
func killUploading(ctx context.Context, r *Round) (fired int, err error) {
	a := r.agent()
	slow := a.S3.Impose(nemesis.Trouble{Up: nemesis.Traffic{Rate: 64 << 10}})
	limited, cancel := context.WithTimeout(ctx, 8*time.Second)
	defer cancel()
	const pieces = 10 // of 20 ms each: what takes so long has a body
	if slow.Await(limited, pieces) && a.Kill() {
		fired = 1
	}
	slow.Lift()
	return fired, rig.StartAll(healing(ctx), []*rig.Agent{a})
}

// races breaks nothing: jobs that run thousands of times faster than by default are what races. It counts
// the kinds of jobs that have done something beside the load.
func races(ctx context.Context, r *Round) (fired int, err error) {
	names := []string{"floe_merge_runs_total", "floe_clean_passes_total", "floe_gc_deleted_objects_total", "floe_retention_records_total"}
	before := map[string]float64{}
	for _, name := range names {
		before[name] = r.Cluster.Total(name)
	}
	r.hold(ctx, 5*time.Second, 10*time.Second)
	for _, name := range names {
		if r.Cluster.Total(name) > before[name] {
			fired++
		}
	}
	return fired, nil
}
