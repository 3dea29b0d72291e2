package objstore

import (
	"context"
	"errors"
	"math/bits"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// HedgeConfig says when Hedged asks a second time. A zero field means the default.
type HedgeConfig struct {
	// Quantile of the latency of recent GETs of about the same size after which a second one
	// is sent. Default 0.95. Lower: the budget is spent on GETs that are about to answer.
	// Higher: the slow tail that it is for is mostly over.
	Quantile float64

	// MinDelay and MaxDelay bound that time. Defaults 10 ms and 2 s. Below the first a second
	// request wins nothing that anybody notices; beyond the second the measured latency is
	// that of a store in trouble.
	MinDelay, MaxDelay time.Duration

	// The budget of second GETs: every GET pays in Ratio (default 0.05), up to Burst (default
	// 8); a second GET takes 1. So they are at most that part of all.
	Ratio, Burst float64

	// Quiet is how long none is sent after the store throttled. Default 10 s: longer than
	// Retry's longest pause.
	Quiet time.Duration
}

func (c HedgeConfig) withDefaults() HedgeConfig {
	if c.Quantile == 0 {
		c.Quantile = 0.95
	}
	if c.Ratio == 0 {
		c.Ratio = 0.05
	}
	if c.Burst == 0 {
		c.Burst = 8
	}
	setDefault(&c.MinDelay, 10*time.Millisecond)
	setDefault(&c.MaxDelay, 2*time.Second)
	setDefault(&c.Quiet, 10*time.Second)
	return c
}

const (
	// hedgeSamples is how many latencies of a size are remembered. Fewer: the quantile jumps.
	// More: it follows a store that has become slower too late.
	hedgeSamples = 128
	// hedgeLearn is how many there must be before a second GET is sent, and after how many
	// new ones the quantile is taken anew.
	hedgeLearn = 32
	// hedgeClasses of size: up to 64 KiB, and each four times as large as the one before.
	hedgeClasses = 6
)

// Hedged returns a store whose GETs that take longer than most are asked a second time: the
// first good answer wins and the other request is cancelled. It ends by itself as soon as
// the driver lets go of it; nobody waits for that. Both are requests that the store bills.
func Hedged(inner Store, cfg HedgeConfig, reg prometheus.Registerer) (Store, error) {
	h := &hedged{Store: inner, cfg: cfg.withDefaults()}
	var err error
	h.sent, err = register(reg, prometheus.NewCounter(prometheus.CounterOpts{
		Name: "floe_objstore_hedges_total", Help: "Second GETs, sent because the first took longer than most.",
	}))
	if err != nil {
		return nil, err
	}
	h.won, err = register(reg, prometheus.NewCounter(prometheus.CounterOpts{
		Name: "floe_objstore_hedges_won_total", Help: "Second GETs that answered before the first.",
	}))
	if err != nil {
		return nil, err
	}
	return h, nil
}

type hedged struct {
	Store
	cfg       HedgeConfig
	sent, won prometheus.Counter

	mu      sync.Mutex // guards the following
	tokens  float64
	quietTo time.Time
	classes [hedgeClasses]latencies
}

// latencies of recent GETs of about one size.
type latencies struct {
	ring     [hedgeSamples]time.Duration
	seen     int           // in all
	quantile time.Duration // 0: not known yet
}

func hedgeClass(n int64) int {
	return min(max(bits.Len64(uint64(max(n, 1)-1))-15, 0)/2, hedgeClasses-1)
}

func (l *latencies) add(d time.Duration, quantile float64) {
	l.ring[l.seen%hedgeSamples] = d
	l.seen++
	if l.seen%hedgeLearn != 0 {
		return
	}
	sorted := slices.Clone(l.ring[:min(l.seen, hedgeSamples)])
	slices.Sort(sorted)
	l.quantile = sorted[min(int(quantile*float64(len(sorted))), len(sorted)-1)]
}

// begin pays a GET into the budget and returns after what time it may be asked again, or
// false if it will not be.
func (h *hedged) begin(n int64) (time.Duration, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tokens = min(h.tokens+h.cfg.Ratio, h.cfg.Burst)
	q := h.classes[hedgeClass(n)].quantile
	return min(max(q, h.cfg.MinDelay), h.cfg.MaxDelay), q > 0
}

// spend takes a second GET out of the budget.
func (h *hedged) spend() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.tokens < 1 || time.Now().Before(h.quietTo) {
		return false
	}
	h.tokens--
	return true
}

// heard notes what a request ended with.
func (h *hedged) heard(err error) {
	if errors.Is(err, ErrThrottled) {
		h.mu.Lock()
		h.quietTo = time.Now().Add(h.cfg.Quiet)
		h.mu.Unlock()
	}
}

// took notes how long the first GET took, or for how long at least.
func (h *hedged) took(n int64, d time.Duration) {
	h.mu.Lock()
	h.classes[hedgeClass(n)].add(d, h.cfg.Quantile)
	h.mu.Unlock()
}

func (h *hedged) GetRange(ctx context.Context, key string, off, n int64) ([]byte, error) {
	a := h.get(ctx, n, func(ctx context.Context) (a answer) {
		a.data, a.err = h.Store.GetRange(ctx, key, off, n)
		return a
	})
	return a.data, a.err
}

func (h *hedged) GetUpTo(ctx context.Context, key string, off, n int64) (Body, int64, error) {
	a := h.get(ctx, n, func(ctx context.Context) (a answer) {
		a.body, a.size, a.err = h.Store.GetUpTo(ctx, key, off, n)
		return a
	})
	return a.body, a.size, a.err
}

// get asks for up to n bytes, a second time if that takes longer than most.
func (h *hedged) get(ctx context.Context, n int64, ask func(context.Context) answer) answer {
	start := time.Now()
	delay, able := h.begin(n)
	if !able {
		a := ask(ctx)
		h.heard(a.err)
		if a.err == nil {
			h.took(n, time.Since(start))
		}
		return a
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answers := make(chan answer, 2)
	get := func(second bool) {
		a := ask(ctx)
		h.heard(a.err)
		a.second = second
		answers <- a
	}
	go get(false)
	timer := time.NewTimer(delay)
	defer timer.Stop()
	var first answer
	select {
	case first = <-answers:
	case <-timer.C:
		if ctx.Err() == nil && h.spend() {
			h.sent.Inc()
			go get(true)
			first = h.better(answers)
		} else {
			first = <-answers
		}
	}
	if first.err == nil {
		h.took(n, time.Since(start))
	}
	return first
}

// answer is what one of two GETs ended with.
type answer struct {
	data   []byte // of GetRange
	body   Body   // of GetUpTo, as size
	size   int64
	err    error
	second bool
}

// better waits for the first good answer of two, or for both.
func (h *hedged) better(answers <-chan answer) answer {
	a := <-answers
	if a.err != nil {
		b := <-answers
		if b.err == nil || a.second {
			a = b
		}
	}
	if a.err == nil && a.second {
		h.won.Inc()
	}
	return a
}

func (h *hedged) Put(ctx context.Context, key string, body Body) error {
	err := h.Store.Put(ctx, key, body)
	h.heard(err)
	return err
}
