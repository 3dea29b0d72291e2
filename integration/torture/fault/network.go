//go:build linux

package fault

import (
	"context"
	"time"

	"github.com/floelog/floe/integration/nemesis"
	"github.com/floelog/floe/integration/torture/rig"
)

func networkFaults() []Fault {
	return []Fault{
		&simple{"F4", "agents and etcd do not hear each other, or one of them", partEtcd},
		&simple{"F5", "agents and the object store do not hear each other", partStore},
		&simple{"F6", "clients are cut, and answers dropped", cutClients},
		&simple{"F11", "what etcd says comes late", lateWatch},
		&simple{"F30", "commits wait while garbage is collected", slowCommitter},
		&simple{"F33", "requests come late, or twice, on other connections", replay},
	}
}

// silence draws a partition: both ways, one way, or refused; connections end or go on afterwards.
func (r *Round) silence() nemesis.Trouble {
	hole := nemesis.Traffic{Blackhole: true}
	t := nemesis.Trouble{CutOnLift: r.chance(0.5)}
	switch r.Rand.IntN(4) {
	case 0:
		t.Up = hole
	case 1:
		t.Down = hole
	default:
		t.Up, t.Down = hole, hole
	}
	return t
}

// part imposes a partition on each agent's links and returns how many agents it met.
func (r *Round) part(ctx context.Context, hit []*rig.Agent, links func(*rig.Agent) []*nemesis.Link, least, most time.Duration) (met int) {
	t := r.silence()
	var all []nemesis.Impositions
	for _, a := range hit {
		all = append(all, nemesis.Together(links(a), t))
		if r.chance(0.2) {
			for _, l := range links(a) {
				l.Cut() // and so that both know at once
			}
		}
	}
	r.hold(ctx, least, most)
	for _, i := range all {
		if i.Lift() > 0 {
			met++
		}
	}
	return met
}

func partEtcd(ctx context.Context, r *Round) (int, error) {
	// Some are shorter than a lease: nothing is lost but time.
	return r.part(ctx, r.agents(), func(a *rig.Agent) []*nemesis.Link { return a.Etcd }, rig.LeaseTTL/2, 3*rig.LeaseTTL), nil
}

func partStore(ctx context.Context, r *Round) (int, error) {
	return r.part(ctx, r.agents(), func(a *rig.Agent) []*nemesis.Link { return []*nemesis.Link{a.S3} }, time.Second, 10*time.Second), nil
}

// cutClients drops answers, then cuts everybody.
func cutClients(ctx context.Context, r *Round) (fired int, err error) {
	for _, a := range r.agents() {
		drops := a.Kafka.DropReplies(1 + r.Rand.IntN(20))
		r.hold(ctx, 500*time.Millisecond, 2*time.Second)
		fired += drops.Lift() + a.Kafka.Cut()
	}
	return fired, nil
}

func lateWatch(ctx context.Context, r *Round) (int, error) {
	var links []*nemesis.Link
	for _, a := range r.agents() {
		links = append(links, a.Etcd...)
	}
	late := nemesis.Together(links, nemesis.Trouble{Down: nemesis.Traffic{
		Delay: time.Duration(r.Rand.Int64N(int64(time.Second))), Jitter: time.Duration(1 + r.Rand.Int64N(int64(time.Second))),
	}})
	r.hold(ctx, 4*time.Second, 12*time.Second)
	return min(late.Lift(), 1), nil
}

// slowCommitter holds what agents say to each other, and so the commits of segments that are uploaded, for as
// long as the sweeper takes to look twice; sessions live on.
func slowCommitter(ctx context.Context, r *Round) (int, error) {
	swept := r.Cluster.Total("floe_gc_sweeps_total")
	var links []*nemesis.Link
	for _, a := range r.agents() {
		links = append(links, a.RPC)
	}
	held := nemesis.Together(links, nemesis.Trouble{Up: nemesis.Traffic{Blackhole: true}})
	r.hold(ctx, 8*time.Second, 15*time.Second)
	if held.Lift() > 0 && r.Cluster.Total("floe_gc_sweeps_total") > swept {
		return 1, nil
	}
	return 0, nil
}

// API keys of requests that a coordinator is asked with, which a late copy must not harm. Plain produce
// requests and commits of offsets are not among them: those of a client that is not fenced
// take effect as often as they come, by the protocol.
var replayed = []int16{
	11, // JoinGroup
	14, // SyncGroup
	24, // AddPartitionsToTxn
	25, // AddOffsetsToTxn
	26, // EndTxn
	28, // TxnOffsetCommit
}

func replay(ctx context.Context, r *Round) (fired int, err error) {
	var orders nemesis.Impositions
	for _, a := range r.Cluster.Agents() {
		for range 4 {
			orders = append(orders, a.Kafka.Capture(nemesis.Frames{
				Keys: replayed[r.Rand.IntN(len(replayed)):], Most: 1 + r.Rand.IntN(3), Hold: r.chance(0.5),
				After: []time.Duration{0, 5 * time.Millisecond, 100 * time.Millisecond, time.Second, 4 * time.Second}[r.Rand.IntN(5)],
			}))
		}
	}
	r.hold(ctx, 6*time.Second, 10*time.Second)
	return orders.Lift(), nil
}
