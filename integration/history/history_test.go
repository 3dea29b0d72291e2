package history

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
)

var (
	events = Partition{"events", 0}
	other  = Partition{"events", 1}
	once   = Producer{"once", true}
	plain  = Producer{"plain", false}
	errAny = errors.New("an error")
)

const size = 40

// story builds a history from what happens to it.
type story struct {
	*History
}

// send sends and acknowledges records at consecutive offsets of events.
func (s story) send(p Producer, from int64, n int) []Value {
	var values []Value
	for range n {
		values = append(values, s.Send(p, events, size))
	}
	for i, v := range values {
		s.Acked(v, from+int64(i))
	}
	return values
}

// read gives values at consecutive offsets to a consumer, in one answer.
func (s story) read(consumer string, from int64, values ...Value) {
	var reads []Read
	for i, v := range values {
		reads = append(reads, Read{from + int64(i), Payload(v, size)})
	}
	s.Polled(consumer, events, none(), reads)
}

func (s story) readAll(consumer string, values ...Value) {
	s.read(consumer, 0, values...)
	s.ReadWhole(consumer, events, 0, int64(len(values)))
}

func none() Watermarks { return Watermarks{-1, -1, -1} }

// TestAnomalies plants one violation a row, and expects exactly its names.
func TestAnomalies(t *testing.T) {
	tests := []struct {
		name  string
		gaps  bool
		happy func(s story)
		want  []Kind
	}{
		{"nothing happens", false, func(story) {}, nil},
		{"all is read by two consumers", false, func(s story) {
			v := s.send(once, 0, 3)
			s.read("a", 0, v[0])
			s.read("a", 1, v[1:]...)
			s.readAll("b", v...)
		}, nil},
		{"read before the acknowledgement", false, func(s story) {
			v := s.Send(once, events, size)
			s.readAll("a", v)
			s.Acked(v, 0)
		}, nil},
		{"an unknown send is there, another is not", false, func(s story) {
			v := s.Send(once, events, size)
			s.Unknown(v, errAny)
			s.Unknown(s.Send(once, events, size), errAny)
			s.readAll("a", v)
		}, nil},
		{"a failed send is not there", false, func(s story) {
			s.Failed(s.Send(once, events, size), errAny)
			s.readAll("a", s.send(once, 0, 1)...)
		}, nil},
		{"a plain producer's record is there twice", false, func(s story) {
			v := s.Send(plain, events, size)
			s.Acked(v, 1)
			s.readAll("a", v, v)
		}, nil},
		{"acknowledged without an offset", false, func(s story) {
			v := s.Send(once, events, size)
			s.Acked(v, -1)
			s.readAll("a", v)
		}, nil},
		{"acknowledged out of order, stored in order", false, func(s story) {
			v, w := s.Send(once, events, size), s.Send(once, events, size)
			s.Acked(w, 1)
			s.Acked(v, 0)
			s.readAll("a", v, w)
		}, nil},
		{"trimmed", false, func(s story) {
			v := s.send(once, 0, 3)
			s.Assigned("a", events, 2)
			s.Polled("a", events, Watermarks{2, 3, 3}, []Read{{2, Payload(v[2], size)}})
			s.ReadWhole("a", events, 2, 3)
		}, nil},
		{"assigned anew", false, func(s story) {
			v := s.send(once, 0, 3)
			s.read("a", 0, v...)
			s.Assigned("a", events, 1)
			s.read("a", 1, v[1:]...)
			s.readAll("b", v...)
		}, nil},
		{"offsets without records", true, func(s story) {
			v := s.send(once, 0, 1)
			w := s.send(once, 5, 1)
			s.read("a", 0, v...)
			s.read("a", 5, w...)
			s.ReadWhole("a", events, 0, 7)
		}, nil},

		{"nobody has read it", false, func(s story) { s.send(once, 0, 1) }, []Kind{Unseen}},
		{"the log ends before it", false, func(s story) {
			v := s.send(once, 0, 2)
			s.readAll("a", v[0])
		}, []Kind{LostWrite}},
		{"skipped over by all", false, func(s story) {
			v := s.send(once, 0, 3)
			s.read("a", 0, v[0])
			s.read("a", 2, v[2])
			s.ReadWhole("a", events, 0, 3)
		}, []Kind{LostWrite, PollSkip, Gap}},
		{"lost where the producer was not told the offset", false, func(s story) {
			v := s.send(once, 0, 1)
			s.Acked(s.Send(once, events, size), -1)
			s.readAll("a", v...)
		}, []Kind{LostWrite}},
		{"not read where the producer was not told the offset", false, func(s story) {
			s.Acked(s.Send(once, events, size), -1)
		}, []Kind{Unseen}},
		{"its offset holds another record", false, func(s story) {
			v := s.send(once, 0, 1)
			w := s.Send(plain, events, size)
			s.Unknown(w, errAny)
			s.readAll("a", w)
			_ = v
		}, []Kind{InconsistentOffsets}},
		{"two acknowledgements of one offset", false, func(s story) {
			v := s.send(once, 0, 1)
			s.send(plain, 0, 1)
			s.readAll("a", v...)
		}, []Kind{InconsistentOffsets}},
		{"two consumers read different records at one offset", false, func(s story) {
			v, w := s.Send(once, events, size), s.Send(once, events, size)
			s.readAll("a", v)
			s.readAll("b", w)
		}, []Kind{InconsistentOffsets}},
		{"an idempotent record twice", false, func(s story) {
			v := s.send(once, 0, 1)
			s.readAll("a", v[0], v[0])
		}, []Kind{Duplicate}},
		{"a failed record is read", false, func(s story) {
			v := s.Send(once, events, size)
			s.Failed(v, errAny)
			s.readAll("a", v)
		}, []Kind{AbortedRead}},
		{"a record that was read is said to have failed", false, func(s story) {
			v := s.Send(once, events, size)
			s.readAll("a", v)
			s.Failed(v, errAny)
		}, []Kind{AbortedRead}},
		{"acknowledged in another order than sent", false, func(s story) {
			v, w := s.Send(once, events, size), s.Send(once, events, size)
			s.Acked(v, 1)
			s.Acked(w, 0)
			s.readAll("a", w, v)
		}, []Kind{NonmonotonicSend}},
		{"reordered around an unknown one", false, func(s story) {
			v, x, w := s.Send(once, events, size), s.Send(once, events, size), s.Send(once, events, size)
			s.Acked(v, 1)
			s.Acked(w, 0)
			s.Unknown(x, errAny)
			s.readAll("a", w, v)
		}, []Kind{NonmonotonicSend}},
		{"reordered around one without an answer", false, func(s story) {
			v, _, w := s.Send(once, events, size), s.Send(once, events, size), s.Send(once, events, size)
			s.Acked(v, 1)
			s.Acked(w, 0)
			s.readAll("a", w, v)
		}, []Kind{NonmonotonicSend}},
		{"led back in the next answer", false, func(s story) {
			v := s.send(once, 0, 2)
			s.readAll("a", v...)
			s.read("a", 1, v[1])
		}, []Kind{NonmonotonicPoll}},
		{"led back within one answer", false, func(s story) {
			v := s.send(once, 0, 2)
			s.Polled("a", events, none(), []Read{{0, Payload(v[0], size)}, {1, Payload(v[1], size)}, {1, Payload(v[1], size)}})
			s.ReadWhole("a", events, 0, 2)
		}, []Kind{IntNonmonotonicPoll}},
		{"one consumer is not given a record", false, func(s story) {
			v := s.send(once, 0, 3)
			s.readAll("a", v...)
			s.read("b", 0, v[0])
			s.read("b", 2, v[2])
		}, []Kind{PollSkip}},
		{"not given within one answer", false, func(s story) {
			v := s.send(once, 0, 3)
			s.readAll("a", v...)
			s.Polled("b", events, none(), []Read{{0, Payload(v[0], size)}, {2, Payload(v[2], size)}})
		}, []Kind{IntPollSkip}},
		{"not given although it exists, with gaps", true, func(s story) {
			v := s.send(once, 0, 3)
			s.readAll("a", v...)
			s.read("b", 0, v[0])
			s.read("b", 2, v[2])
		}, []Kind{PollSkip}},
		{"an offset that nobody wrote", false, func(s story) {
			v := s.send(once, 0, 1)
			w := s.send(once, 2, 1)
			s.read("a", 0, v...)
			s.read("a", 2, w...)
			s.ReadWhole("a", events, 0, 3)
		}, []Kind{PollSkip, Gap}},
		{"a value that nobody sent", false, func(s story) { s.read("a", 0, 7) }, []Kind{Phantom}},
		{"another partition's record", false, func(s story) {
			v := s.Send(once, other, size)
			s.Unknown(v, errAny)
			s.read("a", 0, v)
		}, []Kind{Phantom}},
		{"a negative offset", false, func(s story) {
			s.Assigned("a", events, -1)
			s.read("a", -1, s.Send(once, events, size))
		}, []Kind{Phantom}},
		{"a flipped bit", false, func(s story) {
			b := Payload(s.Send(once, events, size), size)
			b[size-1] ^= 1
			s.Polled("a", events, none(), []Read{{0, b}})
		}, []Kind{Corrupt}},
		{"cut short", false, func(s story) {
			b := Payload(s.Send(once, events, size), size)
			s.Polled("a", events, none(), []Read{{0, b[:size-1]}, {1, b[:MinSize-1]}, {2, nil}})
		}, []Kind{Corrupt}},
		{"the record of another size", false, func(s story) {
			v := s.Send(once, events, size)
			s.Polled("a", events, none(), []Read{{0, Payload(v, size+1)}})
		}, []Kind{Corrupt}},
		{"above the high watermark", false, func(s story) {
			v := s.Send(once, events, size)
			s.Polled("a", events, Watermarks{0, 0, 0}, []Read{{0, Payload(v, size)}})
		}, []Kind{ReadAhead}},
		{"a high watermark goes back", false, func(s story) {
			s.Polled("a", events, Watermarks{0, 5, 5}, nil)
			s.Polled("b", events, Watermarks{0, 4, 4}, nil) // another client
			s.Polled("a", events, Watermarks{-1, -1, 4}, nil)
		}, []Kind{WatermarkBack}},
		{"a log start goes back", false, func(s story) {
			s.Look("a", events).Saw(Watermarks{3, -1, 5})
			s.Look("a", events).Saw(Watermarks{2, -1, 5})
		}, []Kind{WatermarkBack}},
		{"a last stable offset goes back", false, func(s story) {
			s.Look("a", events).Saw(Watermarks{0, 4, 5})
			s.Look("a", events).Saw(Watermarks{0, 3, 5})
		}, []Kind{WatermarkBack}},
		{"watermarks out of order", false, func(s story) { s.Look("a", events).Saw(Watermarks{0, 6, 5}) }, []Kind{WatermarkBack}},
		{"the end goes back after a read", false, func(s story) {
			v, w := s.Send(once, events, size), s.Send(once, events, size)
			s.read("a", 0, v, w)
			s.readAll("b", v)
		}, []Kind{WatermarkBack}},
		{"the end is behind an acknowledgement", false, func(s story) {
			late := s.Look("a", events)
			s.readAll("a", s.send(once, 0, 2)...)
			late.Saw(Watermarks{0, 0, 0}) // asked before: allowed
			s.Look("a", events).Saw(Watermarks{0, 1, 1})
		}, []Kind{StaleWatermark}},
		{"found by the test", false, func(s story) { s.Anomaly(Gap, "%d", 1) }, []Kind{Gap}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := story{New(Config{Gaps: tt.gaps})}
			tt.happy(s)
			r := s.Check()
			got := slices.Sorted(maps.Keys(r.Anomalies))
			slices.Sort(tt.want)
			if !slices.Equal(got, tt.want) {
				t.Errorf("anomalies are %q, want %q: %v", got, tt.want, r.Err())
			}
			if (r.Err() == nil) != (len(tt.want) == 0) {
				t.Errorf("the error is %v", r.Err())
			}
		})
	}
}

