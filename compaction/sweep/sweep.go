// Package sweep deletes from the object store what nothing names any more: mark and sweep,
// with no clock in its safety. One agent runs it, the leader of shard 0; that two do so for a
// while costs requests only. A Sweeper is used by one goroutine.
//
// Invariants (DESIGN chapter 6, RELIABILITY I16 and I17):
//  1. No object is deleted that a state, a manifest that a state names, or a snapshot pointer
//     names, or may ever name.
//  2. In doubt nothing is deleted: not in this sweep, of no object.
//  3. What nothing names is deleted once its session is dead or has moved its upload low
//     watermark beyond it, and two sweeps that are Config.Grace apart have seen it so.
//
// # Why the order makes it safe
//
// A sweep reads, in this order and each step completely before the next:
//
//	sessions   S0: which sessions live, and their upload low watermarks
//	LIST       the objects that there are
//	sessions   S1, again
//	heads      and then waits until the views hold all that was committed before
//	states     of every shard, and the manifests that they name
//
// Take a listed object that no state names, and whose session is absent from S1 or has a
// watermark above the object's number there.
//
// It will not be named for the first time. A journal record that names an object first is
// proposed in the name of the object's session, and its append demands that this session
// lives: that also holds for submissions, replacements and archives on their way to a remote
// leader, and for transactions whose outcome is unknown. The session began before it stored the
// object, so before LIST; absent from S1 it is dead, for ever, and no such append succeeds
// after S1. (Reading the sessions only before LIST would take one that is born in between for
// dead.) A watermark above the object says that its record was committed or never will be:
// the append of a job's change demands the value that the session's key had when it was asked for,
// which holds the watermark and never comes again; submissions are known by their numbers.
// What was committed before S1 is in the views, because their heads were read after S1.
//
// It will not be named again. Records that name objects of other sessions, such as an Archive
// that moves extents into a manifest or a Replace that moves them back, name by a digest what
// is there at that moment, in the same partition. So from S1 on the names of such objects only
// vanish, partition by partition, and it does not matter that shards are looked at one after
// the other. Extents and the manifest that takes their place change in one record, so
// whoever looks at a state sees the name in one of both places.
//
// So what is garbage once is garbage for ever, and a deletion may come as late as it likes: by
// a sweeper that slept, by a request that the network held back. A PUT that arrives late makes
// an object that is garbage, to be found by a later sweep. The grace spares readers whose
// views lag a second try; safety does not need it.
//
// Snapshots: a pointer only moves to an object while the session in its key leads the shard,
// in a transaction that compares the pointer it replaces, and to a greater seq. So an object
// that is neither current nor previous is garbage if its session is dead, or if the pointer's
// seq is not below its own.
//
// # What voids the argument, and how it is noticed
//
// A metadata store that is restored from a backup takes sessions, watermarks and states back:
// what the bucket has beyond it looks like garbage, and `floe recover` may want it. Before a
// planned restore the operator puts Keys.GCFreeze. One that nobody planned is noticed by
//
//   - a head that lies behind what this process has seen, or behind a view;
//   - a snapshot whose seq lies beyond its shard's head, or that is not what the journal adds
//     up to at its seq (snapshots.go);
//   - a mark of a sweep in the bucket that the metadata store does not know (marks.go), which
//     finds every restore to before the last sweep, and also an empty metadata store;
//   - objects that are named, and gone.
//
// Then the sweeper puts Keys.GCFreeze itself, so that it does not forget when time goes on,
// and says what to do. What remains: a restore to after the last sweep and the last snapshots.
//
// LIST may lie (RELIABILITY F22). What it leaves out is not deleted. If it leaves out an object
// that is named and was there before S0, the sweep is in doubt; so it is if pages overlap, if
// keys have an unknown form, or if an object is shorter than what is named of it. A second
// cluster in the same bucket would look like garbage to the first: each leaves a mark, and a
// sweeper that sees another's deletes nothing.
package sweep

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/floelog/floe/compaction/job"
	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/metadata/membership"
	"github.com/floelog/floe/metadata/retry"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
)

// Shards are the cluster's shards as this process sees them; journal.Set implements it.
type Shards interface {
	NumShards() uint32
	View(id tiering.ShardID) *journal.View
	Sync(ctx context.Context, ids ...tiering.ShardID) error
}

