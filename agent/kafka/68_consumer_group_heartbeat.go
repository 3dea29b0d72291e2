package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// ConsumerGroupHeartbeat: v0-1 (KIP-848)
//
// Joining, leaving, subscribing and being assigned to, all in one: the coordinator compares
// what the member says with what it should have, and answers what to do next.
//
//   - v1: subscription by a regular expression (RE2), and member ids that clients make up
//     (KIP-1082)

func (h *Handler) consumerGroupHeartbeat(ctx context.Context, from From, req *kmsg.ConsumerGroupHeartbeatRequest) kmsg.Response {
	resp, err := (*kmsg.ConsumerGroupHeartbeatResponse)(nil), error(nil)
	if req.Group == "" { // unlike the older APIs
		err = refuse(kerr.InvalidRequest, "GroupId can't be empty.")
	} else {
		resp, err = askGroup[*kmsg.ConsumerGroupHeartbeatResponse](ctx, h, from, req.Group, req)
	}
	if err != nil {
		resp = req.ResponseKind().(*kmsg.ConsumerGroupHeartbeatResponse)
		resp.ErrorCode, resp.ErrorMessage = coordinatorCode(err), coordinatorMessage(err)
	}
	return resp
}
