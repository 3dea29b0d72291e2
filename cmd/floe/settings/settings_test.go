package settings_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/floelog/floe/cmd/floe/settings"
)

// load loads the settings of cmd from args, environ and the content of a file.
func load(t *testing.T, cmd settings.Command, args, environ []string, file string) (*settings.Settings, error) {
	t.Helper()
	if file != "" {
		path := filepath.Join(t.TempDir(), "floe.yaml")
		if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		environ = append(environ, "FLOE_CONFIG="+path)
	}
	fs := pflag.NewFlagSet("floe", pflag.ContinueOnError)
	settings.AddFlags(fs, cmd)
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	return settings.Load(fs, environ, cmd)
}

var agent = []string{"--etcd", "127.0.0.1:2379", "--store", "file:///data"}

func TestPrecedence(t *testing.T) {
	tests := []struct {
		name    string
		args    []string
		environ []string
		file    string
		want    settings.Bytes
	}{
		{"default", nil, nil, "", 8 << 20},
		{"file over default", nil, nil, "flush-size: 1MiB", 1 << 20},
		{"variable over file", nil, []string{"FLOE_FLUSH_SIZE=2MiB"}, "flush-size: 1MiB", 2 << 20},
		{"flag over variable", []string{"--flush-size=3MiB"}, []string{"FLOE_FLUSH_SIZE=2MiB"}, "flush-size: 1MiB", 3 << 20},
		{"flag that repeats the default", []string{"--flush-size", "8MiB"}, []string{"FLOE_FLUSH_SIZE=2MiB"}, "", 8 << 20},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, err := load(t, settings.Dev, tt.args, tt.environ, tt.file)
			if err != nil {
				t.Fatal(err)
			}
			if s.FlushSize != tt.want {
				t.Errorf("flush-size is %s, want %s", s.FlushSize, tt.want)
			}
		})
	}
}

func TestEveryKindOfValue(t *testing.T) {
	file := `
# a comment
etcd: [10.0.0.1:2379, "10.0.0.2:2379"]
store: s3://bucket/prefix?region=eu-west-1
flush-age: 100ms
flush-idle: false
agents: 2
zone: eu-west-1a
inline-max: 0B
`
	s, err := load(t, settings.Agent, []string{"--auto-create-topics=false", "--admin-insecure"}, nil, file)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"10.0.0.1:2379", "10.0.0.2:2379"}; !reflect.DeepEqual(s.Etcd, want) {
		t.Errorf("etcd is %v, want %v", s.Etcd, want)
	}
	if s.FlushAge != 100*time.Millisecond || s.FlushIdle || s.AutoCreateTopics || !s.AdminInsecure || s.InlineMax != 0 || s.Zone != "eu-west-1a" {
		t.Errorf("got %+v", s)
	}
	s, err = load(t, settings.Agent, []string{"--etcd", "a:1,b:2", "--etcd", "c:3", "--store", "file:///d"}, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"a:1", "b:2", "c:3"}; !reflect.DeepEqual(s.Etcd, want) {
		t.Errorf("repeated --etcd is %v, want %v", s.Etcd, want)
	}
}

