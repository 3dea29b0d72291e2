package check

import (
	"github.com/floelog/floe/integration/history"
)

// offsets are the committed offsets of all groups. Each partition of a group is a register:
// an answer must be a commit that may be the last one, for some order in which the
// coordinator may have taken them.
type offsets struct {
	commits  []commit // index: the commit's number - 1
	places   map[place][]uint64
	byTxn    map[uint64][]uint64
	asked    map[uint64]question
	lastAsk  uint64
	answered int
	last     map[place]int64 // what was answered last
}

// commit is one attempt to commit an offset.
type commit struct {
	at       place
	who      string
	offset   int64
	gen      int64
	txn      uint64
	began    uint64
	ended    uint64 // when it was known to be taken; 0: it is not
	outcome  Outcome
	returned bool   // it was the only one that explains an answer
	stranger string // who owned the partition when it began, if that was another
}

type question struct {
	at    place
	who   string
	began uint64
}

func newOffsets() offsets {
	return offsets{places: map[place][]uint64{}, byTxn: map[uint64][]uint64{}, asked: map[uint64]question{}, last: map[place]int64{}}
}

func (o *offsets) commit(at place, ev *Event, c *Checker) uint64 {
	w := commit{at: at, who: ev.Who, offset: ev.A, gen: ev.B, txn: ev.ID, began: c.now}
	if owner, ok := c.owners[at]; ok && owner.who != ev.Who && owner.gen > ev.B {
		w.stranger = owner.who
	}
	o.commits = append(o.commits, w)
	id := uint64(len(o.commits))
	o.places[at] = append(o.places[at], id)
	if ev.ID != 0 {
		o.byTxn[ev.ID] = append(o.byTxn[ev.ID], id)
	}
	return id
}

// committed ends a commit. One of a transaction takes effect when that is committed.
func (o *offsets) committed(id uint64, outcome Outcome, c *Checker) {
	w := &o.commits[id-1]
	if outcome == Taken && w.stranger != "" {
		c.records.Anomaly(StaleCommit, "%s committed %s offset %d in group %s with generation %d after %s had been given the partition",
			w.who, w.at.part, w.offset, w.at.group, w.gen, w.stranger)
	}
	if w.txn != 0 && outcome != Refused {
		return
	}
	w.end(outcome, c)
}

// turned ends the commits of a transaction with it.
func (o *offsets) turned(txn uint64, fate history.Fate, c *Checker) {
	outcome, ok := map[history.Fate]Outcome{history.Done: Taken, history.Aborted: Refused, history.Unclear: Doubtful}[fate]
	if !ok {
		return
	}
	for _, id := range o.byTxn[txn] {
		if w := &o.commits[id-1]; w.outcome != Refused {
			w.end(outcome, c)
		}
	}
}

func (w *commit) end(outcome Outcome, c *Checker) {
	w.outcome = outcome
	switch outcome {
	case Taken:
		w.ended = c.now
	case Refused:
		if w.returned {
			c.records.Anomaly(OffsetPhantom, "group %s was said to be at %s offset %d, which %s tried to commit and was refused",
				w.at.group, w.at.part, w.offset, w.who)
		}
	}
}

func (o *offsets) ask(at place, who string, now uint64) uint64 {
	o.lastAsk++
	o.asked[o.lastAsk] = question{at, who, now}
	return o.lastAsk
}

// answer judges an answer. A commit may be the last one unless one that was acknowledged
// before the question was asked began after this one had ended.
func (o *offsets) answer(id uint64, offset int64, c *Checker) {
	q := o.asked[id]
	delete(o.asked, id)
	o.answered++
	o.last[q.at] = offset
	newest, any := uint64(0), int64(-1) // when the last acknowledged commit began, and its offset
	ids := o.places[q.at]
	for _, id := range ids {
		if w := &o.commits[id-1]; w.outcome == Taken && w.ended < q.began && w.began > newest {
			newest, any = w.began, w.offset
		}
	}
	if offset < 0 {
		if newest > 0 {
			c.records.Anomaly(OffsetUnknown, "%s was told that group %s has no offset for %s, after %d had been committed", q.who, q.at.group, q.at.part, any)
		}
		return
	}
	kind := OffsetPhantom
	if offset == 0 {
		kind = OffsetUnknown
	}
	var fits []uint64
	for _, id := range ids {
		w := &o.commits[id-1]
		if w.offset != offset || w.outcome == Refused {
			continue
		}
		if end := o.effect(w, ids); end != 0 && end < newest {
			kind = OffsetBack
			continue
		}
		fits = append(fits, id)
	}
	switch {
	case len(fits) == 0:
		c.records.Anomaly(kind, "%s was told that group %s is at %s offset %d; the last offset acknowledged before was %d", q.who, q.at.group, q.at.part, offset, any)
	case len(fits) == 1:
		o.explained(fits[0], c)
	}
}

// effect returns the latest time at which a commit may have taken effect; 0: any time.
func (o *offsets) effect(w *commit, ids []uint64) uint64 {
	if w.outcome == Taken {
		return w.ended
	}
	if w.txn != 0 {
		return 0
	}
	end := uint64(0)
	for _, id := range ids { // another owner's commit fences those of former generations
		if x := &o.commits[id-1]; x.outcome == Taken && x.who != w.who && x.gen > w.gen && (end == 0 || x.ended < end) {
			end = x.ended
		}
	}
	return end
}

// explained notes that a commit is the only one that explains an answer.
func (o *offsets) explained(id uint64, c *Checker) {
	w := &o.commits[id-1]
	w.returned = true
	if w.txn != 0 && w.outcome != Taken {
		if !c.records.Prove(history.Txn(w.txn)) {
			c.records.Anomaly(OffsetPhantom, "group %s was said to be at %s offset %d before transaction %d of %s was to be committed",
				w.at.group, w.at.part, w.offset, w.txn, w.who)
		}
	}
}

func (o *offsets) outcomes() map[Outcome]int {
	n := map[Outcome]int{}
	for i := range o.commits {
		n[o.commits[i].outcome]++
	}
	return n
}
