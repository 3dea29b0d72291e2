package shard_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

func offset(tp tiering.TopicPartition, at tiering.Offset) shard.GroupOffset {
	return shard.GroupOffset{Partition: tp, Offset: at, Epoch: -1, Expires: -1}
}

func commitOffsets(t shard.Transaction, offsets ...shard.GroupOffset) shard.Change {
	return shard.CommitOffsets{Group: "g", Transaction: t, Offsets: offsets}
}

func conclude(t shard.Transaction, commit bool) shard.Change {
	return shard.ConcludeOffsets{Group: "g", Transaction: t, Commit: commit}
}

var none shard.Transaction

func TestGroupOffsets(t *testing.T) {
	type offsets map[tiering.TopicPartition]tiering.Offset
	for _, tc := range []struct {
		name    string
		changes []shard.Change
		want    offsets
		pending offsets // of producer 1
	}{
		{"a commit counts at once", []shard.Change{
			commitOffsets(none, offset(tpA, 5), offset(tpB, 6)),
		}, offsets{tpA: 5, tpB: 6}, nil},
		{"an offset may go back, if it is committed so", []shard.Change{
			commitOffsets(none, offset(tpA, 5)), commitOffsets(none, offset(tpA, 2)),
		}, offsets{tpA: 2}, nil},
		{"that of a transaction waits for its end", []shard.Change{
			commitOffsets(none, offset(tpA, 5)), commitOffsets(tx(1, 0, 1), offset(tpA, 9)), commitOffsets(tx(1, 0, 1), offset(tpB, 8)),
		}, offsets{tpA: 5}, offsets{tpA: 9, tpB: 8}},
		{"a commit makes it count", []shard.Change{
			commitOffsets(none, offset(tpA, 5)), commitOffsets(tx(1, 0, 1), offset(tpA, 9)), conclude(tx(1, 0, 1), true),
		}, offsets{tpA: 9}, nil},
		{"an abort forgets it", []shard.Change{
			commitOffsets(none, offset(tpA, 5)), commitOffsets(tx(1, 0, 1), offset(tpA, 9)), conclude(tx(1, 1, 1), false),
		}, offsets{tpA: 5}, nil},
		{"a commit that was written after it stays", []shard.Change{
			commitOffsets(tx(1, 0, 1), offset(tpA, 9)), commitOffsets(none, offset(tpA, 5)), conclude(tx(1, 0, 1), true),
		}, offsets{tpA: 5}, nil},
		{"a delayed end does not end the next transaction", []shard.Change{
			commitOffsets(tx(1, 0, 1), offset(tpA, 9)), conclude(tx(1, 0, 1), true),
			commitOffsets(tx(1, 0, 2), offset(tpA, 12)), conclude(tx(1, 0, 1), false),
		}, offsets{tpA: 9}, offsets{tpA: 12}},
		{"producers do not disturb each other", []shard.Change{
			commitOffsets(tx(1, 0, 1), offset(tpA, 9)), commitOffsets(tx(2, 0, 7), offset(tpA, 12)), conclude(tx(2, 0, 7), true),
		}, offsets{tpA: 12}, offsets{tpA: 9}},
		{"what is deleted does not come back by a commit", []shard.Change{
			commitOffsets(none, offset(tpA, 5)), commitOffsets(tx(1, 0, 1), offset(tpA, 9), offset(tpB, 1)),
			shard.DeleteOffsets{Group: "g", Partitions: []tiering.TopicPartition{tpA}}, conclude(tx(1, 0, 1), true),
		}, offsets{tpB: 1}, nil},
		{"a dropped topic's are forgotten, the pending ones too", []shard.Change{
			commitOffsets(none, offset(tpA, 5), offset(tpB, 6)), commitOffsets(tx(1, 0, 1), offset(tpA, 9), offset(tpB, 1)),
			shard.DropTopic{Topic: tpA.Topic},
		}, offsets{tpB: 6}, offsets{tpB: 1}},
		{"a dropped group's are forgotten", []shard.Change{
			commitOffsets(none, offset(tpA, 5)), commitOffsets(tx(1, 0, 1), offset(tpA, 9)), shard.DropGroup{Group: "g"}, commitOffsets(none, offset(tpB, 1)),
		}, offsets{tpB: 1}, nil},
		{"a group of another name is untouched", []shard.Change{
			commitOffsets(none, offset(tpA, 5)), shard.DropGroup{Group: "h"}, shard.DeleteOffsets{Group: "h", Partitions: []tiering.TopicPartition{tpA}},
		}, offsets{tpA: 5}, nil},
	} {
		check := func(t *testing.T, s *shard.State) {
			t.Helper()
			g := s.Group("g")
			got, pending := offsets{}, offsets{}
			topics := map[tiering.TopicID]struct{}{}
			for tp, o := range g.Offsets {
				got[tp] = o.Offset
				topics[tp.Topic] = struct{}{}
			}
			if e := g.Producers[1]; e != nil {
				for tp, o := range e.Pending {
					pending[tp] = o.Offset
					topics[tp.Topic] = struct{}{}
				}
			}
			if !equal(got, tc.want) || !equal(pending, tc.pending) {
				t.Errorf("got %v and pending %v, want %v and %v", got, pending, tc.want, tc.pending)
			}
			if !equal(s.Topics(), topics) {
				t.Errorf("topics %v, want %v", s.Topics(), topics)
			}
		}
		t.Run(tc.name+", within a record", func(t *testing.T) {
			s := shard.New()
			commit(t, s, 1, 0, func(d *shard.Draft) {
				for _, c := range tc.changes {
					d.Add(c)
				}
			})
			check(t, s)
		})
		t.Run(tc.name+", record by record and from snapshot to snapshot", func(t *testing.T) {
			s := shard.New()
			for i, c := range tc.changes {
				commit(t, s, 1, int64(i), func(d *shard.Draft) { d.Add(c) })
				var err error
				if s, err = shard.DecodeSnapshot(s.EncodeSnapshot(nil)); err != nil {
					t.Fatal(err)
				}
			}
			check(t, s)
		})
	}
}

