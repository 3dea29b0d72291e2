package protocol_test

import (
	"context"
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
