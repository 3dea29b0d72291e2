package sim

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/floelog/floe/agent/kafka"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/protocol/batch"
	"github.com/floelog/floe/tiering"
)

// sent is one batch that a producer made. World.mu guards what changes.
type sent struct {
	name     string
	part     *partition
	producer *producer
	data     []byte
	digest   uint64
	meta     shard.Batch

	attempts int      // requests that carried it
	answers  []answer // every success that a living agent told, heard or not
	resolved bool     // the producer needs nothing more of it
	gaveUp   bool
	acked    bool       // its own producer heard so, of a transaction
	txn      *clientTxn // that it is part of
}

// answer is one success: the offset, and how far the metadata store was when it was given.
type answer struct {
	base     tiering.Offset
	revision int64
	who      string
}

// digest identifies a batch by all that may not change on its way from the producer to
// the consumer: everything but base offset and leader epoch.
func digest(b []byte) uint64 {
	var h maphash.Hash
	h.SetSeed(digestSeed)
	h.Write(b[8:12])
	h.Write(b[16:])
	return h.Sum64()
}

// producer behaves as Kafka's Java client does with one connection: up to five requests
// in flight; what fails is repeated, the oldest first, and nothing new overtakes it.
type producer struct {
	w             *world
	name          string
	rnd           *rand.Rand
	idempotent    bool
	transactional bool
	id            int64
	epoch         int16
	left          int // batches still to be made
	lanes         map[*partition]*lane
	conn          *conn
	inFlight      int
	replies       chan reply
	made          int
	finished      chan struct{}
}

// lane is a producer's batches for one partition that are not resolved yet.
type lane struct {
	part    *partition
	nextSeq int32
	queue   []*queued // in the order of their sequence numbers
	quiet   time.Time // nothing is sent before
}

type queued struct {
	*sent
	flying bool
	tries  int
}

// request is what a connection carries.
type request struct {
	batches []*queued
	conn    *conn
}

// reply is what comes back of it: nil codes say that the connection is lost.
type reply struct {
	req     *request
	lost    bool
	results []kafka.AppendBatch
}

// conn is a connection to one process. What was sent on it arrives in order, perhaps late,
// even when the producer has long taken another one.
type conn struct {
	p       *producer
	process *process
	out     chan *request
	broken  chan struct{} // closed by the producer
	last    chan struct{} // closed when the request before has been answered; nil: there is none
	rnd     *rand.Rand
}

const (
	maxInFlight    = 5 // max.in.flight.requests.per.connection
	requestTimeout = 5 * time.Second
)

func (w *world) newProducer(i int, idempotent bool) *producer {
	kind := "plain"
	if idempotent {
		kind = "idem"
	}
	p := &producer{
		w: w, name: fmt.Sprintf("%s%d", kind, i), idempotent: idempotent, id: -1, left: w.shape.batches,
		lanes: map[*partition]*lane{}, replies: make(chan reply), finished: make(chan struct{}),
	}
	p.rnd = w.rand(p.name)
	return p
}

// run goes on until all batches are resolved or ctx ends.
func (p *producer) run(ctx context.Context) {
	defer func() {
		if p.conn != nil {
			p.hangUp()
		}
	}()
	if p.idempotent && !p.getID(ctx) {
		return
	}
	think := time.NewTimer(0)
	defer think.Stop()
	for ctx.Err() == nil {
		if p.left == 0 && p.unresolved() == 0 {
			close(p.finished)
			return
		}
		select {
		case <-ctx.Done():
		case r := <-p.replies:
			p.take(r)
		case <-think.C:
			p.dropGone()
			p.maybeBump()
			p.send(ctx)
			pause := p.w.shape.think
			if p.unresolved() > 0 || p.w.isHealed() {
				pause = min(pause, 100*time.Millisecond)
			}
			think.Reset(time.Duration(1 + p.rnd.Int64N(int64(pause))))
		}
	}
}

func (w *world) isHealed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.healed
}

