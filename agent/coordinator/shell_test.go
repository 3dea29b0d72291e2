package coordinator_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/agent/coordinator"
	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/metadata/membership"
	"github.com/floelog/floe/metadata/memory"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
	objmemory "github.com/floelog/floe/tiering/objstore/memory"
)

var keys = metadata.NewKeys("test")

// A notebook is a machine that does as its requests say.
type notebook struct {
	lines int
	wake  time.Time
	parks []coordinator.RequestID
	told  []string // events but requests

	doomed bool // what it wants to write at each tick is refused
}

type (
	write struct{ size int } // -> number of lines, once it is committed
	peek  struct{}           // -> number of lines in memory
	read  struct{}           // -> number of lines committed
	know  struct{}           // -> number of lines in memory, when it is proved to be the newest
	park  struct{}           // -> "tick" at the next tick
	nap   struct{ d time.Duration }
	phone struct{ name string } // -> the call's value
	huge  struct{}              // a change that no record takes
	told  struct{}              // -> events heard of
)

func load(_ tiering.ShardID, _ tiering.LeaderEpoch, s *shard.State, _ coordinator.Topics, _ time.Time) (coordinator.Machine, error) {
	m := &notebook{}
	for range s.Rows(shard.Groups, "book") {
		m.lines++
	}
	m.doomed = s.Row(shard.Groups, "doom", "row") != nil
	return m, nil
}

func (m *notebook) Wake() time.Time { return m.wake }

func (m *notebook) Step(ev coordinator.Event, now time.Time) (out coordinator.Effects) {
	switch ev := ev.(type) {
	case coordinator.Request:
		return m.request(ev, now)
	case coordinator.Tick:
		m.wake = time.Time{}
		for _, id := range m.parks {
			out.Replies = append(out.Replies, coordinator.Reply{ID: id, Body: "tick"})
		}
		m.parks = nil
		if m.doomed {
			row := shard.Row{Key: "large", Value: make([]byte, 2<<20)}
			out.Changes = append(out.Changes, shard.PutRows{Space: shard.Groups, Name: "doom", Rows: []shard.Row{row}})
		}
	case coordinator.Changed:
		m.told = append(m.told, "changed")
	case coordinator.Cancelled:
		m.told = append(m.told, "cancelled")
	case coordinator.Result:
		for _, id := range m.parks {
			out.Replies = append(out.Replies, coordinator.Reply{ID: id, Body: fmt.Sprint(ev.Value, ev.Err)})
		}
		m.parks = nil
	}
	return out
}

func (m *notebook) request(ev coordinator.Request, now time.Time) (out coordinator.Effects) {
	say := func(v any) { out.Replies = append(out.Replies, coordinator.Reply{ID: ev.ID, Body: v}) }
	put := func(size int) {
		m.lines++
		row := shard.Row{Key: fmt.Sprintf("%06d", m.lines), Value: make([]byte, max(1, size))}
		out.Changes = append(out.Changes, shard.PutRows{Space: shard.Groups, Name: "book", Rows: []shard.Row{row}})
	}
	switch b := ev.Body.(type) {
	case write:
		put(b.size)
		if b.size > coordinator.MaxChangeBytes/2 {
			put(b.size) // together they do not fit into one record
		}
		say(m.lines)
	case peek:
		say(m.lines)
	case read:
		out.Replies = append(out.Replies, coordinator.Reply{ID: ev.ID, Read: func(s *shard.State) any {
			n := 0
			for range s.Rows(shard.Groups, "book") {
				n++
			}
			return n
		}})
	case know:
		n := m.lines
		out.Replies = append(out.Replies, coordinator.Reply{ID: ev.ID, Read: func(*shard.State) any { return n }})
	case park:
		m.parks = append(m.parks, ev.ID)
	case nap:
		m.wake = now.Add(b.d)
		say(nil)
	case phone:
		put(1)
		m.parks = append(m.parks, ev.ID)
		out.Calls = append(out.Calls, coordinator.NewProducerID{Name: b.name})
	case huge:
		put(2 << 20)
		say(m.lines)
	case told:
		say(strings.Join(m.told, " "))
	}
	return out
}

