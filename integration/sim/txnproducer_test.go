package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/kafka"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// fate is what a producer knows of one of its transactions.
type fate uint8

const (
	fateOpen      fate = iota
	fateCommitted      // it was told so
	fateAborted        // it never asked for the commit, or was refused
	fateUnknown
)

// clientTxn is one transaction, as its producer knows it. World.mu guards what changes.
type clientTxn struct {
	name   string
	id     string // transactional id
	pid    int64
	epoch  int16
	number int64 // as the agents say, 0: not told
	fate   fate
	asked  int64 // when its commit was asked for first, by world.tick; 0: never
	told   int64 // revision of the store when its end was told
	sent   []*sent
	tries  []*commitTry
	reads  []uint64 // digests of what it read, committed
	grants []grant
}

// grant is a partition or group that a coordinator said is part of a transaction.
type grant struct {
	number   int64
	revision int64
	part     *partition // nil: a group
	group    string
}

func (t *clientTxn) describe() string {
	if t == nil {
		return "nobody's transaction"
	}
	return t.name
}

// identity is a producer id and epoch that was told to a client.
type identity struct {
	id           string
	pid          int64
	epoch        int16
	began, ended int64 // by world.tick
	revision     int64
}

// txnProducer is a transactional producer: one process, under a transactional id that others
// may take from it. Requests that it does not hear of are repeated as Kafka's clients do.
type txnProducer struct {
	*producer
	txnID   string
	v2      bool
	timeout time.Duration // of its transactions
	ready   bool
	resume  bool // it goes on from the identity it has (KIP-360)
	rivals  bool // others use the id
	left    int  // transactions
	input   *consumer
	pause   time.Duration
}

func (w *world) newTxnProducer(i int, incarnation int) *txnProducer {
	r := w.rand(fmt.Sprintf("txn%d", i))
	p := &txnProducer{
		txnID: fmt.Sprintf("tx%d", i), v2: r.IntN(2) == 0, timeout: pick(r, 1500*time.Millisecond, 4*time.Second, 10*time.Second),
		rivals: r.IntN(3) == 0, left: 4 + r.IntN(8), pause: pick(r, 20*time.Millisecond, 200*time.Millisecond, time.Second),
	}
	name := fmt.Sprintf("txn%d.%d", i, incarnation)
	p.producer = &producer{w: w, name: name, rnd: w.rand(name), idempotent: true, transactional: true, id: -1, lanes: map[*partition]*lane{}}
	p.input = w.newConsumer(200 + 10*i + incarnation)
	p.input.committed = true
	return p
}

// tick orders what clients do: what has the greater number happened later, or at the same time.
func (w *world) tick() int64 { return w.ticks.Add(1) }

// run works off the producer's transactions.
func (p *txnProducer) run(ctx context.Context) {
	for p.left > 0 && ctx.Err() == nil {
		if !p.ready && !p.init(ctx) {
			continue
		}
		p.left--
		p.transaction(ctx)
		p.think(ctx, p.pause)
	}
}

func (p *txnProducer) think(ctx context.Context, most time.Duration) {
	if p.w.isHealed() {
		most = min(most, 100*time.Millisecond)
	}
	sleep(ctx, time.Duration(1+p.rnd.Int64N(int64(most))))
}

// fence ends what the producer had: it stops, or takes the id back.
func (p *txnProducer) fence() {
	p.w.note("txn fenced")
	p.ready, p.resume = false, false
	p.left /= 2
}

