package settings

import (
	"slices"
	"strings"
)

// Setting is one row of the table.
type Setting struct {
	Name     string // of the key in the file; flag and variable derive from it
	Group    string // heading under which it is listed
	Default  string // as it would be given; empty: Meaning says what happens
	Min, Max string // limits, as they would be given; empty: none
	Choices  []string
	Commands Command // that read it
	Meaning  string  // one line, no full stop
	Why      string  // why this default: why not smaller, why not larger

	field func(*Settings) any
}

// Flag returns the setting's flag.
func (row *Setting) Flag() string { return "--" + row.Name }

// Env returns the setting's environment variable.
func (row *Setting) Env() string {
	return envPrefix + strings.ReplaceAll(strings.ToUpper(row.Name), "-", "_")
}

// Kind names the form of the value: text, list, number, size, duration, true|false.
func (row *Setting) Kind() string { return kind(row.field(&Settings{})) }

func find(name string) *Setting {
	for i := range table {
		if table[i].Name == name {
			return &table[i]
		}
	}
	return nil
}

// Table returns a copy of the table, in the order in which people should read it.
func Table() []Setting { return append([]Setting(nil), table...) }

const (
	serving = Dev | Agent
	all     = Dev | Agent | Inspect
)

var table = slices.Concat(addressSettings, clusterSettings, []Setting{
	{
		Name: "data", Group: "Development", Default: "floe-data", Commands: Dev | Inspect,
		Meaning: "directory of floe dev: its etcd and its store",
		Why:     "Under the current directory, where it is seen and can be deleted.",
		field:   func(s *Settings) any { return &s.Data },
	},
	{
		Name: "agents", Group: "Development", Default: "1", Min: "1", Max: "64", Commands: Dev,
		Meaning: "number of agents, on consecutive ports from addr and admin-addr on",
		Why:     "More than one shows how leadership moves. Each has a memory budget of its own.",
		field:   func(s *Settings) any { return &s.Agents },
	},

	{
		Name: "flush-size", Group: "Writing", Default: "8MiB", Min: "64KiB", Max: "256MiB", Commands: serving,
		Meaning: "size at which a flush is closed and uploaded",
		Why:     "Smaller: more PUTs, which cost money each. Larger: more memory per upload in flight and no better throughput from S3.",
		field:   func(s *Settings) any { return &s.FlushSize },
	},
	{
		Name: "flush-age", Group: "Writing", Default: "250ms", Min: "1ms", Max: "60s", Commands: serving,
		Meaning: "age at which a flush is closed and uploaded",
		Why:     "Shorter: more PUTs; 250ms is at most 4 a second. Longer: every produce under load waits for it.",
		field:   func(s *Settings) any { return &s.FlushAge },
	},
	{
		Name: "flush-idle", Group: "Writing", Default: "true", Commands: serving,
		Meaning: "close a flush at once while no upload is in flight",
		Why:     "A lone producer is answered without waiting for flush-age. It costs PUTs only while there is next to no load.",
		field:   func(s *Settings) any { return &s.FlushIdle },
	},
	{
		Name: "uploads-in-flight", Group: "Writing", Default: "16", Min: "1", Max: "64", Commands: serving,
		Meaning: "uploads of an agent that run at the same time",
		Why:     "Fewer: producers that wait for a PUT of 100ms fill small flushes, and throughput is their size times this, ten times a second. More: each may hold flush-size of memory, and a slow store gets slower.",
		field:   func(s *Settings) any { return &s.UploadsInFlight },
	},
	{
		Name: "inline-max", Group: "Writing", Default: "16KiB", Min: "0B", Max: "256KiB", Commands: serving,
		Meaning: "largest part of a flush for one shard that is committed through etcd alone; 0B: none",
		Why:     "Smaller: low-traffic topics pay a PUT and its latency for each flush. Larger: etcd's own latency grows beyond 16KiB, and a transaction holds 1MiB.",
		field:   func(s *Settings) any { return &s.InlineMax },
	},
	{
		Name: "inline-rate", Group: "Writing", Default: "4MiB", Min: "0B", Max: "64MiB", Commands: serving,
		Meaning: "bytes a second that an agent may commit through etcd alone",
		Why:     "Smaller: bursts of small writes turn into PUTs early. Larger: etcd's log and database grow faster than they are compacted.",
		field:   func(s *Settings) any { return &s.InlineRate },
	},
	{
		Name: "inline-across-zones", Group: "Writing", Default: "true", Commands: Agent,
		Meaning: "commit small writes through etcd alone also where the shard's leader is in another zone",
		Why:     "etcd spans the zones anyway, and milliseconds are worth a few kilobytes on the way to the leader. With false, such writes are stored in the object store, which costs PUTs and their latency, and no record batch travels between agents of two zones.",
		field:   func(s *Settings) any { return &s.InlineAcrossZones },
	},
	{
		Name: "rollup-age", Group: "Writing", Default: "60s", Min: "1s", Max: "1h", Commands: serving,
		Meaning: "age at which records committed through etcd are moved into a segment",
		Why:     "Shorter: more small segments. Longer: journal and snapshots hold more bytes, and a cluster rebuilt from the bucket alone would miss more.",
		field:   func(s *Settings) any { return &s.RollupAge },
	},
	{
		Name: "rollup-size", Group: "Writing", Default: "4MiB", Min: "64KiB", Max: "64MiB", Commands: serving,
		Meaning: "bytes of a shard committed through etcd at which they are moved into a segment",
		Why:     "Smaller: more small segments. Larger: 64 shards may keep that much each in etcd, far from its quota at 4MiB.",
		field:   func(s *Settings) any { return &s.RollupSize },
	},
	{
		Name: "carry-age", Group: "Writing", Default: "5s", Min: "500ms", Max: "1h", Commands: serving,
		Meaning: "age at which journal records that no segment took along are stored in the bucket by themselves",
		Why:     "Shorter: an agent that commits little through etcd pays more PUTs, up to one each time. Longer: if etcd is lost together with the agents, floe recover misses that much.",
		field:   func(s *Settings) any { return &s.CarryAge },
	},
	{
		Name: "snapshot-age", Group: "Writing", Default: "5m", Min: "1s", Max: "24h", Commands: serving,
		Meaning: "for how long a shard's journal may hold a record that no snapshot does",
		Why:     "Shorter: shards with little traffic cost a PUT each time. Longer: garbage that carries journal records is kept for longer.",
		field:   func(s *Settings) any { return &s.SnapshotAge },
	},
	{
		Name: "snapshot-records", Group: "Writing", Default: "2000", Min: "10", Max: "1000000", Commands: serving,
		Meaning: "records of a shard's journal after which its state is stored as a snapshot",
		Why:     "Smaller: more PUTs, of states that are large where there are many partitions. Larger: a takeover reads more of the journal, and etcd holds it.",
		field:   func(s *Settings) any { return &s.SnapshotRecords },
	},
	{
		Name: "merge-target", Group: "Tiers", Default: "32MiB", Min: "64KiB", Max: "256MiB", Commands: serving,
		Meaning: "size that merged runs of a partition aim at; runs of a quarter of it are never written again",
		Why:     "Smaller: more objects and requests for the same records. Larger: each byte is written more often, and a merge holds up to twice as much memory.",
		field:   func(s *Settings) any { return &s.MergeTarget },
	},
	{
		Name: "merge-age", Group: "Tiers", Default: "1m", Min: "10ms", Max: "1h", Commands: serving,
		Meaning: "how long extents that are worth merging wait for more of them, unless they fill a segment",
		Why:     "Shorter: a cluster with little traffic pays more PUTs. Longer: the state of its partitions holds more extents, and reading them takes more requests.",
		field:   func(s *Settings) any { return &s.MergeAge },
	},
	{
		Name: "manifest-extents", Group: "Tiers", Default: "256", Min: "4", Max: "4096", Commands: serving,
		Meaning: "extents of a partition that move out of its state into one object, a manifest, at most, when half as many more are there; beyond 32, an eighth of the partition's bytes at most, since retention deletes what lies in a manifest together",
		Why:     "Smaller: a partition has more manifests, each named in its state. Larger: states hold more, and a reader of old records reads larger manifests.",
		field:   func(s *Settings) any { return &s.ManifestExtents },
	},
	{
		Name: "jobs-rate", Group: "Tiers", Default: "128MiB", Min: "0B", Max: "64GiB", Commands: serving,
		Meaning: "bytes per second that merging and log compaction of this agent may move; an eighth of it while clients keep it busy; 0: no limit",
		Why:     "Smaller: small extents pile up under a load that lasts. Larger: clients share processor and network with jobs.",
		field:   func(s *Settings) any { return &s.JobsRate },
	},
	{
		Name: "clean-memory", Group: "Tiers", Default: "64MiB", Min: "1MiB", Max: "64GiB", Commands: serving,
		Meaning: "memory in which one pass of log compaction holds the keys of a partition, some 30 bytes each",
		Why:     "Smaller: a partition with more new keys than fit is read again for each part of them. Larger: it comes on top of memory-budget while a partition with that many keys is compacted. 64MiB are two million keys.",
		field:   func(s *Settings) any { return &s.CleanMemory },
	},
	{
		Name: "clean-min-bytes", Group: "Tiers", Default: "1MiB", Min: "0B", Max: "1TiB", Commands: serving,
		Meaning: "bytes that must be new in a partition for log compaction at once; with fewer it has a pass every 40 clean-intervals",
		Why:     "Smaller: a thousand small compacted partitions with a little traffic cost a thousand PUTs a minute. Larger: they hold more that is superseded. A topic's max.compaction.lag.ms is kept all the same.",
		field:   func(s *Settings) any { return &s.CleanMinBytes },
	},
	{
		Name: "clean-interval", Group: "Tiers", Default: "15s", Min: "100ms", Max: "1h", Commands: serving,
		Meaning: "how often log compaction looks for partitions that are due",
		Why:     "Shorter: looking takes time where there are very many partitions. Longer: topics with short lags are compacted late. Kafka looks every 15s too.",
		field:   func(s *Settings) any { return &s.CleanInterval },
	},
	{
		Name: "retention-check-interval", Group: "Tiers", Default: "5m", Min: "100ms", Max: "24h", Commands: serving,
		Meaning: "how often partitions are looked through for records that retention.ms and retention.bytes do not keep",
		Why:     "Kafka's log.retention.check.interval.ms. Shorter: looking takes time where there are very many partitions. Longer: records stay that much longer. A change of a topic is felt at once.",
		field:   func(s *Settings) any { return &s.RetentionInterval },
	},
	{
		Name: "gc-interval", Group: "Tiers", Default: "10m", Min: "100ms", Max: "24h", Commands: serving,
		Meaning: "least time between two sweeps of the object store for objects that nothing names",
		Why:     "Shorter: each sweep lists the bucket, a request for a thousand objects. Longer: garbage is paid for that much longer. A cluster in which nothing changes is not swept.",
		field:   func(s *Settings) any { return &s.GCInterval },
	},
	{
		Name: "gc-grace", Group: "Tiers", Default: "10m", Min: "1ms", Max: "8760h", Commands: serving,
		Meaning: "how long an object is kept after the first sweep that found it to be garbage",
		Why:     "Shorter: readers whose view lags read again. Longer: garbage is paid for that much longer; to restore etcd from backups without floe recover, give the age of the oldest.",
		field:   func(s *Settings) any { return &s.GCGrace },
	},

	{
		Name: "auto-create-topics", Group: "Topics", Default: "true", Commands: serving,
		Meaning: "create a topic when a client that allows it first asks for it",
		Why:     "As Kafka does. Turn it off where a typing error must not become a topic.",
		field:   func(s *Settings) any { return &s.AutoCreateTopics },
	},
	{
		Name: "num-partitions", Group: "Topics", Default: "1", Min: "1", Max: "100000", Commands: serving,
		Meaning: "partitions of a topic whose creator does not say",
		Why:     "As Kafka has it. Partitions can be added and never removed.",
		field:   func(s *Settings) any { return &s.NumPartitions },
	},
	{
		Name: "max-partitions", Group: "Topics", Default: "10000", Min: "1", Max: "100000", Commands: serving,
		Meaning: "most partitions that a topic may have",
		Why:     "Smaller: a large topic is refused. Larger: each partition costs every agent memory, and a slip of the finger costs as much.",
		field:   func(s *Settings) any { return &s.MaxPartitions },
	},
	{
		Name: "retention", Group: "Topics", Default: "168h", Min: "0s", Max: "876000h", Commands: serving,
		Meaning: "age at which records are deleted; 0s: never; a topic's retention.ms overrides it",
		Why:     "Kafka's default, a week. Shorter: consumers that were away lose records. Longer: the object store holds, and bills, more.",
		field:   func(s *Settings) any { return &s.Retention },
	},
	{
		Name: "default-replication-factor", Group: "Topics", Default: "1", Min: "1", Max: "32767", Commands: serving,
		Meaning: "replication factor that is reported for a topic whose creator does not say",
		Why:     "The object store replicates; the number is kept because clients ask for it.",
		field:   func(s *Settings) any { return &s.DefaultReplicationFactor },
	},
	{
		Name: "message-max-bytes", Group: "Topics", Default: "1048588B", Min: "1KiB", Max: "64MiB", Commands: serving,
		Meaning: "largest record batch, as it is sent; a topic's max.message.bytes overrides it",
		Why:     "Kafka's default: 1MiB and the 12 bytes of its oldest log header. Larger: one batch is one unit of memory everywhere.",
		field:   func(s *Settings) any { return &s.MessageMaxBytes },
	},
	{
		Name: "producer-id-expiration", Group: "Topics", Default: "24h", Min: "1m", Max: "720h", Commands: serving,
		Meaning: "time without a write after which an idempotent producer is forgotten",
		Why:     "Kafka's default. Shorter: a producer that slept is told its id is unknown. Longer: every short-lived producer stays in the snapshots.",
		field:   func(s *Settings) any { return &s.ProducerIDExpiration },
	},

	{
		Name: "group-initial-rebalance-delay", Group: "Groups", Default: "3s", Min: "0s", Max: "5m", Commands: serving,
		Meaning: "time that a new classic group waits for more members before it assigns partitions",
		Why:     "Kafka's default. Shorter: members that start together are assigned partitions once each, and lose them again to the next. Longer: every new group starts that much later. The consumer protocol needs no such wait.",
		field:   func(s *Settings) any { return &s.GroupInitialRebalanceDelay },
	},
	{
		Name: "group-min-session-timeout", Group: "Groups", Default: "6s", Min: "1ms", Max: "24h", Commands: serving,
		Meaning: "shortest session.timeout.ms that a member of a classic group may ask for",
		Why:     "Kafka's default. Shorter: members whose process pauses, or whose coordinator moves, which takes lease-ttl and some more, are put out for nothing. Longer: members that need to be replaced quickly are refused.",
		field:   func(s *Settings) any { return &s.GroupMinSessionTimeout },
	},
	{
		Name: "group-max-session-timeout", Group: "Groups", Default: "30m", Min: "1s", Max: "24h", Commands: serving,
		Meaning: "longest session.timeout.ms that a member of a classic group may ask for",
		Why:     "Kafka's default. Shorter: members that process for long between heartbeats are refused. Longer: the partitions of a member that died stay without a reader for that long.",
		field:   func(s *Settings) any { return &s.GroupMaxSessionTimeout },
	},
	{
		Name: "group-max-size", Group: "Groups", Default: "2000", Min: "1", Max: "100000", Commands: serving,
		Meaning: "most members that a group may have; further ones are refused",
		Why:     "Kafka has no limit. Smaller: a large fleet does not fit into one group. Larger: the leader of a classic group is sent what all members say of themselves, and every rebalance asks all of them to come back.",
		field:   func(s *Settings) any { return &s.GroupMaxSize },
	},
	{
		Name: "max-groups", Group: "Groups", Default: "20000", Min: "1", Max: "1000000", Commands: serving,
		Meaning: "most groups that a shard holds, of those whose names' hashes fall to it; further ones are refused with POLICY_VIOLATION",
		Why:     "Kafka has no limit, and anybody who may read a topic can make groups by committing offsets. Smaller: tools that make a group for every run meet it before offsets-retention forgets the old ones. Larger: every agent holds all groups in memory, a kilobyte or more each, times the shards.",
		field:   func(s *Settings) any { return &s.MaxGroups },
	},
	{
		Name: "offsets-retention", Group: "Groups", Default: "168h", Min: "1m", Max: "876000h", Commands: serving,
		Meaning: "time after which the committed offsets of a group without members are forgotten",
		Why:     "Kafka's offsets.retention.minutes, a week. Shorter: a consumer that was away begins where auto.offset.reset says. Longer: offsets of groups that are gone for ever stay in the snapshots.",
		field:   func(s *Settings) any { return &s.OffsetsRetention },
	},
	{
		Name: "offset-metadata-max-bytes", Group: "Groups", Default: "4KiB", Min: "0B", Max: "64KiB", Commands: serving,
		Meaning: "longest text that a client may commit beside an offset",
		Why:     "Kafka's default. Smaller: clients that keep state there, such as Kafka Streams, are refused. Larger: it is journaled with every commit and kept in memory for every partition of a group.",
		field:   func(s *Settings) any { return &s.OffsetMetadataMaxBytes },
	},
	{
		Name: "consumer-session-timeout", Group: "Groups", Default: "45s", Min: "1s", Max: "24h", Commands: serving,
		Meaning: "time without a heartbeat after which a member of the consumer protocol is put out; a group's consumer.session.timeout.ms overrides it",
		Why:     "Kafka's default. Shorter: a pause or a slow network costs a rebalance. Longer: the partitions of a member that died stay without a reader for that long.",
		field:   func(s *Settings) any { return &s.ConsumerSessionTimeout },
	},
	{
		Name: "consumer-heartbeat-interval", Group: "Groups", Default: "5s", Min: "100ms", Max: "1h", Commands: serving,
		Meaning: "time between two heartbeats of a member of the consumer protocol; a group's consumer.heartbeat.interval.ms overrides it",
		Why:     "Kafka's default. Shorter: assignments reach members sooner, and every member asks that much more often. Longer: a rebalance takes several of these.",
		field:   func(s *Settings) any { return &s.ConsumerHeartbeatInterval },
	},

	{
		Name: "transaction-max-timeout", Group: "Transactions", Default: "15m", Min: "1s", Max: "24h", Commands: serving,
		Meaning: "longest transaction.timeout.ms that a producer may ask for",
		Why:     "Kafka's default. Shorter: producers with long transactions, such as Flink's between checkpoints, are refused. Longer: a producer that died holds consumers that read committed records back for that long.",
		field:   func(s *Settings) any { return &s.TransactionMaxTimeout },
	},
	{
		Name: "transactional-id-expiration", Group: "Transactions", Default: "168h", Min: "1m", Max: "876000h", Commands: serving,
		Meaning: "time without a transaction after which a transactional id is forgotten",
		Why:     "Kafka's default, a week. Shorter: a producer that was idle for longer has to begin again. Longer: ids that are made up for every start stay in the snapshots.",
		field:   func(s *Settings) any { return &s.TransactionalIDExpiration },
	},

	{
		Name: "memory-budget", Group: "Limits", Default: "512MiB", Min: "64MiB", Max: "1TiB", Commands: serving,
		Meaning: "bytes in flight and caches of an agent, a quarter of them answers to consumers; the whole process is kept to it",
		Why:     "Smaller: clients wait before a read of their next request. Larger: the machine must have it. Give about three quarters of the memory there is.",
		field:   func(s *Settings) any { return &s.MemoryBudget },
	},
	{
		Name: "cache-size", Group: "Limits", Default: "192MiB", Min: "1MiB", Max: "1TiB", Commands: serving,
		Meaning: "part of memory-budget that holds blocks of the object store",
		Why:     "Smaller: consumers that are minutes behind read the same blocks twice. Larger: less is left for requests in flight, which have what this and the quarter for answers leave of memory-budget.",
		field:   func(s *Settings) any { return &s.CacheSize },
	},
	{
		Name: "cache-disk-dir", Group: "Limits", Commands: Agent,
		Meaning: "folder in which blocks of the object store are kept when they leave memory; empty: none",
		Why:     "Empty, because nothing needs it. A fast local disk saves GETs and time where consumers replay what others have read; whatever becomes of the folder, records come from the store. Each agent needs its own.",
		field:   func(s *Settings) any { return &s.CacheDiskDir },
	},
	{
		Name: "cache-disk-bytes", Group: "Limits", Default: "16GiB", Min: "16MiB", Max: "64TiB", Commands: Agent,
		Meaning: "size of the files in cache-disk-dir",
		Why:     "Smaller: blocks leave before they are read again. Larger: the disk must have it, and at worst 5MiB of memory for each GiB go to the index.",
		field:   func(s *Settings) any { return &s.CacheDiskBytes },
	},
	{
		Name: "max-request-bytes", Group: "Limits", Default: "100MiB", Min: "1MiB", Max: "1GiB", Commands: serving,
		Meaning: "largest request that is read; a longer one closes the connection",
		Why:     "Kafka's socket.request.max.bytes. Smaller: producers with large max.request.size fail. Larger: one client can take the whole budget.",
		field:   func(s *Settings) any { return &s.MaxRequestBytes },
	},
	{
		Name: "fetch-max-bytes", Group: "Limits", Default: "55MiB", Min: "64KiB", Max: "1GiB", Commands: serving,
		Meaning: "largest answer to a fetch",
		Why:     "Kafka's default. Smaller: consumers that catch up make more round trips. Larger: few consumers hold much memory.",
		field:   func(s *Settings) any { return &s.FetchMaxBytes },
	},
	{
		Name: "fetch-lagging-memory", Group: "Limits", Default: "0B", Min: "0B", Max: "1TiB", Commands: serving,
		Meaning: "part of the quarter of memory-budget for answers that consumers far behind have to themselves; 0B: half of it",
		Why:     "They have this much and no more, so that a full replay leaves the rest to consumers that keep up. Smaller: catching up is slower. Larger: many consumers that keep up get smaller answers.",
		field:   func(s *Settings) any { return &s.FetchLagging },
	},
	{
		Name: "max-connections", Group: "Limits", Default: "10000", Min: "10", Max: "1000000", Commands: serving,
		Meaning: "connections of clients to an agent; further ones are closed at once",
		Why:     "Smaller: a large fleet of clients does not fit. Larger: each costs some 20 KiB and a file descriptor.",
		field:   func(s *Settings) any { return &s.MaxConnections },
	},
	{
		Name: "idle-timeout", Group: "Limits", Default: "10m", Min: "1s", Max: "24h", Commands: serving,
		Meaning: "time without a request after which a connection is closed",
		Why:     "Kafka's connections.max.idle.ms; its clients close theirs after 9m, so that they do it first.",
		field:   func(s *Settings) any { return &s.IdleTimeout },
	},

	{
		Name: "config", Group: "Process", Commands: all,
		Meaning: "YAML file with settings, `name: value` a line",
		Why:     "None is needed. It may be shared by all commands: each reads what applies to it.",
		field:   func(s *Settings) any { return &s.Config },
	},
	{
		Name: "log-level", Group: "Process", Default: "info", Choices: []string{"debug", "info", "warn", "error"}, Commands: serving,
		Meaning: "least severe level that is logged: debug, info, warn, error",
		Why:     "info tells what changes (leadership, connections to etcd), not what is served.",
		field:   func(s *Settings) any { return &s.LogLevel },
	},
	{
		Name: "log-format", Group: "Process", Default: "text", Choices: []string{"text", "json"}, Commands: serving,
		Meaning: "form of the log on standard error: text, json",
		Why:     "text for people; json for a collector.",
		field:   func(s *Settings) any { return &s.LogFormat },
	},
	{
		Name: "network-rate", Group: "Process", Default: "0B", Min: "0B", Max: "100GiB", Commands: serving,
		Meaning: "bytes a second that this machine's network carries each way, for floe_load_ratio; 0B: not known",
		Why:     "Unless it is given, autoscaling does not see a network that is full: no system tells what it can carry. Clouds name it for each kind of machine: 10 Gbit/s are 1192MiB.",
		field:   func(s *Settings) any { return &s.NetworkRate },
	},
	{
		Name: "drain-timeout", Group: "Process", Default: "30s", Min: "0s", Max: "10m", Commands: serving,
		Meaning: "time that SIGTERM leaves for requests in flight and for handing over leadership",
		Why:     "Shorter: a slow upload is cut off, and its producer retries. Longer: Kubernetes kills after 30s unless told otherwise.",
		field:   func(s *Settings) any { return &s.DrainTimeout },
	},
})
