package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Heartbeat: v0-4
//
// Keeps a member's session alive and tells it of rebalances. Nothing is written for it.
//
//   - v3: static members (KIP-345); v4: flexible

func (h *Handler) heartbeat(ctx context.Context, from From, req *kmsg.HeartbeatRequest) kmsg.Response {
	resp, err := askGroup[*kmsg.HeartbeatResponse](ctx, h, from, req.Group, req)
	if err != nil {
		resp = req.ResponseKind().(*kmsg.HeartbeatResponse)
		resp.ErrorCode = coordinatorCode(err)
	}
	return resp
}
