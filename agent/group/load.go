package group

import (
	"fmt"
	"strings"
	"time"

	"github.com/floelog/floe/agent/coordinator"
	"github.com/floelog/floe/agent/group/classic"
	"github.com/floelog/floe/agent/group/consumer"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// NewLoad returns how the machine of a shard's groups is built. newID makes strings that
// nobody else has, of which member ids are made; but for them machines are deterministic. It
// returns no error: groups that cannot be read are Damaged.
func NewLoad(s Settings, newID func() string) coordinator.Load {
	return func(id tiering.ShardID, _ tiering.LeaderEpoch, st *shard.State, topics coordinator.Topics, now time.Time) (coordinator.Machine, error) {
		m := &machine{settings: s, newID: newID, topics: topics, groups: map[string]*entry{}, waiting: map[coordinator.RequestID]*entry{}}
		for _, name := range st.Names(shard.Groups) {
			if err := m.loadRows(name, st, now); err != nil {
				m.groups[name].group = &damaged{err}
				m.damaged = append(m.damaged, fmt.Errorf("groups of shard %d: %w", id, err))
			}
		}
		for _, name := range st.GroupNames() {
			m.loadOffsets(name, st.Group(name))
		}
		for _, e := range m.groups {
			e.check = now.Add(spread(e.name, s.OffsetsRetentionCheck))
			m.keep(e)
		}
		return m, nil
	}
}

func (m *machine) loaded(name string) *entry {
	e := m.groups[name]
	if e == nil {
		e = newEntry(name)
		m.groups[name] = e
	}
	return e
}

// loadRows builds the group of its rows. A header of a classic group decides: it is written
// last where a group becomes classic, and deleted first where it stops being so.
func (m *machine) loadRows(name string, st *shard.State, now time.Time) (err error) {
	e := m.loaded(name)
	isClassic, isConsumer := false, false
	for key := range st.Rows(shard.Groups, name) {
		key = strings.Clone(key)
		e.rows[key] = struct{}{}
		isClassic = isClassic || key == classic.HeaderKey
		isConsumer = isConsumer || strings.HasPrefix(key, consumerRows)
	}
	if b := st.Row(shard.Groups, name, configRow); b != nil {
		if e.config, err = decodeConfig(b); err != nil {
			return fmt.Errorf("group %q: %w", name, err)
		}
	}
	rows := st.Rows(shard.Groups, name)
	if isConsumer && !isClassic {
		g, err := consumer.Load(name, rows, m.consumerConfig(), m.topics, now)
		if err != nil {
			return err
		}
		m.configure(g, e.config)
		e.group = g
		return nil
	}
	g, err := classic.Load(name, rows, m.classicConfig(), now)
	if err != nil {
		return err
	}
	if !g.Blank() {
		e.group = g
	}
	return nil
}

func (m *machine) loadOffsets(name string, g *shard.Group) {
	e := m.loaded(name)
	if len(g.Offsets) > 0 {
		e.offsets = m.stamps(g.Offsets)
	}
	for id, p := range g.Producers {
		*e.producer(id) = producer{epoch: p.Epoch, ended: p.Ended, open: p.Open, pending: m.stamps(p.Pending), updated: p.Updated}
	}
}

func (m *machine) stamps(of map[tiering.TopicPartition]shard.CommittedOffset) map[tiering.TopicPartition]stamp {
	out := make(map[tiering.TopicPartition]stamp, len(of))
	for tp, o := range of {
		_, seen := m.topicName(tp.Topic)
		out[tp] = stamp{o.Committed, o.Expires, seen}
	}
	return out
}
