package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/floelog/floe/cmd/floe/settings"
)

// asFloe, in the environment, makes the test binary be floe. "stuck" gives it agents that
// serve and never drain.
const asFloe = "TEST_BINARY_IS_FLOE"

func TestMain(m *testing.M) {
	as := os.Getenv(asFloe)
	if as == "" {
		os.Exit(m.Run())
	}
	p := process{args: os.Args[1:], environ: os.Environ(), stdout: os.Stdout, stderr: os.Stderr, newNode: newNode}
	if as == "stuck" {
		p.newNode = func(*settings.Settings, identity, parts) (node, error) { return stuckNode{}, nil }
	}
	os.Exit(run(p))
}

// stuckNode is ready at once and never ends.
type stuckNode struct{}

func (stuckNode) Run(context.Context) error { select {} }
func (stuckNode) Health() error             { return nil }
func (stuckNode) Ready() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

// patience bounds every wait of these tests; nothing is asserted about speed.
const patience = time.Minute

// floe is a running floe process.
type floe struct {
	t      *testing.T
	cmd    *exec.Cmd
	stdout *bufio.Reader
	stderr bytes.Buffer // read it after wait
	waited bool
}

// start starts floe as a process of its own, which ends with the test.
func start(t *testing.T, as string, args ...string) *floe {
	t.Helper()
	f := &floe{t: t, cmd: exec.Command(os.Args[0], args...)}
	f.cmd.Env = append(os.Environ(), asFloe+"="+as)
	out, err := f.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	f.stdout, f.cmd.Stderr = bufio.NewReader(out), &f.stderr
	if err := f.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.kill)
	return f
}

func (f *floe) kill() {
	if !f.waited {
		_ = f.cmd.Process.Kill()
		f.wait()
	}
}

// wait waits for the process and returns its exit code; -1 if a signal killed it.
func (f *floe) wait() int {
	f.t.Helper()
	overdue := time.AfterFunc(patience, func() { _ = f.cmd.Process.Signal(syscall.SIGQUIT) })
	defer overdue.Stop()
	f.waited = true
	var exit *exec.ExitError
	if err := f.cmd.Wait(); err != nil && !errors.As(err, &exit) {
		f.t.Errorf("waiting for floe: %v", err)
	}
	return f.cmd.ProcessState.ExitCode()
}

// line returns the next line of standard output.
func (f *floe) line() string {
	f.t.Helper()
	overdue := time.AfterFunc(patience, func() { _ = f.cmd.Process.Signal(syscall.SIGQUIT) })
	defer overdue.Stop()
	line, err := f.stdout.ReadString('\n')
	if err != nil {
		code := f.wait()
		f.t.Fatalf("floe ended with exit code %d instead of a line (%v):\n%s", code, err, f.stderr.String())
	}
	return strings.TrimSuffix(line, "\n")
}

// terminate asks for a drain and waits for the end.
func (f *floe) terminate() int {
	f.t.Helper()
	if err := f.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		f.t.Fatal(err)
	}
	return f.wait()
}

// invoke runs a command line in this process.
func invoke(t *testing.T, environ []string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errOut bytes.Buffer
	code = run(process{args: args, environ: environ, stdout: &out, stderr: &errOut, newNode: newNode})
	return code, out.String(), errOut.String()
}

