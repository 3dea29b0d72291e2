package sim

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/floelog/floe/agent"
	"github.com/floelog/floe/agent/coordinator"
	"github.com/floelog/floe/agent/kafka"
	"github.com/floelog/floe/compaction/job"
	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
)

// plant is a bug that is planted between an agent and the world around it. The zero value
// plants nothing.
type plant struct {
	wrapMeta     func(*world, *process, metadata.Store) metadata.Store
	wrapObjects  func(*world, *process, objstore.Store) objstore.Store
	wrapPeers    func(*world, *process, agent.Peers) agent.Peers
	wrapProducer func(*world, *process, kafka.Producer) kafka.Producer
	wrapReader   func(*world, *process, kafka.Reader) kafka.Reader
	wrapGroups   func(*world, *process, kafka.Groups) kafka.Groups
	wrapTxns     func(*world, *process, kafka.Transactions) kafka.Transactions
	wrapMachines func(*world, *process, string, coordinator.Load) coordinator.Load
	wrapJobs     func(*world, *process, job.Journals, job.Segments) job.Journals
	tune         func(*world) // makes what the bug needs more likely
}

func (p *plant) meta(w *world, of *process, s metadata.Store) metadata.Store {
	if p.wrapMeta == nil {
		return s
	}
	return p.wrapMeta(w, of, s)
}

func (p *plant) objects(w *world, of *process, s objstore.Store) objstore.Store {
	if p.wrapObjects == nil {
		return s
	}
	return p.wrapObjects(w, of, s)
}

func (p *plant) peers(w *world, of *process, s agent.Peers) agent.Peers {
	if p.wrapPeers == nil {
		return s
	}
	return p.wrapPeers(w, of, s)
}

func (p *plant) jobs(w *world, of *process) func(job.Journals, job.Segments) job.Journals {
	if p.wrapJobs == nil {
		return nil
	}
	return func(j job.Journals, s job.Segments) job.Journals { return p.wrapJobs(w, of, j, s) }
}

// clients returns the ways in for clients of a process that serves.
func (p *process) clients() (kafka.Producer, kafka.Reader) {
	p.wrap()
	return p.producer, p.reader
}

// coordinators returns what clients ask the coordinators on a process that serves.
func (p *process) coordinators() (kafka.Groups, kafka.Transactions) {
	p.wrap()
	return p.groups, p.txns
}

func (p *process) wrap() {
	p.once.Do(func() {
		w := p.node.w
		p.producer, p.reader = p.ports().Producer, p.ports().Reader
		if w.plant.wrapProducer != nil {
			p.producer = w.plant.wrapProducer(w, p, p.producer)
		}
		if w.plant.wrapReader != nil {
			p.reader = w.plant.wrapReader(w, p, p.reader)
		}
		p.groups, p.txns = p.ports().Groups, p.ports().Transactions
		if w.plant.wrapGroups != nil {
			p.groups = w.plant.wrapGroups(w, p, p.groups)
		}
		if w.plant.wrapTxns != nil {
			p.txns = w.plant.wrapTxns(w, p, p.txns)
		}
	})
}

// bug is what the checker must find, as one of the named invariants.
type bug struct {
	name  string
	seeds int      // within which it must be found: some 20 times what it takes on average, for that is chance
	want  []string // any of these, see violation.is
	plant func() plant
}

// is reports whether a violation is the one that is named: an invariant, or one and a part of
// its text.
func (v violation) is(want string) bool {
	invariant, text, _ := strings.Cut(want, ": ")
	return v.invariant == invariant && strings.Contains(v.text, text)
}

