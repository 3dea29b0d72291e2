package protocol

import (
	"context"
	"fmt"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// Conn is one client's connection, as handlers see it.
type Conn struct {
	// State is the handler's own (a session's principal, say). The connection never
	// looks at it; it may be used within Handler.Serve.
	State any

	srv       *Server
	nc        net.Conn
	cancel    context.CancelFunc // ends the connection
	stopRead  context.CancelFunc // ends reading: what is in flight is still answered
	handshook atomic.Bool
	answered  atomic.Bool               // a request beyond the handshake's
	draining  atomic.Bool               // reading ends when the client falls silent
	mutedTo   atomic.Pointer[time.Time] // nothing is read before; nil: now

	// guards the following
	mu                sync.Mutex
	awaiting          bool // the first byte of a request is awaited: the read may be broken off
	clientID          string
	software, version string
	reason            string // why the connection ended; the first is kept
}

// RemoteAddr is the client's address.
func (c *Conn) RemoteAddr() net.Addr { return c.nc.RemoteAddr() }

// Listener is the name of the listener that accepted the connection.
func (c *Conn) Listener() string { return c.srv.cfg.Name }

// NetConn is the socket, for what TLS knows of the client. It must not be read, written
// or closed.
func (c *Conn) NetConn() net.Conn { return c.nc }

// ClientID is the client id of the newest request.
func (c *Conn) ClientID() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.clientID
}

// Software is the name and version of the client's library, "" until SetSoftware.
func (c *Conn) Software() (name, version string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.software, c.version
}

// SetSoftware notes what the client said of itself in ApiVersions (KIP-511).
func (c *Conn) SetSoftware(name, version string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.software, c.version = name, version
}

// HandshakeDone lifts the limits of an unknown client, see Config.RequireHandshake. The
// handler calls it before it resolves the answer that ends the handshake.
func (c *Conn) HandshakeDone() { c.handshook.Store(true) }

// Close ends the connection at once; answers in flight are lost.
func (c *Conn) Close() { c.end(ReasonHandler) }

// drain makes the connection end once it has been silent for drainSilence, with nothing in
// flight and its first answer given: what the client has sent by then is read and answered, not
// lost in the socket's buffer. Clients take a connection that ends without any answer for a
// wrong port or a login that failed, and some give up what they had to send (franz-go's
// ErrFirstReadEOF). Whoever drains calls stopReading after drainGrace.
func (c *Conn) drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.draining.Store(true)
	if c.awaiting && c.answered.Load() {
		// Breaks off the wait for a request: await looks again how long it should wait. If the
		// socket is closed already, so much the better.
		_ = c.nc.SetReadDeadline(time.Unix(1, 0))
	}
}

// setAwaiting notes whether the first byte of a request is awaited.
func (c *Conn) setAwaiting(is bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.awaiting = is
}

// answeredFirst notes that the client has an answer: from now on a connection that drains may end.
func (c *Conn) answeredFirst() {
	c.answered.Store(true)
	if c.draining.Load() {
		c.drain()
	}
}

// stopReading ends the reading of requests. Those read already are answered.
func (c *Conn) stopReading() {
	c.note(ReasonShutdown)
	c.stopRead()
	// Unblocks a read under way. If the socket is closed already, so much the better.
	_ = c.nc.SetReadDeadline(time.Unix(1, 0))
}

// end stops everything.
func (c *Conn) end(reason string) {
	c.note(reason)
	c.cancel()
}

func (c *Conn) note(reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reason == "" {
		c.reason = reason
	}
}

func (c *Conn) endReason() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reason
}

// An inflight is a request that is served and not answered yet.
type inflight struct {
	key, version  int16
	correlationID int32
	size          int
	received      time.Time
	charge        *Charge // nil if the handler took it
	pending       *Pending
}

