//go:build integration && unix

package zones

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/integration/fixture"
)

// The agents' zones: two in the first, one in each other. Node ids count from 1.
var agentZones = []string{"zone-a", "zone-b", "zone-c", "zone-a"}

const (
	shards = 64
	// patience is how long the cluster may take to do what it does in a moment, for a machine
	// that runs every test at once.
	patience = 60 * time.Second
)

// fleet is a cluster in three zones.
type fleet struct {
	*fixture.Floe
	t *testing.T
}

// start starts the agents, and returns when each leads its share of the shards.
func start(t *testing.T, args ...string) *fleet {
	t.Helper()
	f := &fleet{fixture.Fleet(t, len(agentZones), args...), t}
	for i, zone := range agentZones {
		f.Give(i, "--zone", zone)
		f.StartProcess(i)
	}
	f.settled()
	return f
}

// settled waits until each agent but those that are down leads its share.
func (f *fleet) settled(down ...int) {
	f.t.Helper()
	f.await("each agent leads its share of the shards", func() error {
		var led []int
		sum := 0
		for i := range agentZones {
			if slices.Contains(down, i) {
				continue
			}
			for _, s := range f.Scrape(i) {
				if s.Name == "floe_shards_led" {
					led = append(led, int(s.Value))
					sum += int(s.Value)
				}
			}
		}
		if sum != shards || slices.Max(led)-slices.Min(led) > 1 {
			return fmt.Errorf("they lead %v", led)
		}
		return nil
	})
}

// await asks again and again until ok returns nil.
func (f *fleet) await(what string, ok func() error) {
	f.t.Helper()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	late := time.After(patience)
	for {
		err := ok()
		if err == nil {
			return
		}
		select {
		case <-again.C:
		case <-late:
			f.t.Fatalf("%v later it is not so that %s: %v", patience, what, err)
		}
	}
}

// client returns a client; it is closed with the test at the latest.
func (f *fleet) client(opts ...kgo.Opt) *kgo.Client {
	f.t.Helper()
	c, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(f.Addrs()...), kgo.MetadataMinAge(100 * time.Millisecond)}, opts...)...)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(c.Close)
	return c
}

// create creates a topic.
func (f *fleet) create(topic string, partitions int32) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	defer cancel()
	req := kmsg.NewPtrCreateTopicsRequest()
	t := kmsg.NewCreateTopicsRequestTopic()
	t.Topic, t.NumPartitions, t.ReplicationFactor = topic, partitions, 1
	req.Topics, req.TimeoutMillis = append(req.Topics, t), int32(patience.Milliseconds())
	c := f.client()
	defer c.Close()
	resp, err := req.RequestWith(ctx, c)
	if err != nil || resp.Topics[0].ErrorCode != 0 {
		f.t.Fatalf("creating topic %s: %v, %+v", topic, err, resp)
	}
}

// told asks one agent, as a client that calls itself so, who leads the partitions of a topic.
func (f *fleet) told(agent int, clientID, topic string) (leaders []int32, err error) {
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	defer cancel()
	c, err := kgo.NewClient(kgo.SeedBrokers(f.Addrs()[agent]), kgo.ClientID(clientID))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	req := kmsg.NewPtrMetadataRequest()
	t := kmsg.NewMetadataRequestTopic()
	t.Topic = kmsg.StringPtr(topic)
	req.Topics = append(req.Topics, t)
	resp, err := c.SeedBrokers()[0].Request(ctx, req)
	if err != nil {
		return nil, err
	}
	answer := resp.(*kmsg.MetadataResponse).Topics[0]
	if answer.ErrorCode != 0 {
		return nil, fmt.Errorf("topic %s: code %d", topic, answer.ErrorCode)
	}
	slices.SortFunc(answer.Partitions, func(a, b kmsg.MetadataResponseTopicPartition) int { return int(a.Partition - b.Partition) })
	for _, p := range answer.Partitions {
		leaders = append(leaders, p.Leader)
	}
	return leaders, nil
}

// spread counts the leaders and wants them to be these nodes, each as often as any other,
// give or take off.
func spread(leaders []int32, off int, nodes ...int32) error {
	count := map[int32]int{}
	for _, l := range leaders {
		count[l]++
	}
	want := len(leaders) / len(nodes)
	for node, n := range count {
		if !slices.Contains(nodes, node) || max(n-want, want-n) > off {
			return fmt.Errorf("partitions by leader are %v, want %d each of agents %v", count, want, nodes)
		}
	}
	if len(count) != len(nodes) {
		return fmt.Errorf("leaders are %v, want all of %v", slices.Sorted(maps.Keys(count)), nodes)
	}
	return nil
}

// moved returns the bytes of a kind that the agents have counted, by zone.
func (f *fleet) moved(kind string) map[string]float64 {
	f.t.Helper()
	out := map[string]float64{}
	for _, zone := range []string{"same", "other", "unknown"} {
		out[zone] = f.Metric("floe_zone_bytes_total", fmt.Sprintf("kind=%q", kind), fmt.Sprintf("zone=%q", zone))
	}
	return out
}

// produce writes records, of which every fourth is too large to be committed inline, to all
// partitions, as a client in a zone; transactional, if it has an id. It returns their bytes.
func (f *fleet) produce(zone, topic, id string, partitions, records int) (bytes int) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	defer cancel()
	opts := []kgo.Opt{kgo.ClientID("load,zone=" + zone), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(kgo.NoCompression())}
	if id != "" {
		opts = append(opts, kgo.TransactionalID(id))
	}
	c := f.client(opts...)
	defer c.Close()
	if id != "" {
		if err := c.BeginTransaction(); err != nil {
			f.t.Fatal(err)
		}
	}
	for i := range records {
		size := 100
		if i%4 == 0 {
			size = 40 << 10
		}
		r := &kgo.Record{Topic: topic, Partition: int32(i % partitions), Value: []byte(strings.Repeat("x", size))}
		if err := c.ProduceSync(ctx, r).FirstErr(); err != nil {
			f.t.Fatalf("producing in %s: %v", zone, err)
		}
		bytes += size
	}
	if id != "" {
		if err := c.EndTransaction(ctx, kgo.TryCommit); err != nil {
			f.t.Fatalf("committing in %s: %v", zone, err)
		}
	}
	return bytes
}

// consume reads that many records as a member of a group, in a zone that opts tell, and
// returns their bytes.
func (f *fleet) consume(group, topic string, records int, opts ...kgo.Opt) (bytes int) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	defer cancel()
	c := f.client(append(opts, kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(200*time.Millisecond))...)
	defer c.Close()
	n := 0
	for n < records {
		fetches := c.PollFetches(ctx)
		if ctx.Err() != nil {
			f.t.Fatalf("group %s: %d of %d records were read in %v", group, n, records, patience)
		}
		fetches.EachError(func(topic string, p int32, err error) {
			if !errors.Is(err, context.Canceled) {
				f.t.Errorf("group %s: %s-%d: %v", group, topic, p, err)
			}
		})
		fetches.EachRecord(func(r *kgo.Record) { n, bytes = n+1, bytes+len(r.Value) })
	}
	if n != records {
		f.t.Errorf("group %s: %d records were read, want %d", group, n, records)
	}
	if err := c.CommitUncommittedOffsets(ctx); err != nil {
		f.t.Errorf("group %s: %v", group, err)
	}
	return bytes
}
