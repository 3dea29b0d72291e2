package agent

import "github.com/floelog/floe/compaction/job"

// JobJournals returns the journals as the jobs of the agent's present life see them.
func (a *Agent) JobJournals() job.Journals { return a.current.Load().jobs.journals }
