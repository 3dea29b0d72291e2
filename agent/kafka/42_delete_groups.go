package kafka

import (
	"context"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// DeleteGroups: v0-3 (KIP-229)
//
// Forgets groups without members, with all that they have committed. Each has a code of its
// own: NON_EMPTY_GROUP, GROUP_ID_NOT_FOUND, NOT_COORDINATOR. A group that is named twice is
// answered once, as in Kafka.
//
//   - v2: flexible; v3: error messages (KIP-1331)

func (h *Handler) deleteGroups(ctx context.Context, from From, req *kmsg.DeleteGroupsRequest) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.DeleteGroupsResponse)
	seen := make(map[string]bool, len(req.Groups))
	groups := slices.DeleteFunc(slices.Clone(req.Groups), func(g string) bool {
		again := seen[g]
		seen[g] = true
		return again
	})
	resp.Groups = perGroup[*kmsg.DeleteGroupsResponse, kmsg.DeleteGroupsResponseGroup]{
		request: func(group string) kmsg.Request {
			one := *req
			one.Groups = []string{group}
			return &one
		},
		groups: func(r *kmsg.DeleteGroupsResponse) []kmsg.DeleteGroupsResponseGroup { return r.Groups },
		failed: func(group string, err error) kmsg.DeleteGroupsResponseGroup {
			g := kmsg.NewDeleteGroupsResponseGroup()
			g.Group, g.ErrorCode, g.ErrorMessage = group, coordinatorCode(err), coordinatorMessage(err)
			return g
		},
		size: func(*kmsg.DeleteGroupsResponseGroup) int { return 0 },
	}.ask(ctx, h, from, groups)
	return resp
}
