package shard_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// reference is the shard as its specification has it: per partition a list of batches by
// offset, and Kafka's rules for idempotent producers, in the plainest form.
type reference struct {
	partitions map[tiering.TopicPartition]*refPartition
	answered   map[tiering.SessionID]refAnswer
	forgotten  int64                                                  // greatest id of a producer that was ever forgotten
	batches    map[uint32]shard.Batch                                 // by the number written into each
	stored     map[tiering.SegmentID]map[tiering.Position]storedBatch // what lies in segments
	groups     map[string]*refGroup
	rows       map[[2]string]map[string]string // by space and name
	manifests  map[tiering.SegmentID][]tiering.Extent
	aborted    map[tiering.SegmentID][]shard.AbortedTransaction // that manifests list
}

type storedBatch struct {
	number uint32
	length int32
	span   int64 // offsets that it takes, more than its records where what followed is cleaned
}

type refPartition struct {
	start, next int64
	at          map[int64]uint32 // number of the batch that begins at an offset and was not cleaned away
	epochs      map[tiering.LeaderEpoch]int64
	producers   map[int64]*refProducer
	txns        []*refTxn // all that ever had a record here, in the order of their first ones
	cleaned     int64
	layout      []piece
}

type refProducer struct {
	epoch       int16
	last        [][3]int64 // first sequence, last sequence, base offset; the newest last
	updated     int64
	ended       int64 // number of the last transaction that was concluded
	coordinator int32
}

type refAnswer struct {
	seq      uint64
	outcomes []shard.Outcome
}

func newReference() *reference {
	return &reference{
		partitions: map[tiering.TopicPartition]*refPartition{},
		answered:   map[tiering.SessionID]refAnswer{},
		forgotten:  -1,
		batches:    map[uint32]shard.Batch{0: {Length: markerBytes, Count: 1, ProducerID: -1}}, // 0: every marker
		groups:     map[string]*refGroup{},
		rows:       map[[2]string]map[string]string{},
		stored:     map[tiering.SegmentID]map[tiering.Position]storedBatch{},
		manifests:  map[tiering.SegmentID][]tiering.Extent{},
		aborted:    map[tiering.SegmentID][]shard.AbortedTransaction{},
	}
}

func (m *reference) partition(tp tiering.TopicPartition) *refPartition {
	p := m.partitions[tp]
	if p == nil {
		p = &refPartition{at: map[int64]uint32{}, epochs: map[tiering.LeaderEpoch]int64{}, producers: map[int64]*refProducer{}}
		m.partitions[tp] = p
	}
	return p
}

// decide appends a batch or refuses it, as a Kafka broker would.
func (m *reference) decide(tp tiering.TopicPartition, number uint32, epoch tiering.LeaderEpoch, now int64) shard.Outcome {
	b := m.batches[number]
	p := m.partitions[tp]
	known := p != nil && p.producers[b.ProducerID] != nil
	switch {
	case known:
		if code, base := p.producers[b.ProducerID].judge(b, p.openOf(b.ProducerID)); code != 0 || base >= 0 {
			return shard.Outcome{Code: shard.Code(code), Base: tiering.Offset(base)}
		}
	case b.ProducerID > m.forgotten && b.FirstSeq > 0:
		return shard.Outcome{Code: 45, Base: -1}
	}
	p = m.partition(tp)
	base := p.append(number, b.Count, epoch)
	if b.ProducerID >= 0 {
		pr := p.known(b.ProducerID, b.ProducerEpoch)
		if b.Transaction > 0 && p.openOf(b.ProducerID) == nil {
			p.txns = append(p.txns, &refTxn{id: b.ProducerID, epoch: b.ProducerEpoch, number: b.Transaction, first: base, since: now, last: -1})
		}
		pr.last = append(pr.last, [3]int64{int64(b.FirstSeq), sequenceAfter(b.FirstSeq, b.Count-1), base})
		pr.last = pr.last[max(0, len(pr.last)-10):]
		pr.updated = max(pr.updated, now)
	}
	return shard.Outcome{Code: shard.OK, Base: tiering.Offset(base)}
}

// append writes a batch at the end and returns its offset.
func (p *refPartition) append(number uint32, count int32, epoch tiering.LeaderEpoch) int64 {
	base := p.next
	p.at[base] = number
	p.next += int64(count)
	if _, ok := p.epochs[epoch]; !ok {
		p.epochs[epoch] = base
	}
	return base
}

