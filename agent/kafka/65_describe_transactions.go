package kafka

import (
	"context"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// DescribeTransactions: v0
//
// The state of transactional ids whose coordinator is this agent (KIP-664), each asked for on
// its own: NOT_COORDINATOR for others, TRANSACTIONAL_ID_NOT_FOUND for unknown ones. What is
// more than maxDescribed is left for the client to ask for again.

func (h *Handler) describeTransactions(ctx context.Context, f From, req *kmsg.DescribeTransactionsRequest) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.DescribeTransactionsResponse)
	resp.TransactionStates = make([]kmsg.DescribeTransactionsResponseTransactionState, len(req.TransactionalIDs))
	var held atomic.Int64
	each(len(req.TransactionalIDs), func(i int) {
		id, s := req.TransactionalIDs[i], &resp.TransactionStates[i]
		if held.Load() > maxDescribed {
			*s = undescribed(id, kerr.CoordinatorLoadInProgress.Code)
			return
		}
		*s = h.describeTransaction(ctx, f, id)
		for j := range s.Topics {
			held.Add(int64(64 + len(s.Topics[j].Topic) + 4*len(s.Topics[j].Partitions)))
		}
	})
	return resp
}

func (h *Handler) describeTransaction(ctx context.Context, f From, id string) kmsg.DescribeTransactionsResponseTransactionState {
	one := kmsg.NewPtrDescribeTransactionsRequest()
	one.TransactionalIDs = []string{id}
	got, code := askTransaction[*kmsg.DescribeTransactionsResponse](ctx, h, f, id, one)
	switch {
	case code != 0:
		return undescribed(id, code)
	case len(got.TransactionStates) != 1:
		return undescribed(id, kerr.CoordinatorNotAvailable.Code)
	}
	return got.TransactionStates[0]
}

func undescribed(id string, code int16) kmsg.DescribeTransactionsResponseTransactionState {
	s := kmsg.NewDescribeTransactionsResponseTransactionState()
	s.TransactionalID, s.ErrorCode = id, code
	s.StartTimestamp, s.ProducerID, s.ProducerEpoch = -1, -1, -1
	return s
}
