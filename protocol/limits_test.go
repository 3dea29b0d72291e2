package protocol_test

import (
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
)

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

// claim sends the head of a produce frame of size bytes, and from then on step bytes at a
// time, each after a pause, until the connection ends.
func claim(c net.Conn, size, step int, pause time.Duration) {
	head := binary.BigEndian.AppendUint32(nil, uint32(size))
	b := append(head, 0, 0, 0, 3, 0, 0, 0, 1, 0, 2, 'm', 'e')
	for {
		if _, err := c.Write(b); err != nil {
			return
		}
		time.Sleep(pause) // virtual
		b = make([]byte, step)
	}
}

// A frame that trickles in holds its budget for a while, not for hours.
func TestFramesMustArrive(t *testing.T) {
	const size = 64 << 20
	bubble(t, echo, nil, func(r *rig) {
		c := r.ln.dial()
		r.send(c, frame(3, 0, 1, "")) // the handshake's shorter time is over
		r.want(c, 1, "")
		start := time.Now()
		var clients sync.WaitGroup
		clients.Go(func() { claim(c, size, 300<<10, 29*time.Second) }) // just fast enough for FrameTimeout
		r.wantClosed(c, protocol.ReasonTimeout)
		if d, want := time.Since(start), protocol.DefaultFrameTimeout+64*time.Second; d != want {
			t.Errorf("closed after %v, want %v", d, want)
		}
		clients.Wait()
	})
}

// Large frames that do not arrive leave room for usual ones.
func TestSlowLargeFramesLeaveRoom(t *testing.T) {
	small := func(c *protocol.Config) {
		c.MaxRequestBytes = 6 << 20
		c.ProduceBudget = protocol.NewBudget(16 << 20)
	}
	bubble(t, echo, small, func(r *rig) {
		var slow []net.Conn
		var clients sync.WaitGroup
		for range 5 {
			c := r.ln.dial()
			slow = append(slow, c)
			clients.Go(func() { claim(c, 5<<20, 1, time.Second) })
		}
		synctest.Wait()
		if n := r.cfg.ProduceBudget.InUse(); n != 5<<20 {
			t.Errorf("%d bytes are charged for frames that do not come", n)
		}
		c := r.ln.dial()
		body := strings.Repeat("x", 1<<19)
		for i := range int32(3) {
			start := time.Now()
			r.send(c, frame(0, 3, i, body))
			if r.want(c, i, body); time.Since(start) != 0 {
				t.Errorf("a usual request waited %v", time.Since(start))
			}
		}
		c.Close()
		for _, c := range slow {
			c.Close()
		}
		clients.Wait()
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
