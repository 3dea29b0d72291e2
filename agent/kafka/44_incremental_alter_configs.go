package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/kafka/topicconfig"
)

// IncrementalAlterConfigs: v0-1 (KIP-339)
//
// Sets, deletes, appends to and subtracts from single configs of topics; what is not
// named stays. All changes of a topic take effect together or not at all. An agent's
// own settings cannot be altered through Kafka's API, which is said clearly.
//
//   - v1: flexible

func (h *Handler) incrementalAlterConfigs(ctx context.Context, req *kmsg.IncrementalAlterConfigsRequest) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.IncrementalAlterConfigsResponse)
	ctx, cancel := context.WithTimeout(ctx, alterTimeout)
	defer cancel()
	resp.Resources = make([]kmsg.IncrementalAlterConfigsResponseResource, len(req.Resources))
	count := map[configResource]int{}
	for _, in := range req.Resources {
		count[configResource{in.ResourceType, in.ResourceName}]++
	}
	each(len(req.Resources), func(i int) {
		in, out := &req.Resources[i], &resp.Resources[i]
		*out = kmsg.NewIncrementalAlterConfigsResponseResource()
		out.ResourceType, out.ResourceName = in.ResourceType, in.ResourceName
		a := alteration{configResource: configResource{in.ResourceType, in.ResourceName}, validateOnly: req.ValidateOnly}
		a.repeated = count[a.configResource] > 1
		edits := make([]topicconfig.Edit, 0, len(in.Configs))
		for _, c := range in.Configs {
			a.names = append(a.names, c.Name)
			e := topicconfig.Edit{Name: c.Name, Op: topicconfig.Op(c.Op), Value: c.Value}
			if e.Value == nil && e.Op != topicconfig.Delete {
				a.nulls = append(a.nulls, c.Name)
			}
			edits = append(edits, e)
		}
		a.apply = func(old map[string]string) (map[string]string, error) {
			return topicconfig.Apply(old, h.settings.TopicDefaults, edits)
		}
		err := h.alter(ctx, &a)
		out.ErrorCode, out.ErrorMessage = code(err), message(err)
	})
	return resp
}
