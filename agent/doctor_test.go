package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/floelog/floe/agent"
	"github.com/floelog/floe/agent/kafka"
	"github.com/floelog/floe/agent/peer"
	"github.com/floelog/floe/diagnosis"
	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/tiering"
)

// examining starts an agent that looks at itself.
func (c *cluster) examining(name string, id int32, change func(*agent.Config)) *node {
	c.t.Helper()
	return c.startWith(name, id, c.objects, func(cfg *agent.Config, parts *agent.Parts) {
		reg := prometheus.NewRegistry()
		parts.Registry, parts.Gatherer = reg, reg
		change(cfg)
	})
}

func same(*agent.Config) {}

// report asks an agent for what all say of themselves.
func report(t *testing.T, n *node) *diagnosis.Report {
	t.Helper()
	r, err := n.Doctor(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// found returns the subjects of a kind of finding.
func found(r *diagnosis.Report, name string) (subjects []string) {
	for _, f := range r.Findings {
		if f.Name == name {
			subjects = append(subjects, f.Subject)
		}
	}
	return subjects
}

// Agents with nothing to do find nothing; each answers for all.
func TestDoctorOfIdleAgents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		a := c.examining("a", 1, same)
		c.ready(a)
		b := c.examining("b", 2, same)
		c.ready(b)
		defer c.end(a, b)
		time.Sleep(12 * time.Minute)
		for _, n := range []*node{a, b} {
			r := report(t, n)
			if len(r.Findings) != 0 || r.Severity != "" || len(r.Agents) != 2 {
				t.Errorf("agent %d: %+v", n.NodeID(), r)
			}
			for _, e := range r.Agents {
				if e.Error != "" || time.Since(e.Looked) > 11*time.Second {
					t.Errorf("agent %d says %q and looked %v ago", e.Node, e.Error, time.Since(e.Looked))
				}
			}
		}
	})
}

// send hands one request with a batch for each of the partitions over, and waits for its end.
func send(t *testing.T, n *node, client, value string, partitions ...kafka.Partition) {
	t.Helper()
	var batches []*kafka.AppendBatch
	for _, p := range partitions {
		data, meta := records(t, value)
		batches = append(batches, &kafka.AppendBatch{Partition: p.TopicPartition, Shard: p.Shard, Data: data, Meta: meta, Client: client})
	}
	done := make(chan struct{})
	n.Ports().Producer.Append(batches, func() { close(done) })
	<-done
	for _, b := range batches {
		if b.Code != 0 {
			t.Fatalf("a batch was refused with code %d", b.Code)
		}
	}
}

// Small batches of a client, and a topic of which one partition gets nearly all, are found with
// their names; and forgotten when they are over.
func TestDoctorOfClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		n := c.examining("a", 1, same)
		c.ready(n)
		defer c.end(n)
		topic := c.topic(n, "t")
		at := func(i int32) kafka.Partition {
			return kafka.Partition{TopicPartition: tiering.TopicPartition{Topic: topic.ID, Partition: i},
				Shard: tiering.ShardOf(topic.FirstShard, i, numShards)}
		}
		large := string(make([]byte, 256<<10))
		ctx, stop := context.WithTimeout(t.Context(), 40*time.Second)
		defer stop()
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			for range 3 {
				send(t, n, "chatty", "x", at(0), at(1))
			}
			send(t, n, "good", large, at(2))
			<-tick.C
		}
		r := report(t, n)
		if got := found(r, "small_batches"); !slices.Equal(got, []string{"client.id chatty"}) {
			t.Errorf("small batches of %q", got)
		}
		if got := found(r, "skewed_topic"); !slices.Equal(got, []string{"t-2"}) {
			t.Errorf("the fullest partition is %q", got)
		}
		time.Sleep(90 * time.Second)
		if r := report(t, n); len(found(r, "small_batches"))+len(found(r, "skewed_topic")) != 0 {
			t.Errorf("after they ended: %+v", r.Findings)
		}
	})
}

// An agent that others cannot ask is found by them; so are versions and zones that differ.
func TestDoctorOfTheFleet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		a := c.examining("a", 1, func(cfg *agent.Config) { cfg.Zone = "z" })
		c.ready(a)
		b := c.examining("b", 2, func(cfg *agent.Config) { cfg.Version = "other" })
		c.ready(b)
		defer c.end(a, b)
		c.mu.Lock()
		delete(c.nodes, "b:9094")
		c.mu.Unlock()
		time.Sleep(time.Minute)
		r := report(t, a)
		for name, subject := range map[string]string{"agent_silent": "agent 2", "zones_incomplete": "agent 2", "versions_mixed": "other, test"} {
			if got := found(r, name); !slices.Equal(got, []string{subject}) {
				t.Errorf("%s: %q, want %q", name, got, subject)
			}
		}
		if e := r.Agents[1]; e.Node != 2 || e.Error == "" {
			t.Errorf("the agent that does not answer: %+v", e)
		}
	})
}

// A session that was lost is told of, as long as it is not long ago.
func TestDoctorOfALostSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		n := c.examining("a", 1, same)
		c.ready(n)
		defer c.end(n)
		time.Sleep(time.Minute)
		n.meta.Partition()
		time.Sleep(10 * time.Second)
		n.meta.Heal()
		time.Sleep(time.Minute)
		if r := report(t, n); len(found(r, "session_lost")) != 1 {
			t.Errorf("found %+v", r.Findings)
		}
		time.Sleep(11 * time.Minute)
		if r := report(t, n); len(r.Findings) != 0 {
			t.Errorf("long after: %+v", r.Findings)
		}
	})
}

// Questions that any agent answers, and one that no agent knows.
func TestDoctorsQuestions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		n := c.start("a", 1, c.objects) // looks at nothing
		c.ready(n)
		defer c.end(n)
		b, err := n.AnswerHere(t.Context(), peer.Question{Kind: agent.ClockQuestion})
		var at time.Time
		if err != nil || json.Unmarshal(b, &at) != nil || !at.Equal(time.Now()) {
			t.Errorf("the time: %s, %v", b, err)
		}
		b, err = n.AnswerHere(t.Context(), peer.Question{Kind: agent.DoctorQuestion})
		var e diagnosis.Examined
		if err != nil || json.Unmarshal(b, &e) != nil || e.Node != 1 || e.Error == "" {
			t.Errorf("an agent without a doctor: %s, %v", b, err)
		}
		if _, err := n.AnswerHere(t.Context(), peer.Question{Kind: "nonsense"}); err == nil {
			t.Error("nonsense was answered")
		} else if !errors.Is(err, metadata.ErrInvalid) {
			t.Errorf("nonsense: %v", err)
		}
	})
}
