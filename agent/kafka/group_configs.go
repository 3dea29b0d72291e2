package kafka

import (
	"cmp"
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/kafka/topicconfig"
)

// A consumer group's own configs (KIP-848): kept by its coordinator, wherever that is, also for
// groups that do not exist yet. They are times in milliseconds. Configs of share and streams
// groups, which are not served, are unknown.

// groupConfig is one config of groups.
type groupConfig struct {
	name, doc string
	bounds    func(*Settings) Between
	standard  string // Kafka's default
}

const (
	groupSession   = "consumer.session.timeout.ms"
	groupHeartbeat = "consumer.heartbeat.interval.ms"
)

// groupConfigs are all of them, by name.
var groupConfigs = []groupConfig{
	{groupHeartbeat, "How often members of a consumer group are told to send heartbeats.",
		func(s *Settings) Between { return cmp.Or(s.ConsumerHeartbeat, consumerHeartbeat) }, "5000"},
	{groupSession, "Time without a heartbeat after which a member of a consumer group is removed, where the group uses the consumer protocol.",
		func(s *Settings) Between { return cmp.Or(s.ConsumerSession, consumerSession) }, "45000"},
}

// synonym is the agent's setting that a group's config stands before.
func (k *groupConfig) synonym() string { return "group." + k.name }

func (k *groupConfig) byDefault(s *Settings) string {
	return millis(k.bounds(s).Default)
}

// settings adds the agent's settings behind a config, by Kafka's names.
func (k *groupConfig) settings(s *Settings, values map[string]string) {
	values[k.synonym()] = k.byDefault(s)
	rest := strings.TrimPrefix(k.name, "consumer.")
	values["group.consumer.min."+rest], values["group.consumer.max."+rest] = millis(k.bounds(s).Least), millis(k.bounds(s).Most)
}

func millis(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// check reports whether value is allowed.
func (k *groupConfig) check(s *Settings, value string) error {
	n, err := strconv.ParseInt(strings.TrimSpace(value), 10, 32)
	d, b := time.Duration(n)*time.Millisecond, k.bounds(s)
	switch {
	case err != nil:
		return refuse(kerr.InvalidConfig, "Invalid value %s for configuration %s: Not a number of type INT", value, k.name)
	case d < b.Least || d > b.Most:
		return refuse(kerr.InvalidConfig, "Invalid value %s for configuration %s: Value must be from %s to %s", value, k.name, millis(b.Least), millis(b.Most))
	}
	return nil
}

func lookupGroupConfig(name string) *groupConfig {
	for i := range groupConfigs {
		if groupConfigs[i].name == name {
			return &groupConfigs[i]
		}
	}
	return nil
}

// groupConfigErr is what clients hear of an error that kept the coordinator from answering.
func groupConfigErr(err error) error {
	if c := coordinatorCode(err); err != nil && c != code(err) {
		return kerr.ErrorForCode(c)
	}
	return err
}

func checkGroupResource(name string) error {
	if name == "" {
		return refuse(kerr.InvalidRequest, "Default group resources are not allowed: name a group")
	}
	return nil
}

func (h *Handler) describeGroupConfigs(ctx context.Context, group string) ([]kmsg.DescribeConfigsResponseResourceConfig, error) {
	if err := checkGroupResource(group); err != nil {
		return nil, err
	}
	own, err := h.Groups.Configs(ctx, group)
	if err != nil {
		return nil, groupConfigErr(err)
	}
	var out []kmsg.DescribeConfigsResponseResourceConfig
	for i := range groupConfigs {
		k := &groupConfigs[i]
		c := kmsg.NewDescribeConfigsResponseResourceConfig()
		c.Name, c.ConfigType, c.Documentation = k.name, kmsg.ConfigTypeInt, kmsg.StringPtr(k.doc)
		if v, ok := own[k.name]; ok {
			c.ConfigSynonyms = append(c.ConfigSynonyms, synonym(k.name, v, kmsg.ConfigSourceGroupConfig))
		}
		if v := k.byDefault(&h.settings); v != k.standard {
			c.ConfigSynonyms = append(c.ConfigSynonyms, synonym(k.synonym(), v, kmsg.ConfigSourceStaticBrokerConfig))
		}
		c.ConfigSynonyms = append(c.ConfigSynonyms, synonym(k.synonym(), k.standard, kmsg.ConfigSourceDefaultConfig))
		c.Value, c.Source = c.ConfigSynonyms[0].Value, c.ConfigSynonyms[0].Source
		out = append(out, c)
	}
	return out, nil
}

// alterGroup checks an alteration of a group's configs against those it has, and lets the
// coordinator make it.
func (h *Handler) alterGroup(ctx context.Context, a *alteration) error {
	if err := checkGroupResource(a.name); err != nil {
		return err
	}
	own, err := h.Groups.Configs(ctx, a.name)
	if err != nil {
		return groupConfigErr(err)
	}
	changes := map[string]*string{}
	if a.replace {
		for name := range own {
			changes[name] = nil
		}
	}
	for _, e := range a.edits {
		k := lookupGroupConfig(e.Name)
		_, stored := own[e.Name]
		switch {
		case k == nil && !(e.Op == topicconfig.Delete && stored): // of another release, it can be removed
			return refuse(kerr.InvalidConfig, "Unknown group config name: %s", e.Name)
		case e.Op == topicconfig.Delete:
			changes[e.Name] = nil
			continue
		case e.Op != topicconfig.Set:
			return refuse(kerr.InvalidConfig, "Operation %d is not allowed for config key %s: it is not a list", e.Op, e.Name)
		}
		if err := k.check(&h.settings, *e.Value); err != nil {
			return err
		}
		value := strings.TrimSpace(*e.Value)
		changes[e.Name] = &value
	}
	if err := h.checkGroupConfigs(own, changes); err != nil || a.validateOnly || len(changes) == 0 {
		return err
	}
	return groupConfigErr(h.Groups.AlterConfigs(ctx, a.name, changes))
}

// checkGroupConfigs checks whether a group's configs will agree with each other.
func (h *Handler) checkGroupConfigs(own map[string]string, changes map[string]*string) error {
	number := func(name string) int64 {
		k := lookupGroupConfig(name)
		value, ok := own[name]
		if v, changed := changes[name]; changed {
			if ok = v != nil; ok {
				value = *v
			}
		}
		n, err := strconv.ParseInt(value, 10, 32)
		if !ok || err != nil {
			return k.bounds(&h.settings).Default.Milliseconds()
		}
		return n
	}
	if s, b := number(groupSession), number(groupHeartbeat); s <= b {
		return refuse(kerr.InvalidConfig, "%s (%d) must be greater than %s (%d)", groupSession, s, groupHeartbeat, b)
	}
	return nil
}
