package protocol_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/floelog/floe/protocol"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// listen serves h on loopback until the test ends and returns the address.
func listen(t testing.TB, h protocol.Handler, change func(*protocol.Config)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := protocol.Config{ProduceBudget: protocol.NewBudget(1 << 30), ControlBudget: protocol.NewBudget(1 << 28), Log: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&cfg)
	}
	srv, err := protocol.NewServer(ln, h, cfg)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(context.Background()) }()
	t.Cleanup(func() {
		if err := srv.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return ln.Addr().String()
}

// answerWith decodes a request and lets f fill in the answer, in the request's version.
func answerWith(r *protocol.Request, f func(kmsg.Request, kmsg.Response)) *protocol.Pending {
	req, err := protocol.DecodeRequest(r)
	if err != nil {
		return protocol.Answer(protocol.Response{Close: true, None: true})
	}
	resp := req.ResponseKind()
	f(req, resp)
	return protocol.Answer(protocol.Response{Buffers: net.Buffers{resp.AppendTo(nil)}})
}

func TestFranzGoClient(t *testing.T) {
	software := make(chan string, 100)
	h := handler(func(_ context.Context, c *protocol.Conn, r *protocol.Request) *protocol.Pending {
		return answerWith(r, func(req kmsg.Request, resp kmsg.Response) {
			switch resp := resp.(type) {
			case *kmsg.ApiVersionsResponse:
				software <- req.(*kmsg.ApiVersionsRequest).ClientSoftwareName
				for _, key := range []int16{3, 18, 22} {
					k := kmsg.NewApiVersionsResponseApiKey()
					k.ApiKey, k.MaxVersion = key, kmsg.RequestForKey(key).MaxVersion()
					resp.ApiKeys = append(resp.ApiKeys, k)
				}
			case *kmsg.MetadataResponse:
				b := kmsg.NewMetadataResponseBroker()
				host, port, _ := net.SplitHostPort(c.NetConn().LocalAddr().String())
				b.NodeID, b.Host, b.Port = 1, host, portNumber(port)
				resp.Brokers = append(resp.Brokers, b)
				resp.ControllerID = 1
			case *kmsg.InitProducerIDResponse:
				resp.ProducerID = 4711
			}
		})
	})
	cl, err := kgo.NewClient(kgo.SeedBrokers(listen(t, h, nil)), kgo.SoftwareNameAndVersion("tester", "1.0"))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if err := cl.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	if name := <-software; name != "tester" {
		t.Errorf("the client calls itself %q", name)
	}
	resp, err := kmsg.NewPtrInitProducerIDRequest().RequestWith(t.Context(), cl)
	if err != nil || resp.ProducerID != 4711 {
		t.Errorf("producer id %v, %v", resp, err)
	}
}

func portNumber(s string) (n int32) {
	for _, c := range s {
		n = 10*n + c - '0'
	}
	return n
}

// Claimed lengths must not cost memory before bytes arrive.
func TestFramesGrowWithTheBytesThatArrive(t *testing.T) {
	addr := listen(t, echo, nil)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 20 {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		head := append(binary.BigEndian.AppendUint32(nil, 40<<20), 0, 0, 0, 3, 0, 0, 0, 1)
		if _, err := c.Write(append(head, make([]byte, 1000)...)); err != nil {
			t.Fatal(err)
		}
		// The frame is being read now or later; closing makes the server give it up.
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(c); err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 20<<20 {
		t.Errorf("20 claims of 40 MiB made the server allocate %d bytes", used)
	}
}

func TestLargeFramesArriveWhole(t *testing.T) {
	addr := listen(t, echo, nil)
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i, size := range []int{0, 1, 4095, 4096, 65_530, 65_536, 300_000, 20_000_000, 5} {
		body := make([]byte, size)
		for j := range body {
			body[j] = byte(j * 7 >> 3)
		}
		go c.Write(frame(0, 3, int32(i), string(body)))
		got := make([]byte, 8+size)
		if _, err := io.ReadFull(c, got); err != nil {
			t.Fatal(err)
		}
		if corr := binary.BigEndian.Uint32(got[4:]); int(corr) != i || !bytes.Equal(got[8:], body) {
			t.Fatalf("body of %d bytes: answer %d differs", size, corr)
		}
	}
}

// panicWatch notes whether any connection ended in a panic.
type panicWatch struct{ seen atomic.Bool }

func (*panicWatch) ConnOpened(string)      {}
func (*panicWatch) ConnRefused(string)     {}
func (*panicWatch) Served(protocol.Served) {}
func (p *panicWatch) ConnClosed(_, reason string) {
	if reason == protocol.ReasonPanic {
		p.seen.Store(true)
	}
}

// FuzzConnection sends arbitrary bytes: the server may answer or close, and goes on.
func FuzzConnection(f *testing.F) {
	f.Add(frame(3, 9, 1, "x"))
	f.Add(slices.Concat(frame(18, 3, 1, "\x02a\x02b\x00"), frame(0, 9, 2, "batch")))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	h := handler(func(_ context.Context, _ *protocol.Conn, r *protocol.Request) *protocol.Pending {
		if r.Key == 0 {
			if _, err := protocol.DecodeProduce(r.Version, r.Body); err != nil {
				return protocol.Answer(protocol.Response{Close: true, None: true})
			}
			return protocol.Answer(answer("produced"))
		}
		return answerWith(r, func(kmsg.Request, kmsg.Response) {})
	})
	obs := &panicWatch{}
	addr := listen(f, h, func(c *protocol.Config) { c.Observer = obs })
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		// The server may close while we write or read: both are its right.
		if _, err := c.Write(b); err != nil {
			return
		}
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			return
		}
		// A reset is an end, too, if the server closes before it has read everything.
		if _, err := io.Copy(io.Discard, c); err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Fatal(err)
		}
		if obs.seen.Load() {
			t.Fatal("a request made its handler panic")
		}
	})
}

// benchmarkLoop sends produce-like frames, window at a time, and reads the answers.
func benchmarkLoop(b *testing.B, size, window int) {
	resp := make([]byte, 60)
	addr := listen(b, handler(func(_ context.Context, _ *protocol.Conn, r *protocol.Request) *protocol.Pending {
		return protocol.Answer(protocol.Response{Buffers: net.Buffers{resp}})
	}), nil)
	c, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	out := bytes.Repeat(frame(0, 9, 1, string(make([]byte, size))), window)
	in := make([]byte, window*(9+len(resp)))
	b.SetBytes(int64(size))
	b.ReportAllocs()
	b.ResetTimer()
	for n := 0; n < b.N; n += window {
		if _, err := c.Write(out); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(c, in); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLoop(b *testing.B) {
	b.Run("200B-one", func(b *testing.B) { benchmarkLoop(b, 200, 1) })
	b.Run("200B-pipelined", func(b *testing.B) { benchmarkLoop(b, 200, 32) })
	b.Run("64KiB", func(b *testing.B) { benchmarkLoop(b, 64<<10, 4) })
	b.Run("1MiB", func(b *testing.B) { benchmarkLoop(b, 1<<20, 4) })
}