// bugs are planted one by one, and those of coordinationBugs and tierBugs.
var bugs = []bug{
	{"compare left out: an append does not compare the head", 300, []string{"fencing"}, func() plant {
		return onTxn(func(b *metaBug, ctx context.Context, txn metadata.Txn) (metadata.TxnResult, error) {
			if b.writes(txn, "journal") {
				txn.If = slices.DeleteFunc(slices.Clone(txn.If), func(c metadata.Condition) bool { return b.is(c.Key, "head") })
			}
			return b.Store.Txn(ctx, txn)
		})
	}},
	{"compare left out: an append compares neither leader nor head", 300, []string{"fencing"}, func() plant {
		return onTxn(func(b *metaBug, ctx context.Context, txn metadata.Txn) (metadata.TxnResult, error) {
			if b.writes(txn, "journal") {
				txn.If = slices.DeleteFunc(slices.Clone(txn.If), func(c metadata.Condition) bool { return b.is(c.Key, "head") || b.is(c.Key, "leader") })
			}
			return b.Store.Txn(ctx, txn)
		})
	}},
	{"compare left out: an append does not compare the sessions", 1000, []string{"fencing"}, func() plant {
		return onTxn(func(b *metaBug, ctx context.Context, txn metadata.Txn) (metadata.TxnResult, error) {
			if b.writes(txn, "journal") {
				txn.If = slices.DeleteFunc(slices.Clone(txn.If), func(c metadata.Condition) bool {
					return strings.HasPrefix(c.Key, b.w.keys.Sessions())
				})
			}
			return b.Store.Txn(ctx, txn)
		})
	}},
	{"read-back taken as proof: a write that is not seen counts as failed", 2000, []string{"objects"}, func() plant {
		p := onTxn(func(b *metaBug, ctx context.Context, txn metadata.Txn) (metadata.TxnResult, error) {
			res, err := b.Store.Txn(ctx, txn)
			if err == nil || errors.Is(err, metadata.ErrInvalid) || errors.Is(err, metadata.ErrLeaseLost) || len(txn.Else) == 0 {
				return res, err
			}
			kvs, revision, getErr := b.Store.Get(ctx, txn.Else...)
			if getErr != nil {
				return res, err
			}
			return metadata.TxnResult{Else: kvs, Revision: revision}, nil
		})
		p.tune = func(w *world) {
			w.config.SnapshotRecords = 3
			w.mix.meta = 2
		}
		return p
	}},
	{"reused key: an upload overwrites the one before", 100, []string{"objects", "one value"}, func() plant {
		return plant{wrapObjects: func(w *world, _ *process, s objstore.Store) objstore.Store {
			return &reuser{objectBug: objectBug{s}, w: w}
		}}
	}},
	{"ack before commit: a few producers are told too early", 100, []string{"durability"}, func() plant {
		return plant{wrapProducer: func(w *world, p *process, inner kafka.Producer) kafka.Producer {
			return &hasty{Producer: inner, p: p, rnd: w.rand("hasty " + p.name)}
		}}
	}},
	{"de-duplication not rebuilt: a snapshot is loaded without its producers", 300, []string{"same state", "exactly once"}, func() plant {
		return plant{
			wrapObjects: func(_ *world, _ *process, s objstore.Store) objstore.Store { return &forgetful{objectBug{s}} },
			tune:        func(w *world) { w.config.SnapshotRecords = 3 },
		}
	}},
	{"late reply taken for the answer: an agent hears the answer to its submission before", 300, []string{"durability", "exactly once"}, func() plant {
		return plant{wrapPeers: func(_ *world, _ *process, inner agent.Peers) agent.Peers {
			return &confused{Peers: inner, last: map[tiering.ShardID][]shard.Outcome{}}
		}}
	}},
	{"position off by one: an upload is stored behind a stray byte", 100, []string{"objects"}, func() plant {
		return plant{wrapObjects: func(w *world, p *process, s objstore.Store) objstore.Store {
			return &shifter{objectBug: objectBug{s}, rnd: w.rand("shifter " + p.name)}
		}}
	}},
	{"sweeper without a watermark: uploads that nobody names yet are deleted", 300, []string{"objects"}, func() plant {
		return plant{wrapObjects: func(w *world, _ *process, s objstore.Store) objstore.Store {
			return &sweeper{objectBug: objectBug{s}, w: w}
		}}
	}},
	{"takeover without a new epoch: a leader keeps its predecessor's", 100, []string{"epochs", "progress"}, func() plant {
		return plant{wrapMeta: func(_ *world, _ *process, s metadata.Store) metadata.Store {
			return &staleHead{Store: s, real: map[string][]byte{}}
		}}
	}},
	{"stale view: a question is answered without asking the store", 300, []string{"linearizable", "out of range"}, func() plant {
		return plant{wrapMeta: func(_ *world, _ *process, s metadata.Store) metadata.Store {
			return &remembering{Store: s, heads: map[string]remembered{}}
		}}
	}},
	{"stale epoch accepted: batches of a producer's past epochs are not told apart", 2000, []string{"exactly once"}, func() plant {
		var past fencing
		return plant{
			wrapProducer: func(_ *world, _ *process, inner kafka.Producer) kafka.Producer { return &unfenced{inner, &past} },
			tune:         func(w *world) { w.shape.bumps, w.shape.think = true, time.Second },
		}
	}},
	{"wait without a way out: an upload goes on although its context has ended", 100, []string{"liveness"}, func() plant {
		return plant{wrapObjects: func(w *world, p *process, s objstore.Store) objstore.Store {
			return &stuck{objectBug: objectBug{s}, rnd: w.rand("stuck " + p.name), never: make(chan struct{})}
		}}
	}},
	{"corrupt bytes served: what was read is not verified", 300, []string{"corruption"}, func() plant {
		return plant{wrapReader: func(w *world, p *process, inner kafka.Reader) kafka.Reader {
			return &careless{Reader: inner, rnd: w.rand("careless " + p.name)}
		}}
	}},
}

