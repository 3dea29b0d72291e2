package shard

import (
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/floelog/floe/tiering"
)

// rowName is what coordinators keep rows of.
type rowName struct {
	space Space
	name  string
}

func (a rowName) compare(b rowName) int {
	if a.space != b.space {
		return int(a.space) - int(b.space)
	}
	return strings.Compare(a.name, b.name)
}

// Rows returns the rows of a name, ascending by key. Values must not be changed.
func (s *State) Rows(space Space, name string) iter.Seq2[string, []byte] {
	rows := s.rows[rowName{space, name}]
	return func(yield func(string, []byte) bool) {
		for _, r := range rows {
			if !yield(r.Key, r.Value) {
				return
			}
		}
	}
}

// Row returns the value of one row, which must not be changed; nil if there is none.
func (s *State) Row(space Space, name, key string) []byte {
	rows := s.rows[rowName{space, name}]
	if i, ok := findRow(rows, key); ok {
		return rows[i].Value
	}
	return nil
}

func findRow(rows []Row, key string) (int, bool) {
	return slices.BinarySearchFunc(rows, key, func(r Row, key string) int { return strings.Compare(r.Key, key) })
}

// Names returns the names of a space that have rows, in order.
func (s *State) Names(space Space) []string {
	var out []string
	for n := range s.rows {
		if n.space == space {
			out = append(out, n.name)
		}
	}
	slices.Sort(out)
	return out
}

// Group returns what is known of a group's offsets; an empty Group if nothing is.
func (s *State) Group(name string) *Group {
	if g := s.groups[name]; g != nil {
		return g
	}
	return &emptyGroup
}

var emptyGroup Group

// GroupNames returns the names of the groups that have offsets or transactional producers, in
// order. A group that has nothing but rows is among Names(Groups).
func (s *State) GroupNames() []string { return slices.Sorted(maps.Keys(s.groups)) }

func (s *State) putRows(c PutRows) {
	name := rowName{c.Space, c.Name}
	rows := s.rows[name]
	for _, r := range c.Rows {
		switch i, known := findRow(rows, r.Key); {
		case len(r.Value) > 0 && known:
			rows[i].Value = r.Value
		case len(r.Value) > 0:
			rows = slices.Insert(rows, i, r)
		case known:
			rows = slices.Delete(rows, i, i+1)
		}
	}
	if len(rows) == 0 {
		delete(s.rows, name)
		return
	}
	s.rows[name] = rows
}

// mutableGroup returns a group to be changed; tidy must follow.
func (s *State) mutableGroup(name string) *Group {
	g := s.groups[name]
	if g == nil {
		g = &Group{Offsets: map[tiering.TopicPartition]CommittedOffset{}}
		s.groups[name] = g
	}
	return g
}

// tidy forgets a group that has nothing left.
func (s *State) tidy(name string, g *Group) {
	if len(g.Offsets) == 0 && len(g.Producers) == 0 {
		delete(s.groups, name)
	}
}

// producer returns what is known of a group's producer, to be changed.
func (g *Group) producer(id int64) *GroupProducer {
	e := g.Producers[id]
	if e == nil {
		e = &GroupProducer{}
		g.setProducer(id, e)
	}
	return e
}

func (g *Group) setProducer(id int64, e *GroupProducer) {
	if g.Producers == nil {
		g.Producers = map[int64]*GroupProducer{}
	}
	g.Producers[id] = e
}

// expired reports whether ExpireProducers{before} forgets the producer.
func (e *GroupProducer) expired(before int64) bool { return e.Open == 0 && e.Updated < before }

func (s *State) commitOffsets(c CommitOffsets, now int64) {
	s.writes++
	g := s.mutableGroup(c.Group)
	into := g.Offsets
	if t := c.Transaction; t.Number > 0 {
		e := g.producer(t.ProducerID)
		e.Epoch, e.Open, e.Updated = max(e.Epoch, t.Epoch), t.Number, max(e.Updated, now)
		if e.Pending == nil {
			e.Pending = make(map[tiering.TopicPartition]CommittedOffset, len(c.Offsets))
		}
		into = e.Pending
	}
	for _, o := range c.Offsets {
		s.putOffset(into, CommittedOffset{GroupOffset: o, Committed: now, write: s.writes})
	}
	s.tidy(c.Group, g)
}

// concludeOffsets moves the pending offsets of a transaction to the committed ones, or
// forgets them. Of two offsets of a partition the one that was written later stays, as
// in Kafka: a commit outside of the transaction may have come after the pending one.
func (s *State) concludeOffsets(c ConcludeOffsets, now int64) {
	t := c.Transaction
	if t.Number <= s.Group(c.Group).ended(t.ProducerID) {
		return
	}
	g := s.mutableGroup(c.Group)
	e := g.producer(t.ProducerID)
	e.Epoch, e.Ended, e.Updated = max(e.Epoch, t.Epoch), t.Number, max(e.Updated, now)
	if e.Open > t.Number {
		return
	}
	for tp, o := range e.Pending {
		s.takeOffset(e.Pending, tp)
		if c.Commit && o.write > g.Offsets[tp].write {
			s.putOffset(g.Offsets, o)
		}
	}
	e.Open, e.Pending = 0, nil
}

// ended returns the number of the last transaction of a producer that is concluded here.
func (g *Group) ended(id int64) int64 {
	if e := g.Producers[id]; e != nil {
		return e.Ended
	}
	return 0
}

// deleteOffsets forgets pending offsets too, or a commit would bring them back.
func (s *State) deleteOffsets(c DeleteOffsets) {
	g := s.groups[c.Group]
	if g == nil {
		return
	}
	for _, tp := range c.Partitions {
		s.takeOffset(g.Offsets, tp)
		for _, e := range g.Producers {
			s.takeOffset(e.Pending, tp)
		}
	}
	s.tidy(c.Group, g)
}

func (s *State) dropGroup(name string) {
	delete(s.rows, rowName{Groups, name})
	g := s.Group(name)
	s.takeAll(g.Offsets)
	for _, e := range g.Producers {
		s.takeAll(e.Pending)
	}
	delete(s.groups, name)
}

// forgetOffsets forgets the offsets, committed and pending, of a topic.
func (s *State) forgetOffsets(id tiering.TopicID) {
	if s.named[id] == 0 {
		return
	}
	for name, g := range s.groups {
		s.takeTopic(g.Offsets, id)
		for _, e := range g.Producers {
			s.takeTopic(e.Pending, id)
		}
		s.tidy(name, g)
	}
}

// The offsets of each topic are counted, so that the topics are known without going
// through all offsets: only these functions put or take one.

func (s *State) putOffset(into map[tiering.TopicPartition]CommittedOffset, o CommittedOffset) {
	if _, known := into[o.Partition]; !known {
		s.named[o.Partition.Topic]++
	}
	into[o.Partition] = o
}

func (s *State) takeOffset(from map[tiering.TopicPartition]CommittedOffset, tp tiering.TopicPartition) {
	if _, known := from[tp]; !known {
		return
	}
	delete(from, tp)
	if s.named[tp.Topic]--; s.named[tp.Topic] == 0 {
		delete(s.named, tp.Topic)
	}
}

func (s *State) takeAll(from map[tiering.TopicPartition]CommittedOffset) {
	for tp := range from {
		s.takeOffset(from, tp)
	}
}

func (s *State) takeTopic(from map[tiering.TopicPartition]CommittedOffset, id tiering.TopicID) {
	for tp := range from {
		if tp.Topic == id {
			s.takeOffset(from, tp)
		}
	}
}
