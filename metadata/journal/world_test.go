package journal_test

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/metadata/memory"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
	objmemory "github.com/floelog/floe/tiering/objstore/memory"
)

const ttl = 5 * time.Second

var keys = metadata.NewKeys("test")

// world is one metadata server, one object store, and the agents of a cluster. A clean
// client sees all that is ever written under the shards.
type world struct {
	t       *testing.T
	ctx     context.Context
	server  *memory.Server
	admin   *memory.Client
	objects *objects
	shards  uint32
	log     *slog.Logger

	records uint64        // SnapshotRecords of agents started from now on
	version atomic.Int32  // of the records that are written; 0: the newest
	age     time.Duration // SnapshotAge of agents started from now on
	agents  []*agent
	nonce   atomic.Uint64

	mu   sync.Mutex // guards the following
	seen []metadata.Event
}

// bubble runs f in a world of its own, on virtual time. Everything ends with it: a
// goroutine that is left over fails the test.
func bubble(t *testing.T, shards uint32, f func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		w := &world{
			t: t, ctx: ctx, server: memory.New(), shards: shards, objects: &objects{Store: objmemory.New()},
			log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		}
		w.admin = w.server.Client("admin")
		var witness sync.WaitGroup
		witness.Go(w.witness)
		f(w)
		for _, a := range w.agents {
			a.stop()
		}
		cancel()
		witness.Wait()
		w.server.Close()
	})
}

// witness notes everything that is written, over all watches that break.
func (w *world) witness() {
	for revision := int64(1); w.ctx.Err() == nil; {
		for batch := range w.admin.Watch(w.ctx, keys.Shards(), revision) {
			if batch.Err != nil {
				break
			}
			revision = batch.Revision + 1
			w.mu.Lock()
			w.seen = append(w.seen, batch.Events...)
			w.mu.Unlock()
		}
	}
}

// written returns everything that was put under the shards, in order. Trimmed records are
// among it.
func (w *world) written() []metadata.Event {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seen[:len(w.seen):len(w.seen)]
}

// journal returns the records that were ever written for a shard, in order.
func (w *world) journal(id tiering.ShardID) (out []shard.Record) {
	w.t.Helper()
	for _, ev := range w.written() {
		if !strings.HasPrefix(ev.Key, keys.Journal(id)) || ev.Deleted {
			continue
		}
		r, err := shard.DecodeRecord(ev.Value)
		if err != nil {
			w.t.Fatal(err)
		}
		out = append(out, r)
	}
	return out
}

// get reads one key.
func (w *world) get(key string) metadata.KV {
	w.t.Helper()
	kvs, _, err := w.admin.Get(w.ctx, key)
	if err != nil {
		w.t.Fatal(err)
	}
	return kvs[0]
}

func (w *world) put(key string, value []byte) {
	w.t.Helper()
	if _, err := w.admin.Txn(w.ctx, metadata.Txn{Then: []metadata.Op{metadata.Put(key, value)}}); err != nil {
		w.t.Fatal(err)
	}
}

// session is a real lease and its key, renewed through a client without faults for as
// long as nobody holds the renewals.
type session struct {
	id    tiering.SessionID
	lease metadata.LeaseID
	lost  chan struct{}
	once  sync.Once
	held  atomic.Bool // the agent is paused: it neither renews nor notices anything
	end   context.CancelFunc
	done  chan struct{}
}

func (s *session) ID() tiering.SessionID   { return s.id }
func (s *session) Node() int32             { return int32(s.id[0]) }
func (s *session) Lease() metadata.LeaseID { return s.lease }
func (s *session) Lost() <-chan struct{}   { return s.lost }
func (s *session) lose()                   { s.once.Do(func() { close(s.lost) }) }
func (s *session) Alive() bool {
	select {
	case <-s.lost:
		return false
	default:
		return true
	}
}

func (w *world) newSession(id tiering.SessionID) *session {
	w.t.Helper()
	lease, err := w.admin.Grant(w.ctx, ttl)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.admin.Txn(w.ctx, metadata.Txn{Then: []metadata.Op{metadata.PutLeased(keys.Session(id), []byte("x"), lease)}}); err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(w.ctx)
	s := &session{id: id, lease: lease, lost: make(chan struct{}), end: cancel, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		tick := time.NewTicker(ttl / 4)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if !s.held.Load() && w.admin.KeepAlive(ctx, lease) != nil {
					s.lose()
				}
			}
		}
	}()
	return s
}

