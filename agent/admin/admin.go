// Package admin is the agent's HTTP side door for people and monitors: metrics, health,
// readiness and profiles. It shows and never changes anything.
//
//	/metrics       Prometheus metrics of one registry
//	/healthz       200 while the process answers at all: restart it when this fails
//	/readyz        200 while clients should be sent here, else 503 and the reasons, one a line;
//	               either way, lines that begin with "degraded:" tell what does not go as it should
//	/doctor        what floe doctor shows, of all agents of the cluster, as JSON
//	/debug/pprof/  profiles of net/http/pprof
//
// Invariants:
//  1. It asks for no password, so it opens only loopback addresses unless told that
//     something else protects it.
//  2. A client, however slow or long-winded, holds a connection for a bounded time and a
//     bounded number of bytes.
//  3. When Run returns, no request is being served and no goroutine is left.
//
// A Server's Run is called once; everything it calls back may run concurrently.
package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// ErrExposed says that the address can be reached by others, which was not allowed.
var ErrExposed = errors.New("can be reached by others and asks for no password")

const (
	// headerTimeout bounds the time to send a request's headers. Shorter: a congested
	// network loses a scrape. Longer: idle sockets of a port scan stay.
	headerTimeout = 5 * time.Second

	// readTimeout bounds a whole request; no endpoint has use for a body.
	readTimeout = 10 * time.Second

	// writeTimeout bounds an answer. Shorter: a CPU profile of a minute or two is cut
	// off. Longer: a client that stops reading holds its buffers.
	writeTimeout = 3 * time.Minute

	// idleTimeout keeps a connection between two scrapes, which are 15 to 60 s apart.
	idleTimeout = 90 * time.Second

	// maxHeaderBytes is far above what a browser sends and far below the default of 1 MiB.
	maxHeaderBytes = 16 << 10

	// maxScrapes at once. Fewer: two Prometheus servers and a person collide. More: each
	// gathers everything.
	maxScrapes = 4

	// shutdownTimeout bounds the wait for requests in flight. Longer: a profile that
	// someone is recording would delay the agent's end.
	shutdownTimeout = 2 * time.Second
)

// Config says what a Server serves.
type Config struct {
	Gatherer prometheus.Gatherer

	// Ready returns nil while the agent should get traffic; otherwise an error whose lines
	// (errors.Join makes one of several) are the reasons.
	Ready func() error

	// Degraded returns what does not go as it should although clients should be sent here, a line
	// each; nil: nothing ever.
	Degraded func() []string

	// Doctor returns what all agents of the cluster say of themselves, as JSON; nil: nobody knows.
	Doctor func(context.Context) ([]byte, error)

	Log *slog.Logger
}

// Server serves the endpoints on one listener.
type Server struct {
	http     *http.Server
	listener net.Listener
}

// Listen opens addr (HOST:PORT). An address that is not loopback is ErrExposed unless
// insecure allows it; so is a name that resolves to anything else.
func Listen(ctx context.Context, addr string, insecure bool) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("admin address %s: %w", addr, err)
	}
	if bound, err := netip.ParseAddrPort(l.Addr().String()); !insecure && (err != nil || !bound.Addr().Unmap().IsLoopback()) {
		return nil, errors.Join(fmt.Errorf("admin address %s: %w", addr, ErrExposed), l.Close())
	}
	return l, nil
}

// New returns a server that will answer on listener, which it owns from then on.
func New(cfg Config, listener net.Listener) *Server {
	errorLog := slog.NewLogLogger(cfg.Log.Handler(), slog.LevelWarn)
	return &Server{
		listener: listener,
		http: &http.Server{
			Handler:           handler(cfg, errorLog),
			ReadHeaderTimeout: headerTimeout,
			ReadTimeout:       readTimeout,
			WriteTimeout:      writeTimeout,
			IdleTimeout:       idleTimeout,
			MaxHeaderBytes:    maxHeaderBytes,
			ErrorLog:          errorLog,
		},
	}
}

// Addr returns the address on which the server answers.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Run serves until ctx ends, then finishes the requests in flight and returns nil. Any
// other end is an error.
func (s *Server) Run(ctx context.Context) error {
	served := make(chan error, 1)
	go func() { served <- s.http.Serve(s.listener) }() // ends before Run returns
	select {
	case err := <-served:
		return fmt.Errorf("admin server: %w", err)
	case <-ctx.Done():
	}
	// Requests may still finish although ctx has ended.
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	err := s.http.Shutdown(grace)
	if err != nil {
		err = s.http.Close()
	}
	if served := <-served; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	if err != nil {
		return fmt.Errorf("admin server: closing: %w", err)
	}
	return nil
}

func handler(cfg Config, errorLog promhttp.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(cfg.Gatherer, promhttp.HandlerOpts{
		ErrorLog:            errorLog,
		ErrorHandling:       promhttp.ContinueOnError,
		MaxRequestsInFlight: maxScrapes,
	}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		status, lines := http.StatusOK, []string{"ready"}
		if err := cfg.Ready(); err != nil {
			status, lines[0] = http.StatusServiceUnavailable, err.Error()
		}
		if cfg.Degraded != nil {
			for _, line := range cfg.Degraded() {
				lines = append(lines, "degraded: "+line)
			}
		}
		answer(w, status, strings.Join(lines, "\n"))
	})
	if cfg.Doctor != nil {
		mux.HandleFunc("GET /doctor", func(w http.ResponseWriter, r *http.Request) { doctor(w, r, cfg.Doctor) })
	}
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, "floe agent: /metrics /healthz /readyz /doctor /debug/pprof/")
	})
	return mux
}

// doctor serves a report.
func doctor(w http.ResponseWriter, r *http.Request, report func(context.Context) ([]byte, error)) {
	b, err := report(r.Context())
	if err != nil {
		answer(w, http.StatusServiceUnavailable, err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(b) // an error means that the client has gone
}

// answer writes text and a line end. An error means that the client has gone.
func answer(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, strings.TrimRight(text, "\n")+"\n")
}
