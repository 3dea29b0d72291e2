// Package fsck checks that a cluster is whole: every extent points to bytes that exist, with
// their checksums; offsets are dense; nothing is unnamed for longer than it may be.
//
// Invariants:
//  1. It writes nothing, and does not disturb a cluster that runs.
//  2. What looks wrong is looked at again, against a newer state of its shard, before it is
//     reported: a running cluster moves while it is checked.
//  3. An error says that the check could not be made; damage is a finding, never an error.
//  4. Requests under way, and chunks in memory, are bounded by Config.Parallel.
//
// Run may be called concurrently.
package fsck

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/metadata/membership"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
)

// ErrNoCluster says that the metadata store holds no cluster of that name.
var ErrNoCluster = errors.New("no such cluster")

// Config says what to check.
type Config struct {
	Name     string // of the cluster
	Meta     metadata.Store
	Objects  objstore.Store
	Deep     bool          // read and verify every byte that is named
	Parallel int           // segments and shards at a time; 0: 8
	Bound    time.Duration // how long an object may be without a name; 0: DefaultBound
	Now      func() time.Time
	// Coordinators says what is wrong with the rows of the groups and transactional ids of a
	// shard; nil: rows are only counted.
	Coordinators func(id tiering.ShardID, s *shard.State) []error
	// Progress hears how far a stage has come; it may be called concurrently. nil: nobody.
	Progress func(stage string, done, total int64)
}

// DefaultBound is how long an object may be without a name before it counts as forgotten.
// Shorter: merged segments within the grace for late readers, and those that carry journal
// records, are called garbage that nobody sweeps. Longer: a sweeper that does not work is
// noticed later.
const DefaultBound = 24 * time.Hour

// checker is one check under way.
type checker struct {
	Config
	keys    metadata.Keys
	cluster catalogue.Cluster
	id      [16]byte // of the cluster
	topics  map[tiering.TopicID]*catalogue.Topic
	report  Report

	mu sync.Mutex // guards report.Checked and progress while goroutines work
}

