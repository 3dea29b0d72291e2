package check

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/floelog/floe/integration/history"
)

var (
	p0 = history.Partition{Topic: "t", ID: 0}
	p1 = history.Partition{Topic: "t", ID: 1}
)

// told collects a history by hand; the methods return the number of what they begin.
type told struct{ events []Event }

func (h *told) add(ev Event) *told {
	ev.At = time.Duration(len(h.events)) * time.Millisecond
	h.events = append(h.events, ev)
	return h
}

func (h *told) send(who string, p history.Partition, txn uint64) *told {
	return h.add(Event{Op: OpSend, Who: who, Part: p, A: 20, B: 1, ID: txn})
}

func (h *told) acked(v uint64, offset int64) *told {
	return h.add(Event{Op: OpAcked, Who: "producer", ID: v, A: offset})
}

func (h *told) begin(who string) *told { return h.add(Event{Op: OpBegin, Who: who}) }

func (h *told) turn(txn uint64, fate history.Fate) *told {
	return h.add(Event{Op: OpTurn, ID: txn, A: int64(fate)})
}

func (h *told) consumer(who string, level history.Isolation) *told {
	h.add(Event{Op: OpConsumer, Who: who, A: int64(level)})
	h.add(Event{Op: OpAssigned, Who: who, Part: p0})
	return h.add(Event{Op: OpAssigned, Who: who, Part: p1})
}

// marker is a value of a poll that stands for a control record.
const marker = 0

// poll gives a consumer values at offsets: offset, value, offset, value.
func (h *told) poll(who string, p history.Partition, pairs ...int64) *told {
	ev := Event{Op: OpPolled, Who: who, Part: p, B: 1000, C: 1000}
	for i := 0; i < len(pairs); i += 2 {
		ev.Seen = append(ev.Seen, history.Seen{Offset: pairs[i], Value: history.Value(pairs[i+1]), Size: 20, Control: pairs[i+1] == marker})
	}
	return h.add(ev)
}

// whole ends a history: both readers have read both partitions, up to ends.
func (h *told) whole(end0, end1 int64) *told {
	for _, who := range []string{"all", "committed"} {
		h.add(Event{Op: OpWhole, Who: who, Part: p0, B: end0})
		h.add(Event{Op: OpWhole, Who: who, Part: p1, B: end1})
	}
	return h
}

// readers begins the two readers that whole is about.
func (h *told) readers() *told {
	return h.consumer("all", history.Everything).consumer("committed", history.Committed)
}

// both gives both readers the same.
func (h *told) both(p history.Partition, pairs ...int64) *told {
	return h.poll("all", p, pairs...).poll("committed", p, pairs...)
}

func (h *told) commit(who string, offset, gen int64, txn uint64) *told {
	return h.add(Event{Op: OpCommit, Who: who, Group: "g", Part: p0, A: offset, B: gen, ID: txn})
}

func (h *told) committed(id uint64, o Outcome) *told {
	return h.add(Event{Op: OpCommitted, ID: id, A: int64(o)})
}

func (h *told) ask() *told {
	return h.add(Event{Op: OpAskOffset, Who: "auditor", Group: "g", Part: p0})
}
func (h *told) answer(id uint64, offset int64) *told {
	return h.add(Event{Op: OpOffset, Who: "auditor", ID: id, A: offset})
}

func (h *told) owns(who string, gen int64) *told {
	return h.add(Event{Op: OpOwns, Who: who, Group: "g", Part: p0, A: gen})
}

func (h *told) consumed(txn uint64, from, to int64) *told {
	return h.add(Event{Op: OpConsumed, Who: "copier", Group: "g", Part: p0, ID: txn, A: from, B: to})
}

func start() *told { return (&told{}).readers() }

// two sends two acknowledged records to partition 0.
func two() *told { return start().send("p", p0, 0).send("p", p0, 0).acked(1, 0).acked(2, 1) }

// open begins transaction 1 with value 1 in partition 0 and 2 in partition 1, both
// acknowledged at offset 0.
func open() *told {
	return start().begin("w").send("w", p0, 1).send("w", p1, 1).acked(1, 0).acked(2, 0)
}

