package history

import "fmt"

// stream is what one consumer reads of one partition.
type stream struct {
	consumer string
	part     Partition
}

// position is how far a stream has come.
type position struct {
	next  int64 // the offset that must come next; below 0: any may
	from  int64 // where it was assigned
	skips []span
}

// Read is a record that a consumer was given.
type Read struct {
	Offset int64
	Record []byte
}

// Seen is a record that a consumer was given, by what its bytes say: see Identify.
type Seen struct {
	Offset  int64
	Value   Value
	Size    int32  // of the record, in bytes
	Bad     string // why the bytes are not the value's; empty: they are
	Control bool   // a marker, of which nothing else is known
}

// Watermarks are what an answer says about a partition; below 0: nothing.
type Watermarks struct {
	LogStart   int64
	LastStable int64
	High       int64
}

// Assigned records that a consumer reads a partition from an offset on. From then on it
// must be given every record, in order, until it is assigned anew. A consumer in a group
// is assigned anew at each rebalance.
func (h *History) Assigned(consumer string, p Partition, offset int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	at := h.stream(stream{consumer, p})
	at.next, at.from = offset, offset
	h.trace("%s reads %s from offset %d", consumer, p, offset)
}

func (h *History) stream(s stream) *position {
	at, ok := h.streams[s]
	if !ok {
		at = &position{}
		h.streams[s] = at
	}
	return at
}

// Rewound records that a consumer goes on somewhere else, and is not known where.
func (h *History) Rewound(consumer string, p Partition) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stream(stream{consumer, p}).next = -1
	h.trace("%s reads %s from another offset", consumer, p)
}

// Polled records what one answer gave to a consumer.
func (h *History) Polled(consumer string, p Partition, marks Watermarks, reads []Read) {
	seen := make([]Seen, len(reads))
	for i, r := range reads {
		seen[i] = Identify(r)
	}
	h.PolledSeen(consumer, p, marks, seen)
}

// PolledSeen is Polled of records whose bytes were judged before.
func (h *History) PolledSeen(consumer string, p Partition, marks Watermarks, reads []Seen) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.watermarks(consumer, p, marks)
	if len(reads) == 0 {
		return
	}
	h.trace("%s is given %d records of %s, offsets %d to %d, high watermark %d",
		consumer, len(reads), p, reads[0].Offset, reads[len(reads)-1].Offset, marks.High)
	part := h.partition(p)
	at := h.stream(stream{consumer, p})
	level := h.isolation[consumer]
	for i, r := range reads {
		h.judgePosition(consumer, part, at, r.Offset, i > 0)
		if r.Control {
			part.readEnd = max(part.readEnd, r.Offset+1)
			continue
		}
		h.report.Reads++
		h.judgeRecord(consumer, part, r, level)
	}
	if last := reads[len(reads)-1].Offset; level == Committed && marks.LastStable >= 0 && last >= marks.LastStable {
		h.anomaly(PrecommittedRead, "%s was given offset %d of %s with a last stable offset of %d", consumer, last, p, marks.LastStable)
	}
	if last := reads[len(reads)-1].Offset; marks.High >= 0 && last >= marks.High {
		h.anomaly(ReadAhead, "%s was given offset %d of %s with a high watermark of %d", consumer, last, p, marks.High)
	}
}

// judgePosition compares an offset with the one that must come next. Within one answer
// the anomaly has a name of its own.
func (h *History) judgePosition(consumer string, part *partition, at *position, offset int64, within bool) {
	switch {
	case offset < at.next:
		h.anomaly(either(within, IntNonmonotonicPoll, NonmonotonicPoll), "%s was given offset %d of %s after %d", consumer, offset, part.name, at.next-1)
	case at.next >= 0 && offset > at.next:
		if (h.cfg.Gaps || h.cfg.Trims) && h.isolation[consumer] != Everything {
			at.skips = append(at.skips, span{at.next, offset})
		} else {
			h.anomaly(either(within, IntPollSkip, PollSkip), "%s was given offset %d of %s instead of %d", consumer, offset, part.name, at.next)
		}
	}
	at.next = offset + 1
}

