package shard_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// markerBytes is the length of every marker.
const markerBytes = 78

// refTxn is a transaction in one partition.
type refTxn struct {
	id, number  int64
	epoch       int16
	first, last int64 // of its first record and of its marker, -1: open
	since       int64
	aborted     bool
	unmarked    bool // its marker was cleaned away
}

// refGroup is all that was ever written of a group, in order, and its producers.
type refGroup struct {
	writes    []*refWrite
	producers map[int64]*refGroupProducer
}

type refWrite struct {
	shard.GroupOffset
	committed  int64
	id, number int64 // of the transaction, 0 for none
	state      string
}

type refGroupProducer struct {
	epoch                int16
	ended, open, updated int64
}

func (p *refPartition) openOf(id int64) *refTxn {
	if p == nil {
		return nil
	}
	for _, t := range p.txns {
		if t.id == id && t.last < 0 {
			return t
		}
	}
	return nil
}

// mark decides about a marker; what says what came of it, for the play.
func (m *reference) mark(mk shard.Marker, epoch tiering.LeaderEpoch, now int64, dropped map[tiering.TopicID]bool) (out shard.Outcome, what string) {
	tx := mk.Transaction
	if dropped[mk.Partition.Topic] {
		return shard.Outcome{Code: 3, Base: -1}, "marker of a dropped topic"
	}
	p := m.partitions[mk.Partition]
	open := p.openOf(tx.ProducerID)
	var pr *refProducer
	if p != nil {
		pr = p.producers[tx.ProducerID]
	}
	what = "marker without a transaction"
	switch {
	case pr != nil && pr.epoch > tx.Epoch:
		return shard.Outcome{Code: 47, Base: -1}, "fenced marker"
	case tx.Number == 0 && open == nil:
		return shard.Outcome{Base: -1}, "operator's marker of nothing"
	case tx.Number == 0:
		tx.Number = open.number
		what = "operator's marker"
	case pr != nil && tx.Number <= pr.ended:
		return shard.Outcome{Base: -1}, "repeated marker"
	case open != nil && open.number > tx.Number:
		return shard.Outcome{Code: 48, Base: -1}, "late marker"
	}
	p = m.partition(mk.Partition)
	base := p.append(0, 1, epoch)
	if open != nil {
		open.last, open.aborted = base, !mk.Commit
		if what != "operator's marker" {
			what = map[bool]string{true: "committed", false: "aborted"}[mk.Commit]
		}
	}
	pr = p.known(tx.ProducerID, tx.Epoch)
	pr.ended = max(pr.ended, tx.Number)
	pr.coordinator, pr.updated = mk.Coordinator, max(pr.updated, now)
	return shard.Outcome{Base: tiering.Offset(base)}, what
}

func (m *reference) dropTopic(id tiering.TopicID) {
	maps.DeleteFunc(m.partitions, func(k tiering.TopicPartition, _ *refPartition) bool { return k.Topic == id })
	for _, g := range m.groups {
		g.void(func(w *refWrite) bool { return w.Partition.Topic == id })
	}
}

func (g *refGroup) void(which func(*refWrite) bool) {
	for _, w := range g.writes {
		if which(w) {
			w.state = "void"
		}
	}
}

func (m *reference) expireGroupProducers(before int64) {
	for _, g := range m.groups {
		maps.DeleteFunc(g.producers, func(_ int64, e *refGroupProducer) bool { return e.open == 0 && e.updated < before })
	}
}

// last returns the newest write for each partition among those of a state, of one producer
// if that is not 0.
func (g *refGroup) last(state string, id int64) map[tiering.TopicPartition]*refWrite {
	out := map[tiering.TopicPartition]*refWrite{}
	for _, w := range g.writes {
		if w.state == state && (id == 0 || w.id == id) {
			out[w.Partition] = w
		}
	}
	return out
}

func (m *reference) group(name string) *refGroup {
	g := m.groups[name]
	if g == nil {
		g = &refGroup{producers: map[int64]*refGroupProducer{}}
		m.groups[name] = g
	}
	return g
}

func (g *refGroup) producer(tx shard.Transaction, now int64) *refGroupProducer {
	e := g.producers[tx.ProducerID]
	if e == nil {
		e = &refGroupProducer{}
		g.producers[tx.ProducerID] = e
	}
	e.epoch, e.updated = max(e.epoch, tx.Epoch), max(e.updated, now)
	return e
}

