package settings

import (
	"fmt"
	"time"

	"github.com/floelog/floe/diagnosis"
)

// checkInterplay refuses settings each of which is allowed and which together make no sense.
func (s *Settings) checkInterplay() error {
	if s.GroupInitialRebalanceDelay >= s.GroupMaxSessionTimeout {
		return s.wrong("group-initial-rebalance-delay", fmt.Sprintf("members would be put out by group-max-session-timeout, %s, while they wait for others", formatDuration(s.GroupMaxSessionTimeout)), "make it shorter, 3s is Kafka's")
	}
	return nil
}

const (
	// patientFlush is the age of a flush beyond which producers notice: half of their usual
	// delivery deadline of a second or two in front of people.
	patientFlush = 5 * time.Second
	// leastJobsRate keeps up with a small cluster's merges.
	leastJobsRate = Bytes(1 << 20)
)

// Doubts are settings that are allowed and seldom meant, each with what it does. `floe doctor` tells
// of them, and so does the log at the start.
func (s *Settings) Doubts() []diagnosis.Doubt {
	var out []diagnosis.Doubt
	doubt := func(when bool, name, format string, args ...any) {
		if when {
			out = append(out, diagnosis.Doubt{Setting: name, Text: fmt.Sprintf(format, args...)})
		}
	}
	d := formatDuration
	doubt(s.GCGrace < s.CarryAge, "gc-grace", "%s is shorter than carry-age, %s: objects are deleted before the bucket holds the records that replaced them, so that floe recover would miss what they held", d(s.GCGrace), d(s.CarryAge))
	doubt(s.GCGrace < 2*s.LeaseTTL, "gc-grace", "%s is shorter than two lease-ttl, %s each: readers whose view lags find objects gone and read again", d(s.GCGrace), d(s.LeaseTTL))
	doubt(s.CarryAge >= s.SnapshotAge, "carry-age", "%s is not shorter than snapshot-age, %s: records are in a snapshot before they are carried, and until then in etcd alone", d(s.CarryAge), d(s.SnapshotAge))
	doubt(s.EtcdKeep < 2*s.LeaseTTL, "etcd-history", "%s is shorter than two lease-ttl, %s each: an agent that was cut off for less than its lease must load snapshots again", d(s.EtcdKeep), d(s.LeaseTTL))
	doubt(s.GroupMinSessionTimeout <= s.LeaseTTL, "group-min-session-timeout", "%s is not longer than lease-ttl, %s: members may be put out while their coordinator moves", d(s.GroupMinSessionTimeout), d(s.LeaseTTL))
	doubt(s.ConsumerSessionTimeout <= s.LeaseTTL, "consumer-session-timeout", "%s is not longer than lease-ttl, %s: members may be put out while their coordinator moves", d(s.ConsumerSessionTimeout), d(s.LeaseTTL))
	doubt(s.ConsumerHeartbeatInterval > s.ConsumerSessionTimeout/3, "consumer-heartbeat-interval", "%s is more than a third of consumer-session-timeout, %s: one lost heartbeat or two put a member out", d(s.ConsumerHeartbeatInterval), d(s.ConsumerSessionTimeout))
	doubt(s.IdleTimeout < 2*s.ConsumerHeartbeatInterval, "idle-timeout", "%s is shorter than two consumer-heartbeat-interval, %s each: members' connections are closed between heartbeats", d(s.IdleTimeout), d(s.ConsumerHeartbeatInterval))
	doubt(s.FlushAge > patientFlush, "flush-age", "%s: every produce under load waits for it", d(s.FlushAge))
	doubt(s.JobsRate > 0 && s.JobsRate < leastJobsRate, "jobs-rate", "%s a second hardly keep up with anything: small extents pile up", s.JobsRate)
	doubt(s.Retention > 0 && s.RetentionInterval > s.Retention, "retention-check-interval", "%s is longer than retention, %s: records stay for several times as long", d(s.RetentionInterval), d(s.Retention))
	doubt(s.Retention > 0 && s.MergeAge >= s.Retention, "merge-age", "%s is not shorter than retention, %s: records are gone before they are merged", d(s.MergeAge), d(s.Retention))
	doubt(s.CleanMemory > s.MemoryBudget, "clean-memory", "%s come on top of memory-budget, %s, and are more than it", s.CleanMemory, s.MemoryBudget)
	doubt(s.given("cache-disk-bytes") && s.CacheDiskDir == "", "cache-disk-bytes", "it does nothing without cache-disk-dir")
	doubt(s.given("zone") && s.Zone == "", "zone", "it is given and empty")
	return out
}
