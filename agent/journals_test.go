package agent_test

import (
	"context"
	"encoding/binary"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/agent"
	"github.com/floelog/floe/agent/peer"
	"github.com/floelog/floe/compaction/job"
	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/manifest"
	"github.com/floelog/floe/tiering/objstore"
)

// What another agent's job wants changed is committed in that agent's name, or not at all.
func TestChangesOfAnotherAgentsJobs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		a := c.start("a", 1, c.objects)
		c.ready(a)
		topic := c.topic(a, "x")
		b, done := c.send(a, topic, 0)
		<-done
		live, dead := tiering.SessionID{7}, tiering.SessionID{8}
		if _, err := a.meta.Txn(t.Context(), metadata.Txn{Then: []metadata.Op{metadata.Put(keys.Session(live), []byte("x"))}}); err != nil {
			t.Fatal(err)
		}
		body := func(session tiering.SessionID, change shard.Change) []byte {
			encoded, err := shard.EncodeChanges([]shard.Change{change}, shard.RecordVersion)
			if err != nil {
				t.Fatal(err)
			}
			return append(append(session[:], 0, 1, 'x'), encoded...)
		}
		trim := shard.Trim{Partition: b.Partition, LogStart: 1}
		logStart := func() (at tiering.Offset) {
			a.ReadShard(b.Shard, func(s *shard.State) { at = s.Partition(b.Partition).LogStart })
			return at
		}
		for name, c := range map[string]struct {
			body []byte
			want error
		}{
			"no session":   {body(tiering.SessionID{}, trim), metadata.ErrInvalid},
			"no value":     {append(live[:len(live):len(live)], 0, 0, 'x'), metadata.ErrInvalid},
			"cut off":      {body(live, trim)[:17], metadata.ErrInvalid},
			"no changes":   {body(live, trim)[:20], metadata.ErrInvalid},
			"dead session": {body(dead, trim), metadata.ErrSessionDead},
		} {
			if _, err := a.AnswerHere(t.Context(), peer.Question{Shard: b.Shard, Kind: "change", Body: c.body}); !errors.Is(err, c.want) {
				t.Errorf("%s: %v, want %v", name, err, c.want)
			}
		}
		over, end := context.WithCancel(t.Context())
		end()
		if _, err := a.AnswerHere(over, peer.Question{Shard: b.Shard, Kind: "change", Body: body(live, trim)}); err == nil {
			t.Error("a question that nobody waits for was answered")
		}
		synctest.Wait()
		if at := logStart(); at != 0 {
			t.Fatalf("what was refused moved the log start to %d", at)
		}
		answer, err := a.AnswerHere(t.Context(), peer.Question{Shard: b.Shard, Kind: "change", Body: body(live, trim)})
		if err != nil || len(answer) != 8 {
			t.Fatalf("answer % x, %v", answer, err)
		}
		var seq uint64
		a.ReadShard(b.Shard, func(s *shard.State) { seq = s.Seq })
		if at := logStart(); at != 1 || binary.BigEndian.Uint64(answer) != seq {
			t.Errorf("log start %d, the answer names record %d of %d", at, binary.BigEndian.Uint64(answer), seq)
		}
		c.end(a)
	})
}

// echo is a way to other agents that keeps the last change that it brought.
type echo struct {
	peers
	last *peer.Question
}

func (e echo) Ask(ctx context.Context, addr string, q peer.Question) ([]byte, error) {
	if q.Kind == "change" {
		*e.last = q
	}
	return e.peers.Ask(ctx, addr, q)
}

// A copy of a question that the network delivers hours later finds the very run that it names,
// because the manifest was turned back into its extents, and the manifest swept away.
func TestAChangeThatComesAfterTheSweepIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		var asked peer.Question
		a := c.start("a", 1, c.objects)
		b := c.startWith("b", 2, c.objects, func(_ *agent.Config, p *agent.Parts) { p.Peers = echo{peers{c}, &asked} })
		c.ready(a)
		c.ready(b)
		time.Sleep(5 * time.Second)
		topic := c.topic(a, "x")
		delivered := 0
		for p := range int32(numShards) {
			tp, id := tiering.TopicPartition{Topic: topic.ID, Partition: p}, tiering.ShardOf(topic.FirstShard, p, numShards)
			for range 3 {
				c.sendLarge(a, topic, p)
			}
			synctest.Wait()
			state := func() (extents []tiering.Extent, manifests int) {
				a.ReadShard(id, func(s *shard.State) {
					extents, manifests = s.Partition(tp).Extents, len(s.Partition(tp).Manifests)
				})
				return extents, manifests
			}
			extents, _ := state()
			number, done := b.NextSegment()
			data, err := manifest.Encode(manifest.Manifest{ID: number, Partition: tp, Extents: extents})
			if err != nil {
				t.Fatal(err)
			}
			if err := c.objects.Put(t.Context(), number.ManifestKey(), objstore.Body{data}); err != nil {
				t.Fatal(err)
			}
			asked = peer.Question{}
			if err := b.JobJournals().Change(t.Context(), id, shard.Archive{Partition: tp, Of: shard.DigestOf(extents), Manifest: shard.ManifestOf(number, int32(len(data)), extents)}); err != nil {
				t.Fatal(err)
			}
			late := asked
			if late.Kind == "" { // b leads the shard itself
				done()
				continue
			}
			var of uint64
			a.ReadShard(id, func(s *shard.State) { of, _ = s.Partition(tp).Digest(extents[0].Base, extents[len(extents)-1].End()) })
			if _, n := state(); n != 1 {
				t.Fatalf("%d manifests after they were archived", n)
			}
			if err := b.JobJournals().Change(t.Context(), id, shard.Replace{Partition: tp, Of: of, With: extents}); err != nil {
				t.Fatal(err)
			}
			done()
			time.Sleep(rest)
			if _, err := c.objects.Head(t.Context(), number.ManifestKey()); !errors.Is(err, objstore.ErrNotFound) {
				t.Errorf("the manifest was not swept away: %v", err)
			}
			if now, _ := state(); shard.DigestOf(now) != shard.DigestOf(extents) {
				t.Fatalf("the extents are not what they were: %+v", now)
			}
			if _, err := a.AnswerHere(t.Context(), late); !errors.Is(err, metadata.ErrConflict) {
				t.Errorf("the late copy was answered with %v, want ErrConflict", err)
			}
			synctest.Wait()
			if now, n := state(); n != 0 || len(now) != len(extents) {
				t.Errorf("after the late copy there are %d manifests and %d extents", n, len(now))
			}
			delivered++
		}
		if delivered == 0 {
			t.Error("no question went to another agent")
		}
		c.end(a, b)
	})
}

// A shard that nobody leads does not hold up an agent's jobs for ever, and numbers whose changes
// were not answered hold up no watermark.
func TestAShardWithoutALeaderHoldsNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		a := c.start("a", 1, c.objects)
		c.ready(a)
		topic := c.topic(a, "x")
		b, done := c.send(a, topic, 0)
		<-done
		hang := func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		}
		a.hooked.appends.Store(&hang)
		start := time.Now()
		err := a.JobJournals().Change(t.Context(), b.Shard, shard.Trim{Partition: b.Partition, LogStart: 1})
		if took := time.Since(start); !errors.Is(err, job.ErrUnanswered) || took > 20*time.Second {
			t.Errorf("%v after %v, want ErrUnanswered", err, took)
		}
		a.hooked.appends.Store(nil)
		c.end(a)
	})
}
