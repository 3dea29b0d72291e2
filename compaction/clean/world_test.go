package clean_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/floelog/floe/compaction/clean"
	"github.com/floelog/floe/compaction/job"
	"github.com/floelog/floe/compaction/job/jobtest"
	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/protocol/batch"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/cache"
	"github.com/floelog/floe/tiering/segment"
)

var codecs = []batch.Codec{batch.None, batch.Gzip, batch.Snappy, batch.LZ4, batch.Zstd}

// written is a record as a producer wrote it.
type written struct {
	at         tiering.Offset
	key, value string // value empty: a tombstone
	txn        int    // 0: none
}

// producer is an idempotent producer; it writes in transactions.
type producer struct {
	seq   int32
	txn   int64 // number of its transaction that is open, 0: none
	last  int64 // number of its last transaction
	index int   // of the open transaction in the world's outcome
}

// world is a compacted topic of one partition, and what was ever written to it.
type world struct {
	*jobtest.World
	t         *testing.T
	r         *rand.Rand
	tp        tiering.TopicPartition
	policy    job.Policy
	known     bool
	mine      bool
	clock     error // what is wrong with it
	manifests map[tiering.SegmentID][]tiering.Extent
	listed    map[tiering.SegmentID][]shard.AbortedTransaction // by manifests
	meddle    func()                                           // called before each read of the cleaner's
	reads     int
	warm      int      // of these, that were not cold
	foreign   bool     // what a read returns is only good until the next one
	lent      [][]byte // what the last one returned
	*clean.Cleaner

	all       []written
	outcome   []string               // of transactions, by number
	markers   map[int]tiering.Offset // likewise
	producers [4]producer
	subs      uint64
}

func newWorld(t *testing.T, seed, memory uint64) *world {
	w := &world{World: jobtest.New(t, 2), t: t, r: rand.New(rand.NewPCG(seed, 2)), tp: tiering.TopicPartition{Topic: tiering.TopicID{3}, Partition: 1},
		known: true, mine: true, manifests: map[tiering.SegmentID][]tiering.Extent{}, listed: map[tiering.SegmentID][]shard.AbortedTransaction{}, outcome: []string{"commit"}, markers: map[int]tiering.Offset{}, meddle: func() {},
		policy: job.Policy{Compact: true, DeleteRetention: time.Hour, Retention: -1, RetentionBytes: -1, MaxCompactionLag: math.MaxInt64}}
	w.anew(clean.Config{Memory: int64(memory), RunBytes: 4 << 10})
	return w
}

// anew starts the cleaner again, which knows of nothing then.
func (w *world) anew(cfg clean.Config) {
	w.Cleaner = clean.New(cfg, clean.Parts{
		Journals: w, Claims: w, Policies: w, Reader: w, Manifests: w, Writer: w.writer(), Now: time.Now,
		Clock: func(context.Context) error { return w.clock }, Log: slog.New(slog.DiscardHandler),
	})
}

func (w *world) writer() *job.Writer {
	return &job.Writer{Journals: w, Segments: w.World, Objects: w.Objects, Now: time.Now}
}

func (w *world) Policy(id tiering.TopicID) (job.Policy, bool) {
	return w.policy, w.known && id == w.tp.Topic
}

func (w *world) Claimed() []tiering.ShardID {
	if !w.mine {
		return nil
	}
	return w.World.Claimed()
}

func (w *world) Read(ctx context.Context, r cache.Range, dst [][]byte) ([][]byte, error) {
	w.meddle()
	w.reads++
	if !r.Cold {
		w.warm++
	}
	if !w.foreign {
		return w.Cache.Read(ctx, r, dst)
	}
	for i := range w.lent {
		clear(w.lent[i])
	}
	got, err := w.Cache.Read(ctx, r, nil)
	w.lent = [][]byte{slices.Concat(got...)}
	return append(dst, w.lent...), err
}

func (w *world) Content(_ context.Context, _ tiering.TopicPartition, m shard.Manifest) ([]tiering.Extent, []shard.AbortedTransaction, error) {
	if e, ok := w.manifests[m.Object]; ok {
		return e, w.listed[m.Object], nil
	}
	return nil, nil, errors.New("no such manifest")
}