func (m *reference) commitOffsets(c shard.CommitOffsets, now int64) {
	g := m.group(c.Group)
	tx, state := c.Transaction, "committed"
	if tx.Number > 0 {
		g.producer(tx, now).open = tx.Number
		state = "pending"
	}
	for _, o := range c.Offsets {
		g.writes = append(g.writes, &refWrite{o, now, tx.ProducerID, tx.Number, state})
	}
}

func (m *reference) concludeOffsets(c shard.ConcludeOffsets, now int64) {
	g, tx := m.group(c.Group), c.Transaction
	if e := g.producers[tx.ProducerID]; e != nil && tx.Number <= e.ended {
		return
	}
	e := g.producer(tx, now)
	e.ended = tx.Number
	if e.open <= tx.Number {
		e.open = 0
	}
	for _, w := range g.writes {
		if w.state == "pending" && w.id == tx.ProducerID && w.number <= tx.Number {
			w.state = map[bool]string{true: "committed", false: "void"}[c.Commit]
		}
	}
}

// someTransaction makes up the number of a batch's transaction: mostly a fitting one.
func (p *play) someTransaction(tp tiering.TopicPartition, id int64) int64 {
	m := p.model.partitions[tp]
	open, ended := m.openOf(id), int64(0)
	if m != nil && m.producers[id] != nil {
		ended = m.producers[id].ended
	}
	switch roll := p.rnd.IntN(20); {
	case roll == 0:
		return 0
	case roll == 1:
		return ended
	case open != nil && roll > 3:
		return open.number
	}
	return ended + 1 + p.rnd.Int64N(2)
}

// mark sends a marker: mostly of a transaction that is open.
func (p *play) mark(d *shard.Draft, dropped map[tiering.TopicID]bool) {
	tp := p.somePartition()
	m := p.model.partitions[tp]
	mk := shard.Marker{Partition: tp, Commit: p.rnd.IntN(2) == 0, Coordinator: int32(p.rnd.IntN(4) - 1)}
	mk.Transaction.ProducerID = 2 + p.rnd.Int64N(2)
	mk.Transaction.Number = p.someTransaction(tp, mk.Transaction.ProducerID)
	if m != nil && m.producers[mk.Transaction.ProducerID] != nil {
		mk.Transaction.Epoch = max(0, m.producers[mk.Transaction.ProducerID].epoch+int16(p.rnd.IntN(5)/2)-1+int16(p.rnd.IntN(2)))
	}
	want, what := p.model.mark(mk, p.epoch, p.now, dropped)
	p.seen[what]++
	if got := d.Mark(mk); got != want {
		p.t.Fatalf("%+v (%s): got %v, want %v", mk, what, got, want)
	}
}

// coordinate adds a change of a coordinator.
func (p *play) coordinate(d *shard.Draft) {
	group := []string{"a", "b\xff"}[p.rnd.IntN(2)]
	g := p.model.group(group)
	id := 1 + p.rnd.Int64N(2)
	number := int64(0) // of the open transaction, or of the next one
	if e := g.producers[id]; e != nil {
		number = e.open
	}
	key := fmt.Sprint(group, id)
	switch p.rnd.IntN(12) {
	case 0, 1, 2, 3:
		c := shard.CommitOffsets{Group: group, Offsets: p.someOffsets()}
		if p.rnd.IntN(3) > 0 {
			if number == 0 {
				p.numbers[key]++
				number = p.numbers[key]
			}
			c.Transaction = shard.Transaction{ProducerID: id, Epoch: int16(p.rnd.IntN(3)), Number: number}
		}
		d.Add(c)
		p.model.commitOffsets(c, p.now)
	case 4, 5, 6:
		c := shard.ConcludeOffsets{Group: group, Commit: p.rnd.IntN(3) > 0}
		c.Transaction = shard.Transaction{ProducerID: id, Epoch: int16(p.rnd.IntN(3)), Number: max(1, p.numbers[key]+p.rnd.Int64N(3)/2-p.rnd.Int64N(3)/2)}
		p.numbers[key] = max(p.numbers[key], c.Transaction.Number)
		d.Add(c)
		p.model.concludeOffsets(c, p.now)
	case 7:
		o := p.someOffsets()
		c := shard.DeleteOffsets{Group: group}
		for _, x := range o {
			c.Partitions = append(c.Partitions, x.Partition)
		}
		d.Add(c)
		g.void(func(w *refWrite) bool { return slices.Contains(c.Partitions, w.Partition) })
	case 8:
		if p.rnd.IntN(4) == 0 {
			d.Add(shard.DropGroup{Group: group})
			delete(p.model.groups, group)
			delete(p.model.rows, [2]string{string(rune(shard.Groups)), group})
		}
	default:
		p.putRows(d, group)
	}
}

