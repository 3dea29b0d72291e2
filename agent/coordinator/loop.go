package coordinator

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

const (
	// callRetryMin and callRetryMax bound the pause between two attempts of a call. What it
	// waits for is mostly another shard's next leader, which takes seconds.
	callRetryMin = 10 * time.Millisecond
	callRetryMax = 500 * time.Millisecond
	// rebuildMin and rebuildMax bound the pause before a machine that was built anew again and
	// again, without anything written meanwhile, goes on with work of its own: what it wants to
	// write is refused each time, and nothing but time or a request can change that.
	rebuildMin = 100 * time.Millisecond
	rebuildMax = 10 * time.Second
	// never is a timer's distance that does not come.
	never = 24 * time.Hour
)

// errReset says that the machine was built anew while the request waited. To clients that is
// another coordinator, which all of them look for again, with every kind of request.
var errReset = fmt.Errorf("%w: it could not write what it had decided, and started over", ErrNotCoordinator)

// loop is one machine with its mailbox, for one leadership.
type loop struct {
	shell  *Shell
	id     tiering.ShardID
	leader *journal.Leader
	in     chan asked
	gone   chan RequestID
	over   chan struct{} // closed when nobody is answered any more

	calls   sync.WaitGroup
	results chan Result

	mu       sync.Mutex // guards the following
	outcomes []outcome  // of proposals, in the order of the journal
	noticed  chan struct{}

	// What follows is touched by the loop's own goroutine only.
	machine Machine
	last    RequestID
	waiting map[RequestID]chan answer
	steps   []*flight // that wait for their records, in order
	open    int       // proposals without an outcome
	broken  error     // the machine is ahead of what is committed and must be built anew
	again   int       // how often it was built anew since anything was committed
	resume  time.Time // before that it hears of no Tick; zero: at any time
	lost    bool      // the leadership is over
}

// asked is a request in the mailbox.
type asked struct {
	from  Client
	body  any
	reply chan answer
	id    chan RequestID
}

// answer is what becomes of a request.
type answer struct {
	Reply
	err error
}

// flight is a step whose changes are on their way.
type flight struct {
	effects Effects
	left    int // proposals without an outcome
}

// outcome is what became of a proposal.
type outcome struct {
	of  *flight
	err error
}

func newLoop(s *Shell, id tiering.ShardID, leader *journal.Leader) *loop {
	return &loop{
		shell: s, id: id, leader: leader,
		in: make(chan asked), gone: make(chan RequestID), over: make(chan struct{}),
		results: make(chan Result), noticed: make(chan struct{}, 1),
		waiting: map[RequestID]chan answer{},
	}
}

// ask brings a request to the loop and waits for its answer.
func (l *loop) ask(ctx context.Context, from Client, body any) (Reply, error) {
	a := asked{from: from, body: body, reply: make(chan answer, 1), id: make(chan RequestID, 1)}
	select {
	case l.in <- a:
	case <-l.over:
		return Reply{}, fmt.Errorf("shard %d: %w", l.id, ErrNotCoordinator)
	case <-ctx.Done():
		return Reply{}, ctx.Err()
	}
	select {
	case r := <-a.reply:
		return r.Reply, r.err
	case <-ctx.Done():
		select {
		case l.gone <- <-a.id:
		case <-l.over:
		}
		return Reply{}, ctx.Err()
	}
}

