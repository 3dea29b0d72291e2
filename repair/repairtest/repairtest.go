// Package repairtest makes small clusters in memory for the tests of repair: it commits records
// as agents do, by hand, so that a test can leave out and damage what it likes. A World is
// used by one goroutine.
package repairtest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/metadata/memory"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/protocol/batch"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
	objmemory "github.com/floelog/floe/tiering/objstore/memory"
	"github.com/floelog/floe/tiering/segment"
)

// Name is the name of the cluster.
const Name = "repaired"

// Epoch is the leader epoch under which everything is committed.
const Epoch = 7

// World is a cluster of two shards with one topic of two partitions, and one agent that leads
// both, by hand.
type World struct {
	t       testing.TB
	ctx     context.Context
	Server  *memory.Server
	Meta    metadata.Store
	Objects objstore.Store
	Keys    metadata.Keys
	Cluster catalogue.Cluster
	Topic   catalogue.Topic
	Session tiering.SessionID

	States  []*shard.State
	pending []segment.JournalRecord
	number  uint64 // of the last segment
	copies  uint64
	nonce   uint64
	subs    uint64
}

// New returns a cluster without records.
func New(t testing.TB) *World {
	t.Helper()
	server := memory.New()
	t.Cleanup(server.Close)
	w := &World{
		t: t, ctx: t.Context(), Server: server, Meta: server.Client("test"), Objects: objmemory.New(),
		Keys: metadata.NewKeys(Name), Session: tiering.SessionID{1, 9}, States: []*shard.State{shard.New(), shard.New()},
	}
	var err error
	w.Cluster, err = catalogue.EnsureCluster(w.ctx, w.Meta, w.Keys, catalogue.Want{Shards: 2})
	w.must(err)
	w.Topic = catalogue.Topic{Name: "orders", ID: tiering.TopicID{4}, Partitions: 2, ReplicationFactor: 1}
	w.PutTopic(&w.Topic)
	w.Copy(w.Topic)
	return w
}

func (w *World) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// PutTopic puts a topic into the metadata store.
func (w *World) PutTopic(t *catalogue.Topic) {
	w.t.Helper()
	value, err := t.Store([16]byte{byte(len(t.Name))})
	w.must(err)
	w.Put(w.Keys.Topic(t.Name), value)
}

// Put puts a key.
func (w *World) Put(key string, value []byte) {
	w.t.Helper()
	_, err := w.Meta.Txn(w.ctx, metadata.Txn{Then: []metadata.Op{metadata.Put(key, value)}})
	w.must(err)
}

// Wipe loses the metadata store.
func (w *World) Wipe() {
	w.Server = memory.New()
	w.t.Cleanup(w.Server.Close)
	w.Meta = w.Server.Client("new")
}

// Copy stores a copy of the catalogue with the given topics, ascending by name.
func (w *World) Copy(topics ...catalogue.Topic) {
	w.t.Helper()
	w.copies++
	c := catalogue.Copy{Cluster: w.Cluster, CreatedAt: time.Now().UnixMilli(), Revision: 1000, ProducerID: 5000, Topics: topics}
	b, err := c.Encode()
	w.must(err)
	w.must(w.Objects.Put(w.ctx, catalogue.CopyKey(w.Session, w.copies), objstore.Body{b}))
}

// Partition names a partition of the topic; partition p lies on shard p.
func (w *World) Partition(p int32) tiering.TopicPartition {
	return tiering.TopicPartition{Topic: w.Topic.ID, Partition: p}
}

// Producer says who wrote a batch; nil: a plain producer.
type Producer struct {
	ID, Transaction int64 // Transaction 0: none
	Epoch           int16
	Seq             int32 // of the first record
}

// Batch returns a batch of n records.
func (w *World) Batch(n int, p *Producer, base tiering.Offset) []byte {
	w.t.Helper()
	f := batch.PlainFields(1_000)
	f.BaseOffset = int64(base)
	if p != nil {
		f.ProducerID, f.ProducerEpoch, f.BaseSequence = p.ID, p.Epoch, p.Seq
		if p.Transaction > 0 {
			f.Attributes |= batch.AttrTransactional
		}
	}
	b := batch.NewBuilder(f)
	w.nonce++
	for i := range n {
		b.Add(batch.Record{OffsetDelta: int32(i), TimestampDelta: int64(i), Value: fmt.Appendf(nil, "%d-%d", w.nonce, i)})
	}
	out, err := b.AppendTo(nil)
	w.must(err)
	return out
}

