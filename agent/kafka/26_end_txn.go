package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// EndTxn: v0-5
//
// Commits or aborts a producer's open transaction: the decision is journaled when the answer
// leaves, and the markers follow. Until they are all there, the next transaction's requests
// have CONCURRENT_TRANSACTIONS.
//
//   - v2: PRODUCER_FENCED (KIP-588); v3: flexible; v4: TRANSACTION_ABORTABLE (KIP-890)
//   - v5: the epoch rises with every transaction; the answer says what to go on with (KIP-890)

func (h *Handler) endTxn(ctx context.Context, f From, req *kmsg.EndTxnRequest) kmsg.Response {
	got, code := askTransaction[*kmsg.EndTxnResponse](ctx, h, f, req.TransactionalID, req)
	if code != 0 {
		got = req.ResponseKind().(*kmsg.EndTxnResponse)
		got.ErrorCode = code
	}
	got.ErrorCode = txnCode(got.ErrorCode, req.Version, 2, 4)
	return got
}