// init asks for an identity, which fences whoever has the id.
func (p *txnProducer) init(ctx context.Context) bool {
	req := kmsg.NewPtrInitProducerIDRequest()
	req.Version, req.TransactionalID, req.TransactionTimeoutMillis = 4, &p.txnID, int32(p.timeout.Milliseconds())
	req.ProducerID, req.ProducerEpoch = -1, -1
	if p.resume {
		req.ProducerID, req.ProducerEpoch = p.id, p.epoch
	}
	to := p.w.coordinator(p.rnd, p.txnID)
	if to == nil {
		p.think(ctx, 200*time.Millisecond)
		return false
	}
	began := p.w.tick()
	got, err := call(ctx, to, p.rnd, false, func(ctx context.Context) (answered[*kmsg.InitProducerIDResponse], error) {
		return askTxn[*kmsg.InitProducerIDResponse](ctx, to, p.txnID, req)
	})
	switch {
	case err != nil || again(got.resp.ErrorCode):
		p.think(ctx, 200*time.Millisecond)
	case got.resp.ErrorCode == 0:
		p.adopt(got.resp.ProducerID, got.resp.ProducerEpoch, began, got.revision)
		p.ready, p.resume = true, false
		return true
	case fenced(got.resp.ErrorCode) && p.resume:
		p.w.history.add(p.name, "fenced", nil, "when it came back")
		p.fence()
	default:
		p.w.fail("answers", nil, "%s: InitProducerId was answered %v", p.name, kerr.ErrorForCode(got.resp.ErrorCode))
		p.left = 0
	}
	return false
}

// adopt takes the identity that the producer was told.
func (p *txnProducer) adopt(pid int64, epoch int16, began, revision int64) {
	p.w.history.add(p.name, "identity", nil, "%d epoch %d", pid, epoch)
	if pid != p.id || epoch != p.epoch {
		clear(p.lanes)
	}
	p.id, p.epoch = pid, epoch
	ended := p.w.tick()
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	p.w.identities = append(p.w.identities, identity{p.txnID, pid, epoch, began, ended, revision})
}

// transaction runs one transaction from its first batch to its end.
func (p *txnProducer) transaction(ctx context.Context) {
	p.made++
	t := &clientTxn{name: fmt.Sprintf("%s/%d", p.name, p.made), id: p.txnID, pid: p.id, epoch: p.epoch}
	p.w.mu.Lock()
	p.w.txns = append(p.w.txns, t)
	p.w.mu.Unlock()
	x := &txnUnderWay{txnProducer: p, txn: t, added: map[string]bool{}}
	// delivery.timeout.ms: before or after the coordinator gives the transaction up
	x.deadline = time.Now().Add(pick(p.rnd, p.timeout/3, p.timeout+8*time.Second))
	if p.rnd.IntN(3) == 0 {
		p.consume(ctx, t)
	}
	parts := p.w.known()
	p.rnd.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
	parts = parts[:min(len(parts), 1+p.rnd.IntN(3))]
	ok := true
	for range 1 + p.rnd.IntN(4) {
		if ok = ok && x.produce(ctx, parts[p.rnd.IntN(len(parts))]); ok && p.rnd.IntN(2) == 0 {
			p.think(ctx, p.pause)
		}
	}
	if p.rnd.IntN(10) == 0 && !p.w.isHealed() {
		sleep(ctx, p.timeout+time.Second)
	}
	if ok && p.rnd.IntN(3) == 0 {
		ok = x.commitOffsets(ctx, fmt.Sprintf("s%d", p.rnd.IntN(2)))
	}
	if p.ready {
		x.end(ctx, ok && p.rnd.IntN(10) < 7)
	}
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	if t.fate == fateOpen {
		t.fate = fateAborted
		if t.asked != 0 {
			t.fate = fateUnknown
		}
	}
	for _, s := range t.sent {
		s.resolved = true
	}
}

// consume reads what is committed somewhere, as consume-process-produce does.
func (p *txnProducer) consume(ctx context.Context, t *clientTxn) {
	parts := p.w.known()
	part := parts[p.rnd.IntN(len(parts))]
	p.input.polled = p.input.polled[:0]
	p.input.poll(ctx, p.w.anyNode(p.rnd), []*partition{part}, 100*time.Millisecond, 1<<14)
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	t.reads = append(t.reads, p.input.polled...)
}

// txnUnderWay is a transaction that its producer works on.
type txnUnderWay struct {
	*txnProducer
	txn      *clientTxn
	added    map[string]bool // what AddPartitionsToTxn and AddOffsetsToTxn have added
	deadline time.Time
}