func (w *world) propose(draft func(*shard.Draft) error) {
	w.t.Helper()
	done := make(chan error, 1)
	w.Leader(w.Shard(w.tp)).Propose(&journal.Proposal{Session: w.Session, Size: 1 << 10, Draft: draft, Done: func(_ uint64, err error) { done <- err }})
	if err := <-done; err != nil {
		w.t.Fatal(err)
	}
}

// produce writes batches of records as one segment, or inline; nil values are tombstones.
func (w *world) produce(p *producer, inline bool, batches ...[]written) {
	w.t.Helper()
	part := shard.Part{Partition: w.tp}
	var data []byte
	at := w.State(w.tp).Next
	for _, records := range batches {
		f := batch.PlainFields(time.Now().UnixMilli())
		f.Attributes = f.Attributes.WithCodec(codecs[w.r.IntN(len(codecs))])
		meta := shard.Batch{Count: int32(len(records)), MaxTimestamp: f.FirstTimestamp, ProducerID: -1}
		if p != nil {
			id := int64(0)
			for &w.producers[id] != p {
				id++
			}
			f.Attributes |= batch.AttrTransactional
			f.ProducerID, f.ProducerEpoch, f.BaseSequence = id, 1, p.seq
			meta.ProducerID, meta.ProducerEpoch, meta.FirstSeq, meta.Transaction = id, 1, p.seq, p.txn
			p.seq += meta.Count
		}
		b := batch.NewBuilder(f)
		for i, x := range records {
			rec := batch.Record{OffsetDelta: int32(i), Key: []byte(x.key)}
			if x.value != "" {
				rec.Value = []byte(x.value)
			}
			b.Add(rec)
			x.at = at
			if p != nil {
				x.txn = p.index
			}
			w.all = append(w.all, x)
			at++
		}
		out, err := b.AppendTo(nil)
		if err != nil {
			w.t.Fatal(err)
		}
		meta.Length = int32(len(out))
		part.Batches = append(part.Batches, meta)
		data = append(data, out...)
	}
	if inline {
		part.Inline = data
	} else {
		var done func()
		part.Segment, done = w.NextSegment()
		defer done()
		built, err := segment.Build(segment.Header{ID: part.Segment}, []segment.Chunk{{Shard: w.Shard(w.tp), TopicPartition: w.tp, Slices: [][]byte{data}}})
		if err != nil {
			w.t.Fatal(err)
		}
		if err := w.Objects.Put(context.Background(), part.Segment.Key(), built.Body); err != nil {
			w.t.Fatal(err)
		}
		part.Position = built.Entries[0].Position
	}
	w.subs++
	sub := &shard.Submission{Session: w.Session, Seq: w.subs, Parts: []shard.Part{part}}
	w.propose(func(d *shard.Draft) error {
		out, err := d.Submit(sub)
		for _, o := range out {
			if o.Code != shard.OK {
				err = errors.Join(err, fmt.Errorf("outcome %+v", o))
			}
		}
		return err
	})
}

// put writes one record in a segment of its own; without a value, a tombstone.
func (w *world) put(key, value string) {
	w.t.Helper()
	w.produce(nil, false, []written{{key: key, value: value}})
}

// end ends a producer's transaction; its marker is inline.
func (w *world) end(p *producer, commit bool) {
	w.t.Helper()
	id := slices.IndexFunc(w.producers[:], func(x producer) bool { return x == *p })
	w.markers[p.index] = w.State(w.tp).Next
	w.propose(func(d *shard.Draft) error {
		if o := d.Mark(shard.Marker{Partition: w.tp, Transaction: shard.Transaction{ProducerID: int64(id), Epoch: 1, Number: p.txn}, Commit: commit}); o.Code != shard.OK {
			return fmt.Errorf("marker: %+v", o)
		}
		return nil
	})
	if commit {
		w.outcome[p.index] = "commit"
	} else {
		w.outcome[p.index] = "abort"
	}
	p.txn = 0
}

