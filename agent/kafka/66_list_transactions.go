package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// ListTransactions: v0-2
//
// The transactional ids whose coordinator is this agent (KIP-664); clients ask every agent.
//
//   - v1: only those that run for longer (KIP-994); v2: those that match a pattern (KIP-1152)

func (h *Handler) listTransactions(ctx context.Context, f From, req *kmsg.ListTransactionsRequest) kmsg.Response {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	got, err := h.Transactions.List(ctx, f, req)
	if err != nil {
		got = req.ResponseKind().(*kmsg.ListTransactionsResponse)
		got.ErrorCode = coordinatorCode(err)
	}
	return got
}
