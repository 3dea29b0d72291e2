package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// LeaveGroup: v0-5
//
// Removes members from a group. Operators remove others by it, static members included.
//
//   - v3: several members, each with a code of its own (KIP-345); before, the member's code is
//     the answer's
//   - v4: flexible; v5: the reason why (KIP-800)

func (h *Handler) leaveGroup(ctx context.Context, from From, req *kmsg.LeaveGroupRequest) kmsg.Response {
	if req.Version < 3 { // to a coordinator, all versions are alike
		m := kmsg.NewLeaveGroupRequestMember()
		m.MemberID = req.MemberID
		req.Members = []kmsg.LeaveGroupRequestMember{m}
	}
	resp, err := askGroup[*kmsg.LeaveGroupResponse](ctx, h, from, req.Group, req)
	if err != nil {
		resp = req.ResponseKind().(*kmsg.LeaveGroupResponse)
		resp.ErrorCode = coordinatorCode(err)
	}
	if req.Version < 3 {
		if resp.ErrorCode == 0 && len(resp.Members) == 1 {
			resp.ErrorCode = resp.Members[0].ErrorCode
		}
		resp.Members = nil
	}
	return resp
}
