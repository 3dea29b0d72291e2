package group

import (
	"maps"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/floelog/floe/agent/coordinator"
	"github.com/floelog/floe/agent/group/step"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// commit commits offsets and returns Kafka's code.
func (m *machine) commit(c Commit, now time.Time) int16 {
	e := m.groups[c.Group]
	if code := checkCommit(e, c); code != 0 {
		return code
	}
	for _, o := range c.Offsets {
		if len(o.Metadata) > m.settings.MaxOffsetMetadata && utf8.RuneCountInString(o.Metadata) > m.settings.MaxOffsetMetadata {
			return kerr.OffsetMetadataTooLarge.Code
		}
	}
	if len(c.Offsets) == 0 {
		return 0
	}
	if m.full(c.Group) {
		return kerr.PolicyViolation.Code
	}
	e = m.entry(c.Group, now)
	t := c.Transaction
	if t.Number != 0 {
		p := e.producer(t.ProducerID)
		p.epoch, p.open, p.updated = max(p.epoch, t.Epoch), t.Number, max(p.updated, now.UnixMilli())
		if p.pending == nil {
			p.pending = make(map[tiering.TopicPartition]stamp, len(c.Offsets))
		}
		for _, o := range c.Offsets {
			_, seen := m.topicName(o.Partition.Topic)
			p.pending[o.Partition] = stamp{now.UnixMilli(), o.Expires, seen}
		}
	} else {
		for _, o := range c.Offsets {
			_, seen := m.topicName(o.Partition.Topic)
			e.commit(o, now, seen)
		}
		if g := e.classic(); g != nil {
			g.Touch(c.Member.ID, now)
		}
	}
	m.commitOffsets(c)
	m.keep(e)
	return 0
}

// commitOffsets writes the offsets, in as many changes as their size demands.
func (m *machine) commitOffsets(c Commit) {
	size, from := 0, 0
	for i, o := range c.Offsets {
		n := rowOverhead + len(o.Metadata)
		if size+n > changeBytes {
			m.change(shard.CommitOffsets{Group: c.Group, Transaction: c.Transaction, Offsets: c.Offsets[from:i]})
			size, from = 0, i
		}
		size += n
	}
	m.change(shard.CommitOffsets{Group: c.Group, Transaction: c.Transaction, Offsets: c.Offsets[from:]})
}

func checkCommit(e *entry, c Commit) int16 {
	t, who := c.Transaction, c.Member
	transactional := t.Number != 0
	var code int16
	switch {
	case e.exists() && e.group != nil:
		code = e.group.CheckCommit(step.MemberRef{ID: who.ID, Instance: who.Instance, Epoch: who.Epoch, Transactional: transactional, Version: who.Version})
	case who.Epoch < 0:
	case e.exists():
		code = kerr.UnknownMemberID.Code
	case !transactional && who.Version >= 9:
		code = kerr.GroupIDNotFound.Code
	default:
		code = kerr.IllegalGeneration.Code
	}
	if transactional && code == kerr.StaleMemberEpoch.Code {
		code = kerr.IllegalGeneration.Code
	}
	if code != 0 || !transactional {
		return code
	}
	return checkTransaction(e, t)
}

// checkTransaction says whether a transaction may still commit offsets. A late request of one
// that is over is told by its number, although its epoch may be the present one
// (KAFKA-17754).
func checkTransaction(e *entry, t shard.Transaction) int16 {
	if t.ProducerID < 0 || t.Epoch < 0 || t.Number < 0 {
		return kerr.InvalidRequest.Code
	}
	if e == nil {
		return 0
	}
	p := e.producers[t.ProducerID]
	switch {
	case p == nil:
		return 0
	case t.Epoch < p.epoch:
		return kerr.InvalidProducerEpoch.Code
	case t.Number <= p.ended || t.Number < p.open:
		return kerr.InvalidTxnState.Code
	case p.open != 0 && t.Number > p.open:
		// Its coordinator concludes the open one first; it has not reached us.
		return kerr.ConcurrentTransactions.Code
	}
	return 0
}

// conclude ends a transaction. It is recorded of one that the group knows nothing of, too:
// an offset commit of it may still be on its way.
func (m *machine) conclude(c Conclude, now time.Time) int16 {
	t := c.Transaction
	if t.ProducerID < 0 || t.Epoch < 0 || t.Number < 1 {
		return kerr.InvalidRequest.Code
	}
	if e := m.groups[c.Group]; e != nil {
		if p := e.producers[t.ProducerID]; p != nil {
			switch {
			case t.Number <= p.ended:
				return 0
			case t.Epoch < p.epoch:
				return kerr.InvalidProducerEpoch.Code
			}
		}
	}
	e := m.entry(c.Group, now)
	e.conclude(t, c.Commit, now)
	m.change(shard.ConcludeOffsets{Group: c.Group, Transaction: t, Commit: c.Commit})
	m.keep(e)
	return 0
}

// fetch answers from the shard's state, so that no answer is older than the question.
func (m *machine) fetch(id coordinator.RequestID, f Fetch) {
	if e := m.groups[f.Group]; e != nil && e.group != nil {
		who := f.Member
		if code := e.group.CheckFetch(step.MemberRef{ID: who.ID, Instance: who.Instance, Epoch: who.Epoch, Version: who.Version}); code != 0 {
			m.reply(id, Fetched{Code: code})
			return
		}
	}
	m.out.Replies = append(m.out.Replies, coordinator.Reply{ID: id, Read: func(s *shard.State) any {
		return Fetched{Offsets: fetched(s.Group(f.Group), f)}
	}})
}

func fetched(g *shard.Group, f Fetch) []Offset {
	unstable := map[tiering.TopicPartition]struct{}{}
	if f.Stable {
		for _, p := range g.Producers {
			for tp := range p.Pending {
				unstable[tp] = struct{}{}
			}
		}
	}
	partitions := f.Partitions
	if f.All {
		partitions = slices.Collect(maps.Keys(g.Offsets))
		for tp := range unstable {
			if _, ok := g.Offsets[tp]; !ok {
				partitions = append(partitions, tp)
			}
		}
		slices.SortFunc(partitions, tiering.TopicPartition.Compare)
	}
	out := make([]Offset, len(partitions))
	for i, tp := range partitions {
		out[i] = Offset{Partition: tp, Offset: -1, Epoch: -1}
		o, ok := g.Offsets[tp]
		if _, open := unstable[tp]; open {
			out[i].Code = kerr.UnstableOffsetCommit.Code
		} else if ok {
			out[i].Offset, out[i].Epoch, out[i].Metadata = o.Offset, o.Epoch, o.Metadata
		}
	}
	return out
}

// delete forgets offsets of topics that no member consumes (KIP-496).
func (m *machine) delete(d Delete) Deleted {
	e := m.groups[d.Group]
	switch {
	case !e.exists():
		return Deleted{Code: kerr.GroupIDNotFound.Code}
	case e.classic() != nil && !e.vacant() && e.classic().ProtocolType() != consumerType:
		return Deleted{Code: kerr.NonEmptyGroup.Code}
	}
	out := Deleted{Codes: make([]int16, len(d.Partitions))}
	var gone []tiering.TopicPartition
	for i, tp := range d.Partitions {
		if m.subscribed(e, tp.Topic) {
			out.Codes[i] = kerr.GroupSubscribedToTopic.Code
			continue
		}
		if _, ok := e.offsets[tp]; ok || e.pending(tp) {
			gone = append(gone, tp)
		}
	}
	m.deleteOffsets(e, gone)
	m.keep(e)
	return out
}

func (m *machine) subscribed(e *entry, id tiering.TopicID) bool {
	name, ok := m.topicName(id)
	return ok && e.group != nil && e.group.Subscribed(name)
}

// deletions is how many partitions one change deletes at most; coordinator.MaxChangeBytes
// takes more.
const deletions = 16 << 10

func (m *machine) deleteOffsets(e *entry, partitions []tiering.TopicPartition) {
	e.forget(partitions)
	for part := range slices.Chunk(partitions, deletions) {
		m.change(shard.DeleteOffsets{Group: e.name, Partitions: part})
	}
}
