package kafka

import (
	"slices"

	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/tiering"
)

// view is who is live at one time, so that all parts of one response agree.
type view struct {
	h      *Handler
	agents []Agent // by node id
	lists  map[replicaList][]int32
}

// replicaList says which list of replicas it is: partitions share a few.
type replicaList struct {
	leader int32
	count  int
}

func (h *Handler) view() view {
	return view{h, h.Cluster.Agents(), map[replicaList][]int32{}}
}

// controller returns the node that clients send changes of topics to. Any agent can take
// them; that all name the same one keeps clients from switching. -1: nobody is live.
func (v view) controller() int32 {
	if len(v.agents) == 0 {
		return -1
	}
	return v.agents[0].NodeID
}

func (v view) index(node int32) int {
	return slices.IndexFunc(v.agents, func(a Agent) bool { return a.NodeID == node })
}

// leader returns who leads the shard, always one of the live agents: if the leader is
// not among them (any more, or yet), the shard's number picks another. -1: nobody is live.
func (v view) leader(shard tiering.ShardID) (node int32, epoch tiering.LeaderEpoch) {
	node, epoch = v.h.Cluster.Leader(shard)
	if len(v.agents) == 0 {
		return -1, epoch
	}
	if v.index(node) < 0 {
		node = v.agents[int(shard)%len(v.agents)].NodeID
	}
	return node, epoch
}

// replicas returns what clients are told of a partition's replicas: the leader, one agent
// of each other zone, whatever the replication factor, so that consumers can be sent to
// their own (KIP-392), and, for appearance's sake, further agents until there are as many
// as the topic's replication factor says. Any agent can serve any partition, so all
// are in sync. The list is shared.
func (v view) replicas(t *catalogue.Topic, leader int32) []int32 {
	i := v.index(leader)
	if i < 0 {
		return []int32{}
	}
	list := replicaList{leader, min(max(int(t.ReplicationFactor), v.zones()), len(v.agents))}
	nodes := v.lists[list]
	if nodes == nil {
		nodes = v.spread(i, list.count)
		v.lists[list] = nodes
	}
	return nodes
}

// zones counts the zones that have agents; those without a zone count as one.
func (v view) zones() int {
	n := 0
	for i := range v.agents {
		if !slices.ContainsFunc(v.agents[:i], func(a Agent) bool { return a.Rack == v.agents[i].Rack }) {
			n++
		}
	}
	return n
}

// spread returns n agents, from the one at an index on, in as many zones as can be.
func (v view) spread(from, n int) []int32 {
	nodes := make([]int32, 0, n)
	zones := map[string]bool{}
	for _, anew := range []bool{true, false} {
		for k := range v.agents {
			a := &v.agents[(from+k)%len(v.agents)]
			if len(nodes) == n || zones[a.Rack] == anew || slices.Contains(nodes, a.NodeID) {
				continue
			}
			zones[a.Rack] = true
			nodes = append(nodes, a.NodeID)
		}
	}
	return nodes
}

// preferred returns the agent that a client near the given ones is sent to by this agent,
// which leads the partition; -1: none. It is one of the replicas that clients are told
// of: franz-go asks the leader again, for ever, when it is sent to another agent.
func (v view) preferred(t *catalogue.Topic, tp tiering.TopicPartition, nearby []Agent) int32 {
	told := v.replicas(t, v.h.Cluster.Self())
	var among []Agent
	for _, a := range nearby {
		if slices.Contains(told, a.NodeID) {
			among = append(among, a)
		}
	}
	return nearest(among, tp)
}
