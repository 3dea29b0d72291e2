package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// coordinating returns a shard with what coordinators keep, and the records that built it.
func coordinating(t *testing.T) (*shard.State, []shard.Record) {
	t.Helper()
	const start = 1_750_000_000_000
	s := shard.New()
	var records []shard.Record
	session := tiering.SessionID{7}
	commit := func(fill func(d *shard.Draft)) {
		d := shard.NewDraft(s, 3, session, 77, start+1000*int64(s.Seq))
		fill(d)
		r := d.Record()
		records = append(records, r)
		if err := s.Apply(r); err != nil {
			t.Fatal(err)
		}
	}
	tp := func(n int32) tiering.TopicPartition {
		return tiering.TopicPartition{Topic: tiering.TopicID{1}, Partition: n}
	}
	write := func(seq uint64, id, transaction int64) {
		commit(func(d *shard.Draft) {
			b := shard.Batch{Length: 4, Count: 2, MaxTimestamp: start, ProducerID: id, Transaction: transaction}
			out, err := d.Submit(&shard.Submission{Session: session, Seq: seq, Parts: []shard.Part{{Partition: tp(0), Inline: []byte("rows"), Batches: []shard.Batch{b}}}})
			if err != nil || out[0].Code != shard.OK {
				t.Fatal(out, err)
			}
		})
	}
	mark := func(id int64, done bool) {
		commit(func(d *shard.Draft) {
			m := shard.Marker{Partition: tp(0), Transaction: shard.Transaction{ProducerID: id, Number: 1}, Commit: done, Coordinator: 9}
			if out := d.Mark(m); out.Code != shard.OK {
				t.Fatal(out)
			}
		})
	}
	add := func(c ...shard.Change) {
		commit(func(d *shard.Draft) {
			for _, c := range c {
				d.Add(c)
			}
		})
	}
	pending := shard.Transaction{ProducerID: 4001, Epoch: 2, Number: 5}
	add(shard.PutRows{Space: shard.Groups, Name: "readers", Rows: []shard.Row{{Key: "header", Value: []byte("12345")}, {Key: "member/a", Value: []byte("1")}}},
		shard.PutRows{Space: shard.Transactions, Name: "pay\x1b[2J", Rows: []shard.Row{{Key: "row", Value: []byte("1234567")}}})
	add(shard.PutRows{Space: shard.Groups, Name: "readers", Rows: []shard.Row{{Key: "member/a"}}})
	add(shard.CommitOffsets{Group: "readers", Offsets: []shard.GroupOffset{
		{Partition: tp(1), Offset: 42, Epoch: 2, Metadata: "n\u00f3te", Expires: -1}, {Partition: tp(0), Offset: 7, Epoch: -1, Expires: start}}})
	add(shard.CommitOffsets{Group: "readers", Transaction: pending, Offsets: []shard.GroupOffset{{Partition: tp(1), Offset: 50, Epoch: 2, Expires: -1}}},
		shard.CommitOffsets{Group: "only offsets", Offsets: []shard.GroupOffset{{Partition: tp(2), Offset: 1, Epoch: -1, Expires: -1}}})
	add(shard.ConcludeOffsets{Group: "readers", Transaction: shard.Transaction{ProducerID: 4002, Number: 3}, Commit: true},
		shard.DeleteOffsets{Group: "other", Partitions: []tiering.TopicPartition{tp(1)}}, shard.DropGroup{Group: "gone"}, shard.ExpireProducers{Before: start - 1})
	write(1, 4001, 1)
	mark(4001, false)
	write(2, 4003, 1)
	return s, records
}

// TestInspectCoordination compares what people see of a shard that coordinates with
// testdata, and looks into what programs see.
func TestInspectCoordination(t *testing.T) {
	s, records := coordinating(t)
	tree := fields{{"journal", plainRecords(records)}, {"state", plainState(s)}}
	var people bytes.Buffer
	if err := printTree(&people, tree); err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "inspect_coordination.txt")
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got := people.String(); got != string(want) {
		t.Errorf("it differs from %s:\n%s", golden, got)
	}
	if strings.ContainsRune(people.String(), '\x1b') {
		t.Error("a name's control characters reach the terminal")
	}

	b, err := json.Marshal(tree)
	if err != nil {
		t.Fatal(err)
	}
	var programs struct {
		Journal []struct {
			Changes []struct {
				Change, Space, Name, Outcome string
				Transaction                  *struct{ Number int64 }
			}
		}
		State struct {
			Partitions []struct {
				LastStable          int64
				OpenTransactions    []struct{ ProducerID, First int64 }
				AbortedTransactions []struct{ ProducerID, First, Last int64 }
			}
			Groups []struct {
				Group     string
				Rows      []struct{ Key, Value string }
				Offsets   []struct{ Offset int64 }
				Producers []struct {
					ProducerID, Ended int64
					Open              *int64
					Pending           []struct{ Offset int64 }
				}
			}
			Transactions []struct {
				TransactionalID string
				Rows            []struct{ Key, Value string }
			}
		}
	}
	if err := json.Unmarshal(b, &programs); err != nil {
		t.Fatal(err)
	}
	if c := programs.Journal[0].Changes[1]; c.Change != "putRows" || c.Space != "transactions" || c.Name != "pay\x1b[2J" {
		t.Errorf("a row of a transactional id: %+v", c)
	}
	if c := programs.Journal[6].Changes[0]; c.Change != "mark" || c.Outcome != "abort" || c.Transaction == nil || c.Transaction.Number != 1 {
		t.Errorf("a marker: %+v", c)
	}
	if p := programs.State.Partitions; len(p) != 1 || p[0].LastStable != 3 || len(p[0].OpenTransactions) != 1 || p[0].OpenTransactions[0].First != 3 ||
		len(p[0].AbortedTransactions) != 1 || p[0].AbortedTransactions[0].Last != 2 {
		t.Errorf("partitions: %+v", p)
	}
	g := programs.State.Groups
	if len(g) != 2 || g[0].Group != "only offsets" || len(g[0].Rows) != 0 || len(g[1].Rows) != 1 || g[1].Rows[0].Value != "MTIzNDU=" || len(g[1].Offsets) != 2 ||
		g[1].Offsets[1].Offset != 42 || len(g[1].Producers) != 2 || g[1].Producers[0].Open == nil || g[1].Producers[0].Pending[0].Offset != 50 || g[1].Producers[1].Open != nil {
		t.Errorf("groups: %+v", g)
	}
	if tx := programs.State.Transactions; len(tx) != 1 || len(tx[0].Rows) != 1 || tx[0].Rows[0].Key != "row" {
		t.Errorf("transactional ids: %+v", tx)
	}
}
