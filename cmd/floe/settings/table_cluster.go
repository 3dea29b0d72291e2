package settings

// clusterSettings are the rows of the table about which cluster an agent belongs to, and as what.
var clusterSettings = []Setting{
	{
		Name: "cluster", Group: "Cluster", Default: "floe", Commands: all,
		Meaning: "name of the cluster: everything in etcd is under /floe/NAME/",
		Why:     "One etcd may serve several clusters; each needs a store, or a prefix of one, of its own.",
		field:   func(s *Settings) any { return &s.Cluster },
	},
	{
		Name: "etcd", Group: "Cluster", Commands: Agent | Inspect,
		Meaning: "etcd members, as HOST:PORT or URL, separated by commas",
		Why:     "No default: an agent that finds a stranger's etcd on localhost would write to it.",
		field:   func(s *Settings) any { return &s.Etcd },
	},
	{
		Name: "etcd-ca", Group: "Cluster", Commands: Agent | Inspect,
		Meaning: "PEM file with the authorities that sign etcd's certificate; turns TLS on",
		Why:     "Unless given, https endpoints are checked against the system's authorities, and others are plain text.",
		field:   func(s *Settings) any { return &s.EtcdCA },
	},
	{
		Name: "etcd-cert", Group: "Cluster", Commands: Agent | Inspect,
		Meaning: "PEM file with the certificate that etcd knows this agent by; needs etcd-key",
		Why:     "Whoever reaches etcd owns the cluster: let it ask for certificates.",
		field:   func(s *Settings) any { return &s.EtcdCert },
	},
	{
		Name: "etcd-key", Group: "Cluster", Commands: Agent | Inspect,
		Meaning: "PEM file with the key of etcd-cert",
		Why:     "It must not be readable by everyone.",
		field:   func(s *Settings) any { return &s.EtcdKey },
	},
	{
		Name: "etcd-user", Group: "Cluster", Commands: Agent | Inspect,
		Meaning: "user of etcd; needs etcd-password-file",
		Why:     "Empty: no login.",
		field:   func(s *Settings) any { return &s.EtcdUser },
	},
	{
		Name: "etcd-password-file", Group: "Cluster", Commands: Agent | Inspect,
		Meaning: "file with the password of etcd-user",
		Why:     "A file, because arguments and environments are seen by others. It must not be readable by everyone.",
		field:   func(s *Settings) any { return &s.EtcdPasswordFile },
	},
	{
		Name: "store", Group: "Cluster", Commands: Agent | Inspect,
		Meaning: "object store: s3://BUCKET/PREFIX?region=R&endpoint=URL&driver=s3|minio or file:///DIR",
		Why:     "No default: records must go where the operator says. Credentials come from the environment, never from here.",
		field:   func(s *Settings) any { return &s.Store },
	},
	{
		Name: "node-id", Group: "Cluster", Default: "0", Min: "0", Max: "2147483647", Commands: serving,
		Meaning: "Kafka broker id of this agent; 0: the smallest that is free",
		Why:     "Agents hold nothing, so an id need not be theirs for ever. Give one where dashboards name agents by it.",
		field:   func(s *Settings) any { return &s.NodeID },
	},
	{
		Name: "zone", Group: "Cluster", Commands: Agent,
		Meaning: "availability zone of this agent; clients of this zone are told of its agents alone as leaders, see client-zone",
		Why:     "Empty: all agents are equally near.",
		field:   func(s *Settings) any { return &s.Zone },
	},
	{
		Name: "roles", Group: "Cluster", Default: "produce,fetch,jobs", Commands: Agent,
		Meaning: "what this agent is for: produce (leads shards and coordinates), fetch (serves reads), jobs (merges, cleans and sweeps), separated by commas",
		Why:     "All: a small cluster needs nothing else. Agents for jobs alone keep heavy work away from clients. What no live agent is for, all do: nothing stops for want of a role.",
		field:   func(s *Settings) any { return &s.Roles },
	},
	{
		Name: "shards", Group: "Cluster", Default: "64", Min: "1", Max: "1024", Commands: serving,
		Meaning: "number of shards, read only when the cluster is created",
		Why:     "Fewer: leadership cannot spread over many agents, and one journal carries more. More: an idle cluster holds more keys and watches, and takeover touches more of them. It can never be changed.",
		field:   func(s *Settings) any { return &s.Shards },
	},
	{
		Name: "lease-ttl", Group: "Cluster", Default: "3s", Min: "2s", Max: "60s", Commands: serving,
		Meaning: "how long etcd keeps the leadership of an agent that is not heard of; whole seconds",
		Why:     "Shorter: a pause of two seconds, or a slow election of etcd's, moves leadership for nothing. Longer: after a crash, partitions wait that long for a new leader. It is renewed five times within itself.",
		field:   func(s *Settings) any { return &s.LeaseTTL },
	},
	{
		Name: "format-level", Group: "Cluster", Default: "0", Min: "0", Max: "2", Commands: serving,
		Meaning: "format level up to which this agent raises the cluster's, and that of a new cluster; 0: the newest that all agents read",
		Why:     "The level never falls, and releases that do not read it can never join again. Give the present one to keep the way back open for longer; docs/upgrade.md.",
		field:   func(s *Settings) any { return &s.FormatLevel },
	},
	{
		Name: "format-level-after", Group: "Cluster", Default: "1h", Min: "0s", Max: "720h", Commands: serving,
		Meaning: "for how long all agents must have read a higher format level before it rises",
		Why:     "Shorter: a release that turns out bad cannot be rolled back. Longer: what the new release brings waits. The time starts again with the agent that leads shard 0.",
		field:   func(s *Settings) any { return &s.FormatLevelAfter },
	},
	{
		Name: "rpc-tls-cert", Group: "Cluster", Commands: Agent,
		Meaning: "PEM file with the certificate that other agents know this one by; turns on TLS between agents; needs rpc-tls-key and rpc-tls-ca",
		Why:     "Agents prove by a secret in etcd that they belong to the cluster; TLS keeps it, and the records, from whoever sees the network. All agents have it or none: those that have cannot talk to those that have not.",
		field:   func(s *Settings) any { return &s.RPCCert },
	},
	{
		Name: "rpc-tls-key", Group: "Cluster", Commands: Agent,
		Meaning: "PEM file with the key of rpc-tls-cert",
		Why:     "It must not be readable by everyone.",
		field:   func(s *Settings) any { return &s.RPCKey },
	},
	{
		Name: "rpc-tls-ca", Group: "Cluster", Commands: Agent,
		Meaning: "PEM file with the authorities that sign the certificates of all agents",
		Why:     "Never the system's: whoever it trusts is served. Give agents an authority of their own.",
		field:   func(s *Settings) any { return &s.RPCCA },
	},
	{
		Name: "rpc-tls-name", Group: "Cluster", Commands: Agent,
		Meaning: "name that the certificates of all agents have; unless given, the host under which each is reached",
		Why:     "Agents that come and go under any address share a certificate, or have certificates with one name.",
		field:   func(s *Settings) any { return &s.RPCName },
	},
	{
		Name: "etcd-history", Group: "Cluster", Default: "30s", Min: "5s", Max: "24h", Commands: serving,
		Meaning: "age at which agents let etcd forget old revisions",
		Why:     "Shorter: a watch that was cut off for longer must load the snapshot again. Longer: etcd's database grows with every append in between, at the full inline rate by 240MiB a minute.",
		field:   func(s *Settings) any { return &s.EtcdKeep },
	},
	{
		Name: "etcd-quota", Group: "Cluster", Default: "2GiB", Min: "64MiB", Max: "8GiB", Commands: Dev,
		Meaning: "size at which the embedded etcd refuses writes",
		Why:     "Floe keeps its database far below this. Smaller: no room for a burst. Larger: etcd advises against more than 8GiB.",
		field:   func(s *Settings) any { return &s.EtcdQuota },
	},
}
