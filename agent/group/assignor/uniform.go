package assignor

import (
	"cmp"
	"container/heap"
	"slices"
)

// Uniform spreads partitions evenly over the members, as Kafka's UniformAssignor does, and
// moves as few as it can: balance comes first, then stickiness. Where all members subscribe to the
// same topics, the numbers of partitions of any two members differ by at most one, and what
// moves is only what that demands. Otherwise every topic's subscribers are levelled, topic
// after topic, until nothing improves or maxRounds is reached.
func Uniform(members []Member, topics []Topic) []Assignment {
	p := newPlan(members, topics)
	if len(p.topics) == 0 {
		return p.result()
	}
	if p.homogeneous() {
		p.even()
	} else {
		p.level()
	}
	return p.result()
}

// even spreads all partitions over all members, when all subscribe to all topics.
func (p *plan) even() {
	total := 0
	for t := range p.topics {
		total += len(p.owner[t])
	}
	least, extra := total/len(p.members), total%len(p.members)
	quota := make([]int, len(p.members))
	for m := range quota {
		quota[m] = least
	}
	// Members that have one more already keep it, as long as there are any to be had.
	for _, richest := range []bool{true, false} {
		for m := range quota {
			if extra > 0 && (p.load[m] > least) == richest {
				quota[m]++
				extra--
			}
		}
	}
	kept := make([]int, len(p.members))
	for t := range p.topics { // the last ones of a member go first
		for n, m := range p.owner[t] {
			if m < 0 {
				continue
			}
			if kept[m] < quota[m] {
				kept[m]++
			} else {
				p.give(t, int32(n), -1)
			}
		}
	}
	next := 0
	for t := range p.topics {
		for n, m := range p.owner[t] {
			if m >= 0 {
				continue
			}
			for p.load[next] >= quota[next] {
				next++ // the quotas add up to total, so there is one that is not filled
			}
			p.give(t, int32(n), next)
		}
	}
}

// maxRounds bounds how often level goes over all topics. Why not larger: overlapping
// subscriptions can take long to converge, and the group waits. Why not smaller: a round
// about halves the imbalance, and Kafka takes 16 too.
const maxRounds = 16

// level spreads partitions where members subscribe to different topics.
func (p *plan) level() {
	// First the topics with the most partitions for each subscriber: they leave the least choice.
	order := make([]int, len(p.topics))
	for t := range order {
		order[t] = t
	}
	slices.SortStableFunc(order, func(a, b int) int {
		// Partitions per subscriber, descending, by multiplication rather than division.
		if c := cmp.Compare(len(p.owner[b])*len(p.subs[a]), len(p.owner[a])*len(p.subs[b])); c != 0 {
			return c
		}
		return cmp.Compare(len(p.subs[a]), len(p.subs[b]))
	})
	for _, t := range order {
		p.fill(t)
	}
	quiet := 0 // topics in a row that needed no change
	for range maxRounds {
		for _, t := range order {
			if p.balance(t) {
				quiet = 0
			} else if quiet++; quiet == len(order) {
				return
			}
		}
	}
}

// fill gives the partitions that have no owner to the subscribers with the least.
func (p *plan) fill(t int) {
	var least loads
	for n, m := range p.owner[t] {
		if m >= 0 {
			continue
		}
		if least.entries == nil {
			least = newLoads(p.subs[t], p.load, 1)
		}
		to := least.top()
		p.give(t, int32(n), to)
		least.changed(to)
	}
}

// balance moves partitions of a topic from its subscribers with the most to those with the
// least, until they differ by at most one, or the former have none of this topic left. It
// reports whether it moved any.
func (p *plan) balance(t int) bool {
	low, high := p.load[p.subs[t][0]], 0
	for _, m := range p.subs[t] {
		low, high = min(low, p.load[m]), max(high, p.load[m])
	}
	if high-low <= 1 {
		return false
	}
	has := make(map[int][]int32) // member -> its partitions of t
	for n, m := range p.owner[t] {
		has[int(m)] = append(has[int(m)], int32(n))
	}
	var givers []int
	for _, m := range p.subs[t] {
		if len(has[m]) > 0 {
			givers = append(givers, m)
		}
	}
	least, most := newLoads(p.subs[t], p.load, 1), newLoads(givers, p.load, -1)
	moved := false
	for {
		from, to := most.top(), least.top()
		if from < 0 || p.load[from]-p.load[to] <= 1 {
			return moved
		}
		mine := has[from]
		if len(mine) == 0 {
			heap.Pop(&most)
			continue
		}
		has[from] = mine[:len(mine)-1]
		p.give(t, mine[len(mine)-1], to)
		moved = true
		least.changed(to)
		least.changed(from)
		most.changed(from)
		if len(has[to]) > 0 {
			most.changed(to)
		}
	}
}

// loads is a heap of members by their loads, ties by number. Entries go stale when a load
// changes; changed adds a new one, and top skips the old.
type loads struct {
	entries []loadOf
	load    []int
	sign    int // 1: the least first, -1: the most first
}

type loadOf struct{ member, load int }

func newLoads(members, load []int, sign int) loads {
	l := loads{entries: make([]loadOf, len(members)), load: load, sign: sign}
	for i, m := range members {
		l.entries[i] = loadOf{m, load[m]}
	}
	heap.Init(&l)
	return l
}

// top returns the first member, -1 if there is none.
func (l *loads) top() int {
	for len(l.entries) > 0 && l.entries[0].load != l.load[l.entries[0].member] {
		heap.Pop(l)
	}
	if len(l.entries) == 0 {
		return -1
	}
	return l.entries[0].member
}

func (l *loads) changed(m int) { heap.Push(l, loadOf{m, l.load[m]}) }

func (l *loads) Len() int { return len(l.entries) }
func (l *loads) Less(i, j int) bool {
	a, b := l.entries[i], l.entries[j]
	if a.load != b.load {
		return (a.load-b.load)*l.sign < 0
	}
	return a.member < b.member
}
func (l *loads) Swap(i, j int) { l.entries[i], l.entries[j] = l.entries[j], l.entries[i] }
func (l *loads) Push(x any)    { l.entries = append(l.entries, x.(loadOf)) }
func (l *loads) Pop() any {
	last := l.entries[len(l.entries)-1]
	l.entries = l.entries[:len(l.entries)-1]
	return last
}
