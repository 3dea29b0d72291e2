package nemesis

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// chunk is read at once while a link looks at its bytes: enough for a fetch's answer to need few system calls,
// little enough for a thousand connections.
const chunk = 32 << 10

// pair is a connection through a Link. Its owner is Link.accept's goroutine, which waits for both pumps.
type pair struct {
	link   *Link
	client *net.TCPConn
	server *net.TCPConn // nil until it is made; set under link.mu
	once   sync.Once
	done   chan struct{} // closed when it is reset
}

// reset ends both sides so that their peers hear a reset.
func (p *pair) reset() {
	p.once.Do(func() { close(p.done) })
	p.link.mu.Lock()
	server := p.server
	p.link.mu.Unlock()
	for _, c := range []*net.TCPConn{p.client, server} {
		if c != nil {
			_ = c.SetLinger(0) // fails if it is closed, which is what is wanted
			_ = c.Close()      // as above
		}
	}
}

func (p *pair) run() {
	defer p.reset()
	stop := context.AfterFunc(p.link.ctx, p.reset)
	defer stop()
	// A connection that is made into a black hole gets no answer until that is lifted.
	for p.link.direction(true).Blackhole {
		p.link.felt(p, func(t Trouble) bool { return t.Up.Blackhole })
		if !p.wait(time.Hour) {
			return
		}
	}
	server, err := p.link.dial()
	if err != nil {
		return
	}
	p.link.mu.Lock()
	p.server = server
	p.link.mu.Unlock()
	select {
	case <-p.done: // it was reset meanwhile
		_ = server.Close()
		return
	default:
	}
	var both sync.WaitGroup
	both.Go(func() { p.pump(p.client, server, true) })
	both.Go(func() { p.pump(server, p.client, false) })
	both.Wait()
}

// pump moves the bytes of one direction until they end. What ends in a failure resets both directions.
func (p *pair) pump(src, dst *net.TCPConn, up bool) {
	var buf []byte
	var f *framer
	if up && p.link.kafka {
		f = &framer{take: p.link.captured, done: p.link.replay}
	}
	late := false // whether the burst that is under way has been held already
	for {
		t, look := p.enter(src, up)
		if t.clean() && !look && f == nil {
			n, err := io.Copy(dst, src)
			p.link.bytes.Add(n)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				continue
			}
			p.finish(dst, err)
			return
		}
		if buf == nil {
			buf = make([]byte, chunk)
		}
		before := time.Now()
		n, err := src.Read(buf)
		if n == 0 && errors.Is(err, os.ErrDeadlineExceeded) {
			continue
		}
		late = late && time.Since(before) < time.Millisecond
		if !p.through(buf[:n], up, &late) {
			p.reset()
			return
		}
		if !p.deliver(dst, buf[:n], up, f) {
			p.reset()
			return
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			p.finish(dst, err)
			return
		}
	}
}

// deliver writes what was read, or drops it, as was ordered.
func (p *pair) deliver(dst io.Writer, b []byte, up bool, f *framer) bool {
	if len(b) == 0 {
		return true
	}
	if !up && p.link.dropped() {
		return false
	}
	p.link.bytes.Add(int64(len(b)))
	ok := true
	if f != nil {
		b, ok = f.pass(b)
	}
	return p.write(dst, b, up) && ok
}

// write hands bytes on, no faster than the direction's rate.
func (p *pair) write(dst io.Writer, b []byte, up bool) bool {
	for len(b) > 0 {
		n := len(b)
		rate := p.link.direction(up).Rate
		if rate > 0 {
			n = min(n, max(1, rate/50)) // pieces of 20 ms
			p.link.felt(p, func(t Trouble) bool { return t.of(up).Rate > 0 })
		}
		if _, err := dst.Write(b[:n]); err != nil {
			return false
		}
		b = b[n:]
		if rate > 0 && !p.wait(time.Duration(n)*time.Second/time.Duration(rate)) {
			return false
		}
	}
	return true
}

// finish ends a direction as its source ended.
func (p *pair) finish(dst *net.TCPConn, err error) {
	for p.link.direction(true).Blackhole || p.link.direction(false).Blackhole {
		if !p.wait(time.Hour) { // the other side hears nothing of the end, either
			break
		}
	}
	if err != nil && !errors.Is(err, io.EOF) || dst.CloseWrite() != nil {
		p.reset()
	}
}

// through holds what was read for as long as the trouble says; false if the connection was reset meanwhile.
func (p *pair) through(b []byte, up bool, late *bool) bool {
	for counted := false; p.link.direction(up).Blackhole; counted = true {
		if !counted {
			p.link.felt(p, func(t Trouble) bool { return t.of(up).Blackhole })
		}
		if !p.wait(time.Hour) {
			return false
		}
	}
	t := p.link.direction(up)
	if len(b) == 0 || *late || t.Delay == 0 && t.Jitter == 0 {
		return true
	}
	*late = true
	p.link.felt(p, func(t Trouble) bool { return t.of(up).Delay > 0 || t.of(up).Jitter > 0 })
	d := t.Delay
	if t.Jitter > 0 {
		p.link.mu.Lock()
		d += time.Duration(p.link.rand.Int64N(int64(t.Jitter)))
		p.link.mu.Unlock()
	}
	return p.wait(d)
}

func (t Trouble) of(up bool) Traffic {
	if up {
		return t.Up
	}
	return t.Down
}

// direction returns what happens to one direction at the moment.
func (l *Link) direction(up bool) Traffic {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now.of(up)
}

// enter lets the source be read without a limit, until the trouble changes. look says that
// the bytes have to be seen.
func (p *pair) enter(src *net.TCPConn, up bool) (t Traffic, look bool) {
	p.link.mu.Lock()
	defer p.link.mu.Unlock()
	_ = src.SetReadDeadline(time.Time{}) // fails if it is closed, which the next read says
	return p.link.now.of(up), !up && len(p.link.drops) > 0
}

// wait lets d pass, or less if the trouble changes; false if the connection was reset.
func (p *pair) wait(d time.Duration) bool {
	p.link.mu.Lock()
	changed := p.link.changed
	p.link.mu.Unlock()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-changed:
		return true
	case <-p.done:
		return false
	case <-p.link.ctx.Done():
		return false
	}
}

// roundTrip sends a frame on a connection of its own, and waits for the answer, which nobody hears.
func (l *Link) roundTrip(ctx context.Context, frame []byte) bool {
	conn, err := l.dial()
	if err != nil {
		return false
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if err := conn.SetDeadline(time.Now().Add(replayTimeout)); err != nil {
		return false
	}
	if _, err := conn.Write(frame); err != nil {
		return false
	}
	var one [1]byte
	_, err = conn.Read(one[:])
	return err == nil // the agent has answered: the frame was processed
}
