package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/floelog/floe/agent/peer"
	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/metadata/membership"
	"github.com/floelog/floe/tiering"
)

// balanceEvery is how often loads are gathered. A membership.Balancer wants several in a row
// before it says anything. More often: what it sees is the same load again. Less often: a hot
// agent stays hot for longer.
const balanceEvery = 10 * time.Second

// balancing is what an agent counts of it.
type balancing struct {
	moved  prometheus.Counter
	failed prometheus.Counter
}

func newBalancing(reg prometheus.Registerer) *balancing {
	b := &balancing{
		moved:  prometheus.NewCounter(prometheus.CounterOpts{Name: "floe_placement_moves_total", Help: "Shards that this agent, as leader of shard 0, has pinned to another agent because of their load."}),
		failed: prometheus.NewCounter(prometheus.CounterOpts{Name: "floe_placement_failures_total", Help: "Rounds of placement by load that failed: an agent did not tell its load, or the pins were not written."}),
	}
	reg.MustRegister(b.moved, b.failed)
	return b
}

// registerLoads exposes what placement goes by.
func registerLoads(reg prometheus.Registerer, loads *shardLoads, pins *membership.Placement) error {
	return errors.Join(
		reg.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "floe_led_load_bytes", Help: "Load of the shards that this agent leads, a mean over about a minute: bytes of batches sequenced per second, and 16 KiB for each submission."}, loads.total)),
		reg.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "floe_placement_pins", Help: "Shards that are pinned to agents because of their load."}, func() float64 { return float64(len(pins.View().Pins())) })),
	)
}

// balance keeps hot shards apart as long as this agent leads shard 0: it gathers the loads of
// all shards and writes pins when a membership.Balancer says so. It only ever writes then.
func (a *Agent) balance(ctx context.Context) {
	var b *membership.Balancer // nil: not the leader
	tick := time.NewTicker(balanceEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		leader := a.set.Leader(0)
		if leader == nil {
			b = nil
			continue
		}
		if b == nil {
			b = &membership.Balancer{}
		}
		if err := a.balanceOnce(ctx, leader, b); err != nil && ctx.Err() == nil {
			a.balancing.failed.Inc()
			a.parts.Log.Debug("placing shards by their load", "err", err)
		}
	}
}

// balanceOnce is one round.
func (a *Agent) balanceOnce(ctx context.Context, leader *journal.Leader, b *membership.Balancer) error {
	ctx, cancel := context.WithTimeout(ctx, peerTimeout)
	defer cancel()
	view := a.placing.look()
	agents, pins := view.agents.Serving(membership.RoleProduce), view.pins.Pins()
	if len(agents) < 2 && len(pins) == 0 {
		return nil
	}
	loads, err := a.gather(ctx, agents)
	if err != nil {
		return err
	}
	known, _ := a.set.Leaderships()
	next, changed := b.Step(membership.Measurement{
		At: time.Now(), Shards: view.shards, Agents: view.agents.ServingIDs(membership.RoleProduce),
		Leaders: liveLeaders(known), Loads: loads, Pins: pins,
	})
	if !changed {
		return nil
	}
	if err := a.placing.pins.Put(ctx, view.pins, next, leader.Held()); err != nil {
		return err
	}
	for id, p := range next {
		if old, ok := pins[id]; !ok || old.Node != p.Node {
			a.balancing.moved.Inc()
			a.parts.Log.Info("a shard moves because of its load", "shard", id, "to", p.Node, "bytes_per_second", int64(p.Load))
		}
	}
	return nil
}

// gather asks every agent for the loads of what it leads. All must answer: what is not known
// is not zero, and one that does not know the question would not follow pins.
func (a *Agent) gather(ctx context.Context, agents []membership.Agent) (map[tiering.ShardID]membership.Load, error) {
	var mu sync.Mutex
	all := map[tiering.ShardID]membership.Load{}
	g, ctx := errgroup.WithContext(ctx)
	for _, other := range agents {
		g.Go(func() error {
			loads, err := a.askLoad(ctx, other)
			if err != nil {
				return fmt.Errorf("the load of agent %d: %w", other.NodeID, err)
			}
			mu.Lock()
			defer mu.Unlock()
			maps.Copy(all, loads)
			return nil
		})
	}
	return all, g.Wait()
}

func (a *Agent) askLoad(ctx context.Context, other membership.Agent) (map[tiering.ShardID]membership.Load, error) {
	if int32(other.NodeID) == a.node.Load() {
		return a.questions.loads.now(), nil
	}
	b, err := a.parts.Peers.Ask(ctx, other.RPCAddress, peer.Question{Kind: loadKind})
	if err != nil {
		return nil, err
	}
	var loads map[tiering.ShardID]membership.Load
	if err := json.Unmarshal(b, &loads); err != nil {
		return nil, fmt.Errorf("%w: an answer that cannot be read: %w", metadata.ErrInvalid, err)
	}
	return loads, nil
}
