package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/protocol"
)

// ApiVersions: v0-5
//
// What the table of APIs says, and nothing else. Versions above are answered by the
// connection itself (KIP-511). No features are finalized: transactions and the newer
// group protocols, which have levels, are not served.
//
//   - v3: flexible; the client's software, which must have the form of a name (KIP-511)
//   - v4: supported features may start at 0 (KIP-1022)
//   - v5: the cluster and node that the client takes this agent for (KIP-1242): if that is
//     wrong, REBOOTSTRAP_REQUIRED

func (h *Handler) apiVersions(_ context.Context, c *protocol.Conn, r *protocol.Request) *protocol.Pending {
	decoded, err := protocol.DecodeRequest(r)
	if err != nil {
		return malformed()
	}
	req := decoded.(*kmsg.ApiVersionsRequest)
	resp := h.versions(req)
	if resp.ErrorCode == 0 && req.Version >= 3 && c != nil {
		c.SetSoftware(req.ClientSoftwareName, req.ClientSoftwareVersion)
	}
	return answer(resp)
}

func (h *Handler) versions(req *kmsg.ApiVersionsRequest) *kmsg.ApiVersionsResponse {
	resp := req.ResponseKind().(*kmsg.ApiVersionsResponse)
	resp.FinalizedFeaturesEpoch = -1
	if req.Version >= 3 && (!softwareName(req.ClientSoftwareName) || !softwareName(req.ClientSoftwareVersion)) {
		resp.ErrorCode = kerr.InvalidRequest.Code
		return resp
	}
	if req.Version >= 5 && (req.ClusterID != nil || req.NodeID != -1) {
		switch {
		case req.ClusterID == nil || req.NodeID == -1:
			resp.ErrorCode = kerr.InvalidRequest.Code
			return resp
		case *req.ClusterID != h.Cluster.ClusterID() || req.NodeID != h.Cluster.Self():
			resp.ErrorCode = kerr.RebootstrapRequired.Code
			return resp
		}
	}
	resp.ApiKeys = make([]kmsg.ApiVersionsResponseApiKey, 0, len(h.apis))
	for _, a := range h.apis {
		k := kmsg.NewApiVersionsResponseApiKey()
		k.ApiKey, k.MinVersion, k.MaxVersion = a.key, a.advertised, a.max
		resp.ApiKeys = append(resp.ApiKeys, k)
	}
	return resp
}

// maxSoftwareName bounds what is kept of a client's name: metrics and logs show it.
const maxSoftwareName = 128

// softwareName reports whether s has the form that KIP-511 demands: letters and digits,
// with '-' and '.' inside.
func softwareName(s string) bool {
	if s == "" || len(s) > maxSoftwareName {
		return false
	}
	for i := range len(s) {
		c := s[i]
		inside := (c == '-' || c == '.') && i > 0 && i < len(s)-1
		if !inside && !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9') {
			return false
		}
	}
	return true
}
