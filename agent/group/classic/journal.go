package classic

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"time"

	"github.com/floelog/floe/metadata/shard"
)

// What a group journals. All keys begin with "g/"; a generation's rows are written when its
// leader has assigned, members first, the header after them, then the last generation's
// rows are deleted: whatever part of it a failover leaves, the header's generation is whole,
// or the group sees that members are missing and rebalances.
//
//	g/n               the last generation that anybody heard of: uvarint
//	g/h               the group as it was last stable or empty:
//	                  version 1 | flags (1: a rebalance is due) | generation uvarint | since varint ms
//	                  protocol type, protocol, leader: strings | members uvarint
//	g/m/GGGGGGGG/PPPP/ID  part P of member ID in generation G, both in hexadecimal; part 0 begins
//	                  with the number of parts, uvarint. Joined, the parts are
//	                  order uvarint | client id, host: strings | instance: 0, or 1 and a string
//	                  session, rebalance: uvarint ms | protocols: count, each name string, metadata bytes
//	                  assignment bytes
//
// Strings and bytes are preceded by their length, uvarint.
const (
	rowPrefix     = "g/"
	generationKey = rowPrefix + "n"
	memberPrefix  = rowPrefix + "m/"
	memberKeyID   = len(memberPrefix) + 8 + 1 + 4 + 1 // where the id begins

	headerVersion = 1
	flagRebalance = 1

	// partBytes is how much of a member fits in one row. Larger rows could not share a change
	// with others (coordinator.MaxChangeBytes), smaller ones would split ordinary members.
	partBytes = 256 << 10

	// maxParts is more than maxGroupBytes needs.
	maxParts = 1 << 12
)

// HeaderKey is the row that says that a group is a classic one: it is written last and, where
// the group becomes another, deleted first.
const HeaderKey = rowPrefix + "h"

// errRow says that a row is not what an intact agent wrote.
var errRow = errors.New("row of a classic group is damaged")

// journal knows which rows there are.
type journal struct {
	stored  map[string]storedMember // by member id
	garbage []string                // keys of rows that count for nothing
}

type storedMember struct {
	generation int32
	parts      int
}

func memberKey(generation int32, part int, id string) string {
	return fmt.Sprintf("%s%08x/%04x/%s", memberPrefix, uint32(generation), part, id)
}

func (g *Group) put(key string, value []byte) {
	g.out.Rows = append(g.out.Rows, shard.Row{Key: key, Value: value})
}

// storeGeneration makes sure that no later coordinator uses the generation again.
func (g *Group) storeGeneration() {
	g.put(generationKey, binary.AppendUvarint(nil, uint64(g.generation)))
}

// storeAll journals the group as it is, in the place of what was there.
func (g *Group) storeAll() {
	old := g.journal.stored
	g.journal.stored = make(map[string]storedMember, len(g.members))
	for _, m := range g.members {
		g.putMember(m)
	}
	g.putHeader(0)
	ids := make([]string, 0, len(old))
	for id := range old {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		if s := old[id]; g.journal.stored[id].generation != s.generation {
			g.erase(id, s)
		}
	}
	for _, key := range g.journal.garbage {
		g.put(key, nil)
	}
	g.journal.garbage = nil
}

// storeMember journals a member that took another's place in a stable group.
func (g *Group) storeMember(m *member) {
	g.putMember(m)
	g.putHeader(0)
}

// forget deletes the rows of a member. A group that is loaded then sees that it is missing.
func (g *Group) forget(id string) {
	if s, ok := g.journal.stored[id]; ok {
		g.erase(id, s)
		delete(g.journal.stored, id)
	}
}

func (g *Group) erase(id string, s storedMember) {
	for part := range s.parts {
		g.put(memberKey(s.generation, part, id), nil)
	}
}

func (g *Group) putHeader(flags byte) {
	b := []byte{headerVersion, flags}
	b = binary.AppendUvarint(b, uint64(g.generation))
	b = binary.AppendVarint(b, g.since.UnixMilli())
	b = appendString(b, g.protocolType)
	b = appendString(b, g.protocol)
	b = appendString(b, g.leader)
	g.put(HeaderKey, binary.AppendUvarint(b, uint64(len(g.members))))
}

func (g *Group) putMember(m *member) {
	b := encodeMember(m)
	parts := max((len(b)+partBytes-1)/partBytes, 1)
	for i := range parts {
		var value []byte
		if i == 0 {
			value = binary.AppendUvarint(value, uint64(parts))
		}
		value = append(value, b[i*partBytes:min((i+1)*partBytes, len(b))]...)
		g.put(memberKey(g.generation, i, m.ID), value)
	}
	g.journal.stored[m.ID] = storedMember{g.generation, parts}
}

