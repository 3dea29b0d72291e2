// Package recovery rebuilds a cluster's keys in the metadata store: from the bucket alone, or
// from the bucket and an older state that was restored.
//
// A shard's state is its newest snapshot and the journal records after it, which segments
// carry in their headers. What was committed after the last record that is known is looked for
// in the segments themselves: a flush that no state names, and that is newer than all that are
// known of its session, may have been acknowledged, and is taken up behind each partition's end.
//
// Invariants:
//  1. Prepare writes nothing. Execute writes only what Prepare has reported.
//  2. Nothing is written while an agent's session lives, nor over keys of another cluster.
//  3. Epochs and sequence numbers go above every one that was ever seen, so that nothing an
//     older agent does is taken, and clients never see a leader epoch go back.
//  4. No object is deleted: the key gc-freeze stops all deletion before anything else is written.
//  5. An Execute that was cut short can be done again; meanwhile no agent starts.
//
// A Plan is used by one goroutine.
package recovery

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/metadata/membership"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
)

var (
	// ErrAlive says that an agent's session lives.
	ErrAlive = errors.New("an agent is alive")

	// ErrNotEmpty says that the metadata store has keys of the cluster already.
	ErrNotEmpty = errors.New("the metadata store is not empty")

	// ErrOtherCluster says that bucket and metadata store are of different clusters.
	ErrOtherCluster = errors.New("another cluster")

	// ErrNoCatalogue says that nothing tells which topics there were.
	ErrNoCatalogue = errors.New("no copy of the catalogue")

	// ErrMoved says that somebody wrote to the metadata store meanwhile.
	ErrMoved = errors.New("the metadata store has changed meanwhile")
)

const (
	// jump is how far sequence numbers go above what was seen. Smaller could meet what the bucket has
	// not told; larger wastes numbers that last for a thousand years.
	jump = 1000
	// epochJump is how far epochs go above what was seen. Smaller: a shard that changes hands without a
	// record tells the bucket nothing, and consumers could not tell the recovery from a new leader.
	// Larger: after 2,000 recoveries 31 bits are used up.
	epochJump = shard.RecoveryJump
	// producerIDJump is how far producer ids go above what was seen: ids are handed out in
	// blocks, and the catalogue's copy knows the last block of the time it was made. Smaller
	// could hand one out twice; larger is of no use.
	producerIDJump = 1_000_000
	// baseSlack is how much older than a shard's snapshot a flush may be that the snapshot does
	// not know yet. Both times are the object store's, whose nodes may differ by seconds, and which has a flush before
	// it is sequenced, and a snapshot after its state was looked at: a store that is slow to take that makes
	// it look younger than it is. Shorter would lose what was acknowledged meanwhile. Longer takes flushes up
	// again that were merged before the snapshot, where the records that name them are lost too (see
	// rebuilt.covered): a plain producer's are then there twice, an idempotent one's are recognised.
	baseSlack = 30 * time.Second
)

// Transactions tells of a transactional producer what its coordinator knows: the number of its
// transaction that is open or being ended; false if there is none of that epoch.
type Transactions func(producer int64, epoch int16) (number int64, ok bool)

// Config says what to rebuild from what.
type Config struct {
	Name    string // of the cluster
	Meta    metadata.Store
	Objects objstore.Store
	// Coordinators returns what the rows of coordinators in all states say of transactions.
	Coordinators func(states []*shard.State) Transactions
	Over         bool // keys that are there, of an older state that was restored, are taken in and written over
	Parallel     int  // requests at a time; 0: 16
	Now          func() time.Time
	Random       io.Reader
	Progress     func(stage string, done, total int64) // may be called concurrently; nil: nobody
}

// Plan is a recovery that has been prepared.
type Plan struct {
	Report Report

	cfg     Config
	keys    metadata.Keys
	session tiering.SessionID // in whose name snapshots are stored; never alive
	now     int64

	cluster    catalogue.Cluster
	id         [16]byte
	clusterKey metadata.KV // as it was read
	topics     []catalogue.Topic
	producerID int64
	shards     []*rebuilt

	revision       int64 // at which the topics were known, see catalogue.Copy
	seenProducerID int64 // the next one, as far as copies and metadata store tell
}

// Prepare reads everything that is there and works out what Execute would write.
func Prepare(ctx context.Context, cfg Config) (*Plan, error) {
	if cfg.Parallel == 0 {
		cfg.Parallel = 16
	}
	if cfg.Progress == nil {
		cfg.Progress = func(string, int64, int64) {}
	}
	ctx = objstore.WithPurpose(ctx, objstore.Check)
	p := &Plan{cfg: cfg, keys: metadata.NewKeys(cfg.Name), now: cfg.Now().UnixMilli()}
	p.Report.Cluster = cfg.Name
	if _, err := io.ReadFull(cfg.Random, p.session[:]); err != nil {
		return nil, fmt.Errorf("drawing a session: %w", err)
	}
	if err := p.survey(ctx); err != nil {
		return nil, err
	}
	return p, nil
}

// survey goes through all that is there, in order of what needs what.
func (p *Plan) survey(ctx context.Context) error {
	if err := p.vacant(ctx); err != nil {
		return err
	}
	b, err := p.list(ctx)
	if err != nil {
		return err
	}
	found, err := p.catalogue(ctx, b)
	if err != nil {
		return err
	}
	if err := p.bases(ctx, b); err != nil {
		return err
	}
	if err := p.journals(ctx); err != nil {
		return err
	}
	if err := p.headers(ctx, b); err != nil {
		return err
	}
	for _, s := range p.shards {
		s.replay()
	}
	p.nameTopics(found)
	if err := p.adopt(ctx, b); err != nil {
		return err
	}
	for _, s := range p.shards {
		if err := s.finish(p.session, p.now); err != nil {
			return err
		}
	}
	p.countProducers()
	p.conclude()
	return nil
}

// vacant demands that nobody works with the metadata store.
func (p *Plan) vacant(ctx context.Context) error {
	if err := p.nobodyLives(ctx); err != nil {
		return err
	}
	kvs, _, err := p.cfg.Meta.Get(ctx, p.keys.Cluster())
	if err != nil {
		return fmt.Errorf("reading %s: %w", p.keys.Cluster(), err)
	}
	p.clusterKey = kvs[0]
	if _, cutShort := catalogue.RecoveringID(p.clusterKey.Value); p.cfg.Over || cutShort {
		return nil
	}
	page, err := p.cfg.Meta.Range(ctx, p.keys.Root(), metadata.PrefixEnd(p.keys.Root()), 0, 1)
	if err != nil {
		return fmt.Errorf("reading %s: %w", p.keys.Root(), err)
	}
	if len(page.KVs) > 0 {
		return fmt.Errorf("%w: it has %s (if it is a backup that was restored, --force-over-restored takes it in and writes over it)", ErrNotEmpty, page.KVs[0].Key)
	}
	return nil
}

// nobodyLives demands that no agent has a session.
func (p *Plan) nobodyLives(ctx context.Context) error {
	sessions, err := membership.Sessions(ctx, p.cfg.Meta, p.keys)
	if err != nil {
		return err
	}
	for id, s := range sessions {
		return fmt.Errorf("%w: agent %d, session %s (stop all agents; the lease of one that was killed ends by itself)", ErrAlive, s.NodeID, id)
	}
	return nil
}