// Config is what a Sweeper needs to know.
type Config struct {
	Keys    metadata.Keys
	Cluster string        // the cluster's id, as in catalogue.Cluster
	Grace   time.Duration // between the first sweep that sees an object as garbage and its deletion
	DryRun  bool          // nothing is deleted, marked or frozen
	Window  int           // objects that are held in memory at a time; 0: DefaultWindow
	// SparseAge is for how long a segment must have been there to be called sparse: half an hour
	// at most, after which a cluster that rests is swept for the last time.
	SparseAge time.Duration
}

// DefaultWindow is how many listed objects are held in memory at a time, some 100 bytes
// each. Smaller: manifests of large clusters are read more often, once per window. Larger:
// more memory than a small agent has to spare.
const DefaultWindow = 1 << 19

const (
	// maxGarbage bounds what is remembered as garbage, some 150 bytes each; what is more waits
	// for the next sweep. Smaller would not keep up with a hundred agents' flushes.
	maxGarbage = 1 << 18
	// maxOthers bounds the snapshots, copies and marks that are listed. There are some hundred.
	maxOthers = 1 << 18
	// readTime bounds each step that reads the metadata store or waits for the views: longer
	// than an election, shorter than what would look like a sweeper that hangs.
	readTime = time.Minute
	// settleAfter is when a cluster that rests is swept once more, for uploads that arrive late.
	// A request that is held back for longer is found when something changes.
	settleAfter = 30 * time.Minute
	// skew is how far the clocks of agents and of the object store may lie apart before an
	// object that carries journal records could be deleted too early for a recovery. Clusters
	// with a shorter grace want their garbage gone sooner.
	skew = 5 * time.Minute
)

// Parts are the components that a Sweeper works with.
type Parts struct {
	Meta      metadata.Store
	Objects   objstore.Store
	Shards    Shards
	Manifests job.Manifests
	Now       func() time.Time // with its monotonic reading, which the grace is measured by
	Nonce     func() uint64    // random
	Log       *slog.Logger
	Observe   func(*Report)  // hears of every sweep; nil: nobody
	Garbage   func(Object)   // hears of every object that is garbage, in every sweep; nil: nobody
	Sparse    func([]Sparse) // hears of segments that are mostly dead, the worst first, after every complete sweep; nil: nobody
}

// errFrozen says that somebody has stopped all deletion.
var errFrozen = errors.New("deletion is frozen")

// errRestored says that the bucket knows more than the metadata store.
var errRestored = errors.New("the metadata store was restored from a backup, or lost: run floe recover")

// Sweeper sweeps one cluster's bucket.
type Sweeper struct {
	cfg   Config
	parts Parts
	pacer *retry.Pacer

	seen  map[name]time.Time // garbage of the last complete sweep, and since when it is
	heads []uint64           // greatest head of each shard that was ever read
	mark  mark               // of the sweep under way
	said  string             // doubt that was logged last

	folders int // Report.Folders of the sweep under way
	told    int // of the one before

	due dueness
}

// New returns a Sweeper that has seen nothing.
func New(cfg Config, parts Parts) *Sweeper {
	if cfg.Window <= 0 {
		cfg.Window = DefaultWindow
	}
	return &Sweeper{cfg: cfg, parts: parts, pacer: retry.NewPacer(rand.Reader), seen: map[name]time.Time{}, heads: make([]uint64, parts.Shards.NumShards())}
}

// Tick sweeps if there is a reason to: something was committed or some session ended since
// the last complete sweep, or garbage has waited for its grace. Otherwise it costs two reads
// of the metadata store, and no request to the object store.
func (s *Sweeper) Tick(ctx context.Context) (swept bool, err error) {
	due, err := s.isDue(ctx)
	if err != nil || !due {
		return false, err
	}
	return true, s.Sweep(ctx).Err
}

// Sweep looks through the whole bucket and deletes what is garbage and has waited for its
// grace. The report says what became of it, and in Err why nothing was deleted.
func (s *Sweeper) Sweep(ctx context.Context) *Report {
	ctx = objstore.WithPurpose(ctx, objstore.Sweep)
	began := s.parts.Now()
	r := &Report{}
	s.folders = 0
	found, err := s.look(ctx, r)
	r.Folders = s.folders
	if err == nil {
		ripe := s.ripen(r, found)
		if !s.cfg.DryRun {
			err = s.leaveMark(ctx, len(ripe) > 0)
		}
		if !s.cfg.DryRun && err == nil {
			err = s.remove(ctx, r, ripe)
		}
	}
	if errors.Is(err, errRestored) && !s.cfg.DryRun {
		err = errors.Join(err, s.freeze(ctx, err))
	}
	r.Took, r.Err, r.Frozen = s.parts.Now().Sub(began), err, errors.Is(err, errFrozen) || errors.Is(err, errRestored)
	s.due.swept(began, err == nil)
	s.tell(r)
	return r
}

