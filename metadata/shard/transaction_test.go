package shard_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/protocol/batch"
	"github.com/floelog/floe/tiering"
)

func tx(id int64, epoch int16, number int64) shard.Transaction {
	return shard.Transaction{ProducerID: id, Epoch: epoch, Number: number}
}

// deed is a batch or a marker in tpA, and what is to come of it.
type deed struct {
	batch  *shard.Batch
	marker *shard.Marker
	want   shard.Outcome
}

func write(b shard.Batch, want shard.Outcome) deed { return deed{batch: &b, want: want} }

func end(t shard.Transaction, commit bool, want shard.Outcome) deed {
	return deed{marker: &shard.Marker{Partition: tpA, Transaction: t, Commit: commit, Coordinator: 5}, want: want}
}

func (x deed) do(t *testing.T, d *shard.Draft, seq uint64) {
	t.Helper()
	got := shard.Outcome{}
	if x.batch != nil {
		got = submit(t, d, submission(seq, part(tpA, *x.batch)))[0]
	} else {
		got = d.Mark(*x.marker)
	}
	if got != x.want {
		t.Errorf("deed %d: got %v, want %v", seq, got, x.want)
	}
}

func TestTransactions(t *testing.T) {
	ok := func(base tiering.Offset) shard.Outcome { return shard.Outcome{Base: base} }
	nothing := shard.Outcome{Base: -1}
	gap := shard.Outcome{Code: shard.OutOfOrderSequence, Base: -1}
	fenced := shard.Outcome{Code: shard.InvalidProducerEpoch, Base: -1}
	refused := shard.Outcome{Code: shard.TransactionNotAccepted, Base: -1}
	for _, tc := range []struct {
		name    string
		deeds   []deed
		stable  tiering.Offset
		aborted []shard.AbortedTransaction
	}{
		{"an open transaction holds the last stable offset", []deed{
			write(plain(3), ok(0)), write(transactional(tx(1, 0, 1), 0, 2), ok(3)), write(plain(1), ok(5)),
		}, 3, nil},
		{"a commit frees it", []deed{
			write(transactional(tx(1, 0, 1), 0, 2), ok(0)), end(tx(1, 0, 1), true, ok(2)),
		}, 3, nil},
		{"an abort is remembered", []deed{
			write(plain(1), ok(0)), write(transactional(tx(1, 0, 1), 0, 2), ok(1)), write(plain(1), ok(3)), end(tx(1, 1, 1), false, ok(4)),
		}, 5, []shard.AbortedTransaction{{ProducerID: 1, First: 1, Last: 4}}},
		{"the oldest of several holds it", []deed{
			write(transactional(tx(1, 0, 1), 0, 1), ok(0)), write(transactional(tx(2, 0, 8), 0, 1), ok(1)), end(tx(2, 0, 8), false, ok(2)),
		}, 0, []shard.AbortedTransaction{{ProducerID: 2, First: 1, Last: 2}}},
		{"within an epoch the sequence goes on over the marker", []deed{
			write(transactional(tx(1, 0, 1), 0, 2), ok(0)), end(tx(1, 0, 1), true, ok(2)),
			write(transactional(tx(1, 0, 2), 0, 1), gap), write(transactional(tx(1, 0, 2), 2, 1), ok(3)),
		}, 3, nil},
		{"a marker of a newer epoch starts the sequence again (KIP-890)", []deed{
			write(transactional(tx(1, 0, 1), 0, 2), ok(0)), end(tx(1, 1, 1), true, ok(2)),
			write(transactional(tx(1, 1, 2), 2, 1), gap), write(transactional(tx(1, 0, 2), 2, 1), fenced), write(transactional(tx(1, 1, 2), 0, 1), ok(3)),
		}, 3, nil},
		{"a late batch of a transaction that ended is refused, in the same epoch (KAFKA-17754)", []deed{
			write(transactional(tx(1, 0, 1), 0, 1), ok(0)), end(tx(1, 0, 1), true, ok(1)), write(transactional(tx(1, 0, 1), 1, 1), refused),
		}, 2, nil},
		{"and so is a late repetition of one", []deed{
			write(transactional(tx(1, 0, 1), 0, 1), ok(0)), end(tx(1, 0, 1), false, ok(1)), write(transactional(tx(1, 0, 1), 0, 1), refused),
		}, 2, []shard.AbortedTransaction{{ProducerID: 1, First: 0, Last: 1}}},
		{"a marker fences the late first batch too", []deed{
			end(tx(1, 0, 1), false, ok(0)), write(transactional(tx(1, 0, 1), 0, 1), refused), write(transactional(tx(1, 0, 2), 3, 1), gap), write(transactional(tx(1, 0, 2), 0, 1), ok(1)),
		}, 1, nil},
		{"a repetition within the transaction gets its first offset", []deed{
			write(transactional(tx(1, 0, 1), 0, 2), ok(0)), write(transactional(tx(1, 0, 1), 2, 1), ok(2)), write(transactional(tx(1, 0, 1), 0, 2), ok(0)),
		}, 0, nil},
		{"the next transaction waits for the marker", []deed{
			write(transactional(tx(1, 0, 1), 0, 1), ok(0)), write(transactional(tx(1, 0, 2), 1, 1), refused),
		}, 0, nil},
		{"so does a newer epoch", []deed{
			write(transactional(tx(1, 0, 1), 0, 1), ok(0)), write(transactional(tx(1, 1, 1), 0, 1), refused), write(transactional(tx(1, 1, 2), 0, 1), refused),
		}, 0, nil},
		{"a batch outside of the transaction waits too", []deed{
			write(transactional(tx(1, 0, 1), 0, 1), ok(0)), write(idempotent(1, 0, 1, 1), refused), end(tx(1, 0, 1), true, ok(1)), write(idempotent(1, 0, 1, 1), ok(2)),
		}, 3, nil},
		{"an older epoch is fenced before anything else is looked at", []deed{
			write(transactional(tx(1, 3, 1), 0, 1), ok(0)), write(transactional(tx(1, 2, 1), 1, 1), fenced), end(tx(1, 2, 1), true, fenced),
		}, 0, nil},
		{"a repeated marker writes nothing", []deed{
			write(transactional(tx(1, 0, 1), 0, 1), ok(0)), end(tx(1, 0, 1), true, ok(1)), end(tx(1, 0, 1), true, nothing),
		}, 2, nil},
		{"a delayed marker does not end the next transaction", []deed{
			write(transactional(tx(1, 0, 1), 0, 1), ok(0)), end(tx(1, 0, 1), true, ok(1)), write(transactional(tx(1, 0, 2), 1, 1), ok(2)), end(tx(1, 0, 1), false, nothing),
		}, 2, nil},
		{"not even if its own end is not known", []deed{
			write(transactional(tx(1, 0, 5), 0, 1), ok(0)), end(tx(1, 0, 4), false, refused),
		}, 0, nil},
		{"a marker of a later transaction ends an older one", []deed{
			write(transactional(tx(1, 0, 5), 0, 1), ok(0)), end(tx(1, 1, 6), false, ok(1)),
		}, 2, []shard.AbortedTransaction{{ProducerID: 1, First: 0, Last: 1}}},
		{"an operator ends whichever is open", []deed{
			end(tx(1, 0, 0), false, nothing), write(transactional(tx(1, 3, 5), 0, 1), ok(0)), end(tx(1, 2, 0), false, fenced), end(tx(1, 3, 0), false, ok(1)),
			end(tx(1, 3, 0), false, nothing), write(transactional(tx(1, 3, 5), 1, 1), refused), end(tx(1, 3, 5), true, nothing),
		}, 2, []shard.AbortedTransaction{{ProducerID: 1, First: 0, Last: 1}}},
		{"a marker that makes no sense is refused", []deed{
			end(tx(-1, 0, 1), false, refused), end(tx(1, -1, 1), false, refused), end(tx(1, 0, -1), false, refused),
		}, 0, nil},
	} {
		check := func(t *testing.T, s *shard.State) {
			t.Helper()
			p := s.Partition(tpA)
			if got := p.LastStable(); got != tc.stable {
				t.Errorf("last stable offset %d, want %d", got, tc.stable)
			}
			if got := p.AbortedIn(0, p.Next); !slices.Equal(got, tc.aborted) {
				t.Errorf("aborted %v, want %v", got, tc.aborted)
			}
		}
		t.Run(tc.name+", within a record", func(t *testing.T) {
			s := shard.New()
			commit(t, s, 1, 0, func(d *shard.Draft) {
				for i, x := range tc.deeds {
					x.do(t, d, uint64(i+1))
				}
			})
			check(t, s)
		})
		t.Run(tc.name+", record by record", func(t *testing.T) {
			s := shard.New()
			for i, x := range tc.deeds {
				commit(t, s, 1, int64(i), func(d *shard.Draft) { x.do(t, d, uint64(i+1)) })
				if s.Partition(tpA).LastStable() > s.Partition(tpA).Next {
					t.Error("the last stable offset is beyond the end")
				}
			}
			check(t, s)
		})
	}
}

