package protocol_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/protocol"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// memListener hands out the server's ends of pipes.
type memListener struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newMemListener() *memListener {
	return &memListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *memListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *memListener) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *memListener) Addr() net.Addr { return &net.TCPAddr{} }

func (l *memListener) dial() net.Conn {
	a, b := net.Pipe()
	l.conns <- b
	return a
}

// handler serves with a function; every API is served up to kmsg's highest version.
type handler func(ctx context.Context, c *protocol.Conn, r *protocol.Request) *protocol.Pending

func (h handler) Serve(ctx context.Context, c *protocol.Conn, r *protocol.Request) *protocol.Pending {
	return h(ctx, c, r)
}

func (h handler) Versions(key int16) (lowest, highest int16, ok bool) {
	if key == 60 {
		return 0, 0, false
	}
	return 0, kmsg.RequestForKey(key).MaxVersion(), true
}

func answer(body string) protocol.Response {
	return protocol.Response{Buffers: net.Buffers{[]byte(body)}}
}

// echo answers with the request's body.
var echo handler = func(_ context.Context, _ *protocol.Conn, r *protocol.Request) *protocol.Pending {
	return protocol.Answer(answer(string(r.Body)))
}

// recorder counts what an Observer is told.
type recorder struct {
	mu      sync.Mutex
	opened  int
	refused int
	closed  []string
	served  []protocol.Served
}

func (r *recorder) ConnOpened(string) { r.mu.Lock(); defer r.mu.Unlock(); r.opened++ }
func (r *recorder) ConnClosed(_, reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = append(r.closed, reason)
}
func (r *recorder) ConnRefused(string) { r.mu.Lock(); defer r.mu.Unlock(); r.refused++ }
func (r *recorder) Served(s protocol.Served) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.served = append(r.served, s)
}

func (r *recorder) reasons() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.closed, ",")
}

// rig is a server in a bubble.
type rig struct {
	*testing.T
	ln  *memListener
	srv *protocol.Server
	obs *recorder
	log *bytes.Buffer
	cfg protocol.Config
}

// bubble runs a server within a synctest bubble and shuts it down afterwards.
func bubble(t *testing.T, h protocol.Handler, change func(*protocol.Config), f func(r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &rig{T: t, ln: newMemListener(), obs: &recorder{}, log: &bytes.Buffer{}}
		r.cfg = protocol.Config{Name: "test", ProduceBudget: protocol.NewBudget(256 << 20), ControlBudget: protocol.NewBudget(256 << 20),
			Log: slog.New(slog.NewTextHandler(r.log, nil)), Observer: r.obs}
		if change != nil {
			change(&r.cfg)
		}
		var err error
		if r.srv, err = protocol.NewServer(r.ln, h, r.cfg); err != nil {
			t.Fatal(err)
		}
		served := make(chan error, 1)
		go func() { served <- r.srv.Serve(context.Background()) }()
		f(r)
		if err := r.srv.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
		if n := r.cfg.ProduceBudget.InUse() + r.cfg.ControlBudget.InUse(); n != 0 {
			t.Errorf("%d bytes of budget are still charged", n)
		}
		if n := r.srv.Conns(); n != 0 {
			t.Errorf("%d connections are left", n)
		}
	})
}

// frame encodes a request with an arbitrary body.
func frame(key, version int16, corr int32, body string) []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(key))
	b = binary.BigEndian.AppendUint16(b, uint16(version))
	b = binary.BigEndian.AppendUint32(b, uint32(corr))
	if key != 7 || version != 0 {
		b = append(b, 0, 2, 'm', 'e')
	}
	req := kmsg.RequestForKey(key)
	if req != nil {
		if req.SetVersion(version); req.IsFlexible() {
			b = append(b, 1, 9, 1, 0xff) // one tag that nobody knows
		}
	}
	b = append(b, body...)
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
}

// send writes in the background: a pipe blocks until it is read.
func (r *rig) send(c net.Conn, frames ...[]byte) {
	go c.Write(bytes.Join(frames, nil))
}