// run serves the connection until it ends. The calling goroutine reads; another one,
// which run waits for, writes. ctx ends the connection, readCtx the reading.
func (c *Conn) run(ctx, readCtx context.Context) {
	closed := make(chan struct{})
	context.AfterFunc(ctx, func() {
		defer close(closed)
		c.nc.Close()
	})
	w := newWriter(c)
	var writing sync.WaitGroup
	writing.Go(func() { w.run(ctx) })

	r := reader{c: c, cfg: &c.srv.cfg, frames: newFrameReader(c.nc, &c.srv.cfg), w: w}
	err := r.run(ctx, readCtx)
	c.srv.logClosing(c, err)
	c.note(err.reason)
	if c.endReason() != ReasonShutdown {
		c.cancel()
	}
	close(w.queue)
	writing.Wait()
	c.cancel()
	<-closed
}

// reader is the reading half of a connection.
// Invariant: unresolved holds every Pending that may be unresolved, in order, at most
// MaxInFlight; overlap tells that all of them are of Produce.
type reader struct {
	c          *Conn
	cfg        *Config
	frames     *frameReader
	w          *writer
	unresolved []*Pending
	overlap    bool
	clientID   string
}

// run reads and serves requests until the connection ends.
func (r *reader) run(ctx, readCtx context.Context) *closing {
	handshakeEnd := r.cfg.Now().Add(r.cfg.HandshakeTimeout)
	r.frames.latest = handshakeEnd
	if err := r.c.nc.SetDeadline(handshakeEnd); err != nil { // TLS writes in its handshake
		return readFailure(err)
	}
	for {
		if r.c.handshook.Load() {
			r.frames.latest = time.Time{}
		}
		if err := r.await(readCtx); err != nil {
			return err
		}
		select {
		case r.w.slots <- struct{}{}:
		case <-readCtx.Done():
			return &closing{reason: ReasonShutdown}
		}
		if err := r.one(ctx, readCtx); err != nil {
			return err
		}
		if !r.cfg.RequireHandshake {
			r.c.handshook.Store(true)
		}
	}
}

// mute keeps the connection from being read for d from now on.
func (c *Conn) mute(d time.Duration) {
	if d > 0 {
		to := c.srv.cfg.Now().Add(min(d, MaxThrottle))
		if earlier := c.mutedTo.Load(); earlier == nil || earlier.Before(to) {
			c.mutedTo.Store(&to)
		}
	}
}

// unmuted waits until the connection may be read, or ctx ends. Each pause is waited for once, for
// MaxThrottle at most: a clock that was set back makes none longer.
func (c *Conn) unmuted(ctx context.Context) {
	for to := c.mutedTo.Load(); to != nil; to = c.mutedTo.Load() {
		if left := min(to.Sub(c.srv.cfg.Now()), MaxThrottle); left > 0 && !sleep(ctx, left) {
			return
		}
		c.mutedTo.CompareAndSwap(to, nil)
	}
}

// sleep reports whether d passed before ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// ending reports whether the connection ends when the client falls silent.
func (c *Conn) ending() bool { return c.draining.Load() && c.answered.Load() }

// await waits for the first byte of a request.
func (r *reader) await(readCtx context.Context) *closing {
	defer r.c.setAwaiting(false)
	for {
		r.c.setAwaiting(true)
		ending, patience := r.c.ending(), r.cfg.IdleTimeout
		if ending {
			patience = drainSilence
		}
		idle := len(r.w.slots) == 0 // nothing is answered while it waits
		if err := r.frames.deadline(patience); err != nil {
			return readFailure(err)
		}
		// stopReading ends readCtx first and the deadline second, and drain likewise: one of the
		// two is seen.
		if readCtx.Err() != nil {
			return &closing{reason: ReasonShutdown}
		}
		if ending != r.c.ending() {
			continue
		}
		_, err := r.frames.br.Peek(1)
		if err == nil {
			r.c.unmuted(readCtx) // before its memory is charged
			if readCtx.Err() != nil {
				return &closing{reason: ReasonShutdown} // or it would be a matter of luck whether it is served
			}
			return nil
		}
		failed := readFailure(err)
		switch {
		case readCtx.Err() != nil:
			return &closing{reason: ReasonShutdown}
		case failed.reason == ReasonTimeout && ending && idle:
			return &closing{reason: ReasonShutdown}
		case failed.reason == ReasonTimeout && r.c.ending():
			continue // woken up by drain, or an answer was awaited
		case failed.reason != ReasonTimeout || !r.frames.latest.IsZero():
			return failed
		case len(r.w.slots) == 0:
			return &closing{reason: ReasonIdle}
		}
		// An answer is still awaited: a long poll is not idleness.
	}
}