// world is one agent's journals over a metadata store in memory, with a shell.
type world struct {
	seen    seen
	t       *testing.T
	ctx     context.Context
	server  *memory.Server
	client  *memory.Client
	set     *journal.Set
	session *membership.Session
	shell   *coordinator.Shell
	topics  *catalogue.Catalogue
	others  sync.WaitGroup // agents
	over    atomic.Bool    // the session's time

	mu    sync.Mutex // guards the following
	calls []string
	fail  int // calls that fail before one succeeds
}

type leaderSession struct {
	*membership.Session
	over *atomic.Bool // its time is over, though nobody has been told yet; nil: never
}

func (s leaderSession) Node() int32 { return int32(s.NodeID()) }
func (s leaderSession) Alive() bool { return s.Session.Alive() && (s.over == nil || !s.over.Load()) }

// seen counts what the shell tells its observer.
type seen struct{ answered, refused, steps, writes, led, rebuilt, repeated atomic.Int64 }

func (s *seen) Answered(body any, took time.Duration, err error) {
	if s.answered.Add(1); err != nil {
		s.refused.Add(1)
	}
}

func (s *seen) Stepped(wrote bool) {
	if s.steps.Add(1); wrote {
		s.writes.Add(1)
	}
}

func (s *seen) Led(change int) { s.led.Add(int64(change)) }
func (s *seen) Rebuilt()       { s.rebuilt.Add(1) }
func (s *seen) CallRepeated()  { s.repeated.Add(1) }

func bubble(t *testing.T, f func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		log := slog.New(slog.NewTextHandler(t.Output(), nil))
		w := &world{t: t, ctx: ctx, server: memory.New()}
		w.client = w.server.Client("agent")
		cluster, err := catalogue.EnsureCluster(ctx, w.client, keys, catalogue.Want{Shards: 2})
		if err != nil {
			t.Fatal(err)
		}
		w.topics = catalogue.New(w.client, keys, cluster, catalogue.Config{Log: log})
		nonce := uint64(0)
		w.set = journal.New(journal.Config{Keys: keys, Shards: 2}, journal.Parts{
			Store: w.client, Objects: objmemory.New(), Log: log, Now: time.Now,
			Nonce: func() uint64 { nonce++; return nonce },
		})
		w.session, err = membership.Start(ctx, w.client, keys, membership.SessionConfig{Address: "a:1", RPCAddress: "a:2", Version: "1", Log: log})
		if err != nil {
			t.Fatal(err)
		}
		w.shell = coordinator.New(load, coordinator.Parts{
			Journals: w.set, Now: time.Now, Log: log, Call: w.call, Observe: &w.seen,
			Topics: func() (coordinator.Topics, <-chan struct{}) {
				v := w.topics.View()
				return v, v.Changed()
			},
		})
		var work sync.WaitGroup
		work.Go(func() { _ = w.topics.Run(ctx) })
		work.Go(func() {
			if err := w.set.Run(ctx); err != nil {
				t.Error("journals:", err)
			}
		})
		<-w.set.Loaded()
		work.Go(func() {
			if err := w.shell.Run(ctx); err != nil {
				t.Error("shell:", err)
			}
		})
		synctest.Wait() // until all of them run
		defer func() {  // also when f gives up
			cancel()
			work.Wait()
			w.others.Wait()
			if err := w.session.Close(context.Background()); err != nil {
				t.Error("session:", err)
			}
			w.server.Close()
		}()
		f(w)
	})
}

func (w *world) call(_ context.Context, c coordinator.Call) (any, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls = append(w.calls, c.(coordinator.NewProducerID).Name)
	if w.fail > 0 {
		w.fail--
		return nil, errors.New("not now")
	}
	return int64(len(w.calls)), nil
}

func (w *world) lead(id tiering.ShardID) *journal.Leader {
	w.t.Helper()
	l, err := w.set.Acquire(w.ctx, leaderSession{w.session, &w.over}, id)
	if err != nil {
		w.t.Fatal(err)
	}
	return l
}