// recv reads one answer.
func (r *rig) recv(c net.Conn) (corr int32, body string) {
	r.Helper()
	var head [8]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		r.Fatalf("reading an answer: %v", err)
	}
	b := make([]byte, binary.BigEndian.Uint32(head[:])-4)
	if _, err := io.ReadFull(c, b); err != nil {
		r.Fatalf("reading an answer: %v", err)
	}
	return int32(binary.BigEndian.Uint32(head[4:])), string(b)
}

func (r *rig) want(c net.Conn, corr int32, body string) {
	r.Helper()
	if gotCorr, got := r.recv(c); gotCorr != corr || got != body {
		r.Fatalf("answer %d %q, want %d %q", gotCorr, got, corr, body)
	}
}

// wantClosed checks that the server closes c for a reason without another answer.
func (r *rig) wantClosed(c net.Conn, reason string) {
	r.Helper()
	if b, err := io.ReadAll(c); err != nil || len(b) > 0 {
		r.Fatalf("%d bytes came, %v; want the end", len(b), err)
	}
	c.Close()
	synctest.Wait()
	if got := r.obs.reasons(); got != reason {
		r.Errorf("closed for %q, want %q", got, reason)
	}
}

// wantNothing checks that nothing is answered for a while.
func (r *rig) wantNothing(c net.Conn) {
	r.Helper()
	c.SetReadDeadline(time.Now().Add(time.Second))
	var b [1]byte
	if n, err := c.Read(b[:]); n > 0 || err == nil {
		r.Fatal("an answer came too early")
	}
	c.SetReadDeadline(time.Time{})
}

func TestResponseHeaders(t *testing.T) {
	bubble(t, echo, nil, func(r *rig) {
		c := r.ln.dial()
		for _, row := range []struct {
			key, version int16
			tag          string
		}{{3, 8, ""}, {3, 9, "\x00"}, {18, 0, ""}, {18, 4, ""}, {7, 0, ""}, {7, 3, "\x00"}, {0, 8, ""}, {0, 9, "\x00"}} {
			r.send(c, frame(row.key, row.version, 77, "body"))
			r.want(c, 77, row.tag+"body")
		}
		c.Close()
	})
}

func TestRequestIsParsed(t *testing.T) {
	var got protocol.Request
	var conn *protocol.Conn
	h := handler(func(_ context.Context, c *protocol.Conn, r *protocol.Request) *protocol.Pending {
		got, conn = *r, c
		c.SetSoftware("lib", "1.2")
		return protocol.Answer(answer(""))
	})
	bubble(t, h, nil, func(r *rig) {
		c := r.ln.dial()
		f := frame(1, 12, 5, "xyz")
		r.send(c, f)
		r.want(c, 5, "\x00")
		if got.Key != 1 || got.Version != 12 || got.CorrelationID != 5 || got.ClientID != "me" || string(got.Body) != "xyz" ||
			got.Size != len(f)-4 || !got.Received.Equal(time.Now()) {
			t.Errorf("request %+v", got)
		}
		name, version := conn.Software()
		if conn.ClientID() != "me" || conn.Listener() != "test" || name != "lib" || version != "1.2" || conn.RemoteAddr() == nil {
			t.Errorf("connection of %q, %q %q", conn.ClientID(), name, version)
		}
		c.Close()
		synctest.Wait()
		if len(r.obs.served) != 1 || r.obs.opened != 1 || r.obs.served[0].ResponseSize != 9 || r.obs.reasons() != protocol.ReasonClient {
			t.Errorf("observed %+v, closed %s", r.obs.served, r.obs.reasons())
		}
	})
}

// pendings is a handler that leaves every answer to the test.
type pendings struct {
	mu  sync.Mutex
	all []*protocol.Pending
}

func (p *pendings) serve(context.Context, *protocol.Conn, *protocol.Request) *protocol.Pending {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := protocol.NewPending()
	p.all = append(p.all, n)
	return n
}

