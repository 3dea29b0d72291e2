package kafka

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/kafka/topicconfig"
)

// AlterConfigs: v0-2 (KIP-133)
//
// Replaces all overrides of a topic; those not named fall back to their defaults. An
// agent's own settings cannot be altered through Kafka's API, which is said clearly.
//
//   - v2: flexible

func (h *Handler) alterConfigs(ctx context.Context, req *kmsg.AlterConfigsRequest) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.AlterConfigsResponse)
	ctx, cancel := context.WithTimeout(ctx, alterTimeout)
	defer cancel()
	resp.Resources = make([]kmsg.AlterConfigsResponseResource, len(req.Resources))
	count := map[configResource]int{}
	for _, in := range req.Resources {
		count[configResource{in.ResourceType, in.ResourceName}]++
	}
	each(len(req.Resources), func(i int) {
		in, out := &req.Resources[i], &resp.Resources[i]
		*out = kmsg.NewAlterConfigsResponseResource()
		out.ResourceType, out.ResourceName = in.ResourceType, in.ResourceName
		a := alteration{configResource: configResource{in.ResourceType, in.ResourceName}, validateOnly: req.ValidateOnly}
		a.repeated = count[a.configResource] > 1
		next := make(map[string]string, len(in.Configs))
		for _, c := range in.Configs {
			a.names = append(a.names, c.Name)
			if c.Value == nil {
				a.nulls = append(a.nulls, c.Name)
				continue
			}
			next[c.Name] = *c.Value
		}
		a.apply = func(map[string]string) (map[string]string, error) { return next, nil }
		err := h.alter(ctx, &a)
		out.ErrorCode, out.ErrorMessage = code(err), message(err)
	})
	return resp
}

// alterTimeout bounds a request that, unlike others, has no timeout of its own: it is the
// patience of Kafka's admin client.
const alterTimeout = time.Minute

type configResource struct {
	kind kmsg.ConfigResourceType
	name string
}

// alteration is what both ways of altering configs have in common.
type alteration struct {
	configResource
	repeated     bool // named more than once in the request
	validateOnly bool
	names, nulls []string // of configs; those that need a value and have none
	apply        func(old map[string]string) (map[string]string, error)
}

func (h *Handler) alter(ctx context.Context, a *alteration) error {
	if a.repeated {
		return refuse(kerr.InvalidRequest, "Each resource must appear at most once.")
	}
	seen := make(map[string]bool, len(a.names))
	for _, n := range a.names {
		if seen[n] {
			return refuse(kerr.InvalidRequest, "Error due to duplicate config keys: %s", n)
		}
		seen[n] = true
	}
	switch a.kind {
	case kmsg.ConfigResourceTypeTopic:
	case kmsg.ConfigResourceTypeBroker:
		if a.name != "" {
			if err := h.checkSelf(a.name); err != nil {
				return err
			}
		}
		if len(a.names) == 0 {
			return nil
		}
		return refuse(kerr.InvalidRequest, "%s cannot be altered through this API: an agent's settings come from its flags, environment and configuration file", a.names[0])
	default:
		return unsupportedResource(a.kind)
	}
	if len(a.nulls) > 0 {
		return refuse(kerr.InvalidRequest, "Null value not supported for : %s", a.nulls[0])
	}
	return h.alterTopic(ctx, a)
}

func (h *Handler) alterTopic(ctx context.Context, a *alteration) error {
	change := func(old map[string]string) (map[string]string, error) {
		next, err := a.apply(old)
		if err != nil {
			return nil, err
		}
		return next, topicconfig.Validate(next, h.settings.TopicDefaults)
	}
	if a.validateOnly {
		t, err := h.Topics.Find(ctx, a.name)
		if err != nil {
			return err
		}
		_, err = change(t.Configs)
		return err
	}
	c, err := h.Changes.AlterConfigs(ctx, a.name, change)
	if err != nil {
		return err
	}
	_ = h.Changes.WaitRevision(ctx, c.Revision) // it is altered, however long this copy takes
	return nil
}