// Run checks the cluster.
func Run(ctx context.Context, cfg Config) (*Report, error) {
	if cfg.Parallel == 0 {
		cfg.Parallel = 8
	}
	if cfg.Bound == 0 {
		cfg.Bound = DefaultBound
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Progress == nil {
		cfg.Progress = func(string, int64, int64) {}
	}
	c := &checker{Config: cfg, keys: metadata.NewKeys(cfg.Name)}
	ctx = objstore.WithPurpose(ctx, objstore.Check)
	if err := c.run(ctx); err != nil {
		return nil, err
	}
	c.report.finish()
	return &c.report, nil
}

func (c *checker) run(ctx context.Context) error {
	if err := c.identify(ctx); err != nil {
		return err
	}
	// Before everything else: what a session could still commit now may be named later.
	before, err := membership.Sessions(ctx, c.Meta, c.keys)
	if err != nil {
		return err
	}
	oldest, some, err := journal.Uncovered(ctx, c.Meta, c.keys, c.cluster.Shards)
	if err != nil {
		some, oldest = true, 0 // a journal that cannot be read is damage, found below; nothing is garbage then
	}
	all := make([]tiering.ShardID, c.cluster.Shards)
	for i := range all {
		all[i] = tiering.ShardID(i)
	}
	first, err := c.load(ctx, all)
	if err != nil {
		return err
	}
	suspects, err := c.segments(ctx, first.segments)
	if err != nil {
		return err
	}
	named := first.names()
	if len(first.findings)+len(suspects) > 0 {
		if err := c.settle(ctx, first, suspects, named); err != nil {
			return err
		}
	}
	return c.unnamed(ctx, named, before, uncovered{oldest, some})
}

// looks is how often what looks wrong is looked at, each time against newer states, before it is
// reported. Fewer: what a cluster merged and deleted between the reading of its states and that of its
// objects is called damage. More: damage costs as many reads more.
const looks = 3

// settle looks at everything again that looked wrong, with newer states, and reports what
// still does.
func (c *checker) settle(ctx context.Context, first *world, suspects map[tiering.SegmentID][]Finding, named *names) error {
	c.report.Rechecked = len(suspects)
	totals := c.report.Checked
	at := first
	for range looks {
		again := slices.Collect(maps.Keys(at.findings))
		for id := range suspects {
			for _, r := range at.segments[id] {
				again = append(again, r.shard)
			}
		}
		slices.Sort(again)
		next, err := c.load(ctx, slices.Compact(again))
		if err != nil {
			return err
		}
		left := map[tiering.SegmentID][]ref{}
		for id := range suspects {
			if refs := next.segments[id]; len(refs) > 0 {
				left[id] = refs
			}
		}
		if suspects, err = c.segments(ctx, left); err != nil {
			return err
		}
		named.add(next.names())
		if at = next; len(at.findings)+len(suspects) == 0 {
			break
		}
	}
	for _, id := range slices.Sorted(maps.Keys(at.findings)) {
		c.report.add(at.findings[id])
	}
	for _, fs := range suspects {
		c.report.add(fs)
	}
	c.report.Checked = totals
	return nil
}

// identify reads who the cluster is and which topics it has.
func (c *checker) identify(ctx context.Context) error {
	kvs, _, err := c.Meta.Get(ctx, c.keys.Cluster(), c.keys.GCFreeze())
	if err != nil {
		return fmt.Errorf("reading %s: %w", c.keys.Cluster(), err)
	}
	if !kvs[0].Exists() {
		return fmt.Errorf("%w: %s is not in this metadata store", ErrNoCluster, c.Name)
	}
	if c.cluster, err = catalogue.StoredCluster(kvs[0]); err != nil {
		return err
	}
	if c.id, err = tiering.ParseTopicID(c.cluster.ID); err != nil {
		return fmt.Errorf("cluster id: %w", err)
	}
	c.report = Report{Cluster: c.Name, ClusterID: c.cluster.ID, Deep: c.Deep, Frozen: kvs[1].Exists(), Findings: []Finding{}, Unnamed: []Class{}}
	c.topics = map[tiering.TopicID]*catalogue.Topic{}
	from, end := c.keys.Topics(), metadata.PrefixEnd(c.keys.Topics())
	for more := true; more; {
		p, err := c.Meta.Range(ctx, from, end, 0, 1000)
		if err != nil {
			return fmt.Errorf("reading the topics: %w", err)
		}
		for _, kv := range p.KVs {
			name := kv.Key[len(c.keys.Topics()):]
			t, err := catalogue.StoredTopic(name, kv.Value, c.cluster.Shards)
			if err != nil {
				c.report.add([]Finding{{Damage, "topic", 0, name, -1, -1, -1, kv.Key, err.Error(), remedyReport}})
				continue
			}
			c.topics[t.ID] = &t
			from = kv.Key + "\x00"
		}
		if n := len(p.KVs); n > 0 {
			from = p.KVs[n-1].Key + "\x00"
		}
		more = p.More
	}
	c.report.Checked.Shards, c.report.Checked.Topics = int(c.cluster.Shards), len(c.topics)
	return nil
}

// each calls f for every element, a bounded number at a time, and tells of the progress.
func each[T any](ctx context.Context, c *checker, stage string, all []T, f func(context.Context, T) error) error {
	g, work := errgroup.WithContext(ctx)
	g.SetLimit(c.Parallel)
	done, total := int64(0), int64(len(all))
	c.Progress(stage, 0, total)
	for _, x := range all {
		if work.Err() != nil {
			break
		}
		g.Go(func() error {
			err := f(work, x)
			c.mu.Lock()
			done++
			at := done
			c.mu.Unlock()
			c.Progress(stage, at, total)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

// count adds to the totals.
func (c *checker) count(f func(*Totals)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(&c.report.Checked)
}

// topicName returns how to name a topic, and whether it is known.
func (c *checker) topicName(id tiering.TopicID) (string, bool) {
	if t := c.topics[id]; t != nil {
		return t.Name, true
	}
	return id.String(), false
}
