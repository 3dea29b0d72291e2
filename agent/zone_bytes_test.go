package agent_test

import (
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent"
	"github.com/floelog/floe/agent/kafka"
	"github.com/floelog/floe/tiering"
)

// zoneCounts returns the counters of floe_zone_bytes_total, by "kind direction zone".
func zoneCounts(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		if f.GetName() != "floe_zone_bytes_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			by := map[string]string{}
			for _, l := range m.GetLabel() {
				by[l.GetName()] = l.GetValue()
			}
			out[by["kind"]+" "+by["direction"]+" "+by["zone"]] = m.GetCounter().GetValue()
		}
	}
	return out
}

// zoned puts an agent into a zone, with metrics of its own.
func (c *cluster) zoned(zone string, reg *prometheus.Registry, inlineHere bool) func(*agent.Config, *agent.Parts) {
	return func(cfg *agent.Config, parts *agent.Parts) {
		c.inZone(cfg, parts)
		cfg.Zone, cfg.InlineHere = zone, inlineHere
		parts.Registry = reg
	}
}

// Small records go to leaders of other zones inside submissions only where that is allowed;
// else they are stored, and what crosses zones is metadata.
func TestRecordsCrossZonesOnlyWhereTheyMay(t *testing.T) {
	for _, test := range []struct {
		name  string
		here  bool
		zones [2]string
		cross bool
	}{
		{"allowed", false, [2]string{"a", "b"}, true},
		{"not allowed", true, [2]string{"a", "b"}, false},
		{"one zone", true, [2]string{"a", "a"}, false},
		{"no zones", true, [2]string{"", ""}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t)
				reg := prometheus.NewRegistry()
				a := c.startWith("a", 1, c.objects, c.zoned(test.zones[0], reg, test.here))
				b := c.startWith("b", 2, c.objects, c.zoned(test.zones[1], prometheus.NewRegistry(), test.here))
				c.ready(a)
				c.ready(b)
				topic := c.topic(a, "x")
				time.Sleep(10 * time.Second) // until each leads its share
				elsewhere := 0
				for p := range int32(numShards) {
					if node, _ := a.Ports().Cluster.Leader(tiering.ShardOf(topic.FirstShard, p, numShards)); node == 2 {
						elsewhere++
					}
					if batch, done := c.send(a, topic, p); !within(done, time.Minute) || batch.Code != 0 {
						t.Fatalf("partition %d: code %d", p, batch.Code)
					}
				}
				got := zoneCounts(t, reg)
				other := test.zones[0] != test.zones[1]
				switch {
				case elsewhere == 0 || elsewhere == numShards:
					t.Errorf("the other agent leads %d of %d shards: nothing was tested", elsewhere, numShards)
				case (got["inline out other"] > 0) != test.cross:
					t.Errorf("%v bytes of records went to a leader in another zone: %v", got["inline out other"], got)
				case (got["metadata out other"] > 0) != other || !other && got["inline out same"] == 0:
					t.Errorf("counted are %v", got)
				}
				c.end(a, b)
			})
		})
	}
}

func TestBytesAreCountedByZone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		var nodes []*node
		var regs []*prometheus.Registry
		for i, name := range []string{"a", "b", "d"} {
			reg := prometheus.NewRegistry()
			n := c.startWith(name, int32(i+1), c.objects, c.zoned([]string{"east", "east", "west"}[i], reg, true))
			c.ready(n)
			nodes, regs = append(nodes, n), append(regs, reg)
		}
		topic := c.topic(nodes[0], "x")
		for p := range int32(numShards) {
			for range 5 {
				c.sendLarge(nodes[0], topic, p)
			}
		}
		time.Sleep(time.Second) // until all know of each other and of what was written
		for _, n := range nodes[1:] {
			c.consume(n, topic)
		}
		if got := zoneCounts(t, regs[1]); got["block in same"] == 0 || got["block in other"] != 0 {
			t.Errorf("an agent whose zone has another one counts %v", got)
		}
		if got := zoneCounts(t, regs[2]); got["block in same"] != 0 || got["block in other"] != 0 {
			t.Errorf("an agent alone in its zone counts %v", got)
		}
		clients := nodes[2].Ports().Zones
		clients.Produced("west", 1)
		clients.Produced("east", 2)
		clients.Produced("", 4)
		clients.Fetched("west", 8)
		clients.Fetched("east", 16)
		clients.Fetched("", 32)
		got := zoneCounts(t, regs[2])
		for what, want := range map[string]float64{"data in same": 1, "data in other": 2, "data in unknown": 4, "data out same": 8, "data out other": 16, "data out unknown": 32} {
			if got[what] != want {
				t.Errorf("%s is %v, want %v", what, got[what], want)
			}
		}
		c.end(nodes...)
	})
}

// A client is told the addresses of the listener that it came in on, and agents without that
// listener are left out.
func TestAnAgentListensOnSeveralAddresses(t *testing.T) {
	c := newCluster(t)
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	first, second := listen(), listen()
	a := c.startWith("a", 1, c.objects, func(cfg *agent.Config, parts *agent.Parts) {
		cfg.Kafka = kafka.DefaultSettings()
		cfg.MaxConnections, cfg.MaxRequestBytes = 10, 1<<20
		parts.Registry, parts.Listener = prometheus.NewRegistry(), first
		parts.Listeners = []agent.Listener{{Name: "outside", Advertise: "a.example:9443", Listener: second}}
	})
	b := c.start("b", 2, c.objects)
	c.ready(a)
	c.ready(b)
	for addr, want := range map[string]map[int32]string{
		first.Addr().String():  {1: "a", 2: "b"},
		second.Addr().String(): {1: "a.example"},
	} {
		client, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.ClientID("zone=nowhere"))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.SeedBrokers()[0].Request(t.Context(), kmsg.NewPtrMetadataRequest())
		if err != nil {
			t.Fatal(err)
		}
		brokers := resp.(*kmsg.MetadataResponse).Brokers
		if len(brokers) != len(want) {
			t.Errorf("on %s, clients are told of %+v, want %v", addr, brokers, want)
		}
		for _, broker := range brokers {
			if want[broker.NodeID] != broker.Host {
				t.Errorf("on %s, agent %d is at %s, want %s", addr, broker.NodeID, broker.Host, want[broker.NodeID])
			}
		}
		client.Close()
	}
	a.stop()
	<-a.ended
	for _, l := range []net.Listener{first, second} {
		if conn, err := net.Dial("tcp", l.Addr().String()); err == nil {
			conn.Close()
			t.Errorf("%s still listens after the agent has ended", l.Addr())
		}
	}
	c.end(a, b)
}