func (p *pendings) served() int {
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.all)
}

func TestAnswersKeepTheOrderOfRequests(t *testing.T) {
	var p pendings
	bubble(t, handler(p.serve), nil, func(r *rig) {
		c := r.ln.dial()
		r.send(c, frame(0, 3, 1, ""), frame(0, 3, 2, ""), frame(0, 3, 3, ""))
		if n := p.served(); n != 3 {
			t.Fatalf("%d produce requests overlap, want 3", n)
		}
		p.all[2].Resolve(answer("three"))
		p.all[1].Resolve(answer("two"))
		r.wantNothing(c)
		p.all[0].Resolve(answer("one"))
		r.want(c, 1, "one")
		r.want(c, 2, "two")
		r.want(c, 3, "three")
		c.Close()
	})
}

func TestOnlyProduceOverlaps(t *testing.T) {
	var p pendings
	bubble(t, handler(p.serve), nil, func(r *rig) {
		c := r.ln.dial()
		r.send(c, frame(0, 3, 1, ""), frame(3, 0, 2, ""), frame(0, 3, 3, ""), frame(0, 3, 4, ""))
		for i, want := range []int{1, 2, 4, 4} {
			if n := p.served(); n != want {
				t.Fatalf("%d requests served when %d are answered, want %d", n, i, want)
			}
			p.all[i].Resolve(answer("ok"))
			r.want(c, int32(i+1), "ok")
		}
		c.Close()
	})
}

func TestInFlightIsBounded(t *testing.T) {
	var p pendings
	bubble(t, handler(p.serve), nil, func(r *rig) {
		c := r.ln.dial()
		var all [][]byte
		for i := range int32(protocol.MaxInFlight + 5) {
			all = append(all, frame(0, 3, i, ""))
		}
		r.send(c, all...)
		if n := p.served(); n != protocol.MaxInFlight {
			t.Fatalf("%d in flight, want %d", n, protocol.MaxInFlight)
		}
		p.all[0].Resolve(answer(""))
		r.want(c, 0, "")
		if n := p.served(); n != protocol.MaxInFlight+1 {
			t.Fatalf("%d served after one answer, want %d", n, protocol.MaxInFlight+1)
		}
		for i := 1; i < len(all); i++ {
			synctest.Wait()
			p.all[i].Resolve(protocol.Response{None: true})
		}
		c.Close()
	})
}

func TestNoAnswerForAcksZero(t *testing.T) {
	h := handler(func(_ context.Context, _ *protocol.Conn, r *protocol.Request) *protocol.Pending {
		if r.Key == 0 {
			return protocol.Answer(protocol.Response{None: true})
		}
		return protocol.Answer(answer("meta"))
	})
	bubble(t, h, nil, func(r *rig) {
		c := r.ln.dial()
		r.send(c, frame(0, 3, 1, ""), frame(0, 3, 2, ""), frame(3, 0, 3, ""))
		r.want(c, 3, "meta")
		c.Close()
	})
}

func TestLargeAnswersArriveWhole(t *testing.T) {
	big := bytes.Repeat([]byte("0123456789abcdef"), 300_000)
	released := 0
	h := handler(func(_ context.Context, _ *protocol.Conn, r *protocol.Request) *protocol.Pending {
		return protocol.Answer(protocol.Response{Release: func() { released++ },
			Buffers: net.Buffers{[]byte("head"), big[:3_000_000], nil, big[3_000_000:], []byte("tail")}})
	})
	bubble(t, h, nil, func(r *rig) {
		c := r.ln.dial()
		r.send(c, frame(1, 4, 9, ""), frame(1, 4, 10, ""))
		r.want(c, 9, "head"+string(big)+"tail")
		r.want(c, 10, "head"+string(big)+"tail")
		synctest.Wait()
		if released != 2 {
			t.Errorf("%d of 2 answers released", released)
		}
		c.Close()
	})
}

