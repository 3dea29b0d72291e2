package fetch_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/agent/fetch"
	"github.com/floelog/floe/tiering"
)

// lanes counts what an observer is told.
type lanes struct {
	mu    sync.Mutex
	reads [2]int
	bytes [2]int
	waits map[bool][]time.Duration // by whether they were admitted
}

func (o *lanes) Fetched(lane fetch.Lane, bytes int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.reads[lane]++
	o.bytes[lane] += bytes
}

func (o *lanes) Lagged(waited time.Duration, admitted bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.waits == nil {
		o.waits = map[bool][]time.Duration{}
	}
	o.waits[admitted] = append(o.waits[admitted], waited)
}

const (
	places = 2
	newest = 1000 // bytes
)

// behind is a log whose partition 0 has old extents that nobody has read, then the newest
// ones; partition 1 is short. Reads of the old ones stand still until release is called.
type behind struct {
	*log
	seen    lanes
	old     int // number of old extents, a batch of one record each
	release func()

	mu      sync.Mutex
	blocked int // reads of old segments that stand still
}

func withBehind(t *testing.T, f func(l *behind)) {
	synctest.Test(t, func(t *testing.T) {
		b := &behind{old: 12}
		l, done := openWith(t, fetch.Config{Newest: newest, LaggingReads: places}, &b.seen)
		b.log = l
		pad := strings.Repeat(".", 500)
		var old []string
		for i := range b.old {
			l.append(0, false, encode(t, rec{fmt.Sprint("old", i, pad), int64(i)}))
			old = append(old, tiering.SegmentID{Session: l.session.id, Seq: l.segs}.Key())
		}
		l.append(0, false, encode(t, rec{"new", 1}))
		l.append(1, false, encode(t, rec{"short", 1}))
		open := make(chan struct{})
		b.release = sync.OnceFunc(func() { close(open) })
		l.before = func(key string) {
			if !slices.Contains(old, key) {
				return
			}
			b.mu.Lock()
			b.blocked++
			b.mu.Unlock()
			<-open
			b.mu.Lock()
			b.blocked--
			b.mu.Unlock()
		}
		f(b)
		b.release()
		done()
	})
}

func (b *behind) standing() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.blocked
}

// begin fetches in the background.
func (b *behind) begin(ctx context.Context, req fetch.Request) <-chan []fetch.Result {
	c := make(chan []fetch.Result, 1)
	go func() { c <- b.reader.Fetch(ctx, &req) }()
	synctest.Wait()
	return c
}

func one(p int32, offset tiering.Offset) fetch.Request {
	return fetch.Request{MaxBytes: 1 << 20, Partitions: []fetch.Partition{from(p, offset, 100)}}
}

// valuesOf are an answer's values up to where the padding begins.
func (b *behind) valuesOf(r fetch.Result) string {
	text := strings.ReplaceAll(b.text(r), ".", "")
	return strings.TrimSpace(text)
}

func TestTailReadsPassAFullLaggingLane(t *testing.T) {
	withBehind(t, func(l *behind) {
		ctx := l.t.Context()
		var replays []<-chan []fetch.Result
		for i := range 6 {
			replays = append(replays, l.begin(ctx, one(0, tiering.Offset(i))))
		}
		if got := l.standing(); got != places {
			t.Errorf("%d reads of 6 lagging consumers are under way, want %d", got, places)
		}
		start := time.Now()
		for _, c := range []struct {
			p    int32
			at   tiering.Offset
			want string
		}{{0, 12, "12=new"}, {1, 0, "0=short"}} { // both need the store, and are new
			if got := l.valuesOf((<-l.begin(ctx, one(c.p, c.at)))[0]); got != c.want {
				t.Errorf("a read of the tail has %q, want %q", got, c.want)
			}
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("reads of the tail waited for %v", took)
		}
		l.release()
		for i, c := range replays {
			if got, want := l.valuesOf((<-c)[0]), fmt.Sprintf("%d=old%d", i, i); got != want {
				t.Errorf("the lagging reader has %q, want %q", got, want)
			}
		}
		// What is in memory by now is read like the tail.
		if got := l.valuesOf((<-l.begin(ctx, one(0, 3)))[0]); got != "3=old3" {
			t.Errorf("again: %q", got)
		}
		if got := l.cold.Load(); got != 6 {
			t.Errorf("%d reads of the cache were for lagging readers, want 6", got)
		}
		if want := [2]int{3, 6}; l.seen.reads != want {
			t.Errorf("%v reads by lane, want %v", l.seen.reads, want)
		}
		if l.seen.bytes[fetch.Lagging] < 6*500 || l.seen.bytes[fetch.Tail] < 500 || len(l.seen.waits[true]) != 6 {
			t.Errorf("counted %v bytes by lane, and waits %v", l.seen.bytes, l.seen.waits)
		}
	})
}

