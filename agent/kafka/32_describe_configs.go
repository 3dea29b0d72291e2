package kafka

import (
	"context"
	"maps"
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/kafka/topicconfig"
	"github.com/floelog/floe/metadata/catalogue"
)

// DescribeConfigs: v1-4 (KIP-133)
//
// Topics: every config with its value, where it comes from and what would stand without
// the override. An agent, by its node id: the settings that Kafka has a name for,
// read-only, and never a secret. The cluster-wide default (empty name) has no entries.
// A group: its own configs over the agent's settings (KIP-848), from its coordinator. Loggers
// and client metrics have no configs here: INVALID_REQUEST says so.
//
//   - v3: types and documentation (KIP-569); v4: flexible

func (h *Handler) describeConfigs(ctx context.Context, req *kmsg.DescribeConfigsRequest) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.DescribeConfigsResponse)
	ctx, cancel := context.WithTimeout(ctx, alterTimeout)
	defer cancel()
	r := h.resolve()
	for i := range req.Resources {
		in := &req.Resources[i]
		out := kmsg.NewDescribeConfigsResponseResource()
		out.ResourceType, out.ResourceName = in.ResourceType, in.ResourceName
		configs, err := h.describeResource(ctx, &r, in)
		out.ErrorCode, out.ErrorMessage = code(err), message(err)
		for _, c := range configs {
			if len(in.ConfigNames) > 0 && !slices.Contains(in.ConfigNames, c.Name) {
				continue
			}
			if !req.IncludeSynonyms {
				c.ConfigSynonyms = nil
			}
			if !req.IncludeDocumentation {
				c.Documentation = nil
			}
			out.Configs = append(out.Configs, c)
		}
		resp.Resources = append(resp.Resources, out)
	}
	return resp
}

func (h *Handler) describeResource(ctx context.Context, r *resolver, in *kmsg.DescribeConfigsRequestResource) ([]kmsg.DescribeConfigsResponseResourceConfig, error) {
	switch in.ResourceType {
	case kmsg.ConfigResourceTypeTopic:
		t, err := r.byName(ctx, in.ResourceName)
		if err != nil {
			return nil, err
		}
		return h.describeTopic(t), nil
	case kmsg.ConfigResourceTypeBroker:
		if in.ResourceName == "" {
			return nil, nil
		}
		if err := h.checkSelf(in.ResourceName); err != nil {
			return nil, err
		}
		return h.describeSelf(), nil
	case kmsg.ConfigResourceTypeGroupConfig:
		return h.describeGroupConfigs(ctx, in.ResourceName)
	}
	return nil, unsupportedResource(in.ResourceType)
}

// checkSelf checks that a config resource names this agent.
func (h *Handler) checkSelf(name string) error {
	node, err := strconv.ParseInt(name, 10, 32)
	switch {
	case err != nil:
		return refuse(kerr.InvalidRequest, "Broker id must be an integer, but it is: %s", name)
	case int32(node) != h.Cluster.Self():
		return refuse(kerr.InvalidRequest, "Unexpected broker id, expected %d or empty string, but received %s", h.Cluster.Self(), name)
	}
	return nil
}

func unsupportedResource(t kmsg.ConfigResourceType) error {
	switch t {
	case kmsg.ConfigResourceTypeBrokerLogger:
		return refuse(kerr.InvalidRequest, "agents have no loggers that can be configured through this API")
	case kmsg.ConfigResourceTypeClientMetrics:
		return refuse(kerr.InvalidRequest, "client metrics subscriptions are not supported")
	}
	return refuse(kerr.InvalidRequest, "Unexpected resource type %d", int8(t))
}

// topicConfig returns the value of one config of a topic, and where it comes from.
func (h *Handler) topicConfig(t *catalogue.Topic, k *topicconfig.Key) (string, kmsg.ConfigSource) {
	if v, ok := t.Configs[k.Name]; ok {
		return v, kmsg.ConfigSourceDynamicTopicConfig
	}
	if v, ok := h.settings.TopicDefaults[k.Name]; ok {
		return v, kmsg.ConfigSourceStaticBrokerConfig
	}
	return k.Default, kmsg.ConfigSourceDefaultConfig
}