func TestUnsupportedVersions(t *testing.T) {
	t.Run("ApiVersions says what it has", func(t *testing.T) {
		bubble(t, echo, nil, func(r *rig) {
			c := r.ln.dial()
			r.send(c, frame(18, 99, 4, "whatever"))
			corr, body := r.recv(c)
			resp := kmsg.NewPtrApiVersionsResponse()
			if err := resp.ReadFrom([]byte(body)); err != nil || corr != 4 {
				t.Fatal(corr, err)
			}
			if resp.ErrorCode != 35 || len(resp.ApiKeys) != 1 || resp.ApiKeys[0].ApiKey != 18 || resp.ApiKeys[0].MaxVersion < 3 {
				t.Errorf("answer %+v", resp)
			}
			r.send(c, frame(18, 0, 5, "again")) // the connection lives on
			r.want(c, 5, "again")
			c.Close()
		})
	})
	for name, f := range map[string][]byte{"version too high": frame(3, 99, 1, ""), "version negative": frame(3, -1, 1, ""),
		"key not served": frame(60, 0, 1, ""), "key unknown": frame(999, 0, 1, "")} {
		t.Run(name, func(t *testing.T) {
			bubble(t, echo, nil, func(r *rig) {
				c := r.ln.dial()
				r.send(c, f)
				r.wantClosed(c, protocol.ReasonVersion)
			})
		})
	}
}

func TestBadFramesEndTheConnection(t *testing.T) {
	length := func(n uint32, more ...byte) []byte { return append(binary.BigEndian.AppendUint32(nil, n), more...) }
	rows := []struct {
		name   string
		bytes  []byte
		reason string
		log    string
	}{
		{"HTTP", []byte("GET / HTTP/1.1\r\n\r\n"), protocol.ReasonMalformed, "HTTP"},
		{"TLS", []byte{0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc}, protocol.ReasonMalformed, "TLS"},
		{"negative length", length(1<<31, 0, 3), protocol.ReasonMalformed, "length -2147483648"},
		{"no length", length(0, 0, 3), protocol.ReasonMalformed, "length 0"},
		{"below a header", length(7, 0, 3), protocol.ReasonMalformed, "length 7"},
		{"large produce", length(100<<20+1, 0, 0), protocol.ReasonTooLarge, "104857601"},
		{"large metadata", length(4<<20+1, 0, 3), protocol.ReasonTooLarge, "4194305"},
		{"client id beyond the frame", append(length(10), 0, 3, 0, 0, 0, 0, 0, 1, 0, 9), protocol.ReasonMalformed, "client id"},
		{"too many header tags", append(length(13), 0, 3, 0, 9, 0, 0, 0, 1, 0, 0, 0xff, 0xff, 3), protocol.ReasonMalformed, "tagged"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			bubble(t, echo, nil, func(r *rig) {
				c := r.ln.dial()
				r.send(c, row.bytes)
				r.wantClosed(c, row.reason)
				if !strings.Contains(r.log.String(), row.log) {
					t.Errorf("log %q does not tell %q", r.log, row.log)
				}
			})
		})
	}
	t.Run("scanners do not fill the log", func(t *testing.T) {
		bubble(t, echo, nil, func(r *rig) {
			for range 20 {
				c := r.ln.dial()
				r.send(c, rows[0].bytes)
				if _, err := io.ReadAll(c); err != nil {
					t.Fatal(err)
				}
				c.Close()
			}
			if n := strings.Count(r.log.String(), "\n"); n != 1 {
				t.Errorf("%d lines, want 1", n)
			}
		})
	})
}

