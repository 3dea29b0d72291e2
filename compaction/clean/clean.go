// Package clean is log compaction: of topics with cleanup.policy=compact it keeps the newest
// record of each key, as Kafka's log cleaner does. What is kept and what goes is decided in
// compaction/clean/records; here is when, and how it gets into the log.
//
// A pass reads the part of a partition that was not compacted yet, from Partition.Cleaned to
// the last stable offset, and learns the newest offset of each key in as much memory as
// Config.Memory allows; if there are more keys, it stops there and the next pass goes on.
// Then it reads all extents up to that point and replaces those in which something has to
// go, run by run, by segments that hold the rest. Extents that stay as they are keep their
// segments.
//
// Invariants:
//  1. Runs are replaced in the order of their offsets, each only when the one before is in
//     force. So a tombstone goes only after all that it deletes, and Cleaned moves, with the
//     last replacement, only when all below it is done. A pass may end anywhere.
//  2. A replacement names the Digest of what was read: of two jobs that race for the same
//     extents one has no effect, looks again and goes on.
//  3. Which data was aborted, and where extents lie, is read in one look at the view.
//  4. The last batch below the last stable offset stays, so that readers reach their end.
//  5. Memory: Config.Memory, an extent, and a run of Config.RunBytes.
//
// Time. Kafka's rules for tombstones, compaction lags and delete horizons are rules about wall
// clocks. A horizon is written into the batch, by the clock of the agent that first compacted it,
// and obeyed by the clock of the one that drops it. An agent whose clock is fast by an hour
// thus drops tombstones an hour early, and consumers that were offline for nearly all of
// delete.retention.ms may not see them; a slow clock keeps them longer. Values of keys are
// never lost by a wrong clock. An agent whose clock disagrees with the object store's
// (Parts.Clock) compacts nothing.
//
// A Cleaner's Tick is called by one goroutine; Stats by any.
package clean

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/floelog/floe/compaction/clean/records"
	"github.com/floelog/floe/compaction/job"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
)

// Config bounds a Cleaner.
type Config struct {
	// Memory is how many bytes the keys of one pass may take, 24 of each and a fifth more.
	Memory int64
	// RunBytes is how many bytes are replaced at a time, and how large an extent becomes.
	RunBytes int64

	// A partition with fewer than MinBytes that were not compacted waits until SmallAfter has
	// passed since its last pass: each costs a PUT at least, however small the partition is.
	// max.compaction.lag.ms is kept all the same.
	MinBytes   int64
	SmallAfter time.Duration
}

// Parts are what a Cleaner works with. It needs all but those that say so.
type Parts struct {
	Journals  job.Journals
	Claims    job.Claims
	Policies  job.Policies
	Reader    job.Reader
	Manifests Manifests
	Writer    *job.Writer

	// Pace is told the bytes that are about to be read and written, and returns when there is
	// room for them; nil: at full speed.
	Pace func(ctx context.Context, bytes int64) error
	// Clock returns an error while this agent's clock is not to be believed; nil: never. It is
	// asked only when there is something to compact.
	Clock func(ctx context.Context) error
	Now   func() time.Time
	Log   *slog.Logger
}

// Manifests reads the extents that a manifest stands for, ascending, and the aborted transactions that
// have an offset of its, ascending by Last.
type Manifests interface {
	Content(ctx context.Context, tp tiering.TopicPartition, m shard.Manifest) ([]tiering.Extent, []shard.AbortedTransaction, error)
}

// Cleaner compacts the partitions of the shards that this agent claims.
type Cleaner struct {
	cfg   Config
	parts Parts
	memos map[tiering.TopicPartition]*memo
	doubt bool // the clock was not believed when last asked

	mu    sync.Mutex // guards the following
	stats Stats
}

// Stats are what a Cleaner has done since it was made.
type Stats struct {
	Passes   int64     // that came to their end
	Full     int64     // of these, that could not hold all keys
	Races    int64     // runs that another job had replaced meanwhile
	Failures int64     // passes that failed
	BytesIn  int64     // of the extents that were replaced
	BytesOut int64     // of those that took their place
	Read     int64     // bytes read
	Due      int       // partitions that were due when last looked at
	MaxDirty float64   // greatest share of a partition that was not compacted when last looked at
	LastRun  time.Time // when partitions were last looked at; zero: never
}

const (
	// failurePause and failurePauses are for how long a partition whose pass failed is left alone, the first time
	// and at most: each failure in a row doubles it. Less would read a damaged one over and over; more
	// would let a store that failed for a moment count.
	failurePause, failurePauses = 2 * time.Second, time.Minute
	// maxRaces bounds how often a pass looks again because another job was faster. Merging
	// touches an extent a few times in its life: whoever loses more often goes in circles.
	maxRaces = 16
)

// errGivenUp says that a pass has become pointless: the partition is gone, is not to be
// compacted any more, or belongs to another agent.
var errGivenUp = errors.New("the pass was given up")