// retry reports whether to try again, after a pause.
func (x *txnUnderWay) retry(ctx context.Context) bool {
	x.think(ctx, 150*time.Millisecond)
	return ctx.Err() == nil && time.Now().Before(x.deadline)
}

// enlistment is what the producer asks of the coordinator.
func (x *txnUnderWay) enlistment(part *partition, group string, add bool) kafka.Enlistment {
	e := kafka.Enlistment{ID: x.txnID, ProducerID: x.id, Epoch: x.epoch, Version: 1, Add: add}
	if x.v2 {
		e.Version, e.Add = 2, true
	}
	if part != nil {
		e.Partitions = []kafka.Partition{{TopicPartition: part.TopicPartition, Shard: part.shard}}
	} else {
		e.Groups = []string{group}
	}
	return e
}

// enlisted is the answer to an enlistment: one code for all.
type enlisted struct {
	code     int16
	number   int64
	revision int64
}

func enlist(ctx context.Context, p *process, e kafka.Enlistment) (enlisted, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	_, txns := p.coordinators()
	got, err := txns.Enlist(ctx, e)
	out := enlisted{got.Code, got.Number, p.node.w.server.Revision()}
	if err == nil && got.Code == 0 && len(got.Codes) == 1 {
		out.code = got.Codes[0]
	}
	return out, err
}

// granted notes that the coordinator has told the transaction's number.
func (x *txnUnderWay) granted(got enlisted, part *partition, group string) {
	t := x.txn
	x.w.mu.Lock()
	t.grants = append(t.grants, grant{got.number, got.revision, part, group})
	before := t.number
	t.number = got.number
	x.w.mu.Unlock()
	if before != 0 && before != got.number {
		x.w.fail("torn transaction", part, "%s was told number %d and number %d", t.name, before, got.number)
	}
}

// add makes a partition or group part of the transaction, as producers of the first protocol
// do before they use it.
func (x *txnUnderWay) add(ctx context.Context, part *partition, group string) bool {
	key := group
	if part != nil {
		key = part.name
	}
	if x.v2 || x.added[key] {
		return true
	}
	e := x.enlistment(part, group, true)
	e.Here = true
	for more := true; more; more = x.retry(ctx) {
		to := x.w.coordinator(x.rnd, x.txnID)
		if to == nil {
			continue
		}
		x.w.copyLater(x.rnd, "enlist", func(ctx context.Context, p *process) { _, _ = enlist(ctx, p, e) })
		got, err := call(ctx, to, x.rnd, false, func(ctx context.Context) (enlisted, error) { return enlist(ctx, to, e) })
		if err == nil && got.code == 0 {
			x.granted(got, part, group)
			x.added[key] = true
			return true
		}
		if err == nil && x.refused(got.code, "AddPartitionsToTxn") {
			return false
		}
	}
	return false
}

// refused reports whether a code ends the transaction, and forgets the identity if it is lost.
func (x *txnUnderWay) refused(code int16, what string) bool {
	if code == 0 || again(code) {
		return false
	}
	x.w.history.add(x.name, "refused", nil, "%s: %s code %d", x.txn.name, what, code)
	switch {
	case fenced(code):
		x.fence()
	case code == kerr.InvalidTxnState.Code, code == kerr.TransactionAbortable.Code, code == kerr.UnknownTopicOrPartition.Code:
	case code == kerr.IllegalGeneration.Code, code == kerr.UnknownMemberID.Code: // of who commits offsets
	default:
		x.w.fail("answers", nil, "%s: %s was answered %v", x.txn.name, what, kerr.ErrorForCode(code))
	}
	return true
}

// written is the answer to a produce request.
type written struct {
	enlisted
	base tiering.Offset
}

// write does what the handler of Produce does with one batch.
func (x *txnUnderWay) write(ctx context.Context, p *process, e kafka.Enlistment, s *sent) (out written, err error) {
	if out.enlisted, err = enlist(ctx, p, e); err != nil || out.code != 0 {
		return out, err
	}
	number := out.number
	x.w.copyLater(rand.New(rand.NewPCG(s.digest, uint64(number))), "batch", func(ctx context.Context, p *process) {
		if b, err := appendTo(ctx, p, s, number); err == nil && b.Code != 0 {
			x.w.note("txn refused a late batch")
		}
	})
	b, err := appendTo(ctx, p, s, number)
	if err == nil {
		out.base, out.code = b.Base, b.Code
	}
	return out, err
}

