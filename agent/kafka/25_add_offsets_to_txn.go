package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// AddOffsetsToTxn: v0-4
//
// Makes a consumer group part of a producer's open transaction, before the producer commits
// offsets of it by TxnOffsetCommit. Producers of the second protocol generation (KIP-890) do
// not ask.
//
//   - v2: PRODUCER_FENCED (KIP-588); v3: flexible; v4: TRANSACTION_ABORTABLE (KIP-890)

func (h *Handler) addOffsetsToTxn(ctx context.Context, req *kmsg.AddOffsetsToTxnRequest) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.AddOffsetsToTxnResponse)
	if tooLong(req.Group) {
		resp.ErrorCode = kerr.InvalidGroupID.Code
		return resp
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	got, err := h.Transactions.Enlist(ctx, Enlistment{ID: req.TransactionalID, ProducerID: req.ProducerID, Epoch: req.ProducerEpoch,
		Groups: []string{req.Group}, Add: true, Here: true, Version: 1})
	if err != nil {
		got.Code = coordinatorCode(err)
	}
	resp.ErrorCode = txnCode(got.Code, req.Version, 2, 4)
	return resp
}