func (h *Handler) describeTopic(t *catalogue.Topic) []kmsg.DescribeConfigsResponseResourceConfig {
	keys := topicconfig.All()
	out := make([]kmsg.DescribeConfigsResponseResourceConfig, 0, len(keys))
	for _, k := range keys {
		value, source := h.topicConfig(t, k)
		c := kmsg.NewDescribeConfigsResponseResourceConfig()
		c.Name, c.Value, c.Source = k.Name, kmsg.StringPtr(value), source
		c.ConfigType, c.Documentation = kmsg.ConfigType(k.Type), kmsg.StringPtr(k.Doc)
		if source == kmsg.ConfigSourceDynamicTopicConfig {
			c.ConfigSynonyms = append(c.ConfigSynonyms, synonym(k.Name, value, source))
		}
		c.ConfigSynonyms = append(c.ConfigSynonyms, h.synonyms(k)...)
		out = append(out, c)
	}
	return out
}

// synonyms lists what stands behind a topic config without its override, first the
// value that would take its place.
func (h *Handler) synonyms(k *topicconfig.Key) []kmsg.DescribeConfigsResponseResourceConfigConfigSynonym {
	var out []kmsg.DescribeConfigsResponseResourceConfigConfigSynonym
	if k.Synonym == "" {
		return nil
	}
	if v, ok := h.settings.TopicDefaults[k.Name]; ok {
		name := k.Synonym
		if k.SynonymDefault() != k.Default { // the setting has the topic config's unit
			name = "log." + k.Name
		}
		out = append(out, synonym(name, v, kmsg.ConfigSourceStaticBrokerConfig))
	}
	return append(out, synonym(k.Synonym, k.SynonymDefault(), kmsg.ConfigSourceDefaultConfig))
}

func synonym(name, value string, source kmsg.ConfigSource) kmsg.DescribeConfigsResponseResourceConfigConfigSynonym {
	s := kmsg.NewDescribeConfigsResponseResourceConfigConfigSynonym()
	s.Name, s.Value, s.Source = name, kmsg.StringPtr(value), source
	return s
}

// describeSelf lists this agent's settings. They come from its flags, environment and
// file: read-only here.
func (h *Handler) describeSelf() []kmsg.DescribeConfigsResponseResourceConfig {
	s := h.settings
	values := map[string]string{
		"broker.id":                  strconv.Itoa(int(h.Cluster.Self())),
		"node.id":                    strconv.Itoa(int(h.Cluster.Self())),
		"auto.create.topics.enable":  strconv.FormatBool(s.AutoCreateTopics),
		"delete.topic.enable":        "true",
		"num.partitions":             strconv.Itoa(int(s.NumPartitions)),
		"default.replication.factor": strconv.Itoa(int(s.ReplicationFactor)),
		"fetch.max.bytes":            strconv.Itoa(s.FetchMaxBytes),
		"max.incremental.fetch.session.cache.slots": strconv.Itoa(s.MaxFetchSessions),
		"log.dirs":                  s.StoreName,
		"offset.metadata.max.bytes": strconv.Itoa(s.OffsetMetadataMax),
	}
	for i := range groupConfigs {
		groupConfigs[i].settings(&s, values)
	}
	types := map[string]kmsg.ConfigType{}
	for _, k := range topicconfig.All() {
		if k.Synonym == "" {
			continue
		}
		values[k.Synonym], types[k.Synonym] = k.SynonymDefault(), kmsg.ConfigType(k.Type)
		if v, ok := s.TopicDefaults[k.Name]; ok {
			if k.SynonymDefault() != k.Default {
				delete(values, k.Synonym)
				values["log."+k.Name], types["log."+k.Name] = v, kmsg.ConfigType(k.Type)
			} else {
				values[k.Synonym] = v
			}
		}
	}
	maps.Copy(values, s.BrokerConfigs)
	for _, a := range h.Cluster.Agents() {
		if a.NodeID == h.Cluster.Self() && a.Rack != "" {
			values["broker.rack"] = a.Rack
		}
	}
	out := make([]kmsg.DescribeConfigsResponseResourceConfig, 0, len(values))
	for _, name := range slices.Sorted(maps.Keys(values)) {
		c := kmsg.NewDescribeConfigsResponseResourceConfig()
		c.Name, c.Value, c.ReadOnly, c.Source = name, kmsg.StringPtr(values[name]), true, kmsg.ConfigSourceStaticBrokerConfig
		c.ConfigType = types[name]
		if c.ConfigType == 0 {
			c.ConfigType = typeOf(values[name])
		}
		c.ConfigSynonyms = append(c.ConfigSynonyms, synonym(name, values[name], c.Source))
		out = append(out, c)
	}
	return out
}

func typeOf(value string) kmsg.ConfigType {
	if value == "true" || value == "false" {
		return kmsg.ConfigTypeBoolean
	}
	if _, err := strconv.ParseInt(value, 10, 32); err == nil {
		return kmsg.ConfigTypeInt
	}
	return kmsg.ConfigTypeString
}
