package diagnosis

import (
	"strconv"
	"time"
)

// Name is the partition as people write it.
func (p Partition) Name() string { return p.Topic + "-" + strconv.Itoa(int(p.Index)) }

// name tells a transaction from others.
func (t Transaction) name() string {
	return t.Partition + " by producer id " + strconv.FormatInt(t.ProducerID, 10)
}

// maxSkew is the bound of clocks that differ. Timestamps, retention and certificates bear it;
// what is more comes from a clock that nobody keeps.
const maxSkew = 5 * time.Second

var metadataRows = []Kind{
	{
		Name: "etcd_quota", Shared: true, Severity: Warning, Title: "etcd's database nears its quota", Unit: Share, Bound: 0.6,
		Measures: "size of a member's database, of its quota",
		Why:      "At the quota etcd refuses every write, and Floe every batch, until somebody acts.",
		Settings: []string{"etcd-quota", "etcd-history", "inline-rate", "snapshot-records"},
		Advice:   "raise --quota-backend-bytes of etcd (floe dev: etcd-quota), defragment its members one by one, lower etcd-history", Runbook: "FloeEtcdDatabaseLarge",
		measure: func(s *Snapshot, reading func(string, float64)) {
			for _, m := range s.Members {
				if m.Quota > 0 {
					reading("etcd "+m.Name, m.Bytes/m.Quota)
				}
			}
		},
	},
	{
		Name: "etcd_alarm", Shared: true, Severity: Critical, Title: "etcd has an alarm", Unit: Number, Bound: 0,
		Measures: "alarms of a member, such as NOSPACE",
		Why:      "With NOSPACE etcd refuses every write; with CORRUPT its members differ.",
		Settings: []string{"etcd-quota", "etcd-history"}, Advice: "make room as for etcd_quota, then etcdctl alarm disarm", Runbook: "FloeEtcdDatabaseLarge",
		measure: func(s *Snapshot, reading func(string, float64)) {
			for _, m := range s.Members {
				subject := "etcd " + m.Name
				for _, a := range m.Alarms {
					subject += ", " + a
				}
				reading(subject, float64(len(m.Alarms)))
			}
		},
	},
	{
		Name: "etcd_member_silent", Shared: true, Severity: Warning, Title: "a member of etcd does not answer", Unit: Yes, Bound: 0,
		Measures: "whether a member that is named in etcd fails to answer",
		Why:      "With one of three gone etcd goes on; without a second nothing can be acknowledged.",
		Settings: []string{"etcd"}, Advice: "start it again, or replace it; correct etcd if it was moved", Runbook: "FloeEtcdMemberDown",
		measure: func(s *Snapshot, reading func(string, float64)) {
			for _, m := range s.Members {
				subject := "etcd " + m.Name
				if m.Failed != "" {
					subject += ": " + m.Failed
				}
				reading(subject, yes(m.Failed != ""))
			}
		},
	},
	{
		Name: "etcd_slow", Severity: Warning, Title: "appends to etcd are slow", Unit: Seconds, Bound: 0.25,
		Measures: "time that one append in a hundred takes at least, of 20 and more within a minute",
		Why:      "Every acknowledgement waits for an append.",
		Settings: []string{"inline-rate", "inline-max"}, Advice: "give etcd a fast disk of its own, and members near the agents; lower inline-rate", Runbook: "FloeAppendsSlow",
		measure: func(s *Snapshot, reading func(string, float64)) {
			if s.Recent.Appends >= enough {
				reading("", s.Recent.AppendP99)
			}
		},
	},
	{
		Name: "outcomes_unknown", Severity: Warning, Title: "etcd leaves transactions without an answer", Unit: Number, Bound: 10,
		Measures: "such transactions within a minute",
		Why:      "Each is repeated until its outcome is known, and clients wait for that long.",
		Settings: []string{"etcd"}, Advice: "look at the network to etcd, and whether its leader changes", Runbook: "FloeOutcomesUnknown",
		measure: func(s *Snapshot, reading func(string, float64)) { reading("", s.Recent.UnknownOutcomes) },
	},
	{
		Name: "lease_margin", Severity: Warning, Title: "the lease is renewed late", Unit: Share, Bound: 0.4, Below: true,
		Measures: "least part of lease-ttl that was left when the lease was renewed, within ten minutes; 80% are normal",
		Why:      "At 0 the agent loses its session, and all its shards with it.",
		Settings: []string{"lease-ttl"}, Advice: "raise lease-ttl; look for pauses: CPU limits, swapping, a slow etcd", Runbook: "lease_margin",
		measure: func(s *Snapshot, reading func(string, float64)) {
			if s.Levels.LeaseMeasured && s.Levels.LeaseTTL > 0 {
				reading("", float64(s.Levels.LeaseMargin)/float64(s.Levels.LeaseTTL))
			}
		},
	},
	{
		Name: "session_lost", Severity: Warning, Title: "the agent lost its session", Unit: Number, Bound: 0,
		Measures: "sessions that were lost within ten minutes",
		Why:      "Its shards moved, and batches in flight were refused.",
		Settings: []string{"lease-ttl"}, Advice: "raise lease-ttl; look for pauses: CPU limits, swapping, a slow etcd", Runbook: "lease_margin",
		measure: func(s *Snapshot, reading func(string, float64)) { reading("", s.Lately.SessionsLost) },
	},
	{
		Name: "journal_long", Severity: Warning, Title: "a shard's journal is long", Unit: Number, Bound: 10,
		Measures: "records of a shard's journal, as a multiple of snapshot-records",
		Why:      "A takeover reads all of it, and etcd holds it.",
		Settings: []string{"snapshot-records", "store"}, Advice: "snapshots are objects: see whether PUTs succeed", Runbook: "FloeJournalLong",
		measure: func(s *Snapshot, reading func(string, float64)) {
			if s.Levels.SnapshotRecords > 0 {
				reading("", s.Levels.JournalMax/s.Levels.SnapshotRecords)
			}
		},
	},
	{
		Name: "snapshot_late", Severity: Warning, Title: "a snapshot is late", Unit: Number, Bound: 3,
		Measures: "time for which a shard's journal has had no snapshot, as a multiple of snapshot-age",
		Why:      "If etcd were lost, the bucket would need what carries the records since then; no garbage of that time is deleted.",
		Settings: []string{"snapshot-age", "store"}, Advice: "the log of the agent says why the snapshot fails", Runbook: "snapshot_late",
		measure: func(s *Snapshot, reading func(string, float64)) {
			if s.Levels.SnapshotAge > 0 {
				reading("", float64(s.Levels.SnapshotWait)/float64(s.Levels.SnapshotAge))
			}
		},
	},
	{
		Name: "carry_late", Severity: Warning, Title: "journal records are not in the bucket yet", Unit: Seconds, Bound: 60,
		Measures: "time beyond carry-age for which the oldest has waited",
		Why:      "If etcd were lost now together with this agent, floe recover would miss them.",
		Settings: []string{"carry-age", "store"}, Advice: "see whether PUTs succeed", Runbook: "carry_late",
		measure: func(s *Snapshot, reading func(string, float64)) {
			reading("", seconds(max(0, s.Levels.CarryWait-s.Levels.CarryAge)))
		},
	},
}