func TestMarkersAreControlBatches(t *testing.T) {
	for _, commits := range []bool{true, false} {
		s := shard.New()
		commit(t, s, 4, 1234, func(d *shard.Draft) {
			submit(t, d, submission(1, inlinePart(tpA, transactional(tx(7, 2, 1), 0, 2))))
			d.Mark(shard.Marker{Partition: tpA, Transaction: tx(7, 3, 1), Commit: commits, Coordinator: 9})
		})
		e := s.Partition(tpA).Extents[1]
		if e.Base != 2 || e.Count != 1 || e.MaxTimestamp != 1234 || e.Epoch != 4 || !e.IsInline() {
			t.Errorf("got extent %+v", e)
		}
		v := batch.View(e.Inline)
		commit, coordinator, err := batch.ReadMarker(v)
		if err != nil || commit != commits || coordinator != 9 || v.Fields().ProducerID != 7 || v.Fields().ProducerEpoch != 3 {
			t.Errorf("got commit %v, coordinator epoch %d, %v of %+v", commit, coordinator, err, v.Fields())
		}
		want := []shard.ProducerState{{ProducerID: 7, Epoch: 3, LastSeq: -1, Updated: 1234, Coordinator: 9, OpenSince: -1}}
		if got := s.Partition(tpA).ProducerStates(); !slices.Equal(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
}

func TestMarkerOfADroppedTopicIsToldSo(t *testing.T) {
	s := shard.New()
	commit(t, s, 1, 0, func(d *shard.Draft) { submit(t, d, submission(1, part(tpA, transactional(tx(1, 0, 1), 0, 1)))) })
	commit(t, s, 1, 0, func(d *shard.Draft) {
		d.Add(shard.DropTopic{Topic: tpA.Topic})
		end(tx(1, 0, 1), true, shard.Outcome{Code: shard.UnknownTopicOrPartition, Base: -1}).do(t, d, 0)
	})
	if p := s.Partition(tpA); len(p.Open()) != 0 || len(s.Partitions()) != 0 {
		t.Errorf("left: %+v", p)
	}
}

func TestProducersOfOpenTransactionsDoNotExpire(t *testing.T) {
	s := shard.New()
	commit(t, s, 1, 100, func(d *shard.Draft) {
		submit(t, d, submission(1, part(tpA, transactional(tx(1, 0, 1), 0, 1), idempotent(2, 0, 0, 1))))
		d.Add(shard.CommitOffsets{Group: "g", Transaction: tx(1, 0, 1)})
		d.Add(shard.ConcludeOffsets{Group: "g", Transaction: tx(2, 0, 1)})
	})
	if n := s.ProducersBefore(101); n != 2 {
		t.Errorf("%d producers would expire, want 2", n)
	}
	commit(t, s, 1, 200, func(d *shard.Draft) { d.Add(shard.ExpireProducers{Before: 101}) })
	if g := s.Group("g"); s.Partition(tpA).Producers() != 1 || len(g.Producers) != 1 || g.Producers[1] == nil {
		t.Errorf("left: %d producers in the partition, %v in the group", s.Partition(tpA).Producers(), g.Producers)
	}
	commit(t, s, 1, 300, func(d *shard.Draft) {
		end(tx(1, 0, 1), true, shard.Outcome{Base: 2}).do(t, d, 0)
		d.Add(shard.ConcludeOffsets{Group: "g", Transaction: tx(1, 0, 1)})
	})
	if n := s.ProducersBefore(300); n != 0 {
		t.Errorf("%d producers would expire that have just been heard of", n)
	}
	commit(t, s, 1, 400, func(d *shard.Draft) { d.Add(shard.ExpireProducers{Before: 301}) })
	if n := s.Partition(tpA).Producers(); n != 0 || len(s.GroupNames()) != 0 {
		t.Errorf("left: %d producers, groups %v", n, s.GroupNames())
	}
}

// TestReadersKeepTheTransactionsTheyHold: a reader needs no lock for what it was given.
func TestReadersKeepTheTransactionsTheyHold(t *testing.T) {
	s := shard.New()
	for i := range int64(6) {
		commit(t, s, 1, i, func(d *shard.Draft) {
			submit(t, d, submission(uint64(i+1), part(tpA, transactional(tx(i, 0, 1), 0, 1))))
		})
	}
	open := s.Partition(tpA).Open()
	held := slices.Clone(open)
	for i := range int64(6) {
		commit(t, s, 1, i, func(d *shard.Draft) { d.Mark(shard.Marker{Partition: tpA, Transaction: tx(5-i, 0, 1)}) })
	}
	if !slices.Equal(open, held) {
		t.Errorf("the slice that a reader holds changed: %+v", open)
	}
	aborted := s.Partition(tpA).AbortedIn(0, 100)
	commit(t, s, 1, 0, func(d *shard.Draft) { d.Add(shard.Trim{Partition: tpA, LogStart: 9}) })
	if got := s.Partition(tpA).AbortedIn(0, 100); len(aborted) != 6 || !slices.Equal(got, aborted[3:]) {
		t.Errorf("aborted %v, and after the trim %v", aborted, got)
	}
}

// TestTrimIntoAnOpenTransaction: DeleteRecords goes up to the high watermark. Nothing below the
// log start can be read, so a consumer that was sent to a last stable offset there would be
// out of range for as long as the transaction is open.
func TestTrimIntoAnOpenTransaction(t *testing.T) {
	s := shard.New()
	commit(t, s, 1, 0, func(d *shard.Draft) {
		submit(t, d, submission(1, part(tpA, plain(2), transactional(tx(1, 0, 1), 0, 3), transactional(tx(2, 0, 1), 0, 2), plain(1))))
	})
	stable := func(what string, want tiering.Offset) {
		t.Helper()
		back, err := shard.DecodeSnapshot(s.EncodeSnapshot(nil))
		if err != nil {
			t.Fatal(err)
		}
		if got, again := s.Partition(tpA).LastStable(), back.Partition(tpA).LastStable(); got != want || again != want {
			t.Errorf("%s: last stable %d, read back %d, want %d", what, got, again, want)
		}
	}
	stable("open", 2)
	commit(t, s, 1, 0, func(d *shard.Draft) { d.Add(shard.Trim{Partition: tpA, LogStart: 6}) })
	stable("trimmed", 6)
	commit(t, s, 1, 0, func(d *shard.Draft) { end(tx(1, 0, 1), false, shard.Outcome{Base: 8}).do(t, d, 0) })
	stable("the other one still open", 6)
	commit(t, s, 1, 0, func(d *shard.Draft) { end(tx(2, 0, 1), false, shard.Outcome{Base: 9}).do(t, d, 0) })
	stable("concluded", 10)
	want := []shard.AbortedTransaction{{ProducerID: 1, First: 2, Last: 8}, {ProducerID: 2, First: 5, Last: 9}}
	if got := s.Partition(tpA).AbortedIn(6, 7); !slices.Equal(got, want) {
		t.Errorf("aborted: %v, want %v", got, want)
	}
}

// TestAbortedInFarBelowTheEnd: a fetch far below the end of a partition with many
// aborted transactions must not go through all of them.
func TestAbortedInFarBelowTheEnd(t *testing.T) {
	s := shard.New()
	const n = 2000
	for i := range int64(n) {
		commit(t, s, 1, i, func(d *shard.Draft) {
			submit(t, d, submission(uint64(i+1), part(tpA, transactional(tx(1, 0, i+1), int32(i), 1))))
			d.Mark(shard.Marker{Partition: tpA, Transaction: tx(1, 0, i+1)})
		})
	}
	back, err := shard.DecodeSnapshot(s.EncodeSnapshot(nil))
	if err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]*shard.State{"as built up": s, "read back": back} {
		for _, at := range []tiering.Offset{0, 1, 1000, 2*n - 1} {
			want := shard.AbortedTransaction{ProducerID: 1, First: at - at%2, Last: at - at%2 + 1}
			if got := s.Partition(tpA).AbortedIn(at, at+1); !slices.Equal(got, []shard.AbortedTransaction{want}) {
				t.Errorf("%s: at %d: got %v, want %v", name, at, got, want)
			}
		}
		if got := len(s.Partition(tpA).AbortedIn(0, 2*n)); got != n {
			t.Errorf("%s: %d in all, want %d", name, got, n)
		}
	}
}

func BenchmarkAbortedIn(b *testing.B) {
	for _, n := range []int64{100, 100000} {
		s := shard.New()
		for i := range n {
			d := shard.NewDraft(s, 1, leader, 1, 0)
			if _, err := d.Submit(submission(uint64(i+1), part(tpA, transactional(tx(1, 0, i+1), int32(i), 1)))); err != nil {
				b.Fatal(err)
			}
			d.Mark(shard.Marker{Partition: tpA, Transaction: tx(1, 0, i+1)})
			if err := s.Apply(d.Record()); err != nil {
				b.Fatal(err)
			}
		}
		b.Run(fmt.Sprintf("10 of %d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s.Partition(tpA).AbortedIn(50, 70)
			}
		})
	}
}
