package sweep_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/compaction/sweep"
	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
)

var tp0 = tiering.TopicPartition{Topic: tiering.TopicID{9}}

// bubble runs f in a cluster of one shard and one node, on virtual time.
func bubble(t *testing.T, f func(w *world, n *node)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		defer w.close()
		n := w.start(w.bucket)
		w.lead(rand.New(rand.NewPCG(1, 1)))
		f(w, n)
	})
}

// must fails the test on an error.
func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// covered lets time pass until every record is in a snapshot, and all watermarks are published.
func (w *world) covered() {
	time.Sleep(snapshotAge + time.Minute)
	synctest.Wait()
}

func (w *world) has(key string) bool {
	_, err := w.bucket.Head(w.ctx, key)
	if err != nil && !errors.Is(err, objstore.ErrNotFound) {
		w.t.Fatal(err)
	}
	return err == nil
}

// orphan stores an object that no record will ever name and gives its number back.
func (n *node) orphan() tiering.SegmentID {
	n.w.t.Helper()
	id, done := n.number()
	n.w.must(n.put(id.Key(), 10))
	done()
	return id
}

func TestGarbageWaitsForItsGrace(t *testing.T) {
	bubble(t, func(w *world, n *node) {
		w.must(n.flush(0, tp0))
		orphan := n.orphan().Key()
		w.covered()
		s := w.sweeper(time.Minute, nil)
		if r := s.Sweep(w.ctx); r.Err != nil || r.Counts[sweep.Segment][sweep.Waiting].Objects != 1 || r.Reasons[sweep.BelowWatermark].Objects != 1 {
			w.t.Fatalf("the first sweep: %+v", r)
		}
		time.Sleep(59 * time.Second)
		if r := s.Sweep(w.ctx); r.Err != nil || r.Deleted.Objects != 0 || !w.has(orphan) {
			w.t.Fatalf("a sweep before the grace is over: %+v", r)
		}
		time.Sleep(time.Second)
		if r := s.Sweep(w.ctx); r.Err != nil || r.Deleted != (sweep.Count{Objects: 1, Bytes: 10}) || w.has(orphan) {
			w.t.Fatalf("a sweep after the grace: %+v", r)
		}
		w.check()
	})
}

func TestASlowCommitterKeepsItsObject(t *testing.T) {
	bubble(t, func(w *world, n *node) {
		done := make(chan error)
		go func() { done <- n.flush(10*time.Minute, tp0) }()
		s := w.sweeper(0, nil)
		for range 9 {
			time.Sleep(time.Minute)
			if r := s.Sweep(w.ctx); r.Err != nil || r.Counts[sweep.Segment][sweep.InFlight].Objects != 1 {
				w.t.Fatalf("a segment between PUT and commit: %+v", r)
			}
		}
		w.must(<-done)
		synctest.Wait()
		w.check()
		if len(w.named()) == 0 {
			w.t.Error("nothing is named")
		}
	})
}

func TestWhatASlowCommitterLeavesGoesWithItsSession(t *testing.T) {
	bubble(t, func(w *world, n *node) {
		dying := w.start(w.bucket)
		id, _ := dying.number()
		w.must(dying.put(id.Key(), 10))
		w.covered()
		s := w.sweeper(0, nil)
		s.Sweep(w.ctx)
		if r := s.Sweep(w.ctx); r.Err != nil || !w.has(id.Key()) {
			w.t.Fatalf("its session lives: %+v", r)
		}
		dying.kill()
		time.Sleep(time.Minute)
		s.Sweep(w.ctx)
		if r := s.Sweep(w.ctx); r.Err != nil || w.has(id.Key()) {
			w.t.Fatalf("its session is dead: %+v", r)
		}
	})
}

// hooked calls before with each list.
type hooked struct {
	objstore.Store
	before func(prefix string)
	change func([]objstore.Info) []objstore.Info
	fail   error
	folder string // "/": each prefix begins with an empty object of its own name; otherwise with one of that name
}

func (h hooked) List(ctx context.Context, prefix, after string, limit int) ([]objstore.Info, error) {
	if h.before != nil {
		h.before(prefix)
	}
	infos, err := h.Store.List(ctx, prefix, after, limit)
	if h.change != nil {
		infos = h.change(infos)
	}
	if h.fail != nil {
		err = h.fail
	}
	if h.folder != "" && after == "" {
		infos = append([]objstore.Info{{Key: prefix + strings.Trim(h.folder, "/")}}, infos...)
	}
	return infos, err
}

