package agent

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
	"github.com/floelog/floe/tiering/segment"
)

const (
	// maxCarried bounds the journal records that wait for the next segment. Between two
	// segments a busy agent commits some kilobytes of them; an agent that commits inline only
	// meets carry-age first. If more gather, because the object store is down, the oldest go: a
	// recovery from the bucket then needs the next snapshot.
	maxCarried = 8 << 20

	// carryEvery is how often it is looked whether records have waited for long enough. Looking
	// costs nothing.
	carryEvery = 500 * time.Millisecond

	// carryTimeout bounds one attempt to store records that wait. Longer would hold up an agent
	// that drains; shorter would give up on a slow store.
	carryTimeout = 10 * time.Second
)

// carrier keeps the journal records that this agent has committed since its last segment,
// so that the next one carries them in its header: a cluster whose metadata store is lost
// can be rebuilt from the bucket.
type carrier struct {
	mu      sync.Mutex
	records []segment.JournalRecord
	bytes   int
	since   time.Time // when the oldest was committed; of no meaning without records
	hurried bool      // the metadata store is in trouble: what waits is stored now
}

// committed implements journal.Parts.Committed.
func (c *carrier) committed(id tiering.ShardID, seq uint64, value []byte) {
	r := segment.JournalRecord{Shard: id, Seq: seq, Bytes: value}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.records) == 0 {
		c.since = time.Now()
	}
	c.records = append(c.records, r)
	c.bytes += segment.CarrySize(r)
	c.boundLocked()
}

// GiveBack keeps for the next segment what was taken for one that could not be stored.
func (c *carrier) GiveBack(records []segment.JournalRecord) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.records) == 0 && len(records) > 0 {
		c.since = time.Now()
	}
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
	c.records, c.bytes, c.hurried = nil, 0, false
	return out
}

// hurry asks for what waits to be stored at once: the metadata store does not answer, and
// may not come back.
func (c *carrier) hurry() {
	c.mu.Lock()
	c.hurried = true
	c.mu.Unlock()
}

// due reports whether records have waited for age, or are wanted at once.
func (c *carrier) due(now time.Time, age time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.records) > 0 && (c.hurried || now.Sub(c.since) >= age)
}

// troubled passes on what a journal observes, and hurries the carrier when the metadata
// store left an append without an answer.
type troubled struct {
	journal.Observer
	carrier *carrier
}

// UnknownOutcome implements journal.Observer.
func (t troubled) UnknownOutcome(id tiering.ShardID) {
	t.carrier.hurry()
	t.Observer.UnknownOutcome(id)
}

// segmentNumbers reserves segment numbers of a session; see produce.Pipeline.
type segmentNumbers interface {
	NextSegment() (id tiering.SegmentID, done func())
}

// carry stores records that no segment took along in time, in one without chunks. An agent
// that commits nothing stores nothing.
func (a *Agent) carry(ctx context.Context, l *life) {
	look := time.NewTicker(carryEvery)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-look.C:
			if !a.carrier.due(now, a.cfg.CarryAge) {
				continue
			}
		}
		if err := a.storeCarried(ctx, l.pipeline); err != nil && ctx.Err() == nil {
			a.parts.Log.Warn("journal records wait to be stored in the bucket; they are tried again", "err", err)
		}
	}
}

// storeCarried stores all records that wait; nothing where none do. It may follow the end of
// the session: nothing names the segment, whose header is all that counts.
func (a *Agent) storeCarried(ctx context.Context, numbers segmentNumbers) error {
	records := a.carrier.Take()
	if len(records) == 0 {
		return nil
	}
	id, done := numbers.NextSegment()
	defer done() // nothing ever names it
	built, err := segment.Build(segment.Header{ID: id, CreatedAt: time.Now().UnixMilli(), Cluster: a.clusterID, Carry: records}, nil)
	if err == nil {
		ctx, cancel := context.WithTimeout(objstore.WithPurpose(ctx, objstore.Carry), carryTimeout)
		defer cancel()
		err = a.parts.Objects.Put(ctx, id.Key(), built.Body)
	}
	if err != nil {
		a.carrier.GiveBack(records)
		return fmt.Errorf("storing %d journal records in segment %s: %w", len(records), id, err)
	}
	return nil
}

// lastWords bounds what a life that has lost its session stores at its end: the next one waits
// for it, and takes over what could not be stored.
const lastWords = 2 * time.Second

// storeLast stores what waits when a life ends, in whatever way: the metadata store may be
// lost, and then it is nowhere else. It does so although ctx has ended.
func (a *Agent) storeLast(ctx context.Context, l *life, patience time.Duration) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	if err := a.storeCarried(ctx, l.pipeline); err != nil {
		a.parts.Log.Warn("journal records could not be stored in the bucket; a recovery without the metadata store would miss them", "err", err)
	}
}
