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
//	          judges what jobs make of extents, manifests and keys     tieraudit_test.go, cleanaudit_test.go
//	          and every deletion, when it comes to the bucket          objaudit_test.go
//	checker   invariants over the clients' history and the audit       check_test.go, txncheck_test.go, groupcheck_test.go, tiercheck_test.go
//	bugs      planted on purpose: the checker must catch each          bugs_test.go, txnbugs_test.go, tierbugs_test.go, rogue_test.go
//
// Merging, archives, roll-up, log compaction, retention and the sweep run within the agents at
// settings thousands of times more eager than the defaults (tiers_test.go), under all faults.
// Auditor and checker decode what they find, and use nothing else of the code they judge:
//
//   - a replacement keeps every batch of a partition that is not compacted, byte for byte; of a
//     compacted one every record at its offset but those that a newer one of its key
//     supersedes, that are aborted, or whose delete horizon has passed
//   - extents lie end to end, say what they hold, and are stamped; manifests say what they said
//   - nothing that any state, manifest or pointer names is deleted; in the end nothing else is left
//   - log starts move by policy or on request only; readers are told of exactly what is void
//
// A seed fixes the workload and what the nemesis does. It does not fix the order in which
// goroutines run at the same instant of virtual time, nor the agents' random session ids;
// so a failing seed may need several runs to fail again:
//
//	go test ./integration/sim -args -seed=42 -repeat=100
package sim