// TestASessionThatBeginsDuringTheListIsNotDead: a session that is absent from the first look
// at the sessions may not have begun by then.
func TestASessionThatBeginsDuringTheListIsNotDead(t *testing.T) {
	bubble(t, func(w *world, _ *node) {
		var id tiering.SegmentID
		s := w.sweeper(0, func(_ *sweep.Config, p *sweep.Parts) {
			p.Objects = hooked{Store: w.bucket, before: func(prefix string) {
				if prefix == tiering.SegmentPrefix && id.IsZero() {
					id, _ = w.start(w.bucket).number()
					w.must(w.bucket.Put(w.ctx, id.Key(), objstore.Body{[]byte("x")}))
				}
			}}
		})
		if r := s.Sweep(w.ctx); r.Err != nil || r.Counts[sweep.Segment][sweep.InFlight].Objects != 1 {
			w.t.Errorf("a segment of a session that has just begun: %+v", r)
		}
	})
}

func TestInDoubtNothingIsDeleted(t *testing.T) {
	put := func(w *world, key, value string) {
		_, err := w.admin.Txn(w.ctx, metadata.Txn{Then: []metadata.Op{metadata.Put(key, []byte(value))}})
		w.must(err)
	}
	list := func(change func([]objstore.Info) []objstore.Info) func(*world, *node, *sweep.Parts) {
		return func(w *world, _ *node, p *sweep.Parts) { p.Objects = hooked{Store: w.bucket, change: change} }
	}
	segment := func(infos []objstore.Info) bool {
		return len(infos) > 0 && strings.HasPrefix(infos[0].Key, tiering.SegmentPrefix)
	}
	for name, c := range map[string]struct {
		doubt   func(w *world, n *node, p *sweep.Parts)
		why     string
		freezes bool
	}{
		"frozen":         {func(w *world, _ *node, _ *sweep.Parts) { put(w, keys.GCFreeze(), "by hand") }, "frozen, by hand", false},
		"list fails":     {func(w *world, _ *node, p *sweep.Parts) { p.Objects = hooked{Store: w.bucket, fail: errors.New("down")} }, "down", false},
		"list backwards": {list(func(i []objstore.Info) []objstore.Info { slices.Reverse(i); return i }), "makes no sense", false},
		"list repeats": {list(func(i []objstore.Info) []objstore.Info {
			if segment(i) {
				i = append(i[:1:1], i...)
			}
			return i
		}), "makes no sense", false},
		"list leaves out": {list(func(i []objstore.Info) []objstore.Info {
			if segment(i) {
				i = nil
			}
			return i
		}), "leaves out", false},
		"short object": {list(func(i []objstore.Info) []objstore.Info {
			for x := range i {
				i[x].Size = min(i[x].Size, 20)
			}
			return i
		}), "are named", false},
		"stray key": {func(w *world, _ *node, _ *sweep.Parts) {
			w.must(w.bucket.Put(w.ctx, "seg/readme", objstore.Body{[]byte("x")}))
		}, "unknown form", false},
		"named and gone": {func(w *world, _ *node, _ *sweep.Parts) {
			w.must(w.bucket.Delete(w.ctx, w.state(tp0).Extents[0].Segment.Key()))
		}, "named and gone", false},
		"manifest unreadable": {func(w *world, n *node, p *sweep.Parts) {
			synctest.Wait()
			w.must(n.archive(tp0, 0))
			synctest.Wait()
			if len(w.state(tp0).Manifests) != 1 {
				w.t.Errorf("state %+v", w.state(tp0))
			}
			p.Manifests = broken{}
		}, "unreadable", false},
		"another cluster in etcd": {func(w *world, _ *node, _ *sweep.Parts) {
			put(w, keys.Cluster(), string(catalogue.Cluster{ID: tiering.TopicID{7}.String(), FormatVersion: catalogue.FormatVersion, Shards: 1}.Store()))
		}, "floe recover", true},
		"another cluster in the bucket": {func(w *world, _ *node, _ *sweep.Parts) {
			w.must(w.bucket.Put(w.ctx, "gc/mark/00ff/0000000000000001-0000000000000001", objstore.Body{[]byte("x")}))
		}, "another cluster", false},
		"journal went back": {func(w *world, _ *node, _ *sweep.Parts) {
			put(w, keys.Head(0), string(journal.Head{Epoch: 1}.Encode()))
		}, "floe recover", true},
		"snapshot of the future": {func(w *world, _ *node, _ *sweep.Parts) {
			w.must(w.bucket.Put(w.ctx, journal.SnapshotName{Seq: 999, Session: tiering.SessionID{4}}.Key(), objstore.Body{[]byte("x")}))
		}, "floe recover", true},
		"snapshot of another history": {func(w *world, n *node, _ *sweep.Parts) {
			w.must(n.flush(0, tp0))
			synctest.Wait()
			other := shard.New()
			other.Seq = w.witness.View(0).Seq()
			w.must(w.bucket.Put(w.ctx, journal.SnapshotName{Seq: other.Seq, Session: tiering.SessionID{4}}.Key(), objstore.Body{other.EncodeSnapshot(nil)}))
		}, "floe recover", true},
		"a mark that etcd forgot": {func(w *world, _ *node, _ *sweep.Parts) {
			_, err := w.admin.Txn(w.ctx, metadata.Txn{Then: []metadata.Op{metadata.Delete(keys.GCMark())}})
			w.must(err)
		}, "floe recover", true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(w *world, n *node) {
				w.must(n.flush(0, tp0))
				orphan := n.orphan()
				w.covered()
				w.sweeper(0, nil).Sweep(w.ctx) // leaves a mark
				s := w.sweeper(0, func(_ *sweep.Config, p *sweep.Parts) { c.doubt(w, n, p) })
				for range 3 {
					r := s.Sweep(w.ctx)
					if r.Err == nil || !strings.Contains(r.Err.Error(), c.why) || r.Deleted.Objects != 0 {
						w.t.Errorf("deleted %d, because of %v; want %q", r.Deleted.Objects, r.Err, c.why)
					}
					if c.freezes && name != "another cluster in etcd" {
						c.why = "frozen" // from the second sweep on
					}
				}
				if !w.has(orphan.Key()) {
					w.t.Error("garbage was deleted")
				}
				kvs, _, err := w.admin.Get(w.ctx, keys.GCFreeze())
				if w.must(err); kvs[0].Exists() != (c.freezes || name == "frozen") {
					w.t.Errorf("deletion is frozen: %q", kvs[0].Value)
				}
			})
		})
	}
}

