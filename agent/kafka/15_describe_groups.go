package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// DescribeGroups: v0-6
//
// State and members of classic groups, each group with a code of its own; groups whose
// coordinator is elsewhere are answered NOT_COORDINATOR. The empty group may have committed
// offsets, so it may be described, as in Kafka.
//
//   - v3: authorized operations (KIP-430); v4: static members (KIP-345); v5: flexible
//   - v6: GROUP_ID_NOT_FOUND; before, a group that is not there is Dead (KIP-1043)

func (h *Handler) describeGroups(ctx context.Context, from From, req *kmsg.DescribeGroupsRequest) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.DescribeGroupsResponse)
	resp.Groups = perGroup[*kmsg.DescribeGroupsResponse, kmsg.DescribeGroupsResponseGroup]{
		request: func(group string) kmsg.Request {
			one := *req
			one.Groups = []string{group}
			return &one
		},
		groups: func(r *kmsg.DescribeGroupsResponse) []kmsg.DescribeGroupsResponseGroup { return r.Groups },
		failed: func(group string, err error) kmsg.DescribeGroupsResponseGroup {
			g := kmsg.NewDescribeGroupsResponseGroup()
			g.Group, g.ErrorCode, g.ErrorMessage = group, coordinatorCode(err), coordinatorMessage(err)
			return g
		},
		size: func(g *kmsg.DescribeGroupsResponseGroup) int {
			n := len(g.Group)
			for i := range g.Members {
				m := &g.Members[i]
				n += 128 + len(m.MemberID) + len(m.ClientID) + len(m.ProtocolMetadata) + len(m.MemberAssignment)
			}
			return n
		},
	}.ask(ctx, h, from, req.Groups)
	for i := range resp.Groups {
		g := &resp.Groups[i]
		g.AuthorizedOperations = noOperations
		if req.IncludeAuthorizedOperations && g.ErrorCode == 0 {
			g.AuthorizedOperations = groupOperations
		}
	}
	return resp
}
