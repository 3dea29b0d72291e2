package agent

import (
	"cmp"
	"context"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

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
	now     func() time.Time

	mu    sync.Mutex // held by who makes the next list
	known atomic.Pointer[knownAgents]
}

// knownAgents is the list of agents as clients are told, made once per change.
type knownAgents struct {
	revision int64
	list     []kafka.Agent // live, and not about to leave
	parted   []partedAgent // were in list not long ago
}

// partedAgent is an agent that ended, or is about to.
type partedAgent struct {
	kafka.Agent
	until time.Time // when clients may forget it
}

// farewell is how long clients are still told of an agent that has ended, after its lease:
// a little more than Kafka does, whose brokers count for nine seconds after their last sign
// of life. librdkafka, from 2.10 on, ends what it has for an agent that Metadata does not name,
// but its transactional producers go on waiting for it if it was their group's coordinator, for
// as long as no other connection comes or goes (confluentinc/librdkafka#5511). An agent that
// has only ended refuses their connection, and they look for the next coordinator at once.
//
// Shorter would leave out those that start again, which are away until the old lease has ended
// and a moment more, and producers that commit seldom. Longer would have tools that ask every
// agent, as for the list of all groups, fail for longer.
const farewell = 10 * time.Second

// run notes who comes and goes until ctx ends, whether clients ask or not.
func (c *cluster) run(ctx context.Context) error {
	for {
		view := c.agents.View()
		c.present()
		select {
		case <-view.Changed():
		case <-ctx.Done():
			return nil
		}
	}
}

// ClusterID implements kafka.Cluster.
func (c *cluster) ClusterID() string { return c.cluster.ID }

// Self implements kafka.Cluster.
func (c *cluster) Self() int32 { return c.self.Load() }

// Shards implements kafka.Cluster.
func (c *cluster) Shards() uint32 { return c.cluster.Shards }

// Agents implements kafka.Cluster.
func (c *cluster) Agents() []kafka.Agent { return c.present().list }

// Familiar implements kafka.Cluster.
func (c *cluster) Familiar() []kafka.Agent {
	k := c.present()
	if len(k.parted) == 0 {
		return k.list
	}
	all, now := slices.Clone(k.list), c.now()
	for _, p := range k.parted {
		if now.Before(p.until) {
			all = append(all, p.Agent)
		}
	}
	slices.SortFunc(all, func(a, b kafka.Agent) int { return cmp.Compare(a.NodeID, b.NodeID) })
	return all
}

// present returns the newest list.
func (c *cluster) present() *knownAgents {
	if k := c.known.Load(); k != nil && k.revision == c.agents.View().Revision() {
		return k
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	view, old := c.agents.View(), c.known.Load()
	if old != nil && old.revision == view.Revision() {
		return old
	}
	k := &knownAgents{revision: view.Revision(), list: told(view)}
	if old != nil {
		k.parted = k.without(old, c.now())
	}
	c.known.Store(k)
	return k
}

// told returns the agents of a view that clients are sent to.
func told(view membership.AgentsView) (list []kafka.Agent) {
	stay := len(view.NodeIDs()) > 0 // otherwise those that leave are all there is
	for _, a := range view.All() {
		if a.Leaving && stay {
			continue
		}
		at, ok := address(a.Address)
		if !ok {
			continue
		}
		agent := kafka.Agent{NodeID: int32(a.NodeID), Host: at.Host, Port: at.Port, Rack: a.Zone,
			NotLeader: keptFrom(view, a, membership.RoleProduce), NotReplica: keptFrom(view, a, membership.RoleFetch)}
		for name, addr := range a.Listeners {
			if at, ok := address(addr); ok {
				if agent.Listeners == nil {
					agent.Listeners = make(map[string]kafka.Address, len(a.Listeners))
				}
				agent.Listeners[name] = at
			}
		}
		list = append(list, agent)
	}
	return list
}

// keptFrom reports whether clients are sent to others than a for what a role is for: never,
// if all that serve it are about to leave, as a is.
func keptFrom(view membership.AgentsView, a membership.Agent, role membership.Role) bool {
	serving := view.ServingIDs(role)
	_, found := slices.BinarySearch(serving, a.NodeID)
	return len(serving) > 0 && !found
}

// address reads an address that an agent registered. It was validated at that agent's start,
// but one of another version may know other forms.
func address(addr string) (kafka.Address, bool) {
	host, port, err := net.SplitHostPort(addr)
	n, perr := strconv.ParseInt(port, 10, 32)
	return kafka.Address{Host: host, Port: int32(n)}, err == nil && perr == nil
}

// without returns who was there according to old, or not long before, and is not in k.
func (k *knownAgents) without(old *knownAgents, now time.Time) (parted []partedAgent) {
	for _, a := range old.list {
		parted = append(parted, partedAgent{a, now.Add(farewell)})
	}
	parted = append(parted, old.parted...)
	return slices.DeleteFunc(parted, func(p partedAgent) bool {
		_, back := find(k.list, p.NodeID)
		return back || !now.Before(p.until)
	})
}

// find looks for a node id in a list by node ids.
func find(list []kafka.Agent, node int32) (int, bool) {
	return slices.BinarySearchFunc(list, node, func(a kafka.Agent, n int32) int { return cmp.Compare(a.NodeID, n) })
}

// Leader implements kafka.Cluster.
func (c *cluster) Leader(id tiering.ShardID) (int32, tiering.LeaderEpoch) {
	l := c.set.Leadership(id)
	agents := c.Agents()
	_, found := find(agents, l.Node)
	switch {
	case found:
		return l.Node, max(l.Epoch, 0)
	case len(agents) > 0:
		return standIn(agents, id), max(l.Epoch, 0)
	}
	return c.self.Load(), max(l.Epoch, 0)
}

// standIn returns the agent that is named while a shard has no leader: one that may lead.
func standIn(agents []kafka.Agent, id tiering.ShardID) int32 {
	n := 0
	for i := range agents {
		if !agents[i].NotLeader {
			n++
		}
	}
	if n == 0 {
		return agents[int(id)%len(agents)].NodeID
	}
	at := int(id) % n
	for i := range agents {
		if agents[i].NotLeader {
			continue
		}
		if at == 0 {
			return agents[i].NodeID
		}
		at--
	}
	return agents[0].NodeID // not reached: at is less than n
}
