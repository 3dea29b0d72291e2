//go:build integration && linux

package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/floelog/floe/cmd/floe/planted"
	"github.com/floelog/floe/integration/fixture/program"
)

// TestPlantedBugsAreCaught plants two bugs that show at once; the command plants all of them.
func TestPlantedBugsAreCaught(t *testing.T) {
	if err := plantBugs(t.Context(), options{planted: "answers-swapped,one-for-all", length: time.Minute, seed: 1}); err != nil {
		t.Fatal(err)
	}
}

// TestProductHasNoPlantedBugs builds what users run.
func TestProductHasNoPlantedBugs(t *testing.T) {
	root, err := program.Root()
	if err != nil {
		t.Fatal(err)
	}
	floe := filepath.Join(t.TempDir(), "floe")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", floe, "./cmd/floe")
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	symbols, err := exec.CommandContext(t.Context(), "go", "tool", "nm", floe).Output()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(symbols), "main.newNode") {
		t.Error("the binary's symbols are not to be seen")
	}
	for line := range strings.Lines(string(symbols)) {
		if _, name, ok := strings.Cut(line, "cmd/floe/planted."); ok && !strings.HasPrefix(name, "Plant") && !strings.HasPrefix(name, "Choose") {
			t.Errorf("the binary has %s", strings.TrimSpace(line))
		}
	}
	run := exec.CommandContext(t.Context(), floe, "agent", "--etcd", "127.0.0.1:1", "--store", "memory:")
	run.Env = append(os.Environ(), planted.Variable+"=ack-early")
	out, err := run.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 2 || strings.Count(string(out), "\n") != 1 || !strings.Contains(string(out), planted.Variable) {
		t.Errorf("floe with %s: %v, said %q; want exit code 2 and one line that names it", planted.Variable, err, out)
	}
}
