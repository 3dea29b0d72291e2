package journal

import "github.com/floelog/floe/metadata"

// Held demands, as a condition of a transaction, that this leadership still stands: for
// what only the leader of a shard may write beside its journal.
func (l *Leader) Held() metadata.Condition {
	return metadata.Equals(l.set.cfg.Keys.Leader(l.id), l.value)
}

// Waiting returns how many proposals wait for a record.
func (l *Leader) Waiting() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.queue)
}
