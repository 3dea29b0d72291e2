//go:build integration && unix

package fleet

import (
	"bytes"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/floelog/floe/integration/fixture"
)

// kcat is a producer made of librdkafka, with its defaults, that sends a line at a time.
type kcat struct {
	t     testing.TB
	addrs string
	stop  chan struct{}
	wg    sync.WaitGroup
	lines int
	errs  bytes.Buffer
}

const (
	kcatTopic = "fleet-kcat"
	kcatEvery = 2 * time.Millisecond
)

// startKcat starts one on a topic of its own, or none where kcat is not installed.
func startKcat(t testing.TB, addrs []string) *kcat {
	t.Helper()
	path, err := exec.LookPath("kcat")
	if err != nil {
		t.Log("kcat is not installed: no client of librdkafka takes part")
		return nil
	}
	k := &kcat{t: t, addrs: strings.Join(addrs, ","), stop: make(chan struct{})}
	cmd := exec.Command(path, "-P", "-b", k.addrs, "-t", kcatTopic)
	cmd.Stderr = &k.errs
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	k.wg.Go(func() {
		tick := time.NewTicker(kcatEvery)
		defer tick.Stop()
		for done := false; !done; {
			select {
			case <-tick.C:
				if _, err := fmt.Fprintf(in, "line %d\n", k.lines); err != nil {
					t.Errorf("kcat takes no more: %v", err)
					done = true
				}
				k.lines++
			case <-k.stop:
				done = true
			}
		}
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("kcat: %v\n%s", err, k.errs.String())
		}
	})
	t.Cleanup(k.end)
	return k
}

// end lets kcat deliver what it has.
func (k *kcat) end() {
	select {
	case <-k.stop:
	default:
		close(k.stop)
	}
	k.wg.Wait()
}

// finish ends kcat, and demands that it has delivered every line.
func (k *kcat) finish() {
	k.t.Helper()
	if k == nil {
		return
	}
	k.end()
	if said := k.errs.String(); strings.Contains(said, "Delivery failed") {
		k.t.Errorf("kcat heard of errors:\n%s", said)
	}
	seen := map[string]bool{}
	for line := range strings.Lines(fixture.Kcat(k.t, "", "-C", "-b", k.addrs, "-t", kcatTopic, "-o", "beginning", "-e", "-q")) {
		seen[strings.TrimSpace(line)] = true
	}
	for i := range k.lines {
		if !seen[fmt.Sprintf("line %d", i)] {
			k.t.Fatalf("line %d of %d, which kcat has delivered, is not there", i, k.lines)
		}
	}
	k.t.Logf("kcat delivered %d lines without an error", k.lines)
}