var agentRows = []Kind{
	{
		Name: "memory_full", Severity: Warning, Title: "the memory for requests is full", Unit: Share, Bound: 0.8,
		Measures: "memory that requests in flight hold, of what they may, mean over a minute",
		Why:      "Connections wait before their next request is read.",
		Settings: []string{"memory-budget", "cache-size", "flush-size", "uploads-in-flight"}, Advice: "raise memory-budget, or start more agents; a slow object store fills it too", Runbook: "FloeMemoryFull",
		measure: func(s *Snapshot, reading func(string, float64)) { reading("", s.Levels.MemoryShare) },
	},
	{
		Name: "connections_many", Severity: Warning, Title: "connections near their limit", Unit: Share, Bound: 0.8,
		Measures: "open connections, of max-connections",
		Why:      "Further clients are refused.",
		Settings: []string{"max-connections"}, Advice: "raise max-connections, or start more agents", Runbook: "FloeConnectionsRefused",
		measure: func(s *Snapshot, reading func(string, float64)) {
			if s.Levels.MaxConnections > 0 {
				reading("", s.Levels.Connections/s.Levels.MaxConnections)
			}
		},
	},
	{
		Name: "files_many", Severity: Warning, Title: "file descriptors near their limit", Unit: Share, Bound: 0.8,
		Measures: "open file descriptors, of what the process may have",
		Why:      "Without one no connection can be accepted, to clients or to the stores.",
		Settings: []string{"max-connections"}, Advice: "raise LimitNOFILE of the unit, or the container's limit", Runbook: "files_many",
		measure: func(s *Snapshot, reading func(string, float64)) {
			if s.Levels.MaxFiles > 0 {
				reading("", s.Levels.Files/s.Levels.MaxFiles)
			}
		},
	},
	{
		Name: "cache_small", Severity: Info, Title: "the cache is too small for the tail", Unit: Share, Bound: 0.8, Below: true,
		Measures: "parts of reads that were in the cache, where most bytes are the newest of their partitions and blocks are evicted",
		Why:      "Consumers that keep up should be served from memory: each miss is a GET.",
		Settings: []string{"cache-size", "memory-budget", "cache-disk-dir"}, Advice: "raise cache-size, and memory-budget with it", Runbook: "cache_small",
		measure: func(s *Snapshot, reading func(string, float64)) {
			r := s.Recent
			if r.CacheMisses >= enough && r.CacheEvicted > 0 && r.TailBytes > r.LaggingBytes {
				reading("", share(r.CacheHits, r.CacheHits+r.CacheMisses))
			}
		},
	},
	{
		Name: "disk_cache_failed", Severity: Warning, Title: "the disk cache was given up", Unit: Yes, Bound: 0,
		Measures: "whether the folder failed since the agent's start",
		Why:      "What it would serve comes from the object store.",
		Settings: []string{"cache-disk-dir", "cache-disk-bytes"}, Advice: "see whether the disk is full or failed, and start the agent again", Runbook: "FloeDiskCacheGivenUp",
		measure: func(s *Snapshot, reading func(string, float64)) { reading("", yes(s.Levels.DiskCacheGivenUp)) },
	},
	{
		Name: "catch_up_waits", Severity: Info, Title: "consumers far behind wait for their turn", Unit: Share, Bound: 0.2,
		Measures: "reads far behind that waited in vain, of all within a minute",
		Why:      "They catch up more slowly; those that keep up are not held up.",
		Settings: []string{"fetch-lagging-memory", "memory-budget", "cache-disk-dir"}, Advice: "give more memory, or start more agents while they catch up", Runbook: "FloeCatchUpWaits",
		measure: func(s *Snapshot, reading func(string, float64)) {
			if s.Recent.LaggingReads >= enough {
				reading("", share(s.Recent.LaggingTired, s.Recent.LaggingReads))
			}
		},
	},
	{
		Name: "merges_behind", Severity: Warning, Title: "merging is behind", Unit: Number, Bound: 2000,
		Measures: "extents of the partition that has most",
		Why:      "States and snapshots grow with extents, and reading old records takes a request for each.",
		Settings: []string{"jobs-rate", "merge-age", "merge-target"}, Advice: "raise jobs-rate, or start agents; see jobs_fail", Runbook: "FloeExtentsPileUp",
		measure: func(s *Snapshot, reading func(string, float64)) { reading("", s.Levels.ExtentsMax) },
	},
	{
		Name: "jobs_fail", Severity: Warning, Title: "merging or log compaction fails", Unit: Number, Bound: 3,
		Measures: "failures within ten minutes",
		Why:      "Small extents and superseded records stay.",
		Settings: []string{"jobs-rate", "clean-memory"}, Advice: "the agent's log says why", Runbook: "FloeMergesFail",
		measure: func(s *Snapshot, reading func(string, float64)) { reading("", s.Lately.JobFailures) },
	},
	{
		Name: "settings_doubtful", Severity: Info, Title: "settings do not fit together well", Unit: Number, Bound: 0,
		Measures: "settings that are allowed and seldom meant, as of the agent's start",
		Why:      "What they do together is hardly what was wanted; the finding says what that is.",
		Settings: []string{"config"}, Advice: "change the setting that is named, or live with it knowingly", Runbook: "settings_doubtful",
		measure: func(s *Snapshot, reading func(string, float64)) {
			for _, d := range s.Doubts {
				reading(d.Setting+": "+d.Text, 1)
			}
		},
	},
	{
		Name: "certificate_expires", Severity: Warning, Title: "a certificate expires soon", Unit: Seconds, Bound: 14 * 24 * 3600, Below: true,
		Measures: "time until a certificate of this agent expires",
		Why:      "From then on it is refused, and the agent with it.",
		Settings: []string{"etcd-cert"}, Advice: "renew it, and start the agent again", Runbook: "certificate_expires",
		measure: func(s *Snapshot, reading func(string, float64)) {
			for _, c := range s.Certs {
				reading(c.Setting, seconds(c.Left))
			}
		},
	},
}
