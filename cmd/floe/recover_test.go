package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/floelog/floe/repair/fsck"
	"github.com/floelog/floe/repair/recovery"
)

// TestRecover loses the etcd of a floe dev, and rebuilds it.
func TestRecover(t *testing.T) {
	data := t.TempDir()
	f, addrs, _ := startDev(t, data, "--inline-max", "512B")
	produce(t, addrs, "small", "one", "two")
	produce(t, addrs, "large", strings.Repeat("x", 40<<10))
	if code := f.terminate(); code != exitOK {
		t.Fatalf("exit code after SIGTERM is %d:\n%s", code, f.stderr.String())
	}
	if code, _, stderr := invoke(t, nil, "recover", "--data", data, "--execute"); code != exitRuntime || !strings.Contains(stderr, "not empty") {
		t.Errorf("over an etcd that is there: exit code %d, %s", code, stderr)
	}
	if err := os.RemoveAll(filepath.Join(data, etcdDir)); err != nil {
		t.Fatal(err)
	}
	var r recovery.Report
	jsonOf(t, &r, "recover", "--data", data)
	if r.Executed || r.Topics != 2 {
		t.Errorf("a dry run: executed %v, %d topics", r.Executed, r.Topics)
	}
	if code, stdout, stderr := invoke(t, nil, "recover", "--data", data, "--execute"); code != exitOK || !strings.Contains(stdout, "could not be known") {
		t.Fatalf("--execute: exit code %d, %s\n%s", code, stdout, stderr)
	}
	var checked fsck.Report
	jsonOf(t, &checked, "fsck", "--data", data, "--deep")
	if !checked.Frozen || !checked.Clean || checked.Checked.Topics != 2 || checked.Checked.Bytes == 0 {
		t.Errorf("after the recovery: %+v", checked)
	}
	if code, stdout, stderr := invoke(t, nil, "recover", "--data", data, "--finish"); code != exitOK || !strings.Contains(stdout, "deleted again") {
		t.Errorf("--finish: exit code %d, %s\n%s", code, stdout, stderr)
	}
	f, addrs, _ = startDev(t, data)
	if got, want := consume(t, addrs, "small", 2), []string{"one", "two"}; !slices.Equal(got, want) {
		t.Errorf("consumed %q, want %q", got, want)
	}
	if got := consume(t, addrs, "large", 1); len(got[0]) != 40<<10 {
		t.Errorf("consumed %d bytes", len(got[0]))
	}
	if code := f.terminate(); code != exitOK {
		t.Errorf("exit code after SIGTERM is %d", code)
	}
}

func jsonOf(t *testing.T, into any, args ...string) {
	t.Helper()
	code, stdout, stderr := invoke(t, nil, append(args, "--json")...)
	if code != exitOK {
		t.Fatalf("floe %q: exit code %d, %s", args, code, stderr)
	}
	if err := json.Unmarshal([]byte(stdout), into); err != nil {
		t.Fatalf("floe %q: %v\n%s", args, err, stdout)
	}
}

func TestFsckExitCodes(t *testing.T) {
	data := t.TempDir()
	if code, _, stderr := invoke(t, nil, "fsck", "--data", data); code != exitUnchecked || !strings.Contains(stderr, "could not be made") {
		t.Errorf("without a cluster: exit code %d, %s", code, stderr)
	}
	f, addrs, _ := startDev(t, data, "--inline-max", "0B")
	produce(t, addrs, "events", "one")
	if code := f.terminate(); code != exitOK {
		t.Fatalf("exit code after SIGTERM is %d", code)
	}
	if code, stdout, stderr := invoke(t, nil, "fsck", "--data", data); code != exitOK || !strings.Contains(stdout, "clean") {
		t.Fatalf("exit code %d, %s\n%s", code, stdout, stderr)
	}
	if err := os.RemoveAll(filepath.Join(data, storeDir, "seg")); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := invoke(t, nil, "fsck", "--data", data)
	if code != exitDamaged || !strings.Contains(stdout, "topic events, partition 0, offsets 0 to 0") || !strings.Contains(stdout, "DAMAGED") {
		t.Errorf("with segments gone: exit code %d, %s\n%s", code, stdout, stderr)
	}
	if code, _, stderr := invoke(t, nil, "recover", "--data", data, "--finish"); code != exitDamaged || !strings.Contains(stderr, "stays stopped") {
		t.Errorf("recover --finish with damage: exit code %d, %s", code, stderr)
	}
}

func TestRecoverFlags(t *testing.T) {
	for _, args := range [][]string{{"--finish", "--execute"}, {"--accept-damage"}, {"--parallel", "0"}} {
		if code, _, stderr := invoke(t, nil, append([]string{"recover", "--data", t.TempDir()}, args...)...); code != exitUsage || stderr == "" {
			t.Errorf("floe recover %q: exit code %d, %q", args, code, stderr)
		}
	}
}

func TestProgressBar(t *testing.T) {
	tests := []struct {
		done, total int64
		took        time.Duration
		want        string
	}{
		{0, 0, 0, "segments       0"},
		{5, 10, 0, "segments       [===============               ] 5 of 10"},
		{5, 10, 4 * time.Second, "segments       [===============               ] 5 of 10, 4s left"},
		{10, 10, 4 * time.Second, "segments       [==============================] 10 of 10"},
	}
	for _, tt := range tests {
		if got := barText("segments", tt.done, tt.total, tt.took); got != tt.want {
			t.Errorf("%d of %d: %q, want %q", tt.done, tt.total, got, tt.want)
		}
	}
	var b bytes.Buffer
	p := newProgress(&b)
	p.show("segments", 1, 2)
	p.end()
	if b.Len() > 0 {
		t.Errorf("where there is no terminal %q is drawn", b.String())
	}
}
