package main

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// cluster is a floe dev with a client.
type cluster struct {
	*testing.T
	addr string
	cl   *kgo.Client
}

// run runs a command that has to succeed and decodes what it prints.
func (c *cluster) run(line string, into any) {
	c.Helper()
	code, stdout, stderr := invoke(c.T, nil, append(strings.Fields(line), "--json", "--bootstrap", c.addr)...)
	if code != exitOK || stderr != "" {
		c.Fatalf("floe %s: exit code %d: %s", line, code, stderr)
	}
	if err := json.Unmarshal([]byte(stdout), into); err != nil {
		c.Fatalf("floe %s prints %q: %v", line, stdout, err)
	}
}

func (c *cluster) client(opts ...kgo.Opt) *kgo.Client {
	c.Helper()
	cl, err := kgo.NewClient(append(opts, kgo.SeedBrokers(c.addr))...)
	if err != nil {
		c.Fatal(err)
	}
	c.Cleanup(cl.Close)
	return cl
}

// startCluster starts a floe dev whose topic events has 5 records in partition 0.
func startCluster(t *testing.T) *cluster {
	t.Helper()
	_, addrs, _ := startDev(t, t.TempDir())
	c := &cluster{T: t, addr: addrs[0]}
	c.cl = c.client(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if _, err := kadm.NewClient(c.cl).CreateTopic(t.Context(), 2, 1, nil, "events"); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if err := c.cl.ProduceSync(t.Context(), &kgo.Record{Topic: "events", Value: []byte("v")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func TestGroupCommandsOnFloe(t *testing.T) {
	c := startCluster(t)
	member := c.client(kgo.ConsumerGroup("orders"), kgo.ConsumeTopics("events"), kgo.ClientID("app"), kgo.DisableAutoCommit(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	for n := 0; n < 5; {
		fetches := member.PollFetches(t.Context())
		if err := fetches.Err(); err != nil {
			t.Fatal(err)
		}
		n += fetches.NumRecords()
	}
	if err := member.CommitUncommittedOffsets(t.Context()); err != nil {
		t.Fatal(err)
	}

	var listed struct{ Groups []listedGroup }
	c.run("group list", &listed)
	if len(listed.Groups) != 1 || listed.Groups[0].Group != "orders" || listed.Groups[0].State != "Stable" || *listed.Groups[0].Members != 1 {
		t.Errorf("listed %+v", listed.Groups)
	}
	var described groupsShape
	c.run("group describe orders", &described)
	g := described.Groups[0]
	if len(g.Members) != 1 || g.Members[0].ClientID != "app" || len(g.Offsets) != 2 || *g.Offsets[0].Committed != 5 || *g.Offsets[0].Lag != 0 {
		t.Errorf("described %+v", g)
	}
	code, _, stderr := invoke(t, nil, "group", "reset", "orders", "--all-topics", "--to-earliest", "--execute", "--bootstrap", c.addr)
	if code != exitRuntime || !strings.Contains(stderr, "it has 1 member") {
		t.Errorf("a reset under a member: exit code %d, %q", code, stderr)
	}
	member.LeaveGroup()

	var done resetShape
	c.run("group reset orders --topic events:0 --to-offset 2 --execute", &done)
	if !done.Executed || len(done.Offsets) != 1 || *done.Offsets[0].Old != 5 || done.Offsets[0].New != 2 {
		t.Errorf("reset %+v", done)
	}
	c.run("group describe orders", &described)
	if o := described.Groups[0].Offsets[0]; *o.Committed != 2 || *o.Lag != 3 || o.Member != nil {
		t.Errorf("after the reset: %+v", o)
	}
	var deleted deletedShape
	c.run("group delete orders --offsets events:0", &deleted)
	c.run("group delete orders", &deleted)
	c.run("group list", &listed)
	if !deleted.Groups[0].Deleted || len(listed.Groups) != 0 {
		t.Errorf("deleted %+v, left are %+v", deleted.Groups, listed.Groups)
	}
}

func TestTxnCommandsOnFloe(t *testing.T) {
	c := startCluster(t)
	producer := c.client(kgo.TransactionalID("checkout"), kgo.TransactionTimeout(10*time.Minute), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err := producer.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := producer.ProduceSync(t.Context(), &kgo.Record{Topic: "events", Partition: 1, Value: []byte("torn")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	var listed struct{ Transactions []listedTxn }
	c.run("txn list --state ongoing", &listed)
	if len(listed.Transactions) != 1 || listed.Transactions[0].TransactionalID != "checkout" {
		t.Errorf("listed %+v", listed.Transactions)
	}
	var described struct{ Transactions []txn }
	c.run("txn describe checkout", &described)
	x := described.Transactions[0]
	if x.State != txnOngoing || x.Started == nil || len(x.Partitions) != 1 || x.Partitions[0].Topic != "events" || !slices.Equal(x.Partitions[0].Partitions, []int32{1}) {
		t.Errorf("described %+v", x)
	}
	var hanging struct{ Hanging []openTxn }
	c.run("txn hanging --older-than 0s", &hanging)
	if len(hanging.Hanging) != 0 {
		t.Errorf("a transaction that its coordinator knows hangs: %+v", hanging.Hanging)
	}
	var aborted abortedShape
	c.run("txn abort --id checkout --execute", &aborted)
	if !aborted.Executed || aborted.ProducerID != x.ProducerID {
		t.Errorf("aborted %+v", aborted)
	}
	if err := producer.EndTransaction(t.Context(), kgo.TryCommit); err == nil {
		t.Error("the fenced producer commits")
	}
	c.run("txn list --state ongoing", &listed)
	if len(listed.Transactions) != 0 {
		t.Errorf("still open: %+v", listed.Transactions)
	}
}