func TestHandshakeLimits(t *testing.T) {
	h := handler(func(_ context.Context, c *protocol.Conn, r *protocol.Request) *protocol.Pending {
		if r.Key == 36 {
			c.HandshakeDone()
		}
		return protocol.Answer(answer("ok"))
	})
	strict := func(c *protocol.Config) { c.RequireHandshake, c.MaxHandshakeBytes = true, 1000 }
	body := strings.Repeat("x", 2000)
	t.Run("small before", func(t *testing.T) {
		bubble(t, h, strict, func(r *rig) {
			c := r.ln.dial()
			r.send(c, frame(17, 0, 1, ""))
			r.want(c, 1, "ok")
			r.send(c, frame(3, 0, 2, body))
			r.wantClosed(c, protocol.ReasonTooLarge)
		})
	})
	t.Run("large after", func(t *testing.T) {
		bubble(t, h, strict, func(r *rig) {
			c := r.ln.dial()
			r.send(c, frame(36, 0, 1, ""))
			r.want(c, 1, "ok")
			r.send(c, frame(3, 0, 2, body))
			r.want(c, 2, "ok")
			c.Close()
		})
	})
	t.Run("in time", func(t *testing.T) {
		bubble(t, h, strict, func(r *rig) {
			c := r.ln.dial()
			start := time.Now()
			r.send(c, frame(17, 0, 1, ""))
			r.want(c, 1, "ok")
			r.wantClosed(c, protocol.ReasonTimeout)
			if d := time.Since(start); d != protocol.DefaultHandshakeTimeout {
				t.Errorf("closed after %v", d)
			}
		})
	})
}

func TestTimeouts(t *testing.T) {
	t.Run("silent", func(t *testing.T) {
		bubble(t, echo, nil, func(r *rig) {
			start := time.Now()
			r.wantClosed(r.ln.dial(), protocol.ReasonTimeout)
			if d := time.Since(start); d != protocol.DefaultHandshakeTimeout {
				t.Errorf("closed after %v", d)
			}
		})
	})
	t.Run("idle", func(t *testing.T) {
		bubble(t, echo, nil, func(r *rig) {
			c := r.ln.dial()
			r.send(c, frame(3, 0, 1, ""))
			r.want(c, 1, "")
			start := time.Now()
			r.wantClosed(c, protocol.ReasonIdle)
			if d := time.Since(start); d != protocol.DefaultIdleTimeout {
				t.Errorf("closed after %v", d)
			}
		})
	})
	t.Run("a long poll is not idle", func(t *testing.T) {
		var p pendings
		bubble(t, handler(p.serve), nil, func(r *rig) {
			c := r.ln.dial()
			r.send(c, frame(1, 0, 1, ""))
			p.served()
			time.Sleep(3 * protocol.DefaultIdleTimeout) // virtual
			p.all[0].Resolve(answer("at last"))
			r.want(c, 1, "at last")
			c.Close()
		})
	})
	t.Run("half a frame", func(t *testing.T) {
		bubble(t, echo, nil, func(r *rig) {
			c := r.ln.dial()
			r.send(c, frame(3, 0, 1, ""), frame(3, 0, 2, "abcdef")[:15])
			r.want(c, 1, "")
			start := time.Now()
			r.wantClosed(c, protocol.ReasonTimeout)
			if d := time.Since(start); d != protocol.DefaultFrameTimeout {
				t.Errorf("closed after %v", d)
			}
		})
	})
	t.Run("an answer that nobody takes", func(t *testing.T) {
		bubble(t, echo, nil, func(r *rig) {
			c := r.ln.dial()
			r.send(c, frame(3, 0, 1, "body"))
			time.Sleep(protocol.DefaultWriteTimeout + time.Second) // virtual
			r.wantClosed(c, protocol.ReasonTimeout)
		})
	})
}

