package catalogue_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/metadata/memory"
	"github.com/floelog/floe/tiering"
)

func TestCreateOutcomes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := memory.New()
		defer srv.Close()
		c := newCatalogue(srv.Client("agent"), 1)
		defer start(t, c)()
		wait(t, c, mustCreate(t, c, "old.topic", 1).Revision)
		cases := []struct {
			topic catalogue.NewTopic
			want  error
		}{
			{catalogue.NewTopic{Name: "a", Partitions: 3, Configs: map[string]string{"cleanup.policy": "compact"}}, nil},
			{catalogue.NewTopic{Name: "a", Partitions: 3}, catalogue.ErrTopicExists},
			{catalogue.NewTopic{Name: "old.topic", Partitions: 3}, catalogue.ErrTopicExists},
			{catalogue.NewTopic{Name: "old_topic", Partitions: 3}, catalogue.ErrInvalidTopic},
			{catalogue.NewTopic{Name: "x.y", Partitions: 1}, nil},
			{catalogue.NewTopic{Name: "x_y", Partitions: 1}, catalogue.ErrInvalidTopic},
			{catalogue.NewTopic{Name: "", Partitions: 1}, catalogue.ErrInvalidTopic},
			{catalogue.NewTopic{Name: "b", Partitions: 0}, catalogue.ErrInvalidPartitions},
			{catalogue.NewTopic{Name: "d", Partitions: catalogue.MaxPartitions + 1}, catalogue.ErrInvalidPartitions},
			{catalogue.NewTopic{Name: "c", Partitions: 1, Configs: map[string]string{"k": strings.Repeat("x", 70_000)}}, catalogue.ErrConfigTooLarge},
			{catalogue.NewTopic{Name: "e", Partitions: catalogue.MaxPartitions}, nil},
		}
		var topics []catalogue.NewTopic
		for _, tc := range cases {
			topics = append(topics, tc.topic)
		}
		ids := map[tiering.TopicID]bool{}
		var rev int64
		for i, got := range c.Create(t.Context(), topics) {
			tc := cases[i]
			if !errors.Is(got.Err, tc.want) || (tc.want == nil) != (got.Err == nil) {
				t.Errorf("creating %.20q with %d partitions: %v, want %v", tc.topic.Name, tc.topic.Partitions, got.Err, tc.want)
			}
			if got.Err != nil {
				continue
			}
			if ids[got.Topic.ID] || got.Topic.Name != tc.topic.Name || got.Topic.FirstShard != catalogue.FirstShard(got.Topic.ID, 64) {
				t.Errorf("created %+v", got.Topic)
			}
			ids[got.Topic.ID] = true
			rev = max(rev, got.Revision)
		}
		wait(t, c, rev)
		if a, ok := c.Topic("a"); !ok || a.Partitions != 3 || a.Configs["cleanup.policy"] != "compact" {
			t.Errorf("topic a is %+v", a)
		}
		if n := c.View().Len(); n != 4 {
			t.Errorf("there are %d topics, want 4", n)
		}
	})
}

func TestCreateManyTopics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := memory.New()
		defer srv.Close()
		h := &hook{Store: srv.Client("agent"), latency: time.Millisecond}
		c := newCatalogue(h, 1)
		defer start(t, c)()
		wait(t, c, mustCreate(t, c, "t05000", 1).Revision)
		before := h.txns.Load()
		var topics []catalogue.NewTopic
		for i := range 10_000 {
			topics = append(topics, catalogue.NewTopic{Name: fmt.Sprintf("t%05d", i), Partitions: 1})
		}
		began := time.Now()
		created, rev := 0, int64(0)
		for i, got := range c.Create(t.Context(), topics) {
			switch {
			case got.Err == nil:
				created++
				rev = max(rev, got.Revision)
			case i != 5000 || !errors.Is(got.Err, catalogue.ErrTopicExists):
				t.Fatalf("topic %d: %v", i, got.Err)
			}
		}
		if d := time.Since(began); d > time.Second {
			t.Errorf("took %v at 1 ms per transaction, want well under 1 s", d)
		}
		if n := h.txns.Load() - before; n > 100 {
			t.Errorf("took %d transactions, want about 80", n)
		}
		if n := h.most.Load(); n > 8 {
			t.Errorf("%d transactions were in flight, want 8 at most", n)
		}
		wait(t, c, rev)
		if n := c.View().Len(); created != 9_999 || n != 10_000 {
			t.Errorf("created %d of 9,999, the catalogue has %d", created, n)
		}
	})
}

