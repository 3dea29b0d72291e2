package kafka

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/kafka/topicconfig"
)

// A consumer group's own configs (KIP-848): kept by its coordinator, wherever that is, also for
// groups that do not exist yet. Configs of share and streams groups, which are not served, are
// unknown.

// groupConfig is one config of groups: a time in milliseconds, or the name of an assignor.
type groupConfig struct {
	name, doc string
	synonym   string                   // the agent's setting that it stands before
	standard  string                   // Kafka's value of that
	times     func(*Settings) Between  // of a time
	names     func(*Settings) []string // or those that there are; the first is the default
}

const (
	groupAssignor  = "consumer.assignor"
	groupHeartbeat = "consumer.heartbeat.interval.ms"
	groupSession   = "consumer.session.timeout.ms"
)

// groupConfigs are all of them, by name. Kafka has no assignor of a group's own.
var groupConfigs = []groupConfig{
	{name: groupAssignor, synonym: "group.consumer.assignors", standard: strings.Join(consumerAssignors, ","), names: (*Settings).consumerAssignors,
		doc: "The assignor of a consumer group whose members ask for none, where the group uses the consumer protocol."},
	{name: groupHeartbeat, synonym: "group.consumer.heartbeat.interval.ms", standard: millis(consumerHeartbeat.Default), times: (*Settings).consumerHeartbeat,
		doc: "How often members of a consumer group are told to send heartbeats, where the group uses the consumer protocol."},
	{name: groupSession, synonym: "group.consumer.session.timeout.ms", standard: millis(consumerSession.Default), times: (*Settings).consumerSession,
		doc: "Time without a heartbeat after which a member of a consumer group is removed, where the group uses the consumer protocol."},
}

func (s *Settings) consumerSession() Between   { return cmp.Or(s.ConsumerSession, consumerSession) }
func (s *Settings) consumerHeartbeat() Between { return cmp.Or(s.ConsumerHeartbeat, consumerHeartbeat) }

func (s *Settings) consumerAssignors() []string {
	if len(s.ConsumerAssignors) > 0 {
		return s.ConsumerAssignors
	}
	return consumerAssignors
}

func millis(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// setting returns the agent's setting that a config stands before, as Kafka spells it, and
// what that makes of the config.
func (k *groupConfig) setting(s *Settings) (text, value string) {
	if k.names != nil {
		names := k.names(s)
		return strings.Join(names, ","), names[0]
	}
	value = millis(k.times(s).Default)
	return value, value
}

func (k *groupConfig) kind() kmsg.ConfigType {
	if k.names != nil {
		return kmsg.ConfigTypeString
	}
	return kmsg.ConfigTypeInt
}

// settings adds the agent's settings behind a config, by Kafka's names.
func (k *groupConfig) settings(s *Settings, values map[string]string) {
	values[k.synonym], _ = k.setting(s)
	if k.times != nil {
		rest, b := strings.TrimPrefix(k.name, "consumer."), k.times(s)
		values["group.consumer.min."+rest], values["group.consumer.max."+rest] = millis(b.Least), millis(b.Most)
	}
}

// check reports whether value is allowed.
func (k *groupConfig) check(s *Settings, value string) error {
	if k.names != nil {
		if names := k.names(s); !slices.Contains(names, value) {
			return refuse(kerr.InvalidConfig, "Invalid value %s for configuration %s: String must be one of: %s", value, k.name, strings.Join(names, ", "))
		}
		return nil
	}
	n, err := strconv.ParseInt(value, 10, 32)
	d, b := time.Duration(n)*time.Millisecond, k.times(s)
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
	if tooLong(name) {
		return errLongGroup
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
		c.Name, c.ConfigType, c.Documentation = k.name, k.kind(), kmsg.StringPtr(k.doc)
		setting, value := k.setting(&h.settings)
		if v, ok := own[k.name]; ok {
			value = v
			c.ConfigSynonyms = append(c.ConfigSynonyms, synonym(k.name, v, kmsg.ConfigSourceGroupConfig))
		}
		if setting != k.standard {
			c.ConfigSynonyms = append(c.ConfigSynonyms, synonym(k.synonym, setting, kmsg.ConfigSourceStaticBrokerConfig))
		}
		c.ConfigSynonyms = append(c.ConfigSynonyms, synonym(k.synonym, k.standard, kmsg.ConfigSourceDefaultConfig))
		c.Value, c.Source = &value, c.ConfigSynonyms[0].Source
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
		value := strings.TrimSpace(*e.Value)
		if err := k.check(&h.settings, value); err != nil {
			return err
		}
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
			return k.times(&h.settings).Default.Milliseconds()
		}
		return n
	}
	if s, b := number(groupSession), number(groupHeartbeat); s <= b {
		return refuse(kerr.InvalidConfig, "%s (%d) must be greater than %s (%d)", groupSession, s, groupHeartbeat, b)
	}
	return nil
}