func TestBudgetHoldsConnectionsBack(t *testing.T) {
	var p pendings
	small := func(c *protocol.Config) {
		c.MaxRequestBytes = 1000
		c.ProduceBudget = protocol.NewBudget(1000)
	}
	bubble(t, handler(p.serve), small, func(r *rig) {
		a, b := r.ln.dial(), r.ln.dial()
		body := strings.Repeat("x", 700)
		r.send(a, frame(0, 3, 1, body))
		if p.served() != 1 || r.cfg.ProduceBudget.InUse() < 700 {
			t.Fatalf("%d bytes in use", r.cfg.ProduceBudget.InUse())
		}
		r.send(b, frame(0, 3, 2, body))
		if n := p.served(); n != 1 {
			t.Fatal("a frame was read without budget")
		}
		r.send(a, frame(3, 0, 3, "")) // control requests have their own
		p.all[0].Resolve(answer("one"))
		r.want(a, 1, "one")
		if n := p.served(); n != 3 {
			t.Fatalf("%d served, want 3", n)
		}
		p.all[1].Resolve(answer("two"))
		p.all[2].Resolve(answer("two"))
		r.recv(a)
		r.recv(b)
		a.Close()
		b.Close()
	})
}

func TestChargeMayOutliveTheAnswer(t *testing.T) {
	var taken *protocol.Charge
	h := handler(func(_ context.Context, _ *protocol.Conn, r *protocol.Request) *protocol.Pending {
		taken = r.TakeCharge()
		return protocol.Answer(protocol.Response{None: true})
	})
	bubble(t, h, nil, func(r *rig) {
		c := r.ln.dial()
		r.send(c, frame(0, 3, 1, "batch"))
		synctest.Wait()
		c.Close()
		synctest.Wait()
		if r.srv.Conns() != 0 || taken.Bytes() == 0 || r.cfg.ProduceBudget.InUse() != taken.Bytes() {
			t.Errorf("%d bytes in use after the connection, %d taken", r.cfg.ProduceBudget.InUse(), taken.Bytes())
		}
		taken.Release()
		taken.Release()
		if n := r.cfg.ProduceBudget.InUse(); n != 0 {
			t.Errorf("%d bytes in use after the release", n)
		}
	})
}

func TestClientGoesAway(t *testing.T) {
	ended := make(chan struct{})
	released := false
	h := handler(func(ctx context.Context, _ *protocol.Conn, r *protocol.Request) *protocol.Pending {
		p := protocol.NewPending()
		context.AfterFunc(ctx, func() {
			p.Resolve(protocol.Response{Release: func() { released = true; close(ended) }})
		})
		return p
	})
	bubble(t, h, nil, func(r *rig) {
		c := r.ln.dial()
		r.send(c, frame(1, 0, 1, ""))
		synctest.Wait()
		c.Close()
		synctest.Wait()
		select {
		case <-ended:
		default:
			t.Fatal("the answer was not released")
		}
		if !released || r.srv.Conns() != 0 {
			t.Error("the connection is still there")
		}
	})
}

func TestHandlerFailures(t *testing.T) {
	rows := map[string]struct {
		h      handler
		reason string
	}{
		"panic":     {func(context.Context, *protocol.Conn, *protocol.Request) *protocol.Pending { panic("oops") }, protocol.ReasonPanic},
		"no answer": {func(context.Context, *protocol.Conn, *protocol.Request) *protocol.Pending { return nil }, protocol.ReasonPanic},
		"asks to close": {func(_ context.Context, c *protocol.Conn, _ *protocol.Request) *protocol.Pending {
			c.Close()
			return protocol.Answer(answer(""))
		}, protocol.ReasonHandler},
	}
	for name, row := range rows {
		t.Run(name, func(t *testing.T) {
			bubble(t, row.h, nil, func(r *rig) {
				c := r.ln.dial()
				r.send(c, frame(3, 0, 1, ""))
				r.wantClosed(c, row.reason)
			})
		})
	}
	t.Run("a last answer", func(t *testing.T) {
		h := handler(func(context.Context, *protocol.Conn, *protocol.Request) *protocol.Pending {
			return protocol.Answer(protocol.Response{Buffers: net.Buffers{[]byte("bye")}, Close: true})
		})
		bubble(t, h, nil, func(r *rig) {
			c := r.ln.dial()
			r.send(c, frame(3, 0, 1, ""))
			r.want(c, 1, "bye")
			r.wantClosed(c, protocol.ReasonHandler)
		})
	})
}

