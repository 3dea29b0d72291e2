package membership_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/floelog/floe/metadata/membership"
	"github.com/floelog/floe/tiering"
)

type placement = map[tiering.ShardID]membership.NodeID

// randomAgents draws n distinct node ids in random order.
func randomAgents(rnd *rand.Rand, n int) []membership.NodeID {
	set := map[membership.NodeID]bool{}
	for len(set) < n {
		set[membership.NodeID(1+rnd.IntN(3*n+1))] = true
	}
	agents := slices.Sorted(maps.Keys(set))
	rnd.Shuffle(n, func(i, j int) { agents[i], agents[j] = agents[j], agents[i] })
	return agents
}

// moved counts the shards whose live leader is to change.
func moved(current, next placement, agents []membership.NodeID) int {
	n := 0
	for s, to := range next {
		if from, ok := current[s]; ok && from != to && slices.Contains(agents, from) {
			n++
		}
	}
	return n
}

// leastMoves is how many shards must leave live leaders so that all lead as many as any
// other, give or take one.
func leastMoves(shards uint32, current placement, agents []membership.NodeID) int {
	var loads []int
	for _, n := range agents {
		load := 0
		for s, leader := range current {
			if leader == n && s < tiering.ShardID(shards) {
				load++
			}
		}
		loads = append(loads, load)
	}
	slices.SortFunc(loads, func(a, b int) int { return b - a })
	least := 0
	for i, load := range loads {
		quota := int(shards) / len(agents)
		if i < int(shards)%len(agents) {
			quota++
		}
		least += max(0, load-quota)
	}
	return least
}

func TestPlaceProperties(t *testing.T) {
	for seed := range uint64(500) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		shards := uint32(1 + rnd.IntN(130))
		agents := randomAgents(rnd, 1+rnd.IntN(12))
		current := placement{}
		for s := range tiering.ShardID(shards + 5) { // some beyond the end
			switch rnd.IntN(4) {
			case 0: // nobody leads it
			case 1:
				current[s] = 1000 // a dead agent
			default:
				current[s] = agents[min(rnd.IntN(len(agents)), rnd.IntN(len(agents)))] // lopsided
			}
		}
		before := maps.Clone(current)
		got := membership.Place(shards, agents, current, nil)
		if !maps.Equal(before, current) {
			t.Fatalf("seed %d: the input was changed", seed)
		}

		load := map[membership.NodeID]int{}
		for s := range tiering.ShardID(shards) {
			if !slices.Contains(agents, got[s]) {
				t.Fatalf("seed %d: shard %d is placed on %d, which is not alive", seed, s, got[s])
			}
			load[got[s]]++
		}
		if len(got) != int(shards) {
			t.Fatalf("seed %d: %d of %d shards are placed", seed, len(got), shards)
		}
		for _, n := range agents {
			if l := load[n]; l < int(shards)/len(agents) || l > (int(shards)+len(agents)-1)/len(agents) {
				t.Fatalf("seed %d: agent %d has %d of %d shards among %d agents", seed, n, l, shards, len(agents))
			}
		}
		if m, least := moved(current, got, agents), leastMoves(shards, current, agents); m != least {
			t.Fatalf("seed %d: %d shards move, %d would do", seed, m, least)
		}
		shuffled := append(slices.Clone(agents), agents[0]) // a repetition must not matter
		rnd.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		for range 3 {
			if again := membership.Place(shards, shuffled, maps.Clone(current), nil); !maps.Equal(got, again) {
				t.Fatalf("seed %d: another order of agents gives another placement", seed)
			}
		}
		if again := membership.Place(shards, agents, got, nil); !maps.Equal(got, again) {
			t.Fatalf("seed %d: placing what is placed moves %d shards", seed, moved(got, again, agents))
		}
	}
}

func TestPlaceOneJoinsOneLeaves(t *testing.T) {
	agents := []membership.NodeID{1, 2, 3}
	first := membership.Place(64, agents, nil, nil)
	four := append(slices.Clone(agents), 4)
	joined := membership.Place(64, four, first, nil)
	if n := moved(first, joined, four); n != 16 {
		t.Errorf("%d shards move to the fourth agent, want 16", n)
	}
	left := membership.Place(64, agents, joined, nil)
	for s, n := range joined {
		if n != 4 && left[s] != n {
			t.Errorf("shard %d moves from %d to %d although its leader stays", s, n, left[s])
		}
	}
	if got := membership.Place(64, nil, first, nil); len(got) != 0 {
		t.Errorf("without agents, %d shards are placed", len(got))
	}
}

// TestPlaceIsTheSameInEveryVersion holds the outcome fixed: agents of different versions
// that disagreed would pull shards from each other.
func TestPlaceIsTheSameInEveryVersion(t *testing.T) {
	got := membership.Place(8, []membership.NodeID{1, 2, 3}, placement{0: 1, 1: 1, 2: 1, 3: 1, 4: 9}, nil)
	if want := "map[0:1 1:2 2:1 3:1 4:3 5:3 6:2 7:2]"; fmt.Sprint(got) != want {
		t.Errorf("placement is %v, want %v", got, want)
	}
}

func TestDuties(t *testing.T) {
	take, release := membership.Duties(1,
		placement{0: 1, 1: 1, 2: 2, 3: 1, 4: 2, 6: 1, 5: 1},
		placement{0: 1, 1: 2, 2: 1, 4: 1, 7: 1})
	if !slices.Equal(take, []tiering.ShardID{3, 5, 6}) || !slices.Equal(release, []tiering.ShardID{2, 4}) {
		t.Errorf("take %v, release %v; want 3, 5, 6 and 2, 4", take, release)
	}
}

// TestDutiesConverge lets agents join and leave, and do their duties one by one in random
// order: soon nobody has any, and no shard has moved more often than need be.
func TestDutiesConverge(t *testing.T) {
	for seed := range uint64(100) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		leaders := placement{}
		for range 8 {
			agents := randomAgents(rnd, 1+rnd.IntN(8))
			for s, n := range leaders { // leases of dead agents end
				if !slices.Contains(agents, n) {
					delete(leaders, s)
				}
			}
			least, released := leastMoves(64, leaders, agents), 0
			for round, idle := 0, false; !idle; round++ {
				idle = true
				for _, i := range rnd.Perm(len(agents)) {
					take, release := membership.Duties(agents[i], membership.Place(64, agents, leaders, nil), leaders)
					if len(release) > 0 {
						delete(leaders, release[rnd.IntN(len(release))])
						released++
					}
					if len(take) > 0 {
						leaders[take[rnd.IntN(len(take))]] = agents[i]
					}
					idle = idle && len(take)+len(release) == 0
				}
				if round > 1000 {
					t.Fatalf("seed %d: no end of moving shards", seed)
				}
			}
			if len(leaders) != 64 || released != least {
				t.Fatalf("seed %d: %d of 64 shards are led after %d moves, want %d", seed, len(leaders), released, least)
			}
		}
	}
}

func BenchmarkPlace(b *testing.B) {
	var agents []membership.NodeID
	for n := range membership.NodeID(20) {
		agents = append(agents, n+1)
	}
	current := membership.Place(1024, agents[:19], nil, nil)
	b.ReportAllocs()
	for b.Loop() {
		if got := membership.Place(1024, agents, current, nil); len(got) != 1024 {
			b.Fatal("not all shards are placed")
		}
	}
}
