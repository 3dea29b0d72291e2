package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// AddPartitionsToTxn: v0-5
//
// Makes partitions part of a producer's open transaction, before it writes to them. If any
// of them does not exist, none is added: it has UNKNOWN_TOPIC_OR_PARTITION, the others
// OPERATION_NOT_ATTEMPTED.
//
// Producers of the second protocol generation (KIP-890) do not ask: their batches add the
// partitions, see Produce.
//
//   - v2: PRODUCER_FENCED (KIP-588); v3: flexible
//   - v4: many transactions at once, and only asking whether partitions are part of them.
//     Kafka takes it from brokers alone; here anybody may ask, as with v0-3
//   - v5: TRANSACTION_ABORTABLE (KIP-890)

func (h *Handler) addPartitionsToTxn(ctx context.Context, req *kmsg.AddPartitionsToTxnRequest) kmsg.Response {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if req.Version >= 4 {
		return h.addPartitionsToTxns(ctx, req)
	}
	resp := req.ResponseKind().(*kmsg.AddPartitionsToTxnResponse)
	names := make([]namedPartitions, len(req.Topics))
	for i, t := range req.Topics {
		names[i] = namedPartitions{t.Topic, t.Partitions}
	}
	r := h.resolve()
	e := Enlistment{ID: req.TransactionalID, ProducerID: req.ProducerID, Epoch: req.ProducerEpoch, Add: true, Here: true, Version: 1}
	codes := h.enlistNamed(ctx, h.enlistable(ctx, &r, e, names), req.Version)
	for _, t := range req.Topics {
		out := kmsg.NewAddPartitionsToTxnResponseTopic()
		out.Topic = t.Topic
		for _, p := range t.Partitions {
			o := kmsg.NewAddPartitionsToTxnResponseTopicPartition()
			o.Partition, o.ErrorCode = p, codes[0]
			codes = codes[1:]
			out.Partitions = append(out.Partitions, o)
		}
		resp.Topics = append(resp.Topics, out)
	}
	return resp
}

// addPartitionsToTxns serves several transactions, each on its own.
func (h *Handler) addPartitionsToTxns(ctx context.Context, req *kmsg.AddPartitionsToTxnRequest) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.AddPartitionsToTxnResponse)
	r := h.resolve()
	asked := make([]enlistable, len(req.Transactions))
	for i, x := range req.Transactions {
		names := make([]namedPartitions, len(x.Topics))
		for j, t := range x.Topics {
			names[j] = namedPartitions{t.Topic, t.Partitions}
		}
		e := Enlistment{ID: x.TransactionalID, ProducerID: x.ProducerID, Epoch: x.ProducerEpoch, Here: true, Version: 1}
		if !x.VerifyOnly {
			e.Add, e.Version = true, 2
		}
		asked[i] = h.enlistable(ctx, &r, e, names)
	}
	all := make([][]int16, len(asked))
	each(len(asked), func(i int) { all[i] = h.enlistNamed(ctx, asked[i], req.Version) })
	for i, x := range req.Transactions {
		codes := all[i]
		out := kmsg.NewAddPartitionsToTxnResponseTransaction()
		out.TransactionalID = x.TransactionalID
		for _, t := range x.Topics {
			topic := kmsg.NewAddPartitionsToTxnResponseTransactionTopic()
			topic.Topic = t.Topic
			for _, p := range t.Partitions {
				o := kmsg.NewAddPartitionsToTxnResponseTransactionTopicPartition()
				o.Partition, o.ErrorCode = p, codes[0]
				codes = codes[1:]
				topic.Partitions = append(topic.Partitions, o)
			}
			out.Topics = append(out.Topics, topic)
		}
		resp.Transactions = append(resp.Transactions, out)
	}
	return resp
}

// enlistable is an enlistment whose partitions have been looked up.
type enlistable struct {
	Enlistment
	codes []int16 // of the partitions as they were named; 0: it is in Partitions
	bad   int     // how many were refused
}

func (h *Handler) enlistable(ctx context.Context, r *resolver, e Enlistment, names []namedPartitions) enlistable {
	out := enlistable{Enlistment: e}
	out.Partitions, out.codes, out.bad = h.locate(ctx, r, names, kerr.CoordinatorLoadInProgress)
	return out
}

// enlistNamed enlists all partitions, or none if one of them was refused, and returns a code
// for each as they were named.
func (h *Handler) enlistNamed(ctx context.Context, e enlistable, version int16) []int16 {
	if e.bad > 0 {
		for i := range e.codes {
			if e.codes[i] == 0 {
				e.codes[i] = kerr.OperationNotAttempted.Code
			}
		}
		return e.codes
	}
	got, err := h.Transactions.Enlist(ctx, e.Enlistment)
	if err != nil {
		got = Enlisted{Code: coordinatorCode(err)}
	}
	for i := range e.codes {
		e.codes[i] = txnCode(got.code(i), version, 2, 5)
	}
	return e.codes
}