func (p *play) putRows(d *shard.Draft, name string) {
	space := shard.Space(1 + p.rnd.IntN(2))
	c := shard.PutRows{Space: space, Name: name}
	k := [2]string{string(rune(space)), name}
	if p.model.rows[k] == nil {
		p.model.rows[k] = map[string]string{}
	}
	for range p.rnd.IntN(4) {
		r := shard.Row{Key: strings.Repeat("k", p.rnd.IntN(5))}
		if p.rnd.IntN(3) > 0 {
			r.Value = fmt.Appendf(nil, "%d\xfe", p.rnd.IntN(1000))
			p.model.rows[k][r.Key] = string(r.Value)
		} else {
			delete(p.model.rows[k], r.Key)
		}
		c.Rows = append(c.Rows, r)
	}
	d.Add(c)
}

func (p *play) someOffsets() []shard.GroupOffset {
	var out []shard.GroupOffset
	for range p.rnd.IntN(4) {
		tp := p.somePartition()
		tp.Partition += 2 * int32(p.rnd.IntN(2)) // some that have no log in this shard
		out = append(out, shard.GroupOffset{
			Partition: tp, Offset: tiering.Offset(p.rnd.Int64N(100)), Epoch: tiering.LeaderEpoch(p.rnd.IntN(3) - 1),
			Metadata: strings.Repeat("\xff", p.rnd.IntN(3)), Expires: p.rnd.Int64N(3) - 1,
		})
	}
	return out
}

// compareTransactions holds what a state says about transactions to what took place.
func (p *play) compareTransactions(s *shard.State) {
	for tp, m := range p.model.partitions {
		part := s.Partition(tp)
		stable := tiering.Offset(m.next)
		var open []shard.OpenTransaction
		for _, t := range m.txns {
			switch {
			case t.last < 0:
				stable = min(stable, tiering.Offset(t.first))
				tx := shard.Transaction{ProducerID: t.id, Epoch: t.epoch, Number: t.number}
				open = append(open, shard.OpenTransaction{Transaction: tx, First: tiering.Offset(t.first), Since: t.since})
				p.seen["open"]++
			}
		}
		stable = max(stable, tiering.Offset(m.start))
		if got := part.LastStable(); got != stable || got > part.Next {
			p.t.Fatalf("%s: last stable offset %d, want %d, next is %d", tp, got, stable, part.Next)
		}
		if !slices.Equal(part.Open(), open) {
			p.t.Fatalf("%s: open %+v, want %+v", tp, part.Open(), open)
		}
		p.compareAborted(tp, part, m)
		p.compareProducers(tp, part, m)
	}
}

// compareAborted holds what readers are told of aborted transactions, by the state and by
// manifests, to those that there are.
func (p *play) compareAborted(tp tiering.TopicPartition, part *shard.Partition, m *refPartition) {
	end := tiering.Offset(0) // of the last manifest
	if n := len(part.Manifests); n > 0 {
		end = part.Manifests[n-1].End()
	}
	for range 4 {
		from := tiering.Offset(p.rnd.Int64N(m.next + 2))
		to := from + tiering.Offset(p.rnd.Int64N(m.next+2))
		want := m.abortedIn(from, to)
		inState := slices.DeleteFunc(slices.Clone(want), func(a shard.AbortedTransaction) bool { return a.Last < end })
		got := part.AbortedIn(from, to)
		if !slices.Equal(got, inState) {
			p.t.Fatalf("%s: aborted in [%d, %d): the state has %v, want %v", tp, from, to, got, inState)
		}
		told := map[shard.AbortedTransaction]bool{}
		for _, a := range got {
			told[a] = true
		}
		for _, x := range part.Manifests {
			if x.Base < to && x.End() > from {
				for _, a := range p.model.aborted[x.Object] {
					told[a] = told[a] || a.Last >= from && a.First < to
				}
			}
		}
		if from < tiering.Offset(m.start) {
			continue // nobody may read from there
		}
		for _, a := range want {
			if !told[a] {
				p.t.Fatalf("%s: aborted in [%d, %d): nobody tells of %v", tp, from, to, a)
			}
			delete(told, a)
		}
		for a, is := range told {
			if gone := slices.ContainsFunc(m.txns, func(t *refTxn) bool { return t.unmarked && t.last == int64(a.Last) }); is && !gone {
				p.t.Fatalf("%s: aborted in [%d, %d): told of %v", tp, from, to, a)
			}
		}
	}
}