func TestRefusals(t *testing.T) {
	with := func(args ...string) []string { return append(append([]string(nil), agent...), args...) }
	tests := []struct {
		name    string
		cmd     settings.Command
		args    []string
		environ []string
		file    string
		want    []string // parts of the one line
	}{
		{"unknown key", settings.Dev, nil, nil, "a: 1", []string{"a (", "floe.yaml:1)", "no such key"}},
		{"misspelt key", settings.Dev, nil, nil, "\nflush-sise: 8MiB", []string{"flush-sise (", ":2)", "did you mean flush-size?"}},
		{"key twice", settings.Dev, nil, nil, "zone: a\nzone: b", []string{"zone"}},
		{"not YAML", settings.Dev, nil, nil, "a: [", []string{"config: ", "is not YAML"}},
		{"not a mapping", settings.Dev, nil, nil, "- a", []string{"config: ", "not a list of settings"}},
		{"key without a value", settings.Dev, nil, nil, "cluster:", []string{"cluster (", "no value"}},
		{"nested value", settings.Dev, nil, nil, "cluster: {a: b}", []string{"cluster (", "not a plain text"}},
		{"file names a file", settings.Dev, nil, nil, "config: x.yaml", []string{"cannot name another"}},
		{"missing file", settings.Dev, []string{"--config", "/does/not/exist"}, nil, "", []string{"config: /does/not/exist: no such file"}},
		{"unknown variable", settings.Dev, nil, []string{"FLOE_FLUSHSIZE=8MiB"}, "", []string{"FLOE_FLUSHSIZE: no such environment variable", "FLOE_FLUSH_SIZE"}},
		{"variable in small letters", settings.Dev, nil, []string{"FLOE_flush_size=8MiB"}, "", []string{"FLOE_flush_size"}},
		{"size without unit", settings.Dev, []string{"--flush-size", "8388608"}, nil, "", []string{`--flush-size: "8388608" has no unit`, "8388608B"}},
		{"size with a decimal unit", settings.Dev, []string{"--flush-size", "8MB"}, nil, "", []string{"--flush-size", "unknown unit", "MiB"}},
		{"negative size", settings.Dev, []string{"--flush-size=-8MiB"}, nil, "", []string{"not a size"}},
		{"enormous size", settings.Dev, []string{"--flush-size=99999999TiB"}, nil, "", []string{"too large"}},
		{"duration without unit", settings.Dev, nil, []string{"FLOE_FLUSH_AGE=250"}, "", []string{`FLOE_FLUSH_AGE: "250" has no unit`, "250ms"}},
		{"zero without unit", settings.Dev, nil, []string{"FLOE_DRAIN_TIMEOUT=0"}, "", []string{"has no unit"}},
		{"no duration", settings.Dev, nil, []string{"FLOE_FLUSH_AGE=soon"}, "", []string{"not a duration"}},
		{"no number", settings.Dev, []string{"--agents", "two"}, nil, "", []string{"--agents", "not a whole number"}},
		{"no truth value", settings.Dev, nil, nil, "flush-idle: on", []string{"flush-idle (", "true or false"}},
		{"below the limit", settings.Dev, []string{"--shards", "0"}, nil, "", []string{"--shards", "too small", "at least 1"}},
		{"above the limit", settings.Dev, []string{"--inline-max", "1MiB"}, nil, "", []string{"--inline-max", "too large", "at most 256KiB"}},
		{"no such choice", settings.Dev, []string{"--log-level", "trace"}, nil, "", []string{"--log-level", "debug, info, warn, error"}},
		{"overridden and wrong", settings.Dev, []string{"--flush-size", "8MiB"}, nil, "flush-size: 8", []string{"flush-size (", "no unit"}},

		{"no etcd", settings.Agent, []string{"--store", "file:///d"}, nil, "", []string{"etcd: no etcd is named"}},
		{"no store", settings.Agent, []string{"--etcd", "a:1"}, nil, "", []string{"store: no object store is named"}},
		{"dev with etcd", settings.Dev, nil, []string{"FLOE_ETCD=a:1"}, "", []string{"FLOE_ETCD: floe dev brings its own"}},
		{"dev agents share no rpc-addr", settings.Dev, []string{"--agents=2", "--rpc-addr=127.0.0.1:1"}, nil, "", []string{"--rpc-addr"}},
		{"cluster with a slash", settings.Dev, []string{"--cluster", "a/b"}, nil, "", []string{"--cluster"}},
		{"every interface without advertise", settings.Agent, with("--addr", "0.0.0.0:9092"), nil, "", []string{"advertise: addr 0.0.0.0:9092 is every interface", "--advertise"}},
		{"no host without advertise", settings.Agent, with("--addr", ":9092"), nil, "", []string{"advertise: "}},
		{"advertised 0.0.0.0", settings.Agent, with("--advertise", "0.0.0.0:9092"), nil, "", []string{"--advertise: 0.0.0.0:9092 is nothing"}},
		{"advertised [::]", settings.Agent, with("--advertise", "[::]:9092"), nil, "", []string{"--advertise"}},
		{"advertised port 0", settings.Agent, with("--advertise", "host:0"), nil, "", []string{"--advertise"}},
		{"rpc advertised 0.0.0.0", settings.Agent, with("--rpc-advertise", "0.0.0.0:9093"), nil, "", []string{"--rpc-advertise: 0.0.0.0:9093 is nothing"}},
		{"rpc advertised port 0", settings.Agent, with("--rpc-advertise", "host:0"), nil, "", []string{"--rpc-advertise"}},
		{"rpc advertised without port", settings.Agent, with("--rpc-advertise", "host"), nil, "", []string{"--rpc-advertise", "HOST:PORT"}},
		{"dev agents share no rpc-advertise", settings.Dev, []string{"--agents=2", "--rpc-advertise=host:1"}, nil, "", []string{"--rpc-advertise"}},
		{"address without port", settings.Agent, with("--addr", "localhost"), nil, "", []string{"--addr", "HOST:PORT"}},
		{"address with a named port", settings.Agent, with("--addr", "localhost:kafka"), nil, "", []string{"--addr", "65535"}},
		{"ports beyond the last", settings.Dev, []string{"--addr", "127.0.0.1:65535", "--agents", "2"}, nil, "", []string{"--addr", "beyond 65535"}},
		{"open admin address", settings.Agent, with("--admin-addr", "0.0.0.0:9644"), nil, "", []string{"--admin-addr", "admin-insecure"}},
		{"lease not in seconds", settings.Agent, with("--lease-ttl", "2500ms"), nil, "", []string{"--lease-ttl", "whole number of seconds"}},
		{"lease below what etcd grants", settings.Agent, with("--lease-ttl", "1s"), nil, "", []string{"--lease-ttl", "at least 2s"}},
		{"certificate without key", settings.Agent, with("--etcd-cert", "c.pem"), nil, "", []string{"--etcd-cert", "--etcd-key"}},
		{"user without password", settings.Agent, with("--etcd-user", "floe"), nil, "", []string{"--etcd-user", "--etcd-password-file"}},
		{"unknown role", settings.Agent, with("--roles", "produce,compact"), nil, "", []string{"--roles", "compact", "jobs"}},
		{"zone with a blank", settings.Agent, with("--zone", "a b"), nil, "", []string{"--zone"}},
		{"cache fills the budget", settings.Dev, []string{"--cache-size", "500MiB"}, nil, "", []string{"--cache-size", "32MiB"}},
		{"cache and answers fill the budget", settings.Dev, []string{"--cache-size", "360MiB"}, nil, "", []string{"--cache-size", "32MiB"}},
		{"requests beyond what answers leave", settings.Dev, []string{"--max-request-bytes", "200MiB"}, nil, "", []string{"--max-request-bytes", "192MiB"}},
		{"answers beyond their quarter", settings.Dev, []string{"--fetch-max-bytes", "130MiB"}, nil, "", []string{"--fetch-max-bytes", "128MiB"}},
		{"answers to those far behind take all", settings.Dev, []string{"--fetch-lagging-memory", "128MiB"}, nil, "", []string{"--fetch-lagging-memory", "128MiB", "smaller"}},
		{"requests beyond the budget", settings.Dev, []string{"--max-request-bytes", "500MiB"}, nil, "", []string{"--max-request-bytes"}},
		{"batches beyond requests", settings.Dev, []string{"--max-request-bytes", "1MiB"}, nil, "", []string{"message-max-bytes"}},
		{"sessions upside down", settings.Dev, []string{"--group-min-session-timeout", "1h"}, nil, "", []string{"--group-min-session-timeout: 1h", "group-max-session-timeout, 30m"}},
		{"heartbeats too far apart", settings.Agent, append([]string{"--consumer-heartbeat-interval", "45s"}, agent...), nil, "", []string{"--consumer-heartbeat-interval: ", "consumer-session-timeout, 45s"}},
		{"flushes beyond the budget", settings.Dev, []string{"--flush-size", "100MiB"}, nil, "", []string{"--flush-size", "16 uploads of 100MiB"}},
		{"answers beyond the budget", settings.Dev, []string{"--fetch-max-bytes", "500MiB"}, nil, "", []string{"--fetch-max-bytes"}},
		{"more partitions than allowed", settings.Dev, []string{"--num-partitions", "20000"}, nil, "", []string{"--num-partitions", "max-partitions, 10000"}},
		{"inline beyond a flush", settings.Dev, []string{"--flush-size", "64KiB", "--inline-max", "128KiB"}, nil, "", []string{"--inline-max"}},
		{"inspect two places", settings.Inspect, []string{"--data", "d", "--store", "file:///d"}, nil, "", []string{"--data", "either"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := load(t, tt.cmd, tt.args, tt.environ, tt.file)
			var e *settings.Error
			if !errors.As(err, &e) {
				t.Fatalf("got %v, want a *settings.Error", err)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
			if strings.Contains(err.Error(), "\n") || e.Remedy == "" {
				t.Errorf("%q is not one line with a remedy", err)
			}
		})
	}
}

func TestAccepted(t *testing.T) {
	tests := []struct {
		name    string
		cmd     settings.Command
		args    []string
		environ []string
		file    string
	}{
		{"dev by itself", settings.Dev, nil, nil, ""},
		{"empty file", settings.Dev, nil, nil, "# nothing yet\n"},
		{"variables of others", settings.Dev, nil, []string{"HOME=/", "FLOE=1"}, ""},
		{"variables of Kubernetes", settings.Dev, nil, []string{"FLOE_PORT=tcp://10.0.0.1:9092", "FLOE_SERVICE_HOST=10.0.0.1", "FLOE_SERVICE_PORT_KAFKA=9092", "FLOE_PORT_9092_TCP_ADDR=10.0.0.1", "FLOE_AGENT_PORT=tcp://10.0.0.1:1"}, ""},
		{"every interface with advertise", settings.Agent, append([]string{"--addr=:9092", "--advertise=host:9092"}, agent...), nil, ""},
		{"other agents by another way", settings.Agent, append([]string{"--addr=:9092", "--advertise=localhost:9092", "--rpc-addr=:9093", "--rpc-advertise=agent-1:9093"}, agent...), nil, ""},
		{"chosen port", settings.Dev, []string{"--addr", "127.0.0.1:0", "--admin-addr", "localhost:0"}, nil, ""},
		{"no admin server", settings.Dev, []string{"--admin-addr="}, nil, ""},
		{"inspect dev data", settings.Inspect, nil, nil, ""},
		{"inspect a cluster", settings.Inspect, agent, nil, "flush-size: 1MiB"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, err := load(t, tt.cmd, tt.args, tt.environ, tt.file)
			if err != nil {
				t.Fatal(err)
			}
			if tt.cmd != settings.Inspect && (s.Advertise == "" || s.RPCAddr == "") {
				t.Errorf("advertise %q and rpc-addr %q are not derived", s.Advertise, s.RPCAddr)
			}
		})
	}
}

