package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// InitProducerID: v0-5
//
// Without a transactional id: a producer id that nobody ever had, with epoch 0. So does
// Kafka answer a producer that names the id it has (KIP-360): an idempotent producer
// that lost track starts over with a new id.
//
// With a transactional id, the coordinator aborts what an earlier producer of that id has
// left open, and fences it by an epoch above its own.
//
//   - v2: flexible; v3: current id and epoch (KIP-360); v4: PRODUCER_FENCED (KIP-588)
//   - v5: TRANSACTION_ABORTABLE (KIP-890). v6 is for two-phase commit (KIP-939)

func (h *Handler) initProducerID(ctx context.Context, f From, req *kmsg.InitProducerIDRequest) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.InitProducerIDResponse)
	resp.ProducerID, resp.ProducerEpoch = -1, -1
	oneOfTwo := req.Version >= 3 && (req.ProducerID < 0) != (req.ProducerEpoch < 0)
	switch {
	case oneOfTwo, req.TransactionalID != nil && (*req.TransactionalID == "" || tooLong(*req.TransactionalID)):
		resp.ErrorCode = kerr.InvalidRequest.Code
		return resp
	case req.TransactionalID != nil:
		got, code := askTransaction[*kmsg.InitProducerIDResponse](ctx, h, f, *req.TransactionalID, req)
		if code != 0 {
			resp.ErrorCode = code
			return resp
		}
		got.ErrorCode = txnCode(got.ErrorCode, req.Version, 4, 5)
		return got
	}
	id, err := h.ProducerIDs.Next(ctx)
	if err != nil { // retriable for every client, as Kafka answers while it waits for a block
		resp.ErrorCode = kerr.CoordinatorLoadInProgress.Code
		return resp
	}
	resp.ProducerID, resp.ProducerEpoch = id, 0
	return resp
}
