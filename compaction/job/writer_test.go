package job_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/compaction/job"
	"github.com/floelog/floe/compaction/job/jobtest"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/protocol/batch"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
	"github.com/floelog/floe/tiering/segment"
)

func partition(n int32) tiering.TopicPartition {
	return tiering.TopicPartition{Topic: tiering.TopicID{1}, Partition: n}
}

// carrier counts what is on its way.
type carrier struct{ out, back int }

func (c *carrier) Take() []segment.JournalRecord {
	c.out++
	return []segment.JournalRecord{{Shard: 1, Seq: 2, Bytes: []byte("record")}}
}

func (c *carrier) GiveBack(records []segment.JournalRecord) { c.back += len(records) }

func writer(w *jobtest.World, objects objstore.Store, c job.Carrier) *job.Writer {
	return &job.Writer{Journals: w, Segments: w, Objects: objects, Cluster: [16]byte{9}, Now: time.Now, Carrier: c}
}

// whole is a run that stores all extents of a partition as one.
func whole(w *jobtest.World, tp tiering.TopicPartition) job.Run {
	p := w.State(tp)
	with := tiering.Extent{Base: p.Extents[0].Base}
	var data [][]byte
	for _, e := range p.Extents {
		b, err := w.Objects.GetRange(context.Background(), e.Segment.Key(), int64(e.Position), int64(e.Length))
		if err != nil {
			panic(err)
		}
		data = append(data, b[:20], b[20:])
		with.Count += e.Count
		with.Length += e.Length
		with.MaxTimestamp = max(with.MaxTimestamp, e.MaxTimestamp)
	}
	return job.Run{Shard: w.Shard(tp), Partition: tp, Epochs: p.Epochs, Of: shard.DigestOf(p.Extents), With: []tiering.Extent{with}, Data: data}
}

// fill appends three flushes to two partitions of different shards, under two leader epochs.
func fill(w *jobtest.World) []tiering.TopicPartition {
	tps := []tiering.TopicPartition{partition(0), partition(1)}
	for i := range 3 {
		w.Flush(jobtest.Part{Partition: tps[0], Batches: [][]byte{w.Batch(1000, "a", fmt.Sprint(i)), w.Batch(1001, "b")}},
			jobtest.Part{Partition: tps[1], Batches: [][]byte{w.Batch(1002, "c", "d", fmt.Sprint(i))}})
		if i == 0 {
			w.Lead(0)
		}
	}
	return tps
}

func TestStoreReplacesAndStamps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := jobtest.New(t, 2)
		tps := fill(w)
		before := [][]jobtest.Seen{w.Read(tps[0]), w.Read(tps[1])}
		late := whole(w, tps[1])
		c := &carrier{}
		n, err := writer(w, w.Objects, c).Store(t.Context(), job.Segment{Level: 1, Purpose: objstore.Merge, Runs: []job.Run{whole(w, tps[1]), whole(w, tps[0])}})
		if err != nil || c.out != 1 || c.back != 0 || w.Open() != 0 {
			t.Fatalf("%v; carried %+v; %d numbers are open", err, c, w.Open())
		}
		var id tiering.SegmentID
		for i, tp := range tps {
			p := w.State(tp)
			if len(p.Extents) != 1 {
				t.Fatalf("%s has %d extents", tp, len(p.Extents))
			}
			if id = p.Extents[0].Segment; !slices.Equal(w.Read(tp), before[i]) {
				t.Errorf("%s reads otherwise than before", tp)
			}
		}
		read := func(off tiering.Position, n int64) ([]byte, error) {
			return w.Objects.GetRange(t.Context(), id.Key(), int64(off), n)
		}
		seg, err := segment.Open(n, read)
		if err != nil {
			t.Fatal(err)
		}
		if h, err := seg.ReadHeader(read); err != nil || h.Level != 1 || len(h.Carry) != 1 || h.Cluster != [16]byte{9} {
			t.Errorf("header %+v, %v", h, err)
		}
		for i, e := range seg.Entries {
			data, err := seg.ReadChunk(e, read)
			if err != nil || e.Base != 0 {
				t.Fatalf("chunk at base %d: %v", e.Base, err)
			}
			for _, want := range before[i] { // without metadata: as the reader sees it
				v, rest, err := batch.Next(data)
				if err != nil || string(v) != want.Bytes {
					t.Fatalf("stored batch at %d: base %d, epoch %d, %v", want.Base, v.BaseOffset(), v.LeaderEpoch(), err)
				}
				data = rest
			}
		}
		puts := len(keys(t, w.Objects))
		if n, err := writer(w, w.Objects, nil).Store(t.Context(), job.Segment{Level: 1, Runs: []job.Run{late}}); n != 0 || err != nil || len(keys(t, w.Objects)) != puts {
			t.Errorf("what came late: %d bytes, %v, %d objects of %d", n, err, len(keys(t, w.Objects)), puts)
		}
	})
}

func keys(t *testing.T, s objstore.Store) []objstore.Info {
	t.Helper()
	infos, err := s.List(t.Context(), "", "", 1000)
	if err != nil {
		t.Fatal(err)
	}
	return infos
}

// noPuts is a store that takes nothing.
type noPuts struct{ objstore.Store }

var errDown = errors.New("down")

func (noPuts) Put(context.Context, string, objstore.Body) error { return errDown }

// silent are journals that never answer.
type silent struct{ job.Journals }

func (silent) Change(ctx context.Context, _ tiering.ShardID, _ ...shard.Change) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestStoreThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := jobtest.New(t, 2)
		tps := fill(w)
		before := w.State(tps[0])
		c := &carrier{}
		_, err := writer(w, noPuts{w.Objects}, c).Store(t.Context(), job.Segment{Level: 1, Runs: []job.Run{whole(w, tps[0])}})
		if !errors.Is(err, errDown) || c.back != 1 || w.Open() != 0 {
			t.Errorf("a failed PUT: %v; carried %+v; %d numbers are open", err, c, w.Open())
		}
		objects := len(keys(t, w.Objects))
		for name, spoil := range map[string]func(*job.Run){
			"too many bytes": func(r *job.Run) { r.Data = append(r.Data, []byte("x")) },
			"too few bytes":  func(r *job.Run) { r.Data = r.Data[:len(r.Data)-1] },
			"other offsets": func(r *job.Run) {
				r.With = append([]tiering.Extent{{Base: 0, Count: 1, MaxTimestamp: -1}}, r.With...)
				r.With[1].Base, r.With[1].Count = 1, r.With[1].Count-1
			},
		} {
			r := whole(w, tps[0])
			spoil(&r)
			if _, err := writer(w, w.Objects, nil).Store(t.Context(), job.Segment{Level: 1, Runs: []job.Run{r}}); !errors.Is(err, objstore.ErrCorrupt) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if n := len(keys(t, w.Objects)); n != objects || w.Open() != 0 {
			t.Errorf("%d objects of %d, %d numbers are open", n, objects, w.Open())
		}
		if after := w.State(tps[0]); shard.DigestOf(after.Extents) != shard.DigestOf(before.Extents) {
			t.Error("a failed replacement changed the partition")
		}
		// Nobody knows whether the journal took it. The number is given back all the same: what
		// comes once the watermark has passed it is refused.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		wr := writer(w, w.Objects, nil)
		wr.Journals = silent{w}
		if _, err := wr.Store(ctx, job.Segment{Level: 1, Runs: []job.Run{whole(w, tps[0])}}); !errors.Is(err, context.DeadlineExceeded) || w.Open() != 0 {
			t.Errorf("an unknown outcome: %v, %d numbers are open", err, w.Open())
		}
	})
}
