package history

import (
	"fmt"
	"maps"
	"slices"
	"sync"
)

// Keys is the history of compacted topics: of each key the newest value must be there, at the
// offset at which it was acknowledged; what is older may be there, in its order; what nobody
// sent, what was aborted and what was deleted must not.
//
// A key of a partition belongs to one producer, which is idempotent: it calls Send in the
// order in which it hands records to its client, so that values of a key grow with offsets.
// Every record carries its value beside its bytes (tombstones have none), in a header.
// Consumers read committed records only. Apart from that, all methods of Keys may be called
// at the same time.
type Keys struct {
	trace func(string)

	mu         sync.Mutex // guards the following
	sends      []keySend  // index: value - 1
	partitions map[Partition]*keyed
	streams    map[stream]*keyStream
	report     Report
}

// keySend is a record that was sent.
type keySend struct {
	part    *keyed
	key     string
	size    int // 0: a tombstone
	outcome outcome
	offset  int64 // of the acknowledgement; -1: none
	readAt  int64 // -1: never
}

// keyed is what is known of a partition.
type keyed struct {
	name   Partition
	at     map[int64]Value  // what is known to be at an offset
	newest map[string]Value // of each key, what was acknowledged at the greatest offset
	doubts map[string]Value // of each key, the greatest value whose outcome is not known
	ends   map[string]Value // of each key, the greatest such value that is a tombstone
}

// keyStream is what one consumer has read of one partition.
type keyStream struct {
	next       int64
	reads      int
	last       map[string]Value
	start, end int64
	whole      reading
}

// reading is how a consumer came to the end of a partition.
type reading uint8

const (
	partly   reading = iota
	followed         // while records were written and compacted: it may have missed what deleted a key
	afresh           // when all had ended
)

// KeyRead is a record that a consumer of a compacted topic was given.
type KeyRead struct {
	Offset int64
	Value  Value // of its header
	Key    string
	Record []byte // nil: a tombstone
}

// NewKeys returns an empty history; trace hears every anomaly, unless it is nil.
func NewKeys(trace func(line string)) *Keys {
	return &Keys{trace: trace, partitions: map[Partition]*keyed{}, streams: map[stream]*keyStream{},
		report: Report{Anomalies: map[Kind]*Anomaly{}}}
}

func (k *Keys) partition(name Partition) *keyed {
	p := k.partitions[name]
	if p == nil {
		p = &keyed{name, map[int64]Value{}, map[string]Value{}, map[string]Value{}, map[string]Value{}}
		k.partitions[name] = p
	}
	return p
}

func (k *Keys) anomaly(kind Kind, format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	if k.trace != nil {
		k.trace(fmt.Sprintf("ANOMALY %s: %s", kind, line))
	}
	k.report.add(kind, line)
}

// Send begins the sending of a record: its bytes are Payload(value, size), or it is a
// tombstone if size is 0.
func (k *Keys) Send(to Partition, key string, size int) Value {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.sends = append(k.sends, keySend{part: k.partition(to), key: key, size: size, offset: -1, readAt: -1})
	k.report.Sent++
	return Value(len(k.sends))
}

// Acked records that a record is there for good, at an offset: that of a transaction when it
// was committed.
func (k *Keys) Acked(v Value, offset int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.resolve(v, acked)
	s.offset = offset
	k.report.Acked++
	k.agree(s.part, offset, v, "the acknowledgement")
	if s.readAt >= 0 && s.readAt != offset {
		k.moved(v, s.readAt)
	}
	if before := s.part.newest[s.key]; before == 0 || k.sends[before-1].offset < offset {
		s.part.newest[s.key] = v
	}
}

// Failed records that a record was aborted, and must be given to nobody.
func (k *Keys) Failed(v Value) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.resolve(v, failed)
	k.report.Failed++
	if s.readAt >= 0 {
		k.aborted(v)
	}
}

// Unknown records that nobody knows whether a record is there.
func (k *Keys) Unknown(v Value) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.resolve(v, unknown)
	k.report.Unknown++
	k.doubt(s, v)
}

// doubt notes a record that may be there or not.
func (k *Keys) doubt(s *keySend, v Value) {
	p := s.part
	p.doubts[s.key] = max(p.doubts[s.key], v)
	if s.size == 0 {
		p.ends[s.key] = max(p.ends[s.key], v)
	}
}

func (k *Keys) resolve(v Value, o outcome) *keySend {
	if v == 0 || v > Value(len(k.sends)) || k.sends[v-1].outcome != pending {
		panic(fmt.Sprintf("history: value %d is not being sent", v))
	}
	s := &k.sends[v-1]
	s.outcome = o
	return s
}

func (k *Keys) agree(p *keyed, offset int64, v Value, who string) {
	switch known := p.at[offset]; known {
	case 0:
		p.at[offset] = v
	case v:
	default:
		k.anomaly(InconsistentOffsets, "%s offset %d holds %d according to %s, and was %d before", p.name, offset, v, who, known)
	}
}

func (k *Keys) aborted(v Value) {
	s := &k.sends[v-1]
	k.anomaly(AbortedRead, "%d of key %q was aborted and read in %s at offset %d", v, s.key, s.part.name, s.readAt)
}

func (k *Keys) moved(v Value, readAt int64) {
	s := &k.sends[v-1]
	k.anomaly(InconsistentOffsets, "%d of key %q was acknowledged at %s offset %d and read at %d", v, s.key, s.part.name, s.offset, readAt)
}