func equal[K, V comparable](a, b map[K]V) bool {
	for k, v := range a {
		if w, ok := b[k]; !ok || v != w {
			return false
		}
	}
	return len(a) == len(b)
}

func TestCommittedOffsetsRememberWhenTheyWereSent(t *testing.T) {
	s := shard.New()
	sent := shard.GroupOffset{Partition: tpA, Offset: 9, Epoch: 3, Metadata: "m\xff\x00", Expires: 77}
	commit(t, s, 1, 100, func(d *shard.Draft) { d.Add(commitOffsets(tx(1, 4, 1), sent)) })
	commit(t, s, 1, 200, func(d *shard.Draft) { d.Add(conclude(tx(1, 5, 1), true)) })
	g := s.Group("g")
	if got := g.Offsets[tpA]; got.GroupOffset != sent || got.Committed != 100 {
		t.Errorf("got %+v, want %+v of 100", got, sent)
	}
	if e := g.Producers[1]; e.Epoch != 5 || e.Ended != 1 || e.Open != 0 || len(e.Pending) != 0 || e.Updated != 200 {
		t.Errorf("got %+v", e)
	}
	if g := s.Group("unknown"); len(g.Offsets) != 0 || len(g.Producers) != 0 {
		t.Errorf("an unknown group has %+v", g)
	}
}

