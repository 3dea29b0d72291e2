package fetch_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/floelog/floe/agent/fetch"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
)

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

// What is appended while a read waits for admission is not read on top of what it was admitted for.
func TestWhatComesDuringAdmissionIsNotAdmitted(t *testing.T) {
	withLog(t, func(l *log) {
		one := encode(t, rec{"a", 1})
		l.append(0, true, one)
		got := l.fetch(fetch.Request{MaxBytes: 1 << 20, Partitions: []fetch.Partition{from(0, 0, 1<<20)},
			Admit: func(_ context.Context, _ fetch.Lane, bytes int) (int, bool) {
				for range 10 {
					l.append(0, true, one)
				}
				return 2 * bytes, true
			}})
		if got[0] != "0=a 1=a " {
			t.Errorf("two batches were admitted, read was %q", got[0])
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
