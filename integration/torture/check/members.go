package check

import (
	"cmp"
	"slices"

	"github.com/floelog/floe/integration/history"
)

// owner is the member that was given a partition last.
type owner struct {
	who  string
	gen  int64
	left bool // it has given the partition up since
}

// owns notes what a member has in a generation, which it is told of once or more. One generation gives a partition to one member.
func (c *Checker) owns(at place, ev *Event) {
	was, ok := c.owners[at]
	if ok && ev.A < was.gen {
		return // told late: another generation has begun since
	}
	if ok && !was.left && was.who != ev.Who && was.gen == ev.A {
		c.records.Anomaly(TwoOwners, "%s and %s were both given %s in generation %d of group %s", was.who, ev.Who, at.part, ev.A, at.group)
	}
	c.owners[at] = owner{who: ev.Who, gen: ev.A}
}

// consumed is what a transaction took from a partition.
type consumed struct {
	txn      history.Txn
	from, to int64
	who      string
}

// judgeConsumed compares what committed transactions took from each partition: every record
// once, up to the group's committed offset.
func (c *Checker) judgeConsumed() {
	for at, all := range c.consumed {
		c.judgeOffsets(at, all)
		var certain, possible []consumed
		for _, s := range all {
			sure, maybe := c.records.Came(s.txn)
			if sure {
				certain = append(certain, s)
			}
			if sure || maybe {
				possible = append(possible, s)
			}
		}
		c.judgeTwice(at, certain)
		c.judgePassed(at, possible)
	}
}

func byStart(a, b consumed) int { return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to)) }

func (c *Checker) judgeTwice(at place, certain []consumed) {
	slices.SortFunc(certain, byStart)
	var before consumed
	for i, s := range certain {
		if i > 0 && s.from < before.to {
			c.records.Anomaly(Reprocessed, "group %s: %s from offset %d on was consumed by transaction %d of %s, to %d, and by transaction %d of %s; both are committed",
				at.group, at.part, s.from, before.txn, before.who, before.to, s.txn, s.who)
		}
		if i == 0 || s.to > before.to {
			before = s
		}
	}
}

func (c *Checker) judgePassed(at place, possible []consumed) {
	slices.SortFunc(possible, byStart)
	next := int64(0)
	look := func(to int64) {
		if o, v, ok := c.records.FirstVisible(at.part, next, to); ok {
			c.records.Anomaly(Unprocessed, "group %s: %s offset %d, which holds %d, was consumed by no transaction that may be committed; the next one begins at %d",
				at.group, at.part, o, v, to)
		}
	}
	for _, s := range possible {
		if s.from > next {
			look(s.from)
		}
		next = max(next, s.to)
	}
	if end := c.offsets.last[at]; end > next {
		look(end)
	}
}

// judgeOffsets looks for transactions whose records are there and whose offsets are not: no
// later answer may be below them, as a group goes only forwards.
func (c *Checker) judgeOffsets(at place, all []consumed) {
	last, ok := c.offsets.last[at]
	if !ok {
		return
	}
	for _, s := range all {
		if sure, _ := c.records.Came(s.txn); sure && s.to > last {
			c.records.Anomaly(TornOffsets, "group %s: transaction %d of %s is committed and consumed %s up to %d; the group is at %d",
				at.group, s.txn, s.who, at.part, s.to, last)
		}
	}
}