// begin opens a producer's next transaction.
func (w *world) begin(p *producer) {
	p.last++
	p.txn, p.index = p.last, len(w.outcome)
	w.outcome = append(w.outcome, "open")
}

// replace commits a run as any job does and reports whether it is in force.
func (w *world) replace(run job.Run) bool {
	w.t.Helper()
	run.Shard, run.Partition = w.Shard(w.tp), w.tp
	if _, err := w.writer().Store(context.Background(), job.Segment{Level: 1, Runs: []job.Run{run}}); err != nil {
		w.t.Fatal(err)
	}
	p := w.State(w.tp)
	d, ok := p.Digest(run.With[0].Base, run.With[len(run.With)-1].End())
	return ok && d == shard.DigestOf(run.With)
}

// merge puts extents side by side together, inline ones among them, as merging does.
func (w *world) merge(from, n int) {
	w.t.Helper()
	p := w.State(w.tp)
	es := p.Extents[min(from, len(p.Extents)):min(from+n, len(p.Extents))]
	if i := slices.IndexFunc(es, tiering.Extent.IsHole); i >= 0 {
		es = es[:i]
	}
	if len(es) == 0 {
		return
	}
	with := tiering.Extent{Base: es[0].Base, MaxTimestamp: es[0].MaxTimestamp}
	run := job.Run{Epochs: p.Epochs, Of: shard.DigestOf(es)}
	for _, e := range es {
		with.Count += e.Count
		with.Length += e.Length
		with.MaxTimestamp = max(with.MaxTimestamp, e.MaxTimestamp)
		if e.IsInline() {
			run.Data = append(run.Data, e.Inline)
			continue
		}
		b, err := w.Objects.GetRange(context.Background(), e.Segment.Key(), int64(e.Position), int64(e.Length))
		if err != nil {
			w.t.Fatal(err)
		}
		run.Data = append(run.Data, b)
	}
	run.With = []tiering.Extent{with}
	if !w.replace(run) {
		w.t.Fatal("a merge had no effect")
	}
}

// rollUp moves inline extents into segments.
func (w *world) rollUp() {
	w.t.Helper()
	for {
		p := w.State(w.tp)
		i := slices.IndexFunc(p.Extents, tiering.Extent.IsInline)
		if i < 0 {
			return
		}
		n := 1
		for i+n < len(p.Extents) && p.Extents[i+n].IsInline() {
			n++
		}
		w.merge(i, n)
	}
}

func (w *world) trim(to tiering.Offset) {
	w.t.Helper()
	if err := w.Change(context.Background(), w.Shard(w.tp), shard.Trim{Partition: w.tp, LogStart: to}); err != nil {
		w.t.Fatal(err)
	}
}

// tick lets the cleaner work until it has no more to do, and looks at the log.
func (w *world) tick() {
	w.t.Helper()
	for more, n := true, 0; more; n++ {
		if n > 1000 {
			w.t.Fatal("the cleaner never comes to its end")
		}
		var err error
		if more, err = w.Tick(w.t.Context()); err != nil {
			w.t.Fatal(err)
		}
	}
	w.check()
}

// record is a record as it is read.
type record struct {
	at         tiering.Offset
	last       tiering.Offset // of its batch
	key, value string
	control    bool
	producer   int64
	txnal      bool
	horizon    bool // its batch has a delete horizon
}

// records reads the log as it is stored, from the log start on.
func (w *world) records() (out []record) {
	w.t.Helper()
	start := w.State(w.tp).LogStart
	for _, seen := range w.World.Read(w.tp) {
		v := batch.View(seen.Bytes)
		for r, err := range v.Records(nil) {
			if err != nil {
				w.t.Fatal(err)
			}
			at := tiering.Offset(seen.Base) + tiering.Offset(r.OffsetDelta)
			if at >= start {
				out = append(out, record{at, tiering.Offset(seen.Base) + tiering.Offset(v.LastOffsetDelta()), string(r.Key), string(r.Value), v.IsControl(), v.ProducerID(), v.IsTransactional(), v.DeleteHorizon() != batch.NoHorizon})
			}
		}
	}
	return out
}

