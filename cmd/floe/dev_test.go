package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/floelog/floe/metadata/level"
	"github.com/floelog/floe/metadata/shard"
)

// produce writes the values to a topic and returns their offsets.
func produce(t *testing.T, addrs []string, topic string, values ...string) []int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	client, err := kgo.NewClient(kgo.SeedBrokers(addrs...), kgo.DefaultProduceTopic(topic), kgo.AllowAutoTopicCreation())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	var offsets []int64
	for _, v := range values {
		r, err := client.ProduceSync(ctx, kgo.StringRecord(v)).First()
		if err != nil {
			t.Fatalf("produce: %v", err)
		}
		offsets = append(offsets, r.Offset)
	}
	return offsets
}

// consume reads n records of a topic from the start.
func consume(t *testing.T, addrs []string, topic string, n int) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	client, err := kgo.NewClient(kgo.SeedBrokers(addrs...), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	var values []string
	for len(values) < n {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatalf("consume: %v after %q", err, values)
		}
		fetches.EachRecord(func(r *kgo.Record) { values = append(values, string(r.Value)) })
	}
	return values
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestDevKeepsWhatItAcknowledged(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	f, addrs, admin := startDev(t, data)
	if status, body := get(t, admin+"/readyz"); status != 200 {
		t.Errorf("/readyz of an agent that says it is ready: %d %s", status, body)
	}
	if status, body := get(t, admin+"/metrics"); status != 200 || !strings.Contains(body, "go_goroutines") || !strings.Contains(body, "\nfloe_ready 1\n") {
		t.Errorf("/metrics: %d %.200s", status, body)
	}
	if got := produce(t, addrs, "events", "one", "two"); !slices.Equal(got, []int64{0, 1}) {
		t.Errorf("offsets are %v", got)
	}

	second := start(t, "floe", "dev", "--addr", "127.0.0.1:0", "--admin-addr", "", "--log-level", "error", "--data", data)
	if code := second.wait(); code != exitRuntime {
		t.Errorf("a second floe dev on the same data: exit code %d", code)
	}
	if got := second.stderr.String(); !strings.Contains(got, fmt.Sprintf("in use by floe dev on 127.0.0.1:0, pid %d", f.cmd.Process.Pid)) {
		t.Errorf("the second floe dev does not say who has the data: %q", got)
	}

	if code := f.terminate(); code != exitOK {
		t.Errorf("exit code after SIGTERM is %d:\n%s", code, f.stderr.String())
	}
	f, addrs, _ = startDev(t, data)
	if got := produce(t, addrs, "events", "three"); !slices.Equal(got, []int64{2}) {
		t.Errorf("offsets after a restart are %v", got)
	}
	f.kill()
	_, addrs, _ = startDev(t, data)
	if got := produce(t, addrs, "events", "four"); !slices.Equal(got, []int64{3}) {
		t.Errorf("offsets after a kill are %v", got)
	}
	if got, want := consume(t, addrs, "events", 4), []string{"one", "two", "three", "four"}; !slices.Equal(got, want) {
		t.Errorf("consumed %q, want %q", got, want)
	}
}

func TestDevWithSeveralAgents(t *testing.T) {
	f, addrs, admin := startDev(t, t.TempDir(), "--agents", "3")
	if len(addrs) != 3 {
		t.Fatalf("3 agents say they are on %q", addrs)
	}
	for i, addr := range addrs {
		produce(t, []string{addr}, "events", fmt.Sprint(i))
	}
	for _, addr := range addrs {
		if got := consume(t, []string{addr}, "events", 3); !slices.Equal(got, []string{"0", "1", "2"}) {
			t.Errorf("through %s: consumed %q", addr, got)
		}
	}
	if status, body := get(t, admin+"/readyz"); status != 200 {
		t.Errorf("/readyz: %d %s", status, body)
	}
	if code := f.terminate(); code != exitOK {
		t.Errorf("exit code after SIGTERM is %d:\n%s", code, f.stderr.String())
	}
}

func TestAgentRefusesWithoutEtcd(t *testing.T) {
	store := t.TempDir()
	code, stdout, stderr := invoke(t, nil, "agent", "--addr", "127.0.0.1:0", "--admin-addr", "", "--log-level", "error",
		"--etcd", "127.0.0.1:1", "--store", "file://"+store)
	if code != exitRuntime || stdout != "" {
		t.Errorf("exit code %d, standard output %q", code, stdout)
	}
	if !strings.HasPrefix(stderr, "floe: etcd: ") || !strings.Contains(stderr, "127.0.0.1:1") || strings.Count(stderr, "\n") != 1 {
		t.Errorf("standard error is not one line about etcd:\n%s", stderr)
	}
}

