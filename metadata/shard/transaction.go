package shard

import (
	"maps"
	"slices"
	"sort"

	"github.com/floelog/floe/protocol/batch"
	"github.com/floelog/floe/tiering"
)

// abortedRun is an aborted transaction, with what lets a reader stop looking.
type abortedRun struct {
	AbortedTransaction
	// stable bounds from below where the aborted transactions begin that ended after this one.
	stable tiering.Offset
}

// LastStable returns the last stable offset (KIP-98): every transaction with records below
// it that are left is concluded. It never goes back, and is never below the log start, which
// may be within an open transaction.
func (p *Partition) LastStable() tiering.Offset { return max(p.LogStart, p.FirstOpen()) }

// FirstOpen returns where the oldest open transaction begins, or the next one will.
func (p *Partition) FirstOpen() tiering.Offset {
	if len(p.open) > 0 {
		return p.open[0].First
	}
	return p.Next
}

// Open returns the transactions that have records here and no marker yet, ascending by
// First. The slice may be kept, but not changed.
func (p *Partition) Open() []OpenTransaction { return p.open }

// AbortedIn returns the aborted transactions, but for those whose markers are among the offsets of
// manifests, whose objects list them, that have an offset of [from, to) between their
// first record and their marker, ascending by Last; nil if there are none.
func (p *Partition) AbortedIn(from, to tiering.Offset) []AbortedTransaction {
	return p.Aborted().In(from, to)
}

// Aborted are a partition's aborted transactions as of one look at it. They may be kept, as
// extents may: a reader works out which of them belong to an answer when it knows how far
// that goes.
type Aborted struct{ runs []abortedRun }

// Aborted returns the aborted transactions that readers must be told of, but for those that are
// in manifests.
func (p *Partition) Aborted() Aborted { return Aborted{p.aborted} }

// Len returns how many there are.
func (a Aborted) Len() int { return len(a.runs) }

// In is AbortedIn of that look.
func (a Aborted) In(from, to tiering.Offset) []AbortedTransaction {
	var out []AbortedTransaction
	i := sort.Search(len(a.runs), func(i int) bool { return a.runs[i].Last >= from })
	for _, t := range a.runs[i:] {
		if t.First < to {
			out = append(out, t.AbortedTransaction)
		}
		if t.stable >= to {
			break
		}
	}
	return out
}

// ProducerStates returns what is known of the partition's producers, ascending by id.
func (p *Partition) ProducerStates() []ProducerState {
	since := make(map[int64]tiering.Offset, len(p.open))
	for _, t := range p.open {
		since[t.ProducerID] = t.First
	}
	out := make([]ProducerState, 0, len(p.producers))
	for _, id := range slices.Sorted(maps.Keys(p.producers)) {
		e := p.producers[id]
		s := ProducerState{ProducerID: id, Epoch: e.epoch, LastSeq: -1, Updated: e.updated, Coordinator: e.coordinator, OpenSince: -1}
		if n := len(e.batches); n > 0 {
			s.LastSeq = e.batches[n-1].lastSeq
		}
		if first, ok := since[id]; ok {
			s.OpenSince = first
		}
		out = append(out, s)
	}
	return out
}

// begin opens a producer's transaction with its first batch here.
func (p *Partition) begin(e *producer, b ProducerAppend, now int64) {
	e.open = b.Transaction
	t := OpenTransaction{Transaction{b.ProducerID, b.ProducerEpoch, b.Transaction}, b.Base, now}
	// Nearly always the last one: batches of one record may come in any order.
	i := sort.Search(len(p.open), func(i int) bool { return p.open[i].First > t.First })
	if i == len(p.open) {
		p.open = append(p.open, t)
		return
	}
	p.open = slices.Insert(slices.Clone(p.open), i, t)
}

// mark appends a marker and ends what it ends.
func (s *State) mark(r Record, m Mark) {
	p := s.mutable(m.Partition)
	s.extend(r, p, []tiering.Extent{m.extent()})
	e := p.producer(m.Transaction.ProducerID)
	if e.open > 0 && e.open <= m.Transaction.Number {
		first := p.closeOpen(m.Transaction.ProducerID)
		if !m.Commit {
			p.aborted = append(p.aborted, abortedRun{AbortedTransaction{m.Transaction.ProducerID, first, m.Base}, p.FirstOpen()})
		}
	}
	e.conclude(m.Transaction, m.Coordinator, r.Time)
}

// closeOpen takes a producer out of the open transactions and returns where its began.
func (p *Partition) closeOpen(id int64) tiering.Offset {
	i := slices.IndexFunc(p.open, func(t OpenTransaction) bool { return t.ProducerID == id })
	first := p.open[i].First
	if len(p.open) == 1 {
		p.open = nil
	} else {
		p.open = slices.Delete(slices.Clone(p.open), i, i+1)
	}
	return first
}

