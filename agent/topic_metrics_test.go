package agent_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/floelog/floe/agent"
	"github.com/floelog/floe/metadata/catalogue"
)

// series returns the values of a metric by topic, and by direction where it has one.
func series(t *testing.T, reg *prometheus.Registry, name string) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			topic, direction := "", ""
			for _, l := range m.GetLabel() {
				switch l.GetName() {
				case "topic":
					topic = l.GetValue()
				case "direction":
					direction = " " + l.GetValue()
				}
			}
			out[topic+direction] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return out
}

// TestTopicsAreCounted: what topics move and store is told by name, never counts back while a
// topic exists, and has a bounded number of series.
func TestTopicsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		reg := prometheus.NewRegistry()
		a := c.startWith("a", 1, c.objects, func(_ *agent.Config, p *agent.Parts) { p.Registry = reg })
		c.ready(a)
		traffic := a.Ports().Traffic
		first := c.topic(a, "first")
		c.sendLarge(a, first, 0)
		traffic.Produced(first.ID, 70)
		traffic.Fetched(first.ID, 30)
		moved, stored := series(t, reg, "floe_topic_bytes_total"), series(t, reg, "floe_topic_stored_bytes")
		if moved["first in"] != 70 || moved["first out"] != 30 || stored["first"] == 0 || len(stored) != 1 {
			t.Errorf("moved %v, stored %v", moved, stored)
		}

		const others = 1200
		topics := make([]catalogue.NewTopic, others)
		for i := range topics {
			topics[i] = catalogue.NewTopic{Name: fmt.Sprintf("t%04d", i), Partitions: 1}
		}
		for _, created := range a.Ports().Changes.Create(t.Context(), topics) {
			if created.Err != nil {
				t.Fatal(created.Err)
			}
		}
		time.Sleep(time.Second)
		for topic := range a.Ports().Topics.View().Topics() {
			traffic.Produced(topic.ID, 1)
		}
		moved = series(t, reg, "floe_topic_bytes_total")
		if len(moved) != 2*1001 || moved["first in"] != 71 || moved[" in"] != others-999 {
			t.Errorf("%d series of traffic, %v of the first, %v in the sum", len(moved), moved["first in"], moved[" in"])
		}
		for _, name := range []string{"first", "t0000", "t1199"} {
			if _, err := a.Ports().Changes.Delete(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		series(t, reg, "floe_topic_bytes_total") // the first look only marks what is gone
		moved = series(t, reg, "floe_topic_bytes_total")
		if _, there := moved["first in"]; there || moved[" in"] != others-999 {
			t.Errorf("after deletions: first %v, sum %v", moved["first in"], moved[" in"])
		}
		traffic.Produced(c.topic(a, "new").ID, 3) // there is room for series of its own again
		traffic.Produced(c.topic(a, "newer").ID, 5)
		series(t, reg, "floe_topic_bytes_total") // before the agent's copy shows the new topics
		time.Sleep(time.Second)
		if moved = series(t, reg, "floe_topic_bytes_total"); moved["newer in"] != 5 || moved[" in"] != others-999 {
			t.Errorf("a new topic: %v, sum %v", moved["newer in"], moved[" in"])
		}
		c.end(a)
	})
}