// input is a partition with three records, read by everybody.
func input() *told {
	return start().send("p", p0, 0).send("p", p0, 0).send("p", p0, 0).acked(1, 0).acked(2, 1).acked(3, 2).both(p0, 0, 1, 1, 2, 2, 3).whole(3, 0)
}

func TestAnomalies(t *testing.T) {
	tests := []struct {
		name string
		h    *told
		want []history.Kind
	}{
		{"two records", two().both(p0, 0, 1, 1, 2).whole(2, 0), nil},
		{"lost", two().both(p0, 0, 1).poll("all", p0).whole(1, 0), []history.Kind{history.LostWrite}},
		{"lost in the middle", two().send("p", p0, 0).acked(3, 2).poll("committed", p0, 0, 1, 2, 3).poll("all", p0, 0, 1, 1, marker, 2, 3).whole(3, 0),
			[]history.Kind{history.LostWrite, history.PollSkip}},
		{"unseen", two().poll("all", p0, 0, 1).poll("committed", p0, 0, 1), []history.Kind{history.Unseen}},
		{"duplicate", two().both(p0, 0, 1, 1, 2, 2, 1).whole(3, 0), []history.Kind{history.Duplicate}},
		{"another value", two().send("p", p0, 0).both(p0, 0, 1, 1, 3).whole(2, 0), []history.Kind{history.InconsistentOffsets}},
		{"order of sends", start().send("p", p0, 0).send("p", p0, 0).acked(1, 1).acked(2, 0).both(p0, 0, 2, 1, 1).whole(2, 0), []history.Kind{history.NonmonotonicSend}},
		{"a failed record is there", start().send("p", p0, 0).add(Event{Op: OpFailed, ID: 1, Text: "no"}).both(p0, 0, 1).whole(1, 0), []history.Kind{history.AbortedRead}},
		{"an unknown record is there", start().send("p", p0, 0).add(Event{Op: OpUnknown, ID: 1, Text: "?"}).both(p0, 0, 1).whole(1, 0), nil},
		{"an unknown record is not there", start().send("p", p0, 0).add(Event{Op: OpUnknown, ID: 1, Text: "?"}).whole(0, 0), nil},
		{"never sent", two().both(p0, 0, 1, 1, 2, 2, 77).whole(3, 0), []history.Kind{history.Phantom}},
		{"other bytes", two().both(p0, 0, 1, 1, 2).add(Event{Op: OpPolled, Who: "x", Part: p0, B: 9, C: 9, Seen: []history.Seen{{Value: 1, Size: 20, Bad: "differs"}}}).whole(2, 0),
			[]history.Kind{history.Corrupt}},
		{"a skip", two().both(p0, 0, 1, 1, 2).consumer("x", history.Uncommitted).poll("x", p0, 1, 2).whole(2, 0), []history.Kind{history.PollSkip}},
		{"a step back", two().both(p0, 0, 1, 1, 2).consumer("x", history.Uncommitted).poll("x", p0, 0, 1, 1, 2).poll("x", p0, 1, 2).whole(2, 0), []history.Kind{history.NonmonotonicPoll}},
		{"a step back within", two().both(p0, 0, 1, 1, 2).consumer("x", history.Uncommitted).poll("x", p0, 0, 1, 1, 2, 0, 1).whole(2, 0), []history.Kind{history.IntNonmonotonicPoll}},
		{"a hole", start().send("p", p0, 0).send("p", p0, 0).acked(1, 0).acked(2, 2).poll("committed", p0, 0, 1, 2, 2).poll("all", p0, 0, 1, 2, 2).whole(3, 0), []history.Kind{history.IntPollSkip}},
		{"high watermark back", two().both(p0, 0, 1, 1, 2).add(Event{Op: OpPolled, Who: "all", Part: p0, B: 5, C: 5}).whole(2, 0), []history.Kind{history.WatermarkBack}},
		{"old end", two().add(Event{Op: OpLook, Who: "o", Part: p0}).add(Event{Op: OpSaw, Who: "o", Part: p0, ID: 1, A: 0, B: 1, C: 1}).both(p0, 0, 1, 1, 2).whole(2, 0), []history.Kind{history.StaleWatermark}},
		{"log start moved", two().both(p0, 0, 1, 1, 2).add(Event{Op: OpLook, Who: "o", Part: p0}).add(Event{Op: OpSaw, Who: "o", Part: p0, ID: 1, A: 1, B: 2, C: 2}).whole(2, 0), []history.Kind{Trimmed}},
		{"log start was moved", two().both(p0, 0, 1, 1, 2).add(Event{Op: OpTrim, Part: p0, A: 1}).add(Event{Op: OpLook, Who: "o", Part: p0}).add(Event{Op: OpSaw, Who: "o", Part: p0, ID: 1, A: 1, B: 2, C: 2}).whole(2, 0), nil},
		{"of an old topic", start().send("p", history.Partition{Topic: "c#1"}, 0).acked(1, 0).add(Event{Op: OpDeleted, Part: history.Partition{Topic: "c#1"}}).
			add(Event{Op: OpPolled, Who: "x", Part: history.Partition{Topic: "c#2"}, B: 9, C: 9, Seen: []history.Seen{{Value: 1, Size: 20}}}), []history.Kind{history.Resurrected}},
		{"a deleted topic", start().send("p", history.Partition{Topic: "c#1"}, 0).acked(1, 0).add(Event{Op: OpDeleted, Part: history.Partition{Topic: "c#1"}}), nil},
		{"noticed by a client", start().add(Event{Op: OpAnomaly, Who: "x", Group: string(Stuck), Text: "hangs"}), []history.Kind{Stuck}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { expect(t, tt.h, tt.want) })
	}
}

