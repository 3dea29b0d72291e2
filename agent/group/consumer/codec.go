package consumer

import (
	"encoding/binary"
	"errors"
	"math"
	"time"

	"github.com/floelog/floe/agent/group/assignor"
	"github.com/floelog/floe/agent/group/step"
	"github.com/floelog/floe/tiering"
)

// The values of a group's rows. Numbers are varints (u: unsigned, z: zigzag) but where a
// width is given; str is u length and bytes; opt is 0, or 1 and a str.
//
//	c/epoch     | version 1 | z group epoch | z assignment epoch | 8 bytes metadata hash |
//
//	c/m/<id>    | version 1 | opt instance | opt rack | str client id | str host | u rebalance ms | str assignor |
//	            | u n | n x str name | str regex |
//	            | classic: 0, or 1 | u session ms | u n | n x (str protocol, str metadata) |
//
//	c/t/<id>    | version 1 | assignment |
//
//	c/a/<id>    | version 1 | state, 1 byte | z epoch | z previous epoch | assignment: assigned | assignment: revoking |
//
//	assignment  | u n | n x ( topic id, 16 bytes | u m | m x u partition - (the one before + 1) ) |
const rowVersion = 1

// errRow says that a row is damaged, or was written by a newer version.
var errRow = errors.New("not a row that this version can read")

type (
	share     = assignor.Share
	partition = tiering.TopicPartition
	topicID   = tiering.TopicID
)

func flatten(a assignor.Assignment) []partition {
	out := make([]partition, 0, a.Count())
	for _, s := range a {
		for _, p := range s.Partitions {
			out = append(out, partition{Topic: s.Topic, Partition: p})
		}
	}
	return out
}

func encodeGroup(g *Group) []byte {
	b := []byte{rowVersion}
	b = binary.AppendVarint(b, int64(g.epoch))
	b = binary.AppendVarint(b, int64(g.assigned))
	return binary.BigEndian.AppendUint64(b, g.hash)
}

func decodeGroup(value []byte, g *Group) error {
	r := newReader(value)
	g.epoch, g.assigned = r.int32(), r.int32()
	if b := r.take(8); b != nil {
		g.hash = binary.BigEndian.Uint64(b)
	}
	if g.assigned > g.epoch || g.epoch < 0 {
		return errRow
	}
	return r.end()
}

func encodeMember(m *member) []byte {
	b := []byte{rowVersion}
	b = appendOptional(b, m.instance)
	b = appendOptional(b, m.rack)
	b = appendString(b, m.clientID)
	b = appendString(b, m.host)
	b = binary.AppendUvarint(b, uint64(m.rebalance.Milliseconds()))
	b = appendString(b, m.assignor)
	b = binary.AppendUvarint(b, uint64(len(m.sub.names)))
	for _, name := range m.sub.names {
		b = appendString(b, name)
	}
	b = appendString(b, m.sub.regex)
	if m.classic == nil {
		return append(b, 0)
	}
	b = binary.AppendUvarint(append(b, 1), uint64(m.classic.session.Milliseconds()))
	b = binary.AppendUvarint(b, uint64(len(m.classic.protocols)))
	for _, p := range m.classic.protocols {
		b = appendString(b, p.Name)
		b = binary.AppendUvarint(b, uint64(len(p.Metadata)))
		b = append(b, p.Metadata...)
	}
	return b
}

// words are what a member's row says of its subscription.
type words struct {
	names []string
	regex string
}

func decodeMember(value []byte, m *member) (words, error) {
	r := newReader(value)
	var w words
	m.instance, m.rack = r.optional(), r.optional()
	m.clientID, m.host = r.string(), r.string()
	m.rebalance = r.millis()
	m.assignor = r.string()
	for n := r.count(1); n > 0; n-- {
		w.names = append(w.names, r.string())
	}
	w.regex = r.string()
	switch r.byte() {
	case 0:
	case 1:
		m.classic = &classic{session: r.millis()}
		n := r.count(2)
		if n == 0 {
			return w, errRow
		}
		for ; n > 0; n-- {
			m.classic.protocols = append(m.classic.protocols, step.Protocol{Name: r.string(), Metadata: []byte(r.string())})
		}
	default:
		return w, errRow
	}
	return w, r.end()
}

