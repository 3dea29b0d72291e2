package fetch_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/floelog/floe/agent/fetch"
	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/metadata/memory"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/protocol/batch"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/cache"
	"github.com/floelog/floe/tiering/objstore"
	memstore "github.com/floelog/floe/tiering/objstore/memory"
	"github.com/floelog/floe/tiering/segment"
)

const shards = 2

// log is a log of its own: journals over a metadata store in memory, segments in another.
type log struct {
	t       testing.TB
	meta    *memory.Server
	objects *memstore.Store
	set     *journal.Set
	reader  *fetch.Reader
	session session
	subs    [shards]uint64
	segs    uint64

	manifests *manifests
	gone      func(key string)             // called when an object that is read is not there
	spoil     func(offset int64, b []byte) // changes what the store answers
	before    func(key string)             // called before each read of the object store
	fails     error                        // what the store fails each read with
	read      atomic.Int64                 // bytes that were asked of the cache
	cold      atomic.Int64                 // reads that were asked of it for lagging readers
}

// counted counts what is asked of the cache.
type counted struct {
	*cache.Cache
	l *log
}

func (c counted) Read(ctx context.Context, r cache.Range, dst [][]byte) ([][]byte, error) {
	c.l.read.Add(int64(r.Length))
	if r.Cold {
		c.l.cold.Add(1)
	}
	return c.Cache.Read(ctx, r, dst)
}

// watched is the object store as the cache sees it.
type watched struct {
	objstore.Store
	l *log
}

func (w watched) GetRange(ctx context.Context, key string, offset, length int64) ([]byte, error) {
	if w.l.before != nil {
		w.l.before(key)
	}
	if w.l.fails != nil {
		return nil, w.l.fails
	}
	b, err := w.Store.GetRange(ctx, key, offset, length)
	if w.l.spoil != nil && err == nil {
		b = bytes.Clone(b)
		w.l.spoil(offset, b)
	}
	if errors.Is(err, objstore.ErrNotFound) && w.l.gone != nil {
		w.l.gone(key)
	}
	return b, err
}

func (w watched) GetUpTo(ctx context.Context, key string, offset, length int64) (objstore.Body, int64, error) {
	if w.l.before != nil {
		w.l.before(key)
	}
	if w.l.fails != nil {
		return nil, 0, w.l.fails
	}
	b, size, err := w.Store.GetUpTo(ctx, key, offset, length)
	if w.l.spoil != nil && err == nil {
		b = objstore.Body{b.Copy()}
		w.l.spoil(offset, b[0])
	}
	if errors.Is(err, objstore.ErrNotFound) && w.l.gone != nil {
		w.l.gone(key)
	}
	return b, size, err
}

// session is a session that never ends.
type session struct {
	id    tiering.SessionID
	lease metadata.LeaseID
}

func (s session) ID() tiering.SessionID   { return s.id }
func (session) Node() int32               { return 1 }
func (s session) Lease() metadata.LeaseID { return s.lease }
func (session) Alive() bool               { return true }
func (session) Lost() <-chan struct{}     { return nil }

// withLog runs f in a bubble of virtual time with a log that is led here.
func withLog(t *testing.T, f func(l *log)) {
	synctest.Test(t, func(t *testing.T) {
		l, done := open(t)
		f(l)
		done()
	})
}

// open returns a log that is led here, until done is called.
func open(t testing.TB) (l *log, done func()) { return openWith(t, fetch.Config{}, nil) }