// run serves until the leadership ends or ctx does.
func (l *loop) run(ctx context.Context) {
	calls, cancel := context.WithCancel(ctx)
	defer l.calls.Wait()
	defer cancel()
	defer l.dismiss()
	timer := time.NewTimer(never)
	defer timer.Stop()
	topics, changed := l.shell.parts.Topics()
	if !l.reload(topics) {
		return
	}
	l.shell.parts.Observe.Led(1)
	defer l.shell.parts.Observe.Led(-1)
	// A machine may have work of its own from the start: what was left undone.
	l.step(calls, Tick{})
	for !l.lost {
		l.setTimer(timer)
		select {
		case <-ctx.Done():
			return
		case <-l.leader.Over():
			return
		case a := <-l.in:
			l.last++
			l.waiting[l.last] = a.reply
			a.id <- l.last
			l.step(calls, Request{ID: l.last, Client: a.from, Body: a.body})
		case id := <-l.gone:
			if _, ok := l.waiting[id]; ok {
				delete(l.waiting, id)
				l.step(calls, Cancelled{id})
			}
		case r := <-l.results:
			l.step(calls, r)
		case <-timer.C:
			l.resume = time.Time{}
			l.step(calls, Tick{})
		case <-changed:
			topics, changed = l.shell.parts.Topics()
			l.step(calls, Changed{topics})
		case <-l.noticed:
			l.settle(calls)
		}
		if l.broken != nil && l.open == 0 && !l.lost {
			if !l.rebuild(topics) {
				return
			}
			if l.resume.IsZero() {
				l.step(calls, Tick{})
			}
		}
	}
}

// reload builds the machine from what is committed.
func (l *loop) reload(topics Topics) bool {
	var err error
	l.shell.parts.Journals.View(l.id).Read(func(s *shard.State) {
		l.machine, err = l.shell.load(l.id, l.leader.Epoch(), s, topics, l.shell.parts.Now())
	})
	if err != nil {
		l.shell.parts.Log.Error("the shard's state cannot be understood; what it coordinates is not served", "shard", l.id, "err", err)
		return false
	}
	if d, ok := l.machine.(Damaged); ok {
		for _, err := range d.Damaged() {
			l.shell.parts.Log.Error("a row cannot be understood; its name is not served", "shard", l.id, "err", err)
		}
	}
	return true
}

// rebuild starts over after a change that could not be written: everybody who waits hears
// so, and memory is what is committed again.
func (l *loop) rebuild(topics Topics) bool {
	l.shell.parts.Observe.Rebuilt()
	l.shell.parts.Log.Error("a coordinator's change was refused; it is built anew from what is committed", "shard", l.id, "err", l.broken)
	for id, reply := range l.waiting {
		reply <- answer{err: errReset}
		delete(l.waiting, id)
	}
	l.steps, l.broken = nil, nil
	if l.again > 0 && l.resume.IsZero() {
		l.resume = l.shell.parts.Now().Add(min(rebuildMin<<min(l.again-1, 10), rebuildMax))
	}
	l.again++
	return l.reload(topics)
}

func (l *loop) setTimer(timer *time.Timer) {
	d := never
	switch at := l.machine.Wake(); {
	case l.broken != nil:
	case !l.resume.IsZero():
		d = max(0, l.resume.Sub(l.shell.parts.Now()))
	case !at.IsZero():
		d = max(0, at.Sub(l.shell.parts.Now()))
	}
	timer.Reset(d)
}

// step lets the machine take one event and sees to its effects. While the machine is broken,
// events other than requests are dropped: it hears of everything again when it is rebuilt.
func (l *loop) step(calls context.Context, ev Event) {
	if l.broken != nil {
		if r, ok := ev.(Request); ok {
			l.reply(answer{Reply: Reply{ID: r.ID}, err: errReset})
		}
		return
	}
	f := &flight{effects: l.machine.Step(ev, l.shell.parts.Now())}
	l.shell.parts.Observe.Stepped(len(f.effects.Changes) > 0)
	switch {
	case len(f.effects.Changes) > 0:
		l.steps = append(l.steps, f)
		l.propose(f)
	case len(l.steps) > 0 && len(f.effects.Replies)+len(f.effects.Calls) > 0:
		l.steps = append(l.steps, f)
	default:
		l.finish(calls, f)
	}
}

