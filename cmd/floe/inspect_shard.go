package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
)

// journalPage is how many journal records are read at once: fewer are more round trips,
// more could exceed what etcd puts into one answer.
const journalPage = 16

// storedShard is what the stores hold of one shard.
type storedShard struct {
	leader, head metadata.KV
	pointer      snapshotPointer
	snapshot     *shard.State // nil: none
	records      []shard.Record
	state        *shard.State // snapshot and records together
}

// snapshotPointer is what is read here of the value under Keys.Snapshot.
type snapshotPointer struct {
	Key  string `json:"key"`
	Size int64  `json:"size"`
	Seq  uint64 `json:"seq"`
}

// cluster reads the identity of the cluster, which must exist: an inspection creates
// nothing.
func (v *view) cluster(ctx context.Context) (metadata.Keys, catalogue.Cluster, error) {
	keys := metadata.NewKeys(v.settings.Cluster)
	kvs, _, err := v.meta.Get(ctx, keys.Cluster())
	if err != nil {
		return keys, catalogue.Cluster{}, fmt.Errorf("etcd: %w", err)
	}
	if !kvs[0].Exists() {
		return keys, catalogue.Cluster{}, fmt.Errorf("cluster %s: not in this etcd (give the --cluster that the agents have)", v.settings.Cluster)
	}
	cluster, err := catalogue.EnsureCluster(ctx, v.meta, keys, catalogue.Want{})
	return keys, cluster, err
}

// readShard reads a shard at one revision of etcd. While a leader takes a snapshot the
// one that was pointed to may vanish; the pointer then says otherwise and it is read anew.
func (v *view) readShard(ctx context.Context, keys metadata.Keys, id tiering.ShardID) (*storedShard, error) {
	for {
		s, pointed, err := v.tryShard(ctx, keys, id)
		if !errors.Is(err, objstore.ErrNotFound) {
			return s, err
		}
		kvs, _, getErr := v.meta.Get(ctx, keys.Snapshot(id))
		if getErr != nil {
			return nil, fmt.Errorf("etcd: %w", getErr)
		}
		if string(kvs[0].Value) == string(pointed) {
			return nil, err
		}
	}
}

func (v *view) tryShard(ctx context.Context, keys metadata.Keys, id tiering.ShardID) (_ *storedShard, pointed []byte, err error) {
	kvs, revision, err := v.meta.Get(ctx, keys.Leader(id), keys.Head(id), keys.Snapshot(id))
	if err != nil {
		return nil, nil, fmt.Errorf("etcd: %w", err)
	}
	s := &storedShard{leader: kvs[0], head: kvs[1], state: shard.New()}
	if pointed = kvs[2].Value; kvs[2].Exists() {
		if err := json.Unmarshal(pointed, &s.pointer); err != nil {
			return nil, pointed, fmt.Errorf("shard %d: snapshot pointer: %w", id, err)
		}
		data, err := v.objects.GetRange(ctx, s.pointer.Key, 0, s.pointer.Size)
		if err != nil {
			return nil, pointed, fmt.Errorf("shard %d: snapshot: %w", id, err)
		}
		if s.snapshot, err = shard.DecodeSnapshot(data); err != nil {
			return nil, pointed, fmt.Errorf("shard %d: snapshot %s: %w", id, s.pointer.Key, err)
		}
		// Applying changes a state: take another for it.
		if s.state, err = shard.DecodeSnapshot(data); err != nil {
			return nil, pointed, fmt.Errorf("shard %d: snapshot %s: %w", id, s.pointer.Key, err)
		}
	}
	from, end := keys.Journal(id), metadata.PrefixEnd(keys.Journal(id))
	for more := true; more; {
		page, err := v.meta.Range(ctx, from, end, revision, journalPage)
		if err != nil {
			return nil, pointed, fmt.Errorf("shard %d: journal: %w", id, err)
		}
		for _, kv := range page.KVs {
			if err := s.add(kv); err != nil {
				return nil, pointed, fmt.Errorf("shard %d: %s: %w", id, kv.Key, err)
			}
			from = kv.Key + "\x00"
		}
		more = page.More
	}
	return s, pointed, nil
}

// add takes a journal record; one that the snapshot holds already changes no state.
func (s *storedShard) add(kv metadata.KV) error {
	r, err := shard.DecodeRecord(kv.Value)
	if err != nil {
		return err
	}
	s.records = append(s.records, r)
	if r.Seq <= s.state.Seq {
		return nil
	}
	return s.state.Apply(r)
}

func inspectShardCommand(p process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "shard NUMBER",
		Short: "Print a shard: leader, head, snapshot, journal, and the state they add up to",
		Args:  exactArgs("NUMBER"),
	}
	return inspection(p, cmd, func(ctx context.Context, v *view, args []string) error {
		if err := v.needs(true, true); err != nil {
			return err
		}
		keys, cluster, err := v.cluster(ctx)
		if err != nil {
			return err
		}
		n, err := strconv.ParseUint(args[0], 10, 32)
		if err != nil || uint32(n) >= cluster.Shards {
			return usageError{fmt.Errorf("shard %s: no such shard (they are numbered 0 to %d)", args[0], cluster.Shards-1)}
		}
		s, err := v.readShard(ctx, keys, tiering.ShardID(n))
		if err != nil {
			return err
		}
		tree := fields{
			{"shard", n}, {"cluster", v.settings.Cluster}, {"leader", jsonValue(s.leader)}, {"head", jsonValue(s.head)},
			{"snapshot", nil}, {"journal", plainRecords(s.records)}, {"state", plainState(s.state)},
		}
		if s.snapshot != nil {
			tree[4].value = fields{{"key", s.pointer.Key}, {"size", s.pointer.Size}, {"seq", s.pointer.Seq}, {"state", plainState(s.snapshot)}}
		}
		return v.print(tree)
	})
}

