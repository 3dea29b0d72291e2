package agent

import (
	"github.com/floelog/floe/compaction/job"
	"github.com/floelog/floe/tiering"
)

// JobJournals returns the journals as the jobs of the agent's present life see them.
func (a *Agent) JobJournals() job.Journals { return a.current.Load().jobs.journals }

// NextSegment reserves a segment number of the agent's present life.
func (a *Agent) NextSegment() (tiering.SegmentID, func()) {
	return a.current.Load().pipeline.NextSegment()
}