func (p *producer) unresolved() int {
	n := 0
	for _, l := range p.lanes {
		n += len(l.queue)
	}
	return n
}

// getID asks agents until one has given a producer id.
func (p *producer) getID(ctx context.Context) bool {
	for ; ctx.Err() == nil; sleep(ctx, 200*time.Millisecond) {
		pr := p.w.anyNode(p.rnd).serving()
		if pr == nil {
			continue
		}
		try, cancel := context.WithTimeout(ctx, requestTimeout)
		id, err := int64(0), pr.gate.pass(try)
		if err == nil {
			id, err = pr.ports().ProducerIDs.Next(try)
		}
		if gateErr := pr.gate.pass(try); gateErr != nil {
			err = gateErr
		}
		cancel()
		if err == nil {
			p.id = id
			p.w.history.add(p.name, "producer id", nil, "%d from %s", id, pr.name)
			return true
		}
	}
	return false
}

// maybeBump starts a new producer epoch now and then, when nothing is under way. What is
// still on old connections then belongs to a past epoch.
func (p *producer) maybeBump() {
	if !p.idempotent || !p.w.shape.bumps || p.unresolved() > 0 || p.rnd.IntN(8) > 0 {
		return
	}
	p.epoch++
	for _, l := range p.lanes {
		l.nextSeq = 0
	}
	p.w.history.add(p.name, "epoch", nil, "%d", p.epoch)
}

// dropGone gives up on what was meant for topics that do not exist any more.
func (p *producer) dropGone() {
	for _, l := range p.lanes {
		if !l.part.gone.Load() {
			continue
		}
		for i := len(l.queue) - 1; i >= 0; i-- {
			if q := l.queue[i]; !q.flying {
				p.resolve(l, q, true)
			}
		}
	}
}

// send fills the connection with requests.
func (p *producer) send(ctx context.Context) {
	for p.inFlight < maxInFlight {
		batches := p.choose()
		if len(batches) == 0 {
			return
		}
		if p.conn == nil && !p.connect(ctx) {
			return
		}
		req := &request{batches: batches, conn: p.conn}
		p.w.mu.Lock()
		for _, b := range batches {
			b.flying = true
			b.tries++
			b.attempts++
		}
		p.w.mu.Unlock()
		for _, b := range batches {
			p.w.history.add(p.name, "send", b.part, "%s try %d to %s", b.name, b.tries, p.conn.process.name)
		}
		p.inFlight++
		p.conn.out <- req
		if p.rnd.IntN(3) > 0 {
			return // the next request follows later
		}
	}
}

// choose takes at most one batch of each of a few partitions.
func (p *producer) choose() []*queued {
	parts := p.w.known()
	var out []*queued
	for _, i := range p.rnd.Perm(len(parts))[:1+p.rnd.IntN(min(3, len(parts)))] {
		l := p.lanes[parts[i]]
		if l == nil {
			l = &lane{part: parts[i]}
			p.lanes[parts[i]] = l
		}
		if b := p.next(l); b != nil {
			out = append(out, b)
		}
	}
	return out
}

// next returns what may be sent to a partition: the oldest batch if any failed, else a new one.
func (p *producer) next(l *lane) *queued {
	if time.Now().Before(l.quiet) {
		return nil
	}
	for i, q := range l.queue {
		if q.flying {
			continue
		}
		if i == 0 || !p.idempotent {
			return q
		}
		return nil
	}
	if p.left == 0 || len(l.queue) >= maxInFlight {
		return nil
	}
	p.left--
	q := &queued{sent: p.make(l)}
	l.queue = append(l.queue, q)
	return q
}

