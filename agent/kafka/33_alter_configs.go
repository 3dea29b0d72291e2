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
// Replaces all overrides of a topic or a group; those not named fall back to their
// defaults. An agent's own settings cannot be altered through Kafka's API, which is said
// clearly.
//
//   - v2: flexible

func (h *Handler) alterConfigs(ctx context.Context, req *kmsg.AlterConfigsRequest) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.AlterConfigsResponse)
	list := make([]alteration, len(req.Resources))
	for i := range req.Resources {
		in, a := &req.Resources[i], &list[i]
		*a = alteration{configResource: configResource{in.ResourceType, in.ResourceName}, replace: true, validateOnly: req.ValidateOnly}
		for _, c := range in.Configs {
			a.edits = append(a.edits, topicconfig.Edit{Name: c.Name, Op: topicconfig.Set, Value: c.Value})
		}
	}
	resp.Resources = make([]kmsg.AlterConfigsResponseResource, len(list))
	for i, err := range h.alterAll(ctx, list) {
		out := &resp.Resources[i]
		*out = kmsg.NewAlterConfigsResponseResource()
		out.ResourceType, out.ResourceName = list[i].kind, list[i].name
		out.ErrorCode, out.ErrorMessage = code(err), message(err)
	}
	return resp
}

// alterTimeout bounds a request that, unlike others, has no timeout of its own: it is the
// patience of Kafka's admin client.
const alterTimeout = time.Minute

type configResource struct {
	kind kmsg.ConfigResourceType
	name string
}

// alteration is a change of one resource's configs, in either way.
type alteration struct {
	configResource
	edits        []topicconfig.Edit
	replace      bool // what is not named is reset
	validateOnly bool
}

// alterAll alters several resources at once, and returns an error or nil for each.
func (h *Handler) alterAll(ctx context.Context, list []alteration) []error {
	ctx, cancel := context.WithTimeout(ctx, alterTimeout)
	defer cancel()
	count := make(map[configResource]int, len(list))
	for i := range list {
		count[list[i].configResource]++
	}
	errs := make([]error, len(list))
	each(len(list), func(i int) {
		if count[list[i].configResource] > 1 {
			errs[i] = refuse(kerr.InvalidRequest, "Each resource must appear at most once.")
			return
		}
		errs[i] = h.alter(ctx, &list[i])
	})
	return errs
}

func (h *Handler) alter(ctx context.Context, a *alteration) error {
	seen := make(map[string]bool, len(a.edits))
	for _, e := range a.edits {
		if seen[e.Name] {
			return refuse(kerr.InvalidRequest, "Error due to duplicate config keys: %s", e.Name)
		}
		seen[e.Name] = true
	}
	switch a.kind {
	case kmsg.ConfigResourceTypeTopic, kmsg.ConfigResourceTypeGroupConfig:
	case kmsg.ConfigResourceTypeBroker:
		if a.name != "" {
			if err := h.checkSelf(a.name); err != nil {
				return err
			}
		}
		if len(a.edits) == 0 {
			return nil
		}
		return refuse(kerr.InvalidRequest, "%s cannot be altered through this API: an agent's settings come from its flags, environment and configuration file", a.edits[0].Name)
	default:
		return unsupportedResource(a.kind)
	}
	for _, e := range a.edits {
		if e.Value == nil && e.Op != topicconfig.Delete {
			return refuse(kerr.InvalidRequest, "Null value not supported for : %s", e.Name)
		}
	}
	if a.kind == kmsg.ConfigResourceTypeGroupConfig {
		return h.alterGroup(ctx, a)
	}
	return h.alterTopic(ctx, a)
}

func (h *Handler) alterTopic(ctx context.Context, a *alteration) error {
	change := func(old map[string]string) (next map[string]string, err error) {
		if a.replace {
			next = make(map[string]string, len(a.edits))
			for _, e := range a.edits {
				next[e.Name] = *e.Value
			}
		} else if next, err = topicconfig.Apply(old, h.settings.TopicDefaults, a.edits); err != nil {
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