func TestTransactions(t *testing.T) {
	done := func(h *told) *told { return h.turn(1, history.Ending).turn(1, history.Done) }
	tests := []struct {
		name string
		h    *told
		want []history.Kind
	}{
		{"committed", done(open()).both(p0, 0, 1, 1, marker).both(p1, 0, 2, 1, marker).whole(2, 2), nil},
		{"aborted", open().turn(1, history.Aborted).poll("all", p0, 0, 1, 1, marker).poll("all", p1, 0, 2, 1, marker).whole(2, 2), nil},
		{"aborted and read", open().turn(1, history.Aborted).both(p0, 0, 1, 1, marker).poll("all", p1, 0, 2, 1, marker).whole(2, 2), []history.Kind{history.AbortedRead}},
		{"read before it ended", open().both(p0, 0, 1).turn(1, history.Ending).turn(1, history.Done).both(p0, 1, marker).both(p1, 0, 2, 1, marker).whole(2, 2), []history.Kind{history.PrecommittedRead}},
		{"read while it ended", open().turn(1, history.Ending).both(p0, 0, 1).turn(1, history.Done).both(p0, 1, marker).both(p1, 0, 2, 1, marker).whole(2, 2), nil},
		{"read above the last stable offset", done(open()).both(p1, 0, 2, 1, marker).poll("all", p0, 0, 1, 1, marker).
			add(Event{Op: OpPolled, Who: "committed", Part: p0, B: 0, C: 5, Seen: []history.Seen{{Value: 1, Size: 20}}}).whole(2, 2), []history.Kind{history.PrecommittedRead}},
		{"lost", done(open()).poll("all", p0, 0, 1, 1, marker).poll("all", p1, 0, 2, 1, marker).whole(2, 2), []history.Kind{history.LostWrite}},
		{"torn", done(open()).both(p0, 0, 1, 1, marker).poll("all", p1, 0, 2, 1, marker).whole(2, 2), []history.Kind{history.Torn}},
		{"unclear and there", open().turn(1, history.Ending).turn(1, history.Unclear).both(p0, 0, 1, 1, marker).both(p1, 0, 2, 1, marker).whole(2, 2), nil},
		{"unclear and not there", open().turn(1, history.Ending).turn(1, history.Unclear).poll("all", p0, 0, 1, 1, marker).poll("all", p1, 0, 2, 1, marker).whole(2, 2), nil},
		{"unclear and torn", open().turn(1, history.Ending).turn(1, history.Unclear).both(p0, 0, 1, 1, marker).poll("all", p1, 0, 2, 1, marker).whole(2, 2), []history.Kind{history.Torn}},
		{"an aborted record is gone", open().turn(1, history.Aborted).poll("all", p0, 0, marker, 1, marker).poll("all", p1, 0, 2, 1, marker).whole(2, 2), []history.Kind{history.LostWrite}},
		{"read from each other", start().begin("w").begin("x").send("w", p0, 1).send("x", p1, 2).acked(1, 0).acked(2, 0).
			turn(1, history.Ending).turn(2, history.Ending).both(p0, 0, 1).both(p1, 0, 2).
			add(Event{Op: OpConsumed, Part: p0, ID: 2, B: 1}).add(Event{Op: OpConsumed, Part: p1, ID: 1, B: 1}).
			turn(1, history.Done).turn(2, history.Done).whole(1, 1), []history.Kind{history.Cycle}},
		{"read from one another in turn", start().begin("w").send("w", p0, 1).acked(1, 0).turn(1, history.Ending).turn(1, history.Done).both(p0, 0, 1).
			begin("x").add(Event{Op: OpConsumed, Part: p0, ID: 2, B: 1}).send("x", p1, 2).acked(2, 0).turn(2, history.Ending).turn(2, history.Done).both(p1, 0, 2).whole(1, 1), nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { expect(t, tt.h, tt.want) })
	}
}

