//go:build integration && unix

package weather

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/integration/fixture"
	"github.com/floelog/floe/integration/history"
	"github.com/floelog/floe/integration/nemesis"
	"github.com/floelog/floe/integration/workload"
)

var outage = flag.Duration("weather.outage", 0, "how long the stores are down; 0: some seconds")

const (
	lease = 3 * time.Second
	// recovery is the aim, from the end of the trouble; patience fails the test, on a machine that
	// runs everything at once.
	recovery = 5 * time.Second
	patience = 45 * time.Second
	agents   = 2
	large    = 200 << 10 // bytes of a record that is never inline
)

// world is a cluster, its weather, and a load.
type world struct {
	*testing.T
	floe   *fixture.Floe
	writes *writes
	store  *nemesis.Store
	etcd   *nemesis.Link
	server *fixture.EtcdCluster
	load   *workload.Load
	admin  *kgo.Client
	r      *rand.Rand
	colds  int
}

// writes is a proxy that refuses PUTs with a status while it has one.
type writes struct {
	status  atomic.Int64
	refused atomic.Int64
	proxy   *httputil.ReverseProxy
}

func (w *writes) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	status := int(w.status.Load())
	if status == 0 || r.Method != http.MethodPut {
		w.proxy.ServeHTTP(rw, r)
		return
	}
	w.refused.Add(1)
	rw.Header().Set("Content-Type", "application/xml")
	rw.WriteHeader(status)
	code := map[int]string{http.StatusForbidden: "AccessDenied", http.StatusInsufficientStorage: "XMinioStorageFull"}[status]
	fmt.Fprintf(rw, `<?xml version="1.0" encoding="UTF-8"?><Error><Code>%s</Code><Message>the test refuses it</Message></Error>`, code)
}

// newWorld starts a cluster in fair weather.
func newWorld(t *testing.T, etcdFlags ...string) *world {
	t.Helper()
	minio := fixture.StartMinIO(t)
	w := &world{T: t, r: rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0)), server: fixture.EtcdWith(t, 1, etcdFlags...)}
	var err error
	if w.store, err = nemesis.NewStore(minio.Addr(), 1); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.store.Close() })
	if w.etcd, err = nemesis.NewLink(nemesis.LinkConfig{Target: strings.TrimPrefix(w.server.Endpoints()[0], "http://")}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.etcd.Close() })
	w.writes = &writes{proxy: httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: w.store.Addr()})}
	w.writes.proxy.ErrorHandler = func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }
	front := httptest.NewServer(w.writes)
	t.Cleanup(front.Close)
	w.floe = fixture.AgentsInWeather(t, agents, minio, strings.TrimPrefix(front.URL, "http://"), w.server, []string{w.etcd.Addr()},
		"--lease-ttl", lease.String(), "--memory-budget", "256MiB", "--cache-size", "128MiB", "--max-request-bytes", "16MiB", "--flush-size", "2MiB", "--uploads-in-flight", "8", "--rollup-age", "1s")
	w.admin = w.client()
	return w
}

func (w *world) client(opts ...kgo.Opt) *kgo.Client {
	w.Helper()
	c, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(w.floe.Addrs()...), kgo.MetadataMinAge(50 * time.Millisecond), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.ProducerLinger(0), kgo.RetryBackoffFn(func(int) time.Duration { return 100 * time.Millisecond }),
		kgo.ProduceRequestTimeout(10 * time.Second), kgo.RequestRetries(1 << 20),
	}, opts...)...)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(c.Close)
	return c
}

func (w *world) create(topic string, partitions int32) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), time.Minute)
	defer cancel()
	if _, err := kadm.NewClient(w.admin).CreateTopic(ctx, partitions, -1, nil, topic); err != nil {
		w.Fatal(err)
	}
}

// begin puts a load on the cluster.
func (w *world) begin() {
	w.Helper()
	w.load = workload.Start(w.T, history.New(history.Config{}), workload.Config{
		Agents: w.floe.Addrs(), Topic: "load", Partitions: 8, Idempotent: 3, Rate: 50, Racks: []string{""}, Seed: 1,
	})
	w.create("large", 8)
	w.create("small", 8)
	w.await(time.Now())
}

