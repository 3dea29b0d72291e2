package shard_test

import (
	"bytes"
	"errors"
	"math"
	"slices"
	"testing"

	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

var (
	tpA     = tiering.TopicPartition{Topic: tiering.TopicID{0xa}, Partition: 0}
	tpB     = tiering.TopicPartition{Topic: tiering.TopicID{0xb}, Partition: 1}
	session = tiering.SessionID{0x5e}
	leader  = tiering.SessionID{0x1e}
)

// batch of 100 bytes.
func idempotent(id int64, epoch int16, first, count int32) shard.Batch {
	return shard.Batch{Length: 100, Count: count, MaxTimestamp: 7, ProducerID: id, ProducerEpoch: epoch, FirstSeq: first}
}

func transactional(tx shard.Transaction, first, count int32) shard.Batch {
	b := idempotent(tx.ProducerID, tx.Epoch, first, count)
	b.Transaction = tx.Number
	return b
}

func plain(count int32) shard.Batch { return idempotent(-1, -1, -1, count) }

func part(tp tiering.TopicPartition, batches ...shard.Batch) shard.Part {
	return shard.Part{Partition: tp, Segment: tiering.SegmentID{Session: session, Seq: 1}, Position: 1000, Batches: batches}
}

func inlinePart(tp tiering.TopicPartition, batches ...shard.Batch) shard.Part {
	p := shard.Part{Partition: tp, Batches: batches}
	for i := range batches {
		p.Inline = append(p.Inline, bytes.Repeat([]byte{byte(i + 1)}, 100)...)
	}
	return p
}

func submission(seq uint64, parts ...shard.Part) *shard.Submission {
	return &shard.Submission{Session: session, Seq: seq, Parts: parts}
}

// record commits one draft at the given epoch and time.
func commit(t *testing.T, s *shard.State, epoch tiering.LeaderEpoch, now int64, fill func(*shard.Draft)) {
	t.Helper()
	d := shard.NewDraft(s, epoch, leader, 1, now)
	fill(d)
	if err := s.Apply(d.Record()); err != nil {
		t.Fatal(err)
	}
}

func submit(t *testing.T, d *shard.Draft, s *shard.Submission) []shard.Outcome {
	t.Helper()
	out, err := d.Submit(s)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// stateThatForgot is a state in which producers up to an id may have been known once.
func stateThatForgot(t *testing.T, id int64) *shard.State {
	s := shard.New()
	commit(t, s, 1, 100, func(d *shard.Draft) { submit(t, d, submission(1, part(tpB, idempotent(id, 0, 0, 1)))) })
	commit(t, s, 1, 200, func(d *shard.Draft) {
		d.Add(shard.ExpireProducers{Before: 200})
		d.Add(shard.ForgetSession{Session: session})
	})
	return s
}

func TestAForgottenProducerGoesOn(t *testing.T) {
	s := shard.New()
	tx := shard.Transaction{ProducerID: 2, Number: 1}
	commit(t, s, 1, 100, func(d *shard.Draft) {
		submit(t, d, submission(1, part(tpA, idempotent(1, 3, 0, 5), transactional(tx, 0, 5))))
	})
	for _, id := range []int64{1, 2, 3} {
		s.ForgetProducer(tpA, id)
	}
	commit(t, s, 1, 200, func(d *shard.Draft) {
		got := submit(t, d, submission(2, part(tpA, idempotent(1, 3, 90, 1), transactional(tx, 90, 1), idempotent(3, 0, 90, 1), idempotent(4, 0, 90, 1))))
		want := []shard.Code{shard.OK, shard.OutOfOrderSequence, shard.OK, shard.OutOfOrderSequence}
		for i, o := range got {
			if o.Code != want[i] {
				t.Errorf("batch %d: %+v, want code %d", i, o, want[i])
			}
		}
	})
	if open := s.Partition(tpA).Open(); len(open) != 1 || open[0].ProducerID != 2 {
		t.Errorf("open transactions %+v", open)
	}
}

func TestSequenceNumbers(t *testing.T) {
	const top = math.MaxInt32
	ok := func(base tiering.Offset) shard.Outcome { return shard.Outcome{Code: shard.OK, Base: base} }
	gap := shard.Outcome{Code: shard.OutOfOrderSequence, Base: -1}
	fenced := shard.Outcome{Code: shard.InvalidProducerEpoch, Base: -1}
	for _, tc := range []struct {
		name    string
		batches []shard.Batch
		want    []shard.Outcome
	}{
		{"an unknown producer may start at 0", []shard.Batch{idempotent(1, 0, 0, 2)}, []shard.Outcome{ok(0)}},
		{"one that may have been forgotten may start anywhere", []shard.Batch{idempotent(1, 3, 17, 2)}, []shard.Outcome{ok(0)}},
		{"a newer one may not: the batch before has failed and comes again", []shard.Batch{idempotent(10, 0, 2, 1), idempotent(10, 0, 0, 2), idempotent(10, 0, 2, 1)}, []shard.Outcome{gap, ok(0), ok(2)}},
		{"not with an epoch above 0 either", []shard.Batch{idempotent(10, 3, 1, 1)}, []shard.Outcome{gap}},
		{"a batch that continues the last one is taken", []shard.Batch{idempotent(1, 0, 0, 2), idempotent(1, 0, 2, 1)}, []shard.Outcome{ok(0), ok(2)}},
		{"a gap is refused", []shard.Batch{idempotent(1, 0, 0, 2), idempotent(1, 0, 3, 1)}, []shard.Outcome{ok(0), gap}},
		{"an overlap is refused", []shard.Batch{idempotent(1, 0, 0, 2), idempotent(1, 0, 1, 2)}, []shard.Outcome{ok(0), gap}},
		{"a duplicate gets the offset of the original", []shard.Batch{idempotent(1, 0, 0, 2), idempotent(1, 0, 2, 1), idempotent(1, 0, 0, 2)}, []shard.Outcome{ok(0), ok(2), ok(0)}},
		{"the same first number with another count is no duplicate", []shard.Batch{idempotent(1, 0, 0, 2), idempotent(1, 0, 0, 3)}, []shard.Outcome{ok(0), gap}},
		{"the fifth batch back is remembered", []shard.Batch{
			idempotent(1, 0, 0, 1), idempotent(1, 0, 1, 1), idempotent(1, 0, 2, 1), idempotent(1, 0, 3, 1), idempotent(1, 0, 4, 1), idempotent(1, 0, 0, 1),
		}, []shard.Outcome{ok(0), ok(1), ok(2), ok(3), ok(4), ok(0)}},
		{"the eleventh batch back is forgotten, the tenth is not", []shard.Batch{
			idempotent(1, 0, 0, 1), idempotent(1, 0, 1, 1), idempotent(1, 0, 2, 1), idempotent(1, 0, 3, 1), idempotent(1, 0, 4, 1), idempotent(1, 0, 5, 1),
			idempotent(1, 0, 6, 1), idempotent(1, 0, 7, 1), idempotent(1, 0, 8, 1), idempotent(1, 0, 9, 1), idempotent(1, 0, 10, 1), idempotent(1, 0, 0, 1), idempotent(1, 0, 1, 1),
		}, []shard.Outcome{ok(0), ok(1), ok(2), ok(3), ok(4), ok(5), ok(6), ok(7), ok(8), ok(9), ok(10), gap, ok(1)}},
		{"an older epoch is refused, even for a duplicate", []shard.Batch{idempotent(1, 0, 0, 1), idempotent(1, 1, 0, 1), idempotent(1, 0, 0, 1)}, []shard.Outcome{ok(0), ok(1), fenced}},
		{"a new epoch must start at 0", []shard.Batch{idempotent(1, 0, 0, 1), idempotent(1, 1, 1, 1)}, []shard.Outcome{ok(0), gap}},
		{"a refused new epoch does not fence the old one", []shard.Batch{idempotent(1, 0, 0, 1), idempotent(1, 1, 1, 1), idempotent(1, 0, 1, 1)}, []shard.Outcome{ok(0), gap, ok(1)}},
		{"after the last number comes 0", []shard.Batch{idempotent(1, 0, top-1, 2), idempotent(1, 0, 0, 1)}, []shard.Outcome{ok(0), ok(2)}},
		{"a batch may wrap in its middle", []shard.Batch{idempotent(1, 0, top, 3), idempotent(1, 0, 2, 1), idempotent(1, 0, top, 3)}, []shard.Outcome{ok(0), ok(3), ok(0)}},
		{"0 in the middle is a gap", []shard.Batch{idempotent(1, 0, 5, 2), idempotent(1, 0, 0, 1)}, []shard.Outcome{ok(0), gap}},
		{"producers do not disturb each other", []shard.Batch{idempotent(1, 0, 0, 1), idempotent(2, 0, 0, 1), idempotent(1, 0, 1, 1)}, []shard.Outcome{ok(0), ok(1), ok(2)}},
		{"plain batches are never duplicates", []shard.Batch{plain(1), plain(1)}, []shard.Outcome{ok(0), ok(1)}},
	} {
		t.Run(tc.name+", within a record", func(t *testing.T) {
			d := shard.NewDraft(stateThatForgot(t, 9), 1, leader, 1, 0)
			if got := submit(t, d, submission(1, part(tpA, tc.batches...))); !slices.Equal(got, tc.want) {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
		t.Run(tc.name+", record by record", func(t *testing.T) {
			s := stateThatForgot(t, 9)
			for i, b := range tc.batches {
				commit(t, s, 1, int64(i), func(d *shard.Draft) {
					if got := submit(t, d, submission(uint64(i+1), part(tpA, b))); got[0] != tc.want[i] {
						t.Errorf("batch %d: got %v, want %v", i, got[0], tc.want[i])
					}
				})
			}
		})
	}
}

func TestProducersOfOnePartitionAreUnknownInAnother(t *testing.T) {
	d := shard.NewDraft(shard.New(), 1, leader, 1, 0)
	out := submit(t, d, submission(1, part(tpA, idempotent(1, 0, 0, 1)), part(tpB, idempotent(1, 0, 0, 1), idempotent(1, 0, 1, 1)), part(tpA, idempotent(1, 0, 2, 1))))
	if want := []shard.Outcome{{}, {}, {Base: 1}, {Code: shard.OutOfOrderSequence, Base: -1}}; !slices.Equal(out, want) {
		t.Errorf("got %v, want %v", out, want)
	}
}

func TestAnExpiredProducerMayStartAnywhere(t *testing.T) {
	s := shard.New()
	commit(t, s, 1, 100, func(d *shard.Draft) { submit(t, d, submission(1, part(tpA, idempotent(1, 0, 0, 1)))) })
	commit(t, s, 1, 200, func(d *shard.Draft) { submit(t, d, submission(2, part(tpA, idempotent(2, 0, 0, 1)))) })
	commit(t, s, 1, 300, func(d *shard.Draft) { d.Add(shard.ExpireProducers{Before: 200}) })
	if n := s.Partition(tpA).Producers(); n != 1 {
		t.Fatalf("%d producers are left, want the one that wrote at 200", n)
	}
	d := shard.NewDraft(s, 1, leader, 1, 400)
	out := submit(t, d, submission(3, part(tpA, idempotent(1, 0, 9, 1), idempotent(2, 0, 9, 1))))
	if want := []shard.Outcome{{Code: shard.OK, Base: 2}, {Code: shard.OutOfOrderSequence, Base: -1}}; !slices.Equal(out, want) {
		t.Errorf("got %v, want %v", out, want)
	}
}

func TestSubmissions(t *testing.T) {
	s := shard.New()
	first := submission(4, part(tpA, plain(3)), part(tpB, plain(1)))
	var answer []shard.Outcome
	commit(t, s, 1, 0, func(d *shard.Draft) { answer = submit(t, d, first) })

	t.Run("a repeated one gets its first answer and changes nothing", func(t *testing.T) {
		d := shard.NewDraft(s, 2, leader, 1, 0)
		if got := submit(t, d, first); !slices.Equal(got, answer) || !d.Empty() {
			t.Errorf("got %v, empty %v, want %v and an empty draft", got, d.Empty(), answer)
		}
	})
	t.Run("one that is repeated within a record is decided once", func(t *testing.T) {
		d := shard.NewDraft(s, 2, leader, 1, 0)
		next := submission(5, part(tpA, plain(1)))
		a := submit(t, d, next)
		size := d.Size()
		if b := submit(t, d, next); !slices.Equal(a, b) || d.Size() != size {
			t.Errorf("got %v, then %v", a, b)
		}
	})
	t.Run("an older one is stale", func(t *testing.T) {
		d := shard.NewDraft(s, 2, leader, 1, 0)
		if _, err := d.Submit(submission(3, part(tpA, plain(1)))); !errors.Is(err, shard.ErrStaleSubmission) || !d.Empty() {
			t.Errorf("got %v", err)
		}
	})
	t.Run("another one under the same number is stale", func(t *testing.T) {
		d := shard.NewDraft(s, 2, leader, 1, 0)
		if _, err := d.Submit(submission(4, part(tpA, plain(1)))); !errors.Is(err, shard.ErrStaleSubmission) || !d.Empty() {
			t.Errorf("got %v", err)
		}
	})
	t.Run("numbers may be left out", func(t *testing.T) {
		d := shard.NewDraft(s, 2, leader, 1, 0)
		if got := submit(t, d, submission(9, part(tpA, plain(1)))); got[0] != (shard.Outcome{Base: 3}) {
			t.Errorf("got %v", got)
		}
	})
	t.Run("a forgotten session starts again", func(t *testing.T) {
		c, err := shard.DecodeSnapshot(s.EncodeSnapshot(nil))
		if err != nil {
			t.Fatal(err)
		}
		commit(t, c, 2, 0, func(d *shard.Draft) { d.Add(shard.ForgetSession{Session: session}) })
		if len(c.Sessions()) != 0 {
			t.Error("the session is still known")
		}
	})
	t.Run("one for a topic that the same record drops is told so", func(t *testing.T) {
		d := shard.NewDraft(s, 2, leader, 1, 0)
		d.Add(shard.DropTopic{Topic: tpA.Topic})
		got := submit(t, d, submission(5, part(tpA, plain(1)), part(tpB, plain(1))))
		if want := []shard.Outcome{{Code: shard.UnknownTopicOrPartition, Base: -1}, {Base: 1}}; !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		if err := s.Check(d.Record()); err != nil {
			t.Error(err)
		}
	})
}

func TestSubmissionsThatMakeNoSenseAreRefused(t *testing.T) {
	for name, spoil := range map[string]func(*shard.Part){
		"a batch of no records":                      func(p *shard.Part) { p.Batches[0].Count = 0 },
		"a batch of no bytes":                        func(p *shard.Part) { p.Batches[0].Length = 0 },
		"a negative sequence number":                 func(p *shard.Part) { p.Batches[0].ProducerID, p.Batches[0].FirstSeq = 1, -1 },
		"a negative transaction":                     func(p *shard.Part) { p.Batches[0] = transactional(tx(1, 0, -1), 0, 1) },
		"a transaction of no producer":               func(p *shard.Part) { p.Batches[0].Transaction = 1 },
		"a negative producer epoch":                  func(p *shard.Part) { p.Batches[0] = idempotent(1, -1, 0, 1) },
		"inline bytes beside a segment":              func(p *shard.Part) { p.Inline = make([]byte, 200) },
		"inline bytes that are too few":              func(p *shard.Part) { *p = inlinePart(tpA, plain(1)); p.Inline = p.Inline[1:] },
		"an inline part with a position":             func(p *shard.Part) { *p = inlinePart(tpA, plain(1)); p.Position = 1 },
		"a segment of no session":                    func(p *shard.Part) { p.Segment.Session = tiering.SessionID{} },
		"a negative position":                        func(p *shard.Part) { p.Position = -1 },
		"a position beyond all numbers":              func(p *shard.Part) { p.Position = math.MaxInt64 },
		"a negative partition":                       func(p *shard.Part) { p.Partition.Partition = -1 },
		"batches that are larger than an extent may": func(p *shard.Part) { p.Batches[0].Length = math.MaxInt32 },
	} {
		t.Run(name, func(t *testing.T) {
			p := part(tpA, plain(1), plain(2))
			spoil(&p)
			sub := submission(1, part(tpB, plain(1)), p)
			d := shard.NewDraft(shard.New(), 1, leader, 1, 0)
			if _, err := d.Submit(sub); !errors.Is(err, shard.ErrCorrupt) || !d.Empty() {
				t.Errorf("Submit: got %v, empty %v", err, d.Empty())
			}
			if p.Partition.Partition < 0 || p.Position < 0 {
				return // cannot even be encoded
			}
			if _, err := shard.DecodeSubmission(sub.Encode(nil)); !errors.Is(err, shard.ErrCorrupt) {
				t.Errorf("DecodeSubmission: got %v", err)
			}
		})
	}
}

func TestBatchesSideBySideBecomeOneExtent(t *testing.T) {
	s := shard.New()
	in := inlinePart(tpB, plain(1), idempotent(1, 0, 0, 2), idempotent(1, 0, 9, 1), plain(4), plain(5))
	commit(t, s, 3, 0, func(d *shard.Draft) {
		submit(t, d, submission(1, part(tpA, plain(1), idempotent(1, 0, 0, 2), idempotent(1, 0, 9, 1), plain(4)), in))
	})
	seg := tiering.SegmentID{Session: session, Seq: 1}
	want := []tiering.Extent{
		{Base: 0, Count: 3, MaxTimestamp: 7, Epoch: 3, Length: 200, Segment: seg, Position: 1000},
		{Base: 3, Count: 4, MaxTimestamp: 7, Epoch: 3, Length: 100, Segment: seg, Position: 1300},
	}
	same := func(a, b tiering.Extent) bool {
		x, y := a.Inline, b.Inline
		a.Inline, b.Inline = nil, nil
		return a.Segment == b.Segment && a.Base == b.Base && a.Count == b.Count && a.Length == b.Length && a.Position == b.Position &&
			a.Epoch == b.Epoch && a.MaxTimestamp == b.MaxTimestamp && bytes.Equal(x, y)
	}
	if got := s.Partition(tpA).Extents; !slices.EqualFunc(got, want, same) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	want = []tiering.Extent{
		{Base: 0, Count: 3, MaxTimestamp: 7, Epoch: 3, Length: 200, Inline: in.Inline[:200]},
		{Base: 3, Count: 9, MaxTimestamp: 7, Epoch: 3, Length: 200, Inline: in.Inline[300:]},
	}
	if got := s.Partition(tpB).Extents; !slices.EqualFunc(got, want, same) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if s.InlineBytes() != 400 || s.InlineExtents() != 2 {
		t.Errorf("%d bytes in %d inline extents, want 400 in 2", s.InlineBytes(), s.InlineExtents())
	}
}

func TestReadersKeepTheExtentsTheyHold(t *testing.T) {
	s := shard.New()
	for i := range 8 {
		commit(t, s, 1, 0, func(d *shard.Draft) { submit(t, d, submission(uint64(i+1), part(tpA, plain(2)))) })
	}
	held := s.Partition(tpA).Extents
	copied := slices.Clone(held)
	commit(t, s, 1, 0, func(d *shard.Draft) {
		d.Add(shard.Replace{Partition: tpA, With: []tiering.Extent{{Base: 2, Count: 6, Length: 9, Segment: tiering.SegmentID{Session: session, Seq: 2}}}})
	})
	commit(t, s, 1, 0, func(d *shard.Draft) { d.Add(shard.Trim{Partition: tpA, LogStart: 5}) })
	commit(t, s, 1, 0, func(d *shard.Draft) { submit(t, d, submission(20, part(tpA, plain(1)))) })
	if !slices.EqualFunc(held, copied, func(a, b tiering.Extent) bool {
		return a.Base == b.Base && a.Count == b.Count && a.Segment == b.Segment
	}) {
		t.Errorf("the slice that a reader holds changed: %+v", held)
	}
	if got := s.Partition(tpA).Extents; len(got) != 6 || got[0].Base != 2 || got[0].Count != 6 {
		t.Errorf("got %+v", got)
	}
}

func TestReplaceDoesNothingWhenItComesLate(t *testing.T) {
	s := shard.New()
	for epoch := range 3 {
		for i := range 2 {
			commit(t, s, tiering.LeaderEpoch(epoch), 0, func(d *shard.Draft) { submit(t, d, submission(uint64(2*epoch+i+1), part(tpA, plain(2)))) })
		}
	}
	with := func(base tiering.Offset, count int64) shard.Change {
		return shard.Replace{Partition: tpA, With: []tiering.Extent{{Base: base, Count: count, Length: 9, Segment: tiering.SegmentID{Session: session, Seq: 7}}}}
	}
	for name, c := range map[string]shard.Change{
		"begins within an extent":    with(1, 3),
		"ends within an extent":      with(0, 3),
		"covers two leader epochs":   with(2, 4),
		"begins after the end":       with(12, 2),
		"ends after the end":         with(10, 4),
		"is of an unknown partition": shard.Replace{Partition: tpB, With: []tiering.Extent{{Count: 1, Length: 1, Segment: tiering.SegmentID{Session: session}}}},
	} {
		before := len(s.Partition(tpA).Extents)
		commit(t, s, 2, 0, func(d *shard.Draft) { d.Add(c) })
		if got := len(s.Partition(tpA).Extents); got != before || len(s.Partitions()) != 1 {
			t.Errorf("a replacement that %s left %d extents of %d", name, got, before)
		}
	}
	commit(t, s, 2, 0, func(d *shard.Draft) { d.Add(with(4, 4)) })
	if got := s.Partition(tpA).Extents[2]; got.Base != 4 || got.Count != 4 || got.Epoch != 1 || got.Segment.Seq != 7 {
		t.Errorf("an exact replacement left %+v", got)
	}
}

func TestTrim(t *testing.T) {
	s := shard.New()
	for epoch := range 4 {
		commit(t, s, tiering.LeaderEpoch(epoch), 0, func(d *shard.Draft) { submit(t, d, submission(uint64(epoch+1), part(tpA, plain(10)))) })
	}
	for _, tc := range []struct {
		to, start tiering.Offset
		extents   int
		epochs    []shard.EpochStart
	}{
		{0, 0, 4, []shard.EpochStart{{Epoch: 0, Start: 0}, {Epoch: 1, Start: 10}, {Epoch: 2, Start: 20}, {Epoch: 3, Start: 30}}},
		{15, 15, 3, []shard.EpochStart{{Epoch: 1, Start: 10}, {Epoch: 2, Start: 20}, {Epoch: 3, Start: 30}}},
		{5, 15, 3, []shard.EpochStart{{Epoch: 1, Start: 10}, {Epoch: 2, Start: 20}, {Epoch: 3, Start: 30}}},
		{20, 20, 2, []shard.EpochStart{{Epoch: 2, Start: 20}, {Epoch: 3, Start: 30}}},
		{99, 40, 0, []shard.EpochStart{{Epoch: 3, Start: 30}}},
	} {
		commit(t, s, 3, 0, func(d *shard.Draft) { d.Add(shard.Trim{Partition: tpA, LogStart: tc.to}) })
		p := s.Partition(tpA)
		if p.LogStart != tc.start || len(p.Extents) != tc.extents || !slices.Equal(p.Epochs, tc.epochs) || p.Next != 40 {
			t.Errorf("trim to %d: start %d, %d extents, epochs %v, next %d", tc.to, p.LogStart, len(p.Extents), p.Epochs, p.Next)
		}
	}
	commit(t, s, 3, 0, func(d *shard.Draft) { d.Add(shard.Trim{Partition: tpB, LogStart: 3}) })
	if got := s.Partitions(); len(got) != 1 {
		t.Errorf("a trim of an unknown partition made it known: %v", got)
	}
}

func TestEpochEnd(t *testing.T) {
	s := shard.New()
	if e, end := s.Partition(tpA).EpochEnd(3); e != -1 || end != -1 {
		t.Errorf("of an empty partition: %d, %d", e, end)
	}
	const recovered = 6 + shard.RecoveryJump
	for i, epoch := range []tiering.LeaderEpoch{2, 5, 6, recovered, recovered + 1} {
		commit(t, s, epoch, 0, func(d *shard.Draft) { submit(t, d, submission(uint64(i+1), part(tpA, plain(10)))) })
	}
	for _, tc := range []struct {
		ask, epoch tiering.LeaderEpoch
		end        tiering.Offset
	}{
		{-1, -1, -1}, {1, 1, 30}, {2, 2, 30}, {4, 2, 30}, {5, 5, 30}, {6, 6, 30}, {9, 6, 30}, // a recovery gave what follows to others
		{recovered, recovered, 50}, {recovered + 1, recovered + 1, 50}, {recovered + 9, recovered + 1, 50},
	} {
		if e, end := s.Partition(tpA).EpochEnd(tc.ask); e != tc.epoch || end != tc.end {
			t.Errorf("epoch %d ends at %d of %d, want %d of %d", tc.ask, end, e, tc.end, tc.epoch)
		}
	}
}

func TestDropTopicForgetsItsPartitionsOnly(t *testing.T) {
	s := shard.New()
	commit(t, s, 1, 0, func(d *shard.Draft) {
		submit(t, d, submission(1, inlinePart(tpA, plain(1)), inlinePart(tpB, plain(1))))
	})
	commit(t, s, 1, 0, func(d *shard.Draft) { d.Add(shard.DropTopic{Topic: tpA.Topic}) })
	if got := s.Partitions(); !slices.Equal(got, []tiering.TopicPartition{tpB}) || s.InlineBytes() != 100 || s.InlineExtents() != 1 {
		t.Errorf("left: %v with %d bytes in %d inline extents", got, s.InlineBytes(), s.InlineExtents())
	}
}

type foreign struct{ shard.Change }

func TestBadRecordsLeaveTheStateUntouched(t *testing.T) {
	s := shard.New()
	commit(t, s, 4, 0, func(d *shard.Draft) { submit(t, d, submission(1, inlinePart(tpA, plain(2)))) })
	before := s.EncodeSnapshot(nil)
	good := func() tiering.Extent { return tiering.Extent{Count: 1, Length: 1, Inline: []byte{1}} }
	appendOf := func(base tiering.Offset, spoil func(*tiering.Extent)) []shard.Change {
		e := good()
		spoil(&e)
		return []shard.Change{shard.Append{Partition: tpB, Extents: []tiering.Extent{good()}}, shard.Append{Partition: tpA, Base: base, Extents: []tiering.Extent{e}}}
	}
	keep := func(*tiering.Extent) {}
	producer := func(p shard.ProducerAppend) []shard.Change {
		return []shard.Change{shard.Append{Partition: tpA, Base: 2, Extents: []tiering.Extent{good()}, Producers: []shard.ProducerAppend{p}}}
	}
	for name, r := range map[string]shard.Record{
		"a seq that was taken":                 {Seq: 1, Epoch: 4},
		"a seq too far":                        {Seq: 3, Epoch: 4},
		"an older epoch":                       {Seq: 2, Epoch: 3},
		"an append after a gap":                {Seq: 2, Epoch: 4, Changes: appendOf(3, keep)},
		"an append over what is there":         {Seq: 2, Epoch: 4, Changes: appendOf(1, keep)},
		"an append of nothing":                 {Seq: 2, Epoch: 4, Changes: []shard.Change{shard.Append{Partition: tpA, Base: 2}}},
		"an extent of no records":              {Seq: 2, Epoch: 4, Changes: appendOf(2, func(e *tiering.Extent) { e.Count = 0 })},
		"an extent beyond all offsets":         {Seq: 2, Epoch: 4, Changes: appendOf(2, func(e *tiering.Extent) { e.Count = math.MaxInt64 })},
		"an extent of no bytes":                {Seq: 2, Epoch: 4, Changes: appendOf(2, func(e *tiering.Extent) { e.Length, e.Inline = 0, nil })},
		"an inline extent with bytes missing":  {Seq: 2, Epoch: 4, Changes: appendOf(2, func(e *tiering.Extent) { e.Length = 2 })},
		"a segment of no session":              {Seq: 2, Epoch: 4, Changes: appendOf(2, func(e *tiering.Extent) { e.Segment.Seq, e.Inline = 1, nil })},
		"a producer of a negative id":          {Seq: 2, Epoch: 4, Changes: producer(shard.ProducerAppend{ProducerID: -1, Base: 2})},
		"a producer's batch somewhere else":    {Seq: 2, Epoch: 4, Changes: producer(shard.ProducerAppend{Base: 3})},
		"a second append that does not go on":  {Seq: 2, Epoch: 4, Changes: append(appendOf(2, keep), appendOf(2, keep)[1:]...)},
		"an append after the topic's end":      {Seq: 2, Epoch: 4, Changes: append([]shard.Change{shard.DropTopic{Topic: tpA.Topic}}, appendOf(2, keep)...)},
		"a negative log start":                 {Seq: 2, Epoch: 4, Changes: []shard.Change{shard.Trim{Partition: tpA, LogStart: -1}}},
		"a replacement of nothing":             {Seq: 2, Epoch: 4, Changes: []shard.Change{shard.Replace{Partition: tpA}}},
		"a negative outcome":                   {Seq: 2, Epoch: 4, Changes: []shard.Change{shard.Submitted{Outcomes: []shard.Outcome{{Code: -1}}}}},
		"a change of unknown type":             {Seq: 2, Epoch: 4, Changes: []shard.Change{shard.Trim{Partition: tpA}, foreign{shard.Trim{}}}},
		"no change at all where one should be": {Seq: 2, Epoch: 4, Changes: []shard.Change{nil}},
	} {
		if err := s.Apply(r); !errors.Is(err, shard.ErrCorrupt) {
			t.Errorf("%s: got %v, want ErrCorrupt", name, err)
		}
		if !bytes.Equal(s.EncodeSnapshot(nil), before) {
			t.Fatalf("%s: the state has changed", name)
		}
	}
	if err := s.Apply(shard.Record{Seq: 2, Epoch: 4, Changes: appendOf(2, keep)}); err != nil {
		t.Errorf("the record that the bad ones are variations of: %v", err)
	}
}
