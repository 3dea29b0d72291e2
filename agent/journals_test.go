package agent_test

import (
	"context"
	"encoding/binary"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/floelog/floe/agent/peer"
	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
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
			encoded, err := shard.EncodeChanges([]shard.Change{change})
			if err != nil {
				t.Fatal(err)
			}
			return append(session[:], encoded...)
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
			"cut off":      {body(live, trim)[:20], metadata.ErrInvalid},
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