// judgeRecord compares a record with what was sent and with what others have seen.
func (h *History) judgeRecord(consumer string, part *partition, r Seen, level Isolation) {
	if r.Offset < 0 {
		h.anomaly(Phantom, "%s was given offset %d of %s", consumer, r.Offset, part.name)
		return
	}
	v := r.Value
	switch {
	case r.Bad != "":
		h.anomaly(Corrupt, "%s was given %s offset %d: %s", consumer, part.name, r.Offset, r.Bad)
		return
	case v == 0 || v > Value(len(h.sends)):
		h.anomaly(Phantom, "%s was given %s offset %d: value %d was never sent", consumer, part.name, r.Offset, v)
		return
	case h.sends[v-1].part != part:
		h.anomaly(strayKind(h.sends[v-1].part.name, part.name), "%s was given %s offset %d: value %d was sent to %s", consumer, part.name, r.Offset, v, h.sends[v-1].part.name)
		return
	}
	s := &h.sends[v-1]
	if s.size != r.Size {
		h.anomaly(Corrupt, "%s was given %s offset %d: value %d has %d bytes and was sent with %d", consumer, part.name, r.Offset, v, r.Size, s.size)
	}
	h.agree(part, r.Offset, v, consumer)
	part.markRead(r.Offset, level == Committed)
	if level == Committed && s.txn != 0 {
		h.judgeCommittedRead(consumer, v, r.Offset)
	}
	switch {
	case s.readAt < 0:
		s.readAt = r.Offset
		if s.outcome == failed && s.txn == 0 {
			h.abortedRead(v)
		}
	case s.readAt != r.Offset:
		h.again(v, r.Offset)
	}
}

// again notes that a value was read at a second offset.
func (h *History) again(v Value, offset int64) {
	s := &h.sends[v-1]
	if s.producer.Idempotent {
		h.anomaly(Duplicate, "%s's %d is in %s at offsets %d and %d", s.producer.Name, v, s.part.name, s.readAt, offset)
		return
	}
	if h.report.doubled == nil {
		h.report.doubled = map[Value]bool{}
	}
	h.report.doubled[v] = true
}

func (h *History) abortedRead(v Value) {
	s := &h.sends[v-1]
	h.anomaly(AbortedRead, "%s's %d failed and was read in %s at offset %d", s.producer.Name, v, s.part.name, s.readAt)
}

// Look is a question about a partition's watermarks that is under way.
type Look struct {
	h      *History
	client string
	part   Partition
	end    int64 // what was acknowledged before
}

// Look begins a question about watermarks: what is acknowledged by now must show in them.
func (h *History) Look(client string, p Partition) Look {
	return Look{h, client, p, h.AckedEnd(p)}
}

// Saw records the answer.
func (l Look) Saw(marks Watermarks) {
	h := l.h
	h.mu.Lock()
	defer h.mu.Unlock()
	h.trace("%s sees %s from %d to %d", l.client, l.part, marks.LogStart, marks.High)
	if marks.High >= 0 && marks.High < l.end {
		h.anomaly(StaleWatermark, "%s was told that %s ends at %d after offset %d had been acknowledged", l.client, l.part, marks.High, l.end-1)
	}
	h.watermarks(l.client, l.part, marks)
}

// watermarks compares watermarks with what the same client was told before.
func (h *History) watermarks(client string, p Partition, now Watermarks) {
	key := stream{client, p}
	before, ok := h.marks[key]
	if !ok {
		before = &Watermarks{LogStart: -1, LastStable: -1, High: -1}
		h.marks[key] = before
	}
	for _, m := range []struct {
		name string
		was  *int64
		is   int64
	}{{"log start", &before.LogStart, now.LogStart}, {"last stable offset", &before.LastStable, now.LastStable}, {"high watermark", &before.High, now.High}} {
		if m.is >= 0 && m.is < *m.was {
			h.anomaly(WatermarkBack, "%s was told a %s of %d for %s after %d", client, m.name, m.is, p, *m.was)
		}
		*m.was = max(*m.was, m.is)
	}
	part := h.partition(p)
	part.logStart = max(part.logStart, now.LogStart)
	if now.High >= 0 && (now.LastStable > now.High || now.LogStart > now.High) {
		h.anomaly(WatermarkBack, "%s was told watermarks out of order for %s: log start %d, last stable offset %d, high watermark %d",
			client, p, now.LogStart, now.LastStable, now.High)
	}
}

// ReadWhole records that a consumer has read a partition from its log start to its end, as
// they were told to it after all sends had ended. Check judges by it what is lost.
func (h *History) ReadWhole(consumer string, p Partition, start, end int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	at := h.stream(stream{consumer, p})
	if at.from > start || at.next < end && !h.cfg.Gaps {
		panic(fmt.Sprintf("history: %s has read %s from %d to %d, not from %d to %d", consumer, p, at.from, at.next, start, end))
	}
	h.trace("%s has read %s from %d to %d", consumer, p, start, end)
	if h.isolation[consumer] == Committed {
		h.partition(p).stable = &span{start, end}
		return
	}
	h.partition(p).whole = &span{start, end}
}

func either[T any](cond bool, yes, no T) T {
	if cond {
		return yes
	}
	return no
}