// TestLateOffsetsOfATransactionAreRefused: nothing of a transaction may count, or stay pending for ever,
// that comes after its end.
func TestLateOffsetsOfATransactionAreRefused(t *testing.T) {
	late := commitOffsets(tx(1, 0, 2), offset(tpA, 9))
	for _, tc := range []struct {
		name    string
		before  []shard.Change
		refused bool
	}{
		{"after its commit", []shard.Change{commitOffsets(tx(1, 0, 2)), conclude(tx(1, 0, 2), true)}, true},
		{"after its abort, without any before", []shard.Change{conclude(tx(1, 1, 2), false)}, true},
		{"after the end of a later one", []shard.Change{conclude(tx(1, 0, 3), false)}, true},
		{"while a later one is open", []shard.Change{commitOffsets(tx(1, 0, 3))}, true},
		{"while an earlier one is open", []shard.Change{commitOffsets(tx(1, 0, 1))}, true},
		{"after the end of an earlier one", []shard.Change{commitOffsets(tx(1, 0, 1)), conclude(tx(1, 0, 1), true)}, false},
		{"after the end of another producer's", []shard.Change{conclude(tx(2, 0, 2), true)}, false},
		{"when the end is forgotten", []shard.Change{conclude(tx(1, 0, 2), true), shard.DropGroup{Group: "g"}}, false},
	} {
		for _, together := range []bool{true, false} {
			s := shard.New()
			changes := append(slices.Clone(tc.before), late)
			if !together {
				commit(t, s, 1, 0, func(d *shard.Draft) {
					for _, c := range tc.before {
						d.Add(c)
					}
				})
				changes = changes[len(tc.before):]
			}
			before := s.EncodeSnapshot(nil)
			err := s.Apply(shard.Record{Seq: s.Seq + 1, Epoch: 1, Changes: changes})
			if errors.Is(err, shard.ErrCorrupt) != tc.refused || tc.refused != bytes.Equal(before, s.EncodeSnapshot(nil)) {
				t.Errorf("%s, in one record %v: got %v", tc.name, together, err)
			}
		}
	}
	s := shard.New()
	commit(t, s, 1, 100, func(d *shard.Draft) { d.Add(conclude(tx(1, 0, 2), true)) })
	commit(t, s, 1, 300, func(d *shard.Draft) {
		d.Add(shard.ExpireProducers{Before: 200})
		d.Add(late)
	})
	if g := s.Group("g"); g.Producers[1].Open != 2 {
		t.Errorf("an expired producer's end still counts: %+v", g.Producers[1])
	}
}

