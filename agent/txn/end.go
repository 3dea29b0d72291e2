package txn

import (
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/coordinator"
	"github.com/floelog/floe/metadata/shard"
)

// endV2 is the version of EndTxn from which on it raises the epoch (KIP-890).
const endV2 = 5

func (m *machine) endTxn(e *entry, req *kmsg.EndTxnRequest) verdict {
	switch {
	case req.TransactionalID == "":
		return verdict{body: endAnswer(req, kerr.InvalidRequest.Code)}
	case e == nil || !e.known:
		return verdict{body: endAnswer(req, kerr.InvalidProducerIDMapping.Code), proven: true}
	case req.Version < endV2:
		return m.endOnce(e, req)
	case e.endedAs(req.ProducerID, req.ProducerEpoch):
		return e.endedBefore(req)
	}
	return m.endAndRaise(e, req)
}

func endAnswer(req *kmsg.EndTxnRequest, code int16) *kmsg.EndTxnResponse {
	resp := req.ResponseKind().(*kmsg.EndTxnResponse)
	resp.ErrorCode, resp.ProducerID, resp.ProducerEpoch = code, -1, -1
	return resp
}

// endedWith answers with the identity of the producer's next transaction.
func (e *entry) endedWith(req *kmsg.EndTxnRequest) *kmsg.EndTxnResponse {
	resp := endAnswer(req, 0)
	if req.Version >= endV2 {
		resp.ProducerID, resp.ProducerEpoch = e.identity()
	}
	return resp
}

// endOnce is EndTxn in the first version of the protocol: the epoch stays.
//
//	            abort                   commit
//	Empty            INVALID_TXN_STATE  INVALID_TXN_STATE
//	Ongoing          PrepareAbort       PrepareCommit
//	PrepareAbort     waits              INVALID_TXN_STATE
//	PrepareCommit    INVALID_TXN_STATE  waits
//	CompleteAbort    0                  INVALID_TXN_STATE
//	CompleteCommit   INVALID_TXN_STATE  0
//
// Any other epoch is fenced: the coordinator's own abort raises it.
func (m *machine) endOnce(e *entry, req *kmsg.EndTxnRequest) verdict {
	refuse := func(code int16) verdict { return verdict{body: endAnswer(req, code), proven: true} }
	switch {
	case req.ProducerID != e.producer:
		return refuse(kerr.InvalidProducerIDMapping.Code)
	case req.ProducerEpoch != e.epoch:
		return refuse(producerFenced(2, req.Version))
	case e.status == ongoing:
		m.prepare(e, req.Commit, false)
		return verdict{body: e.endedWith(req)}
	case e.status == empty || (e.status == prepareCommit || e.status == completeCommit) != req.Commit:
		return refuse(kerr.InvalidTxnState.Code)
	case e.status.prepared():
		return verdict{body: endAnswer(req, kerr.ConcurrentTransactions.Code), wait: true}
	}
	return verdict{body: e.endedWith(req), proven: true}
}

// endedAs reports whether this is the identity that the producer had in the last transaction,
// if the epoch was raised at its end: who names it repeats a request, or comes too late.
func (e *entry) endedAs(producer int64, epoch int16) bool {
	if e.version != 2 || !e.status.prepared() && !e.status.complete() || epoch != e.last {
		return false
	}
	if e.status.complete() && e.previous >= 0 {
		return producer == e.previous
	}
	return producer == e.producer
}

// endedBefore answers an EndTxn under the identity of the transaction that has ended.
//
//	                           abort              commit
//	PrepareAbort, Complete...  the first answer   PRODUCER_FENCED
//	PrepareCommit, Complete..  INVALID_TXN_STATE  the first answer
//
// The coordinator has aborted what such a commit is for: no client asks for both itself
// (KAFKA-20785). An abort after the coordinator's own lets the producer go on.
func (e *entry) endedBefore(req *kmsg.EndTxnRequest) verdict {
	switch committed := e.status == prepareCommit || e.status == completeCommit; {
	case committed == req.Commit:
		return verdict{body: e.endedWith(req), proven: true}
	case committed:
		return verdict{body: endAnswer(req, kerr.InvalidTxnState.Code), proven: true}
	}
	return verdict{body: endAnswer(req, kerr.ProducerFenced.Code), proven: true}
}

