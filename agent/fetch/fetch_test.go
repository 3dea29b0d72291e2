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
	gone      func(key string) // called when an object that is read is not there
	before    func(key string) // called before each read of the object store
	read      atomic.Int64     // bytes that were asked of the cache
	cold      atomic.Int64     // reads that were asked of it for lagging readers
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
	b, err := w.Store.GetRange(ctx, key, offset, length)
	if errors.Is(err, objstore.ErrNotFound) && w.l.gone != nil {
		w.l.gone(key)
	}
	return b, err
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
	l = &log{t: t, meta: memory.New(), objects: memstore.New(), manifests: &manifests{objects: map[tiering.SegmentID][]tiering.Extent{}}}
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

func TestBatchesComeBackWithTheirOffsets(t *testing.T) {
	withLog(t, func(l *log) {
		l.append(0, false, encode(t, rec{"a", 1}, rec{"b", 2}), encode(t, rec{"c", 3}))
		l.append(0, true, encode(t, rec{"d", 4}))
		l.append(0, false, encode(t, rec{"e", 5}, rec{"f", 6}))
		for _, c := range []struct {
			from tiering.Offset
			want string
		}{
			{0, "0=a 1=b 2=c 3=d 4=e 5=f "},
			{1, "0=a 1=b 2=c 3=d 4=e 5=f "}, // whole batches: the client skips
			{2, "2=c 3=d 4=e 5=f "},
			{3, "3=d 4=e 5=f "},
			{5, "4=e 5=f "},
			{6, ""},
		} {
			if got := l.fetch(fetch.Request{MaxBytes: 1 << 20, Partitions: []fetch.Partition{from(0, c.from, 1<<20)}}); got[0] != c.want {
				t.Errorf("from offset %d: %q, want %q", c.from, got[0], c.want)
			}
		}
	})
}

func TestLimitsCountWholeBatchesAndTheFirstAlwaysComes(t *testing.T) {
	withLog(t, func(l *log) {
		one := encode(t, rec{"a", 1})
		for p := range int32(2) {
			l.append(p, false, one, encode(t, rec{"b", 1}))
		}
		both := []fetch.Partition{from(0, 0, 1<<20), from(1, 0, 1<<20)}
		for _, c := range []struct {
			name string
			req  fetch.Request
			want []string
		}{
			{"a request for one byte gets one batch of the first partition", fetch.Request{MaxBytes: 1, Partitions: both}, []string{"0=a ", ""}},
			{"a partition's limit of one byte holds back all but the first batch", fetch.Request{MaxBytes: 1 << 20,
				Partitions: []fetch.Partition{from(0, 0, 1), from(1, 0, 1)}}, []string{"0=a ", ""}},
			{"the request's limit runs over the partitions", fetch.Request{MaxBytes: 3 * len(one), Partitions: both}, []string{"0=a 1=b ", "0=a "}},
		} {
			if got := l.fetch(c.req); fmt.Sprint(got) != fmt.Sprint(c.want) {
				t.Errorf("%s: got %q, want %q", c.name, got, c.want)
			}
		}
	})
}

func TestAdmissionIsAskedOnceAndItsLimitHolds(t *testing.T) {
	withLog(t, func(l *log) {
		one := encode(t, rec{"a", 1})
		for range 4 {
			l.append(0, true, one)
		}
		asked := 0
		ask := func(offset tiering.Offset, limit int, ok bool) string {
			return l.fetch(fetch.Request{MaxBytes: 1 << 20, Partitions: []fetch.Partition{from(0, offset, 1<<20), from(1, 0, 1<<20)},
				Admit: func(_ context.Context, _ fetch.Lane, bytes int) (int, bool) {
					if asked++; bytes != 4*len(one) {
						t.Errorf("%d bytes are said to be there, want %d", bytes, 4*len(one))
					}
					return limit, ok
				}})[0]
		}
		for _, c := range []struct {
			name   string
			offset tiering.Offset
			limit  int
			ok     bool
			want   string
			asked  int
		}{
			{"all", 0, 1 << 20, true, "0=a 1=a 2=a 3=a ", 1},
			{"half", 0, 2 * len(one), true, "0=a 1=a ", 1},
			{"less than a batch is a batch", 0, 1, true, "0=a ", 1},
			{"none", 0, 0, false, "", 1},
			{"nothing to read is not asked for", 4, 0, false, "", 0},
		} {
			if asked = 0; ask(c.offset, c.limit, c.ok) != c.want || asked != c.asked {
				t.Errorf("%s: not %q, or asked %d times", c.name, c.want, asked)
			}
		}
	})
}

func TestAnyPartitionsCommitEndsTheWait(t *testing.T) {
	withLog(t, func(l *log) {
		start := time.Now()
		var writing sync.WaitGroup
		defer writing.Wait()
		writing.Go(func() {
			time.Sleep(3 * time.Second)
			l.append(1, true, encode(t, rec{"late", 1}))
		})
		got := l.fetch(fetch.Request{MinBytes: 1, MaxBytes: 1 << 20, MaxWait: time.Minute, Partitions: []fetch.Partition{from(0, 0, 100), from(1, 0, 100)}})
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("the fetch took %v, want 3s", took)
		}
		if fmt.Sprint(got) != fmt.Sprint([]string{"", "0=late "}) {
			t.Errorf("got %q", got)
		}
	})
}

