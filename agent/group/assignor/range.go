package assignor

import (
	"cmp"
	"slices"
)

// Range gives each subscriber of a topic a run of its partitions, as Kafka's RangeAssignor
// does. Topics with equally many partitions and the same subscribers are co-partitioned: whoever
// has partition n of one has partition n of the others, which joins need. The order of
// the members decides who gets which run: static members first, by instance id, then the
// others by member id. So an assignment is sticky as far as the order is: a static member that
// comes back under another member id gets its old run.
func Range(members []Member, topics []Topic) []Assignment {
	p := newPlan(members, topics)
	rank := make([]int, len(members)) // by member number
	for m := range rank {
		rank[m] = m
	}
	instance := func(m int) *string { return members[p.order[m]].Instance }
	slices.SortStableFunc(rank, func(a, b int) int {
		x, y := instance(a), instance(b)
		switch {
		case x != nil && y != nil:
			return cmp.Compare(*x, *y)
		case x != nil:
			return -1
		case y != nil:
			return 1
		}
		return 0
	})
	place := make([]int, len(members))
	for i, m := range rank {
		place[m] = i
	}
	for t := range p.topics {
		subs := slices.Clone(p.subs[t])
		slices.SortFunc(subs, func(a, b int) int { return cmp.Compare(place[a], place[b]) })
		n, start := len(p.owner[t]), 0
		for i, m := range subs {
			end := start + n/len(subs)
			if i < n%len(subs) {
				end++
			}
			for ; start < end; start++ {
				p.give(t, int32(start), m)
			}
		}
	}
	return p.result()
}