func encodeMember(m *member) []byte {
	b := make([]byte, 0, m.size()+64)
	b = binary.AppendUvarint(b, m.order)
	b = appendString(b, m.ClientID)
	b = appendString(b, m.Host)
	if m.Instance == nil {
		b = append(b, 0)
	} else {
		b = appendString(append(b, 1), *m.Instance)
	}
	b = binary.AppendUvarint(b, uint64(m.Session.Milliseconds()))
	b = binary.AppendUvarint(b, uint64(m.Rebalance.Milliseconds()))
	b = binary.AppendUvarint(b, uint64(len(m.Protocols)))
	for _, p := range m.Protocols {
		b = appendString(b, p.Name)
		b = appendString(b, string(p.Metadata))
	}
	return appendString(b, string(m.Assignment))
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// Load builds a group from its rows. The sessions of its members begin now.
func Load(name string, rows iter.Seq2[string, []byte], cfg Config, now time.Time) (*Group, error) {
	g := New(name, cfg)
	var reserved int32
	var header []byte
	parts := map[string][]byte{}
	for key, value := range rows {
		switch {
		case key == generationKey:
			d := decoder{b: value}
			reserved = int32(d.uint(1<<31 - 1))
			if err := d.end(); err != nil {
				return nil, fmt.Errorf("group %q: last generation: %w", name, err)
			}
		case key == HeaderKey:
			header = value
		case len(key) > memberKeyID && key[:len(memberPrefix)] == memberPrefix:
			parts[key] = value
		}
	}
	due, count, err := g.readHeader(header, now)
	if err != nil {
		return nil, fmt.Errorf("group %q: header: %w", name, err)
	}
	if err := g.readMembers(parts); err != nil {
		return nil, fmt.Errorf("group %q: %w", name, err)
	}
	due = due || reserved > g.generation || count != len(g.members)
	g.generation = max(g.generation, reserved)
	g.resume(due, now)
	return g, nil
}

// readHeader returns whether a rebalance is due, and how many members there should be.
func (g *Group) readHeader(b []byte, now time.Time) (due bool, members int, err error) {
	g.since = now
	if b == nil {
		return false, 0, nil
	}
	d := decoder{b: b}
	if v := d.byte(); d.err == nil && v != headerVersion {
		return false, 0, fmt.Errorf("version %d is not known: %w", v, errRow)
	}
	due = d.byte()&flagRebalance != 0
	g.generation = int32(d.uint(1<<31 - 1))
	g.since = time.UnixMilli(d.int())
	g.protocolType, g.protocol, g.leader = d.string(), d.string(), d.string()
	return due, int(d.uint(1 << 30)), d.end()
}

// readMembers joins the parts of the members of the header's generation.
func (g *Group) readMembers(parts map[string][]byte) error {
	for _, key := range slices.Sorted(keysOf(parts)) {
		generation, err := strconv.ParseUint(key[len(memberPrefix):len(memberPrefix)+8], 16, 31)
		id := key[memberKeyID:]
		first := err == nil && int32(generation) == g.generation && key == memberKey(g.generation, 0, id)
		if !first {
			if _, mine := parts[memberKey(g.generation, 0, id)]; err != nil || int32(generation) != g.generation || !mine {
				g.journal.garbage = append(g.journal.garbage, key)
			}
			continue
		}
		d := decoder{b: parts[key]}
		n := int(d.uint(maxParts))
		whole, b := d.err == nil && n > 0, slices.Clone(d.b)
		for i := 1; i < n; i++ {
			more, ok := parts[memberKey(g.generation, i, id)]
			whole, b = whole && ok, append(b, more...)
		}
		g.journal.stored[id] = storedMember{g.generation, max(n, 1)}
		if !whole {
			continue
		}
		m, err := decodeMember(id, b)
		if err != nil {
			return fmt.Errorf("member %q: %w", id, err)
		}
		if m.Instance == nil || g.static[*m.Instance] == nil {
			g.add(m)
			g.order = max(g.order, m.order)
		}
	}
	slices.SortStableFunc(g.members, func(a, b *member) int { return int(int64(a.order) - int64(b.order)) })
	return nil
}

func keysOf(m map[string][]byte) iter.Seq[string] {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// resume sets the group's state and its timers after its rows were read.
func (g *Group) resume(due bool, now time.Time) {
	if g.byID[g.leader] == nil {
		g.leader = ""
		if len(g.members) > 0 {
			g.leader = g.members[0].ID
		}
	}
	g.topics = g.subscriptions()
	for _, m := range g.members {
		g.touch(m, now)
	}
	switch {
	case len(g.members) > 0 && due:
		g.state = preparing
		g.joinAt = now.Add(g.rebalanceTimeout())
		g.arm(g.joinAt)
	case len(g.members) > 0:
		g.state = stable
	case due:
		g.since, g.protocol = now, ""
	}
}

func decodeMember(id string, b []byte) (*member, error) {
	d := decoder{b: b}
	m := &member{}
	m.ID = id
	m.order = d.uint(1<<63 - 1)
	m.ClientID, m.Host = d.string(), d.string()
	if d.byte() == 1 {
		s := d.string()
		m.Instance = &s
	}
	m.Session, m.Rebalance = d.duration(), d.duration()
	n := d.uint(uint64(len(d.b)))
	for range n {
		m.Protocols = append(m.Protocols, protocol(d.string(), d.string()))
		if d.err != nil {
			break
		}
	}
	if s := d.string(); s != "" {
		m.Assignment = []byte(s)
	}
	return m, d.end()
}
