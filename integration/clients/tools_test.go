//go:build integration && unix

package clients

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// Console tools, by the scripts that Apache Kafka ships them as.
const (
	consoleProducer = "org.apache.kafka.tools.ConsoleProducer"
	consoleConsumer = "org.apache.kafka.tools.consumer.ConsoleConsumer"
	kafkaTopics     = "org.apache.kafka.tools.TopicCommand"
	kafkaConfigs    = "kafka.admin.ConfigCommand"
	getOffsets      = "org.apache.kafka.tools.GetOffsetShell"
	deleteRecords   = "org.apache.kafka.tools.DeleteRecordsCommand"
	logDirs         = "org.apache.kafka.tools.LogDirsCommand"
	apiVersions     = "org.apache.kafka.tools.BrokerApiVersionsCommand"
	cluster         = "org.apache.kafka.tools.ClusterTool"
)

// has tells whether a text has all of these.
func has(wants ...string) func(text string) bool {
	return func(text string) bool {
		return !slices.ContainsFunc(wants, func(want string) bool { return !strings.Contains(text, want) })
	}
}

// testTools runs Apache Kafka's console tools as an operator would.
func testTools(t *testing.T, e *env) {
	server := []string{"--bootstrap-server", strings.Join(e.floe.Addrs(), ",")}
	run := func(tool, stdin string, args ...string) string {
		t.Helper()
		return e.java.run(t, tool, stdin, append(server, args...)...)
	}
	says := func(what, text string, wants ...string) {
		t.Helper()
		for _, want := range wants {
			if !strings.Contains(text, want) {
				t.Errorf("%s does not say %q:\n%s", what, want, text)
			}
		}
	}
	// A tool asks any of the agents, which hears of what another one did within moments.
	comes := func(what string, holds func(text string) bool, tool string, args ...string) {
		t.Helper()
		eventually(t, what, func() (bool, string) { text := run(tool, "", args...); return holds(text), text })
	}
	topic := topicName(t)
	says("kafka-topics --create", run(kafkaTopics, "", "--create", "--topic", topic, "--partitions", "2", "--config", "retention.ms=-1"), "Created topic "+topic)
	code, stdout, stderr := e.java.call(t, kafkaTopics, "", append(server, "--create", "--topic", topic)...)
	if code == 0 || !strings.Contains(stdout+stderr, "exists") {
		t.Errorf("kafka-topics --create of a topic that exists: exit code %d\n%s%s", code, stdout, stderr)
	}
	comes("kafka-topics --list names "+topic, has(topic+"\n"), kafkaTopics, "--list")
	says("kafka-topics --describe", run(kafkaTopics, "", "--describe", "--topic", topic), "PartitionCount: 2", "retention.ms=-1", "Partition: 1", "Leader: ")
	run(kafkaTopics, "", "--alter", "--topic", topic, "--partitions", "3")
	comes("kafka-topics --describe says 3 partitions after --alter", has("PartitionCount: 3"), kafkaTopics, "--describe", "--topic", topic)

	// The consumer takes no part in a group when it is told its partition; it makes up
	// a group's name and does not commit, so nothing needs a coordinator.
	compressed := topicName(t, "compressed")
	run(kafkaTopics, "", "--create", "--topic", compressed, "--partitions", "1")
	var want string
	for _, codec := range codecs {
		want += "k-" + codec + "\tv-" + codec + "\n"
		run(consoleProducer, "k-"+codec+"\tv-"+codec+"\n", "--topic", compressed, "--compression-codec", codec,
			"--property", "parse.key=true", "--property", "key.separator=\t")
	}
	got := run(consoleConsumer, "", "--topic", compressed, "--partition", "0", "--offset", "earliest",
		"--max-messages", fmt.Sprint(len(codecs)), "--property", "print.key=true")
	if got != want {
		t.Errorf("the console consumer read %q, want %q", got, want)
	}

	single := topicName(t, "single")
	run(kafkaTopics, "", "--create", "--topic", single, "--partitions", "1")
	run(consoleProducer, "a\nb\nc\nd\n", "--topic", single)
	if got := run(consoleConsumer, "", "--topic", single, "--partition", "0", "--offset", "2", "--max-messages", "2"); got != "c\nd\n" {
		t.Errorf("the console consumer from offset 2 read %q", got)
	}
	if got, want := run(getOffsets, "", "--topic", single, "--time", "latest"), single+":0:4\n"; got != want {
		t.Errorf("kafka-get-offsets: %q, want %q", got, want)
	}
	request := writeFile(t, fmt.Sprintf(`{"partitions":[{"topic":%q,"partition":0,"offset":3}],"version":1}`, single))
	says("kafka-delete-records", run(deleteRecords, "", "--offset-json-file", request), "low_watermark: 3")
	if got, want := run(getOffsets, "", "--topic", single, "--time", "earliest"), single+":0:3\n"; got != want {
		t.Errorf("kafka-get-offsets after kafka-delete-records: %q, want %q", got, want)
	}
	if got := run(consoleConsumer, "", "--topic", single, "--partition", "0", "--offset", "earliest", "--max-messages", "1"); got != "d\n" {
		t.Errorf("the console consumer after kafka-delete-records read %q", got)
	}

	says("kafka-log-dirs", run(logDirs, "", "--describe", "--topic-list", topic), `"partition":"`+topic+`-0"`, `"error":null`)
	run(kafkaConfigs, "", "--alter", "--entity-type", "topics", "--entity-name", topic, "--add-config", "cleanup.policy=compact,segment.ms=60000")
	comes("kafka-configs --describe says what was altered", has("cleanup.policy=compact", "segment.ms=60000", "retention.ms=-1"),
		kafkaConfigs, "--describe", "--entity-type", "topics", "--entity-name", topic)
	run(kafkaConfigs, "", "--alter", "--entity-type", "topics", "--entity-name", topic, "--delete-config", "cleanup.policy")
	comes("kafka-configs --describe does not say what was deleted", func(text string) bool { return !strings.Contains(text, "cleanup.policy=") },
		kafkaConfigs, "--describe", "--entity-type", "topics", "--entity-name", topic)
	code, stdout, stderr = e.java.call(t, kafkaConfigs, "", append(server, "--alter", "--entity-type", "topics", "--entity-name", topic, "--add-config", "retention.ms=soon")...)
	if code == 0 || !strings.Contains(stdout+stderr, "retention.ms") {
		t.Errorf("kafka-configs with a wrong value: exit code %d\n%s%s", code, stdout, stderr)
	}
	says("kafka-broker-api-versions", run(apiVersions, ""), "Produce(0): ", "Fetch(1): ", "ApiVersions(18): ")
	says("kafka-cluster", e.java.run(t, cluster, "", append([]string{"cluster-id"}, server...)...), "Cluster ID: ")

	run(kafkaTopics, "", "--delete", "--topic", topic)
	comes("kafka-topics --list does not name what was deleted", func(text string) bool { return !strings.Contains(text, topic+"\n") }, kafkaTopics, "--list")
}