// New returns a Cleaner.
func New(cfg Config, parts Parts) *Cleaner {
	if parts.Pace == nil {
		parts.Pace = func(context.Context, int64) error { return nil }
	}
	if parts.Clock == nil {
		parts.Clock = func(context.Context) error { return nil }
	}
	return &Cleaner{cfg: cfg, parts: parts, memos: map[tiering.TopicPartition]*memo{}}
}

// Stats returns what has been done.
func (c *Cleaner) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stats
}

func (c *Cleaner) count(f func(*Stats)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(&c.stats)
}

// Tick gives every partition that is due one pass, the dirtiest first. more says that some
// are due again, because they have more keys than fit in memory. The error joins those of
// the partitions whose pass failed; the others have had theirs.
func (c *Cleaner) Tick(ctx context.Context) (more bool, err error) {
	ctx = objstore.WithPurpose(ctx, objstore.Clean)
	targets, err := c.due(ctx)
	if err != nil || len(targets) == 0 {
		return false, err
	}
	if err := c.believe(ctx); err != nil || c.doubt {
		return false, err
	}
	var errs []error
	silent := map[tiering.ShardID]bool{}
	for _, t := range targets {
		if silent[t.shard] {
			continue // what is cleaned there could not be committed either
		}
		full, err := c.pass(ctx, t)
		more = more || full
		switch {
		case ctx.Err() != nil:
			return false, errors.Join(append(errs, ctx.Err())...)
		case errors.Is(err, errGivenUp):
			c.parts.Log.Debug("compaction", "partition", t.tp, "err", err)
		case err != nil:
			c.memo(t.tp).failed(c.parts.Now())
			c.count(func(s *Stats) { s.Failures++ })
			errs = append(errs, fmt.Errorf("compacting %s: %w", t.tp, err))
			silent[t.shard] = errors.Is(err, job.ErrUnanswered)
		}
	}
	return more, errors.Join(errs...)
}

// believe asks about the clock and sets doubt; it returns an error when doubt begins.
func (c *Cleaner) believe(ctx context.Context) error {
	err := c.parts.Clock(ctx)
	begins := err != nil && !c.doubt
	c.doubt = err != nil
	if begins {
		return fmt.Errorf("nothing is compacted until the clock can be believed: %w", err)
	}
	return nil
}

// look is what one look at a partition's state showed.
type look struct {
	extents []tiering.Extent // from the one asked for on, to the end of the log
	first   tiering.Offset   // where the first extent begins
	epochs  []shard.EpochStart
	moment  records.Moment
	policy  job.Policy
}

// look looks at the partition's extents from the one that holds offset from on, and at the
// aborted transactions of those that begin before to, or of the first extent if to is below it.
func (c *Cleaner) look(t target, from, to tiering.Offset) (l look, err error) {
	if err := c.stillMine(t); err != nil {
		return l, err
	}
	l.policy, _ = c.parts.Policies.Policy(t.tp.Topic)
	l.moment.Now = c.parts.Now().UnixMilli()
	known := false
	var aborted []shard.AbortedTransaction
	c.parts.Journals.View(t.shard).Read(func(s *shard.State) {
		p := s.Partition(t.tp)
		known = len(p.Extents) > 0 && len(p.Manifests) == 0
		if !known {
			return
		}
		l.first = p.Extents[0].Base
		l.extents = p.Extents[p.Find(from):]
		l.epochs = p.Epochs
		l.moment.LogStart = p.LogStart
		if len(l.extents) > 0 {
			aborted = p.AbortedIn(l.extents[0].Base, max(to, l.extents[0].End()))
		}
	})
	if !known {
		return l, fmt.Errorf("%w: nothing is there that could be compacted", errGivenUp)
	}
	l.moment.Aborted = records.NewAborted(aborted)
	return l, nil
}

// stillMine reports why a pass is not to be gone on with.
func (c *Cleaner) stillMine(t target) error {
	if p, ok := c.parts.Policies.Policy(t.tp.Topic); !ok || !p.Compact {
		return fmt.Errorf("%w: the topic is gone or no longer compacted", errGivenUp)
	}
	for _, id := range c.parts.Claims.Claimed() {
		if id == t.shard {
			return nil
		}
	}
	return fmt.Errorf("%w: shard %d is another agent's", errGivenUp, t.shard)
}

// read returns the bytes of an extent, verified.
func (c *Cleaner) read(ctx context.Context, e tiering.Extent) ([][]byte, error) {
	switch {
	case e.IsHole():
		return nil, nil
	case e.IsInline():
		return [][]byte{e.Inline}, nil
	}
	if err := c.parts.Pace(ctx, int64(e.Length)); err != nil {
		return nil, err
	}
	data, err := job.Read(ctx, c.parts.Reader, rangeOf(e), e.Base)
	if err != nil {
		return nil, fmt.Errorf("reading the extent at offset %d: %w", e.Base, err)
	}
	c.count(func(s *Stats) { s.Read += int64(e.Length) })
	return data, nil
}
