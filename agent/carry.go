package agent

import (
	"sync"

	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/segment"
)

// maxCarried bounds the journal records that wait for the next segment. Between two
// segments a busy agent commits some kilobytes of them; an agent that commits inline only
// meets its roll-up's size first. If more gather, because the object store is down, the
// oldest go: a recovery from the bucket then needs the next snapshot.
const maxCarried = 8 << 20

// carrier keeps the journal records that this agent has committed since its last segment,
// so that the next one carries them in its header: a cluster whose metadata store is lost
// can be rebuilt from the bucket.
type carrier struct {
	mu      sync.Mutex
	records []segment.JournalRecord
	bytes   int
}

// committed implements journal.Parts.Committed.
func (c *carrier) committed(id tiering.ShardID, seq uint64, value []byte) {
	r := segment.JournalRecord{Shard: id, Seq: seq, Bytes: value}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.records = append(c.records, r)
	c.bytes += segment.CarrySize(r)
	c.boundLocked()
}

// GiveBack keeps for the next segment what was taken for one that could not be stored.
func (c *carrier) GiveBack(records []segment.JournalRecord) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.records = append(records, c.records...)
	for _, r := range records {
		c.bytes += segment.CarrySize(r)
	}
	c.boundLocked()
}

// boundLocked lets the oldest go.
func (c *carrier) boundLocked() {
	for c.bytes > maxCarried {
		c.bytes -= segment.CarrySize(c.records[0])
		c.records = c.records[1:]
	}
}

// Take returns what has gathered, for the caller to store or to give back.
func (c *carrier) Take() []segment.JournalRecord {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := c.records
	c.records, c.bytes = nil, 0
	return out
}
