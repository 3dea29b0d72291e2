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
// With a transactional id: UNSUPPORTED_VERSION. Transactions are not served; clients are
// told before they come here, see FindCoordinator. Java takes this code for fatal and shows
// it; librdkafka asks again until its timeout, as after all but authorization errors.
//
//   - v2: flexible; v3: current id and epoch (KIP-360); v4: PRODUCER_FENCED
//   - v5: TRANSACTION_ABORTABLE (KIP-890). v6 is for two-phase commit (KIP-939)

func (h *Handler) initProducerID(ctx context.Context, req *kmsg.InitProducerIDRequest) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.InitProducerIDResponse)
	resp.ProducerID, resp.ProducerEpoch = -1, -1
	oneOfTwo := req.Version >= 3 && (req.ProducerID < 0) != (req.ProducerEpoch < 0)
	switch {
	case oneOfTwo, req.TransactionalID != nil && *req.TransactionalID == "":
		resp.ErrorCode = kerr.InvalidRequest.Code
		return resp
	case req.TransactionalID != nil:
		resp.ErrorCode = kerr.UnsupportedVersion.Code
		return resp
	}
	id, err := h.ProducerIDs.Next(ctx)
	if err != nil { // retriable for every client, as Kafka answers while it waits for a block
		resp.ErrorCode = kerr.CoordinatorLoadInProgress.Code
		return resp
	}
	resp.ProducerID, resp.ProducerEpoch = id, 0
	return resp
}
