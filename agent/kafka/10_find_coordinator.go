package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/tiering"
)

// FindCoordinator: v0-6
//
// The coordinator of a group, and of a transactional id, is the agent that leads the shard
// of its name's hash, in whatever zone that is: only it can answer. If it does not listen
// where the client asks, COORDINATOR_NOT_AVAILABLE. Between two leaders another agent is named, where
// Kafka answers that: it says NOT_COORDINATOR until there is one, upon which every client asks
// again after the same pause.
//
//   - v1: transactional ids (KIP-98); v3: flexible; v4: many keys at once (KIP-699)
//   - v5: TRANSACTION_ABORTABLE, never answered here (KIP-890)
//   - v6: share groups (KIP-932): not served, INVALID_REQUEST

const (
	coordinatorOfGroup = 0
	coordinatorOfTxn   = 1
)

func (h *Handler) findCoordinator(_ context.Context, who asker, req *kmsg.FindCoordinatorRequest) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.FindCoordinatorResponse)
	v := h.view(who)
	if req.Version >= 4 {
		resp.Coordinators = make([]kmsg.FindCoordinatorResponseCoordinator, 0, len(req.CoordinatorKeys))
		for _, key := range req.CoordinatorKeys {
			resp.Coordinators = append(resp.Coordinators, v.coordinator(key, req.CoordinatorType))
		}
		return resp
	}
	c := v.coordinator(req.CoordinatorKey, req.CoordinatorType)
	resp.ErrorCode, resp.ErrorMessage = c.ErrorCode, c.ErrorMessage
	resp.NodeID, resp.Host, resp.Port = c.NodeID, c.Host, c.Port
	return resp
}

func (v *view) coordinator(key string, kind int8) kmsg.FindCoordinatorResponseCoordinator {
	c := kmsg.NewFindCoordinatorResponseCoordinator()
	c.Key, c.NodeID, c.Port = key, -1, -1
	if kind != coordinatorOfGroup && kind != coordinatorOfTxn {
		c.ErrorCode = kerr.InvalidRequest.Code
		c.ErrorMessage = kmsg.StringPtr("the coordinators served are those of groups (0) and of transactions (1)")
		return c
	}
	i := v.index(v.coordinates(tiering.ShardOfName(key, v.h.Cluster.Shards())))
	if i < 0 {
		c.ErrorCode = kerr.CoordinatorNotAvailable.Code
		c.ErrorMessage = kmsg.StringPtr(kerr.CoordinatorNotAvailable.Description)
		return c
	}
	c.NodeID, c.Host, c.Port = v.agents[i].NodeID, v.agents[i].Host, v.agents[i].Port
	return c
}
