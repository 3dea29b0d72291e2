package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// ListGroups: v0-5
//
// The groups that this agent coordinates; admin clients ask all agents and put the answers
// together.
//
//   - v3: flexible; v4: states, and a filter for them (KIP-518)
//   - v5: types, and a filter for them (KIP-848)

func (h *Handler) listGroups(ctx context.Context, from From, req *kmsg.ListGroupsRequest) kmsg.Response {
	resp, err := h.Groups.List(ctx, from, req)
	if err != nil {
		resp = req.ResponseKind().(*kmsg.ListGroupsResponse)
		resp.ErrorCode = coordinatorCode(err)
	}
	resp.SetVersion(req.Version)
	return resp
}
