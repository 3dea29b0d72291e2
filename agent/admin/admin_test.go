package admin_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/floelog/floe/agent/admin"
)

// start runs a server and returns its URL and a function that ends it and returns what
// Run returned. The test waits for the end in any case.
func start(t *testing.T, cfg admin.Config) (url string, stop func() error) {
	t.Helper()
	if cfg.Gatherer == nil {
		cfg.Gatherer = prometheus.NewRegistry()
	}
	if cfg.Ready == nil {
		cfg.Ready = func() error { return nil }
	}
	cfg.Log = slog.New(slog.DiscardHandler)
	l, err := admin.Listen(t.Context(), "127.0.0.1:0", false)
	if err != nil {
		t.Fatal(err)
	}
	s := admin.New(cfg, l)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	var result error
	go func() {
		defer close(done)
		result = s.Run(ctx)
	}()
	stop = func() error {
		cancel()
		<-done
		return result
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("Run returned %v", err)
		}
	})
	return "http://" + s.Addr().String(), stop
}

// client keeps no connections, so that a server's end is not delayed by an idle one.
var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestEndpoints(t *testing.T) {
	reg := prometheus.NewRegistry()
	counter := prometheus.NewCounter(prometheus.CounterOpts{Name: "floe_test_total", Help: "Counts."})
	reg.MustRegister(counter)
	counter.Add(3)
	url, _ := start(t, admin.Config{Gatherer: reg})
	tests := []struct {
		path   string
		status int
		want   string
	}{
		{"/metrics", 200, "floe_test_total 3"},
		{"/healthz", 200, "ok\n"},
		{"/readyz", 200, "ready\n"},
		{"/debug/pprof/", 200, "goroutine"},
		{"/debug/pprof/goroutine?debug=1", 200, "goroutine profile"},
		{"/debug/pprof/cmdline", 200, "admin.test"},
		{"/", 200, "/metrics"},
		{"/unknown", 404, ""},
	}
	for _, tt := range tests {
		t.Run(tt.path, func(t *testing.T) {
			status, body := get(t, url+tt.path)
			if status != tt.status || !strings.Contains(body, tt.want) {
				t.Errorf("answered %d %.200q, want %d with %q", status, body, tt.status, tt.want)
			}
		})
	}
}

func TestOnlyReading(t *testing.T) {
	url, _ := start(t, admin.Config{})
	resp, err := client.Post(url+"/readyz", "text/plain", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST answered %d, want 405", resp.StatusCode)
	}
}

// A store in trouble is told of, and takes no agent out of a load balancer.
func TestDegradedIsReady(t *testing.T) {
	var ready error
	var lines []string
	url, _ := start(t, admin.Config{Ready: func() error { return ready }, Degraded: func() []string { return lines }})
	for _, tc := range []struct {
		ready  error
		lines  []string
		status int
		body   string
	}{
		{nil, nil, 200, "ready\n"},
		{nil, []string{"slow", "full"}, 200, "ready\ndegraded: slow\ndegraded: full\n"},
		{errors.New("draining"), []string{"slow"}, 503, "draining\ndegraded: slow\n"},
	} {
		ready, lines = tc.ready, tc.lines
		if status, body := get(t, url+"/readyz"); status != tc.status || body != tc.body {
			t.Errorf("%d %q, want %d %q", status, body, tc.status, tc.body)
		}
	}
}

func TestReadyFollowsTheAgent(t *testing.T) {
	var state atomic.Pointer[error]
	set := func(err error) { state.Store(&err) }
	set(errors.Join(errors.New("etcd: session lost"), errors.New("store: denied")))
	url, _ := start(t, admin.Config{Ready: func() error { return *state.Load() }})

	if status, body := get(t, url+"/readyz"); status != 503 || body != "etcd: session lost\nstore: denied\n" {
		t.Errorf("unready: %d %q, want 503 and one reason a line", status, body)
	}
	if status, _ := get(t, url+"/healthz"); status != 200 {
		t.Errorf("an unready agent is unhealthy: %d", status)
	}
	set(nil)
	if status, _ := get(t, url+"/readyz"); status != 200 {
		t.Errorf("ready: %d, want 200", status)
	}
}

func TestListenRefusesExposedAddresses(t *testing.T) {
	tests := []struct {
		addr     string
		insecure bool
		exposed  bool
	}{
		{"127.0.0.1:0", false, false},
		{"localhost:0", false, false},
		{"0.0.0.0:0", false, true},
		{":0", false, true},
		{"0.0.0.0:0", true, false},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%s insecure=%v", tt.addr, tt.insecure), func(t *testing.T) {
			l, err := admin.Listen(t.Context(), tt.addr, tt.insecure)
			if errors.Is(err, admin.ErrExposed) != tt.exposed {
				t.Fatalf("got %v, want exposed: %v", err, tt.exposed)
			}
			if err == nil {
				if err := l.Close(); err != nil {
					t.Error(err)
				}
			} else if !tt.exposed {
				t.Error(err)
			}
		})
	}
}

func TestRunFinishesRequestsInFlight(t *testing.T) {
	asked, release := make(chan struct{}), make(chan struct{})
	url, stop := start(t, admin.Config{Ready: func() error {
		close(asked)
		<-release
		return nil
	}})
	type answer struct {
		status int
		err    error
	}
	got := make(chan answer, 1)
	go func() {
		resp, err := client.Get(url + "/readyz")
		if err != nil {
			got <- answer{err: err}
			return
		}
		got <- answer{resp.StatusCode, resp.Body.Close()}
	}()
	<-asked
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	// Shutdown closes the listener first: once connecting fails, it is under way.
	for {
		c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		if err != nil {
			break
		}
		c.Close()
	}
	close(release)
	if a := <-got; a.err != nil || a.status != 200 {
		t.Errorf("the request in flight got %d, %v", a.status, a.err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestRunReportsALostListener(t *testing.T) {
	l, err := admin.Listen(t.Context(), "127.0.0.1:0", false)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	s := admin.New(admin.Config{Gatherer: prometheus.NewRegistry(), Ready: func() error { return nil }, Log: slog.New(slog.DiscardHandler)}, l)
	if err := s.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "admin server") {
		t.Errorf("Run on a closed listener returned %v", err)
	}
}

func TestLongHeadersAreRefused(t *testing.T) {
	url, _ := start(t, admin.Config{})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/healthz", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Long", strings.Repeat("x", 64<<10))
	resp, err := client.Do(req)
	if err != nil {
		return // the server hung up while the headers were still being sent
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("64 KiB of headers answered %d, want 431", resp.StatusCode)
	}
}