func (p *play) compareProducers(tp tiering.TopicPartition, part *shard.Partition, m *refPartition) {
	var want []shard.ProducerState
	for _, id := range slices.Sorted(maps.Keys(m.producers)) {
		pr := m.producers[id]
		ps := shard.ProducerState{ProducerID: id, Epoch: pr.epoch, LastSeq: -1, Updated: pr.updated, Coordinator: pr.coordinator, OpenSince: -1}
		if n := len(pr.last); n > 0 {
			ps.LastSeq = int32(pr.last[n-1][1])
		}
		if t := m.openOf(id); t != nil {
			ps.OpenSince = tiering.Offset(t.first)
		}
		want = append(want, ps)
	}
	if got := part.ProducerStates(); !slices.Equal(got, want) {
		p.t.Fatalf("%s: producers %+v, want %+v", tp, got, want)
	}
}

// compareGroups holds what a state says about groups and topics to what took place.
func (p *play) compareGroups(s *shard.State) {
	topics := map[tiering.TopicID]struct{}{}
	for tp := range p.model.partitions {
		topics[tp.Topic] = struct{}{}
	}
	var names []string
	for name, m := range p.model.groups {
		g := s.Group(name)
		p.compareOffsets(name, g.Offsets, m.last("committed", 0), topics)
		for _, w := range m.last("committed", 0) {
			if w.number > 0 {
				p.seen["offset of a transaction"]++
			} else if slices.ContainsFunc(m.writes, func(o *refWrite) bool {
				return o.Partition == w.Partition && o.number > 0 && o.state == "pending" && o.committed < w.committed
			}) {
				p.seen["later offset stays"]++
			}
			p.seen["offset"]++
		}
		if len(g.Producers) != len(m.producers) {
			p.t.Fatalf("group %q: %d producers, want %d", name, len(g.Producers), len(m.producers))
		}
		for id, e := range g.Producers {
			w := m.producers[id]
			if w == nil || (refGroupProducer{e.Epoch, e.Ended, e.Open, e.Updated}) != *w {
				p.t.Fatalf("group %q: producer %d is %+v, want %+v", name, id, e, w)
			}
			p.compareOffsets(name, e.Pending, m.last("pending", id), topics)
			p.seen["pending offset"] += len(e.Pending)
		}
		if len(g.Offsets)+len(g.Producers) > 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	if got := s.GroupNames(); !slices.Equal(got, names) {
		p.t.Fatalf("groups %q, want %q", got, names)
	}
	if got := s.Topics(); !maps.Equal(got, topics) {
		p.t.Fatalf("topics %v, want %v", got, topics)
	}
	p.compareRows(s)
}

func (p *play) compareOffsets(group string, got map[tiering.TopicPartition]shard.CommittedOffset, want map[tiering.TopicPartition]*refWrite, topics map[tiering.TopicID]struct{}) {
	if len(got) != len(want) {
		p.t.Fatalf("group %q: offsets %+v, want %d", group, got, len(want))
	}
	for tp, w := range want {
		if o := got[tp]; o.GroupOffset != w.GroupOffset || o.Committed != w.committed {
			p.t.Fatalf("group %q: offset %+v, want %+v", group, o, w)
		}
		topics[tp.Topic] = struct{}{}
	}
}

func (p *play) compareRows(s *shard.State) {
	for _, space := range []shard.Space{shard.Groups, shard.Transactions} {
		var names []string
		for k, rows := range p.model.rows {
			if k[0] != string(rune(space)) || len(rows) == 0 {
				continue
			}
			names = append(names, k[1])
			var keys []string
			for key, value := range s.Rows(space, k[1]) {
				keys = append(keys, key)
				if rows[key] != string(value) || string(s.Row(space, k[1], key)) != string(value) {
					p.t.Fatalf("row %q of %q: %q, want %q", key, k[1], value, rows[key])
				}
				p.seen["row"]++
			}
			if want := slices.Sorted(maps.Keys(rows)); !slices.Equal(keys, want) {
				p.t.Fatalf("rows of %q: %q, want %q", k[1], keys, want)
			}
		}
		slices.Sort(names)
		if got := s.Names(space); !slices.Equal(got, names) {
			p.t.Fatalf("names of space %d: %q, want %q", space, got, names)
		}
	}
}