func TestConnectionLimits(t *testing.T) {
	bubble(t, echo, func(c *protocol.Config) { c.MaxConns = 2 }, func(r *rig) {
		a, b := r.ln.dial(), r.ln.dial()
		synctest.Wait()
		c := r.ln.dial()
		if _, err := io.ReadAll(c); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if r.obs.refused != 1 {
			t.Errorf("%d refused", r.obs.refused)
		}
		a.Close()
		synctest.Wait()
		d := r.ln.dial()
		r.send(d, frame(3, 0, 1, "in"))
		r.want(d, 1, "in")
		b.Close()
		d.Close()
	})
}

func TestShutdown(t *testing.T) {
	t.Run("answers what is in flight", func(t *testing.T) {
		var p pendings
		bubble(t, handler(p.serve), nil, func(r *rig) {
			idle, busy := r.ln.dial(), r.ln.dial()
			r.send(busy, frame(0, 3, 1, ""))
			p.served()
			down := make(chan error, 1)
			go func() { down <- r.srv.Shutdown(r.Context()) }()
			r.wantClosed(idle, protocol.ReasonShutdown)
			select {
			case <-down:
				t.Fatal("shut down with a request in flight")
			default:
			}
			p.all[0].Resolve(answer("done"))
			r.want(busy, 1, "done")
			if err := <-down; err != nil {
				t.Error(err)
			}
		})
	})
	t.Run("does not wait for ever", func(t *testing.T) {
		var p pendings
		bubble(t, handler(p.serve), nil, func(r *rig) {
			c := r.ln.dial()
			r.send(c, frame(0, 3, 1, ""))
			p.served()
			ctx, cancel := context.WithTimeout(r.Context(), time.Minute)
			defer cancel()
			if err := r.srv.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v", err)
			}
			if b, err := io.ReadAll(c); err != nil || len(b) > 0 {
				t.Errorf("%q, %v after the hard end", b, err)
			}
			p.all[0].Resolve(answer("too late"))
		})
	})
	t.Run("while a frame is half read", func(t *testing.T) {
		bubble(t, echo, nil, func(r *rig) {
			c := r.ln.dial()
			r.send(c, frame(3, 0, 1, "abc")[:10])
			synctest.Wait()
			if err := r.srv.Shutdown(r.Context()); err != nil {
				t.Error(err)
			}
		})
	})
	t.Run("while a connection waits for budget", func(t *testing.T) {
		bubble(t, echo, func(c *protocol.Config) { c.MaxRequestBytes, c.ProduceBudget = 100, protocol.NewBudget(100) }, func(r *rig) {
			held, err := r.cfg.ProduceBudget.Acquire(r.Context(), 100)
			if err != nil {
				t.Fatal(err)
			}
			c := r.ln.dial()
			r.send(c, frame(0, 3, 1, "abc"))
			synctest.Wait()
			if err := r.srv.Shutdown(r.Context()); err != nil {
				t.Error(err)
			}
			held.Release()
		})
	})
}

func TestConfigIsChecked(t *testing.T) {
	ok := protocol.Config{ProduceBudget: protocol.NewBudget(1 << 30), ControlBudget: protocol.NewBudget(1 << 30), Log: slog.New(slog.DiscardHandler)}
	for name, change := range map[string]func(*protocol.Config){
		"Log":             func(c *protocol.Config) { c.Log = nil },
		"ProduceBudget":   func(c *protocol.Config) { c.ProduceBudget = nil },
		"MaxRequestBytes": func(c *protocol.Config) { c.ProduceBudget = protocol.NewBudget(1000) },
		"control budget":  func(c *protocol.Config) { c.ControlBudget = protocol.NewBudget(1000) },
		"request limit":   func(c *protocol.Config) { c.MaxControlBytes = -1 },
	} {
		cfg := ok
		change(&cfg)
		if _, err := protocol.NewServer(newMemListener(), echo, cfg); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := protocol.NewServer(newMemListener(), echo, ok); err != nil {
		t.Error(err)
	}
}