// make builds a batch whose bytes are unlike any other's.
func (p *producer) make(l *lane) *sent {
	p.made++
	now := time.Now().UnixMilli()
	f := batch.PlainFields(now)
	count := int32(1 + p.rnd.IntN(4))
	if p.idempotent {
		f.ProducerID, f.ProducerEpoch, f.BaseSequence = p.id, p.epoch, l.nextSeq
	}
	if p.transactional {
		f.Attributes |= batch.AttrTransactional
	}
	size := p.w.shape.minBatch + p.rnd.IntN(p.w.shape.maxBatch-p.w.shape.minBatch)
	if p.rnd.IntN(4) > 0 {
		size = p.w.shape.minBatch + size/8
	}
	b := batch.NewBuilder(f)
	name := fmt.Sprintf("%s/%d", p.name, p.made)
	for i := range count {
		value := make([]byte, size/int(count))
		for j := 0; j+8 <= len(value); j += 8 {
			binary.LittleEndian.PutUint64(value[j:], p.rnd.Uint64())
		}
		r := batch.Record{OffsetDelta: i, TimestampDelta: int64(i), Key: []byte(name), Value: value}
		if l.part.keeps.compact {
			r = p.keyedRecord(name, i, value)
		}
		b.Add(r)
	}
	data, err := b.AppendTo(nil)
	if err != nil {
		panic(err) // the workload's own mistake
	}
	v := batch.View(data)
	s := &sent{
		name: fmt.Sprintf("%s[%d+%d]", name, f.BaseSequence, count), part: l.part, producer: p, data: data, digest: digest(data),
		meta: shard.Batch{Length: int32(len(data)), Count: count, MaxTimestamp: v.MaxTimestamp(),
			ProducerID: f.ProducerID, ProducerEpoch: f.ProducerEpoch, FirstSeq: f.BaseSequence},
	}
	if p.idempotent {
		l.nextSeq += count
	}
	p.w.mu.Lock()
	p.w.sent[s.digest] = s
	p.w.mu.Unlock()
	return s
}

// take works off one reply.
func (p *producer) take(r reply) {
	if r.req.conn != p.conn {
		return // of a connection that was given up: its requests were taken back
	}
	p.inFlight--
	if r.lost {
		p.w.history.add(p.name, "no answer", nil, "from %s", p.conn.process.name)
		p.hangUp()
		return
	}
	again := false
	for i, b := range r.req.batches {
		b.flying = false
		res := &r.results[i]
		p.w.history.add(p.name, "answer", b.part, "%s code %d base %d", b.name, res.Code, res.Base)
		l := p.lanes[b.part]
		if res.Code == 0 {
			p.resolve(l, b, false)
			continue
		}
		again = true
		p.refused(l, b, res.Code)
	}
	if again && p.rnd.IntN(2) == 0 {
		p.hangUp() // as after new metadata: another agent may do better
	}
}

func (p *producer) refused(l *lane, b *queued, code int16) {
	l.quiet = time.Now().Add(time.Duration(20+p.rnd.IntN(100)) * time.Millisecond)
	switch {
	case b.part.gone.Load():
		p.resolve(l, b, true)
	case code == kerr.OutOfOrderSequenceNumber.Code && p.idempotent:
		if l.queue[0] == b {
			p.w.fail("sequence", b.part, "%s is the next in order and was answered OUT_OF_ORDER_SEQUENCE_NUMBER", b.name)
			p.resolve(l, b, true)
		}
	case !kerr.IsRetriable(kerr.ErrorForCode(code)):
		p.w.fail("answers", b.part, "%s was answered %v", b.name, kerr.ErrorForCode(code))
		p.resolve(l, b, true)
	case !p.idempotent && p.rnd.IntN(4) == 0:
		p.resolve(l, b, true)
	}
}

func (p *producer) resolve(l *lane, b *queued, gaveUp bool) {
	p.w.mu.Lock()
	b.resolved, b.gaveUp = true, gaveUp
	p.w.mu.Unlock()
	for i, q := range l.queue {
		if q == b {
			l.queue = append(l.queue[:i:i], l.queue[i+1:]...)
			return
		}
	}
}

// connect chooses an agent that serves.
func (p *producer) connect(context.Context) bool {
	pr := p.w.anyNode(p.rnd).serving()
	if pr == nil {
		return false
	}
	c := &conn{p: p, process: pr, out: make(chan *request, maxInFlight), broken: make(chan struct{}),
		rnd: rand.New(rand.NewPCG(p.rnd.Uint64(), p.rnd.Uint64()))}
	p.conn = c
	p.w.tasks.Go(c.run)
	return true
}

