package recovery

import (
	"bytes"
	"cmp"
	"maps"
	"slices"

	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// recoveredPrefix begins the names of topics whose own are not known.
const recoveredPrefix = "recovered."

// nameTopics decides which topics there will be: those of the newest copy of the catalogue, and
// under new names those that have records and that no copy ever knew, for they were created
// after the last one. Those that an older copy knows were deleted; those that a late copy knows
// may have been, and stay if they have records.
func (p *Plan) nameTopics(found *catalogues) {
	p.topics = slices.Clone(found.newest.Topics)
	p.producerID = found.newest.ProducerID
	known, gone := map[tiering.TopicID]bool{}, map[tiering.TopicID]bool{}
	names, late := map[string]bool{}, map[tiering.TopicID]catalogue.Topic{}
	for _, t := range p.topics {
		known[t.ID], names[t.Name] = true, true
	}
	for _, c := range found.late {
		p.producerID = max(p.producerID, c.ProducerID)
		for _, t := range c.Topics {
			late[t.ID] = t
		}
	}
	for _, c := range found.older {
		p.producerID = max(p.producerID, c.ProducerID)
		for _, t := range c.Topics {
			gone[t.ID] = !known[t.ID]
		}
	}
	for _, id := range slices.SortedFunc(maps.Keys(p.strangers()), func(a, b tiering.TopicID) int { return bytes.Compare(a[:], b[:]) }) {
		t, some := late[id]
		switch {
		case known[id]:
		case some && !names[t.Name]: // it has records, and nothing proves that it was deleted
			p.topics, names[t.Name] = append(p.topics, t), true
		case gone[id] && !some:
			p.Report.Deleted = append(p.Report.Deleted, id.String())
		default:
			p.adoptTopic(id)
		}
	}
	slices.SortFunc(p.topics, func(a, b catalogue.Topic) int { return cmp.Compare(a.Name, b.Name) })
	p.Report.Topics, p.seenProducerID = len(p.topics), p.producerID
}

// strangers returns the topics that have records, with their greatest partition, and where that is.
func (p *Plan) strangers() map[tiering.TopicID]place {
	out := map[tiering.TopicID]place{}
	for _, s := range p.shards {
		note := func(tp tiering.TopicPartition) {
			if at, ok := out[tp.Topic]; !ok || at.partition < tp.Partition {
				out[tp.Topic] = place{tp.Partition, s.id}
			}
		}
		for _, tp := range s.state.Partitions() {
			note(tp)
		}
		s.topicsBeyond(note)
	}
	return out
}

type place struct {
	partition int32
	shard     tiering.ShardID
}

// adoptTopic gives a topic whose name nobody knows one that tells where it comes from.
func (p *Plan) adoptTopic(id tiering.TopicID) {
	at := p.strangers()[id]
	if at.partition >= catalogue.MaxPartitions {
		p.Report.problem("topic %s has records of partition %d: it is left out", id, at.partition)
		return
	}
	shards := p.cluster.Shards
	first := (uint32(at.shard) + shards - uint32(at.partition)%shards) % shards
	t := catalogue.Topic{
		Name: recoveredPrefix + id.String(), ID: id, Partitions: at.partition + 1, ReplicationFactor: 1,
		FirstShard: tiering.ShardID(first), Created: p.now,
	}
	p.topics = append(p.topics, t)
	p.Report.Renamed = append(p.Report.Renamed, t.Name)
}

// countProducers makes sure that no producer id is handed out again.
func (p *Plan) countProducers() {
	highest := p.producerID - 1
	for _, s := range p.shards {
		for _, tp := range s.state.Partitions() {
			for _, e := range s.state.Partition(tp).ProducerStates() {
				highest = max(highest, e.ProducerID)
			}
		}
		for _, name := range s.state.GroupNames() {
			for id := range s.state.Group(name).Producers {
				highest = max(highest, id)
			}
		}
	}
	p.producerID = highest + 1 + producerIDJump
	p.Report.ProducerID = p.producerID
}

// topicIDs returns the ids of the topics that there will be.
func (p *Plan) topicIDs() map[tiering.TopicID]*catalogue.Topic {
	out := make(map[tiering.TopicID]*catalogue.Topic, len(p.topics))
	for i := range p.topics {
		out[p.topics[i].ID] = &p.topics[i]
	}
	return out
}

// states returns the states of all shards.
func (p *Plan) states() []*shard.State {
	out := make([]*shard.State, len(p.shards))
	for i, s := range p.shards {
		out[i] = s.state
	}
	return out
}