func TestInspect(t *testing.T) {
	data := t.TempDir()
	// Without inline commits the records go into a segment.
	f, addrs, _ := startDev(t, data, "--inline-max", "0B")
	produce(t, addrs, "events", "one", "two")
	code, _, stderr := invoke(t, nil, "inspect", "topic", "events", "--data", data)
	if code != exitRuntime || !strings.Contains(stderr, "in use by floe dev") {
		t.Errorf("inspecting the data of a running floe dev: exit code %d, %q", code, stderr)
	}
	if code := f.terminate(); code != exitOK {
		t.Fatalf("exit code after SIGTERM is %d:\n%s", code, f.stderr.String())
	}

	var topic struct {
		Topic      string
		ID         string
		Partitions []struct {
			Shard          int
			Next, LogStart int64
			Extents        []struct {
				Base, End int64
				Segment   string
			}
		}
	}
	inspectJSON(t, &topic, "topic", "events", "--data", data)
	var cluster struct {
		ID            string
		Shards, Level int
		Writes        map[string]int
	}
	inspectJSON(t, &cluster, "cluster", "--data", data)
	if len(cluster.ID) != 22 || cluster.Shards != 64 || cluster.Level != int(level.Newest) || cluster.Writes["record"] != shard.RecordVersion {
		t.Errorf("the cluster is %+v", cluster)
	}
	if topic.Topic != "events" || len(topic.Partitions) != 1 || topic.Partitions[0].Next != 2 || len(topic.Partitions[0].Extents) == 0 {
		t.Fatalf("inspect topic: %+v", topic)
	}
	p := topic.Partitions[0]
	key := p.Extents[0].Segment
	if p.Extents[len(p.Extents)-1].End != 2 || !strings.HasPrefix(key, "seg/") {
		t.Errorf("inspect topic: extents are %+v", p.Extents)
	}

	var shard struct {
		Shard int
		Head  struct{ Epoch, Seq int64 }
		State struct {
			Seq        int64
			Partitions []struct{ Next int64 }
		}
	}
	inspectJSON(t, &shard, "shard", fmt.Sprint(p.Shard), "--data", data)
	if shard.Shard != p.Shard || shard.Head.Seq != shard.State.Seq || len(shard.State.Partitions) != 1 || shard.State.Partitions[0].Next != 2 {
		t.Errorf("inspect shard: %+v", shard)
	}

	var segment struct {
		Size   int64
		Chunks []struct{ Records int }
	}
	inspectJSON(t, &segment, "segment", key, "--data", data)
	if segment.Size == 0 || len(segment.Chunks) != 1 || segment.Chunks[0].Records < 1 {
		t.Errorf("inspect segment: %+v", segment)
	}
	file := filepath.Join(data, storeDir, filepath.FromSlash(key))
	for _, args := range [][]string{{"topic", "events"}, {"shard", fmt.Sprint(p.Shard)}, {"segment", key}} {
		code, stdout, stderr := invoke(t, nil, append(append([]string{"inspect"}, args...), "--data", data)...)
		if code != exitOK || !strings.Contains(stdout, "records 1") && !strings.Contains(stdout, key) {
			t.Errorf("inspect %q: exit code %d, %s\n%s", args, code, stderr, stdout)
		}
	}
	inspectDamage(t, file)
}

// inspectDamage flips a byte of a segment and expects that inspect tells.
func inspectDamage(t *testing.T, file string) {
	t.Helper()
	if code, _, stderr := invoke(t, nil, "inspect", "segment", file, "--batches"); code != exitOK {
		t.Fatalf("inspect segment FILE: exit code %d, %s", code, stderr)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	bad := filepath.Join(t.TempDir(), "segment")
	if err := os.WriteFile(bad, b, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, form := range []string{"--json", "--batches"} {
		if code, _, stderr := invoke(t, nil, "inspect", "segment", bad, form); code != exitRuntime || !strings.Contains(stderr, "corrupt") {
			t.Errorf("inspect segment %s of a damaged file: exit code %d, %q", form, code, stderr)
		}
	}
}

func inspectJSON(t *testing.T, into any, args ...string) {
	t.Helper()
	code, stdout, stderr := invoke(t, nil, append(append([]string{"inspect"}, args...), "--json")...)
	if code != exitOK {
		t.Fatalf("inspect %q: exit code %d, %s", args, code, stderr)
	}
	if err := json.Unmarshal([]byte(stdout), into); err != nil {
		t.Fatalf("inspect %q: %v in\n%s", args, err, stdout)
	}
}