// conclude remembers the end of a transaction, and of all before it.
func (e *producer) conclude(t Transaction, coordinator int32, now int64) {
	if e.epoch < t.Epoch {
		e.epoch, e.batches = t.Epoch, nil
	}
	if e.open <= t.Number {
		e.open = 0
	}
	e.ended = max(e.ended, t.Number)
	e.coordinator = coordinator
	e.updated = max(e.updated, now)
}

// boundAborted works out abortedRun.stable of all aborted transactions anew: what ended
// after one is aborted, open, committed and of no interest, or has not begun.
func (p *Partition) boundAborted() {
	bound := p.FirstOpen()
	for i := len(p.aborted) - 1; i >= 0; i-- {
		p.aborted[i].stable = bound
		bound = min(bound, p.aborted[i].First)
	}
}

// trimAborted forgets the aborted transactions that nobody can read any more.
func (p *Partition) trimAborted() { p.forgetAborted(p.LogStart) }

// forgetAborted forgets the aborted transactions whose markers lie below an offset.
func (p *Partition) forgetAborted(below tiering.Offset) {
	i := sort.Search(len(p.aborted), func(i int) bool { return p.aborted[i].Last >= below })
	switch i {
	case 0:
	case len(p.aborted):
		p.aborted = nil
	default:
		p.aborted = slices.Clone(p.aborted[i:])
	}
}

// restoreAborted takes back what manifests up to an offset knew; those after it are known.
func (p *Partition) restoreAborted(list []AbortedTransaction, below tiering.Offset) {
	out := make([]abortedRun, 0, len(list)+len(p.aborted))
	for _, a := range list {
		if a.Last < below {
			out = append(out, abortedRun{AbortedTransaction: a})
		}
	}
	for _, a := range p.aborted {
		if a.Last >= below {
			out = append(out, a)
		}
	}
	p.aborted = out
	p.trimAborted()
	if len(p.aborted) == 0 {
		p.aborted = nil
	}
	p.boundAborted()
}

// admits reports whether a batch may be written as far as transactions are concerned: it
// must be of the one that is open here, or begin a later one than any that was concluded. The
// batch's epoch is not older than the producer's. A newer one, while a transaction is open,
// must wait for that one's marker.
func (e *producer) admits(b Batch) bool {
	if e.open > 0 {
		return b.Transaction == e.open && b.ProducerEpoch == e.epoch
	}
	return b.Transaction == 0 || b.Transaction > e.ended
}

// Mark decides about a marker that ends a transaction in a partition. The Base of an OK
// outcome is the marker's offset, or -1 if nothing had to be written: the transaction is
// concluded there already, or, with Number 0, none is open. A marker is written although
// the transaction has no records there, so that a batch of it which comes late is refused.
//
// UnknownTopicOrPartition: the topic is gone. InvalidProducerEpoch: the partition knows a newer epoch
// of the producer. TransactionNotAccepted: a later transaction is open there, or the marker
// makes no sense.
func (d *Draft) Mark(m Marker) Outcome {
	t := m.Transaction
	switch {
	case d.dropped[m.Partition.Topic]:
		return Outcome{UnknownTopicOrPartition, -1}
	case m.Partition.Partition < 0 || t.ProducerID < 0 || t.Epoch < 0 || t.Number < 0:
		return Outcome{TransactionNotAccepted, -1}
	}
	switch e := d.lookup(m.Partition, t.ProducerID); {
	case e == nil && t.Number > 0:
	case e == nil:
		return Outcome{OK, -1}
	case t.Epoch < e.epoch:
		return Outcome{InvalidProducerEpoch, -1}
	case t.Number == 0 && e.open > 0:
		t.Number = e.open
	case t.Number <= e.ended:
		return Outcome{OK, -1}
	case e.open > t.Number:
		return Outcome{TransactionNotAccepted, -1}
	}
	now, base := d.record.Time, d.end(m.Partition)
	mark := Mark{
		Partition: m.Partition, Base: base, Transaction: t, Commit: m.Commit, Coordinator: m.Coordinator, Timestamp: now,
		Batch: batch.AppendMarker(nil, t.ProducerID, t.Epoch, m.Commit, m.Coordinator, now),
	}
	d.record.Changes = append(d.record.Changes, mark)
	d.size += 96 + len(mark.Batch)
	d.next[m.Partition] = base + 1
	d.overlay(m.Partition, t.ProducerID).conclude(t, m.Coordinator, now)
	return Outcome{OK, base}
}

// unmark forgets the aborted transactions whose markers log compaction has removed.
func (p *Partition) unmark(markers []tiering.Offset) {
	if len(markers) == 0 || len(p.aborted) == 0 {
		return
	}
	p.aborted = slices.DeleteFunc(slices.Clone(p.aborted), func(a abortedRun) bool {
		_, found := slices.BinarySearch(markers, a.Last)
		return found
	})
	if len(p.aborted) == 0 {
		p.aborted = nil
	}
	p.boundAborted()
}
