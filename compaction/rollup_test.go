package compaction_test

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/compaction"
	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/journal"
	metamemory "github.com/floelog/floe/metadata/memory"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/protocol/batch"
	"github.com/floelog/floe/tiering"
	objmemory "github.com/floelog/floe/tiering/objstore/memory"
)

type session struct {
	id    tiering.SessionID
	lease metadata.LeaseID
	lost  chan struct{}
}

func (s session) ID() tiering.SessionID   { return s.id }
func (s session) Lease() metadata.LeaseID { return s.lease }
func (session) Node() int32               { return 1 }
func (s session) Alive() bool             { return true }
func (s session) Lost() <-chan struct{}   { return s.lost }

type numbers struct {
	id  tiering.SessionID
	seq uint64
}

func (n *numbers) NextSegment() (tiering.SegmentID, func()) {
	n.seq++
	return tiering.SegmentID{Session: n.id, Seq: n.seq}, func() {}
}

// The replacements of one roll-up may be more than one journal record holds.
func TestARollUpOfVeryManyPartitionsIsCommitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		server := metamemory.New()
		keys, store, objects := metadata.NewKeys("t"), server.Client("a"), objmemory.New()
		log := slog.New(slog.DiscardHandler)
		set := journal.New(journal.Config{Keys: keys, Shards: 1}, journal.Parts{Store: store, Objects: objects, Log: log,
			Now: time.Now, Nonce: func() uint64 { return 1 }})
		ended := make(chan struct{})
		go func() { defer close(ended); _ = set.Run(ctx) }()
		<-set.Loaded()
		lease, err := store.Grant(ctx, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		s := session{tiering.SessionID{5}, lease, make(chan struct{})}
		if _, err := store.Txn(ctx, metadata.Txn{Then: []metadata.Op{metadata.PutLeased(keys.Session(s.id), []byte("x"), lease)}}); err != nil {
			t.Fatal(err)
		}
		l, err := set.Acquire(ctx, s, 0)
		if err != nil {
			t.Fatal(err)
		}
		b := batch.NewBuilder(batch.PlainFields(1000))
		b.Add(batch.Record{Value: []byte("v")})
		data, err := b.AppendTo(nil)
		if err != nil {
			t.Fatal(err)
		}
		const partitions, each = 24_000, 4_000
		for first := 0; first < partitions; first += each {
			sub := &shard.Submission{Session: s.id, Seq: uint64(first/each + 1)}
			for p := range each {
				sub.Parts = append(sub.Parts, shard.Part{Partition: tiering.TopicPartition{Topic: tiering.TopicID{1}, Partition: int32(first + p)},
					Inline: data, Batches: []shard.Batch{{Length: int32(len(data)), Count: 1, MaxTimestamp: 1000, ProducerID: -1}}})
			}
			done := make(chan error, 1)
			l.Propose(&journal.Proposal{Session: s.id, Size: 1, Done: func(_ uint64, err error) { done <- err },
				Draft: func(d *shard.Draft) error { _, err := d.Submit(sub); return err }})
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
		r := compaction.NewRollup(compaction.RollupConfig{Age: time.Minute, Bytes: 1, Cluster: [16]byte{1}}, set, &numbers{id: s.id}, objects, s.id, time.Now, log)
		if err := r.Tick(ctx); err != nil {
			t.Error(err)
		}
		set.View(0).Read(func(st *shard.State) {
			if n := st.InlineExtents(); n != 0 {
				t.Errorf("%d inline extents are left", n)
			}
		})
		cancel()
		<-ended
		server.Close()
	})
}
