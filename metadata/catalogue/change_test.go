package catalogue_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/metadata/memory"
	"github.com/floelog/floe/tiering"
)

func TestChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := memory.New()
		defer srv.Close()
		c := newCatalogue(srv.Client("agent"), 1)
		defer start(t, c)()
		made := mustCreate(t, c, "a", 3)
		for n, want := range map[int32]error{0: catalogue.ErrInvalidPartitions, 2: catalogue.ErrInvalidPartitions,
			3: catalogue.ErrInvalidPartitions, catalogue.MaxPartitions + 1: catalogue.ErrInvalidPartitions} {
			if _, err := c.SetPartitions(t.Context(), "a", n); !errors.Is(err, want) {
				t.Errorf("growing to %d: %v", n, err)
			}
		}
		grown, err := c.SetPartitions(t.Context(), "a", 5)
		if err != nil || grown.Topic.Partitions != 5 || grown.Topic.ID != made.Topic.ID {
			t.Fatalf("growing: %+v, %v", grown.Topic, err)
		}
		set, err := c.AlterConfigs(t.Context(), "a", func(old map[string]string) (map[string]string, error) {
			old["k"] = "v"
			return old, nil
		})
		if err != nil || set.Topic.Configs["k"] != "v" || set.Topic.Partitions != 5 || set.Revision <= grown.Revision {
			t.Fatalf("configuring: %+v, %v", set, err)
		}
		same, err := c.AlterConfigs(t.Context(), "a", func(old map[string]string) (map[string]string, error) { return old, nil })
		if err != nil || same.Revision != set.Revision {
			t.Errorf("an alteration to the same was written: %+v, %v", same, err)
		}
		mine := errors.New("not allowed")
		if _, err := c.AlterConfigs(t.Context(), "a", func(map[string]string) (map[string]string, error) { return nil, mine }); !errors.Is(err, mine) {
			t.Errorf("the error of an alteration is %v", err)
		}
		if _, err := c.AlterConfigs(t.Context(), "a", func(map[string]string) (map[string]string, error) {
			return map[string]string{"k": strings.Repeat("x", 70_000)}, nil
		}); !errors.Is(err, catalogue.ErrConfigTooLarge) {
			t.Errorf("a large alteration: %v", err)
		}
		wait(t, c, set.Revision)
		if got, _ := c.Topic("a"); got == nil || got.Partitions != 5 || !maps.Equal(got.Configs, map[string]string{"k": "v"}) {
			t.Errorf("the catalogue has %+v", got)
		}
		gone, err := c.DeleteByID(t.Context(), made.Topic.ID)
		if err != nil || gone.Topic.Name != "a" {
			t.Fatalf("deleting by id: %+v, %v", gone, err)
		}
		wait(t, c, gone.Revision)
		if _, ok := c.TopicByID(made.Topic.ID); ok || c.View().Len() != 0 {
			t.Error("a deleted topic is still there")
		}
		for what, err := range map[string]error{
			"deleting":       errOf(c.Delete(t.Context(), "a")),
			"deleting by id": errOf(c.DeleteByID(t.Context(), made.Topic.ID)),
			"growing":        errOf(c.SetPartitions(t.Context(), "a", 9)),
			"configuring":    errOf(c.AlterConfigs(t.Context(), "a", func(m map[string]string) (map[string]string, error) { return m, nil })),
		} {
			if !errors.Is(err, catalogue.ErrTopicNotFound) {
				t.Errorf("%s a topic that is gone: %v", what, err)
			}
		}
		if again := mustCreate(t, c, "a", 1); again.Topic.ID == made.Topic.ID {
			t.Error("a topic created again has its old id")
		}
	})
}

func errOf(_ catalogue.Change, err error) error { return err }