// appendTo lets a process store a batch as part of a transaction.
func appendTo(ctx context.Context, p *process, s *sent, number int64) (*kafka.AppendBatch, error) {
	b := &kafka.AppendBatch{Partition: s.part.TopicPartition, Shard: s.part.shard, Data: s.data, Meta: s.meta}
	b.Meta.Transaction = number
	into, _ := p.clients()
	done := make(chan struct{})
	w := p.node.w
	into.Append([]*kafka.AppendBatch{b}, func() {
		if b.Code == 0 && !p.gate.isDead() {
			revision := w.server.Revision()
			w.mu.Lock()
			s.answers = append(s.answers, answer{b.Base, revision, p.name})
			w.mu.Unlock()
		}
		close(done)
	})
	select {
	case <-done:
		return b, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// produce writes one batch.
func (x *txnUnderWay) produce(ctx context.Context, part *partition) bool {
	if !x.add(ctx, part, "") {
		return false
	}
	l := x.lanes[part]
	if l == nil {
		l = &lane{part: part}
		x.lanes[part] = l
	}
	s := x.make(l)
	x.w.mu.Lock()
	s.txn = x.txn
	x.txn.sent = append(x.txn.sent, s)
	x.w.mu.Unlock()
	e := x.enlistment(part, "", false)
	for more := true; more && !part.gone.Load(); more = x.retry(ctx) {
		to := x.w.serving(x.rnd)
		if to == nil {
			continue
		}
		x.w.mu.Lock()
		s.attempts++
		x.w.mu.Unlock()
		x.w.history.add(x.name, "send", part, "%s of %s to %s", s.name, x.txn.name, to.name)
		x.w.copyLater(x.rnd, "produce", func(ctx context.Context, p *process) { _, _ = x.write(ctx, p, e, s) })
		got, err := call(ctx, to, x.rnd, false, func(ctx context.Context) (written, error) { return x.write(ctx, to, e, s) })
		x.w.history.add(x.name, "answer", part, "%s code %d base %d number %d (%v)", s.name, got.code, got.base, got.number, err)
		switch {
		case err != nil:
		case got.code == 0:
			x.granted(got.enlisted, part, "")
			s.acked = true
			return true
		case got.code == kerr.OutOfOrderSequenceNumber.Code:
			x.w.fail("sequence", part, "%s is the next in order and was answered OUT_OF_ORDER_SEQUENCE_NUMBER", s.name)
			return false
		case x.refused(got.code, "Produce"):
			return false
		}
	}
	return false
}

// commitTry is one request to commit offsets; its name is the offsets' metadata. World.mu
// guards what changes.
type commitTry struct {
	name    string
	group   string
	member  string
	epoch   int32
	txn     *clientTxn
	offsets map[tiering.TopicPartition]tiering.Offset
	copied  bool  // it may take effect more than once
	refused int16 // a definite code
	acked   int64 // revision of the store when it was acknowledged, 0: not
	began   int64 // by world.tick
	applied int64 // revision at which it took effect: the auditor's
}

func (w *world) newCommit(group, member string, epoch int32, offsets map[tiering.TopicPartition]tiering.Offset) *commitTry {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := &commitTry{name: fmt.Sprintf("c%d", len(w.tries)+1), group: group, member: member, epoch: epoch, offsets: offsets, began: w.ticks.Add(1)}
	w.tries = append(w.tries, c)
	w.triesByName[c.name] = c
	return c
}

func (w *world) commitTry(name string) *commitTry {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.triesByName[name]
}

func (c *commitTry) list() (out []shard.GroupOffset) {
	for tp, o := range c.offsets {
		out = append(out, shard.GroupOffset{Partition: tp, Offset: o, Epoch: -1, Metadata: c.name, Expires: -1})
	}
	return out
}
