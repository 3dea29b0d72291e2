package membership

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/floelog/floe/tiering"
)

// Load is what a shard costs the agent that leads it.
type Load struct {
	Bytes       float64 `json:"bytes"`       // of record batches sequenced, per second
	Submissions float64 `json:"submissions"` // to the shard's leader, per second
}

// submissionBytes is how many bytes of batches one submission weighs as much as: about what
// an agent moves in the time that it takes to draft, append and answer one. Less: shards with
// very many small submissions count as idle. More: a shard with large flushes does.
const submissionBytes = 16 << 10

// Weight is the load as one number, in bytes per second.
func (l Load) Weight() float64 { return l.Bytes + submissionBytes*l.Submissions }

// What a Balancer waits for. Moving a shard costs its producers some milliseconds and the
// next leader's caches their contents, so it must be worth it, and it must be certain.
const (
	// window is how many measurements in a row must agree. Fewer: a burst moves shards. More:
	// an agent is overloaded for longer than some minutes.
	window = 8
	// triggerRatio is by how much the load of the hottest agent exceeds the mean when shards
	// begin to move. Less: noise does it. More: agents saturate at very different times.
	triggerRatio = 1.25
	// triggerGain is by how much of the mean a whole run of swaps must lower the load of the
	// hottest agent, and leastGain each of them that of its own hotter agent. What one run has
	// left, swaps of less than leastGain, is then too little to begin another.
	triggerGain = 0.25
	leastGain   = 0.05
	// longestRun bounds the swaps that are looked ahead. More are not seen at once, and follow.
	longestRun = 64
	// leastLoad is the mean load of an agent, as Load.Weight, below which nothing moves: any
	// agent carries several times as much.
	leastLoad = 1 << 20
	// swapsAtOnce bounds the swaps of one round. More would have more shards without a leader
	// at once, for some milliseconds each.
	swapsAtOnce = 2
	// coolDown is for how long a shard stays where load has moved it. Shorter: a load that
	// wanders takes its shards along. Longer: a mistake lasts.
	coolDown = 10 * time.Minute
)

// Measurement is the cluster as one agent sees it at one time.
type Measurement struct {
	At      time.Time
	Shards  uint32
	Agents  []NodeID                   // that shards are placed on
	Leaders map[tiering.ShardID]NodeID // who leads now
	Loads   map[tiering.ShardID]Load
	Pins    Pins
}

// Balancer plans which shards two agents should swap because of their loads, so that hot
// ones lead apart from each other. It is a pure machine: measurements in, pins out. It says
// something only when the cluster is at rest (each shard led by the agent that it is placed
// on), when it has been out of balance in several measurements in a row, and when the same
// swaps would have improved each of them clearly. Shards are only swapped, so every agent
// leads as many as before. Where loads stay as they are, it soon says nothing any more:
// every swap lowers the load of the hotter agent by a fixed share of the mean, and no load
// rises above that of the hotter of the two before.
//
// A Balancer belongs to one goroutine. A new one begins with an empty window.
type Balancer struct {
	seen   []Measurement // the last ones, oldest first, of one and the same cluster
	agents []NodeID      // of the last one
	moving bool          // a run of moves has begun and has not ended
}

// Step takes the next measurement and returns the pins that should be, and whether they
// differ from those that are.
func (b *Balancer) Step(m Measurement) (Pins, bool) {
	m.Agents = slices.Compact(slices.Sorted(slices.Values(m.Agents)))
	if !b.continues(m) {
		b.seen = nil
	}
	if !slices.Equal(b.agents, m.Agents) {
		b.agents, b.moving = m.Agents, false
	}
	if !atRest(m) {
		b.seen = nil
		return m.Pins, false
	}
	b.seen = append(b.seen, m)
	if len(b.seen) < window {
		return m.Pins, false
	}
	b.seen = b.seen[len(b.seen)-window:]
	pins, cleaned := clean(m)
	swaps := b.plan(m, pins)
	b.moving = len(swaps) > 0
	for _, s := range swaps {
		pins[s.hot] = Pin{s.to, m.At, m.Loads[s.hot].Weight()}
		pins[s.cool] = Pin{s.from, m.At, m.Loads[s.cool].Weight()}
	}
	if len(swaps) > 0 {
		b.seen = nil // what comes is another cluster
	}
	return pins, cleaned || len(swaps) > 0
}

// continues reports whether m is of the same cluster as the measurements before it.
func (b *Balancer) continues(m Measurement) bool {
	if len(b.seen) == 0 {
		return true
	}
	last := b.seen[len(b.seen)-1]
	return last.Shards == m.Shards && slices.Equal(last.Agents, m.Agents) && maps.Equal(last.Leaders, m.Leaders) && maps.Equal(last.Pins, m.Pins)
}

// atRest reports whether every shard is led by the agent that it is placed on.
func atRest(m Measurement) bool {
	return len(m.Agents) > 0 && maps.Equal(m.Leaders, Place(m.Shards, m.Agents, m.Leaders, m.Pins))
}

// clean returns the pins without those that count for nothing: to agents that have not been
// there for a whole window, and for shards that do not exist.
func clean(m Measurement) (pins Pins, cleaned bool) {
	pins = maps.Clone(m.Pins)
	if pins == nil {
		pins = Pins{}
	}
	maps.DeleteFunc(pins, func(s tiering.ShardID, p Pin) bool {
		return m.Leaders[s] != p.Node
	})
	return pins, len(pins) != len(m.Pins)
}

