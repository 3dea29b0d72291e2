package journal_test

import (
	"bytes"
	"sync"
	"testing"

	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

var somePartition = tiering.TopicPartition{Topic: tiering.TopicID{7}}

// commitInline commits one inline batch and returns the buffer that it travelled in.
func commitInline(t *testing.T, l *journal.Leader, s tiering.SessionID, seq uint64) []byte {
	t.Helper()
	buf := bytes.Repeat([]byte{byte(seq)}, 64)
	done := make(chan error, 1)
	sub := &shard.Submission{Session: s, Seq: seq, Parts: []shard.Part{{
		Partition: somePartition, Inline: buf, Batches: []shard.Batch{{Length: 64, Count: 1, ProducerID: -1}},
	}}}
	l.Propose(&journal.Proposal{
		Session: s,
		Draft:   func(d *shard.Draft) error { _, err := d.Submit(sub); return err },
		Done:    func(_ uint64, err error) { done <- err },
	})
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return buf
}

func TestAProposersBufferIsItsOwnAgainOnceItIsAnswered(t *testing.T) {
	bubble(t, 1, func(w *world) {
		a := w.start(1)
		clear(commitInline(t, a.acquire(0), a.session.id, 1))
		a.set.View(0).Read(func(s *shard.State) {
			if got := s.Partition(somePartition).Extents[0].Inline; !bytes.Equal(got, bytes.Repeat([]byte{1}, 64)) {
				t.Errorf("the view holds %x", got)
			}
		})
	})
}

// TestReadersUseWhatTheyReadWhileTheViewMovesOn is for the race detector.
func TestReadersUseWhatTheyReadWhileTheViewMovesOn(t *testing.T) {
	bubble(t, 1, func(w *world) {
		a := w.start(1)
		l := a.acquire(0)
		v := a.set.View(0)
		var readers sync.WaitGroup
		for range 2 {
			readers.Go(func() {
				for seq := uint64(1); seq < 60; seq++ {
					if err := v.Wait(w.ctx, seq); err != nil {
						t.Error(err)
					}
					var extents []tiering.Extent
					var epochs []shard.EpochStart
					v.Read(func(s *shard.State) {
						p := s.Partition(somePartition)
						extents, epochs = p.Extents, p.Epochs
					})
					for i, e := range extents {
						if i > 0 && e.Base != extents[i-1].End() || len(epochs) != 1 {
							t.Errorf("read %+v, epochs %v", extents, epochs)
						}
					}
				}
			})
		}
		for seq := uint64(1); seq <= 40; seq++ {
			commitInline(t, l, a.session.id, seq)
			if seq%2 == 0 {
				base := tiering.Offset(seq - 2)
				done := make(chan error, 1)
				l.Propose(&journal.Proposal{
					Draft: func(d *shard.Draft) error {
						d.Add(shard.Replace{Partition: somePartition, With: []tiering.Extent{{
							Base: base, Count: 2, Length: 128, Segment: tiering.SegmentID{Session: a.session.id, Seq: seq},
						}}})
						d.Add(shard.Trim{Partition: somePartition, LogStart: base / 2})
						return nil
					},
					Done: func(_ uint64, err error) { done <- err },
				})
				if err := <-done; err != nil {
					t.Fatal(err)
				}
			}
		}
		readers.Wait()
	})
}
