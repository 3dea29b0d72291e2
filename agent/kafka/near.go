package kafka

import (
	"cmp"
	"slices"
	"sync"

	"github.com/floelog/floe/tiering"
)

// near says which of the agents stands for each shard's leader, for clients that are to ask
// only these: the leader where it is one of them, and else another, so that
//   - all agents say the same of the same agents and leaders;
//   - each stands for as many shards as any other, give or take one, as far as the leaders
//     allow that;
//   - shards that follow each other, on which the partitions of a topic live, are spread;
//   - when an agent or a leader comes or goes, few others change.
//
// A shard goes to the agent that suits it best, by hash, of those that have neither their
// share of all shards nor more of the shards before than others (see window).
func near(among, leaders []int32) []int32 {
	nodes := slices.Clone(leaders)
	led := make([]int, len(among)) // by the agents themselves
	own := make([]int, len(leaders))
	for s, node := range leaders {
		if own[s] = slices.Index(among, node); own[s] >= 0 {
			led[own[s]]++
		}
	}
	room := shares(len(leaders), led)
	passed := make([]int, len(among)) // shards so far
	for s := range nodes {
		i := own[s]
		if i < 0 {
			i = suits(tiering.ShardID(s), among, room, passed)
			room[i]--
			nodes[s] = among[i]
		}
		passed[i]++
	}
	return nodes
}

// shares returns how many shards that it does not lead itself each agent gets. Where the
// number does not come out even, those that lead most have one more.
func shares(shards int, led []int) []int {
	order := make([]int, len(led))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(led[b], led[a]) })
	room := make([]int, len(led))
	for k, i := range order {
		room[i] = shards/len(led) - led[i]
		if k < shards%len(led) {
			room[i]++
		}
	}
	return room
}

// window is how many more of the shards up to any one an agent may have than the one with
// the fewest, before others get the next. 0 spreads the partitions of a topic most evenly,
// but then an agent that comes or goes moves twice as many as it must; with more, a third
// more move, and topics of a few partitions may miss an agent.
const window = 1

// suits returns which agent gets a shard.
func suits(s tiering.ShardID, among []int32, room, passed []int) int {
	best, fewest, most := -1, 0, uint64(0)
	for i := range among {
		if room[i] > 0 && (best < 0 || passed[i] < fewest) {
			best, fewest = i, passed[i]
		}
	}
	for i, node := range among {
		if room[i] <= 0 || passed[i] > fewest+window {
			continue
		}
		if h := spreadHash(s, node); h >= most {
			best, most = i, h
		}
	}
	return max(best, 0)
}

// spreadHash is the finalizer of SplitMix64 over shard and agent. It must be the same in
// every version, or the answers of agents of different versions would differ.
func spreadHash(s tiering.ShardID, node int32) uint64 {
	x := uint64(s)<<32 | uint64(uint32(node))
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// audience is whom a table of agents is for.
type audience struct {
	listener, zone string
	readers        bool // consumers that are sent to another agent than the leader (KIP-392)
}

// directory holds what is derived from the agents and the leaders of the moment, made when
// it is first asked for and kept until either changes. Its methods may be called
// concurrently. It is bounded: tables are made for zones that have agents only.
type directory struct {
	mu      sync.Mutex
	all     []Agent            // that the following is derived from, as Cluster.Agents has it
	by      map[string][]Agent // by listener, with the addresses there
	leaders []int32            // by shard, that the following is derived from
	tables  map[audience][]int32
}

// agents returns those that listen on a listener, with their addresses there.
func (d *directory) agents(all []Agent, listener string) []Agent {
	if listener == DefaultListener {
		return all
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.renewLocked(all)
	list, ok := d.by[listener]
	if !ok {
		list = listening(all, listener)
		d.by[listener] = list
	}
	return list
}

// renewLocked forgets what was derived from another list of agents.
func (d *directory) renewLocked(all []Agent) {
	if len(all) == len(d.all) && (len(all) == 0 || &all[0] == &d.all[0]) && d.by != nil {
		return
	}
	d.all, d.by, d.tables = all, map[string][]Agent{}, map[audience][]int32{}
}

// table returns, by shard, which agent an audience is told of. among are the agents that it
// may be told of, at least one, which depend on all and the audience alone.
func (d *directory) table(all []Agent, leaders []int32, a audience, among []int32) []int32 {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.renewLocked(all)
	if !slices.Equal(leaders, d.leaders) {
		d.leaders, d.tables = leaders, map[audience][]int32{}
	}
	nodes, ok := d.tables[a]
	if !ok {
		nodes = near(among, leaders)
		d.tables[a] = nodes
	}
	return nodes
}

// listening returns the agents that listen on a listener other than the default, with their
// addresses there.
func listening(all []Agent, listener string) []Agent {
	list := make([]Agent, 0, len(all))
	for _, a := range all {
		if at, ok := a.Listeners[listener]; ok {
			a.Host, a.Port = at.Host, at.Port
			list = append(list, a)
		}
	}
	return list
}
