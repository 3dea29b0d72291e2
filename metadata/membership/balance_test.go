package membership_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/floelog/floe/metadata/membership"
	"github.com/floelog/floe/tiering"
)

const mib = 1 << 20

// balanced is a cluster whose agents do at once what placement says, and which is measured
// from time to time.
type balanced struct {
	shards  uint32
	agents  []membership.NodeID
	leaders placement
	loads   map[tiering.ShardID]float64 // MiB per second
	pins    membership.Pins
	b       membership.Balancer
	now     time.Time
}

func newBalanced(shards uint32, agents ...membership.NodeID) *balanced {
	c := &balanced{shards: shards, loads: map[tiering.ShardID]float64{}, now: time.Unix(1_000_000, 0)}
	c.join(agents...)
	return c
}

// join says which agents there are.
func (c *balanced) join(agents ...membership.NodeID) {
	c.agents = agents
	c.leaders = membership.Place(c.shards, agents, c.leaders, c.pins)
}

// measure takes one measurement, off by up to noise of each shard's load, and returns how
// many shards move.
func (c *balanced) measure(t *testing.T, rnd *rand.Rand, noise float64) int {
	t.Helper()
	c.now = c.now.Add(15 * time.Second)
	loads := map[tiering.ShardID]membership.Load{}
	for s, x := range c.loads {
		if noise > 0 {
			x *= 1 - noise + 2*noise*rnd.Float64()
		}
		loads[s] = membership.Load{Bytes: x * mib}
	}
	pins, changed := c.b.Step(membership.Measurement{
		At: c.now, Shards: c.shards, Agents: slices.Clone(c.agents), Leaders: maps.Clone(c.leaders), Loads: loads, Pins: c.pins,
	})
	if changed == maps.Equal(pins, c.pins) {
		t.Fatalf("pins %v after %v: changed is %v", pins, c.pins, changed)
	}
	c.pins = pins
	next := membership.Place(c.shards, c.agents, c.leaders, c.pins)
	n := moved(c.leaders, next, c.agents)
	c.leaders = next
	return n
}

// ratio is the load of the hottest agent over the mean.
func (c *balanced) ratio() float64 {
	sums, total := map[membership.NodeID]float64{}, 0.0
	for s, n := range c.leaders {
		sums[n] += c.loads[s]
		total += c.loads[s]
	}
	return slices.Max(slices.Collect(maps.Values(sums))) / (total / float64(len(c.agents)))
}

// run measures n times and returns how many shards moved in all, and at most at once.
func (c *balanced) run(t *testing.T, rnd *rand.Rand, noise float64, n int) (all, most int) {
	t.Helper()
	for range n {
		m := c.measure(t, rnd, noise)
		all, most = all+m, max(most, m)
	}
	return all, most
}

func TestBalanceParts(t *testing.T) {
	c := newBalanced(64, 1, 2, 3)
	var hot []tiering.ShardID // two that one agent leads
	for s := range tiering.ShardID(64) {
		if c.leaders[s] == 2 && len(hot) < 2 {
			hot = append(hot, s)
			c.loads[s] = 50
		}
	}
	all, most := c.run(t, nil, 0, 100)
	if c.leaders[hot[0]] == c.leaders[hot[1]] || all != 2 || most != 2 {
		t.Errorf("the hot shards are led by %d and %d; %d shards moved, %d at once", c.leaders[hot[0]], c.leaders[hot[1]], all, most)
	}
	if len(c.pins) != 2 {
		t.Errorf("pins are %v, want two", c.pins)
	}
}

// bestGain is by how much of the mean one swap could lower the load of the hotter of its
// agents, whatever the agents.
func (c *balanced) bestGain() (most float64) {
	sums, total := map[membership.NodeID]float64{}, 0.0
	for s, n := range c.leaders {
		sums[n] += c.loads[s]
		total += c.loads[s]
	}
	for a, x := range c.leaders {
		for b, y := range c.leaders {
			if d := c.loads[a] - c.loads[b]; x != y && d > 0 {
				most = max(most, sums[x]-max(sums[x]-d, sums[y]+d))
			}
		}
	}
	return most / (total / float64(len(c.agents)))
}

