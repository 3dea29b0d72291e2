// Package sim runs whole agents on virtual time against seeded faults and checks what came
// of it against Floe's invariants. It has tests only.
//
// A seed draws a cluster (three agents, a metadata store and an object store in memory,
// each agent with its own faulty connection to both and to the other agents), producers and
// consumers that behave as Kafka's clients do, and a nemesis that crashes, pauses and cuts
// off agents. After a while everything is healed, the producers must finish, and the
// checker compares what clients were told with what an auditor saw committed.
//
//	world     the cluster of one seed: agents, stores, network         world_test.go, node_test.go
//	clients   idempotent and plain producers, consumers, an operator   producer_test.go, ...
//	          transactional producers, zombies of their requests       txnproducer_test.go, txnend_test.go
//	          members of groups of both protocols, simple groups       groups_test.go, members_test.go
//	nemesis   what goes wrong, and when                                nemesis_test.go
//	auditor   replays every journal record as the store commits it     audit_test.go, txnaudit_test.go, groupaudit_test.go
//	checker   invariants over the clients' history and the audit       check_test.go, txncheck_test.go, groupcheck_test.go
//	bugs      planted on purpose: the checker must catch each          bugs_test.go, txnbugs_test.go
//
// A seed fixes the workload and what the nemesis does. It does not fix the order in which
// goroutines run at the same instant of virtual time, nor the agents' random session ids;
// so a failing seed may need several runs to fail again:
//
//	go test ./integration/sim -args -seed=42 -repeat=100
package sim
