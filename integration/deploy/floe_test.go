//go:build integration

package deploy_test

import (
	"bufio"
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/twmb/franz-go/pkg/kgo"
)

// patience bounds what takes a second or two on a machine with nothing else to do.
const patience = 2 * time.Minute

var built struct {
	once sync.Once
	path string
	err  error
}

// floe builds the binary as deploy/Dockerfile does, once.
func floe(t *testing.T) string {
	t.Helper()
	built.once.Do(func() {
		var bin string
		if bin, built.err = filepath.Abs(filepath.Join(root, ".cache", "bin")); built.err != nil {
			return
		}
		built.path = filepath.Join(bin, "floe-deploy")
		built.err = build("-trimpath", "-buildvcs=false", "-o", built.path, "./cmd/floe")
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.path
}

// build runs go build at the root of the repository.
func build(args ...string) error {
	cmd := exec.Command("go", append([]string{"build"}, args...)...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %v: %w\n%s", args, err, out)
	}
	return nil
}

func TestBinaryIsStatic(t *testing.T) {
	f, err := elf.Open(floe(t))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			t.Error("the binary needs a dynamic linker, which an image of nothing but it does not have")
		}
	}
}

// setting is a row of the table of settings.
type setting struct {
	Name     string   `json:"name"`
	Commands []string `json:"commands"`
}

// settingsOf returns the settings that floe agent knows.
func settingsOf(t *testing.T) map[string]setting {
	t.Helper()
	out, err := exec.Command(floe(t), "settings", "--json").Output()
	if err != nil {
		t.Fatalf("floe settings: %v", err)
	}
	var rows []setting
	if err := json.Unmarshal(out, &rows); err != nil {
		t.Fatal(err)
	}
	table := map[string]setting{}
	for _, row := range rows {
		if slices.Contains(row.Commands, "floe agent") {
			table[row.Name] = row
		}
	}
	if len(table) < 30 {
		t.Fatalf("%d settings: floe settings --json says something else than this test reads", len(table))
	}
	return table
}

var adminURL = regexp.MustCompile(`http://[^ ,]+/metrics`)
var kafkaAddr = regexp.MustCompile(`127\.0\.0\.1:\d+`)

// metricsOf runs floe dev, gives it some work, and returns what its /metrics serves.
func metricsOf(t *testing.T) map[string]*dto.MetricFamily {
	t.Helper()
	binary := floe(t) // building it is not what patience is for
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.Command(binary, "dev", "--data", filepath.Join(t.TempDir(), "data"), "--addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0", "--gc-interval", "100ms")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(stdout)
	t.Cleanup(func() {
		if err := errors.Join(cmd.Process.Signal(syscall.SIGTERM), cmd.Wait()); err != nil {
			t.Errorf("floe dev: %v", err)
		}
	})
	stuck := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() }) // ends the read below
	ready, err := lines.ReadString('\n')
	stuck()
	if err != nil {
		t.Fatalf("floe dev said %q: %v", ready, err)
	}
	url, addr := adminURL.FindString(ready), kafkaAddr.FindString(ready)
	if url == "" || addr == "" {
		t.Fatalf("floe dev said %q, without the addresses of its agent", ready)
	}
	work(ctx, t, addr)
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		families := scrape(ctx, t, http.DefaultClient, url)
		if families["floe_gc_sweeps_total"] != nil && families["floe_topic_stored_bytes"] != nil {
			return families
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			t.Fatal("no sweep was counted")
		}
	}
}

// work produces, some of it in a transaction, and consumes as a group.
func work(ctx context.Context, t *testing.T, addr string) {
	t.Helper()
	producer, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.TransactionalID("deploy"), kgo.AllowAutoTopicCreation(), kgo.ProducerBatchCompression(kgo.NoCompression()))
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	if err := producer.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	large := make([]byte, 100<<10) // not committed through etcd alone
	if err := producer.ProduceSync(ctx, &kgo.Record{Topic: "deploy", Value: large}, &kgo.Record{Topic: "deploy", Value: []byte("small")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if err := producer.EndTransaction(ctx, kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	consumer, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.ConsumerGroup("deploy"), kgo.ConsumeTopics("deploy"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer consumer.Close()
	for got := 0; got < 2; {
		fetches := consumer.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatal(err)
		}
		got += fetches.NumRecords()
	}
	if err := consumer.CommitUncommittedOffsets(ctx); err != nil {
		t.Fatal(err)
	}
}

// scrape reads a page of metrics.
func scrape(ctx context.Context, t *testing.T, client *http.Client, url string) map[string]*dto.MetricFamily {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(resp.Body)
	if err != nil {
		t.Fatalf("%s: %v", url, err)
	}
	return families
}

// etcdMetrics runs the etcd server of the version in go.mod and returns what it serves.
func etcdMetrics(t *testing.T) map[string]*dto.MetricFamily {
	t.Helper()
	dir := t.TempDir()
	bin := filepath.Join(dir, "etcd")
	if err := build("-tags", "integration", "-o", bin, "./integration/fixture/etcdserver"); err != nil {
		t.Fatal(err)
	}
	// A socket in a folder needs no port that is free.
	cmd := exec.Command(bin, "--data-dir", filepath.Join(dir, "data"), "--log-outputs", "stdout",
		"--listen-client-urls", "unix://"+filepath.Join(dir, "c"), "--advertise-client-urls", "unix://"+filepath.Join(dir, "c"),
		"--listen-peer-urls", "unix://"+filepath.Join(dir, "p"), "--initial-advertise-peer-urls", "unix://"+filepath.Join(dir, "p"),
		"--initial-cluster", "default=unix://"+filepath.Join(dir, "p"))
	cmd.Dir = dir
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed, so always an error
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	stuck := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stuck()
	var said []string
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		said = append(said, lines.Text())
		if strings.Contains(lines.Text(), "ready to serve client requests") {
			go func() { // ends when the process does
				for lines.Scan() {
				}
			}()
			socket := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(dir, "c"))
			}, DisableKeepAlives: true}
			return scrape(ctx, t, &http.Client{Transport: socket}, "http://etcd/metrics")
		}
	}
	t.Fatalf("etcd ended:\n%s", strings.Join(said, "\n"))
	return nil
}
