package protocol

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// A closing ends a connection's reading; it carries the reason for the Observer.
type closing struct {
	reason string
	err    error // nil if there is nothing to say
	// garbage marks bytes that were never Kafka's; the log line is rate-limited.
	garbage bool
}

func (c *closing) Error() string {
	if c.err == nil {
		return c.reason
	}
	return c.reason + ": " + c.err.Error()
}

func (c *closing) Unwrap() error { return c.err }

// readFailure classifies an error of the socket.
func readFailure(err error) *closing {
	var timeout net.Error
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed), errors.Is(err, io.ErrClosedPipe):
		return &closing{reason: ReasonClient}
	case errors.As(err, &timeout) && timeout.Timeout():
		return &closing{reason: ReasonTimeout}
	}
	return &closing{reason: ReasonNetwork, err: err}
}

// frameReader reads a connection's frames. It belongs to the reader goroutine.
// Invariant: proven is the size of the largest frame that was delivered in full.
type frameReader struct {
	conn   net.Conn
	br     *bufio.Reader
	cfg    *Config
	proven int
	latest time.Time // end of the handshake's time; zero once it is done
	end    time.Time // of the frame's time; zero between frames
}

func newFrameReader(conn net.Conn, cfg *Config) *frameReader {
	return &frameReader{conn: conn, br: bufio.NewReaderSize(conn, readBuffer), cfg: cfg}
}

// headSize is the length and the key, which decides what the frame may take.
const headSize = 4 + 2

// read returns the next frame, without its length, and its charge. The frame has begun:
// its first byte is buffered. established tells whether the handshake's limits are over.
// ctx ends the wait for budget. Errors are of type *closing.
func (f *frameReader) read(ctx context.Context, established bool) (frame []byte, charge *Charge, err error) {
	if err := f.deadline(f.cfg.FrameTimeout); err != nil {
		return nil, nil, readFailure(err)
	}
	head, err := f.br.Peek(headSize)
	if err != nil {
		return nil, nil, readFailure(err)
	}
	size := int(int32(binary.BigEndian.Uint32(head)))
	key := int16(binary.BigEndian.Uint16(head[4:]))
	if err := f.check(head, size, key, established); err != nil {
		return nil, nil, err
	}
	if _, err := f.br.Discard(4); err != nil {
		return nil, nil, readFailure(err)
	}
	var gate *Charge
	if key == keyProduce && size > largeFrame {
		// In this order: who holds some of the produce budget never waits for the gate.
		if gate, err = f.cfg.largeFrames.Acquire(ctx, int64(size)); err != nil {
			return nil, nil, &closing{reason: ReasonShutdown, err: err}
		}
		defer gate.Release()
	}
	budget, need := f.cfg.ControlBudget, controlCharge(size)
	if key == keyProduce {
		budget, need = f.cfg.ProduceBudget, int64(size)
	}
	charge, err = budget.Acquire(ctx, need)
	if err != nil {
		return nil, nil, &closing{reason: ReasonShutdown, err: err}
	}
	f.end = f.cfg.Now().Add(f.cfg.FrameTimeout + time.Duration(size)*time.Second/minFrameRate)
	frame, err = f.body(size)
	f.end = time.Time{}
	if err != nil {
		charge.Release()
		return nil, nil, readFailure(err)
	}
	return frame, charge, nil
}

// check judges a frame's length before anything is allocated for it.
func (f *frameReader) check(head []byte, size int, key int16, established bool) error {
	limit := f.cfg.MaxControlBytes
	if key == keyProduce {
		limit = f.cfg.MaxRequestBytes
	}
	if !established {
		limit = min(limit, f.cfg.MaxHandshakeBytes)
	}
	if what := foreign(head); what != "" {
		return &closing{reason: ReasonMalformed, garbage: true, err: fmt.Errorf("the client speaks %s", what)}
	}
	switch {
	case size < minFrame:
		return &closing{reason: ReasonMalformed, garbage: true, err: fmt.Errorf("a frame of length %d", size)}
	case !lookup(key).known:
		return &closing{reason: ReasonVersion, garbage: true, err: fmt.Errorf("API key %d does not exist", key)}
	case size > limit:
		return &closing{reason: ReasonTooLarge, garbage: true, err: fmt.Errorf("a frame of %d bytes for API key %d, the limit is %d", size, key, limit)}
	}
	return nil
}

// foreign recognises clients that got the wrong port, by the first bytes they send.
func foreign(head []byte) string {
	switch string(head[:4]) {
	case "GET ", "POST", "PUT ", "HEAD", "DELE", "OPTI", "PATC", "CONN":
		return "HTTP; this is a Kafka port"
	case "PRI ":
		return "HTTP/2; this is a Kafka port"
	case "SSH-":
		return "SSH; this is a Kafka port"
	}
	if head[0] == 0x16 && head[1] == 3 {
		return "TLS; this listener does not"
	}
	return ""
}

// body reads size bytes. Memory follows what arrives: at first what the connection has
// proven to deliver, then growFactor times as much whenever it is full.
func (f *frameReader) body(size int) ([]byte, error) {
	buf := make([]byte, min(size, max(firstAlloc, f.proven)))
	for n := 0; ; {
		for n < len(buf) {
			if err := f.deadline(f.cfg.FrameTimeout); err != nil {
				return nil, err
			}
			end := min(n+readChunk, len(buf))
			m, err := io.ReadFull(f.br, buf[n:end])
			if n += m; err != nil {
				return nil, err
			}
		}
		if n == size {
			f.proven = max(f.proven, size)
			return buf, nil
		}
		grown := make([]byte, min(size, growFactor*len(buf)))
		copy(grown, buf)
		buf = grown
	}
}

// deadline gives the next reads d, or what is left of the handshake's or the frame's time.
func (f *frameReader) deadline(d time.Duration) error {
	t := f.cfg.Now().Add(d)
	for _, end := range []time.Time{f.latest, f.end} {
		if !end.IsZero() && end.Before(t) {
			t = end
		}
	}
	return f.conn.SetReadDeadline(t)
}
