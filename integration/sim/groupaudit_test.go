package sim

import (
	"maps"
	"sort"

	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// auditedGroup is what was committed for a group, by a model of its own: of two offsets
// that take effect, the one that was written later stays.
type auditedGroup struct {
	offsets map[tiering.TopicPartition]auditedOffset
	pending map[int64]*auditedPending // by producer id
	ended   map[int64]int64           // number of the last transaction concluded, by producer id
	writes  int
	history map[tiering.TopicPartition][]offsetAt
}

// auditedOffset is a committed offset. Its metadata tells it from any other.
type auditedOffset struct {
	offset tiering.Offset
	name   string
	write  int
}

type auditedPending struct {
	number  int64
	offsets map[tiering.TopicPartition]auditedOffset
}

// offsetAt is what a question for a committed offset had to be answered from a revision on.
type offsetAt struct {
	revision int64
	offset   tiering.Offset // -1: none
	name     string
	unstable bool // a transaction may be about to replace it
}

func (a *auditor) group(name string) *auditedGroup {
	g := a.groups[name]
	if g == nil {
		g = &auditedGroup{
			offsets: map[tiering.TopicPartition]auditedOffset{}, pending: map[int64]*auditedPending{},
			ended: map[int64]int64{}, history: map[tiering.TopicPartition][]offsetAt{},
		}
		a.groups[name] = g
	}
	return g
}

// groupCommit replays a commit of offsets and looks up who asked for it.
func (a *auditor) groupCommit(c shard.CommitOffsets, revision int64) {
	g := a.group(c.Group)
	g.writes++
	k := txnKey{c.Transaction.ProducerID, c.Transaction.Number}
	for _, o := range c.Offsets {
		part := a.w.find(o.Partition)
		a.w.history.add("auditor", "offset", part, "%s: %d by %s, transaction %d of producer %d r%d", c.Group, o.Offset, o.Metadata, k.number, k.producer, revision)
		try := a.w.commitTry(o.Metadata)
		switch {
		case try == nil || try.group != c.Group || try.offsets[o.Partition] != o.Offset:
			a.w.fail("offsets", part, "%s: offset %d (%q) at revision %d, which nobody committed", c.Group, o.Offset, o.Metadata, revision)
			continue
		case try.applied != 0 && !try.copied && try.applied != revision:
			a.w.fail("offsets", part, "%s: %s is committed at revisions %d and %d", c.Group, try.name, try.applied, revision)
		}
		if try.applied == 0 {
			try.applied = revision
		}
		if k.number > 0 {
			a.offsetsOf(g, try, c.Group, part, k, revision)
		} else if try.txn != nil {
			a.w.fail("torn transaction", part, "%s: %s of %s takes effect at revision %d at once", c.Group, try.name, try.txn.name, revision)
		}
		into := g.offsets
		if k.number > 0 {
			into = g.pend(k).offsets
		}
		into[o.Partition] = auditedOffset{o.Offset, o.Metadata, g.writes}
	}
	g.note(revision)
}

// offsetsOf checks the transaction that offsets are committed in.
func (a *auditor) offsetsOf(g *auditedGroup, try *commitTry, name string, part *partition, k txnKey, revision int64) {
	t := a.txns.truths[k]
	switch {
	case k.number <= g.ended[k.producer]:
		a.w.fail("late batch", part, "%s: %s comes at revision %d into transaction %d of producer %d, which has ended here", name, try.name, revision, k.number, k.producer)
	case t == nil || t.groups[name] == 0:
		a.w.fail("verification", part, "%s: %s is part of transaction %d of producer %d, which the group is not part of", name, try.name, k.number, k.producer)
	case t.client != nil && t.client != try.txn:
		a.w.fail("zombie", part, "%s: %s of %s is in transaction %d of producer %d, which is %s", name, try.name, try.txn.describe(), k.number, k.producer, t.client.describe())
	case t.client == nil:
		t.client = try.txn
	}
}

func (g *auditedGroup) pend(k txnKey) *auditedPending {
	p := g.pending[k.producer]
	if p == nil {
		p = &auditedPending{offsets: map[tiering.TopicPartition]auditedOffset{}}
		g.pending[k.producer] = p
	}
	p.number = k.number
	return p
}

func (a *auditor) groupConclude(c shard.ConcludeOffsets, revision int64) {
	g := a.group(c.Group)
	k := txnKey{c.Transaction.ProducerID, c.Transaction.Number}
	a.follows("group "+c.Group, nil, k, c.Commit, revision)
	if k.number <= g.ended[k.producer] {
		return
	}
	g.ended[k.producer] = k.number
	if p := g.pending[k.producer]; p != nil && p.number <= k.number {
		for tp, o := range p.offsets {
			if c.Commit && o.write > g.offsets[tp].write {
				g.offsets[tp] = o
			}
		}
		delete(g.pending, k.producer)
	}
	g.note(revision)
}

// note adds what has changed to the history.
func (g *auditedGroup) note(revision int64) {
	unstable := map[tiering.TopicPartition]bool{}
	for _, p := range g.pending {
		for tp := range p.offsets {
			unstable[tp] = true
		}
	}
	all := maps.Clone(unstable)
	for tp := range g.offsets {
		all[tp] = true
	}
	for tp := range g.history {
		all[tp] = true
	}
	for tp := range all {
		now := offsetAt{revision: revision, offset: -1, unstable: unstable[tp]}
		if o, ok := g.offsets[tp]; ok {
			now.offset, now.name = o.offset, o.name
		}
		h := g.history[tp]
		if n := len(h); n > 0 && h[n-1].name == now.name && h[n-1].unstable == now.unstable {
			continue
		}
		g.history[tp] = append(h, now)
	}
}

// during returns what was true at any time from one revision to another.
func (g *auditedGroup) during(tp tiering.TopicPartition, from, to int64) []offsetAt {
	h := append([]offsetAt{{offset: -1}}, g.history[tp]...)
	i := sort.Search(len(h), func(i int) bool { return h[i].revision > from })
	j := sort.Search(len(h), func(j int) bool { return h[j].revision > to })
	return h[max(i-1, 0):j]
}

// compareGroups compares the model with the state, for all groups that a record is about.
func (a *auditor) compareGroups(s *auditedShard, r shard.Record, revision int64) {
	touched := map[string]bool{}
	for _, c := range r.Changes {
		switch c := c.(type) {
		case shard.CommitOffsets:
			touched[c.Group] = true
		case shard.ConcludeOffsets:
			touched[c.Group] = true
		}
	}
	for name := range touched {
		g, is := a.group(name), s.state.Group(name)
		same := len(g.offsets) == len(is.Offsets)
		for tp, o := range g.offsets {
			same = same && is.Offsets[tp].Offset == o.offset && is.Offsets[tp].Metadata == o.name
		}
		for id, p := range g.pending {
			same = same && is.Producers[id] != nil && len(is.Producers[id].Pending) == len(p.offsets)
		}
		if !same {
			a.w.fail("offsets", nil, "group %s at revision %d: the state has %v, the commits add up to %v", name, revision, is.Offsets, g.offsets)
		}
	}
}
