package shard

import (
	"maps"
	"slices"

	"github.com/floelog/floe/tiering"
)

// coordinated writes what a snapshot holds for coordinators:
//
//	writes uvarint: CommitOffsets applied so far
//	names: count, each, by space and name: space uvarint | name bytes |
//	    rows: count, each, by key: key bytes | value bytes
//	groups: count, each, by name: name bytes | offsets |
//	    producers: count, each, by id: id uvarint | epoch uvarint | ended uvarint | open uvarint |
//	        updated varint | if open: pending offsets
//
// where offsets are: count, each, by partition (as in CommitOffsets, committed varint, write uvarint).
// What is empty is left out.
func (e *encoder) coordinated(s *State) {
	e.uint(s.writes)
	e.uint(uint64(len(s.rows)))
	for _, n := range slices.SortedFunc(maps.Keys(s.rows), rowName.compare) {
		e.uint(uint64(n.space))
		e.string(n.name)
		e.uint(uint64(len(s.rows[n])))
		for _, r := range s.rows[n] {
			e.string(r.Key)
			e.bytes(r.Value)
		}
	}
	e.uint(uint64(len(s.groups)))
	for _, name := range s.GroupNames() {
		g := s.groups[name]
		e.string(name)
		e.offsets(g.Offsets)
		e.uint(uint64(len(g.Producers)))
		for _, id := range slices.Sorted(maps.Keys(g.Producers)) {
			p := g.Producers[id]
			e.uint(uint64(id))
			e.uint(uint64(p.Epoch))
			e.uint(uint64(p.Ended))
			e.uint(uint64(p.Open))
			e.int(p.Updated)
			if p.Open > 0 {
				e.offsets(p.Pending)
			}
		}
	}
}

func (e *encoder) offsets(offsets map[tiering.TopicPartition]CommittedOffset) {
	e.uint(uint64(len(offsets)))
	for _, tp := range slices.SortedFunc(maps.Keys(offsets), tiering.TopicPartition.Compare) {
		o := offsets[tp]
		e.groupOffset(o.GroupOffset)
		e.int(o.Committed)
		e.uint(o.write)
	}
}

func (d *decoder) coordinated(s *State) {
	s.writes = d.uint()
	var last rowName
	for i := range d.count(6, "name") {
		n := rowName{d.space(), d.string()}
		if i > 0 && last.compare(n) >= 0 {
			d.fail("names out of order")
		}
		last = n
		s.rows[n] = d.rows()
	}
	before := ""
	for i := range d.count(8, "group") {
		name := d.string()
		g := s.mutableGroup(name)
		d.offsets(s, g.Offsets)
		d.producers(s, g)
		if i > 0 && before >= name || len(g.Offsets)+len(g.Producers) == 0 {
			d.fail("group out of order, or empty")
		}
		before = name
		if d.err != nil {
			return
		}
	}
}

func (d *decoder) rows() []Row {
	n := d.count(minRowBytes+1, "row")
	if n == 0 {
		d.fail("name without rows")
		return nil
	}
	rows := make([]Row, n)
	for i := range rows {
		rows[i] = Row{d.string(), d.value()}
		if i > 0 && rows[i-1].Key >= rows[i].Key || rows[i].Value == nil {
			d.fail("row out of order, or empty")
			break
		}
	}
	return rows
}

func (d *decoder) offsets(s *State, into map[tiering.TopicPartition]CommittedOffset) {
	var last tiering.TopicPartition
	for i := range d.count(minGroupOffsetBytes+2, "offset") {
		o := CommittedOffset{GroupOffset: d.groupOffset(), Committed: d.int(), write: d.limited(s.writes, "write")}
		if i > 0 && last.Compare(o.Partition) >= 0 || o.write == 0 {
			d.fail("inconsistent offset of a group")
			return
		}
		last = o.Partition
		s.putOffset(into, o)
	}
}

func (d *decoder) producers(s *State, g *Group) {
	last := int64(-1)
	for range d.count(5, "producer of a group") {
		id := d.int63("producer id")
		p := &GroupProducer{Epoch: d.producerEpoch(), Ended: d.int63("transaction"), Open: d.int63("transaction"), Updated: d.int()}
		if id <= last || p.Open > 0 && p.Open <= p.Ended {
			d.fail("inconsistent producer of a group")
			return
		}
		last = id
		g.setProducer(id, p)
		if p.Open > 0 {
			p.Pending = map[tiering.TopicPartition]CommittedOffset{}
			d.offsets(s, p.Pending)
		}
	}
}
