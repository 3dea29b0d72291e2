//go:build integration && unix

package clients

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Console tools of groups and transactions.
const (
	consumerGroups = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"
	transactions   = "org.apache.kafka.tools.TransactionsCommand"
)

// testGroupTools runs Apache Kafka's console tools on a group, of either protocol, and on
// a transaction.
func testGroupTools(t *testing.T, e *env) {
	for _, protocol := range []string{classic, consumer} {
		t.Run(protocol, func(t *testing.T) { consoleGroup(t, e, protocol) })
	}
	t.Run("transactions", func(t *testing.T) { consoleTransactions(t, e) })
}

// offsetsOf is a line of kafka-consumer-groups about partition 0: what is committed, the
// end, and the lag.
func offsetsOf(topic string, committed, end int) *regexp.Regexp {
	return regexp.MustCompile(fmt.Sprintf(`%s\s+0\s+%d\s+%d\s+%d\s`, regexp.QuoteMeta(topic), committed, end, end-committed))
}

func consoleGroup(t *testing.T, e *env, protocol string) {
	server := []string{"--bootstrap-server", strings.Join(e.floe.Addrs(), ",")}
	run := func(tool, stdin string, args ...string) string {
		t.Helper()
		return e.java.run(t, tool, stdin, append(server, args...)...)
	}
	topic := topicName(t)
	group := topic
	createTopic(t, e.floe.Addrs(), topic, 1)
	run(consoleProducer, "a\nb\nc\nd\ne\n", "--topic", topic)
	read := func(what, want string) {
		t.Helper()
		got := run(consoleConsumer, "", "--topic", topic, "--group", group, "--from-beginning",
			"--max-messages", fmt.Sprint(strings.Count(want, "\n")), "--consumer-property", "group.protocol="+protocol)
		if got != want {
			t.Errorf("the console consumer, %s, read %q, want %q", what, got, want)
		}
	}
	says := func(what string, want *regexp.Regexp, args ...string) {
		t.Helper()
		if got := run(consumerGroups, "", args...); !want.MatchString(got) {
			t.Errorf("%s does not say %v:\n%s", what, want, got)
		}
	}
	read("from the beginning", "a\nb\nc\n")
	says("--describe", offsetsOf(topic, 3, 5), "--describe", "--group", group)
	read("where it was", "d\ne\n")
	says("--describe at the end", offsetsOf(topic, 5, 5), "--describe", "--group", group)
	says("--list", regexp.MustCompile(`(?m)^`+group+`$`), "--list")
	says("--list --state", regexp.MustCompile(group+`\s+Empty`), "--list", "--state")
	kind := map[string]string{classic: "Classic", consumer: "Consumer"}[protocol]
	says("--list --type", regexp.MustCompile(group+`\s+`+kind), "--list", "--type")
	says("--describe --state", regexp.MustCompile(group+`\s.*Empty\s+0`), "--describe", "--group", group, "--state")

	says("--reset-offsets --dry-run", regexp.MustCompile(topic+`\s+0\s+0`), "--reset-offsets", "--group", group, "--topic", topic, "--to-earliest", "--dry-run")
	says("--describe after a dry run", offsetsOf(topic, 5, 5), "--describe", "--group", group)
	says("--reset-offsets", regexp.MustCompile(topic+`\s+0\s+1`), "--reset-offsets", "--group", group, "--topic", topic, "--to-offset", "1", "--execute")
	says("--describe after a reset", offsetsOf(topic, 1, 5), "--describe", "--group", group)
	read("after a reset", "b\nc\nd\ne\n")
	run(consumerGroups, "", "--delete-offsets", "--group", group, "--topic", topic)
	read("after --delete-offsets", "a\n")
	says("--delete", regexp.MustCompile(`was successful`), "--delete", "--group", group)
	if got := run(consumerGroups, "", "--list"); strings.Contains(got, group+"\n") {
		t.Errorf("--list after --delete:\n%s", got)
	}
}

func consoleTransactions(t *testing.T, e *env) {
	addrs := e.floe.Addrs()
	run := func(args ...string) string {
		t.Helper()
		return e.java.run(t, transactions, "", append([]string{"--bootstrap-server", strings.Join(addrs, ",")}, args...)...)
	}
	says := func(what, text, want string) {
		t.Helper()
		if !regexp.MustCompile(want).MatchString(text) {
			t.Errorf("kafka-transactions %s does not say %s:\n%s", what, want, text)
		}
	}
	topic := topicName(t)
	id := topic
	createTopic(t, addrs, topic, 1)
	franz{}.produce(t, addrs, topic, "none", valuesOf(0, []string{"plain"}))
	// It is the tools that end it, however long they take to be heard.
	c := dial(t, addrs, kgo.TransactionalID(id), kgo.TransactionTimeout(2*time.Minute))
	ctx := deadline(t)
	if err := c.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	open := &kgo.Record{Topic: topic, Value: []byte("open")}
	if err := c.ProduceSync(ctx, open).FirstErr(); err != nil {
		t.Fatal(err)
	}
	says("list", run("list"), id+`\s+\d+\s+\d+\s+Ongoing`)
	says("describe", run("describe", "--transactional-id", id), id+`\s+\d+\s+\d+\s+Ongoing\s+\d+\s+\d+\s+\d+\s+`+topic+`-0`)
	says("describe-producers", run("describe-producers", "--topic", topic, "--partition", "0"), `(?m)^\d+\s+\d+\s+-?\d+\s+0\s+\d+\s+1\s*$`)
	run("forceTerminateTransaction", "--transactionalId", id)
	if err := c.EndTransaction(ctx, kgo.TryCommit); err == nil {
		t.Error("a transaction that was terminated by force was committed")
	}
	awaitStable(t, addrs, topic)
	says("describe of what was terminated", run("describe", "--transactional-id", id), id+`\s+\d+\s+\d+\s+(Empty|CompleteAbort)`)

	// A transaction that hangs in one partition is ended there alone.
	hanging := dial(t, addrs, kgo.TransactionalID(id), kgo.TransactionTimeout(2*time.Minute))
	if err := hanging.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	second := &kgo.Record{Topic: topic, Value: []byte("hangs")}
	if err := hanging.ProduceSync(ctx, second).FirstErr(); err != nil {
		t.Fatal(err)
	}
	run("abort", "--topic", topic, "--partition", "0", "--start-offset", fmt.Sprint(second.Offset))
	awaitStable(t, addrs, topic)
	if got := readAll(t, addrs, topic, kgo.ReadCommitted())[0]; fmt.Sprint(got) != "[plain]" {
		t.Errorf("committed is %q, want what was written without a transaction", got)
	}
	_ = hanging.EndTransaction(ctx, kgo.TryAbort) // its part is over whatever it is told
}