// TestBalanceConverges lets clusters with skewed loads find their rest, and holds them to it,
// under noise, too, unless what they had was too little to move anything and more than nothing.
func TestBalanceConverges(t *testing.T) {
	resting, moving := 0, 0
	for seed := range uint64(60) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		c := newBalanced(uint32(8+rnd.IntN(120)), randomAgents(rnd, 2+rnd.IntN(8))...)
		for s := range tiering.ShardID(c.shards) {
			c.loads[s] = 10 * rnd.ExpFloat64() * rnd.ExpFloat64() * rnd.ExpFloat64()
		}
		before := c.ratio()
		all, most := c.run(t, nil, 0, 600)
		after := c.ratio()
		again, _ := c.run(t, nil, 0, 200)
		rest := all > 0 || c.bestGain() < 0.05
		noisy, _ := c.run(t, rnd, 0.2, 400)
		if most > 4 || after > before+1e-9 || again != 0 || rest && noisy != 0 || c.ratio() > after+0.05 {
			t.Errorf("seed %d: hottest %.2f then %.2f of the mean, %d shards at once; then %d moves, %d by noise to %.2f", seed, before, after, most, again, noisy, c.ratio())
		}
		resting, moving = resting+oneIf(rest), moving+oneIf(all > 0)
	}
	if resting < 30 || moving < 30 {
		t.Errorf("%d of 60 clusters came to rest, %d moved: too few to show anything", resting, moving)
	}
}

// TestBalanceReaches says how even loads become that shards can even out.
func TestBalanceReaches(t *testing.T) {
	for seed := range uint64(50) {
		rnd := rand.New(rand.NewPCG(seed, 4))
		c := newBalanced(64, 1, 2, 3, 4)
		for s := range tiering.ShardID(64) {
			c.loads[s] = 0.1
			if c.leaders[s] == 1 { // all that has load is with one agent
				c.loads[s] = 5 + rnd.Float64()
			}
		}
		c.run(t, nil, 0, 400)
		if r := c.ratio(); r > 1.25 {
			t.Errorf("seed %d: the hottest agent has %.2f times the mean", seed, r)
		}
	}
}

func TestBalanceLeavesAlone(t *testing.T) {
	skew := func(c *balanced, load float64) {
		for s, n := range c.leaders {
			if n == 1 {
				c.loads[s] = load
			}
		}
	}
	for name, c := range map[string]struct {
		prepare func(*balanced)
		between func(*balanced, int)
	}{
		"an idle cluster":                    {func(*balanced) {}, nil},
		"little load":                        {func(c *balanced) { skew(c, 0.05) }, nil},
		"one hot shard, which no move helps": {func(c *balanced) { c.loads[7] = 500 }, nil},
		"one agent": {func(c *balanced) {
			c.join(1)
			skew(c, 10)
		}, nil},
		"bursts shorter than a window": {func(*balanced) {}, func(c *balanced, i int) {
			clear(c.loads)
			if i%4 != 0 {
				skew(c, 50)
			}
		}},
		"a cluster that is not at rest": {func(c *balanced) {
			skew(c, 50)
			c.agents = append(c.agents, 4) // which leads nothing yet
		}, func(c *balanced, _ int) {
			for s, n := range c.leaders {
				if n == 4 {
					c.leaders[s] = 1
				}
			}
		}},
	} {
		b := newBalanced(30, 1, 2, 3)
		c.prepare(b)
		for i := range 100 {
			if c.between != nil {
				c.between(b, i)
			}
			b.measure(t, nil, 0)
		}
		if len(b.pins) != 0 {
			t.Errorf("%s: pins are %v", name, b.pins)
		}
	}
}

// TestBalanceCools moves the load after the shards: they do not run after it.
func TestBalanceCools(t *testing.T) {
	c := newBalanced(12, 1, 2, 3)
	all := 0
	for range 240 { // an hour
		clear(c.loads)
		for s, n := range c.leaders {
			if n == c.leaders[0] {
				c.loads[s] = 20 // whoever leads shard 0 is hot
			}
		}
		all += c.measure(t, nil, 0)
	}
	if all == 0 || all > 12*6 {
		t.Errorf("%d shards moved in an hour, want some, and none more often than six times", all)
	}
}

// TestBalanceForgets has an agent that shards are pinned to go.
func TestBalanceForgets(t *testing.T) {
	c := newBalanced(30, 1, 2, 3)
	for s, n := range c.leaders {
		if n == 3 {
			c.loads[s] = 10
		}
	}
	c.run(t, nil, 0, 100)
	if len(c.pins) == 0 {
		t.Fatal("nothing is pinned")
	}
	to := func(n membership.NodeID) (k int) {
		for _, p := range c.pins {
			k += oneIf(p.Node == n)
		}
		return k
	}
	clear(c.loads)
	before := maps.Clone(c.pins)
	c.join(1, 2)
	c.run(t, nil, 0, 3)
	if !maps.Equal(c.pins, before) {
		t.Errorf("pins are %v at once after an agent went, want %v for a while", c.pins, before)
	}
	c.run(t, nil, 0, 7)
	if to(3) != 0 || to(1)+to(2) == 0 {
		t.Errorf("pins are %v, want those to agents 1 and 2 only", c.pins)
	}
	if n, _ := c.run(t, nil, 0, 50); n != 0 {
		t.Errorf("%d shards moved without load", n)
	}
}

