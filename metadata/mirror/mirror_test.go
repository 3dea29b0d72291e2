package mirror_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/memory"
	"github.com/floelog/floe/metadata/mirror"
	"github.com/floelog/floe/metadata/retry"
)

const prefix = "/t/"

// source is randomness for concurrent use, the same for every run.
type source struct {
	mu  sync.Mutex
	rnd *rand.ChaCha8
}

func newSource(seed uint64) *source {
	return &source{rnd: rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})}
}

func (s *source) Read(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rnd.Read(b)
}

type strMirror = mirror.Mirror[string, map[string]string]

func newMirror(store metadata.Store) *strMirror {
	return mirror.New(mirror.Config[string, map[string]string]{
		Store: store, Prefix: prefix, Name: "tests",
		Decode: func(_ string, value []byte) (string, error) {
			if strings.HasPrefix(string(value), "bad") {
				return "", errors.New("bad value")
			}
			return string(value), nil
		},
		Fold: func(old map[string]string, changes []mirror.Change[string]) map[string]string {
			m := maps.Clone(old)
			if m == nil {
				m = map[string]string{}
			}
			for _, c := range changes {
				if c.Old != nil && m[c.Key] != *c.Old {
					panic(fmt.Sprintf("%s: change from %q, state has %q", c.Key, *c.Old, m[c.Key]))
				}
				if c.New == nil {
					delete(m, c.Key)
				} else {
					m[c.Key] = *c.New
				}
			}
			return m
		},
		Pacer: retry.NewPacer(newSource(1)),
	})
}

// start runs the mirror until the test ends.
func start(t *testing.T, m *strMirror) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- m.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v, want that it was canceled", err)
		}
	}
}

func put(t *testing.T, s metadata.Store, key, value string) int64 {
	t.Helper()
	res, err := s.Txn(t.Context(), metadata.Txn{Then: []metadata.Op{metadata.Put(prefix+key, []byte(value))}})
	if err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
	return res.Revision
}

func del(t *testing.T, s metadata.Store, key string) int64 {
	t.Helper()
	res, err := s.Txn(t.Context(), metadata.Txn{Then: []metadata.Op{metadata.Delete(prefix + key)}})
	if err != nil {
		t.Fatalf("delete %s: %v", key, err)
	}
	return res.Revision
}

func want(t *testing.T, m *strMirror, state map[string]string) {
	t.Helper()
	if got := m.View().State; !maps.Equal(got, state) {
		t.Fatalf("state is %v, want %v", got, state)
	}
}

func wait(t *testing.T, m *strMirror, rev int64) {
	t.Helper()
	if err := m.WaitRevision(t.Context(), rev); err != nil {
		t.Fatalf("waiting for revision %d: %v", rev, err)
	}
}

// counting counts the reads of the whole prefix and can make watches blind.
type counting struct {
	metadata.Store
	lists atomic.Int64
	blind atomic.Bool // new events are dropped
}

func (c *counting) Range(ctx context.Context, from, end string, rev int64, limit int) (metadata.Page, error) {
	if rev == 0 {
		c.lists.Add(1)
	}
	return c.Store.Range(ctx, from, end, rev, limit)
}

func (c *counting) Watch(ctx context.Context, p string, rev int64) <-chan metadata.WatchBatch {
	in, out := c.Store.Watch(ctx, p, rev), make(chan metadata.WatchBatch)
	go func() {
		defer close(out)
		for b := range in {
			if c.blind.Load() {
				continue
			}
			select {
			case out <- b:
			case <-ctx.Done():
			}
		}
	}()
	return out
}

func TestFollowsChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := memory.New()
		defer srv.Close()
		s := srv.Client("test")
		put(t, s, "a", "1")
		m := newMirror(srv.Client("mirror"))
		defer start(t, m)()
		wait(t, m, 1)
		want(t, m, map[string]string{"a": "1"})

		v := m.View()
		if _, err := s.Txn(t.Context(), metadata.Txn{Then: []metadata.Op{metadata.Put("/other", nil)}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		select {
		case <-v.Changed():
			t.Fatal("a change outside the prefix counts as a change")
		default:
		}
		rev := put(t, s, "b", "2")
		<-v.Changed()
		wait(t, m, rev)
		want(t, m, map[string]string{"a": "1", "b": "2"})
		wait(t, m, del(t, s, "a"))
		want(t, m, map[string]string{"b": "2"})
		if got := v.State; !maps.Equal(got, map[string]string{"a": "1"}) {
			t.Errorf("an old view changed to %v", got)
		}
	})
}

func TestLoadsManyPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := memory.New()
		defer srv.Close()
		s := srv.Client("test")
		all := map[string]string{}
		for i := range 2500 {
			key := fmt.Sprintf("%05d", i)
			all[key] = "v"
			put(t, s, key, "v")
		}
		m := newMirror(srv.Client("mirror"))
		defer start(t, m)()
		wait(t, m, 1)
		want(t, m, all)
	})
}

func TestUnreadableValueKeepsTheOldOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := memory.New()
		defer srv.Close()
		s := srv.Client("test")
		put(t, s, "a", "1")
		put(t, s, "b", "bad 1")
		m := newMirror(srv.Client("mirror"))
		defer start(t, m)()
		wait(t, m, 1)
		wait(t, m, put(t, s, "a", "bad 2"))
		want(t, m, map[string]string{"a": "1"})
		if got := m.View().Unreadable; !slices.Equal(got, []string{"a", "b"}) {
			t.Fatalf("unreadable are %q, want a and b", got)
		}
		v := m.View()
		wait(t, m, del(t, s, "b"))
		<-v.Changed()
		wait(t, m, put(t, s, "a", "3"))
		want(t, m, map[string]string{"a": "3"})
		if got := m.View().Unreadable; len(got) != 0 {
			t.Fatalf("unreadable are %q, want none", got)
		}
		put(t, s, "a", "bad 4")
		wait(t, m, del(t, s, "a"))
		want(t, m, map[string]string{})
	})
}

func TestSurvivesCompaction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := memory.New()
		defer srv.Close()
		s, c := srv.Client("test"), srv.Client("mirror")
		put(t, s, "a", "1")
		put(t, s, "gone", "1")
		m := newMirror(c)
		defer start(t, m)()
		wait(t, m, 1)
		c.Partition()
		synctest.Wait()
		put(t, s, "a", "2")
		del(t, s, "gone")
		rev := put(t, s, "b", "1")
		if err := s.Compact(t.Context(), rev); err != nil {
			t.Fatal(err)
		}
		srv.BreakWatches()
		time.Sleep(10 * time.Second)
		c.Heal()
		wait(t, m, rev)
		want(t, m, map[string]string{"a": "2", "b": "1"})
	})
}

func TestReconcilesWhatTheWatchLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := memory.New()
		defer srv.Close()
		s := srv.Client("test")
		c := &counting{Store: srv.Client("mirror")}
		m := newMirror(c)
		defer start(t, m)()
		wait(t, m, 1)
		c.blind.Store(true)
		v := m.View()
		put(t, s, "a", "1")
		began := time.Now()
		<-v.Changed()
		if d := time.Since(began); d > mirror.DefaultReconcile {
			t.Errorf("a lost event was repaired after %v, want at most %v", d, mirror.DefaultReconcile)
		}
		want(t, m, map[string]string{"a": "1"})
	})
}

func TestWaitRevisionAsksTheStoreInTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := memory.New()
		defer srv.Close()
		s := srv.Client("test")
		c := &counting{Store: srv.Client("mirror")}
		m := newMirror(c)
		defer start(t, m)()
		wait(t, m, 1)
		c.blind.Store(true)
		began := time.Now()
		wait(t, m, put(t, s, "a", "1"))
		want(t, m, map[string]string{"a": "1"})
		if d := time.Since(began); d > 2*time.Second {
			t.Errorf("took %v with a blind watch, want about a second", d)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if err := m.WaitRevision(ctx, 1<<40); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("waiting for a revision that never comes: %v", err)
		}
	})
}

func TestFreshIsSharedAndBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := memory.New()
		defer srv.Close()
		s := srv.Client("test")
		c := &counting{Store: srv.Client("mirror")}
		m := newMirror(c)
		defer start(t, m)()
		wait(t, m, 1)
		c.blind.Store(true)
		time.Sleep(2 * time.Second)
		before := c.lists.Load()
		began := time.Now()
		var wg sync.WaitGroup
		for i := range 200 {
			wg.Go(func() {
				key := fmt.Sprint("k", i)
				put(t, s, key, "v")
				if err := m.Fresh(t.Context()); err != nil {
					t.Errorf("Fresh: %v", err)
				}
				if m.View().State[key] != "v" {
					t.Errorf("Fresh returned without %s, which was there before", key)
				}
			})
		}
		wg.Wait()
		if n := c.lists.Load() - before; n > 3 {
			t.Errorf("200 callers cost %d reads of the prefix, want them shared", n)
		}
		if d := time.Since(began); d > 3*time.Second {
			t.Errorf("took %v, want about a second", d)
		}
	})
}

func TestFollowsARestoredStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := memory.New()
		defer srv.Close()
		s := srv.Client("test")
		put(t, s, "a", "1")
		backup := srv.Snapshot()
		m := newMirror(srv.Client("mirror"))
		defer start(t, m)()
		put(t, s, "a", "2")
		wait(t, m, put(t, s, "b", "2"))
		v := m.View()
		srv.Restore(backup)
		<-v.Changed()
		want(t, m, map[string]string{"a": "1"})
		if got := m.View().Revision; got >= v.Revision {
			t.Errorf("revision is %d, want one before %d, as the store's", got, v.Revision)
		}
		v = m.View()
		put(t, s, "c", "3")
		<-v.Changed()
		want(t, m, map[string]string{"a": "1", "c": "3"})
	})
}

func TestStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := memory.New()
		defer srv.Close()
		m := newMirror(srv.Client("mirror"))
		start(t, m)()
		if err := m.Fresh(t.Context()); !errors.Is(err, mirror.ErrStopped) {
			t.Errorf("Fresh after the end of Run: %v", err)
		}
		if err := m.WaitRevision(t.Context(), 1<<40); !errors.Is(err, mirror.ErrStopped) {
			t.Errorf("WaitRevision after the end of Run: %v", err)
		}
	})
}

// TestConverges changes keys at random while everything goes wrong for the mirror, and
// demands that every view is consistent (newMirror's Fold checks that) and the last right.
func TestConverges(t *testing.T) {
	fired := map[memory.Fault]int{}
	for seed := range uint64(40) {
		synctest.Test(t, func(t *testing.T) {
			srv := memory.New()
			defer srv.Close()
			s, c := srv.Client("test"), srv.Client("mirror")
			c.Inject(memory.Faults{Latency: 50 * time.Millisecond, FailBefore: 0.2, FailAfter: 0.1,
				WatchLag: 0.3, WatchLagBy: 2 * time.Second, WatchLoss: 0.1}, rand.New(rand.NewPCG(seed, 1)))
			m := newMirror(c)
			defer start(t, m)()
			rnd := rand.New(rand.NewPCG(seed, 2))
			truth := map[string]string{}
			var rev int64
			for i := range 300 {
				key := fmt.Sprint("k", rnd.IntN(20))
				if rnd.IntN(3) == 0 {
					delete(truth, key)
					rev = del(t, s, key)
				} else {
					truth[key] = fmt.Sprint("v", i)
					rev = put(t, s, key, truth[key])
				}
				if rnd.IntN(10) == 0 {
					time.Sleep(time.Duration(rnd.Int64N(int64(5 * time.Second))))
				}
				if rnd.IntN(40) == 0 {
					if err := s.Compact(t.Context(), rev); err != nil {
						t.Fatal(err)
					}
				}
			}
			wait(t, m, rev)
			want(t, m, truth)
			for f, n := range srv.Fired() {
				fired[f] += n
			}
		})
	}
	for _, f := range []memory.Fault{memory.Latency, memory.FailBefore, memory.FailAfter, memory.WatchLag, memory.WatchLoss} {
		if fired[f] == 0 {
			t.Errorf("fault %q never happened", f)
		}
	}
}