// elsewhere lets another agent, which lives as long as the test, take a shard and write.
func (w *world) elsewhere(id tiering.ShardID, changes ...shard.Change) {
	w.t.Helper()
	client, log := w.server.Client("another"), slog.New(slog.NewTextHandler(w.t.Output(), nil))
	nonce := uint64(1 << 32)
	set := journal.New(journal.Config{Keys: keys, Shards: 2}, journal.Parts{
		Store: client, Objects: objmemory.New(), Log: log, Now: time.Now,
		Nonce: func() uint64 { nonce++; return nonce },
	})
	session, err := membership.Start(w.ctx, client, keys, membership.SessionConfig{Address: "b:1", RPCAddress: "b:2", Version: "1", Log: log})
	if err != nil {
		w.t.Fatal(err)
	}
	w.others.Go(func() {
		if err := set.Run(w.ctx); err != nil {
			w.t.Error("another's journals:", err)
		}
		if err := session.Close(context.WithoutCancel(w.ctx)); err != nil {
			w.t.Error("another's session:", err)
		}
	})
	<-set.Loaded()
	l, err := set.Acquire(w.ctx, leaderSession{session, nil}, id)
	if err != nil {
		w.t.Fatal(err)
	}
	done := make(chan error, 1)
	l.Propose(&journal.Proposal{
		Draft: func(d *shard.Draft) error {
			for _, c := range changes {
				d.Add(c)
			}
			return nil
		},
		Done: func(_ uint64, err error) { done <- err },
	})
	if err := <-done; err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) want(id tiering.ShardID, body, want any) {
	w.t.Helper()
	got, err := w.shell.Ask(w.ctx, id, coordinator.Client{}, body)
	if err != nil || got != want {
		w.t.Fatalf("%T: %v, %v, want %v", body, got, err, want)
	}
}

func TestAnswersWhatIsCommitted(t *testing.T) {
	bubble(t, func(w *world) {
		w.lead(0)
		w.want(0, write{}, 1)
		w.want(0, write{}, 2)
		w.want(0, read{}, 2)
		// A step's changes may be too large for one record; the reply waits for the last.
		w.want(0, write{coordinator.MaxChangeBytes}, 4)
		w.want(0, read{}, 4)
	})
}

// No reply may show what is not committed, not even one that changes nothing itself.
func TestRepliesLeaveInTheOrderOfSteps(t *testing.T) {
	bubble(t, func(w *world) {
		w.lead(0)
		w.want(0, write{}, 1)
		w.client.Pause() // nothing can be committed
		first, second := make(chan any, 1), make(chan any, 1)
		go func() { v, _ := w.shell.Ask(w.ctx, 0, coordinator.Client{}, write{}); first <- v }()
		synctest.Wait()
		go func() { v, _ := w.shell.Ask(w.ctx, 0, coordinator.Client{}, peek{}); second <- v }()
		synctest.Wait()
		select {
		case v := <-second:
			t.Fatalf("a reply shows %v lines while the second is not committed", v)
		case v := <-first:
			t.Fatalf("a reply acknowledges %v while it cannot be committed", v)
		default:
		}
		w.client.Resume()
		if v := <-first; v != 2 {
			t.Errorf("write: %v, want 2", v)
		}
		if v := <-second; v != 2 {
			t.Errorf("peek: %v, want 2", v)
		}
	})
}

func TestAskedElsewhere(t *testing.T) {
	bubble(t, func(w *world) {
		for _, id := range []tiering.ShardID{1, 7} {
			if _, err := w.shell.Ask(w.ctx, id, coordinator.Client{}, peek{}); !errors.Is(err, coordinator.ErrNotCoordinator) {
				t.Errorf("shard %d: %v, want ErrNotCoordinator", id, err)
			}
		}
	})
}

