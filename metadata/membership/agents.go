package membership

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/mirror"
	"github.com/floelog/floe/metadata/retry"
	"github.com/floelog/floe/tiering"
)

// AgentsConfig holds what Agents needs besides the store; the zero value is for
// production.
type AgentsConfig struct {
	Random    io.Reader     // safe for concurrent use; nil: crypto/rand.Reader
	Log       *slog.Logger  // nil: none
	Reconcile time.Duration // between two checks of the copy; 0: mirror.DefaultReconcile
}

// Agents is a local copy of the registrations of all live agents.
type Agents struct {
	mirror *mirror.Mirror[Agent, []Agent]
}

// NewAgents returns a copy that is empty until Run has loaded it.
func NewAgents(store metadata.Store, keys metadata.Keys, cfg AgentsConfig) *Agents {
	if cfg.Random == nil {
		cfg.Random = rand.Reader
	}
	return &Agents{mirror.New(mirror.Config[Agent, []Agent]{
		Store: store, Prefix: keys.Agents(), Name: "agents",
		Decode: decodeAgent, Fold: foldAgents,
		Pacer: retry.NewPacer(cfg.Random), Log: cfg.Log, Reconcile: cfg.Reconcile,
	})}
}

func foldAgents(old []Agent, changes []mirror.Change[Agent]) []Agent {
	agents := slices.Clone(old)
	for _, c := range changes {
		if c.Old != nil {
			agents = slices.DeleteFunc(agents, func(a Agent) bool { return a.NodeID == c.Old.NodeID })
		}
		if c.New != nil {
			agents = append(agents, *c.New)
		}
	}
	slices.SortFunc(agents, func(a, b Agent) int { return cmp.Compare(a.NodeID, b.NodeID) })
	return agents
}

// Run keeps the copy until ctx ends, whose error it returns.
func (a *Agents) Run(ctx context.Context) error { return a.mirror.Run(ctx) }

// AgentsView is all live agents at one revision of the store.
type AgentsView struct{ v *mirror.View[[]Agent] }

// View returns the newest copy.
func (a *Agents) View() AgentsView { return AgentsView{a.mirror.View()} }

// All returns the agents by ascending node id. The slice must not be modified.
func (v AgentsView) All() []Agent { return v.v.State }

// Agent returns the agent with the given node id.
func (v AgentsView) Agent(node NodeID) (Agent, bool) {
	i, ok := slices.BinarySearchFunc(v.v.State, node, func(a Agent, n NodeID) int { return cmp.Compare(a.NodeID, n) })
	if !ok {
		return Agent{}, false
	}
	return v.v.State[i], true
}

// NodeIDs returns the node ids in ascending order, as Place takes them, without those of
// agents that are leaving.
func (v AgentsView) NodeIDs() []NodeID {
	ids := make([]NodeID, 0, len(v.v.State))
	for _, a := range v.v.State {
		if !a.Leaving {
			ids = append(ids, a.NodeID)
		}
	}
	return ids
}

// Revision is the store's revision of this copy; 0 before the first load.
func (v AgentsView) Revision() int64 { return v.v.Revision }

// Changed returns a channel that is closed when a newer copy differs from this one.
func (v AgentsView) Changed() <-chan struct{} { return v.v.Changed() }

// WaitRevision waits until the copy holds what the store held at rev; revision 1 waits
// for the first load.
func (a *Agents) WaitRevision(ctx context.Context, rev int64) error {
	return a.mirror.WaitRevision(ctx, rev)
}

// Fresh returns when the copy holds at least what was in the store when it was called.
func (a *Agents) Fresh(ctx context.Context) error { return a.mirror.Fresh(ctx) }

// Sessions reads all live sessions, linearizably, for deciding which uploads can still
// be committed: those of sessions that are absent never can. It fails rather than leave
// out a session that it cannot read.
func Sessions(ctx context.Context, store metadata.Store, keys metadata.Keys) (map[tiering.SessionID]SessionState, error) {
	kvs, err := readAll(ctx, store, retry.NewPacer(rand.Reader), keys.Sessions())
	if err != nil {
		return nil, fmt.Errorf("reading the live sessions: %w", err)
	}
	sessions := make(map[tiering.SessionID]SessionState, len(kvs))
	for _, kv := range kvs {
		id, err := tiering.ParseSessionID(strings.TrimPrefix(kv.Key, keys.Sessions()))
		if err != nil {
			return nil, fmt.Errorf("key %s: %w", kv.Key, err)
		}
		if sessions[id], err = decodeSession(kv.Value); err != nil {
			return nil, fmt.Errorf("key %s: %w", kv.Key, err)
		}
	}
	return sessions, nil
}
