package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// JoinGroup: v0-9
//
// Answered by the group's coordinator when its members have joined, or their time for it is
// over: the connection waits, and requests behind this one with it.
//
//   - v1: the time for rebalances; before, it is that of sessions (KIP-62)
//   - v4: a new member is given its id first, MEMBER_ID_REQUIRED (KIP-394)
//   - v5: static members (KIP-345); v6: flexible; v7: the protocol's type (KIP-559)
//   - v8: the reason why (KIP-800); v9: the leader may skip the assignment (KIP-814)

func (h *Handler) joinGroup(ctx context.Context, from From, req *kmsg.JoinGroupRequest) kmsg.Response {
	if req.Version == 0 {
		req.RebalanceTimeoutMillis = req.SessionTimeoutMillis
	}
	resp, err := (*kmsg.JoinGroupResponse)(nil), checkJoin(req)
	if err == nil {
		resp, err = askGroup[*kmsg.JoinGroupResponse](ctx, h, from, req.Group, req)
	}
	if err != nil {
		resp = req.ResponseKind().(*kmsg.JoinGroupResponse)
		resp.Generation, resp.MemberID, resp.ErrorCode = -1, req.MemberID, coordinatorCode(err)
	}
	return resp
}

// checkJoin checks what the coordinator keeps of the request as names.
func checkJoin(req *kmsg.JoinGroupRequest) error {
	long := tooLong(req.MemberID, req.ProtocolType) || req.InstanceID != nil && tooLong(*req.InstanceID)
	for i := range req.Protocols {
		long = long || tooLong(req.Protocols[i].Name)
	}
	if long {
		return refuse(kerr.InvalidRequest, "the ids and protocols of a member must not be longer than %d bytes", maxName)
	}
	return nil
}