func encodeTarget(a assignor.Assignment) []byte { return appendAssignment([]byte{rowVersion}, a) }

// decodeTarget takes nil for a row that is not there.
func decodeTarget(value []byte) (assignor.Assignment, error) {
	if value == nil {
		return nil, nil
	}
	r := newReader(value)
	a := r.assignment()
	return a, r.end()
}

func encodeCurrent(m *member) []byte {
	b := []byte{rowVersion, byte(m.state)}
	b = binary.AppendVarint(b, int64(m.epoch))
	b = binary.AppendVarint(b, int64(m.previous))
	return appendAssignment(appendAssignment(b, m.assigned), m.revoking)
}

// decodeCurrent takes nil for a row that is not there.
func decodeCurrent(value []byte, m *member) (assigned, revoking assignor.Assignment, err error) {
	if value == nil {
		return nil, nil, nil
	}
	r := newReader(value)
	m.state = state(r.byte())
	if m.state < stable || m.state > unreleased {
		return nil, nil, errRow
	}
	m.epoch, m.previous = r.int32(), r.int32()
	assigned, revoking = r.assignment(), r.assignment()
	return assigned, revoking, r.end()
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendOptional(b []byte, s *string) []byte {
	if s == nil {
		return append(b, 0)
	}
	return appendString(append(b, 1), *s)
}

func appendAssignment(b []byte, a assignor.Assignment) []byte {
	b = binary.AppendUvarint(b, uint64(len(a)))
	for _, s := range a {
		b = append(b, s.Topic[:]...)
		b = binary.AppendUvarint(b, uint64(len(s.Partitions)))
		next := int32(0)
		for _, p := range s.Partitions {
			b = binary.AppendUvarint(b, uint64(p-next))
			next = p + 1
		}
	}
	return b
}

// reader reads a row. After an error it returns zero values; end tells.
type reader struct {
	b   []byte
	bad bool
}

func newReader(value []byte) *reader {
	r := &reader{b: value}
	if r.byte() != rowVersion {
		r.fail()
	}
	return r
}

func (r *reader) fail() { r.b, r.bad = nil, true }

// end returns an error unless the whole row was read.
func (r *reader) end() error {
	if r.bad || len(r.b) > 0 {
		return errRow
	}
	return nil
}

func (r *reader) take(n int) []byte {
	if n > len(r.b) {
		r.fail()
		return nil
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) uvarint(limit uint64) uint64 {
	u, n := binary.Uvarint(r.b)
	if n <= 0 || u > limit {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return u
}

func (r *reader) int32() int32 {
	v, n := binary.Varint(r.b)
	if n <= 0 || int64(int32(v)) != v {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return int32(v)
}

// count reads a number of things that take at least size bytes each.
func (r *reader) count(size int) int { return int(r.uvarint(uint64(len(r.b) / size))) }

func (r *reader) string() string { return string(r.take(r.count(1))) }

func (r *reader) millis() time.Duration {
	return time.Duration(r.uvarint(1<<31)) * time.Millisecond
}

func (r *reader) optional() *string {
	switch r.byte() {
	case 0:
		return nil
	case 1:
		s := r.string()
		return &s
	}
	r.fail()
	return nil
}

func (r *reader) assignment() assignor.Assignment {
	var a assignor.Assignment
	for n := r.count(18); n > 0 && !r.bad; n-- {
		var s share
		copy(s.Topic[:], r.take(16))
		next := uint64(0)
		for m := r.count(1); m > 0 && !r.bad; m-- {
			p := next + r.uvarint(math.MaxInt32)
			if p > math.MaxInt32 {
				r.fail()
			}
			s.Partitions = append(s.Partitions, int32(p))
			next = p + 1
		}
		if len(s.Partitions) == 0 || len(a) > 0 && compareTopics(a[len(a)-1].Topic, s.Topic) >= 0 {
			r.fail()
		}
		a = append(a, s)
	}
	if r.bad {
		return nil
	}
	return a
}
