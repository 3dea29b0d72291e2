package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// SyncGroup: v0-5
//
// Brings the leader's assignment and fetches a member's part of it, which waits for the
// leader's.
//
//   - v3: static members (KIP-345); v4: flexible
//   - v5: the protocol and its type, INCONSISTENT_GROUP_PROTOCOL if they differ (KIP-559)

func (h *Handler) syncGroup(ctx context.Context, from From, req *kmsg.SyncGroupRequest) kmsg.Response {
	resp, err := askGroup[*kmsg.SyncGroupResponse](ctx, h, from, req.Group, req)
	if err != nil {
		resp = req.ResponseKind().(*kmsg.SyncGroupResponse)
		resp.ErrorCode = coordinatorCode(err)
	}
	return resp
}