func TestCreateLargeConfigsFitTransactions(t *testing.T) {
	srv := memory.New()
	defer srv.Close()
	c := newCatalogue(srv.Client("agent"), 1)
	var topics []catalogue.NewTopic
	for i := range 40 {
		topics = append(topics, catalogue.NewTopic{Name: fmt.Sprint("t", i), Partitions: 1,
			Configs: map[string]string{"k": strings.Repeat("x", 60_000)}})
	}
	for _, got := range c.Create(t.Context(), topics) {
		if got.Err != nil {
			t.Fatal(got.Err)
		}
	}
}

// isCreation reports whether a transaction puts a topic.
func isCreation(txn metadata.Txn) bool {
	return len(txn.Then) > 0 && !txn.Then[0].Delete && strings.HasPrefix(txn.Then[0].Key, keys.Topics())
}

// TestLateCreationCannotBringATopicBack lets the first attempt of a creation go without an
// answer and applies it after the topic has been created by the second and deleted.
func TestLateCreationCannotBringATopicBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := memory.New()
		defer srv.Close()
		var late []metadata.Txn
		h := &hook{Store: srv.Client("agent")}
		h.txn = func(_ int64, txn metadata.Txn) bool {
			if isCreation(txn) && len(late) == 0 {
				late = append(late, txn)
				return true
			}
			return false
		}
		c := newCatalogue(h, 1)
		mustCreate(t, c, "a", 1)
		if _, err := c.Delete(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		if len(late) != 1 {
			t.Fatalf("%d attempts went without an answer, want 1", len(late))
		}
		res, err := h.Store.Txn(t.Context(), late[0])
		if err != nil || res.Succeeded {
			t.Errorf("the late attempt was applied (%v): a deleted topic is back", err)
		}
	})
}

// TestAnswerLostAfterCreation applies the attempt, but loses its answer: the topic is
// this creation's own.
func TestAnswerLostAfterCreation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := memory.New()
		defer srv.Close()
		clean := srv.Client("clean")
		h := &hook{Store: srv.Client("agent")}
		lost := 0
		h.txn = func(_ int64, txn metadata.Txn) bool {
			if lost > 0 || !isCreation(txn) {
				return false
			}
			lost++
			if res, err := clean.Txn(context.Background(), txn); err != nil || !res.Succeeded {
				t.Errorf("the attempt was not applied: %v", err)
			}
			return true
		}
		c := newCatalogue(h, 1)
		made := mustCreate(t, c, "a", 1)
		found, err := c.Find(t.Context(), "a")
		if err != nil || found.ID != made.Topic.ID || lost != 1 {
			t.Errorf("created %v, found %v (%v) after %d lost answers", made.Topic, found, err, lost)
		}
	})
}

// TestGivenUpCreationIsEnded gives a creation up without an answer: Run moves the fence,
// so that it cannot be applied for ever after.
func TestGivenUpCreationIsEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := memory.New()
		defer srv.Close()
		var late []metadata.Txn
		var up atomic.Bool
		h := &hook{Store: srv.Client("agent")}
		h.txn = func(_ int64, txn metadata.Txn) bool {
			if !up.Load() && isCreation(txn) {
				late = append(late, txn)
			}
			return !up.Load()
		}
		c := newCatalogue(h, 1)
		defer start(t, c)()
		wait(t, c, 1)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		got := c.Create(ctx, []catalogue.NewTopic{{Name: "a", Partitions: 1}})[0]
		if !errors.Is(got.Err, context.DeadlineExceeded) || len(late) == 0 {
			t.Fatalf("outcome is %v after %d attempts, want that time is up", got.Err, len(late))
		}
		synctest.Wait()
		up.Store(true)
		time.Sleep(10 * time.Second)
		for _, txn := range late {
			if res, err := h.Store.Txn(t.Context(), txn); err != nil || res.Succeeded {
				t.Errorf("an attempt that was given up has been applied (%v)", err)
			}
		}
	})
}