func TestWrongCommandLines(t *testing.T) {
	data := t.TempDir()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	notDir := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(notDir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	readable := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(readable, []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	store := "file://" + t.TempDir()
	tests := []struct {
		name    string
		environ []string
		args    []string
		code    int
		want    []string
	}{
		{"no such command", nil, []string{"serve"}, exitUsage, []string{"serve: no such command"}},
		{"no such flag", nil, []string{"dev", "--port", "1"}, exitUsage, []string{"--port", "floe dev --help"}},
		{"flag without a value", nil, []string{"dev", "--addr"}, exitUsage, []string{"--addr"}},
		{"argument too many", nil, []string{"dev", "now"}, exitUsage, []string{"now: unexpected argument"}},
		{"argument too few", nil, []string{"inspect", "shard"}, exitUsage, []string{"NUMBER"}},
		{"two forms", nil, []string{"settings", "--json", "--markdown"}, exitUsage, []string{"--markdown"}},
		{"unknown variable", []string{"FLOE_ADR=x"}, []string{"dev"}, exitUsage, []string{"FLOE_ADR", "FLOE_ADDR"}},
		{"wrong setting", nil, []string{"dev", "--flush-size", "8"}, exitUsage, []string{"--flush-size", "8MiB"}},
		{"agent without etcd", nil, []string{"agent", "--store", store}, exitUsage, []string{"etcd", "--etcd HOST:PORT"}},
		{"inspect without etcd", nil, []string{"inspect", "shard", "0", "--store", store}, exitUsage, []string{"etcd"}},
		{"data is a file", nil, []string{"dev", "--data", notDir}, exitRuntime, []string{"data: ", notDir}},
		{"address in use", nil, []string{"dev", "--data", data, "--addr", taken.Addr().String()}, exitRuntime, []string{"addr: " + taken.Addr().String() + " is in use"}},
		{"address of another machine", nil, []string{"dev", "--data", data, "--addr", "192.0.2.1:9092"}, exitRuntime, []string{"addr: cannot listen on 192.0.2.1:9092"}},
		{"unknown store", nil, []string{"agent", "--etcd", "127.0.0.1:1", "--store", "ftp://x"}, exitRuntime, []string{"store: ", "ftp"}},
		{"password that everyone may read", nil, []string{"agent", "--etcd", "127.0.0.1:1", "--store", store, "--etcd-user", "u", "--etcd-password-file", readable}, exitRuntime, []string{"etcd-password-file: everyone may read", "chmod"}},
		{"authority that is none", nil, []string{"agent", "--etcd", "127.0.0.1:1", "--store", store, "--etcd-ca", readable}, exitRuntime, []string{"etcd-ca: no certificate"}},
		{"no data to inspect", nil, []string{"inspect", "shard", "0", "--data", t.TempDir()}, exitRuntime, []string{"no data of floe dev", "--data"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			code, stdout, stderr := invoke(t, tt.environ, append(tt.args, quiet(tt.args)...)...)
			if code != tt.code {
				t.Errorf("exit code is %d, want %d", code, tt.code)
			}
			if stdout != "" {
				t.Errorf("standard output is %q, want nothing", stdout)
			}
			if !strings.HasPrefix(stderr, "floe: ") || strings.Count(stderr, "\n") != 1 {
				t.Errorf("standard error is not one line:\n%s", stderr)
			}
			for _, want := range tt.want {
				if !strings.Contains(stderr, want) {
					t.Errorf("%q does not say %q", stderr, want)
				}
			}
		})
	}
}

// quiet returns flags that keep a command's log from mixing with its error.
func quiet(args []string) []string {
	if args[0] == "dev" || args[0] == "agent" {
		return []string{"--log-level=error", "--admin-addr="}
	}
	return nil
}

func TestHelpAndVersion(t *testing.T) {
	tests := []struct {
		args []string
		want []string
	}{
		{nil, []string{"floe dev", "agent", "group", "txn", "inspect", "settings"}},
		{[]string{"--help"}, []string{"floe dev"}},
		{[]string{"dev", "--help"}, []string{"--agents number", "--data text", "(default 127.0.0.1:9092)"}},
		{[]string{"agent", "--help"}, []string{"--etcd list", "--store text"}},
		{[]string{"inspect"}, []string{"segment", "shard", "topic"}},
		{[]string{"version"}, []string{"floe ", "go1."}},
		{[]string{"settings"}, []string{"--flush-size", "FLOE_FLUSH_SIZE"}},
	}
	for _, tt := range tests {
		t.Run(strings.Join(tt.args, " "), func(t *testing.T) {
			code, stdout, stderr := invoke(t, nil, tt.args...)
			if code != exitOK || stderr != "" {
				t.Errorf("exit code %d, standard error %q", code, stderr)
			}
			for _, want := range tt.want {
				if !strings.Contains(stdout, want) {
					t.Errorf("it does not say %q:\n%s", want, stdout)
				}
			}
		})
	}
}

func TestSecondSignalExitsAtOnce(t *testing.T) {
	f := start(t, "stuck", "dev", "--addr", "127.0.0.1:0", "--admin-addr", "", "--data", t.TempDir())
	f.line()
	if err := f.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	// Signals of a kind that are pending count as one, so more are sent until it ends.
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	done := make(chan int, 1)
	go func() { done <- f.wait() }()
	for {
		select {
		case code := <-done:
			if code != exitRuntime {
				t.Errorf("exit code is %d, want %d", code, exitRuntime)
			}
			if !strings.Contains(f.stderr.String(), "without a drain") {
				t.Errorf("standard error does not tell why:\n%s", f.stderr.String())
			}
			return
		case <-ticker.C:
			_ = f.cmd.Process.Signal(syscall.SIGINT)
		}
	}
}

var readyLine = regexp.MustCompile(`^floe dev: ready on (\S+) \(try: kcat -b \S+ -L; data in \S+, metrics (\S+)/metrics\)$`)

// startDev starts floe dev and returns it with its Kafka and admin addresses.
func startDev(t *testing.T, data string, more ...string) (f *floe, addrs []string, admin string) {
	t.Helper()
	f = start(t, "floe", append([]string{"dev", "--addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0", "--data", data}, more...)...)
	line := f.line()
	m := readyLine.FindStringSubmatch(line)
	if m == nil {
		t.Fatalf("the line that says ready is %q", line)
	}
	go func() { _, _ = io.Copy(io.Discard, f.stdout) }() // ends with the process
	return f, strings.Split(m[1], ","), m[2]
}
