package protocol_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/floelog/floe/protocol"
)

// A client that was told to wait is not read meanwhile, whether it has heard of it or not
// (KIP-219); a server that stops does not wait for it.
func TestThrottledConnectionIsNotRead(t *testing.T) {
	const pause = 2 * time.Second
	served := make(chan int32, 10)
	var throttle handler = func(_ context.Context, _ *protocol.Conn, r *protocol.Request) *protocol.Pending {
		served <- r.CorrelationID
		a := answer("ok")
		if r.CorrelationID%2 == 1 {
			a.Throttle = pause
		}
		return protocol.Answer(a)
	}
	bubble(t, throttle, nil, func(r *rig) {
		c := r.ln.dial()
		r.send(c, frame(0, 3, 1, ""))
		r.want(c, 1, "ok") // at once: it is told to wait, it does not wait for being told
		r.send(c, frame(0, 3, 2, ""))
		start := time.Now()
		r.wantNothing(c)
		if len(served) != 1 || r.cfg.ProduceBudget.InUse() != 0 {
			r.Errorf("%d requests served, %d bytes charged during the pause", len(served), r.cfg.ProduceBudget.InUse())
		}
		r.want(c, 2, "ok")
		if took := time.Since(start); took != pause {
			r.Errorf("the connection was read again after %v, want %v", took, pause)
		}
		r.send(c, frame(0, 3, 4, ""))
		r.want(c, 4, "ok")
		if took := time.Since(start); took != pause {
			r.Error("a client that was not told to wait waited")
		}
		r.send(c, frame(0, 3, 5, ""))
		r.want(c, 5, "ok")
		r.send(c, frame(0, 3, 6, ""))
		start = time.Now()
		if err := r.srv.Shutdown(context.Background()); err != nil || time.Since(start) > pause+time.Second { // it is read for a second more
			r.Errorf("stopping took %v: %v", time.Since(start), err)
		}
		c.Close()
	})
}

func TestThrottleIsBounded(t *testing.T) {
	var throttle handler = func(context.Context, *protocol.Conn, *protocol.Request) *protocol.Pending {
		a := answer("ok")
		a.Throttle = time.Hour
		return protocol.Answer(a)
	}
	bubble(t, throttle, nil, func(r *rig) {
		c := r.ln.dial()
		start := time.Now()
		r.send(c, frame(0, 3, 1, ""), frame(0, 3, 2, ""))
		r.want(c, 1, "ok")
		r.want(c, 2, "ok")
		if took := time.Since(start); took > protocol.MaxThrottle {
			r.Errorf("throttled for %v", took)
		}
		c.Close()
	})
}

// A clock that is set back during a pause does not make it longer, nor any later request wait.
func TestThrottleOutlivesNoClock(t *testing.T) {
	const pause = 2 * time.Second
	var ahead atomic.Int64
	var throttle handler = func(_ context.Context, _ *protocol.Conn, r *protocol.Request) *protocol.Pending {
		a := answer("ok")
		if r.CorrelationID == 1 {
			ahead.Store(int64(time.Hour))
			a.Throttle = pause
		}
		return protocol.Answer(a)
	}
	clock := func(cfg *protocol.Config) {
		cfg.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	}
	bubble(t, throttle, clock, func(r *rig) {
		c := r.ln.dial()
		r.send(c, frame(0, 3, 1, ""))
		r.want(c, 1, "ok")
		ahead.Store(0)
		start := time.Now()
		r.send(c, frame(0, 3, 2, ""))
		r.want(c, 2, "ok")
		if took := time.Since(start); took > protocol.MaxThrottle {
			r.Errorf("a pause of %v took %v", pause, took)
		}
		start = time.Now()
		r.send(c, frame(0, 3, 3, ""))
		r.want(c, 3, "ok")
		if took := time.Since(start); took > 0 {
			r.Errorf("the request after it waited for %v", took)
		}
		c.Close()
	})
}

// A later answer with a shorter pause does not end the pause of an earlier one.
func TestShorterThrottleEndsNoLongerOne(t *testing.T) {
	const long = 3 * time.Second
	var p pendings
	bubble(t, handler(p.serve), nil, func(r *rig) {
		c := r.ln.dial()
		start := time.Now()
		r.send(c, frame(0, 3, 1, ""), frame(0, 3, 2, ""))
		p.served()
		for i, pause := range []time.Duration{long, time.Second} {
			a := answer("ok")
			a.Throttle = pause
			p.all[i].Resolve(a)
			r.want(c, int32(i+1), "ok")
		}
		r.send(c, frame(0, 3, 3, ""))
		time.Sleep(long - time.Since(start) - time.Millisecond)
		if n := p.served(); n != 2 {
			r.Error("the connection was read before the client's pause was over")
		}
		time.Sleep(2 * time.Millisecond)
		if n := p.served(); n != 3 {
			r.Error("the connection is not read after the pause")
		}
		p.all[2].Resolve(answer("ok"))
		r.want(c, 3, "ok")
		c.Close()
	})
}
