package diagnosis

import (
	"fmt"
	"slices"
	"strings"
)

var fleetRows = []Kind{
	{
		Name: "clock_skew", Severity: Warning, Title: "clocks differ", Unit: Seconds, Bound: maxSkew.Seconds(),
		Measures: "least difference between this agent's clock and another agent's, an etcd member's or the object store's",
		Why:      "Records get wrong timestamps and are deleted too early or late; beyond five minutes nothing is deleted by its age.",
		Advice:   "run chrony or ntpd on every machine", Runbook: "FloeClockInDoubt",
		measure: func(s *Snapshot, reading func(string, float64)) {
			for _, a := range s.Agents {
				if a.Asked && !a.Silent {
					reading(fmt.Sprintf("against agent %d", a.Node), seconds(a.Skew.Abs()))
				}
			}
			for _, m := range s.Members {
				if m.Failed == "" {
					reading("against etcd "+m.Name, seconds(m.Skew.Abs()))
				}
			}
			if s.Levels.StoreSkewMeasured {
				reading("against the object store", seconds(s.Levels.StoreSkew.Abs()))
			}
		},
	},
	{
		Name: "clock_in_doubt", Severity: Critical, Title: "nothing is deleted by its age", Unit: Yes, Bound: 0,
		Measures: "whether the clock differs from the object store's by more than five minutes",
		Why:      "Retention by time has stopped: the bucket grows, and records stay that should be gone.",
		Advice:   "set the clock of this machine", Runbook: "FloeClockInDoubt",
		measure: func(s *Snapshot, reading func(string, float64)) { reading("", yes(s.Levels.ClockInDoubt)) },
	},
	{
		Name: "agent_silent", Shared: true, Severity: Warning, Title: "an agent does not answer other agents", Unit: Yes, Bound: 0,
		Measures: "whether a registered agent fails to answer this one's question",
		Why:      "Batches for shards that it leads cannot be sequenced from here, and their producers wait.",
		Settings: []string{"rpc-addr", "rpc-advertise"}, Advice: "open rpc-addr between agents, and give an rpc-advertise that others can reach", Runbook: "agent_silent",
		measure: func(s *Snapshot, reading func(string, float64)) {
			for _, a := range s.Agents {
				if a.Asked {
					reading(fmt.Sprintf("agent %d", a.Node), yes(a.Silent))
				}
			}
		},
	},
	{
		Name: "versions_mixed", Shared: true, Severity: Info, Title: "agents of several versions run", Unit: Number, Bound: 1,
		Measures: "versions among the registered agents",
		Why:      "They understand each other; what only the newer one has is not to be relied on before all have it.",
		Advice:   "finish the upgrade", Runbook: "versions_mixed",
		measure: func(s *Snapshot, reading func(string, float64)) {
			versions := s.distinct(func(a Agent) string { return a.Version })
			reading(strings.Join(versions, ", "), float64(len(versions)))
		},
	},
	{
		Name: "zones_incomplete", Shared: true, Severity: Warning, Title: "agents without a zone run beside agents with one", Unit: Number, Bound: 0,
		Measures: "agents without a zone, where others have one",
		Why:      "No client is near them, and whatever they serve crosses zones.",
		Settings: []string{"zone"}, Advice: "give every agent its zone", Runbook: "zones_incomplete",
		measure: func(s *Snapshot, reading func(string, float64)) {
			if len(s.distinct(func(a Agent) string { return a.Zone })) == 0 {
				return
			}
			var without []string
			for _, a := range s.Agents {
				if a.Zone == "" {
					without = append(without, fmt.Sprintf("agent %d", a.Node))
				}
			}
			reading(strings.Join(without, ", "), float64(len(without)))
		},
	},
	{
		Name: "leadership_uneven", Severity: Info, Title: "this agent leads more shards than its share", Unit: Number, Bound: 2,
		Measures: "shards that this agent led throughout the last minute, as a multiple of an even share of them",
		Why:      "What the shards cost falls on one agent.",
		Advice:   "look in the other agents' logs why they do not take theirs; they may be starting", Runbook: "leadership_uneven",
		measure: func(s *Snapshot, reading func(string, float64)) {
			if s.Levels.Leading > 1 && s.Levels.Shards >= s.Levels.Leading {
				reading("", s.Levels.Led/(s.Levels.Shards/s.Levels.Leading))
			}
		},
	},
	{
		Name: "leadership_unsteady", Severity: Warning, Title: "leadership moves again and again", Unit: Number, Bound: 3,
		Measures: "takeovers of this agent within ten minutes, as a multiple of the cluster's shards",
		Why:      "Each move costs the shard's clients some tenths of a second.",
		Settings: []string{"lease-ttl"}, Advice: "look for agents that start and end, and for sessions that are lost", Runbook: "FloeLeadershipUnsteady",
		measure: func(s *Snapshot, reading func(string, float64)) {
			if s.Levels.Shards > 0 {
				reading("", s.Lately.Takeovers/s.Levels.Shards)
			}
		},
	},
	{
		Name: "shards_leaderless", Shared: true, Severity: Critical, Title: "shards have no leader", Unit: Number, Bound: 0,
		Measures: "shards that had no leader throughout the last minute, as this agent sees it",
		Why:      "Nothing can be produced to their partitions, and their groups and transactions stand still.",
		Settings: []string{"lease-ttl"}, Advice: "look whether etcd answers; the agents' logs say why they cannot take over", Runbook: "FloeShardsWithoutLeader",
		measure: func(s *Snapshot, reading func(string, float64)) { reading("", s.Levels.Leaderless) },
	},
}

// distinct returns what the agents have, sorted, each once, without what is empty.
func (s *Snapshot) distinct(of func(Agent) string) []string {
	var all []string
	for _, a := range s.Agents {
		if v := of(a); v != "" {
			all = append(all, v)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}
