//go:build integration && unix

package zones

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/floelog/floe/integration/fixture"
)

var zones = []string{"zone-a", "zone-b", "zone-c"}

const partitions = 24

// load has clients in every zone produce, in transactions too, and consume all of it in
// groups: told by their client ids, or by client.rack alone. It returns the bytes of the values
// that they produced and consumed.
func (f *fleet) load(topic string) (produced, consumed int) {
	f.t.Helper()
	const records = 2 * partitions
	f.create(topic, partitions)
	for _, zone := range zones {
		produced += f.produce(zone, topic, "", partitions, records)
		produced += f.produce(zone, topic, topic+"-"+zone, partitions, records)
	}
	all := 2 * records * len(zones)
	for _, zone := range zones {
		consumed += f.consume(topic+"-named-"+zone, topic, all, kgo.ClientID("zone="+zone+";reader"))
		consumed += f.consume(topic+"-rack-"+zone, topic, all, kgo.Rack(zone))
	}
	return produced, consumed
}

// No record batch goes from one zone to another, while metadata does.
func TestNoDataCrossesZones(t *testing.T) {
	f := start(t, "--inline-across-zones=false")
	produced, consumed := f.load("strict")
	f.check(produced, consumed)
	if inline := f.moved("inline"); inline["other"] != 0 {
		t.Errorf("with inline-across-zones=false, bytes of records on their way to leaders are %v", inline)
	}
	if metadata := f.moved("metadata"); metadata["other"] == 0 {
		t.Errorf("no leader in another zone was asked for anything, %v: nothing was tested", metadata)
	}
	t.Run("kcat", f.kcat)
	// As by default: small records travel to the leaders with the metadata, and only they.
	for i := range agentZones {
		f.Give(i, "--inline-across-zones=true")
		f.StopProcess(i)
		f.StartProcess(i)
	}
	f.settled()
	produced, consumed = f.load("inline")
	f.check(produced, consumed)
	if inline := f.moved("inline"); inline["other"] == 0 || inline["other"] > float64(produced)/10 {
		t.Errorf("bytes of records on their way to leaders are %v of %d: want those of small ones", inline, produced)
	}
}

// check wants all data to have been moved within zones.
func (f *fleet) check(produced, consumed int) {
	f.t.Helper()
	in := f.Metric("floe_zone_bytes_total", `kind="data"`, `direction="in"`, `zone="same"`)
	out := f.Metric("floe_zone_bytes_total", `kind="data"`, `direction="out"`, `zone="same"`)
	if in < float64(produced) || out < float64(consumed) {
		f.t.Errorf("%v bytes came in and %v went out within zones, want at least %d and %d", in, out, produced, consumed)
	}
	if data := f.moved("data"); data["other"] != 0 || data["unknown"] != 0 {
		f.t.Errorf("bytes of record batches by zone are %v", data)
	}
	if blocks := f.moved("block"); blocks["other"] != 0 {
		f.t.Errorf("bytes of blocks by zone are %v", blocks)
	}
	f.t.Logf("data: %.0f bytes in and %.0f out within zones, 0 across; inline %v, metadata %v", in, out, f.moved("inline"), f.moved("metadata"))
}

// librdkafka, as kcat has it, stays in its zone by client.rack, and by its client id.
func (f *fleet) kcat(t *testing.T) {
	before := f.moved("data")
	brokers := strings.Join(f.Addrs(), ",")
	f.create("kcat", 12)
	var lines []string
	for i := range 60 {
		lines = append(lines, fmt.Sprintf("%d:%s", i, strings.Repeat("k", 500)))
	}
	fixture.Kcat(t, strings.Join(lines, "\n")+"\n", "-b", brokers, "-P", "-t", "kcat", "-K:", "-X", "client.id=kcat,zone=zone-c")
	for _, how := range []string{"client.rack=zone-b", "client.id=zone=zone-a;kcat"} {
		got := strings.Split(strings.TrimSpace(fixture.Kcat(t, "", "-b", brokers, "-C", "-t", "kcat", "-o", "beginning", "-e", "-q", "-X", how)), "\n")
		if len(got) != len(lines) {
			t.Errorf("kcat -X %s reads %d of %d records", how, len(got), len(lines))
		}
	}
	after := f.moved("data")
	if after["other"] != before["other"] || after["unknown"] != before["unknown"] || after["same"] < before["same"]+3*60*500 {
		t.Errorf("bytes of record batches by zone were %v and are %v", before, after)
	}
}

