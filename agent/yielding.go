package agent

import (
	"time"

	"github.com/floelog/floe/agent/fetch"
	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/tiering"
)

// yielding passes on what a journal observes, and tells the reader how long commits take, to
// which lagging consumers give way. The reader is there before the first commit.
type yielding struct {
	journal.Observer
	reader **fetch.Reader
}

// Appended implements journal.Observer.
func (y yielding) Appended(id tiering.ShardID, bytes int, took time.Duration) {
	(*y.reader).Committed(took)
	y.Observer.Appended(id, bytes, took)
}
