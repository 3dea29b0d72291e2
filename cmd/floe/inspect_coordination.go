package main

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"

	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// legible is what clients have named: a group, a transactional id, a member. People see
// what would not print quoted, or it could rewrite their terminal.
type legible string

func (l legible) String() string {
	s := string(l)
	if quoted := strconv.Quote(s); s == "" || quoted != `"`+s+`"` {
		return quoted
	}
	return s
}

// MarshalJSON writes the name as it is.
func (l legible) MarshalJSON() ([]byte, error) { return json.Marshal(string(l)) }

// spaceNames are the kinds of rows.
var spaceNames = map[shard.Space]string{shard.Groups: "groups", shard.Transactions: "transactions"}

func plainSpace(s shard.Space) any {
	if name, ok := spaceNames[s]; ok {
		return name
	}
	return uint8(s)
}

// plainChange is a change of a journal record, after its name. What coordinators write is
// put into words; the others are written as they are.
func plainChange(c shard.Change) fields {
	switch c := c.(type) {
	case shard.PutRows:
		rows := make([]any, 0, len(c.Rows))
		for _, r := range c.Rows {
			rows = append(rows, plainRow(r.Key, r.Value))
		}
		return fields{{"space", plainSpace(c.Space)}, {"name", legible(c.Name)}, {"rows", rows}}
	case shard.CommitOffsets:
		offsets := make([]any, 0, len(c.Offsets))
		for _, o := range c.Offsets {
			offsets = append(offsets, plainOffset(o))
		}
		return fields{{"group", legible(c.Group)}, {"transaction", plainTransaction(c.Transaction)}, {"offsets", offsets}}
	case shard.ConcludeOffsets:
		return fields{{"group", legible(c.Group)}, {"transaction", plainTransaction(c.Transaction)}, {"outcome", outcome(c.Commit)}}
	case shard.DeleteOffsets:
		return fields{{"group", legible(c.Group)}, {"partitions", plain(c.Partitions)}}
	case shard.DropGroup:
		return fields{{"group", legible(c.Group)}}
	case shard.Mark:
		return fields{
			{"partition", c.Partition.String()}, {"base", c.Base}, {"transaction", plainTransaction(c.Transaction)}, {"outcome", outcome(c.Commit)},
			{"coordinator", c.Coordinator}, {"timestamp", instant(c.Timestamp)}, {"batch", stored(c.Batch)},
		}
	case shard.ExpireProducers:
		return fields{{"before", instant(c.Before)}}
	}
	tree, _ := plain(c).(fields)
	return tree
}

func outcome(commit bool) string {
	if commit {
		return "commit"
	}
	return "abort"
}

// plainRow is a row of a coordinator's; a value of null: the row is deleted.
func plainRow(key string, value []byte) fields {
	if len(value) == 0 {
		return fields{{"key", legible(key)}, {"value", nil}}
	}
	return fields{{"key", legible(key)}, {"value", stored(value)}}
}

// plainTransaction is null for none.
func plainTransaction(t shard.Transaction) any {
	if t.Number == 0 {
		return nil
	}
	return fields{{"producerID", t.ProducerID}, {"epoch", t.Epoch}, {"number", t.Number}}
}

func plainOffset(o shard.GroupOffset) fields {
	tree := fields{{"partition", o.Partition.String()}, {"offset", o.Offset}, {"leaderEpoch", o.Epoch}}
	if o.Metadata != "" {
		tree = append(tree, field{"metadata", legible(o.Metadata)})
	}
	if o.Expires >= 0 {
		tree = append(tree, field{"expires", instant(o.Expires)})
	}
	return tree
}

// plainOffsets are offsets in the order of their partitions.
func plainOffsets(offsets map[tiering.TopicPartition]shard.CommittedOffset) []any {
	out := make([]any, 0, len(offsets))
	for _, tp := range slices.SortedFunc(maps.Keys(offsets), tiering.TopicPartition.Compare) {
		o := offsets[tp]
		out = append(out, append(plainOffset(o.GroupOffset), field{"committed", instant(o.Committed)}))
	}
	return out
}

func plainRows(s *shard.State, space shard.Space, name string) []any {
	out := []any{}
	for key, value := range s.Rows(space, name) {
		out = append(out, plainRow(key, value))
	}
	return out
}

// plainGroups are the groups that the shard coordinates.
func plainGroups(s *shard.State) []any {
	names := append(s.Names(shard.Groups), s.GroupNames()...)
	slices.Sort(names)
	out := []any{}
	for _, name := range slices.Compact(names) {
		g := s.Group(name)
		producers := []any{}
		for _, id := range slices.Sorted(maps.Keys(g.Producers)) {
			producers = append(producers, plainGroupProducer(id, g.Producers[id]))
		}
		out = append(out, fields{
			{"group", legible(name)}, {"rows", plainRows(s, shard.Groups, name)}, {"offsets", plainOffsets(g.Offsets)}, {"producers", producers},
		})
	}
	return out
}

func plainGroupProducer(id int64, e *shard.GroupProducer) fields {
	var open any
	if e.Open > 0 {
		open = e.Open
	}
	return fields{
		{"producerID", id}, {"epoch", e.Epoch}, {"ended", e.Ended}, {"open", open}, {"updated", instant(e.Updated)}, {"pending", plainOffsets(e.Pending)},
	}
}

// plainTransactions are the transactional ids that the shard coordinates.
func plainTransactions(s *shard.State) []any {
	out := []any{}
	for _, id := range s.Names(shard.Transactions) {
		out = append(out, fields{{"transactionalID", legible(id)}, {"rows", plainRows(s, shard.Transactions, id)}})
	}
	return out
}

// plainOpen are the transactions that have records in a partition and no marker yet.
func plainOpen(p *shard.Partition) []any {
	out := []any{}
	for _, t := range p.Open() {
		out = append(out, fields{
			{"producerID", t.ProducerID}, {"epoch", t.Epoch}, {"number", t.Number}, {"first", t.First}, {"since", instant(t.Since)},
		})
	}
	return out
}

// plainAborted are the aborted transactions that have records left.
func plainAborted(p *shard.Partition) []any {
	out := []any{}
	for _, a := range p.AbortedIn(p.LogStart, p.Next) {
		out = append(out, fields{{"producerID", a.ProducerID}, {"first", a.First}, {"last", a.Last}})
	}
	return out
}
