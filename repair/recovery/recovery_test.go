package recovery_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"testing"
	"time"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/metadata/membership"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/repair/fsck"
	"github.com/floelog/floe/repair/recovery"
	"github.com/floelog/floe/repair/repairtest"
	"github.com/floelog/floe/repair/stored"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
)

func config(w *repairtest.World, options ...func(*recovery.Config)) recovery.Config {
	cfg := recovery.Config{Name: repairtest.Name, Meta: w.Meta, Objects: w.Objects, Now: time.Now, Random: rand.Reader,
		Coordinators: func([]*shard.State) recovery.Transactions {
			return func(producer int64, _ int16) (int64, bool) { return 3, producer == 50 }
		}}
	for _, o := range options {
		o(&cfg)
	}
	return cfg
}

func over(c *recovery.Config) { c.Over = true }

// recovered recovers the cluster and returns the states that the metadata store then adds up to.
func recovered(t *testing.T, w *repairtest.World, options ...func(*recovery.Config)) (*recovery.Plan, []*shard.State) {
	t.Helper()
	p, err := recovery.Prepare(t.Context(), config(w, options...))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Execute(t.Context()); err != nil {
		t.Fatal(err)
	}
	var states []*shard.State
	for id := range tiering.ShardID(2) {
		_, s, err := stored.ReadShard(t.Context(), w.Meta, w.Objects, w.Keys, id)
		if err != nil {
			t.Fatal(err)
		}
		states = append(states, s)
	}
	r, err := fsck.Run(t.Context(), fsck.Config{Name: repairtest.Name, Meta: w.Meta, Objects: w.Objects, Deep: true, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	if !r.Clean || !r.Frozen {
		t.Errorf("after the recovery: frozen %v, %+v", r.Frozen, r.Findings)
	}
	return p, states
}

// same demands that what was recovered says what was there, but for submissions and numbers.
func same(t *testing.T, got, want *shard.State) {
	t.Helper()
	norm := func(s *shard.State) []byte {
		c, err := shard.DecodeSnapshot(s.EncodeSnapshot(nil))
		if err != nil {
			t.Fatal(err)
		}
		d := shard.NewDraft(c, c.Epoch, tiering.SessionID{1}, 1, 1)
		for _, id := range c.Sessions() {
			d.Add(shard.ForgetSession{Session: id})
		}
		if err := c.Apply(d.Record()); err != nil {
			t.Fatal(err)
		}
		c.Seq, c.Epoch = 0, 0
		return c.EncodeSnapshot(nil)
	}
	if !bytes.Equal(norm(got), norm(want)) {
		t.Errorf("recovered %d partitions: %+v\nwant %+v", len(got.Partitions()), got, want)
	}
	if got.Seq <= want.Seq || got.Epoch <= want.Epoch {
		t.Errorf("record %d, epoch %d are not above %d and %d", got.Seq, got.Epoch, want.Seq, want.Epoch)
	}
}

// loaded returns a cluster with plain, idempotent, inline and group records, all of it carried.
func loaded(t *testing.T) *repairtest.World {
	w := repairtest.New(t)
	w.Produce(0, 3, nil)
	w.Produce(0, 2, &repairtest.Producer{ID: 1})
	w.Snapshot(0)
	w.Inline(0, 4)
	w.Produce(1, 5, nil)
	w.Produce(0, 2, &repairtest.Producer{ID: 1, Seq: 2})
	w.Commit(1, func(d *shard.Draft) {
		d.Add(shard.CommitOffsets{Group: "g", Offsets: []shard.GroupOffset{{Partition: w.Partition(0), Offset: 4, Epoch: -1, Expires: -1}}})
	})
	w.Carry()
	return w
}

func TestALostMetadataStoreIsRebuilt(t *testing.T) {
	w := loaded(t)
	w.Wipe()
	p, err := recovery.Prepare(t.Context(), config(w))
	if err != nil {
		t.Fatal(err)
	}
	if page, err := w.Meta.Range(t.Context(), w.Keys.Root(), metadata.PrefixEnd(w.Keys.Root()), 0, 1); err != nil || len(page.KVs) > 0 {
		t.Fatalf("a dry run wrote %v, %v", page.KVs, err)
	}
	if len(p.Report.Unknown) == 0 || p.Report.Executed {
		t.Errorf("the report claims to know all: %+v", p.Report)
	}
	p, states := recovered(t, w)
	for id := range states {
		same(t, states[id], w.States[id])
	}
	kvs, _, err := w.Meta.Get(t.Context(), w.Keys.Cluster(), w.Keys.ProducerIDs(), w.Keys.Topic("orders"))
	if err != nil {
		t.Fatal(err)
	}
	if c, err := catalogue.StoredCluster(kvs[0]); err != nil || c != w.Cluster {
		t.Errorf("cluster %+v, %v; want %+v", c, err, w.Cluster)
	}
	if got := string(kvs[1].Value); got != "1005000" {
		t.Errorf("the next producer id is %s", got)
	}
	if topic, err := catalogue.StoredTopic("orders", kvs[2].Value, 2); err != nil || topic.ID != w.Topic.ID {
		t.Errorf("topic %+v, %v", topic, err)
	}
	if len(p.Report.Shards[0].Adopted) > 0 {
		t.Errorf("adopted %+v, although all is known", p.Report.Shards[0].Adopted)
	}
}

func TestFlushesAfterTheLastRecordAreTakenUp(t *testing.T) {
	w := loaded(t)
	lost := func(p int32, n int, by *repairtest.Producer) {
		w.Produce(p, n, by)
		w.Forget() // its record is carried by nothing
	}
	w.Flush(0, 7, nil) // never sequenced, or its record is lost: nobody can tell
	lost(0, 1, &repairtest.Producer{ID: 1, Seq: 4})
	lost(0, 1, &repairtest.Producer{ID: 1, Seq: 6}) // 5 was inline and is lost: it does not follow
	lost(1, 1, &repairtest.Producer{ID: 50, Transaction: 3})
	lost(1, 1, &repairtest.Producer{ID: 51, Transaction: 9}) // of a transaction that nobody knows
	w.Wipe()
	p, states := recovered(t, w)
	part := states[0].Partition(w.Partition(0))
	if part.Next != 11+7+1 {
		t.Errorf("partition 0 ends at %d, want 19", part.Next)
	}
	r := p.Report.Shards
	if len(r[0].Adopted) != 2 || r[0].OutOfOrder != 1 || r[0].Duplicates != 0 {
		t.Errorf("shard 0: %+v", r[0])
	}
	if open := states[1].Partition(w.Partition(1)).Open(); len(open) != 1 || open[0].ProducerID != 50 || open[0].Number != 3 {
		t.Errorf("open transactions %+v", open)
	}
	if r[1].OfNoTransaction != 1 || r[1].InTransactions != 1 || p.Report.Open != 1 {
		t.Errorf("shard 1: %+v", r[1])
	}
}

func TestFlushesThatAreKnownAreNotTakenUpTwice(t *testing.T) {
	w := loaded(t)
	first := w.Flush(0, 7, nil)
	w.Produce(0, 1, nil) // sequenced after first was refused
	w.Carry()
	w.Snapshot(1)
	w.Wipe()
	p, states := recovered(t, w)
	same(t, states[0], w.States[0])
	if len(p.Report.Shards[0].Adopted) > 0 {
		t.Errorf("%s was taken up as %+v", first.Segment, p.Report.Shards[0].Adopted)
	}
	// Once more, from what the first recovery has left.
	w.Wipe()
	_, again := recovered(t, w)
	for id := range again {
		same(t, again[id], states[id])
	}
}

func TestAnOlderBackupIsMerged(t *testing.T) {
	w := loaded(t)
	backup := w.Server.Snapshot()
	old := w.Topic
	young := catalogue.Topic{Name: "young", ID: tiering.TopicID{5}, Partitions: 1, FirstShard: 1}
	w.PutTopic(&young)
	w.Copy(old, young)
	w.Produce(0, 3, nil)
	w.Snapshot(0)
	w.Produce(0, 3, nil)
	w.Inline(1, 2)
	w.Carry()
	w.Server.Restore(backup)
	if _, err := recovery.Prepare(t.Context(), config(w)); !errors.Is(err, recovery.ErrNotEmpty) {
		t.Fatalf("over a store that is not empty: %v", err)
	}
	_, states := recovered(t, w, over)
	for id := range states {
		same(t, states[id], w.States[id])
	}
	kvs, _, err := w.Meta.Get(t.Context(), w.Keys.Topic("young"))
	if err != nil || !kvs[0].Exists() {
		t.Errorf("a topic that is younger than the backup: %v, %v", kvs, err)
	}
	page, err := w.Meta.Range(t.Context(), w.Keys.Journal(0), metadata.PrefixEnd(w.Keys.Journal(0)), 0, 0)
	if err != nil || len(page.KVs) > 0 {
		t.Errorf("journal records of the backup are left: %v, %v", page.KVs, err)
	}
}

func TestOfTwoHistoriesTheOneOfTheHigherEpochIsTaken(t *testing.T) {
	w := loaded(t)
	seq := w.States[1].Seq + 1
	fork := func(epoch tiering.LeaderEpoch, nonce uint64, group string) {
		r := shard.Record{Seq: seq, Epoch: epoch, Leader: w.Session, Nonce: nonce, Changes: []shard.Change{
			shard.CommitOffsets{Group: group, Offsets: []shard.GroupOffset{{Partition: w.Partition(0), Offset: 1, Expires: -1}}}}}
		w.Put(w.Keys.JournalRecord(1, seq), r.Encode(nil))
		w.Put(w.Keys.Head(1), journal.Head{Epoch: epoch, Session: w.Session, Seq: seq}.Encode())
	}
	w.Commit(1, func(d *shard.Draft) {
		d.Add(shard.CommitOffsets{Group: "old", Offsets: []shard.GroupOffset{{Partition: w.Partition(0), Offset: 1, Expires: -1}}})
	})
	w.Carry()
	fork(repairtest.Epoch+1, 999, "new")
	p, states := recovered(t, w, over)
	if p.Report.Shards[1].Forks != 1 || len(states[1].Group("new").Offsets) != 1 || len(states[1].Group("old").Offsets) != 0 {
		t.Errorf("forks %d, groups %v", p.Report.Shards[1].Forks, states[1].GroupNames())
	}
}

func TestDamagedObjectsArePassedOver(t *testing.T) {
	w := loaded(t)
	key := w.Snapshot(0)
	w.Damage(key, 20)
	w.Wipe()
	p, states := recovered(t, w)
	same(t, states[0], w.States[0])
	if len(p.Report.Shards[0].Problems) == 0 {
		t.Error("the damaged snapshot is not reported")
	}
}

func TestTopicsWithoutACopyGetNewNames(t *testing.T) {
	w := loaded(t)
	w.Topic = catalogue.Topic{Name: "young", ID: tiering.TopicID{5}, Partitions: 2}
	w.PutTopic(&w.Topic)
	w.Produce(1, 2, nil)
	w.Carry()
	w.Wipe()
	p, _ := recovered(t, w)
	name := "recovered." + w.Topic.ID.String()
	kvs, _, err := w.Meta.Get(t.Context(), w.Keys.Topic(name))
	if err != nil || len(p.Report.Renamed) != 1 {
		t.Fatalf("renamed %v, %v", p.Report.Renamed, err)
	}
	topic, err := catalogue.StoredTopic(name, kvs[0].Value, 2)
	if err != nil || topic.ID != w.Topic.ID || topic.Partitions != 2 || topic.FirstShard != 0 {
		t.Errorf("%+v, %v", topic, err)
	}
}

func TestTopicsThatWereDeletedStayDeleted(t *testing.T) {
	w := loaded(t)
	w.Copy() // deleted, and its records are not forgotten yet
	w.Wipe()
	p, _ := recovered(t, w)
	if p.Report.Topics != 0 || len(p.Report.Deleted) != 1 {
		t.Errorf("%d topics, deleted %v", p.Report.Topics, p.Report.Deleted)
	}
}

func TestARecoveryIsRefused(t *testing.T) {
	t.Run("while an agent lives", func(t *testing.T) {
		w := loaded(t)
		s, err := membership.Start(t.Context(), w.Meta, w.Keys, membership.SessionConfig{Address: "a:1"})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Close(context.WithoutCancel(t.Context())) }()
		if _, err := recovery.Prepare(t.Context(), config(w, over)); !errors.Is(err, recovery.ErrAlive) {
			t.Errorf("%v", err)
		}
	})
	t.Run("over another cluster", func(t *testing.T) {
		w := loaded(t)
		w.Wipe()
		if _, err := catalogue.EnsureCluster(t.Context(), w.Meta, w.Keys, catalogue.Want{Shards: 2}); err != nil {
			t.Fatal(err)
		}
		if _, err := recovery.Prepare(t.Context(), config(w, over)); !errors.Is(err, recovery.ErrOtherCluster) {
			t.Errorf("%v", err)
		}
	})
	t.Run("without a copy of the catalogue", func(t *testing.T) {
		w := loaded(t)
		if err := w.Objects.Delete(t.Context(), catalogue.CopyKey(w.Session, 1)); err != nil {
			t.Fatal(err)
		}
		w.Wipe()
		if _, err := recovery.Prepare(t.Context(), config(w)); !errors.Is(err, recovery.ErrNoCatalogue) {
			t.Errorf("%v", err)
		}
	})
	t.Run("when an agent has started meanwhile", func(t *testing.T) {
		w := loaded(t)
		w.Wipe()
		p, err := recovery.Prepare(t.Context(), config(w))
		if err != nil {
			t.Fatal(err)
		}
		w.Put(w.Keys.Leader(1), []byte("{}"))
		if err := p.Execute(t.Context()); !errors.Is(err, recovery.ErrMoved) {
			t.Fatalf("%v", err)
		}
		// It was cut short: no agent starts, and it can be done again.
		if _, err := catalogue.EnsureCluster(t.Context(), w.Meta, w.Keys, catalogue.Want{}); !errors.Is(err, catalogue.ErrRecovering) {
			t.Errorf("an agent starts on a cluster that is being recovered: %v", err)
		}
		if _, err := w.Meta.Txn(t.Context(), metadata.Txn{Then: []metadata.Op{metadata.Delete(w.Keys.Leader(1))}}); err != nil {
			t.Fatal(err)
		}
		_, states := recovered(t, w)
		for id := range states {
			same(t, states[id], w.States[id])
		}
	})
	t.Run("when the store does not answer", func(t *testing.T) {
		w := loaded(t)
		w.Wipe()
		down := errors.New("down")
		if _, err := recovery.Prepare(t.Context(), config(w, func(c *recovery.Config) { c.Objects = &broken{w.Objects, down} })); !errors.Is(err, down) {
			t.Errorf("%v", err)
		}
	})
}

type broken struct {
	objstore.Store
	err error
}

func (b *broken) GetRange(_ context.Context, key string, _, _ int64) ([]byte, error) {
	return nil, b.err
}
