package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/floelog/floe/cmd/floe/bill"
)

// TestCostOfARunningAgent counts what a real agent does for a topic.
func TestCostOfARunningAgent(t *testing.T) {
	_, addrs, admin := startDev(t, t.TempDir(), "--inline-max", "0B")
	cl, err := kgo.NewClient(kgo.SeedBrokers(addrs...), kgo.AllowAutoTopicCreation(), kgo.ConsumeTopics("bills"))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	admin = strings.TrimPrefix(admin, "http://")
	value := bytes.Repeat([]byte{'v'}, 100_000)
	if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: "bills", Value: value}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if f := cl.PollFetches(t.Context()); f.Err() != nil || f.NumRecords() != 1 {
		t.Fatalf("got %d records, %v", f.NumRecords(), f.Err())
	}
	prices := filepath.Join(t.TempDir(), "prices.yaml")
	if err := os.WriteFile(prices, []byte("put: 1000\nstorage: 1\ntransfer: 0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := invoke(t, nil, "cost", "--admin", admin, "--prices", prices, "--json")
	if code != exitOK || stderr != "" {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	var b bill.Bill
	if err := json.Unmarshal([]byte(stdout), &b); err != nil {
		t.Fatalf("%v in %q", err, stdout)
	}
	var put *bill.Line
	for i := range b.Lines {
		if b.Lines[i].Kind == "put" && b.Lines[i].Purpose == "produce" {
			put = &b.Lines[i]
		}
	}
	if put == nil || put.Requests <= 0 || put.Dollars != put.Requests {
		t.Errorf("the flush at a dollar for each PUT is %+v", put)
	}
	var topic *bill.TopicLine
	for i := range b.Topics {
		if b.Topics[i].Topic == "bills" {
			topic = &b.Topics[i]
		}
	}
	if topic == nil || topic.Partitions != 1 || topic.StoredGiB <= 0 || topic.InGiB <= 0 || topic.OutGiB <= 0 {
		t.Errorf("the topic is %+v", topic)
	}
	code, stdout, stderr = invoke(t, nil, "cost", "--admin", admin)
	if code != exitOK || !strings.Contains(stdout, "bills") || !strings.Contains(stdout, "USD") {
		t.Errorf("for people: exit code %d, %s, %q", code, stderr, stdout)
	}
}

func TestCostRefusals(t *testing.T) {
	empty := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte("# nothing of Floe\nup 1\n"))
	}))
	defer empty.Close()
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, c := range map[string]struct {
		args []string
		code int
		says string
	}{
		"no port":           {[]string{"--admin", "localhost"}, exitUsage, "--admin"},
		"named twice":       {[]string{"--admin", "a:1,a:1"}, exitUsage, "counted twice"},
		"no time":           {[]string{"--over", "10ms"}, exitUsage, "--over"},
		"no file":           {[]string{"--prices", filepath.Join(dir, "none")}, exitUsage, "--prices"},
		"unknown price":     {[]string{"--prices", file("a.yaml", "puts: 1\n")}, exitUsage, "known keys"},
		"negative price":    {[]string{"--prices", file("b.yaml", "put: -1\n")}, exitUsage, "not negative"},
		"nobody there":      {[]string{"--admin", "127.0.0.1:1"}, exitRuntime, "admin address"},
		"not a Floe agent":  {[]string{"--admin", strings.TrimPrefix(empty.URL, "http://")}, exitRuntime, "Floe agent"},
		"too many words":    {[]string{"now"}, exitUsage, "now"},
		"not a known flag":  {[]string{"--month"}, exitUsage, "--month"},
		"price not a value": {[]string{"--prices", file("c.yaml", "put: dear\n")}, exitUsage, "--prices"},
	} {
		code, _, stderr := invoke(t, nil, append([]string{"cost"}, c.args...)...)
		if code != c.code || !strings.Contains(stderr, c.says) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%s: exit code %d, %q; want %d and one line with %q", name, code, stderr, c.code, c.says)
		}
	}
}