func TestPlantedBugsAreCaught(t *testing.T) {
	for _, bug := range slices.Concat(bugs, coordinationBugs, tierBugs) {
		t.Run(bug.name, func(t *testing.T) {
			var mu sync.Mutex
			var found *result
			ran := 0
			eachSeed(t, 1, bug.seeds, bug.plant, func(r result) bool {
				mu.Lock()
				defer mu.Unlock()
				ran++
				for _, v := range r.violations {
					if found == nil && slices.ContainsFunc(bug.want, v.is) {
						found = &r
						t.Logf("found by seed %d, the %d. to run: %s: %.300s", r.seed, ran, v.invariant, v.text)
					}
				}
				return found != nil
			})
			if found == nil {
				t.Errorf("not found as any of %v within %d seeds", bug.want, bug.seeds)
			}
		})
	}
}

// metaBug stands between an agent and the metadata store.
type metaBug struct {
	metadata.Store
	w  *world
	on func(*metaBug, context.Context, metadata.Txn) (metadata.TxnResult, error)
}

func onTxn(on func(*metaBug, context.Context, metadata.Txn) (metadata.TxnResult, error)) plant {
	return plant{wrapMeta: func(w *world, _ *process, s metadata.Store) metadata.Store { return &metaBug{s, w, on} }}
}

func (b *metaBug) Txn(ctx context.Context, txn metadata.Txn) (metadata.TxnResult, error) {
	return b.on(b, ctx, txn)
}

// is reports whether a key is the named one of some shard.
func (b *metaBug) is(key, name string) bool {
	k, err := b.w.keys.ParseShardKey(key)
	return err == nil && k.Name == name
}

// writes reports whether a transaction puts the named key of some shard.
func (b *metaBug) writes(txn metadata.Txn, name string) bool {
	return slices.ContainsFunc(txn.Then, func(o metadata.Op) bool { return !o.Delete && b.is(o.Key, name) })
}

// objectBug stands between an agent and the object store.
type objectBug struct{ objstore.Store }

func isSegment(key string) bool { return strings.HasPrefix(key, tiering.SegmentPrefix) }

// reuser gives the key of the upload before to every fourth upload as well.
type reuser struct {
	objectBug
	w *world

	mu   sync.Mutex
	last string
	n    int
}

func (r *reuser) Put(ctx context.Context, key string, body objstore.Body) error {
	err := r.Store.Put(ctx, key, body)
	if err != nil || !isSegment(key) {
		return err
	}
	r.mu.Lock()
	last := r.last
	r.last = key
	r.n++
	again := r.n%4 == 0 && last != "" && last != key
	r.mu.Unlock()
	if !again {
		return nil
	}
	return errors.Join(r.w.raw.Delete(ctx, last), r.w.raw.Put(ctx, last, body))
}

