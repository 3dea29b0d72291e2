package consumer

import (
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/group/assignor"
	"github.com/floelog/floe/tiering"
)

var noTime time.Time

// owned is what a member says that it has; nil: it does not say.
type owned = []kmsg.ConsumerGroupHeartbeatRequestTopic

// reconcile moves a member towards the target as far as it can go now:
//
//	stable --target changed--> unrevoked --it let go--> stable, one epoch on, and again
//	                \--nothing to let go--> at the target's epoch: stable, or unreleased
//	unreleased --others let go--> stable
//
// It reports whether that changed what is assigned to the member.
func (g *Group) reconcile(m *member, has owned) bool {
	epoch := m.epoch
	switch m.state {
	case stable:
		if m.epoch == g.assigned {
			return false
		}
	case unrevoked:
		if ownsAny(has, m.revoking) {
			return false
		}
		epoch++ // what was asked for at this epoch is done
	}
	keep := intersect(m.assigned, m.target)
	revoke := subtract(m.assigned, keep)
	before, wasState, wasEpoch, wasRevoking := m.assigned, m.state, m.epoch, m.revoking
	if revoke != nil && ownsAny(has, revoke) {
		g.own(m, keep, revoke)
		m.state = unrevoked
	} else {
		free, blocked := g.free(m, subtract(m.target, keep))
		g.own(m, union(keep, free), nil)
		m.state, epoch = stable, g.assigned
		if blocked {
			m.state = unreleased
		}
	}
	if epoch != m.epoch {
		m.previous, m.epoch = m.epoch, epoch
	}
	moved := !m.assigned.Equal(before)
	if !moved && m.state == wasState && m.epoch == wasEpoch && m.revoking.Equal(wasRevoking) {
		return false
	}
	g.dirty.mark(m, currentRow)
	m.revokeBy = noTime
	if m.state == unrevoked && m.classic == nil { // classic members have to join and sync in time instead
		m.revokeBy = g.now.Add(m.rebalance)
	}
	return moved
}

// free returns the partitions that nobody but m has, and whether there are others.
func (g *Group) free(m *member, want assignor.Assignment) (free assignor.Assignment, blocked bool) {
	return filter(want, func(topic tiering.TopicID, p int32) bool {
		o := g.owner[partition{Topic: topic, Partition: p}]
		if o != nil && o != m {
			blocked = true
			return false
		}
		return true
	}), blocked
}

// waits reports whether partitions of an unreleased member's target are still with others.
func (g *Group) waits(m *member) bool {
	if m.state != unreleased {
		return false
	}
	_, blocked := g.free(m, subtract(m.target, m.assigned))
	return blocked
}

// ownsAny reports whether a member has any of these partitions, in doubt yes.
func ownsAny(has owned, of assignor.Assignment) bool {
	if has == nil {
		return true
	}
	for _, t := range has {
		partitions := of.Of(t.TopicID)
		for _, p := range t.Partitions {
			if _, ok := slices.BinarySearch(partitions, p); ok {
				return true
			}
		}
	}
	return false
}

// ownsOnly reports whether a member says that it has nothing but these partitions.
func ownsOnly(has owned, of assignor.Assignment) bool {
	if has == nil {
		return false
	}
	for _, t := range has {
		partitions := of.Of(t.TopicID)
		for _, p := range t.Partitions {
			if _, ok := slices.BinarySearch(partitions, p); !ok {
				return false
			}
		}
	}
	return true
}

// filter returns the partitions for which keep is true; a itself if that is all.
func filter(a assignor.Assignment, keep func(tiering.TopicID, int32) bool) assignor.Assignment {
	var out assignor.Assignment
	n := 0
	for _, s := range a {
		var kept []int32
		for _, p := range s.Partitions {
			if keep(s.Topic, p) {
				kept = append(kept, p)
			}
		}
		if len(kept) > 0 {
			out = append(out, assignor.Share{Topic: s.Topic, Partitions: kept})
		}
		n += len(kept)
	}
	if n == a.Count() {
		return a
	}
	return out
}

func intersect(a, b assignor.Assignment) assignor.Assignment {
	return filter(a, inside(b))
}

// subtract returns nil if nothing of a is left.
func subtract(a, b assignor.Assignment) assignor.Assignment {
	in := inside(b)
	out := filter(a, func(t tiering.TopicID, p int32) bool { return !in(t, p) })
	if len(out) == 0 {
		return nil
	}
	return out
}

// inside returns a test for membership in b that is cheap when asked in ascending order.
func inside(b assignor.Assignment) func(tiering.TopicID, int32) bool {
	i, j := 0, 0
	return func(t tiering.TopicID, p int32) bool {
		for i < len(b) && compareTopics(b[i].Topic, t) < 0 {
			i, j = i+1, 0
		}
		if i == len(b) || b[i].Topic != t {
			return false
		}
		for j < len(b[i].Partitions) && b[i].Partitions[j] < p {
			j++
		}
		return j < len(b[i].Partitions) && b[i].Partitions[j] == p
	}
}

// union of disjoint sets.
func union(a, b assignor.Assignment) assignor.Assignment {
	if len(a) == 0 {
		return b
	}
	if len(b) == 0 {
		return a
	}
	var out assignor.Assignment
	for len(a) > 0 && len(b) > 0 {
		switch c := compareTopics(a[0].Topic, b[0].Topic); {
		case c < 0:
			out, a = append(out, a[0]), a[1:]
		case c > 0:
			out, b = append(out, b[0]), b[1:]
		default:
			ps := slices.Concat(a[0].Partitions, b[0].Partitions)
			slices.Sort(ps)
			out = append(out, assignor.Share{Topic: a[0].Topic, Partitions: ps})
			a, b = a[1:], b[1:]
		}
	}
	return append(append(out, a...), b...)
}