// jsonValue is a value that is JSON already.
func jsonValue(kv metadata.KV) any {
	if !kv.Exists() {
		return nil
	}
	return rawJSON(kv.Value)
}

// rawJSON is JSON that is printed as it is stored.
type rawJSON []byte

func (r rawJSON) String() string { return string(r) }

// MarshalJSON returns the bytes.
func (r rawJSON) MarshalJSON() ([]byte, error) { return r, nil }

func plainRecords(records []shard.Record) []any {
	out := make([]any, 0, len(records))
	for _, r := range records {
		changes := make([]any, 0, len(r.Changes))
		for _, c := range r.Changes {
			kind := reflect.TypeOf(c).Name()
			changes = append(changes, append(fields{{"change", strings.ToLower(kind[:1]) + kind[1:]}}, plainChange(c)...))
		}
		out = append(out, fields{
			{"seq", r.Seq}, {"epoch", r.Epoch}, {"leader", r.Leader.String()}, {"nonce", r.Nonce},
			{"time", instant(r.Time)}, {"changes", changes},
		})
	}
	return out
}

// instant writes milliseconds since 1970 for people.
func instant(ms int64) string { return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z") }

func plainState(s *shard.State) fields {
	partitions := make([]any, 0, len(s.Partitions()))
	for _, tp := range s.Partitions() {
		partitions = append(partitions, plainPartition(fields{{"partition", tp.String()}}, s.Partition(tp)))
	}
	return fields{
		{"seq", s.Seq}, {"epoch", s.Epoch}, {"inlineExtents", s.InlineExtents()}, {"inlineBytes", s.InlineBytes()},
		{"sessions", plain(s.Sessions())}, {"partitions", partitions}, {"groups", plainGroups(s)}, {"transactions", plainTransactions(s)},
	}
}

func plainPartition(tree fields, p *shard.Partition) fields {
	tree = append(tree, field{"producers", p.Producers()}, field{"lastStable", p.LastStable()},
		field{"openTransactions", plainOpen(p)}, field{"abortedTransactions", plainAborted(p)})
	for _, f := range plain(p).(fields) {
		if f.name == "extents" {
			f.value = plainExtents(p.Extents)
		}
		tree = append(tree, f)
	}
	return tree
}

func plainExtents(extents []tiering.Extent) []any {
	out := make([]any, 0, len(extents))
	for _, e := range extents {
		tree := fields{{"base", e.Base}, {"end", e.End()}, {"epoch", e.Epoch}, {"bytes", e.Length}, {"maxTimestamp", instant(e.MaxTimestamp)}}
		if e.IsInline() {
			tree = append(tree, field{"inline", stored(e.Inline)})
		} else {
			tree = append(tree, field{"segment", e.Segment.Key()}, field{"position", e.Position})
		}
		out = append(out, tree)
	}
	return out
}

func inspectTopicCommand(p process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "topic NAME",
		Short: "Print a topic: its id, its configs, and where the records of its partitions are",
		Args:  exactArgs("NAME"),
	}
	return inspection(p, cmd, func(ctx context.Context, v *view, args []string) error {
		if err := v.needs(true, true); err != nil {
			return err
		}
		keys, cluster, err := v.cluster(ctx)
		if err != nil {
			return err
		}
		topic, err := catalogue.New(v.meta, keys, cluster, catalogue.Config{}).Find(ctx, args[0])
		if errors.Is(err, catalogue.ErrTopicNotFound) {
			return fmt.Errorf("topic %s: not in cluster %s (kcat -L lists the topics)", args[0], v.settings.Cluster)
		}
		if err != nil {
			return err
		}
		partitions, err := v.plainPartitions(ctx, keys, cluster, topic)
		if err != nil {
			return err
		}
		tree := fields{
			{"topic", topic.Name}, {"id", topic.ID.String()}, {"created", instant(topic.Created)}, {"firstShard", topic.FirstShard},
			{"configs", topic.Configs}, {"partitions", partitions},
		}
		return v.print(tree)
	})
}

// plainPartitions reads each shard of the topic once.
func (v *view) plainPartitions(ctx context.Context, keys metadata.Keys, cluster catalogue.Cluster, topic *catalogue.Topic) ([]any, error) {
	shards := map[tiering.ShardID]*storedShard{}
	partitions := make([]any, 0, topic.Partitions)
	for n := range topic.Partitions {
		id := tiering.ShardOf(topic.FirstShard, n, cluster.Shards)
		if shards[id] == nil {
			s, err := v.readShard(ctx, keys, id)
			if err != nil {
				return nil, err
			}
			shards[id] = s
		}
		tp := tiering.TopicPartition{Topic: topic.ID, Partition: n}
		head := fields{{"partition", n}, {"shard", id}, {"leader", jsonValue(shards[id].leader)}}
		partitions = append(partitions, plainPartition(head, shards[id].state.Partition(tp)))
	}
	return partitions, nil
}
