//go:build integration && unix

package clients

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/floelog/floe/integration/fixture"
)

// testConnect copies a file into a topic and the topic into another file, with one worker
// of Kafka Connect and then with another one.
func testConnect(t *testing.T, e *env) {
	addrs := e.floe.Addrs()
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	topic, group := topicName(t), topicName(t, "workers")
	createTopic(t, addrs, topic, 1)
	var want []string
	more := func() {
		t.Helper()
		f, err := os.OpenFile(from, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		for range 100 {
			want = append(want, fmt.Sprintf("line %d", len(want)))
			fmt.Fprintln(f, want[len(want)-1])
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	more()
	one := startConnect(t, addrs, group)
	one.configure("source", map[string]string{"connector.class": "FileStreamSource", "tasks.max": "1", "file": from, "topic": topic})
	one.configure("sink", map[string]string{"connector.class": "FileStreamSink", "tasks.max": "1", "file": to, "topics": topic})
	one.awaitLines(to, want)

	two := startConnect(t, addrs, group)
	checkConnectGroup(t, addrs, group)
	one.stop()
	more()
	two.awaitLines(to, want)
	two.stop()

	if got := readAll(t, addrs, topic, kgo.ReadCommitted())[0]; !slices.Equal(got, want) {
		t.Errorf("the topic holds %d lines, want %d, each once: %q", len(got), len(want), got)
	}
	for _, kind := range []string{"config", "offset", "status"} {
		configs, err := admin(t, addrs).DescribeTopicConfigs(deadline(t), group+"-"+kind)
		if err != nil || configs[0].Err != nil {
			t.Fatalf("%s topic: %v, %v", kind, err, configs)
		}
		for _, c := range configs[0].Configs {
			if c.Key == "cleanup.policy" && c.MaybeValue() != "compact" {
				t.Errorf("the topic %s-%s has cleanup.policy %q", group, kind, c.MaybeValue())
			}
		}
	}
}

// checkConnectGroup waits until the workers' group, of a type of its own, has both.
func checkConnectGroup(t *testing.T, addrs []string, group string) {
	t.Helper()
	a, ctx := admin(t, addrs), deadline(t)
	eventually(t, "two workers are in the group", func() (bool, string) {
		described, err := a.DescribeGroups(ctx, group)
		g := described[group]
		return err == nil && g.State == "Stable" && g.ProtocolType == "connect" && len(g.Members) == 2,
			fmt.Sprintf("%s of type %q with %d members, %v", g.State, g.ProtocolType, len(g.Members), err)
	})
}

// connectWorker is a process of Kafka Connect.
type connectWorker struct {
	t     *testing.T
	url   string
	cmd   *exec.Cmd
	said  *fixture.Tail
	ended chan error
}

// startConnect starts a worker, and returns when it serves.
func startConnect(t *testing.T, addrs []string, group string) *connectWorker {
	t.Helper()
	address := fixture.Address(t)
	var settings strings.Builder
	for _, kv := range [][2]string{
		{"bootstrap.servers", strings.Join(addrs, ",")}, {"group.id", group}, {"listeners", "http://" + address},
		{"key.converter", "org.apache.kafka.connect.storage.StringConverter"}, {"value.converter", "org.apache.kafka.connect.storage.StringConverter"},
		{"config.storage.topic", group + "-config"}, {"config.storage.replication.factor", "-1"},
		{"offset.storage.topic", group + "-offset"}, {"offset.storage.replication.factor", "-1"}, {"offset.storage.partitions", "2"},
		{"status.storage.topic", group + "-status"}, {"status.storage.replication.factor", "-1"}, {"status.storage.partitions", "2"},
		{"offset.flush.interval.ms", "500"}, {"exactly.once.source.support", "enabled"}, {"consumer.isolation.level", "read_committed"},
		{"scheduled.rebalance.max.delay.ms", "0"}, {"heartbeat.interval.ms", "500"}, {"plugin.discovery", "service_load"},
	} {
		fmt.Fprintf(&settings, "%s=%s\n", kv[0], kv[1])
	}
	jvm := fixture.Java(t, javaProject)
	w := &connectWorker{t: t, url: "http://" + address, said: &fixture.Tail{}, ended: make(chan error, 1)}
	w.cmd = exec.Command(jvm.Java, append(jvmFlags(jvm, t.TempDir()), "org.apache.kafka.connect.cli.ConnectDistributed", writeFile(t, settings.String()))...)
	w.cmd.Stdout, w.cmd.Stderr = w.said, w.said
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	gone := make(chan struct{})
	go func() {
		w.ended <- w.cmd.Wait()
		close(gone)
	}()
	t.Cleanup(func() {
		_ = w.cmd.Process.Kill()
		<-gone
		if t.Failed() {
			t.Logf("Kafka Connect: %s", w.said)
		}
	})
	eventually(t, "Kafka Connect serves", func() (bool, string) {
		select {
		case err := <-w.ended:
			t.Fatalf("Kafka Connect has ended: %v", err)
		default:
		}
		code, text := w.ask(http.MethodGet, "/connectors", nil)
		return code == http.StatusOK, text
	})
	return w
}

// ask sends a request; without an answer the code is 0.
func (w *connectWorker) ask(method, path string, body []byte) (code int, text string) {
	w.t.Helper()
	req, err := http.NewRequestWithContext(deadline(w.t), method, w.url+path, bytes.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(answer)
}

// configure creates a connector; while workers rebalance it is refused with 409.
func (w *connectWorker) configure(name string, settings map[string]string) {
	w.t.Helper()
	body, err := json.Marshal(settings)
	if err != nil {
		w.t.Fatal(err)
	}
	eventually(w.t, "the connector "+name+" is created", func() (bool, string) {
		code, text := w.ask(http.MethodPut, "/connectors/"+name+"/config", body)
		if code != http.StatusCreated && code != http.StatusConflict {
			w.t.Fatalf("create the connector %s: %d %s", name, code, text)
		}
		return code == http.StatusCreated, text
	})
}

// awaitLines waits until a file holds lines, in their order; a sink may write a line again
// that it had not committed.
func (w *connectWorker) awaitLines(file string, want []string) {
	w.t.Helper()
	eventually(w.t, fmt.Sprintf("%d lines are in the sink's file", len(want)), func() (bool, string) {
		text, err := os.ReadFile(file)
		if err != nil && !os.IsNotExist(err) {
			w.t.Fatal(err)
		}
		var got []string
		seen := map[string]bool{}
		for line := range strings.Lines(string(text)) {
			if line = strings.TrimSuffix(line, "\n"); !seen[line] {
				seen[line] = true
				got = append(got, line)
			}
		}
		if slices.Equal(got, want) {
			return true, ""
		}
		_, source := w.ask(http.MethodGet, "/connectors/source/status", nil)
		_, sink := w.ask(http.MethodGet, "/connectors/sink/status", nil)
		return false, fmt.Sprintf("%d lines; %s %s", len(got), source, sink)
	})
}

// stop ends the worker as SIGTERM does.
func (w *connectWorker) stop() {
	w.t.Helper()
	if err := w.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		w.t.Fatal(err)
	}
	select {
	case <-w.ended: // a JVM that is told to end says so with its code
	case <-deadline(w.t).Done():
		w.t.Fatal("Kafka Connect does not end")
	}
}
