package membership

import (
	"cmp"
	"slices"

	"github.com/floelog/floe/tiering"
)

// Place says which agent should lead each shard: as many as any other, give or take one,
// and the shards that have a live leader stay with it as far as that allows. current is
// who leads now; agents that are not among the live ones, and shards beyond the number of
// shards, count for nothing. Without agents, nothing is placed.
//
// The result depends on the sets alone, not on any order, so every agent that sees the
// same state computes the same. Where there is a choice, a hash of shard and agent makes
// it (rendezvous hashing), so that the partitions of a topic, which live on neighbouring
// shards, spread.
//
// A shard that pins name goes to its agent, and never leaves it, while that agent is live:
// the others make room. Pins to agents that are not live count for nothing, nor do more
// pins to one agent than its share of all shards, so the numbers stay even; those that suit
// it least, by the same hash, are passed over. Pins may be nil.
func Place(shards uint32, agents []NodeID, current map[tiering.ShardID]NodeID, pins Pins) map[tiering.ShardID]NodeID {
	live := slices.Compact(slices.Sorted(slices.Values(agents)))
	placement := make(map[tiering.ShardID]NodeID, shards)
	if len(live) == 0 {
		return placement
	}
	pinned := effective(shards, live, pins)
	leads := make(map[NodeID][]tiering.ShardID, len(live))
	for _, n := range live {
		leads[n] = nil
	}
	for s := range tiering.ShardID(shards) {
		n, fixed := pinned[s]
		if !fixed {
			n = current[s]
		}
		if of, ok := leads[n]; ok {
			leads[n] = append(of, s)
			placement[s] = n
		}
	}
	quota := quotas(int(shards), live, leads)
	for _, n := range live { // give up what is too much
		of := leads[n]
		if len(of) <= quota[n] {
			continue
		}
		slices.SortFunc(of, func(a, b tiering.ShardID) int {
			return cmp.Or(cmp.Compare(movable(pinned, a), movable(pinned, b)), byScore(b, n, a, n))
		})
		for _, s := range of[quota[n]:] {
			delete(placement, s)
		}
		leads[n] = of[:quota[n]]
	}
	for n, of := range leads {
		quota[n] -= len(of)
	}
	for s := range tiering.ShardID(shards) { // hand out what has no leader
		if _, ok := placement[s]; ok {
			continue
		}
		best := NodeID(0)
		for _, n := range live {
			if quota[n] > 0 && (best == 0 || byScore(s, n, s, best) > 0) {
				best = n
			}
		}
		placement[s] = best
		quota[best]--
	}
	return placement
}

// effective returns the pins that count: to live agents, for shards that exist, and at most
// as many to one agent as every agent leads anyway. So it depends on no leader, and what is
// pinned is never more than an agent's quota.
func effective(shards uint32, live []NodeID, pins Pins) map[tiering.ShardID]NodeID {
	if len(pins) == 0 {
		return nil
	}
	of := map[NodeID][]tiering.ShardID{}
	for s, p := range pins {
		if _, ok := slices.BinarySearch(live, p.Node); ok && uint32(s) < shards {
			of[p.Node] = append(of[p.Node], s)
		}
	}
	pinned := make(map[tiering.ShardID]NodeID, len(pins))
	for n, list := range of {
		slices.SortFunc(list, func(a, b tiering.ShardID) int { return byScore(b, n, a, n) })
		for _, s := range list[:min(len(list), int(shards)/len(live))] {
			pinned[s] = n
		}
	}
	return pinned
}

// movable is 1 for a shard that its agent may give up, and 0 for one that is pinned.
func movable(pinned map[tiering.ShardID]NodeID, s tiering.ShardID) int {
	if _, ok := pinned[s]; ok {
		return 0
	}
	return 1
}

// quotas says how many shards each agent is to lead. Where the number does not come out
// even, those that lead most now lead one more, so that fewest shards move.
func quotas(shards int, live []NodeID, leads map[NodeID][]tiering.ShardID) map[NodeID]int {
	byLoad := slices.Clone(live)
	slices.SortStableFunc(byLoad, func(a, b NodeID) int { return cmp.Compare(len(leads[b]), len(leads[a])) })
	quota := make(map[NodeID]int, len(live))
	for i, n := range byLoad {
		quota[n] = shards / len(live)
		if i < shards%len(live) {
			quota[n]++
		}
	}
	return quota
}

// byScore compares how well two shards and agents suit, by hash; ties by number.
func byScore(s1 tiering.ShardID, n1 NodeID, s2 tiering.ShardID, n2 NodeID) int {
	return cmp.Or(cmp.Compare(score(s1, n1), score(s2, n2)), cmp.Compare(s1, s2), cmp.Compare(n1, n2))
}

// score is a hash of shard and agent: the finalizer of SplitMix64. It must be the same in
// every version, or agents of different versions would pull shards from each other.
func score(s tiering.ShardID, n NodeID) uint64 {
	x := uint64(s)<<32 | uint64(uint32(n))
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// Duties compares what an agent leads with what it should lead: take is what it should
// and nobody leads, release is what it leads and another live agent should. Both are in
// ascending order. What another agent still leads is not for the taking.
func Duties(self NodeID, placement, leaders map[tiering.ShardID]NodeID) (take, release []tiering.ShardID) {
	for s, n := range placement {
		switch leader, led := leaders[s]; {
		case n == self && !led:
			take = append(take, s)
		case n != self && led && leader == self:
			release = append(release, s)
		}
	}
	slices.Sort(take)
	slices.Sort(release)
	return take, release
}
