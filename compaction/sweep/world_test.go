package sweep_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/floelog/floe/compaction/sweep"
	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/metadata/membership"
	"github.com/floelog/floe/metadata/memory"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
	objmemory "github.com/floelog/floe/tiering/objstore/memory"
)

var keys = metadata.NewKeys("test")

const snapshotAge = time.Minute

// world is a cluster whose agents keep journals and objects as real ones do, and a witness
// that sees everything without faults.
type world struct {
	t       *testing.T
	ctx     context.Context
	server  *memory.Server
	admin   *memory.Client
	bucket  *objmemory.Store
	cluster catalogue.Cluster
	witness *journal.Set
	stop    context.CancelFunc
	tasks   sync.WaitGroup
	nonces  atomic.Uint64

	mu      sync.Mutex // guards the following
	nodes   []*node    // that live
	deleted int
	garbage map[string]bool // what any sweep took for it
}

func newWorld(t *testing.T, shards uint32) *world {
	t.Helper()
	w := &world{t: t, server: memory.New(), bucket: objmemory.New(), garbage: map[string]bool{}}
	w.ctx, w.stop = context.WithCancel(context.Background())
	w.admin = w.server.Client("admin")
	var err error
	if w.cluster, err = catalogue.EnsureCluster(w.ctx, w.admin, keys, catalogue.Want{Shards: shards}); err != nil {
		t.Fatal(err)
	}
	w.witness = w.journals(w.admin, w.bucket)
	w.tasks.Go(func() { _ = w.witness.Run(w.ctx) })
	<-w.witness.Loaded()
	return w
}

func (w *world) close() {
	w.mu.Lock()
	nodes := slices.Clone(w.nodes)
	w.mu.Unlock()
	for _, n := range nodes {
		n.close()
	}
	w.stop()
	w.tasks.Wait()
	w.server.Close()
}

func (w *world) nonce() uint64 { return w.nonces.Add(1) }

func (w *world) journals(meta metadata.Store, objects objstore.Store) *journal.Set {
	return journal.New(journal.Config{Keys: keys, Shards: w.cluster.Shards, SnapshotRecords: 3, SnapshotAge: snapshotAge}, journal.Parts{
		Store: meta, Objects: objects, Log: slog.New(slog.DiscardHandler), Now: time.Now, Nonce: w.nonce,
	})
}

// node is one agent: a session, journals, segment numbers and their watermark.
type node struct {
	w       *world
	meta    *memory.Client
	objects objstore.Store
	session *membership.Session
	set     *journal.Set
	ctx     context.Context
	stop    context.CancelFunc
	ended   chan struct{}

	mu    sync.Mutex // guards the following
	next  uint64
	open  map[uint64]bool
	lanes map[tiering.ShardID]*lane // fixed
}

// lane numbers the submissions to one shard, one of which is under way.
type lane struct {
	mu  sync.Mutex // guards the following
	seq uint64
}

type leaderSession struct{ *membership.Session }

func (s leaderSession) Node() int32 { return int32(s.NodeID()) }

func (w *world) start(objects objstore.Store) *node {
	w.t.Helper()
	n := &node{w: w, objects: objects, open: map[uint64]bool{}, ended: make(chan struct{}),
		lanes: map[tiering.ShardID]*lane{}}
	n.meta = w.server.Client(fmt.Sprintf("node %d", w.nonce()))
	ctx, cancel := context.WithCancel(w.ctx)
	n.ctx, n.stop = ctx, cancel
	n.set = w.journals(n.meta, objects)
	go func() { defer close(n.ended); _ = n.set.Run(ctx) }()
	<-n.set.Loaded()
	var err error
	if n.session, err = membership.Start(ctx, n.meta, keys, membership.SessionConfig{Address: "a:1", Publish: time.Second}); err != nil {
		w.t.Fatal(err)
	}
	for i := range w.cluster.Shards {
		n.lanes[tiering.ShardID(i)] = &lane{}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.nodes = append(w.nodes, n)
	return n
}

// close ends a node in peace; its session is over at once.
func (n *node) close() { n.end(true) }

// kill cuts a node off; its session dies with its lease.
func (n *node) kill() {
	n.meta.Partition()
	n.end(false)
}

func (n *node) end(peace bool) {
	n.w.mu.Lock()
	n.w.nodes = slices.DeleteFunc(n.w.nodes, func(x *node) bool { return x == n })
	n.w.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := n.session.Close(ctx); err != nil && peace {
		n.w.t.Errorf("closing a session: %v", err)
	}
	n.stop()
	<-n.ended
}

// lead lets live nodes take the shards that have no leader.
func (w *world) lead(rnd *rand.Rand) {
	w.mu.Lock()
	nodes := slices.Clone(w.nodes)
	w.mu.Unlock()
	for i := range w.cluster.Shards {
		id := tiering.ShardID(i)
		if len(nodes) > 0 && w.leader(id) == nil {
			n := nodes[rnd.IntN(len(nodes))]
			_, _ = n.set.Acquire(n.ctx, leaderSession{n.session}, id) // somebody will
		}
	}
}

func (w *world) leader(id tiering.ShardID) *journal.Leader {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.nodes {
		if l := n.set.Leader(id); l != nil {
			return l
		}
	}
	return nil
}

func (n *node) number() (tiering.SegmentID, func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.next++
	seq := n.next
	n.open[seq] = true
	return tiering.SegmentID{Session: n.session.ID(), Seq: seq}, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.open, seq)
		low := n.next + 1
		for s := range n.open {
			low = min(low, s)
		}
		n.session.SetLowWatermark(low)
	}
}