// A part of the answers is none: what is missing would be taken for what there is not.
func TestAskedAll(t *testing.T) {
	bubble(t, func(w *world) {
		w.lead(0)
		all := func(ctx context.Context) ([]any, error) { return w.shell.AskAll(ctx, coordinator.Client{}, read{}) }
		w.want(0, write{}, 1)
		if got, err := all(w.ctx); err != nil || len(got) != 1 || got[0] != 1 {
			t.Errorf("%v, %v, want the one machine's answer", got, err)
		}
		w.lead(1)
		if got, err := all(w.ctx); err != nil || len(got) != 2 {
			t.Errorf("%v, %v, want two answers", got, err)
		}
		w.client.Partition() // nothing can be proved
		ctx, cancel := context.WithTimeout(w.ctx, time.Second)
		defer cancel()
		if got, err := all(ctx); err == nil {
			t.Errorf("%v, want an error", got)
		}
		w.client.Heal()
	})
}

// Everybody who waits hears of the end of a leadership; the next one's machine knows what
// was committed and nothing else.
func TestLeadershipEnds(t *testing.T) {
	bubble(t, func(w *world) {
		l := w.lead(0)
		w.want(0, write{}, 1)
		waits := make(chan error, 1)
		go func() { _, err := w.shell.Ask(w.ctx, 0, coordinator.Client{}, park{}); waits <- err }()
		synctest.Wait()
		if err := l.Release(w.ctx); err != nil {
			t.Fatal(err)
		}
		if err := <-waits; !errors.Is(err, coordinator.ErrNotCoordinator) {
			t.Errorf("who waited heard %v, want ErrNotCoordinator", err)
		}
		if _, err := w.shell.Ask(w.ctx, 0, coordinator.Client{}, peek{}); !errors.Is(err, coordinator.ErrNotCoordinator) {
			t.Errorf("after the end: %v, want ErrNotCoordinator", err)
		}
		w.lead(0)
		w.want(0, peek{}, 1)
		w.want(0, write{}, 2)
	})
}

// A reply that was made before another coordinator wrote, and proved afterwards, would be that
// of a past which its client must not hear of (KAFKA-21181).
func TestReplacedWhileItProvesAReply(t *testing.T) {
	bubble(t, func(w *world) {
		w.lead(0)
		w.want(0, write{}, 1)
		w.want(0, know{}, 1)
		w.client.Pause()
		got := make(chan error, 1)
		go func() {
			v, err := w.shell.Ask(w.ctx, 0, coordinator.Client{}, know{})
			if err == nil {
				err = fmt.Errorf("answered %v", v)
			}
			got <- err
		}()
		synctest.Wait()
		time.Sleep(2 * membership.DefaultTTL)
		w.elsewhere(0, shard.PutRows{Space: shard.Groups, Name: "book", Rows: []shard.Row{{Key: "000002", Value: []byte{1}}}})
		w.client.Resume()
		if err := <-got; !errors.Is(err, coordinator.ErrNotCoordinator) {
			t.Errorf("%v, want ErrNotCoordinator", err)
		}
	})
}

// An agent that wakes up from a pause must not say what its machines remember: others may lead
// by now, and what is from memory is not compared with anything.
func TestRemembersNothingOfASessionThatIsOver(t *testing.T) {
	bubble(t, func(w *world) {
		w.lead(0)
		w.want(0, write{}, 1)
		w.over.Store(true)
		if v, err := w.shell.Ask(w.ctx, 0, coordinator.Client{}, peek{}); !errors.Is(err, coordinator.ErrNotCoordinator) {
			t.Errorf("%v, %v, want ErrNotCoordinator", v, err)
		}
	})
}

func TestTicksWhenAskedTo(t *testing.T) {
	bubble(t, func(w *world) {
		w.lead(0)
		w.want(0, nap{time.Minute}, nil)
		start := time.Now()
		w.want(0, park{}, "tick")
		if d := time.Since(start); d != time.Minute {
			t.Errorf("the tick came after %v, want a minute", d)
		}
	})
}