func TestGroups(t *testing.T) {
	tests := []struct {
		name string
		h    *told
		want []history.Kind
	}{
		{"in order", start().ask().answer(1, -1).commit("m", 5, 1, 0).committed(1, Taken).ask().answer(2, 5), nil},
		{"asked meanwhile", start().ask().commit("m", 5, 1, 0).committed(1, Taken).answer(1, -1), nil},
		{"none after one", start().commit("m", 5, 1, 0).committed(1, Taken).ask().answer(1, -1), []history.Kind{OffsetUnknown}},
		{"zero after one", start().commit("m", 5, 1, 0).committed(1, Taken).ask().answer(1, 0), []history.Kind{OffsetUnknown}},
		{"back", start().commit("m", 5, 1, 0).committed(1, Taken).commit("m", 7, 1, 0).committed(2, Taken).ask().answer(1, 5), []history.Kind{OffsetBack}},
		{"nobody's", start().commit("m", 5, 1, 0).committed(1, Taken).ask().answer(1, 6), []history.Kind{OffsetPhantom}},
		{"refused and there", start().commit("m", 5, 1, 0).ask().answer(1, 5).committed(1, Refused), []history.Kind{OffsetPhantom}},
		{"unclear, later", start().commit("m", 5, 1, 0).committed(1, Doubtful).commit("m", 7, 1, 0).committed(2, Taken).ask().answer(1, 5), nil},
		{"unclear, of a former owner", start().commit("m", 5, 1, 0).committed(1, Doubtful).commit("n", 7, 2, 0).committed(2, Taken).commit("n", 8, 2, 0).committed(3, Taken).ask().answer(1, 5), []history.Kind{OffsetBack}},
		{"one owner after the other", start().owns("m", 1).add(Event{Op: OpLeaves, Who: "m", Group: "g", Part: p0}).owns("n", 1), nil},
		{"two owners", start().owns("m", 1).owns("n", 1), []history.Kind{TwoOwners}},
		{"told late", start().owns("n", 2).owns("m", 1).commit("n", 5, 2, 0).committed(1, Taken), nil},
		{"a former owner's commit", start().owns("m", 1).owns("n", 2).commit("m", 5, 1, 0).committed(1, Taken), []history.Kind{StaleCommit}},
		{"a former owner's commit in doubt", start().owns("m", 1).owns("n", 2).commit("m", 5, 1, 0).committed(1, Doubtful), nil},
		{"consumed", input().begin("c").consumed(1, 0, 3).commit("c", 3, 1, 1).turn(1, history.Ending).turn(1, history.Done).ask().answer(1, 3), nil},
		{"consumed twice", input().begin("c").consumed(1, 0, 3).begin("c").consumed(2, 2, 3).turn(1, history.Done).turn(2, history.Done), []history.Kind{Reprocessed}},
		{"consumed again after an abort", input().begin("c").consumed(1, 0, 3).turn(1, history.Aborted).begin("c").consumed(2, 0, 3).turn(2, history.Done), nil},
		{"passed over", input().begin("c").consumed(1, 0, 1).begin("c").consumed(2, 2, 3).turn(1, history.Done).turn(2, history.Done), []history.Kind{Unprocessed}},
		{"passed over at the end", input().begin("c").consumed(1, 0, 2).commit("c", 2, 1, 1).turn(1, history.Done).commit("c", 3, 1, 0).committed(2, Taken).ask().answer(1, 3), []history.Kind{Unprocessed}},
		{"records without offsets", input().begin("c").consumed(1, 0, 2).commit("c", 2, 1, 1).turn(1, history.Done).begin("c").consumed(2, 2, 3).turn(2, history.Done).ask().answer(1, 2), []history.Kind{TornOffsets}},
		{"offsets of an open transaction", start().begin("c").commit("c", 3, 1, 1).ask().answer(1, 3), []history.Kind{OffsetPhantom}},
		{"offsets of an aborted transaction", start().begin("c").commit("c", 3, 1, 1).turn(1, history.Aborted).ask().answer(1, 3), []history.Kind{OffsetPhantom}},
		{"offsets of an unclear transaction, its records not", open().commit("c", 3, 1, 1).turn(1, history.Ending).turn(1, history.Unclear).ask().answer(1, 3).
			poll("all", p0, 0, 1, 1, marker).poll("all", p1, 0, 2, 1, marker).whole(2, 2), []history.Kind{history.Torn}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { expect(t, tt.h, tt.want) })
	}
}

