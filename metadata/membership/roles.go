package membership

import (
	"fmt"
	"slices"
	"strings"

	"github.com/floelog/floe/tiering"
)

// Role is a kind of work that an agent may be kept for. What agents without a role can do
// is never lost: where no agent has a role, all have it (see Serving).
type Role string

const (
	// RoleProduce leads shards, and so coordinates groups and transactions; clients are told
	// of agents that have it as leaders of partitions.
	RoleProduce Role = "produce"
	// RoleFetch serves reads: clients may be told of agents that have it as replicas to
	// fetch from (KIP-392).
	RoleFetch Role = "fetch"
	// RoleJobs merges, cleans and sweeps.
	RoleJobs Role = "jobs"
)

// AllRoles lists the roles, in the order in which they are named to people.
func AllRoles() []Role { return []Role{RoleProduce, RoleFetch, RoleJobs} }

// ParseRoles reads names of roles, as a setting has them. None means all. What it returns is
// in the order of AllRoles, each once, as Agent.Roles holds them.
func ParseRoles(names []string) ([]string, error) {
	var roles []string
	for _, n := range names {
		if n = strings.TrimSpace(n); n != "" && !slices.Contains(AllRoles(), Role(n)) {
			return nil, fmt.Errorf("role %q is unknown: want produce, fetch or jobs, separated by commas", n)
		}
	}
	for _, r := range AllRoles() {
		if slices.ContainsFunc(names, func(n string) bool { return strings.TrimSpace(n) == string(r) }) {
			roles = append(roles, string(r))
		}
	}
	if len(roles) == 0 {
		for _, r := range AllRoles() {
			roles = append(roles, string(r))
		}
	}
	return roles, nil
}

// Has reports whether the agent registered for a role. One that named none, as releases
// before roles did, has them all.
func (a Agent) Has(role Role) bool {
	return len(a.Roles) == 0 || slices.Contains(a.Roles, string(role))
}

// Serving returns the agents that a role's work goes to, by ascending node id: those that
// have the role and are not leaving; if there is none, all that are not leaving. While there
// is an agent of a release before roles, which would give its own answer, it is all likewise.
// Every agent that sees the same registrations computes the same.
func (v AgentsView) Serving(role Role) []Agent {
	staying := v.staying()
	if !allName(staying) {
		return staying
	}
	having := slices.DeleteFunc(slices.Clone(staying), func(a Agent) bool { return !a.Has(role) })
	if len(having) == 0 {
		return staying
	}
	return having
}

// staying returns the agents that are not leaving.
func (v AgentsView) staying() []Agent {
	agents := make([]Agent, 0, len(v.All()))
	for _, a := range v.All() {
		if !a.Leaving {
			agents = append(agents, a)
		}
	}
	return agents
}

// allName reports whether all agents are of releases that know roles, and pins.
func allName(agents []Agent) bool {
	return !slices.ContainsFunc(agents, func(a Agent) bool { return len(a.Roles) == 0 })
}

// ServingIDs returns the node ids of Serving, as Place takes them.
func (v AgentsView) ServingIDs(role Role) []NodeID {
	agents := v.Serving(role)
	ids := make([]NodeID, len(agents))
	for i, a := range agents {
		ids[i] = a.NodeID
	}
	return ids
}

// Place places the shards on the agents that serve a role; see the function Place. Pins
// count for nothing while there is an agent of a release before them: a shard that such an
// agent leaves to the one that it computes, and that one to the one that the shard is pinned
// to, would have no leader.
func (v AgentsView) Place(role Role, shards uint32, current map[tiering.ShardID]NodeID, pins Pins) map[tiering.ShardID]NodeID {
	if !allName(v.staying()) {
		pins = nil
	}
	return Place(shards, v.ServingIDs(role), current, pins)
}