// swap moves hot from an agent to another, and cool back.
type swap struct {
	hot, cool tiering.ShardID
	from, to  NodeID
}

// plan returns the next swaps, if what the whole window shows is worth it.
func (b *Balancer) plan(m Measurement, pins Pins) []swap {
	if len(m.Agents) < 2 {
		return nil
	}
	past := make([]weights, len(b.seen))
	for i, seen := range b.seen {
		past[i] = weigh(seen)
		hottest := past[i].agents[past[i].hottest(m.Agents)]
		if past[i].mean < leastLoad || !b.moving && hottest <= triggerRatio*past[i].mean {
			return nil
		}
	}
	fixed := map[tiering.ShardID]bool{}
	for s, p := range pins {
		fixed[s] = m.At.Sub(p.At).Abs() < coolDown
	}
	swaps, gained := look(past, m, fixed)
	if !b.moving && gained < triggerGain {
		return nil
	}
	swaps = swaps[:min(len(swaps), swapsAtOnce)]
	if !allowed(m, pins, swaps) {
		return nil
	}
	return swaps
}

// look returns a run of swaps, the best first, each from the agent that is hottest by then,
// and by how much of the mean it lowers the load of the hottest agent, where that is least.
// It changes past to what comes of them.
func look(past []weights, m Measurement, fixed map[tiering.ShardID]bool) (swaps []swap, gained float64) {
	before := make([]float64, len(past))
	for i, w := range past {
		before[i] = w.agents[w.hottest(m.Agents)]
	}
	for len(swaps) < longestRun {
		s, ok := best(past, m, fixed)
		if !ok {
			break
		}
		swaps = append(swaps, s)
		fixed[s.hot], fixed[s.cool] = true, true
		for i := range past {
			past[i].apply(s)
		}
	}
	gained = math.Inf(1)
	for i, w := range past {
		gained = min(gained, (before[i]-w.agents[w.hottest(m.Agents)])/w.mean)
	}
	return swaps, gained
}

// allowed reports whether the swaps, as pins, would move just these shards.
func allowed(m Measurement, pins Pins, swaps []swap) bool {
	pins, want := maps.Clone(pins), maps.Clone(m.Leaders)
	for _, s := range swaps {
		pins[s.hot], pins[s.cool] = Pin{Node: s.to}, Pin{Node: s.from}
		want[s.hot], want[s.cool] = s.to, s.from
	}
	return maps.Equal(want, Place(m.Shards, m.Agents, m.Leaders, pins))
}

// weights is one measurement as numbers.
type weights struct {
	shards []float64
	agents map[NodeID]float64
	mean   float64 // of the agents
}

func weigh(m Measurement) weights {
	w := weights{make([]float64, m.Shards), map[NodeID]float64{}, 0}
	total := 0.0
	for s := range tiering.ShardID(m.Shards) {
		x := max(0, m.Loads[s].Weight())
		w.shards[s] = x
		w.agents[m.Leaders[s]] += x
		total += x
	}
	w.mean = total / float64(len(m.Agents))
	return w
}

func (w weights) apply(s swap) {
	d := w.shards[s.hot] - w.shards[s.cool]
	w.agents[s.from] -= d
	w.agents[s.to] += d
}

// gain returns by how much of the mean a swap lowers the load of the hotter of its agents.
func (w weights) gain(s swap) float64 {
	d := w.shards[s.hot] - w.shards[s.cool]
	return (w.agents[s.from] - max(w.agents[s.from]-d, w.agents[s.to]+d)) / w.mean
}

// hottest returns the agent with the greatest load; ties by number.
func (w weights) hottest(agents []NodeID) NodeID {
	return slices.MaxFunc(agents, func(a, b NodeID) int {
		return cmp.Or(cmp.Compare(w.agents[a], w.agents[b]), cmp.Compare(b, a))
	})
}

// best returns the swap that relieves the agent that was hottest by most, as the measurement
// in which it does least sees it, if that is enough.
func best(past []weights, m Measurement, fixed map[tiering.ShardID]bool) (found swap, ok bool) {
	all := weights{agents: map[NodeID]float64{}}
	for _, w := range past {
		for n, x := range w.agents {
			all.agents[n] += x
		}
	}
	from, now, most := all.hottest(m.Agents), past[len(past)-1], leastGain
	for hot := range tiering.ShardID(m.Shards) {
		if m.Leaders[hot] != from || fixed[hot] || now.shards[hot] <= most*now.mean {
			continue // it cannot gain more than it weighs
		}
		for cool := range tiering.ShardID(m.Shards) {
			to := m.Leaders[cool]
			if to == from || fixed[cool] {
				continue
			}
			s := swap{hot, cool, from, to}
			if g := least(past, s, most); g > most {
				most, found, ok = g, s, true
			}
		}
	}
	return found, ok
}

// least returns what a swap gains in the measurement in which it gains least; once that is
// not more than enough, it is not looked for any further.
func least(past []weights, s swap, enough float64) float64 {
	g := past[len(past)-1].gain(s)
	for i := len(past) - 2; i >= 0 && g > enough; i-- {
		g = min(g, past[i].gain(s))
	}
	return g
}