// known returns a producer that is heard of with an epoch: a new one forgets its batches.
func (p *refPartition) known(id int64, epoch int16) *refProducer {
	pr := p.producers[id]
	if pr == nil {
		pr = &refProducer{epoch: epoch, coordinator: -1}
		p.producers[id] = pr
	}
	if pr.epoch != epoch {
		pr.epoch, pr.last = epoch, nil
	}
	return pr
}

// judge returns an error code, or the offset of the original of a duplicate, or 0 and -1
// for a batch that is to be appended.
func (pr *refProducer) judge(b shard.Batch, open *refTxn) (code int16, base int64) {
	switch {
	case b.ProducerEpoch < pr.epoch:
		return 47, -1
	case b.Transaction > 0 && b.Transaction <= pr.ended:
		return 48, -1
	case open != nil && (open.number != b.Transaction || open.epoch != b.ProducerEpoch):
		return 48, -1
	}
	if b.ProducerEpoch > pr.epoch {
		if b.FirstSeq == 0 {
			return 0, -1
		}
		return 45, -1
	}
	for _, old := range pr.last {
		if old[0] == int64(b.FirstSeq) && old[1] == sequenceAfter(b.FirstSeq, b.Count-1) {
			return 0, old[2]
		}
	}
	if len(pr.last) == 0 {
		if b.FirstSeq == 0 {
			return 0, -1
		}
		return 45, -1
	}
	if last := pr.last[len(pr.last)-1][1]; int64(b.FirstSeq) == last+1 || b.FirstSeq == 0 && last == math.MaxInt32 {
		return 0, -1
	}
	return 45, -1
}

// sequenceAfter counts n on from seq; after 2^31-1 comes 0.
func sequenceAfter(seq, n int32) int64 {
	v := int64(seq) + int64(n)
	if v > math.MaxInt32 {
		v -= math.MaxInt32 + 1
	}
	return v
}

func (m *reference) submit(sub *shard.Submission, numbers [][]uint32, epoch tiering.LeaderEpoch, now int64, dropped map[tiering.TopicID]bool) ([]shard.Outcome, bool) {
	last := m.answered[sub.Session]
	if sub.Seq <= last.seq {
		return last.outcomes, sub.Seq == last.seq && len(last.outcomes) == sub.NumBatches()
	}
	out := []shard.Outcome{}
	for i, part := range sub.Parts {
		for _, n := range numbers[i] {
			if dropped[part.Partition.Topic] {
				out = append(out, shard.Outcome{Code: 3, Base: -1})
				continue
			}
			out = append(out, m.decide(part.Partition, n, epoch, now))
		}
	}
	m.answered[sub.Session] = refAnswer{sub.Seq, out}
	return out, true
}

// play drives a draft, two states and the reference with the same random requests.
type play struct {
	t      *testing.T
	rnd    *rand.Rand
	model  *reference
	state  *shard.State // the leader's: applies what was drafted
	other  *shard.State // a follower's: applies what was read back
	epoch  tiering.LeaderEpoch
	now    int64
	number uint32
	segSeq uint64
	last   map[tiering.SessionID]*request

	forgot   bool // this record forgets a session or producers
	outcomes map[shard.Code]int
	late     []made         // replacements and archives that come again, or for the first time, later
	seen     map[string]int // what the play came across
	numbers  map[string]int64
}

type request struct {
	sub     shard.Submission
	numbers [][]uint32
}

var topics = []tiering.TopicID{{1}, {2}, {3}}

func (p *play) somePartition() tiering.TopicPartition {
	return tiering.TopicPartition{Topic: topics[p.rnd.IntN(len(topics))], Partition: int32(p.rnd.IntN(2))}
}

// batch makes up a batch: plain, or of a producer that mostly goes on where it was.
func (p *play) batch(tp tiering.TopicPartition) uint32 {
	p.number++
	b := shard.Batch{Length: 61 + int32(p.rnd.IntN(40)), Count: 1 + int32(p.rnd.IntN(5)), MaxTimestamp: p.rnd.Int64N(1e6) - 10, ProducerID: -1, ProducerEpoch: -1, FirstSeq: -1}
	if p.rnd.IntN(4) > 0 {
		b.ProducerID, b.ProducerEpoch, b.FirstSeq = p.rnd.Int64N(4), 0, int32(p.rnd.IntN(3))
		if b.ProducerID <= p.model.forgotten && p.rnd.IntN(2) == 0 { // one that soon comes to the end of the numbers
			b.FirstSeq = math.MaxInt32 - int32(p.rnd.IntN(20))
		}
		if part := p.model.partitions[tp]; part != nil && part.producers[b.ProducerID] != nil {
			p.carryOn(&b, part.producers[b.ProducerID])
		}
		if b.ProducerID >= 2 {
			b.Transaction = p.someTransaction(tp, b.ProducerID)
		}
	}
	p.model.batches[p.number] = b
	return p.number
}

