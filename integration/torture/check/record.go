package check

import (
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"time"

	"github.com/floelog/floe/integration/history"
)

// Recorder takes the events of a run in their order.
type Recorder struct {
	now func() time.Duration

	mu      sync.Mutex // guards the following
	checker *Checker
	file    *Encoder // nil: none
	err     error    // of the file
}

// NewRecorder writes to w, unless it is nil, what it is told, and has it judged at once;
// now is the time since the beginning of the run.
func NewRecorder(w io.Writer, now func() time.Duration) *Recorder {
	r := &Recorder{now: now, checker: NewChecker()}
	if w != nil {
		r.file = NewEncoder(w)
	}
	return r
}

// Add records an event, whose time it sets, and returns the number of what it begins: a
// value, a transaction, a look, a commit or a question.
func (r *Recorder) Add(ev Event) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	ev.At = r.now()
	if r.file != nil && r.err == nil {
		r.err = r.file.Encode(&ev)
	}
	return r.checker.Apply(&ev)
}

// Do records several events with nothing between them.
func (r *Recorder) Do(events ...Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range events {
		events[i].At = r.now()
		if r.file != nil && r.err == nil {
			r.err = r.file.Encode(&events[i])
		}
		r.checker.Apply(&events[i])
	}
}

// Note records a line that is not judged.
func (r *Recorder) Note(who, format string, args ...any) {
	r.Add(Event{Op: OpNote, Who: who, Text: fmt.Sprintf(format, args...)})
}

// Anomaly records an anomaly that a client noticed by itself.
func (r *Recorder) Anomaly(kind history.Kind, who, format string, args ...any) {
	r.Add(Event{Op: OpAnomaly, Who: who, Group: string(kind), Text: fmt.Sprintf(format, args...)})
}

// Sweep judges what can be judged by now.
func (r *Recorder) Sweep() history.Report {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.checker.Sweep()
}

// AckedEnd returns the offset after the last one that was acknowledged.
func (r *Recorder) AckedEnd(p history.Partition) int64 { return r.checker.records.AckedEnd(p) }

// Left returns the first record from an offset on that consumers of committed records must
// be given, if there is one.
func (r *Recorder) Left(p history.Partition, from int64) (offset int64, left bool) {
	offset, _, left = r.checker.records.FirstVisible(p, from, math.MaxInt64)
	return offset, left
}

// End writes what is left and judges the whole run, once. An error is the file's.
func (r *Recorder) End() (Verdict, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.file != nil && r.err == nil {
		r.err = r.file.Flush()
	}
	return r.checker.Check(), r.err
}

// File judges a file that a Recorder wrote. A file whose end is missing is judged as far as
// it goes, and an error says so.
func File(r io.Reader) (Verdict, error) {
	d, err := NewDecoder(r)
	if err != nil {
		return Verdict{}, err
	}
	c := NewChecker()
	for {
		ev, err := d.Decode()
		if errors.Is(err, io.EOF) {
			return c.Check(), nil
		}
		if err != nil {
			return c.Check(), fmt.Errorf("after %v of the run: %w", ev.At, err)
		}
		if err := c.valid(&ev); err != nil {
			return c.Check(), fmt.Errorf("after %v of the run: %w", ev.At, err)
		}
		c.Apply(&ev)
	}
}
