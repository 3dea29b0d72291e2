package consumer

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/floelog/floe/agent/coordinator"
	"github.com/floelog/floe/metadata/shard"
)

// Keys of a group's rows. The kinds of a member's rows differ in how often they change.
const (
	groupKey      = "c/epoch"
	memberPrefix  = "c/m/" // what the member says of itself
	targetPrefix  = "c/t/" // what it shall own
	currentPrefix = "c/a/" // where it stands
)

// rowSet is a set of a member's rows.
type rowSet uint8

const (
	memberRow rowSet = 1 << iota
	targetRow
	currentRow
)

// dirty is what changed in a step and has no rows yet.
type dirty struct {
	group   bool
	members map[*member]rowSet
	gone    []string // ids of members that are forgotten
}

func (d *dirty) any() bool { return d.group || len(d.members) > 0 || len(d.gone) > 0 }

func (d *dirty) mark(m *member, rows rowSet) {
	if d.members == nil {
		d.members = make(map[*member]rowSet)
	}
	d.members[m] |= rows
}

func (d *dirty) forget(m *member) {
	delete(d.members, m)
	d.gone = append(d.gone, m.id)
}

// flush returns the rows of what changed. Their order matters where they are too many for one
// record and a failover leaves the first ones alone: members that are gone first, so that
// nothing has two owners; the group's epoch last, so that Load finds targets that do not fit it.
func (g *Group) flush() []shard.Row {
	d := g.dirty
	if !d.any() {
		return nil
	}
	g.dirty = dirty{}
	var rows []shard.Row
	slices.Sort(d.gone)
	for _, id := range d.gone {
		if g.members[id] == nil { // otherwise it is back, and all of its rows are below
			rows = append(rows, shard.Row{Key: currentPrefix + id}, shard.Row{Key: targetPrefix + id}, shard.Row{Key: memberPrefix + id})
		}
	}
	for _, m := range slices.SortedFunc(maps.Keys(d.members), func(a, b *member) int { return cmp.Compare(a.id, b.id) }) {
		set := d.members[m]
		if set&memberRow != 0 {
			rows = append(rows, shard.Row{Key: memberPrefix + m.id, Value: encodeMember(m)})
		}
		if set&targetRow != 0 {
			rows = append(rows, shard.Row{Key: targetPrefix + m.id, Value: encodeTarget(m.target)})
		}
		if set&currentRow != 0 {
			rows = append(rows, shard.Row{Key: currentPrefix + m.id, Value: encodeCurrent(m)})
		}
	}
	if d.group {
		rows = append(rows, shard.Row{Key: groupKey, Value: encodeGroup(g)})
	}
	return rows
}

// Drop returns rows that delete all rows of the group.
func (g *Group) Drop() []shard.Row {
	var rows []shard.Row
	for _, m := range g.sortedMembers() {
		rows = append(rows, shard.Row{Key: currentPrefix + m.id}, shard.Row{Key: targetPrefix + m.id}, shard.Row{Key: memberPrefix + m.id})
	}
	return append(rows, shard.Row{Key: groupKey})
}

// Load rebuilds a group from its rows; keys that do not begin with "c/" are not its own. It
// keeps nothing of the rows. If rows are missing because a failover came between two records,
// the group's epoch rises, and Wake asks for a Tick at once; if topics changed since, after
// catchUp.
func Load(name string, rows iter.Seq2[string, []byte], cfg Config, t coordinator.Topics, now time.Time) (*Group, error) {
	g := New(name, cfg, t)
	g.now = now
	said, targets, currents := make(map[string][]byte), make(map[string][]byte), make(map[string][]byte)
	for key, value := range rows {
		var err error
		switch prefix, id := key[:min(len(key), len(memberPrefix))], key[min(len(key), len(memberPrefix)):]; {
		case key == groupKey:
			err = decodeGroup(value, g)
		case prefix == memberPrefix:
			said[id] = value
		case prefix == targetPrefix:
			targets[id] = value
		case prefix == currentPrefix:
			currents[id] = value
		case strings.HasPrefix(key, "c/"):
			err = errRow
		}
		if err != nil {
			return nil, fmt.Errorf("group %q, row %q: %w", name, key, err)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(said)) {
		if err := g.loadMember(id, said[id], targets[id], currents[id]); err != nil {
			return nil, fmt.Errorf("group %q, member %q: %w", name, id, err)
		}
	}
	for _, others := range []map[string][]byte{targets, currents} {
		for id := range others {
			if g.members[id] == nil && !slices.Contains(g.dirty.gone, id) {
				g.dirty.gone = append(g.dirty.gone, id)
			}
		}
	}
	// A regular expression is resolved again as soon as topics change: it may have been too early.
	g.regexAt, g.trust = noTime, now.Add(catchUp)
	g.settle(!g.whole())
	return g, nil
}

// catchUp is how long a group that was loaded takes no notice of topics that are not what they
// were: this agent's copy of them may lag behind that of the last coordinator, and the group
// would rebalance twice. Why not shorter: a watch that broke takes seconds to go on. Why not
// longer: topics that did change meanwhile wait for it.
const catchUp = 5 * time.Second

// loadMember adds a member from its rows; nil rows are not there.
func (g *Group) loadMember(id string, said, target, current []byte) error {
	m := &member{id: id, state: stable, heard: g.now}
	d, err := decodeMember(said, m)
	if err != nil {
		return fmt.Errorf("row %s: %w", memberPrefix, err)
	}
	pattern, r := compile(d.regex)
	if r != nil {
		return fmt.Errorf("row %s: %s", memberPrefix, r.message)
	}
	if m.target, err = decodeTarget(target); err != nil {
		return fmt.Errorf("row %s: %w", targetPrefix, err)
	}
	assigned, revoking, err := decodeCurrent(current, m)
	if err != nil {
		return fmt.Errorf("row %s: %w", currentPrefix, err)
	}
	for _, a := range [...][]share{assigned, revoking} {
		for _, s := range a {
			for _, p := range s.Partitions {
				if o := g.owner[partition{Topic: s.Topic, Partition: p}]; o != nil {
					return fmt.Errorf("%s-%d belongs to member %q already", s.Topic, p, o.id)
				}
			}
		}
	}
	if subtract(assigned, revoking).Count() != assigned.Count() {
		return fmt.Errorf("row %s: partitions are assigned and to be revoked at once", currentPrefix)
	}
	g.own(m, assigned, revoking)
	g.subscribe(m, d.names, d.regex, pattern)
	g.members[id] = m
	if m.instance != nil {
		g.statics[*m.instance] = m
	}
	if m.state == unrevoked && m.classic == nil {
		m.revokeBy = g.now.Add(m.rebalance)
	}
	g.timers.update(m, g.deadline(m))
	return nil
}

// whole reports whether the target assignment is one: every partition is in one target, and
// nobody is ahead of the group. Otherwise rows are missing.
func (g *Group) whole() bool {
	if g.assigned < g.epoch || len(g.members) == 0 {
		return true // it will be computed anyway
	}
	total := 0
	seen := make(map[partition]bool)
	for _, m := range g.members {
		if m.epoch > g.epoch {
			g.epoch = m.epoch
			return false
		}
		for _, p := range flatten(m.target) {
			if seen[p] {
				return false
			}
			seen[p] = true
		}
		total += m.target.Count()
	}
	if metadataHash(g.subscribedTopics()) != g.hash {
		return true // topics changed: another reason to compute it
	}
	for _, t := range g.subscribedTopics() {
		total -= int(t.Partitions)
	}
	return total == 0
}
