package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// ConsumerGroupDescribe: v0-1 (KIP-848)
//
// State, epochs and members of groups of the new protocol, with what each member has and is
// to have; each group with a code of its own. Classic groups are GROUP_ID_NOT_FOUND here, and
// clients ask DescribeGroups then.
//
//   - v1: the protocol that a member speaks (KIP-1099)

func (h *Handler) consumerGroupDescribe(ctx context.Context, from From, req *kmsg.ConsumerGroupDescribeRequest) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.ConsumerGroupDescribeResponse)
	resp.Groups = perGroup[*kmsg.ConsumerGroupDescribeResponse, kmsg.ConsumerGroupDescribeResponseGroup]{
		named: true,
		request: func(group string) kmsg.Request {
			one := *req
			one.Groups = []string{group}
			return &one
		},
		groups: func(r *kmsg.ConsumerGroupDescribeResponse) []kmsg.ConsumerGroupDescribeResponseGroup { return r.Groups },
		failed: func(group string, err error) kmsg.ConsumerGroupDescribeResponseGroup {
			g := kmsg.NewConsumerGroupDescribeResponseGroup()
			g.Group, g.ErrorCode, g.ErrorMessage = group, coordinatorCode(err), coordinatorMessage(err)
			return g
		},
		size: describedSize,
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

// describedSize is about what a group takes in an answer.
func describedSize(g *kmsg.ConsumerGroupDescribeResponseGroup) int {
	n := len(g.Group)
	for i := range g.Members {
		m := &g.Members[i]
		n += 128 + len(m.MemberID) + len(m.ClientID)
		for _, t := range m.SubscribedTopics {
			n += 16 + len(t)
		}
		for _, topics := range [][]kmsg.AssignmentTopicPartition{m.Assignment.TopicPartitions, m.TargetAssignment.TopicPartitions} {
			for _, t := range topics {
				n += 64 + len(t.Topic) + 4*len(t.Partitions)
			}
		}
	}
	return n
}