// TestAnswersLost loses the answer to each change, applied or not: every change is made
// once and reported as made.
func TestAnswersLost(t *testing.T) {
	for _, applied := range []bool{true, false} {
		t.Run(fmt.Sprint("applied=", applied), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := memory.New()
				defer srv.Close()
				clean := srv.Client("clean")
				h := &hook{Store: srv.Client("agent")}
				lost := map[string]bool{}
				h.txn = func(_ int64, txn metadata.Txn) bool {
					id := fmt.Sprint(txn.Then)
					if lost[id] || !strings.HasPrefix(txn.Then[0].Key, keys.Topics()) {
						return false
					}
					lost[id] = true
					if applied {
						if res, err := clean.Txn(context.Background(), txn); err != nil || !res.Succeeded {
							t.Errorf("not applied: %v", err)
						}
					}
					return true
				}
				c := newCatalogue(h, 1)
				put(t, clean, keys.Topic("a"), `{"version":1,"id":"AAECAwQFBgcICQoLDA0ODw","change":"Dw4NDAsKCQgHBgUEAwIBAA","partitions":1,"replication_factor":1,"first_shard":1,"created_ms":1}`)
				if got, err := c.SetPartitions(t.Context(), "a", 4); err != nil || got.Topic.Partitions != 4 {
					t.Errorf("growing: %+v, %v", got, err)
				}
				calls := 0
				if got, err := c.AlterConfigs(t.Context(), "a", func(m map[string]string) (map[string]string, error) {
					calls++
					m["k"] = "v"
					return m, nil
				}); err != nil || got.Topic.Configs["k"] != "v" || calls != 1 {
					t.Errorf("configuring: %+v, %v after %d calls", got, err, calls)
				}
				if got, err := c.Delete(t.Context(), "a"); err != nil || got.Topic.Partitions != 4 {
					t.Errorf("deleting: %+v, %v", got, err)
				}
				if len(lost) != 3 {
					t.Errorf("%d answers were lost, want 3", len(lost))
				}
			})
		})
	}
}

// TestConcurrentAlterations lets several agents alter one topic under faults; each
// alteration must be in the result.
func TestConcurrentAlterations(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			srv := memory.New()
			defer srv.Close()
			made := mustCreate(t, newCatalogue(srv.Client("first"), 100), "a", 1)
			var wg sync.WaitGroup
			for i := range 4 {
				s := srv.Client(fmt.Sprint("agent", i))
				s.Inject(memory.Faults{Latency: 2 * time.Millisecond, FailBefore: 0.1, FailAfter: 0.15, ApplyLate: 0.15, LateBy: 3 * time.Second}, rand.New(rand.NewPCG(seed, uint64(i))))
				c := newCatalogue(s, seed*10+uint64(i))
				wg.Go(func() {
					for j := range 10 {
						if _, err := c.AlterConfigs(t.Context(), "a", func(m map[string]string) (map[string]string, error) {
							m[fmt.Sprint(i, ".", j)] = "x"
							return m, nil
						}); err != nil {
							t.Errorf("seed %d: %v", seed, err)
						}
					}
				})
			}
			wg.Wait()
			time.Sleep(5 * time.Second) // what is late arrives
			got, err := newCatalogue(srv.Client("last"), 101).Find(t.Context(), "a")
			if err != nil || len(got.Configs) != 40 || got.ID != made.Topic.ID {
				t.Errorf("seed %d: %v has %d of 40 alterations (%v)", seed, got, len(got.Configs), err)
			}
		})
	}
}

// history is everything that was ever seen of the topics, checked as it comes.
type history struct {
	t      *testing.T
	alive  map[string]tiering.TopicID // by key
	born   map[tiering.TopicID]int64  // at which revision
	parts  map[tiering.TopicID]int32
	gone   map[tiering.TopicID]bool
	change map[string]bool
}

func (h *history) see(ev metadata.Event) {
	if ev.Deleted {
		h.gone[h.alive[ev.Key]] = true
		delete(h.alive, ev.Key)
		return
	}
	var v struct {
		ID         string
		Change     string
		Partitions int32
	}
	if err := json.Unmarshal(ev.Value, &v); err != nil {
		h.t.Fatal(err)
	}
	id, err := tiering.ParseTopicID(v.ID)
	if err != nil {
		h.t.Fatal(err)
	}
	old, ok := h.alive[ev.Key]
	switch {
	case h.gone[id]:
		h.t.Errorf("%s: topic %s came back after its deletion", ev.Key, id)
	case h.change[v.Change]:
		h.t.Errorf("%s: change %s was applied twice", ev.Key, v.Change)
	case ok && old != id:
		h.t.Errorf("%s: topic %s was replaced by %s without deletion", ev.Key, old, id)
	case v.Partitions < h.parts[id]:
		h.t.Errorf("%s: from %d partitions to %d", ev.Key, h.parts[id], v.Partitions)
	}
	if _, ok := h.born[id]; !ok {
		h.born[id] = ev.Revision
	}
	h.alive[ev.Key], h.parts[id], h.change[v.Change] = id, v.Partitions, true
}