// TestTrims: records may go from the front, and nowhere else.
func TestTrims(t *testing.T) {
	tests := []struct {
		name  string
		start int64 // log start that is told
		reads []int // of six records
		want  []Kind
	}{
		{"nothing went", 0, []int{0, 1, 2, 3, 4, 5}, nil},
		{"the front went", 4, []int{4, 5}, nil},
		{"a reader was led past it", 3, []int{0, 3, 4, 5}, nil},
		{"all went", 6, nil, nil},
		{"more went than was told", 2, []int{4, 5}, []Kind{Gap, LostWrite, PollSkip}},
		{"one in the middle went", 1, []int{1, 2, 4, 5}, []Kind{Gap, LostWrite, PollSkip}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := story{New(Config{Trims: true})}
			v := s.send(once, 0, 6)
			s.readAll("everything", v...) // before: that others had it excuses nobody
			if len(tt.want) > 0 {
				s = story{New(Config{Trims: true})}
				v = s.send(once, 0, 6)
			}
			s.Look("a", events).Saw(Watermarks{tt.start, -1, 6})
			for _, i := range tt.reads {
				s.read("a", int64(i), v[i])
			}
			if len(tt.reads) > 0 {
				s.ReadWhole("a", events, tt.start, 6)
			}
			r := s.Check()
			if got := slices.Sorted(maps.Keys(r.Anomalies)); !slices.Equal(got, tt.want) {
				t.Errorf("anomalies are %q, want %q: %v", got, tt.want, r.Err())
			}
		})
	}
}