// hasty answers every twentieth request at once, with the offset that it expects.
type hasty struct {
	kafka.Producer
	p *process

	mu  sync.Mutex
	rnd *rand.Rand
}

func (h *hasty) Append(batches []*kafka.AppendBatch, done func()) {
	h.mu.Lock()
	early := h.rnd.IntN(20) == 0
	h.mu.Unlock()
	if !early {
		h.Producer.Append(batches, done)
		return
	}
	inner := make([]*kafka.AppendBatch, len(batches))
	for i, b := range batches {
		c := *b
		inner[i] = &c
		h.p.agent.ReadShard(b.Shard, func(s *shard.State) { b.Base = s.Partition(b.Partition).Next })
	}
	h.Producer.Append(inner, func() {})
	h.p.node.w.tasks.Go(done)
}

// fencing knows the newest epoch of each producer.
type fencing struct {
	mu     sync.Mutex
	newest map[int64]int16
}

// unfenced takes what comes from a past epoch of a producer as if it had no epoch at all.
type unfenced struct {
	kafka.Producer
	known *fencing
}

func (u *unfenced) Append(batches []*kafka.AppendBatch, done func()) {
	u.known.mu.Lock()
	if u.known.newest == nil {
		u.known.newest = map[int64]int16{}
	}
	for _, b := range batches {
		switch newest := u.known.newest[b.Meta.ProducerID]; {
		case b.Meta.ProducerID < 0:
		case b.Meta.ProducerEpoch < newest:
			b.Meta.ProducerID = -1
		default:
			u.known.newest[b.Meta.ProducerID] = b.Meta.ProducerEpoch
		}
	}
	u.known.mu.Unlock()
	u.Producer.Append(batches, done)
}

// forgetful drops the producers from what it reads of a snapshot.
type forgetful struct{ objectBug }

func (f *forgetful) GetRange(ctx context.Context, key string, off, n int64) ([]byte, error) {
	data, err := f.Store.GetRange(ctx, key, off, n)
	if err != nil || !strings.HasPrefix(key, "snap/") {
		return data, err
	}
	s, err := shard.DecodeSnapshot(data)
	if err != nil {
		return data, nil // damaged on its way, which is for the agent to find out
	}
	forget := shard.Record{Seq: s.Seq + 1, Epoch: s.Epoch, Changes: []shard.Change{shard.ExpireProducers{Before: math.MaxInt64}}}
	if err := s.Apply(forget); err != nil {
		return nil, err
	}
	s.Seq--
	return s.EncodeSnapshot(nil), nil
}

// confused answers with the outcomes of the submission before, where their number fits.
type confused struct {
	agent.Peers

	mu   sync.Mutex
	last map[tiering.ShardID][]shard.Outcome
}

func (c *confused) Sequence(ctx context.Context, addr string, id tiering.ShardID, s *shard.Submission) ([]shard.Outcome, error) {
	out, err := c.Peers.Sequence(ctx, addr, id, s)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	last := c.last[id]
	c.last[id] = out
	if s.Seq%4 == 0 && len(last) == len(out) {
		return last, nil
	}
	return out, nil
}

// shifter stores every tenth segment behind one byte too many.
type shifter struct {
	objectBug

	mu  sync.Mutex
	rnd *rand.Rand
}

func (s *shifter) Put(ctx context.Context, key string, body objstore.Body) error {
	s.mu.Lock()
	shift := s.rnd.IntN(10) == 0
	s.mu.Unlock()
	if shift && isSegment(key) {
		body = append(objstore.Body{{0}}, body...)
	}
	return s.Store.Put(ctx, key, body)
}

// stuck never returns from some uploads.
type stuck struct {
	objectBug
	never chan struct{}

	mu  sync.Mutex
	rnd *rand.Rand
}

