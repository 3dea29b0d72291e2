package check

import (
	"fmt"
	"time"

	"github.com/floelog/floe/integration/history"
)

// Checker judges events as they come, and what only the end shows in Check.
type Checker struct {
	records  *history.History
	now      uint64 // counts events: the clock of everything that is compared
	values   uint64
	txns     uint64
	levels   map[string]bool // consumers that were announced
	looks    map[uint64]history.Look
	lookID   uint64
	trims    map[history.Partition]int64 // how far anybody let records go
	offsets  offsets
	owners   map[place]owner
	consumed map[place][]consumed
	stats    Stats
}

// place is a partition of a group.
type place struct {
	group string
	part  history.Partition
}

// Verdict is what a run adds up to.
type Verdict struct {
	Report  history.Report
	Stats   Stats
	Fates   map[string]int // of transactions
	Proven  int            // transactions without an answer that were committed
	Commits map[Outcome]int
	Asked   int // questions for committed offsets that were answered
	Events  uint64
}

// NewChecker returns a checker of one run.
func NewChecker() *Checker {
	return &Checker{
		records: history.New(history.Config{Gaps: true, Trims: true}),
		levels:  map[string]bool{}, looks: map[uint64]history.Look{}, trims: map[history.Partition]int64{},
		offsets: newOffsets(), owners: map[place]owner{}, consumed: map[place][]consumed{},
	}
}

// Apply takes the next event and returns the number of what it begins.
func (c *Checker) Apply(ev *Event) uint64 {
	c.now++
	c.stats.add(ev)
	switch ev.Op {
	case OpPolled:
		marks := history.Watermarks{LogStart: ev.A, LastStable: ev.B, High: ev.C}
		c.records.PolledSeen(ev.Who, ev.Part, marks, ev.Seen)
		c.judgeStart(ev)
	case OpConsumer:
		c.records.Isolate(ev.Who, history.Isolation(ev.A))
	case OpAssigned:
		if ev.A < 0 {
			c.records.Rewound(ev.Who, ev.Part)
		} else {
			c.records.Assigned(ev.Who, ev.Part, ev.A)
		}
	case OpLook:
		c.lookID++
		c.looks[c.lookID] = c.records.Look(ev.Who, ev.Part)
		return c.lookID
	case OpSaw:
		c.looks[ev.ID].Saw(history.Watermarks{LogStart: ev.A, LastStable: ev.B, High: ev.C})
		delete(c.looks, ev.ID)
		c.judgeStart(ev)
	case OpWhole:
		c.records.ReadWhole(ev.Who, ev.Part, ev.A, ev.B)
	case OpTrim:
		c.trims[ev.Part] = max(c.trims[ev.Part], ev.A)
	case OpDeleted:
		c.records.Deleted(ev.Part)
	case OpAnomaly:
		c.records.Anomaly(history.Kind(ev.Group), "%s, %v after the beginning: %s", ev.Who, ev.At.Round(time.Millisecond), ev.Text)
	default:
		return c.applySend(ev)
	}
	return 0
}

// applySend takes what is sent and what becomes of it.
func (c *Checker) applySend(ev *Event) uint64 {
	v := history.Value(ev.ID)
	switch ev.Op {
	case OpSend:
		c.values++
		if ev.ID != 0 {
			return uint64(c.records.SendIn(history.Txn(ev.ID), ev.Part, int(ev.A)))
		}
		return uint64(c.records.Send(history.Producer{Name: ev.Who, Idempotent: ev.B != 0}, ev.Part, int(ev.A)))
	case OpAcked:
		c.records.Acked(v, ev.A)
	case OpFailed:
		c.records.Failed(v, fmt.Errorf("%s", ev.Text))
	case OpUnknown:
		c.records.Unknown(v, fmt.Errorf("%s", ev.Text))
	case OpBegin:
		c.txns++
		return uint64(c.records.Begin(history.Producer{Name: ev.Who, Idempotent: true}))
	case OpTurn:
		c.records.Turn(history.Txn(ev.ID), history.Fate(ev.A))
		c.offsets.turned(ev.ID, history.Fate(ev.A), c)
	default:
		return c.applyGroup(ev)
	}
	return 0
}

// applyGroup takes what groups do.
func (c *Checker) applyGroup(ev *Event) uint64 {
	at := place{ev.Group, ev.Part}
	switch ev.Op {
	case OpOwns:
		c.owns(at, ev)
	case OpLeaves:
		if o, ok := c.owners[at]; ok && o.who == ev.Who {
			o.left = true
			c.owners[at] = o
		}
	case OpCommit:
		return c.offsets.commit(at, ev, c)
	case OpCommitted:
		c.offsets.committed(ev.ID, Outcome(ev.A), c)
	case OpAskOffset:
		return c.offsets.ask(at, ev.Who, c.now)
	case OpOffset:
		c.offsets.answer(ev.ID, ev.A, c)
	case OpConsumed:
		c.records.ReadRange(history.Txn(ev.ID), ev.Part, ev.A, ev.B)
		if ev.Group == "" {
			return 0
		}
		c.consumed[at] = append(c.consumed[at], consumed{history.Txn(ev.ID), ev.A, ev.B, ev.Who})
	}
	return 0
}

// valid says what an event of a file refers to that is not there.
func (c *Checker) valid(ev *Event) error {
	limit := uint64(0)
	switch ev.Op {
	case OpAcked, OpFailed, OpUnknown:
		limit = c.values
	case OpTurn, OpConsumed:
		limit = c.txns
	case OpCommitted:
		limit = uint64(len(c.offsets.commits))
	case OpSaw:
		if _, ok := c.looks[ev.ID]; !ok {
			return fmt.Errorf("an answer to look %d, which was not taken", ev.ID)
		}
		return nil
	case OpOffset:
		if _, ok := c.offsets.asked[ev.ID]; !ok {
			return fmt.Errorf("an answer to question %d, which was not asked", ev.ID)
		}
		return nil
	case OpSend, OpCommit:
		if ev.ID > c.txns {
			return fmt.Errorf("transaction %d, which was not begun", ev.ID)
		}
		return nil
	default:
		return nil
	}
	if ev.ID == 0 || ev.ID > limit {
		return fmt.Errorf("event %d is about number %d of %d", ev.Op, ev.ID, limit)
	}
	return nil
}

// judgeStart judges a log start: nothing goes from a partition's front unless somebody
// lets it go.
func (c *Checker) judgeStart(ev *Event) {
	if ev.A > c.trims[ev.Part] {
		c.records.Anomaly(Trimmed, "%s was told that %s begins at %d; records below %d may be gone", ev.Who, ev.Part, ev.A, c.trims[ev.Part])
		c.trims[ev.Part] = ev.A // once
	}
}

// Sweep judges what can be judged while the run goes on.
func (c *Checker) Sweep() history.Report { return c.records.Sweep() }

// Check judges the run as a whole, once, when everything has ended.
func (c *Checker) Check() Verdict {
	c.judgeConsumed()
	c.stats.close()
	v := Verdict{Report: c.records.Check(), Stats: c.stats, Commits: c.offsets.outcomes(), Asked: c.offsets.answered, Events: c.now}
	v.Fates, v.Proven = c.records.Fates()
	return v
}