// propose writes a step's changes, in as few records as they fit into.
func (l *loop) propose(f *flight) {
	rest := f.effects.Changes
	for len(rest) > 0 {
		n, size := 0, 0
		for n < len(rest) {
			size += sizeOf(rest[n])
			if n > 0 && size > MaxChangeBytes {
				size -= sizeOf(rest[n])
				break
			}
			n++
		}
		changes := rest[:n:n]
		rest = rest[n:]
		f.left++
		l.open++
		l.leader.Propose(&journal.Proposal{
			Size: size,
			Draft: func(d *shard.Draft) error {
				for _, c := range changes {
					d.Add(c)
				}
				return nil
			},
			Done: func(_ uint64, err error) { l.notice(outcome{f, err}) },
		})
	}
}

// notice is told by the leader what became of a proposal. It must not wait.
func (l *loop) notice(o outcome) {
	l.mu.Lock()
	l.outcomes = append(l.outcomes, o)
	l.mu.Unlock()
	select {
	case l.noticed <- struct{}{}:
	default:
	}
}

// settle lets leave what is committed.
func (l *loop) settle(calls context.Context) {
	l.mu.Lock()
	outcomes := l.outcomes
	l.outcomes = nil
	l.mu.Unlock()
	for _, o := range outcomes {
		o.of.left--
		l.open--
		switch {
		case o.err == nil:
			l.again = 0
		case errors.Is(o.err, metadata.ErrFenced):
			l.lost = true
		default:
			l.broken = o.err
		}
	}
	if l.lost || l.broken != nil {
		return
	}
	for len(l.steps) > 0 && l.steps[0].left == 0 {
		f := l.steps[0]
		l.steps = l.steps[1:]
		l.finish(calls, f)
	}
	if len(l.steps) == 0 {
		l.steps = nil
	}
}

// finish makes a step's replies and calls, after its changes are committed.
func (l *loop) finish(calls context.Context, f *flight) {
	for _, r := range f.effects.Replies {
		l.reply(answer{Reply: r})
	}
	for _, c := range f.effects.Calls {
		l.calls.Go(func() { l.call(calls, c) })
	}
}

func (l *loop) reply(a answer) {
	if reply, ok := l.waiting[a.ID]; ok {
		delete(l.waiting, a.ID)
		reply <- a
	}
}

// call makes a call until its outcome is definite.
func (l *loop) call(ctx context.Context, c Call) {
	timer := time.NewTimer(never)
	defer timer.Stop()
	for wait := callRetryMin; ; wait = min(2*wait, callRetryMax) {
		changed := l.shell.parts.Journals.Changed()
		value, err := l.shell.parts.Call(ctx, c)
		if err == nil || errors.Is(err, ErrFencedMarker) {
			select {
			case l.results <- Result{Call: c, Value: value, Err: err}:
			case <-ctx.Done():
			}
			return
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-changed:
		case <-ctx.Done():
			return
		}
		l.shell.parts.Observe.CallRepeated()
	}
}

// dismiss tells everybody who waits that this is not the coordinator any more.
func (l *loop) dismiss() {
	close(l.over)
	for id, reply := range l.waiting {
		reply <- answer{err: fmt.Errorf("shard %d: %w: its leadership has ended", l.id, ErrNotCoordinator)}
		delete(l.waiting, id)
	}
}

// sizeOf estimates a change's bytes in a record from above.
func sizeOf(c shard.Change) int {
	const each = 64
	switch c := c.(type) {
	case shard.PutRows:
		n := each + len(c.Name)
		for _, r := range c.Rows {
			n += each + len(r.Key) + len(r.Value)
		}
		return n
	case shard.CommitOffsets:
		n := each + len(c.Group)
		for _, o := range c.Offsets {
			n += each + len(o.Metadata)
		}
		return n
	case shard.DeleteOffsets:
		return each + len(c.Group) + each*len(c.Partitions)
	case shard.ConcludeOffsets:
		return each + len(c.Group)
	case shard.DropGroup:
		return each + len(c.Group)
	}
	return 2 * each
}