func TestReportCounts(t *testing.T) {
	var lines []string
	s := story{New(Config{Trace: func(line string) { lines = append(lines, line) }})}
	v := s.send(plain, 0, 2)
	s.Unknown(s.Send(once, events, size), errAny)
	s.Failed(s.Send(once, events, size), errAny)
	s.Send(once, other, size)
	s.Note("a fault")
	s.readAll("a", v[0], v[1], v[0])
	s.read("b", 0, v[0])
	r := s.Check()
	if err := r.Err(); err != nil {
		t.Error(err)
	}
	const want = "sent 5: acknowledged 2, failed 1, unknown 1, without an answer 1; read 4, of 3 offsets; doubled by plain producers 1"
	if got := r.Counts(); got != want {
		t.Errorf("counts are\n%s, want\n%s", got, want)
	}
	if end := s.AckedEnd(events); end != 2 {
		t.Errorf("acknowledged up to %d", end)
	}
	if all := strings.Join(lines, "\n"); !strings.Contains(all, "plain sends 1 of 40 bytes to events/0\n") || !strings.Contains(all, "a fault\n") {
		t.Errorf("the trace is\n%s", all)
	}
}

func TestExamplesAreBounded(t *testing.T) {
	s := story{New(Config{})}
	s.send(once, 0, 100)
	r := s.Check()
	if a := r.Anomalies[Unseen]; a.Count != 100 || len(a.Examples) != maxExamples {
		t.Errorf("%d anomalies with %d examples", a.Count, len(a.Examples))
	}
	if err := r.Err(); err == nil || strings.Count(err.Error(), "\n") != maxExamples+1 {
		t.Errorf("the error is %v", err)
	}
}

