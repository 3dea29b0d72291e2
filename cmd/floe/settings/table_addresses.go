package settings

// addressSettings are the rows of the table about who connects where.
var addressSettings = []Setting{
	{
		Name: "addr", Group: "Addresses", Default: "127.0.0.1:9092", Commands: serving,
		Meaning: "address on which Kafka clients connect",
		Why:     "Not every interface: a listener that anyone can reach is opened on purpose. 9092 is where Kafka clients look.",
		field:   func(s *Settings) any { return &s.Addr },
	},
	{
		Name: "advertise", Group: "Addresses", Commands: serving,
		Meaning: "address that clients are told to connect to; unless given, that of addr",
		Why:     "Clients connect to what Metadata answers, not to what they bootstrap from. Behind a NAT or on 0.0.0.0 nobody but the operator knows that address, so then it must be given.",
		field:   func(s *Settings) any { return &s.Advertise },
	},
	{
		Name: "client-zone", Group: "Addresses", Default: "client", Choices: clientZones, Commands: serving,
		Meaning: "how the zone of clients is found: client (zone=NAME in the client id, else client.rack), agent (the zone of the agent that is asked), client-else-agent, or none",
		Why:     "A client whose zone is known is told of agents there alone as leaders. One that tells nothing may have come to any agent by a load balancer, and asks another one the next time: with the agents' zones, each answer would send it somewhere else.",
		field:   func(s *Settings) any { return &s.ClientZone },
	},
	{
		Name: "listener", Group: "Addresses", Commands: serving,
		Meaning: "further listener for Kafka clients: NAME=HOST:PORT[,advertise=HOST:PORT][,client-zone=MODE]; may be given several times",
		Why:     "None: one address is enough where all clients reach agents the same way. Clients are told of the agents' addresses on the listener that they came in on, so give all agents listeners of the same names.",
		field:   func(s *Settings) any { return &s.Listener },
	},
	{
		Name: "rpc-addr", Group: "Addresses", Commands: serving,
		Meaning: "address on which agents talk to each other; unless given, a free port on the host of addr",
		Why:     "A fixed port is needed only where a firewall stands between agents. Others learn the port from etcd, under the host of advertise.",
		field:   func(s *Settings) any { return &s.RPCAddr },
	},
	{
		Name: "rpc-advertise", Group: "Addresses", Commands: serving,
		Meaning: "address that other agents are told to connect to; unless given, the host of advertise with the port of rpc-addr",
		Why:     "Needed only where clients reach agents by another way than agents reach each other: published ports of containers, load balancers.",
		field:   func(s *Settings) any { return &s.RPCAdvertise },
	},
	{
		Name: "admin-addr", Group: "Addresses", Default: "127.0.0.1:9644", Commands: serving,
		Meaning: "address of /metrics, /healthz, /readyz and /debug/pprof; empty: none",
		Why:     "Loopback, because profiles and metrics tell a stranger too much.",
		field:   func(s *Settings) any { return &s.AdminAddr },
	},
	{
		Name: "admin-insecure", Group: "Addresses", Default: "false", Commands: serving,
		Meaning: "allow an admin-addr that others can reach, although it asks for no password",
		Why:     "A network policy may protect it, as in Kubernetes; Floe cannot see that and wants to be told.",
		field:   func(s *Settings) any { return &s.AdminInsecure },
	},
}