// committed returns what a read_committed consumer makes of the log: the newest value of
// each key, and where it is.
func (w *world) committed() map[string]record {
	w.t.Helper()
	var aborted []shard.AbortedTransaction
	stable := tiering.Offset(0)
	w.View(w.Shard(w.tp)).Read(func(s *shard.State) {
		p := s.Partition(w.tp)
		stable = p.LastStable()
		aborted = p.AbortedIn(0, p.Next)
	})
	// Producers whose data is being passed over. Java's client looks at the last offsets of batches
	// to see which transactions have begun.
	gone := map[int64]bool{}
	out := map[string]record{}
	for _, r := range w.records() {
		for len(aborted) > 0 {
			i := slices.IndexFunc(aborted, func(a shard.AbortedTransaction) bool { return a.First <= r.last })
			if i < 0 {
				break
			}
			gone[aborted[i].ProducerID] = true
			aborted = slices.Delete(slices.Clone(aborted), i, i+1)
		}
		switch {
		case r.at >= stable:
			return out
		case r.control:
			if r.key == "\x00\x00\x00\x00" { // an abort marker
				delete(gone, r.producer)
			}
		case r.txnal && gone[r.producer]:
		case r.value == "":
			delete(out, r.key)
		default:
			out[r.key] = r
		}
	}
	return out
}

// reference returns what it must make of the log, from what was written.
func (w *world) reference() map[string]record {
	p := w.State(w.tp)
	stable := tiering.Offset(0)
	w.View(w.Shard(w.tp)).Read(func(s *shard.State) { stable = s.Partition(w.tp).LastStable() })
	out := map[string]record{}
	for _, x := range w.all {
		switch {
		case x.at >= stable || x.at < p.LogStart || w.outcome[x.txn] != "commit":
		case x.value == "":
			delete(out, x.key)
		default:
			r := record{at: x.at, key: x.key, value: x.value, producer: -1}
			out[x.key] = r
		}
	}
	return out
}

// check compares what consumers see with what was written.
func (w *world) check() {
	w.t.Helper()
	got, want := w.committed(), w.reference()
	same := maps.EqualFunc(got, want, func(a, b record) bool { return a.at == b.at && a.value == b.value })
	if !same {
		w.t.Fatalf("the log says\n%v\nwritten was\n%v", got, want)
	}
	known := map[tiering.Offset]written{}
	for _, x := range w.all {
		known[x.at] = x
	}
	last := tiering.Offset(-1)
	left := map[tiering.Offset]bool{} // markers of which data is left
	for _, r := range w.records() {
		if marker, ok := w.markers[known[r.at].txn]; ok && !r.control {
			left[marker] = true
		}
		if left[r.at] && r.horizon {
			w.t.Fatalf("the marker at %d is about to go, data of its transaction is left", r.at)
		}
		delete(left, r.at)
		x, ok := known[r.at]
		if r.at <= last || !r.control && (!ok || x.key != r.key || x.value != r.value) {
			w.t.Fatalf("after %d, the log has %+v, written was %+v", last, r, x)
		}
		last = r.at
	}
	for at := range left {
		w.t.Fatalf("the marker at %d is gone, not so the data of its transaction", at)
	}
}

// thin checks that nothing is left below Cleaned that must have gone.
func (w *world) thin() {
	w.t.Helper()
	cleaned := w.State(w.tp).Cleaned
	seen := map[string]tiering.Offset{}
	for _, r := range w.records() {
		if r.at >= cleaned {
			continue
		}
		old, twice := seen[r.key]
		switch {
		case r.control:
		case twice:
			w.t.Errorf("key %q is left at %d and at %d", r.key, old, r.at)
		case r.value == "":
			w.t.Errorf("a tombstone of %q is left at %d", r.key, r.at)
		}
		seen[r.key] = r.at
	}
	for _, x := range w.all {
		if at, ok := seen[x.key]; ok && at == x.at && w.outcome[x.txn] == "abort" {
			w.t.Errorf("aborted data is left at %d", at)
		}
	}
}
