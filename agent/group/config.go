package group

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/floelog/floe/agent/group/consumer"
	"github.com/floelog/floe/metadata/shard"
)

// Names of the configs that a group may have of its own. The first two are Kafka's; the
// assignor is that of members that ask for none, which Kafka can set for all groups only.
const (
	sessionConfig   = "consumer.session.timeout.ms"
	heartbeatConfig = "consumer.heartbeat.interval.ms"
	assignorConfig  = "consumer.assignor"
)

// decodeConfig reads the row "config": a JSON object of strings.
func decodeConfig(b []byte) (map[string]string, error) {
	var out map[string]string
	if err := json.Unmarshal(b, &out); err != nil {
		return nil, fmt.Errorf("row %q: %w", configRow, err)
	}
	return out, nil
}

func (m *machine) configs(group string) map[string]string {
	out := map[string]string{}
	if e := m.groups[group]; e != nil {
		maps.Copy(out, e.config)
	}
	return out
}

// alterConfigs returns an error for the client, or nil.
func (m *machine) alterConfigs(a AlterConfigs, now time.Time) any {
	if d := m.groups[a.Group].damaged(); d != nil {
		return fmt.Errorf("%w: the group cannot be read: %w", ErrInvalidConfig, d.err)
	}
	if m.full(a.Group) {
		return fmt.Errorf("%w: its shard has max-groups, %d, groups already", ErrInvalidConfig, m.settings.MaxGroups)
	}
	next := m.configs(a.Group)
	for _, name := range slices.Sorted(maps.Keys(a.Alter)) {
		if a.Alter[name] == nil {
			delete(next, name)
			continue
		}
		next[name] = *a.Alter[name]
	}
	if err := m.settings.checkConfigs(next, a.Alter); err != nil {
		return err
	}
	row := shard.Row{Key: configRow}
	if len(next) > 0 {
		b, err := json.Marshal(next)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrInvalidConfig, err)
		}
		row.Value = b
	}
	e := m.entry(a.Group, now)
	if _, had := e.rows[configRow]; had || row.Value != nil {
		m.put(e, []shard.Row{row})
	}
	e.config = next
	if g := e.consumer(); g != nil {
		m.configure(g, next)
	}
	m.keep(e)
	return nil
}

// checkConfigs looks at the names that are altered, and at all values together.
func (s Settings) checkConfigs(next map[string]string, altered map[string]*string) error {
	for _, name := range slices.Sorted(maps.Keys(altered)) {
		if name != sessionConfig && name != heartbeatConfig && name != assignorConfig {
			return fmt.Errorf("%w: %s is not known, a group has %s, %s and %s", ErrInvalidConfig, name, sessionConfig, heartbeatConfig, assignorConfig)
		}
	}
	session, err := millis(next, sessionConfig, s.MinConsumerSessionTimeout, s.ConsumerSessionTimeout, s.MaxConsumerSessionTimeout)
	if err != nil {
		return err
	}
	heartbeat, err := millis(next, heartbeatConfig, s.MinConsumerHeartbeatInterval, s.ConsumerHeartbeatInterval, s.MaxConsumerHeartbeatInterval)
	if err != nil {
		return err
	}
	if session <= heartbeat {
		return fmt.Errorf("%w: %s (%v) must be above %s (%v)", ErrInvalidConfig, sessionConfig, session, heartbeatConfig, heartbeat)
	}
	if name, ok := next[assignorConfig]; ok && !slices.Contains(s.ConsumerAssignors, name) {
		return fmt.Errorf("%w: %s is %q, must be one of %s", ErrInvalidConfig, assignorConfig, name, strings.Join(s.ConsumerAssignors, ", "))
	}
	return nil
}

// millis returns a config's value, or what it is where it is not set.
func millis(configs map[string]string, name string, low, unset, high time.Duration) (time.Duration, error) {
	text, ok := configs[name]
	if !ok {
		return unset, nil
	}
	n, err := strconv.ParseInt(text, 10, 32)
	d := time.Duration(n) * time.Millisecond
	if err != nil || d < low || d > high {
		return 0, fmt.Errorf("%w: %s is %q, must be a number from %d to %d", ErrInvalidConfig, name, text, low.Milliseconds(), high.Milliseconds())
	}
	return d, nil
}

// configure tells a consumer group what is its own. Values that the settings do not allow any
// more are as if they were not set.
func (m *machine) configure(g *consumer.Group, configs map[string]string) {
	s := m.settings
	session, err := millis(configs, sessionConfig, s.MinConsumerSessionTimeout, s.ConsumerSessionTimeout, s.MaxConsumerSessionTimeout)
	if err != nil {
		session = s.ConsumerSessionTimeout
	}
	heartbeat, err := millis(configs, heartbeatConfig, s.MinConsumerHeartbeatInterval, s.ConsumerHeartbeatInterval, s.MaxConsumerHeartbeatInterval)
	if err != nil {
		heartbeat = s.ConsumerHeartbeatInterval
	}
	assignor := s.ConsumerAssignors[0]
	if name := configs[assignorConfig]; slices.Contains(s.ConsumerAssignors, name) {
		assignor = name
	}
	g.Configure(session, heartbeat, assignor)
}