// expect judges a history, and its copy in a file.
func expect(t *testing.T, h *told, want []history.Kind) {
	t.Helper()
	c := NewChecker()
	var file bytes.Buffer
	e := NewEncoder(&file)
	for i := range h.events {
		if err := c.valid(&h.events[i]); err != nil {
			t.Fatalf("event %d: %v", i, err)
		}
		if err := e.Encode(&h.events[i]); err != nil {
			t.Fatal(err)
		}
		c.Apply(&h.events[i])
	}
	if err := e.Flush(); err != nil {
		t.Fatal(err)
	}
	v := c.Check()
	if got := slices.Sorted(maps.Keys(v.Report.Anomalies)); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
		t.Errorf("found %v, want %v: %v", got, want, v.Report.Err())
	}
	again, err := File(&file)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(again.Report.Anomalies, v.Report.Anomalies) {
		t.Errorf("from the file: %v, want %v", again.Report.Err(), v.Report.Err())
	}
}

func TestFileIsCutOff(t *testing.T) {
	var file bytes.Buffer
	e := NewEncoder(&file)
	h := two().both(p0, 0, 1, 1, 2).whole(2, 0)
	for i := range h.events {
		if err := e.Encode(&h.events[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Flush(); err != nil {
		t.Fatal(err)
	}
	all := file.Bytes()
	if _, err := File(bytes.NewReader(all[:len(all)-1])); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("without its last byte: %v, want %v", err, io.ErrUnexpectedEOF)
	}
	if _, err := File(bytes.NewReader(all[1:])); err == nil {
		t.Error("a file without its beginning was taken")
	}
}

func FuzzFile(f *testing.F) {
	var file bytes.Buffer
	e := NewEncoder(&file)
	h := two().both(p0, 0, 1, 1, 2).owns("m", 1).commit("m", 5, 1, 0).committed(1, Taken).whole(2, 0)
	for i := range h.events {
		_ = e.Encode(&h.events[i])
	}
	_ = e.Flush()
	f.Add(file.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := NewDecoder(bytes.NewReader(b))
		if err != nil {
			return
		}
		for {
			ev, err := d.Decode()
			if err != nil {
				return
			}
			if ev.Op == 0 || ev.Op >= opEnd {
				t.Fatalf("an event of kind %d", ev.Op)
			}
		}
	})
}

// BenchmarkRecord is what one record costs: sent, acknowledged, and read twice.
func BenchmarkRecord(b *testing.B) {
	rec := NewRecorder(io.Discard, func() time.Duration { return 0 })
	rec.Add(Event{Op: OpConsumer, Who: "c"})
	b.ReportAllocs()
	for i := range b.N {
		v := rec.Add(Event{Op: OpSend, Who: "p", Part: p0, A: 20, B: 1})
		rec.Add(Event{Op: OpAcked, Who: "p", ID: v, A: int64(i)})
		seen := []history.Seen{{Offset: int64(i), Value: history.Value(v), Size: 20}}
		rec.Add(Event{Op: OpPolled, Who: "c", Part: p0, B: -1, C: -1, Seen: seen})
		rec.Add(Event{Op: OpPolled, Who: "d", Part: p0, B: -1, C: -1, Seen: seen})
	}
}
