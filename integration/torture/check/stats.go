package check

import (
	"time"
)

// Second is the load of one second: an operation is a record that was acknowledged or that
// a consumer was given.
type Second struct {
	Sent, Read           int64 // records
	SentBytes, ReadBytes int64 // of their values
}

// FaultSpan is a fault, from its beginning to its end.
type FaultSpan struct {
	Name     string
	From, To time.Duration
}

// Try is one operation of a probe: a client that does nothing else.
type Try struct {
	What string
	At   time.Duration // when it ended
	Took time.Duration
	OK   bool
	Part int32 // which of the probe's partitions
}

// Stats is what a run did, beside what it got wrong.
type Stats struct {
	Seconds  []Second
	Faults   []FaultSpan
	Tries    []Try
	Progress map[string][]time.Duration // of each group: when it committed something
	End      time.Duration
	sizes    map[uint64]int32 // of records whose outcome is not known yet
	values   uint64
	open     map[string]time.Duration
}

func (s *Stats) second(at time.Duration) *Second {
	for len(s.Seconds) <= int(at/time.Second) {
		s.Seconds = append(s.Seconds, Second{})
	}
	return &s.Seconds[at/time.Second]
}

func (s *Stats) add(ev *Event) {
	s.End = max(s.End, ev.At)
	switch ev.Op {
	case OpSend:
		if s.sizes == nil {
			s.sizes = map[uint64]int32{}
		}
		s.values++
		s.sizes[s.values] = int32(ev.A)
	case OpAcked:
		sec := s.second(ev.At)
		sec.Sent++
		sec.SentBytes += int64(s.sizes[ev.ID])
		delete(s.sizes, ev.ID)
	case OpFailed, OpUnknown:
		delete(s.sizes, ev.ID)
	case OpPolled:
		sec := s.second(ev.At)
		for i := range ev.Seen {
			sec.Read++
			sec.ReadBytes += int64(ev.Seen[i].Size)
		}
	case OpFault:
		s.fault(ev)
	case OpProbe:
		s.Tries = append(s.Tries, Try{ev.Text, ev.At, time.Duration(ev.B), ev.A != 0, ev.Part.ID})
	case OpGroupProgress:
		if s.Progress == nil {
			s.Progress = map[string][]time.Duration{}
		}
		s.Progress[ev.Group] = append(s.Progress[ev.Group], ev.At)
	}
}

// fault opens and closes spans; Who tells two of one name apart.
func (s *Stats) fault(ev *Event) {
	if s.open == nil {
		s.open = map[string]time.Duration{}
	}
	key := ev.Text + "\x00" + ev.Who
	if ev.A != 0 {
		s.open[key] = ev.At
		return
	}
	if from, ok := s.open[key]; ok {
		s.Faults = append(s.Faults, FaultSpan{ev.Text, from, ev.At})
		delete(s.open, key)
	}
}

// close ends the spans that nobody ended.
func (s *Stats) close() {
	for key, from := range s.open {
		name := key
		for i := range key {
			if key[i] == 0 {
				name = key[:i]
				break
			}
		}
		s.Faults = append(s.Faults, FaultSpan{name, from, s.End})
	}
	s.open = nil
}
