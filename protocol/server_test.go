package protocol_test

import (
	"bytes"
	"context"
	"encoding/binary"
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