// hangUp gives the connection up: the outcome of all that is on it is unknown.
func (p *producer) hangUp() {
	close(p.conn.broken)
	close(p.conn.out)
	p.conn, p.inFlight = nil, 0
	for _, l := range p.lanes {
		kept := l.queue[:0:0]
		for _, q := range l.queue {
			q.flying = false
			if !p.idempotent && q.tries > 0 && p.rnd.IntN(4) == 0 {
				p.w.mu.Lock()
				q.resolved, q.gaveUp = true, true
				p.w.mu.Unlock()
				continue
			}
			kept = append(kept, q)
		}
		l.queue = kept
	}
}

// run hands the requests to the agent, in order.
func (c *conn) run() {
	for req := range c.out {
		late := time.Duration(c.rnd.Int64N(int64(3 * time.Millisecond)))
		select {
		case <-c.broken:
			// What was on its way when the producer hung up arrives much later, or never, and
			// then neither does what came after it.
			if c.rnd.IntN(3) == 0 {
				return
			}
			late = time.Duration(c.rnd.Int64N(int64(6 * time.Second)))
		default:
		}
		if !c.p.w.isHealed() && c.rnd.IntN(40) == 0 {
			late += time.Duration(c.rnd.Int64N(int64(8 * time.Second))) // longer than the producer waits
		}
		if late > requestTimeout && sleep(c.p.w.live, requestTimeout) {
			c.lose(req) // the producer hangs up; the request is still on its way
			late -= requestTimeout
		}
		if !sleep(c.p.w.live, late) || c.process.gate.pass(c.p.w.live) != nil {
			c.lose(req)
			continue
		}
		c.deliver(req)
	}
}

// lose tells the producer that its connection is gone, unless it knows.
func (c *conn) lose(req *request) {
	select {
	case c.p.replies <- reply{req: req, lost: true}:
	case <-c.broken:
	case <-c.p.w.live.Done():
	}
}

// deliver lets the agent take a request and waits for the answer elsewhere, so that the
// next request can follow.
func (c *conn) deliver(req *request) {
	batches := make([]*kafka.AppendBatch, len(req.batches))
	for i, b := range req.batches {
		batches[i] = &kafka.AppendBatch{
			Partition: b.part.TopicPartition, Shard: b.part.shard, Data: b.data, Meta: b.meta,
		}
	}
	lost := !c.p.w.isHealed() && c.rnd.IntN(40) == 0
	w := c.p.w
	done := make(chan struct{})
	into, _ := c.process.clients()
	into.Append(batches, func() {
		if !c.process.gate.isDead() {
			w.answered(c.process, req, batches)
		}
		close(done)
	})
	before, answered := c.last, make(chan struct{})
	c.last = answered
	w.tasks.Go(func() {
		defer close(answered)
		timeout := time.NewTimer(requestTimeout)
		defer timeout.Stop()
		select {
		case <-done:
		case <-timeout.C:
			lost = true
		case <-c.broken:
			return
		case <-w.live.Done():
			return
		}
		if before != nil { // answers of one connection come in order
			select {
			case <-before:
			case <-c.broken:
				return
			}
		}
		if lost || c.process.gate.pass(w.live) != nil {
			c.lose(req)
			return
		}
		r := reply{req: req, results: make([]kafka.AppendBatch, len(batches))}
		for i, b := range batches {
			r.results[i] = *b
		}
		select {
		case c.p.replies <- r:
		case <-c.broken:
		case <-w.live.Done():
		}
	})
}

// answered notes what a living agent promised.
func (w *world) answered(p *process, req *request, batches []*kafka.AppendBatch) {
	revision := w.server.Revision()
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, b := range batches {
		if b.Code == 0 {
			s := req.batches[i].sent
			s.answers = append(s.answers, answer{b.Base, revision, p.name})
		}
	}
}