// await waits until every partition of the load acknowledges records sent after since.
func (w *world) await(since time.Time) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), time.Minute)
	defer cancel()
	if _, err := w.load.Await(ctx, since, w.load.All()...); err != nil {
		w.Fatal(err)
	}
}

// finish judges the load's history.
func (w *world) finish() {
	w.Helper()
	report := w.load.Finish(time.Minute)
	w.Log(report.Counts())
	if err := w.load.Errors(); err != nil {
		w.Errorf("producers heard errors that a retry does not cure: %v", err)
	}
	if err := report.Err(); err != nil {
		w.Error(err)
	}
	if report.Acked == 0 || report.Reads < report.Acked {
		w.Errorf("%d records were acknowledged and %d read: nothing was tested", report.Acked, report.Reads)
	}
}

// payload is bytes that do not compress.
func (w *world) payload(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(w.r.Uint32())
	}
	return b
}

// produce sends one record and waits for its acknowledgement.
func (w *world) produce(ctx context.Context, c *kgo.Client, topic string, partition int32, size int) (kgo.Record, error) {
	r, err := c.ProduceSync(ctx, &kgo.Record{Topic: topic, Partition: partition, Value: w.payload(size)}).First()
	if err != nil {
		return kgo.Record{}, err
	}
	return *r, nil
}

// cold is a record that is in the object store and in no memory of the agent that is asked.
type cold struct {
	topic string
	node  int32
}

// newCold stores a record through the partition's leader, for another agent to be asked.
func (w *world) newCold() cold {
	w.Helper()
	w.colds++
	c := cold{topic: fmt.Sprintf("cold-%d", w.colds)}
	w.create(c.topic, 1)
	ctx, cancel := context.WithTimeout(w.Context(), time.Minute)
	defer cancel()
	client := w.client()
	if _, err := w.produce(ctx, client, c.topic, 0, large); err != nil {
		w.Fatal(err)
	}
	c.node = int32(agents - w.leader(c.topic, 0)) // of 1 and 2, the other one
	return c
}

// leader returns the agent, from 0, that leads a partition: which one that is, is chance.
func (w *world) leader(topic string, partition int32) int {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), time.Minute)
	defer cancel()
	topics, err := kadm.NewClient(w.admin).ListTopics(ctx, topic)
	if err != nil {
		w.Fatal(err)
	}
	return int(topics[topic].Partitions[partition].Leader) - 1
}

// newKnown stores a small record, and returns it when every agent knows it.
func (w *world) newKnown() kgo.Record {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), time.Minute)
	defer cancel()
	r, err := w.produce(ctx, w.client(), "small", 1, 100)
	if err != nil {
		w.Fatal(err)
	}
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for node := int32(1); node <= agents; {
		n, err := w.fetch(ctx, node, "small", 1, r.Offset)
		if err == nil && n > 0 {
			node++
			continue
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			w.Fatalf("agent %d does not know a record: %d bytes, %v", node, n, err)
		}
	}
	return r
}

// fetch asks an agent for what lies at an offset, and returns how many bytes it gave.
func (w *world) fetch(ctx context.Context, node int32, topic string, partition int32, offset int64) (int, error) {
	req := kmsg.NewPtrFetchRequest()
	req.Version, req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.ReplicaID = 11, 500, 1, 10<<20, -1
	req.SessionEpoch = -1
	t := kmsg.NewFetchRequestTopic()
	t.Topic = topic
	p := kmsg.NewFetchRequestTopicPartition()
	p.Partition, p.FetchOffset, p.PartitionMaxBytes, p.CurrentLeaderEpoch = partition, offset, 10<<20, -1
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	resp, err := w.admin.Broker(int(node)).Request(ctx, atMost11{req})
	if err != nil {
		return 0, err
	}
	got := resp.(*kmsg.FetchResponse)
	if len(got.Topics) != 1 || len(got.Topics[0].Partitions) != 1 {
		return 0, fmt.Errorf("fetch answered %d topics, code %d", len(got.Topics), got.ErrorCode)
	}
	return len(got.Topics[0].Partitions[0].RecordBatches), kerr.ErrorForCode(got.Topics[0].Partitions[0].ErrorCode)
}