// look finds all garbage, or says why it is in doubt.
func (s *Sweeper) look(ctx context.Context, r *Report) ([]garbage, error) {
	if err := s.guard(ctx, mark{}); err != nil {
		return nil, err
	}
	if err := s.readMarks(ctx); err != nil {
		return nil, err
	}
	before, err := s.sessions(ctx)
	if err != nil {
		return nil, err
	}
	others, err := s.listOthers(ctx)
	if err != nil {
		return nil, err
	}
	l := &look{sweeper: s, report: r, before: before, old: s.parts.Now().Add(-min(s.cfg.SparseAge, settleAfter)).UnixMilli()}
	for c := (cursor{}); !c.ended(); {
		if l.window, err = s.fill(ctx, &c); err != nil {
			return nil, err
		}
		if err := l.judge(ctx); err != nil {
			return nil, err
		}
		if others != nil {
			if err := l.judgeOthers(ctx, others); err != nil {
				return nil, err
			}
			others = nil
		}
		l.before = l.after
	}
	if s.parts.Sparse != nil {
		s.parts.Sparse(worst(l.sparse))
	}
	return l.found, nil
}

func (s *Sweeper) sessions(ctx context.Context) (map[tiering.SessionID]membership.SessionState, error) {
	ctx, cancel := context.WithTimeout(ctx, readTime)
	defer cancel()
	return membership.Sessions(ctx, s.parts.Meta, s.cfg.Keys)
}

// ripen notes what is garbage now and returns what has been so for long enough.
func (s *Sweeper) ripen(r *Report, found []garbage) (ripe []garbage) {
	now := s.parts.Now()
	seen := make(map[name]time.Time, len(found))
	for _, g := range found {
		first, before := s.seen[g.name]
		if !before {
			first = now
		}
		seen[g.name] = first
		verdict := Waiting
		if before && now.Sub(first) >= s.cfg.Grace {
			ripe = append(ripe, g)
			verdict = Ripe
		}
		r.Counts[g.kind][verdict].add(g.size)
		r.Reasons[g.reason].add(g.size)
		if s.parts.Garbage != nil {
			s.parts.Garbage(Object{Kind: g.kind, Key: g.objectKey(), Size: g.size, Reason: g.reason, Ripe: verdict == Ripe})
		}
	}
	s.seen = seen
	return ripe
}

// freeze stops all deletion until an operator allows it again.
func (s *Sweeper) freeze(ctx context.Context, why error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTime)
	defer cancel()
	key := s.cfg.Keys.GCFreeze()
	_, err := s.parts.Meta.Txn(ctx, metadata.Txn{
		If:   []metadata.Condition{metadata.Absent(key)},
		Then: []metadata.Op{metadata.Put(key, []byte("by the sweeper: "+why.Error()))},
	})
	if err != nil {
		return fmt.Errorf("freezing deletion: %w", err) // the next sweep finds the same and tries again
	}
	return nil
}

// tell logs what is new and hands the report on.
func (s *Sweeper) tell(r *Report) {
	doubt := ""
	if r.Err != nil {
		doubt = r.Err.Error()
	}
	switch {
	case doubt != "" && doubt != s.said && (r.Frozen || r.Lost > 0):
		s.parts.Log.Error("nothing is deleted from the object store", "why", doubt)
	case doubt != "" && doubt != s.said:
		s.parts.Log.Warn("a sweep of the object store deleted nothing; it is tried again", "why", doubt)
	case doubt == "" && (r.Deleted.Objects > 0 || s.said != ""):
		s.parts.Log.Info("swept the object store", "deleted", r.Deleted.Objects, "bytes", r.Deleted.Bytes, "took", r.Took)
	}
	s.said = doubt
	if r.Folders > s.told {
		s.parts.Log.Warn("the bucket has empty objects in the place of folders, which no agent stored; they do no harm, and stay", "objects", r.Folders)
	}
	s.told = r.Folders
	if s.parts.Observe != nil {
		s.parts.Observe(r)
	}
}
