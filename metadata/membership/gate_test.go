package membership_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/level"
	"github.com/floelog/floe/metadata/membership"
	"github.com/floelog/floe/metadata/memory"
)

// interrupted is a store that calls before ahead of its n-th transaction, counted from 1.
type interrupted struct {
	metadata.Store
	n      int
	before func()
}

func (s *interrupted) Txn(ctx context.Context, txn metadata.Txn) (metadata.TxnResult, error) {
	if s.n--; s.n == 0 {
		s.before()
	}
	return s.Store.Txn(ctx, txn)
}

// at returns the value of a cluster's key, as simple as one can be.
func at(l level.Level) []byte { return fmt.Appendf(nil, `{"version":%d}`, l) }

func stored(_ []byte, to level.Level) ([]byte, error) { return at(to), nil }

func setLevel(t *testing.T, store metadata.Store, l level.Level) {
	t.Helper()
	if _, err := store.Txn(t.Context(), metadata.Txn{Then: []metadata.Op{metadata.Put(keys.Cluster(), at(l))}}); err != nil {
		t.Fatal(err)
	}
}

// levelOf returns the level and whether the next one is announced.
func levelOf(t *testing.T, store metadata.Store) (level.Level, bool) {
	t.Helper()
	kvs, _, err := store.Get(t.Context(), keys.Cluster(), keys.LevelIntent())
	if err != nil {
		t.Fatal(err)
	}
	l, err := level.Of(kvs[0].Value)
	if err != nil {
		t.Fatal(err)
	}
	return l, kvs[1].Exists()
}

// old is the configuration of an agent that reads level 1 alone.
func old(node membership.NodeID) membership.SessionConfig {
	cfg := config(node)
	cfg.Levels = level.Range{Min: 1, Max: 1}
	return cfg
}

func TestLevelRisesOnceAllReadIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := memory.New()
		defer srv.Close()
		store := srv.Client("a")
		setLevel(t, store, 1)
		newer := mustStart(t, store, 1)
		older, err := membership.Start(t.Context(), store, keys, old(2))
		if err != nil {
			t.Fatal(err)
		}
		err = membership.RaiseLevel(t.Context(), store, keys, 2, stored)
		if l, _ := levelOf(t, store); !errors.Is(err, membership.ErrHeldBack) || !strings.Contains(err.Error(), "agent 2") || l != 1 {
			t.Errorf("raised beside an agent that reads level 1 only: level %d, %v", l, err)
		}
		mustClose(t, older)
		if err := membership.RaiseLevel(t.Context(), store, keys, 2, stored); err != nil {
			t.Error(err)
		}
		if l, announced := levelOf(t, store); l != 2 || announced {
			t.Errorf("level %d, announced %v, want 2 and nothing", l, announced)
		}
		if err := membership.RaiseLevel(t.Context(), store, keys, 1, stored); err != nil {
			t.Error(err)
		}
		if l, _ := levelOf(t, store); l != 2 {
			t.Errorf("the level fell to %d", l)
		}
		_, err = membership.Start(t.Context(), store, keys, old(2))
		if !errors.Is(err, membership.ErrLevel) || !strings.Contains(err.Error(), "run a release of floe that reads level 2") || strings.Contains(err.Error(), "\n") {
			t.Errorf("an agent that reads level 1 only started on level 2: %v", err)
		}
		mustClose(t, newer)
	})
}

// TestLevelDoesNotRisePastOneThatRegisters has an agent that reads level 1 only register between
// any two steps of a rise: either it is refused, or the level stays.
func TestLevelDoesNotRisePastOneThatRegisters(t *testing.T) {
	for step := 1; step <= 2; step++ {
		synctest.Test(t, func(t *testing.T) {
			srv := memory.New()
			defer srv.Close()
			store := srv.Client("a")
			setLevel(t, store, 1)
			var late *membership.Session
			during := &interrupted{srv.Client("b"), step, func() {
				var err error
				if late, err = membership.Start(t.Context(), store, keys, old(7)); err != nil {
					t.Fatal(err)
				}
			}}
			err := membership.RaiseLevel(t.Context(), during, keys, 2, stored)
			if l, _ := levelOf(t, store); !errors.Is(err, membership.ErrHeldBack) || l != 1 {
				t.Errorf("before step %d an agent of level 1 registered, and the level is %d: %v", step, l, err)
			}
			mustClose(t, late)
		})
	}
}