type broken struct{}

func (broken) Extents(context.Context, tiering.TopicPartition, shard.Manifest) ([]tiering.Extent, error) {
	return nil, errors.New("unreadable")
}

func TestUnfreeze(t *testing.T) {
	bubble(t, func(w *world, n *node) {
		w.must(n.flush(0, tp0))
		orphan := n.orphan().Key()
		w.covered()
		s := w.sweeper(0, nil)
		s.Sweep(w.ctx)
		_, err := w.admin.Txn(w.ctx, metadata.Txn{Then: []metadata.Op{metadata.Delete(keys.GCMark())}})
		w.must(err)
		if r := s.Sweep(w.ctx); !r.Frozen {
			w.t.Fatalf("a mark that etcd forgot: %+v", r)
		}
		w.must(s.Unfreeze(w.ctx))
		if r := s.Sweep(w.ctx); r.Err != nil || w.has(orphan) {
			w.t.Errorf("after the freeze was lifted: %+v", r)
		}
	})
}

func TestASnapshotThatItsLeaderCouldNotPointTo(t *testing.T) {
	bubble(t, func(w *world, n *node) {
		w.must(n.flush(0, tp0))
		var data []byte
		name := journal.SnapshotName{Session: tiering.SessionID{4}}
		w.witness.View(0).Read(func(s *shard.State) { data, name.Seq = s.EncodeSnapshot(nil), s.Seq })
		w.must(w.bucket.Put(w.ctx, name.Key(), objstore.Body{data}))
		s := w.sweeper(0, nil)
		if r := s.Sweep(w.ctx); r.Err != nil || r.Counts[sweep.Snapshot][sweep.Waiting].Objects != 1 {
			w.t.Fatalf("a snapshot of this history: %v, %v", r.Err, r.Counts)
		}
		if r := s.Sweep(w.ctx); r.Err != nil || w.has(name.Key()) {
			w.t.Errorf("it stays: %+v", r)
		}
		w.check()
	})
}

// Consoles of object stores show folders, and store an empty object for each that somebody makes.
func TestAnEmptyObjectInThePlaceOfAFolderIsLeftAlone(t *testing.T) {
	bubble(t, func(w *world, n *node) {
		w.must(n.flush(0, tp0))
		w.must(n.flush(0, tp0))
		w.must(n.change(tp0, shard.DropTopic{Topic: tp0.Topic}))
		w.covered()
		sweeper := func(folder string) *sweep.Sweeper {
			return w.sweeper(0, func(_ *sweep.Config, p *sweep.Parts) { p.Objects = hooked{Store: w.bucket, folder: folder} })
		}
		s := sweeper("/")
		s.Sweep(w.ctx)
		r := s.Sweep(w.ctx)
		if r.Err != nil || r.Folders < 4 || r.Deleted.Objects < 2 {
			w.t.Errorf("%+v", r)
		}
		if r := sweeper("a").Sweep(w.ctx); r.Err == nil {
			w.t.Error("any other key is of unknown form")
		}
	})
}