// TestMisuse: a test that makes a mistake must not pass by it.
func TestMisuse(t *testing.T) {
	tests := map[string]func(s story){
		"an answer to nothing":       func(s story) { s.Acked(1, 0) },
		"a second answer":            func(s story) { v := s.send(once, 0, 1); s.Failed(v[0], errAny) },
		"whole, but began later":     func(s story) { s.Assigned("a", events, 1); s.ReadWhole("a", events, 0, 1) },
		"whole, but ended earlier":   func(s story) { s.ReadWhole("a", events, 0, 1) },
		"the value that never is":    func(s story) { s.Unknown(0, errAny) },
		"an answer to a later value": func(s story) { s.send(once, 0, 1); s.Acked(2, 0) },
	}
	for name, do := range tests {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			do(story{New(Config{})})
		})
	}
}

func TestPayload(t *testing.T) {
	for _, n := range []int{MinSize, MinSize + 1, MinSize + 8, MinSize + 9, 63, 100, 1 << 16} {
		b := Payload(7, n)
		if v, err := decode(b); len(b) != n || v != 7 || err != nil {
			t.Errorf("a record of %d bytes: %d bytes, value %d, %v", n, len(b), v, err)
		}
		for i := range min(n, 64) {
			b[i] ^= 0x10
			if v, err := decode(b); err == nil && v == 7 {
				t.Errorf("a record of %d bytes with byte %d changed is taken for whole", n, i)
			}
			b[i] ^= 0x10
		}
	}
}

func BenchmarkPolled(b *testing.B) {
	h := New(Config{})
	var reads []Read
	for i := range 100 {
		v := h.Send(once, events, size)
		h.Acked(v, int64(i))
		reads = append(reads, Read{int64(i), Payload(v, size)})
	}
	for b.Loop() {
		h.Assigned("a", events, 0)
		h.Polled("a", events, none(), reads)
	}
}