// atMost11 keeps the version below those that name topics by their ids.
type atMost11 struct{ *kmsg.FetchRequest }

func (atMost11) MaxVersion() int16 { return 11 }

// recovered measures from the end of a trouble: to a large and a small record that are
// acknowledged, and a record that is read from the object store by another agent.
func (w *world) recovered(name string, ended time.Time, c cold) {
	w.Helper()
	type measured struct {
		what string
		took time.Duration
		err  error
	}
	ctx, cancel := context.WithTimeout(w.Context(), patience)
	defer cancel()
	results := make(chan measured, 3)
	probe := func(what string, try func() error) {
		go func() { // ends with ctx; all are awaited
			for {
				err := try()
				if err == nil || ctx.Err() != nil {
					results <- measured{what, time.Since(ended), err}
					return
				}
			}
		}()
	}
	producer := w.client()
	bytes, few := w.payload(large), w.payload(100)
	probe("large", func() error {
		return producer.ProduceSync(ctx, &kgo.Record{Topic: "large", Value: bytes}).FirstErr()
	})
	probe("small", func() error {
		return producer.ProduceSync(ctx, &kgo.Record{Topic: "small", Value: few}).FirstErr()
	})
	probe("cold", func() error {
		n, err := w.fetch(ctx, c.node, c.topic, 0, 0)
		if err == nil && n == 0 {
			err = fmt.Errorf("no records")
		}
		return err
	})
	line := name + ":"
	late := time.After(patience + 2*time.Second) // an idempotent producer does not give up what it has sent
	for range 3 {
		var m measured
		select {
		case m = <-results:
		case <-late:
			w.Fatalf("%s after %v; what else was to go on has not", line, time.Since(ended))
		}
		line += fmt.Sprintf(" %s %v", m.what, m.took.Round(time.Millisecond))
		if m.err != nil {
			w.Errorf("%s: %s did not go on within %v: %v", name, m.what, patience, m.err)
		}
		if m.took > recovery {
			line += " (over the aim)"
		}
	}
	w.Logf("RECOVERY %s", line)
	w.await(ended)
	w.Logf("RECOVERY %s: all of the load after %v", name, time.Since(ended).Round(time.Millisecond))
}

// bounded checks that no agent holds more than it may.
func (w *world) bounded() {
	w.Helper()
	for i := range agents {
		samples, err := w.floe.TryScrape(i)
		if err != nil {
			w.Errorf("metrics of agent %d: %v", i, err)
			continue
		}
		seen := map[string]float64{}
		for _, s := range samples {
			seen[s.Name] = s.Value
		}
		if used, all := seen["floe_memory_used_bytes"], seen["floe_memory_budget_bytes"]; all == 0 || used > all {
			w.Errorf("agent %d holds %v of %v bytes of requests", i, used, all)
		}
		const most = 500 << 20 // of a budget of 256 MiB, with Go's own
		if rss := seen["process_resident_memory_bytes"]; rss == 0 || rss > most {
			w.Errorf("agent %d takes %v MiB", i, rss/(1<<20))
		}
	}
}

// says waits until an agent's /readyz has a line, and none of the others, and returns the page.
func (w *world) says(i int, ready bool, want string, not ...string) string {
	w.Helper()
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	deadline := time.After(patience)
	for {
		page, is := w.floe.Readyz(i)
		has := func(line string) bool { return strings.Contains(page, line) }
		if is == ready && has(want) && !slices.ContainsFunc(not, has) {
			return page
		}
		select {
		case <-again.C:
		case <-deadline:
			w.Errorf("/readyz of agent %d (ready %v) does not say %q, and none of %q: %s", i, is, want, not, page)
			return page
		}
	}
}

// hold lets time pass: how long a trouble lasts is what it is.
func (w *world) hold(short time.Duration) {
	if *outage > 0 {
		short = *outage
	}
	select {
	case <-time.After(short):
	case <-w.Context().Done():
	}
}
