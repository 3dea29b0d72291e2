package protocol_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/protocol"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

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

// shutdown begins a shutdown and returns its outcome to come.
func (r *rig) shutdown(ctx context.Context) <-chan error {
	down := make(chan error, 1)
	go func() { down <- r.srv.Shutdown(ctx) }()
	synctest.Wait()
	return down
}

// silence is how long a client must say nothing before its connection is closed.
const silence = 200 * time.Millisecond

// TestShutdownAnswersWhatClientsGoOnSending has a client that sends on and on, as one does that has
// many requests in flight: nothing of it is left without an answer while it is not told otherwise.
func TestShutdownAnswersWhatClientsGoOnSending(t *testing.T) {
	bubble(t, echo, nil, func(r *rig) {
		c := r.ln.dial()
		r.send(c, frame(3, 0, 1, "metadata"))
		r.want(c, 1, "metadata")
		start := time.Now()
		down := r.shutdown(r.Context())
		for id := int32(2); id < 5; id++ {
			time.Sleep(silence - time.Millisecond)
			r.send(c, frame(3, 0, id, "again"))
			r.want(c, id, "again")
		}
		r.wantClosed(c, protocol.ReasonShutdown)
		// One more silence where the answer came while the next request was awaited already.
		sent := 3 * (silence - time.Millisecond)
		if took := time.Since(start); took < sent+silence || took > sent+2*silence {
			t.Errorf("shut down after %v", took)
		}
		if err := <-down; err != nil {
			t.Error(err)
		}
	})
}

// TestShutdownWaitsForSilenceBehindAnAnswer has the answer to a long poll come during the drain: the
// client, which then asks again at once, is answered once more.
func TestShutdownWaitsForSilenceBehindAnAnswer(t *testing.T) {
	var p pendings
	bubble(t, handler(p.serve), nil, func(r *rig) {
		c := r.ln.dial()
		r.send(c, frame(3, 0, 1, "metadata"))
		p.served()
		p.all[0].Resolve(answer("metadata"))
		r.want(c, 1, "metadata")
		r.send(c, frame(1, 4, 2, "poll"))
		p.served()
		down := r.shutdown(r.Context())
		time.Sleep(2*silence - time.Millisecond)
		p.all[1].Resolve(answer("nothing"))
		r.want(c, 2, "nothing")
		time.Sleep(silence - time.Millisecond)
		r.send(c, frame(1, 4, 3, "poll"))
		p.served()
		p.all[2].Resolve(answer("moved"))
		r.want(c, 3, "moved")
		r.wantClosed(c, protocol.ReasonShutdown)
		if err := <-down; err != nil {
			t.Error(err)
		}
	})
}

