package agent

import (
	"net"
	"slices"
	"strconv"
	"sync/atomic"

	"github.com/floelog/floe/agent/kafka"
	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/metadata/membership"
	"github.com/floelog/floe/tiering"
)

// cluster tells Kafka clients who is there.
type cluster struct {
	self    *atomic.Int32 // the agent's node id
	cluster catalogue.Cluster
	set     *journal.Set
	agents  *membership.Agents
	known   atomic.Pointer[knownAgents]
}

// knownAgents is the list of agents as clients are told, made once per change.
type knownAgents struct {
	revision int64
	list     []kafka.Agent
}

// ClusterID implements kafka.Cluster.
func (c *cluster) ClusterID() string { return c.cluster.ID }

// Self implements kafka.Cluster.
func (c *cluster) Self() int32 { return c.self.Load() }

// Shards implements kafka.Cluster.
func (c *cluster) Shards() uint32 { return c.cluster.Shards }

// Agents implements kafka.Cluster.
func (c *cluster) Agents() []kafka.Agent {
	view := c.agents.View()
	if k := c.known.Load(); k != nil && k.revision == view.Revision() {
		return k.list
	}
	k := &knownAgents{revision: view.Revision()}
	stay := len(view.NodeIDs()) > 0 // otherwise those that leave are all there is
	for _, a := range view.All() {
		if a.Leaving && stay {
			continue
		}
		host, port, err := net.SplitHostPort(a.Address)
		n, perr := strconv.ParseInt(port, 10, 32)
		if err != nil || perr != nil {
			continue // validated at its start; an agent of another version may know other forms
		}
		k.list = append(k.list, kafka.Agent{NodeID: int32(a.NodeID), Host: host, Port: int32(n), Rack: a.Zone})
	}
	c.known.Store(k)
	return k.list
}

// Leader implements kafka.Cluster.
func (c *cluster) Leader(id tiering.ShardID) (int32, tiering.LeaderEpoch) {
	l := c.set.Leadership(id)
	agents := c.Agents()
	_, found := slices.BinarySearchFunc(agents, l.Node, func(a kafka.Agent, node int32) int { return int(a.NodeID) - int(node) })
	switch {
	case found:
		return l.Node, max(l.Epoch, 0)
	case len(agents) > 0:
		return agents[int(id)%len(agents)].NodeID, max(l.Epoch, 0)
	}
	return c.self.Load(), max(l.Epoch, 0)
}
