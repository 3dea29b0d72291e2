package membership_test

import (
	"maps"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/floelog/floe/metadata/membership"
	"github.com/floelog/floe/metadata/memory"
)

// The addresses of further listeners are registered by their names; an agent without any
// registers what releases before there were listeners did.
func TestListenersAreRegistered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := memory.New()
		defer srv.Close()
		store := srv.Client("a")
		cfg := config(1)
		cfg.Listeners = map[string]string{"outside": "kafka.example:9443", "inside": "10.0.0.1:9092"}
		with, err := membership.Start(t.Context(), store, keys, cfg)
		if err != nil {
			t.Fatal(err)
		}
		without := mustStart(t, store, 2)
		agents := membership.NewAgents(store, keys, membership.AgentsConfig{})
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = agents.Run(t.Context())
		}()
		if err := agents.WaitRevision(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		if a, ok := agents.View().Agent(1); !ok || !maps.Equal(a.Listeners, cfg.Listeners) || !maps.Equal(with.Agent().Listeners, cfg.Listeners) {
			t.Errorf("agent 1 is %+v, want listeners %v", a, cfg.Listeners)
		}
		if err := with.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := agents.Fresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		if a, _ := agents.View().Agent(1); !a.Leaving || !maps.Equal(a.Listeners, cfg.Listeners) {
			t.Errorf("agent 1 leaves as %+v, want listeners %v", a, cfg.Listeners)
		}
		if a, ok := agents.View().Agent(2); !ok || a.Listeners != nil {
			t.Errorf("agent 2 is %+v, want no listeners", a)
		}
		kvs, _, err := store.Get(t.Context(), keys.Agent(2))
		if err != nil || strings.Contains(string(kvs[0].Value), "listeners") {
			t.Errorf("agent 2 registers %s (%v)", kvs[0].Value, err)
		}
		mustClose(t, with)
		mustClose(t, without)
		srv.Close()
	})
}
