package protocol

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Server accepts connections from one listener and serves them.
type Server struct {
	cfg     Config
	ln      net.Listener
	handler Handler
	garbage throttle
	done    chan struct{} // closed when Serve returns

	// guards the following
	mu       sync.Mutex
	conns    map[*Conn]struct{}
	hosts    map[string]int // connections by remote host
	serving  bool
	draining bool
}

// NewServer makes a server that takes ln over. Errors name the setting and the remedy.
func NewServer(ln net.Listener, h Handler, cfg Config) (*Server, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Server{cfg: cfg, ln: ln, handler: h, done: make(chan struct{}),
		conns: map[*Conn]struct{}{}, hosts: map[string]int{}}, nil
}

// Conns returns the number of open connections.
func (s *Server) Conns() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

const (
	acceptRetryMin = 5 * time.Millisecond // out of file descriptors: others free some soon
	acceptRetryMax = time.Second
)

// Serve accepts and serves until Shutdown, or until ctx ends, which ends all connections
// at once. It is called once, and returns when every goroutine of every connection has
// ended. The error is nil but when accepting failed for good.
func (s *Server) Serve(ctx context.Context) error {
	s.mu.Lock()
	s.serving = true
	s.mu.Unlock()
	defer close(s.done)
	var running sync.WaitGroup
	defer running.Wait()
	stop := context.AfterFunc(ctx, s.refuse)
	defer stop()

	wait := acceptRetryMin
	for {
		nc, err := s.ln.Accept()
		switch {
		case err == nil:
			wait = acceptRetryMin
			s.start(ctx, nc, &running)
		case s.isDraining():
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accepting connections on %s: %w", s.ln.Addr(), err)
		default:
			s.cfg.Log.Warn("accepting a connection failed", "listener", s.cfg.Name, "error", err, "retry", wait)
			retry := time.NewTimer(wait)
			select {
			case <-retry.C:
			case <-ctx.Done():
			}
			retry.Stop()
			wait = min(2*wait, acceptRetryMax)
		}
	}
}

// start serves a connection in its own goroutine, which running counts.
func (s *Server) start(ctx context.Context, nc net.Conn, running *sync.WaitGroup) {
	ctx, cancel := context.WithCancel(ctx)
	readCtx, stopRead := context.WithCancel(ctx)
	c := &Conn{srv: s, nc: nc, cancel: cancel, stopRead: stopRead}
	host := hostOf(nc)
	admitted, draining := s.admit(c, host)
	if !admitted {
		cancel()
		nc.Close()
		if s.cfg.Observer != nil {
			s.cfg.Observer.ConnRefused(s.cfg.Name)
		}
		return
	}
	if s.cfg.Observer != nil {
		s.cfg.Observer.ConnOpened(s.cfg.Name)
	}
	if draining {
		c.drain()
	}
	running.Go(func() {
		defer cancel()
		c.run(ctx, readCtx)
		s.forget(c, host)
		if s.cfg.Observer != nil {
			s.cfg.Observer.ConnClosed(s.cfg.Name, c.endReason())
		}
	})
}

func hostOf(nc net.Conn) string {
	addr := nc.RemoteAddr().String()
	if host, _, err := net.SplitHostPort(addr); err == nil {
		return host
	}
	return addr
}

// admit counts a connection in, unless a limit forbids it. One that was accepted while
// a shutdown began is drained like those before it: Shutdown may not have seen it.
func (s *Server) admit(c *Conn, host string) (admitted, draining bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.conns) >= s.cfg.MaxConns || s.hosts[host] >= s.cfg.MaxConnsPerHost {
		return false, false
	}
	s.conns[c] = struct{}{}
	s.hosts[host]++
	return true, s.draining
}

func (s *Server) forget(c *Conn, host string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	if s.hosts[host]--; s.hosts[host] == 0 {
		delete(s.hosts, host)
	}
}

func (s *Server) isDraining() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.draining
}

// refuse stops accepting.
func (s *Server) refuse() {
	s.mu.Lock()
	first := !s.draining
	s.draining = true
	s.mu.Unlock()
	if first {
		s.ln.Close()
	}
}

// open returns the connections of the moment.
func (s *Server) open() []*Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	cs := make([]*Conn, 0, len(s.conns))
	for c := range s.conns {
		cs = append(cs, c)
	}
	return cs
}

// Shutdown stops accepting, lets each connection go on until its client falls silent, for
// drainGrace at most, lets the requests in flight be answered, and waits for Serve to end.
// If ctx ends first, the connections are closed at once and ctx's error is returned: then
// Serve still waits for the handlers to resolve what they hold.
func (s *Server) Shutdown(ctx context.Context) error {
	s.refuse()
	s.mu.Lock()
	serving := s.serving
	s.mu.Unlock()
	if !serving {
		return nil
	}
	for _, c := range s.open() {
		c.drain()
	}
	if s.ended(ctx, drainGrace) {
		return nil
	}
	for _, c := range s.open() {
		c.stopReading()
	}
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
	}
	for _, c := range s.open() {
		c.end(ReasonShutdown)
	}
	return fmt.Errorf("shutting down listener %s with requests in flight: %w", s.cfg.Name, ctx.Err())
}

// ended waits until Serve has ended, for d and as long as ctx allows.
func (s *Server) ended(ctx context.Context, d time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	select {
	case <-s.done:
		return true
	case <-ctx.Done():
		return false
	}
}

// logClosing writes a line for what an operator may want to know of.
func (s *Server) logClosing(c *Conn, why *closing) {
	if why.err == nil {
		return
	}
	level := slog.LevelDebug
	attrs := []any{"listener", s.cfg.Name, "client", c.RemoteAddr(), "reason", why.reason, "error", why.err}
	if why.garbage || why.reason == ReasonMalformed || why.reason == ReasonVersion {
		n, ok := s.garbage.allow(s.cfg.Now())
		if !ok {
			return
		}
		level = slog.LevelWarn
		attrs = append(attrs, "unlogged", n)
	}
	s.cfg.Log.Log(context.Background(), level, "closing a connection", attrs...)
}

// throttle lets one event through per garbageLogEvery and counts the others.
type throttle struct {
	next    atomic.Int64 // nanoseconds since 1970
	skipped atomic.Int64
}

// allow reports whether the event may pass and how many before it did not.
func (t *throttle) allow(now time.Time) (skipped int64, ok bool) {
	next := t.next.Load()
	if now.UnixNano() < next || !t.next.CompareAndSwap(next, now.Add(garbageLogEvery).UnixNano()) {
		t.skipped.Add(1)
		return 0, false
	}
	return t.skipped.Swap(0), true
}
