//go:build integration && linux

package rig_test

import (
	"context"
	"net"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/floelog/floe/integration/torture/rig"
)

// limit bounds each wait, on a machine that runs every test at once.
const limit = 2 * time.Minute

func TestTheRig(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*limit)
	defer cancel()
	c, err := rig.Start(ctx, rig.Config{Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	stopped := false
	defer func() {
		if !stopped {
			_ = c.Stop() // the test has failed already
		}
	}()
	client, err := kgo.NewClient(kgo.SeedBrokers(c.Bootstrap()...), kgo.DefaultProduceTopic("t"), kgo.AllowAutoTopicCreation())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	produce := func() {
		t.Helper()
		if err := client.ProduceSync(ctx, kgo.StringRecord("x")).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	produce()
	checkLinks(ctx, t, c, client)

	a := c.Agents()[0]
	starts := a.Starts()
	if !a.Kill() || a.Kill() || a.Serves() || a.PID() != 0 {
		t.Error("an agent that was killed runs, or was killed twice")
	}
	if err := a.Start(ctx); err != nil || a.Starts() == starts || !a.Serves() {
		t.Errorf("after its start an agent does not serve: %v", err)
	}
	if !a.Pause(ctx) || a.Serves() {
		t.Error("an agent was not paused")
	}
	a.Resume()
	if err := a.Terminate(); err != nil {
		t.Error(err)
	}
	if err := c.Replace(ctx, c.Members()[1]); err != nil {
		t.Error(err)
	}
	if _, err := c.Leader(ctx); err != nil {
		t.Error(err)
	}
	if err := c.Heal(ctx); err != nil {
		t.Error(err)
	}
	produce()
	if n := c.Total("go_goroutines"); n == 0 {
		t.Errorf("the agents have counted nothing: %v", n)
	}
	if ends := c.UnexpectedEnds(); len(ends) > 0 {
		t.Errorf("%d processes ended by themselves: %s", len(ends), ends)
	}
	stopped = true
	if err := c.Stop(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(c.Dir()); !os.IsNotExist(err) {
		t.Errorf("the data is still there: %v", err)
	}
}

// checkLinks: clients are told of the agents' links, and everything goes through links.
func checkLinks(ctx context.Context, t *testing.T, c *rig.Cluster, client *kgo.Client) {
	t.Helper()
	told := map[string]bool{}
	for len(told) < len(c.Agents()) { // the agent that is asked hears of the others a moment after they serve
		brokers, err := kadm.NewClient(client).ListBrokers(ctx)
		if err != nil {
			t.Fatalf("told of %v: %v", told, err)
		}
		clear(told)
		for _, b := range brokers {
			told[net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port)))] = true
		}
	}
	for _, a := range c.Agents() {
		if !told[a.Kafka.Addr()] {
			t.Errorf("clients are not told of %s's link %s: %v", a.Name(), a.Kafka.Addr(), told)
		}
		used := int64(0)
		for _, l := range a.Etcd {
			used += l.Connections()
		}
		if used == 0 || a.S3.Connections() == 0 {
			t.Errorf("%s speaks to etcd over %d connections of links, to the store over %d", a.Name(), used, a.S3.Connections())
		}
	}
	for _, m := range c.Members() {
		if m.Peer.Connections() == 0 {
			t.Errorf("members do not come to %s through its link", m.Name())
		}
	}
}