var errNoLeader = errors.New("no leader")

// propose brings a change to the shard's leader, in this node's name. Only an answer is
// definite.
func (n *node) propose(id tiering.ShardID, draft func(*shard.Draft) error) (definite bool, err error) {
	l := n.w.leader(id)
	if l == nil {
		return true, errNoLeader
	}
	done := make(chan error, 1)
	l.Propose(&journal.Proposal{Session: n.session.ID(), Size: 256, Draft: draft, Done: func(_ uint64, err error) { done <- err }})
	select {
	case err := <-done:
		return !errors.Is(err, metadata.ErrFenced), err
	case <-time.After(20 * time.Second):
		return false, context.DeadlineExceeded
	}
}

// put stores an object of the given size.
func (n *node) put(key string, size int) error {
	ctx, cancel := context.WithTimeout(n.w.ctx, 10*time.Second)
	defer cancel()
	return n.objects.Put(ctx, key, objstore.Body{make([]byte, size)})
}

const extentBytes = 100

// flush stores a segment with a batch for each partition and commits it. hold is how long it
// rests between both.
func (n *node) flush(hold time.Duration, tps ...tiering.TopicPartition) error {
	id, done := n.number()
	if err := n.put(id.Key(), extentBytes*len(tps)); err != nil {
		done()
		return err
	}
	time.Sleep(hold)
	definite := true
	var errs []error
	for i, tp := range tps {
		on := n.w.shard(tp)
		l := n.lanes[on]
		l.mu.Lock()
		l.seq++
		sub := &shard.Submission{Session: n.session.ID(), Seq: l.seq, Parts: []shard.Part{{
			Partition: tp, Segment: id, Position: tiering.Position(extentBytes * i),
			Batches: []shard.Batch{{Length: extentBytes, Count: 1, MaxTimestamp: time.Now().UnixMilli(), ProducerID: -1}},
		}}}
		known, err := n.propose(on, func(d *shard.Draft) error { _, err := d.Submit(sub); return err })
		definite = definite && known
		errs = append(errs, err)
		l.mu.Unlock()
	}
	if definite {
		done()
	}
	return errors.Join(errs...)
}

func (w *world) shard(tp tiering.TopicPartition) tiering.ShardID {
	return tiering.ShardOf(0, tp.Partition, w.cluster.Shards)
}

func (w *world) state(tp tiering.TopicPartition) (p shard.Partition) {
	w.witness.View(w.shard(tp)).Read(func(s *shard.State) {
		from := s.Partition(tp)
		p.Next, p.LogStart, p.Manifests, p.Extents = from.Next, from.LogStart, from.Manifests, from.Extents
	})
	return p
}

// merge replaces a partition's extents by one, in a segment of its own.
func (n *node) merge(tp tiering.TopicPartition, hold time.Duration) error {
	run := n.w.state(tp).Extents
	if len(run) < 2 {
		return nil
	}
	digest := shard.DigestOf(run)
	id, done := n.number()
	with := tiering.Extent{Base: run[0].Base, Count: int64(run[len(run)-1].End() - run[0].Base), Length: extentBytes, Segment: id}
	if err := n.put(id.Key(), 3*extentBytes); err != nil {
		done()
		return err
	}
	time.Sleep(hold)
	definite, err := n.propose(n.w.shard(tp), func(d *shard.Draft) error {
		d.Add(shard.Replace{Partition: tp, Of: digest, With: []tiering.Extent{with}})
		return nil
	})
	if definite {
		done()
	}
	return err
}

// archive moves a partition's extents into a manifest.
func (n *node) archive(tp tiering.TopicPartition, hold time.Duration) error {
	run := n.w.state(tp).Extents
	if len(run) == 0 {
		return nil
	}
	body, err := json.Marshal(run)
	if err != nil {
		return err
	}
	id, done := n.number()
	m := shard.ManifestOf(id, int32(len(body)), run)
	ctx, cancel := context.WithTimeout(n.w.ctx, 10*time.Second)
	defer cancel()
	if err := n.objects.Put(ctx, id.ManifestKey(), objstore.Body{body}); err != nil {
		done()
		return err
	}
	time.Sleep(hold)
	definite, err := n.propose(n.w.shard(tp), func(d *shard.Draft) error {
		d.Add(shard.Archive{Partition: tp, Of: shard.DigestOf(run), Manifest: m})
		return nil
	})
	if definite {
		done()
	}
	return err
}