func TestADroppedTopicsDataGoes(t *testing.T) {
	bubble(t, func(w *world, n *node) {
		w.must(n.flush(0, tp0))
		w.must(n.flush(0, tp0))
		synctest.Wait()
		w.must(n.archive(tp0, 0))
		w.must(n.flush(0, tp0))
		again := tiering.TopicPartition{Topic: tiering.TopicID{10}} // re-created under the same name
		w.must(n.change(tp0, shard.DropTopic{Topic: tp0.Topic}))
		w.must(n.flush(0, again))
		w.covered()
		s := w.sweeper(0, nil)
		s.Sweep(w.ctx)
		if r := s.Sweep(w.ctx); r.Err != nil || r.Deleted.Objects < 4 {
			w.t.Fatalf("three segments and a manifest: %+v", r)
		}
		w.check()
		named := w.named()
		for key := range w.stored() {
			if !named[key] {
				w.t.Errorf("%s stays", key)
			}
		}
		if !named[w.state(again).Extents[0].Segment.Key()] {
			w.t.Error("the new topic has lost its segment")
		}
	})
}

func TestCopiesClocksAndSelfTests(t *testing.T) {
	bubble(t, func(w *world, n *node) {
		dead := tiering.SessionID{1}
		var all []string
		for _, key := range []string{catalogue.CopyKey(dead, 1), catalogue.CopyKey(dead, 2), catalogue.CopyKey(n.session.ID(), 1),
			catalogue.CopyKey(n.session.ID(), 2), catalogue.CopyKey(n.session.ID(), 3), sweep.ClockKey(dead, 5), sweep.ClockKey(n.session.ID(), 5), objstore.SelfTestPrefix + "old", objstore.SelfTestPrefix + "new"} {
			if key == objstore.SelfTestPrefix+"new" {
				time.Sleep(2 * time.Hour)
			}
			w.must(w.bucket.Put(w.ctx, key, objstore.Body{[]byte("x")}))
			all = append(all, key)
			time.Sleep(time.Second)
		}
		s := w.sweeper(0, nil)
		s.Sweep(w.ctx)
		if r := s.Sweep(w.ctx); r.Err != nil {
			w.t.Fatal(r.Err)
		}
		for i, want := range []bool{false, false, false, true, true, false, true, false, true} {
			if w.has(all[i]) != want {
				w.t.Errorf("%s is there: %v", all[i], !want)
			}
		}
	})
}

// counted counts requests.
type counted struct {
	objstore.Store
	lists *int
}

func (c counted) List(ctx context.Context, prefix, after string, limit int) ([]objstore.Info, error) {
	*c.lists++
	return c.Store.List(ctx, prefix, after, limit)
}

func TestAClusterAtRestIsNotSwept(t *testing.T) {
	bubble(t, func(w *world, n *node) {
		w.must(n.flush(0, tp0))
		n.orphan()
		w.covered()
		lists := 0
		s := w.sweeper(time.Minute, func(_ *sweep.Config, p *sweep.Parts) { p.Objects = counted{w.bucket, &lists} })
		sweeps := 0
		for range 100 {
			swept, err := s.Tick(w.ctx)
			w.must(err)
			if swept {
				sweeps++
			}
			time.Sleep(time.Minute)
		}
		if sweeps != 3 {
			w.t.Errorf("%d sweeps; want one, one after the grace, and one for late uploads", sweeps)
		}
		before := lists
		for range 100 {
			_, err := s.Tick(w.ctx)
			w.must(err)
			time.Sleep(time.Hour)
		}
		if lists != before {
			w.t.Errorf("%d lists of a cluster at rest", lists-before)
		}
		w.must(n.flush(0, tp0))
		if swept, err := s.Tick(w.ctx); !swept || err != nil {
			w.t.Errorf("something was committed: swept %v, %v", swept, err)
		}
	})
}

func TestADryRunChangesNothing(t *testing.T) {
	bubble(t, func(w *world, n *node) {
		w.must(n.flush(0, tp0))
		orphan := n.orphan().Key()
		w.covered()
		var heard []string
		s := w.sweeper(0, func(c *sweep.Config, p *sweep.Parts) {
			c.DryRun = true
			p.Garbage = func(o sweep.Object) { heard = append(heard, o.Key) }
		})
		for range 2 {
			if r := s.Sweep(w.ctx); r.Err != nil || r.Deleted.Objects != 0 || r.Garbage().Objects != 1 {
				w.t.Errorf("%+v", r)
			}
		}
		infos, err := w.bucket.List(w.ctx, "gc/", "", 10)
		if w.must(err); len(infos) != 0 || !w.has(orphan) || !slices.Equal(heard, []string{orphan, orphan}) {
			w.t.Errorf("left %v, heard of %v", infos, heard)
		}
	})
}
