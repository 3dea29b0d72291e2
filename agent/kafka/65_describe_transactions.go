package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// DescribeTransactions: v0
//
// The state of transactional ids whose coordinator is this agent (KIP-664), each asked for on
// its own: NOT_COORDINATOR for others, TRANSACTIONAL_ID_NOT_FOUND for unknown ones.

func (h *Handler) describeTransactions(ctx context.Context, f From, req *kmsg.DescribeTransactionsRequest) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.DescribeTransactionsResponse)
	resp.TransactionStates = make([]kmsg.DescribeTransactionsResponseTransactionState, len(req.TransactionalIDs))
	each(len(req.TransactionalIDs), func(i int) {
		resp.TransactionStates[i] = h.describeTransaction(ctx, f, req.TransactionalIDs[i])
	})
	return resp
}

func (h *Handler) describeTransaction(ctx context.Context, f From, id string) kmsg.DescribeTransactionsResponseTransactionState {
	one := kmsg.NewPtrDescribeTransactionsRequest()
	one.TransactionalIDs = []string{id}
	got, code := askTransaction[*kmsg.DescribeTransactionsResponse](ctx, h, f, id, one)
	if code == 0 {
		return got.TransactionStates[0]
	}
	s := kmsg.NewDescribeTransactionsResponseTransactionState()
	s.TransactionalID, s.ErrorCode = id, code
	s.StartTimestamp, s.ProducerID, s.ProducerEpoch = -1, -1, -1
	return s
}