// All agents tell all clients of a zone the same, again and again, evenly spread; a zone that
// has lost its agent falls back to the others, and comes back with it.
func TestAZoneIsLostAndComesBack(t *testing.T) {
	f := start(t)
	f.create("t", shards)
	whole := map[string][]int32{"zone-a": {1, 4}, "zone-b": {2}, "zone-c": {3}, "zone-x": {1, 2, 3, 4}}
	f.agree(whole, 1)
	f.produce("zone-b", "t", "", shards, 8)

	f.KillProcess(1)
	killed := time.Now()
	lost := map[string][]int32{"zone-a": {1, 4}, "zone-b": {1, 3, 4}, "zone-c": {3}}
	f.settled(1)
	f.agree(lost, 2, 1)
	t.Logf("%v after the only agent of a zone was killed, its clients are told of the others", time.Since(killed).Round(time.Millisecond))
	bytes := f.produce("zone-b", "t", "", shards, 8)
	if other := f.crossedAt(0, 2, 3); other < float64(bytes) {
		t.Errorf("a zone without agents produced %d bytes, and %v are counted across zones", bytes, other)
	}
	f.consume("fallen-back", "t", 16, kgo.Rack("zone-b"))

	f.StartProcess(1)
	started := time.Now()
	f.settled()
	f.agree(whole, 1)
	t.Logf("%v after it serves again, all agents tell of it", time.Since(started).Round(time.Millisecond))
	before := f.moved("data")["other"]
	f.produce("zone-b", "t", "", shards, 8)
	f.consume("come-back", "t", 24, kgo.Rack("zone-b"))
	if after := f.moved("data")["other"]; after != before {
		t.Errorf("%v bytes crossed zones after the zone had come back", after-before)
	}
}

// crossedAt returns the bytes of data across zones that these agents have counted.
func (f *fleet) crossedAt(agents ...int) (sum float64) {
	f.t.Helper()
	for _, i := range agents {
		for _, s := range f.Scrape(i) {
			if s.Name == "floe_zone_bytes_total" && strings.Contains(s.Labels, `kind="data"`) && strings.Contains(s.Labels, `zone="other"`) {
				sum += s.Value
			}
		}
	}
	return sum
}

// agree waits until every agent but those that are down tells each zone the same, which names
// these nodes evenly, and then wants them to say it over and over.
func (f *fleet) agree(want map[string][]int32, off int, down ...int) {
	f.t.Helper()
	for zone, nodes := range want {
		var said []int32
		ask := func() error {
			said = nil
			for agent := range agentZones {
				if slices.Contains(down, agent) {
					continue
				}
				leaders, err := f.told(agent, "zone="+zone, "t")
				if err == nil {
					err = spread(leaders, off, nodes...)
				}
				if err != nil {
					return fmt.Errorf("agent %d: %w", agent+1, err)
				}
				if said != nil && !slices.Equal(leaders, said) {
					return fmt.Errorf("agent %d says %v, another %v", agent+1, leaders, said)
				}
				said = leaders
			}
			return nil
		}
		f.await("all agents tell "+zone+" the same", ask)
		first := said
		for range 5 {
			if err := ask(); err != nil || !slices.Equal(first, said) {
				f.t.Errorf("%s is told of %v, and of %v before (%v)", zone, said, first, err)
			}
		}
	}
}
