package history

import (
	"maps"
	"slices"
	"strings"
)

// Isolation is what a consumer asks to be given.
type Isolation uint8

// Uncommitted is what a consumer has that nothing else was said of.
const (
	Uncommitted Isolation = iota // all records
	Committed                    // records of no transaction or of committed ones
	Everything                   // all records and markers: no offset is without one
)

// Txn is a transaction of a producer, from 1 up.
type Txn uint32

// Fate is what has become of a transaction, as far as its producer knows.
type Fate uint8

// A transaction is open until its producer asks for its end.
const (
	Open Fate = iota
	Ending
	Done    // committed
	Aborted // no commit was ever asked for, or none can have happened
	Unclear // a commit was asked for and may have happened or not
)

// txn is what is known of a transaction.
type txn struct {
	producer *Producer
	fate     Fate
	proven   bool    // a consumer of committed records was given a record of it
	sends    []Value // in order
	readFrom []Txn   // whose records it has read
}

// Isolate says what a consumer reads, before it reads anything.
func (h *History) Isolate(consumer string, level Isolation) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.isolation[consumer] = level
}

// Begin begins a transaction.
func (h *History) Begin(p Producer) Txn {
	h.mu.Lock()
	defer h.mu.Unlock()
	who, ok := h.producers[p]
	if !ok {
		who = &p
		h.producers[p] = who
	}
	h.txns = append(h.txns, txn{producer: who})
	h.trace("%s begins transaction %d", p.Name, len(h.txns))
	return Txn(len(h.txns))
}

// SendIn is Send in an open transaction.
func (h *History) SendIn(t Txn, to Partition, size int) Value {
	h.mu.Lock()
	defer h.mu.Unlock()
	v := h.send(*h.txns[t-1].producer, t, to, size)
	h.txns[t-1].sends = append(h.txns[t-1].sends, v)
	return v
}

// Turn records a transaction's next state: Ending before its commit is asked for, what has
// become of it afterwards. Aborted is for a transaction whose commit nobody has asked for.
func (h *History) Turn(t Txn, fate Fate) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.txns[t-1].fate = fate
	h.trace("transaction %d of %s: %s", t, h.txns[t-1].producer.Name, fate)
	if fate != Aborted {
		return
	}
	for _, v := range h.txns[t-1].sends {
		if s := &h.sends[v-1]; s.readAt >= 0 && s.part.readCommitted(s.readAt) {
			h.abortedRead(v)
		}
	}
}

// ReadRange records that a transaction has read all records of a range of offsets that it was
// given, as a consumer of committed records.
func (h *History) ReadRange(t Txn, p Partition, from, to int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	part, known := h.partition(p), h.txns[t-1].readFrom
	for o := from; o < min(to, part.readEnd); o++ {
		v, _ := part.value(o)
		if v == 0 || !part.readCommitted(o) {
			continue
		}
		if by := h.sends[v-1].txn; by != 0 && by != t && !slices.Contains(known, by) {
			known = append(known, by)
		}
	}
	h.txns[t-1].readFrom = known
}

// Came reports whether a transaction has certainly been committed, and whether it may be.
func (h *History) Came(t Txn) (certain, possible bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	of := &h.txns[t-1]
	return of.fate == Done || of.proven, of.fate != Aborted && of.fate != Open
}

// Sweep judges what can be judged by now of what Check judges, and returns the anomalies so
// far.
func (h *History) Sweep() Report {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.judgeSkips()
	r := h.report
	r.Anomalies = map[Kind]*Anomaly{}
	for kind, a := range h.report.Anomalies {
		r.Anomalies[kind] = &Anomaly{a.Count, slices.Clone(a.Examples)}
	}
	r.doubled = nil
	return r
}

func (f Fate) String() string {
	return [...]string{"open", "ending", "committed", "aborted", "unclear"}[f]
}

// visible reports whether consumers of committed records must be given a record that was
// acknowledged.
func (h *History) visible(s *send) bool {
	if s.txn == 0 {
		return true
	}
	t := &h.txns[s.txn-1]
	return t.fate == Done || t.proven
}

