package metadatatest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/floelog/floe/metadata"
)

// showEvent prints an event without its prefix.
func (e *env) showEvent(ev metadata.Event) string {
	key := strings.TrimPrefix(ev.Key, e.prefix)
	if ev.Deleted {
		if ev.Value != nil {
			e.Errorf("deletion of %s carries value %q", key, ev.Value)
		}
		return "-" + key
	}
	return key + "=" + string(ev.Value)
}

func (e *env) wantEvents(events []metadata.Event, want ...string) {
	e.Helper()
	var got []string
	for _, ev := range events {
		got = append(got, e.showEvent(ev))
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		e.Errorf("events %q, want %q", got, want)
	}
}

// testWatchHistory watches from an old revision on, and then what happens.
func testWatchHistory(e *env) {
	e.put(e.key("in/a"), "0")
	first := e.put(e.key("in/a"), "1")
	e.put(e.key("out"), "x")
	e.put(e.key("in/b"), "2")
	e.apply(metadata.Delete(e.key("in/a")), metadata.Delete(e.key("in/none")))
	e.apply(metadata.Delete(e.key("in/none")))
	e.put(e.key("in"), "x")
	last := e.put(e.key("in/b"), "2")

	w := e.watch(e.key("in/"), first)
	events := w.until(last)
	e.wantEvents(events, "in/a=1", "in/b=2", "-in/a", "in/b=2")
	if events[0].Revision != first || events[len(events)-1].Revision != last {
		e.Errorf("events have revisions %d to %d, want %d to %d", events[0].Revision, events[len(events)-1].Revision, first, last)
	}
	last = e.put(e.key("in/c"), "")
	e.wantEvents(w.until(last), "in/c=")
	e.put(e.key("in/a"), "5")
	last = e.apply(metadata.Delete(e.key("in/a"))).Revision
	e.wantEvents(w.until(last), "in/a=5", "-in/a")

	// A watch of the future begins there.
	future := e.revision() + 2
	w = e.watch(e.key("in/"), future)
	e.put(e.key("in/a"), "too early")
	last = e.put(e.key("in/a"), "at last")
	e.wantEvents(w.until(last), "in/a=at last")
}

func testWatchRevisionInOneBatch(e *env) {
	const rounds, keys = 15, 40
	start := e.revision() + 1
	write := func(from, to int) (last int64) {
		for i := from; i < to; i++ {
			ops := repeat(keys, func(k int) metadata.Op { return metadata.Put(e.key("in/%02d", k), []byte(strconv.Itoa(i))) })
			if i%3 == 2 { // a deletion of a range is many changes too
				ops = []metadata.Op{metadata.DeleteRange(e.key("in/"), e.key("in0")), metadata.Put(e.key("out"), nil)}
			}
			last = e.apply(ops...).Revision
		}
		return last
	}
	last := write(0, rounds)
	w := e.watch(e.key("in/"), start)
	check := func(last int64) {
		for w.revision < last {
			b := w.next()
			if b.Err != nil {
				e.Fatal(b.Err)
			}
			w.check(b)
			count := make(map[int64]int)
			for _, ev := range b.Events {
				count[ev.Revision]++
			}
			for revision, n := range count {
				if n != keys {
					e.Errorf("batch has %d of the %d changes of revision %d", n, keys, revision)
				}
			}
		}
	}
	check(last)
	check(write(rounds, 2*rounds))
}