func TestCallsFollowTheirRecordAndAreRepeated(t *testing.T) {
	bubble(t, func(w *world) {
		w.lead(0)
		w.fail = 3
		w.client.Pause()
		got := make(chan any, 1)
		go func() { v, _ := w.shell.Ask(w.ctx, 0, coordinator.Client{}, phone{"bell"}); got <- v }()
		synctest.Wait()
		w.mu.Lock()
		if len(w.calls) != 0 {
			t.Errorf("%v was called before the record was committed", w.calls)
		}
		w.mu.Unlock()
		w.client.Resume()
		if v := <-got; v != "4 <nil>" {
			t.Errorf("the call's result is %v, want that of the fourth attempt", v)
		}
	})
}

func TestCancelled(t *testing.T) {
	bubble(t, func(w *world) {
		w.lead(0)
		ctx, cancel := context.WithTimeout(w.ctx, time.Second)
		defer cancel()
		if _, err := w.shell.Ask(ctx, 0, coordinator.Client{}, park{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v, want the deadline", err)
		}
		w.want(0, told{}, "cancelled")
	})
}

func TestHearsOfTopics(t *testing.T) {
	bubble(t, func(w *world) {
		w.lead(0)
		w.want(0, told{}, "")
		if res := w.topics.Create(w.ctx, []catalogue.NewTopic{{Name: "news", Partitions: 1, ReplicationFactor: 1}}); res[0].Err != nil {
			t.Fatal(res[0].Err)
		}
		synctest.Wait()
		w.want(0, told{}, "changed")
	})
}

// A change that no record takes leaves memory ahead of what is committed: the machine is
// built anew, and goes on.
func TestRefusedChange(t *testing.T) {
	bubble(t, func(w *world) {
		w.lead(0)
		w.want(0, write{}, 1)
		if v, err := w.shell.Ask(w.ctx, 0, coordinator.Client{}, huge{}); !errors.Is(err, coordinator.ErrNotCoordinator) {
			t.Errorf("%v, %v, want ErrNotCoordinator: clients look for it again, whatever they asked", v, err)
		}
		w.want(0, peek{}, 1)
		w.want(0, write{}, 2)
	})
}

// A machine whose own work is refused each time is built anew with pauses, rather than as fast
// as it can be, and serves requests meanwhile.
func TestRefusedAgainAndAgain(t *testing.T) {
	bubble(t, func(w *world) {
		l := w.lead(0)
		done := make(chan error, 1)
		l.Propose(&journal.Proposal{
			Draft: func(d *shard.Draft) error {
				d.Add(shard.PutRows{Space: shard.Groups, Name: "doom", Rows: []shard.Row{{Key: "row", Value: []byte("x")}}})
				return nil
			},
			Done: func(_ uint64, err error) { done <- err },
		})
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if err := l.Release(w.ctx); err != nil {
			t.Fatal(err)
		}
		w.lead(0)
		time.Sleep(time.Minute)
		if n := w.seen.rebuilt.Load(); n < 5 || n > 20 {
			t.Errorf("built anew %d times in a minute, want a few with growing pauses", n)
		}
		w.want(0, write{}, 1)
		w.want(0, peek{}, 1)
	})
}

func TestObserver(t *testing.T) {
	bubble(t, func(w *world) {
		w.lead(0)
		w.fail = 2
		w.want(0, write{}, 1)
		w.want(0, peek{}, 1)
		w.want(0, phone{"x"}, "3 <nil>")
		if _, err := w.shell.Ask(w.ctx, 1, coordinator.Client{}, peek{}); !errors.Is(err, coordinator.ErrNotCoordinator) {
			t.Error(err)
		}
		s := &w.seen
		// Steps: the first tick, three requests, a result.
		got := [...]int64{s.answered.Load(), s.refused.Load(), s.steps.Load(), s.writes.Load(), s.led.Load(), s.rebuilt.Load(), s.repeated.Load()}
		if want := [...]int64{4, 1, 5, 2, 1, 0, 2}; got != want {
			t.Errorf("answered, refused, steps, writes, led, rebuilt, repeated: %v, want %v", got, want)
		}
		if err := w.set.Leader(0).Release(w.ctx); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := s.led.Load(); n != 0 {
			t.Errorf("%d machines after the leadership's end", n)
		}
	})
}