// judgeCommittedRead judges that a consumer of committed records was given a transaction's.
func (h *History) judgeCommittedRead(consumer string, v Value, offset int64) {
	s := &h.sends[v-1]
	t := &h.txns[s.txn-1]
	switch t.fate {
	case Open:
		h.anomaly(PrecommittedRead, "%s was given %d of %s at %s offset %d before its transaction %d was to be committed",
			consumer, v, s.producer.Name, s.part.name, offset, s.txn)
	case Aborted:
		if s.readAt < 0 || !t.proven {
			h.anomaly(AbortedRead, "%s was given %d of %s at %s offset %d, of transaction %d, which was aborted",
				consumer, v, s.producer.Name, s.part.name, offset, s.txn)
		}
	}
	t.proven = t.proven || t.fate != Open && t.fate != Aborted
}

// lostKind says what it means that an acknowledged record is not there.
func (h *History) lostKind(s *send) Kind {
	if s.txn != 0 && h.txns[s.txn-1].proven {
		return Torn
	}
	return LostWrite
}

// judgeUncommitted reports a record that is there, and hidden from consumers of committed
// records.
func (h *History) judgeUncommitted(v Value, s *send) {
	h.anomaly(h.lostKind(s), "%s's %d was acknowledged at %s offset %d, and its transaction %d was committed; no consumer of committed records was given it",
		s.producer.Name, v, s.part.name, s.offset, s.txn)
}

// judgeCycles looks for transactions that have read from each other in a circle (G1c, of
// edges from write to read alone). It walks depth first, without recursion.
func (h *History) judgeCycles() {
	const (
		fresh, onPath, done = 0, 1, 2
	)
	state := make([]uint8, len(h.txns)+1)
	next := map[Txn]int{}
	for root := range h.txns {
		if state[root+1] != fresh || len(h.txns[root].readFrom) == 0 {
			continue
		}
		path := []Txn{Txn(root + 1)}
		state[root+1] = onPath
		for len(path) > 0 {
			at := path[len(path)-1]
			edges := h.txns[at-1].readFrom
			if next[at] == len(edges) {
				state[at], path = done, path[:len(path)-1]
				delete(next, at)
				continue
			}
			to := edges[next[at]]
			next[at]++
			switch state[to] {
			case fresh:
				state[to], path = onPath, append(path, to)
			case onPath:
				circle := path[slices.Index(path, to):]
				h.anomaly(Cycle, "transactions %v have each read from the next, and the last from the first", circle)
			}
		}
	}
}

// Incarnation is a topic's name in a history after it was deleted and created again:
// the name, a mark, and what tells it from others of the name.
func Incarnation(topic, id string) string { return topic + incarnationMark + id }

// incarnationMark is in no topic's name.
const incarnationMark = "#"

// strayKind says what it means that a record sent to one partition is read in another.
func strayKind(sent, read Partition) Kind {
	was, id, marked := strings.Cut(sent.Topic, incarnationMark)
	is, other, _ := strings.Cut(read.Topic, incarnationMark)
	if marked && was == is && id != other {
		return Resurrected
	}
	return Phantom
}

// Deleted records that a partition is going to be deleted: what nobody has read by then is not
// missed.
func (h *History) Deleted(p Partition) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.partition(p).deleted = true
	h.trace("%s is going to be deleted", p)
}

// Partitions returns the partitions that the history knows, in no order.
func (h *History) Partitions() []Partition {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Collect(maps.Keys(h.partitions))
}

// Prove records that a transaction is known to be committed by other means than its records:
// by its offsets, say. It reports false if that cannot be.
func (h *History) Prove(t Txn) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	of := &h.txns[t-1]
	of.proven = of.proven || of.fate != Aborted && of.fate != Open
	return of.proven
}

// FirstVisible returns the first record from an offset on, below another, that every consumer
// of committed records must be given.
func (h *History) FirstVisible(p Partition, from, to int64) (offset int64, v Value, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	part := h.partition(p)
	for o := max(from, part.logStart); o < min(to, max(part.readEnd, part.ackedEnd)); o++ {
		v, _ := part.value(o)
		if v == 0 {
			continue
		}
		if s := &h.sends[v-1]; h.visible(s) && (s.txn != 0 || s.outcome == acked || part.readCommitted(o)) {
			return o, v, true
		}
	}
	return 0, 0, false
}

// Fates counts transactions by what became of them, and those without an answer that are
// known to have been committed.
func (h *History) Fates() (fates map[string]int, proven int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	fates = map[string]int{}
	for i := range h.txns {
		fates[h.txns[i].fate.String()]++
		if h.txns[i].proven && h.txns[i].fate == Unclear {
			proven++
		}
	}
	return fates, proven
}
