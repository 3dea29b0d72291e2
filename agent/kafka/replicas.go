package kafka

import (
	"slices"

	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/tiering"
)

// view is who is live at one time, as one client is told of it, so that all parts of one
// response agree. It belongs to one request.
type view struct {
	h      *Handler
	asker  asker   // whom it is told
	all    []Agent // as Cluster.Agents has them
	agents []Agent // on the asker's listener, by node id

	zones   []string // that have agents; made when replicas are asked for
	leaders []int32  // by shard; made when a table needs them
	tables  map[audience][]int32
	lists   map[replicaList][]int32
}

// replicaList says which list of replicas it is: partitions share a few.
type replicaList struct {
	shard  tiering.ShardID
	leader int32
	count  int
}

// view returns who is live, as one is told who asks.
func (h *Handler) view(who asker) *view {
	all := h.Cluster.Agents()
	return &view{h: h, asker: who, all: all, agents: h.directory.agents(all, who.listener)}
}

// everybody returns the brokers that the asker is told of, and those that were live a moment ago.
func (v *view) everybody() []Agent {
	if v.asker.listener == DefaultListener {
		return v.h.Cluster.Familiar()
	}
	return listening(v.h.Cluster.Familiar(), v.asker.listener)
}

// controller returns the node that clients send changes of topics to. Any agent can take
// them; that all name the same one keeps clients from switching. -1: nobody is live.
func (v *view) controller() int32 {
	if len(v.agents) == 0 {
		return -1
	}
	return v.agents[0].NodeID
}

func (v *view) index(node int32) int {
	return slices.IndexFunc(v.agents, func(a Agent) bool { return a.NodeID == node })
}

// leader returns whom the asker is told of as a shard's leader, always one of the live
// agents of its listener: in its zone, if that has agents, the one that stands for the
// leader there (see near), and else the leader itself. -1: nobody is live. The epoch is
// that of the shard, whoever is named: any agent takes any produce and any fetch.
func (v *view) leader(shard tiering.ShardID) (node int32, epoch tiering.LeaderEpoch) {
	led, epoch := v.h.Cluster.Leader(shard)
	if near := v.near(v.asker.zone, false); near != nil {
		return near[shard], epoch
	}
	return v.elsewhere(shard, led), epoch
}

// coordinates returns the agent that coordinates what belongs to a shard: its leader, or, if
// that is not live, another, which will know. -1: clients of the asker's listener cannot reach
// it.
func (v *view) coordinates(shard tiering.ShardID) int32 {
	led, _ := v.h.Cluster.Leader(shard)
	if slices.ContainsFunc(v.all, func(a Agent) bool { return a.NodeID == led }) {
		return led
	}
	return v.elsewhere(shard, led)
}

// elsewhere returns the agent that leads a shard if the asker may be told so, and else one
// by the shard's number: if it is not among the live ones (any more, or yet), does not
// listen where the asker does, or is kept for other work.
func (v *view) elsewhere(shard tiering.ShardID, led int32) int32 {
	if i := v.index(led); i >= 0 && !v.agents[i].NotLeader {
		return led
	}
	n := 0
	for i := range v.agents {
		if !v.agents[i].NotLeader {
			n++
		}
	}
	at := 0
	if n > 0 {
		at = int(shard) % n
	} else if len(v.agents) > 0 { // all that there are
		return v.agents[int(shard)%len(v.agents)].NodeID
	}
	for i := range v.agents {
		if v.agents[i].NotLeader {
			continue
		}
		if at == 0 {
			return v.agents[i].NodeID
		}
		at--
	}
	return -1
}

// in returns the agents of a zone that may be named as leaders, or that consumers may be
// sent to; none for the zone without a name.
func (v *view) in(zone string, readers bool) (nodes []int32) {
	if zone == "" {
		return nil
	}
	for i := range v.agents {
		a := &v.agents[i]
		if a.Rack == zone && !(readers && a.NotReplica) && !(!readers && a.NotLeader) {
			nodes = append(nodes, a.NodeID)
		}
	}
	return nodes
}

// near returns, by shard, which of the agents of a zone stands for the leader; nil, if it has
// no agents that may.
func (v *view) near(zone string, readers bool) []int32 {
	a := audience{v.asker.listener, zone, readers}
	if nodes, ok := v.tables[a]; ok {
		return nodes
	}
	if v.tables == nil {
		v.tables = map[audience][]int32{}
	}
	among := v.in(zone, readers)
	if len(among) == 0 {
		v.tables[a] = nil
		return nil
	}
	if v.leaders == nil {
		v.leaders = make([]int32, v.h.Cluster.Shards())
		for s := range v.leaders {
			v.leaders[s], _ = v.h.Cluster.Leader(tiering.ShardID(s))
		}
	}
	nodes := v.h.directory.table(v.all, v.leaders, a, among)
	v.tables[a] = nodes
	return nodes
}

// away reports whether the asker's zone has agents that consumers are sent to, and this
// agent is not of that zone.
func (v *view) away() bool {
	if v.asker.zone == "" || v.asker.zone == v.h.settings.Zone {
		return false
	}
	return len(v.in(v.asker.zone, true)) > 0
}

// preferred returns the agent of its zone that a consumer is sent to for a shard's
// partitions; -1: none. It is one of the replicas that clients are told of: franz-go asks
// the leader again, for ever, when it is sent to another agent.
func (v *view) preferred(shard tiering.ShardID) int32 {
	if near := v.near(v.asker.zone, true); near != nil {
		return near[shard]
	}
	return -1
}

// replicas returns what clients are told of a partition's replicas: the leader, the agent of
// each zone that consumers of it are sent to, whatever the replication factor (KIP-392),
// and, for appearance's sake, further agents until there are as many as the topic's
// replication factor says. Any agent can serve any partition, so all are in sync. The list is
// shared.
func (v *view) replicas(t *catalogue.Topic, shard tiering.ShardID, leader int32) []int32 {
	from := v.index(leader)
	if from < 0 {
		return []int32{}
	}
	if v.zones == nil {
		v.zones = v.zonesThere()
	}
	list := replicaList{leader: leader, count: min(max(int(t.ReplicationFactor), len(v.zones)), len(v.agents))}
	if len(v.zones) > 1 {
		list.shard = shard
	}
	nodes := v.lists[list]
	if nodes == nil {
		nodes = v.spread(list, from)
		if v.lists == nil {
			v.lists = map[replicaList][]int32{}
		}
		v.lists[list] = nodes
	}
	return nodes
}

// zonesThere returns the zones that have agents, in the order of their first ones; those
// without a zone count as one.
func (v *view) zonesThere() (zones []string) {
	for i := range v.agents {
		if !slices.Contains(zones, v.agents[i].Rack) {
			zones = append(zones, v.agents[i].Rack)
		}
	}
	return zones
}

// spread returns the replicas of a list: the leader, at an index, then those that consumers
// in the zones are sent to, then those that follow the leader.
func (v *view) spread(list replicaList, from int) []int32 {
	nodes := make([]int32, 0, list.count+1)
	add := func(node int32) {
		if !slices.Contains(nodes, node) {
			nodes = append(nodes, node)
		}
	}
	add(list.leader)
	if len(v.zones) > 1 { // else all agents are equally near
		for _, zone := range v.zones {
			if near := v.near(zone, true); near != nil {
				add(near[list.shard])
			}
		}
	}
	for k := 1; len(nodes) < list.count; k++ {
		add(v.agents[(from+k)%len(v.agents)].NodeID)
	}
	return nodes
}