// TestChaos lets several agents create, grow and delete the same few topics while
// answers are lost and requests come late, and checks the history of the store, that
// successes are in it, and that every agent ends with the same topics.
func TestChaos(t *testing.T) {
	fired := map[memory.Fault]int{}
	for seed := range uint64(30) {
		synctest.Test(t, func(t *testing.T) { chaos(t, seed, fired) })
	}
	for _, f := range []memory.Fault{memory.FailBefore, memory.FailAfter, memory.ApplyLate, memory.WatchLoss} {
		if fired[f] == 0 {
			t.Errorf("fault %q never happened", f)
		}
	}
}

func chaos(t *testing.T, seed uint64, fired map[memory.Fault]int) {
	srv := memory.New()
	defer srv.Close()
	var mu sync.Mutex
	created, deleted := map[tiering.TopicID]bool{}, map[tiering.TopicID]bool{}
	var calls [][2]int64 // of Create: revisions before and after
	var wg sync.WaitGroup
	var agents []*catalogue.Catalogue
	for i := range 3 {
		s := srv.Client(fmt.Sprint("agent", i))
		s.Inject(memory.Faults{Latency: 2 * time.Millisecond, FailBefore: 0.1, FailAfter: 0.15, ApplyLate: 0.2, LateBy: 2 * time.Second,
			WatchLoss: 0.05, WatchLag: 0.1, WatchLagBy: time.Second}, rand.New(rand.NewPCG(seed, uint64(i))))
		c := newCatalogue(s, seed*10+uint64(i))
		agents = append(agents, c)
		defer start(t, c)()
		rnd := rand.New(rand.NewPCG(seed, 10+uint64(i)))
		wg.Go(func() {
			for range 25 {
				name := fmt.Sprint("t", rnd.IntN(3))
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(10+rnd.IntN(3000))*time.Millisecond)
				switch rnd.IntN(5) {
				case 0, 1:
					if seed%2 == 0 { // every outcome is definite
						ctx = t.Context()
					}
					began := srv.Revision()
					for _, got := range c.Create(ctx, []catalogue.NewTopic{{Name: name, Partitions: 1}, {Name: "other" + name, Partitions: 1}}) {
						if got.Err == nil {
							mu.Lock()
							created[got.Topic.ID] = true
							mu.Unlock()
						}
					}
					mu.Lock()
					calls = append(calls, [2]int64{began, srv.Revision()})
					mu.Unlock()
				case 2, 3:
					if got, err := c.Delete(ctx, name); err == nil {
						mu.Lock()
						deleted[got.Topic.ID] = true
						mu.Unlock()
					}
				case 4:
					if got, err := c.SetPartitions(ctx, name, int32(2+rnd.IntN(20))); err == nil && got.Topic.Partitions < 2 {
						t.Errorf("seed %d: grown to %d partitions", seed, got.Topic.Partitions)
					}
				}
				cancel()
				time.Sleep(time.Duration(rnd.IntN(3000)) * time.Millisecond)
			}
		})
	}
	wg.Wait()
	time.Sleep(2 * time.Minute) // what is late arrives, and everything is reconciled
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	h := &history{t, map[string]tiering.TopicID{}, map[tiering.TopicID]int64{}, map[tiering.TopicID]int32{}, map[tiering.TopicID]bool{}, map[string]bool{}}
	clean := srv.Client("clean")
	put(t, clean, keys.Topics()+"end", "")
	for b := range clean.Watch(ctx, keys.Topics(), 1) {
		if b.Err != nil {
			t.Fatal(b.Err)
		}
		for _, ev := range b.Events {
			if ev.Key == keys.Topics()+"end" {
				cancel()
			} else {
				h.see(ev)
			}
		}
	}
	for id := range created {
		if _, ok := h.parts[id]; !ok {
			t.Errorf("seed %d: topic %s was reported created and never was", seed, id)
		}
	}
	for id, rev := range h.born {
		if seed%2 == 0 && !created[id] && !slices.ContainsFunc(calls, func(c [2]int64) bool { return c[0] < rev && rev <= c[1] }) {
			t.Errorf("seed %d: topic %s was created when nobody was creating any more", seed, id)
		}
	}
	for id := range deleted {
		if !h.gone[id] {
			t.Errorf("seed %d: topic %s was reported deleted and never was", seed, id)
		}
	}
	for i, c := range agents {
		got := map[string]tiering.TopicID{}
		for topic := range c.View().Topics() {
			got[keys.Topic(topic.Name)] = topic.ID
		}
		if !maps.Equal(got, h.alive) {
			t.Errorf("seed %d: agent %d knows %v, the store has %v", seed, i, got, h.alive)
		}
	}
	for f, n := range srv.Fired() {
		fired[f] += n
	}
}