func TestShutdownLeavesTimeForTheFirstAnswer(t *testing.T) {
	t.Run("to a connection that has asked for nothing", func(t *testing.T) {
		bubble(t, echo, nil, func(r *rig) {
			start, c := time.Now(), r.ln.dial()
			down := r.shutdown(r.Context())
			r.send(c, frame(18, 0, 1, "versions"))
			r.want(c, 1, "versions")
			synctest.Wait()
			r.send(c, frame(3, 0, 2, "metadata")) // franz-go wants another one after ApiVersions
			r.want(c, 2, "metadata")
			r.wantClosed(c, protocol.ReasonShutdown)
			if err := <-down; err != nil || time.Since(start) != silence {
				t.Errorf("shut down after %v, %v", time.Since(start), err)
			}
		})
	})
	t.Run("to one that knows the versions only", func(t *testing.T) {
		bubble(t, echo, nil, func(r *rig) {
			c := r.ln.dial()
			r.send(c, frame(18, 0, 1, "versions"))
			r.want(c, 1, "versions")
			down := r.shutdown(r.Context())
			r.send(c, frame(3, 0, 2, "metadata"))
			r.want(c, 2, "metadata")
			r.wantClosed(c, protocol.ReasonShutdown)
			if err := <-down; err != nil {
				t.Error(err)
			}
		})
	})
	t.Run("however long the answer takes", func(t *testing.T) {
		var p pendings
		bubble(t, handler(p.serve), nil, func(r *rig) {
			c := r.ln.dial()
			down := r.shutdown(r.Context())
			r.send(c, frame(0, 3, 1, ""))
			p.served()
			r.wantNothing(c) // for longer than such a connection may go on asking
			p.all[0].Resolve(answer("stored"))
			r.want(c, 1, "stored")
			r.wantClosed(c, protocol.ReasonShutdown)
			if err := <-down; err != nil {
				t.Error(err)
			}
		})
	})
	t.Run("but not to one that has had it", func(t *testing.T) {
		bubble(t, echo, nil, func(r *rig) {
			start, c := time.Now(), r.ln.dial()
			r.send(c, frame(3, 0, 1, "metadata"))
			r.want(c, 1, "metadata")
			down := r.shutdown(r.Context())
			r.wantClosed(c, protocol.ReasonShutdown)
			if err := <-down; err != nil || time.Since(start) != silence {
				t.Errorf("shut down after %v, %v", time.Since(start), err)
			}
		})
	})
	t.Run("and not for ever to one that stays silent", func(t *testing.T) {
		bubble(t, echo, nil, func(r *rig) {
			start, c := time.Now(), r.ln.dial()
			down := r.shutdown(r.Context())
			r.wantClosed(c, protocol.ReasonShutdown)
			if err := <-down; err != nil {
				t.Error(err)
			}
			if waited := time.Since(start); waited != time.Second {
				t.Errorf("a silent connection was closed after %v", waited)
			}
		})
	})
	t.Run("nor longer than the drain's own time", func(t *testing.T) {
		bubble(t, echo, nil, func(r *rig) {
			start, c := time.Now(), r.ln.dial()
			ctx, cancel := context.WithTimeout(r.Context(), 100*time.Millisecond)
			defer cancel()
			down := r.shutdown(ctx)
			r.wantClosed(c, protocol.ReasonShutdown)
			if err := <-down; !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 100*time.Millisecond {
				t.Errorf("shut down after %v, %v", time.Since(start), err)
			}
		})
	})
	t.Run("and requests are cancelled when their client leaves meanwhile", func(t *testing.T) {
		ended := make(chan struct{})
		h := handler(func(ctx context.Context, _ *protocol.Conn, _ *protocol.Request) *protocol.Pending {
			p := protocol.NewPending()
			context.AfterFunc(ctx, func() { p.Resolve(answer("")); close(ended) })
			return p
		})
		bubble(t, h, nil, func(r *rig) {
			c := r.ln.dial()
			down := r.shutdown(r.Context())
			r.send(c, frame(1, 0, 1, ""))
			synctest.Wait()
			c.Close()
			<-ended
			if err := <-down; err != nil || r.obs.reasons() != protocol.ReasonClient {
				t.Errorf("closed for %q, %v", r.obs.reasons(), err)
			}
		})
	})
}

// closingListener tells when it is closed.
type closingListener struct {
	net.Listener
	once   sync.Once
	closed chan struct{}
}

func (l *closingListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// openedWatch tells when a connection has been accepted.
type openedWatch struct {
	recorder
	opened chan struct{}
}

func (o *openedWatch) ConnOpened(string) { o.opened <- struct{}{} }

// franz-go gives up what it wants to send if a connection ends before its first answer.
func TestShutdownIsNoFirstReadEOF(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln := &closingListener{Listener: inner, closed: make(chan struct{})}
	h := handler(func(_ context.Context, _ *protocol.Conn, r *protocol.Request) *protocol.Pending {
		return answerWith(r, func(_ kmsg.Request, resp kmsg.Response) {
			if resp, ok := resp.(*kmsg.ApiVersionsResponse); ok {
				for _, key := range []int16{3, 18} {
					k := kmsg.NewApiVersionsResponseApiKey()
					k.ApiKey, k.MaxVersion = key, kmsg.RequestForKey(key).MaxVersion()
					resp.ApiKeys = append(resp.ApiKeys, k)
				}
			}
		})
	})
	watch := &openedWatch{opened: make(chan struct{}, 10)}
	srv, err := protocol.NewServer(ln, h, protocol.Config{ProduceBudget: protocol.NewBudget(1 << 30),
		ControlBudget: protocol.NewBudget(1 << 28), Log: slog.New(slog.DiscardHandler), Observer: watch})
	if err != nil {
		t.Fatal(err)
	}
	served, down := make(chan error, 1), make(chan error, 1)
	go func() { served <- srv.Serve(context.Background()) }()

	cl, err := kgo.NewClient(kgo.SeedBrokers(inner.Addr().String()), kgo.RequestRetries(0),
		kgo.Dialer(func(ctx context.Context, network, host string) (net.Conn, error) {
			var d net.Dialer
			c, err := d.DialContext(ctx, network, host)
			if err != nil {
				return nil, err
			}
			<-watch.opened
			go func() { down <- srv.Shutdown(context.Background()) }()
			<-ln.closed
			return c, nil
		}))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if _, err := kmsg.NewPtrMetadataRequest().RequestWith(t.Context(), cl.SeedBrokers()[0]); err != nil {
		t.Errorf("the first request on a connection to an agent that drains: %v", err)
	}
	if err := errors.Join(<-down, <-served); err != nil {
		t.Error(err)
	}
}