// A consumer that waits for its turn is answered, if without records, before it gives up; and
// sooner if it has records of other partitions.
func TestTheWaitForTheLaneIsBounded(t *testing.T) {
	withBehind(t, func(l *behind) {
		ctx := l.t.Context()
		for i := range places {
			l.begin(ctx, one(0, tiering.Offset(i)))
		}
		both := func(first, second fetch.Partition) fetch.Request {
			return fetch.Request{MaxBytes: 1 << 20, Partitions: []fetch.Partition{first, second}}
		}
		for _, c := range []struct {
			name string
			req  fetch.Request
			want []string
			took time.Duration
		}{
			{"a lagging partition alone", one(0, 5), []string{""}, 5 * time.Second},
			{"one at the tail beside it", both(from(0, 5, 100), from(1, 0, 100)), []string{"", "0=short"}, 500 * time.Millisecond},
			{"in the other order", both(from(1, 0, 100), from(0, 5, 100)), []string{"0=short", ""}, 500 * time.Millisecond},
			{"and no room for both", fetch.Request{MaxBytes: 100, Partitions: []fetch.Partition{from(0, 5, 100), from(1, 0, 100)}}, []string{"", "0=short"}, 500 * time.Millisecond},
			{"an idle one beside it", both(from(0, 5, 100), from(1, 1, 100)), []string{"", ""}, 5 * time.Second},
		} {
			start := time.Now()
			for i, r := range <-l.begin(ctx, c.req) {
				if got := l.valuesOf(r); got != c.want[i] || r.Code != 0 {
					t.Errorf("%s: partition %d has %q, code %d, want %q", c.name, i, got, r.Code, c.want[i])
				}
			}
			if took := time.Since(start); took != c.took {
				t.Errorf("%s: took %v, want %v", c.name, took, c.took)
			}
		}
		if got := l.seen.waits[false]; len(got) != 5 {
			t.Errorf("given up after %v, want five times", got)
		}
		// Nobody waits for a client that is gone.
		gone, cancel := context.WithCancel(ctx)
		c := l.begin(gone, one(0, 7))
		cancel()
		start := time.Now()
		if <-c; time.Since(start) != 0 {
			t.Errorf("a fetch whose client has gone took %v", time.Since(start))
		}
	})
}

// Each lane is admitted for itself, and what one is given the other does not take.
func TestLanesAreAdmittedApart(t *testing.T) {
	for _, c := range []struct {
		name   string
		limits map[fetch.Lane]int // 0: refused
		want   []string
	}{
		{"both", map[fetch.Lane]int{fetch.Tail: 1 << 20, fetch.Lagging: 1 << 20}, []string{"0=old0 1=old1 2=old2", "0=short", "12=new"}},
		{"little for those that lag", map[fetch.Lane]int{fetch.Tail: 1 << 20, fetch.Lagging: 1}, []string{"0=old0", "0=short", "12=new"}},
		{"nothing for those that lag", map[fetch.Lane]int{fetch.Tail: 1 << 20}, []string{"", "0=short", "12=new"}},
		{"nothing for the tail", map[fetch.Lane]int{fetch.Lagging: 1 << 20}, []string{"0=old0 1=old1 2=old2", "", ""}},
	} {
		withBehind(t, func(l *behind) {
			l.release()
			var order []fetch.Lane
			req := fetch.Request{MaxBytes: 1 << 20, Partitions: []fetch.Partition{from(0, 0, 2000), from(1, 0, 100), from(0, 12, 100)},
				Admit: func(_ context.Context, lane fetch.Lane, bytes int) (int, bool) {
					if order = append(order, lane); bytes == 0 {
						t.Errorf("%s: the %v lane is asked to admit nothing", c.name, lane)
					}
					return c.limits[lane], c.limits[lane] > 0
				}}
			for i, r := range l.reader.Fetch(l.t.Context(), &req) {
				if got := l.valuesOf(r); got != c.want[i] {
					t.Errorf("%s: part %d has %q, want %q", c.name, i, got, c.want[i])
				}
				if r.Bytes > 0 && (r.Lane == fetch.Lagging) != (i == 0) {
					t.Errorf("%s: part %d was read in the %v lane", c.name, i, r.Lane)
				}
			}
			if want := fetch.Lanes(); !slices.Equal(order, want) {
				t.Errorf("%s: asked %v, want %v", c.name, order, want)
			}
		})
	}
}

// A partition that lags comes first at times, and has its share then, however much others have.
func TestALaggingPartitionThatIsFirstHasItsShare(t *testing.T) {
	withBehind(t, func(l *behind) {
		l.release()
		size := len(encode(t, rec{"short", 1}))
		ask := func(parts ...fetch.Partition) []string {
			return l.fetch(fetch.Request{MaxBytes: size, Partitions: parts})
		}
		if got := ask(from(1, 0, size), from(0, 0, size)); got[0] != "0=short " || got[1] != "" {
			t.Errorf("the tail first: %q", got)
		}
		if got := ask(from(0, 0, size), from(1, 0, size)); !strings.HasPrefix(got[0], "0=old0") || got[1] != "" {
			t.Errorf("the lagging partition first: %q", got)
		}
	})
}

// A read that takes long answers with what it has, and the next one goes on: a client that gives
// up before all is read would have all of it read again.
func TestReadsThatTakeLongAnswerWithWhatTheyHave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, done := open(t)
		defer done()
		const n = 20
		for i := range n {
			for p := range int32(2) {
				l.append(p, false, encode(t, rec{fmt.Sprint("r", i), int64(i)}))
			}
		}
		l.before = func(string) { time.Sleep(time.Second) }
		next, answers := [2]tiering.Offset{}, 0
		for next != [2]tiering.Offset{n, n} {
			start := time.Now()
			got := l.reader.Fetch(t.Context(), &fetch.Request{MaxBytes: 1 << 20, Partitions: []fetch.Partition{from(0, next[0], 1<<20), from(1, next[1], 1<<20)}})
			if took := time.Since(start); took > 7*time.Second {
				t.Errorf("an answer took %v", took)
			}
			answers++
			was := next
			for p, r := range got {
				next[p] += tiering.Offset(len(strings.Fields(l.text(r))))
			}
			if next == was {
				t.Fatalf("nothing was read from %v on: %+v", next, got)
			}
		}
		if answers < 2 {
			t.Errorf("%d answers: nothing took long", answers)
		}
	})
}