// Polled records what one answer gave to a consumer, which began at the log's start.
func (k *Keys) Polled(consumer string, p Partition, reads []KeyRead) {
	k.mu.Lock()
	defer k.mu.Unlock()
	part := k.partition(p)
	at := k.stream(consumer, p)
	for _, r := range reads {
		k.report.Reads++
		at.reads++
		if r.Offset < at.next {
			k.anomaly(NonmonotonicPoll, "%s was given offset %d of %s after %d", consumer, r.Offset, p, at.next-1)
		}
		at.next = r.Offset + 1
		if !k.judge(consumer, part, r) {
			continue
		}
		if last := at.last[r.Key]; last > r.Value {
			k.anomaly(KeyBack, "%s was given %d of key %q in %s after %d", consumer, r.Value, r.Key, p, last)
		}
		at.last[r.Key] = r.Value
	}
}

func (k *Keys) stream(consumer string, p Partition) *keyStream {
	at := k.streams[stream{consumer, p}]
	if at == nil {
		at = &keyStream{last: map[string]Value{}}
		k.streams[stream{consumer, p}] = at
	}
	return at
}

// judge compares a record with what was sent, and reports whether it is one that was.
func (k *Keys) judge(consumer string, part *keyed, r KeyRead) bool {
	if r.Value == 0 || r.Value > Value(len(k.sends)) || k.sends[r.Value-1].part != part || k.sends[r.Value-1].key != r.Key {
		k.anomaly(Phantom, "%s was given %s offset %d: value %d of key %q was never sent there", consumer, part.name, r.Offset, r.Value, r.Key)
		return false
	}
	s := &k.sends[r.Value-1]
	if (r.Record == nil) != (s.size == 0) || s.size > 0 && !slices.Equal(r.Record, Payload(r.Value, s.size)) {
		k.anomaly(Corrupt, "%s was given %s offset %d: value %d of key %q has other bytes than were sent", consumer, part.name, r.Offset, r.Value, r.Key)
	}
	k.agree(part, r.Offset, r.Value, consumer)
	if s.outcome == acked && s.offset != r.Offset {
		k.moved(r.Value, r.Offset)
	}
	switch {
	case s.readAt < 0:
		s.readAt = r.Offset
		if s.outcome == failed {
			k.aborted(r.Value)
		}
	case s.readAt != r.Offset:
		k.anomaly(Duplicate, "%d of key %q is in %s at offsets %d and %d", r.Value, r.Key, part.name, s.readAt, r.Offset)
	}
	return true
}

// Followed records that a consumer that read while records were written has come to the end,
// having begun at the start, of what now reaches from start on.
func (k *Keys) Followed(consumer string, p Partition, start, end int64) {
	k.whole(consumer, p, start, end, followed)
}

// ReadWhole records that a consumer that began when nothing was written or compacted any
// more has come to the end of a partition, from its start.
func (k *Keys) ReadWhole(consumer string, p Partition, start, end int64) {
	k.whole(consumer, p, start, end, afresh)
}

func (k *Keys) whole(consumer string, p Partition, start, end int64, how reading) {
	k.mu.Lock()
	defer k.mu.Unlock()
	at := k.stream(consumer, p)
	at.start, at.end, at.whole = start, end, how
}

// Check judges the history as a whole, once, when everything has ended. Offsets of the report
// are the records that consumers were given who read everything afresh.
func (k *Keys) Check() Report {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := range k.sends {
		if s := &k.sends[i]; s.outcome == pending {
			k.doubt(s, Value(i+1))
		}
	}
	for s, at := range k.streams {
		if at.whole == partly {
			continue
		}
		if at.whole == afresh {
			k.report.Offsets += at.reads
		}
		p := k.partition(s.part)
		for _, key := range slices.Sorted(maps.Keys(p.newest)) {
			k.judgeKey(s, at, p, key)
		}
		k.judgeStray(s, at, p)
	}
	return k.report
}

// judgeKey compares the last version of a key that a consumer was given with the newest one.
func (k *Keys) judgeKey(s stream, at *keyStream, p *keyed, key string) {
	newest := p.newest[key]
	want := &k.sends[newest-1]
	got := at.last[key]
	switch {
	case want.offset >= at.end:
		k.anomaly(LostWrite, "%d of key %q was acknowledged at %s offset %d; the log ends at %d", newest, key, p.name, want.offset, at.end)
	case got == newest, got > newest && got <= p.doubts[key]:
	case want.offset < at.start:
	case p.ends[key] > newest && (got == 0 || at.whole == followed):
		// It was deleted, if that tombstone was written, which may be gone as well.
	case want.size > 0:
		k.anomaly(LostWrite, "%d of key %q was acknowledged at %s offset %d, and %s was not given it but %d last", newest, key, p.name, want.offset, s.consumer, got)
	case at.whole == afresh && got != 0 && k.sends[got-1].size > 0:
		k.anomaly(Undead, "%s was given %d of key %q in %s, which was deleted by %d at offset %d", s.consumer, got, key, p.name, newest, want.offset)
	}
}

// judgeStray looks for keys of which nothing was acknowledged, nor may be there all the same.
func (k *Keys) judgeStray(s stream, at *keyStream, p *keyed) {
	for key, v := range at.last {
		if o := k.sends[v-1].outcome; p.newest[key] == 0 && o != unknown && o != pending {
			k.anomaly(Phantom, "%s was given %d of key %q in %s, of which nothing was acknowledged", s.consumer, v, key, p.name)
		}
	}
}
