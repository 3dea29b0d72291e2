// Package assignor computes target assignments of consumer groups (KIP-848): which member
// shall own which partition. Its functions are pure and deterministic: the order in which
// members and topics are given has no influence.
//
// What every assignor here promises:
//  1. Each partition of each topic with a subscriber has exactly one owner, and that is a
//     subscriber. Partitions that do not exist, and topics that nobody names, have none.
//  2. The result shares memory with Member.Current where nothing changed, and nothing that it
//     returns is ever modified afterwards: assignments are immutable.
//
// Racks have no weight: every agent serves every partition in every zone, so no member is
// nearer to a partition than another. Groups keep rack ids and describe them, nothing more.
//
// All functions may be called concurrently.
package assignor

import (
	"bytes"
	"cmp"
	"slices"

	"github.com/floelog/floe/tiering"
)

// Share is what an assignment holds of one topic.
type Share struct {
	Topic      tiering.TopicID
	Partitions []int32 // ascending, without repetition, at least one
}

// Assignment is a set of partitions: shares in the order of their topics' ids. It is immutable.
type Assignment []Share

// Topic is a topic that partitions are assigned of.
type Topic struct {
	ID         tiering.TopicID
	Partitions int32
}

// Member is a member of a group, as an assignor sees it.
type Member struct {
	ID       string
	Instance *string           // group.instance.id (KIP-345); nil: a dynamic member
	Topics   []tiering.TopicID // subscribed to, ascending, without repetition
	Current  Assignment        // the target assignment so far
}

// Func is an assignor. The results are in the order of members.
type Func func(members []Member, topics []Topic) []Assignment

// ByName finds an assignor by the name that Kafka gives it: "uniform" or "range".
func ByName(name string) (Func, bool) {
	switch name {
	case "uniform":
		return Uniform, true
	case "range":
		return Range, true
	}
	return nil, false
}

// Count returns the number of partitions in a.
func (a Assignment) Count() int {
	n := 0
	for _, s := range a {
		n += len(s.Partitions)
	}
	return n
}

// Of returns the partitions of a topic in a, nil if there are none.
func (a Assignment) Of(topic tiering.TopicID) []int32 {
	i, ok := slices.BinarySearchFunc(a, topic, func(s Share, id tiering.TopicID) int { return bytes.Compare(s.Topic[:], id[:]) })
	if !ok {
		return nil
	}
	return a[i].Partitions
}

// Equal reports whether a and b hold the same partitions.
func (a Assignment) Equal(b Assignment) bool {
	return slices.EqualFunc(a, b, func(x, y Share) bool {
		return x.Topic == y.Topic && (same(x.Partitions, y.Partitions) || slices.Equal(x.Partitions, y.Partitions))
	})
}

// same reports whether two slices are one.
func same[T any](a, b []T) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

// plan is an assignment in the making. Topics and members are numbered: topics by id, members
// by member id, so that no map's order decides anything.
type plan struct {
	members []Member
	order   []int // numbers of members -> place in members
	topics  []Topic
	subs    [][]int   // by topic: the members that subscribe to it, ascending
	owner   [][]int32 // by topic and partition: the member, -1 for none
	load    []int     // by member: partitions
}

// newPlan keeps of the current assignments what is still valid.
func newPlan(members []Member, topics []Topic) *plan {
	p := &plan{members: members, order: make([]int, len(members)), load: make([]int, len(members))}
	for i := range p.order {
		p.order[i] = i
	}
	slices.SortFunc(p.order, func(a, b int) int { return cmp.Compare(members[a].ID, members[b].ID) })
	p.topics = slices.Clone(topics)
	slices.SortFunc(p.topics, func(a, b Topic) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	p.topics = slices.CompactFunc(p.topics, func(a, b Topic) bool { return a.ID == b.ID })
	p.subscribe()
	p.owner = make([][]int32, len(p.topics))
	for t := range p.topics {
		p.owner[t] = make([]int32, max(p.topics[t].Partitions, 0))
		for i := range p.owner[t] {
			p.owner[t][i] = -1
		}
	}
	for m, at := range p.order {
		p.keep(m, members[at])
	}
	return p
}

// keep gives member m what it has already, as far as it may.
func (p *plan) keep(m int, member Member) {
	t := 0
	for _, share := range member.Current {
		for t < len(p.topics) && bytes.Compare(p.topics[t].ID[:], share.Topic[:]) < 0 {
			t++
		}
		if t == len(p.topics) {
			return
		}
		if p.topics[t].ID != share.Topic || !contains(p.subs[t], m) {
			continue
		}
		for _, n := range share.Partitions {
			if n >= 0 && int(n) < len(p.owner[t]) && p.owner[t][n] < 0 {
				p.owner[t][n] = int32(m)
				p.load[m]++
			}
		}
	}
}

func contains(sorted []int, x int) bool {
	_, ok := slices.BinarySearch(sorted, x)
	return ok
}

// subscribe fills subs, and drops the topics that nobody subscribes to.
func (p *plan) subscribe() {
	subs := make([][]int, len(p.topics))
	for m, at := range p.order {
		t := 0
		for _, id := range p.members[at].Topics {
			for t < len(p.topics) && bytes.Compare(p.topics[t].ID[:], id[:]) < 0 {
				t++
			}
			if t < len(p.topics) && p.topics[t].ID == id {
				subs[t] = append(subs[t], m)
			}
		}
	}
	n := 0
	for t := range p.topics {
		if len(subs[t]) > 0 {
			p.topics[n], subs[n] = p.topics[t], subs[t]
			n++
		}
	}
	p.topics, p.subs = p.topics[:n], subs[:n]
}

// homogeneous reports whether all members subscribe to the same topics.
func (p *plan) homogeneous() bool {
	for t := range p.subs {
		if len(p.subs[t]) != len(p.members) {
			return false
		}
	}
	return true
}

// give makes member m, or nobody for -1, the owner of a partition.
func (p *plan) give(t int, partition int32, m int) {
	if old := p.owner[t][partition]; old >= 0 {
		p.load[old]--
	}
	p.owner[t][partition] = int32(m)
	if m >= 0 {
		p.load[m]++
	}
}

// result writes the plan down, in the order of the members as given.
func (p *plan) result() []Assignment {
	out := make([]Assignment, len(p.members))
	backing := make([][]int32, len(p.members)) // one allocation a member
	for m := range backing {
		backing[m] = make([]int32, 0, p.load[m])
	}
	starts := make([]int, len(p.members))
	for t := range p.topics {
		touched := make([]int32, 0, min(len(p.subs[t]), len(p.owner[t])))
		for n, m := range p.owner[t] {
			if len(backing[m]) == starts[m] {
				touched = append(touched, m)
			}
			backing[m] = append(backing[m], int32(n))
		}
		for _, m := range touched {
			at := p.order[m]
			out[at] = append(out[at], Share{p.topics[t].ID, slices.Clip(backing[m][starts[m]:])})
			starts[m] = len(backing[m])
		}
	}
	for i := range out {
		if out[i].Equal(p.members[i].Current) {
			out[i] = p.members[i].Current
		}
	}
	return out
}
