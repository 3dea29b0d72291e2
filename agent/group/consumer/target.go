package consumer

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"hash/fnv"
	"maps"
	"slices"
	"time"

	"github.com/floelog/floe/agent/group/assignor"
	"github.com/floelog/floe/tiering"
)

func compareTopics(a, b tiering.TopicID) int { return bytes.Compare(a[:], b[:]) }

// subscribedTopics returns the existing topics that somebody subscribes to, by id.
func (g *Group) subscribedTopics() []assignor.Topic {
	ids := make(map[tiering.TopicID]int32)
	for _, s := range g.subs {
		for _, id := range s.topics {
			if t, ok := g.topics.TopicByID(id); ok {
				ids[id] = t.Partitions
			}
		}
	}
	out := make([]assignor.Topic, 0, len(ids))
	for _, id := range slices.SortedFunc(maps.Keys(ids), compareTopics) {
		out = append(out, assignor.Topic{ID: id, Partitions: ids[id]})
	}
	return out
}

// emptyHash is the hash of no topics.
var emptyHash = metadataHash(nil)

// metadataHash is what the group remembers of the topics that it subscribes to, so that it
// notices a change even if it happened while nobody coordinated the group. It is part of the
// format of rows: FNV-1a, 64 bits, over ids and numbers of partitions.
func metadataHash(topics []assignor.Topic) uint64 {
	h := fnv.New64a()
	var b [20]byte
	for _, t := range topics {
		copy(b[:], t.ID[:])
		binary.BigEndian.PutUint32(b[16:], uint32(t.Partitions))
		h.Write(b[:]) // never fails
	}
	return h.Sum64()
}

// unsettled returns when a difference of topics is to be looked at again; zero: there is none.
func (g *Group) unsettled() time.Time {
	if !g.stale {
		return noTime
	}
	return g.trust
}

// settle ends a change of members, subscriptions or topics: if it matters, or bump says so,
// the group's epoch rises.
func (g *Group) settle(bump bool) {
	if g.stale && (bump || !g.now.Before(g.trust)) {
		g.stale = false
		if h := metadataHash(g.subscribedTopics()); h != g.hash {
			g.hash = h
			g.dirty.group = true
			bump = bump || len(g.members) > 0
		}
	}
	if bump {
		g.epoch++
		g.dirty.group = true
	}
}

// retarget computes the target assignment, once for each group epoch.
func (g *Group) retarget() {
	if g.assigned >= g.epoch {
		return
	}
	if g.stale { // what is not believed yet is what it is computed from all the same
		g.stale, g.hash = false, metadataHash(g.subscribedTopics())
	}
	ids := slices.Sorted(maps.Keys(g.members))
	members := make([]assignor.Member, len(ids))
	for i, id := range ids {
		m := g.members[id]
		members[i] = assignor.Member{ID: id, Instance: m.instance, Topics: m.sub.topics, Current: m.target}
	}
	assign, _ := assignor.ByName(g.assignor())
	for i, a := range assign(members, g.subscribedTopics()) {
		m := g.members[ids[i]]
		if !a.Equal(m.target) {
			m.target = a
			g.dirty.mark(m, targetRow)
		}
	}
	g.assigned = g.epoch
	g.dirty.group = true
}

// assignor returns the name of the assignor that most members prefer, in doubt the one that
// stands first in the configuration; and if nobody prefers any, the first.
func (g *Group) assignor() string {
	votes := make(map[string]int)
	for _, m := range g.members {
		if m.assignor != "" {
			votes[m.assignor]++
		}
	}
	best, most := "uniform", -1
	for _, name := range g.cfg.Assignors {
		if _, ok := assignor.ByName(name); ok && votes[name] > most {
			best, most = name, votes[name]
		}
	}
	return best
}

// add makes a member that has nothing yet.
func (g *Group) add(id string) *member {
	m := &member{id: id, state: stable}
	g.members[id] = m
	g.dirty.mark(m, memberRow|targetRow|currentRow)
	return m
}

// remove forgets a member, and frees what it had. The caller settles.
func (g *Group) remove(m *member) {
	g.own(m, nil, nil)
	g.unsubscribe(m)
	g.timers.remove(m)
	delete(g.members, m.id)
	if m.instance != nil && g.statics[*m.instance] == m {
		delete(g.statics, *m.instance)
	}
	g.dirty.forget(m)
}

// replace puts a new member in the place of a static one, which returns under another id, or
// under the same: it gets what the old one had.
func (g *Group) replace(old *member, id string) *member {
	assigned, revoking := old.assigned, old.revoking
	if id == old.id {
		old.epoch, old.previous = 0, 0
		old.revokeBy, old.joinBy, old.syncBy = noTime, noTime, noTime
		g.dirty.mark(old, memberRow|currentRow)
		return old
	}
	sub := old.sub
	sub.members++ // so that it is not dropped in between
	g.remove(old)
	m := g.add(id)
	m.instance, m.rack, m.clientID, m.host = old.instance, old.rack, old.clientID, old.host
	m.rebalance, m.assignor, m.classic = old.rebalance, old.assignor, old.classic
	m.sub = sub
	m.target, m.state = old.target, old.state
	g.own(m, assigned, revoking)
	g.statics[*m.instance] = m
	return m
}

// own sets what a member has and is to let go.
func (g *Group) own(m *member, assigned, revoking assignor.Assignment) {
	if m.assigned.Equal(assigned) && m.revoking.Equal(revoking) {
		return
	}
	for _, a := range [...]assignor.Assignment{m.assigned, m.revoking} {
		for _, s := range a {
			for _, p := range s.Partitions {
				delete(g.owner, partition{Topic: s.Topic, Partition: p})
			}
		}
	}
	m.assigned, m.revoking = assigned, revoking
	for _, a := range [...]assignor.Assignment{assigned, revoking} {
		for _, s := range a {
			for _, p := range s.Partitions {
				g.owner[partition{Topic: s.Topic, Partition: p}] = m
			}
		}
	}
}

// sortedMembers returns the members by their ids.
func (g *Group) sortedMembers() []*member {
	return slices.SortedFunc(maps.Values(g.members), func(a, b *member) int { return cmp.Compare(a.id, b.id) })
}