// testWatchLargeHistory catches up with more than any message holds.
func testWatchLargeHistory(e *env) {
	const rounds, keys = 12, 3
	start := e.revision() + 1
	value := bytes.Repeat([]byte("x"), 300<<10)
	var last int64
	for range rounds {
		last = e.apply(repeat(keys, func(k int) metadata.Op { return metadata.Put(e.key("%d", k), value) })...).Revision
	}
	watches := []*watching{e.watch(e.prefix, start), e.watch(e.prefix, start)}
	for _, w := range watches {
		total := 0
		for w.revision < last {
			b := w.next()
			if b.Err != nil {
				e.Fatal(b.Err)
			}
			w.check(b)
			if len(b.Events)%keys != 0 {
				e.Errorf("batch has %d events, want whole revisions of %d", len(b.Events), keys)
			}
			for _, ev := range b.Events {
				if !bytes.Equal(ev.Value, value) {
					e.Fatal("value came back different")
				}
			}
			total += len(b.Events)
		}
		if total != rounds*keys {
			e.Errorf("%d events, want %d", total, rounds*keys)
		}
	}
	e.apply(metadata.DeleteRange(e.prefix, metadata.PrefixEnd(e.prefix)))
}

// testWatchConcurrent compares what two watches see with what writers were told.
func testWatchConcurrent(e *env) {
	const writers, writes = 6, 20
	start := e.revision() + 1
	revisions := make([][]int64, writers)
	w := e.watch(e.prefix, start)
	other := &watching{e: e, batches: e.stores[1].Watch(e.ctx, e.prefix, start), revision: start - 1}
	e.each(writers, func(i int, s metadata.Store) error {
		for n := range writes {
			res, err := s.Txn(e.ctx, metadata.Txn{Then: []metadata.Op{metadata.Put(e.key("%d", i), []byte(strconv.Itoa(n)))}})
			if err != nil {
				return err
			}
			revisions[i] = append(revisions[i], res.Revision)
		}
		return nil
	})
	last := int64(0)
	want := make(map[int64]string)
	for i, all := range revisions {
		for n, revision := range all {
			want[revision] = fmt.Sprintf("%d=%d", i, n)
			last = max(last, revision)
		}
	}
	for _, w := range []*watching{w, other} {
		events := w.until(last)
		if len(events) != writers*writes {
			e.Errorf("%d events, want %d", len(events), writers*writes)
		}
		for _, ev := range events {
			if got := e.showEvent(ev); got != want[ev.Revision] {
				e.Errorf("revision %d: event %s, want %s", ev.Revision, got, want[ev.Revision])
			}
		}
	}
}

func testWatchCompacted(e *env) {
	first := e.put(e.key("a"), "1")
	e.put(e.key("a"), "2")
	middle := e.put(e.key("a"), "3")
	follower := e.watch(e.prefix, middle)
	e.wantEvents(follower.until(middle), "a=3")
	last := e.put(e.key("a"), "4")
	e.wantEvents(follower.until(last), "a=4")
	if err := e.Compact(e.ctx, middle); err != nil {
		e.Fatal(err)
	}
	w := e.watch(e.prefix, first)
	e.wantErr("watch before the compaction", w.next().Err, metadata.ErrCompacted)
	w.ended()
	e.wantEvents(e.watch(e.prefix, middle).until(last), "a=3", "a=4")
	// One that has kept up does not care.
	last = e.put(e.key("a"), "5")
	e.wantEvents(follower.until(last), "a=5")
}

func testWatchEnds(e *env) {
	w := e.watch(e.prefix, e.revision()+1)
	last := e.put(e.key("a"), "1")
	w.until(last)
	unread := e.watch(e.prefix, last) // its event is never taken
	w.stop()
	unread.stop()
	w.ended()
	unread.ended()
	ctx, cancel := context.WithCancel(e.ctx)
	cancel()
	w = &watching{e: e, batches: e.Watch(ctx, e.prefix, last)}
	w.ended()
}

// ended checks that the channel is closed; what was on its way may come before, and an
// error that tells of the end of the context.
func (w *watching) ended() {
	w.e.Helper()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		select {
		case b, ok := <-w.batches:
			if !ok {
				return
			}
			if b.Err != nil && !errors.Is(b.Err, context.Canceled) {
				w.e.Errorf("watch ended with %v", b.Err)
			}
		case <-timeout.C:
			w.e.Fatal("watch did not end")
		}
	}
}
