//go:build integration && unix

package doctor_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/floelog/floe/diagnosis"
	"github.com/floelog/floe/integration/fixture"
	"github.com/floelog/floe/integration/nemesis"
)

const (
	// patience bounds the wait for all findings: rates are of a minute, transactions must get old,
	// and the machine may be busy.
	patience = 4 * time.Minute
	// lookAgain is how often the doctor is asked meanwhile.
	lookAgain = 3 * time.Second
)

// ask runs floe doctor --json.
func ask(t *testing.T, env []string, args ...string) (*diagnosis.Report, int) {
	t.Helper()
	code, stdout, stderr := fixture.Run(t, env, append([]string{"doctor", "--json"}, args...)...)
	if code == 3 {
		t.Fatalf("floe doctor: %s", stderr)
	}
	report := new(diagnosis.Report)
	if err := json.Unmarshal([]byte(stdout), report); err != nil {
		t.Fatalf("floe doctor %v said %q: %v\n%s", args, stdout, err, stderr)
	}
	want := map[diagnosis.Severity]int{"": 0, diagnosis.Info: 0, diagnosis.Warning: 1, diagnosis.Critical: 2}[report.Severity]
	if code != want {
		t.Errorf("exit code %d for severity %q, want %d", code, report.Severity, want)
	}
	return report, code
}

// tick waits until it is time to look again.
func tick(t *testing.T, again *time.Ticker, deadline <-chan time.Time) bool {
	t.Helper()
	select {
	case <-again.C:
		return true
	case <-deadline:
		return false
	case <-t.Context().Done():
		return false
	}
}

// passing are findings that other work of the machine makes true of a cluster without trouble, and
// that end a minute later.
var passing = []string{"etcd_slow", "agent_silent", "store_slow"}

// askCalm asks until the machine is not what is found, and wants nothing else to be found.
func askCalm(t *testing.T, again *time.Ticker, deadline <-chan time.Time, env []string, args ...string) *diagnosis.Report {
	t.Helper()
	for {
		report, _ := ask(t, env, args...)
		busy := false
		for _, found := range report.Findings {
			if slices.Contains(passing, found.Name) {
				busy = true
				continue
			}
			t.Errorf("found %s %s: %s", found.Name, found.Subject, found.Measured)
		}
		if !busy {
			return report
		}
		if !tick(t, again, deadline) {
			t.Fatalf("after %v it is still found: %+v", patience, report.Findings)
		}
	}
}

// A cluster that has nothing to do and no trouble has no findings, and every kind of them is a metric.
func TestNothingIsFoundInAHealthyCluster(t *testing.T) {
	f := fixture.Agents(t, 3, fixture.StoreMinIO)
	again := time.NewTicker(lookAgain)
	defer again.Stop()
	deadline := time.After(patience)
	looks := map[time.Time]bool{}
	for len(looks) < 3 { // looks, that have measured over some time
		report := askCalm(t, again, deadline, nil, "--admin-addr", f.AdminAddrs()[1])
		if len(report.Agents) != 3 {
			t.Fatalf("%d agents answered: %+v", len(report.Agents), report.Agents)
		}
		if looked := report.Agents[2].Looked; !looked.IsZero() {
			looks[looked] = true
		}
		if !tick(t, again, deadline) {
			t.Fatal("agents do not look at themselves")
		}
	}
	for i := range f.AdminAddrs() {
		kinds := map[string]bool{}
		for _, s := range f.Scrape(i) {
			if s.Name == "floe_finding" {
				kind := findingOf(s.Labels)
				kinds[kind] = true
				if s.Value != 0 && !slices.Contains(passing, kind) {
					t.Errorf("agent %d: %s{%s} is %v", i, s.Name, s.Labels, s.Value)
				}
			}
		}
		for _, k := range diagnosis.Kinds() {
			if kinds[k.Name] == k.Outside {
				t.Errorf("agent %d: %s is a metric: %v", i, k.Name, kinds[k.Name])
			}
		}
	}
	// The agents that etcd knows are asked themselves, and the stores are tried out.
	report := askCalm(t, again, deadline, f.StoreEnv, "--etcd", strings.Join(f.Etcd.Endpoints(), ","), "--cluster", fixture.Cluster, "--store", f.Store)
	if len(report.Agents) != 3 || report.Severity != "" {
		t.Errorf("by way of etcd: %+v", report)
	}
	for _, a := range report.Agents {
		if a.Error != "" || a.Looked.IsZero() {
			t.Errorf("by way of etcd: agent %d said %q", a.Node, a.Error)
		}
	}
}

