package protocol

import (
	"context"
	"net"
	"time"
)

// writer is the writing half of a connection: it takes requests in their order, waits
// for each one's answer, and writes what is ready in as few system calls as it can.
// Invariant: waiting are the requests whose answers are in bufs; broken means that
// nothing is written any more, and what is left is only waited for and released.
type writer struct {
	c     *Conn
	queue chan inflight // from the reader, who closes it
	slots chan struct{} // one per request between being read and being answered

	heads   []byte // headers and small bodies of the answers in bufs
	cut     int    // heads[:cut] is in bufs
	bufs    net.Buffers
	size    int
	waiting []answered
	broken  bool
	chunk   net.Buffers // reused by send
}

// answered is a request with its answer.
type answered struct {
	inflight
	resp Response
	sent int // bytes with length and header
}

func newWriter(c *Conn) *writer {
	return &writer{c: c, queue: make(chan inflight, MaxInFlight), slots: make(chan struct{}, MaxInFlight)}
}

// run ends when the queue is closed and everything in it is answered or given up.
func (w *writer) run(ctx context.Context) {
	for {
		var f inflight
		var ok bool
		select {
		case f, ok = <-w.queue:
		default:
			w.flush()
			f, ok = <-w.queue
		}
		if !ok {
			w.flush()
			return
		}
		if !f.pending.isDone() {
			w.flush()
			select {
			case <-f.pending.Done():
			case <-ctx.Done():
				w.broken = true
				<-f.pending.Done()
			}
		}
		w.broken = w.broken || ctx.Err() != nil
		f.charge.Release()
		w.add(answered{inflight: f, resp: f.pending.Response()})
	}
}

// add puts an answer behind those that wait to be written.
func (w *writer) add(a answered) {
	if !w.broken && !a.resp.None {
		a.sent = w.frame(a.inflight, a.resp.Buffers)
	}
	w.waiting = append(w.waiting, a)
	w.c.mute(a.resp.Throttle)
	if a.resp.Close {
		w.flush()
		w.fail(ReasonHandler)
		return
	}
	if w.size >= writeChunk || w.broken {
		w.flush()
	}
}

// frame appends header and body to bufs and returns their bytes.
func (w *writer) frame(f inflight, body net.Buffers) int {
	size := 0
	for _, b := range body {
		size += len(b)
	}
	before := len(w.heads)
	w.heads = appendResponseHeader(w.heads, f.key, f.version, f.correlationID, size)
	total := len(w.heads) - before + size
	w.size += total
	if size <= smallBody {
		for _, b := range body {
			w.heads = append(w.heads, b...)
		}
		return total
	}
	w.cutHeads()
	w.bufs = append(w.bufs, body...)
	return total
}

// cutHeads moves what was appended to heads since the last cut into bufs.
func (w *writer) cutHeads() {
	if len(w.heads) > w.cut {
		w.bufs = append(w.bufs, w.heads[w.cut:len(w.heads):len(w.heads)])
		w.cut = len(w.heads)
	}
}

// maxHeads is the buffer of headers that is kept between writes.
const maxHeads = 64 << 10

// flush writes everything that is waiting, unless the connection is broken, and lets go
// of it.
func (w *writer) flush() {
	if len(w.waiting) == 0 {
		return
	}
	w.cutHeads()
	if !w.broken {
		if err := w.send(); err != nil {
			w.fail(readFailure(err).reason)
		}
	}
	for _, a := range w.waiting {
		w.settled(a)
	}
	clear(w.waiting)
	clear(w.bufs)
	w.waiting, w.bufs, w.heads, w.cut, w.size = w.waiting[:0], w.bufs[:0], w.heads[:0], 0, 0
	if cap(w.heads) > maxHeads {
		w.heads = nil
	}
}

// settled releases an answer and its slot.
func (w *writer) settled(a answered) {
	if a.resp.Release != nil {
		a.resp.Release()
	}
	<-w.slots
	if !w.broken && !w.c.answered.Load() && !ofHandshake(a.key) {
		w.c.answeredFirst()
	}
	if o := w.c.srv.cfg.Observer; o != nil && !w.broken {
		o.Served(Served{Listener: w.c.srv.cfg.Name, Key: a.key, Version: a.version, ErrorCode: a.resp.ErrorCode,
			RequestSize: a.size, ResponseSize: a.sent, Latency: w.c.srv.cfg.Now().Sub(a.received)})
	}
}

// send writes bufs in pieces of writeChunk, each with its own deadline, so that a slow
// client is told from a dead one.
func (w *writer) send() error {
	rest := w.bufs
	for len(rest) > 0 {
		w.chunk = w.chunk[:0]
		room := writeChunk
		for len(rest) > 0 && room > 0 {
			b := rest[0]
			if len(b) > room {
				w.chunk = append(w.chunk, b[:room])
				rest[0] = b[room:]
				room = 0
				break
			}
			w.chunk = append(w.chunk, b)
			room -= len(b)
			rest = rest[1:]
		}
		cfg := &w.c.srv.cfg
		if err := w.c.nc.SetWriteDeadline(cfg.Now().Add(cfg.WriteTimeout)); err != nil {
			return err
		}
		chunk := w.chunk // WriteTo consumes it
		if _, err := chunk.WriteTo(w.c.nc); err != nil {
			return err
		}
	}
	// TLS also writes when it reads, and a deadline long past would fail that. If the
	// socket is closed by now, the reader finds out; the answers are written.
	_ = w.c.nc.SetWriteDeadline(time.Time{})
	return nil
}

// fail ends the connection; the reader notices.
func (w *writer) fail(reason string) {
	w.broken = true
	w.c.end(reason)
}