// agent is a Set with a client, a session and an object store of its own.
type agent struct {
	w       *world
	node    int32
	client  *memory.Client
	store   *hooked
	session *session
	set     *journal.Set
	seen    *observer
	cancel  context.CancelFunc
	ended   chan struct{}
	err     error // of Run, once ended is closed
	stopped bool
}

func (w *world) start(node int32) *agent {
	w.t.Helper()
	a := w.startUnloaded(node)
	select {
	case <-a.set.Loaded():
	case <-a.ended:
		w.t.Fatalf("agent %d ended: %v", node, a.err)
	}
	return a
}

func (w *world) startUnloaded(node int32, options ...func(*agent)) *agent {
	w.t.Helper()
	c := w.server.Client(fmt.Sprint("agent ", node))
	a := &agent{w: w, node: node, client: c, store: &hooked{Store: c}, seen: &observer{}, ended: make(chan struct{})}
	for _, o := range options {
		o(a)
	}
	n := w.nonce.Add(1)
	a.session = w.newSession(tiering.SessionID{byte(node), byte(n >> 8), byte(n), 1})
	a.set = journal.New(journal.Config{Keys: keys, Shards: w.shards, SnapshotRecords: w.records, SnapshotAge: w.age}, journal.Parts{
		Store: a.store, Objects: w.objects, Log: w.log, Now: time.Now, Observe: a.seen,
		Nonce:         func() uint64 { return w.nonce.Add(1) },
		RecordVersion: func() byte { return cmp.Or(byte(w.version.Load()), shard.RecordVersion) },
	})
	var ctx context.Context
	ctx, a.cancel = context.WithCancel(w.ctx)
	go func() {
		defer close(a.ended)
		a.err = a.set.Run(ctx)
	}()
	w.agents = append(w.agents, a)
	return a
}

// stop ends the agent in good order and waits for it.
func (a *agent) stop() {
	if a.stopped {
		return
	}
	a.stopped = true
	a.client.Resume()
	a.client.Heal()
	a.cancel()
	<-a.ended
	a.session.end()
	<-a.session.done
}

// kill ends the agent's session at once, as when its lease has run out.
func (a *agent) kill() {
	a.w.t.Helper()
	if err := a.w.admin.Revoke(a.w.ctx, a.session.lease); err != nil {
		a.w.t.Fatal(err)
	}
	a.session.lose()
}

func (a *agent) acquire(id tiering.ShardID) *journal.Leader {
	a.w.t.Helper()
	l, err := a.set.Acquire(a.w.ctx, a.session, id)
	if err != nil {
		a.w.t.Fatal(err)
	}
	return l
}

// answer is what became of a proposal.
type answer struct {
	seq uint64
	err error
}

// mark is a change that does nothing but bear a number, by which it is found again.
func mark(n int64) shard.Change { return shard.ExpireProducers{Before: -n} }

// marks returns the numbers of the marks in a record.
func marks(r shard.Record) (out []int64) {
	for _, c := range r.Changes {
		if m, ok := c.(shard.ExpireProducers); ok {
			out = append(out, -m.Before)
		}
	}
	return out
}

// propose asks for a mark on behalf of a session.
func propose(l *journal.Leader, s tiering.SessionID, n int64) <-chan answer {
	done := make(chan answer, 2) // room for a second answer, which must never come
	proposeTo(l, s, n, done)
	return done
}

func proposeTo(l *journal.Leader, s tiering.SessionID, n int64, done chan<- answer) {
	l.Propose(&journal.Proposal{
		Session: s, Size: 32,
		Draft: func(d *shard.Draft) error { d.Add(mark(n)); return nil },
		Done:  func(seq uint64, err error) { done <- answer{seq, err} },
	})
}

// must proposes a mark and waits for it to be committed.
func (w *world) must(l *journal.Leader, n int64) uint64 {
	w.t.Helper()
	a := <-propose(l, tiering.SessionID{}, n)
	if a.err != nil {
		w.t.Fatalf("mark %d: %v", n, a.err)
	}
	return a.seq
}

// count returns how often a mark stands in a shard's journal.
func (w *world) count(id tiering.ShardID, n int64) (times int) {
	w.t.Helper()
	for _, r := range w.journal(id) {
		for _, m := range marks(r) {
			if m == n {
				times++
			}
		}
	}
	return times
}

// unanswered fails the test if the proposal has an answer by now.
func (w *world) unanswered(done <-chan answer) {
	w.t.Helper()
	synctest.Wait()
	select {
	case a := <-done:
		w.t.Fatalf("answered with %+v before its outcome was known", a)
	default:
	}
}