// manifests reads what archive wrote.
type manifests struct{ store objstore.Store }

func (m manifests) Extents(ctx context.Context, _ tiering.TopicPartition, x shard.Manifest) (out []tiering.Extent, err error) {
	b, err := m.store.GetRange(ctx, x.Object.ManifestKey(), 0, int64(x.Size))
	if err != nil {
		return nil, err
	}
	return out, json.Unmarshal(b, &out)
}

// unarchive turns a partition's last manifest back into extents.
func (n *node) unarchive(tp tiering.TopicPartition, hold time.Duration) error {
	ms := n.w.state(tp).Manifests
	if len(ms) == 0 {
		return nil
	}
	m := ms[len(ms)-1]
	extents, err := manifests{n.w.bucket}.Extents(n.w.ctx, tp, m)
	if err != nil {
		return err
	}
	p := shard.Partition{Manifests: []shard.Manifest{m}}
	digest, _ := p.Digest(m.Base, m.End())
	time.Sleep(hold)
	_, err = n.propose(n.w.shard(tp), func(d *shard.Draft) error {
		d.Add(shard.Replace{Partition: tp, Of: digest, With: extents})
		return nil
	})
	return err
}

func (n *node) change(tp tiering.TopicPartition, c shard.Change) error {
	_, err := n.propose(n.w.shard(tp), func(d *shard.Draft) error { d.Add(c); return nil })
	return err
}

// named returns the keys of all objects that anything names, as the witness sees it.
func (w *world) named() map[string]bool {
	out := map[string]bool{}
	for i := range w.cluster.Shards {
		id := tiering.ShardID(i)
		w.witness.View(id).Read(func(s *shard.State) {
			for _, tp := range s.Partitions() {
				p := s.Partition(tp)
				for _, m := range p.Manifests {
					out[m.Object.ManifestKey()] = true
					extents, err := manifests{w.bucket}.Extents(w.ctx, tp, m)
					if err != nil {
						w.t.Errorf("a named manifest: %v", err)
					}
					for _, e := range extents {
						out[e.Segment.Key()] = true
					}
				}
				for _, e := range p.Extents {
					out[e.Segment.Key()] = true
				}
			}
		})
		kvs, _, err := w.admin.Get(w.ctx, keys.Snapshot(id))
		if err != nil {
			w.t.Fatal(err)
		}
		p, err := journal.ParsePointer(kvs[0])
		if err != nil {
			w.t.Fatal(err)
		}
		for _, key := range []string{p.Key, p.Previous} {
			if key != "" {
				out[key] = true
			}
		}
	}
	return out
}

// stored returns the keys of all objects but the sweepers' marks.
func (w *world) stored() map[string]bool {
	infos, err := w.bucket.List(w.ctx, "", "", 1<<20)
	if err != nil {
		w.t.Fatal(err)
	}
	out := map[string]bool{}
	for _, info := range infos {
		if !strings.HasPrefix(info.Key, "gc/mark/") {
			out[info.Key] = true
		}
	}
	return out
}

// judged hears of garbage.
func (w *world) judged(o sweep.Object) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.garbage[o.Key] = true
}

// check demands that everything that is named is there, and that nothing of it was ever
// taken for garbage.
func (w *world) check() {
	w.t.Helper()
	named, stored := w.named(), w.stored()
	w.mu.Lock()
	defer w.mu.Unlock()
	for key := range named {
		if w.garbage[key] {
			w.t.Errorf("%s is named, and was garbage", key)
		}
		if !stored[key] {
			w.t.Errorf("%s is named and gone", key)
		}
	}
}

// sweeper makes a sweeper over the given parts; nil: those of the witness, without faults.
func (w *world) sweeper(grace time.Duration, change func(*sweep.Config, *sweep.Parts)) *sweep.Sweeper {
	cfg := sweep.Config{Keys: keys, Cluster: w.cluster.ID, Grace: grace}
	parts := sweep.Parts{Meta: w.admin, Objects: w.bucket, Shards: w.witness, Manifests: manifests{w.bucket}, Now: time.Now,
		Nonce: w.nonce, Log: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&cfg, &parts)
	}
	return sweep.New(cfg, parts)
}

// guarded is a bucket that looks at every deletion before it happens.
type guarded struct {
	objstore.Store
	w *world
}

func (g guarded) Delete(ctx context.Context, doomed ...string) error {
	ids := make([]tiering.ShardID, g.w.cluster.Shards)
	for i := range ids {
		ids[i] = tiering.ShardID(i)
	}
	if err := g.w.witness.Sync(g.w.ctx, ids...); err != nil {
		return err
	}
	named := g.w.named()
	for _, key := range doomed {
		if named[key] {
			g.w.t.Errorf("%s is named and was about to be deleted", key)
		}
	}
	g.w.mu.Lock()
	g.w.deleted += len(doomed)
	g.w.mu.Unlock()
	return g.Store.Delete(ctx, doomed...)
}