func TestChangedNamesSourcesAndNoCredentials(t *testing.T) {
	s, err := load(t, settings.Agent, []string{"--etcd", "a:1", "--flush-age", "1s"},
		[]string{"FLOE_STORE=s3://key:secret@bucket", "FLOE_PRODUCER_ID_EXPIRATION=48h"}, "cache-size: 64MiB")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, v := range s.Changed() {
		got = append(got, v.Name+"="+v.Value)
	}
	want := []string{"etcd=a:1", "flush-age=1s", "producer-id-expiration=48h", "cache-size=64MiB"}
	if len(got) != len(want)+1 || !reflect.DeepEqual(got[:len(want)], want) || !strings.HasPrefix(got[len(want)], "config=") {
		t.Errorf("changed settings are %q, want %q and config", got, want)
	}
}

// TestTable holds the rows to what the rest of the package takes for granted.
func TestTable(t *testing.T) {
	seen := map[string]bool{}
	for _, row := range settings.Table() {
		if seen[row.Name] {
			t.Errorf("%s is there twice", row.Name)
		}
		seen[row.Name] = true
		if row.Meaning == "" || row.Why == "" || row.Group == "" || row.Commands == 0 {
			t.Errorf("%s: a row needs group, commands, meaning and why", row.Name)
		}
		if strings.HasSuffix(row.Meaning, ".") || !strings.HasSuffix(row.Why, ".") || strings.ContainsAny(row.Meaning+row.Why, "\n") {
			t.Errorf("%s: meaning is a phrase and why is sentences, on one line", row.Name)
		}
		if strings.Contains(row.Env(), "_PORT") || strings.Contains(row.Env(), "_SERVICE") {
			t.Errorf("%s: %s looks like a variable that Kubernetes injects: choose another name", row.Name, row.Env())
		}
		if (row.Kind() == "size" || row.Kind() == "duration" || row.Kind() == "number") && (row.Min == "" || row.Max == "") {
			t.Errorf("%s: a %s needs limits", row.Name, row.Kind())
		}
	}
}

