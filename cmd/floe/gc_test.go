package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
	"github.com/floelog/floe/tiering/objstore/open"
)

func TestGC(t *testing.T) {
	data := t.TempDir()
	f, addrs, _ := startDev(t, data, "--inline-max", "0B")
	produce(t, addrs, "events", "one", "two")
	if code := f.terminate(); code != exitOK {
		t.Fatalf("exit code after SIGTERM is %d:\n%s", code, f.stderr.String())
	}
	store, err := open.Open(t.Context(), "file://"+filepath.Join(data, storeDir), open.Options{})
	if err != nil {
		t.Fatal(err)
	}
	orphan := tiering.SegmentID{Session: tiering.SessionID{1}, Seq: 1}.ManifestKey()
	if err := store.Put(t.Context(), orphan, objstore.Body{bytes.Repeat([]byte("x"), 100)}); err != nil {
		t.Fatal(err)
	}

	r := runGC(t, "--data", data, "--dry-run", "--keys")
	if !r.DryRun || r.Doubt != "" || r.Kinds["segment"]["named"].Objects == 0 || r.Kinds["manifest"]["grace"].Objects != 1 || r.Deleted.Objects != 0 {
		t.Errorf("a dry run: %+v", r)
	}
	if !slices.ContainsFunc(r.Objects, func(o gcObject) bool { return o.Key == orphan && o.Reason == "dead-session" && o.Bytes == 100 }) {
		t.Errorf("a dry run lists %+v, and not %s", r.Objects, orphan)
	}
	if _, err := store.Head(t.Context(), orphan); err != nil {
		t.Errorf("after a dry run: %v", err)
	}
	if code, stdout, stderr := invoke(t, nil, "gc", "--data", data); code != exitOK || !strings.Contains(stdout, "nothing was deleted") {
		t.Errorf("floe gc: exit code %d, %s\n%s", code, stderr, stdout)
	}

	r = runGC(t, "--data", data, "--execute", "--grace", "0s")
	if r.DryRun || r.Doubt != "" || r.Deleted.Objects == 0 {
		t.Errorf("--execute: %+v", r)
	}
	if _, err := store.Head(t.Context(), orphan); !errors.Is(err, objstore.ErrNotFound) {
		t.Errorf("after --execute: %v, want it to be gone", err)
	}
	if code, _, stderr := invoke(t, nil, "gc", "--data", data, "--unfreeze"); code != exitOK {
		t.Errorf("--unfreeze: exit code %d, %s", code, stderr)
	}

	if err := store.Put(t.Context(), "seg/readme", objstore.Body{[]byte("x")}); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := invoke(t, nil, "gc", "--data", data); code != exitRuntime || !strings.Contains(stderr, "unknown form") {
		t.Errorf("in doubt: exit code %d, %s", code, stderr)
	}
	_, addrs, _ = startDev(t, data)
	if got, want := consume(t, addrs, "events", 2), []string{"one", "two"}; !slices.Equal(got, want) {
		t.Errorf("consumed %q, want %q", got, want)
	}
}

func TestGCFlags(t *testing.T) {
	for _, args := range [][]string{{"--execute", "--dry-run"}, {"--unfreeze", "--execute"}, {"--grace", "-1s"}} {
		if code, _, stderr := invoke(t, nil, append([]string{"gc", "--data", t.TempDir()}, args...)...); code == exitOK || stderr == "" {
			t.Errorf("floe gc %q: exit code %d, %q", args, code, stderr)
		}
	}
}

func runGC(t *testing.T, args ...string) (r gcReport) {
	t.Helper()
	code, stdout, stderr := invoke(t, nil, append([]string{"gc", "--json"}, args...)...)
	if code != exitOK {
		t.Fatalf("floe gc %q: exit code %d, %s", args, code, stderr)
	}
	if err := json.Unmarshal([]byte(stdout), &r); err != nil {
		t.Fatalf("floe gc %q: %v in\n%s", args, err, stdout)
	}
	return r
}
