package group

import (
	"fmt"
	"slices"
	"time"

	"github.com/floelog/floe/agent/group/assignor"
)

// Migration says in which directions a group may change its protocol while it has members
// (group.consumer.migration.policy, KIP-848).
type Migration string

// The policies of Kafka.
const (
	MigrateBothWays Migration = "bidirectional"
	MigrateUp       Migration = "upgrade"
	MigrateDown     Migration = "downgrade"
	MigrateNever    Migration = "disabled"
)

// Settings are what all groups have in common. Each field says Kafka's name.
type Settings struct {
	InitialRebalanceDelay time.Duration // group.initial.rebalance.delay.ms
	MinSessionTimeout     time.Duration // group.min.session.timeout.ms
	MaxSessionTimeout     time.Duration // group.max.session.timeout.ms
	MaxSize               int           // group.max.size
	MaxGroups             int           // groups that one shard holds; Kafka has no limit
	MaxOffsetMetadata     int           // offset.metadata.max.bytes
	OffsetsRetention      time.Duration // offsets.retention.minutes
	OffsetsRetentionCheck time.Duration // offsets.retention.check.interval.ms

	ConsumerSessionTimeout       time.Duration // group.consumer.session.timeout.ms
	MinConsumerSessionTimeout    time.Duration // group.consumer.min.session.timeout.ms
	MaxConsumerSessionTimeout    time.Duration // group.consumer.max.session.timeout.ms
	ConsumerHeartbeatInterval    time.Duration // group.consumer.heartbeat.interval.ms
	MinConsumerHeartbeatInterval time.Duration // group.consumer.min.heartbeat.interval.ms
	MaxConsumerHeartbeatInterval time.Duration // group.consumer.max.heartbeat.interval.ms
	ConsumerMaxSize              int           // group.consumer.max.size
	ConsumerAssignors            []string      // group.consumer.assignors; the first is the default
	ConsumerMigration            Migration     // group.consumer.migration.policy
	// RegexRefreshInterval is the least time between two resolutions of a group's regular
	// expressions because topics changed; see consumer.Config. It is fixed in Kafka, whose
	// group.consumer.regex.refresh.interval.ms is the most time between two, changes or not.
	RegexRefreshInterval time.Duration
}

// maxGroupSize is the default bound of a group's members, where Kafka has none: more have no
// partition each in any group that is known, and an agent's memory must not be in the hands
// of whoever may join. Fewer would refuse groups that exist: some have thousands.
const maxGroupSize = 10_000

// maxGroups is the default bound of the groups of one shard. Anybody who may read a topic can make groups by
// committing offsets, and each takes a kilobyte or more of every agent's memory. Fewer would refuse groups that
// exist: tools that make one for every run leave thousands within offsets.retention.minutes. More, times the
// shards, would not bound memory.
const maxGroups = 20_000

// DefaultSettings returns Kafka's defaults, but for the sizes of groups, which are bounded.
func DefaultSettings() Settings {
	return Settings{
		InitialRebalanceDelay: 3 * time.Second,
		MinSessionTimeout:     6 * time.Second,
		MaxSessionTimeout:     30 * time.Minute,
		MaxSize:               maxGroupSize,
		MaxGroups:             maxGroups,
		MaxOffsetMetadata:     4096,
		OffsetsRetention:      7 * 24 * time.Hour,
		OffsetsRetentionCheck: 10 * time.Minute,

		ConsumerSessionTimeout:       45 * time.Second,
		MinConsumerSessionTimeout:    45 * time.Second,
		MaxConsumerSessionTimeout:    60 * time.Second,
		ConsumerHeartbeatInterval:    5 * time.Second,
		MinConsumerHeartbeatInterval: 5 * time.Second,
		MaxConsumerHeartbeatInterval: 15 * time.Second,
		ConsumerMaxSize:              maxGroupSize,
		ConsumerAssignors:            []string{"uniform", "range"},
		ConsumerMigration:            MigrateBothWays,
		RegexRefreshInterval:         10 * time.Second,
	}
}

// Validate names the first setting that cannot be.
func (s Settings) Validate() error {
	ranges := []struct {
		name          string
		low, is, high time.Duration
	}{
		{"group.initial.rebalance.delay.ms", 0, s.InitialRebalanceDelay, 24 * time.Hour},
		{"group.min.session.timeout.ms", time.Millisecond, s.MinSessionTimeout, s.MaxSessionTimeout},
		{"group.max.session.timeout.ms", time.Millisecond, s.MaxSessionTimeout, 24 * time.Hour},
		{"offsets.retention.minutes", time.Minute, s.OffsetsRetention, 100 * 365 * 24 * time.Hour},
		{"offsets.retention.check.interval.ms", time.Millisecond, s.OffsetsRetentionCheck, 24 * time.Hour},
		{"group.consumer.session.timeout.ms", s.MinConsumerSessionTimeout, s.ConsumerSessionTimeout, s.MaxConsumerSessionTimeout},
		{"group.consumer.min.session.timeout.ms", time.Millisecond, s.MinConsumerSessionTimeout, s.MaxConsumerSessionTimeout},
		{"group.consumer.heartbeat.interval.ms", s.MinConsumerHeartbeatInterval, s.ConsumerHeartbeatInterval, s.MaxConsumerHeartbeatInterval},
		{"group.consumer.min.heartbeat.interval.ms", time.Millisecond, s.MinConsumerHeartbeatInterval, s.MaxConsumerHeartbeatInterval},
		{"group.consumer.heartbeat.interval.ms", time.Millisecond, s.ConsumerHeartbeatInterval, s.ConsumerSessionTimeout - time.Millisecond},
		{"the interval of regular expressions", time.Millisecond, s.RegexRefreshInterval, 24 * time.Hour},
	}
	for _, r := range ranges {
		if r.is < r.low || r.is > r.high {
			return fmt.Errorf("%s is %v: must be from %v to %v", r.name, r.is, r.low, r.high)
		}
	}
	for name, n := range map[string]int{"group.max.size": s.MaxSize, "group.consumer.max.size": s.ConsumerMaxSize, "max-groups": s.MaxGroups} {
		if n < 1 {
			return fmt.Errorf("%s is %d: must be at least 1", name, n)
		}
	}
	// A change of a shard takes offsets whole (coordinator.MaxChangeBytes).
	if s.MaxOffsetMetadata < 0 || s.MaxOffsetMetadata > 64<<10 {
		return fmt.Errorf("offset.metadata.max.bytes is %d: must be from 0 to %d", s.MaxOffsetMetadata, 64<<10)
	}
	if len(s.ConsumerAssignors) == 0 {
		return fmt.Errorf("group.consumer.assignors is empty: name uniform, range or both")
	}
	for _, name := range s.ConsumerAssignors {
		if _, ok := assignor.ByName(name); !ok {
			return fmt.Errorf("group.consumer.assignors has %q: uniform and range are known", name)
		}
	}
	if !slices.Contains([]Migration{MigrateBothWays, MigrateUp, MigrateDown, MigrateNever}, s.ConsumerMigration) {
		return fmt.Errorf("group.consumer.migration.policy is %q: must be bidirectional, upgrade, downgrade or disabled", s.ConsumerMigration)
	}
	return nil
}

func (s Settings) upgrades() bool {
	return s.ConsumerMigration == MigrateBothWays || s.ConsumerMigration == MigrateUp
}

func (s Settings) downgrades() bool {
	return s.ConsumerMigration == MigrateBothWays || s.ConsumerMigration == MigrateDown
}