// endAndRaise is EndTxn in the second version of the protocol, under an identity that has
// not ended a transaction yet.
//
//	                 abort              commit
//	Ongoing          PrepareAbort       PrepareCommit
//	Prepare...       waits              waits
//	Empty            raises the epoch   INVALID_TXN_STATE
//	Complete...      raises the epoch   INVALID_TXN_STATE
//
// The abort of nothing is how a producer fences what it has sent and lost sight of.
func (m *machine) endAndRaise(e *entry, req *kmsg.EndTxnRequest) verdict {
	refuse := func(code int16) verdict { return verdict{body: endAnswer(req, code), proven: true} }
	wait := verdict{body: endAnswer(req, kerr.ConcurrentTransactions.Code), wait: true}
	switch {
	case req.ProducerID == e.producer && req.ProducerEpoch < e.epoch:
		return refuse(kerr.ProducerFenced.Code)
	case e.status.prepared():
		// Before the other checks: it may come from the producer's next id (KAFKA-18464,
		// KAFKA-18660).
		return wait
	case req.ProducerID != e.producer:
		return refuse(kerr.InvalidProducerIDMapping.Code)
	case req.ProducerEpoch != e.epoch:
		return refuse(kerr.ProducerFenced.Code)
	case req.Commit && e.status != ongoing:
		return refuse(kerr.InvalidTxnState.Code)
	case !m.prepare(e, req.Commit, true):
		return wait
	}
	return verdict{body: e.endedWith(req)}
}

// prepare decides the open transaction, or aborts nothing. With raise, the epoch rises, and
// markers carry the new one; when epochs have run out, the next transaction has a new
// producer id. It reports false if that has to be waited for.
func (m *machine) prepare(e *entry, commit, raise bool) bool {
	if raise && e.epoch >= lastEpoch {
		if !m.needID(e) {
			return false
		}
		e.next = e.takeID()
	}
	m.change(e)
	e.version = 1
	if raise {
		e.version, e.previous, e.last = 2, -1, e.epoch
		e.epoch++
	}
	e.retry = time.Time{}
	if e.status != ongoing {
		e.started = m.millis()
	}
	e.status = prepareAbort
	if commit {
		e.status = prepareCommit
	}
	for _, c := range m.conclusions(e) {
		m.out.Calls = append(m.out.Calls, c)
	}
	if len(e.left) == 0 {
		m.complete(e)
	}
	return true
}

// conclusions returns the calls that conclude a prepared transaction, and notes that none
// of them is done.
func (m *machine) conclusions(e *entry) []coordinator.Conclude {
	out := make([]coordinator.Conclude, 0, len(e.partitions)+len(e.groups))
	e.left = make(map[target]bool, cap(out))
	c := coordinator.Conclude{
		Name: e.id, Commit: e.status == prepareCommit, Coordinator: m.epoch,
		Transaction: shard.Transaction{ProducerID: e.producer, Epoch: e.epoch, Number: e.number},
	}
	for _, p := range e.partitions {
		c.Partition, c.Shard = p.TopicPartition, p.Shard
		out = append(out, c)
		e.left[target{partition: c.Partition}] = true
	}
	c.Partition = target{}.partition
	for _, g := range e.groups {
		c.Group, c.Shard = g.Name, g.Shard
		out = append(out, c)
		e.left[target{group: c.Group}] = true
	}
	return out
}

// result is told what became of a call.
func (m *machine) result(r coordinator.Result) {
	switch c := r.Call.(type) {
	case coordinator.NewProducerID:
		if e := m.ids[c.Name]; e != nil && e.asked {
			m.gotID(e, r.Value, r.Err)
		}
	case coordinator.Conclude:
		if e := m.ids[c.Name]; e != nil && e.concludes(c) {
			m.concluded(e, c, r.Err)
		}
	}
}

// concludes reports whether a call is one of the prepared transaction, not of one before.
func (e *entry) concludes(c coordinator.Conclude) bool {
	return e.status.prepared() && c.Commit == (e.status == prepareCommit) &&
		c.Transaction == shard.Transaction{ProducerID: e.producer, Epoch: e.epoch, Number: e.number} &&
		e.left[target{c.Partition, c.Group}]
}

func (m *machine) concluded(e *entry, c coordinator.Conclude, err error) {
	m.touch(e)
	// Where a newer epoch is known, an operator has ended the transaction by hand: its end
	// cannot be written there any more, and holding the others back would help nobody.
	if err != nil && !errors.Is(err, coordinator.ErrFencedMarker) {
		e.again = append(e.again, c)
		if e.retry.IsZero() {
			e.retry = m.now.Add(callAgain)
		}
		return
	}
	delete(e.left, target{c.Partition, c.Group})
	if len(e.left) == 0 {
		m.complete(e)
		m.resume(e)
	}
}

// complete ends a transaction that is concluded everywhere.
func (m *machine) complete(e *entry) {
	m.change(e)
	if e.next >= 0 {
		e.previous, e.producer, e.epoch, e.next = e.producer, e.next, 0, -1
	}
	if e.status == prepareCommit {
		e.status = completeCommit
	} else {
		e.status = completeAbort
	}
	e.partitions, e.groups, e.left, e.again = nil, nil, nil, nil
	e.retry = time.Time{}
}