func TestRows(t *testing.T) {
	s := shard.New()
	put := func(space shard.Space, name string, rows ...shard.Row) {
		commit(t, s, 1, 0, func(d *shard.Draft) { d.Add(shard.PutRows{Space: space, Name: name, Rows: rows}) })
	}
	row := func(key, value string) shard.Row { return shard.Row{Key: key, Value: []byte(value)} }
	rows := func(space shard.Space, name string) (out []string) {
		for key, value := range s.Rows(space, name) {
			out = append(out, key+"="+string(value))
		}
		return out
	}
	put(shard.Groups, "g", row("b", "2"), row("a", "1"), row("\xff", "\x00"), row("", "0"), row("b", "3"))
	put(shard.Transactions, "g", row("a", "9"))
	put(shard.Groups, "f", row("x", "1"), row("x", ""))
	if got, want := rows(shard.Groups, "g"), []string{"=0", "a=1", "b=3", "\xff=\x00"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := s.Row(shard.Groups, "g", "b"); string(got) != "3" {
		t.Errorf("got %q", got)
	}
	if s.Row(shard.Groups, "g", "c") != nil || s.Row(shard.Groups, "unknown", "a") != nil || rows(shard.Groups, "unknown") != nil {
		t.Error("there is a row that nobody wrote")
	}
	if got := s.Names(shard.Groups); !slices.Equal(got, []string{"g"}) {
		t.Errorf("got names %q", got)
	}
	for range s.Rows(shard.Groups, "g") {
		break // a reader may stop
	}
	put(shard.Groups, "g", row("a", ""), row("unknown", ""))
	if got, want := rows(shard.Groups, "g"), []string{"=0", "b=3", "\xff=\x00"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	commit(t, s, 1, 0, func(d *shard.Draft) { d.Add(shard.DropGroup{Group: "g"}) })
	if len(s.Names(shard.Groups)) != 0 || !slices.Equal(rows(shard.Transactions, "g"), []string{"a=9"}) {
		t.Errorf("left: %q and %q", s.Names(shard.Groups), rows(shard.Transactions, "g"))
	}
}

// TestRowsDoNotAliasTheirRecord: what is read of a record may be changed by its owner.
func TestRowsDoNotAliasTheirRecord(t *testing.T) {
	enc := shard.Record{Seq: 1, Epoch: 1, Changes: []shard.Change{
		shard.PutRows{Space: shard.Groups, Name: "name", Rows: []shard.Row{{Key: "key", Value: []byte("value")}}},
		commitOffsets(none, shard.GroupOffset{Partition: tpA, Metadata: "metadata"}),
	}}.Encode(nil)
	r, err := shard.DecodeRecord(enc)
	if err != nil {
		t.Fatal(err)
	}
	clear(enc)
	s := shard.New()
	if err := s.Apply(r); err != nil {
		t.Fatal(err)
	}
	if got := s.Row(shard.Groups, "name", "key"); string(got) != "value" || s.Group("g").Offsets[tpA].Metadata != "metadata" {
		t.Errorf("got %q and %+v", got, s.Group("g"))
	}
}

func TestBadChangesOfCoordinatorsAreRefused(t *testing.T) {
	s := shard.New()
	commit(t, s, 4, 0, func(d *shard.Draft) { submit(t, d, submission(1, inlinePart(tpA, plain(2)))) })
	before := s.EncodeSnapshot(nil)
	negative := tiering.TopicPartition{Topic: tpA.Topic, Partition: -1}
	mark := func(spoil func(*shard.Mark)) shard.Change {
		m := shard.Mark{Partition: tpA, Base: 2, Transaction: tx(1, 0, 1), Batch: []byte("marker")}
		spoil(&m)
		return m
	}
	for name, c := range map[string]shard.Change{
		"rows of an unknown space":          shard.PutRows{Space: 3, Name: "n"},
		"rows of no space":                  shard.PutRows{Name: "n"},
		"an offset of a negative partition": commitOffsets(none, offset(negative, 1)),
		"a transaction of no producer":      commitOffsets(tx(-1, 0, 1)),
		"a transaction of a negative epoch": commitOffsets(tx(1, -1, 1)),
		"a negative transaction":            commitOffsets(tx(1, 0, -1)),
		"the end of no transaction":         conclude(tx(1, 0, 0), true),
		"the end of nobody's transaction":   conclude(tx(-1, 0, 1), true),
		"a delete of a negative partition":  shard.DeleteOffsets{Partitions: []tiering.TopicPartition{negative}},
		"a marker after a gap":              mark(func(m *shard.Mark) { m.Base = 3 }),
		"a marker over what is there":       mark(func(m *shard.Mark) { m.Base = 1 }),
		"a marker without a batch":          mark(func(m *shard.Mark) { m.Batch = nil }),
		"a marker of no transaction":        mark(func(m *shard.Mark) { m.Transaction.Number = 0 }),
		"a marker of a negative epoch":      mark(func(m *shard.Mark) { m.Transaction.Epoch = -1 }),
		"a marker in a negative partition":  mark(func(m *shard.Mark) { m.Partition, m.Base = negative, 0 }),
		"a batch of a negative transaction": shard.Append{
			Partition: tpA, Base: 2, Extents: []tiering.Extent{{Count: 1, Length: 1, Inline: []byte{1}}},
			Producers: []shard.ProducerAppend{{Base: 2, Transaction: -1}},
		},
	} {
		if err := s.Apply(shard.Record{Seq: 2, Epoch: 4, Changes: []shard.Change{c}}); !errors.Is(err, shard.ErrCorrupt) {
			t.Errorf("%s: got %v, want ErrCorrupt", name, err)
		}
		if !bytes.Equal(s.EncodeSnapshot(nil), before) {
			t.Fatalf("%s: the state has changed", name)
		}
	}
	good := []shard.Change{mark(func(*shard.Mark) {}), mark(func(m *shard.Mark) { m.Base, m.Transaction.Number = 3, 2 })}
	if err := s.Apply(shard.Record{Seq: 2, Epoch: 4, Changes: good}); err != nil || s.Partition(tpA).Next != 4 {
		t.Errorf("the markers that the bad ones are variations of: %v", err)
	}
}