func (p *play) carryOn(b *shard.Batch, pr *refProducer) {
	b.ProducerEpoch = pr.epoch
	if len(pr.last) == 0 { // only a marker has made it known
		b.FirstSeq = int32(max(0, p.rnd.IntN(6)-4))
		return
	}
	newest := pr.last[len(pr.last)-1]
	switch p.rnd.IntN(12) {
	case 0: // the same again
		old := pr.last[p.rnd.IntN(len(pr.last))]
		b.FirstSeq = int32(old[0])
		b.Count = int32((old[1]-old[0]+math.MaxInt32+1)%(math.MaxInt32+1)) + 1
	case 1: // a gap
		b.FirstSeq = int32(sequenceAfter(int32(newest[1]), 2+int32(p.rnd.IntN(3))))
	case 2: // overlapping the last one
		b.FirstSeq = int32(newest[1])
	case 3: // a new epoch, mostly from 0
		b.ProducerEpoch++
		b.FirstSeq = int32(max(0, p.rnd.IntN(4)-2))
	case 4:
		b.ProducerEpoch = max(0, b.ProducerEpoch-1)
		b.FirstSeq = 0
	default:
		b.FirstSeq = int32(sequenceAfter(int32(newest[1]), 1))
	}
}

func (p *play) bytesOf(number uint32) []byte {
	b := make([]byte, p.model.batches[number].Length)
	binary.BigEndian.PutUint32(b, number)
	return b
}

func (p *play) newRequest(session tiering.SessionID) *request {
	r := &request{sub: shard.Submission{Session: session, Seq: 1 + p.model.answered[session].seq + uint64(p.rnd.IntN(2))}}
	p.segSeq++
	seg := tiering.SegmentID{Session: session, Seq: p.segSeq}
	p.model.stored[seg] = map[tiering.Position]storedBatch{}
	pos := tiering.Position(32)
	for range 1 + p.rnd.IntN(3) {
		tp := p.somePartition()
		part := shard.Part{Partition: tp}
		inline := p.rnd.IntN(2) == 0
		if !inline {
			part.Segment, part.Position = seg, pos
		}
		var numbers []uint32
		for range 1 + p.rnd.IntN(4) {
			n := p.batch(tp)
			b := p.model.batches[n]
			part.Batches = append(part.Batches, b)
			numbers = append(numbers, n)
			if inline {
				part.Inline = append(part.Inline, p.bytesOf(n)...)
			} else {
				p.model.stored[seg][pos] = storedBatch{n, b.Length, int64(b.Count)}
				pos += tiering.Position(b.Length)
			}
		}
		r.sub.Parts = append(r.sub.Parts, part)
		r.numbers = append(r.numbers, numbers)
	}
	return r
}

// submit sends a new request, or an old one again.
func (p *play) submit(d *shard.Draft, dropped map[tiering.TopicID]bool) {
	session := tiering.SessionID{byte(1 + p.rnd.IntN(3))}
	r := p.last[session]
	switch roll := p.rnd.IntN(10); {
	case r == nil || roll > 2:
		r = p.newRequest(session)
	case roll == 0: // a delayed duplicate of one before the last
		r = &request{sub: r.sub, numbers: r.numbers}
		r.sub.Seq -= min(r.sub.Seq, 1)
	case roll == 1 && len(r.sub.Parts) > 1: // a different request under a used number
		r = &request{sub: r.sub, numbers: r.numbers[:1]}
		r.sub.Parts = r.sub.Parts[:1]
	}
	want, ok := p.model.submit(&r.sub, r.numbers, p.epoch, p.now, dropped)
	sub := p.overTheWire(&r.sub)
	before := d.Size()
	got, err := d.Submit(sub)
	if !ok {
		if !errors.Is(err, shard.ErrStaleSubmission) || d.Size() != before {
			p.t.Fatalf("submission %d of %s: %v, want it to be stale", sub.Seq, session, err)
		}
		return
	}
	if err != nil || !slices.Equal(got, want) {
		p.t.Fatalf("submission %d of %s: got %v, %v, want %v", sub.Seq, session, got, err, want)
	}
	for _, o := range got {
		p.outcomes[o.Code]++
	}
	p.last[session] = r
}

