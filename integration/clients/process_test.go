//go:build integration && unix

package clients

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/floelog/floe/integration/fixture"
)

// oneLine checks that a command ended with that code and said why in one line.
func oneLine(t *testing.T, what string, code int, stdout, stderr string, wantCode int, wants ...string) {
	t.Helper()
	var last string
	lines := 0
	for line := range strings.Lines(stderr) {
		if !strings.HasPrefix(line, "time=") { // the log
			lines++
			last = line
		}
	}
	if code != wantCode || stdout != "" || lines != 1 || !strings.HasPrefix(last, "floe: ") {
		t.Errorf("%s: exit code %d, want %d and one line\n%s%s", what, code, wantCode, stdout, stderr)
	}
	for _, want := range wants {
		if !strings.Contains(last, want) {
			t.Errorf("%s does not say %q: %s", what, want, last)
		}
	}
}

// TestStart checks what the processes say of how they were started.
func TestStart(t *testing.T) {
	t.Parallel()
	if code, stdout, _ := fixture.Run(t, nil, "version"); code != 0 || stdout == "" { // and builds it
		t.Errorf("floe version: exit code %d, %q", code, stdout)
	}
	began := time.Now()
	f := fixture.Dev(t, 1)
	t.Logf("floe dev serves a new directory %v after its start", time.Since(began).Round(time.Millisecond))
	if said := f.Said(0); strings.Count(said, "\n") != 1 || !strings.Contains(said, f.Addrs()[0]) {
		t.Errorf("floe dev says %q, want one line with its address", said)
	}
	code, stdout, stderr := fixture.Run(t, nil, "dev", "--data", f.Data, "--addr", "127.0.0.1:0", "--admin-addr", "")
	oneLine(t, "a second floe dev on the same data", code, stdout, stderr, 1, f.Addrs()[0], fmt.Sprint(f.PID(0)))
	code, stdout, stderr = fixture.Run(t, nil, "dev", "--data", t.TempDir(), "--addr", f.Addrs()[0], "--admin-addr", "")
	oneLine(t, "a second floe dev on the same address", code, stdout, stderr, 1, f.Addrs()[0])
	f.Kill()
	began = time.Now()
	f.Start()
	t.Logf("floe dev serves %v after it was killed and started", time.Since(began).Round(time.Millisecond))
	f.Stop()

	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"an unknown flag", []string{"dev", "--no-such-flag"}, "no-such-flag"},
		{"an unknown command", []string{"develop"}, "develop"},
		{"a value that is none", []string{"dev", "--agents", "many"}, "agents"},
		{"an unknown key", []string{"dev", "--config", writeFile(t, "no-such-key: 1\n")}, "no-such-key"},
		{"a file that is none", []string{"dev", "--config", writeFile(t, "{")}, "config"},
		{"no store", []string{"agent", "--etcd", "127.0.0.1:1"}, "store"},
	} {
		code, stdout, stderr := fixture.Run(t, nil, tt.args...)
		oneLine(t, tt.name, code, stdout, stderr, 2, tt.want)
	}
}

// TestAgentRefuses checks that an agent that cannot do its work says so and ends.
func TestAgentRefuses(t *testing.T) {
	t.Parallel()
	endpoint, access, secret := fixture.MinIO(t)
	fixture.Bucket(t, endpoint, access, secret, "floe")
	etcd := strings.Join(fixture.Etcd(t, 1).Endpoints(), ",")
	good := []string{"AWS_ACCESS_KEY_ID=" + access, "AWS_SECRET_ACCESS_KEY=" + secret}
	bad := []string{"AWS_ACCESS_KEY_ID=" + access, "AWS_SECRET_ACCESS_KEY=wrong"}
	file := writeFile(t, "not a directory")
	for _, driver := range []string{fixture.StoreMinIO, fixture.StoreS3} {
		location := func(bucket, endpoint string) string {
			return fmt.Sprintf("s3://%s/p?driver=%s&region=us-east-1&endpoint=%s", bucket, driver, endpoint)
		}
		for _, tt := range []struct {
			name  string
			env   []string
			etcd  string
			store string
			want  string
		}{
			{"a bucket that does not exist", good, etcd, location("nowhere", endpoint), "nowhere"},
			{"a wrong secret", bad, etcd, location("floe", endpoint), "store"},
			{"a store that is not there", good, etcd, location("floe", "http://127.0.0.1:1"), "127.0.0.1:1"},
			{"an etcd that is not there", good, "127.0.0.1:1", location("floe", endpoint), "etcd"},
			{"a directory that is none", nil, etcd, "file://" + file, "store"},
			{"a store of no kind", nil, etcd, "ftp://there", "store"},
		} {
			code, stdout, stderr := fixture.Run(t, tt.env, "agent", "--addr", "127.0.0.1:0", "--admin-addr", "",
				"--etcd", tt.etcd, "--store", tt.store)
			oneLine(t, driver+": "+tt.name, code, stdout, stderr, 1, tt.want)
			if strings.Contains(stderr, secret) {
				t.Errorf("%s: %s: the secret is shown", driver, tt.name)
			}
		}
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
}
