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
// connection itself (KIP-511). The features are those that clients go by (KIP-584), always at
// their highest level: every agent of a release serves it, and older clients need no lower one.
//
//   - v3: flexible; the client's software, which must have the form of a name (KIP-511);
//     features
//   - v4: supported features may start at 0 (KIP-1022); to older clients they start at 1
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

// features are what is announced as finalized.
var features = []struct {
	name  string
	level int16 // supported from 0 to this
}{
	{"group.version", 1},       // the consumer protocol of groups (KIP-848)
	{"transaction.version", 2}, // producers whose epoch rises with every transaction (KIP-890)
}

// featuresEpoch numbers the levels of features: to be raised when one of them changes, or
// clients keep the older ones until they start anew.
const featuresEpoch = 1

func announce(resp *kmsg.ApiVersionsResponse) {
	least := int16(0)
	if resp.Version < 4 {
		least = 1
	}
	resp.FinalizedFeaturesEpoch = featuresEpoch
	for _, f := range features {
		s := kmsg.NewApiVersionsResponseSupportedFeature()
		s.Name, s.MinVersion, s.MaxVersion = f.name, least, f.level
		resp.SupportedFeatures = append(resp.SupportedFeatures, s)
		l := kmsg.NewApiVersionsResponseFinalizedFeature()
		l.Name, l.MinVersionLevel, l.MaxVersionLevel = f.name, f.level, f.level
		resp.FinalizedFeatures = append(resp.FinalizedFeatures, l)
	}
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
	if req.Version >= 3 {
		announce(resp)
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