// Flush stores a flush of one batch without committing it, and returns its part for a
// submission.
func (w *World) Flush(p int32, n int, by *Producer) shard.Part {
	w.t.Helper()
	b := w.Batch(n, by, 0)
	id, entries := w.Segment(0, segment.Chunk{Shard: tiering.ShardID(p), TopicPartition: w.Partition(p), Slices: [][]byte{b}})
	x := shard.Batch{Length: int32(len(b)), Count: int32(n), MaxTimestamp: 1_000 + int64(n) - 1, ProducerID: -1, ProducerEpoch: -1, FirstSeq: -1}
	if by != nil {
		x.ProducerID, x.ProducerEpoch, x.FirstSeq, x.Transaction = by.ID, by.Epoch, by.Seq, by.Transaction
	}
	return shard.Part{Partition: w.Partition(p), Segment: id, Position: entries[0].Position, Batches: []shard.Batch{x}}
}

// Segment stores a segment that carries the records that wait.
func (w *World) Segment(level uint8, chunks ...segment.Chunk) (tiering.SegmentID, []segment.Entry) {
	w.t.Helper()
	w.number++
	id := tiering.SegmentID{Session: w.Session, Seq: w.number}
	cluster, err := tiering.ParseTopicID(w.Cluster.ID)
	w.must(err)
	built, err := segment.Build(segment.Header{Level: level, Cluster: cluster, ID: id, Carry: w.pending}, chunks)
	w.must(err)
	w.must(w.Objects.Put(w.ctx, id.Key(), built.Body))
	w.pending = nil
	return id, built.Entries
}

// Carry stores the records that wait.
func (w *World) Carry() {
	w.t.Helper()
	w.Segment(0)
}

// Forget lets the records that wait be carried by nothing.
func (w *World) Forget() { w.pending = nil }

// Commit commits a record.
func (w *World) Commit(id tiering.ShardID, f func(d *shard.Draft)) {
	w.t.Helper()
	w.nonce++
	d := shard.NewDraft(w.States[id], Epoch, w.Session, w.nonce, time.Now().UnixMilli())
	f(d)
	r := d.Record()
	w.must(w.States[id].Apply(r))
	value := r.Encode(nil)
	w.Put(w.Keys.JournalRecord(id, r.Seq), value)
	w.Put(w.Keys.Head(id), journal.Head{Epoch: Epoch, Session: w.Session, Seq: r.Seq}.Encode())
	w.pending = append(w.pending, segment.JournalRecord{Shard: id, Seq: r.Seq, Bytes: value})
}

// Submit commits parts of one shard.
func (w *World) Submit(id tiering.ShardID, parts ...shard.Part) []shard.Outcome {
	w.t.Helper()
	w.subs++
	var out []shard.Outcome
	w.Commit(id, func(d *shard.Draft) {
		var err error
		out, err = d.Submit(&shard.Submission{Session: w.Session, Seq: w.subs, Parts: parts})
		w.must(err)
	})
	return out
}

// Produce flushes and commits a batch of n records to partition p.
func (w *World) Produce(p int32, n int, by *Producer) shard.Part {
	w.t.Helper()
	part := w.Flush(p, n, by)
	w.Submit(tiering.ShardID(p), part)
	return part
}

// Inline commits a batch of n records inline.
func (w *World) Inline(p int32, n int) {
	w.t.Helper()
	b := w.Batch(n, nil, 0)
	w.Submit(tiering.ShardID(p), shard.Part{Partition: w.Partition(p), Inline: b, Batches: []shard.Batch{{
		Length: int32(len(b)), Count: int32(n), MaxTimestamp: 1_000 + int64(n) - 1, ProducerID: -1, ProducerEpoch: -1, FirstSeq: -1,
	}}})
}

// Snapshot stores a snapshot of a shard, points to it and trims the journal.
func (w *World) Snapshot(id tiering.ShardID) string {
	w.t.Helper()
	w.nonce++
	s := w.States[id]
	name := journal.SnapshotName{Shard: id, Seq: s.Seq, Session: w.Session, Nonce: w.nonce}
	b := s.EncodeSnapshot(nil)
	w.must(w.Objects.Put(w.ctx, name.Key(), objstore.Body{b}))
	w.Put(w.Keys.Snapshot(id), journal.Pointer{Key: name.Key(), Size: int64(len(b)), Seq: s.Seq}.Encode())
	_, err := w.Meta.Txn(w.ctx, metadata.Txn{Then: []metadata.Op{metadata.DeleteRange(w.Keys.Journal(id), w.Keys.JournalRecord(id, s.Seq+1))}})
	w.must(err)
	return name.Key()
}

// Damage flips a bit of an object.
func (w *World) Damage(key string, at int64) {
	w.t.Helper()
	info, err := w.Objects.Head(w.ctx, key)
	w.must(err)
	b, err := w.Objects.GetRange(w.ctx, key, 0, info.Size)
	w.must(err)
	b[at] ^= 0x40
	w.must(w.Objects.Delete(w.ctx, key))
	w.must(w.Objects.Put(w.ctx, key, objstore.Body{b}))
}
