package history

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Kind is a kind of anomaly.
type Kind string

// Jepsen's names, and below them those of what it does not look for.
const (
	LostWrite           Kind = "lost-write"           // acknowledged, and not there although later offsets are
	Unseen              Kind = "unseen"               // acknowledged, and nobody was given that offset or a later one
	Duplicate           Kind = "duplicate"            // an idempotent producer's record at two offsets
	InconsistentOffsets Kind = "inconsistent-offsets" // two records at one offset
	NonmonotonicSend    Kind = "nonmonotonic-send"    // offsets not in the order in which a producer sent
	PollSkip            Kind = "poll-skip"            // an assigned consumer was not given a record
	NonmonotonicPoll    Kind = "nonmonotonic-poll"    // an assigned consumer was led back
	IntPollSkip         Kind = "int-poll-skip"        // the same, within one answer
	IntNonmonotonicPoll Kind = "int-nonmonotonic-poll"
	AbortedRead         Kind = "G1a" // what has certainly failed was read

	PrecommittedRead Kind = "precommitted-read" // a consumer of committed records was given one of an open transaction
	Torn             Kind = "torn-transaction"  // a part of a transaction is there and another is not
	Cycle            Kind = "G1c"               // transactions that have read from each other in a circle
	Resurrected      Kind = "resurrected"       // a record of a deleted topic in one of the same name

	Gap            Kind = "gap"             // an offset below the end that has no record
	Phantom        Kind = "phantom"         // a record that nobody sent
	Corrupt        Kind = "corrupt"         // a record with other bytes than were sent
	ReadAhead      Kind = "read-ahead"      // a record at or above the high watermark
	WatermarkBack  Kind = "watermark-back"  // a watermark that went back for one client, or is above another
	StaleWatermark Kind = "stale-watermark" // an end of the log below what had been acknowledged

	KeyBack Kind = "key-back" // an older version of a key after a newer one
	Undead  Kind = "undead"   // a deleted key's value without what deleted it
)

// maxExamples bounds the examples kept of each kind: after a few, more say nothing new.
const maxExamples = 10

// Anomaly is all of one kind.
type Anomaly struct {
	Count    int
	Examples []string // the first ones
}

// Report is what a history adds up to.
type Report struct {
	Sent, Acked, Failed, Unknown int
	Reads                        int // records that consumers were given, all together
	Offsets                      int // different offsets that were read
	Doubled                      int // records of producers that are not idempotent which are there more than once: allowed
	Anomalies                    map[Kind]*Anomaly

	doubled map[Value]bool
}

// Counts returns the numbers in one line.
func (r Report) Counts() string {
	return fmt.Sprintf("sent %d: acknowledged %d, failed %d, unknown %d, without an answer %d; read %d, of %d offsets; doubled by plain producers %d",
		r.Sent, r.Acked, r.Failed, r.Unknown, r.Sent-r.Acked-r.Failed-r.Unknown, r.Reads, r.Offsets, r.Doubled)
}

// Err returns nil if there are no anomalies, or an error that shows examples.
func (r Report) Err() error {
	if len(r.Anomalies) == 0 {
		return nil
	}
	var b strings.Builder
	for _, kind := range slices.Sorted(maps.Keys(r.Anomalies)) {
		a := r.Anomalies[kind]
		fmt.Fprintf(&b, "\n%s: %d", kind, a.Count)
		for _, e := range a.Examples {
			fmt.Fprintf(&b, "\n    %s", e)
		}
	}
	return fmt.Errorf("anomalies:%s", b.String())
}

func (h *History) anomaly(kind Kind, format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	h.trace("ANOMALY %s: %s", kind, line)
	h.report.add(kind, line)
}

func (r *Report) add(kind Kind, line string) {
	a := r.Anomalies[kind]
	if a == nil {
		a = &Anomaly{}
		r.Anomalies[kind] = a
	}
	a.Count++
	if len(a.Examples) < maxExamples {
		a.Examples = append(a.Examples, line)
	}
}

