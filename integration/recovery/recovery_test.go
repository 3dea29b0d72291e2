//go:build integration && unix

package recovery

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/floelog/floe/integration/fixture"
	"github.com/floelog/floe/repair/fsck"
	"github.com/floelog/floe/repair/recovery"
)

// settings make agents do in seconds what they do in minutes.
var settings = []string{"--lease-ttl", "2s", "--carry-age", "1s", "--rollup-age", "1s", "--drain-timeout", "8s", "--shards", "8",
	"--merge-age", "300ms", "--gc-interval", "500ms", "--gc-grace", "200ms", "--retention-check-interval", "500ms"}

// command runs floe with what leads to the cluster.
func command(t *testing.T, f *fixture.Floe, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	args = append(args, "--cluster", fixture.Cluster, "--etcd", strings.Join(f.Etcd.Endpoints(), ","), "--store", f.Store)
	return fixture.Run(t, f.StoreEnv, args...)
}

// must demands that a command works, and reads its JSON.
func must(t *testing.T, f *fixture.Floe, into any, args ...string) {
	t.Helper()
	code, stdout, stderr := command(t, f, append(args, "--json")...)
	if code != 0 {
		t.Fatalf("floe %s: exit code %d\n%s%s", strings.Join(args, " "), code, stderr, stdout)
	}
	if into == nil {
		return
	}
	if err := json.Unmarshal([]byte(stdout), into); err != nil {
		t.Fatalf("floe %s: %v\n%s", strings.Join(args, " "), err, stdout)
	}
}

// recoverFrom recovers the cluster, starts it and checks everything.
func recoverFrom(t *testing.T, f *fixture.Floe, l *load, args ...string) {
	t.Helper()
	var dry, done recovery.Report
	must(t, f, &dry, append([]string{"recover"}, args...)...)
	if dry.Executed {
		t.Error("a dry run says that it has written")
	}
	must(t, f, &done, append([]string{"recover", "--execute"}, args...)...)
	for _, s := range done.Shards {
		if s.Missing > 0 || len(s.Problems) > 0 {
			t.Errorf("shard %d: %d records are missing, %v", s.Shard, s.Missing, s.Problems)
		}
	}
	f.Start()
	l.verify()
	l.rounds(2) // it goes on
	l.verify()
	var report fsck.Report
	must(t, f, &report, "fsck", "--deep")
	if !report.Frozen || report.Checked.Bytes == 0 {
		t.Errorf("fsck: frozen %v, %+v", report.Frozen, report.Checked)
	}
	must(t, f, &report, "recover", "--finish")
	must(t, f, &report, "fsck")
	if report.Frozen {
		t.Error("deletion is stopped although the recovery was finished")
	}
}

func TestEtcdIsLostUnderLoad(t *testing.T) {
	for _, kind := range []string{fixture.StoreFile, fixture.StoreS3} {
		t.Run(kind, func(t *testing.T) {
			f := fixture.Agents(t, 3, kind, settings...)
			l := newLoad(t, f.Addrs())
			l.create("plain", "idempotent", "transactional")
			l.rounds(6)
			stop := l.until()
			l.rounds(3)
			f.Etcd.KillAll()
			f.Etcd.Wipe()
			f.Stop()
			stop()
			f.Etcd.RestartAll()
			recoverFrom(t, f, l)
		})
	}
}

func TestAnOlderBackupOfEtcdIsRestored(t *testing.T) {
	f := fixture.Agents(t, 3, fixture.StoreFile, settings...)
	l := newLoad(t, f.Addrs())
	l.create("plain", "idempotent")
	for range 4 {
		l.produce("plain", false)
	}
	l.produce("idempotent", true)
	f.Etcd.KillAll()
	restore := f.Etcd.BackUp()
	f.Etcd.RestartAll()
	old := segments(t, f)
	l.create("transactional")
	l.rounds(3)
	for i := range f.Processes() { // epochs move on, and what the journals hold gets into snapshots
		f.StopProcess(i)
		f.StartProcess(i)
	}
	for range 10 {
		l.produce("plain", false)
	}
	l.rounds(3)
	await(t, "an object that the backup knows is merged and deleted", func() bool {
		now := segments(t, f)
		return slices.ContainsFunc(old, func(key string) bool { return !slices.Contains(now, key) })
	})
	f.Stop()
	f.Etcd.KillAll()
	restore()
	f.Etcd.RestartAll()
	// The leases that the backup holds end by themselves.
	awaitDead(t, f)
	recoverFrom(t, f, l, "--force-over-restored")
}

// segments lists the segments of a store that is a directory.
func segments(t *testing.T, f *fixture.Floe) (keys []string) {
	t.Helper()
	root := os.DirFS(strings.TrimPrefix(f.Store, "file://"))
	err := fs.WalkDir(root, "seg", func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // deleted meanwhile, or none yet
		}
		if err == nil && d.Type().IsRegular() {
			keys = append(keys, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// await waits for a condition.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	again := time.NewTicker(200 * time.Millisecond)
	defer again.Stop()
	deadline := time.After(patience)
	for !holds() {
		select {
		case <-again.C:
		case <-deadline:
			t.Fatalf("after %v: %s: not yet", patience, what)
		}
	}
}

// awaitDead waits until no session lives any more.
func awaitDead(t *testing.T, f *fixture.Floe) {
	t.Helper()
	await(t, "every session has ended", func() bool {
		code, _, stderr := command(t, f, "recover", "--force-over-restored", "--json")
		if code != 0 && !strings.Contains(stderr, recovery.ErrAlive.Error()) {
			t.Fatalf("floe recover: exit code %d: %s", code, stderr)
		}
		return code == 0
	})
}