// TestALateAnnouncementBringsNothingBack has an attempt to announce the level be applied after another one was answered
// and an agent that does not read the level has registered.
func TestALateAnnouncementBringsNothingBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := memory.New()
		defer srv.Close()
		store := srv.Client("a")
		setLevel(t, store, 1)
		var older *membership.Session
		during := &replaying{Store: srv.Client("b"), between: func() {
			var err error
			if older, err = membership.Start(t.Context(), store, keys, old(7)); err != nil {
				t.Fatal(err)
			}
		}}
		err := membership.RaiseLevel(t.Context(), during, keys, 2, stored)
		if l, _ := levelOf(t, store); !errors.Is(err, membership.ErrHeldBack) || l != 1 || during.replayed != 1 {
			t.Errorf("an agent of level 1 lives, and the level is %d: %v", l, err)
		}
		mustClose(t, older)
		if err := membership.RaiseLevel(t.Context(), store, keys, 2, stored); err != nil {
			t.Error(err)
		}
		if l, announced := levelOf(t, store); l != 2 || announced {
			t.Errorf("level %d, announced %v, want 2 and nothing", l, announced)
		}
	})
}

// replaying is a store that applies its first transaction once more ahead of the second, after between.
type replaying struct {
	metadata.Store
	between  func()
	first    *metadata.Txn
	replayed int
}

func (s *replaying) Txn(ctx context.Context, txn metadata.Txn) (metadata.TxnResult, error) {
	if s.first == nil {
		s.first = &txn
	} else if s.replayed++; s.replayed == 1 {
		s.between()
		if _, err := s.Store.Txn(ctx, *s.first); err != nil {
			return metadata.TxnResult{}, err
		}
	}
	return s.Store.Txn(ctx, txn)
}

// TestAgentNoticesThatTheLevelRose has the level rise after a registration has looked at it.
func TestAgentNoticesThatTheLevelRose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := memory.New()
		defer srv.Close()
		store := srv.Client("a")
		setLevel(t, store, 1)
		during := &interrupted{srv.Client("b"), 1, func() {
			if err := membership.RaiseLevel(t.Context(), store, keys, 2, stored); err != nil {
				t.Error(err)
			}
		}}
		if s, err := membership.Start(t.Context(), during, keys, old(3)); !errors.Is(err, membership.ErrLevel) {
			t.Errorf("the level rose while it registered: %v, %v", s, err)
		}
		if a, err := membership.Start(t.Context(), store, keys, config(3)); err != nil {
			t.Errorf("an agent that reads it: %v", err)
		} else {
			mustClose(t, a)
		}
	})
}

// TestAgentsOfOlderReleasesReadLevelOne reads a registration that names no levels.
func TestAgentsOfOlderReleasesReadLevelOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := memory.New()
		defer srv.Close()
		store := srv.Client("a")
		setLevel(t, store, 1)
		value := []byte(`{"version":1,"session":"000102030405060708090a0b0c0d0e0f","address":"h:1","ttl_ms":5000,"release":"0.1"}`)
		if _, err := store.Txn(t.Context(), metadata.Txn{Then: []metadata.Op{metadata.Put(keys.Agent(4), value)}}); err != nil {
			t.Fatal(err)
		}
		err := membership.RaiseLevel(t.Context(), store, keys, 2, stored)
		if !errors.Is(err, membership.ErrHeldBack) || !strings.Contains(err.Error(), "agent 4 (release 0.1)") {
			t.Errorf("raised beside an agent of an older release: %v", err)
		}
	})
}
