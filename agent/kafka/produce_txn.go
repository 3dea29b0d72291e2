package kafka

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/floelog/floe/protocol"
	"github.com/floelog/floe/protocol/batch"
)

// Batches of transactions. Before any is handed over, the transaction's coordinator says
// that their partitions are part of the open transaction, and its number, which the batches
// carry on: a shard's leader tells by it a late batch of a concluded transaction from one of
// the next (KAFKA-17754).
//
//   - to v11: the producer has added the partitions itself by AddPartitionsToTxn; the
//     coordinator only confirms that (KIP-890, part 1)
//   - v12+: the coordinator adds them (KIP-890, part 2)
//
// Kafka's broker spares itself the question while it knows the transaction to be open in the
// partition. Here it is asked for every request: which of the agents has the next one of
// this producer is not known.

// enlistWait bounds how long a produce request waits for a coordinator, and with it all that
// follows on its connection. Smaller: a change of leaders would fail what it could have
// waited for, only to have it sent again. Larger: the client's other requests time out.
const enlistWait = 5 * time.Second

// writing is what the transactional batches of a request have in common.
type writing struct {
	batches    int
	producerID int64
	epoch      int16
	mixed      bool // they are not of one producer and epoch
}

func (w *writing) add(v batch.View) {
	id, epoch := v.ProducerID(), v.ProducerEpoch()
	if w.batches == 0 {
		w.producerID, w.epoch = id, epoch
	}
	w.mixed = w.mixed || id != w.producerID || epoch != w.epoch
	w.batches++
}

var (
	errNoTxnID = refuse(kerr.TransactionalIDAuthorizationFailed, "the request has batches of a transaction, and no transactional id")
	errMixed   = refuse(kerr.InvalidProducerIDMapping, "the request has batches of transactions of several producers")
)

// enlist refuses the batches that are not part of their producer's open transaction, and
// tells the others its number.
func (p *production) enlist(ctx context.Context, req *protocol.ProduceRequest) {
	switch {
	case req.TransactionalID == nil:
		p.refuseAll(errNoTxnID)
		return
	case p.txn.mixed:
		p.refuseAll(errMixed)
		return
	}
	e := Enlistment{ID: string(req.TransactionalID), ProducerID: p.txn.producerID, Epoch: p.txn.epoch, Version: 1,
		Partitions: make([]Partition, 0, p.txn.batches)}
	if p.version >= 12 {
		e.Add, e.Version = true, 2
	}
	at := make([]*producedPart, 0, p.txn.batches)
	for i := range p.parts {
		part := &p.parts[i]
		if part.batch != nil && batch.View(part.batch.Data).IsTransactional() {
			e.Partitions = append(e.Partitions, Partition{part.batch.Partition, part.batch.Shard})
			at = append(at, part)
		}
	}
	if len(at) == 0 {
		return
	}
	wait := enlistWait
	if req.TimeoutMillis > 0 {
		wait = min(wait, time.Duration(req.TimeoutMillis)*time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	got, err := p.h.Transactions.Enlist(ctx, e)
	if err != nil {
		got = Enlisted{Code: coordinatorCode(err)}
	}
	for i, part := range at {
		part.batch.Meta.Transaction = got.Number
		if err := enlistError(got.code(i), p.version); err != nil {
			part.err, part.batch = err, nil
		}
	}
	p.keepAccepted()
}

// refuseAll refuses all of a request, for one reason.
func (p *production) refuseAll(err error) {
	for i := range p.parts {
		p.parts[i].err, p.parts[i].batch = err, nil
	}
	p.accepted = p.accepted[:0]
}

// enlistError is what a producer hears of a coordinator's code. Trouble of the coordinator is
// NOT_ENOUGH_REPLICAS: every client sends the batch again then, and only that. Of the
// transaction before that is being concluded only v12 clients have to know.
func enlistError(code, version int16) error {
	k := kerr.TypedErrorForCode(code)
	switch k {
	case nil:
		return nil
	case kerr.ConcurrentTransactions:
		if version >= 12 {
			return k
		}
		return refuse(kerr.NotEnoughReplicas, "the transaction before is being concluded")
	case kerr.NotCoordinator, kerr.CoordinatorNotAvailable, kerr.CoordinatorLoadInProgress, kerr.RequestTimedOut:
		return refuse(kerr.NotEnoughReplicas, "the transaction's coordinator did not answer: %s", k.Message)
	case kerr.ProducerFenced: // what all producers expect here
		return kerr.InvalidProducerEpoch
	case kerr.TransactionAbortable:
		if version >= 11 {
			return k
		}
		return refuse(kerr.InvalidTxnState, "the partition is not part of the producer's open transaction")
	case kerr.InvalidTxnState:
		return refuse(k, "the partition is not part of the producer's open transaction")
	}
	return k
}