// openWith is open with a reader of its own.
func openWith(t testing.TB, cfg fetch.Config, observe fetch.Observer) (l *log, done func()) {
	ctx, cancel := context.WithCancel(t.Context())
	l = &log{t: t, meta: memory.New(), objects: memstore.New(), manifests: &manifests{objects: map[tiering.SegmentID][]tiering.Extent{}, aborted: map[tiering.SegmentID][]shard.AbortedTransaction{}}}
	keys := metadata.NewKeys("test")
	store := l.meta.Client("agent")
	lease, err := store.Grant(ctx, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	l.session = session{tiering.SessionID{1}, lease}
	if _, err := store.Txn(ctx, metadata.Txn{Then: []metadata.Op{metadata.PutLeased(keys.Session(l.session.id), []byte("{}"), lease)}}); err != nil {
		t.Fatal(err)
	}
	nonce := uint64(0)
	l.set = journal.New(journal.Config{Keys: keys, Shards: shards}, journal.Parts{
		Store: store, Objects: l.objects, Log: slog.New(slog.DiscardHandler), Now: time.Now,
		Nonce:   func() uint64 { nonce++; return nonce },
		Applied: func(id tiering.ShardID, r *shard.Record) { l.reader.Applied(id, r) },
	})
	c, err := cache.New(watched{l.objects, l}, segment.VerifyBatches, cache.Options{Capacity: 64 << 20, Whole: segment.WholeBatches})
	if err != nil {
		t.Fatal(err)
	}
	l.reader = fetch.NewReader(cfg, fetch.Parts{Views: l.set, Cache: counted{c, l}, Manifests: l.manifests, Observe: observe, Now: time.Now})
	var running sync.WaitGroup
	running.Go(func() {
		if err := l.set.Run(ctx); err != nil {
			t.Error("following the journals:", err)
		}
	})
	<-l.set.Loaded()
	for id := range tiering.ShardID(shards) {
		if _, err := l.set.Acquire(ctx, l.session, id); err != nil {
			t.Fatal(err)
		}
	}
	return l, func() {
		cancel()
		running.Wait()
		c.Close()
		l.meta.Close()
	}
}

func partition(p int32) tiering.TopicPartition {
	return tiering.TopicPartition{Topic: tiering.TopicID{7}, Partition: p}
}

// rec is one record: its value and timestamp.
type rec struct {
	value string
	at    int64
}

func encode(t testing.TB, recs ...rec) []byte {
	t.Helper()
	return encodeAs(t, batch.PlainFields(recs[0].at), recs...)
}

func encodeAs(t testing.TB, f batch.Fields, recs ...rec) []byte {
	t.Helper()
	b := batch.NewBuilder(f)
	for i, r := range recs {
		b.Add(batch.Record{OffsetDelta: int32(i), TimestampDelta: r.at - recs[0].at, Value: []byte(r.value)})
	}
	out, err := b.AppendTo(nil)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// append commits batches to a partition, which lives on the shard of its number: inline,
// or as one segment.
func (l *log) append(p int32, inline bool, batches ...[]byte) {
	l.t.Helper()
	l.appendIn(nil, p, inline, batches...)
}

// appendIn is append with the numbers of the transactions that are open, by producer.
func (l *log) appendIn(open map[int64]int64, p int32, inline bool, batches ...[]byte) {
	l.t.Helper()
	part := shard.Part{Partition: partition(p)}
	var metas []shard.Batch
	for _, b := range batches {
		v, _, err := batch.Next(b)
		if err != nil {
			l.t.Fatal(err)
		}
		metas = append(metas, shard.Batch{Length: int32(len(b)), Count: v.Count(), MaxTimestamp: v.MaxTimestamp(),
			ProducerID: v.ProducerID(), ProducerEpoch: v.ProducerEpoch(), FirstSeq: v.BaseSequence(), Transaction: open[v.ProducerID()]})
	}
	part.Batches = metas
	if inline {
		part.Inline = bytes.Join(batches, nil)
	} else {
		l.segs++
		part.Segment = tiering.SegmentID{Session: l.session.id, Seq: l.segs}
		built, err := segment.Build(segment.Header{ID: part.Segment}, []segment.Chunk{{Shard: tiering.ShardID(p), TopicPartition: part.Partition, Slices: batches}})
		if err != nil {
			l.t.Fatal(err)
		}
		if err := l.objects.Put(l.t.Context(), part.Segment.Key(), built.Body); err != nil {
			l.t.Fatal(err)
		}
		part.Position = built.Entries[0].Position
	}
	l.subs[p]++
	l.propose(p, func(d *shard.Draft) error {
		outcomes, err := d.Submit(&shard.Submission{Session: l.session.id, Seq: l.subs[p], Parts: []shard.Part{part}})
		for _, o := range outcomes {
			if o.Code != shard.OK {
				err = errors.Join(err, fmt.Errorf("a batch is refused: %+v", o))
			}
		}
		return err
	})
}

func (l *log) propose(p int32, f func(*shard.Draft) error) {
	l.t.Helper()
	done := make(chan error, 1)
	l.set.Leader(tiering.ShardID(p)).Propose(&journal.Proposal{Session: l.session.id, Draft: f, Done: func(_ uint64, err error) { done <- err }})
	if err := <-done; err != nil {
		l.t.Fatal(err)
	}
}

// fetch asks for partitions from offsets, and returns what came as text.
func (l *log) fetch(req fetch.Request) []string {
	l.t.Helper()
	var out []string
	for _, r := range l.reader.Fetch(l.t.Context(), &req) {
		out = append(out, l.text(r))
	}
	return out
}

// text is an answer's records as offset=value, or its error.
func (l *log) text(r fetch.Result) string {
	l.t.Helper()
	if r.Code != 0 {
		return kerr.ErrorForCode(r.Code).(*kerr.Error).Message
	}
	rest := bytes.Join(r.Records, nil)
	if len(rest) != r.Bytes {
		l.t.Errorf("%d bytes came, the answer says %d", len(rest), r.Bytes)
	}
	var out string
	for len(rest) > 0 {
		v, tail, err := batch.Next(rest)
		if err != nil {
			l.t.Fatal(err)
		}
		if err := v.VerifyCRC(); err != nil {
			l.t.Fatal(err)
		}
		if v.LeaderEpoch() != 1 {
			l.t.Errorf("a batch carries leader epoch %d, want 1", v.LeaderEpoch())
		}
		rest = tail
		if v.IsControl() {
			out += fmt.Sprintf("%d=%s ", v.BaseOffset(), marker(l.t, v))
			continue
		}
		for rec, err := range v.Records(nil) {
			if err != nil {
				l.t.Fatal(err)
			}
			out += fmt.Sprintf("%d=%s ", v.BaseOffset()+int64(rec.OffsetDelta), rec.Value)
		}
	}
	return out
}

// marker is what a control batch says.
func marker(t testing.TB, v batch.View) string {
	commit, _, err := batch.ReadMarker(v)
	if err != nil {
		t.Fatal(err)
	}
	if commit {
		return fmt.Sprintf("commit(%d)", v.ProducerID())
	}
	return fmt.Sprintf("abort(%d)", v.ProducerID())
}

func from(p int32, offset tiering.Offset, maxBytes int) fetch.Partition {
	return fetch.Partition{Partition: partition(p), Shard: tiering.ShardID(p), Offset: offset, MaxBytes: maxBytes}
}