func TestRenderJSON(t *testing.T) {
	var b bytes.Buffer
	if err := settings.Render(&b, "json"); err != nil {
		t.Fatal(err)
	}
	var rows []map[string]any
	if err := json.Unmarshal(b.Bytes(), &rows); err != nil {
		t.Fatal(err)
	}
	if len(rows) != len(settings.Table()) {
		t.Errorf("%d rows, want %d", len(rows), len(settings.Table()))
	}
	for _, row := range rows {
		if row["name"] == "" || row["env"] == "" || row["why"] == "" {
			t.Errorf("row %v is incomplete", row)
		}
	}
}

func TestDocumentationIsCurrent(t *testing.T) {
	var want bytes.Buffer
	if err := settings.Render(&want, "markdown"); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want.Bytes()) {
		t.Error("docs/configuration.md is not what the table says: run make docs")
	}
}

func FuzzParseBytes(f *testing.F) {
	for _, s := range []string{"8MiB", "0B", "1TiB", "8", "-1B", "99999999999999999999B", "MiB", "9223372036854775807B"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		b, err := settings.ParseBytes(text)
		if err != nil {
			return
		}
		if b < 0 {
			t.Fatalf("%q is %d", text, b)
		}
		if again, err := settings.ParseBytes(b.String()); err != nil || again != b {
			t.Fatalf("%q is %s, which is %d again, not %d (%v)", text, b, again, b, err)
		}
	})
}
