package membership_test

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/level"
	"github.com/floelog/floe/metadata/membership"
	"github.com/floelog/floe/metadata/memory"
)

func TestAgents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := memory.New()
		defer srv.Close()
		a := membership.NewAgents(srv.Client("watcher"), keys, membership.AgentsConfig{})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- a.Run(ctx) }()
		if err := a.WaitRevision(t.Context(), 1); err != nil || len(a.View().All()) != 0 {
			t.Fatalf("at first there are %v (%v)", a.View().All(), err)
		}
		second, dying := mustStart(t, srv.Client("second"), 2), srv.Client("dying")
		first := mustStart(t, dying, 1)
		if err := a.Fresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		v := a.View()
		if !slices.Equal(v.NodeIDs(), []membership.NodeID{1, 2}) {
			t.Fatalf("agents are %v, want 1 and 2", v.NodeIDs())
		}
		want := membership.Agent{NodeID: 2, Session: second.ID(), Address: "host2:9092", RPCAddress: "10.0.0.1:9644", Zone: "z1",
			Version: "1.2.3", Roles: []string{"kafka"}, TTL: ttl, Levels: level.Own()}
		if got, ok := v.Agent(2); !ok || !reflect.DeepEqual(got, want) || !reflect.DeepEqual(got, second.Agent()) {
			t.Errorf("agent 2 is %+v, want %+v", got, want)
		}
		if _, ok := v.Agent(3); ok {
			t.Error("there is an agent 3")
		}
		dying.Partition()
		began := time.Now()
		<-v.Changed()
		if d := time.Since(began); d > ttl+time.Second || !slices.Equal(a.View().NodeIDs(), []membership.NodeID{2}) || first.Alive() {
			t.Errorf("after %v, agents are %v", d, a.View().NodeIDs())
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v", err)
		}
		dying.Heal()
		mustClose(t, first)
		mustClose(t, second)
	})
}

// FuzzRecords feeds values to both decoders, through the functions that read them.
func FuzzRecords(f *testing.F) {
	for _, v := range []string{
		`{"version":1,"session":"000102030405060708090a0b0c0d0e0f","address":"h:1","ttl_ms":5000}`,
		`{"version":1,"node_id":3,"low_watermark":18446744073709551615}`,
		`{"version":2}`, `{"version":1,"session":"xx"}`, `{"ttl_ms":-1}`, `null`, ``, `[]`,
	} {
		f.Add([]byte(v))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		if len(value) > metadata.MaxTxnBytes/4 {
			return
		}
		srv := memory.New()
		defer srv.Close()
		s := srv.Client("test")
		session := keys.Sessions() + "000102030405060708090a0b0c0d0e0f"
		if _, err := s.Txn(t.Context(), metadata.Txn{Then: []metadata.Op{metadata.Put(keys.Agent(1), value), metadata.Put(session, value)}}); err != nil {
			t.Fatal(err)
		}
		if got, err := membership.Sessions(t.Context(), s, keys); (err == nil) != (len(got) == 1) {
			t.Errorf("sessions are %v, %v", got, err)
		}
		a := membership.NewAgents(s, keys, membership.AgentsConfig{})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- a.Run(ctx) }()
		if err := a.WaitRevision(ctx, 1); err != nil {
			t.Fatal(err)
		}
		for _, agent := range a.View().All() {
			if agent.NodeID != 1 || agent.TTL < 0 || agent.TTL > time.Hour {
				t.Errorf("accepted %+v", agent)
			}
		}
		cancel()
		<-done
	})
}
