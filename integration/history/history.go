// Package history records what clients did to a log and heard from it, and checks whether
// one log that loses, doubles, moves and invents nothing could have answered so. The names
// of the anomalies are those of Jepsen's Kafka workload.
//
// Values are unique numbers: a record's bytes follow from its value and size alone (see
// Payload), so that every record that is read says which send it belongs to, and that its
// bytes are what was sent. What can be judged at once is judged at once, so that a history
// holds some 60 bytes a record, however many consumers read it; the rest is judged by Check.
//
// Two orders are the caller's duty: a producer calls Send in the order in which it hands
// records to its client, and a consumer calls Polled in the order of its polls. Apart from
// that, all methods of History may be called at the same time.
package history

import (
	"fmt"
	"sync"
)

// Partition names a partition.
type Partition struct {
	Topic string
	ID    int32
}

func (p Partition) String() string { return fmt.Sprintf("%s/%d", p.Topic, p.ID) }

// Config says what a history may contain. The zero value is the strictest.
type Config struct {
	// Gaps allows offsets that no consumer is given: markers and aborted records of
	// transactions, and compacted records. A skip is then an anomaly only over a record that
	// is known to exist.
	Gaps bool
	// Trims allows records to go from the front of a partition, as retention and DeleteRecords
	// make them go: what lies below the greatest log start that anybody was told is not missed.
	// From there on everything must be there.
	Trims bool
	// Trace is told every operation as a line, in the order of the history; nil: nobody. It
	// is called under the history's lock.
	Trace func(line string)
}

// Producer is a client that sends.
type Producer struct {
	Name string
	// Idempotent producers' records must be there once at most; others' may be there again.
	Idempotent bool
}

// Value identifies a record that was sent, from 1 up.
type Value uint64

// outcome is what a producer has heard of a send.
type outcome uint8

const (
	pending outcome = iota // nothing, which may mean anything
	acked
	failed  // it is certain that it was not and will not be written
	unknown // an error that may mean anything
)

// send is a record that was sent; its value is its index + 1.
type send struct {
	producer *Producer
	part     *partition
	size     int32
	outcome  outcome
	txn      Txn   // 0: none; what becomes of the record is the transaction's outcome
	offset   int64 // of the acknowledgement; -1: not known
	readAt   int64 // the first offset at which it was read; -1: never
}

// order is what orders a producer's sends to a partition.
type order struct {
	producer *Producer
	part     *partition
}

// History is the history of one test. Use New.
type History struct {
	cfg Config

	mu         sync.Mutex // guards the following
	producers  map[Producer]*Producer
	sends      []send
	pendings   map[order][]Value // sends in order whose outcome has not been judged yet
	last       map[order]Value   // the last one acknowledged, of those that were judged
	partitions map[Partition]*partition
	txns       []txn // index: Txn - 1
	isolation  map[string]Isolation
	streams    map[stream]*position
	marks      map[stream]*Watermarks
	report     Report
}

// New returns an empty history.
func New(cfg Config) *History {
	return &History{
		cfg:        cfg,
		producers:  map[Producer]*Producer{},
		pendings:   map[order][]Value{},
		last:       map[order]Value{},
		partitions: map[Partition]*partition{},
		isolation:  map[string]Isolation{},
		streams:    map[stream]*position{},
		marks:      map[stream]*Watermarks{},
		report:     Report{Anomalies: map[Kind]*Anomaly{}},
	}
}

// Send begins the sending of a record of that many bytes, at least MinSize, and returns
// its value, which Payload makes the record of.
func (h *History) Send(p Producer, to Partition, size int) Value {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.send(p, 0, to, size)
}

func (h *History) send(p Producer, t Txn, to Partition, size int) Value {
	who, ok := h.producers[p]
	if !ok {
		who = &p
		h.producers[p] = who
	}
	part := h.partition(to)
	h.sends = append(h.sends, send{producer: who, txn: t, part: part, size: int32(size), offset: -1, readAt: -1})
	v := Value(len(h.sends))
	o := order{who, part}
	h.pendings[o] = append(h.pendings[o], v)
	h.report.Sent++
	h.trace("%s sends %d of %d bytes to %s", p.Name, v, size, to)
	return v
}

// Acked records that a send was acknowledged at an offset; below 0: at one that was not told.
func (h *History) Acked(v Value, offset int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.resolve(v, acked)
	h.report.Acked++
	h.trace("%s hears that %d is at %s offset %d", s.producer.Name, v, s.part.name, offset)
	if offset >= 0 {
		s.offset = offset
		s.part.ackedEnd = max(s.part.ackedEnd, offset+1)
		h.agree(s.part, offset, v, s.producer.Name+"'s acknowledgement")
	}
	h.judgeOrder(order{s.producer, s.part}, false)
}

// Failed records that a send has certainly not been written and never will be.
func (h *History) Failed(v Value, why error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.resolve(v, failed)
	h.report.Failed++
	h.trace("%s hears that %d has failed: %v", s.producer.Name, v, why)
	if s.readAt >= 0 && s.txn == 0 {
		h.abortedRead(v)
	}
	h.judgeOrder(order{s.producer, s.part}, false)
}

// Unknown records that a send ended in an error after which it may be written or not.
func (h *History) Unknown(v Value, why error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.resolve(v, unknown)
	h.report.Unknown++
	h.trace("%s does not know about %d: %v", s.producer.Name, v, why)
	h.judgeOrder(order{s.producer, s.part}, false)
}

// resolve ends a send. One that was never begun, or has ended, is a bug of the test.
func (h *History) resolve(v Value, o outcome) *send {
	if v == 0 || v > Value(len(h.sends)) || h.sends[v-1].outcome != pending {
		panic(fmt.Sprintf("history: value %d is not being sent", v))
	}
	s := &h.sends[v-1]
	s.outcome = o
	return s
}

// judgeOrder compares acknowledged offsets in the order of their sends, as far as all
// before them have ended; at the end, of all.
func (h *History) judgeOrder(o order, end bool) {
	queue := h.pendings[o]
	for len(queue) > 0 && (end || h.sends[queue[0]-1].outcome != pending) {
		v := queue[0]
		queue = queue[1:]
		s := &h.sends[v-1]
		if s.outcome != acked || s.offset < 0 {
			continue
		}
		if before := h.last[o]; before != 0 && h.sends[before-1].offset >= s.offset {
			h.anomaly(NonmonotonicSend, "%s sent %d before %d to %s; they are at offsets %d and %d",
				o.producer.Name, before, v, o.part.name, h.sends[before-1].offset, s.offset)
		}
		h.last[o] = v
	}
	h.pendings[o] = queue
}

// Anomaly records an anomaly that the test has found by other means.
func (h *History) Anomaly(kind Kind, format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.anomaly(kind, format, args...)
}

// Note adds a line to the trace: a fault that was injected, an error that was heard.
func (h *History) Note(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.trace(format, args...)
}

func (h *History) trace(format string, args ...any) {
	if h.cfg.Trace != nil {
		h.cfg.Trace(fmt.Sprintf(format, args...))
	}
}

// AckedEnd returns the offset after the highest one that was acknowledged: at least that
// much of the partition must be there.
func (h *History) AckedEnd(p Partition) int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.partition(p).ackedEnd
}
