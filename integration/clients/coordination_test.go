//go:build integration && unix

package clients

import (
	"flag"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/floelog/floe/integration/fixture"
)

// bootstrap runs the suites on a cluster that runs already, in place of the environments:
// Apache Kafka itself, for one, which tells a test's fault from Floe's.
var bootstrap = flag.String("bootstrap", "", "addresses of a running cluster to test, separated by commas, in place of Floe's own environments")

// places returns the environments to run on: the ones of these names, or the running
// cluster that -bootstrap names.
func places(names ...string) []environment {
	if *bootstrap != "" {
		name := fmt.Sprint("bootstrap-", time.Now().Unix()) // topics of an earlier run may be there
		return []environment{{name, func(t testing.TB, _ ...string) *fixture.Floe {
			return fixture.Running(t, strings.Split(*bootstrap, ",")...)
		}}}
	}
	var out []environment
	for _, en := range environments {
		for _, name := range names {
			if en.name == name {
				out = append(out, en)
			}
		}
	}
	return out
}

// sideBySide is how many suites of coordination run at a time, on one environment: more
// than there are processors, for most of their time is heartbeats; fewer than all, for a
// client that gets too little of a processor is taken for dead.
const sideBySide = 6

// coordination are the suites of what clients do together: groups, transactions, and what
// is built of them.
var coordination = []suite{
	{"group-kcat", groupSuite("kcat", ""), "kcat", "-G: " + groupWhat},
	{"group-librdkafka", groupSuite("librdkafka", classic), "confluent-kafka-go", "classic group, cooperative-sticky: " + groupWhat + "; static members"},
	{"group-librdkafka-consumer", groupSuite("librdkafka", consumer), "confluent-kafka-go", "group.protocol=consumer: the same"},
	{"transactions-librdkafka", transactionSuite("librdkafka"), "confluent-kafka-go", transactionWhat},
	{"group-franz", groupSuite("franz", classic), "franz-go", "classic group, cooperative-sticky: " + groupWhat + "; static members"},
	{"group-franz-consumer", groupSuite("franz", consumer), "franz-go", "the consumer protocol (kgo.ServerSideBalancer): the same, but for static members"},
	{"transactions-franz", transactionSuite("franz"), "franz-go", "GroupTransactSession: " + transactionWhat},
	{"group-java", groupSuite("java", classic), "Apache Kafka (Java)", "group.protocol=classic: " + groupWhat + "; static members"},
	{"group-java-consumer", groupSuite("java", consumer), "Apache Kafka (Java)", "group.protocol=consumer: the same"},
	{"group-java-pattern", testPattern, "Apache Kafka (Java)", "group.protocol=consumer with SubscriptionPattern and the range assignor: the same, but for static members"},
	{"group-java-migration", testMigration, "Apache Kafka (Java)", "a group with members goes from group.protocol classic to consumer and back"},
	{"transactions-java", transactionSuite("java"), "Apache Kafka (Java)", transactionWhat},
	{"group-tools", testGroupTools, "Apache Kafka (Java)", "kafka-console-consumer --group, kafka-consumer-groups --list, --describe, --reset-offsets, --delete-offsets, --delete, on groups of either protocol; kafka-transactions list, describe, describe-producers, forceTerminateTransaction, abort"},
	{"streams", testStreams, "Apache Kafka (Java)", "Kafka Streams, exactly_once_v2: counts words, with a state store restored from its changelog"},
	{"connect", testConnect, "Apache Kafka (Java)", "Kafka Connect, distributed, exactly-once source: file source and file sink, handed from one worker to another"},
	{"group-sarama", groupSuite("sarama", ""), "sarama", groupWhat},
	{"transactions-sarama", transactionSuite("sarama"), "sarama", transactionWhat},
	{"group-kafka-go", groupSuite("kafka-go", ""), "segmentio/kafka-go", groupWhat},
	{"group-kafkajs", groupSuite("kafkajs", ""), "kafkajs", groupWhat},
	{"transactions-kafkajs", transactionSuite("kafkajs"), "kafkajs", transactionWhat},
	{"group-aiokafka", groupSuite("aiokafka", ""), "aiokafka", groupWhat},
	{"transactions-aiokafka", transactionSuite("aiokafka"), "aiokafka", transactionWhat},
}

// TestCoordination has clients share work and commit it.
func TestCoordination(t *testing.T) {
	t.Parallel()
	workers, java := startWorkers(t), startJava(t)
	for _, en := range places("dev", "dev-3-agents", "etcd-minio") {
		t.Run(en.name, func(t *testing.T) {
			// Both only make every group of the tests wait.
			floe := en.start(t, "--group-initial-rebalance-delay=100ms", "--consumer-heartbeat-interval=1s")
			e := &env{floe: floe, java: java, workers: workers}
			var all sync.WaitGroup
			slots := make(chan struct{}, sideBySide)
			for _, s := range coordination {
				slots <- struct{}{}
				all.Go(func() {
					defer func() { <-slots }()
					t.Run(s.name, func(t *testing.T) { s.run(t, e) })
				})
			}
			all.Wait()
			t.Run("survives", func(t *testing.T) { testSurvives(t, e) })
			e.floe.Stop()
		})
	}
}
