package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/kafka/topicconfig"
)

// IncrementalAlterConfigs: v0-1 (KIP-339)
//
// Sets, deletes, appends to and subtracts from single configs of topics and groups; what is
// not named stays. All changes of a resource take effect together or not at all. An agent's
// own settings cannot be altered through Kafka's API, which is said clearly.
//
//   - v1: flexible

func (h *Handler) incrementalAlterConfigs(ctx context.Context, req *kmsg.IncrementalAlterConfigsRequest) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.IncrementalAlterConfigsResponse)
	list := make([]alteration, len(req.Resources))
	for i := range req.Resources {
		in, a := &req.Resources[i], &list[i]
		*a = alteration{configResource: configResource{in.ResourceType, in.ResourceName}, validateOnly: req.ValidateOnly}
		for _, c := range in.Configs {
			a.edits = append(a.edits, topicconfig.Edit{Name: c.Name, Op: topicconfig.Op(c.Op), Value: c.Value})
		}
	}
	resp.Resources = make([]kmsg.IncrementalAlterConfigsResponseResource, len(list))
	for i, err := range h.alterAll(ctx, list) {
		out := &resp.Resources[i]
		*out = kmsg.NewIncrementalAlterConfigsResponseResource()
		out.ResourceType, out.ResourceName = list[i].kind, list[i].name
		out.ErrorCode, out.ErrorMessage = code(err), message(err)
	}
	return resp
}