func (s *stuck) Put(ctx context.Context, key string, body objstore.Body) error {
	s.mu.Lock()
	hang := s.rnd.IntN(20) == 0
	s.mu.Unlock()
	if hang {
		<-s.never
	}
	return s.Store.Put(ctx, key, body)
}

// sweeper deletes segments that no shard names some time after they were stored.
type sweeper struct {
	objectBug
	w *world
}

func (s *sweeper) Put(ctx context.Context, key string, body objstore.Body) error {
	err := s.Store.Put(ctx, key, body)
	if err == nil && isSegment(key) {
		s.w.tasks.Go(func() {
			if sleep(s.w.live, 300*time.Millisecond) && !s.named(key) {
				_ = s.w.raw.Delete(s.w.live, key) // from memory: it cannot fail
			}
		})
	}
	return err
}

func (s *sweeper) named(key string) bool {
	a := s.w.audit
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, sh := range a.shards {
		for _, tp := range sh.state.Partitions() {
			for _, e := range sh.state.Partition(tp).Extents {
				if !e.IsInline() && e.Segment.Key() == key {
					return true
				}
			}
		}
	}
	return false
}

// staleHead shows an agent that is about to take a shard an epoch that is one too low.
type staleHead struct {
	metadata.Store

	mu   sync.Mutex
	real map[string][]byte // the value in the store, by the one that was shown
}

func (s *staleHead) Get(ctx context.Context, keys ...string) ([]metadata.KV, int64, error) {
	kvs, revision, err := s.Store.Get(ctx, keys...)
	if err != nil || len(keys) != 2 || !strings.HasSuffix(keys[1], "/head") || !kvs[1].Exists() {
		return kvs, revision, err
	}
	var h headValue
	if err := json.Unmarshal(kvs[1].Value, &h); err != nil || h.Epoch == 0 {
		return kvs, revision, err
	}
	h.Epoch--
	shown, err := json.Marshal(h)
	if err != nil {
		return nil, 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.real[string(shown)] = kvs[1].Value
	kvs[1].Value = shown
	return kvs, revision, nil
}

func (s *staleHead) Txn(ctx context.Context, txn metadata.Txn) (metadata.TxnResult, error) {
	txn.If = slices.Clone(txn.If)
	s.mu.Lock()
	for i, c := range txn.If {
		if real, ok := s.real[string(c.Value)]; ok {
			txn.If[i].Value = real
		}
	}
	s.mu.Unlock()
	return s.Store.Txn(ctx, txn)
}

// remembered is an answer that is given again for a while.
type remembered struct {
	kv    metadata.KV
	until time.Time
}

// remembering answers questions for a journal's head from memory.
type remembering struct {
	metadata.Store

	mu    sync.Mutex
	heads map[string]remembered
}

func (r *remembering) Get(ctx context.Context, keys ...string) ([]metadata.KV, int64, error) {
	if len(keys) == 1 && strings.HasSuffix(keys[0], "/head") {
		r.mu.Lock()
		m, ok := r.heads[keys[0]]
		r.mu.Unlock()
		if ok && time.Now().Before(m.until) {
			return []metadata.KV{m.kv}, m.kv.Revision, nil
		}
	}
	kvs, revision, err := r.Store.Get(ctx, keys...)
	if err == nil && len(keys) == 1 && strings.HasSuffix(keys[0], "/head") {
		r.mu.Lock()
		r.heads[keys[0]] = remembered{kvs[0], time.Now().Add(3 * time.Second)}
		r.mu.Unlock()
	}
	return kvs, revision, err
}

// careless flips a bit of what it serves, now and then.
type careless struct {
	kafka.Reader

	mu  sync.Mutex
	rnd *rand.Rand
}

func (c *careless) Fetch(ctx context.Context, req kafka.FetchRequest) []kafka.FetchResult {
	results := c.Reader.Fetch(ctx, req)
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range results {
		for j, b := range results[i].Records {
			if len(b) > 70 && c.rnd.IntN(50) == 0 {
				b = slices.Clone(b)
				b[len(b)-1] ^= 4
				results[i].Records = slices.Clone(results[i].Records)
				results[i].Records[j] = b
			}
		}
	}
	return results
}