func (p *play) overTheWire(s *shard.Submission) *shard.Submission {
	enc := s.Encode(nil)
	got, err := shard.DecodeSubmission(enc)
	if err != nil || !bytes.Equal(got.Encode(nil), enc) {
		p.t.Fatalf("submission does not survive its encoding: %v", err)
	}
	return got
}

// record builds one record, applies it to both states and compares everything.
func (p *play) record() {
	p.now += p.rnd.Int64N(100) - 20
	if p.rnd.IntN(8) == 0 {
		p.epoch++
	}
	d := shard.NewDraft(p.state, p.epoch, tiering.SessionID{9}, p.rnd.Uint64(), p.now)
	dropped := map[tiering.TopicID]bool{}
	for range p.rnd.IntN(4) {
		p.submit(d, dropped)
		for range p.rnd.IntN(3) {
			p.mark(d, dropped)
		}
	}
	for range p.rnd.IntN(3) {
		p.change(d, dropped)
	}
	for tp := p.somePartition(); p.rnd.IntN(4) > 0; {
		p.rearrange(d, tp)
	}
	if len(dropped) > 0 && !p.forgot { // what is forgotten in a record still counts in its draft
		p.submit(d, dropped)
		p.mark(d, dropped)
	}
	p.forgot = false
	if d.Empty() {
		return
	}
	size, r := d.Size(), d.Record()
	enc := r.Encode(nil)
	if len(enc) > size {
		p.t.Fatalf("record of %d bytes, estimated at %d", len(enc), size)
	}
	back, err := shard.DecodeRecord(enc)
	if err != nil || !bytes.Equal(back.Encode(nil), enc) || !r.SameRecord(enc) {
		p.t.Fatalf("record does not survive its encoding: %v", err)
	}
	p.refuseBad(r)
	before := p.marks()
	if err := p.state.Apply(r); err != nil {
		p.t.Fatal(err)
	}
	if err := p.other.Apply(back); err != nil {
		p.t.Fatal(err)
	}
	p.verify(before, dropped)
}

func (p *play) change(d *shard.Draft, dropped map[tiering.TopicID]bool) {
	tp := p.somePartition()
	m := p.model.partitions[tp]
	switch p.rnd.IntN(10) {
	case 0, 1:
		p.rearrange(d, tp)
	case 2:
		to := p.rnd.Int64N(40)
		if m != nil && !dropped[tp.Topic] {
			to = m.start + p.rnd.Int64N((m.next-m.start)/(1+9*p.rnd.Int64N(2))+3) - 1
			m.start = max(m.start, min(to, m.next))
			m.layout = slices.DeleteFunc(m.layout, func(x piece) bool { return x.end() <= m.start })
		}
		d.Add(shard.Trim{Partition: tp, LogStart: tiering.Offset(max(to, 0))})
	case 3:
		if p.rnd.IntN(8) == 0 {
			d.Add(shard.DropTopic{Topic: tp.Topic})
			dropped[tp.Topic] = true
			p.model.dropTopic(tp.Topic)
		}
	case 4:
		if p.rnd.IntN(4) == 0 && len(dropped) == 0 {
			id := tiering.SessionID{byte(1 + p.rnd.IntN(3))}
			d.Add(shard.ForgetSession{Session: id})
			delete(p.model.answered, id)
			delete(p.last, id)
			p.forgot = true
		}
	case 5:
		if len(dropped) == 0 {
			d.Add(shard.ExpireProducers{Before: p.now - 300})
			for _, m := range p.model.partitions {
				maps.DeleteFunc(m.producers, func(id int64, pr *refProducer) bool {
					old := pr.updated < p.now-300 && m.openOf(id) == nil
					if old {
						p.model.forgotten = max(p.model.forgotten, id)
					}
					return old
				})
			}
			p.model.expireGroupProducers(p.now - 300)
			p.forgot = true
		}
	default:
		p.coordinate(d)
	}
}

// refuseBad offers the state variations of a good record that it must not take.
func (p *play) refuseBad(r shard.Record) {
	before := p.state.EncodeSnapshot(nil)
	for name, bad := range spoiled(r, p.state.Epoch) {
		err := p.state.Apply(bad)
		if !errors.Is(err, shard.ErrCorrupt) {
			p.t.Fatalf("a record with %s: got %v, want ErrCorrupt", name, err)
		}
	}
	if !bytes.Equal(before, p.state.EncodeSnapshot(nil)) {
		p.t.Fatal("a refused record changed the state")
	}
}

