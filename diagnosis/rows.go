package diagnosis

import "slices"

// rows is the table of all kinds of findings: clients and topics first, then what an agent depends
// on, itself, the fleet, and what only floe doctor finds.
var rows = slices.Concat(clientRows, storeRows, metadataRows, agentRows, fleetRows, outsideRows)

// share is a part of a whole, 0 of nothing.
func share(part, whole float64) float64 {
	if whole <= 0 {
		return 0
	}
	return part / whole
}

// perSecond is a count within Window as a rate.
func (s *Snapshot) perSecond(count float64) float64 { return share(count, s.Window.Seconds()) }

// yes is a condition as a reading.
func yes(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

const (
	// busyClient is the rate of batches from which on their size matters. Below it small batches
	// cost nobody anything, and a client cannot help having little to say.
	busyClient = 20
	// busyTopic is the rate, bytes per second, from which on a topic's balance matters.
	busyTopic = 256 << 10
	// enough is how many events a quantile or a share of them needs to mean something.
	enough = 20
)

var clientRows = []Kind{
	{
		Name: "small_batches", Severity: Warning, Title: "a client makes small batches", Unit: Bytes, Bound: 4 << 10, Below: true,
		Measures: "mean size of the batches of a client id that sends more than 20 a second",
		Why:      "Each batch costs validation, an entry in the journal and in the index: ten times as many take ten times as much of everything but bytes.",
		Clients:  []string{"linger.ms", "batch.size", "compression.type"}, Advice: "give the producer linger.ms=50 and batch.size=262144",
		Runbook: "small_batches",
		measure: func(s *Snapshot, reading func(string, float64)) {
			for _, c := range s.Clients {
				if s.perSecond(c.Batches) > busyClient {
					reading("client.id "+c.ID, c.Bytes/c.Batches)
				}
			}
		},
	},
	{
		Name: "hot_partition", Severity: Warning, Title: "one partition gets very much", Unit: Rate, Bound: 16 << 20,
		Measures: "bytes per second that this agent took for one partition",
		Why:      "A partition is read by one member of a group and its batches are put in order by one leader: it does not scale as the topic does.",
		Settings: []string{"num-partitions"}, Clients: []string{"partitioner.class"}, Advice: "add partitions (kafka-topics --alter --partitions), and spread the keys",
		Runbook: "hot_partition",
		measure: func(s *Snapshot, reading func(string, float64)) {
			for _, p := range s.Partitions {
				reading(p.Name(), s.perSecond(p.Bytes))
			}
		},
	},
	{
		Name: "skewed_topic", Severity: Info, Title: "a topic's partitions get unlike amounts", Unit: Number, Bound: 4,
		Measures: "bytes that a partition got, as a multiple of its topic's mean, in topics of 4 partitions and more with 256KiB/s",
		Why:      "The consumer of that partition falls behind while those of the others wait.",
		Clients:  []string{"partitioner.class", "key"}, Advice: "use keys that spread, or none: then producers spread by themselves",
		Runbook: "skewed_topic",
		measure: func(s *Snapshot, reading func(string, float64)) {
			for _, p := range s.Partitions {
				if p.Of >= 4 && s.perSecond(p.Total) >= busyTopic {
					reading(p.Name(), p.Bytes/(p.Total/float64(p.Of)))
				}
			}
		},
	},
	{
		Name: "many_partitions", Shared: true, Severity: Warning, Title: "the cluster has very many partitions", Unit: Number, Bound: 20000,
		Measures: "partitions of all topics",
		Why:      "Every agent keeps all of them in memory, each flush is cut into as many pieces, and Metadata answers grow with them.",
		Settings: []string{"num-partitions", "max-partitions", "auto-create-topics"}, Advice: "delete topics that nobody uses, and create new ones with fewer partitions",
		Runbook: "many_partitions",
		measure: func(s *Snapshot, reading func(string, float64)) { reading("", s.Levels.Partitions) },
	},
	{
		Name: "group_rebalances", Severity: Warning, Title: "a consumer group rebalances often", Unit: Number, Bound: 10,
		Measures: "rebalances of a group within ten minutes: assignments by the leader of a classic group, new epochs of others",
		Why:      "While a group rebalances its members read little or nothing.",
		Settings: []string{"group-initial-rebalance-delay"}, Clients: []string{"session.timeout.ms", "max.poll.interval.ms", "group.instance.id", "group.protocol"},
		Advice: "find out why members leave (time-outs: raise max.poll.interval.ms), give them a group.instance.id, or use group.protocol=consumer", Runbook: "group_rebalances",
		measure: func(s *Snapshot, reading func(string, float64)) {
			for _, g := range s.Groups {
				reading("group "+g.Name, g.Rebalances)
			}
		},
	},
	{
		Name: "transaction_open", Severity: Warning, Title: "a transaction has been open for long", Unit: Seconds, Bound: 60,
		Measures: "age of a transaction that has records in a partition whose leader this agent is",
		Why:      "Consumers that read committed records wait behind its first record, in every partition of it.",
		Settings: []string{"transaction-max-timeout"}, Clients: []string{"transaction.timeout.ms"}, Advice: "commit more often; floe txn list shows whose it is, floe txn hanging whether it will end",
		Runbook: "transaction_open",
		measure: func(s *Snapshot, reading func(string, float64)) {
			for _, t := range s.Open {
				reading(t.name(), seconds(t.Age))
			}
		},
	},
	{
		Name: "clients_throttled", Severity: Warning, Title: "producers are told to wait", Unit: Seconds, Bound: 0.05,
		Measures: "throttle time in answers to producers, mean over a minute",
		Why:      "The stores, or the memory for requests, do not keep up: producers are slower than they could be.",
		Settings: []string{"memory-budget", "uploads-in-flight", "flush-size"}, Advice: "look whether a store is slow or throttles (store_trouble); else give agents more memory, or start more of them",
		Runbook: "clients_throttled",
		measure: func(s *Snapshot, reading func(string, float64)) { reading("", s.Levels.ThrottleSeconds) },
	},
	{
		Name: "batches_refused", Severity: Critical, Title: "batches are refused", Unit: Number, Bound: 0,
		Measures: "batches within a minute that were refused because nothing could be stored and the memory for requests was half full",
		Why:      "Producers try again for delivery.timeout.ms, and then give up.",
		Settings: []string{"memory-budget"}, Clients: []string{"delivery.timeout.ms"}, Advice: "make the object store well again: /readyz says what it answers; agents go on by themselves",
		Runbook: "FloeUploadsFail",
		measure: func(s *Snapshot, reading func(string, float64)) { reading("", s.Recent.BatchesRefused) },
	},
	{
		Name: "flushes_small", Severity: Info, Title: "flushes are small", Unit: Bytes, Bound: 64 << 10, Below: true,
		Measures: "mean size of a flush of an agent that makes more than 5 a second",
		Why:      "Each flush is a PUT, which is billed whatever its size, and many small segments have to be merged.",
		Settings: []string{"flush-age", "flush-size", "inline-max", "flush-idle"}, Advice: "raise flush-age; if flush-size closes them, raise that",
		Runbook: "FloeFlushesSmall",
		measure: func(s *Snapshot, reading func(string, float64)) {
			if s.perSecond(s.Recent.Flushes) > 5 {
				reading("", s.Recent.FlushedBytes/s.Recent.Flushes)
			}
		},
	},
	{
		Name: "server_errors", Severity: Warning, Title: "requests end with UNKNOWN_SERVER_ERROR", Unit: Number, Bound: 0,
		Measures: "such answers within ten minutes",
		Why:      "It should never happen, and clients do not try again.",
		Advice:   "look into the agent's log of that minute, and report it", Runbook: "FloeServerErrors",
		measure: func(s *Snapshot, reading func(string, float64)) { reading("", s.Lately.ServerErrors) },
	},
}

var storeRows = []Kind{
	{
		Name: "store_throttles", Severity: Warning, Title: "the object store throttles", Unit: Share, Bound: 0.01,
		Measures: "requests to the object store that were told to come less often (429, 503), of all within a minute",
		Why:      "Uploads wait and are repeated, and producers with them.",
		Settings: []string{"flush-age", "flush-size", "jobs-rate", "uploads-in-flight"}, Advice: "ask for less: raise flush-age and flush-size, lower jobs-rate; ask the store's operator for more",
		Runbook: "FloeStoreThrottled",
		measure: func(s *Snapshot, reading func(string, float64)) {
			if s.Recent.StoreRequests >= enough {
				reading("", share(s.Recent.StoreThrottled, s.Recent.StoreRequests))
			}
		},
	},
	{
		Name: "store_errors", Severity: Warning, Title: "requests to the object store fail", Unit: Share, Bound: 0.05,
		Measures: "requests to the object store that ended in an error, a time-out or damage, of all within a minute",
		Why:      "Retries hide it, and latency shows it.",
		Settings: []string{"store"}, Advice: "look at the store's status, the network to it and its name's resolution", Runbook: "FloeStoreErrors",
		measure: func(s *Snapshot, reading func(string, float64)) {
			if s.Recent.StoreRequests >= enough {
				reading("", share(s.Recent.StoreFailed, s.Recent.StoreRequests))
			}
		},
	},
	{
		Name: "store_trouble", Severity: Warning, Title: "a store is in trouble", Unit: Seconds, Bound: 30,
		Measures: "for how long requests of a kind have been slow, refused, failing or without an answer",
		Why:      "Whatever needs the store waits: writes need both, reads of old records the object store.",
		Settings: []string{"store", "etcd"}, Advice: "/readyz of the agent says what is answered and what to do", Runbook: "store_trouble",
		measure: func(s *Snapshot, reading func(string, float64)) {
			for _, t := range s.Troubles {
				reading(t.Name, seconds(t.For))
			}
		},
	},
	{
		Name: "store_denied", Severity: Critical, Title: "the object store refuses the credentials", Unit: Number, Bound: 0,
		Measures: "requests to the object store that were refused within a minute",
		Why:      "Nothing can be stored: producers are refused.",
		Settings: []string{"store"}, Advice: "renew the credentials, or give them the rights of deploy/iam/policy.json", Runbook: "FloeStoreDenied",
		measure: func(s *Snapshot, reading func(string, float64)) { reading("", s.Recent.StoreDenied) },
	},
	{
		Name: "uploads_slow", Severity: Warning, Title: "uploads are slow", Unit: Seconds, Bound: 2,
		Measures: "time that one upload in a hundred takes at least, of 20 and more within a minute",
		Why:      "Every batch that is not committed through etcd waits for its upload.",
		Settings: []string{"uploads-in-flight", "flush-size", "inline-max"}, Advice: "look at the store and the network; smaller flushes and more uploads in flight hide some of it", Runbook: "FloeUploadsSlow",
		measure: func(s *Snapshot, reading func(string, float64)) {
			if s.Recent.Uploads >= enough {
				reading("", s.Recent.UploadP99)
			}
		},
	},
	{
		Name: "uploads_fail", Severity: Critical, Title: "uploads are given up", Unit: Number, Bound: 0,
		Measures: "flushes that could not be stored within ten minutes",
		Why:      "Their batches were refused, after all attempts; producers try again, for two minutes.",
		Settings: []string{"store"}, Advice: "the agent's log says why; see store_errors and store_denied", Runbook: "FloeUploadsFail",
		measure: func(s *Snapshot, reading func(string, float64)) { reading("", s.Lately.UploadsFailed) },
	},
	{
		Name: "reads_amplified", Severity: Info, Title: "more is read from the store than is served", Unit: Number, Bound: 3,
		Measures: "bytes got from the object store for fetches, as a multiple of those served, where it is more than 10MiB/s",
		Why:      "GETs and transfer are billed, and readers wait for them.",
		Settings: []string{"cache-size", "cache-disk-dir", "merge-target"}, Advice: "give the cache more memory, or a disk", Runbook: "FloeReadsAmplified",
		measure: func(s *Snapshot, reading func(string, float64)) {
			if s.perSecond(s.Recent.StoreFetchBytes) > 10<<20 {
				reading("", s.Recent.StoreFetchBytes/max(1, s.Recent.TailBytes+s.Recent.LaggingBytes))
			}
		},
	},
	{
		Name: "objects_lost", Severity: Critical, Title: "objects are gone that are named", Unit: Number, Bound: 0,
		Measures: "such objects, as of the last sweep",
		Why:      "Their records cannot be read any more, unless the bucket's versions or a copy have them.",
		Advice:   "restore them from the bucket's versions; floe fsck lists what is missing", Runbook: "FloeObjectsLost",
		measure: func(s *Snapshot, reading func(string, float64)) { reading("", s.Levels.LostObjects) },
	},
	{
		Name: "deletion_frozen", Severity: Warning, Title: "deletion from the object store is stopped", Unit: Yes, Bound: 0,
		Measures: "whether it is, by hand or because the metadata store was restored",
		Why:      "The bucket grows by whatever retention and merging leave behind.",
		Advice:   "see whether floe recover is needed; then floe gc --unfreeze", Runbook: "FloeDeletionFrozen",
		measure: func(s *Snapshot, reading func(string, float64)) { reading("", yes(s.Levels.Frozen)) },
	},
	{
		Name: "dead_bytes", Severity: Info, Title: "much of the bucket is dead", Unit: Number, Bound: 4,
		Measures: "bytes of segments in the bucket, as a multiple of those that records are in, from 1GiB on",
		Why:      "What is stored is billed.",
		Settings: []string{"gc-interval", "gc-grace", "jobs-rate"}, Advice: "see whether sweeps and merges go on (their failures are in the log), and whether gc-grace is very long", Runbook: "FloeGarbageGrows",
		measure: func(s *Snapshot, reading func(string, float64)) {
			if s.Levels.StoredBytes > 1<<30 {
				reading("", share(s.Levels.StoredBytes, s.Levels.LiveBytes))
			}
		},
	},
	{
		Name: "corrupt_reads", Severity: Warning, Title: "bytes that were read did not verify", Unit: Number, Bound: 0,
		Measures: "such reads within ten minutes",
		Why:      "They were read again and not served; whatever damages them may do more.",
		Settings: []string{"cache-disk-dir"}, Advice: "floe fsck --deep tells whether the store has them right; suspect disk, memory, or a proxy", Runbook: "FloeCorruptReads",
		measure: func(s *Snapshot, reading func(string, float64)) { reading("", s.Lately.CorruptReads) },
	},
}
