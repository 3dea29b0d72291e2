package agent

import (
	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/metadata/membership"
	"github.com/floelog/floe/tiering"
)

// placing says where shards belong, by who is there, what they are for, who leads now and
// what load has pinned. All agents compute the same from it.
type placing struct {
	set    *journal.Set
	agents *membership.Agents
	pins   *membership.Placement
}

// placingView is what placement goes by, at one time.
type placingView struct {
	shards uint32
	agents membership.AgentsView
	pins   membership.PlacementView
}

func (p *placing) look() placingView {
	return placingView{p.set.NumShards(), p.agents.View(), p.pins.View()}
}

// place says which of the agents with a role each shard belongs to.
func (v placingView) place(role membership.Role, leaders map[tiering.ShardID]membership.NodeID) map[tiering.ShardID]membership.NodeID {
	return v.agents.Place(role, v.shards, leaders, v.pins.Pins())
}

// liveLeaders returns who leads the shards that have a leader.
func liveLeaders(known []journal.Leadership) map[tiering.ShardID]membership.NodeID {
	leaders := make(map[tiering.ShardID]membership.NodeID, len(known))
	for i, k := range known {
		if k.Live {
			leaders[tiering.ShardID(i)] = membership.NodeID(k.Node)
		}
	}
	return leaders
}