func TestAWaitEndsAtItsLimitOrWhenTheAgentDrains(t *testing.T) {
	withLog(t, func(l *log) {
		wait := func() time.Duration {
			start := time.Now()
			l.fetch(fetch.Request{MinBytes: 1, MaxBytes: 100, MaxWait: time.Minute, Partitions: []fetch.Partition{from(0, 0, 100)}})
			return time.Since(start)
		}
		if took := wait(); took != time.Minute {
			t.Errorf("the fetch took %v, want its limit of a minute", took)
		}
		l.reader.Hurry()
		if took := wait(); took != 0 {
			t.Errorf("the fetch of a draining agent took %v, want none", took)
		}
	})
}

func TestOffsetsOutOfRangeAreProved(t *testing.T) {
	withLog(t, func(l *log) {
		l.append(0, true, encode(t, rec{"a", 1}, rec{"b", 1}), encode(t, rec{"c", 1}))
		l.propose(0, func(d *shard.Draft) error {
			d.Add(shard.Trim{Partition: partition(0), LogStart: 2})
			return nil
		})
		for offset, want := range map[tiering.Offset]string{1: "OFFSET_OUT_OF_RANGE", 2: "2=c ", 3: "", 4: "OFFSET_OUT_OF_RANGE"} {
			if got := l.fetch(fetch.Request{MaxBytes: 100, Partitions: []fetch.Partition{from(0, offset, 100)}}); got[0] != want {
				t.Errorf("offset %d: %q, want %q", offset, got[0], want)
			}
		}
	})
}

func TestDamageIsReportedAndNeverServed(t *testing.T) {
	withLog(t, func(l *log) {
		good := encode(t, rec{"good", 1})
		l.append(0, false, good)
		l.append(0, false, encode(t, rec{"bad", 1}))
		bad := tiering.SegmentID{Session: l.session.id, Seq: 2}.Key()
		info, err := l.objects.Head(l.t.Context(), bad)
		if err != nil {
			t.Fatal(err)
		}
		content, err := l.objects.GetRange(l.t.Context(), bad, 0, info.Size)
		if err != nil {
			t.Fatal(err)
		}
		content[bytes.Index(content, []byte("bad"))] ^= 1
		if err := errors.Join(l.objects.Delete(l.t.Context(), bad), l.objects.Put(l.t.Context(), bad, objstore.Body{content})); err != nil {
			t.Fatal(err)
		}
		ask := func(offset tiering.Offset) string {
			return l.fetch(fetch.Request{MaxBytes: 1 << 20, Partitions: []fetch.Partition{from(0, offset, 1<<20)}})[0]
		}
		if got := ask(0); got != "0=good " {
			t.Errorf("from offset 0: %q, want what lies before the damage", got)
		}
		if got := ask(1); got != "KAFKA_STORAGE_ERROR" {
			t.Errorf("from offset 1: %q, want KAFKA_STORAGE_ERROR", got)
		}
	})
}

// A partition that cannot be read, or whose first batch is too large, must not keep the others of
// its request from their first batch.
func TestTheFirstBatchComesFromWhoeverHasOne(t *testing.T) {
	withLog(t, func(l *log) {
		for p := range int32(2) {
			l.append(p, false, encode(t, rec{"a", 1}))
			l.append(p, false, encode(t, rec{"b", 1}))
		}
		if err := l.objects.Delete(l.t.Context(), tiering.SegmentID{Session: l.session.id, Seq: 1}.Key()); err != nil {
			t.Fatal(err)
		}
		for _, limit := range []int{1, 10} {
			got := l.fetch(fetch.Request{MaxBytes: 1 << 20, Partitions: []fetch.Partition{from(0, 0, limit), from(1, 0, limit), from(1, 1, limit)}})
			if want := []string{"KAFKA_STORAGE_ERROR", "0=a ", ""}; fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%d bytes of each: %q, want %q", limit, got, want)
			}
		}
	})
}

func TestOffsetsByTimestamp(t *testing.T) {
	withLog(t, func(l *log) {
		l.append(0, false, encode(t, rec{"a", 100}, rec{"b", 300}, rec{"c", 200}), encode(t, rec{"d", 300}))
		l.append(0, true, encode(t, rec{"e", 50}))
		id, tp := tiering.ShardID(0), partition(0)
		for ask, want := range map[int64]fetch.Offset{
			0:   {Offset: 0, Timestamp: 100, Epoch: 1},
			101: {Offset: 1, Timestamp: 300, Epoch: 1},
			300: {Offset: 1, Timestamp: 300, Epoch: 1},
			301: fetch.NoOffset,
		} {
			if got, err := l.reader.ByTimestamp(l.t.Context(), id, tp, ask, false); err != nil || got != want {
				t.Errorf("by timestamp %d: %v, %v, want %v", ask, got, err, want)
			}
		}
		if got, err := l.reader.MaxTimestamp(l.t.Context(), id, tp, false); err != nil || got != (fetch.Offset{Offset: 1, Timestamp: 300, Epoch: 1}) {
			t.Errorf("max timestamp: %v, %v, want offset 1", got, err)
		}
		if got := l.reader.Latest(id, tp, false); got.Offset != 5 {
			t.Errorf("latest is %v, want 5", got)
		}
		if e, end := l.reader.EpochEnd(id, tp, 1); e != 1 || end != 5 {
			t.Errorf("epoch 1 ends at %d (epoch %d), want 5", end, e)
		}
	})
}