func findingOf(labels string) string {
	for label := range strings.SplitSeq(labels, ",") {
		if name, ok := strings.CutPrefix(label, `finding="`); ok {
			return strings.TrimSuffix(name, `"`)
		}
	}
	return ""
}

// Troubles of ten kinds are made, and each is found, by the command and as a metric.
func TestTroublesAreFound(t *testing.T) {
	const quota = 64 << 20
	etcd := fixture.EtcdWith(t, 3, fmt.Sprintf("--quota-backend-bytes=%d", quota))
	minio := fixture.StartMinIO(t)
	proxy, err := nemesis.NewStore(minio.Addr(), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	f := fixture.AgentsInWeather(t, 2, minio, proxy.Addr(), etcd, nil,
		"--flush-age", "5ms", "--flush-size", "64KiB", "--inline-max", "0B", "--gc-grace", "7s", "--carry-age", "10s")
	f.StopProcess(1)
	f.Give(1, "--zone=")
	f.StartProcess(1)

	fill(t, etcd, quota*65/100)
	register(t, etcd)
	var work sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	defer work.Wait()
	defer stop()
	createTopics(t, f)
	openTransaction(t, f)
	work.Go(func() { produceSmall(ctx, t, f) })
	for range 3 {
		work.Go(func() { produceToOne(ctx, t, f) })
	}
	proxy.Set(map[nemesis.Fault]float64{nemesis.SlowDown: 0.2}, 0)

	awaitFindings(t, f, map[string]string{
		"small_batches":     "client.id chatty",
		"skewed_topic":      "uneven-3",
		"many_partitions":   "",
		"transaction_open":  "held-0",
		"flushes_small":     "",
		"store_throttles":   "",
		"etcd_quota":        "etcd 127.0.0.1:",
		"versions_mixed":    "v9.9.9",
		"zones_incomplete":  "agent 2",
		"settings_doubtful": "gc-grace",
	})
	if proxy.Fired()[nemesis.SlowDown] == 0 {
		t.Error("the object store was never throttled")
	}
	etcd.Kill(2)
	awaitFindings(t, f, map[string]string{"etcd_member_silent": strings.TrimPrefix(etcd.Endpoints()[2], "http://")})
	stop()
	work.Wait()
	withoutAgents(t, f)
}

// withoutAgents looks at the stores when no agent is left.
func withoutAgents(t *testing.T, f *fixture.Floe) {
	t.Helper()
	f.Kill()
	again := time.NewTicker(lookAgain)
	defer again.Stop()
	deadline := time.After(patience)
	for {
		report, _ := ask(t, f.StoreEnv, "--etcd", strings.Join(f.Etcd.Endpoints(), ","), "--cluster", "nobodys", "--store", f.Store)
		var names []string
		for _, found := range report.Findings {
			names = append(names, found.Name)
		}
		if report.Severity == diagnosis.Critical && slices.Contains(names, "agents_none") && slices.Contains(names, "etcd_quota") && slices.Contains(names, "etcd_member_silent") {
			return
		}
		if !tick(t, again, deadline) {
			t.Fatalf("without agents, only %v were found", names)
		}
	}
}

// awaitFindings asks until everything that is wanted was found, by name and part of the subject, and
// is a metric of some agent.
func awaitFindings(t *testing.T, f *fixture.Floe, want map[string]string) {
	t.Helper()
	again := time.NewTicker(lookAgain)
	defer again.Stop()
	deadline := time.After(patience)
	said, metrics := map[string]bool{}, map[string]bool{}
	var last *diagnosis.Report
	for {
		last, _ = ask(t, nil, "--admin-addr", f.AdminAddrs()[0])
		for _, found := range last.Findings {
			if subject, wanted := want[found.Name]; wanted && strings.Contains(found.Subject, subject) {
				said[found.Name] = true
			}
		}
		for i := range f.AdminAddrs() {
			for _, s := range f.Scrape(i) {
				if s.Name == "floe_finding" && s.Value == 1 {
					metrics[findingOf(s.Labels)] = true
				}
			}
		}
		missing := 0
		for name := range want {
			if !said[name] || !metrics[name] {
				missing++
			}
		}
		if missing == 0 {
			return
		}
		if !tick(t, again, deadline) {
			break
		}
	}
	for name, subject := range want {
		if !said[name] || !metrics[name] {
			t.Errorf("%s of %q: said by floe doctor: %v, a metric: %v", name, subject, said[name], metrics[name])
		}
	}
	page, _ := json.MarshalIndent(last, "", " ")
	t.Logf("the last report:\n%s", page)
}

// put writes a key of etcd.
func put(t *testing.T, etcd *fixture.EtcdCluster, key string, value []byte) {
	t.Helper()
	encode := base64.StdEncoding.EncodeToString
	body, err := json.Marshal(map[string]string{"key": encode([]byte(key)), "value": encode(value)})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Post(etcd.Endpoints()[0]+"/v3/kv/put", "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("put %s: status %d", key, resp.StatusCode)
	}
}

// fill makes etcd's database that large.
func fill(t *testing.T, etcd *fixture.EtcdCluster, bytes int) {
	t.Helper()
	const each = 1 << 20
	value := make([]byte, each)
	for i := range bytes / each {
		put(t, etcd, fmt.Sprintf("/another/%d", i), value)
	}
}

// register adds an agent of another version, which leaves and so is given nothing to do.
func register(t *testing.T, etcd *fixture.EtcdCluster) {
	t.Helper()
	value := fmt.Sprintf(`{"version":1,"session":%q,"address":"127.0.0.1:1","rpc_address":"127.0.0.1:1","zone":"zone-9","release":"v9.9.9","ttl_ms":3000,"leaving":true}`, strings.ReplaceAll(uuid.NewString(), "-", ""))
	put(t, etcd, "/floe/"+fixture.Cluster+"/agents/0000000009", []byte(value))
}

func client(t *testing.T, f *fixture.Floe, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append(opts, kgo.SeedBrokers(f.Addrs()...))...)
	if err != nil {
		t.Fatal(err)
	}
	return cl
}