func oneIf(b bool) int {
	if b {
		return 1
	}
	return 0
}

// TestPinnedPlacement holds Place with pins to what it promises.
func TestPinnedPlacement(t *testing.T) {
	for seed := range uint64(500) {
		rnd := rand.New(rand.NewPCG(seed, 5))
		shards := uint32(1 + rnd.IntN(100))
		agents := randomAgents(rnd, 1+rnd.IntN(9))
		pins, current := membership.Pins{}, placement{}
		for s := range tiering.ShardID(shards + 3) {
			if rnd.IntN(2) == 0 {
				pins[s] = membership.Pin{Node: agents[rnd.IntN(len(agents))]}
			}
			if rnd.IntN(10) == 0 {
				pins[s] = membership.Pin{Node: 1000} // dead
			}
			if rnd.IntN(3) > 0 {
				current[s] = agents[min(rnd.IntN(len(agents)), rnd.IntN(len(agents)))]
			}
		}
		got := membership.Place(shards, agents, current, pins)
		of, pinned := map[membership.NodeID]int{}, map[membership.NodeID]int{}
		for s, n := range got {
			of[n]++
			pinned[n] += oneIf(pins[s].Node == n)
		}
		for _, n := range agents {
			wanted := 0
			for s, p := range pins {
				wanted += oneIf(p.Node == n && uint32(s) < shards)
			}
			share := int(shards) / len(agents)
			if of[n] < share || of[n] > share+oneIf(int(shards)%len(agents) > 0) || pinned[n] < min(wanted, share) {
				t.Fatalf("seed %d: agent %d has %d shards, %d of %d that are pinned to it; its share is %d", seed, n, of[n], pinned[n], wanted, share)
			}
		}
		rnd.Shuffle(len(agents), func(i, j int) { agents[i], agents[j] = agents[j], agents[i] })
		if again := membership.Place(shards, agents, current, maps.Clone(pins)); !maps.Equal(got, again) {
			t.Fatalf("seed %d: another order gives another placement", seed)
		}
		if again := membership.Place(shards, agents, got, pins); !maps.Equal(got, again) {
			t.Fatalf("seed %d: placing what is placed moves %d shards", seed, moved(got, again, agents))
		}
		partly := placement{} // some have moved already, others have no leader right now
		for s, n := range current {
			if partly[s] = n; got[s] != n && rnd.IntN(2) == 0 {
				delete(partly, s)
			}
		}
		if again := membership.Place(shards, agents, partly, pins); len(again) != int(shards) {
			t.Fatalf("seed %d: %d of %d shards are placed half way", seed, len(again), shards)
		}
	}
}

// FuzzPins feeds values to the decoder: what it takes, it writes again.
func FuzzPins(f *testing.F) {
	for _, v := range []string{
		`{"version":1,"pins":[{"shard":5,"node":2,"at_ms":1700000000000,"load":1048576.5}]}`,
		`{"version":1}`, `{"version":2,"pins":[]}`, `{"version":1,"pins":[{"shard":5}]}`, `{"version":1,"pins":[{"shard":-1,"node":1}]}`, `null`, ``,
	} {
		f.Add([]byte(v))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		pins, err := membership.DecodePins(value)
		if err != nil {
			return
		}
		b, err := pins.Encode()
		if err != nil {
			t.Fatalf("%v cannot be encoded: %v", pins, err)
		}
		again, err := membership.DecodePins(b)
		if err != nil || fmt.Sprint(again) != fmt.Sprint(pins) {
			t.Fatalf("%v becomes %v (%v)", pins, again, err)
		}
	})
}

// FuzzBalance feeds the planner with loads and pins of any kind: what it says can be placed,
// and it comes to rest.
func FuzzBalance(f *testing.F) {
	f.Add(uint64(1), uint8(64), uint8(3), []byte{200, 0, 3, 9})
	f.Add(uint64(7), uint8(5), uint8(9), []byte{1, 255, 255})
	f.Fuzz(func(t *testing.T, seed uint64, shards, agents uint8, loads []byte) {
		rnd := rand.New(rand.NewPCG(seed, 6))
		c := newBalanced(1+uint32(shards), randomAgents(rnd, 1+int(agents%12))...)
		for s := range tiering.ShardID(c.shards) {
			if len(loads) > 0 {
				c.loads[s] = float64(loads[int(s)%len(loads)])
			}
		}
		c.run(t, nil, 0, 400)
		if n, _ := c.run(t, nil, 0, 50); n != 0 || len(c.leaders) != int(c.shards) {
			t.Fatalf("%d shards still move; %d of %d are led", n, len(c.leaders), c.shards)
		}
	})
}