func spoiled(r shard.Record, epoch tiering.LeaderEpoch) map[string]shard.Record {
	out := map[string]shard.Record{}
	again, ahead, old := r, r, r
	again.Seq--
	ahead.Seq++
	out["the seq of the one before"], out["a seq too far ahead"] = again, ahead
	if epoch > 0 {
		old.Epoch = epoch - 1
		out["an older epoch"] = old
	}
	for i, c := range r.Changes {
		a, ok := c.(shard.Append)
		if !ok {
			continue
		}
		gap, none, empty := a, a, a
		gap.Base++
		none.Extents = nil
		empty.Extents = slices.Clone(a.Extents)
		empty.Extents[len(empty.Extents)-1].Count = 0
		for name, x := range map[string]shard.Append{"a gap": gap, "an append of nothing": none, "an empty extent": empty} {
			bad := r
			bad.Changes = slices.Clone(r.Changes)
			bad.Changes[i] = x
			out[fmt.Sprintf("%s in change %d", name, i)] = bad
		}
	}
	return out
}

type mark struct {
	next, start, stable tiering.Offset
	epoch               tiering.LeaderEpoch
}

func (p *play) marks() map[tiering.TopicPartition]mark {
	out := map[tiering.TopicPartition]mark{}
	for _, tp := range p.state.Partitions() {
		s := p.state.Partition(tp)
		out[tp] = mark{s.Next, s.LogStart, s.LastStable(), s.LastEpoch()}
	}
	return out
}

func (p *play) verify(before map[tiering.TopicPartition]mark, dropped map[tiering.TopicID]bool) {
	snap := p.state.EncodeSnapshot(nil)
	if !bytes.Equal(snap, p.other.EncodeSnapshot(nil)) {
		p.t.Fatalf("record %d: the states that applied it before and after its encoding differ", p.state.Seq)
	}
	back, err := shard.DecodeSnapshot(snap)
	if err != nil || !bytes.Equal(back.EncodeSnapshot(nil), snap) {
		p.t.Fatalf("snapshot does not survive its encoding: %v", err)
	}
	if back.InlineBytes() != p.state.InlineBytes() || back.InlineExtents() != p.state.InlineExtents() {
		p.t.Fatal("inline counters differ after a snapshot")
	}
	if p.rnd.IntN(5) == 0 {
		p.other = back // from here on, a follower that started from a snapshot
	}
	for tp, was := range before {
		s := p.state.Partition(tp)
		if !dropped[tp.Topic] && (s.Next < was.next || s.LogStart < was.start || s.LastStable() < was.stable || s.LastEpoch() < was.epoch) {
			p.t.Fatalf("%s went back: %+v, now next %d, start %d, stable %d, epoch %d", tp, was, s.Next, s.LogStart, s.LastStable(), s.LastEpoch())
		}
	}
	p.compare()
	p.compareTransactions(p.state)
	p.compareTransactions(back)
	p.compareGroups(back)
}

// TestStateAgreesWithAPlainModel plays random submissions and changes, new, repeated and
// stale, against the reference.
func TestStateAgreesWithAPlainModel(t *testing.T) {
	seen, came := map[shard.Code]int{}, map[string]int{}
	for seed := range uint64(60) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			p := &play{
				t: t, rnd: rand.New(rand.NewPCG(seed, 1)), model: newReference(), now: 1000,
				state: shard.New(), other: shard.New(), last: map[tiering.SessionID]*request{}, outcomes: seen, seen: came, numbers: map[string]int64{},
			}
			for range 100 {
				p.record()
			}
		})
	}
	for _, code := range []shard.Code{shard.OK, shard.OutOfOrderSequence, shard.InvalidProducerEpoch, shard.UnknownTopicOrPartition, shard.TransactionNotAccepted} {
		if seen[code] < 50 {
			t.Errorf("outcome %d came up %d times only: the play is too tame", code, seen[code])
		}
	}
	for _, what := range []string{
		"open", "aborted", "committed", "marker without a transaction", "repeated marker", "fenced marker", "operator's marker",
		"pending offset", "offset", "offset of a transaction", "later offset stays", "row",
		"merged", "cleaned", "archived", "unarchived", "manifest cleaned", "hole", "hole at the end", "across epochs", "inline by inline",
		"unmarked", "late", "late but the same", "of anything", "no archive of inline batches", "manifest in the middle stays",
		"no archive of what is open", "no archive with other aborted transactions", "archived with aborted transactions", "an aborted transaction across manifests",
	} {
		if came[what] < 20 {
			t.Errorf("%s came up %d times only: the play is too tame", what, came[what])
		}
	}
	if came["aborted transactions brought back"] < 5 {
		t.Error("aborted transactions are hardly ever brought back")
	}
}