func createTopics(t *testing.T, f *fixture.Floe) {
	t.Helper()
	cl := client(t, f)
	defer cl.Close()
	adm := kadm.NewClient(cl)
	for name, partitions := range map[string]int32{"small": 64, "uneven": 12, "held": 1, "many-1": 10000, "many-2": 10000} {
		resp, err := adm.CreateTopic(t.Context(), partitions, 1, nil, name)
		if err == nil {
			err = resp.Err
		}
		if err != nil {
			t.Fatalf("creating %s: %v", name, err)
		}
	}
}

// openTransaction begins a transaction that stays open until the test ends.
func openTransaction(t *testing.T, f *fixture.Floe) {
	t.Helper()
	cl := client(t, f, kgo.TransactionalID("holder"), kgo.TransactionTimeout(10*time.Minute), kgo.DefaultProduceTopic("held"))
	t.Cleanup(cl.Close)
	if err := cl.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := cl.ProduceSync(t.Context(), kgo.StringRecord("held")).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

// produceSmall sends batches of one small record, one to each partition at a time.
func produceSmall(ctx context.Context, t *testing.T, f *fixture.Floe) {
	cl := client(t, f, kgo.ClientID("chatty"), kgo.DefaultProduceTopic("small"), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
	defer cl.Close()
	for ctx.Err() == nil {
		records := make([]*kgo.Record, 64)
		for i := range records {
			records[i] = kgo.StringRecord("hello")
		}
		if err := cl.ProduceSync(ctx, records...).FirstErr(); err != nil && ctx.Err() == nil {
			t.Errorf("small batches: %v", err)
			return
		}
	}
}

// produceToOne sends everything to one partition of a topic.
func produceToOne(ctx context.Context, t *testing.T, f *fixture.Floe) {
	cl := client(t, f, kgo.ClientID("uneven"), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(kgo.NoCompression()))
	defer cl.Close()
	value := make([]byte, 24<<10)
	for ctx.Err() == nil {
		err := cl.ProduceSync(ctx, &kgo.Record{Topic: "uneven", Partition: 3, Value: value}).FirstErr()
		if err != nil && ctx.Err() == nil {
			t.Errorf("one partition: %v", err)
			return
		}
	}
}
