//go:build integration && unix

package load_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/floelog/floe/integration/fixture"
	"github.com/floelog/floe/integration/torture/check"
	"github.com/floelog/floe/integration/torture/load"
)

var (
	agents = flag.String("load.agents", "", "addresses of agents that run, with commas; none: agents of its own")
	length = flag.Duration("load.for", 20*time.Second, "how long the load runs")
)

// TestPeace runs the load on a cluster to which nothing happens but that its clients crash:
// whatever is found is the load's or the checker's fault, or a bug that needs no fault.
func TestPeace(t *testing.T) {
	f := fixture.Running(t, strings.Split(*agents, ",")...)
	if *agents == "" {
		f = fixture.Dev(t, 3, "--consumer-session-timeout", "10s", "--consumer-heartbeat-interval", "1s")
	}
	path := filepath.Join(t.TempDir(), "history")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	begun := time.Now()
	rec := check.NewRecorder(file, func() time.Duration { return time.Since(begun) })
	cfg := load.Default()
	cfg.Agents, cfg.Seed = f.Addrs(), 1
	cfg.Crash, cfg.Rotate = 6*time.Second, 8*time.Second
	cfg.StuckLimit, cfg.FinalLimit = 3*cfg.StuckLimit, 3*cfg.FinalLimit // the machine has other work as well
	l, err := load.Start(t.Context(), rec, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case <-time.After(*length): // the load
	case <-t.Context().Done():
	}
	l.Settle(t.Context())
	v, err := rec.End()
	if err != nil {
		t.Fatal(err)
	}
	t.Log(v.Report.Counts())
	t.Logf("transactions %v, commits of offsets %v, answers about offsets %d, events %d", v.Fates, v.Commits, v.Asked, v.Events)
	if err := v.Report.Err(); err != nil {
		t.Error(err)
	}
	if v.Report.Acked == 0 || v.Report.Reads < 3*v.Report.Acked || v.Fates["committed"] == 0 || v.Fates["aborted"] == 0 || v.Commits[check.Taken] == 0 {
		t.Error("a part of the load did nothing")
	}
	again, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	w, err := check.File(again)
	if err != nil {
		t.Fatal(err)
	}
	if w.Events != v.Events || w.Report.Counts() != v.Report.Counts() || len(w.Report.Anomalies) != len(v.Report.Anomalies) {
		t.Errorf("the file is judged otherwise: %d events, %s", w.Events, w.Report.Counts())
	}
}