// Check judges the history as a whole, once, when everything has ended. What was
// acknowledged must have been read, so a test ends with consumers that read all, and with
// ReadWhole for each partition.
func (h *History) Check() Report {
	h.mu.Lock()
	defer h.mu.Unlock()
	for o := range h.pendings {
		h.judgeOrder(o, true)
	}
	for i := range h.sends {
		h.judgeAcked(Value(i+1), &h.sends[i])
	}
	for _, p := range h.partitions {
		h.judgeWhole(p)
		h.report.Offsets += p.readCount()
	}
	h.judgeSkips()
	h.judgeCycles()
	h.report.Doubled = len(h.report.doubled)
	return h.report
}

// judgeAcked looks for an acknowledged record.
func (h *History) judgeAcked(v Value, s *send) {
	if s.outcome != acked || s.offset >= 0 && s.offset < s.part.logStart || s.part.deleted && s.part.whole == nil {
		return
	}
	if s.offset < 0 { // the producer was not told where
		if s.readAt < 0 && h.visible(s) {
			h.anomaly(either(s.part.whole != nil, LostWrite, Unseen), "%s's %d was acknowledged for %s without an offset and never read", s.producer.Name, v, s.part.name)
		}
		return
	}
	if s.txn != 0 && s.part.whole == nil && (s.part.stable == nil || !h.visible(s)) {
		return // nobody looked for it
	}
	end := s.part.readEnd
	if w := s.part.whole; w != nil && s.offset >= w.to {
		h.anomaly(LostWrite, "%s's %d was acknowledged at %s offset %d; the log ends at %d", s.producer.Name, v, s.part.name, s.offset, w.to)
		return
	}
	switch _, read := s.part.value(s.offset); {
	case read && h.visible(s) && s.part.stable != nil && !s.part.readCommitted(s.offset):
		h.judgeUncommitted(v, s)
	case read: // agree has compared the values
	case s.offset < end:
		h.anomaly(h.lostKind(s), "%s's %d was acknowledged at %s offset %d, which nobody was given", s.producer.Name, v, s.part.name, s.offset)
	default:
		h.anomaly(Unseen, "%s's %d was acknowledged at %s offset %d; reads ended at %d", s.producer.Name, v, s.part.name, s.offset, end)
	}
}

// judgeWhole looks for offsets without a record.
func (h *History) judgeWhole(p *partition) {
	if p.whole == nil || h.cfg.Gaps {
		return
	}
	if p.readEnd > p.whole.to {
		h.anomaly(WatermarkBack, "%s ends at %d after offset %d was read", p.name, p.whole.to, p.readEnd-1)
	}
	from := p.whole.from
	if h.cfg.Trims {
		from = max(from, p.logStart)
	}
	for o := from; o < p.whole.to; o++ {
		if _, read := p.value(o); !read {
			h.anomaly(Gap, "%s has no record at offset %d, from %d to %d", p.name, o, p.whole.from, p.whole.to)
		}
	}
}

// judgeSkips judges all skips by what is known by now.
func (h *History) judgeSkips() {
	for s, at := range h.streams {
		at.skips = slices.DeleteFunc(at.skips, func(skip span) bool { return h.judgeSkip(s, skip) })
	}
}

// judgeSkip says whether a consumer was not given a record that exists.
func (h *History) judgeSkip(s stream, skip span) (found bool) {
	p := h.partition(s.part)
	for o := max(skip.from, p.logStart); o < min(skip.to, max(p.readEnd, p.ackedEnd)); o++ {
		if v, _ := p.value(o); v != 0 && (h.isolation[s.consumer] != Committed || h.visible(&h.sends[v-1])) {
			h.anomaly(PollSkip, "%s was given %s offset %d and not %d, which holds %d", s.consumer, s.part, skip.to, o, v)
			return true
		}
	}
	return false
}
