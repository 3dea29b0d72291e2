package membership_test

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/floelog/floe/metadata/membership"
	"github.com/floelog/floe/metadata/memory"
)

func TestParseRoles(t *testing.T) {
	for _, c := range []struct{ names, want string }{
		{"", "produce,fetch,jobs"}, {"produce,fetch,jobs", "produce,fetch,jobs"}, {" jobs , fetch,", "fetch,jobs"}, {"jobs,jobs", "jobs"},
	} {
		got, err := membership.ParseRoles(strings.Split(c.names, ","))
		if err != nil || strings.Join(got, ",") != c.want {
			t.Errorf("roles %q are %v (%v), want %s", c.names, got, err, c.want)
		}
	}
	if _, err := membership.ParseRoles([]string{"fetch", "compaction"}); err == nil || !strings.Contains(err.Error(), `"compaction"`) || strings.Contains(err.Error(), "\n") {
		t.Errorf("an unknown role says %v", err)
	}
}

// TestServing registers agents one by one and looks who does what.
func TestServing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := memory.New()
		defer srv.Close()
		store := srv.Client("agents")
		a := membership.NewAgents(store, keys, membership.AgentsConfig{})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- a.Run(ctx) }()
		check := func(when string, produce, fetch, jobs []membership.NodeID) {
			t.Helper()
			if err := a.Fresh(t.Context()); err != nil {
				t.Fatal(err)
			}
			for i, want := range [][]membership.NodeID{produce, fetch, jobs} {
				role := membership.AllRoles()[i]
				if got := a.View().ServingIDs(role); !slices.Equal(got, want) {
					t.Errorf("%s, %v do %s, want %v", when, got, role, want)
				}
			}
		}
		var sessions []*membership.Session
		start := func(roles ...string) {
			cfg := config(0)
			cfg.Roles = roles
			s, err := membership.Start(t.Context(), store, keys, cfg)
			if err != nil {
				t.Fatal(err)
			}
			sessions = append(sessions, s)
		}
		ids := func(n ...membership.NodeID) []membership.NodeID { return n }
		check("at first", nil, nil, nil)
		start("jobs")
		check("with one for jobs only", ids(1), ids(1), ids(1))
		start("fetch")
		check("with another for reads", ids(1, 2), ids(2), ids(1))
		start("produce", "fetch")
		check("with one that leads", ids(3), ids(2, 3), ids(1))
		if err := sessions[2].Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		check("when all that lead are leaving", ids(1, 2), ids(2), ids(1))
		pins := membership.Pins{0: {Node: 2}, 1: {Node: 2}}
		if got := a.View().Place(membership.RoleProduce, 4, nil, pins); got[0] != 2 || got[1] != 2 {
			t.Errorf("placement is %v, want shards 0 and 1 with agent 2", got)
		}
		start()
		check("with one of a release before roles", ids(1, 2, 4), ids(1, 2, 4), ids(1, 2, 4))
		if got, want := a.View().Place(membership.RoleProduce, 4, nil, pins), membership.Place(4, ids(1, 2, 4), nil, nil); !maps.Equal(got, want) {
			t.Errorf("with an agent that knows no pins, placement is %v, want %v", got, want)
		}
		for _, s := range sessions {
			mustClose(t, s)
		}
		check("at the end", nil, nil, nil)
		cancel()
		<-done
	})
}