// one reads and serves one request; its slot is taken.
func (r *reader) one(ctx, readCtx context.Context) *closing {
	frame, charge, err := r.frames.read(readCtx, !r.cfg.RequireHandshake || r.c.handshook.Load())
	if err != nil {
		if readCtx.Err() != nil {
			return &closing{reason: ReasonShutdown}
		}
		return err.(*closing)
	}
	req, pending, failed := r.request(frame, charge)
	if failed != nil {
		charge.Release()
		return failed
	}
	if pending == nil {
		if !r.settle(ctx, req.Key) {
			charge.Release()
			return &closing{reason: ReasonClient}
		}
		if pending, failed = r.serve(ctx, req); failed != nil {
			charge.Release()
			return failed
		}
	}
	if !pending.isDone() {
		r.unresolved = append(r.unresolved, pending)
		r.overlap = req.Key == keyProduce
	}
	f := inflight{key: req.Key, version: req.Version, correlationID: req.CorrelationID, size: req.Size,
		received: req.Received, pending: pending}
	if !req.taken {
		f.charge = charge
	}
	r.w.queue <- f // never blocks: there is room for every slot
	return nil
}

// request parses a frame. The pending is set if the answer is known without a handler.
func (r *reader) request(frame []byte, charge *Charge) (*Request, *Pending, *closing) {
	h, ok := parseID(frame)
	if !ok {
		return nil, nil, &closing{reason: ReasonMalformed}
	}
	req := &Request{Key: h.key, Version: h.version, CorrelationID: h.correlationID, Size: len(frame),
		Received: r.cfg.Now(), Charge: charge}
	lowest, highest, ok := r.c.srv.handler.Versions(h.key)
	if !ok || h.version < lowest || h.version > highest {
		if !ok || h.key != keyApiVersions {
			return nil, nil, &closing{reason: ReasonVersion, err: fmt.Errorf("API key %d version %d is not served", h.key, h.version)}
		}
		req.Version = 0 // the answer's
		return req, Answer(Response{Buffers: net.Buffers{unsupportedApiVersions(lowest, highest)}, ErrorCode: 35}), nil
	}
	if err := h.rest(); err != nil {
		return nil, nil, &closing{reason: ReasonMalformed, err: err}
	}
	if string(h.clientID) != r.clientID {
		r.clientID = string(h.clientID)
		r.c.mu.Lock()
		r.c.clientID = r.clientID
		r.c.mu.Unlock()
	}
	req.ClientID, req.Body = r.clientID, h.body
	return req, nil, nil
}

// settle waits until a request of this key may be served: Produce beside Produce,
// everything else when all before it is resolved.
func (r *reader) settle(ctx context.Context, key int16) bool {
	if key == keyProduce && r.overlap {
		kept := r.unresolved[:0]
		for _, p := range r.unresolved {
			if !p.isDone() {
				kept = append(kept, p)
			}
		}
		clear(r.unresolved[len(kept):])
		r.unresolved = kept
		return true
	}
	for _, p := range r.unresolved {
		select {
		case <-p.Done():
		case <-ctx.Done():
			return false
		}
	}
	clear(r.unresolved)
	r.unresolved = r.unresolved[:0]
	return true
}

// serve calls the handler and contains its panics.
func (r *reader) serve(ctx context.Context, req *Request) (p *Pending, failed *closing) {
	defer func() {
		if x := recover(); x != nil {
			r.cfg.Log.Error("serving a request failed; its connection is closed", "listener", r.cfg.Name,
				"client", r.c.RemoteAddr(), "key", req.Key, "version", req.Version, "panic", x, "stack", string(debug.Stack()))
			p, failed = nil, &closing{reason: ReasonPanic}
		}
	}()
	p = r.c.srv.handler.Serve(ctx, r.c, req)
	if p == nil {
		return nil, &closing{reason: ReasonPanic, err: fmt.Errorf("the handler gave no answer to API key %d", req.Key)}
	}
	return p, nil
}
