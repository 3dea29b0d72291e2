package recovery_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/repair/recovery"
	"github.com/floelog/floe/repair/repairtest"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
)

// topics returns the names of the topics in the metadata store.
func topics(t *testing.T, w *repairtest.World) map[string]tiering.TopicID {
	t.Helper()
	out := map[string]tiering.TopicID{}
	page, err := w.Meta.Range(t.Context(), w.Keys.Topics(), metadata.PrefixEnd(w.Keys.Topics()), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range page.KVs {
		name := kv.Key[len(w.Keys.Topics()):]
		topic, err := catalogue.StoredTopic(name, kv.Value, 2)
		if err != nil {
			t.Fatal(err)
		}
		out[name] = topic.ID
	}
	return out
}

// storeCopy stores a copy of the catalogue as of a revision.
func storeCopy(t *testing.T, w *repairtest.World, session byte, revision, producerID int64, topics ...catalogue.Topic) {
	t.Helper()
	c := catalogue.Copy{Cluster: w.Cluster, Revision: revision, ProducerID: producerID, Topics: topics}
	b, err := c.Encode()
	if err == nil {
		err = w.Objects.Put(t.Context(), catalogue.CopyKey(tiering.SessionID{session}, 1), objstore.Body{b})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// An agent that has lost the metadata store stores the copy that was due when its life ends: after
// the next leader of shard 0 has stored a newer one.
func TestACopyOfTheCatalogueThatCameLateDeletesNothing(t *testing.T) {
	w := loaded(t)
	young := catalogue.Topic{Name: "young", ID: tiering.TopicID{5}, Partitions: 1, FirstShard: 1}
	gone := catalogue.Topic{Name: "gone", ID: tiering.TopicID{6}, Partitions: 1}
	storeCopy(t, w, 2, 2000, 6000, w.Topic, young)
	storeCopy(t, w, 3, 1500, 6000, gone, w.Topic)
	w.Wipe()
	recovered(t, w)
	if got := topics(t, w); len(got) != 2 || got["young"] != young.ID || got["orders"] != w.Topic.ID {
		t.Errorf("topics %v", got)
	}
}

// Which of two copies knows more is not certain where agents ran on an etcd that was restored:
// topics that have records are never left out for it.
func TestATopicWithRecordsOfALateCopyIsKept(t *testing.T) {
	w := loaded(t)
	storeCopy(t, w, 2, 2000, 6000)
	storeCopy(t, w, 3, 1500, 6000, w.Topic)
	w.Wipe()
	p, _ := recovered(t, w)
	if got := topics(t, w); len(got) != 1 || got["orders"] != w.Topic.ID || len(p.Report.Renamed) != 0 {
		t.Errorf("topics %v, %+v", got, p.Report)
	}
}

// Revisions begin anew with the etcd that a recovery has filled.
func TestCopiesAfterARecoveryAreNewer(t *testing.T) {
	w := loaded(t)
	young := catalogue.Topic{Name: "young", ID: tiering.TopicID{5}, Partitions: 1, FirstShard: 1}
	storeCopy(t, w, 2, 2000, 6000, w.Topic, young)
	w.Wipe()
	recovered(t, w)
	storeCopy(t, w, 3, 50, 1_006_000, w.Topic)
	w.Wipe()
	recovered(t, w)
	if got := topics(t, w); len(got) != 1 || got["orders"] != w.Topic.ID {
		t.Errorf("topics %v", got)
	}
}

// failing is a metadata store that breaks off after some transactions.
type failing struct {
	metadata.Store
	left int32
}

func (f *failing) Txn(ctx context.Context, t metadata.Txn) (metadata.TxnResult, error) {
	if atomic.AddInt32(&f.left, -1) < 0 {
		return metadata.TxnResult{}, metadata.ErrInvalid
	}
	return f.Store.Txn(ctx, t)
}

// The revision of an etcd that was restored with --bump-revision is above that of any copy.
func TestARecoveryThatWasCutShortAmongTheTopicsLosesNone(t *testing.T) {
	const many = 30
	for _, left := range []int32{0, 1, 2, 3, 4, 5, 6} {
		t.Run(fmt.Sprintf("after %d transactions", left), func(t *testing.T) {
			w := loaded(t)
			backup := w.Server.Snapshot()
			all := []catalogue.Topic{w.Topic}
			for i := range many {
				all = append(all, catalogue.Topic{Name: fmt.Sprintf("young-%02d", i), ID: tiering.TopicID{5, byte(i)}, Partitions: 1})
			}
			w.Copy(all...)
			w.Server.Restore(backup)
			for range 1500 { // the restored revision is above the copy's
				w.Put(w.Keys.ProducerIDs(), []byte("9000000"))
			}
			p, err := recovery.Prepare(t.Context(), config(w, over, func(c *recovery.Config) { c.Meta = &failing{Store: w.Meta, left: left} }))
			if err != nil {
				t.Fatal(err)
			}
			if err := p.Execute(t.Context()); !errors.Is(err, metadata.ErrInvalid) {
				t.Fatalf("it was not cut short: %v", err)
			}
			recovered(t, w, over)
			got := topics(t, w)
			for _, topic := range all {
				if got[topic.Name] != topic.ID {
					t.Errorf("topic %s is gone", topic.Name)
				}
			}
			if len(got) != len(all) {
				t.Errorf("topics %v", got)
			}
		})
	}
}