// hooked is a store whose calls a test may get between.
type hooked struct {
	metadata.Store
	mu      sync.Mutex // guards the following
	onTxn   func(txn metadata.Txn, apply func() (metadata.TxnResult, error)) (metadata.TxnResult, error)
	onScan  func(read func() (metadata.Page, error)) (metadata.Page, error)
	onGet   func(read func() ([]metadata.KV, int64, error)) ([]metadata.KV, int64, error)
	swallow func(metadata.Event) bool // events that the watch leaves out
}

func (h *hooked) hookTxn(f func(txn metadata.Txn, apply func() (metadata.TxnResult, error)) (metadata.TxnResult, error)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.onTxn = f
}

func (h *hooked) hookScan(f func(read func() (metadata.Page, error)) (metadata.Page, error)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.onScan = f
}

func (h *hooked) hookGet(f func(read func() ([]metadata.KV, int64, error)) ([]metadata.KV, int64, error)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.onGet = f
}

func (h *hooked) Get(ctx context.Context, keys ...string) ([]metadata.KV, int64, error) {
	h.mu.Lock()
	f := h.onGet
	h.mu.Unlock()
	read := func() ([]metadata.KV, int64, error) { return h.Store.Get(ctx, keys...) }
	if f == nil {
		return read()
	}
	return f(read)
}

func (h *hooked) Txn(ctx context.Context, txn metadata.Txn) (metadata.TxnResult, error) {
	h.mu.Lock()
	f := h.onTxn
	h.mu.Unlock()
	apply := func() (metadata.TxnResult, error) { return h.Store.Txn(ctx, txn) }
	if f == nil {
		return apply()
	}
	return f(txn, apply)
}

func (h *hooked) Range(ctx context.Context, from, end string, revision int64, limit int) (metadata.Page, error) {
	h.mu.Lock()
	f := h.onScan
	h.mu.Unlock()
	read := func() (metadata.Page, error) { return h.Store.Range(ctx, from, end, revision, limit) }
	if f == nil {
		return read()
	}
	return f(read)
}

func (h *hooked) Watch(ctx context.Context, prefix string, revision int64) <-chan metadata.WatchBatch {
	in := h.Store.Watch(ctx, prefix, revision)
	out := make(chan metadata.WatchBatch)
	go func() {
		defer close(out)
		for b := range in {
			h.mu.Lock()
			swallow := h.swallow
			h.mu.Unlock()
			if swallow != nil {
				var kept []metadata.Event
				for _, ev := range b.Events {
					if !swallow(ev) {
						kept = append(kept, ev)
					}
				}
				b.Events = kept
			}
			select {
			case out <- b:
			case <-ctx.Done():
			}
		}
	}()
	return out
}

// isAppend tells the transaction of an append from all others.
func isAppend(txn metadata.Txn) bool {
	return len(txn.Then) == 2 && strings.Contains(txn.Then[1].Key, "/journal/") && !txn.Then[1].Delete
}

// objects is an object store whose reads and writes a test may make fail.
type objects struct {
	objstore.Store
	mu    sync.Mutex // guards the following
	onGet func(key string) error
	onPut func(ctx context.Context, key string) error
}

func (o *objects) hooks() (func(string) error, func(context.Context, string) error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.onGet, o.onPut
}

func (o *objects) GetRange(ctx context.Context, key string, off, n int64) ([]byte, error) {
	if get, _ := o.hooks(); get != nil {
		if err := get(key); err != nil {
			return nil, err
		}
	}
	return o.Store.GetRange(ctx, key, off, n)
}

func (o *objects) Put(ctx context.Context, key string, body objstore.Body) error {
	if _, put := o.hooks(); put != nil {
		if err := put(ctx, key); err != nil {
			return err
		}
	}
	return o.Store.Put(ctx, key, body)
}

// observer counts.
type observer struct {
	appended, unknown, gained, lost, snapshots atomic.Int64
}

func (o *observer) Appended(tiering.ShardID, int, time.Duration)          { o.appended.Add(1) }
func (o *observer) UnknownOutcome(tiering.ShardID)                        { o.unknown.Add(1) }
func (o *observer) LeadershipGained(tiering.ShardID, tiering.LeaderEpoch) { o.gained.Add(1) }
func (o *observer) LeadershipLost(tiering.ShardID)                        { o.lost.Add(1) }
func (o *observer) SnapshotWritten(tiering.ShardID, int)                  { o.snapshots.Add(1) }
func (o *observer) JournalLength(tiering.ShardID, uint64)                 {}
