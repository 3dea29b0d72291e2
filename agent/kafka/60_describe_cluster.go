package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// DescribeCluster: v0-2 (KIP-700)
//
// The live agents, with the addresses of the listener that is asked. Floe has no separate controllers, and no agent is ever fenced: one
// whose session ended is gone.
//
//   - v1: endpoint type (KIP-919): only brokers are served here
//   - v2: fenced brokers (KIP-1073)

const (
	endpointBrokers     = 1
	endpointControllers = 2
)

func (h *Handler) describeCluster(_ context.Context, who asker, req *kmsg.DescribeClusterRequest) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.DescribeClusterResponse)
	resp.ClusterAuthorizedOperations = noOperations
	if req.Version >= 1 && req.EndpointType != endpointBrokers {
		resp.ErrorCode = kerr.UnsupportedEndpointType.Code
		if req.EndpointType == endpointControllers {
			resp.ErrorCode = kerr.MismatchedEndpointType.Code
		}
		resp.ErrorMessage = kmsg.StringPtr("this listener is an agent's: ask for endpoint type 1, brokers")
		return resp
	}
	resp.EndpointType = endpointBrokers
	v := h.view(who)
	resp.ClusterID, resp.ControllerID = h.Cluster.ClusterID(), v.controller()
	if req.IncludeClusterAuthorizedOperations {
		resp.ClusterAuthorizedOperations = clusterOperations
	}
	for _, a := range v.agents {
		b := kmsg.NewDescribeClusterResponseBroker()
		b.NodeID, b.Host, b.Port = a.NodeID, a.Host, a.Port
		if a.Rack != "" {
			b.Rack = kmsg.StringPtr(a.Rack)
		}
		resp.Brokers = append(resp.Brokers, b)
	}
	return resp
}
